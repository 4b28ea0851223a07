//! HTTP/1.1 with an upstream: a connection that carries one exchange at a time, driven by whoever waits for the answer.
//!
//! It is our own, and not hyper's, since hyper's client gives each connection a task, with a channel to it and one back:
//! four wake-ups a request and a tenth of its cost. Here the client's task writes the request, reads the answer, and is the
//! only one to be woken. That also leaves nobody else to have a say in how either is framed: see [`request`] for what we
//! write and [`response`] for what we believe.

mod body;
mod request;
mod response;

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use tokio::{
    io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, ReadBuf},
    task::{AbortHandle, spawn_local},
};

use self::{
    body::{Body, Decoded},
    request::{Framing, Output},
    response::Head,
};
use super::{connect::Io, outgoing::Outgoing};
use crate::http::BodyError;

/// The largest head of a response, and the most that its trailers may have, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// How many answers may come before the answer (1xx).
const MAX_INTERIM: usize = 32;
/// What is read at a time until more is known to come, in bytes: a head, and most bodies.
const USUAL_READ: usize = 8 * 1024;
/// What is read at a time of a body that is large.
const LARGE_READ: usize = 64 * 1024;

/// A connection. One exchange follows the other: [`Http1::begin`], then [`Http1::poll_answer`], then
/// [`Http1::poll_frame`] to the end of the answer's body.
pub(super) struct Http1(RefCell<Inner>);

struct Inner {
    /// `None` when it is closed.
    io: Option<Io>,
    input: Input,
    output: Output,
    /// What is still to be sent of a request's body, and how.
    sending: Option<(Outgoing, Framing)>,
    /// What is still to come of a response.
    coming: Coming,
    /// Whether the other end lets another exchange follow.
    keeps_alive: bool,
    /// Sends what is left of a request that has been answered already.
    rest: Option<AbortHandle>,
    /// Who reads the answer meanwhile, while it waits.
    reader: Option<Waker>,
}

enum Coming {
    /// A head; it has no body if it is the answer to a HEAD. So many 1xx have come before it.
    Head {
        is_head: bool,
        interim: usize,
    },
    Body(Body),
}

/// Why a request was not sent, or not all of it.
enum Unsent {
    /// The connection does not take it.
    Io(io::Error),
    /// Its client does not give it.
    Body(BodyError),
}

/// Why there is no answer.
pub(super) struct Failed {
    pub(super) error: BodyError,
    /// Whether anything of the request may have reached the other end.
    pub(super) sent: bool,
}

impl Http1 {
    pub(super) fn new(io: Io) -> Rc<Self> {
        Rc::new(Self(RefCell::new(Inner {
            io: Some(io),
            input: Input::default(),
            output: Output::default(),
            sending: None,
            coming: Coming::Body(Body::None),
            keeps_alive: true,
            rest: None,
            reader: None,
        })))
    }

    /// Begins an exchange; takes the body out of `request`. `authority` is whom the request is for where it has no Host.
    pub(super) fn begin(&self, request: &mut Request<Outgoing>, authority: &str) {
        let inner = &mut *self.0.borrow_mut();
        let body = std::mem::replace(request.body_mut(), Outgoing::empty());
        let framing = Framing::of(&body.size_hint());
        inner.output.head(request, authority, framing);
        inner.sending = (!body.is_end_stream()).then_some((body, framing));
        inner.coming = Coming::Head { is_head: *request.method() == Method::HEAD, interim: 0 };
        (inner.keeps_alive, inner.rest, inner.reader) = (false, None, None);
    }

    /// The head of the answer. Sends the request meanwhile.
    pub(super) fn poll_answer(&self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Failed>> {
        let inner = &mut *self.0.borrow_mut();
        inner.poll_answer(cx).map_err(|error| Failed { error, sent: inner.output.wrote })
    }

    /// What is left of a request goes on being sent, on a task of its own: its client may want to have it sent before it
    /// takes more of the answer.
    pub(super) fn send_rest(self: &Rc<Self>) {
        if self.0.borrow().sending.is_none() {
            return;
        }
        let connection = self.clone();
        let rest = spawn_local(async move {
            match poll_fn(|cx| connection.0.borrow_mut().poll_send(cx)).await {
                Ok(()) => {}
                // There may be more of the answer; whoever reads it finds out where it ends.
                Err(Unsent::Io(error)) => tracing::debug!(%error, "the rest of a request was not taken"),
                // Half a request has no answer.
                Err(Unsent::Body(error)) => {
                    tracing::debug!(error, "the rest of a request did not come");
                    connection.give_up();
                }
            }
        });
        self.0.borrow_mut().rest = Some(rest.abort_handle());
    }

    /// More of the answer's body.
    pub(super) fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let inner = &mut *self.0.borrow_mut();
        loop {
            let Coming::Body(body) = &mut inner.coming else { return Poll::Ready(None) };
            let expected = match body.decode(&mut inner.input.bytes)? {
                Decoded::Frame(frame) => return Poll::Ready(Some(Ok(frame))),
                Decoded::End => return Poll::Ready(None),
                Decoded::More(expected) => expected,
            };
            let Some(io) = &mut inner.io else { return Poll::Ready(Some(Err("the connection is closed".into()))) };
            if inner.rest.is_some() {
                inner.reader = Some(cx.waker().clone());
            }
            if ready!(inner.input.poll_fill(io, cx, expected))? == 0 {
                return Poll::Ready(body.ended().err().map(Err));
            }
        }
    }

    /// Whether all of the answer's body has been read.
    pub(super) fn is_end_stream(&self) -> bool {
        matches!(&self.0.borrow().coming, Coming::Body(body) if body.is_over())
    }

    /// The answer's body, if all of it is here.
    pub(super) fn take_whole(&self) -> Option<Bytes> {
        let inner = &mut *self.0.borrow_mut();
        match &mut inner.coming {
            Coming::Body(body) => body.take_whole(&mut inner.input.bytes),
            Coming::Head { .. } => None,
        }
    }

    /// How much of the answer's body is still to come.
    pub(super) fn size_hint(&self) -> SizeHint {
        match &self.0.borrow().coming {
            Coming::Body(body) => body.size_hint(),
            Coming::Head { .. } => SizeHint::default(),
        }
    }

    /// Whether another exchange may follow the last: that is over on both sides, and the other end is still there and has
    /// said nothing that nobody asked for.
    pub(super) fn is_at_rest(&self) -> bool {
        let inner = &mut *self.0.borrow_mut();
        let is_over = matches!(&inner.coming, Coming::Body(body) if body.is_over());
        let is_sent = inner.sending.is_none() && inner.output.is_empty();
        is_over && is_sent && inner.keeps_alive && inner.is_silent()
    }

    /// Closes the connection, and lets whoever waits for the answer know.
    fn give_up(&self) {
        let mut inner = self.0.borrow_mut();
        let (io, reader) = (inner.io.take(), inner.reader.take());
        drop(inner);
        drop(io);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Closes the connection, whatever is under way on it.
    pub(super) fn close(&self) {
        let mut inner = self.0.borrow_mut();
        let rest = inner.rest.take();
        let (io, sending) = (inner.io.take(), inner.sending.take());
        drop(inner);
        if let Some(rest) = rest {
            rest.abort();
        }
        drop((io, sending));
    }
}

impl Inner {
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, BodyError>> {
        let mut unsent = None;
        match self.poll_send(cx) {
            // It may have answered before it hung up.
            Poll::Ready(Err(Unsent::Io(error))) => unsent = Some(error.into()),
            Poll::Ready(Err(Unsent::Body(error))) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        loop {
            let Some(io) = &mut self.io else { return Poll::Ready(Err("the connection is closed".into())) };
            let fresh = ready!(self.input.poll_fill(io, cx, 0))?;
            if fresh == 0 {
                return Poll::Ready(Err(unsent.unwrap_or_else(|| "it was closed before an answer had come".into())));
            }
            // Looked at anew with each line, rather than with each byte of one that is slow to come.
            let new = &self.input.bytes[self.input.bytes.len() - fresh..];
            if memchr::memchr(b'\n', new).is_some()
                && let Some(response) = self.read_heads()?
            {
                return Poll::Ready(Ok(response));
            }
            if self.input.bytes.len() >= MAX_HEAD {
                return Poll::Ready(Err("the head of the response is too large".into()));
            }
        }
    }

    /// The answer, once its head is here; what comes before it is read over.
    fn read_heads(&mut self) -> Result<Option<Response<()>>, BodyError> {
        let Coming::Head { is_head, interim } = &mut self.coming else { return Err("nobody asked".into()) };
        while let Some(Head { response, body, keeps_alive }) = response::read(&mut self.input.bytes, *is_head)? {
            if response.status().is_informational() {
                *interim += 1;
                if *interim > MAX_INTERIM {
                    return Err("it says more and more before its answer".into());
                }
                continue;
            }
            (self.coming, self.keeps_alive) = (Coming::Body(body), keeps_alive);
            return Ok(Some(response));
        }
        Ok(None)
    }

    /// Sends as much as can be; ready when all has been.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Err(Unsent::Io(io::ErrorKind::NotConnected.into()))) };
        loop {
            // As much as is there goes out in one piece.
            let mut waits = false;
            while self.output.has_room()
                && let Some((body, framing)) = &mut self.sending
            {
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(Some(frame)) => {
                        let frame = frame.map_err(Unsent::Body)?;
                        self.output.frame(frame, framing).map_err(Unsent::Body)?;
                        if body.is_end_stream() {
                            self.output.end(*framing).map_err(Unsent::Body)?;
                            self.sending = None;
                        }
                    }
                    Poll::Ready(None) => {
                        self.output.end(*framing).map_err(Unsent::Body)?;
                        self.sending = None;
                    }
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                }
            }
            while !self.output.is_empty() {
                ready!(self.output.poll_write(io, cx)).map_err(Unsent::Io)?;
            }
            ready!(Pin::new(&mut *io).poll_flush(cx)).map_err(Unsent::Io)?;
            if self.sending.is_none() {
                return Poll::Ready(Ok(()));
            }
            if waits {
                return Poll::Pending;
            }
        }
    }

    /// Whether nothing has come, not even the end.
    fn is_silent(&mut self) -> bool {
        let Some(io) = &mut self.io else { return false };
        // Whoever uses the connection next waits for it in a way of its own.
        let mut cx = Context::from_waker(Waker::noop());
        self.input.is_empty() && self.input.poll_fill(io, &mut cx, 0).is_pending()
    }
}

/// What has come and not been taken.
#[derive(Default)]
struct Input {
    bytes: Bytes,
    /// Room for what comes next of a large body. There is none while little comes: most connections hold nothing.
    room: BytesMut,
}

impl Input {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Reads once, of what `expected` more bytes are known to come; answers how much it was, and 0 at the end.
    fn poll_fill(&mut self, io: &mut Io, cx: &mut Context<'_>, expected: u64) -> Poll<io::Result<usize>> {
        if expected > USUAL_READ as u64 && self.bytes.is_empty() {
            return self.poll_fill_room(io, cx, expected);
        }
        self.room = BytesMut::new();
        // On the stack, so that an exchange holds no more than has come.
        let mut room = [std::mem::MaybeUninit::uninit(); USUAL_READ];
        let mut read = ReadBuf::uninit(&mut room);
        ready!(Pin::new(io).poll_read(cx, &mut read))?;
        let fresh = read.filled();
        if !fresh.is_empty() {
            self.bytes = match &self.bytes[..] {
                [] => Bytes::copy_from_slice(fresh),
                begun => [begun, fresh].concat().into(),
            };
        }
        Poll::Ready(Ok(fresh.len()))
    }

    fn poll_fill_room(&mut self, io: &mut Io, cx: &mut Context<'_>, expected: u64) -> Poll<io::Result<usize>> {
        let most = usize::try_from(expected).map_or(LARGE_READ, |expected| expected.min(LARGE_READ));
        self.room.reserve(most);
        let read = ready!(pin!(io.read_buf(&mut self.room)).poll(cx))?;
        self.bytes = self.room.split().freeze();
        Poll::Ready(Ok(read))
    }
}
