//! Who is asking, and may they: the API server's own answers.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use mesh_core::workload::Name;

use crate::names;

/// What a node agent's token has to be.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Who it is for.
    pub audience: String,
    /// Namespace of the agent's service account.
    pub namespace: String,
    /// Its name.
    pub service_account: String,
}

impl Default for Expected {
    fn default() -> Self {
        Self {
            audience: names::TOKEN_AUDIENCE.to_owned(),
            namespace: names::SYSTEM_NAMESPACE.to_owned(),
            service_account: names::NODE.to_owned(),
        }
    }
}

/// An agent that showed its token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Agent {
    /// The node on which its pod runs: what it may act for.
    pub node: String,
    /// Its pod.
    pub pod: Name,
}

/// Why a token or a caller is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The API server could not be asked; the caller may try again.
    #[error("{0}")]
    Unavailable(String),
    /// No, and why.
    #[error("{0}")]
    Denied(String),
}

/// Who asked, as the API server's front proxy says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct User {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// The rest.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What is asked for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Attributes {
    /// `get`, `list`, `watch`.
    pub verb: String,
    /// `api.warren.dev`.
    pub group: String,
    /// `v1alpha1`.
    pub version: String,
    /// `flows`.
    pub resource: String,
    /// Part of it.
    pub subresource: Option<String>,
    /// Namespace; `None`: all.
    pub namespace: Option<String>,
    /// Name; `None`: all.
    pub name: Option<String>,
}

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// Since Kubernetes 1.30.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Checks a node agent's token: authenticated, for this audience, of this service account, bound to a pod that is there with
/// that UID, runs on a node and has not ended. The pod is read from the API server, not from what was observed before.
///
/// # Errors
/// [`Refusal`] with words.
pub async fn review_agent(
    client: &Client,
    expected: &Expected,
    token: &str,
) -> Result<Agent, Refusal> {
    let user = authenticate(client, expected, token).await?;
    let bound = Bound::of(expected, &user)?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &expected.namespace);
    let pod = pods.get_opt(&bound.pod).await.map_err(|error| {
        Refusal::Unavailable(format!("pod {} cannot be read: {error}", bound.pod))
    })?;
    let node = bound.node_of(expected, pod)?;
    Ok(Agent {
        node,
        pod: Name::new(expected.namespace.as_str(), bound.pod),
    })
}

/// Whose token it is.
async fn authenticate(
    client: &Client,
    expected: &Expected,
    token: &str,
) -> Result<UserInfo, Refusal> {
    // The server calls that a bad request, which would look like a fault of ours.
    if token.is_empty() {
        return Err(Refusal::Denied("the token is refused: it is empty".into()));
    }
    let review = TokenReview {
        spec: TokenReviewSpec {
            audiences: Some(vec![expected.audience.clone()]),
            token: Some(token.to_owned()),
        },
        ..TokenReview::default()
    };
    let reviews: Api<TokenReview> = Api::all(client.clone());
    let reviewed = reviews.create(&PostParams::default(), &review).await;
    let reviewed = reviewed
        .map_err(|error| Refusal::Unavailable(format!("the token cannot be reviewed: {error}")))?;
    let status = reviewed.status.unwrap_or_default();
    if status.authenticated != Some(true) {
        let why = status.error.unwrap_or_default();
        let why = if why.is_empty() {
            "it is not valid".to_owned()
        } else {
            why
        };
        return Err(Refusal::Denied(format!("the token is refused: {why}")));
    }
    // A server that does not know audiences answers without any; its tokens are for itself, and for anybody.
    if !status
        .audiences
        .unwrap_or_default()
        .contains(&expected.audience)
    {
        return Err(Refusal::Denied(format!(
            "the token is not for audience {}",
            expected.audience
        )));
    }
    Ok(status.user.unwrap_or_default())
}

/// What a token is bound to.
#[derive(Debug)]
struct Bound {
    pod: String,
    uid: String,
    node: Option<String>,
}

impl Bound {
    fn of(expected: &Expected, user: &UserInfo) -> Result<Self, Refusal> {
        let Expected {
            namespace,
            service_account,
            ..
        } = expected;
        let wanted = format!("system:serviceaccount:{namespace}:{service_account}");
        let name = user.username.as_deref().unwrap_or_default();
        if name != wanted {
            return Err(Refusal::Denied(format!(
                "the token is of {name}, not of {wanted}"
            )));
        }
        let extra = |key| {
            let values = user.extra.as_ref()?.get(key)?;
            // One value, or it does not say.
            match values.as_slice() {
                [only] if !only.is_empty() => Some(only.clone()),
                _ => None,
            }
        };
        let (Some(pod), Some(uid)) = (extra(POD_NAME), extra(POD_UID)) else {
            return Err(Refusal::Denied(
                "the token is not bound to a pod; it has to be a projected one".to_owned(),
            ));
        };
        Ok(Self {
            pod,
            uid,
            node: extra(NODE_NAME),
        })
    }

    /// The node of the pod, if it is the one that the token is bound to.
    fn node_of(&self, expected: &Expected, pod: Option<Pod>) -> Result<String, Refusal> {
        let name = &self.pod;
        let denied = |why: &str| Err(Refusal::Denied(format!("the token's pod {name} {why}")));
        let Some(pod) = pod else {
            return denied("is gone");
        };
        if pod.metadata.uid.as_ref() != Some(&self.uid) {
            return denied("is another one by now");
        }
        let spec = pod.spec.unwrap_or_default();
        if spec.service_account_name.as_deref() != Some(expected.service_account.as_str()) {
            return denied("has another service account");
        }
        let phase = pod.status.and_then(|status| status.phase);
        if matches!(phase.as_deref(), Some("Succeeded" | "Failed")) {
            return denied("has ended");
        }
        let Some(node) = spec.node_name.filter(|node| !node.is_empty()) else {
            return denied("is on no node yet");
        };
        if self.node.as_ref().is_some_and(|bound| *bound != node) {
            return denied("is on another node than the token says");
        }
        Ok(node)
    }
}

/// Asks whether a user may do something (SubjectAccessReview).
///
/// # Errors
/// [`Refusal::Denied`] when not, with the API server's reason.
pub async fn authorize(
    client: &Client,
    user: &User,
    attributes: &Attributes,
) -> Result<(), Refusal> {
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let reviewed = reviews
        .create(&PostParams::default(), &question(user, attributes))
        .await;
    let status = reviewed
        .map_err(|error| Refusal::Unavailable(format!("access cannot be reviewed: {error}")))?
        .status
        .unwrap_or_default();
    if status.allowed {
        return Ok(());
    }
    let Attributes {
        verb,
        group,
        resource,
        namespace,
        ..
    } = attributes;
    let place = match namespace {
        Some(namespace) => format!("in namespace {namespace}"),
        None => "in all namespaces".to_owned(),
    };
    let why = status
        .reason
        .or(status.evaluation_error)
        .filter(|why| !why.is_empty());
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    Err(Refusal::Denied(format!(
        "{} may not {verb} {resource}.{group} {place}{why}",
        user.name
    )))
}

fn question(user: &User, attributes: &Attributes) -> SubjectAccessReview {
    let User {
        name: user_name,
        uid,
        groups,
        extra,
    } = user;
    let Attributes {
        verb,
        group,
        version,
        resource,
        subresource,
        namespace,
        name,
    } = attributes;
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user_name.clone()),
            uid: uid.clone(),
            groups: Some(groups.clone()),
            extra: Some(extra.clone()),
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.clone()),
                group: Some(group.clone()),
                version: Some(version.clone()),
                resource: Some(resource.clone()),
                subresource: subresource.clone(),
                namespace: namespace.clone(),
                name: name.clone(),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}

#[cfg(test)]
mod tests;
