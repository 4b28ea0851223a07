//! What HTTP/2 can say and HTTP/1.1 cannot. By its framing alone none of it is ambiguous; for the upstream it would be.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, header};

use super::{ended, open_gate};
use crate::support::Upstream;

/// The status of a request by HTTP/2 with prior knowledge; 0 where the stream or the connection is broken off.
fn ask(to: SocketAddr, request: Request<()>, body: &'static [u8]) -> u16 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(to).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let asked = async {
            let (response, mut sent) = client.send_request(request, body.is_empty())?;
            if !body.is_empty() {
                sent.send_data(Bytes::from_static(body), true)?;
            }
            response.await.map(|response| response.status().as_u16())
        };
        asked.await.unwrap_or(0)
    })
}

fn request(method: &str, uri: &str, fields: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(uri).body(()).unwrap();
    let headers: &mut HeaderMap = request.headers_mut();
    for (name, value) in fields {
        headers.append(*name, value.parse().unwrap());
    }
    request
}

#[test]
fn what_is_clear_in_frames_and_not_in_lines_is_refused() {
    let upstream = Upstream::start();
    let gate = open_gate(&upstream, "", "");
    for (method, uri, fields, body, expected) in [
        ("GET", "http://a/x", &[][..], &b""[..], 200),
        ("GET", "https://a/x", &[("host", "A:443")], b"", 200),
        ("POST", "http://a/x", &[("content-length", "5")], b"hello", 200),
        // Two lengths: the frames say which is true, and an upstream that speaks HTTP/1.1 would not know.
        ("POST", "http://a/x", &[("content-length", "5"), ("content-length", "5")], b"hello", 400),
        ("POST", "http://a/x", &[("content-length", "5"), ("content-length", "0")], b"hello", 0),
        ("POST", "http://a/x", &[("content-length", "5, 5")], b"hello", 0),
        ("POST", "http://a/x", &[("content-length", "+5")], b"hello", 0),
        ("POST", "http://a/x", &[("content-length", "4")], b"hello", 0),
        ("POST", "http://a/x", &[("transfer-encoding", "chunked")], b"0\r\n\r\n", 0),
        ("GET", "http://a/x", &[("connection", "x-private")], b"", 0),
        ("GET", "http://a/x", &[("upgrade", "websocket")], b"", 0),
        ("GET", "http://a/x", &[("host", "b")], b"", 400),
        ("GET", "http://a/x", &[("host", "a"), ("host", "a")], b"", 400),
        ("GET", "http://u@a/x", &[], b"", 400),
        ("GET", "ftp://a/x", &[], b"", 400),
        ("GET", "http://a//x", &[], b"", 400),
        ("GET", "http://a/x/%2e%2e/y", &[], b"", 400),
    ] {
        let shown = format!("{method} {uri} {fields:?}");
        let status = ask(gate.address(), request(method, uri, fields), body);
        let reached = upstream.take();
        // A body that is longer or shorter than was said may break off on the way: what counts is that none is whole.
        let as_expected = status == expected || (expected == 0 && status >= 400);
        assert!(as_expected && reached.len() == usize::from(expected == 200), "{status} for {shown}: {reached:?}");
        if let [reached] = &reached[..] {
            assert_eq!((reached.line.as_str(), reached.body.as_slice()), (&*format!("{method} /x HTTP/1.1"), body));
            assert_eq!(reached.all(header::HOST.as_str()).len(), 1, "{shown}");
        }
    }
    assert!(ended(&gate, "framing_bad") >= 1.0 && ended(&gate, "host_bad") == 3.0);
}

#[test]
fn a_cookie_in_pieces_is_one_for_the_upstream() {
    let upstream = Upstream::start();
    let gate = open_gate(&upstream, "", "");
    let crumbs = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
    assert_eq!(ask(gate.address(), request("GET", "http://a/", &crumbs), b""), 200);
    assert_eq!(upstream.only().all("cookie"), ["a=1; b=2; c=3"]);
}
