//! Questions to nodes and their answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use mesh_distribution::node::Connect;
use mesh_distribution::question::{Answer, Answers, AskError, Broken, Question};
use mesh_distribution::relay::Fleet;
use mesh_distribution::server::Peer;

use crate::support::wire::Wire;
use crate::support::*;

fn answering(answers: impl Answers) -> NodeOptions {
    NodeOptions {
        answers: Arc::new(answers),
        ..NodeOptions::default()
    }
}

/// Counts how many of them are alive.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Answers with a line every few milliseconds, for ever, or with silence.
fn endless(alive: &Arc<AtomicUsize>) -> NodeOptions {
    let alive = alive.clone();
    answering(move |question: Question| {
        let alive = Alive::new(&alive);
        async move {
            if question.path == "/silent" {
                std::future::pending::<()>().await;
            }
            let wait = if question.path == "/quiet" {
                3600 * 1000
            } else {
                2
            };
            let body = stream::unfold((alive, 0), move |(alive, number)| async move {
                if number > 0 {
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
                let line = Ok(Bytes::from(format!("{number}\n")));
                Some((line, (alive, number + 1)))
            });
            Answer {
                status: 200,
                content_type: "application/x-ndjson".to_owned(),
                body: body.boxed(),
            }
        }
    })
}

#[tokio::test]
async fn many_nodes_answer_at_once() {
    let pki = Pki::new();
    let controller = Controller::start(&pki, hub([])).await;
    let names: Vec<String> = (0..8).map(|number| format!("n{number}")).collect();
    let nodes: Vec<_> = names
        .iter()
        .map(|name| {
            let own = name.clone();
            let answers = move |question: Question| {
                let said = format!("{own} {} {}", question.method, question.path);
                async move { Answer::whole(201, "text/plain", said.repeat(50_000)) }
            };
            node(&pki, name, controller.address, answering(answers))
        })
        .collect();
    controller.wait_for_nodes(nodes.len()).await;
    let asked = names.iter().flat_map(|name| {
        let hub = &controller.hub;
        (0..4).map(move |number| {
            let hub = hub.clone();
            async move {
                let question = Question::get(format!("/v1/flows?number={number}"));
                let answer = hub.ask(name, question).await.expect("an answer");
                assert_eq!(answer.status, 201);
                assert_eq!(answer.content_type, "text/plain");
                let body = answer.bytes(8 << 20).await.expect("all of it");
                let said = format!("{name} GET /v1/flows?number={number}");
                assert_eq!(body.len(), said.len() * 50_000);
                assert!(body.starts_with(said.as_bytes()));
            }
        })
    });
    join_all(asked).await;
    eventually("no question is left", || {
        controller.hub.counts().questions == 0
    })
    .await;
}

#[tokio::test]
async fn a_node_stops_when_nobody_wants_its_answer_any_more() {
    let pki = Pki::new();
    let controller = Controller::start(&pki, hub([])).await;
    let alive = Arc::new(AtomicUsize::new(0));
    let _n1 = node(&pki, "n1", controller.address, endless(&alive));
    controller.wait_for_nodes(1).await;
    let ask = |path: &str| controller.hub.ask("n1", Question::get(path));
    let is = |count: usize| {
        let alive = alive.clone();
        move || alive.load(Ordering::SeqCst) == count
    };

    // In the middle of an answer that goes on.
    let mut answer = ask("/flows").await.expect("an answer");
    for number in 0..20 {
        let line = answer
            .body
            .next()
            .await
            .expect("it goes on")
            .expect("a line");
        assert_eq!(line, Bytes::from(format!("{number}\n")));
    }
    assert!(is(1)());
    drop(answer);
    eventually("the node has stopped", is(0)).await;

    // While nothing is to be said.
    let answer = ask("/quiet").await.expect("an answer");
    eventually("the node answers", is(1)).await;
    drop(answer);
    eventually("the node has stopped", is(0)).await;

    // Before the answer has begun.
    let asked = ask("/silent");
    tokio::select! {
        answer = asked => panic!("{answer:?}"),
        () = eventually("the node has got the question", is(1)) => {}
    }
    eventually("the node has stopped", is(0)).await;
    eventually("no question is left", || {
        controller.hub.counts().questions == 0
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_nobody_reads_holds_up_nothing() {
    let pki = Pki::new();
    let hub = hub([workload("shop", "web", "n1")]);
    let controller = Controller::start(&pki, hub.clone()).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let answers = move |question: Question| {
        let counted = counted.clone();
        async move {
            if question.path == "/small" {
                return Answer::whole(200, "", "small");
            }
            let chunk = Bytes::from(vec![b'x'; 64 << 10]);
            let body = stream::repeat_with(move || {
                counted.fetch_add(chunk.len(), Ordering::SeqCst);
                Ok(chunk.clone())
            });
            Answer {
                status: 200,
                content_type: String::new(),
                body: body.boxed(),
            }
        }
    };
    let n1 = node(&pki, "n1", controller.address, answering(answers));
    controller.wait_for_nodes(1).await;
    let mut unread = Vec::new();
    for _ in 0..30 {
        let answer = hub.ask("n1", Question::get("/large")).await;
        unread.push(answer.expect("an answer"));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let made = sent.load(Ordering::SeqCst);
    assert!(made < 30 << 20, "{made} bytes were made for nobody");

    hub.publish(set([workload("shop", "web-2", "n1")]));
    known(&n1, "changes come through", |known| known.facts.len() == 3).await;
    controller.wait_until_told().await;
    let small = hub
        .ask("n1", Question::get("/small"))
        .await
        .expect("an answer");
    assert_eq!(small.bytes(100).await.expect("all of it"), b"small");
    drop(unread);
    eventually("no question is left", || hub.counts().questions == 0).await;
}

#[tokio::test]
async fn failures_are_said() {
    let pki = Pki::new();
    let controller = Controller::start(&pki, hub([])).await;
    let wire = Wire::to(controller.address).await;
    let answers = |question: Question| async move {
        if question.path == "/silent" {
            std::future::pending::<()>().await;
        }
        let body = stream::iter([
            Ok(Bytes::from("begun")),
            Err(Broken("the disk is gone".to_owned())),
        ]);
        Answer {
            status: 200,
            content_type: String::new(),
            body: body.boxed(),
        }
    };
    let _n1 = node(&pki, "n1", wire.address, answering(answers));
    controller.wait_for_nodes(1).await;
    let ask = |node: &'static str, path: &str| controller.hub.ask(node, Question::get(path));

    let nobody = ask("n2", "/").await.expect_err("there is no n2");
    assert_eq!(nobody, AskError::NotConnected { node: "n2".into() });

    let broken = ask("n1", "/").await.expect("a head").bytes(100).await;
    let Broken(why) = broken.expect_err("it breaks off");
    assert_eq!(why, "the disk is gone");

    let hub = controller.hub.clone();
    let many = tokio::spawn(async move {
        let ask = |_| hub.ask("n1", Question::get("/silent"));
        join_all((0..32).map(ask)).await
    });
    eventually("32 questions wait", || {
        controller.hub.counts().questions == 32
    })
    .await;
    let busy = ask("n1", "/").await.expect_err("too many");
    assert!(matches!(busy, AskError::Busy { count: 32, .. }), "{busy}");

    wire.cut();
    for gone in many.await.expect("it ends") {
        let gone = gone.expect_err("the node went away");
        assert!(
            matches!(gone, AskError::Gone { .. } | AskError::Failed { .. }),
            "{gone}"
        );
    }
    controller.wait_for_nodes(0).await;
}

#[tokio::test]
async fn a_question_finds_its_node_through_another_replica() {
    let pki = Pki::new();
    let (here, there) = (hub([]), hub([]));
    let here = Controller::start(&pki, here).await;
    let there = Controller::start(&pki, there).await;
    let alive = Arc::new(AtomicUsize::new(0));
    let _n1 = node(&pki, "n1", here.address, NodeOptions::default());
    let _n2 = node(&pki, "n2", there.address, endless(&alive));
    here.wait_for_nodes(1).await;
    there.wait_for_nodes(1).await;
    let fleet = Fleet::new(here.hub.clone());
    let to_there: Arc<dyn Connect> = Arc::new(connect(there.address, pki.client(Peer::Controller)));
    fleet.set_replicas(vec![("there".to_owned(), to_there)]);

    let (nodes, problems) = fleet.nodes().await;
    assert_eq!(problems, Vec::<String>::new());
    let nodes: Vec<_> = nodes
        .into_iter()
        .map(|node| (node.name, node.replica))
        .collect();
    let expected = [
        ("n1".to_owned(), None),
        ("n2".to_owned(), Some("there".to_owned())),
    ];
    assert_eq!(nodes, expected);

    let own = fleet
        .ask("n1", Question::get("/own"))
        .await
        .expect("an answer");
    assert_eq!(own.bytes(100).await.expect("all of it"), b"/own");
    let mut other = fleet
        .ask("n2", Question::get("/flows"))
        .await
        .expect("an answer");
    for _ in 0..5 {
        other
            .body
            .next()
            .await
            .expect("it goes on")
            .expect("a line");
    }
    drop(other);
    eventually("the node of the other replica has stopped", || {
        alive.load(Ordering::SeqCst) == 0
    })
    .await;
    let nobody = fleet
        .ask("n3", Question::get("/"))
        .await
        .expect_err("no n3");
    assert!(matches!(nobody, AskError::NotConnected { .. }), "{nobody}");

    // A replica that is away costs its nodes, and nothing else.
    there.stop().await;
    let (nodes, problems) = fleet.nodes().await;
    assert_eq!(nodes.len(), 1);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("replica there"), "{problems:?}");
}
