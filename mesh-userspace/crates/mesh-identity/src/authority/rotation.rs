//! Replacing the root without anybody noticing, in three steps with time between them:
//!
//! ```text
//!  Stable ──stage──► Staged ──activate──► Activated ──finish──► Stable
//!  trusts A          trusts A, B          trusts A, B           trusts B
//!  A signs           A signs              B signs               B signs
//! ```
//!
//! Before `activate`, every node must have the bundle with B; before `finish`, every certificate that A signed must have
//! been replaced. Nodes do both on their own within moments ([`Authority::reload`]; in a cluster the controller tells
//! them), so that what remains is to wait for the slowest. A step that was taken before is no error; a step out of order
//! is, and says which one is due.

use std::time::SystemTime;

use super::state::State;
use super::{Authority, AuthorityError, Home};

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
        self.state.phase()
    }

    /// Makes the next root and adds it to the bundle.
    ///
    /// # Errors
    /// [`AuthorityError::NotDue`] while the rotation before is not finished; or the directory's.
    pub fn stage(&mut self) -> Result<Step, AuthorityError> {
        let taken = self.rotate(|state| state.stage(SystemTime::now()))?;
        if let (Step::Taken, Some(next)) = (taken, &self.state.staged) {
            tracing::info!(root = next.root().name(), "the next root is trusted");
        }
        Ok(taken)
    }

    /// Lets the staged root sign. The key of the root before is gone with this.
    ///
    /// # Errors
    /// [`AuthorityError::NotDue`] when no root is staged; or the directory's.
    pub fn activate(&mut self) -> Result<Step, AuthorityError> {
        let taken = self.rotate(State::activate)?;
        if taken == Step::Taken {
            tracing::info!(root = self.signer().name(), "the next root signs");
        }
        Ok(taken)
    }

    /// Takes every root out of the bundle except the one that signs.
    ///
    /// # Errors
    /// [`AuthorityError::NotDue`] while the old root still signs; or the directory's.
    pub fn finish(&mut self) -> Result<Step, AuthorityError> {
        let taken = self.rotate(State::finish)?;
        if taken == Step::Taken {
            tracing::info!(root = self.signer().name(), "only the new root is trusted");
        }
        Ok(taken)
    }

    /// Takes a step, as of what is kept now, and keeps what comes of it.
    fn rotate(
        &mut self,
        step: impl FnOnce(&State) -> Result<Option<State>, AuthorityError>,
    ) -> Result<Step, AuthorityError> {
        let Home::Directory { directory, .. } = &self.home else {
            let Some(next) = step(&self.state)? else {
                return Ok(Step::TakenBefore);
            };
            self.state = next;
            return Ok(Step::Taken);
        };
        let directory = directory.clone();
        let _lock = directory.lock()?;
        self.read_again(&directory)?;
        let Some(next) = step(&self.state)? else {
            return Ok(Step::TakenBefore);
        };
        directory.replace(&self.state, &next)?;
        self.read_again(&directory)?;
        Ok(Step::Taken)
    }
}
