//! A response's body on its way to the client, and what its exchange holds until that is over.

use std::{
    future::Future as _,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::{forward::Place, http1::Http1, lane::Lease, outgoing::Sending, patience::Waiting};
use crate::{
    gateway::{headers, turns::Turn},
    http::BodyError,
};

/// A response's body, with the connection it comes from and its request's place, both given back with its last byte.
pub(super) struct Answering {
    incoming: Incoming,
    held: Option<Held>,
    /// When all of it has to be over.
    deadline: Option<Pin<Box<Sleep>>>,
    idle_timeout: Duration,
    turn: Turn,
}

/// A response's body as it comes from its connection.
pub(super) enum Incoming {
    Http1(Rc<Http1>),
    Http2(hyper::body::Incoming),
}

impl Incoming {
    /// All of it, if that is here.
    pub(super) fn take_whole(&self) -> Option<Bytes> {
        match self {
            Self::Http1(connection) => connection.take_whole(),
            Self::Http2(incoming) => incoming.is_end_stream().then(Bytes::new),
        }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Http1(connection) => connection.poll_frame(cx),
            Self::Http2(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_end_stream(),
            Self::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(connection) => connection.size_hint(),
            Self::Http2(incoming) => incoming.size_hint(),
        }
    }
}

/// What an exchange holds until it is over.
pub(super) struct Held {
    pub(super) lease: Lease,
    pub(super) sending: Option<Rc<Sending>>,
    pub(super) waiting: Waiting,
    pub(super) place: Place,
}

impl Held {
    /// The response is here to its last byte. An answer that came before all of the request had been sent leaves nobody
    /// who wants the rest, and a connection that is out of step.
    pub(super) fn settle(self) {
        let Self { lease, sending, waiting, place } = self;
        match sending {
            Some(sending) if !sending.is_whole() => lease.cancel(sending),
            Some(_) | None => lease.give_back(),
        }
        drop((waiting, place));
    }

    /// The response is not here, and will not be.
    fn abandon(self) {
        let Self { lease, sending, .. } = self;
        match sending {
            Some(sending) if !sending.is_whole() => lease.cancel(sending),
            Some(_) | None => drop(lease),
        }
    }
}

impl Answering {
    pub(super) fn new(
        incoming: Incoming,
        held: Held,
        deadline: Option<Pin<Box<Sleep>>>,
        idle_timeout: Duration,
        turn: Turn,
    ) -> Self {
        Self { incoming, held: Some(held), deadline, idle_timeout, turn }
    }

    fn settle(&mut self) {
        if let Some(held) = self.held.take() {
            held.settle();
        }
    }
}

impl Body for Answering {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(held) = &this.held else { return Poll::Ready(None) };
        if let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err("the upstream took too long over a body".into())));
        }
        ready!(this.turn.poll(cx));
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.turn.moved(frame.data_ref().map_or(0, Bytes::len));
                held.waiting.rest();
                // Whoever knows that this was the last frame may not ask for another.
                if this.incoming.is_end_stream() {
                    this.settle();
                }
                Poll::Ready(Some(Ok(without_framing(frame))))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
            Poll::Ready(None) => {
                this.settle();
                Poll::Ready(None)
            }
            Poll::Pending => {
                held.waiting.restart(this.idle_timeout);
                held.waiting.poll_overdue(cx).map(|_| Some(Err("a body stood still for too long".into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() || self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            held.abandon();
        }
    }
}

/// Takes out of trailers what has no business there.
fn without_framing(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            headers::trailers_to_client(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(data) => data,
    }
}
