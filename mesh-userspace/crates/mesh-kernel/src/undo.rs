//! The way back: every step of an enrolment leaves a note of how to take it back.

use crate::error::KernelError;
use crate::kernel::Kernel;

type Step = Box<dyn FnOnce(&mut Kernel) -> Result<(), KernelError>>;

/// Steps to take back, the latest first.
#[derive(Default)]
pub(crate) struct Undo(Vec<(&'static str, Step)>);

impl Undo {
    /// Notes how to take back a step that was just done.
    pub(crate) fn note(
        &mut self,
        what: &'static str,
        step: impl FnOnce(&mut Kernel) -> Result<(), KernelError> + 'static,
    ) {
        self.0.push((what, Box::new(step)));
    }

    /// Takes everything back. A step that cannot be taken back does not stop the others; guards are taken back last of all
    /// that lets traffic out, so what remains is closed.
    pub(crate) fn run(self, kernel: &mut Kernel) {
        for (what, step) in self.0.into_iter().rev() {
            if let Err(error) = step(kernel) {
                tracing::error!(what, %error, "a step of a failed enrolment could not be taken back");
            }
        }
    }
}
