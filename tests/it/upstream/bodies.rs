//! Bodies of any size, in bounded memory; answers that come before the question has been asked.

use std::{
    io::{Read as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
};

use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Frame;

use super::{
    frames::{Came, Frames, NO_WINDOW, ok},
    gate,
    peer::{Peer, Wire, flow, whole},
};
use crate::support::{Sidegate, Upstream, client::Connection, wait_for};

const MIB: usize = 1 << 20;
const LARGE: usize = 96 * MIB;
const PIECE: usize = 64 * 1024;

/// Resident memory, in bytes.
fn memory(gate: &Sidegate) -> usize {
    gate.metric("process_resident_memory_bytes") as usize
}

/// Waits until a count no longer changes.
fn settled(count: &AtomicUsize) -> usize {
    let mut last = (count.load(SeqCst), std::time::Instant::now());
    wait_for("it to stand still", || {
        let now = count.load(SeqCst);
        if now != last.0 {
            last = (now, std::time::Instant::now());
        }
        (now > 0 && last.1.elapsed().as_millis() > 300).then_some(now)
    })
}

#[test]
fn a_slow_reader_holds_the_upstream_back() {
    for wire in [Wire::Http1, Wire::Http2, Wire::Tls(&["h2"], false)] {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        let peer = Peer::start(&wire, move |_| {
            let count = count.clone();
            async move {
                let (frames, body) = flow();
                tokio::spawn(async move {
                    for _ in 0..LARGE / PIECE {
                        if frames.send(Frame::data(vec![b'x'; PIECE].into())).await.is_err() {
                            return;
                        }
                        count.fetch_add(PIECE, SeqCst);
                    }
                });
                Response::new(body)
            }
        });
        let gate = gate(&peer.config());
        assert!(memory(&gate) > 0);
        let before = memory(&gate);
        let mut connection = Connection::open(gate.address()).unwrap();
        connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        // What is on its way lies in the kernel's buffers for the most part.
        let on_its_way = settled(&sent);
        assert!(on_its_way < LARGE / 2, "{}: {on_its_way}", peer.url());
        let grown = memory(&gate).saturating_sub(before);
        assert!(grown < 8 * MIB, "{}: {grown} bytes for one response", peer.url());
        assert_eq!(connection.answer(false).unwrap().body.len(), LARGE);
        assert_eq!(sent.load(SeqCst), LARGE);
    }
}

#[test]
fn a_slow_upstream_holds_the_client_back() {
    for wire in [Wire::Http1, Wire::Http2, Wire::Tls(&["h2"], false)] {
        let (go, wait) = tokio::sync::watch::channel(false);
        let peer = Peer::start(&wire, move |request| {
            let mut wait = wait.clone();
            async move {
                wait.wait_for(|go| *go).await.unwrap();
                let length = request.into_body().collect().await.unwrap().to_bytes().len();
                Response::new(whole(length.to_string()))
            }
        });
        let gate = gate(&peer.config());
        let before = memory(&gate);
        let mut connection = Connection::open(gate.address()).unwrap();
        let mut writer = connection.stream().try_clone().unwrap();
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        std::thread::spawn(move || {
            writer
                .write_all(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n").as_bytes())
                .unwrap();
            for _ in 0..LARGE / PIECE {
                writer.write_all(&[b'x'; PIECE]).unwrap();
                count.fetch_add(PIECE, SeqCst);
            }
        });
        let on_its_way = settled(&sent);
        assert!(on_its_way < LARGE / 2, "{}: {on_its_way}", peer.url());
        let grown = memory(&gate).saturating_sub(before);
        assert!(grown < 8 * MIB, "{}: {grown} bytes for one request", peer.url());
        go.send(true).unwrap();
        assert_eq!(connection.answer(false).unwrap().text(), LARGE.to_string());
    }
}

#[test]
fn one_slow_reader_does_not_hold_the_others_back() {
    let peer = Peer::start(&Wire::Http2, |request| async move {
        Response::new(whole(if request.uri().path() == "/large" { vec![b'x'; 8 * MIB] } else { b"small".to_vec() }))
    });
    let gate = gate(&peer.config());
    let mut slow: Vec<_> = (0..20).map(|_| Connection::open(gate.address()).unwrap()).collect();
    for connection in &mut slow {
        connection.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        wait_for("its first bytes", || (connection.stream().peek(&mut [0]).unwrap() > 0).then_some(()));
    }
    for _ in 0..10 {
        assert_eq!(gate.get("/small", &[]).text(), "small");
    }
    assert_eq!(peer.connections(), 1);
    for connection in &mut slow {
        assert_eq!(connection.answer(false).unwrap().body.len(), 8 * MIB);
    }
}

#[test]
fn both_ways_at_once() {
    // Each piece is answered before the next one is sent.
    for wire in [Wire::Http1, Wire::Http2] {
        let peer = Peer::start(&wire, |request| async move {
            let (frames, answer) = flow();
            tokio::spawn(async move {
                let mut body = request.into_body();
                while let Some(Ok(frame)) = body.frame().await {
                    if frames.send(frame).await.is_err() {
                        return;
                    }
                }
            });
            Response::new(answer)
        });
        let gate = gate(&peer.config());
        let mut connection = Connection::open(gate.address()).unwrap();
        connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        let mut seen = Vec::new();
        for piece in ["one", "two", "three"] {
            connection.send(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).unwrap();
            wait_for(piece, || {
                let mut buffer = [0; 1024];
                let n = connection.stream().read(&mut buffer).unwrap();
                seen.extend_from_slice(&buffer[..n]);
                String::from_utf8_lossy(&seen).contains(piece).then_some(())
            });
        }
        connection.send(b"0\r\n\r\n").unwrap();
        wait_for("the end", || {
            let mut buffer = [0; 1024];
            let n = connection.stream().read(&mut buffer).unwrap();
            seen.extend_from_slice(&buffer[..n]);
            seen.ends_with(b"\r\n0\r\n\r\n").then_some(())
        });
    }
}

#[test]
fn an_answer_that_comes_before_the_question_ends_its_connection() {
    // It answers as soon as it has the head, and would take the rest of the body for another request.
    let (done, closed) = mpsc::channel();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            stream.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nlarge").unwrap();
            let done = done.clone();
            std::thread::spawn(move || {
                // Until the gate hangs up.
                let read = std::io::copy(&mut stream, &mut std::io::sink());
                let _ = done.send(read.unwrap_or(0));
            });
        }
    });
    let gate = gate(&format!("urls: [http://{address}]"));
    for n in 1..3 {
        let mut connection = Connection::open(gate.address()).unwrap();
        connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nbeginning").unwrap();
        let answer = connection.answer(false).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (413, "large"));
        assert!(closed.recv_timeout(crate::support::PATIENCE).unwrap() < 100, "{n}");
    }
    // A body that was sent whole leaves the connection as it should be.
    let upstream = Upstream::start();
    let gate = self::gate(&format!("urls: [http://{}]", upstream.address()));
    for _ in 0..3 {
        assert_eq!(crate::support::request(gate.address(), "POST", "/", &[], b"whole").status, 200);
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn an_answer_that_comes_before_the_question_ends_its_stream() {
    let frames = Frames::start(&[], |_, id| ok(id));
    let gate = gate(&format!("urls: [\"h2c://{}\"]", frames.address));
    let mut connection = Connection::open(gate.address()).unwrap();
    connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nbeginning").unwrap();
    assert_eq!(connection.answer(false).unwrap().status, 200);
    wait_for("its end", || frames.came().iter().any(|came| matches!(came, Came::Reset(1, _))).then_some(()));
    assert_eq!(gate.get("/", &[]).status, 200);
    assert!(frames.came().contains(&Came::Head(3, true)), "the connection goes on");
}

#[test]
fn a_stream_that_cannot_be_ended_ends_its_connection() {
    // The upstream answers, and never takes the body: nothing can be sent on that stream, and its place would be lost.
    let frames = Frames::start(&NO_WINDOW, |_, id| ok(id));
    let gate = gate(&format!("urls: [\"h2c://{}\"]", frames.address));
    // By then its settings have come, too.
    assert_eq!(gate.get("/", &[]).status, 200);
    let mut connection = Connection::open(gate.address()).unwrap();
    connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nbeginning").unwrap();
    assert_eq!(connection.answer(false).unwrap().status, 200);
    wait_for("the end of the connection", || frames.came().contains(&Came::Closed).then_some(()));
    assert_eq!(gate.get("/", &[]).status, 200);
}
