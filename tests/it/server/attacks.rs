//! What is sent to wear Sidegate out over HTTP/2. Each has a bound, the bound is counted, nothing of it reaches the upstream
//! that should not, and who came honestly is served meanwhile.

use std::time::Duration;

use super::{closed, echo, open_config};
use crate::support::{
    Sidegate, Upstream,
    frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, Outcome, PING, PRIORITY, RST_STREAM, SETTINGS,
        WINDOW_UPDATE, fields, frame, request,
    },
    wait_for,
};

/// RFC 9113 §7.
const PROTOCOL_ERROR: u32 = 1;
const CANCEL: u32 = 8;

/// Sends the same bytes until the other end has had enough; answers how often.
fn flood(client: &mut Frames, bytes: &[u8], most: usize) -> usize {
    client.socket().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    (0..most).find(|_| client.send_raw(bytes).is_err()).unwrap_or(most)
}

fn gate_and_upstream() -> (Sidegate, Upstream) {
    let upstream = echo();
    (Sidegate::start(&open_config(upstream.address(), "")), upstream)
}

#[test]
fn floods_of_control_frames_end_their_connection() {
    let (gate, upstream) = gate_and_upstream();
    let window = frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes());
    let floods: [(&str, Vec<u8>); 6] = [
        ("ping", frame(PING, 0, 0, &[7; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])),
        ("empty settings", frame(SETTINGS, 0, 0, &[])),
        ("window", window),
        ("priority", frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 16])),
        ("unknown", frame(200, 0, 0, b"?")),
    ];
    for (n, (name, bytes)) in floods.iter().enumerate() {
        let mut honest = Frames::open(gate.address(), &[]);
        honest.get(1, "/x").unwrap();
        let mut client = Frames::open(gate.address(), &[]);
        let sent = flood(&mut client, &bytes.repeat(100), 10_000);
        assert!(sent < 10_000, "{name}: a million frames were taken");
        assert_eq!(honest.outcome(1), Outcome::Status(200), "{name}");
        honest.get(3, "/x").unwrap();
        assert_eq!(honest.outcome(3), Outcome::Status(200), "{name}");
        wait_for(name, || (closed(&gate, "http2_flood") == n as f64 + 1.0).then_some(()));
    }
    assert_eq!(upstream.take().len(), 2 * floods.len());
}

#[test]
fn a_body_of_empty_frames_ends_its_connection() {
    let (gate, _upstream) = gate_and_upstream();
    let mut client = Frames::open(gate.address(), &[]);
    client.send(HEADERS, END_HEADERS, 1, &fields(&request("POST", "/x"))).unwrap();
    assert!(flood(&mut client, &frame(DATA, 0, 1, b"").repeat(100), 10_000) < 10_000);
    wait_for("it to be counted", || {
        (closed(&gate, "http2_flood") + closed(&gate, "http2_broken") == 1.0).then_some(())
    });
}

#[test]
fn rapid_reset_is_stopped_and_spares_the_upstream() {
    let (gate, upstream) = gate_and_upstream();
    let mut client = Frames::open(gate.address(), &[]);
    client.socket().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let sent = (0..20_000u32).find(|n| {
        let stream = 2 * n + 1;
        let get = frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields(&request("GET", "/x")));
        client.send_raw(&[get, frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())].concat()).is_err()
    });
    assert!(sent.is_some(), "20,000 requests were begun and reset");
    assert!(client.is_closed());
    let reached = upstream.take().len();
    assert!(reached < 300, "{reached} requests reached the upstream");
    assert_eq!(gate.get("/x", &[]).status, 200);
}

#[test]
fn who_makes_us_reset_is_stopped_too() {
    let (gate, upstream) = gate_and_upstream();
    let mut client = Frames::open(gate.address(), &[]);
    client.socket().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let sent = (0..20_000u32).find(|n| {
        let stream = 2 * n + 1;
        let get = frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields(&request("GET", "/x")));
        // CVE-2025-8671: an increment of nothing is an error of the request alone (RFC 9113 §6.9).
        client.send_raw(&[get, frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat()).is_err()
    });
    assert!(sent.is_some(), "20,000 requests were begun and broken");
    assert!(client.is_closed());
    let reached = upstream.take().len();
    assert!(reached < 500, "{reached} requests reached the upstream");
    assert_eq!(gate.get("/x", &[]).status, 200);
}

#[test]
fn a_head_that_never_ends_is_not_waited_for() {
    let (gate, upstream) = gate_and_upstream();
    let before = gate.metric("process_resident_memory_bytes");
    let mut client = Frames::open(gate.address(), &[]);
    client.send(HEADERS, END_STREAM, 1, &fields(&request("GET", "/x"))).unwrap();
    let more = frame(CONTINUATION, 0, 1, &fields(&[("x-more", &"y".repeat(1000))]));
    assert!(flood(&mut client, &more, 100_000) < 100_000);
    // The same with nothing in it.
    let mut client = Frames::open(gate.address(), &[]);
    client.send(HEADERS, END_STREAM, 1, &fields(&request("GET", "/x"))).unwrap();
    assert!(flood(&mut client, &frame(CONTINUATION, 0, 1, b"").repeat(100), 100_000) < 100_000);
    // And one whose table remembers a long field that is named again and again (the HPACK bomb).
    let mut client = Frames::open(gate.address(), &[]);
    let long = "z".repeat(3000);
    let mut bomb = fields(&request("GET", "/x"));
    bomb.extend([&[0x40][..], &fields(&[("x-long", &long)])[1..], &[0xbe; 12_000]].concat());
    client.send(HEADERS, END_HEADERS | END_STREAM, 1, &bomb).unwrap();
    assert!(matches!(
        client.outcome(1),
        Outcome::Status(431) | Outcome::Reset(_) | Outcome::Goaway(_) | Outcome::Closed
    ));
    let grown = gate.metric("process_resident_memory_bytes") - before;
    assert!(grown < 8e6, "{grown} bytes more");
    assert!(upstream.take().is_empty());
}

#[test]
fn what_is_malformed_is_refused() {
    let (gate, upstream) = gate_and_upstream();
    let get = || request("GET", "/x");
    let with = |more: &[(&'static str, &'static str)]| [&get()[..], more].concat();
    let without = |name: &str| get().into_iter().filter(|(n, _)| *n != name).collect::<Vec<_>>();
    let but = |name: &str, value: &'static str| -> Vec<(&'static str, &'static str)> {
        get().into_iter().map(|(n, v)| if n == name { (n, value) } else { (n, v) }).collect()
    };
    let reset = [Outcome::Reset(PROTOCOL_ERROR), Outcome::Goaway(PROTOCOL_ERROR), Outcome::Status(400)];
    let rows: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("an empty path", but(":path", "")),
        ("a path without a slash", but(":path", "x")),
        ("a path that is a URL", but(":path", "http://h/x")),
        ("a path with a space", but(":path", "/x y")),
        ("a path with a line break", but(":path", "/x\r\nX: y")),
        ("two methods", with(&[(":method", "POST")])),
        ("two paths", with(&[(":path", "/y")])),
        ("two authorities", with(&[(":authority", "i")])),
        ("an unknown pseudo-header", with(&[(":x", "y")])),
        ("a response's pseudo-header", with(&[(":status", "200")])),
        ("a protocol without CONNECT", with(&[(":protocol", "websocket")])),
        ("a pseudo-header after a field", [&[("x", "y")][..], &get()].concat()),
        ("a name in capitals", with(&[("X-Name", "y")])),
        ("a name with a space", with(&[("x name", "y")])),
        ("a name with a colon", with(&[("x:name", "y")])),
        ("an empty name", with(&[("", "y")])),
        ("a value with a line break", with(&[("x", "y\r\nz: a")])),
        ("a value with NUL", with(&[("x", "y\0z")])),
        ("connection", with(&[("connection", "keep-alive")])),
        ("keep-alive", with(&[("keep-alive", "1")])),
        ("proxy-connection", with(&[("proxy-connection", "keep-alive")])),
        ("upgrade", with(&[("upgrade", "websocket")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("te", with(&[("te", "gzip")])),
        ("another host", with(&[("host", "i")])),
        ("two hosts", with(&[("host", "h"), ("host", "h")])),
        ("an authority with a user", but(":authority", "u@h")),
        ("an authority with a path", but(":authority", "h/x")),
        ("a length without a body", with(&[("content-length", "3")])),
        ("two lengths", with(&[("content-length", "0"), ("content-length", "1")])),
        ("CONNECT", vec![(":method", "CONNECT"), (":authority", "h:443")]),
        ("CONNECT with a path", vec![(":method", "CONNECT"), (":scheme", "http"), (":path", "/"), (":authority", "h")]),
        ("an asterisk", vec![(":method", "OPTIONS"), (":scheme", "http"), (":path", "*"), (":authority", "h")]),
    ];
    for (name, row) in rows {
        let mut client = Frames::open(gate.address(), &[]);
        client.send(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&row)).unwrap();
        let outcome = client.outcome(1);
        assert!(reset.contains(&outcome), "{name}: {outcome:?}");
        assert!(upstream.take().is_empty(), "{name} reached the upstream");
    }
    let mut client = Frames::open(gate.address(), &[]);
    client.send(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&with(&[("host", "h"), ("te", "trailers")]))).unwrap();
    assert_eq!(client.outcome(1), Outcome::Status(200));
}

/// RFC 9113 §4-§6 as h2spec goes through them: what must end the connection, and with which error.
#[test]
fn frames_that_must_not_be_end_the_connection() {
    const FRAME_SIZE_ERROR: u32 = 6;
    const FLOW_CONTROL_ERROR: u32 = 3;
    const COMPRESSION_ERROR: u32 = 9;
    const STREAM_CLOSED: u32 = 5;
    let (gate, _upstream) = gate_and_upstream();
    let open = frame(HEADERS, END_HEADERS, 1, &fields(&request("POST", "/x")));
    let head = fields(&request("GET", "/x"));
    let most = 0x7fff_ffffu32.to_be_bytes();
    let rows: Vec<(&str, Vec<u8>, &[u32])> = vec![
        ("data on stream 0", frame(DATA, 0, 0, b"x"), &[PROTOCOL_ERROR]),
        ("headers on stream 0", frame(HEADERS, END_HEADERS, 0, &head), &[PROTOCOL_ERROR]),
        ("headers on an even stream", frame(HEADERS, END_HEADERS | END_STREAM, 2, &head), &[PROTOCOL_ERROR]),
        (
            "headers out of order",
            [frame(HEADERS, 5, 5, &head), frame(HEADERS, 5, 3, &head)].concat(),
            &[PROTOCOL_ERROR, STREAM_CLOSED],
        ),
        ("data on an idle stream", frame(DATA, 0, 5, b"x"), &[PROTOCOL_ERROR, STREAM_CLOSED]),
        ("reset of an idle stream", frame(RST_STREAM, 0, 5, &[0, 0, 0, 8]), &[PROTOCOL_ERROR]),
        ("reset on stream 0", frame(RST_STREAM, 0, 0, &[0, 0, 0, 8]), &[PROTOCOL_ERROR]),
        ("a reset too short", [open.clone(), frame(RST_STREAM, 0, 1, &[0; 3])].concat(), &[FRAME_SIZE_ERROR]),
        ("settings on a stream", frame(SETTINGS, 0, 1, &[]), &[PROTOCOL_ERROR]),
        ("settings of a wrong size", frame(SETTINGS, 0, 0, &[0; 5]), &[FRAME_SIZE_ERROR]),
        ("an acknowledgement with settings", frame(SETTINGS, 1, 0, &[0; 6]), &[FRAME_SIZE_ERROR]),
        ("a push of 2", frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2]), &[PROTOCOL_ERROR]),
        ("a window too large", frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]), &[FLOW_CONTROL_ERROR]),
        ("frames too small", frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1]), &[PROTOCOL_ERROR]),
        ("ping on a stream", frame(PING, 0, 1, &[0; 8]), &[PROTOCOL_ERROR]),
        ("a ping too short", frame(PING, 0, 0, &[0; 7]), &[FRAME_SIZE_ERROR]),
        ("an increment of 0", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), &[PROTOCOL_ERROR]),
        ("an increment too short", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), &[FRAME_SIZE_ERROR]),
        ("an increment too far", frame(WINDOW_UPDATE, 0, 0, &most).repeat(2), &[FLOW_CONTROL_ERROR]),
        ("a window of an idle stream", frame(WINDOW_UPDATE, 0, 7, &[0, 0, 0, 1]), &[PROTOCOL_ERROR]),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &head), &[PROTOCOL_ERROR]),
        (
            "something within a head",
            [frame(HEADERS, 1, 1, &head), frame(PING, 0, 0, &[0; 8])].concat(),
            &[PROTOCOL_ERROR],
        ),
        (
            "another's continuation",
            [frame(HEADERS, 1, 1, &head), frame(CONTINUATION, 4, 3, &head)].concat(),
            &[PROTOCOL_ERROR],
        ),
        ("padding longer than the frame", [open.clone(), frame(DATA, 8, 1, &[9, b'x'])].concat(), &[PROTOCOL_ERROR]),
        ("a frame too large", [open, frame(DATA, 0, 1, &[b'x'; 16385])].concat(), &[FRAME_SIZE_ERROR]),
        ("a table entry that is not there", frame(HEADERS, 5, 1, &[0xff, 0xff, 0x7f]), &[COMPRESSION_ERROR]),
        ("a promise", frame(5, 4, 1, &[0, 0, 0, 2, 0x82]), &[PROTOCOL_ERROR]),
        ("no preface's settings", frame(PING, 0, 0, &[0; 7]), &[FRAME_SIZE_ERROR]),
    ];
    for (name, bytes, codes) in rows {
        let mut client = Frames::open(gate.address(), &[]);
        client.send_raw(&bytes).unwrap();
        let farewell = client.until(|frame| frame.kind == crate::support::frames::GOAWAY);
        // A connection that is simply cut is within the RFC (§5.4.1), and so is the general word for the special one (§7).
        if let Some(farewell) = farewell {
            assert!([codes, &[PROTOCOL_ERROR]].concat().contains(&farewell.code()), "{name}: {}", farewell.code());
        }
        assert!(client.is_closed(), "{name}");
    }
    assert_eq!(gate.get("/x", &[]).status, 200);
}
