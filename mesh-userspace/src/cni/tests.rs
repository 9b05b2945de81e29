//! The plugin as a runtime calls it, but for the process around it, with an agent of a few lines.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::JoinHandle;

use serde_json::{Value, json};

use super::answer::{Code, Failure};
use super::namespaces::{Entry, Namespaces};
use super::request::{Environment, Request};
use super::*;

/// A result as the ptp plugin gives it; the odd spacing must come through.
const RESULT: &str = r#"{"cniVersion" : "0.4.0","ips":[{"version":"4","address":"10.244.1.7/24","gateway":"10.244.1.1"}], "dns":{} }"#;

fn environment(command: &str) -> Environment {
    Environment {
        command: command.to_owned(),
        container_id: "abc".to_owned(),
        netns: "/var/run/netns/cni-1".to_owned(),
        interface: "eth0".to_owned(),
        arguments: "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u-1"
            .to_owned(),
    }
}

fn configuration(folder: &Path, result: &str) -> String {
    let folder = folder.display();
    format!(
        r#"{{"cniVersion":"0.4.0","name":"podnet","type":"warren-cni","runDir":"{folder}","prevResult":{result}}}"#
    )
}

fn call(environment: Environment, configuration: &str) -> Result<String, Failure> {
    let mut version = wire::NEWEST.to_owned();
    let request = Request::parse(environment, configuration.as_bytes(), &mut version)?;
    answer(&request)
}

/// An agent that answers one request after the other, each with a status and a body; gives what it was asked.
fn agent(folder: &Path, answers: Vec<(u16, Value)>) -> JoinHandle<Vec<(String, Value)>> {
    let listener = UnixListener::bind(folder.join(crate::api::SOCKET_NAME)).expect("bound");
    std::thread::spawn(move || {
        let mut asked = Vec::new();
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().expect("a request");
            let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).expect("a line");
                if line.trim().is_empty() {
                    break;
                }
                head.push(line.trim().to_owned());
            }
            let length = head
                .iter()
                .find_map(|line| line.strip_prefix("content-length: "))
                .expect("a length");
            let mut question = vec![0; length.parse().expect("a number")];
            reader.read_exact(&mut question).expect("a body");
            let path = head[0].split(' ').nth(1).expect("a path").to_owned();
            asked.push((path, serde_json::from_slice(&question).expect("JSON")));
            let body = body.to_string();
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}"
            )
            .expect("written");
        }
        asked
    })
}

fn meshed(folder: &Path, entry: Entry) {
    Namespaces::new([("shop".to_owned(), entry)])
        .write(folder)
        .expect("written");
}

const MESHED: Entry = Entry {
    meshed: true,
    pods_opt_in: false,
};

#[test]
fn an_enforced_pod_is_passed_on_as_it_came() {
    let folder = tempfile::tempdir().expect("a folder");
    meshed(folder.path(), MESHED);
    let agent = agent(folder.path(), vec![(200, json!({"outcome": "enforced"}))]);
    let said = call(environment("ADD"), &configuration(folder.path(), RESULT)).expect("enforced");
    assert_eq!(said, RESULT);
    let asked = agent.join().expect("asked");
    let expected = json!({
        "containerId": "abc",
        "namespace": "shop",
        "name": "web-0",
        "uid": "u-1",
        "netns": "/var/run/netns/cni-1",
        "interface": "eth0",
        "addresses": ["10.244.1.7"],
    });
    assert_eq!(asked, [(wire::ADD.to_owned(), expected)]);
}

#[test]
fn what_the_agent_refuses_is_tried_again_later_wherever_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    for _ in 0..2 {
        let refusal = json!({"message": "its certificate is not there yet"});
        let agent = agent(folder.path(), vec![(503, refusal)]);
        let failure = call(environment("ADD"), &configuration(folder.path(), RESULT));
        let failure = failure.expect_err("refused");
        assert_eq!(failure.code, Code::Later);
        let told: Value = serde_json::from_str(&answer::error("0.4.0", &failure)).expect("JSON");
        assert_eq!(told["cniVersion"], "0.4.0");
        assert_eq!(told["code"], 11);
        assert!(
            told["details"]
                .as_str()
                .expect("text")
                .contains("certificate"),
            "{told}"
        );
        agent.join().expect("asked");
        fs::remove_file(folder.path().join(crate::api::SOCKET_NAME)).expect("removed");
        meshed(folder.path(), MESHED);
    }
}

#[test]
fn without_an_agent_only_pods_outside_the_mesh_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = configuration(folder.path(), RESULT);
    // No agent was ever here.
    assert_eq!(call(environment("ADD"), &text), Ok(RESULT.to_owned()));
    meshed(folder.path(), Entry::default());
    assert_eq!(call(environment("ADD"), &text), Ok(RESULT.to_owned()));
    let opt_in = Entry {
        meshed: false,
        pods_opt_in: true,
    };
    for entry in [MESHED, opt_in] {
        meshed(folder.path(), entry);
        let begun = Instant::now();
        let failure = call(environment("ADD"), &text).expect_err("it waits");
        assert_eq!(failure.code, Code::Later);
        assert!(begun.elapsed() >= RESTART, "a restart is waited for");
        // A pod can always go.
        assert_eq!(call(environment("DEL"), &text), Ok(String::new()));
        assert_eq!(call(environment("CHECK"), &text), Ok(String::new()));
        assert_eq!(call(environment("STATUS"), &text), Ok(String::new()));
    }
    fs::write(folder.path().join(namespaces::FILE), "{").expect("written");
    let failure = call(environment("ADD"), &text).expect_err("what is damaged says nothing");
    assert_eq!(failure.code, Code::Later);
}

#[test]
fn an_agent_that_comes_back_is_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    meshed(folder.path(), MESHED);
    let path = folder.path().to_owned();
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        agent(&path, vec![(200, json!({"outcome": "enforced"}))]).join()
    });
    let text = configuration(folder.path(), RESULT);
    assert_eq!(call(environment("ADD"), &text), Ok(RESULT.to_owned()));
    later.join().expect("ended").expect("asked");
}

#[test]
fn an_agent_that_hangs_holds_up_no_pod_outside_the_mesh() {
    let folder = tempfile::tempdir().expect("a folder");
    let _hangs = UnixListener::bind(folder.path().join(crate::api::SOCKET_NAME)).expect("bound");
    let begun = Instant::now();
    let text = configuration(folder.path(), RESULT);
    assert_eq!(call(environment("ADD"), &text), Ok(RESULT.to_owned()));
    assert!(begun.elapsed() < ELSEWHERE_WITHIN * 2);
}

#[test]
fn the_state_directory_speaks_where_the_run_directory_is_empty() {
    let (run, state) = (
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    meshed(state.path(), MESHED);
    let places = [run.path().to_owned(), state.path().to_owned()];
    assert_eq!(namespaces::look_up(&places, "shop"), Membership::Meshed);
    assert_eq!(namespaces::look_up(&places, "other"), Membership::Outside);
    Namespaces::default().write(run.path()).expect("written");
    // A form that nobody wrote: version 0.
    assert!(matches!(
        namespaces::look_up(&places, "shop"),
        Membership::Unknown(_)
    ));
    Namespaces::new([]).write(run.path()).expect("written");
    assert_eq!(namespaces::look_up(&places, "shop"), Membership::Outside);
}

#[test]
fn whoever_is_not_kubernetes_is_passed_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let environment = Environment {
        arguments: "IgnoreUnknown=1".to_owned(),
        ..environment("ADD")
    };
    let text = configuration(folder.path(), RESULT);
    assert_eq!(call(environment, &text), Ok(RESULT.to_owned()));
}

#[test]
fn mistakes_have_the_codes_of_the_specification() {
    let check = |environment: Environment, text: &str, code: Code| {
        let failure = call(environment, text).expect_err("a mistake");
        assert_eq!(failure.code, code, "{failure:?}");
    };
    let text =
        |version: &str| format!(r#"{{"cniVersion":"{version}","name":"n","type":"warren-cni"}}"#);
    check(environment("FROB"), &text("1.0.0"), Code::Environment);
    check(environment("ADD"), "{", Code::Undecodable);
    check(environment("ADD"), &text("0.2.0"), Code::Version);
    check(environment("ADD"), &text("1.0.0"), Code::Configuration);
    let nobody = Environment {
        container_id: String::new(),
        ..environment("DEL")
    };
    check(nobody, &text("1.1.0"), Code::Environment);
}

#[test]
fn versions_are_told_with_and_without_a_configuration() {
    for (text, version) in [
        ("", "1.1.0"),
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion":"9.0.0"}"#, "1.1.0"),
    ] {
        let said = call(environment("VERSION"), text).expect("told");
        let said: Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(said["cniVersion"], version);
        assert_eq!(
            said["supportedVersions"].as_array().expect("a list").len(),
            5
        );
    }
}
