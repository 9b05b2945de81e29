//! The cluster's certificates and kubeconfigs: one authority, and one certificate for each of those who meet at the API
//! server.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::layout::{API_SERVER, API_SERVICE, Node};

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Who has a kubeconfig, besides nodes: name of the file, user, group.
const CLIENTS: &[(&str, &str, Option<&str>)] = &[
    ("admin", "admin", Some("system:masters")),
    ("controller-manager", "system:kube-controller-manager", None),
    ("scheduler", "system:kube-scheduler", None),
    ("kube-proxy", "system:kube-proxy", None),
];

/// The API server, when it asks a kubelet for logs.
pub(super) const KUBELET_CLIENT: &str = "apiserver-kubelet-client";

/// The API server, when it passes a request on to an aggregated one.
pub(super) const FRONT_PROXY: &str = "front-proxy";

/// Makes everything in a folder.
pub(super) fn make(folder: &Path, nodes: u8) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let authority = Authority::make(folder)?;
    authority.serve(
        "apiserver",
        "kube-apiserver",
        None,
        vec![
            SanType::IpAddress(API_SERVER.ip()),
            SanType::IpAddress(API_SERVICE.into()),
            dns("kubernetes")?,
            dns("kubernetes.default")?,
            dns("kubernetes.default.svc")?,
            dns("kubernetes.default.svc.cluster.local")?,
        ],
    )?;
    for (name, user, group) in CLIENTS {
        authority.call(name, user, *group)?;
        write_kubeconfig(folder, name)?;
    }
    authority.call(KUBELET_CLIENT, KUBELET_CLIENT, Some("system:masters"))?;
    authority.call(FRONT_PROXY, FRONT_PROXY, None)?;
    for node in Node::first(nodes) {
        let name = node.name();
        authority.serve(
            &name,
            &format!("system:node:{name}"),
            Some("system:nodes"),
            vec![dns(&name)?, SanType::IpAddress(node.address().into())],
        )?;
        write_kubeconfig(folder, &name)?;
    }
    // Signs the tokens of service accounts.
    let key = KeyPair::generate()?;
    write_secret(folder, "service-accounts.key", &key.serialize_pem())?;
    write(folder, "service-accounts.pub", &key.public_key_pem())
}

struct Authority<'a> {
    folder: &'a Path,
    issuer: Issuer<'static, KeyPair>,
}

impl<'a> Authority<'a> {
    fn make(folder: &'a Path) -> Result<Self> {
        let mut params = params("kubernetes", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        write(folder, "ca.crt", &params.self_signed(&key)?.pem())?;
        write_secret(folder, "ca.key", &key.serialize_pem())?;
        Ok(Self {
            folder,
            issuer: Issuer::new(params, key),
        })
    }

    /// A certificate for a client.
    fn call(&self, name: &str, user: &str, group: Option<&str>) -> Result<()> {
        let mut params = params(user, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(name, params)
    }

    /// A certificate for a server that is also a client.
    fn serve(
        &self,
        name: &str,
        user: &str,
        group: Option<&str>,
        places: Vec<SanType>,
    ) -> Result<()> {
        let mut params = params(user, group);
        params.subject_alt_names = places;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        self.sign(name, params)
    }

    fn sign(&self, name: &str, mut params: CertificateParams) -> Result<()> {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate: Certificate = params
            .signed_by(&key, &self.issuer)
            .with_context(|| format!("sign the certificate of {name}"))?;
        write(self.folder, &format!("{name}.crt"), &certificate.pem())?;
        write_secret(self.folder, &format!("{name}.key"), &key.serialize_pem())
    }
}

/// To Kubernetes the common name is the user and the organisation the group.
fn params(user: &str, group: Option<&str>) -> CertificateParams {
    let mut name = DistinguishedName::new();
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    name.push(DnType::CommonName, user);
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    // A cluster that was left running over a holiday still works.
    params.not_after = (now + 60 * DAY).into();
    params
}

fn dns(name: &str) -> Result<SanType> {
    let text = Ia5String::try_from(name).with_context(|| format!("{name:?} is no DNS name"))?;
    Ok(SanType::DnsName(text))
}

/// The files it names are beside it, so a copy of the folder works as well.
fn write_kubeconfig(folder: &Path, name: &str) -> Result<()> {
    let text = format!(
        "apiVersion: v1
kind: Config
current-context: warren
contexts: [{{name: warren, context: {{cluster: warren, user: {name}}}}}]
clusters: [{{name: warren, cluster: {{server: \"https://{API_SERVER}\", certificate-authority: ca.crt}}}}]
users: [{{name: {name}, user: {{client-certificate: {name}.crt, client-key: {name}.key}}}}]
"
    );
    write(folder, &format!("{name}.kubeconfig"), &text)
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

fn write_secret(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    let secret = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path);
    let mut file = secret.with_context(|| format!("create {}", path.display()))?;
    file.set_permissions(fs::Permissions::from_mode(0o600))
        .and_then(|()| std::io::Write::write_all(&mut file, text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}
