//! A connection that speaks HTTP/2: several requests at a time, each in a task of its own.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context as Task, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http2, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Handler,
    connection::Context,
    frames::FrameGuard,
    io::Rewound,
    watch::{StreamWatch, Watch},
};
use crate::http::{Body, BodyError, HeadFault, Peer, RequestBody, Tunnel};

/// How much of one request's body may lie here unread, in bytes.
const STREAM_WINDOW: u32 = 256 << 10;
/// How much of all bodies of a connection may.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// How much of a response may lie here because its client is slow to read.
const SEND_BUFFER: usize = 128 << 10;
/// How many requests may have been reset by the client and not yet been forgotten by us (CVE-2023-44487, rapid reset).
const MAX_PENDING_RESETS: usize = 20;
/// How many requests we may have reset for the client's mistakes (CVE-2025-8671, "MadeYouReset").
const MAX_OWN_RESETS: usize = 100;

/// Serves requests until either end has had enough. `begun` is what has been read so far.
pub(super) async fn serve<S, H>(stream: S, begun: Bytes, peer: Peer, context: Context<H>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Handler,
{
    let Context { handler, watch, limits, metrics } = context;
    watch.multiplexes();
    // Whichever way this ends, what it has begun ends with it.
    let _streams = EndStreams(watch.clone());
    let peer = Rc::new(peer);
    let streams = Streams { watch: watch.clone(), next: Rc::default() };
    let next = streams.next.clone();
    let service = service_fn(|mut request: Request<Incoming>| {
        let stream = watch.stream();
        *next.borrow_mut() = Some(stream.clone());
        let upgrade = (*request.method() == Method::CONNECT).then(|| hyper::upgrade::on(&mut request));
        let many = request.headers().len() > limits.max_headers;
        let mut request = request.map(|incoming| RequestBody::new(incoming, stream.body()));
        if many {
            request.extensions_mut().insert(HeadFault::TooMany);
        }
        let (handler, peer, watch) = (handler.clone(), peer.clone(), watch.clone());
        async move {
            let response = handler.handle(request, &peer).await;
            Ok::<_, Infallible>(answer(response, upgrade, stream, &watch))
        }
    });
    let mut builder = http2::Builder::new(streams);
    builder
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_OWN_RESETS)
        .enable_connect_protocol();
    let stream = FrameGuard::new(Rewound::new(begun, stream), watch.clock(), metrics.clone());
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
        if !is_io(&error) {
            metrics.connection_closed("http2_broken");
        }
        tracing::debug!(%error, peer = %peer.address, "a client connection broke");
    }
}

/// Whether a connection was lost, rather than ended for what its client had sent.
fn is_io(error: &hyper::Error) -> bool {
    std::iter::successors(std::error::Error::source(error), |cause| cause.source())
        .any(|cause| cause.is::<std::io::Error>())
}

fn answer(
    response: Response<Body>,
    upgrade: Option<OnUpgrade>,
    stream: Rc<StreamWatch>,
    watch: &Rc<Watch>,
) -> Response<ResponseBody> {
    let (head, body) = response.into_parts();
    let body = match (body, upgrade) {
        (Body::Tunnel(tunnel), Some(upgrade)) => {
            watch.run_stream(stream.clone(), run(tunnel, upgrade));
            Body::empty()
        }
        // A handler that makes a tunnel of what was no CONNECT is wrong; there is nothing to connect it to.
        (Body::Tunnel(_), None) => Body::empty(),
        (body @ (Body::Own(_) | Body::Streamed(_)), _) => body,
    };
    stream.handed_over();
    Response::from_parts(head, ResponseBody { body, stream })
}

async fn run(tunnel: Tunnel, upgrade: OnUpgrade) {
    match upgrade.await {
        Ok(client) => tunnel(Box::new(TokioIo::new(client))).await,
        Err(error) => tracing::debug!(%error, "a tunnel was not taken"),
    }
}

/// Runs what hyper makes of each request, under the connection's watch.
#[derive(Clone)]
struct Streams {
    watch: Rc<Watch>,
    /// The watch of the request that was handed on last: hyper runs its task next.
    next: Rc<RefCell<Option<Rc<StreamWatch>>>>,
}

impl<F: Future + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, answering: F) {
        // What comes without a request sends the end of a tunnel, and is watched by that.
        let stream = self.next.borrow_mut().take().unwrap_or_else(|| self.watch.stream());
        self.watch.run_stream(stream, answering);
    }
}

/// Ends what is under way when the connection is gone.
struct EndStreams(Rc<Watch>);

impl Drop for EndStreams {
    fn drop(&mut self) {
        self.0.end_streams();
    }
}

/// A response's body, which tells the watch whose turn it is.
struct ResponseBody {
    body: Body,
    stream: Rc<StreamWatch>,
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // There is room for more.
        self.stream.taken();
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_ready() {
            self.stream.handed_over();
        }
        frame
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
        self.stream.taken();
    }
}
