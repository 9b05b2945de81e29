//! `warren ca`: the certificate authority, of a directory or of a cluster. Nodes and controllers notice that it has changed by
//! themselves.

use std::io::Write;
use std::path::Path;

use jiff::Timestamp;
use mesh_core::identity::TrustDomain;
use mesh_identity::authority::{Authority, AuthorityError, Phase, Step};

use super::args::{CaCommand, CaPlace, Global, RotateCommand};
use super::output::{Table, until};
use super::{CliError, Exit};

mod cluster;

/// A step of a rotation.
type Rotate = fn(&mut Authority) -> Result<Step, AuthorityError>;

/// Does what was asked.
pub(crate) fn run(
    command: CaCommand,
    global: &Global,
    out: &mut dyn Write,
) -> Result<Exit, CliError> {
    let CaCommand::Rotate(command) = command;
    let (step, place): (Option<Rotate>, &CaPlace) = match &command {
        RotateCommand::Stage(place) => (Some(Authority::stage), place),
        RotateCommand::Activate(place) => (Some(Authority::activate), place),
        RotateCommand::Finish(place) => (Some(Authority::finish), place),
        RotateCommand::Status(place) => (None, place),
    };
    let authority = match &place.directory {
        Some(directory) => in_directory(directory, place, step)?,
        None => in_cluster(global, place, step)?,
    };
    if step.is_some() {
        say_next(&authority, place);
    }
    status(&authority, out)
}

fn in_directory(
    directory: &Path,
    place: &CaPlace,
    step: Option<Rotate>,
) -> Result<Authority, CliError> {
    let mut authority = open(directory, place)?;
    if let Some(step) = step {
        take(&mut authority, step)?;
    }
    Ok(authority)
}

fn in_cluster(
    global: &Global,
    place: &CaPlace,
    step: Option<Rotate>,
) -> Result<Authority, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed("cannot start", error))?;
    let rotate = async {
        let (kept, mut authority) = cluster::open(global, place).await?;
        if let Some(step) = step
            && take(&mut authority, step)? != Step::TakenBefore
        {
            kept.store(&authority).await?;
        }
        Ok(authority)
    };
    runtime.block_on(async {
        tokio::time::timeout(global.timeout, rotate)
            .await
            .unwrap_or_else(|_late| {
                Err(CliError::TimedOut(format!(
                    "the cluster did not answer within {:?} (more time: --timeout)",
                    global.timeout
                )))
            })
    })
}

fn take(authority: &mut Authority, step: Rotate) -> Result<Step, CliError> {
    let taken =
        step(authority).map_err(|error| CliError::failed("the root was not rotated", error))?;
    if taken == Step::TakenBefore {
        eprintln!("Nothing to do: this step was taken before.");
    }
    Ok(taken)
}

/// What is to be done next, and when.
fn say_next(authority: &Authority, place: &CaPlace) {
    let typed = place.typed();
    let (read, renewed) = match place.directory {
        Some(_) => ("`warren status` says so", "`warren get certs -o wide`"),
        None => (
            "a minute after all are current in `warren get nodes`",
            "`warren get certs -A -o wide`",
        ),
    };
    eprintln!(
        "{}",
        match authority.phase() {
            Phase::Staged => format!(
                "The new root is trusted beside the old one. When every node has read it ({read}): \
                 warren ca rotate activate {typed}"
            ),
            Phase::Activated => format!(
                "The new root signs. When every node's certificates are its own ({renewed}): warren ca rotate finish {typed}"
            ),
            Phase::Stable => "Only the new root is trusted. The rotation is complete.".to_owned(),
        }
    );
}

/// Opens an authority that is there. Its trust domain is what its root says, unless something else is asked for.
fn open(directory: &Path, place: &CaPlace) -> Result<Authority, CliError> {
    require(directory)?;
    if let Some(domain) = place.trust_domain()? {
        return Authority::open_or_create(directory, &domain).map_err(failed);
    }
    match Authority::open_or_create(directory, &TrustDomain::default()) {
        Err(AuthorityError::ForeignTrustDomain { found, .. }) => {
            let domain =
                TrustDomain::new(found.trim_start_matches("spiffe://")).map_err(|error| {
                    CliError::Usage(format!("{error}; give it with --trust-domain"))
                })?;
            Authority::open_or_create(directory, &domain).map_err(failed)
        }
        opened => opened.map_err(failed),
    }
}

fn failed(error: AuthorityError) -> CliError {
    CliError::failed("the certificate authority cannot be opened", error)
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
