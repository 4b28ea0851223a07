//! Connections by address, and how many may wait.

use std::{
    fs,
    io::Read as _,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use super::open_gate;
use crate::support::{Sidegate, Upstream, client::Connection, wait_for};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Connects from an address of this machine's own choice.
fn connect_from(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    stream
}

/// Whether a connection is served, rather than closed.
fn is_served(stream: &mut TcpStream) -> bool {
    use std::io::Write as _;
    if stream.write_all(GET).is_err() {
        return false;
    }
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        let mut buffer = [0; 1024];
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return false,
            Ok(n) => answer.extend_from_slice(&buffer[..n]),
        }
    }
    answer.starts_with(b"HTTP/1.1 200")
}

fn refused(gate: &Sidegate) -> f64 {
    gate.metric("sidegate_connections_refused_total{listener=\"public\",reason=\"per_address\"}")
}

#[test]
fn an_address_has_so_many_connections_and_no_more() {
    let upstream = Upstream::start();
    let gate = open_gate(&upstream, "", "limits: { max_connections_per_address: 3 }");
    let mut first: Vec<_> = (0..3).map(|_| connect_from([127, 0, 0, 1], gate.address())).collect();
    assert!(first.iter_mut().all(is_served));
    for _ in 0..5 {
        assert!(!is_served(&mut connect_from([127, 0, 0, 1], gate.address())));
    }
    wait_for("five to be counted", || (refused(&gate) == 5.0).then_some(()));
    // Others are not told to wait for it.
    assert!(is_served(&mut connect_from([127, 0, 0, 2], gate.address())));
    assert!(first.iter_mut().all(is_served));
    // A place that is given up is there for the next.
    first.pop();
    wait_for("a place", || is_served(&mut connect_from([127, 0, 0, 1], gate.address())).then_some(()));
}

#[test]
fn a_trusted_proxy_comes_for_many() {
    let upstream = Upstream::start();
    let gate = open_gate(
        &upstream,
        "",
        "limits: { max_connections_per_address: 1 }\ntrusted_proxies: [127.0.0.1, 127.0.0.8/30]",
    );
    for (from, expected) in [([127, 0, 0, 1], 5), ([127, 0, 0, 9], 5), ([127, 0, 0, 2], 1)] {
        let mut streams: Vec<_> = (0..5).map(|_| connect_from(from, gate.address())).collect();
        let served = streams.iter_mut().map(is_served).filter(|served| *served).count();
        assert_eq!(served, expected, "{from:?}");
    }
}

#[test]
fn as_many_may_come_from_one_address_as_at_all() {
    let upstream = Upstream::start();
    let gate = open_gate(&upstream, "", "");
    let mut streams: Vec<_> = (0..200).map(|_| connect_from([127, 0, 0, 1], gate.address())).collect();
    assert!(streams.iter_mut().all(is_served));
    assert_eq!(refused(&gate), 0.0);
}

#[test]
fn many_may_wait_to_be_accepted() {
    let most: usize = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    if most < 600 {
        eprintln!("\n!!! SKIPPED: this machine lets only {most} connections wait\n");
        return;
    }
    let upstream = Upstream::start();
    let gate = open_gate(&upstream, "", "limits: { max_connections: 1 }");
    let mut first = Connection::open(gate.address()).unwrap();
    first.send(GET).unwrap();
    assert_eq!(first.answer(false).unwrap().status, 200);
    // The one place is taken, so that nobody is accepted. Who finds the queue full is not answered for a second.
    let waiting: Vec<_> =
        (0..500).map(|_| TcpStream::connect_timeout(&gate.address(), Duration::from_millis(900))).collect();
    assert_eq!(waiting.iter().filter(|stream| stream.is_err()).count(), 0);
}
