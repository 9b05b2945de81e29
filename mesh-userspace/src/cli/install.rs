//! `warren install`: prints the objects of an installation. It changes nothing: applying them is `kubectl`'s.

use std::fs;
use std::io::Write;

use serde_json::Value;

use super::args::{Global, InstallArgs};
use super::target::{self, Whom};
use super::{CliError, Exit, asking};
use crate::manifests::{Installation, NEWEST_KUBERNETES, OLDEST_KUBERNETES, ValueError, Values};

/// Does what was asked.
pub(crate) fn run(global: &Global, args: &InstallArgs) -> Result<Exit, CliError> {
    // The cluster is looked for apart from the question: without one there is an answer, too.
    asking(global, Whom::Node, async |context| {
        if args.crds {
            return definitions(context.out);
        }
        let values = values(args)?;
        let kubernetes = match args.kubernetes_version {
            Some(minor) => minor,
            None => asked_version(global).await?,
        };
        let installation = Installation {
            namespace: args.namespace.clone(),
            kubernetes,
            values,
        };
        print(&installation, context.out)
    })
}

fn print(installation: &Installation, out: &mut dyn Write) -> Result<Exit, CliError> {
    let objects = installation
        .objects()
        .map_err(|error| CliError::failed("the objects cannot be made", error))?;
    let text = serde_saphyr::to_string_multiple(&objects)
        .map_err(|error| CliError::failed("cannot write YAML", error))?;
    writeln!(
        out,
        "# Warren {} for Kubernetes 1.{}, as printed by `warren install`.\n---\n{}",
        env!("CARGO_PKG_VERSION"),
        installation.kubernetes,
        text.trim_end()
    )?;
    Ok(Exit::Ok)
}

/// Prints the definitions of our kinds of object.
fn definitions(out: &mut dyn Write) -> Result<Exit, CliError> {
    let definitions = mesh_kubernetes::crds::manifests()
        .map_err(|error| CliError::failed("the definitions cannot be made", error))?;
    for (_, text) in definitions {
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(Exit::Ok)
}

/// Files in their order, then what was set by hand.
fn values(args: &InstallArgs) -> Result<Values, CliError> {
    let mut values = Values::default();
    for file in &args.values {
        let text = fs::read_to_string(file).map_err(|source| CliError::Io {
            what: format!("cannot read {}", file.display()),
            source,
        })?;
        values
            .merge(&text)
            .map_err(|error| CliError::Usage(format!("{}: {error}", file.display())))?;
    }
    for assignment in &args.set {
        values
            .assign(assignment)
            .map_err(|error: ValueError| CliError::Usage(error.to_string()))?;
    }
    Ok(values)
}

/// The version of the cluster that the kubeconfig names. Where none can be asked, the newest is as good a guess as any, and
/// is said.
async fn asked_version(global: &Global) -> Result<u32, CliError> {
    let answer = match target::client(global, Whom::Cluster).await {
        Ok(client) => match client.cluster() {
            Some(cluster) => tokio::time::timeout(global.timeout, cluster.find("/version"))
                .await
                .unwrap_or_else(|_late| Err(client.timed_out()))
                .map_err(CliError::from),
            None => Ok(None),
        },
        // What was said by hand and is wrong is no reason to guess.
        Err(error) if global.kubeconfig.is_some() || global.context.is_some() => return Err(error),
        Err(error) => Err(error),
    };
    let why = match answer {
        Ok(version) => match minor(version.as_ref()) {
            Some(minor) if minor < OLDEST_KUBERNETES => {
                return Err(CliError::Usage(format!(
                    "the cluster is Kubernetes 1.{minor}; the oldest that Warren knows is 1.{OLDEST_KUBERNETES}"
                )));
            }
            Some(minor) => return Ok(minor),
            None => "its version is not understood".to_owned(),
        },
        Err(error) => error.to_string(),
    };
    eprintln!(
        "No cluster could be asked for its version ({why}); printing for Kubernetes 1.{NEWEST_KUBERNETES}. \
         Another one: --kubernetes-version"
    );
    Ok(NEWEST_KUBERNETES)
}

/// Some distributions write `27+`.
fn minor(version: Option<&Value>) -> Option<u32> {
    let minor = version?["minor"].as_str()?;
    minor
        .trim_end_matches(|last: char| !last.is_ascii_digit())
        .parse()
        .ok()
}
