//! Applications: processes of their own, in a pod's namespace and in a cgroup of their choice. This very test binary,
//! started with a command in its environment.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const COMMAND: &str = "WK_APPLICATION";
const CGROUP: &str = "WK_APPLICATION_CGROUP";
/// What an application says begins with this, so that the test harness's own words are told apart.
const MARK: &str = "application: ";

/// A running application; killed when dropped.
pub(crate) struct Application {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Application {
    /// Starts an application in the calling thread's namespaces.
    pub(crate) fn start(cgroup: &std::path::Path, command: &str) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["application::application", "--exact", "--nocapture"])
            .env(COMMAND, command)
            .env(CGROUP, cgroup.join("cgroup.procs"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { child, lines })
    }

    /// The next thing that it says.
    pub(crate) fn says(&mut self) -> Result<String> {
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line)? == 0 {
                bail!("the application ended");
            }
            // The harness prints `test … ` without a line end before the first one.
            if let Some((_, said)) = line.trim_end().split_once(MARK) {
                return Ok(said.to_owned());
            }
        }
    }

    /// Tells it to go on: to end, mostly.
    pub(crate) fn go_on(&mut self) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("no standard input")?;
        stdin.write_all(b"\n")?;
        Ok(stdin.flush()?)
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

#[expect(clippy::print_stdout, reason = "that is how an application speaks")]
fn say(text: &str) {
    println!("{MARK}{text}");
}

fn wait_for_a_line() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("a line");
}

/// Not a test of its own: what an application process does.
#[test]
fn application() {
    let Ok(command) = std::env::var(COMMAND) else {
        return;
    };
    let cgroup = std::env::var(CGROUP).expect("a cgroup");
    std::fs::write(cgroup, "0").expect("join the cgroup");
    let words: Vec<&str> = command.split(' ').collect();
    match words.as_slice() {
        ["dial", address] => dial(address.parse().expect("an address")),
        ["serve", address] => serve(address.parse().expect("an address")),
        ["keep", address] => keep(address.parse().expect("an address")),
        ["loop", address] => dial_in_a_loop(address.parse().expect("an address")),
        ["spoof", source, destination] => spoof(
            source.parse().expect("an address"),
            destination.parse().expect("an address"),
        ),
        other => panic!("unknown command {other:?}"),
    }
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

/// Dials once: says its own address and its peer's, then what it gets.
fn dial(address: SocketAddr) {
    let begun = Instant::now();
    match connect(address) {
        Ok(mut stream) => {
            say(&format!(
                "connected {} {}",
                stream.local_addr().expect("own address"),
                stream.peer_addr().expect("peer's address")
            ));
            let mut answer = String::new();
            match stream.read_to_string(&mut answer) {
                Ok(_) => say(&format!("got {answer}")),
                Err(error) => say(&format!("failed {:?}", error.kind())),
            }
        }
        Err(error) => say(&format!("failed {:?} {:?}", error.kind(), begun.elapsed())),
    }
}

/// Accepts for ever: tells every client who it is.
fn serve(address: SocketAddr) {
    let listener = TcpListener::bind(address).expect("listen");
    say("ready");
    loop {
        let (mut stream, peer) = listener.accept().expect("a client");
        // A client that went away already is its own business.
        let _sent = stream.write_all(peer.ip().to_canonical().to_string().as_bytes());
        std::thread::spawn(move || {
            let mut rest = [0; 64];
            while let Ok(1..) = stream.read(&mut rest) {
                let _sent = stream.write_all(b"echo");
            }
        });
    }
}

/// Dials, then sends a byte and waits for an answer each time it is told to go on.
fn keep(address: SocketAddr) {
    let mut stream = connect(address).expect("connect");
    let mut buffer = [0; 64];
    let _greeting = stream.read(&mut buffer).expect("a greeting");
    say("connected");
    loop {
        wait_for_a_line();
        let answer = stream
            .write_all(b"x")
            .and_then(|()| stream.read(&mut buffer));
        match answer {
            Ok(1..) => say("alive"),
            other => say(&format!("dead {other:?}")),
        }
    }
}

/// Dials again and again until told to go on; says how often it worked, how often not.
fn dial_in_a_loop(address: SocketAddr) {
    let stop = std::thread::spawn(wait_for_a_line);
    let (mut good, mut bad) = (0, 0);
    say("started");
    while !stop.is_finished() {
        let mut answer = [0; 64];
        match connect(address).and_then(|mut stream| stream.read(&mut answer)) {
            Ok(1..) => good += 1,
            _ => bad += 1,
        }
    }
    say(&format!("{good} {bad}"));
}

/// Sends one TCP SYN from an address that is not ours, by a raw socket.
fn spoof(source: std::net::Ipv4Addr, destination: std::net::SocketAddrV4) {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).expect("a socket");
    let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.ip().octets());
    packet.extend(4444_u16.to_be_bytes());
    packet.extend(destination.port().to_be_bytes());
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 4, 0, 0, 0, 0, 0]);
    socket
        .send_to(&packet, &SocketAddr::from(destination).into())
        .expect("send");
    say("sent");
}
