//! HTTP/2 as clients speak it: many requests at a time, each on its own; and what one of them may take up.

use std::{
    io::{ErrorKind, Write as _},
    net::TcpStream,
    sync::{Mutex, mpsc},
    time::Duration,
};

use rustls::version;

use super::{closed, echo, open_config, start_tls};
use crate::support::{
    Sidegate, Upstream,
    frames::{
        DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, Outcome, RST_STREAM, WINDOW_UPDATE, fields, request,
    },
    tls, wait_for,
};

/// RFC 9113 §7.
const NO_ERROR: u32 = 0;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
/// RFC 9113 §6.5.2.
const INITIAL_WINDOW_SIZE: u16 = 4;

fn reset(gate: &Sidegate, cause: &str) -> f64 {
    gate.metric(&format!("sidegate_streams_reset_total{{cause=\"{cause}\"}}"))
}

/// An upstream that answers `/slow…` only when it is told to, and everything else at once.
fn slow() -> (Upstream, mpsc::Sender<()>) {
    let (release, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::answering(move |request| {
        if request.target().starts_with("/slow") {
            let _ = wait.lock().unwrap().recv();
        }
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec()
    });
    (upstream, release)
}

#[test]
fn requests_overtake_each_other() {
    let (upstream, release) = slow();
    let gate = Sidegate::start(&open_config(upstream.address(), ""));
    let mut client = Frames::open(gate.address(), &[]);
    client.get(1, "/slow").unwrap();
    for stream in [3, 5, 7] {
        client.get(stream, "/quick").unwrap();
        assert_eq!(client.outcome(stream), Outcome::Status(200));
    }
    release.send(()).unwrap();
    assert_eq!(client.outcome(1), Outcome::Status(200));
    let data = client.until(|frame| frame.kind == DATA && frame.stream == 1).unwrap();
    assert_eq!(data.payload, b"hello");
    let reached = upstream.take();
    assert_eq!((reached.len(), reached[0].all("host"), reached[0].all("via")), (4, vec!["h"], vec!["2.0 sidegate"]));
    assert_eq!(gate.metric("sidegate_connections_accepted_total{listener=\"public\"}"), 1.0);
}

#[test]
fn it_is_chosen_by_name_over_tls() {
    let upstream = echo();
    let gate = start_tls(upstream.address(), "");
    for version in [&version::TLS12, &version::TLS13] {
        let stream = tls::connect(gate.address(), &gate.dir().join("ca.pem"), version, &["h2"]).unwrap();
        let mut client = Frames::over(stream, &[]);
        client.get(1, "/x").unwrap();
        assert_eq!(client.outcome(1), Outcome::Status(200));
    }
    assert_eq!(upstream.take()[0].all("x-forwarded-proto"), ["https"]);
}

#[test]
fn a_preface_may_come_in_pieces_and_must_come_whole() {
    let upstream = echo();
    let gate = Sidegate::start(&open_config(upstream.address(), "limits: { header_timeout: 500ms }"));
    let mut socket = TcpStream::connect(gate.address()).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    socket.write_all(b"PRI * HT").unwrap();
    // The one worker has read that once it has answered this.
    assert_eq!(gate.get("/", &[]).status, 200);
    socket.write_all(b"TP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut head = [0; 9];
    std::io::Read::read_exact(&mut socket, &mut head).unwrap();
    assert_eq!(head[3], 4, "settings");
    // What only begins like it is not it, and what ends there ends.
    let mut other = crate::support::client::Connection::open(gate.address()).unwrap();
    other.send(b"PRI * HTTP/2.0\r\n\r\nSMALL").unwrap();
    assert_eq!(other.answer(false).unwrap().status, 400);
    let mut half = crate::support::client::Connection::open(gate.address()).unwrap();
    half.send(b"PRI * HTTP/2.0\r\n\r\nSM").unwrap();
    assert!(half.is_closed());
    assert_eq!(closed(&gate, "header_timeout"), 1.0);
}

#[test]
fn a_connection_has_only_so_many_requests_at_a_time() {
    let (upstream, release) = slow();
    let gate = Sidegate::start(&open_config(upstream.address(), "limits: { max_streams: 2 }"));
    let mut client = Frames::open(gate.address(), &[]);
    for stream in [1, 3, 5] {
        client.get(stream, "/slow").unwrap();
    }
    assert_eq!(client.outcome(5), Outcome::Reset(REFUSED_STREAM));
    (0..2).for_each(|_| release.send(()).unwrap());
    let mut done = [client.until(|frame| frame.kind == HEADERS).unwrap().stream, 0];
    done[1] = client.until(|frame| frame.kind == HEADERS).unwrap().stream;
    done.sort_unstable();
    assert_eq!(done, [1, 3]);
    client.get(7, "/quick").unwrap();
    assert_eq!(client.outcome(7), Outcome::Status(200));
}

#[test]
fn a_head_that_is_too_large_is_refused_and_the_others_go_on() {
    let upstream = echo();
    let gate = Sidegate::start(&open_config(upstream.address(), "limits: { max_header_bytes: 8KiB, max_headers: 20 }"));
    let mut client = Frames::open(gate.address(), &[]);
    let long = "a".repeat(6000);
    let long = [&request("GET", "/long")[..], &[("x-one", &long), ("x-two", &long)]].concat();
    client.send(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&long)).unwrap();
    assert_eq!(client.outcome(1), Outcome::Status(431));
    let many = [&request("GET", "/many")[..], &[("x", "y"); 21]].concat();
    client.send(HEADERS, END_HEADERS | END_STREAM, 3, &fields(&many)).unwrap();
    assert_eq!(client.outcome(3), Outcome::Status(431));
    client.get(5, "/x").unwrap();
    assert_eq!(client.outcome(5), Outcome::Status(200));
    assert_eq!(upstream.only().target(), "/x");
}

#[test]
fn a_body_that_stands_still_ends_its_request_alone() {
    let upstream = echo();
    let gate = Sidegate::start(&open_config(upstream.address(), "limits: { body_timeout: 300ms }"));
    let mut client = Frames::open(gate.address(), &[]);
    client.send(HEADERS, END_HEADERS, 1, &fields(&request("POST", "/stalls"))).unwrap();
    client.send(DATA, 0, 1, b"some").unwrap();
    assert!(matches!(client.outcome(1), Outcome::Reset(_)));
    client.get(3, "/x").unwrap();
    assert_eq!(client.outcome(3), Outcome::Status(200));
    assert_eq!((reset(&gate, "body_timeout"), closed(&gate, "body_timeout")), (1.0, 0.0));
}

#[test]
fn an_answer_that_is_not_taken_ends_its_request_alone() {
    let upstream = Upstream::answering(|_| {
        format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}", "x".repeat(1_000_000)).into_bytes()
    });
    let gate = Sidegate::start(&open_config(upstream.address(), "limits: { body_timeout: 300ms }"));
    // A window of nothing at all: the body cannot even begin.
    let mut client = Frames::open(gate.address(), &[(INITIAL_WINDOW_SIZE, 0)]);
    client.get(1, "/none").unwrap();
    assert_eq!(client.outcome(1), Outcome::Status(200));
    let end = client.until(|frame| frame.kind == RST_STREAM && frame.stream == 1).unwrap();
    assert_eq!(end.code(), CANCEL);
    // One that opens a little and stops is ended as well; one that takes its time and goes on is not.
    client.get(3, "/some").unwrap();
    assert_eq!(client.outcome(3), Outcome::Status(200));
    client.send(WINDOW_UPDATE, 0, 3, &1000u32.to_be_bytes()).unwrap();
    assert_eq!(client.until(|frame| frame.stream == 3 && frame.kind == DATA).unwrap().payload.len(), 1000);
    assert!(client.until(|frame| frame.kind == RST_STREAM && frame.stream == 3).is_some());
    assert_eq!((reset(&gate, "write_timeout"), closed(&gate, "write_timeout")), (2.0, 0.0));
    // And neither keeps its place, nor the upstream's connection.
    wait_for("nothing to be in flight", || (gate.metric("sidegate_requests_in_flight") == 0.0).then_some(()));
}

#[test]
fn an_idle_connection_is_told_to_go() {
    let upstream = echo();
    let gate = Sidegate::start(&open_config(upstream.address(), "limits: { keep_alive_timeout: 300ms }"));
    let mut client = Frames::open(gate.address(), &[]);
    client.get(1, "/x").unwrap();
    assert_eq!(client.outcome(1), Outcome::Status(200));
    let farewell = client.until(|frame| frame.kind == GOAWAY).unwrap();
    assert_eq!(farewell.code(), NO_ERROR);
    // Who does not answer to it is hung up on.
    assert!(client.is_closed());
    wait_for("it to be counted", || (closed(&gate, "keep_alive_timeout") >= 1.0).then_some(()));
}

#[test]
fn a_busy_connection_is_not_idle() {
    let (upstream, release) = slow();
    let gate = Sidegate::start(&open_config(
        upstream.address(),
        "limits: { keep_alive_timeout: 200ms, header_timeout: 200ms }",
    ));
    let mut client = Frames::open(gate.address(), &[]);
    client.get(1, "/slow").unwrap();
    client.get(3, "/quick").unwrap();
    assert_eq!(client.outcome(3), Outcome::Status(200));
    // Another that is idle ends meanwhile, twice.
    for _ in 0..2 {
        let mut idle = Frames::open(gate.address(), &[]);
        idle.until(|frame| frame.kind == GOAWAY);
        assert!(idle.is_closed());
    }
    release.send(()).unwrap();
    assert_eq!(client.outcome(1), Outcome::Status(200));
}

#[test]
fn a_drain_finishes_what_is_under_way() {
    let (upstream, release) = slow();
    let mut gate = Sidegate::start(&open_config(upstream.address(), ""));
    let mut client = Frames::open(gate.address(), &[]);
    client.get(1, "/slow").unwrap();
    wait_for("it to reach the upstream", || (upstream.take().len() == 1).then_some(()));
    gate.signal("TERM");
    assert_eq!(client.until(|frame| frame.kind == GOAWAY).unwrap().code(), NO_ERROR);
    release.send(()).unwrap();
    assert_eq!(client.outcome(1), Outcome::Status(200));
    assert!(client.until(|_| false).is_none());
    assert_eq!(gate.wait().code(), Some(0));
}

#[test]
fn a_request_that_is_given_up_is_given_up_upstream() {
    let (upstream, _release) = slow();
    let gate = Sidegate::start(&open_config(upstream.address(), ""));
    let mut client = Frames::open(gate.address(), &[]);
    client.get(1, "/slow").unwrap();
    wait_for("it to reach the upstream", || (upstream.take().len() == 1).then_some(()));
    client.send(RST_STREAM, 0, 1, &CANCEL.to_be_bytes()).unwrap();
    wait_for("nothing to be in flight", || (gate.metric("sidegate_requests_in_flight") == 0.0).then_some(()));
    // The connection is as good as before.
    client.get(3, "/quick").unwrap();
    assert_eq!(client.outcome(3), Outcome::Status(200));
}

#[test]
fn a_slow_upload_holds_little_memory() {
    // An upstream that reads nothing: what comes for it must wait at the client.
    let (release, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::reading_nothing(move || {
        let _ = wait.lock().unwrap().recv();
    });
    let gate = Sidegate::start(&open_config(upstream.address(), ""));
    let before = gate.metric("process_resident_memory_bytes");
    let mut client = Frames::open(gate.address(), &[]);
    client.send(HEADERS, END_HEADERS, 1, &fields(&request("POST", "/up"))).unwrap();
    client.socket().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    // It ignores the window, as nobody may, or the socket fills up; whichever comes first ends it.
    let mut sent = 0;
    while sent < 64 << 20 {
        match client.send(DATA, 0, 1, &[b'x'; 16384]) {
            Ok(()) => sent += 16384,
            Err(error) => {
                let known = [ErrorKind::WouldBlock, ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
                assert!(known.contains(&error.kind()), "{error}");
                break;
            }
        }
    }
    let grown = gate.metric("process_resident_memory_bytes") - before;
    assert!(grown < 8e6, "{grown} bytes more after {sent} were sent");
    drop(release);
}
