use std::time::Duration;

use super::*;
use crate::agent::flows;
use crate::api::client::{Client, ClientError};
use crate::api::objects::FlowQuery;

/// A node that knows flows only.
struct Fake(flows::Flows);

impl Node for Fake {
    async fn refresh(&self) {}
    fn status(&self) -> Status {
        unreachable!("not asked")
    }
    fn workloads(&self) -> Vec<Workload> {
        Vec::new()
    }
    fn services(&self) -> Vec<Service> {
        Vec::new()
    }
    fn routes(&self) -> Vec<Route> {
        Vec::new()
    }
    fn policies(&self) -> Vec<Policy> {
        Vec::new()
    }
    fn certificates(&self) -> Vec<Certificate> {
        Vec::new()
    }
    fn checks(&self) -> Checks {
        unreachable!("not asked")
    }
    fn flows(&self, query: &FlowQuery) -> (Vec<Arc<Flow>>, broadcast::Receiver<Arc<Flow>>) {
        self.0.read(query)
    }
    fn explain(&self, source: &str, destination: &str) -> Result<Explanation, Problem> {
        Err(Problem::new(format!(
            "{source} and {destination} are not known"
        )))
    }
    async fn open(&self, _: Duration) -> Result<(), Problem> {
        Ok(())
    }

    async fn uninstall(&self) -> Result<Vec<String>, Problem> {
        Ok(vec!["gone".to_owned()])
    }
    async fn add_pod(&self, pod: PodRequest) -> Result<PodAnswer, Problem> {
        match pod.namespace.as_str() {
            "shop" => Ok(PodAnswer::Enforced),
            _ => Err(Problem::new("not yet")),
        }
    }
    async fn remove_pod(&self, _: PodRequest) -> Result<(), Problem> {
        Ok(())
    }
    async fn check_pod(&self, _: PodRequest) -> Result<PodAnswer, Problem> {
        let why = "of no namespace in the mesh".to_owned();
        Ok(PodAnswer::NotMeshed { why })
    }
    async fn announced(&self) {
        std::future::pending().await
    }
    async fn hand_over(&self) -> Result<(), Problem> {
        Ok(())
    }
}

/// A served node and a client of it.
async fn pair() -> (Arc<Fake>, Client, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("node.sock");
    let listener = listen(&path).expect("a socket");
    let mode = std::fs::metadata(&path)
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let node = Arc::new(Fake(flows::Flows::new("a")));
    tokio::spawn(serve(listener, Arc::clone(&node)));
    (node, Client::of_node(&path, Duration::from_secs(5)), folder)
}

#[tokio::test]
async fn flows_of_the_past_and_those_to_come_arrive_as_lines() {
    let (node, client, _folder) = pair().await;
    node.0.add(crate::api::tests::full_record());
    let query = FlowQuery {
        follow: true,
        ..FlowQuery::default()
    };
    let mut lines = client.flows(&query, None).await.expect("a stream");
    let first: Flow = serde_json::from_slice(&lines.next().await.expect("a line").expect("a line"))
        .expect("a flow");
    assert_eq!(first.id, crate::api::tests::full_record().id);
    node.0.add(crate::api::tests::bare_record());
    let next: Flow = serde_json::from_slice(&lines.next().await.expect("a line").expect("a line"))
        .expect("a flow");
    assert_eq!(next.id, crate::api::tests::bare_record().id);
}

#[tokio::test]
async fn a_stream_without_follow_ends() {
    let (node, client, _folder) = pair().await;
    node.0.add(crate::api::tests::full_record());
    let mut lines = client
        .flows(&FlowQuery::default(), None)
        .await
        .expect("a stream");
    assert!(lines.next().await.expect("a line").is_some());
    assert!(lines.next().await.expect("the end").is_none());
}

#[tokio::test]
async fn questions_and_refusals_arrive() {
    let (_node, client, _folder) = pair().await;
    let list: List<Workload> = client.get("workloads", None).await.expect("a list");
    assert_eq!(list.kind, "WorkloadList");
    client.post::<()>("open").await.expect("open");
    let done: Vec<String> = client.post("uninstall").await.expect("done");
    assert_eq!(done, ["gone"]);
    let error = client
        .get::<Explanation>("explain?source=a%20b&destination=c", None)
        .await
        .expect_err("refused");
    assert_eq!(error.to_string(), "a b and c are not known");
    let error = client
        .get::<Status>("something", None)
        .await
        .expect_err("refused");
    assert!(error.to_string().contains("different versions"), "{error}");
}

#[tokio::test]
async fn no_agent_is_told_apart_from_a_slow_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("none.sock");
    let client = Client::of_node(&path, Duration::from_millis(50));
    let error = client
        .get::<Status>("status", None)
        .await
        .expect_err("nobody");
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    // Accepts by way of the backlog, and never answers.
    let _listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    let error = client
        .get::<Status>("status", None)
        .await
        .expect_err("no answer");
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn runtimes_are_answered_as_the_plugin_reads_it() {
    use crate::cni::agent::{Unanswered, ask};
    let (_node, _client, folder) = pair().await;
    let socket = folder.path().join("node.sock");
    let pod = |namespace: &str| PodRequest {
        container_id: "a".to_owned(),
        namespace: namespace.to_owned(),
        name: "web-0".to_owned(),
        uid: String::new(),
        netns: "/run/netns/a".into(),
        interface: "eth0".to_owned(),
        addresses: Vec::new(),
    };
    let patience = Duration::from_secs(5);
    let asked = tokio::task::spawn_blocking(move || {
        let enforced = ask::<PodAnswer>(&socket, wire::ADD, &pod("shop"), patience);
        assert_eq!(enforced.expect("answered"), PodAnswer::Enforced);
        let refused = ask::<PodAnswer>(&socket, wire::ADD, &pod("other"), patience);
        let refused = refused.expect_err("refused");
        assert!(
            matches!(&refused, Unanswered::Refused(why) if why == "not yet"),
            "{refused}"
        );
        let checked = ask::<PodAnswer>(&socket, wire::CHECK, &pod("shop"), patience);
        assert!(matches!(checked, Ok(PodAnswer::NotMeshed { .. })));
        ask::<()>(&socket, wire::DELETE, &pod("shop"), patience).expect("done");
        ask::<()>(&socket, HAND_OVER, &(), patience).expect("done");
        // What the controller can ask for through the agent is less.
        let missing = ask::<()>(&socket, "/v1/cni/frob", &(), patience);
        assert!(matches!(missing, Err(Unanswered::Silent(_))));
    });
    asked.await.expect("asked");
}
