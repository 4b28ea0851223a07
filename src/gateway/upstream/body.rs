//! Bodies on their way: the request's to the upstream, the response's to the client.

use std::{
    cell::{Cell, RefCell},
    future::Future as _,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::{forward::Place, lane::Lease, patience::Waiting};
use crate::{
    gateway::headers::{self, Reserved},
    http::{BodyError, RequestBody},
};

/// A request's body as a connection sends it.
pub(in crate::gateway) struct Outgoing {
    body: RequestBody,
    /// `None` where there is nothing to send, so that most requests need none.
    sending: Option<Rc<Sending>>,
}

/// How far the sending of a body has come, for those who do not send it.
pub(super) struct Sending {
    moved: Cell<Instant>,
    client_is_due: Cell<bool>,
    state: Cell<State>,
    idle_timeout: Duration,
    /// Who sends, while it waits for the client.
    sender: RefCell<Option<Waker>>,
    /// Which trailers no client may set.
    reserved: Arc<Reserved>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    UnderWay,
    Whole,
    /// The client broke it off.
    Broken,
    /// Nobody wants it any more.
    Unwanted,
}

/// Where a body stands.
pub(super) struct Progress {
    /// When it moved last.
    pub(super) moved: Instant,
    /// Whether the client is the one to move.
    pub(super) client_is_due: bool,
    /// For how long the client may stand still.
    pub(super) idle_timeout: Duration,
}

impl Outgoing {
    /// A request's body, and where to see how far it has come.
    pub(super) fn new(
        body: RequestBody,
        idle_timeout: Duration,
        reserved: &Arc<Reserved>,
    ) -> (Self, Option<Rc<Sending>>) {
        let sending = (!body.is_end_stream()).then(|| {
            Rc::new(Sending {
                moved: Cell::new(Instant::now()),
                client_is_due: Cell::new(false),
                state: Cell::new(State::UnderWay),
                idle_timeout,
                sender: RefCell::default(),
                reserved: reserved.clone(),
            })
        });
        (Self { body, sending: sending.clone() }, sending)
    }

    /// No body, for a request that may be sent a second time.
    pub(super) fn empty() -> Self {
        Self { body: RequestBody::empty(), sending: None }
    }
}

impl Sending {
    pub(super) fn progress(&self) -> Progress {
        let client_is_due = self.client_is_due.get();
        Progress { moved: self.moved.get(), client_is_due, idle_timeout: self.idle_timeout }
    }

    /// Whether all of it has been handed over.
    pub(super) fn is_whole(&self) -> bool {
        self.state.get() == State::Whole
    }

    /// Whether the client broke it off.
    pub(super) fn is_broken(&self) -> bool {
        self.state.get() == State::Broken
    }

    /// No more of it is to be sent.
    pub(super) fn cancel(&self) {
        if self.state.get() == State::UnderWay {
            self.state.set(State::Unwanted);
            if let Some(sender) = self.sender.take() {
                sender.wake();
            }
        }
    }

    fn now(&self, state: State) {
        self.state.set(state);
        self.client_is_due.set(false);
    }

    /// Takes out of trailers what no client may say there.
    fn filter(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_trailers() {
            Ok(mut trailers) => {
                headers::trailers_to_upstream(&mut trailers, &self.reserved);
                Frame::trailers(trailers)
            }
            Err(data) => data,
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(sending) = &this.sending else { return Poll::Ready(None) };
        if sending.state.get() == State::Unwanted {
            return Poll::Ready(Some(Err("the answer is there, and the rest of the request is not wanted".into())));
        }
        let frame = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                sending.client_is_due.set(true);
                let mut sender = sending.sender.borrow_mut();
                if !sender.as_ref().is_some_and(|sender| sender.will_wake(cx.waker())) {
                    *sender = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
        };
        sending.moved.set(Instant::now());
        sending.client_is_due.set(false);
        Poll::Ready(match frame {
            None => {
                sending.now(State::Whole);
                None
            }
            Some(Ok(frame)) => {
                // Trailers are the last there is; and whoever knows that this was the last may not ask for another.
                if frame.is_trailers() || this.body.is_end_stream() {
                    sending.now(State::Whole);
                }
                Some(Ok(sending.filter(frame)))
            }
            Some(Err(error)) => {
                sending.now(State::Broken);
                Some(Err(error.into()))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response's body, with the connection it comes from and its request's place, both given back with its last byte.
pub(super) struct Answering {
    incoming: Incoming,
    held: Option<Held>,
    /// When all of it has to be over.
    deadline: Option<Pin<Box<Sleep>>>,
    idle_timeout: Duration,
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
    ) -> Self {
        Self { incoming, held: Some(held), deadline, idle_timeout }
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
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                held.waiting.rest();
                // Whoever knows that this was the last frame may not ask for another.
                if this.incoming.is_end_stream() {
                    this.settle();
                }
                Poll::Ready(Some(Ok(without_framing(frame))))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
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
