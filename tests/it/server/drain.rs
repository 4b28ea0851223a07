//! Being told to stop: nothing that is under way is lost, nothing new begins, and it does end.

use std::{
    io::ErrorKind,
    net::TcpStream,
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use super::{GET, open_config, start_tls};
use crate::support::{Sidegate, Upstream, client::Connection, wait_for};

/// An upstream that answers `/slow` when it is told to, in two pieces, and everything else at once.
fn slow() -> (Upstream, mpsc::Sender<()>) {
    let (release, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::with(move |request, stream| {
        use std::io::Write as _;
        if request.target() == "/slow" {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe").unwrap();
            // Whoever would release it may be gone.
            let _ = wait.lock().unwrap().recv();
            return stream.write_all(b"llo").is_ok();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").is_ok()
    });
    (upstream, release)
}

/// A connection with a request that has reached the upstream and is not answered yet.
fn in_flight(gate: &Sidegate, upstream: &Upstream) -> Connection {
    let mut connection = Connection::open(gate.address()).unwrap();
    connection.send(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    wait_for("the request to reach the upstream", || {
        upstream.take().iter().any(|request| request.target() == "/slow").then_some(())
    });
    connection
}

fn refuses(gate: &Sidegate) -> Option<()> {
    TcpStream::connect(gate.address()).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused).then_some(())
}

fn drains_on(signal: &str) {
    let (upstream, release) = slow();
    let mut gate =
        Sidegate::start(&open_config(upstream.address(), "shutdown: { drain_delay: 2s, drain_timeout: 20s }"));
    let mut busy = in_flight(&gate, &upstream);
    let mut kept = Connection::open(gate.address()).unwrap();
    kept.send(GET).unwrap();
    assert_eq!(kept.answer(false).unwrap().status, 200);
    let mut silent = Connection::open(gate.address()).unwrap();
    assert_eq!(gate.admin("/readyz").status, 200);
    gate.signal(signal);

    // For a while only the load balancer is told.
    wait_for("it to be unready", || (gate.admin("/readyz").status == 503).then_some(()));
    assert_eq!(gate.metric("sidegate_ready"), 0.0);
    assert_eq!((gate.admin("/livez").status, gate.admin("/startupz").status), (200, 200));
    assert_eq!(gate.get("/new", &[]).status, 200);
    kept.send(GET).unwrap();
    assert_eq!(kept.answer(false).unwrap().status, 200);

    // Then nobody gets in, and who has nothing under way is let go.
    let mut begun = Connection::open(gate.address()).unwrap();
    begun.send(b"GET /begun HTTP/1.1\r\nHos").unwrap();
    // The one worker takes things in the order in which they come: when this is answered, it has read that.
    assert_eq!(gate.get("/new", &[]).status, 200);
    wait_for("new connections to be refused", || refuses(&gate));
    assert!(kept.is_closed());
    assert!(silent.is_closed());
    assert_eq!(gate.admin("/readyz").status, 503);

    // What was under way is finished.
    begun.send(b"t: h\r\n\r\n").unwrap();
    let answer = begun.answer(false).unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    release.send(()).unwrap();
    assert_eq!(busy.answer(false).unwrap().text(), "hello");
    assert!(busy.is_closed());
    assert_eq!(gate.wait().code(), Some(0));
    gate.logged_until(|log| log.contains("drained"));
}

#[test]
fn sigterm_loses_no_request() {
    drains_on("TERM");
}

#[test]
fn sigint_loses_no_request() {
    drains_on("INT");
}

#[test]
fn an_idle_process_ends_at_once() {
    let upstream = Upstream::start();
    let mut gate = Sidegate::start(&open_config(upstream.address(), ""));
    let mut kept = Connection::open(gate.address()).unwrap();
    kept.send(GET).unwrap();
    kept.answer(false).unwrap();
    ends_at_once(&mut gate);
    assert!(kept.is_closed());
    // Nor does it wait for a handshake that may never end.
    let mut gate = start_tls(upstream.address(), "");
    let mut silent = Connection::open(gate.address()).unwrap();
    wait_for("the connection to be there", || {
        (gate.metric("sidegate_connections{listener=\"public\"}") == 1.0).then_some(())
    });
    ends_at_once(&mut gate);
    assert!(silent.is_closed());
}

fn ends_at_once(gate: &mut Sidegate) {
    let start = Instant::now();
    gate.signal("TERM");
    assert_eq!(gate.wait().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_upstream_that_never_answers_is_not_waited_for_beyond_the_timeout() {
    let (upstream, _release) = slow();
    let mut gate = Sidegate::start(&open_config(upstream.address(), "shutdown: { drain_timeout: 300ms }"));
    let mut busy = in_flight(&gate, &upstream);
    let start = Instant::now();
    gate.signal("TERM");
    assert_eq!(gate.wait().code(), Some(0));
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(5), "{took:?}");
    // What it has of the answer cannot be taken for the whole.
    assert!(busy.answer(false).is_err());
    gate.logged_until(|log| log.contains("gave up on connections"));
}

#[test]
fn further_signals_neither_hurry_nor_stop_it() {
    let (upstream, release) = slow();
    let mut gate = Sidegate::start(&open_config(upstream.address(), ""));
    let mut busy = in_flight(&gate, &upstream);
    gate.signal("TERM");
    wait_for("new connections to be refused", || refuses(&gate));
    gate.signal("TERM");
    gate.signal("INT");
    // It lives, and still waits.
    assert_eq!(gate.admin("/livez").status, 200);
    release.send(()).unwrap();
    assert_eq!(busy.answer(false).unwrap().text(), "hello");
    assert_eq!(gate.wait().code(), Some(0));
}
