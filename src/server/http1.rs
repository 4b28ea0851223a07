//! A connection that speaks HTTP/1.1.

use std::{
    cell::Cell,
    convert::Infallible,
    future::{Future as _, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context as Task, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    time::timeout,
};

use super::{
    Handler,
    connection::Context,
    head::{HeadGuard, Heads},
    io::Rewound,
    watch::Watch,
};
use crate::http::{Body, BodyError, Peer, RequestBody, Tunnel};

/// The least that a connection buffers in one direction before it waits for the other side.
const MIN_BUFFER_BYTES: usize = 64 * 1024;
/// As many fields as hyper has room for without asking the allocator.
const USUAL_MAX_HEADERS: usize = 100;

/// For how long what a client still sends after its answer is read away, and how much of it, in bytes.
const LINGER: Duration = Duration::from_secs(1);
const MAX_READ_AWAY: usize = 4 << 20;

/// How a stretch of requests ended.
enum Ended<S> {
    /// So did the connection.
    Closed(S),
    /// So did the connection, and the client may still be sending.
    ClosedEarly(S),
    /// Nothing is under way, and has not been for a while.
    Idle(S),
    /// It is a tunnel from here on; with what was read beyond the last head.
    Tunnel(S, Bytes, Tunnel),
}

/// Serves requests, the first of which may have begun with `begun`, until either end has had enough.
pub(super) async fn serve<S, H>(mut stream: S, begun: Bytes, peer: Peer, context: Context<H>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Handler,
{
    let (peer, heads) = (Rc::new(peer), Heads::new(begun, context.watch.body()));
    loop {
        // Boxed, so that an idle connection is as small as its socket.
        match Box::pin(serve_until_idle(stream, &heads, &peer, &context)).await {
            Ended::Closed(mut stream) => {
                // A socket says that it ends when it is closed; TLS has to say so before.
                if peer.secure {
                    let _ = timeout(LINGER, stream.shutdown()).await;
                }
                return;
            }
            Ended::ClosedEarly(mut stream) => {
                context.watch.leaves_http();
                let _ = timeout(LINGER, end_and_read_away(&mut stream)).await;
                return;
            }
            Ended::Idle(parked) => stream = parked,
            Ended::Tunnel(stream, read, tunnel) => {
                context.watch.leaves_http();
                return tunnel(Box::new(Rewound::new(read, stream))).await;
            }
        }
        let (parked, since) = (context.metrics.connection_parked(), context.watch.now());
        let Some(begun) = wait_for_more(&mut stream, &context.watch).await else {
            // The other end is told, if it is still there.
            let _ = stream.shutdown().await;
            return;
        };
        drop(parked);
        heads.unread(&begun);
        context.watch.unparked(since);
    }
}

async fn serve_until_idle<S, H>(stream: S, heads: &Rc<Heads>, peer: &Rc<Peer>, context: &Context<H>) -> Ended<S>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Handler,
{
    let Context { handler, watch, limits, .. } = context;
    let tunnel: Rc<Cell<Option<Tunnel>>> = Rc::default();
    let service = service_fn(|request: Request<Incoming>| {
        watch.serving();
        let fault = heads.taken(!request.body().is_end_stream()).err();
        let mut request = request.map(|incoming| RequestBody::new(incoming, watch.body()));
        if let Some(fault) = fault {
            request.extensions_mut().insert(fault);
        }
        let answer = Answer { watch: watch.clone(), tunnel: tunnel.clone(), last: fault.is_some() };
        let (handler, peer) = (handler.clone(), peer.clone());
        async move { Ok::<_, Infallible>(answer.finish(handler.handle(request, &peer).await)) }
    });
    let mut builder = http1::Builder::new();
    // Deadlines are the watch's.
    builder.header_read_timeout(None);
    builder.max_header_size(limits.max_header_bytes);
    builder.max_buf_size(limits.max_header_bytes.max(MIN_BUFFER_BYTES));
    if limits.max_headers != USUAL_MAX_HEADERS {
        builder.max_headers(limits.max_headers);
    }
    let guard = HeadGuard::new(stream, heads.clone(), watch.clone());
    let mut connection = builder.serve_connection(TokioIo::new(guard), service);
    let mut told = false;
    let ended = poll_fn(|cx| {
        if !told && watch.is_draining(cx.waker()) {
            told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            // All has been written, or the watch would say so.
            Poll::Pending if watch.may_park() && heads.at_rest() && !told => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    match (ended, tunnel.take()) {
        (Some(Ok(())), Some(tunnel)) => {
            let parts = connection.into_parts();
            let read = [&parts.read_buf[..], &heads.take_held()[..]].concat();
            Ended::Tunnel(parts.io.into_inner().into_inner(), read.into(), tunnel)
        }
        (Some(Ok(())), None) if heads.at_rest() => Ended::Closed(connection.into_parts().io.into_inner().into_inner()),
        (Some(Ok(())), None) => Ended::ClosedEarly(connection.into_parts().io.into_inner().into_inner()),
        (Some(Err(error)), _) => {
            tracing::debug!(%error, peer = %peer.address, "a client connection broke");
            Ended::ClosedEarly(connection.into_parts().io.into_inner().into_inner())
        }
        (None, _) => {
            let parts = connection.into_parts();
            heads.unread(&parts.read_buf);
            Ended::Idle(parts.io.into_inner().into_inner())
        }
    }
}

/// Waits, with nothing but the socket, until a connection that is idle goes on; `None` when it is over.
async fn wait_for_more<S: AsyncRead + Unpin>(stream: &mut S, watch: &Watch) -> Option<Bytes> {
    poll_fn(|cx| {
        if watch.is_draining(cx.waker()) {
            return Poll::Ready(None);
        }
        let mut room = [std::mem::MaybeUninit::uninit(); 4096];
        let mut read = ReadBuf::uninit(&mut room);
        match Pin::new(&mut *stream).poll_read(cx, &mut read) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                Poll::Ready(Some(Bytes::copy_from_slice(read.filled())))
            }
            Poll::Ready(_) => Poll::Ready(None),
        }
    })
    .await
}

/// Tells a client that has been answered that this was all, and takes what it still sends, up to a bound. A socket that is closed over unread bytes
/// resets its connection, and that may take away the answer before the client has read it (RFC 9112 §9.6).
async fn end_and_read_away<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let _ = stream.shutdown().await;
    let mut left = MAX_READ_AWAY;
    poll_fn(|cx| {
        loop {
            let mut room = [std::mem::MaybeUninit::uninit(); 4096];
            let mut read = ReadBuf::uninit(&mut room);
            match Pin::new(&mut *stream).poll_read(cx, &mut read) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !read.filled().is_empty() && left > read.filled().len() => {
                    left -= read.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
    })
    .await;
}

/// What becomes of a handler's answer on this connection.
struct Answer {
    watch: Rc<Watch>,
    tunnel: Rc<Cell<Option<Tunnel>>>,
    /// Nothing that follows can be trusted to be a request.
    last: bool,
}

impl Answer {
    fn finish(self, response: Response<Body>) -> Response<ResponseBody> {
        let (mut head, body) = response.into_parts();
        let body = match body {
            Body::Tunnel(tunnel) => {
                self.tunnel.set(Some(tunnel));
                Body::empty()
            }
            body @ (Body::Own(_) | Body::Streamed(_)) => body,
        };
        if self.last {
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Response::from_parts(head, ResponseBody { body, watch: self.watch })
    }
}

/// A response's body, which tells the watch when it has been handed over.
struct ResponseBody {
    body: Body,
    watch: Rc<Watch>,
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
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
