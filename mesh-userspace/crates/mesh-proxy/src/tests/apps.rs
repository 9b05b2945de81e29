//! Applications: they dial, answer, and look at how a connection ends.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use mesh_core::record::{Direction, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::agent::Listening;
use super::scene::*;
/// Dials as an application of `client` would: to `destination`, as far as it knows.
pub(super) async fn dial(
    origins: &Origins,
    listening: Listening,
    destination: SocketAddr,
) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address("client"), 0)).unwrap();
    let own = socket.local_addr().unwrap();
    origins.remember(own, destination);
    // A refusal may come before connect() has looked: the caller finds it at its first read then.
    let address = socket2::SockAddr::from(listening.outbound);
    let socket = socket2::SockRef::from(&socket).try_clone().unwrap();
    match socket.connect(&address) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => panic!("{error}"),
    }
    TcpStream::from_std(socket.into()).unwrap()
}

/// An application that says its name to everybody, then echoes; it writes down from where it was called.
pub(super) struct App {
    pub(super) callers: Rc<RefCell<Vec<SocketAddr>>>,
    accepting: JoinHandle<()>,
}

impl App {
    pub(super) async fn start(name: &'static str) -> Self {
        Self::start_at(name, SocketAddr::new(address(name), APP_PORT)).await
    }

    pub(super) async fn start_at(name: &'static str, at: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(at).unwrap();
        let listener: TcpListener = socket.listen(128).unwrap();
        let callers = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&callers);
        let accepting = tokio::task::spawn_local(async move {
            while let Ok((mut connection, caller)) = listener.accept().await {
                seen.borrow_mut().push(caller);
                tokio::task::spawn_local(async move {
                    let greeting = format!("{name}\n");
                    if connection.write_all(greeting.as_bytes()).await.is_err() {
                        return;
                    }
                    let (mut read, mut write) = connection.split();
                    drop(tokio::io::copy(&mut read, &mut write).await);
                    drop(write.shutdown().await);
                });
            }
        });
        Self { callers, accepting }
    }

    pub(super) async fn stop(self) {
        self.accepting.abort();
        drop(self.accepting.await);
    }
}

/// Reads the greeting of an [`App`].
pub(super) async fn greeting(connection: &mut TcpStream) -> io::Result<String> {
    let mut text = Vec::new();
    loop {
        let mut byte = [0];
        timeout(SOON, connection.read_exact(&mut byte))
            .await
            .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
        if byte == *b"\n" {
            return Ok(String::from_utf8(text).unwrap());
        }
        text.push(byte[0]);
    }
}

/// Says something, hears it back, and ends both ways.
pub(super) async fn converse(mut connection: TcpStream) {
    connection.write_all(b"hello").await.unwrap();
    connection.shutdown().await.unwrap();
    let mut echo = Vec::new();
    timeout(SOON, connection.read_to_end(&mut echo))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(echo, b"hello");
}

/// Dials, and is reset: before `connect` has returned or afterwards, as it happens.
pub(super) async fn expect_refusal(address: SocketAddr) {
    match TcpStream::connect(address).await {
        Ok(mut connection) => expect_reset(&mut connection).await,
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
    }
}

/// Waits until a connection is reset; anything else is a failure.
pub(super) async fn expect_reset(connection: &mut TcpStream) {
    let mut rest = Vec::new();
    let end = timeout(SOON, connection.read_to_end(&mut rest))
        .await
        .unwrap();
    let error = end.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
}

pub(super) fn outbound(record: &Record) -> bool {
    record.direction == Direction::Outbound
}

pub(super) fn inbound(record: &Record) -> bool {
    record.direction == Direction::Inbound
}
