//! A watch over each connection: where it stands, since when, and whether its client has kept us waiting for too long.
//!
//! A timer for each wait would be set and cleared several times a request. Instead every change of state is noted with
//! the worker's own coarse clock, and the worker walks over its connections a few times a second.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    rc::Rc,
    task::Waker,
    time::{Duration, Instant},
};

use slab::Slab;
use tokio::task::{AbortHandle, spawn_local};

use super::config::Limits;
use crate::http::BodyProgress;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The TLS handshake is under way.
    Handshake,
    /// Nothing has come yet.
    Fresh,
    /// A request's head has begun to come.
    ReadingHead,
    /// A request is being answered; in HTTP/2, at least one is.
    Serving,
    /// A response is sent, and no further request has begun.
    KeptAlive,
    /// It carries bytes that are no HTTP; whoever reads them has deadlines of their own.
    Other,
}

/// How long a kept connection waits before its buffers are given up.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// The state of one connection, shared between its task and its worker.
pub(super) struct Watch {
    clock: Rc<Cell<Instant>>,
    phase: Cell<Phase>,
    since: Cell<Instant>,
    /// Since when the client does not take what we write.
    write_blocked: Cell<Option<Instant>>,
    /// How far the body of the request under way has come.
    body: Rc<BodyProgress>,
    draining: Cell<bool>,
    /// Whether the connection is to give up its buffers as soon as it is idle.
    parks: Cell<bool>,
    task: RefCell<Option<Waker>>,
    /// In HTTP/2, the requests under way.
    streams: RefCell<Slab<Option<Stream>>>,
    multiplexed: Cell<bool>,
}

/// What to look at, and what to end.
type Stream = (Rc<StreamWatch>, AbortHandle);

/// The state of one request among several on a connection.
pub(super) struct StreamWatch {
    clock: Rc<Cell<Instant>>,
    /// How far its body has come.
    body: Rc<BodyProgress>,
    /// Since when the client has not made room for more of the response.
    blocked: Cell<Option<Instant>>,
}

impl StreamWatch {
    /// What the request's body notes its progress in.
    pub(super) fn body(&self) -> Rc<BodyProgress> {
        self.body.clone()
    }

    /// It is the client's turn: it has to take what it was given.
    pub(super) fn handed_over(&self) {
        self.blocked.set(Some(self.clock.get()));
    }

    /// It has taken it.
    pub(super) fn taken(&self) {
        self.blocked.set(None);
    }
}

/// What a round over the connections finds to be done.
pub(super) enum Finding {
    /// The connection must end, for this cause.
    End(&'static str),
    /// The connection is to be told that it is no longer wanted, for this cause.
    Dismiss(&'static str),
    /// These requests of it must, for theirs.
    EndStreams(Vec<(&'static str, AbortHandle)>),
}

impl Watch {
    /// Begins with the handshake, or with the wait for the first request.
    pub(super) fn new(clock: Rc<Cell<Instant>>, handshake: bool) -> Rc<Self> {
        Rc::new(Self {
            phase: Cell::new(if handshake { Phase::Handshake } else { Phase::Fresh }),
            since: Cell::new(clock.get()),
            clock,
            write_blocked: Cell::default(),
            body: Rc::default(),
            draining: Cell::default(),
            // Most of those that come to stay are asked little.
            parks: Cell::new(true),
            task: RefCell::default(),
            streams: RefCell::default(),
            multiplexed: Cell::default(),
        })
    }

    /// The worker's clock, which is set a few times a second.
    pub(super) fn clock(&self) -> Rc<Cell<Instant>> {
        self.clock.clone()
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(self.clock.get());
    }

    /// The handshake is done.
    pub(super) fn shaken(&self) {
        self.enter(Phase::Fresh);
    }

    /// Bytes have come.
    pub(super) fn read(&self) {
        if self.multiplexed.get() {
            return;
        }
        match self.phase.get() {
            // The first bytes of a head start its clock; the first head's has run since accept.
            Phase::Fresh => self.phase.set(Phase::ReadingHead),
            Phase::KeptAlive => self.enter(Phase::ReadingHead),
            Phase::Handshake | Phase::ReadingHead | Phase::Serving | Phase::Other => {}
        }
    }

    /// A request's head has come whole.
    pub(super) fn serving(&self) {
        self.enter(Phase::Serving);
    }

    /// A response has been handed over to the last byte.
    pub(super) fn served(&self) {
        self.enter(Phase::KeptAlive);
    }

    /// What it carries from here on is no HTTP: a tunnel, or what nobody will read.
    pub(super) fn leaves_http(&self) {
        self.enter(Phase::Other);
    }

    /// A write went through, or did not.
    pub(super) fn wrote(&self, blocked: bool) {
        if !blocked {
            self.write_blocked.set(None);
            // What was handed over may still be on its way; idle is who has got all of it.
            if self.phase.get() == Phase::KeptAlive && !self.multiplexed.get() {
                self.since.set(self.clock.get());
            }
        } else if self.write_blocked.get().is_none() {
            self.write_blocked.set(Some(self.clock.get()));
        }
    }

    /// What a request's body notes its progress in.
    pub(super) fn body(&self) -> Rc<BodyProgress> {
        self.body.clone()
    }

    /// The connection speaks HTTP/2: it carries several requests at a time, and other things between them.
    pub(super) fn multiplexes(&self) {
        self.multiplexed.set(true);
        // It may be opened long before it is needed.
        self.enter(Phase::KeptAlive);
    }

    /// A request of several has come.
    pub(super) fn stream(&self) -> Rc<StreamWatch> {
        if self.phase.get() != Phase::Serving {
            self.enter(Phase::Serving);
        }
        Rc::new(StreamWatch { clock: self.clock.clone(), body: Rc::default(), blocked: Cell::default() })
    }

    /// Runs what answers one of several requests, in a task of its own.
    pub(super) fn run_stream<F: Future + 'static>(self: &Rc<Self>, stream: Rc<StreamWatch>, answering: F) {
        let id = self.streams.borrow_mut().insert(None);
        let entry = StreamEntry { watch: self.clone(), id };
        let task = spawn_local(async move {
            let _entry = entry;
            answering.await;
        });
        // It has not run yet: this thread is the only one that it runs on.
        self.streams.borrow_mut()[id] = Some((stream, task.abort_handle()));
    }

    /// Ends all requests under way.
    pub(super) fn end_streams(&self) {
        // Taken out first: a task that is aborted takes its own entry off the list.
        let tasks: Vec<_> =
            self.streams.borrow().iter().filter_map(|(_, entry)| Some(entry.as_ref()?.1.clone())).collect();
        tasks.iter().for_each(AbortHandle::abort);
    }

    /// What must be done about the connection now, if anything.
    pub(super) fn overdue(&self, now: Instant, limits: &Limits) -> Option<Finding> {
        let longer_than = |since: Instant, limit: Duration| now.saturating_duration_since(since) >= limit;
        let blocked = |since: Option<Instant>| since.is_some_and(|since| longer_than(since, limits.body_timeout));
        let (limit, cause) = match self.phase.get() {
            _ if blocked(self.write_blocked.get()) => return Some(Finding::End("write_timeout")),
            _ if blocked(self.body.waiting_since()) => return Some(Finding::End("body_timeout")),
            Phase::Serving => {
                let streams = self.streams.borrow();
                let late = streams.iter().filter_map(|(_, entry)| entry.as_ref()).filter_map(|(stream, task)| {
                    let cause = if blocked(stream.blocked.get()) {
                        "write_timeout"
                    } else if blocked(stream.body.waiting_since()) {
                        "body_timeout"
                    } else {
                        return None;
                    };
                    Some((cause, task.clone()))
                });
                let late: Vec<_> = late.collect();
                return (!late.is_empty()).then_some(Finding::EndStreams(late));
            }
            Phase::Other => return None,
            // It waits for the client to read the end of an answer, not for a request.
            Phase::KeptAlive if self.write_blocked.get().is_some() => return None,
            Phase::Handshake => (limits.tls_handshake_timeout, "handshake_timeout"),
            Phase::Fresh | Phase::ReadingHead => (limits.header_timeout, "header_timeout"),
            Phase::KeptAlive => (limits.keep_alive_timeout, "keep_alive_timeout"),
        };
        if !longer_than(self.since.get(), limit) {
            return None;
        }
        // HTTP/2 has a word for it, so that no request crosses the end on its way (RFC 9113 §6.8).
        let politely = self.multiplexed.get() && !self.draining.get();
        Some(if politely { Finding::Dismiss(cause) } else { Finding::End(cause) })
    }

    /// Asks the connection to end after what it is doing; says whether it may end at once, since it is doing nothing.
    pub(super) fn drain(&self) -> bool {
        self.draining.set(true);
        if self.multiplexed.get() && self.phase.get() == Phase::KeptAlive {
            // Its farewell has a deadline of its own.
            self.since.set(self.clock.get());
        }
        self.wake();
        matches!(self.phase.get(), Phase::Fresh | Phase::Handshake)
    }

    /// Whether the connection has been asked to end. Notes whom to wake when it is.
    pub(super) fn is_draining(&self, waker: &Waker) -> bool {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *task = Some(waker.clone());
        }
        self.draining.get()
    }

    /// Asks a connection that has been idle for a while to give up what it needs only between a request and its answer.
    pub(super) fn park_if_idle(&self, now: Instant) {
        if !self.parks.get() && self.is_idle() && !self.multiplexed.get() && self.rested(now) {
            self.parks.set(true);
            self.wake();
        }
    }

    /// Whether it is to do so now.
    pub(super) fn may_park(&self) -> bool {
        self.parks.get() && self.is_idle()
    }

    /// It has, and goes on now. One that is seldom asked does so again as soon as it has answered; one that is at work
    /// keeps what it needs.
    pub(super) fn unparked(&self, since: Instant) {
        self.parks.set(self.clock.get().saturating_duration_since(since) >= PARK_AFTER);
    }

    /// The worker's time.
    pub(super) fn now(&self) -> Instant {
        self.clock.get()
    }

    fn is_idle(&self) -> bool {
        self.phase.get() == Phase::KeptAlive && self.write_blocked.get().is_none()
    }

    fn rested(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since.get()) >= PARK_AFTER
    }

    fn wake(&self) {
        if let Some(task) = self.task.borrow_mut().take() {
            task.wake();
        }
    }
}

/// A request's place among those of its connection; given back when its task ends, whichever way.
struct StreamEntry {
    watch: Rc<Watch>,
    id: usize,
}

impl Drop for StreamEntry {
    fn drop(&mut self) {
        let mut streams = self.watch.streams.borrow_mut();
        streams.remove(self.id);
        if streams.is_empty() {
            self.watch.enter(Phase::KeptAlive);
        }
    }
}
