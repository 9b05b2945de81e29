//! Which kinds a server has.

use kube::Client;
use kube::discovery::ApiResource;

/// A kind that may be absent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Optional {
    pub(super) group: &'static str,
    /// The preferred one first.
    pub(super) versions: &'static [&'static str],
    pub(super) kind: &'static str,
    pub(super) plural: &'static str,
}

/// How the server serves a kind; `None`: not at all.
pub(super) async fn find(
    client: &Client,
    wanted: Optional,
) -> Result<Option<ApiResource>, kube::Error> {
    let Optional {
        group,
        versions,
        kind,
        plural,
    } = wanted;
    for version in versions {
        let api_version = format!("{group}/{version}");
        let listed = match client.list_api_group_resources(&api_version).await {
            Ok(listed) => listed,
            Err(error) if is_not_found(&error) => continue,
            Err(error) => return Err(error),
        };
        if listed
            .resources
            .iter()
            .any(|resource| resource.name == plural)
        {
            return Ok(Some(ApiResource {
                group: group.to_owned(),
                version: (*version).to_owned(),
                api_version,
                kind: kind.to_owned(),
                plural: plural.to_owned(),
            }));
        }
    }
    Ok(None)
}

/// Whether the server says that there is no such thing.
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}
