//! `warren-probe`: the applications of the stories, one mode each. See the module `probe` of this package.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use mesh_tests::probe::dial::{self, Ending, Way};
use mesh_tests::probe::forge::Forgery;
use mesh_tests::probe::hold;
use mesh_tests::probe::load::{self, Amount};
use mesh_tests::probe::pace;
use mesh_tests::probe::rate;
use mesh_tests::probe::serve::{self, Service};
use mesh_tests::probe::session;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[derive(Parser)]
#[command(name = "warren-probe", about = "The applications of the stories")]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Serve, one behaviour per port.
    Serve {
        /// PORT=BEHAVIOUR or ADDRESS:PORT=BEHAVIOUR.
        #[arg(required = true)]
        services: Vec<Service>,
        /// On SIGTERM close the listeners, finish what was accepted, and end.
        #[arg(long)]
        finish: bool,
    },
    /// Dial once, say something, read to the end.
    Dial {
        #[command(flatten)]
        target: Target,
        /// What to say.
        #[arg(long, default_value = "")]
        send: String,
    },
    /// Dial once, then do what standard input says.
    Session {
        #[command(flatten)]
        target: Target,
    },
    /// Dial many times.
    Load {
        #[command(flatten)]
        target: Target,
        /// What to say.
        #[arg(long, default_value = "hello")]
        send: String,
        /// Connections in all; 0 for as many as fit in the time.
        #[arg(long, default_value_t = 0)]
        connections: u64,
        /// At the same time.
        #[arg(long, default_value_t = 1)]
        parallel: usize,
        /// End each with a reset.
        #[arg(long)]
        reset: bool,
    },
    /// Load at a given pace, until the time is over or standard input says `stop`.
    Pace {
        #[command(flatten)]
        target: Target,
        /// Requests per second.
        #[arg(long)]
        requests: u32,
        /// Over so many connections.
        #[arg(long)]
        kept: u32,
        /// Each of which is made again after so many milliseconds.
        #[arg(long)]
        age: Option<u64>,
        /// New connections per second.
        #[arg(long)]
        connections: u32,
    },
    /// Ask at a fixed rate, and say what became of each request.
    Rate {
        #[command(flatten)]
        target: Target,
        /// What every request contains.
        #[arg(long, default_value = "hello")]
        send: String,
        /// Requests per second.
        #[arg(long)]
        rate: u32,
        /// Connections.
        #[arg(long)]
        connections: u32,
        /// Every request on a connection of its own.
        #[arg(long)]
        fresh: bool,
        /// How long an answer may take, in milliseconds.
        #[arg(long, default_value_t = 1_000)]
        patience: u64,
    },
    /// Open connections to an echo server, and hold them until standard input ends.
    Hold {
        #[command(flatten)]
        target: Target,
        /// How many.
        #[arg(long)]
        connections: u32,
    },
    /// Look a name up, as every program does; its IPv4 addresses, once each.
    Resolve {
        /// The name.
        name: String,
    },
    /// Send packets made by hand.
    Forge {
        /// The claimed source.
        #[arg(long)]
        source: SocketAddr,
        /// The destination.
        #[arg(long)]
        to: SocketAddr,
        /// UDP rather than TCP.
        #[arg(long)]
        udp: bool,
        /// What they carry.
        #[arg(long)]
        payload: String,
        /// Through a packet socket on this interface, rather than a raw one.
        #[arg(long, requires = "hardware")]
        interface: Option<String>,
        /// Hardware address of the gateway, for a packet socket.
        #[arg(long)]
        hardware: Option<String>,
        /// How many.
        #[arg(long, default_value_t = 3)]
        count: u32,
    },
}

#[derive(Args)]
struct Target {
    /// Whom to dial.
    #[arg(long)]
    to: SocketAddr,
    /// How: plain, nonblocking, fast-open, fast-open-connect, mptcp, device=NAME, source=ADDRESS, io-uring, mark=NUMBER.
    #[arg(long, default_value = "plain")]
    way: Way,
    /// Patience with each step, in milliseconds; for `load` and `rate`, the time in all.
    #[arg(long, default_value_t = 5_000)]
    millis: u64,
}

impl Target {
    fn patience(&self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

#[expect(clippy::print_stdout, reason = "what a probe saw is its output")]
fn main() -> Result<()> {
    // Thousands of connections at a time, on either side.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit of descriptors")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raise the limit of descriptors")?;
    match Arguments::parse().mode {
        Mode::Serve { services, finish } => serve::serve(&services, finish),
        Mode::Dial { target, send } => {
            let report = dial::dial(
                target.to,
                &target.way,
                send.as_bytes(),
                Ending::Finish,
                target.patience(),
            );
            println!("{}", serde_json::to_string(&report)?);
            Ok(())
        }
        Mode::Session { target } => session::run(target.to, &target.way, target.patience()),
        Mode::Load {
            target,
            send,
            connections,
            parallel,
            reset,
        } => {
            let amount = Amount {
                connections,
                parallel,
                within: target.patience(),
            };
            let ending = if reset { Ending::Reset } else { Ending::Finish };
            let count = load::run(target.to, &target.way, &send, ending, amount);
            println!("{}", serde_json::to_string(&count)?);
            Ok(())
        }
        Mode::Pace {
            target,
            requests,
            kept,
            age,
            connections,
        } => {
            let plan = pace::Plan {
                requests,
                kept,
                age: age.map(Duration::from_millis),
                connections,
                time: target.patience(),
            };
            std::thread::spawn(stop_when_told);
            let paced = pace::run(target.to, plan, &STOP);
            println!("{}", serde_json::to_string(&paced)?);
            Ok(())
        }
        Mode::Rate {
            target,
            send,
            rate,
            connections,
            fresh,
            patience,
        } => {
            rate::run(&rate::Plan {
                to: target.to,
                rate,
                connections,
                time: target.patience(),
                patience: Duration::from_millis(patience),
                fresh,
                text: send,
            });
            Ok(())
        }
        Mode::Hold {
            target,
            connections,
        } => hold::run(target.to, connections, target.patience()),
        Mode::Resolve { name } => {
            let found: BTreeSet<_> = (name.as_str(), 0)
                .to_socket_addrs()
                .with_context(|| format!("look {name} up"))?
                .map(|address| address.ip())
                .filter(IpAddr::is_ipv4)
                .collect();
            println!("{}", serde_json::to_string(&found)?);
            Ok(())
        }
        Mode::Forge {
            source,
            to,
            udp,
            payload,
            interface,
            hardware,
            count,
        } => {
            let forgery = Forgery {
                source,
                destination: to,
                udp,
                payload: payload.into_bytes(),
            };
            let hardware = hardware.as_deref().map(hardware_address).transpose()?;
            for _ in 0..count {
                match (&interface, hardware) {
                    (Some(interface), Some(hardware)) => forgery.send_on(interface, hardware)?,
                    _ => forgery.send_raw()?,
                };
            }
            Ok(())
        }
    }
}

/// Set by the word `stop` on standard input.
static STOP: AtomicBool = AtomicBool::new(false);

fn stop_when_told() {
    let told = std::io::stdin()
        .lines()
        .map_while(Result::ok)
        .any(|line| line == "stop");
    STOP.store(told, Ordering::Relaxed);
}

fn hardware_address(text: &str) -> Result<[u8; 6]> {
    let mut bytes = [0; 6];
    for (byte, digits) in bytes.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(digits, 16)
            .with_context(|| format!("{text:?} is no hardware address"))?;
    }
    Ok(bytes)
}
