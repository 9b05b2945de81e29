//! The cluster's DNS. CoreDNS is in no package of Debian's, so what stories need of it is here: names of services, and of
//! pods behind headless ones. It serves where the control plane is; the service `kube-dns` leads there, as elsewhere.

mod message;
mod names;

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use super::layout::{API_SERVER, DNS_SERVICE, pki_folder};
use message::Question;
use names::{Kind, Names};

/// Between two attempts to follow the API server.
const PAUSE: Duration = Duration::from_millis(500);

/// What leads pods to it.
pub(super) fn manifest() -> String {
    let (service, server) = (DNS_SERVICE, API_SERVER.ip());
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: kube-dns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}
spec:
  clusterIP: {service}
  ports: [{{name: dns, port: 53, protocol: UDP}}]
---
apiVersion: v1
kind: Endpoints
metadata: {{name: kube-dns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}
subsets: [{{addresses: [{{ip: {server}}}], ports: [{{name: dns, port: 53, protocol: UDP}}]}}]
"
    )
}

/// Serves until the process ends.
pub fn serve() -> Result<()> {
    let address = SocketAddr::new(API_SERVER.ip(), 53);
    let socket = UdpSocket::bind(address).with_context(|| format!("listen on {address}"))?;
    let names = Mutex::new(Names::default());
    thread::scope(|scope| {
        for kind in [Kind::Services, Kind::Endpoints] {
            let names = &names;
            scope.spawn(move || {
                loop {
                    if let Err(error) = follow(kind, names) {
                        eprintln!("{error:#}");
                    }
                    thread::sleep(PAUSE);
                }
            });
        }
        answer(&socket, &names)
    })
}

fn answer(socket: &UdpSocket, names: &Mutex<Names>) -> Result<()> {
    let mut buffer = [0; 1_500];
    loop {
        let (length, client) = socket
            .recv_from(&mut buffer)
            .context("receive a question")?;
        let Some(question) = Question::read(&buffer[..length]) else {
            continue;
        };
        let found = {
            let names = names.lock().unwrap_or_else(PoisonError::into_inner);
            names.find(&question.name)
        };
        // A client that is gone by now asks again, if it still wants to know.
        if let Err(error) = socket.send_to(&question.answer(found.as_deref()), client) {
            eprintln!("answer {client}: {error}");
        }
    }
}

/// Follows all objects of a kind, for as long as the API server lets us.
fn follow(kind: Kind, names: &Mutex<Names>) -> Result<()> {
    let pki = pki_folder();
    let mut child = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--no-buffer"])
        .args(papers(&pki))
        .arg(format!(
            "https://{API_SERVER}/api/v1/{}?watch=true",
            kind.path()
        ))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start curl")?;
    let output = child
        .stdout
        .take()
        .ok_or_else(|| anyhow!("curl has no output"))?;
    // It begins with everything there is.
    names
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clear(kind);
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        let event = serde_json::from_str(&line).with_context(|| format!("read {line:?}"))?;
        names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .note(kind, &event);
    }
    let status = child.wait().context("wait for curl")?;
    eprintln!("following {} ended: {status}", kind.path());
    Ok(())
}

fn papers(pki: &Path) -> [String; 6] {
    let file = |name: &str| pki.join(name).display().to_string();
    [
        "--cacert".to_owned(),
        file("ca.crt"),
        "--cert".to_owned(),
        file("admin.crt"),
        "--key".to_owned(),
        file("admin.key"),
    ]
}
