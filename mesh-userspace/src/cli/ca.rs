//! `warren ca`: the embedded certificate authority, offline. Nodes notice a changed directory by themselves.

use std::io::Write;
use std::path::Path;

use jiff::Timestamp;
use mesh_core::identity::TrustDomain;
use mesh_identity::authority::{Authority, AuthorityError, Phase, Step};

use super::args::{CaCommand, CaDirectory, RotateCommand};
use super::output::{Table, until};
use super::{CliError, Exit};

/// A step of a rotation.
type Rotate = fn(&mut Authority) -> Result<Step, AuthorityError>;

/// Does what was asked.
pub(crate) fn run(command: CaCommand, out: &mut dyn Write) -> Result<Exit, CliError> {
    let CaCommand::Rotate(command) = command;
    let (step, directory): (Rotate, &CaDirectory) = match &command {
        RotateCommand::Stage(directory) => (Authority::stage, directory),
        RotateCommand::Activate(directory) => (Authority::activate, directory),
        RotateCommand::Finish(directory) => (Authority::finish, directory),
        RotateCommand::Status(directory) => {
            let authority = open(directory)?;
            return status(&authority, out);
        }
    };
    let mut authority = open(directory)?;
    let taken = step(&mut authority)
        .map_err(|error| CliError::failed("the root was not rotated", error))?;
    if taken == Step::TakenBefore {
        eprintln!("Nothing to do: this step was taken before.");
    }
    let path = directory.directory.display();
    eprintln!(
        "{}",
        match authority.phase() {
            Phase::Staged => format!(
                "The new root is trusted beside the old one. When every node has read it (`warren status` says \
                 so): \
                 warren ca rotate activate --directory {path}"
            ),
            Phase::Activated => format!(
                "The new root signs. When every node's certificates are its own (`warren get certs -o wide`): \
                 warren ca rotate finish --directory {path}"
            ),
            Phase::Stable => "Only the new root is trusted. The rotation is complete.".to_owned(),
        }
    );
    status(&authority, out)
}

/// Opens an authority that is there. Its trust domain is what its root says, unless something else is asked for.
fn open(directory: &CaDirectory) -> Result<Authority, CliError> {
    let path = directory.directory.as_path();
    require(path)?;
    let failed = |error| CliError::failed("the certificate authority cannot be opened", error);
    if let Some(domain) = &directory.trust_domain {
        let domain =
            TrustDomain::new(domain).map_err(|error| CliError::Usage(error.to_string()))?;
        return Authority::open_or_create(path, &domain).map_err(failed);
    }
    match Authority::open_or_create(path, &TrustDomain::default()) {
        Err(AuthorityError::ForeignTrustDomain { found, .. }) => {
            let domain =
                TrustDomain::new(found.trim_start_matches("spiffe://")).map_err(|error| {
                    CliError::Usage(format!("{error}; give it with --trust-domain"))
                })?;
            Authority::open_or_create(path, &domain).map_err(failed)
        }
        opened => opened.map_err(failed),
    }
}

/// A mistyped folder must not become a new authority.
fn require(path: &Path) -> Result<(), CliError> {
    let signer = path.join("signer.pem");
    match signer.try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => Err(CliError::Failed {
            what: format!(
                "there is no certificate authority in {}; give identity.directory of the configuration",
                path.display()
            ),
            source: None,
        }),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(CliError::NotPermitted(format!(
                "{} may only be read by its owner; try again with sudo",
                path.display()
            )))
        }
        Err(source) => Err(CliError::Io {
            what: format!("cannot look into {}", path.display()),
            source,
        }),
    }
}

fn status(authority: &Authority, out: &mut dyn Write) -> Result<Exit, CliError> {
    let description = authority.describe();
    writeln!(
        out,
        "trust domain {}   rotation {}   next step {}",
        description.trust_domain,
        description.phase.label(),
        description.phase.next_step()
    )?;
    let now = Timestamp::now();
    let mut table = Table::new(&["ROOT", "PART", "EXPIRES", "SHA-256"], true);
    for (root, role) in &description.roots {
        let expires = Timestamp::try_from(root.not_after()).map(|moment| until(moment, now));
        table.row(vec![
            root.name().to_owned(),
            role.label().to_owned(),
            expires.unwrap_or_default(),
            root.fingerprint().to_owned(),
        ]);
    }
    table.write(out)?;
    Ok(Exit::Ok)
}
