//! WebSocket over HTTP/2 (RFC 8441), with a client on the `h2` crate.

use std::{
    io::{Error, Result},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::SinkExt as _;
use h2::{RecvStream, SendStream, client::SendRequest, ext::Protocol};
use http::{HeaderMap, Method, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::StreamExt as _;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::{
    ALL, By, Over, connect, eventually,
    handshake::accept,
    home, in_time,
    sockets::Sockets,
    start,
    websocket::{be_closed, converse, say},
};
use crate::support::{Sidegate, Upstream, tokens::TestKey};

/// A connection whose server says that it takes extended CONNECTs.
pub(super) async fn http2(gate: &Sidegate, over: Over) -> SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(connect(gate, over).await).await.unwrap();
    tokio::spawn(connection);
    eventually("the settings", || client.is_extended_connect_protocol_enabled()).await;
    client
}

/// What became of an extended CONNECT.
pub(super) enum Answer {
    Open(Box<WebSocketStream<Stream>>, HeaderMap),
    Refused(StatusCode, HeaderMap, Vec<u8>),
}

/// Asks for a WebSocket, or for another `protocol`.
pub(super) async fn ask(
    client: &mut SendRequest<Bytes>,
    protocol: &'static str,
    path: &str,
    headers: &[(&str, &str)],
) -> Answer {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("https://localhost{path}"))
        .extension(Protocol::from_static(protocol))
        .header("sec-websocket-version", "13");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut ready = client.clone().ready().await.unwrap();
    let (response, send) = ready.send_request(request.body(()).unwrap(), false).unwrap();
    let (head, mut recv) = in_time("the handshake", response).await.unwrap().into_parts();
    if head.status != 200 {
        let mut body = Vec::new();
        while let Some(data) = in_time("the refusal", recv.data()).await {
            body.extend_from_slice(&data.unwrap());
        }
        return Answer::Refused(head.status, head.headers, body);
    }
    let stream = Stream { send, recv, unread: Bytes::new() };
    Answer::Open(Box::new(WebSocketStream::from_raw_socket(stream, Role::Client, None).await), head.headers)
}

/// Opens a WebSocket.
pub(super) async fn open(
    client: &mut SendRequest<Bytes>,
    path: &str,
    headers: &[(&str, &str)],
) -> (WebSocketStream<Stream>, HeaderMap) {
    match ask(client, "websocket", path, headers).await {
        Answer::Open(socket, headers) => (*socket, headers),
        Answer::Refused(status, ..) => panic!("{status}"),
    }
}

/// Both directions of a stream of HTTP/2, as bytes.
pub(super) struct Stream {
    send: SendStream<Bytes>,
    recv: RecvStream,
    unread: Bytes,
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.recv.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(data) => self.unread = data.map_err(Error::other)?,
            }
            let length = self.unread.len();
            self.recv.flow_control().release_capacity(length).map_err(Error::other)?;
        }
        let taken = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread.split_to(taken));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        self.send.reserve_capacity(buf.len());
        let room = match self.send.capacity() {
            0 => ready!(self.send.poll_capacity(cx)).ok_or_else(|| Error::other("closed"))?.map_err(Error::other)?,
            room => room,
        };
        let taken = room.min(buf.len());
        self.send.send_data(Bytes::copy_from_slice(&buf[..taken]), false).map_err(Error::other)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(Error::other))
    }
}

#[tokio::test]
async fn it_goes_to_every_kind_of_upstream() {
    let key = TestKey::new("ES256", "k");
    let bearer = format!("Bearer {}", key.good());
    for by in [By::Http, By::Https, By::Unix, By::H2c] {
        let home = home();
        let upstream = Sockets::start(by, home.path()).await;
        let gate = start(home, &upstream.config, &key, ALL);
        for over in [Over::Plain, Over::Tls(&["h2"])] {
            eprintln!("{by:?} {over:?}");
            let mut client = http2(&gate, over).await;
            let headers = [("authorization", &*bearer), ("sec-websocket-protocol", "chat.v1, chat.v2")];
            let (socket, agreed) = open(&mut client, "/echo?x=1", &headers).await;
            assert_eq!(agreed["sec-websocket-protocol"], "chat.v2");
            assert_eq!(agreed["x-from-upstream"], "here");
            assert_eq!((agreed.get("sec-websocket-accept"), agreed.get("upgrade")), (None, None));
            let seen = upstream.only();
            assert_eq!((&*seen.target, &seen.headers["via"]), ("/echo?x=1", &"2.0 sidegate".parse().unwrap()));
            assert_eq!(seen.method, if by == By::H2c { "CONNECT" } else { "GET" });
            // Two on one connection, and requests beside them.
            let (second, _) = open(&mut client, "/", &headers).await;
            converse(socket, &upstream).await;
            be_closed(second).await;
            upstream.only();
            eventually("no tunnel to be open", || gate.metric("sidegate_tunnels") == 0.0).await;
        }
        assert_eq!(gate.metric("sidegate_connections_accepted_total{listener=\"tls\"}"), 1.0);
    }
}

#[tokio::test]
async fn who_may_not_is_told_so_and_others_go_on() {
    let key = TestKey::new("ES256", "k");
    let bearer = format!("Bearer {}", key.good());
    for by in [By::Http, By::H2c] {
        let home = home();
        let upstream = Sockets::start(by, home.path()).await;
        let routes = "routes: [{ name: all, match: { path_prefix: /r, methods: [GET] }, upstream: app }]";
        let gate = start(home, &upstream.config, &key, routes);
        let mut client = http2(&gate, Over::Plain).await;
        let (mut socket, _) = open(&mut client, "/r", &[("authorization", &bearer)]).await;
        upstream.only();
        for (protocol, path, headers, status) in [
            ("websocket", "/r", &[][..], 401),
            ("websocket", "/nothing", &[("authorization", &*bearer)], 404),
            ("websocket", "/r//x", &[("authorization", &*bearer)], 400),
            ("connect-udp", "/r", &[("authorization", &*bearer)], 400),
        ] {
            let Answer::Refused(got, _, body) = ask(&mut client, protocol, path, headers).await else { panic!() };
            assert_eq!(got, status, "{protocol} {path}");
            assert!(body.starts_with(b"{\"error\""));
        }
        assert!(upstream.is_untouched());
        let asked = ask(&mut client, "websocket", "/r/no", &[("authorization", &bearer)]).await;
        let Answer::Refused(status, headers, body) = asked else { panic!() };
        assert_eq!((status, &body[..]), (StatusCode::FORBIDDEN, &b"no room"[..]));
        assert_eq!(headers["x-reason"], "full");
        assert_eq!(say(&mut socket, Message::text("still here")).await, Message::text("still here"));
    }
}

#[tokio::test]
async fn an_answer_that_is_none_to_a_handshake_does_not_open_it() {
    let key = TestKey::new("ES256", "k");
    let bearer = format!("Bearer {}", key.good());
    // To a GET without an upgrade 200 is right; over HTTP/2 it would say that the WebSocket is open.
    let upstream = Upstream::start();
    let gate = start(home(), &format!("urls: ['http://{}']", upstream.address()), &key, ALL);
    let mut client = http2(&gate, Over::Plain).await;
    match ask(&mut client, "websocket", "/", &[("authorization", &bearer)]).await {
        Answer::Refused(status, ..) => assert_eq!(status, 502),
        Answer::Open(..) => panic!("a page is no WebSocket"),
    }
}

#[tokio::test]
async fn a_length_that_an_agreement_cannot_have_is_dropped() {
    let key = TestKey::new("ES256", "k");
    let bearer = format!("Bearer {}", key.good());
    let upstream = Upstream::answering(|request| {
        let accept = accept(request.all("sec-websocket-key")[0]);
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                 Content-Length: 7\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        )
        .into_bytes()
        .into_iter()
        .chain(*b"\x81\x02hi")
        .collect()
    });
    let gate = start(home(), &format!("urls: ['http://{}']", upstream.address()), &key, ALL);
    let mut client = http2(&gate, Over::Plain).await;
    let (mut socket, headers) = open(&mut client, "/", &[("authorization", &bearer)]).await;
    assert_eq!(headers.get("content-length"), None);
    assert_eq!(in_time("a word", socket.next()).await.unwrap().unwrap(), Message::text("hi"));
}

#[tokio::test]
async fn who_goes_away_ends_it() {
    let key = TestKey::new("ES256", "k");
    let bearer = format!("Bearer {}", key.good());
    let home = home();
    let upstream = Sockets::start(By::Http, home.path()).await;
    let gate = start(home, &upstream.config, &key, ALL);
    let mut client = http2(&gate, Over::Plain).await;
    let (one, _) = open(&mut client, "/", &[("authorization", &bearer)]).await;
    let (mut other, _) = open(&mut client, "/", &[("authorization", &bearer)]).await;
    // Dropped, a stream is reset.
    drop(one);
    eventually("one tunnel to be left", || gate.metric("sidegate_tunnels") == 1.0).await;
    assert_eq!(say(&mut other, Message::text("x")).await, Message::text("x"));
    eventually("one connection to be left", || gate.metric("sidegate_upstream_connections{upstream=\"app\"}") == 1.0)
        .await;
    drop((client, other));
    eventually("no tunnel to be left", || gate.metric("sidegate_tunnels") == 0.0).await;
}

#[tokio::test]
async fn many_small_messages_are_no_flood() {
    let key = TestKey::new("ES256", "k");
    let bearer = format!("Bearer {}", key.good());
    let home = home();
    let upstream = Sockets::start(By::Http, home.path()).await;
    let gate = start(home, &upstream.config, &key, ALL);
    let mut client = http2(&gate, Over::Plain).await;
    let (mut socket, _) = open(&mut client, "/", &[("authorization", &bearer)]).await;
    // Keys of a typist, moves of a player: each a frame of a few bytes.
    for n in 0..6000 {
        in_time("to send", socket.send(Message::text("x"))).await.unwrap();
        if n % 50 == 49 {
            for _ in 0..50 {
                assert_eq!(in_time("an echo", socket.next()).await.unwrap().unwrap(), Message::text("x"));
            }
        }
    }
}

#[test]
fn small_frames_that_nobody_reads_are_a_flood() {
    use crate::support::frames::{DATA, END_HEADERS, Frames, HEADERS, fields, frame, request};

    const PADDED: u8 = 8;
    let key = TestKey::new("ES256", "k");
    let bearer = format!("Bearer {}", key.good());
    // An upstream that has its hands full: whoever comes next waits, and its body with it.
    let upstream = Upstream::start();
    let gate = start(
        home(),
        &format!("urls: ['http://{}'], max_requests: 1, queue_timeout: 1m", upstream.address()),
        &key,
        ALL,
    );
    let mut first = Frames::open(gate.listener("plain"), &[]);
    let head = [&request("POST", "/up")[..], &[("authorization", &bearer)]].concat();
    first.send(HEADERS, END_HEADERS, 1, &fields(&head)).unwrap();
    crate::support::wait_for("it to arrive", || (upstream.connections() == 1).then_some(()));
    let before = gate.metric("process_resident_memory_bytes");
    // Whoever finds it first: what looks at frames, or the library.
    let closed = |cause: &str| gate.metric(&format!("sidegate_connections_closed_total{{cause=\"{cause}\"}}"));
    let flooded = || closed("http2_flood") + closed("http2_broken");
    // A byte in each, or none at all and padding: within the windows there would be room for a million of them.
    for (n, small) in [frame(DATA, 0, 1, b"x"), frame(DATA, PADDED, 1, &[1, 0])].iter().enumerate() {
        let mut client = Frames::open(gate.listener("plain"), &[]);
        client.send(HEADERS, END_HEADERS, 1, &fields(&head)).unwrap();
        let thousand = small.repeat(1000);
        // As many as a window takes; it may be hung up on before it has sent them.
        let _hung_up = (0..250).find(|_| client.send_raw(&thousand).is_err());
        crate::support::wait_for("it to be counted", || (flooded() == n as f64 + 1.0).then_some(()));
    }
    drop(first);
    let grown = gate.metric("process_resident_memory_bytes") - before;
    assert!(grown < 30e6, "{grown} bytes more");
}

#[test]
fn who_answers_each_small_message_with_frames_is_no_flood() {
    use crate::support::frames::{
        DATA, END_HEADERS, END_STREAM, Frames, HEADERS, PING, WINDOW_UPDATE, fields, frame, request,
    };

    const MESSAGES: usize = 4000;
    let key = TestKey::new("ES256", "k");
    let bearer = format!("Bearer {}", key.good());
    let upstream = Upstream::answering(|_| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
        (head + &"8\r\nmessages\r\n".repeat(MESSAGES) + "0\r\n\r\n").into_bytes()
    });
    let gate = start(home(), &format!("urls: ['http://{}']", upstream.address()), &key, ALL);
    let mut client = Frames::open(gate.listener("plain"), &[]);
    let head = [&request("GET", "/")[..], &[("authorization", &bearer)]].concat();
    client.send(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&head)).unwrap();
    // As grpc-go and grpcio do, on a fast network.
    let window = |stream| frame(WINDOW_UPDATE, 0, stream, &8u32.to_be_bytes());
    let answer = [window(0), window(1), frame(PING, 0, 0, b"how long")].concat();
    let mut received = 0;
    loop {
        let data = client.until(|frame| frame.kind == DATA).expect("the connection goes on");
        received += data.payload.len();
        if data.flags & END_STREAM != 0 {
            break;
        }
        client.send_raw(&answer).unwrap();
    }
    assert_eq!(received, 8 * MESSAGES);
}
