//! An authority as it is kept: five named texts (PEM), in a directory or in an object of another store. It must not know
//! what they mean.

use std::fmt;

use mesh_core::identity::TrustDomain;
use zeroize::Zeroizing;

use super::state::State;
use super::{AuthorityError, Place};

/// Every trusted root, one after the other.
pub const BUNDLE: &str = "bundle.pem";
/// The root that signs.
pub const SIGNER: &str = "signer.pem";
/// Its private key (PKCS #8).
pub const SIGNER_KEY: &str = "signer.key";
/// The root that is to sign next, while a rotation is prepared.
pub const NEXT: &str = "next.pem";
/// Its private key.
pub const NEXT_KEY: &str = "next.key";

/// The names of all parts.
pub const PARTS: [&str; 5] = [BUNDLE, SIGNER, SIGNER_KEY, NEXT, NEXT_KEY];

/// The parts of an authority, private keys among them: never printed, and wiped when dropped.
#[derive(Clone, Eq, PartialEq)]
pub struct Material {
    place: Place,
    parts: [Option<Zeroizing<Vec<u8>>>; PARTS.len()],
}

impl Material {
    /// Makes a new root. `place` is where it is going to be kept, for the words of errors.
    ///
    /// # Errors
    /// [`AuthorityError::Sign`].
    pub fn generate(
        place: impl Into<String>,
        trust_domain: &TrustDomain,
    ) -> Result<Self, AuthorityError> {
        let state = State::generate(trust_domain, std::time::SystemTime::now())?;
        Ok(state.to_material(Place::Named(place.into())))
    }

    /// Takes what a store holds by name: the data of a Kubernetes Secret, for example. Names that are no part are left
    /// out. `place` names the object in errors.
    pub fn from_entries<N: AsRef<str>, V: AsRef<[u8]>>(
        place: impl Into<String>,
        entries: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let mut material = Self::empty(Place::Named(place.into()));
        for (name, content) in entries {
            material.set(name.as_ref(), content.as_ref().to_vec());
        }
        material
    }

    /// The parts that there are, by name: what is to be stored, as a whole and instead of what was there.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        PARTS
            .into_iter()
            .zip(&self.parts)
            .filter_map(|(name, content)| Some((name, content.as_ref()?.as_slice())))
    }

    /// Whether there is no authority in it yet, not even a damaged one: a new one may be made. A key alone is what an
    /// interrupted creation leaves: no root was made of it.
    pub fn is_vacant(&self) -> bool {
        [BUNDLE, SIGNER, NEXT]
            .into_iter()
            .all(|name| self.get(name).is_none())
    }

    pub(super) fn empty(place: Place) -> Self {
        Self {
            place,
            parts: Default::default(),
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn get(&self, name: &'static str) -> Option<&[u8]> {
        let at = PARTS.iter().position(|part| *part == name)?;
        self.parts
            .get(at)?
            .as_ref()
            .map(|content| content.as_slice())
    }

    /// Sets a part; a name that is none is ignored.
    pub(super) fn set(&mut self, name: &str, content: Vec<u8>) {
        let content = Zeroizing::new(content);
        let at = PARTS.iter().position(|part| *part == name);
        if let Some(part) = at.and_then(|at| self.parts.get_mut(at)) {
            *part = Some(content);
        }
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.entries().map(|(name, _)| name).collect();
        f.debug_struct("Material")
            .field("place", &self.place)
            .field("parts", &names)
            .finish()
    }
}
