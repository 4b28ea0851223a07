//! How long an upstream may take over each part of its work, and what happens when it takes longer.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    time::{Duration, Instant},
};

use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Frame;

use super::{
    ended,
    frames::{CANCEL, Came, Frames, data, head, ok},
    gate, pass,
    peer::{Peer, Wire, flow, whole},
};
use crate::support::{
    PATIENCE, Sidegate, Upstream,
    client::{Connection, request, try_request},
    wait_for,
};

const SHORT: Duration = Duration::from_millis(300);
/// What nothing here takes, even on a machine that is busy.
const LONG: Duration = Duration::from_secs(10);

#[test]
fn a_connection_has_to_be_made_in_time() {
    // It accepts, and never says a word of TLS.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let stranger = Peer::echo(&Wire::Tls(&[], false));
    let gate = gate(&format!(
        "urls: [\"https://{}\"], tls: {{ ca_file: {} }}, connect_timeout: 200ms",
        silent.local_addr().unwrap(),
        stranger.file("ca.pem").display()
    ));
    let start = Instant::now();
    let answer = gate.get("/", &[]);
    assert_eq!((answer.status, answer.member("error").as_str()), (504, "gateway_timeout"));
    assert!(start.elapsed() < LONG);
    assert_eq!(ended(&gate, "GET", 504, "upstream_connect_timeout"), 1.0);
    let failures = "sidegate_upstream_connection_failures_total{reason=\"timeout\",upstream=\"app\"}";
    wait_for("the attempt to be counted", || (gate.metric(failures) == 1.0).then_some(()));
}

#[test]
fn the_head_of_a_response_has_to_come_in_time() {
    let raw = Upstream::answering(|request| match request.target() {
        "/hang" => {
            pass(LONG);
            Vec::new()
        }
        _ => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
    });
    let frames = Frames::start(&[], |n, id| if n == 0 { Vec::new() } else { ok(id) });
    for url in [format!("http://{}", raw.address()), format!("h2c://{}", frames.address)] {
        let gate = gate(&format!("urls: [\"{url}\"], response_timeout: 300ms"));
        let start = Instant::now();
        assert_eq!(gate.get("/hang", &[]).status, 504, "{url}");
        assert!((SHORT..LONG).contains(&start.elapsed()), "{url}");
        assert_eq!(ended(&gate, "GET", 504, "upstream_response_timeout"), 1.0, "{url}");
        assert_eq!(gate.get("/", &[]).status, 200, "{url}");
    }
    // The stream was given up, and the connection was not.
    let came = frames.came();
    assert!(came.contains(&Came::Reset(1, CANCEL)) && came.contains(&Came::Head(3, true)), "{came:?}");
    assert_eq!(came.iter().filter(|came| **came == Came::Open).count(), 1);
    assert_eq!(raw.connections(), 2);
}

#[test]
fn an_upload_may_take_as_long_as_it_moves() {
    for wire in [Wire::Http1, Wire::Http2] {
        // The time it has begins with the end of the upload.
        let peer = Peer::start(&wire, |request| async {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            tokio::time::sleep(Duration::from_millis(150)).await;
            Response::new(whole(body))
        });
        let gate = gate(&format!("{}, response_timeout: 300ms", peer.config()));
        let mut connection = Connection::open(gate.address()).unwrap();
        connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n").unwrap();
        let start = Instant::now();
        for _ in 0..10 {
            pass(Duration::from_millis(100));
            connection.send(b"x").unwrap();
        }
        assert!(start.elapsed() > SHORT * 3);
        assert_eq!(connection.answer(false).unwrap().text(), "xxxxxxxxxx");
    }
}

#[test]
fn an_upload_that_the_upstream_does_not_take_is_given_up() {
    // It reads the head, and not the body.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let frames = Frames::start(&super::frames::NO_WINDOW, |_, _| Vec::new());
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.read_exact(&mut [0; 16]).unwrap();
        pass(LONG);
    });
    for url in [format!("http://{address}"), format!("h2c://{}", frames.address)] {
        let gate = gate(&format!("urls: [\"{url}\"], response_timeout: 300ms"));
        let mut connection = Connection::open(gate.address()).unwrap();
        let mut writer = connection.stream().try_clone().unwrap();
        std::thread::spawn(move || {
            // More than all buffers on the way hold.
            let body = vec![b'x'; 64 << 20];
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(&body));
        });
        let start = Instant::now();
        assert_eq!(connection.answer(false).unwrap().status, 504, "{url}");
        assert!(start.elapsed() < LONG, "{url}");
        assert_eq!(ended(&gate, "POST", 504, "upstream_response_timeout"), 1.0, "{url}");
    }
}

#[test]
fn an_upload_that_the_client_does_not_go_on_with_is_the_clients_fault() {
    let peer = Peer::echo(&Wire::Http1);
    let gate = gate(&format!("{}, response_timeout: 100ms, idle_timeout: 500ms", peer.config()));
    let mut connection = Connection::open(gate.address()).unwrap();
    connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nx").unwrap();
    assert_eq!(connection.answer(false).unwrap().status, 400);
    assert_eq!(ended(&gate, "POST", 400, "request_body_broken"), 1.0);
}

/// The answer breaks off, rather than end: nobody may take half of it for a whole one.
fn breaks_off(gate: &Sidegate) {
    let start = Instant::now();
    let broken = try_request(gate.address(), "GET", "/", &[], b"");
    assert!(broken.is_err(), "{broken:?}");
    assert!(start.elapsed() < LONG);
}

#[test]
fn a_response_that_stands_still_is_given_up() {
    for wire in [Wire::Http1, Wire::Http2] {
        let peer = Peer::start(&wire, |_| async {
            let (frames, body) = flow();
            tokio::spawn(async move {
                frames.send(Frame::data("half".into())).await.unwrap();
                frames.closed().await;
            });
            Response::new(body)
        });
        let gate = gate(&format!("{}, idle_timeout: 300ms", peer.config()));
        breaks_off(&gate);
        // The upstream hears of it; over HTTP/1.1 by the end of its connection, over HTTP/2 that goes on.
        let open = f64::from(u8::from(matches!(wire, Wire::Http2)));
        let connections = || gate.metric("sidegate_upstream_connections{upstream=\"app\"}");
        wait_for("the connection to end", || (connections() == open).then_some(()));
    }
}

#[test]
fn a_response_that_goes_on_for_ever_ends_with_the_time_it_has() {
    for wire in [Wire::Http1, Wire::Http2] {
        let peer = Peer::start(&wire, |request| async move {
            if request.uri().path() == "/late" {
                tokio::time::sleep(LONG).await;
            }
            let (frames, body) = flow();
            tokio::spawn(async move {
                for _ in 0..LONG.as_millis() / 20 {
                    if frames.send(Frame::data("more ".into())).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
            Response::new(body)
        });
        let gate = gate(&format!("{}, total_timeout: 400ms", peer.config()));
        let start = Instant::now();
        breaks_off(&gate);
        assert!(start.elapsed() >= Duration::from_millis(400));
        assert_eq!(gate.get("/late", &[]).status, 504);
        assert_eq!(ended(&gate, "GET", 504, "upstream_response_timeout"), 1.0);
    }
}

#[test]
fn a_grpc_client_says_how_long_it_waits() {
    let peer = Peer::start(&Wire::Http2, |request| async move {
        let hang = request.uri().path() == "/hang";
        if hang {
            tokio::time::sleep(LONG).await;
        }
        Response::new(whole(""))
    });
    let gate = gate(&peer.config());
    let ask = |path: &str, kind: &str, timeout: &str| {
        let headers = [("content-type", kind), ("grpc-timeout", timeout), ("te", "trailers")];
        request(gate.address(), "POST", path, &headers, b"\0\0\0\0\0").status
    };
    let start = Instant::now();
    for (kind, timeout) in [("application/grpc", "200m"), ("application/grpc+proto", "200000u")] {
        assert_eq!(ask("/hang", kind, timeout), 504, "{kind} {timeout}");
    }
    assert!((Duration::from_millis(400)..LONG).contains(&start.elapsed()));
    for (kind, timeout) in [
        ("application/grpc", "1H"),
        ("application/grpc", "200x"),
        ("application/grpc", "123456789n"),
        ("application/grpc", "m"),
        ("application/json", "1n"),
    ] {
        assert_eq!(ask("/", kind, timeout), 200, "{kind} {timeout}");
    }
}

#[test]
fn a_client_that_leaves_takes_its_stream_with_it() {
    let frames = Frames::start(&[], |n, id| match n {
        // A head and a half, a head alone, nothing at all.
        0 => [head(id), data(id, b"half")].concat(),
        1 => head(id),
        _ => Vec::new(),
    });
    let gate = gate(&format!("urls: [\"h2c://{}\"]", frames.address));
    for (n, stream) in [1, 3, 5].into_iter().enumerate() {
        let mut connection = Connection::open(gate.address()).unwrap();
        connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        wait_for("the request to arrive", || (frames.requests() == n + 1).then_some(()));
        drop(connection);
        wait_for("its end", || frames.came().contains(&Came::Reset(stream, CANCEL)).then_some(()));
    }
    assert_eq!(frames.came().iter().filter(|came| **came == Came::Open).count(), 1);
    assert!(PATIENCE > LONG);
}
