//! What a tunnel costs: two proxy threads between a client thread and a server thread, over loopback, against a direct
//! connection in the same run. `cargo run --release -p mesh-proxy --example tunnel_bench [seconds]`, best pinned to one
//! core (`taskset -c 0`). Absolute figures belong to the machine; compare those of one run.

#![expect(clippy::print_stdout, reason = "it prints figures")]

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use mesh_core::addr::{AppAddr, ClientAddr, PeerAddr};
use mesh_core::identity::SpiffeId;
use mesh_core::workload::WorkloadId;
use mesh_identity::authority::Authority;
use mesh_proxy::tunnel::{
    Accepted, Dialler, Inbound, Limits, OpenRequest, Peer, Pool, Server, TunnelKey,
};
use mesh_proxy::wire::{Open, Refusal, RefusalCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

const REQUEST: usize = 100;
const RESPONSE: usize = 400;

fn main() -> anyhow::Result<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(2), |text| text.parse())?;
    let time = Duration::from_secs(seconds);
    let (identities, proxies) = (identities()?, Proxies::default());
    let app = spawn(&proxies.app, |tell| async move { application(tell).await });
    let destination = app.recv()?;
    let server_config = identities.server;
    let tunnels = spawn(&proxies.b, move |tell| async move {
        accepting(tell, server_config).await
    })
    .recv()?;
    let (key, client_config) = (
        TunnelKey {
            address: PeerAddr(tunnels),
            ..identities.key
        },
        identities.client,
    );
    let outbound = spawn(&proxies.a, move |tell| async move {
        dialling(tell, key, client_config, destination).await
    })
    .recv()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        for connections in [1, 16, 64] {
            for (name, address) in [("direct", destination), ("tunnel", outbound)] {
                let before = proxies.cpu();
                let mut result = requests(address, connections, time).await;
                let cpu = proxies.cpu() - before;
                result.sort_unstable();
                let at = |part: f64| result[((result.len() - 1) as f64 * part) as usize] / 1000;
                println!(
                    "requests {connections:>3} {name}: {:>7.0}/s  p50 {:>5} µs  p99 {:>5} µs  cpu {:>5.2} s per 100k",
                    result.len() as f64 / time.as_secs_f64(),
                    at(0.5),
                    at(0.99),
                    cpu / result.len() as f64 * 1e5,
                );
            }
        }
        for (name, address) in [("direct", destination), ("tunnel", outbound)] {
            let before = proxies.cpu();
            let count = new_connections(address, time).await;
            let cpu = proxies.cpu() - before;
            println!(
                "new connections {name}: {:>6.0}/s  cpu {:>5.2} s per 100k",
                count as f64 / time.as_secs_f64(),
                cpu / count as f64 * 1e5,
            );
        }
        for streams in [1, 8] {
            for (name, address) in [("direct", destination), ("tunnel", outbound)] {
                let before = proxies.cpu();
                let bytes = bulk(address, streams, time).await;
                let cpu = proxies.cpu() - before;
                println!(
                    "bulk {streams} {name}: {:>6.2} Gbit/s  cpu {:>5.2} s per GB",
                    bytes as f64 * 8e-9 / time.as_secs_f64(),
                    cpu / bytes as f64 * 1e9,
                );
            }
        }
    });
    Ok(())
}

/// CPU time that threads publish.
#[derive(Clone, Default)]
struct Proxies {
    a: Arc<AtomicU64>,
    b: Arc<AtomicU64>,
    app: Arc<AtomicU64>,
}

impl Proxies {
    /// Seconds of both proxies.
    fn cpu(&self) -> f64 {
        // The threads publish every few milliseconds.
        std::thread::sleep(Duration::from_millis(30));
        (self.a.load(Ordering::Relaxed) + self.b.load(Ordering::Relaxed)) as f64 * 1e-9
    }
}

/// Runs a story on a thread of its own, like a worker's.
fn spawn<F: Future<Output = ()>>(
    cpu: &Arc<AtomicU64>,
    story: impl FnOnce(mpsc::Sender<SocketAddr>) -> F + Send + 'static,
) -> mpsc::Receiver<SocketAddr> {
    let (tell, told) = mpsc::channel();
    let cpu = Arc::clone(cpu);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let publish = async move {
            loop {
                let text = std::fs::read_to_string("/proc/thread-self/schedstat")
                    .expect("the kernel counts");
                let time = text.split(' ').next().and_then(|text| text.parse().ok());
                cpu.store(time.unwrap_or_default(), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        LocalSet::new().block_on(&runtime, async {
            spawn_local(publish);
            story(tell).await;
        });
    });
    told
}

struct Identities {
    key: TunnelKey,
    client: Arc<rustls::ClientConfig>,
    server: Arc<rustls::ServerConfig>,
}

fn identities() -> anyhow::Result<Identities> {
    let directory = tempfile::tempdir()?;
    let client: SpiffeId = "spiffe://bench/ns/a/sa/client".parse()?;
    let server: SpiffeId = "spiffe://bench/ns/a/sa/server".parse()?;
    let authority = Authority::open_or_create(directory.path(), client.trust_domain())?;
    let bundle = authority.bundle();
    let day = Duration::from_secs(86_400);
    Ok(Identities {
        client: mesh_identity::tls::client_config(
            &authority.issue(&client, day)?,
            &bundle,
            std::slice::from_ref(&server),
        )?,
        server: mesh_identity::tls::server_config(&[authority.issue(&server, day)?], &bundle)?,
        key: TunnelKey {
            source: WorkloadId(1),
            own: client,
            peers: [server].into(),
            address: PeerAddr(([127, 0, 0, 1], 0).into()),
        },
    })
}

/// Answers requests; a request that begins with `b` asks for bytes without end.
async fn application(tell: mpsc::Sender<SocketAddr>) {
    let listener = listen(&tell).await;
    while let Ok((mut socket, _)) = listener.accept().await {
        socket.set_nodelay(true).expect("nodelay");
        spawn_local(async move {
            let mut request = [0; REQUEST];
            while socket.read_exact(&mut request).await.is_ok() {
                if request[0] == b'b' {
                    let bytes = vec![b'x'; 1 << 18];
                    while socket.write_all(&bytes).await.is_ok() {}
                    return;
                }
                if socket.write_all(&[b'y'; RESPONSE]).await.is_err() {
                    return;
                }
            }
        });
    }
}

async fn listen(tell: &mpsc::Sender<SocketAddr>) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    tell.send(listener.local_addr().expect("an address"))
        .expect("somebody asks");
    listener
}

struct Deliver;

impl Inbound for Deliver {
    async fn open(&self, _peer: &Rc<Peer>, open: Open) -> Result<Accepted, Refusal> {
        let app = TcpStream::connect(open.destination.0)
            .await
            .map_err(|error| Refusal {
                code: RefusalCode::ConnectionRefused,
                detail: error.to_string(),
            })?;
        Ok(Accepted {
            app,
            on_open: Box::new(drop),
        })
    }
}

async fn accepting(tell: mpsc::Sender<SocketAddr>, config: Arc<rustls::ServerConfig>) {
    let listener = listen(&tell).await;
    let server = Server::new(Limits::default());
    while let Ok((socket, _)) = listener.accept().await {
        let (server, config) = (server.clone(), Arc::clone(&config));
        spawn_local(async move {
            if let Err(error) = server.serve(socket, config, Rc::new(Deliver)).await {
                eprintln!("accepting side: {error}");
            }
        });
    }
}

struct Dial;

impl Dialler for Dial {
    fn dial(
        &self,
        _source: WorkloadId,
        address: PeerAddr,
    ) -> LocalBoxFuture<'_, std::io::Result<TcpStream>> {
        Box::pin(TcpStream::connect(address.0))
    }
}

async fn dialling(
    tell: mpsc::Sender<SocketAddr>,
    key: TunnelKey,
    config: Arc<rustls::ClientConfig>,
    destination: SocketAddr,
) {
    let listener = listen(&tell).await;
    let pool = Pool::new(Rc::new(Dial), Limits::default());
    let name = mesh_identity::tls::server_name(&key.peers[0]);
    while let Ok((app, client)) = listener.accept().await {
        let request = OpenRequest {
            key: key.clone(),
            config: Arc::clone(&config),
            server_name: name.clone(),
            open: Open {
                destination: AppAddr(destination),
                client: ClientAddr(client),
                service: None,
                trace: None,
            },
            app,
            kept: Vec::new(),
        };
        let pool = pool.clone();
        spawn_local(async move {
            match pool.open(request).await {
                Ok(opened) => drop(opened.stream.closed().await),
                Err(error) => eprintln!("dialling side: {} {}", error.reason.label(), error.detail),
            }
        });
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).await.expect("a connection");
    socket.set_nodelay(true).expect("nodelay");
    socket
}

/// Nanoseconds of each request, closed loop.
async fn requests(address: SocketAddr, connections: usize, time: Duration) -> Vec<u64> {
    let all = Rc::new(RefCell::new(Vec::new()));
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let all = Rc::clone(&all);
        tasks.push(spawn_local(async move {
            let mut socket = connect(address).await;
            let mut response = [0; RESPONSE];
            let until = Instant::now() + time;
            loop {
                let begun = Instant::now();
                if begun >= until {
                    return;
                }
                socket.write_all(&[b'r'; REQUEST]).await.expect("a write");
                socket.read_exact(&mut response).await.expect("an answer");
                all.borrow_mut().push(begun.elapsed().as_nanos() as u64);
            }
        }));
    }
    for task in tasks {
        task.await.expect("no panic");
    }
    all.take()
}

async fn new_connections(address: SocketAddr, time: Duration) -> u64 {
    let stop = Rc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let stop = Rc::clone(&stop);
        tasks.push(spawn_local(async move {
            let mut count = 0;
            let mut response = [0; RESPONSE];
            while !stop.load(Ordering::Relaxed) {
                let mut socket = connect(address).await;
                socket.write_all(&[b'r'; REQUEST]).await.expect("a write");
                socket.read_exact(&mut response).await.expect("an answer");
                count += 1;
            }
            count
        }));
    }
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut sum = 0;
    for task in tasks {
        sum += task.await.expect("no panic");
    }
    sum
}

async fn bulk(address: SocketAddr, streams: usize, time: Duration) -> u64 {
    let mut tasks = Vec::new();
    for _ in 0..streams {
        tasks.push(spawn_local(async move {
            let mut socket = connect(address).await;
            socket.write_all(&[b'b'; REQUEST]).await.expect("a write");
            let mut buffer = vec![0; 1 << 18];
            let mut sum = 0;
            let until = Instant::now() + time;
            while Instant::now() < until {
                sum += socket.read(&mut buffer).await.expect("bytes") as u64;
            }
            sum
        }));
    }
    let mut sum = 0;
    for task in tasks {
        sum += task.await.expect("no panic");
    }
    sum
}
