//! `warren controller`: the controller of a cluster.

use super::args::{ControllerArgs, Global};
use super::{CliError, Exit};
use crate::controller;

/// Runs it until it is told to end.
pub(crate) fn run(args: ControllerArgs, global: &Global) -> Result<Exit, CliError> {
    crate::telemetry::start(&args.log).map_err(|error| CliError::Usage(error.to_string()))?;
    crate::memory::begin();
    controller::run(args, global.kubeconfig.clone(), global.context.clone())
        .map(|()| Exit::Ok)
        .map_err(|error| CliError::failed("the controller cannot run", error))
}
