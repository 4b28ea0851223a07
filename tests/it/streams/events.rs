//! Server-sent events: each is passed on as it comes, for as long as somebody listens, and no faster than they read.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    sync::{Mutex, mpsc},
    time::Duration,
};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;

use super::{ALL, Over, connect, eventually, extended::http2, home, in_time, start};
use crate::support::{
    PATIENCE, Sidegate, Upstream,
    client::{Answer, Connection},
    tokens::TestKey,
    wait_for,
};

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\
                      Transfer-Encoding: chunked\r\n\r\n";

/// What a test has of its upstream.
struct Source {
    upstream: Upstream,
    /// Events to be sent; when this is dropped, the stream ends as it should.
    events: mpsc::Sender<String>,
    /// Told when the other end has gone.
    gone: mpsc::Receiver<()>,
}

/// An upstream that answers with a stream of events: those it is given, one at a time.
fn source() -> Source {
    let (events, given) = mpsc::channel::<String>();
    let (tell, gone) = mpsc::channel();
    let (given, tell) = (Mutex::new(given), Mutex::new(tell));
    let upstream = Upstream::with(move |_, stream| {
        stream.write_all(HEAD).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let given = given.lock().unwrap();
        loop {
            match given.recv_timeout(Duration::from_millis(5)) {
                Ok(event) => stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).unwrap(),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    stream.write_all(b"0\r\n\r\n").unwrap();
                    return true;
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    if is_gone(stream) {
                        tell.lock().unwrap().send(()).unwrap();
                        return false;
                    }
                }
            }
        }
    });
    Source { upstream, events, gone }
}

fn is_gone(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 16]) {
        Ok(n) => n == 0,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

fn gate(upstream: &Upstream, key: &TestKey) -> Sidegate {
    start(home(), &format!("urls: ['http://{}']", upstream.address()), key, ALL)
}

fn get(key: &TestKey) -> String {
    format!(
        "GET /events HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\nAuthorization: Bearer {}\r\n\r\n",
        key.good()
    )
}

/// Sends a request over HTTP/2; answers the head's type and the body to come.
async fn listen(client: &SendRequest<Bytes>, key: &TestKey) -> (String, h2::RecvStream) {
    let request = Request::get("http://localhost/events").header("authorization", format!("Bearer {}", key.good()));
    let mut client = client.clone().ready().await.unwrap();
    let (response, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
    let (head, body) = in_time("the head", response).await.unwrap().into_parts();
    assert_eq!(head.status, 200);
    (head.headers["content-type"].to_str().unwrap().to_owned(), body)
}

/// The next data, whole.
async fn next(body: &mut h2::RecvStream) -> String {
    let data = in_time("an event", body.data()).await.unwrap().unwrap();
    body.flow_control().release_capacity(data.len()).unwrap();
    String::from_utf8(data.to_vec()).unwrap()
}

#[test]
fn each_comes_at_once_over_http1() {
    let key = TestKey::new("ES256", "k");
    let Source { upstream, events, gone: _ } = source();
    let gate = gate(&upstream, &key);
    let mut client = TcpStream::connect(gate.listener("plain")).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(get(&key).as_bytes()).unwrap();
    let mut read = String::new();
    let mut until = |what: &str| {
        while !read.contains(what) {
            let mut room = [0; 4096];
            let n = client.read(&mut room).unwrap();
            assert!(n > 0, "it ended after {read}");
            read += std::str::from_utf8(&room[..n]).unwrap();
        }
        read.clone()
    };
    // The head before the first event, and none of them waits for the next.
    assert!(until("\r\n\r\n").to_ascii_lowercase().contains("content-type: text/event-stream\r\n"));
    for n in 0..20 {
        let event = format!("data: {n}\n\n");
        events.send(event.clone()).unwrap();
        until(&event);
    }
    drop(events);
    until("0\r\n\r\n");
}

#[tokio::test]
async fn each_comes_at_once_over_http2() {
    let key = TestKey::new("ES256", "k");
    for over in [Over::Plain, Over::Tls(&["h2"])] {
        let Source { upstream, events, gone: _ } = source();
        let gate = gate(&upstream, &key);
        let client = http2(&gate, over).await;
        let (kind, mut body) = listen(&client, &key).await;
        assert_eq!(kind, "text/event-stream");
        for n in 0..20 {
            let event = format!("data: {n}\n\n");
            events.send(event.clone()).unwrap();
            assert_eq!(next(&mut body).await, event);
        }
        drop(events);
        while let Some(end) = in_time("the end", body.data()).await {
            assert_eq!(end.unwrap(), "");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_is_missed_by_the_upstream() {
    let key = TestKey::new("ES256", "k");
    let Source { upstream, events, gone } = source();
    let gate = gate(&upstream, &key);
    events.send("data: x\n\n".to_owned()).unwrap();
    // A stream among others, a connection that ends with it, and one over TLS.
    let client = http2(&gate, Over::Plain).await;
    let (_, mut body) = listen(&client, &key).await;
    assert_eq!(next(&mut body).await, "data: x\n\n");
    drop(body);
    gone.recv_timeout(PATIENCE).unwrap();
    for protocols in [None, Some(&["http/1.1"][..])] {
        let over = protocols.map_or(Over::Plain, Over::Tls);
        let mut io = connect(&gate, over).await;
        tokio::io::AsyncWriteExt::write_all(&mut io, get(&key).as_bytes()).await.unwrap();
        tokio::io::AsyncReadExt::read_exact(&mut io, &mut [0; 16]).await.unwrap();
        drop(io);
        gone.recv_timeout(PATIENCE).unwrap();
    }
    eventually("nothing to be in flight", || gate.metric("sidegate_requests_in_flight") == 0.0).await;
    eventually("no upstream connection", || gate.metric("sidegate_upstream_connections{upstream=\"app\"}") == 0.0)
        .await;
}

#[test]
fn a_connection_serves_on_after_a_stream_that_ended() {
    let key = TestKey::new("ES256", "k");
    let Source { upstream, events, gone: _ } = source();
    let gate = gate(&upstream, &key);
    let mut client = Connection::open(gate.listener("plain")).unwrap();
    client.send(get(&key).as_bytes()).unwrap();
    events.send("data: last\n\n".to_owned()).unwrap();
    drop(events);
    let Answer { status, body, .. } = client.answer(false).unwrap();
    assert_eq!((status, &body[..]), (200, &b"data: last\n\n"[..]));
    client.send(get(&key).as_bytes()).unwrap();
    assert_eq!(client.answer(false).unwrap().body, b"");
}

/// An upstream that sends as much as is taken, and tells how much that was once nothing more is.
fn torrent() -> (Upstream, mpsc::Receiver<usize>) {
    let (tell, sent) = mpsc::channel();
    let tell = Mutex::new(tell);
    let upstream = Upstream::with(move |_, stream| {
        stream.write_all(HEAD).unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let chunk = [b"4000\r\n", &[b'x'; 0x4000][..], b"\r\n"].concat();
        let mut total = 0;
        while total < 256 << 20 {
            match stream.write(&chunk) {
                Ok(n) => total += n,
                Err(_) => break,
            }
        }
        tell.lock().unwrap().send(total).unwrap();
        // Whoever is slow may still come for the rest.
        let _ = stream.read(&mut [0; 16]);
        false
    });
    (upstream, sent)
}

#[tokio::test]
async fn a_slow_reader_holds_little_memory() {
    let key = TestKey::new("ES256", "k");
    let (upstream, sent) = torrent();
    let gate = gate(&upstream, &key);
    let resident = || gate.metric("process_resident_memory_bytes");
    let before = resident();
    let mut client = TcpStream::connect(gate.listener("plain")).unwrap();
    client.write_all(get(&key).as_bytes()).unwrap();
    let total = sent.recv_timeout(PATIENCE).unwrap();
    assert!(total < 64 << 20 && resident() - before < 4e6, "{} more after {total}", resident() - before);

    let client = http2(&gate, Over::Plain).await;
    let (_, body) = listen(&client, &key).await;
    // The client's library reads no further than the window it has given.
    let total = tokio::task::spawn_blocking(move || sent.recv_timeout(PATIENCE).unwrap()).await.unwrap();
    assert!(total < 64 << 20 && resident() - before < 8e6, "{} more after {total}", resident() - before);
    drop(body);
    wait_for("it to be given up", || (gate.metric("sidegate_requests_in_flight") <= 1.0).then_some(()));
}
