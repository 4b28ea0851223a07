//! Passing a permitted request on, and its answer back, streaming both ways.

use std::{
    future::Future as _,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, header, uri::PathAndQuery};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep, timeout};

use super::{
    authorize::Permit,
    config::{Target, Upstream},
    headers,
    pool::{Lease, Pool},
};
use crate::http::{Body, BodyError, RequestBody};

/// How an upstream, or the way to it, failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpstreamFailure {
    /// Nobody answers at its address.
    Unreachable,
    /// Making the connection took too long.
    ConnectTimeout,
    /// The response's head took too long.
    ResponseTimeout,
    /// The connection broke, or what came is not HTTP, or not what was asked for.
    Broken,
    /// The client's own body broke off on the way.
    RequestBody,
}

impl UpstreamFailure {
    /// The name in metrics and logs.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Unreachable => "upstream_unreachable",
            Self::ConnectTimeout => "upstream_connect_timeout",
            Self::ResponseTimeout => "upstream_response_timeout",
            Self::Broken => "upstream_broken",
            Self::RequestBody => "request_body_broken",
        }
    }
}

/// One worker's way to one upstream.
pub(super) struct Forwarder {
    pool: Rc<Pool>,
    response_timeout: Duration,
    idle_timeout: Duration,
}

impl Forwarder {
    /// `demo` is where the built-in page listens.
    pub(super) fn new(upstream: &Upstream, demo: Option<std::net::SocketAddr>) -> Self {
        let (host, port) = match &upstream.target {
            Target::Http { host, port } => (host.to_string(), *port),
            // Without the page there is nothing at port 0, and the answer is 502.
            Target::Demo => demo.map_or(("127.0.0.1".into(), 0), |demo| (demo.ip().to_string(), demo.port())),
        };
        let pool = Pool::new(&host, port, upstream.connect_timeout, upstream.keep_alive, upstream.max_idle);
        Self { pool, response_timeout: upstream.response_timeout, idle_timeout: upstream.idle_timeout }
    }

    /// Closes what has been idle for too long.
    pub(super) fn sweep(&self, now: Instant) {
        self.pool.sweep(now);
    }

    /// Sends a request whose headers are ready. It takes a [`Permit`], which only `authorize` makes.
    pub(super) async fn forward(
        &self,
        _proof: &Permit<'_>,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Body>, UpstreamFailure> {
        self.make_origin_form(&mut request);
        // hyper leaves such a body away with GET and HEAD, unless it is told how to send it.
        if request.body().size_hint().exact().is_none() {
            request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let mut lease = self.pool.lease().await?;
        // Half a microsecond, which a connection in constant use can do without: it is not the one that is timed out.
        let copy = if lease.rested { repeatable(&request) } else { None };
        let mut answer = self.exchange(&mut lease, request).await;
        // The upstream may close a kept connection in the moment in which we take it. What it has got nothing of, or may
        // get twice, is sent again, once, on a connection that is new.
        let again = match &mut answer {
            Err(Failed { untouched: untouched @ Some(_), .. }) => untouched.take(),
            Err(Failed { why: UpstreamFailure::Broken, untouched: None }) => copy,
            Ok(_) | Err(_) => None,
        };
        if let Some(request) = again {
            lease = self.pool.connect().await?;
            answer = self.exchange(&mut lease, *request).await;
        }
        Ok(self.answer(answer.map_err(|failed| failed.why)?, lease))
    }

    /// HTTP/1.1 to an origin has the path alone in its first line, and a Host (RFC 9112 §3.2.1).
    fn make_origin_form(&self, request: &mut Request<RequestBody>) {
        *request.version_mut() = Version::HTTP_11;
        if let Some(authority) = request.uri().authority() {
            // RFC 9112 §3.2.2: the host in the target is the one the request is for. A Host beside it says the same.
            let host = HeaderValue::try_from(authority.as_str());
            if let Ok(host) = host {
                request.headers_mut().entry(header::HOST).or_insert(host);
            }
            let target = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
            *request.uri_mut() = Uri::from(target);
        }
        if !request.headers().contains_key(header::HOST)
            && let Ok(host) = HeaderValue::try_from(self.pool.authority())
        {
            request.headers_mut().insert(header::HOST, host);
        }
    }

    async fn exchange(&self, lease: &mut Lease, request: Request<RequestBody>) -> Result<Response<Incoming>, Failed> {
        let response = match timeout(self.response_timeout, lease.sender().try_send_request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(mut failed)) => {
                let untouched = failed.take_message().map(Box::new);
                let error = failed.into_error();
                tracing::debug!(%error, "an exchange with an upstream failed");
                let why = if error.is_user() { UpstreamFailure::RequestBody } else { UpstreamFailure::Broken };
                return Err(Failed { why, untouched });
            }
            // Dropping the exchange closes the connection.
            Err(_) => return Err(Failed { why: UpstreamFailure::ResponseTimeout, untouched: None }),
        };
        let broken = Failed { why: UpstreamFailure::Broken, untouched: None };
        // Nobody asked for another protocol; and a body with two lengths has none (RFC 9112 §6.3).
        let two_lengths = response.headers().contains_key(header::TRANSFER_ENCODING)
            && response.headers().contains_key(header::CONTENT_LENGTH);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS || two_lengths { Err(broken) } else { Ok(response) }
    }

    fn answer(&self, response: Response<Incoming>, lease: Lease) -> Response<Body> {
        let (mut head, incoming) = response.into_parts();
        headers::to_client(&mut head.headers);
        head.version = Version::HTTP_11;
        head.extensions.clear();
        if incoming.is_end_stream() {
            lease.give_back();
            return Response::from_parts(head, Body::empty());
        }
        let body = UpstreamBody { incoming, lease: Some(lease), idle_timeout: self.idle_timeout, stalled: None };
        Response::from_parts(head, Body::Streamed(Box::pin(body)))
    }
}

/// A copy of a request that may be sent twice: its method is safe, and it has no body (RFC 9110 §9.2.1, §9.2.2).
fn repeatable(request: &Request<RequestBody>) -> Option<Box<Request<RequestBody>>> {
    if !request.method().is_safe() || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(RequestBody::empty());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    Some(Box::new(copy))
}

/// A failed exchange; with the request where none of it was sent.
struct Failed {
    why: UpstreamFailure,
    untouched: Option<Box<Request<RequestBody>>>,
}

/// A response's body on its way, with the connection it comes from.
struct UpstreamBody {
    incoming: Incoming,
    lease: Option<Lease>,
    idle_timeout: Duration,
    /// Set while the upstream keeps us waiting.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl UpstreamBody {
    fn settle(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl http_body::Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.stalled = None;
                // Whoever knows that this was the last frame may not ask for another.
                if frame.is_none() || self.incoming.is_end_stream() {
                    self.settle();
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => {
                let patience = self.idle_timeout;
                let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
                timer.as_mut().poll(cx).map(|()| Some(Err("the upstream stopped in the middle of a body".into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
