//! Why there is no answer, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::api::objects::Problem;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("no agent answers at {}; is `warren node` running on this machine? (another socket: --socket)", socket.display())]
    Unreachable {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the agent's socket {} may only be used by root; try again with sudo", socket.display())]
    NotPermitted { socket: PathBuf },
    #[error(
        "the agent did not answer within {after:?}; `warren check` and its log may say why (more time: --timeout)"
    )]
    TimedOut { after: Duration },
    #[error("{0}")]
    Refused(Problem),
    #[error(
        "the {whom}'s answer is not understood ({what}); are command line and {whom} of the same version?"
    )]
    Protocol { whom: &'static str, what: String },
    #[error("the connection to the {whom} broke")]
    Broken {
        whom: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "no agent runs on this machine ({} is not there), and there is no cluster to ask; start `warren node`, or name a \
         cluster: --kubeconfig, --context or KUBECONFIG", socket.display()
    )]
    Nobody {
        socket: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "the kubeconfig cannot be used; choose another one with --kubeconfig, another context with --context"
    )]
    Kubeconfig(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(
        "the API server {server} cannot be reached; is it the right cluster? (another one: --context, --kubeconfig)"
    )]
    ApiServer {
        server: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the cluster {server} did not answer within {after:?} (more time: --timeout)")]
    ClusterTimedOut { server: String, after: Duration },
    #[error(
        "Warren is not installed in the cluster {server}: it has no API {}; install it with \
         `warren install | kubectl apply -f -`, or choose another cluster with --context",
        crate::api::CLUSTER_GROUP
    )]
    NotInstalled { server: String },
    #[error(
        "Warren's controller does not answer ({why}); look at it: kubectl -n warren-system get pods, \
         kubectl get apiservice {}",
        crate::api::API_SERVICE
    )]
    ControllerAway { why: String },
    #[error(
        "the cluster {server} does not know who you are ({why}); log in again, or choose another context with --context"
    )]
    NotAuthenticated { server: String, why: String },
    #[error("not permitted: {why}{next}")]
    Forbidden {
        why: String,
        /// The next step, as the end of the sentence.
        next: String,
    },
    /// The API server refuses for another reason.
    #[error("the API server refuses: {0}")]
    ApiRefused(String),
}

impl ClientError {
    /// Whether asking again may help: somebody was not there at the moment.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Broken { .. }
                | Self::ApiServer { .. }
                | Self::ControllerAway { .. }
                | Self::ClusterTimedOut { .. }
        )
    }

    /// The exit code that tells it.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Unreachable { .. }
            | Self::Nobody { .. }
            | Self::Kubeconfig(_)
            | Self::ApiServer { .. }
            | Self::NotInstalled { .. }
            | Self::ControllerAway { .. } => 3,
            Self::NotPermitted { .. } | Self::NotAuthenticated { .. } | Self::Forbidden { .. } => 4,
            Self::TimedOut { .. } | Self::ClusterTimedOut { .. } => 124,
            Self::Refused(_)
            | Self::Protocol { .. }
            | Self::Broken { .. }
            | Self::ApiRefused(_) => 1,
        }
    }
}
