//! What is spoken with an upstream: each of the protocols, over each of the ways.

use std::sync::mpsc;

use http::Version;

use super::{
    config, ended, gate,
    peer::{Peer, WIRES, Wire, version, whole},
};
use crate::support::{
    Sidegate,
    client::{Connection, request},
    wait_for,
};

#[test]
fn a_request_reaches_an_upstream_of_every_kind() {
    let body: Vec<u8> = (0..3 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for wire in &WIRES {
        let peer = Peer::echo(wire);
        let gate = gate(&peer.config());
        let url = peer.url();
        let mut connection = Connection::open(gate.address()).unwrap();
        let head =
            "GET /a/b?c=%2F HTTP/1.1\r\nHost: app.example:81\r\nX-Kept: 1\r\nX-Kept: 2\r\nConnection: keep-alive\r\n";
        for _ in 0..3 {
            connection.send(format!("{head}\r\n").as_bytes()).unwrap();
            assert_eq!(connection.answer(false).unwrap().status, 200, "{url}");
            let head = peer.only().head;
            assert_eq!(
                (head.version, head.uri.path_and_query().unwrap().as_str()),
                (version(wire), "/a/b?c=%2F"),
                "{url}"
            );
            // Where HTTP/2 has its authority, HTTP/1.1 has Host; each has one of them.
            let host = head.headers.get("host").map(|host| host.to_str().unwrap().to_owned());
            let authority = head.uri.authority().map(ToString::to_string);
            let named = Some("app.example:81".to_owned());
            let expected = if head.version == Version::HTTP_2 { (None, named) } else { (named, None) };
            assert_eq!((host, authority), expected, "{url}");
            let kept: Vec<_> = head.headers.get_all("x-kept").iter().collect();
            assert_eq!(kept, ["1", "2"], "{url}");
            assert!(!head.headers.contains_key("connection"), "{url}");
            assert_eq!(head.headers["x-forwarded-host"], "app.example:81", "{url}");
        }
        let answer = request(gate.address(), "POST", "/", &[], &body);
        assert!(answer.status == 200 && answer.body == body, "{url}");
        assert_eq!(peer.only().head.headers["content-length"], body.len().to_string().as_str(), "{url}");
        let mut chunked = Connection::open(gate.address()).unwrap();
        chunked.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        for chunk in body.chunks(100_003) {
            chunked.send(&[format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat()).unwrap();
        }
        chunked.send(b"0\r\n\r\n").unwrap();
        assert!(chunked.answer(false).unwrap().body == body, "{url}");
        let seen = peer.only();
        assert_eq!(seen.head.headers.contains_key("transfer-encoding"), version(wire) == Version::HTTP_11, "{url}");
        let nothing = request(gate.address(), "HEAD", "/", &[], b"");
        assert!(nothing.status == 200 && nothing.body.is_empty(), "{url}");
        assert_eq!(peer.connections(), 1, "{url}");
        assert_eq!(gate.metric("sidegate_upstream_connections{upstream=\"app\"}"), 1.0, "{url}");
    }
}

#[test]
fn a_client_that_names_no_host_is_taken_to_mean_the_upstreams_own() {
    for wire in [Wire::Http1, Wire::Http2, Wire::Unix] {
        let peer = Peer::echo(&wire);
        let gate = gate(&peer.config());
        let answer = crate::support::client::raw(gate.address(), b"GET /x HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!(answer.status, 200);
        let head = peer.only().head;
        let named = head.uri.authority().map_or_else(|| head.headers["host"].to_str().unwrap(), |named| named.as_str());
        let expected = peer.url();
        let expected = if let Wire::Unix = wire { "localhost" } else { expected.split_once("://").unwrap().1 };
        assert_eq!(named, expected);
    }
}

#[test]
fn an_upstream_is_believed_for_its_certificate_alone() {
    let peer = Peer::echo(&Wire::Tls(&["h2"], false));
    let stranger = Peer::echo(&Wire::Tls(&["h2"], false));
    let (url, ours, theirs) = (peer.url(), peer.file("ca.pem"), stranger.file("ca.pem"));
    for (tls, expected) in [
        (format!("ca_file: {}", ours.display()), 200),
        (format!("ca_file: {}, server_name: localhost", ours.display()), 200),
        (format!("ca_file: {}, server_name: app.example", ours.display()), 502),
        (format!("ca_file: {}", theirs.display()), 502),
    ] {
        let gate = gate(&format!("urls: [\"{url}\"], tls: {{ {tls} }}"));
        let answer = gate.get("/", &[]);
        assert_eq!(answer.status, expected, "{tls}");
        let untrusted = f64::from(u8::from(expected == 502));
        assert_eq!(ended(&gate, "GET", 502, "upstream_untrusted"), untrusted, "{tls}");
        let failures = "sidegate_upstream_connection_failures_total{reason=\"tls\",upstream=\"app\"}";
        assert_eq!(gate.metric(failures), untrusted, "{tls}");
        assert_eq!(peer.take().len(), usize::from(expected == 200), "{tls}");
    }
}

#[test]
fn an_upstream_is_shown_our_certificate() {
    let peer = Peer::echo(&Wire::Tls(&["h2"], true));
    let named =
        |tls: &str| format!("urls: [\"{}\"], tls: {{ ca_file: {}{tls} }}", peer.url(), peer.file("ca.pem").display());
    let shown = format!(
        ", client_certificate: {{ cert_file: {}, key_file: {} }}",
        peer.file("cert.pem").display(),
        peer.file("key.pem").display()
    );
    assert_eq!(gate(&named(&shown)).get("/", &[]).status, 200);
    assert_eq!(gate(&named("")).get("/", &[]).status, 502);
    assert_eq!(peer.take().len(), 1);
}

#[test]
fn requests_share_a_connection_up_to_its_bound() {
    for wire in [Wire::Http2, Wire::Tls(&["h2"], false)] {
        let (arrived, arrivals) = mpsc::channel();
        let (open, gates) = tokio::sync::watch::channel(false);
        let peer = Peer::start(&wire, move |_| {
            let (arrived, mut gates) = (arrived.clone(), gates.clone());
            async move {
                arrived.send(()).unwrap();
                gates.wait_for(|open| *open).await.unwrap();
                http::Response::new(whole("late"))
            }
        });
        let gate = gate(&format!("{}, max_streams_per_connection: 3", peer.config()));
        // All at once, so that they find no connection: one is made for all of them, and another for those beyond.
        let mut clients: Vec<_> = (0..5).map(|_| Connection::open(gate.address()).unwrap()).collect();
        for client in &mut clients {
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        }
        for _ in 0..5 {
            arrivals.recv_timeout(crate::support::PATIENCE).unwrap();
        }
        assert_eq!(peer.connections(), 2);
        open.send(true).unwrap();
        for client in &mut clients {
            assert_eq!(client.answer(false).unwrap().text(), "late");
        }
    }
}

#[test]
fn a_connection_without_work_is_closed_in_time() {
    for wire in [Wire::Http1, Wire::Http2] {
        let peer = Peer::echo(&wire);
        let gate = gate(&format!("{}, keep_alive: 100ms", peer.config()));
        assert_eq!(gate.get("/", &[]).status, 200);
        let open = || gate.metric("sidegate_upstream_connections{upstream=\"app\"}");
        wait_for("the connection to be closed", || (open() == 0.0).then_some(()));
        assert_eq!(gate.get("/", &[]).status, 200);
        assert_eq!((peer.connections(), open()), (2, 1.0));
    }
}

#[test]
fn an_upstream_that_is_configured_in_another_way_is_another_upstream() {
    let (one, two) = (Peer::echo(&Wire::Http1), Peer::echo(&Wire::Http2));
    let yaml = config(&one.config()).replace(
        "routes: [",
        &format!(
            "  - {{ name: two, {} }}\nroutes: [{{ name: two, match: {{ path: /two }}, auth: none, upstream: two }}, ",
            two.config()
        ),
    );
    let yaml =
        yaml.replace("upstreams: [{ name: app, ", "upstreams:\n  - { name: app, ").replace(" }]\n  - {", " }\n  - {");
    let gate = Sidegate::start(&yaml);
    assert_eq!((gate.get("/two", &[]).status, gate.get("/one", &[]).status), (200, 200));
    assert_eq!((two.only().head.uri.path(), one.only().head.uri.path()), ("/two", "/one"));
}
