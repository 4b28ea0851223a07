//! Upstreams that do not say what they should, or not as they should.

use std::io::Write as _;

use super::{
    ended,
    frames::{Frames, INTERNAL_ERROR, data, head, reset},
    gate,
    peer::{Peer, Wire, whole},
};
use crate::support::{
    Upstream,
    client::{Connection, try_request},
};

/// An upstream that answers with these bytes, and hangs up.
fn saying(bytes: &[u8]) -> Upstream {
    let bytes = bytes.to_vec();
    Upstream::with(move |_, stream| {
        let _ = stream.write_all(&bytes);
        false
    })
}

#[test]
fn a_head_that_is_none_is_not_passed_on() {
    let many = "X: y\r\n".repeat(101);
    let large = format!("X: {}\r\n", "y".repeat(70_000));
    let head = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\nhello");
    for bytes in [
        "SSH-2.0-OpenSSH_9\r\n\r\n".to_owned(),
        "hello".to_owned(),
        String::new(),
        "HTTP/1.1 200 OK\r\nContent-".to_owned(),
        "HTTP/1.1 2x0 OK\r\n\r\n".to_owned(),
        "HTTP/3.0 200 OK\r\n\r\n".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n".to_owned(),
        "HTTP/1.1 100 Continue\r\n\r\n".to_owned(),
        head("Content-Length: 5\r\nContent-Length: 6\r\n"),
        head("Content-Length: 5, 6\r\n"),
        head("Content-Length: 5, 5\r\n"),
        head("Content-Length: +5\r\n"),
        head("Content-Length: -5\r\n"),
        head("Content-Length: 5x\r\n"),
        head("Content-Length: \r\n"),
        head("Content-Length: 99999999999999999999\r\n"),
        head("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        head("Transfer-Encoding: gzip\r\n"),
        head("Transfer-Encoding: gzip, chunked\r\n"),
        head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        head("Transfer-Encoding: chunked, chunked\r\n"),
        head("Content-Length : 5\r\n"),
        head("Content-Length: 5\r\n X: folded\r\n"),
        head("X\0: 5\r\n"),
        head(&large),
        head(&many),
    ] {
        let upstream = saying(bytes.as_bytes());
        let gate = gate(&format!("urls: [http://{}], retries: 0", upstream.address()));
        let shown = &bytes[..bytes.len().min(80)];
        let answer = gate.get("/", &[]);
        assert_eq!((answer.status, answer.member("error").as_str()), (502, "bad_gateway"), "{shown:?}");
        assert_eq!(ended(&gate, "GET", 502, "upstream_broken"), 1.0, "{shown:?}");
        assert_eq!(upstream.take().len(), 1, "{shown:?}");
    }
}

#[test]
fn a_body_that_is_less_than_it_says_does_not_end_as_if_it_were_whole() {
    for bytes in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshortx\r\n0\r\n\r\n",
    ] {
        let upstream = saying(bytes);
        let gate = gate(&format!("urls: [http://{}]", upstream.address()));
        let broken = try_request(gate.address(), "GET", "/", &[], b"");
        assert!(broken.is_err(), "{:?}: {broken:?}", String::from_utf8_lossy(bytes));
    }
    let frames = Frames::start(&[], |_, id| [head(id), data(id, b"short"), reset(id, INTERNAL_ERROR)].concat());
    let gate = gate(&format!("urls: [\"h2c://{}\"], retries: 0", frames.address));
    let broken = try_request(gate.address(), "GET", "/", &[], b"");
    assert!(broken.is_err() || broken.as_ref().is_ok_and(|answer| answer.status == 502), "{broken:?}");
}

#[test]
fn a_length_that_is_said_twice_is_said_once() {
    let upstream = Upstream::answering(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: a\r\nContent-Length: 5\r\nSet-Cookie: b\r\n\r\nhello"
            .to_vec()
    });
    let gate = gate(&format!("urls: [http://{}]", upstream.address()));
    let answer = gate.get("/", &[]);
    assert_eq!((answer.header("content-length"), answer.text().as_str()), (Some("5"), "hello"));
    let cookies: Vec<_> = answer.headers.iter().filter(|(name, _)| name == "set-cookie").collect();
    assert_eq!(cookies.len(), 2);
}

#[test]
fn a_connection_in_doubt_is_not_used_again() {
    for head in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nConnection: keep-alive\r\n",
        "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nConnection: close\r\n",
        "HTTP/1.1 200 OK\r\nConnection: keep-alive, close\r\n",
        "HTTP/1.0 200 OK\r\n",
        // What follows is nobody's.
        "HTTP/1.1 200 OK\r\nX: 1\r\n",
    ] {
        let rest = if head.contains("X: 1") { "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil" } else { "" };
        let bytes = format!("{head}Content-Length: 5\r\n\r\nhello{rest}").into_bytes();
        let upstream = Upstream::answering(move |_| bytes.clone());
        let gate = gate(&format!("urls: [http://{}]", upstream.address()));
        let mut connection = Connection::open(gate.address()).unwrap();
        for _ in 0..3 {
            connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            assert_eq!(connection.answer(false).unwrap().text(), "hello", "{head}");
        }
        assert_eq!(upstream.connections(), 3, "{head}");
    }
}

#[test]
fn a_head_may_be_large_up_to_a_bound() {
    for wire in [Wire::Http1, Wire::Http2] {
        let peer = Peer::start(&wire, |request| async move {
            let size = request.uri().path()[1..].parse().unwrap();
            http::Response::builder().header("x-large", "y".repeat(size)).body(whole("")).unwrap()
        });
        let gate = gate(&format!("{}, retries: 0", peer.config()));
        for (size, expected) in [(100, 200), (40_000, 200), (200_000, 502), (100, 200)] {
            assert_eq!(gate.get(&format!("/{size}"), &[]).status, expected, "{size} from {}", peer.url());
        }
    }
}

#[test]
fn what_is_no_http_2_is_not_passed_on() {
    for bytes in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..],
        b"\0\0\0\x04\0\0\0\0\0\0\0\0\x08",
        b"",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let upstream = saying(bytes);
        let gate = gate(&format!("urls: [\"h2c://{}\"], retries: 0", upstream.address()));
        assert_eq!(gate.get("/", &[]).status, 502, "{bytes:?}");
    }
}
