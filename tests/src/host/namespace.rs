//! Network namespaces with a name, so that `ip -n NAME` and the product's configuration can point at them.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use super::command::{run, run_with_input};

/// Where `ip netns` keeps names.
pub const FOLDER: &str = "/run/netns";

/// A network namespace; deleted when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, with its loopback interface up and without waiting for duplicate addresses.
    pub fn create(name: &str) -> Result<Self> {
        run("ip", &["netns", "add", name])?;
        let namespace = Self {
            name: name.to_owned(),
        };
        namespace.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        namespace.sysctl("net/ipv6/conf/all/accept_dad", "0")?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that keeps it alive, for configuration and `setns`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(FOLDER).join(&self.name)
    }

    /// Runs commands of `ip`, one per line, inside.
    pub fn ip(&self, commands: &str) -> Result<()> {
        run_with_input("ip", &["-n", &self.name, "-batch", "-"], commands).map(drop)
    }

    /// What a command of `ip` prints inside.
    pub fn ip_output(&self, arguments: &[&str]) -> Result<String> {
        run("ip", &[&["-n", self.name.as_str()], arguments].concat())
    }

    /// Sets a kernel setting inside.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{name}");
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("write {value} to {path} in {}", self.name))
    }

    /// Does something on a thread inside. The thread ends with it, so nothing else is moved.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.path();
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&file, CloneFlags::CLONE_NEWNET)
                        .with_context(|| format!("enter {}", path.display()))?;
                    Ok(action())
                })
                .join()
                .map_err(|_panic| anyhow!("a thread inside {} panicked", self.name))?
        })
    }

    /// Whether a server on this port inside, when told something, begins its answer as expected.
    pub fn says(&self, port: u16, question: &[u8], answer: &[u8]) -> Result<bool> {
        let to = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, port));
        self.enter(|| says(to, question, answer))?
            .with_context(|| format!("ask {to} in {}", self.name))
    }

    /// One HTTP request from inside; gives status code and body.
    pub fn http_get(&self, to: SocketAddr, path: &str) -> Result<(u16, String)> {
        self.enter(|| http_get(to, path))?
            .with_context(|| format!("GET http://{to}{path}"))
    }
}

/// Whether a server, when told something, begins its answer as expected.
fn says(to: SocketAddr, question: &[u8], answer: &[u8]) -> std::io::Result<bool> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(question)?;
    let mut begin = vec![0; answer.len()];
    stream.read_exact(&mut begin)?;
    Ok(begin == answer)
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run("ip", &["netns", "delete", &self.name]) {
            eprintln!("{error:#}");
        }
    }
}

/// One HTTP request; gives status code and body.
pub(crate) fn http_get(to: SocketAddr, path: &str) -> Result<(u16, String)> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| anyhow!("not an HTTP answer: {answer:?}"))?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| anyhow!("no status code: {head:?}"))?;
    Ok((status, body.to_owned()))
}
