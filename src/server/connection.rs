//! One client connection, from its first byte to its last: handshake, choice of protocol, requests.

use std::{future::poll_fn, pin::Pin, rc::Rc, sync::Arc, task::Poll};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
};

use super::{Handler, config::Limits, http1, http2, io::WatchedStream, tls::Terminator, watch::Watch, worker::Entry};
use crate::{http::Peer, telemetry::Metrics};

/// What a connection needs to be served.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) tls: Option<Arc<Terminator>>,
    pub(super) peer: Peer,
}

/// What serves it.
pub(super) struct Context<H> {
    pub(super) handler: Rc<H>,
    pub(super) watch: Rc<Watch>,
    pub(super) limits: Limits,
    pub(super) metrics: Metrics,
}

/// Serves a connection until either end has had enough. The watch may end it at any await; the entry goes when it ends.
pub(super) async fn serve<H: Handler>(connection: Connection, context: Context<H>, _entry: Entry) {
    let Connection { stream, tls, peer } = connection;
    let mut stream = WatchedStream::new(stream, context.watch.clone());
    // Boxed, each: what waits for its first byte, and what has been parked, need not have room for all that may come.
    match tls {
        Some(tls) => Box::pin(serve_tls(tls, stream, peer, context)).await,
        None => {
            let (protocol, begun) = sniff(&mut stream, &context.watch).await;
            match protocol {
                Some(Protocol::Http1) => Box::pin(http1::serve(stream, begun, peer, context)).await,
                Some(Protocol::Http2) => Box::pin(http2::serve(stream, begun, peer, context)).await,
                // It went without a word.
                None => {}
            }
        }
    }
}

async fn serve_tls<H: Handler>(tls: Arc<Terminator>, stream: WatchedStream, mut peer: Peer, context: Context<H>) {
    let stream = match Box::pin(tls.accept(stream)).await {
        Ok((stream, certificate)) => {
            peer.certificate = certificate;
            stream
        }
        Err(error) => {
            context.metrics.connection_closed("handshake_failed");
            tracing::debug!(%error, peer = %peer.address, "a TLS handshake failed");
            return;
        }
    };
    context.watch.shaken();
    // Who names no protocol speaks HTTP/1.1: over TLS, HTTP/2 is chosen by name alone (RFC 9113 §3.2).
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        Box::pin(http2::serve(stream, Bytes::new(), peer, context)).await;
    } else {
        Box::pin(http1::serve(stream, Bytes::new(), peer, context)).await;
    }
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// What begins HTTP/2 (RFC 9113 §3.4). No request of HTTP/1.1 begins so.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads until it is clear what is spoken; answers that, and what has been read.
async fn sniff<S: AsyncRead + Unpin>(stream: &mut S, watch: &Watch) -> (Option<Protocol>, Bytes) {
    let mut begun = Vec::new();
    poll_fn(|cx| {
        // Nobody waits for a last request that has not begun.
        if watch.is_draining(cx.waker()) && begun.is_empty() {
            return Poll::Ready(None);
        }
        loop {
            // On the stack, and only while it is filled: a connection that waits holds nothing.
            let mut room = [std::mem::MaybeUninit::uninit(); 4096];
            let mut read = ReadBuf::uninit(&mut room);
            match Pin::new(&mut *stream).poll_read(cx, &mut read) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !read.filled().is_empty() => begun.extend_from_slice(read.filled()),
                Poll::Ready(_) => return Poll::Ready(None),
            }
            let seen = begun.len().min(PREFACE.len());
            if begun[..seen] != PREFACE[..seen] {
                return Poll::Ready(Some(Protocol::Http1));
            }
            if seen == PREFACE.len() {
                return Poll::Ready(Some(Protocol::Http2));
            }
        }
    })
    .await
    .map_or((None, Bytes::new()), |protocol| (Some(protocol), begun.into()))
}
