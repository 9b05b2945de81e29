//! A controller's API as it is served, and those who ask it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use axum::http::HeaderMap;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_identity::authority::{Authority, Material};
use mesh_identity::tls;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::super::caller::{Caller, RequestHeaders};
use super::super::refusal::Refusal;
use super::super::routes::{Lines, Mesh, Scope, router};
use super::super::serve;
use crate::api::cluster::ClusterStatus;
use crate::api::objects::{
    Certificate, Checks, Explanation, FlowQuery, List, Policy, Problem, Route, Service, Workload,
};

/// A mesh about which little is known: who may ask is what is tried here.
pub(super) struct Known {
    pub(super) rules: RequestHeaders,
    /// Users, and what the API server says they may.
    pub(super) may: Mutex<BTreeSet<(&'static str, &'static str, Scope)>>,
    /// The API server says nothing.
    pub(super) unreachable: AtomicBool,
    pub(super) asked: Mutex<Vec<FlowQuery>>,
    pub(super) refused: Mutex<Vec<&'static str>>,
}

impl Mesh for Known {
    fn caller(&self, headers: &HeaderMap) -> Option<Caller> {
        self.rules.caller(headers)
    }

    async fn authorize(
        &self,
        caller: &Caller,
        verb: &'static str,
        resource: &'static str,
        scope: &Scope,
    ) -> Result<(), Refusal> {
        if self.unreachable.load(Ordering::Relaxed) {
            return Err(Refusal::NotNow("the API server does not answer".to_owned()));
        }
        let may = self.may.lock().expect("not poisoned");
        let may = may.iter().any(|(user, allowed, within)| {
            *user == caller.user && format!("{verb} {resource}") == *allowed && within == scope
        });
        match may {
            true => Ok(()),
            false => Err(Refusal::Forbidden(format!(
                "{} may not {verb} {resource}",
                caller.user
            ))),
        }
    }

    fn refused(&self, refusal: &Refusal) {
        self.refused
            .lock()
            .expect("not poisoned")
            .push(refusal.label());
    }

    async fn status(&self, _scope: Scope) -> ClusterStatus {
        ClusterStatus {
            trust_domain: "here".to_owned(),
            ..ClusterStatus::default()
        }
    }
    async fn workloads(&self, _scope: Scope) -> List<Workload> {
        List::new(Vec::new())
    }
    async fn services(&self, _scope: Scope) -> List<Service> {
        List::new(Vec::new())
    }
    async fn routes(&self, _scope: Scope) -> List<Route> {
        List::new(Vec::new())
    }
    async fn policies(&self, _scope: Scope) -> List<Policy> {
        List::new(Vec::new())
    }
    async fn certificates(&self, _scope: Scope) -> List<Certificate> {
        List::new(Vec::new())
    }
    async fn checks(&self, _scope: Scope) -> Checks {
        unreachable!("not asked")
    }
    async fn explain(
        &self,
        _scope: Scope,
        source: &str,
        _to: &str,
    ) -> Result<Explanation, Problem> {
        Err(Problem::new(format!("{source} is not known")))
    }
    async fn flows(&self, query: FlowQuery) -> Result<Lines, Refusal> {
        self.asked.lock().expect("not poisoned").push(query);
        Ok(stream::iter([Bytes::from_static(b"{}\n")]).boxed())
    }
}

/// An authority of clients, and what it signs.
pub(super) struct ClientAuthority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl ClientAuthority {
    pub(super) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).expect("a root");
        Self {
            pem: root.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(super) fn client(&self, name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        (leaf.der().clone(), key)
    }
}

/// A controller that is served, and what clients need to know.
pub(super) struct Served {
    pub(super) address: SocketAddr,
    pub(super) clients: ClientAuthority,
    pub(super) server_root: CertificateDer<'static>,
    pub(super) mesh: Arc<Known>,
    pub(super) stop: watch::Sender<bool>,
}

const DNS_NAME: &str = "warren-controller.warren-system.svc";

pub(super) async fn served(unreachable: bool) -> Served {
    let clients = ClientAuthority::new("front-proxy-ca");
    let data: BTreeMap<String, String> = [
        ("requestheader-client-ca-file", clients.pem.as_str()),
        ("requestheader-allowed-names", r#"["front-proxy"]"#),
        ("requestheader-username-headers", r#"["X-Remote-User"]"#),
        ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    let rules = RequestHeaders::read(&data).expect("usable");

    let domain = TrustDomain::default();
    let material = Material::generate("a test", &domain).expect("a root");
    let authority = Authority::from_material(&material, &domain).expect("an authority");
    let identity =
        SpiffeId::new(domain, "warren-system", "warren-controller").expect("an identity");
    let own = authority
        .issue_server(
            &identity,
            &[DNS_NAME.to_owned()],
            Duration::from_secs(600),
            SystemTime::now(),
        )
        .expect("a certificate");
    let config = tls::api_server(&own, rules.client_ca.as_bytes(), &rules.allowed_names)
        .expect("a configuration");
    let server_root = authority.bundle().roots()[0].der().clone();

    let shop = || Some("shop".to_owned());
    let mesh = Arc::new(Known {
        rules,
        may: [
            ("jane", "list flows", shop()),
            ("jane", "watch flows", shop()),
            ("jane", "list explain", shop()),
            ("root", "list status", None),
            ("root", "watch status", None),
            ("root", "list summary", shop()),
        ]
        .into_iter()
        .collect::<BTreeSet<_>>()
        .into(),
        unreachable: unreachable.into(),
        asked: Mutex::default(),
        refused: Mutex::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (_, tls) = watch::channel(Some(config));
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(serve::serve(
        listener,
        tls,
        router(Arc::clone(&mesh)),
        stopping,
    ));
    Served {
        address,
        clients,
        server_root,
        mesh,
        stop,
    }
}

impl Served {
    /// Asks as somebody with (or without) a certificate would, with these headers.
    pub(super) async fn ask(
        &self,
        certificate: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(u16, String), String> {
        let mut roots = RootCertStore::empty();
        roots.add(self.server_root.clone()).expect("a root");
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = match certificate {
            Some((leaf, key)) => config
                .with_client_auth_cert(vec![leaf], key)
                .expect("a key"),
            None => config.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.address)
            .await
            .expect("a connection");
        let name = ServerName::try_from(DNS_NAME).expect("a name");
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let mut request = hyper::Request::get(path).header("host", DNS_NAME);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        let body = String::from_utf8(body.to_bytes().to_vec()).expect("text");
        Ok((status, body))
    }

    /// Asks as the API server does for a user.
    pub(super) async fn ask_for(&self, user: &str, path: &str) -> (u16, Value) {
        let certificate = self.clients.client("front-proxy");
        let (status, body) = self
            .ask(Some(certificate), path, &[("x-remote-user", user)])
            .await
            .expect("an answer");
        let first = body.lines().next().unwrap_or_default();
        (
            status,
            serde_json::from_str(first).unwrap_or(Value::String(body)),
        )
    }
}
