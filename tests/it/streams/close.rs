//! What is open ends with the token that opened it, as the route says (`close_streams`).

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
};

use http::Request;
use serde_json::json;
use tokio_stream::StreamExt as _;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};
use tonic::Code;

use super::{
    By, Io, Over, connect, ended, eventually, extended,
    extended::http2,
    grpc::Client,
    home, in_time,
    notes::{Note, Notes},
    sockets::Sockets,
    start,
    websocket::say,
};
use crate::support::{
    Answer, PATIENCE, Sidegate, Upstream,
    client::hex,
    client::sha256,
    request,
    tokens::{TestKey, argon2id, claims_with, now},
};

/// A gate that issues its own tokens, with an upstream for each kind of stream.
async fn issuing(home: tempfile::TempDir, sockets: &Sockets, notes: &Notes, plain: &Upstream, rule: &str) -> Sidegate {
    let (secret, password) = (hex(&sha256(b"secret")), argon2id("wonderland"));
    let yaml = format!(
        "workers: 1\n\
         listeners:\n\
         \x20 - {{ name: plain, address: 127.0.0.1:0, issuer: true }}\n\
         \x20 - {{ name: tls, address: 127.0.0.1:0, tls: {{ certificates: [{{ cert_file: cert.pem, key_file: key.pem }}] }} }}\n\
         admin: {{ address: 127.0.0.1:0 }}\n\
         upstreams:\n\
         \x20 - {{ name: sockets, {} }}\n\
         \x20 - {{ name: notes, {} }}\n\
         \x20 - {{ name: plain, urls: ['http://{}'] }}\n\
         providers: [{{ name: local, issuer: http://localhost:3000, audiences: [api], jwks: issuer }}]\n\
         issuer:\n\
         \x20 url: http://localhost:3000\n\
         \x20 access_token: {{ lifetime: 5m, algorithm: ES256, audience: api }}\n\
         \x20 clients: [{{ id: app, secret_hash: 'sha256:{secret}', grants: [refresh_token], legacy_password_grant: true, scopes: [read] }}]\n\
         \x20 users: [{{ username: alice, password_hash: '{password}' }}]\n\
         routes:\n\
         \x20 - {{ name: marked, match: {{ path: /marked }}, upstream: sockets }}\n\
         \x20 - {{ name: socket, match: {{ path_prefix: /socket }}, upstream: sockets{rule} }}\n\
         \x20 - {{ name: notes, match: {{ path_prefix: /test.Notes }}, upstream: notes{rule} }}\n\
         \x20 - {{ name: plain, match: {{ path_prefix: /plain }}, upstream: plain{rule} }}\n",
        sockets.config,
        notes.config,
        plain.address(),
    );
    Sidegate::start_in(home, &yaml)
}

/// An upstream that begins to answer `/plain/events`, and takes what is sent to `/plain/upload`, for ever.
fn endless() -> Upstream {
    Upstream::with(|request, stream| {
        if request.target() == "/plain/events" {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(format!("{head}9\r\ndata: x\n\n\r\n").as_bytes()).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }
        false
    })
}

/// Access and refresh token of a new session.
fn log_in(gate: &Sidegate) -> (String, String) {
    let form = "grant_type=password&username=alice&password=wonderland";
    let answer = post(gate, "/oauth/token", form);
    assert_eq!(answer.status, 200, "{answer:?}");
    (answer.member("access_token"), answer.member("refresh_token"))
}

fn post(gate: &Sidegate, path: &str, form: &str) -> Answer {
    let headers = [("Authorization", "Basic YXBwOnNlY3JldA=="), ("Content-Type", "application/x-www-form-urlencoded")];
    request(gate.listener("plain"), "POST", path, &headers, form.as_bytes())
}

async fn socket(gate: &Sidegate, path: &str, token: &str) -> WebSocketStream<Io> {
    let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let io = connect(gate, Over::Plain).await;
    in_time("the handshake", client_async(request, io)).await.unwrap().0
}

/// A connection on which a head has been sent, and some of a body.
fn send(gate: &Sidegate, head: &str, token: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gate.listener("plain")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("{head}\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n{body}").as_bytes()).unwrap();
    stream
}

fn events(gate: &Sidegate, token: &str) -> TcpStream {
    let mut stream = send(gate, "GET /plain/events HTTP/1.1", token, "");
    let mut read = Vec::new();
    while !read.ends_with(b"data: x\n\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        read.push(byte[0]);
    }
    stream
}

/// All that still comes.
fn rest(mut stream: TcpStream) -> String {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    String::from_utf8(rest).unwrap()
}

#[tokio::test]
async fn a_revocation_ends_what_its_session_has_open() {
    let home = home();
    let path: &Path = home.path();
    let (sockets, notes, plain) = (Sockets::start(By::Http, path).await, Notes::start(By::H2c, path).await, endless());
    let gate = issuing(home, &sockets, &notes, &plain, "").await;
    let (doomed, refresh) = log_in(&gate);
    let (other, _) = log_in(&gate);

    let (mut one, mut two) = (socket(&gate, "/socket", &doomed).await, socket(&gate, "/socket", &other).await);
    let mut client = http2(&gate, Over::Plain).await;
    let bearers = [&doomed, &other].map(|token| format!("Bearer {token}"));
    let (mut three, _) = extended::open(&mut client, "/socket", &[("authorization", &bearers[0])]).await;
    let (mut four, _) = extended::open(&mut client, "/socket", &[("authorization", &bearers[1])]).await;
    let mut speakers = (
        Client::connect(&gate, Over::Plain, Some(&doomed)).await,
        Client::connect(&gate, Over::Plain, Some(&other)).await,
    );
    let mut chats = (speakers.0.chat().await.unwrap(), speakers.1.chat().await.unwrap());
    let (ending, lasting) = (events(&gate, &doomed), events(&gate, &other));
    let chunked = "POST /plain/upload HTTP/1.1\r\nTransfer-Encoding: chunked";
    let upload = send(&gate, chunked, &doomed, "5\r\nhello\r\n");
    let sized = send(&gate, "POST /plain/upload HTTP/1.1\r\nContent-Length: 1000000", &doomed, "hello");
    let sealed = send(&gate, chunked, &other, "5\r\nhello\r\n");
    for socket in [&mut one, &mut two] {
        assert_eq!(say(socket, Message::text("x")).await, Message::text("x"));
    }
    for socket in [&mut three, &mut four] {
        assert_eq!(say(socket, Message::text("x")).await, Message::text("x"));
    }
    for (send, answers) in [&mut chats.0, &mut chats.1] {
        send.send(Note::new("x", 0)).await.unwrap();
        assert_eq!(in_time("an echo", answers.next()).await.unwrap().unwrap().text, "x");
    }
    let in_flight = || gate.metric("sidegate_requests_in_flight");
    eventually("the uploads to be under way", || in_flight() >= 3.0).await;

    assert_eq!(post(&gate, "/oauth/revoke", &format!("token={refresh}")).status, 200);

    assert!(!matches!(in_time("its end", one.next()).await, Some(Ok(_))));
    assert!(!matches!(in_time("its end", three.next()).await, Some(Ok(_))));
    let status = in_time("its end", chats.0.1.next()).await.unwrap().unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unauthenticated, "The access token provided has been revoked.")
    );
    assert!(!rest(ending).contains("0\r\n\r\n"), "nobody shall take it for whole");
    for upload in [upload, sized] {
        let answer = rest(upload);
        assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("invalid_token"), "{answer}");
    }
    assert_eq!(ended(&gate, "token_revoked"), 6.0);

    // The other session's go on.
    assert_eq!(say(&mut two, Message::text("y")).await, Message::text("y"));
    assert_eq!(say(&mut four, Message::text("y")).await, Message::text("y"));
    chats.1.0.send(Note::new("y", 0)).await.unwrap();
    assert_eq!(in_time("an echo", chats.1.1.next()).await.unwrap().unwrap().text, "y");
    for mut open in [lasting, sealed] {
        open.set_nonblocking(true).unwrap();
        assert_eq!(open.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
    assert_eq!((gate.metric("sidegate_tunnels"), ended(&gate, "token_revoked")), (2.0, 6.0));
}

#[tokio::test]
async fn a_token_that_expires_ends_what_its_route_says() {
    let key = TestKey::new("ES256", "k");
    let home = home();
    let upstream = Sockets::start(By::Http, home.path()).await;
    let routes = "routes: [{ name: a, match: { path: /expiry }, upstream: app, close_streams: on_expiry }, \
                  { name: b, match: { path: /revocation }, upstream: app, close_streams: on_revocation }, \
                  { name: c, match: { path: /never }, upstream: app, close_streams: never }, \
                  { name: d, match: { path: /unsaid }, upstream: app }]";
    let gate = start(home, &upstream.config, &key, routes);
    let token = |seconds| key.token(&key.header(), &claims_with(json!({ "exp": now() + seconds })));
    let (short, long) = (token(2), token(300));
    let mut ends = socket(&gate, "/expiry", &short).await;
    let mut lasts = socket(&gate, "/expiry", &long).await;
    let mut others = Vec::new();
    for path in ["/revocation", "/never", "/unsaid"] {
        others.push(socket(&gate, path, &short).await);
    }
    assert_eq!(say(&mut ends, Message::text("x")).await, Message::text("x"));
    assert!(!matches!(in_time("its end", ends.next()).await, Some(Ok(_))));
    assert_eq!(ended(&gate, "token_expired"), 1.0);
    others.push(lasts);
    for socket in &mut others {
        assert_eq!(say(socket, Message::text("y")).await, Message::text("y"));
    }
    lasts = socket(&gate, "/expiry", &long).await;
    assert_eq!(say(&mut lasts, Message::text("z")).await, Message::text("z"));
    assert_eq!((ended(&gate, "token_expired"), gate.metric("sidegate_tunnels")), (1.0, 5.0));
}

#[tokio::test]
async fn a_route_may_let_everything_go_on() {
    let home = home();
    let path: &Path = home.path();
    let (sockets, notes, plain) = (Sockets::start(By::Http, path).await, Notes::start(By::H2c, path).await, endless());
    let gate = issuing(home, &sockets, &notes, &plain, ", close_streams: never").await;
    let (token, refresh) = log_in(&gate);
    let mut open = socket(&gate, "/socket", &token).await;
    let mut marked = socket(&gate, "/marked", &token).await;
    let mut speaker = Client::connect(&gate, Over::Plain, Some(&token)).await;
    let (send, mut answers) = speaker.chat().await.unwrap();
    assert_eq!(post(&gate, "/oauth/revoke", &format!("token={refresh}")).status, 200);
    // One whose route says nothing ends: by then all that are open have been looked at.
    assert!(!matches!(in_time("its end", marked.next()).await, Some(Ok(_))));
    let status = speaker.unary("/test.Notes/Echo", Note::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "nothing new begins");
    assert_eq!(say(&mut open, Message::text("x")).await, Message::text("x"));
    send.send(Note::new("x", 0)).await.unwrap();
    assert_eq!(in_time("an echo", answers.next()).await.unwrap().unwrap().text, "x");
    assert_eq!(ended(&gate, "token_revoked"), 1.0);
}

#[tokio::test]
async fn a_grpc_stream_whose_client_only_listens_ends_with_a_status() {
    let key = TestKey::new("ES256", "k");
    // The upstream is one of HTTP/1.1 that goes on for ever: what matters is who asked.
    let upstream = endless();
    let routes = "routes: [{ name: all, match: { path_prefix: / }, upstream: app, close_streams: on_expiry }]";
    let gate = start(home(), &format!("urls: ['http://{}']", upstream.address()), &key, routes);
    let token = key.token(&key.header(), &claims_with(json!({ "exp": now() + 2 })));
    let mut client = http2(&gate, Over::Tls(&["h2"])).await.ready().await.unwrap();
    let ask = |kind: &str| {
        let request = Request::post("http://localhost/plain/events").header("content-type", kind);
        request.header("authorization", format!("Bearer {token}")).body(()).unwrap()
    };
    let (grpc, _) = client.send_request(ask("application/grpc"), true).unwrap();
    let (other, _) = client.send_request(ask("application/json"), true).unwrap();
    let (mut grpc, mut other) =
        (in_time("a head", grpc).await.unwrap().into_body(), in_time("a head", other).await.unwrap().into_body());
    while let Some(data) = in_time("the data", grpc.data()).await {
        data.unwrap();
    }
    let trailers = in_time("the trailers", grpc.trailers()).await.unwrap().unwrap();
    assert_eq!((&trailers["grpc-status"], trailers.len()), (&"16".parse().unwrap(), 2));
    // To anybody else, the end is missing.
    let error = loop {
        match in_time("the end", other.data()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("it looks whole"),
        }
    };
    assert!(error.is_reset(), "{error}");
}

#[test]
fn a_route_that_looks_at_no_token_has_no_such_rule() {
    let upstream = "127.0.0.1:1".parse().unwrap();
    for (rule, message) in [
        ("auth: none, close_streams: never", "routes[0].close_streams: has no meaning with auth: none"),
        ("close_streams: sometimes", "routes[0].close_streams: "),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let routes = format!("routes: [{{ name: all, match: {{ path_prefix: / }}, upstream: app, {rule} }}]");
        crate::support::write_config(dir.path(), &crate::support::config(upstream, &routes));
        let said = crate::support::command(dir.path()).output().unwrap();
        assert!(!said.status.success());
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains(message), "{said}");
    }
}
