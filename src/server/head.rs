//! One reading of every request's head in HTTP/1.1, as it lies on the wire.
//!
//! hyper takes a lone LF for the end of a line, merges equal lengths, and forgets a length beside a transfer coding. Each
//! may be read by one rule of RFC 9112 or another, so a proxy before us, or a service behind us, may read it differently
//! (request smuggling). What hyper hands on no longer shows them; so the bytes are looked at on their way to hyper. To know
//! which bytes are a head, each read ends where a head and its body do: what follows waits until those are handed on.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::watch::Watch;
use crate::http::{BodyProgress, HeadFault};

/// What the bytes that come next belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// A request's head.
    Head,
    /// A head has been read to its end, and so many bytes of what follows it; hyper has not handed it on yet.
    Handover(usize),
    /// A body of so many bytes more.
    Body(u64),
    /// A body in chunks: its reader tells when it has ended.
    Chunks,
}

/// Where a connection stands between heads and bodies; shared by the guard that sees the bytes and the service that is
/// handed the requests.
pub(super) struct Heads {
    next: Cell<Next>,
    /// How far the body of the latest request has come, if it has one.
    body: Rc<BodyProgress>,
    has_body: Cell<bool>,
    head: RefCell<Head>,
    /// Bytes that came together with the end of what was before them, or that were read before hyper was there.
    held: RefCell<Bytes>,
}

impl Heads {
    /// At the start of a connection of which `held` has been read. `body` is told of the ends of bodies.
    pub(super) fn new(held: Bytes, body: Rc<BodyProgress>) -> Rc<Self> {
        Rc::new(Self {
            next: Cell::new(Next::Head),
            body,
            has_body: Cell::default(),
            head: RefCell::default(),
            held: RefCell::new(held),
        })
    }

    /// A request has been handed on: what was wrong with its head. Says by `has_body` whether a body follows.
    pub(super) fn taken(&self, has_body: bool) -> Result<(), HeadFault> {
        let Next::Handover(ahead) = self.next.get() else { return Err(HeadFault::Pipelined) };
        let head = std::mem::take(&mut *self.head.borrow_mut());
        let (next, sound) = match (has_body, head.length) {
            (true, Some(length)) => match length - ahead as u64 {
                0 => (Next::Head, true),
                left => (Next::Body(left), true),
            },
            (true, None) => (Next::Chunks, head.coded),
            // Whatever of a body has been let through is none to hyper.
            (false, _) => (Next::Head, ahead == 0),
        };
        self.next.set(next);
        self.has_body.set(has_body);
        if sound { head.fault.map_or(Ok(()), Err) } else { Err(HeadFault::Length) }
    }

    /// What comes next, now that the body may have ended.
    fn next(&self) -> Next {
        if self.next.get() == Next::Chunks && self.body.has_ended() {
            self.next.set(Next::Head);
        }
        self.next.get()
    }

    /// Whether nothing is under way: no body that its reader has left unread, no head begun. After such a body hyper ends
    /// the connection, as soon as it has seen what is left of it.
    pub(super) fn at_rest(&self) -> bool {
        let unread = self.has_body.get() && !self.body.has_ended();
        !unread && self.next() == Next::Head && self.held.borrow().is_empty() && self.head.borrow().is_empty()
    }

    /// hyper is gone and gives back what it had read; it will be read once more.
    pub(super) fn unread(&self, bytes: &[u8]) {
        let mut held = self.held.borrow_mut();
        // Copied, even when there is nothing: what comes back is a corner of a buffer, and would keep all of it.
        *held = [bytes, &held[..]].concat().into();
        *self.head.borrow_mut() = Head::default();
        self.next.set(Next::Head);
    }

    /// What has not been read, for whoever takes the connection over.
    pub(super) fn take_held(&self) -> Bytes {
        std::mem::take(&mut self.held.borrow_mut())
    }

    /// How many of the bytes that have come hyper may see now.
    fn admit(&self, bytes: &[u8]) -> usize {
        match self.next() {
            Next::Head => {
                let mut head = self.head.borrow_mut();
                let Some(end) = head.read(bytes) else { return bytes.len() };
                // What is known to be its body may come along, rather than wait to be copied.
                let ahead = head.body_within(bytes.len() - end);
                self.next.set(Next::Handover(ahead));
                end + ahead
            }
            Next::Body(left) => {
                let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                let left = left - taken as u64;
                self.next.set(if left == 0 { Next::Head } else { Next::Body(left) });
                taken
            }
            Next::Chunks => bytes.len(),
            // Until the head is handed on, nobody knows what follows it.
            Next::Handover(_) => 0,
        }
    }
}

/// What has been seen of one head.
#[derive(Default)]
struct Head {
    /// The beginning of a line whose end has not come; longer than any name that matters.
    partial: BytesMut,
    begun: bool,
    length: Option<u64>,
    coded: bool,
    fault: Option<HeadFault>,
}

/// Enough of a line to know it by: `transfer-encoding:`, or `content-length:` and the longest number there is.
const KNOWN_BY: usize = 64;

impl Head {
    fn is_empty(&self) -> bool {
        !self.begun && self.partial.is_empty()
    }

    /// Reads on; answers where the head ends, once it does.
    fn read(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            let line = &bytes[start..end];
            start = end + 1;
            let last = if self.partial.is_empty() {
                self.line(line)
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.line(&whole)
            };
            if last {
                return Some(start);
            }
        }
        self.keep(&bytes[start..]);
        None
    }

    /// How many of so many bytes that follow the head are its body.
    fn body_within(&self, bytes: usize) -> usize {
        match (self.fault, self.coded, self.length) {
            (Some(_), ..) | (None, false, None) => 0,
            (None, true, _) => bytes,
            (None, false, Some(length)) => usize::try_from(length).map_or(bytes, |length| length.min(bytes)),
        }
    }

    /// The end of what is kept matters too: it may be the CR before an LF.
    fn keep(&mut self, rest: &[u8]) {
        self.partial.extend_from_slice(rest);
        if self.partial.len() > 2 * KNOWN_BY {
            let tail = self.partial.split_off(self.partial.len() - 1);
            self.partial.truncate(KNOWN_BY);
            self.partial.extend_from_slice(&tail);
        }
    }

    /// One line without its LF; whether it ends the head.
    fn line(&mut self, line: &[u8]) -> bool {
        let Some(line) = line.strip_suffix(b"\r") else {
            self.fault = self.fault.or(Some(HeadFault::BareLf));
            return self.ends(line);
        };
        if self.ends(line) {
            return true;
        }
        if let Some(value) = field(line, b"content-length") {
            let known = self.length.is_some() || self.coded;
            self.length = number(value);
            if known || self.length.is_none() {
                self.fault = self.fault.or(Some(if self.coded { HeadFault::Coding } else { HeadFault::Length }));
            }
        } else if field(line, b"transfer-encoding").is_some() {
            if self.coded || self.length.is_some() {
                self.fault = self.fault.or(Some(HeadFault::Coding));
            }
            self.coded = true;
            self.length = None;
        }
        false
    }

    /// Whether an empty line ends the head. Before the first line of a request it is none of it (RFC 9112 §2.2).
    fn ends(&mut self, line: &[u8]) -> bool {
        if !self.begun && !line.is_empty() {
            self.begun = true;
            // The line of the target, of which hyper's type forgets this part.
            if line.contains(&b'#') {
                self.fault = self.fault.or(Some(HeadFault::Fragment));
            }
            return false;
        }
        line.is_empty() && self.begun
    }
}

/// The value of a line that has this name.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":")?;
    head.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

/// `Content-Length = 1*DIGIT` (RFC 9110 §8.6), of a size that can be.
fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if digits { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// A client's stream that lets hyper see one head at a time.
pub(super) struct HeadGuard<S> {
    stream: S,
    heads: Rc<Heads>,
    watch: Rc<Watch>,
}

impl<S> HeadGuard<S> {
    pub(super) fn new(stream: S, heads: Rc<Heads>, watch: Rc<Watch>) -> Self {
        Self { stream, heads, watch }
    }

    /// The stream itself.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadGuard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if matches!(this.heads.next.get(), Next::Handover(_)) {
            // hyper reads ahead while it is busy with the request before. It takes the head it has first, in this same task, and
            // then asks again, so nobody has to be woken.
            return Poll::Pending;
        }
        let mut held = this.heads.held.borrow_mut();
        if !held.is_empty() {
            let most = held.len().min(buf.remaining());
            let taken = this.heads.admit(&held[..most]);
            buf.put_slice(&held[..taken]);
            held.advance(taken);
            this.watch.read();
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let fresh = &buf.filled()[before..];
        if !fresh.is_empty() {
            let taken = this.heads.admit(fresh);
            if taken < fresh.len() {
                *held = Bytes::copy_from_slice(&fresh[taken..]);
                buf.set_filled(before + taken);
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeadGuard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// How it ends is the business of whoever serves the connection.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
