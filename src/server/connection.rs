//! One client connection, from its first byte to its last.

use std::{
    convert::Infallible,
    future::{Future as _, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

use super::{Handler, config::Limits, io::WatchedStream, watch::Watch};
use crate::{
    http::{Body, BodyError, Peer, RequestBody},
    telemetry::Metrics,
};

/// What a connection needs to be served.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
    pub(super) peer: Peer,
}

/// Serves a connection until either end has had enough. The watch may end it at any await.
pub(super) async fn serve<H: Handler>(
    connection: Connection,
    handler: Rc<H>,
    watch: Rc<Watch>,
    limits: Limits,
    metrics: Metrics,
) {
    let Connection { stream, tls, peer } = connection;
    let stream = WatchedStream::new(stream, watch.clone());
    let Some(tls) = tls else { return serve_http1(stream, peer, handler, watch, limits).await };
    match TlsAcceptor::from(tls).accept(stream).await {
        Ok(stream) => {
            watch.shaken();
            serve_http1(stream, peer, handler, watch, limits).await;
        }
        Err(error) => {
            metrics.connection_closed("handshake_failed");
            tracing::debug!(%error, peer = %peer.address, "a TLS handshake failed");
        }
    }
}

async fn serve_http1<S, H>(stream: S, peer: Peer, handler: Rc<H>, watch: Rc<Watch>, limits: Limits)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Handler,
{
    let peer = Rc::new(peer);
    let service = service_fn(|request: Request<Incoming>| {
        watch.serving();
        let request = request.map(|incoming| RequestBody::new(incoming, watch.body()));
        let (handler, peer, watch) = (handler.clone(), peer.clone(), watch.clone());
        async move {
            let response: Response<Body> = handler.handle(request, &peer).await;
            Ok::<_, Infallible>(response.map(|body| ResponseBody { body, watch }))
        }
    });
    let mut builder = http1::Builder::new();
    // Deadlines are the watch's.
    builder.header_read_timeout(None);
    builder.max_header_size(limits.max_header_bytes);
    builder.max_buf_size(limits.max_header_bytes.max(MIN_BUFFER_BYTES));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut told = false;
    let ended = poll_fn(|cx| {
        if !told && watch.is_draining(cx.waker()) {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, peer = %peer.address, "a client connection broke");
    }
}

/// The least that a connection buffers in one direction before it waits for the other side.
const MIN_BUFFER_BYTES: usize = 64 * 1024;

/// A response's body, which tells the watch when it has been handed over.
struct ResponseBody {
    body: Body,
    watch: Rc<Watch>,
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.watch.served();
    }
}
