//! The authority of a cluster: its Secret, read and written with the caller's own rights.

use mesh_core::identity::TrustDomain;
use mesh_identity::authority::{Authority, AuthorityError, Material};
use mesh_kubernetes::authority_secret::{self, SecretData, StoreError};
use mesh_kubernetes::{Client, client};

use super::failed;
use crate::api::client::ClientError;
use crate::cli::CliError;
use crate::cli::args::{CaPlace, Global};

/// An authority, and where it was read.
pub(super) struct Kept {
    client: Client,
    namespace: String,
    data: SecretData,
}

/// Reads it.
pub(super) async fn open(global: &Global, place: &CaPlace) -> Result<(Kept, Authority), CliError> {
    let client = client::from_kubeconfig(global.kubeconfig.as_deref(), global.context.as_deref())
        .await
        .map_err(|error| ClientError::Kubeconfig(error.into()))?;
    let namespace = place.namespace.clone();
    let read = authority_secret::read(&client, &namespace);
    let Some(data) = read.await.map_err(refused)? else {
        return Err(CliError::Failed {
            what: format!(
                "there is no certificate authority in namespace {namespace}: the controller makes it when it starts; is the mesh \
                 installed elsewhere? (--namespace)"
            ),
            source: None,
        });
    };
    let secret = format!(
        "Secret {namespace}/{}",
        mesh_kubernetes::names::AUTHORITY_SECRET
    );
    let material = Material::from_entries(secret, &data.0);
    let domain = place.trust_domain()?.unwrap_or_default();
    let authority = match Authority::from_material(&material, &domain) {
        // Its root says itself for which one it is.
        Err(AuthorityError::ForeignTrustDomain { found, .. }) if place.trust_domain.is_none() => {
            let found =
                TrustDomain::new(found.trim_start_matches("spiffe://")).map_err(|error| {
                    CliError::Usage(format!("{error}; give it with --trust-domain"))
                })?;
            Authority::from_material(&material, &found)
        }
        opened => opened,
    };
    let kept = Kept {
        client,
        namespace,
        data,
    };
    Ok((kept, authority.map_err(failed)?))
}

impl Kept {
    /// Writes it back, unless somebody else has changed it in between.
    pub(super) async fn store(&self, authority: &Authority) -> Result<(), CliError> {
        let material = authority.material();
        let entries = material.entries();
        let data = SecretData(
            entries
                .map(|(name, content)| (name.to_owned(), content.to_vec()))
                .collect(),
        );
        authority_secret::replace(&self.client, &self.namespace, &self.data, &data)
            .await
            .map_err(refused)
    }
}

fn refused(error: StoreError) -> CliError {
    if error.why.contains("forbidden") {
        return CliError::NotPermitted(format!(
            "{error}; whoever can read this Secret can be anybody in the mesh, so that only administrators may"
        ));
    }
    CliError::failed("the certificate authority was not changed", error)
}
