//! What comes after a body, both ways.

use std::io::{Read as _, Write as _};

use http::{HeaderMap, HeaderValue, Response};
use hyper::body::Frame;

use super::{
    gate,
    peer::{Peer, Wire, flow},
};
use crate::support::{Sidegate, Upstream, client::Connection};

/// Sends a request and reads to the end of the connection.
fn all_of(gate: &Sidegate, request: &str) -> String {
    let mut connection = Connection::open(gate.address()).unwrap();
    connection.send(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.stream().read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn trailers_of_a_response_reach_a_client_that_takes_them() {
    let raw = Upstream::with(|_, stream| {
        stream
            .write_all(
                b"HTTP/1.1 200 OK\r\nTrailer: x-sum, content-length, keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n\
                  5\r\nhello\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\nKeep-Alive: x\r\n\r\n",
            )
            .is_ok()
    });
    let http2 = Peer::start(&Wire::Http2, |_| async {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("7"));
        trailers.insert("content-length", HeaderValue::from_static("9"));
        let (frames, body) = flow();
        tokio::spawn(async move {
            frames.send(Frame::data("hello".into())).await.unwrap();
            frames.send(Frame::trailers(trailers)).await.unwrap();
        });
        Response::builder().header("trailer", "x-sum, content-length").body(body).unwrap()
    });
    for upstream in [format!("urls: [http://{}]", raw.address()), http2.config()] {
        let gate = gate(&upstream);
        let taken = all_of(&gate, "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n");
        let (head, body) = taken.split_once("\r\n\r\n").unwrap();
        assert!(head.to_lowercase().contains("\r\ntrailer: x-sum"), "{head}");
        assert_eq!(body.to_lowercase(), "5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n", "{upstream}");
        let refused = all_of(&gate, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(refused.ends_with("\r\n5\r\nhello\r\n0\r\n\r\n"), "{refused}");
    }
    let reached = raw.take();
    assert_eq!((reached[0].all("te"), reached[1].all("te")), (vec!["trailers"], vec![]));
}

#[test]
fn trailers_of_a_request_reach_the_upstream_without_what_is_ours_to_say() {
    for wire in [Wire::Http1, Wire::Http2] {
        let peer = Peer::echo(&wire);
        let gate = Sidegate::start(&super::config(&peer.config()).replace(
            "routes: [",
            "providers: [{ name: p, issuer: https://i.example, audiences: [a], hmac_secret: 0123456789012345678901234567890123456789, algorithms: [HS256] }]\n\
             routes: [{ name: closed, match: { path: /closed }, claim_headers: [{ claim: sub, header: x-auth-subject }], upstream: app }, ",
        ));
        let names = [
            "x-sum",
            "authorization",
            "host",
            "cookie",
            "x-auth-subject",
            "x_auth_subject",
            "x-forwarded-for",
            "x-forwarded-prefix",
            "x_real_ip",
            "forwarded",
            "content-length",
            "transfer-encoding",
            "connection",
            "content-type",
            "te",
            "via",
        ];
        let trailers: String = names.iter().map(|name| format!("{name}: 7\r\n")).collect();
        for announced in [true, false] {
            let announcement = if announced { format!("Trailer: {}\r\n", names.join(", ")) } else { String::new() };
            let answer = all_of(
                &gate,
                &format!(
                    "POST /open HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n{announcement}\r\n\
                     5\r\nhello\r\n0\r\n{trailers}\r\n",
                ),
            );
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            let seen = peer.only();
            assert_eq!(seen.body, "hello");
            let expected: HeaderMap = [("x-sum".parse().unwrap(), HeaderValue::from_static("7"))].into_iter().collect();
            assert_eq!(seen.trailers, Some(expected));
            let named = seen.head.headers.get("trailer").map(|names| names.to_str().unwrap().contains("x-sum"));
            assert_eq!(named, announced.then_some(true));
        }
    }
}
