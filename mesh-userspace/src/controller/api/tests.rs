//! Who is let in and who is told what: over real TLS, as the API server connects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
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

use super::caller::{Caller, RequestHeaders};
use super::refusal::Refusal;
use super::routes::{Lines, Mesh, Scope, router};
use super::serve;
use crate::api::cluster::ClusterStatus;
use crate::api::objects::{
    Certificate, Checks, Explanation, FlowQuery, List, Policy, Problem, Route, Service, Workload,
};

/// A mesh about which little is known: who may ask is what is tried here.
struct Known {
    rules: RequestHeaders,
    /// Users, and what the API server says they may.
    may: BTreeSet<(&'static str, &'static str, Scope)>,
    /// The API server says nothing.
    unreachable: bool,
    asked: Mutex<Vec<FlowQuery>>,
    refused: Mutex<Vec<&'static str>>,
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
        if self.unreachable {
            return Err(Refusal::NotNow("the API server does not answer".to_owned()));
        }
        let may = self.may.iter().any(|(user, allowed, within)| {
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
struct ClientAuthority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl ClientAuthority {
    fn new(name: &str) -> Self {
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

    fn client(&self, name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        (leaf.der().clone(), key)
    }
}

/// A controller that is served, and what clients need to know.
struct Served {
    address: SocketAddr,
    clients: ClientAuthority,
    server_root: CertificateDer<'static>,
    mesh: Arc<Known>,
    stop: watch::Sender<bool>,
}

const DNS_NAME: &str = "warren-controller.warren-system.svc";

async fn served(unreachable: bool) -> Served {
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
        .into(),
        unreachable,
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
    async fn ask(
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
    async fn ask_for(&self, user: &str, path: &str) -> (u16, Value) {
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

const FLOWS_OF_SHOP: &str = "/apis/api.warren.dev/v1alpha1/namespaces/shop/flows";
const STATUS: &str = "/apis/api.warren.dev/v1alpha1/status";

#[tokio::test]
async fn only_the_api_server_is_let_in() {
    let served = served(false).await;
    let header = [("x-remote-user", "root")];
    let other = ClientAuthority::new("front-proxy-ca");
    // Its own certificate, of the right authority and with the right name, is what makes the headers believed.
    for certificate in [
        None,
        Some(other.client("front-proxy")),
        Some(served.clients.client("somebody")),
    ] {
        let answer = served.ask(certificate, STATUS, &header).await;
        assert!(answer.is_err(), "{answer:?}");
    }
    let good = served.clients.client("front-proxy");
    let (status, body) = served
        .ask(Some(good), STATUS, &header)
        .await
        .expect("an answer");
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn a_request_that_does_not_say_who_asks_is_not_answered() {
    let served = served(false).await;
    for path in [
        STATUS,
        "/apis",
        "/apis/api.warren.dev/v1alpha1",
        "/anything",
        "/",
    ] {
        let certificate = served.clients.client("front-proxy");
        // What a client sends itself is not what the API server says.
        let headers = [("authorization", "Bearer x"), ("x-forwarded-user", "root")];
        let (status, body) = served
            .ask(Some(certificate), path, &headers)
            .await
            .expect("an answer");
        assert_eq!(status, 401, "{path}: {body}");
        assert!(body.contains("\"kind\":\"Status\""), "{body}");
    }
    assert!(
        served
            .mesh
            .refused
            .lock()
            .expect("not poisoned")
            .iter()
            .all(|label| *label == "nobody")
    );
}

#[tokio::test]
async fn a_user_is_told_what_the_user_may_know() {
    let served = served(false).await;
    let (status, _) = served.ask_for("jane", FLOWS_OF_SHOP).await;
    assert_eq!(status, 200);
    for (user, path) in [
        ("jane", "/apis/api.warren.dev/v1alpha1/flows"),
        ("jane", "/apis/api.warren.dev/v1alpha1/namespaces/ops/flows"),
        (
            "jane",
            "/apis/api.warren.dev/v1alpha1/namespaces/shop/workloads",
        ),
        ("jane", STATUS),
        ("joe", FLOWS_OF_SHOP),
    ] {
        let (status, said) = served.ask_for(user, path).await;
        assert_eq!(status, 403, "{user} {path}");
        assert_eq!(said["reason"], "Forbidden");
    }
    // What there is to ask, everybody may know.
    let (status, said) = served.ask_for("joe", "/apis/api.warren.dev/v1alpha1").await;
    assert_eq!(status, 200);
    let flows = said["resources"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|one| one["name"] == "flows");
    assert_eq!(
        flows.expect("flows")["verbs"],
        serde_json::json!(["list", "watch"])
    );
}

#[tokio::test]
async fn whoever_cannot_be_authorised_is_not_answered() {
    let served = served(true).await;
    let (status, said) = served.ask_for("root", STATUS).await;
    assert_eq!(status, 503, "{said}");
    assert_eq!(
        *served.mesh.refused.lock().expect("not poisoned"),
        ["not-now"]
    );
}

#[tokio::test]
async fn the_scope_of_a_question_is_its_path_and_not_its_query() {
    let served = served(false).await;
    let path = format!("{FLOWS_OF_SHOP}?ns=ops&scope=ops&watch=true");
    let (status, said) = served.ask_for("jane", &path).await;
    assert_eq!(status, 400, "{said}");
    let path = format!("{FLOWS_OF_SHOP}?ns=ops&watch=true&last=3");
    let (status, _) = served.ask_for("jane", &path).await;
    assert_eq!(status, 200);
    let asked = served.mesh.asked.lock().expect("not poisoned");
    let query = asked.last().expect("a query");
    assert_eq!(query.scope.as_deref(), Some("shop"));
    assert_eq!((query.last, query.follow), (Some(3), true));
}

#[tokio::test]
async fn mistakes_are_said_in_the_words_of_kubernetes() {
    let served = served(false).await;
    let check = async |user, path: &str, status, expected: &str| {
        let (got, said) = served.ask_for(user, path).await;
        assert_eq!(got, status, "{path}: {said}");
        let message = said["message"].as_str().unwrap_or_default();
        assert!(message.contains(expected), "{path}: {said}");
        assert_eq!(said["code"], status);
    };
    check(
        "jane",
        &format!("{FLOWS_OF_SHOP}?verdct=denied"),
        400,
        "did you mean verdict?",
    )
    .await;
    let explain = "/apis/api.warren.dev/v1alpha1/namespaces/shop/explain";
    check("jane", explain, 400, "source=WORKLOAD").await;
    check(
        "jane",
        &format!("{explain}?source=a&destination=b"),
        400,
        "a is not known",
    )
    .await;
    check(
        "root",
        &format!("{STATUS}?watch=true"),
        400,
        "cannot be watched",
    )
    .await;
    check(
        "root",
        "/apis/api.warren.dev/v1alpha1/flwos",
        404,
        "does not know",
    )
    .await;
    check(
        "root",
        "/apis/api.warren.dev/v2/status",
        404,
        "same version",
    )
    .await;
    // To the API server, a namespace's "status" is a part of the Namespace object.
    let path = "/apis/api.warren.dev/v1alpha1/namespaces/shop";
    check("root", &format!("{path}/status"), 404, "does not know").await;
    let (status, _) = served.ask_for("root", &format!("{path}/summary")).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn questions_end_when_the_controller_does() {
    let served = served(false).await;
    served.stop.send(true).expect("somebody listens");
    let closed = async {
        loop {
            if TcpStream::connect(served.address).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), closed)
        .await
        .expect("it no longer listens");
}
