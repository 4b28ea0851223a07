//! What comes before an answer (1xx), after it (trailers), and instead of its body (HEAD).

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Method, Request, Response};

use super::{ALL, By, Over, extended::http2, home, in_time, listen, start};
use crate::support::{
    PATIENCE, Sidegate, Upstream,
    client::{Connection, request},
    tokens::TestKey,
};

/// An upstream of HTTP/2 that says 103 before each answer, and answers with the body it gets and the trailers after it.
async fn hinting(home: &std::path::Path) -> String {
    let (config, mut accepted) = listen(By::H2c, home, &[]).await;
    tokio::spawn(async move {
        while let Some(io) = accepted.recv().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(io).await.unwrap();
                while let Some(Ok((request, response))) = connection.accept().await {
                    tokio::spawn(hint(request, response));
                }
            });
        }
    });
    config
}

async fn hint(request: Request<h2::RecvStream>, mut response: SendResponse<Bytes>) {
    let hint = Response::builder().status(103).header("link", "</style.css>; rel=preload").body(()).unwrap();
    response.send_informational(hint).unwrap();
    let is_head = *request.method() == Method::HEAD;
    let mut body = request.into_body();
    let mut whole = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        whole.extend_from_slice(&data);
    }
    let trailers = body.trailers().await.unwrap();
    let mut head = Response::new(());
    if is_head {
        head.headers_mut().insert("content-length", HeaderValue::from_static("1234"));
    }
    let mut send = response.send_response(head, is_head).unwrap();
    if !is_head {
        send.send_data(whole.into(), trailers.is_none()).unwrap();
        if let Some(trailers) = trailers {
            send.send_trailers(trailers).unwrap();
        }
    }
}

fn gate(config: &str) -> (Sidegate, String) {
    let key = TestKey::new("ES256", "k");
    (start(home(), config, &key, ALL), format!("Bearer {}", key.good()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_before_the_answer_is_not_the_answer() {
    let http1 = Upstream::answering(|_| {
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n\
          HTTP/1.1 102 Processing\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
            .to_vec()
    });
    let folder = home();
    for config in [format!("urls: ['http://{}']", http1.address()), hinting(folder.path()).await] {
        let (gate, bearer) = gate(&config);
        let mut connection = Connection::open(gate.listener("plain")).unwrap();
        // Twice, so that the connections are in step.
        for _ in 0..2 {
            let head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nAuthorization: ";
            connection.send(format!("{head}{bearer}\r\n\r\nhello").as_bytes()).unwrap();
            let answer = connection.answer(false).unwrap();
            assert_eq!((answer.status, answer.header("link"), answer.text()), (200, None, "hello".to_owned()));
        }
        let client = http2(&gate, Over::Plain).await;
        for _ in 0..2 {
            let (status, body, _) = exchange(&client, &bearer, Some(b"hello"), None).await;
            assert_eq!((status, &body[..]), (200, &b"hello"[..]));
        }
    }
}

/// A request over HTTP/2, with a body or as a HEAD; answers status, body and trailers.
async fn exchange(
    client: &h2::client::SendRequest<Bytes>,
    bearer: &str,
    body: Option<&'static [u8]>,
    trailers: Option<HeaderMap>,
) -> (u16, Vec<u8>, Option<HeaderMap>) {
    let method = if body.is_some() { "POST" } else { "HEAD" };
    let request = Request::builder().method(method).uri("http://h/").header("authorization", bearer);
    let request = request.header("te", "trailers").body(()).unwrap();
    let mut client = client.clone().ready().await.unwrap();
    let (response, mut send) = client.send_request(request, body.is_none()).unwrap();
    if let Some(body) = body {
        send.send_data(body.into(), trailers.is_none()).unwrap();
        if let Some(trailers) = trailers {
            send.send_trailers(trailers).unwrap();
        }
    }
    let (head, mut body) = in_time("the head", response).await.unwrap().into_parts();
    if method == "HEAD" {
        assert_eq!(head.headers["content-length"], "1234");
    }
    let mut whole = Vec::new();
    while let Some(data) = in_time("the body", body.data()).await {
        whole.extend_from_slice(&data.unwrap());
    }
    (head.status.as_u16(), whole, in_time("the trailers", body.trailers()).await.unwrap())
}

#[tokio::test]
async fn trailers_go_both_ways_over_http2() {
    let folder = home();
    let (gate, bearer) = gate(&hinting(folder.path()).await);
    let client = http2(&gate, Over::Tls(&["h2"])).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    trailers.insert("x-forwarded-for", HeaderValue::from_static("6.6.6.6"));
    let (status, body, back) = exchange(&client, &bearer, Some(b"hello"), Some(trailers)).await;
    let back = back.unwrap();
    assert_eq!((status, &body[..], &back["x-sum"], back.len()), (200, &b"hello"[..], &"7".parse().unwrap(), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_go_from_http2_to_http1() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = format!("urls: ['http://{}']", listener.local_addr().unwrap());
    let upstream = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut read = String::new();
        while !read.ends_with("x-sum: 7\r\n\r\n") {
            let mut room = [0; 1024];
            let n = stream.read(&mut room).unwrap();
            assert!(n > 0, "it ended after {read}");
            read += std::str::from_utf8(&room[..n]).unwrap();
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-back: 8\r\n\r\n")
            .unwrap();
    });
    let (gate, bearer) = gate(&config);
    let client = http2(&gate, Over::Plain).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    let (status, body, back) = exchange(&client, &bearer, Some(b"hello"), Some(trailers)).await;
    assert_eq!((status, &body[..], &back.unwrap()["x-back"]), (200, &b"ok"[..], &"8".parse().unwrap()));
    upstream.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_has_a_length_and_no_body() {
    let http1 = Upstream::answering(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".to_vec());
    let folder = home();
    for config in [format!("urls: ['http://{}']", http1.address()), hinting(folder.path()).await] {
        let (gate, bearer) = gate(&config);
        let client = http2(&gate, Over::Plain).await;
        for _ in 0..2 {
            let answer = request(gate.listener("plain"), "HEAD", "/", &[("Authorization", &bearer)], b"");
            assert_eq!((answer.status, answer.header("content-length")), (200, Some("1234")));
            assert_eq!(exchange(&client, &bearer, None, None).await.0, 200);
        }
    }
    assert_eq!(http1.take().iter().map(|reached| &*reached.line).collect::<Vec<_>>(), ["HEAD / HTTP/1.1"; 4]);
}

/// Sends a head that asks for a go-ahead; answers what is said to it.
fn expect(gate: &Sidegate, authorization: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(gate.listener("plain")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = "PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n";
    stream.write_all(format!("{head}{authorization}\r\n").as_bytes()).unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "it ended after {}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
    (stream, String::from_utf8(said).unwrap())
}

#[test]
fn a_body_is_asked_for_only_when_its_request_may_come() {
    let upstream = Upstream::start();
    let (gate, bearer) = gate(&format!("urls: ['http://{}']", upstream.address()));
    for refused in ["", "Authorization: Bearer nonsense\r\n"] {
        let (mut stream, said) = expect(&gate, refused);
        assert!(said.starts_with("HTTP/1.1 401 "), "{said}");
        // And it is hung up on: who knows whether a body follows.
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    assert_eq!(upstream.connections(), 0);
    let (mut stream, said) = expect(&gate, &format!("Authorization: {bearer}\r\n"));
    assert_eq!(said, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").unwrap();
    let mut room = [0; 12];
    stream.read_exact(&mut room).unwrap();
    assert_eq!(&room, b"HTTP/1.1 200");
    let reached = upstream.only();
    assert_eq!((&reached.body[..], reached.all("expect")), (&b"hello"[..], vec![]));
}
