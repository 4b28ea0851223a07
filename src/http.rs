//! What crosses rooms with a request: who sent it, its body on the way in, the body on the way out.

use std::{
    cell::Cell,
    future::Future,
    net::{IpAddr, Ipv6Addr},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};

/// What the names of the issuer's own cookies begin with, after a prefix for browsers that some have.
pub const OWN_COOKIES: &str = "sidegate-";

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
    /// The certificate it has shown, if its listener asks for one.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// A certificate whose key a client has proved to hold, and which one of its listener's CAs has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its subject in the words of RFC 4514, ready to be put into a header; `None` when it is empty or too long for one.
    pub subject: Option<HeaderValue>,
    /// The header in which the upstream is told the subject. No client can set it.
    pub subject_header: HeaderName,
    /// What else it is known by, and the subject again; none of them where they cannot be read.
    pub names: Box<[CertificateName]>,
    /// The SHA-256 of the certificate, which can bind a token to it (RFC 8705 §3.1, `x5t#S256`).
    pub thumbprint: [u8; 32],
}

/// A name in a certificate, by which a client is known (RFC 8705 §2.1.2). Two are the same when they are written so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateName {
    /// The subject in the words of RFC 4514, as Sidegate writes them.
    Subject(Box<str>),
    /// `dNSName` of the subject alternative names, in lower case.
    Dns(Box<str>),
    /// `uniformResourceIdentifier`.
    Uri(Box<str>),
    /// `iPAddress`.
    Ip(IpAddr),
    /// `rfc822Name`.
    Email(Box<str>),
}

/// Whom an address stands for where clients are counted: an IPv4 address for itself, an IPv6 address for its /64, which is
/// what one customer of a provider has at the least.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

/// What a request's head says that two readers could understand differently. Whoever serves the client puts it into the
/// request's extensions, for whoever answers it to refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadFault {
    /// A line that ends in LF alone: RFC 9112 §2.2 lets a reader take it for an end, and does not make it.
    BareLf,
    /// Content-Length stands twice, even with one value, or is no plain number (RFC 9112 §6.3).
    Length,
    /// Transfer-Encoding stands twice, or beside Content-Length (RFC 9112 §6.1).
    Coding,
    /// The target has a fragment, which is never sent (RFC 9110 §7.1): some readers cut it off, some do not.
    Fragment,
    /// It came in one piece with a body in chunks, before the answer to that.
    Pipelined,
    /// It has more fields than are looked at.
    TooMany,
}

/// How far a request's body has come; who serves the client looks at it.
#[derive(Debug, Default)]
pub struct BodyProgress {
    waiting: Cell<Option<Instant>>,
    ended: Cell<bool>,
}

impl BodyProgress {
    /// Since when a reader of the body has been waiting for the client.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.waiting.get()
    }

    /// Whether its end has been read.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }
}

/// A request's body, as it comes from the client.
pub struct RequestBody {
    incoming: Option<Incoming>,
    progress: Rc<BodyProgress>,
    /// How many bytes it may still have, and where to say that it had more.
    bound: Option<(u64, Outgrown)>,
}

/// Whether a body was cut for its size: whoever read it may only be able to tell that it broke off.
pub type Outgrown = Rc<Cell<bool>>;

impl RequestBody {
    /// Notes in `progress` when a reader has to wait for the client, and when the body has ended.
    pub fn new(incoming: Incoming, progress: Rc<BodyProgress>) -> Self {
        progress.ended.set(false);
        Self { incoming: Some(incoming), progress, bound: None }
    }

    /// No body, for a request that is sent a second time.
    pub fn empty() -> Self {
        Self { incoming: None, progress: Rc::default(), bound: None }
    }

    /// Cuts the body after so many bytes; the reader then gets an error. `None` when it is known to have more.
    #[must_use]
    pub fn bound(&mut self, bytes: u64) -> Option<Outgrown> {
        let outgrown = Outgrown::default();
        self.bound = Some((bytes, outgrown.clone()));
        (self.size_hint().lower() <= bytes).then_some(outgrown)
    }

    fn count(&mut self, frame: &Frame<Bytes>) -> Result<(), BodyError> {
        let (Some((left, outgrown)), Some(data)) = (&mut self.bound, frame.data_ref()) else { return Ok(()) };
        match left.checked_sub(data.len() as u64) {
            Some(rest) => *left = rest,
            None => {
                outgrown.set(true);
                return Err("the body is larger than its route takes".into());
            }
        }
        Ok(())
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        let frame = Pin::new(&mut *incoming).poll_frame(cx);
        match &frame {
            Poll::Ready(frame) => {
                this.progress.waiting.set(None);
                // Whoever knows that this was the last frame may not ask for another.
                this.progress.ended.set(frame.is_none() || incoming.is_end_stream());
            }
            Poll::Pending if this.progress.waiting.get().is_none() => this.progress.waiting.set(Some(Instant::now())),
            Poll::Pending => {}
        }
        frame.map(|frame| {
            frame.map(|frame| {
                let frame = frame?;
                this.count(&frame).map(|()| frame)
            })
        })
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
        self.progress.waiting.set(None);
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
    /// No body, but a connection that stops being HTTP: what `101 Switching Protocols` leads to, and a 2xx to an
    /// extended CONNECT (RFC 8441 §5). Whoever serves the client takes this out and runs it with the client's side.
    Tunnel(Tunnel),
}

/// Carries bytes both ways between a client and an upstream until either has had enough.
pub type Tunnel = Box<dyn FnOnce(ClientIo) -> Pin<Box<dyn Future<Output = ()>>>>;

/// The client's side of a tunnel.
pub type ClientIo = Box<dyn Duplex>;

/// What bytes can be read from and written to.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl Body {
    /// No body at all.
    pub const fn empty() -> Self {
        Self::Own(None)
    }
}

/// A body that somebody else writes, piece by piece, and ends by letting go of the other side.
struct Written(tokio::sync::mpsc::Receiver<Bytes>);

impl http_body::Body for Written {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

impl From<tokio::sync::mpsc::Receiver<Bytes>> for Body {
    fn from(pieces: tokio::sync::mpsc::Receiver<Bytes>) -> Self {
        Self::Streamed(Box::pin(Written(pieces)))
    }
}

impl From<Bytes> for Body {
    fn from(text: Bytes) -> Self {
        Self::Own(Some(text).filter(|bytes| !bytes.is_empty()))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(text) => Poll::Ready(text.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Streamed(body) => body.as_mut().poll_frame(cx),
            Self::Tunnel(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(text) => text.is_none(),
            Self::Streamed(body) => body.is_end_stream(),
            Self::Tunnel(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Streamed(body) => body.size_hint(),
            Self::Tunnel(_) => SizeHint::with_exact(0),
        }
    }
}
