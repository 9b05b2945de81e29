//! `warren uninstall`: through the running agent when there is one, else directly.

use std::path::Path;

use super::args::UninstallArgs;
use super::output::clean;
use super::{CliError, Context, Exit, on_node};
use crate::agent::uninstall;
use crate::api::client::ClientError;

/// Does what was asked.
pub(crate) async fn run(
    context: &mut Context<'_>,
    args: UninstallArgs,
    socket: &Path,
) -> Result<Exit, CliError> {
    if let Some(step) = args.cluster.on_node {
        return on_node::run(context, &args, step).await;
    }
    let done = match context.client.post::<Vec<String>>("uninstall").await {
        Ok(done) => done,
        Err(ClientError::Unreachable { .. }) => {
            eprintln!("No agent runs; removing what an earlier one left.");
            let run_dir = args
                .run_dir
                .or_else(|| socket.parent().map(Path::to_owned))
                .unwrap_or_else(|| crate::api::DEFAULT_RUN_DIR.into());
            uninstall::offline(&uninstall::Places {
                run_dir,
                bpffs: args.bpffs,
                cgroup_root: args.cgroup_root,
                mesh_cgroup: args.mesh_cgroup,
            })
            .map_err(|error| match error {
                crate::agent::AgentError::NotRoot => CliError::NotPermitted(error.to_string()),
                error => CliError::failed("not everything could be removed", error),
            })?
        }
        Err(error) => return Err(error.into()),
    };
    for line in done {
        writeln!(context.out, "{}", clean(&line))?;
    }
    Ok(Exit::Ok)
}
