//! Every wait on a client has an end. Who keeps us waiting is hung up on and counted; who does not never notices.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustls::version;

use super::{GET, closed, echo, open_config, start_tls};
use crate::support::{PATIENCE, Sidegate, Upstream, client::Connection, config_with_issuer, tls, wait_for};

/// What is set for the deadline under test; all others stand at their defaults, which are far off.
const SHORT: Duration = Duration::from_millis(500);
/// Deadlines are kept by a coarse clock, which may be a round of 125 ms early.
const AT_LEAST: Duration = Duration::from_millis(350);
/// Far less than any default.
const AT_MOST: Duration = Duration::from_secs(5);

/// A client that asks one thing after another on one connection for as long as the test lasts.
struct Honest {
    enough: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Honest {
    fn start(to: SocketAddr) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let stop = enough.clone();
        let mut connection = Connection::open(to).unwrap();
        let thread = thread::spawn(move || {
            let mut served = 0;
            while !stop.load(Ordering::Relaxed) {
                connection.send(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello").unwrap();
                assert_eq!(connection.answer(false).unwrap().status, 200);
                served += 1;
            }
            served
        });
        Self { enough, thread }
    }

    /// All was well.
    fn end(self) {
        self.enough.store(true, Ordering::Relaxed);
        assert!(self.thread.join().unwrap() > 0);
    }
}

/// The connection is ended without a word when `SHORT` has passed since now, and counted as `cause`, once.
fn ends(gate: &Sidegate, connection: &mut Connection, cause: &str) {
    let (before, start) = (closed(gate, cause), Instant::now());
    assert!(connection.is_closed(), "{cause}");
    let took = start.elapsed();
    assert!(took >= AT_LEAST && took < AT_MOST, "{cause} after {took:?}");
    assert_eq!(closed(gate, cause), before + 1.0, "{cause}");
}

/// Sends byte after byte, with pauses far shorter than `SHORT`; whether the other end hung up before the last.
fn drip(connection: &mut Connection, bytes: &[u8]) -> bool {
    let mut socket = connection.stream();
    socket.set_read_timeout(Some(Duration::from_millis(80))).unwrap();
    let hung_up = bytes.chunks(1).any(|byte| {
        if socket.write_all(byte).is_err() {
            return true;
        }
        // The pause is a wait for an end, or an answer, that comes too early.
        match socket.peek(&mut [0]) {
            Ok(_) => true,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    });
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    hung_up
}

#[test]
fn a_head_has_to_come_in_time() {
    let upstream = echo();
    let gate = Sidegate::start(&open_config(upstream.address(), "limits: { header_timeout: 500ms }"));
    let honest = Honest::start(gate.address());
    let open = || Connection::open(gate.address()).unwrap();
    // Not a byte; half of it; byte after byte, each in time.
    ends(&gate, &mut open(), "header_timeout");
    let mut connection = open();
    connection.send(b"GET / HTTP/1.1\r\nHost:").unwrap();
    ends(&gate, &mut connection, "header_timeout");
    let (mut connection, start) = (open(), Instant::now());
    assert!(drip(&mut connection, b"GET / HTTP/1.1\r\nHost: a.name.that.is.somewhat.long.example\r\n\r\n"));
    assert!(start.elapsed() < AT_MOST);
    assert_eq!(closed(&gate, "header_timeout"), 3.0);
    // A further head on a kept connection, counted from its own first byte.
    let mut connection = open();
    connection.send(GET).unwrap();
    assert_eq!(connection.answer(false).unwrap().status, 200);
    connection.send(b"GET /again HTTP/1.1\r\n").unwrap();
    ends(&gate, &mut connection, "header_timeout");
    honest.end();
    wait_for("no place to be taken", || {
        (gate.metric("sidegate_connections{listener=\"public\"}") == 0.0).then_some(())
    });
}

#[test]
fn a_request_body_must_not_stand_still() {
    let upstream = echo();
    let gate = Sidegate::start(&config_with_issuer(
        upstream.address(),
        "routes: [{ name: all, match: { path_prefix: / }, auth: none, upstream: app }]\n\
         limits: { body_timeout: 500ms }",
    ));
    let honest = Honest::start(gate.address());
    let head = "POST /oauth/token HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\n";
    for stalled in [
        "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n123".to_owned(),
        "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n".to_owned(),
        "POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n123\r\n".to_owned(),
        format!("{head}Content-Length: 30\r\n\r\ngrant_type="),
    ] {
        let mut connection = Connection::open(gate.address()).unwrap();
        connection.send(stalled.as_bytes()).unwrap();
        ends(&gate, &mut connection, "body_timeout");
    }
    // A form that trickles is not waited for without an end.
    let (mut connection, start) = (Connection::open(gate.address()).unwrap(), Instant::now());
    connection.send(format!("{head}Content-Length: 1000\r\n\r\n").as_bytes()).unwrap();
    assert!(drip(&mut connection, &[b'a'; 100]));
    let refused = connection.answer(false).unwrap();
    assert_eq!((refused.status, refused.member("error")), (408, "invalid_request".to_owned()));
    assert!(start.elapsed() >= 2 * SHORT && start.elapsed() < AT_MOST, "{:?}", start.elapsed());
    // Slow is not still, however long it takes.
    let mut connection = Connection::open(gate.address()).unwrap();
    connection.send(b"POST /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\n\r\n").unwrap();
    assert!(!drip(&mut connection, b"0123456789a"));
    connection.send(b"b").unwrap();
    assert_eq!(connection.answer(false).unwrap().text(), "/slow");
    honest.end();
    wait_for("nothing to be in flight", || (gate.metric("sidegate_requests_in_flight") == 0.0).then_some(()));
}

#[test]
fn an_answer_has_to_be_read() {
    const SIZE: usize = 64 << 20;
    const READERS: usize = 6;
    let (broke, broken) = mpsc::channel();
    let upstream = Upstream::with(move |request, stream| {
        if request.target() != "/large" {
            return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").is_ok();
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").unwrap();
        let chunk = [b'x'; 1 << 16];
        let sent = (0..SIZE / chunk.len()).try_for_each(|_| stream.write_all(&chunk));
        broke.send(sent.is_err()).unwrap();
        sent.is_ok()
    });
    let gate = Sidegate::start(&open_config(upstream.address(), "limits: { body_timeout: 500ms }"));
    let honest = Honest::start(gate.address());
    let memory = || gate.metric("process_resident_memory_bytes");
    let before = memory();
    let mut readers: Vec<_> = (0..READERS)
        .map(|_| {
            let mut connection = Connection::open(gate.address()).unwrap();
            connection.send(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
            connection
        })
        .collect();
    let mut most = before;
    wait_for("all of them to be ended", || {
        most = most.max(memory());
        (closed(&gate, "write_timeout") == READERS as f64).then_some(())
    });
    assert!(most - before < 16e6, "{} bytes for {READERS} readers", most - before);
    for connection in &mut readers {
        // The upstream is let go too, and the client cannot take what it has for the whole.
        assert!(broken.recv_timeout(PATIENCE).unwrap());
        assert!(connection.answer(false).is_err());
    }
    // Slow is not still: pauses shorter than the deadline, and longer than it together.
    let mut connection = Connection::open(gate.address()).unwrap();
    connection.send(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let (ticks, mut buffer, mut got) = (mpsc::channel::<()>(), vec![0; SIZE / 8], 0);
    while got < SIZE {
        let _ = ticks.1.recv_timeout(Duration::from_millis(90));
        let mut piece = connection.stream().take(buffer.len() as u64);
        let mut n = 0;
        while n < buffer.len() && got + n < SIZE {
            match piece.read(&mut buffer[n..]).unwrap() {
                0 => panic!("ended after {got} bytes"),
                more => n += more,
            }
        }
        got += n;
    }
    honest.end();
    assert_eq!(closed(&gate, "write_timeout"), READERS as f64);
}

#[test]
fn a_kept_connection_is_not_kept_for_ever() {
    let upstream = echo();
    let gate = Sidegate::start(&open_config(upstream.address(), "limits: { keep_alive_timeout: 500ms }"));
    let honest = Honest::start(gate.address());
    let mut connection = Connection::open(gate.address()).unwrap();
    for _ in 0..2 {
        connection.send(GET).unwrap();
        assert_eq!(connection.answer(false).unwrap().status, 200);
    }
    ends(&gate, &mut connection, "keep_alive_timeout");
    // A refusal counts like an answer.
    let mut connection = Connection::open(gate.address()).unwrap();
    connection.send(b"GET /a//b HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!(connection.answer(false).unwrap().status, 400);
    ends(&gate, &mut connection, "keep_alive_timeout");
    honest.end();
}

#[test]
fn an_answer_that_is_still_on_its_way_is_not_idle() {
    let upstream = Upstream::with(|request, stream| {
        let size = request.target()[1..].parse().unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").unwrap();
        stream.write_all(&vec![b'x'; size]).is_ok()
    });
    let gate = Sidegate::start(&open_config(upstream.address(), "limits: { keep_alive_timeout: 200ms }"));
    // How much the system takes off our hands is its own affair: among these sizes are some whose end is with us while
    // nobody reads.
    let mut readers: Vec<_> = (0..48)
        .map(|n| {
            let size = (1 << 20) + n * (100 << 10);
            let mut connection = Connection::open(gate.address()).unwrap();
            connection.send(format!("GET /{size} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).unwrap();
            (size, connection)
        })
        .collect();
    // Meanwhile one that has its answer, and does wait, is ended; twice, so that the others have had their time.
    for _ in 0..2 {
        let mut idle = Connection::open(gate.address()).unwrap();
        idle.send(b"GET /3 HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        assert_eq!(idle.answer(false).unwrap().text(), "xxx");
        assert!(idle.is_closed());
    }
    for (size, connection) in &mut readers {
        assert_eq!(connection.answer(false).unwrap().body.len(), *size);
    }
}

#[test]
fn an_upstream_that_takes_its_time_is_no_fault_of_the_client() {
    let (release, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::answering(move |_| {
        wait.lock().unwrap().recv().unwrap();
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec()
    });
    let limits = "limits: { header_timeout: 100ms, body_timeout: 100ms, keep_alive_timeout: 100ms }";
    let gate = Sidegate::start(&open_config(upstream.address(), limits));
    let mut connection = Connection::open(gate.address()).unwrap();
    connection.send(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    let socket = connection.stream();
    socket.set_read_timeout(Some(SHORT)).unwrap();
    assert_eq!(socket.peek(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    release.send(()).unwrap();
    assert_eq!(connection.answer(false).unwrap().text(), "hello");
}

#[test]
fn a_handshake_has_to_end_in_time() {
    let upstream = echo();
    let gate = start_tls(upstream.address(), "limits: { tls_handshake_timeout: 500ms }");
    let ca = gate.dir().join("ca.pem");
    let open = || Connection::open(gate.address()).unwrap();
    // A client whose handshake is done may take longer than it had for that.
    let mut done = tls::connect(gate.address(), &ca, &version::TLS13, &[]).unwrap();
    ends(&gate, &mut open(), "handshake_timeout");
    // The head of a ClientHello's record, and a byte of it.
    let mut connection = open();
    connection.send(b"\x16\x03\x01\x01\x00\x01").unwrap();
    ends(&gate, &mut connection, "handshake_timeout");
    let (mut connection, start) = (open(), Instant::now());
    assert!(drip(&mut connection, &[b"\x16\x03\x01\x01\x00", &[1; 60][..]].concat()));
    assert!(start.elapsed() < AT_MOST);
    done.write_all(b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    done.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("/x"), "{answer}");
    assert_eq!(closed(&gate, "header_timeout"), 0.0);
}

#[test]
fn a_silent_client_is_ended_over_tls_as_well() {
    let upstream = echo();
    let gate = start_tls(upstream.address(), "limits: { header_timeout: 500ms }");
    let mut stream = tls::connect(gate.address(), &gate.dir().join("ca.pem"), &version::TLS13, &[]).unwrap();
    stream.write_all(b"GET / HT").unwrap();
    assert!(!matches!(stream.read(&mut [0]), Ok(1..)));
    assert_eq!(closed(&gate, "header_timeout"), 1.0);
}
