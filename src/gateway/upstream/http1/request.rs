//! A request as it is written. Who gets it has one way to tell where it ends, and that is always ours to say: whatever the
//! headers claim about the body's length, it is written from the body that is there (RFC 9112 §6).

use std::{
    io::{self, IoSlice, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, Method, Request, header};
use http_body::{Frame, SizeHint};
use tokio::io::AsyncWrite;

use crate::http::BodyError;

/// How the end of a request's body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// By its length, of which so much is still to be sent.
    Length(u64),
    /// In chunks.
    Chunked,
    /// It has been told.
    Ended,
}

impl Framing {
    /// By its length where that is known.
    pub(super) fn of(hint: &SizeHint) -> Self {
        hint.exact().map_or(Self::Chunked, Self::Length)
    }
}

/// Heads are as large as this, mostly.
const USUAL_HEAD: usize = 1024;
/// What is kept for the next head, at most.
const MAX_KEPT: usize = 4096;

/// What is to be written.
#[derive(Default)]
pub(super) struct Output {
    /// A head, or what goes before a chunk; written up to `start`.
    text: Vec<u8>,
    start: usize,
    /// A piece of a body, which is written from where it lies.
    piece: Bytes,
    /// What follows it.
    tail: &'static [u8],
    /// Whether anything has been written since the last head began.
    pub(super) wrote: bool,
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.text.len() && self.piece.is_empty() && self.tail.is_empty()
    }

    /// Whether a piece of a body may be added.
    pub(super) fn has_room(&self) -> bool {
        self.piece.is_empty() && self.tail.is_empty()
    }

    /// A request's head. In HTTP/1.1 to an origin it has the path alone in its first line, and a Host (RFC 9112 §3.2.1).
    pub(super) fn head<B>(&mut self, request: &Request<B>, authority: &str, framing: Framing) {
        self.wrote = false;
        self.start = 0;
        let text = &mut self.text;
        text.clear();
        text.reserve(USUAL_HEAD);
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        for part in [request.method().as_str(), " ", target, " HTTP/1.1\r\n"] {
            text.extend_from_slice(part.as_bytes());
        }
        if !request.headers().contains_key(header::HOST) {
            field(text, &header::HOST, authority.as_bytes());
        }
        for (name, value) in request.headers() {
            if *name != header::CONTENT_LENGTH && *name != header::TRANSFER_ENCODING {
                field(text, name, value.as_bytes());
            }
        }
        match framing {
            Framing::Chunked => field(text, &header::TRANSFER_ENCODING, b"chunked"),
            Framing::Ended => {}
            // RFC 9110 §8.6: one that has a meaning for a body says when it has none.
            Framing::Length(0) if !takes_a_body(request.method()) => {}
            Framing::Length(length) => write!(text, "content-length: {length}\r\n").expect("a vector takes it"),
        }
        text.extend_from_slice(b"\r\n");
    }

    /// What comes next of a body.
    ///
    /// # Errors
    /// When it is more than was said.
    pub(super) fn frame(&mut self, frame: Frame<Bytes>, framing: &mut Framing) -> Result<(), BodyError> {
        match (frame.into_data(), &mut *framing) {
            (Ok(data), Framing::Length(left)) => {
                *left = left.checked_sub(data.len() as u64).ok_or("a request's body has more than its length")?;
                self.piece = data;
            }
            // An empty chunk would be the last.
            (Ok(data), Framing::Chunked) if data.is_empty() => {}
            (Ok(data), Framing::Chunked) => {
                self.settle();
                write!(self.text, "{:x}\r\n", data.len()).expect("a vector takes it");
                (self.piece, self.tail) = (data, b"\r\n");
            }
            (Err(frame), Framing::Chunked) => {
                if let Ok(trailers) = frame.into_trailers() {
                    self.last_chunk(&trailers);
                    *framing = Framing::Ended;
                }
            }
            (_, Framing::Ended) => return Err("a request's body goes on after its end".into()),
            // There is no place for them.
            (Err(_), Framing::Length(_)) => {}
        }
        Ok(())
    }

    /// The end of a body, unless it has been told by trailers.
    ///
    /// # Errors
    /// When it is less than was said.
    pub(super) fn end(&mut self, framing: Framing) -> Result<(), BodyError> {
        match framing {
            Framing::Length(0) | Framing::Ended => Ok(()),
            Framing::Length(_) => Err("a request's body has less than its length".into()),
            Framing::Chunked => {
                if self.has_room() {
                    self.last_chunk(&HeaderMap::new());
                } else {
                    self.tail = b"\r\n0\r\n\r\n";
                }
                Ok(())
            }
        }
    }

    fn last_chunk(&mut self, trailers: &HeaderMap) {
        self.settle();
        self.text.extend_from_slice(b"0\r\n");
        for (name, value) in trailers {
            field(&mut self.text, name, value.as_bytes());
        }
        self.text.extend_from_slice(b"\r\n");
    }

    /// Forgets what has been written.
    fn settle(&mut self) {
        if self.start == self.text.len() {
            self.text.clear();
            self.text.shrink_to(MAX_KEPT);
            self.start = 0;
        }
    }

    /// Writes once.
    pub(super) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        io: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let text = &self.text[self.start..];
        let mut written = if self.piece.is_empty() && self.tail.is_empty() {
            ready!(Pin::new(io).poll_write(cx, text))?
        } else {
            let slices = [IoSlice::new(text), IoSlice::new(&self.piece), IoSlice::new(self.tail)];
            ready!(Pin::new(io).poll_write_vectored(cx, &slices))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.wrote = true;
        let of_text = written.min(text.len());
        self.start += of_text;
        written -= of_text;
        let of_piece = written.min(self.piece.len());
        self.piece.advance(of_piece);
        self.tail = &self.tail[written - of_piece..];
        self.settle();
        Poll::Ready(Ok(()))
    }
}

fn field(text: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    text.extend_from_slice(name.as_str().as_bytes());
    text.extend_from_slice(b": ");
    text.extend_from_slice(value);
    text.extend_from_slice(b"\r\n");
}

fn takes_a_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}
