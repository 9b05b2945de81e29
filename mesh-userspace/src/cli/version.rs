//! `warren version`: of this binary, and of the agent or controller that answers, if one does.

use serde::Serialize;

use super::args::{Global, OutputArgs, TextOutput};
use super::output::clean;
use super::target::{self, Whom};
use super::{CliError, Context, Exit, asking, json};
use crate::api::client::Client;
use crate::api::cluster::ClusterStatus;
use crate::api::objects::Status;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    api_version: &'static str,
    kind: &'static str,
    client: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    controller: Option<String>,
}

/// Does what was asked.
pub(crate) fn run(global: &Global, args: &OutputArgs) -> Result<Exit, CliError> {
    let mut version = Version {
        api_version: crate::api::VERSION,
        kind: "Version",
        client: env!("CARGO_PKG_VERSION"),
        agent: None,
        controller: None,
    };
    // That nobody answers is no reason not to say one's own version: it is looked for apart from the question.
    asking(global, Whom::Node, async |context| {
        if let Ok(client) = target::client(global, Whom::Either).await {
            ask(&client, &mut version).await;
        }
        write(context, args, &version)
    })
}

async fn ask(client: &Client, version: &mut Version) {
    if client.cluster().is_some() {
        let status: Option<ClusterStatus> = client.get("status", None).await.ok();
        let controller = status.and_then(|status| status.controllers.into_iter().next());
        version.controller = controller.map(|controller| controller.version);
    } else {
        let status: Option<Status> = client.get("status", None).await.ok();
        version.agent = status.map(|status| status.version);
    }
}

fn write(
    context: &mut Context<'_>,
    args: &OutputArgs,
    version: &Version,
) -> Result<Exit, CliError> {
    match args.output {
        TextOutput::Json => json(context.out, version)?,
        TextOutput::Text => {
            writeln!(context.out, "warren {}", version.client)?;
            if let Some(agent) = &version.agent {
                writeln!(context.out, "agent  {}", clean(agent))?;
            }
            if let Some(controller) = &version.controller {
                writeln!(context.out, "controller {}", clean(controller))?;
            }
        }
    }
    Ok(Exit::Ok)
}
