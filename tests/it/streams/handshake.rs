//! WebSocket handshakes that are none, or that are not answered as they should be; byte for byte.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
};

use super::{ALL, home, start};
use crate::support::{PATIENCE, Sidegate, Upstream, client::raw, tokens::TestKey};

/// What shows that the key of `UPGRADE` was read (RFC 6455 §1.3).
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The head of a handshake; what is empty is left out.
fn handshake(token: &str, method: &str, fields: &[&str]) -> String {
    let mut head = format!("{method} /x HTTP/1.1\r\nHost: h\r\n");
    for field in fields.iter().filter(|field| !field.is_empty()) {
        head += &format!("{field}\r\n");
    }
    if !token.is_empty() {
        head += &format!("Authorization: Bearer {token}\r\n");
    }
    head + "\r\n"
}

const UPGRADE: [&str; 4] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

fn gate(upstream: SocketAddr, key: &TestKey) -> Sidegate {
    start(home(), &format!("urls: ['http://{upstream}']"), key, ALL)
}

#[test]
fn what_is_malformed_is_refused() {
    let key = TestKey::new("ES256", "k");
    let (token, upstream) = (key.good(), Upstream::start());
    let gate = gate(upstream.address(), &key);
    let [connection, upgrade, version, sec_key] = UPGRADE;
    for (what, method, fields) in [
        ("no key", "GET", &[connection, upgrade, version][..]),
        ("two keys", "GET", &[connection, upgrade, version, sec_key, sec_key]),
        ("a short key", "GET", &[connection, upgrade, version, "Sec-WebSocket-Key: c2hvcnQ="]),
        ("a long key", "GET", &[connection, upgrade, version, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSE="]),
        (
            "a key that is not base64",
            "GET",
            &[connection, upgrade, version, "Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!=="],
        ),
        ("a POST", "POST", &[connection, upgrade, version, sec_key]),
        ("a HEAD", "HEAD", &[connection, upgrade, version, sec_key]),
        ("a body", "GET", &[connection, upgrade, version, sec_key, "Content-Length: 3"]),
        ("a body in chunks", "GET", &[connection, upgrade, version, sec_key, "Transfer-Encoding: chunked"]),
    ] {
        let body = if what.starts_with("a body") { "abc" } else { "" };
        let mut connection = crate::support::client::Connection::open(gate.listener("plain")).unwrap();
        connection.send((handshake(&token, method, fields) + body).as_bytes()).unwrap();
        let answer = connection.answer(method == "HEAD").unwrap();
        assert_eq!((answer.status, answer.header("upgrade")), (400, None), "{what}");
    }
    assert!(upstream.take().is_empty());
    let http_1_0 = handshake(&token, "GET", &UPGRADE).replace("HTTP/1.1", "HTTP/1.0");
    assert_eq!(raw(gate.listener("plain"), http_1_0.as_bytes()).unwrap().status, 400);
}

#[test]
fn another_upgrade_is_none() {
    let key = TestKey::new("ES256", "k");
    let (token, upstream) = (key.good(), Upstream::start());
    let gate = gate(upstream.address(), &key);
    let [connection, upgrade, version, sec_key] = UPGRADE;
    for fields in [
        &["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"][..],
        &[connection, "Upgrade: TLS/1.0"],
        &[connection, "Upgrade: websocket, h2c", version, sec_key],
        &[connection, upgrade, "Upgrade: h2c", version, sec_key],
        // Without the word in Connection it is not for the next hop at all.
        &[upgrade, version, sec_key],
    ] {
        let answer = raw(gate.listener("plain"), handshake(&token, "GET", fields).as_bytes()).unwrap();
        assert_eq!((answer.status, answer.text()), (200, "hello".to_owned()), "{fields:?}");
        let reached = upstream.only();
        let about: Vec<_> = ["upgrade", "connection", "http2-settings"].map(|name| reached.all(name)).concat();
        assert!(about.is_empty(), "{fields:?}: {about:?}");
    }
}

#[test]
fn an_agreement_that_is_none_opens_nothing() {
    let key = TestKey::new("ES256", "k");
    let token = key.good();
    let ours = || -> String { handshake(&token, "GET", &UPGRADE) };
    let plain = handshake(&token, "GET", &[]);
    let h2c = handshake(&token, "GET", &["Connection: Upgrade", "Upgrade: h2c"]);
    let right = |asked: &str| format!("Sec-WebSocket-Accept: {asked}");
    for (what, asked, answer) in [
        (
            "another's accept",
            ours(),
            vec!["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="],
        ),
        ("no accept", ours(), vec!["Connection: Upgrade", "Upgrade: websocket"]),
        ("two accepts", ours(), vec!["Connection: Upgrade", "Upgrade: websocket", "ACCEPT", "ACCEPT"]),
        ("no upgrade", ours(), vec!["Connection: Upgrade", "ACCEPT"]),
        ("another upgrade", ours(), vec!["Connection: Upgrade", "Upgrade: h2c", "ACCEPT"]),
        ("no connection", ours(), vec!["Upgrade: websocket", "ACCEPT"]),
        (
            "nobody asked",
            plain,
            vec!["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="],
        ),
        ("nobody asked for that", h2c, vec!["Connection: Upgrade", "Upgrade: h2c"]),
    ] {
        let fields: Vec<String> = answer.iter().map(|field| (*field).to_owned()).collect();
        let upstream = Upstream::answering(move |request| {
            let mut head = "HTTP/1.1 101 Switching Protocols\r\n".to_owned();
            for field in &fields {
                let field = match (&**field, request.all("sec-websocket-key").first()) {
                    ("ACCEPT", Some(key)) => right(&accept(key)),
                    _ => field.clone(),
                };
                head += &format!("{field}\r\n");
            }
            (head + "\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes()
        });
        let gate = gate(upstream.address(), &key);
        let got = raw(gate.listener("plain"), asked.as_bytes()).unwrap();
        assert_eq!((got.status, got.header("upgrade")), (502, None), "{what}");
        assert_eq!(gate.metric("sidegate_tunnels"), 0.0);
    }
}

/// What shows that a key was read.
pub(super) fn accept(key: &str) -> String {
    use base64::Engine as _;
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(hash)
}

/// An upstream that answers the first head it gets on each connection, and tells all that comes after it.
fn one_answer(answer: impl Fn(&str) -> String + Send + 'static) -> (SocketAddr, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (send, rest) = mpsc::channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let (head, mut after) = read_head(&mut stream);
            stream.write_all(answer(&head).as_bytes()).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let _ = stream.read_to_end(&mut after);
            send.send(after).unwrap();
        }
    });
    (address, rest)
}

/// Reads up to the end of a head, and what came with it.
fn read_head(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let (mut read, mut room) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            return (String::from_utf8(read).unwrap(), rest);
        }
        match stream.read(&mut room).unwrap() {
            0 => panic!("it ended after {:?}", String::from_utf8_lossy(&read)),
            n => read.extend_from_slice(&room[..n]),
        }
    }
}

fn key_in(head: &str) -> &str {
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("sec-websocket-key:")).unwrap();
    line.split_once(':').unwrap().1.trim()
}

fn send(gate: &Sidegate, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gate.listener("plain")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    stream
}

#[test]
fn what_is_said_too_early_waits_for_the_agreement() {
    let key = TestKey::new("ES256", "k");
    // What looks like a request, too: hyper would take it for the next one.
    for early in ["\u{1}\u{2}early", "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\nmore", "\r\n\r\n\r\n"] {
        let (upstream, rest) = one_answer(|head| {
            let accept = accept(key_in(head));
            format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\
                     Sec-WebSocket-Extensions: permessage-deflate\r\nContent-Length: 7\r\n\
                     Sec-WebSocket-Accept: {accept}\r\n\r\nat once"
            )
        });
        let gate = gate(upstream, &key);
        let mut client = send(&gate, &(handshake(&key.good(), "GET", &UPGRADE) + early));
        let (head, mut after) = read_head(&mut client);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let head = head.to_ascii_lowercase();
        for line in [
            "\r\nconnection: upgrade\r\n",
            "\r\nupgrade: websocket\r\n",
            "\r\nsec-websocket-extensions: permessage-deflate\r\n",
            &format!("\r\nsec-websocket-accept: {}\r\n", ACCEPT.to_ascii_lowercase()),
        ] {
            assert_eq!(head.matches(line).count(), 1, "{line:?} in {head}");
        }
        assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
        while after.len() < 7 {
            let mut room = [0; 16];
            let n = client.read(&mut room).unwrap();
            after.extend_from_slice(&room[..n]);
        }
        assert_eq!(after, b"at once");
        client.write_all(b" and later").unwrap();
        drop(client);
        let rest = rest.recv_timeout(PATIENCE).unwrap();
        assert_eq!(String::from_utf8(rest).unwrap(), early.to_owned() + " and later");
    }
}

#[test]
fn what_is_said_too_early_goes_nowhere_without_it() {
    let key = TestKey::new("ES256", "k");
    for (answer, status) in [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", 200),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 502),
    ] {
        let (upstream, rest) = one_answer(move |_| answer.to_owned());
        let gate = gate(upstream, &key);
        let mut client = send(&gate, &(handshake(&key.good(), "GET", &UPGRADE) + "early\r\n\r\n"));
        let (head, _) = read_head(&mut client);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        client.write_all(b"late").unwrap();
        // The connection ends: what is on it now is no request.
        let ended = client.read_to_end(&mut Vec::new());
        assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
        assert_eq!(rest.recv_timeout(PATIENCE).unwrap(), b"", "{status}");
    }
}

#[test]
fn without_a_token_the_upstream_hears_nothing() {
    let key = TestKey::new("ES256", "k");
    let upstream = Upstream::start();
    let gate = gate(upstream.address(), &key);
    let answer = raw(gate.listener("plain"), handshake("", "GET", &UPGRADE).as_bytes()).unwrap();
    assert_eq!((answer.status, answer.member("error")), (401, "unauthorized".to_owned()));
    assert_eq!((upstream.connections(), upstream.take().len()), (0, 0));
}
