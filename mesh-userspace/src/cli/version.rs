//! `warren version`: of this binary, and of the running agent when there is one.

use serde::Serialize;

use super::args::{OutputArgs, TextOutput};
use super::output::clean;
use super::{CliError, Context, Exit, json};
use crate::api::objects::Status;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    api_version: &'static str,
    kind: &'static str,
    client: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
}

/// Does what was asked.
pub(crate) async fn run(context: &mut Context<'_>, args: &OutputArgs) -> Result<Exit, CliError> {
    // That no agent runs is no reason not to say one's own version.
    let agent = context.client.get::<Status>("/v1/status").await.ok();
    let version = Version {
        api_version: crate::api::VERSION,
        kind: "Version",
        client: env!("CARGO_PKG_VERSION"),
        agent: agent.map(|status| status.version),
    };
    match args.output {
        TextOutput::Json => json(context.out, &version)?,
        TextOutput::Text => {
            writeln!(context.out, "warren {}", version.client)?;
            if let Some(agent) = &version.agent {
                writeln!(context.out, "agent  {}", clean(agent))?;
            }
        }
    }
    Ok(Exit::Ok)
}
