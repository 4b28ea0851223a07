//! Bodies: how large they may be, and what becomes of one that nobody has read.

use std::{
    io::{Read as _, Write as _},
    sync::{Mutex, mpsc},
    time::Duration,
};

use super::{ended, open_gate};
use crate::support::{
    Sidegate, Upstream,
    client::{Connection, request},
    config, wait_for,
};

#[test]
fn a_body_that_is_too_large_is_refused_before_anything_goes_upstream() {
    let upstream = Upstream::start();
    let routes = "limits: { max_body_bytes: 1KiB }
routes:
  - { name: small, match: { path: /small }, auth: none, max_body_bytes: 10, upstream: app }
  - { name: bodiless, match: { path: /none }, auth: none, max_body_bytes: 0, upstream: app }
  - { name: large, match: { path: /large }, auth: none, max_body_bytes: none, upstream: app }
  - { name: usual, match: { path_prefix: / }, auth: none, upstream: app }
";
    let gate = Sidegate::start(&config(upstream.address(), routes));
    for (path, size, expected) in [
        ("/small", 0, 200),
        ("/small", 10, 200),
        ("/small", 11, 413),
        ("/none", 0, 200),
        ("/none", 1, 413),
        ("/usual", 1024, 200),
        ("/usual", 1025, 413),
        ("/large", 1 << 20, 200),
    ] {
        let answer = request(gate.address(), "POST", path, &[], &vec![b'x'; size]);
        assert_eq!(answer.status, expected, "{size} bytes for {path}");
        let reached = upstream.take();
        assert_eq!(
            reached.iter().map(|reached| reached.body.len()).sum::<usize>(),
            if expected == 200 { size } else { 0 }
        );
        if expected == 413 {
            assert_eq!((answer.member("error").as_str(), reached.len()), ("content_too_large", 0));
        }
    }
    assert_eq!((ended(&gate, "body_too_large"), upstream.connections()), (3.0, upstream.connections()));
    // Who asks before it sends learns it before it has sent.
    let mut connection = Connection::open(gate.address()).unwrap();
    let head = "POST /small HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n";
    connection.send(head.as_bytes()).unwrap();
    let mut first = [0; 12];
    (&mut connection.stream()).read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 413");
}

#[test]
fn a_body_that_outgrows_its_bound_is_cut() {
    let upstream = Upstream::start();
    let gate = open_gate(&upstream, ", max_body_bytes: 64KiB", "");
    let chunk = [&b"4000\r\n"[..], &[b'x'; 0x4000], b"\r\n"].concat();
    for (chunks, expected) in [(4, 200), (5, 413), (50, 413)] {
        let mut connection = Connection::open(gate.address()).unwrap();
        connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        for _ in 0..chunks {
            // It may have been hung up on in the middle of it.
            let _ = connection.send(&chunk);
        }
        let _ = connection.send(b"0\r\n\r\n");
        let answer = connection.answer(false).unwrap();
        assert_eq!(answer.status, expected, "{chunks} chunks");
        if expected == 413 {
            assert_eq!(answer.header("connection"), Some("close"));
            assert!(connection.is_closed());
            assert!(upstream.take().is_empty(), "no whole request has reached it");
        } else {
            assert_eq!(upstream.only().body.len(), chunks * 0x4000);
        }
    }
    assert_eq!(ended(&gate, "body_too_large"), 2.0);
}

#[test]
fn a_body_that_outgrows_its_bound_ends_an_answer_that_has_begun() {
    // The upstream answers as soon as it has the head, and then sees its connection end.
    let (gone, is_gone) = mpsc::channel();
    let gone = Mutex::new(gone);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = Vec::new();
        while !got.windows(4).any(|window| window == b"\r\n\r\n") {
            let mut buffer = [0; 1024];
            let n = stream.read(&mut buffer).unwrap();
            got.extend_from_slice(&buffer[..n]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        gone.lock().unwrap().send(String::from_utf8_lossy(&rest).contains("\r\n0\r\n\r\n")).unwrap();
    });
    let gate = Sidegate::start(&config(
        address,
        "routes: [{ name: all, match: { path_prefix: / }, auth: none, max_body_bytes: 8, upstream: app }]",
    ));
    let mut connection = Connection::open(gate.address()).unwrap();
    connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n").unwrap();
    let mut seen = Vec::new();
    wait_for("the answer to begin", || {
        let mut buffer = [0; 1024];
        let n = connection.stream().read(&mut buffer).unwrap();
        seen.extend_from_slice(&buffer[..n]);
        seen.windows(5).any(|window| window == b"hello").then_some(())
    });
    connection.send(b"5\r\nfives\r\n").unwrap();
    let whole = is_gone.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(!whole, "the upstream must not take half a body for a whole one");
    connection.answer(false).expect_err("nor the client half an answer");
}

#[test]
fn a_body_that_nobody_read_is_never_the_next_request() {
    let upstream = Upstream::start();
    let gate = open_gate(&upstream, ", max_body_bytes: 1MiB", "");
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let chunked = format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
    let large = smuggled.repeat(20_000);
    let with_length = |body: &str, more: &str| {
        format!("POST /a//b HTTP/1.1\r\nHost: a\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let with_chunks =
        |body: &str| format!("POST /a//b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    let refused_after = |sent: &str, later: &str| {
        let mut connection = Connection::open(gate.address()).unwrap();
        // It may have been hung up on in the middle of it.
        let _ = connection.send(sent.as_bytes());
        let answer = connection.answer(false).unwrap();
        assert_eq!((answer.status, answer.header("connection")), (400, Some("close")), "{later}");
        let _ = connection.send(later.as_bytes());
        assert!(connection.is_closed(), "{later}");
        assert!(upstream.take().is_empty(), "{later}");
    };
    refused_after(&with_length(smuggled, ""), "");
    refused_after(&with_length(smuggled, ""), smuggled);
    refused_after(&with_length(smuggled, "Expect: 100-continue\r\n"), smuggled);
    refused_after(&with_length(&large, ""), smuggled);
    refused_after(&with_chunks(&chunked), smuggled);
    // The body, or the rest of it, comes after the answer.
    let head = with_length(smuggled, "");
    let (head, body) = head.split_at(head.len() - smuggled.len());
    refused_after(head, body);
    refused_after(&with_length(smuggled, "Expect: 100-continue\r\n").replace(smuggled, ""), smuggled);
    let (first, rest) = body.split_at(10);
    refused_after(&format!("{head}{first}"), rest);
    refused_after(&with_chunks("5\r\n"), &format!("GET /\r\n0\r\n\r\n{smuggled}"));
    // Without a body there is nothing to be out of step with.
    let mut connection = Connection::open(gate.address()).unwrap();
    for _ in 0..2 {
        connection.send(b"POST /a//b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").unwrap();
        let answer = connection.answer(false).unwrap();
        assert_eq!((answer.status, answer.header("connection")), (400, None));
    }
}
