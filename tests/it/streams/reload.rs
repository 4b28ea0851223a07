//! No request fails because another configuration takes the place of the one that serves.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use super::{By, Over, connect, home, in_time, sockets::Sockets, websocket::say};
use crate::support::{
    PATIENCE, Sidegate, Upstream,
    client::request,
    frames::{Frames, Outcome},
};

const ADMIN: &str = "0123456789abcdef0123456789abcdef";

/// Puts a configuration there whole: it is looked at by itself as well, and half of one would be refused.
fn put(dir: &Path, yaml: &str) {
    let half = dir.join("half");
    fs::write(&half, yaml).unwrap();
    fs::set_permissions(&half, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(half, dir.join("config.yaml")).unwrap();
}

/// One request after the other on one connection, by HTTP/1.1; how many were answered.
fn ask_on(gate: SocketAddr, stop: &AtomicBool, answered: &AtomicUsize) {
    let mut stream = TcpStream::connect(gate).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(b"GET /plain HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let (mut line, mut length) = (String::new(), 0);
        answers.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200 "), "{line:?} after {} requests", answered.load(Ordering::Relaxed));
        while line != "\r\n" {
            line.clear();
            answers.read_line(&mut line).unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        std::io::Read::read_exact(&mut answers, &mut vec![0; length]).unwrap();
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// The same by HTTP/2.
fn ask_on_h2(gate: SocketAddr, stop: &AtomicBool, answered: &AtomicUsize) {
    let mut frames = Frames::open(gate, &[]);
    for stream in (1..).step_by(2) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        frames.get(stream, "/plain").unwrap();
        assert_eq!(frames.outcome(stream), Outcome::Status(200), "stream {stream}");
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_configurations_follow_each_other() {
    let home = home();
    let sockets = Sockets::start(By::Http, home.path()).await;
    let plain = Upstream::start();
    let yaml = |n: usize| {
        format!(
            "workers: 2\n\
             listeners:\n\
             \x20 - {{ name: plain, address: 127.0.0.1:0 }}\n\
             admin: {{ address: 127.0.0.1:0, token: {ADMIN} }}\n\
             limits: {{ max_streams: {} }}\n\
             upstreams:\n\
             \x20 - {{ name: sockets, {} }}\n\
             \x20 - {{ name: plain, urls: ['http://{}'], max_requests: {} }}\n\
             routes:\n\
             \x20 - {{ name: 'gone-{n}', match: {{ path: /gone/{n} }}, auth: none, upstream: plain }}\n\
             \x20 - {{ name: plain, match: {{ path: /plain }}, auth: none, upstream: plain }}\n\
             \x20 - {{ name: sockets, match: {{ path_prefix: /socket }}, auth: none, upstream: sockets }}\n",
            100 + n % 2,
            sockets.config,
            plain.address(),
            // Each other time the upstream is another one.
            500 + n / 2 % 2,
        )
    };
    let gate = Sidegate::start_in(home, &yaml(0));
    let address = gate.listener("plain");
    let rounds = if std::env::var_os("SIDEGATE_SOAK").is_some() { 2000 } else { 200 };
    let (stop, one, two) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));

    let request_ = "ws://localhost/socket".into_client_request().unwrap();
    let io = connect(&gate, Over::Plain).await;
    let (mut socket, _) = in_time("the handshake", client_async(request_, io)).await.unwrap();
    let said = thread::scope(|scope| {
        scope.spawn(|| ask_on(address, &stop, &one));
        scope.spawn(|| ask_on(address, &stop, &one));
        scope.spawn(|| ask_on_h2(address, &stop, &two));
        // Whatever fails, the others are told to stop.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for n in 1..=rounds {
                put(gate.dir(), &yaml(n));
                let bearer = format!("Bearer {ADMIN}");
                let answer = request(gate.admin_address(), "POST", "/admin/reload", &[("Authorization", &bearer)], b"");
                assert_eq!(answer.status, 200, "{answer:?}");
                let path = format!("/gone/{n}");
                assert_eq!(request(address, "GET", &path, &[], b"").status, 200, "{n} serves as soon as it is said");
                let before = format!("/gone/{}", n - 1);
                assert_eq!(request(address, "GET", &before, &[], b"").status, 404, "{n}");
            }
        }));
        stop.store(true, Ordering::Relaxed);
        outcome
    });
    said.unwrap();
    // The one that was opened first is still there.
    assert_eq!(say(&mut socket, Message::text("still there")).await, Message::text("still there"));
    let (one, two) = (one.into_inner(), two.into_inner());
    assert!(one > 200 && two > 50, "{one} and {two} requests beside {rounds} reloads");
    assert_eq!(gate.metric("sidegate_config_reloads_total{result=\"failed\"}"), 0.0);
}
