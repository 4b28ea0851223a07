//! gRPC: tonic's client and server, unary calls and all three streamings.

use std::{
    io,
    task::{Context, Poll},
    time::Duration,
};

use http::{Uri, uri::PathAndQuery};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{
    Code, Request, Response, Status, Streaming,
    client::Grpc,
    codec::CompressionEncoding,
    codegen::{BoxFuture, Service},
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{
    ALL, By, Io, Over, connect, eventually,
    extended::http2,
    home, in_time,
    notes::{Note, Notes},
    start,
};
use crate::support::{
    Sidegate, Upstream,
    tokens::{TestKey, claims_with},
};

/// The library's client, with a token or none.
pub(super) struct Client {
    grpc: Grpc<Channel>,
    token: Option<String>,
}

impl Client {
    pub(super) async fn connect(gate: &Sidegate, over: Over, token: Option<&str>) -> Self {
        let io = connect(gate, over).await;
        // The name is for the Host alone; where it leads, the connector knows.
        let endpoint = Endpoint::from_static("http://localhost");
        let channel = endpoint.connect_with_connector(Once(Some(io))).await.unwrap();
        let grpc = Grpc::new(channel).max_decoding_message_size(8 << 20);
        Self { grpc, token: token.map(str::to_owned) }
    }

    fn compressing(mut self) -> Self {
        let grpc = self.grpc;
        self.grpc = grpc.send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip);
        self
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        request
    }

    async fn ready(&mut self) {
        in_time("the channel", self.grpc.ready()).await.unwrap();
    }

    async fn ask(&mut self, path: &'static str, request: Request<Note>) -> Result<Response<Note>, Status> {
        self.ready().await;
        let call = self.grpc.unary(request, PathAndQuery::from_static(path), codec());
        in_time("an answer", call).await
    }

    pub(super) async fn unary(&mut self, path: &'static str, note: Note) -> Result<Response<Note>, Status> {
        let request = self.request(note);
        self.ask(path, request).await
    }

    async fn count(&mut self, note: Note) -> Result<Streaming<Note>, Status> {
        self.ready().await;
        let request = self.request(note);
        let call = self.grpc.server_streaming(request, PathAndQuery::from_static("/test.Notes/Count"), codec());
        in_time("an answer", call).await.map(Response::into_inner)
    }

    async fn join(&mut self, notes: Vec<Note>) -> Result<Note, Status> {
        self.ready().await;
        let request = self.request(tokio_stream::iter(notes));
        let call = self.grpc.client_streaming(request, PathAndQuery::from_static("/test.Notes/Join"), codec());
        in_time("an answer", call).await.map(Response::into_inner)
    }

    /// Both ways at a time: what is put in, and what comes back.
    pub(super) async fn chat(&mut self) -> Result<(mpsc::Sender<Note>, Streaming<Note>), Status> {
        self.ready().await;
        let (send, notes) = mpsc::channel(64);
        let request = self.request(ReceiverStream::new(notes));
        let call = self.grpc.streaming(request, PathAndQuery::from_static("/test.Notes/Chat"), codec());
        Ok((send, in_time("an answer", call).await?.into_inner()))
    }
}

fn codec() -> ProstCodec<Note, Note> {
    ProstCodec::default()
}

/// Connects once, with what is connected already.
struct Once(Option<Io>);

impl Service<Uri> for Once {
    type Response = TokioIo<Io>;
    type Error = io::Error;
    type Future = BoxFuture<Self::Response, io::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let io = self.0.take().map(TokioIo::new).ok_or_else(|| io::Error::other("it is gone"));
        Box::pin(async move { io })
    }
}

const OVERS: [Over; 2] = [Over::Plain, Over::Tls(&["h2"])];

#[tokio::test]
async fn every_kind_of_call_goes_to_every_kind_of_upstream() {
    let key = TestKey::new("ES256", "k");
    for by in [By::H2c, By::Https] {
        let home = home();
        let upstream = Notes::start(by, home.path()).await;
        let gate = start(home, &upstream.config, &key, ALL);
        for over in OVERS {
            eprintln!("{by:?} {over:?}");
            let mut client = Client::connect(&gate, over, Some(&key.good())).await;

            let answer = client.unary("/test.Notes/Echo", Note::new("hi", 7)).await.unwrap();
            assert_eq!(answer.into_inner(), Note::new("hi", 7));

            let notes: Vec<Note> =
                client.count(Note::new("n", 5)).await.unwrap().map(|note| note.unwrap()).collect().await;
            assert_eq!(notes, (0..5).map(|n| Note::new("n", n)).collect::<Vec<_>>());
            assert!(client.count(Note::new("n", 0)).await.unwrap().next().await.is_none());

            assert_eq!(client.join(vec![Note::new("a", 0), Note::new("b", 0)]).await.unwrap(), Note::new("ab", 2));
            assert_eq!(client.join(Vec::new()).await.unwrap(), Note::new("", 0));

            let (send, mut answers) = client.chat().await.unwrap();
            for n in 0..20 {
                send.send(Note::new("x", n)).await.unwrap();
                // Each before the next: nothing waits for more.
                assert_eq!(in_time("an echo", answers.next()).await.unwrap().unwrap(), Note::new("x", n));
            }
            drop(send);
            assert!(in_time("the end", answers.next()).await.is_none());
        }
        assert!(gate.metric("sidegate_upstream_connections{upstream=\"app\"}") == 1.0, "all share a connection");
    }
}

#[tokio::test]
async fn metadata_and_statuses_come_as_they_are() {
    let key = TestKey::new("ES256", "k");
    let home = home();
    let upstream = Notes::start(By::H2c, home.path()).await;
    let routes = "routes: [{ name: all, match: { path_prefix: / }, upstream: app, forward_token: false, \
                  claim_headers: [{ claim: sub, header: x-auth-subject }] }]";
    let gate = start(home, &upstream.config, &key, routes);
    let mut client = Client::connect(&gate, Over::Tls(&["h2"]), Some(&key.good())).await;

    let mut request = client.request(Note::new("hi", 0));
    request.metadata_mut().insert("x-told", MetadataValue::from_static("this"));
    request.metadata_mut().insert_bin("x-some-bin", MetadataValue::from_bytes(&[255, 0]));
    request.metadata_mut().insert("x-auth-subject", MetadataValue::from_static("mallory"));
    let answer = client.ask("/test.Notes/Echo", request).await.unwrap();
    assert_eq!(answer.metadata().get("x-told").unwrap(), "this");
    assert_eq!(answer.metadata().get_bin("x-raw-bin").unwrap().to_bytes().unwrap(), &[0, 1, 255][..]);
    let seen = upstream.only();
    assert_eq!(seen.get_all("x-auth-subject").iter().collect::<Vec<_>>(), ["alice"]);
    assert_eq!(
        (&seen["te"], &seen["content-type"]),
        (&"trailers".parse().unwrap(), &"application/grpc".parse().unwrap())
    );
    assert_eq!((&seen["x-some-bin"], seen.get("authorization")), (&"/wA".parse().unwrap(), None));
    assert_eq!(seen["x-forwarded-proto"], "https");

    let status = client.unary("/test.Notes/Echo", Note::new("fail", 0)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "nö: 100%\nway"));
    assert_eq!(
        (status.details(), status.metadata().get("x-more").unwrap()),
        (&[0, 255, 7][..], &"of it".parse().unwrap())
    );

    // In the trailers, after messages.
    let (send, mut answers) = client.chat().await.unwrap();
    send.send(Note::new("fine", 0)).await.unwrap();
    assert_eq!(in_time("an echo", answers.next()).await.unwrap().unwrap().text, "fine");
    send.send(Note::new("fail", 0)).await.unwrap();
    let status = in_time("the status", answers.next()).await.unwrap().unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Aborted, "as you wish"));
    let status = client.unary("/test.Notes/Nothing", Note::default()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unimplemented, "no such method"));
}

#[tokio::test]
async fn large_and_compressed_messages_and_many_small_ones_pass() {
    let key = TestKey::new("ES256", "k");
    let home = home();
    let upstream = Notes::start(By::H2c, home.path()).await;
    let gate = start(home, &upstream.config, &key, ALL);
    let large: String = (0..300_000u32).map(|n| format!("{:08x} ", n.wrapping_mul(2_654_435_761))).collect();
    let mut client = Client::connect(&gate, Over::Plain, Some(&key.good())).await;
    let answer = client.unary("/test.Notes/Echo", Note::new(&*large, 0)).await.unwrap();
    assert!(answer.into_inner().text == large);
    upstream.only();

    let mut compressing = Client::connect(&gate, Over::Plain, Some(&key.good())).await.compressing();
    let answer = compressing.unary("/test.Notes/Echo", Note::new(&*large, 0)).await.unwrap();
    assert_eq!(answer.metadata().get("grpc-encoding").unwrap(), "gzip");
    assert!(answer.into_inner().text == large);
    assert_eq!(upstream.only()["grpc-encoding"], "gzip");

    // Each is a frame of a few bytes.
    let (send, mut answers) = client.chat().await.unwrap();
    for n in 0..5000 {
        send.send(Note::new("", n)).await.unwrap();
        assert_eq!(in_time("an echo", answers.next()).await.unwrap().unwrap().count, n);
    }
    drop(send);
    let many: Vec<Note> = (0..30_000).map(|_| Note::new("x", 0)).collect();
    assert_eq!(client.join(many).await.unwrap().count, 30_000);
    let streamed = client.count(Note::new("", 30_000)).await.unwrap();
    assert_eq!(in_time("all of them", streamed.fold(0, |count, note| count + u32::from(note.is_ok()))).await, 30_000);
}

#[tokio::test]
async fn a_refusal_is_a_status() {
    let key = TestKey::new("ES256", "k");
    let home = home();
    let upstream = Notes::start(By::H2c, home.path()).await;
    let routes = "routes: [{ name: admin, match: { path: /test.Notes/Join }, require: { scopes: [admin] }, upstream: app }, \
                  { name: rest, match: { path_prefix: /test.Notes }, upstream: app }]";
    let gate = start(home, &upstream.config, &key, routes);
    let expired = key.token(&key.header(), &claims_with(json!({ "exp": 1000 })));
    for (what, token, path, code, message) in [
        ("no token", None, "/test.Notes/Echo", Code::Unauthenticated, "This needs an access token."),
        (
            "no token of ours",
            Some("nonsense"),
            "/test.Notes/Echo",
            Code::Unauthenticated,
            "The access token provided is malformed.",
        ),
        (
            "an expired one",
            Some(&*expired),
            "/test.Notes/Echo",
            Code::Unauthenticated,
            "The access token provided has expired.",
        ),
        (
            "no scope",
            Some(&*key.good()),
            "/test.Notes/Join",
            Code::PermissionDenied,
            "The access token provided lacks a scope that this needs.",
        ),
        (
            "no route",
            Some(&*key.good()),
            "/other.Service/Method",
            Code::Unimplemented,
            "There is nothing at this address.",
        ),
    ] {
        for over in OVERS {
            let mut client = Client::connect(&gate, over, token).await;
            // A connection outlives what is refused on it.
            for _ in 0..2 {
                let status = client.unary(path, Note::new("hi", 0)).await.unwrap_err();
                assert_eq!((status.code(), status.message()), (code, message), "{what}");
            }
        }
    }
    // Before anything is read, and while it is being sent.
    let mut client = Client::connect(&gate, Over::Plain, None).await;
    let many: Vec<Note> = (0..100).map(|_| Note::new("x".repeat(10_000), 0)).collect();
    assert_eq!(client.join(many).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(client.chat().await.err().unwrap().code(), Code::Unauthenticated);
    assert_eq!(client.count(Note::default()).await.err().unwrap().code(), Code::Unauthenticated);
    assert!(upstream.is_untouched());
    // What is counted is what it means, not the 200 that it comes in.
    let series = "code=\"403\",decision=\"denied\",method=\"POST\",reason=\"scope_missing\",route=\"admin\"";
    assert_eq!(gate.metric(&format!("sidegate_requests_total{{{series}}}")), 4.0);
}

#[tokio::test]
async fn an_upstream_that_is_down_is_unavailable() {
    let key = TestKey::new("ES256", "k");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gate = start(home(), &format!("urls: ['h2c://{free}']"), &key, ALL);
    let mut client = Client::connect(&gate, Over::Plain, Some(&key.good())).await;
    let status = client.unary("/test.Notes/Echo", Note::default()).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "The service behind the gate cannot be reached.")
    );
}

#[tokio::test]
async fn a_deadline_ends_it_everywhere() {
    let key = TestKey::new("ES256", "k");
    let home = home();
    let upstream = Notes::start(By::H2c, home.path()).await;
    let gate = start(home, &upstream.config, &key, ALL);
    let mut client = Client::connect(&gate, Over::Plain, Some(&key.good())).await;
    let mut request = client.request(Note::default());
    request.set_timeout(Duration::from_millis(300));
    let status = client.ask("/test.Notes/Wait", request).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    eventually("the upstream to be left alone", || upstream.waiting() == 0).await;
    // One that is given up is given up there.
    let request = client.request(Note::default());
    let waiting = tokio::spawn(async move { client.ask("/test.Notes/Wait", request).await.map(drop) });
    eventually("the call to arrive", || upstream.waiting() == 1).await;
    waiting.abort();
    eventually("the upstream to be left alone", || upstream.waiting() == 0).await;
}

#[tokio::test]
async fn a_deadline_is_kept_by_the_gate_itself() {
    // Neither this client nor this upstream looks at the deadline.
    let key = TestKey::new("ES256", "k");
    let upstream = Upstream::with(|_, stream| {
        let _ = io::Read::read(stream, &mut [0; 16]);
        false
    });
    let gate = start(home(), &format!("urls: ['http://{}']", upstream.address()), &key, ALL);
    let mut client = http2(&gate, Over::Plain).await.ready().await.unwrap();
    let request = http::Request::post("http://localhost/test.Notes/Wait")
        .header("authorization", format!("Bearer {}", key.good()))
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .header("grpc-timeout", "200m");
    let (response, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
    let (head, body) = in_time("the status", response).await.unwrap().into_parts();
    assert_eq!((head.status.as_u16(), &head.headers["content-type"]), (200, &"application/grpc".parse().unwrap()));
    assert_eq!((&head.headers["grpc-status"], body.is_end_stream()), (&"4".parse().unwrap(), true));
    assert_eq!(upstream.only().all("grpc-timeout"), ["200m"]);
}
