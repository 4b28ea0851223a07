//! A watch over each connection: where it stands, since when, and whether its client has kept us waiting for too long.
//!
//! A timer for each wait would be set and cleared several times a request. Instead every change of state is noted with
//! the worker's own coarse clock, and the worker walks over its connections a few times a second.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::Waker,
    time::{Duration, Instant},
};

use super::config::Limits;
use crate::http::WaitingSince;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The TLS handshake is under way.
    Handshake,
    /// Nothing has come yet.
    Fresh,
    /// A request's head has begun to come.
    ReadingHead,
    /// A request is being answered.
    Serving,
    /// A response is sent, and no further request has begun.
    KeptAlive,
}

/// The state of one connection, shared between its task and its worker.
pub(super) struct Watch {
    clock: Rc<Cell<Instant>>,
    phase: Cell<Phase>,
    since: Cell<Instant>,
    /// Since when the client does not take what we write.
    write_blocked: Cell<Option<Instant>>,
    /// Since when somebody waits for more of a request's body.
    body: WaitingSince,
    draining: Cell<bool>,
    task: RefCell<Option<Waker>>,
}

impl Watch {
    /// Begins with the handshake, or with the wait for the first request.
    pub(super) fn new(clock: Rc<Cell<Instant>>, handshake: bool) -> Rc<Self> {
        Rc::new(Self {
            phase: Cell::new(if handshake { Phase::Handshake } else { Phase::Fresh }),
            since: Cell::new(clock.get()),
            clock,
            write_blocked: Cell::default(),
            body: WaitingSince::default(),
            draining: Cell::default(),
            task: RefCell::default(),
        })
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
        match self.phase.get() {
            // The first bytes of a head start its clock; the first head's has run since accept.
            Phase::Fresh => self.phase.set(Phase::ReadingHead),
            Phase::KeptAlive => self.enter(Phase::ReadingHead),
            Phase::Handshake | Phase::ReadingHead | Phase::Serving => {}
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

    /// A write went through, or did not.
    pub(super) fn wrote(&self, blocked: bool) {
        if !blocked {
            self.write_blocked.set(None);
            // What was handed over may still be on its way; idle is who has got all of it.
            if self.phase.get() == Phase::KeptAlive {
                self.since.set(self.clock.get());
            }
        } else if self.write_blocked.get().is_none() {
            self.write_blocked.set(Some(self.clock.get()));
        }
    }

    /// What a request's body notes its waiting in.
    pub(super) fn body(&self) -> WaitingSince {
        self.body.clone()
    }

    /// Why the connection must end now, if it must.
    pub(super) fn overdue(&self, now: Instant, limits: &Limits) -> Option<&'static str> {
        let longer_than = |since: Instant, limit: Duration| now.saturating_duration_since(since) >= limit;
        let blocked = |since: Option<Instant>| since.is_some_and(|since| longer_than(since, limits.body_timeout));
        let (limit, cause) = match self.phase.get() {
            _ if blocked(self.write_blocked.get()) => return Some("write_timeout"),
            _ if blocked(self.body.get()) => return Some("body_timeout"),
            Phase::Serving => return None,
            // It waits for the client to read the end of an answer, not for a request.
            Phase::KeptAlive if self.write_blocked.get().is_some() => return None,
            Phase::Handshake => (limits.tls_handshake_timeout, "handshake_timeout"),
            Phase::Fresh | Phase::ReadingHead => (limits.header_timeout, "header_timeout"),
            Phase::KeptAlive => (limits.keep_alive_timeout, "keep_alive_timeout"),
        };
        longer_than(self.since.get(), limit).then_some(cause)
    }

    /// Asks the connection to end after what it is doing; says whether it may end at once, since it is doing nothing.
    pub(super) fn drain(&self) -> bool {
        self.draining.set(true);
        if let Some(task) = self.task.borrow_mut().take() {
            task.wake();
        }
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
}
