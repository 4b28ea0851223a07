//! WebSocket over HTTP/1.1: tungstenite on both sides.

use futures_util::SinkExt as _;
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_stream::StreamExt as _;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest as _,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::{ALL, By, Io, Over, connect, ended, eventually, home, in_time, sockets::Sockets, start};
use crate::support::{
    Sidegate,
    tokens::{TestKey, claims_with},
};

const EVERY: [By; 4] = [By::Http, By::Https, By::Unix, By::H2c];

/// Opens a WebSocket, or fails to; with the headers of the agreement.
async fn open(
    gate: &Sidegate,
    over: Over,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<(WebSocketStream<Io>, HeaderMap), Error> {
    let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let io = connect(gate, over).await;
    let (socket, response) = in_time("the handshake", client_async(request, io)).await?;
    Ok((socket, response.headers().clone()))
}

/// Says something; answers the next that is said, pings and pongs included.
pub(super) async fn say<S>(socket: &mut WebSocketStream<S>, message: Message) -> Message
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Both at a time, as a large message may come back before all of it is sent.
    in_time("an echo", async {
        socket.send(message).await.unwrap();
        socket.next().await.unwrap().unwrap()
    })
    .await
}

/// All that a WebSocket does, from either side, up to the client's close.
pub(super) async fn converse<S>(mut socket: WebSocketStream<S>, upstream: &Sockets)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let pattern: Vec<u8> = (0..1u32 << 20).map(|n| (n % 251) as u8).collect();
    for message in [
        Message::text("hello"),
        Message::text(""),
        Message::binary(pattern),
        Message::text("ü".repeat(1 << 19)),
        Message::binary(b"\0\r\n\r\n\xff".to_vec()),
    ] {
        assert!(say(&mut socket, message.clone()).await == message, "it comes back as it went");
    }
    // The far end's library answers our ping, ours answers its.
    assert_eq!(say(&mut socket, Message::Ping("x".into())).await, Message::Pong("x".into()));
    assert_eq!(say(&mut socket, Message::text("ping me")).await, Message::Ping("are you there".into()));
    let pong = in_time("the pong", socket.next()).await.unwrap().unwrap();
    assert_eq!(pong, Message::text("pong: are you there"));

    let frame = CloseFrame { code: CloseCode::from(4002), reason: "bye".into() };
    in_time("the close", socket.close(Some(frame.clone()))).await.unwrap();
    let answer = in_time("the close", socket.next()).await.unwrap().unwrap();
    assert_eq!(answer, Message::Close(Some(frame.clone())));
    assert!(in_time("the end", socket.next()).await.is_none(), "the connection ends");
    let mut said = None;
    eventually("the upstream to hear the close", || {
        said = upstream.closed();
        said.is_some()
    })
    .await;
    assert_eq!(said, Some(Some(frame)));
}

/// The upstream closes.
pub(super) async fn be_closed<S>(mut socket: WebSocketStream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let frame = CloseFrame { code: CloseCode::from(4001), reason: "enough".into() };
    assert_eq!(say(&mut socket, Message::text("close me")).await, Message::Close(Some(frame)));
    assert!(in_time("the end", socket.next()).await.is_none(), "the connection ends");
}

#[tokio::test]
async fn it_goes_to_every_kind_of_upstream() {
    let key = TestKey::new("ES256", "k");
    let bearer = format!("Bearer {}", key.good());
    for by in EVERY {
        let home = home();
        let upstream = Sockets::start(by, home.path()).await;
        let gate = start(home, &upstream.config, &key, ALL);
        for over in [Over::Plain, Over::Tls(&["http/1.1"])] {
            eprintln!("{by:?} {over:?}");
            let headers = [("authorization", &*bearer), ("sec-websocket-protocol", "chat.v1, chat.v2")];
            let (socket, agreed) = open(&gate, over, "/echo?x=1", &headers).await.unwrap();
            assert_eq!(agreed["sec-websocket-protocol"], "chat.v2");
            assert_eq!(agreed["x-from-upstream"], "here");
            eventually("the tunnel to be counted", || gate.metric("sidegate_tunnels") == 1.0).await;
            let seen = upstream.only();
            assert_eq!(seen.target, "/echo?x=1");
            let (method, protocol) = if by == By::H2c { ("CONNECT", Some("websocket")) } else { ("GET", None) };
            assert_eq!((seen.method.as_str(), seen.protocol.as_deref()), (method, protocol));
            converse(socket, &upstream).await;

            let (socket, agreed) = open(&gate, over, "/", &[("authorization", &*bearer)]).await.unwrap();
            assert_eq!(agreed.get("sec-websocket-protocol"), None);
            be_closed(socket).await;
            upstream.only();
            eventually("no tunnel to be open", || gate.metric("sidegate_tunnels") == 0.0).await;
        }
    }
}

#[tokio::test]
async fn the_upstream_is_told_who_comes_and_not_their_secrets() {
    let key = TestKey::new("ES256", "k");
    let bearer = format!("Bearer {}", key.good());
    let routes = "routes: [{ name: all, match: { path_prefix: / }, upstream: app, forward_token: false, \
                  claim_headers: [{ claim: sub, header: x-auth-subject }] }]";
    for by in [By::Http, By::H2c] {
        let home = home();
        let upstream = Sockets::start(by, home.path()).await;
        let gate = start(home, &upstream.config, &key, routes);
        let extensions = "permessage-deflate; client_max_window_bits";
        let headers = [
            ("authorization", &*bearer),
            ("x-auth-subject", "mallory"),
            ("x_auth_subject", "mallory"),
            ("x-forwarded-for", "6.6.6.6"),
            ("sec-websocket-extensions", extensions),
            ("origin", "https://app.example"),
            ("cookie", "a=b"),
        ];
        drop(open(&gate, Over::Tls(&["http/1.1"]), "/", &headers).await.unwrap());
        let seen = upstream.only().headers;
        assert_eq!(seen.get("authorization"), None);
        assert_eq!(seen.get("x_auth_subject"), None);
        let once = |name: &str| {
            let values: Vec<_> = seen.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
            assert_eq!(values.len(), 1, "{name}: {values:?}");
            values[0]
        };
        for (name, value) in [
            ("x-auth-subject", "alice"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "localhost"),
            ("via", "1.1 sidegate"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-extensions", extensions),
            ("origin", "https://app.example"),
            ("cookie", "a=b"),
        ] {
            assert_eq!(once(name), value, "{name} by {by:?}");
        }
        // The key is between two neighbours; over HTTP/2 there is none.
        assert_eq!(seen.contains_key("sec-websocket-key"), by == By::Http);
    }
}

#[tokio::test]
async fn who_may_not_is_told_so_in_http() {
    let key = TestKey::new("ES256", "k");
    let bearer = format!("Bearer {}", key.good());
    let expired = format!("Bearer {}", key.token(&key.header(), &claims_with(serde_json::json!({ "exp": 1000 }))));
    let routes = "routes: [{ name: admin, match: { path_prefix: /admin }, require: { scopes: [admin] }, upstream: app }, \
                  { name: rest, match: { path_prefix: /r, methods: [GET] }, upstream: app }]";
    for by in [By::Http, By::H2c] {
        let home = home();
        let upstream = Sockets::start(by, home.path()).await;
        let gate = start(home, &upstream.config, &key, routes);
        let refused =
            async |path: &str, headers: &[(&'static str, &str)]| match open(&gate, Over::Plain, path, headers).await {
                Err(Error::Http(response)) => *response,
                Err(error) => panic!("{path} by {by:?}: {error}"),
                Ok(_) => panic!("{path} by {by:?} was let in"),
            };
        let answer = refused("/r", &[]).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(answer.headers()["www-authenticate"], "Bearer realm=\"sidegate\"");
        assert_eq!(refused("/r", &[("authorization", &expired)]).await.status(), 401);
        assert_eq!(refused("/admin", &[("authorization", &bearer)]).await.status(), 403);
        assert_eq!(refused("/nothing", &[("authorization", &bearer)]).await.status(), 404);
        assert!(upstream.is_untouched());
        // The upstream's own no comes as it is.
        let answer = refused("/r/no", &[("authorization", &bearer)]).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        assert_eq!(answer.headers()["x-reason"], "full");
        assert_eq!(answer.body().as_deref(), Some(&b"no room"[..]));
        assert_eq!(gate.metric("sidegate_tunnels"), 0.0);
    }
}

#[tokio::test]
async fn one_that_is_silent_for_too_long_ends() {
    let key = TestKey::new("ES256", "k");
    let bearer = format!("Bearer {}", key.good());
    let home = home();
    let upstream = Sockets::start(By::Http, home.path()).await;
    let gate = start(home, &format!("{}, tunnel_idle_timeout: 500ms", upstream.config), &key, ALL);
    let (mut quiet, _) = open(&gate, Over::Plain, "/", &[("authorization", &bearer)]).await.unwrap();
    let (mut busy, _) = open(&gate, Over::Plain, "/", &[("authorization", &bearer)]).await.unwrap();
    // One that is used goes on for as long as another takes to end, and longer.
    let end = tokio::spawn(async move { quiet.next().await });
    while !end.is_finished() {
        assert_eq!(say(&mut busy, Message::text("x")).await, Message::text("x"));
    }
    assert!(!matches!(end.await.unwrap(), Some(Ok(_))), "it ends without a word");
    assert_eq!(say(&mut busy, Message::text("x")).await, Message::text("x"));
    assert_eq!((ended(&gate, "tunnel_idle"), gate.metric("sidegate_tunnels")), (1.0, 1.0));
    drop(busy);
    eventually("no tunnel to be open", || gate.metric("sidegate_tunnels") == 0.0).await;
    assert_eq!(ended(&gate, "tunnel_idle"), 1.0);
}
