//! Replacing the root without anybody noticing, in three steps with time between them:
//!
//! ```text
//!  Stable ──stage──► Staged ──activate──► Activated ──finish──► Stable
//!  trusts A          trusts A, B          trusts A, B           trusts B
//!  A signs           A signs              B signs               B signs
//! ```
//!
//! Before `activate`, every node must have the bundle with B; before `finish`, every certificate that A signed must have
//! been replaced. Nodes do both on their own within moments ([`Authority::reload`]), so that what remains is to wait for
//! the slowest. A step that was taken before is no error; a step out of order is, and says which one is due.

use std::time::SystemTime;

use super::directory::{NEXT, SIGNER};
use super::sign::Signer;
use super::{Authority, AuthorityError};

/// How far a rotation is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// One root; no rotation is under way.
    Stable,
    /// The next root is trusted, but does not sign yet.
    Staged,
    /// The next root signs; the old one is still trusted.
    Activated,
}

impl Phase {
    /// The word for tables and JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Staged => "staged",
            Self::Activated => "activated",
        }
    }

    /// The step that leads on.
    pub const fn next_step(self) -> &'static str {
        match self {
            Self::Stable => "stage",
            Self::Staged => "activate",
            Self::Activated => "finish",
        }
    }
}

/// What a rotation step did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// It was taken.
    Taken,
    /// It had been taken already; nothing changed.
    TakenBefore,
}

impl Authority {
    /// How far a rotation is.
    pub fn phase(&self) -> Phase {
        let roots = self.state.bundle.roots();
        match &self.state.staged {
            Some(staged) if roots.contains(staged.root()) => Phase::Staged,
            _ if roots.len() > 1 => Phase::Activated,
            _ => Phase::Stable,
        }
    }

    /// Makes the next root and adds it to the bundle.
    ///
    /// # Errors
    /// [`AuthorityError::NotDue`] while the rotation before is not finished; or the directory's.
    pub fn stage(&mut self) -> Result<Step, AuthorityError> {
        let _lock = self.directory.lock()?;
        self.read_again()?;
        match self.phase() {
            Phase::Staged => return Ok(Step::TakenBefore),
            Phase::Activated => {
                return Err(self.not_due("stage", "the rotation before is not finished"));
            }
            Phase::Stable => {}
        }
        // A staging that was interrupted left a root that nobody has seen; it serves as well as another.
        let next = match self.state.staged.take() {
            Some(next) => next,
            None => {
                let next = Signer::generate(&self.trust_domain, SystemTime::now())?;
                self.directory.write_pair(NEXT, &next)?;
                next
            }
        };
        let mut roots: Vec<_> = self.state.bundle.roots().iter().collect();
        roots.push(next.root());
        let roots: Vec<_> = roots.into_iter().map(crate::Root::der).collect();
        self.directory.write_bundle(&roots)?;
        tracing::info!(root = next.root().name(), "the next root is trusted");
        self.read_again()?;
        Ok(Step::Taken)
    }

    /// Lets the staged root sign. The key of the root before is gone with this.
    ///
    /// # Errors
    /// [`AuthorityError::NotDue`] when no root is staged; or the directory's.
    pub fn activate(&mut self) -> Result<Step, AuthorityError> {
        let _lock = self.directory.lock()?;
        self.read_again()?;
        let phase = self.phase();
        match (&self.state.staged, phase) {
            (Some(next), Phase::Staged) => {
                self.directory.write_pair(SIGNER, next)?;
                self.directory.remove_pair(NEXT)?;
                tracing::info!(root = next.root().name(), "the next root signs");
                self.read_again()?;
                Ok(Step::Taken)
            }
            (_, Phase::Activated) => Ok(Step::TakenBefore),
            _ => Err(self.not_due("activate", "no root is staged")),
        }
    }

    /// Takes every root out of the bundle except the one that signs.
    ///
    /// # Errors
    /// [`AuthorityError::NotDue`] while the old root still signs; or the directory's.
    pub fn finish(&mut self) -> Result<Step, AuthorityError> {
        let _lock = self.directory.lock()?;
        self.read_again()?;
        match self.phase() {
            Phase::Stable => Ok(Step::TakenBefore),
            Phase::Staged => Err(self.not_due("finish", "the old root still signs")),
            Phase::Activated => {
                self.directory.write_bundle(&[self.signer().der()])?;
                tracing::info!(root = self.signer().name(), "only the new root is trusted");
                self.read_again()?;
                Ok(Step::Taken)
            }
        }
    }

    fn not_due(&self, step: &'static str, why: &'static str) -> AuthorityError {
        AuthorityError::NotDue {
            step,
            why,
            next: self.phase().next_step(),
        }
    }
}
