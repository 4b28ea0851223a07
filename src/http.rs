//! What crosses rooms with a request: who sent it, its body on the way in, the body on the way out.

use std::{
    cell::Cell,
    net::IpAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::HeaderValue;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// The same, ready to be put into a header.
    pub address_text: HeaderValue,
    /// Whether it speaks TLS with us.
    pub secure: bool,
    /// Whether the listener it came to answers the issuer's paths.
    pub issuer: bool,
}

/// Since when the client has been keeping us waiting for a body; the connection's watch looks at it.
pub type WaitingSince = Rc<Cell<Option<Instant>>>;

/// A request's body, as it comes from the client.
pub struct RequestBody {
    incoming: Option<Incoming>,
    waiting: WaitingSince,
}

impl RequestBody {
    /// Notes in `waiting` when a reader has to wait for the client.
    pub fn new(incoming: Incoming, waiting: WaitingSince) -> Self {
        Self { incoming: Some(incoming), waiting }
    }

    /// No body, for a request that is sent a second time.
    pub fn empty() -> Self {
        Self { incoming: None, waiting: WaitingSince::default() }
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let frame = Pin::new(incoming).poll_frame(cx);
        if frame.is_ready() {
            self.waiting.set(None);
        } else if self.waiting.get().is_none() {
            self.waiting.set(Some(Instant::now()));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        // Nobody reads any more, so nobody waits.
        self.waiting.set(None);
    }
}

/// Why a body broke off. Whoever reads it can only hang up, so the cause is for the log alone.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A response body: at most one chunk of our own, or a stream from an upstream that is passed on as it comes.
pub enum Body {
    /// Sidegate's own words; `None` once they are sent, or when there are none.
    Own(Option<Bytes>),
    /// An upstream's.
    Streamed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError>>>),
}

impl Body {
    /// No body at all.
    pub const fn empty() -> Self {
        Self::Own(None)
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(text: T) -> Self {
        Self::Own(Some(text.into()).filter(|bytes| !bytes.is_empty()))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(text) => Poll::Ready(text.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Streamed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(text) => text.is_none(),
            Self::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Streamed(body) => body.size_hint(),
        }
    }
}
