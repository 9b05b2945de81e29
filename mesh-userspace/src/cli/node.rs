//! `warren node`: the agent.

use super::args::NodeArgs;
use super::{CliError, Exit, on_node};
use crate::agent;

/// Runs it until it is told to end.
pub(crate) fn run(args: NodeArgs) -> Result<Exit, CliError> {
    crate::telemetry::start(&args.log).map_err(|error| CliError::Usage(error.to_string()))?;
    if args.kubernetes.kubernetes && on_node::wait_while_cleaned(&args.run_dir)? {
        return Ok(Exit::Ok);
    }
    crate::memory::begin();
    match agent::run(args) {
        Ok(()) => Ok(Exit::Ok),
        Err(error @ agent::AgentError::NotRoot) => Err(CliError::NotPermitted(error.to_string())),
        Err(error) => Err(CliError::failed("the agent cannot run", error)),
    }
}
