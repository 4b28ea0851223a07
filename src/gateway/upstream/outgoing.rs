//! A request's body on its way to an upstream.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::{
    gateway::{
        headers::{self, Reserved},
        turns::{Turn, Turns},
    },
    http::{BodyError, RequestBody},
};

/// A request's body as a connection sends it; `None` where there is nothing to send, as with most requests. No more than a
/// pointer, since a request is moved a dozen times on its way.
pub(super) struct Outgoing(Option<Rc<Sending>>);

/// A body that is being sent, and how far that has come, for those who do not send it.
pub(super) struct Sending {
    body: RefCell<RequestBody>,
    /// How often it has moved.
    moves: Cell<u64>,
    client_is_due: Cell<bool>,
    state: Cell<State>,
    idle_timeout: Duration,
    turn: RefCell<Turn>,
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
    /// How often it has moved.
    pub(super) moves: u64,
    /// Whether the client is the one to move.
    pub(super) client_is_due: bool,
    /// For how long the client may stand still.
    pub(super) idle_timeout: Duration,
}

impl Outgoing {
    pub(super) fn new(body: RequestBody, idle_timeout: Duration, turns: &Rc<Turns>, reserved: &Arc<Reserved>) -> Self {
        if body.is_end_stream() {
            return Self::empty();
        }
        Self(Some(Rc::new(Sending {
            body: RefCell::new(body),
            moves: Cell::new(0),
            client_is_due: Cell::new(false),
            state: Cell::new(State::UnderWay),
            idle_timeout,
            turn: RefCell::new(Turn::new(turns)),
            sender: RefCell::default(),
            reserved: reserved.clone(),
        })))
    }

    /// No body.
    pub(super) const fn empty() -> Self {
        Self(None)
    }

    /// Where to see how far it has come; `None` where there is nothing to send.
    pub(super) fn sending(&self) -> Option<Rc<Sending>> {
        self.0.clone()
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        // Others may still look at how far it came; the client is told now that nobody reads any more.
        if let Some(sending) = &self.0 {
            drop(sending.body.replace(RequestBody::empty()));
        }
    }
}

impl Sending {
    pub(super) fn progress(&self) -> Progress {
        let client_is_due = self.client_is_due.get();
        Progress { moves: self.moves.get(), client_is_due, idle_timeout: self.idle_timeout }
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
        let Some(sending) = &self.0 else { return Poll::Ready(None) };
        if sending.state.get() == State::Unwanted {
            return Poll::Ready(Some(Err("the answer is there, and the rest of the request is not wanted".into())));
        }
        let mut turn = sending.turn.borrow_mut();
        ready!(turn.poll(cx));
        let mut body = sending.body.borrow_mut();
        let frame = match Pin::new(&mut *body).poll_frame(cx) {
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
        sending.moves.set(sending.moves.get() + 1);
        sending.client_is_due.set(false);
        Poll::Ready(match frame {
            None => {
                sending.state.set(State::Whole);
                None
            }
            Some(Ok(frame)) => {
                turn.moved(frame.data_ref().map_or(0, Bytes::len));
                // Trailers are the last there is; and whoever knows that this was the last may not ask for another.
                if frame.is_trailers() || body.is_end_stream() {
                    sending.state.set(State::Whole);
                }
                Some(Ok(sending.filter(frame)))
            }
            Some(Err(error)) => {
                sending.state.set(State::Broken);
                Some(Err(error))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|sending| sending.body.borrow().is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |sending| sending.body.borrow().size_hint())
    }
}
