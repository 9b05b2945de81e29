//! What the runtime asks: in environment variables, with the network configuration on standard input (CNI specification,
//! section 2).

use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::answer::{Code, Failure};
use super::json::Text;
use super::wire::{PodRequest, VERSIONS};

/// The variable that says what is asked.
pub(super) const COMMAND: &str = "CNI_COMMAND";

/// A network configuration is some hundred bytes; with a result of many addresses some thousand.
const LARGEST: u64 = 1 << 20;

/// What is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Command {
    Add,
    Delete,
    Check,
    Version,
    CollectGarbage,
    Status,
}

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) command: Command,
    pub(super) version: String,
    environment: Environment,
    configuration: Configuration,
    /// What the plugins before made, as it came.
    previous: Option<String>,
}

/// What comes in variables.
#[derive(Debug, Default)]
pub(super) struct Environment {
    pub(super) command: String,
    pub(super) container_id: String,
    pub(super) netns: String,
    pub(super) interface: String,
    pub(super) arguments: String,
}

/// What comes on standard input; what else is in it is other plugins' business.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Configuration {
    cni_version: String,
    run_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
}

/// What this plugin reads of a result.
#[derive(Deserialize)]
struct Network {
    #[serde(default)]
    ips: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    /// With the length of its network.
    address: String,
}

impl Environment {
    fn read() -> Self {
        let read = |name| std::env::var(name).unwrap_or_default();
        Self {
            command: read(COMMAND),
            container_id: read("CNI_CONTAINERID"),
            netns: read("CNI_NETNS"),
            interface: read("CNI_IFNAME"),
            arguments: read("CNI_ARGS"),
        }
    }
}

impl Request {
    /// Reads it. `version` is set as soon as it is known: failures are told in it.
    pub(super) fn read(version: &mut String) -> Result<Self, Failure> {
        let mut text = Vec::new();
        std::io::stdin()
            .take(LARGEST)
            .read_to_end(&mut text)
            .map_err(|error| {
                Failure::new(
                    Code::Io,
                    "cannot read the network configuration",
                    error.to_string(),
                )
            })?;
        Self::parse(Environment::read(), &text, version)
    }

    /// The same, of given texts.
    pub(super) fn parse(
        environment: Environment,
        text: &[u8],
        version: &mut String,
    ) -> Result<Self, Failure> {
        let undecodable = |why: String| {
            let what = "the network configuration is not understood";
            Failure::new(Code::Undecodable, what, why)
        };
        let command = match environment.command.as_str() {
            "ADD" => Command::Add,
            "DEL" => Command::Delete,
            "CHECK" => Command::Check,
            "VERSION" => Command::Version,
            "GC" => Command::CollectGarbage,
            "STATUS" => Command::Status,
            other => {
                return Err(Failure::new(
                    Code::Environment,
                    "CNI_COMMAND is not understood",
                    format!("{other:?}; this is a CNI plugin, which container runtimes call"),
                ));
            }
        };
        let configuration: Configuration = match (text.is_empty(), command) {
            // The version can be asked for without a configuration.
            (true, Command::Version) => Configuration::default(),
            _ => serde_json::from_slice(text).map_err(|error| undecodable(error.to_string()))?,
        };
        let text = std::str::from_utf8(text).map_err(|error| undecodable(error.to_string()))?;
        let previous = Text::check(text).ok().and_then(|text| {
            let value = text.member(&text.whole(), "prevResult")?;
            Some(text.get()[value].to_owned())
        });
        if VERSIONS.contains(&configuration.cni_version.as_str()) {
            version.clone_from(&configuration.cni_version);
        } else if command != Command::Version {
            return Err(Failure::new(
                Code::Version,
                "the version of CNI is not supported",
                format!(
                    "the configuration asks for {:?}; there are {}",
                    configuration.cni_version,
                    VERSIONS.join(", ")
                ),
            ));
        }
        if matches!(command, Command::Add | Command::Delete | Command::Check)
            && environment.container_id.is_empty()
        {
            return Err(Failure::new(
                Code::Environment,
                "CNI_CONTAINERID is missing",
                "the runtime has to name the container".to_owned(),
            ));
        }
        Ok(Self {
            command,
            version: version.clone(),
            environment,
            configuration,
            previous: previous.filter(|previous| previous != "null"),
        })
    }

    /// What the plugins before made, to be passed on unchanged.
    pub(super) fn previous(&self) -> Result<String, Failure> {
        self.previous.clone().ok_or_else(|| {
            Failure::new(
                Code::Configuration,
                "there is no prevResult",
                "this plugin makes no network; it goes last in a list of plugins".to_owned(),
            )
        })
    }

    /// The pod that it is about; `None` where no Kubernetes asks.
    pub(super) fn pod(&self) -> Option<PodRequest> {
        let argument = |name: &str| {
            let mut pairs = self.environment.arguments.split(';');
            pairs
                .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))
                .map(|(_, value)| value.to_owned())
                .filter(|value| !value.is_empty())
        };
        Some(PodRequest {
            namespace: argument("K8S_POD_NAMESPACE")?,
            name: argument("K8S_POD_NAME")?,
            uid: argument("K8S_POD_UID").unwrap_or_default(),
            container_id: self.environment.container_id.clone(),
            netns: PathBuf::from(&self.environment.netns),
            interface: self.environment.interface.clone(),
            addresses: self.addresses(),
        })
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let previous = self.previous.as_deref().unwrap_or("{}");
        let Ok(network) = serde_json::from_str::<Network>(previous) else {
            return Vec::new();
        };
        network
            .ips
            .iter()
            .filter_map(|ip| ip.address.split('/').next()?.parse().ok())
            .collect()
    }

    /// The agent's socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.run_dir().join(crate::api::SOCKET_NAME)
    }

    /// Where it is written down which namespaces are in the mesh, the best first.
    pub(super) fn places(&self) -> Vec<PathBuf> {
        let state_dir = self.configuration.state_dir.clone();
        [Some(self.run_dir().to_owned()), state_dir]
            .into_iter()
            .flatten()
            .collect()
    }

    fn run_dir(&self) -> &Path {
        let given = self.configuration.run_dir.as_deref();
        given.unwrap_or_else(|| Path::new(crate::api::DEFAULT_RUN_DIR))
    }
}
