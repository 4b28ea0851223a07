//! WebSocket servers: tungstenite over HTTP/1.1, and over HTTP/2's extended CONNECT (RFC 8441) with hyper.

use std::{
    convert::Infallible,
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::SinkExt as _;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, ext::Protocol, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
};
use tokio_stream::StreamExt as _;
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request as Asked, Response as Agreed},
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

use super::{By, Io, listen};

/// A handshake as it reached the upstream.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) protocol: Option<String>,
    pub(super) headers: HeaderMap,
}

/// An upstream that sends back what it is told.
///
/// `ping me` makes it ping, and say what came back; `close me` makes it close with 4001; a path that ends in `/no` makes it
/// refuse, and one in `/ok` makes it answer as if it had been a GET.
#[derive(Clone)]
pub(super) struct Sockets {
    pub(super) config: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// What clients said when they closed.
    closes: Arc<Mutex<Vec<Option<CloseFrame>>>>,
}

impl Sockets {
    pub(super) async fn start(by: By, home: &Path) -> Self {
        let (config, accepted) = listen(by, home, &["h2", "http/1.1"]).await;
        let this = Self { config, seen: Arc::default(), closes: Arc::default() };
        tokio::spawn(this.clone().serve(by, accepted));
        this
    }

    /// The only handshake since this was last asked.
    pub(super) fn only(&self) -> Seen {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen[0].clone()
    }

    /// Whether nothing has come.
    pub(super) fn is_untouched(&self) -> bool {
        self.seen.lock().unwrap().is_empty()
    }

    /// How the last client closed, once one has.
    pub(super) fn closed(&self) -> Option<Option<CloseFrame>> {
        self.closes.lock().unwrap().pop()
    }

    async fn serve(self, by: By, mut accepted: mpsc::Receiver<Io>) {
        while let Some(io) = accepted.recv().await {
            let this = self.clone();
            tokio::spawn(async move {
                match by {
                    By::H2c => this.over_http2(io).await,
                    By::Http | By::Https | By::Unix => this.over_http1(io).await,
                }
            });
        }
    }

    #[expect(clippy::result_large_err, reason = "the library's own")]
    async fn over_http1(self, io: Io) {
        let callback = |asked: &Asked, mut agreed: Agreed| {
            self.note(asked);
            if asked.uri().path().ends_with("/no") {
                let refusal = Response::builder().status(403).header("x-reason", "full");
                return Err(refusal.body(Some("no room".to_owned())).unwrap() as ErrorResponse);
            }
            choose(asked.headers(), agreed.headers_mut());
            Ok(agreed)
        };
        if let Ok(socket) = accept_hdr_async(io, callback).await {
            self.echo(socket).await;
        }
    }

    async fn over_http2(self, io: Io) {
        let service = service_fn(|mut request: Request<Incoming>| {
            self.note(&request);
            let this = self.clone();
            let mut response = Response::new(Full::<Bytes>::default());
            if request.uri().path().ends_with("/no") {
                *response.status_mut() = StatusCode::FORBIDDEN;
                response.headers_mut().insert("x-reason", "full".parse().unwrap());
                *response.body_mut() = Full::from("no room");
            } else {
                choose(request.headers(), response.headers_mut());
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    let io = TokioIo::new(upgrade.await.unwrap());
                    this.echo(WebSocketStream::from_raw_socket(io, Role::Server, None).await).await;
                });
            }
            async move { Ok::<_, Infallible>(response) }
        });
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.enable_connect_protocol();
        let _ = builder.serve_connection(TokioIo::new(io), service).await;
    }

    fn note<B>(&self, request: &Request<B>) {
        self.seen.lock().unwrap().push(Seen {
            method: request.method().clone(),
            target: request.uri().path_and_query().unwrap().to_string(),
            protocol: request.extensions().get::<Protocol>().map(|protocol| protocol.as_str().to_owned()),
            headers: request.headers().clone(),
        });
    }

    async fn echo<S: AsyncRead + AsyncWrite + Unpin>(self, mut socket: WebSocketStream<S>) {
        while let Some(Ok(message)) = socket.next().await {
            let sent = match message {
                Message::Text(text) if text == "ping me" => socket.send(Message::Ping("are you there".into())).await,
                Message::Text(text) if text == "close me" => {
                    socket.close(Some(CloseFrame { code: CloseCode::from(4001), reason: "enough".into() })).await
                }
                Message::Pong(payload) => {
                    socket.send(Message::text(format!("pong: {}", String::from_utf8_lossy(&payload)))).await
                }
                Message::Close(frame) => {
                    self.closes.lock().unwrap().push(frame);
                    continue;
                }
                Message::Text(_) | Message::Binary(_) => socket.send(message).await,
                // The library answers it.
                Message::Ping(_) | Message::Frame(_) => continue,
            };
            if sent.is_err() {
                break;
            }
        }
        // TLS has a word for the end, and servers say it.
        let _ = socket.get_mut().shutdown().await;
    }
}

/// Takes the second of the subprotocols that are offered, and says something of its own.
fn choose(offered: &HeaderMap, agreed: &mut HeaderMap) {
    if let Some(list) = offered.get("sec-websocket-protocol")
        && let Some(second) = list.to_str().unwrap().split(',').nth(1)
    {
        agreed.insert("sec-websocket-protocol", second.trim().parse().unwrap());
    }
    agreed.insert("x-from-upstream", "here".parse().unwrap());
}
