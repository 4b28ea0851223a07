//! The server: HTTP/1.1 and TLS as clients speak them, and what they may take up. Deadlines, the drain, and who may start
//! have files of their own.

mod attacks;
mod deadlines;
mod drain;
mod head;
mod http2;
mod owner;

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::SocketAddr,
    time::Duration,
};

use rustls::{ProtocolVersion, version};

use crate::support::{
    Sidegate, Upstream,
    client::{Connection, raw, request},
    config,
    tls::{self, certify},
    wait_for,
};

/// One route that lets everybody in, and `more` sections.
fn open_config(upstream: SocketAddr, more: &str) -> String {
    config(
        upstream,
        &format!("routes: [{{ name: all, match: {{ path_prefix: / }}, auth: none, upstream: app }}]\n{more}"),
    )
}

/// The same with the one listener speaking TLS, by a certificate whose CA is in `ca.pem` of the folder.
fn start_tls(upstream: SocketAddr, more: &str) -> Sidegate {
    let dir = tempfile::tempdir().unwrap();
    certify(dir.path());
    let yaml = open_config(upstream, more).replace(
        "{ name: public, address: 127.0.0.1:0 }",
        "{ name: public, address: 127.0.0.1:0, tls: { certificates: [{ cert_file: cert.pem, key_file: key.pem }] } }",
    );
    Sidegate::start_in(dir, &yaml)
}

/// How often Sidegate has ended a connection for this cause.
fn closed(gate: &Sidegate, cause: &str) -> f64 {
    gate.metric(&format!("sidegate_connections_closed_total{{cause=\"{cause}\"}}"))
}

/// An upstream that answers with the path it was asked for.
fn echo() -> Upstream {
    Upstream::answering(|request| {
        let body = if request.line.starts_with("HEAD ") { "" } else { request.target() };
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", request.target().len()).into_bytes()
    })
}

const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn a_connection_carries_one_request_after_another() {
    let upstream = echo();
    let gate = Sidegate::start(&open_config(upstream.address(), ""));
    let mut connection = Connection::open(gate.address()).unwrap();
    for n in 0..3 {
        connection.send(format!("GET /{n} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(connection.answer(false).unwrap().text(), format!("/{n}"));
    }
    // A refusal is no reason to hang up; neither is an answer without a body.
    connection.send(b"GET /a//b HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!(connection.answer(false).unwrap().status, 400);
    connection.send(b"HEAD /head HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let head = connection.answer(true).unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("5")));
    connection.send(b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(connection.answer(false).unwrap().text(), "/last");
    assert!(connection.is_closed());
    assert_eq!(gate.metric("sidegate_connections_accepted_total{listener=\"public\"}"), 1.0);
    wait_for("no connection to be open", || {
        (gate.metric("sidegate_connections{listener=\"public\"}") == 0.0).then_some(())
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = echo();
    let gate = Sidegate::start(&open_config(upstream.address(), ""));
    let mut connection = Connection::open(gate.address()).unwrap();
    let post = "POST /3 HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody";
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    let all = [get("/1"), get("/a//b"), post.into(), get("/4")].concat();
    connection.send(all.as_bytes()).unwrap();
    let answers: Vec<_> = (0..4).map(|_| connection.answer(false).unwrap()).collect();
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 400, 200, 200]);
    assert_eq!([0, 2, 3].map(|n| answers[n].text()), ["/1", "/3", "/4"]);
    assert_eq!(upstream.take()[1].body, b"body");
}

#[test]
fn http_1_0_is_spoken_to_who_speaks_it() {
    let upstream = echo();
    let gate = Sidegate::start(&open_config(upstream.address(), ""));
    let mut connection = Connection::open(gate.address()).unwrap();
    connection.send(b"GET /one HTTP/1.0\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!(connection.answer(false).unwrap().text(), "/one");
    assert!(connection.is_closed(), "nobody asked to keep it");
    let mut connection = Connection::open(gate.address()).unwrap();
    for path in ["/two", "/three"] {
        let request = format!("GET {path} HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n");
        connection.send(request.as_bytes()).unwrap();
        assert_eq!(connection.answer(false).unwrap().text(), path);
    }
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let upstream = Upstream::start();
    let gate = Sidegate::start(&open_config(upstream.address(), "limits: { max_header_bytes: 8KiB }"));
    let of_size = |size: usize| {
        let head = "GET / HTTP/1.1\r\nHost: h\r\nX-Long: ";
        format!("{head}{}\r\n\r\n", "a".repeat(size - head.len() - 4))
    };
    assert_eq!(raw(gate.address(), of_size(8000).as_bytes()).unwrap().status, 200);
    upstream.take();
    for head in [
        of_size(8193),
        format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "p".repeat(8192)),
        format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(2000)),
        // It never ends; what has come is enough to know.
        of_size(9000).trim_end().to_owned(),
    ] {
        let mut connection = Connection::open(gate.address()).unwrap();
        connection.send(head.as_bytes()).unwrap();
        assert_eq!(connection.answer(false).unwrap().status, 431, "{} bytes", head.len());
        assert!(connection.is_closed());
    }
    assert!(upstream.take().is_empty());
    assert_eq!(gate.get("/", &[]).status, 200);
}

#[test]
fn further_connections_wait_for_a_place() {
    let upstream = echo();
    let gate = Sidegate::start(&open_config(upstream.address(), "limits: { max_connections: 2 }"));
    let open = || gate.metric("sidegate_connections{listener=\"public\"}");
    let mut first: Vec<_> = (0..2).map(|_| Connection::open(gate.address()).unwrap()).collect();
    for connection in &mut first {
        connection.send(GET).unwrap();
        assert_eq!(connection.answer(false).unwrap().status, 200);
    }
    let mut waiting: Vec<_> = (0..3).map(|_| Connection::open(gate.address()).unwrap()).collect();
    for connection in &mut waiting {
        connection.send(b"GET /late HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    }
    // Those that are in are served on meanwhile, and nothing comes to those that wait.
    for connection in &mut first {
        connection.send(GET).unwrap();
        assert_eq!(connection.answer(false).unwrap().status, 200);
    }
    let socket = waiting[0].stream();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert_eq!(socket.peek(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    socket.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    assert_eq!((open(), upstream.take().len()), (2.0, 4));
    // One place is enough for all of them, one after the other.
    first.pop();
    for connection in &mut waiting {
        assert_eq!(connection.answer(false).unwrap().text(), "/late");
    }
    wait_for("one to be left", || (open() == 1.0).then_some(()));
}

#[test]
fn a_quiet_listener_keeps_no_place_from_another() {
    let upstream = Upstream::start();
    let yaml = open_config(upstream.address(), "limits: { max_connections: 1 }").replace(
        "{ name: public, address: 127.0.0.1:0 }",
        "{ name: one, address: 127.0.0.1:0 }, { name: two, address: 127.0.0.1:0 }",
    );
    let gate = Sidegate::start(&yaml);
    for name in ["one", "two", "two", "one", "two", "one", "one"] {
        assert_eq!(request(gate.listener(name), "GET", "/", &[], b"").status, 200, "{name}");
    }
}

#[test]
fn workers_share_the_connections() {
    let upstream = echo();
    let gate = Sidegate::start(&open_config(upstream.address(), "").replace("workers: 1", "workers: 2"));
    let mut connections: Vec<_> = (0..40).map(|_| Connection::open(gate.address()).unwrap()).collect();
    // What a worker waits for is in an epoll instance of its own: half of the connections, and little else.
    wait_for("each worker to have half of the connections", || {
        let most = sockets_watched(gate.pid()).into_iter().max();
        (20..25).contains(&most.unwrap()).then_some(())
    });
    for round in 0..3 {
        for (n, connection) in connections.iter_mut().enumerate() {
            connection.send(format!("GET /{round}/{n} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).unwrap();
        }
        for (n, connection) in connections.iter_mut().enumerate() {
            assert_eq!(connection.answer(false).unwrap().text(), format!("/{round}/{n}"));
        }
    }
    assert_eq!(gate.metric("sidegate_connections{listener=\"public\"}"), 40.0);
}

/// How many descriptors each epoll instance of a process waits for (proc(5), fdinfo).
fn sockets_watched(pid: u32) -> Vec<usize> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    let infos = descriptors.filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok());
    infos.map(|info| info.lines().filter(|line| line.starts_with("tfd:")).count()).filter(|count| *count > 0).collect()
}

#[test]
fn tls_1_2_and_1_3_are_spoken() {
    let upstream = Upstream::answering(|request| {
        let size = request.target()[1..].parse().unwrap();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n{}", "x".repeat(size)).into_bytes()
    });
    let gate = start_tls(upstream.address(), "");
    assert!(gate.url("/").starts_with("https://"));
    let ca = gate.dir().join("ca.pem");
    for (version, spoken) in [(&version::TLS12, ProtocolVersion::TLSv1_2), (&version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let mut stream = tls::connect(gate.address(), &ca, version, &["http/1.1"]).unwrap();
        assert_eq!(stream.conn.protocol_version(), Some(spoken));
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        // The second answer is larger than any buffer on its way.
        for (size, more) in [(3, ""), (8 << 20, "Connection: close\r\n")] {
            stream.write_all(format!("GET /{size} HTTP/1.1\r\nHost: h\r\n{more}\r\n").as_bytes()).unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                answer.extend(byte);
            }
            assert!(answer.starts_with(b"HTTP/1.1 200 "), "{answer:?}");
            let mut body = vec![0; size];
            stream.read_exact(&mut body).unwrap();
            assert!(body.iter().all(|byte| *byte == b'x'));
        }
        // With close_notify, or this would be an error.
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        // Who does not ask for a protocol by name speaks HTTP/1.1 too; who asks for others alone is told so.
        let mut stream = tls::connect(gate.address(), &ca, version, &[]).unwrap();
        stream.write_all(b"GET /3 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("\r\n\r\nxxx"), "{answer}");
        assert!(tls::connect(gate.address(), &ca, version, &["h3"]).is_err());
        // Of the two it speaks, the newer one comes first, whatever the client's order.
        let stream = tls::connect(gate.address(), &ca, version, &["http/1.1", "h2"]).unwrap();
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]));
    }
    assert_eq!(upstream.take()[0].all("x-forwarded-proto"), ["https"]);
}

#[test]
fn what_is_not_tls_is_hung_up_on() {
    let upstream = Upstream::start();
    let gate = start_tls(upstream.address(), "");
    let mut connection = Connection::open(gate.address()).unwrap();
    connection.send(GET).unwrap();
    connection.is_closed();
    wait_for("the failure to be counted", || (closed(&gate, "handshake_failed") == 1.0).then_some(()));
    // A certificate of somebody else's CA is not taken, and that is the client's failure.
    let other = tempfile::tempdir().unwrap();
    assert!(tls::connect(gate.address(), &certify(other.path()), &version::TLS13, &[]).is_err());
    assert!(upstream.take().is_empty());
    tls::connect(gate.address(), &gate.dir().join("ca.pem"), &version::TLS13, &[]).unwrap();
}
