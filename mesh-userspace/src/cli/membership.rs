//! `warren enable` and `warren disable`: the label of a namespace or a pod, set with the caller's own rights. Nothing is
//! restarted; the nodes do the rest.

use std::fmt;

use serde_json::{Value, json};

use super::args::MembershipArgs;
use super::output::clean;
use super::{CliError, Context, Exit};
use crate::api::client::{ClientError, Cluster};
use crate::api::filter::nearest;

mod wait;

/// The label.
const LABEL: &str = "warren.dev/mesh";
const ENABLED: &str = "enabled";
const DISABLED: &str = "disabled";

/// What is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Membership {
    Enabled,
    Disabled,
}

/// What gets the label.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Subject {
    Namespace(String),
    Pod { namespace: String, name: String },
}

/// A change of the label.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    /// What it was.
    before: Option<String>,
    /// What it becomes; `None`: it is removed.
    after: Option<&'static str>,
}

/// Does what was asked.
pub(crate) async fn run(
    context: &mut Context<'_>,
    args: &MembershipArgs,
    wanted: Membership,
) -> Result<Exit, CliError> {
    let Some(cluster) = context.client.cluster() else {
        return Err(CliError::Usage("labels are a cluster's".to_owned()));
    };
    let subject = Subject::read(&args.what, cluster.namespace())?;
    let found = cluster.find(&subject.path()).await;
    let Some(object) = found.map_err(|error| forbidden(error, &subject))? else {
        return Err(unknown(cluster, &subject).await);
    };
    let namespace_enabled = match &subject {
        Subject::Namespace(_) => false,
        Subject::Pod { namespace, .. } => is_enabled(cluster, namespace).await?,
    };
    let change = Change::of(label(&object), &subject, wanted, namespace_enabled);
    if args.dry_run {
        let path = format!("{}?dryRun=All", subject.path());
        let merged = cluster.merge(&path, &change.patch()).await;
        merged.map_err(|error| forbidden(error, &subject))?;
        write!(context.out, "{}", change.yaml(&subject))?;
        eprintln!("Nothing was changed.");
        return Ok(Exit::Ok);
    }
    let watched = match args.wait {
        Some(_) => Some(wait::Watched::begin(cluster, &subject).await?),
        None => None,
    };
    if change.is_none() {
        writeln!(context.out, "{subject} is {} already", wanted.words())?;
    } else {
        let merged = cluster.merge(&subject.path(), &change.patch()).await;
        merged.map_err(|error| forbidden(error, &subject))?;
        writeln!(context.out, "{subject} {}", change.words())?;
        writeln!(context.out, "undo: {}", change.undo(&subject))?;
    }
    context.out.flush()?;
    match (watched, args.wait) {
        (Some(watched), Some(longest)) => {
            let done = watched
                .until_done(&context.client, cluster, wanted, longest)
                .await?;
            writeln!(context.out, "{}", clean(&done))?;
        }
        _ if wanted == Membership::Enabled => hint_host_network(&object, &subject),
        _ => {}
    }
    Ok(Exit::Ok)
}

/// Who may not label a namespace may be allowed to label its pods.
fn forbidden(error: ClientError, subject: &Subject) -> ClientError {
    match (error, subject) {
        (ClientError::Forbidden { why, .. }, Subject::Namespace(name)) => ClientError::Forbidden {
            why,
            next: format!(
                "; ask an administrator to do it, or take single pods into the mesh: warren enable pod/{name}/NAME"
            ),
        },
        (error, _) => error,
    }
}

/// A label on a pod that cannot be in the mesh does nothing, and that should be said.
fn hint_host_network(object: &Value, subject: &Subject) {
    if object["spec"]["hostNetwork"] == true {
        eprintln!(
            "{subject} uses its node's network, so it is not taken into the mesh: it has no address and no network of its own"
        );
    }
}

/// That there is no such thing, with what may have been meant.
async fn unknown(cluster: &Cluster, subject: &Subject) -> CliError {
    let list = match subject {
        Subject::Namespace(_) => "/api/v1/namespaces".to_owned(),
        Subject::Pod { namespace, .. } => format!("/api/v1/namespaces/{namespace}/pods"),
    };
    // Who may not list has to do without.
    let known = cluster.find(&list).await.ok().flatten();
    let names: Vec<&str> = known
        .iter()
        .flat_map(|list| list["items"].as_array().into_iter().flatten())
        .filter_map(|item| item["metadata"]["name"].as_str())
        .collect();
    let wanted = match subject {
        Subject::Namespace(name) | Subject::Pod { name, .. } => name,
    };
    let hint = nearest(wanted, names)
        .map(|near| format!("; did you mean {near}?"))
        .unwrap_or_default();
    CliError::Failed {
        what: format!("{subject} is not there{hint}"),
        source: None,
    }
}

async fn is_enabled(cluster: &Cluster, namespace: &str) -> Result<bool, CliError> {
    let path = Subject::Namespace(namespace.to_owned()).path();
    let object = cluster.find(&path).await?;
    Ok(object.as_ref().and_then(label) == Some(ENABLED))
}

fn label(object: &Value) -> Option<&str> {
    object["metadata"]["labels"][LABEL].as_str()
}

impl Membership {
    fn words(self) -> &'static str {
        match self {
            Self::Enabled => "in the mesh",
            Self::Disabled => "outside the mesh",
        }
    }
}

impl Subject {
    /// Reads `ns/NAME`, `pod/NAMESPACE/NAME`, `pod/NAME` (of the kubeconfig's namespace) or `NAME` (a namespace).
    pub(crate) fn read(typed: &str, default: &str) -> Result<Self, CliError> {
        const FORMS: &str = "say ns/NAME or pod/NAMESPACE/NAME";
        let parts: Vec<&str> = typed.split('/').collect();
        if let Some(bad) = parts.iter().find(|part| !is_name(part)) {
            return Err(CliError::Usage(match bad.is_empty() {
                true => format!("{typed:?} lacks a name; {FORMS}"),
                false => format!("{bad:?} is no name of Kubernetes; {FORMS}"),
            }));
        }
        match parts.as_slice() {
            [name] => Ok(Self::Namespace((*name).to_owned())),
            ["ns" | "namespace" | "namespaces", name] => Ok(Self::Namespace((*name).to_owned())),
            ["pod" | "pods" | "po", name] => Ok(Self::Pod {
                namespace: default.to_owned(),
                name: (*name).to_owned(),
            }),
            ["pod" | "pods" | "po", namespace, name] => Ok(Self::Pod {
                namespace: (*namespace).to_owned(),
                name: (*name).to_owned(),
            }),
            [kind, ..] => {
                let hint = nearest(kind, ["ns", "namespace", "pod"])
                    .map(|near| format!("; did you mean {near}?"))
                    .unwrap_or_default();
                Err(CliError::Usage(format!(
                    "{kind:?} cannot be taken into the mesh{hint} The label is on namespaces and pods: {FORMS}"
                )))
            }
            [] => Err(CliError::Usage(FORMS.to_owned())),
        }
    }

    fn path(&self) -> String {
        match self {
            Self::Namespace(name) => format!("/api/v1/namespaces/{name}"),
            Self::Pod { namespace, name } => format!("/api/v1/namespaces/{namespace}/pods/{name}"),
        }
    }

    /// As kubectl takes it.
    fn for_kubectl(&self) -> String {
        match self {
            Self::Namespace(name) => format!("namespace {name}"),
            Self::Pod { namespace, name } => format!("pod -n {namespace} {name}"),
        }
    }
}

/// RFC 1123, as Kubernetes has it: what else is typed must not become part of a path.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && !text.contains("..")
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.ends_with(|last: char| last.is_ascii_alphanumeric())
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "ns/{name}"),
            Self::Pod { namespace, name } => write!(f, "pod/{namespace}/{name}"),
        }
    }
}

impl Change {
    /// A namespace is outside the mesh without a label, so that one is left as it was found. A pod needs one to differ from
    /// its namespace.
    pub(crate) fn of(
        before: Option<&str>,
        subject: &Subject,
        wanted: Membership,
        namespace_enabled: bool,
    ) -> Self {
        let is_pod = matches!(subject, Subject::Pod { .. });
        let after = match wanted {
            Membership::Enabled if is_pod && namespace_enabled => None,
            Membership::Enabled => Some(ENABLED),
            Membership::Disabled if is_pod && namespace_enabled => Some(DISABLED),
            Membership::Disabled => None,
        };
        // A label that says the same in more words is as good.
        let same = match before {
            None => after.is_none(),
            Some(ENABLED) => wanted == Membership::Enabled,
            Some(DISABLED) => wanted == Membership::Disabled,
            Some(_) => false,
        };
        Self {
            before: before.map(str::to_owned),
            after: match same {
                true => before.and_then(|before| {
                    [ENABLED, DISABLED]
                        .into_iter()
                        .find(|known| *known == before)
                }),
                false => after,
            },
        }
    }

    fn is_none(&self) -> bool {
        self.before.as_deref() == self.after
    }

    fn patch(&self) -> Value {
        json!({ "metadata": { "labels": { LABEL: self.after } } })
    }

    fn words(&self) -> String {
        match (self.after, &self.before) {
            (Some(after), None) => format!("labelled {LABEL}={after}"),
            (Some(after), Some(before)) => {
                format!("labelled {LABEL}={after} (was {})", clean(before))
            }
            (None, Some(before)) => format!("label {LABEL} removed (was {})", clean(before)),
            (None, None) => "left as it was".to_owned(),
        }
    }

    /// Everything about it in a line.
    #[cfg(test)]
    pub(crate) fn told(&self, subject: &Subject) -> String {
        match self.is_none() {
            true => "nothing".to_owned(),
            false => format!("{}; undo: {}", self.words(), self.undo(subject)),
        }
    }

    /// The line that leads back to exactly what was.
    fn undo(&self, subject: &Subject) -> String {
        match (self.before.as_deref(), self.after, subject) {
            (None, Some(ENABLED), Subject::Namespace(_)) => format!("warren disable {subject}"),
            (Some(ENABLED), None, Subject::Namespace(_)) => format!("warren enable {subject}"),
            (None, _, _) => format!("kubectl label {} {LABEL}-", subject.for_kubectl()),
            (Some(before), _, _) => format!(
                "kubectl label {} {LABEL}={} --overwrite",
                subject.for_kubectl(),
                clean(before)
            ),
        }
    }

    /// The object with the label, for `kubectl patch --type merge --patch-file`.
    pub(crate) fn yaml(&self, subject: &Subject) -> String {
        let (kind, name, namespace) = match subject {
            Subject::Namespace(name) => ("Namespace", name, None),
            Subject::Pod { namespace, name } => ("Pod", name, Some(namespace)),
        };
        let namespace = namespace
            .map(|namespace| format!("  namespace: {namespace}\n"))
            .unwrap_or_default();
        let value = self.after.unwrap_or("null");
        format!(
            "apiVersion: v1\nkind: {kind}\nmetadata:\n  name: {name}\n{namespace}  labels:\n    {LABEL}: {value}\n"
        )
    }
}
