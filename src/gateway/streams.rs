//! What goes on after the decision: long answers, long uploads, tunnels. They end when the token that opened them expires
//! or is revoked, as their route says (`close_streams`).
//!
//! Each worker keeps a list of its own, and walks over it a few times a second. An exchange that is over by then, as nearly
//! all are, is not on it.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use slab::Slab;

use super::{config::CloseStreams, grpc};
use crate::{
    clock::Timestamp,
    http::{Body, BodyError},
    revocation::Revocations,
    token::{cache::Verified, verify::Refused},
};

/// A body of a known length up to this, in bytes, is no stream: it is soon over, or worth little.
const SHORT: u64 = 64 << 10;

/// One worker's streams.
#[derive(Default)]
pub(super) struct Streams {
    open: RefCell<Slab<Rc<Stream>>>,
}

struct Stream {
    identity: Rc<Verified>,
    rule: CloseStreams,
    ending: Cell<Option<Ending>>,
    task: RefCell<Option<Waker>>,
}

/// Why a stream ends before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Its token has expired.
    Expired,
    /// Its token, or the session behind it, has been revoked.
    Revoked,
}

impl From<Ending> for Refused {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Expired => Self::Expired,
            Ending::Revoked => Self::Revoked,
        }
    }
}

impl Ending {
    /// The name in metrics and logs.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Expired => "token_expired",
            Self::Revoked => "token_revoked",
        }
    }

    /// What a client is told, where it can be told.
    pub(super) const fn description(self) -> &'static str {
        match self {
            Self::Expired => "The access token provided has expired.",
            Self::Revoked => "The access token provided has been revoked.",
        }
    }
}

/// A place on the list, given back when the stream is over.
pub(super) struct Watched {
    streams: Rc<Streams>,
    id: usize,
    stream: Rc<Stream>,
}

impl Streams {
    /// Watches over what an identity has begun, if its route wants that.
    pub(super) fn watch(self: &Rc<Self>, rule: CloseStreams, identity: &Rc<Verified>) -> Option<Watched> {
        match rule {
            CloseStreams::Never => None,
            CloseStreams::OnExpiry | CloseStreams::OnRevocation => {
                let stream =
                    Stream { identity: identity.clone(), rule, ending: Cell::default(), task: RefCell::default() };
                let stream = Rc::new(stream);
                let id = self.open.borrow_mut().insert(stream.clone());
                Some(Watched { streams: self.clone(), id, stream })
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.borrow().is_empty()
    }

    /// Ends what must end by now; answers why each did.
    pub(super) fn sweep(&self, now: Timestamp, revocations: &Revocations) -> Vec<Ending> {
        // Read before the table is asked: what is revoked meanwhile is seen next time.
        let generation = revocations.generation();
        let open = self.open.borrow();
        open.iter().filter_map(|(_, stream)| stream.end_if_due(now, revocations, generation)).collect()
    }
}

impl Stream {
    fn end_if_due(&self, now: Timestamp, revocations: &Revocations, generation: u64) -> Option<Ending> {
        let Verified { identity, seen_generation, .. } = &*self.identity;
        let is_revoked = || revocations.is_revoked(&self.identity.credential());
        let ending = if self.ending.get().is_some() {
            return None;
        } else if seen_generation.get() != generation && is_revoked() {
            Ending::Revoked
        } else if self.rule == CloseStreams::OnExpiry && now >= identity.expires_at {
            Ending::Expired
        } else {
            seen_generation.set(generation);
            return None;
        };
        self.ending.set(Some(ending));
        // It is woken in its own time: whatever it drops, the list is not in its way.
        if let Some(task) = self.task.borrow_mut().take() {
            task.wake();
        }
        Some(ending)
    }
}

impl Watched {
    /// Why the stream must end, once it must; until then the task is woken when that changes.
    pub(super) fn poll_ending(&self, cx: &Context<'_>) -> Poll<Ending> {
        if let Some(ending) = self.stream.ending.get() {
            return Poll::Ready(ending);
        }
        let mut task = self.stream.task.borrow_mut();
        if !task.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Runs `work` to its end, or until the stream must end.
    pub(super) async fn run<T>(&self, work: impl Future<Output = T>) -> Result<T, Ending> {
        let mut work = std::pin::pin!(work);
        poll_fn(|cx| match self.poll_ending(cx) {
            Poll::Ready(ending) => Poll::Ready(Err(ending)),
            Poll::Pending => work.as_mut().poll(cx).map(Ok),
        })
        .await
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.streams.open.borrow_mut().remove(self.id);
    }
}

/// Whether a body goes on for so long, as far as can be told, that it has to be watched.
pub(super) fn is_long(size: &SizeHint) -> bool {
    size.exact().is_none_or(|length| length > SHORT)
}

/// Puts a response's body under watch.
pub(super) fn guard(body: Body, watched: Watched, is_grpc: bool) -> Body {
    match body {
        Body::Streamed(body) => Body::Streamed(Box::pin(WatchedBody { body, watched, is_grpc, over: false })),
        // Sidegate's own words are at their end, and a tunnel is watched by who made it.
        body @ (Body::Own(_) | Body::Tunnel(_)) => body,
    }
}

/// A body that breaks off when it must.
struct WatchedBody {
    body: Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError>>>,
    watched: Watched,
    is_grpc: bool,
    over: bool,
}

impl http_body::Body for WatchedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        match self.watched.poll_ending(cx) {
            Poll::Pending => self.body.as_mut().poll_frame(cx),
            Poll::Ready(ending) => {
                self.over = true;
                // A client of gRPC learns why; any other sees that the end is missing.
                Poll::Ready(Some(if self.is_grpc {
                    Ok(Frame::trailers(grpc::unauthenticated(ending.description())))
                } else {
                    Err(ending.description().into())
                }))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
