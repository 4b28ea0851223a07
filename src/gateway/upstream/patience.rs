//! How long a worker's exchanges have been waiting for their upstreams.
//!
//! A timer for each request would cost more than looking up its token. So those who wait leave a note here, and a walk over
//! the notes a few times a second wakes the ones who have waited for too long.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use slab::Slab;
use tokio::time::{MissedTickBehavior, interval};

use super::outgoing::Sending;

/// The notes of one worker.
pub(in crate::gateway) struct Patience {
    notes: RefCell<Slab<Note>>,
}

struct Note {
    /// Since when this waits.
    since: Instant,
    most: Duration,
    /// The request's body, while it is on its way, and how often it had moved when that was looked at.
    sending: Option<Rc<Sending>>,
    moves: u64,
    /// Set while somebody waits.
    waker: Option<Waker>,
    overdue: Option<Overdue>,
}

/// Who has kept an exchange waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    Upstream,
    /// The client, with its body.
    Client,
}

impl Patience {
    /// Walks over the notes often enough that none of the `waits` runs over by more than a quarter. Must be called on the
    /// worker's thread, within its runtime.
    pub(in crate::gateway) fn start(waits: impl Iterator<Item = Duration>) -> Rc<Self> {
        let shortest = waits.min().unwrap_or(LONGEST_ROUND * 4);
        let round = (shortest / 4).clamp(SHORTEST_ROUND, LONGEST_ROUND);
        let patience = Rc::new(Self { notes: RefCell::default() });
        tokio::task::spawn_local(walk(Rc::downgrade(&patience), round));
        patience
    }

    /// A note of an exchange that begins `now`.
    pub(super) fn note(self: &Rc<Self>, now: Instant, most: Duration, sending: Option<Rc<Sending>>) -> Waiting {
        let note = Note { since: now, most, sending, moves: 0, waker: None, overdue: None };
        let key = self.notes.borrow_mut().insert(note);
        Waiting { patience: self.clone(), key }
    }

    fn look(&self, now: Instant) {
        for (_, note) in &mut *self.notes.borrow_mut() {
            if let Some(overdue) = note.is_overdue(now)
                && let Some(waker) = note.waker.take()
            {
                note.overdue = Some(overdue);
                waker.wake();
            }
        }
    }
}

const SHORTEST_ROUND: Duration = Duration::from_millis(10);
const LONGEST_ROUND: Duration = Duration::from_millis(500);

async fn walk(patience: Weak<Patience>, round: Duration) {
    let mut tick = interval(round);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = tick.tick().await.into_std();
        let Some(patience) = patience.upgrade() else { return };
        patience.look(now);
    }
}

impl Note {
    fn is_overdue(&mut self, now: Instant) -> Option<Overdue> {
        let mut late = (self.most, Overdue::Upstream);
        if let Some(progress) = self.sending.as_ref().map(|sending| sending.progress()) {
            // What moved since the last look may have moved just now.
            if progress.moves != self.moves {
                (self.moves, self.since) = (progress.moves, now);
                return None;
            }
            // While the client is the one to move, the upstream's time does not run.
            if progress.client_is_due {
                late = (progress.idle_timeout, Overdue::Client);
            }
        }
        let (most, who) = late;
        (now.saturating_duration_since(self.since) >= most).then_some(who)
    }
}

/// A note, taken back when it is dropped.
pub(super) struct Waiting {
    patience: Rc<Patience>,
    key: usize,
}

impl Waiting {
    /// To be asked whenever what is waited for is not there yet; wakes the task when it has been too long.
    pub(super) fn poll_overdue(&self, cx: &mut Context<'_>) -> Poll<Overdue> {
        let mut notes = self.patience.notes.borrow_mut();
        let note = &mut notes[self.key];
        if let Some(overdue) = note.overdue {
            return Poll::Ready(overdue);
        }
        match &note.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            Some(_) | None => note.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// What was waited for is there, and nothing is until [`Waiting::restart`].
    pub(super) fn rest(&self) {
        self.patience.notes.borrow_mut()[self.key].waker = None;
    }

    /// From now on something else is waited for, for as long as `most`. Does nothing while it is waited for already.
    pub(super) fn restart(&self, most: Duration) {
        let note = &mut self.patience.notes.borrow_mut()[self.key];
        if note.waker.is_none() && note.overdue.is_none() {
            (note.since, note.most) = (Instant::now(), most);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Dropped after the borrow has ended: nobody has to think of what else may go with a waker.
        let _note = self.patience.notes.borrow_mut().remove(self.key);
    }
}
