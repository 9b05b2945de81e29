//! `warren proxy`: the worker. The agent starts it with its end of the link on descriptor 3.

use super::args::ProxyArgs;
use super::{CliError, Exit};
use crate::memory;

/// Runs it until it is drained.
pub(crate) fn run(args: &ProxyArgs) -> Result<Exit, CliError> {
    crate::telemetry::start(&args.log).map_err(|error| CliError::Usage(error.to_string()))?;
    memory::begin();
    mesh_proxy::worker::run(memory::for_the_worker())
        .map_err(|error| CliError::failed("the proxy cannot run", error))?;
    Ok(Exit::Ok)
}
