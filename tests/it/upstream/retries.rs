//! What is sent a second time, and what never is.

use std::{collections::HashSet, io::Write as _, net::SocketAddr, sync::Mutex, time::Duration};

use super::{
    frames::{Frames, INTERNAL_ERROR, REFUSED_STREAM, go_away, ok, reset},
    gate, pass,
};
use crate::support::{Sidegate, Upstream, client::request};

const RETRIES: &str = "sidegate_upstream_retries_total{upstream=\"app\"}";

fn h2c(frames: &Frames) -> String {
    format!("urls: [\"h2c://{}\"]", frames.address)
}

fn status(gate: &Sidegate, method: &str, body: &[u8]) -> u16 {
    request(gate.address(), method, "/", &[], body).status
}

#[test]
fn a_stream_that_is_refused_was_not_looked_at() {
    // The first of all requests is refused, and the others are answered.
    let refusing = || Frames::start(&[], |n, id| if n == 0 { reset(id, REFUSED_STREAM) } else { ok(id) });
    for (method, body, expected, requests) in [
        ("GET", &b""[..], 200, 2),
        ("POST", b"", 200, 2),
        // What had been sent of the body is gone.
        ("POST", b"body", 502, 1),
    ] {
        let frames = refusing();
        let gate = gate(&h2c(&frames));
        assert_eq!(status(&gate, method, body), expected, "{method}");
        assert_eq!((frames.requests(), gate.metric(RETRIES)), (requests, (requests - 1) as f64), "{method}");
    }
    let frames = refusing();
    let gate = gate(&format!("{}, retries: 0", h2c(&frames)));
    assert_eq!((status(&gate, "GET", b""), frames.requests()), (502, 1));
}

#[test]
fn a_stream_beyond_the_last_of_a_connection_was_not_looked_at() {
    for (method, body, expected) in [("GET", &b""[..], 200), ("DELETE", b"", 200), ("PUT", b"body", 502)] {
        let frames = Frames::start(&[], |n, id| if n == 1 { go_away(1) } else { ok(id) });
        let gate = gate(&h2c(&frames));
        assert_eq!(status(&gate, "GET", b""), 200);
        assert_eq!(status(&gate, method, body), expected, "{method}");
        // Nothing more is sent on that connection.
        assert_eq!(status(&gate, "GET", b""), 200);
        let opened = frames.came().iter().filter(|came| **came == super::frames::Came::Open).count();
        assert_eq!(opened, 2, "{method}");
    }
}

#[test]
fn a_stream_that_broke_may_have_done_its_work() {
    for (method, expected, requests) in [("GET", 200, 2), ("POST", 502, 1), ("DELETE", 502, 1)] {
        let frames = Frames::start(&[], |n, id| if n == 0 { reset(id, INTERNAL_ERROR) } else { ok(id) });
        let gate = gate(&h2c(&frames));
        assert_eq!((status(&gate, method, b""), frames.requests()), (expected, requests), "{method}");
    }
}

/// An upstream that answers one request on each connection, and closes it when the next one comes.
fn one_each() -> Upstream {
    let known = Mutex::new(HashSet::<SocketAddr>::new());
    Upstream::with(move |_, stream| {
        let new = known.lock().unwrap().insert(stream.peer_addr().unwrap());
        new && stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").is_ok()
    })
}

#[test]
fn a_kept_connection_that_was_closed_costs_a_safe_request_nothing() {
    for (tail, method, expected, reached) in [
        ("", "GET", 200, 3),
        ("", "HEAD", 200, 3),
        (", retries: 0", "GET", 502, 2),
        ("", "DELETE", 502, 2),
        ("", "POST", 502, 2),
    ] {
        let upstream = one_each();
        let gate = gate(&format!("urls: [http://{}]{tail}", upstream.address()));
        assert_eq!(status(&gate, "GET", b""), 200);
        // It has rested once two sweeps have passed.
        pass(Duration::from_millis(2100));
        let body: &[u8] = if method == "POST" { b"x" } else { b"" };
        assert_eq!((status(&gate, method, body), upstream.take().len()), (expected, reached), "{method}{tail}");
    }
}

#[test]
fn the_second_time_is_elsewhere_where_there_is_an_elsewhere() {
    let broken = Frames::start(&[], |_, id| reset(id, INTERNAL_ERROR));
    let well = Frames::start(&[], |_, id| ok(id));
    let gate = gate(&format!("urls: [\"h2c://{}\", \"h2c://{}\"]", broken.address, well.address));
    for _ in 0..10 {
        assert_eq!(status(&gate, "GET", b""), 200);
    }
    assert_eq!(well.requests(), 10);
    // Five failures in a row, and it is left alone.
    assert_eq!((broken.requests(), gate.metric(RETRIES)), (5, 5.0));
}
