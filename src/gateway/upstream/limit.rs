//! How many requests an upstream has in flight, over all workers: a bound, and a bounded queue before it.
//!
//! While nobody waits, to come in is one atomic operation and to leave is another. The lock is taken only while there is a
//! queue, for as long as it takes to move an entry, and never over an await.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

use crate::telemetry::UpstreamMetrics;

/// Set in `state` while somebody may be waiting. It makes the count larger than any bound, so that nobody passes the queue.
const QUEUED: usize = 1 << (usize::BITS - 1);

/// The bound.
#[derive(Debug)]
pub(super) struct Limit {
    most: usize,
    most_waiting: usize,
    patience: Duration,
    /// How many are in; for a moment also those who find that they may not be.
    state: AtomicUsize,
    queue: Mutex<Queue>,
    metrics: UpstreamMetrics,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiter>,
    last_ticket: u64,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    admit: oneshot::Sender<()>,
}

/// Why a request does not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// As many wait as may.
    QueueFull,
    /// It has waited for as long as it may.
    QueueTimeout,
}

impl Limit {
    pub(super) fn new(most: usize, most_waiting: usize, patience: Duration, metrics: UpstreamMetrics) -> Self {
        Self { most, most_waiting, patience, state: AtomicUsize::new(0), queue: Mutex::default(), metrics }
    }

    /// Comes in, if there is room. Whoever has come in has to [`Limit::leave`].
    pub(super) fn try_enter(&self) -> bool {
        // Acquire and Release pair up as those of a lock do, though nothing but the count is guarded.
        self.state.fetch_add(1, Ordering::Acquire) < self.most
    }

    /// What is left to do when [`Limit::try_enter`] has found no room: comes in when somebody leaves.
    pub(super) async fn wait(&self) -> Result<(), NoRoom> {
        let Some(mut turn) = self.stand_in_line()? else { return Ok(()) };
        let admitted = timeout(self.patience, &mut turn.admitted).await;
        if matches!(admitted, Ok(Ok(()))) {
            turn.taken = true;
            return Ok(());
        }
        self.metrics.queue_timed_out();
        Err(NoRoom::QueueTimeout)
    }

    /// Leaves, and lets in who is next.
    pub(super) fn leave(&self) {
        if self.state.fetch_sub(1, Ordering::Release) & QUEUED != 0 {
            self.admit(&mut self.lock());
        }
    }

    /// A place in the queue; `None` when there was room after all.
    fn stand_in_line(&self) -> Result<Option<Turn<'_>>, NoRoom> {
        let mut queue = self.lock();
        // The flag before anything is looked at: who leaves from now on sees it, and looks after the queue.
        self.state.fetch_or(QUEUED, Ordering::AcqRel);
        self.state.fetch_sub(1, Ordering::AcqRel);
        let (admit, admitted) = oneshot::channel();
        queue.last_ticket += 1;
        let ticket = queue.last_ticket;
        queue.waiting.push_back(Waiter { ticket, admit });
        self.admit(&mut queue);
        let last = queue.waiting.back().is_some_and(|waiter| waiter.ticket == ticket);
        if !last {
            return Ok(None);
        }
        if queue.waiting.len() > self.most_waiting {
            queue.waiting.pop_back();
            self.admit(&mut queue);
            self.metrics.queue_full();
            return Err(NoRoom::QueueFull);
        }
        Ok(Some(Turn { limit: self, ticket, admitted, taken: false }))
    }

    /// Lets in whom there is room for, the first first; with nobody left the flag goes.
    fn admit(&self, queue: &mut Queue) {
        while let Some(first) = queue.waiting.pop_front() {
            if self.state.fetch_add(1, Ordering::AcqRel) & !QUEUED >= self.most {
                self.state.fetch_sub(1, Ordering::AcqRel);
                queue.waiting.push_front(first);
                break;
            }
            // A turn takes itself off the queue before it goes, under the same lock.
            if first.admit.send(()).is_err() {
                self.state.fetch_sub(1, Ordering::AcqRel);
            }
        }
        if queue.waiting.is_empty() {
            self.state.fetch_and(!QUEUED, Ordering::AcqRel);
        }
        self.metrics.queued(queue.waiting.len());
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing under this lock panics half way.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue, which is given up when it is dropped.
struct Turn<'a> {
    limit: &'a Limit,
    ticket: u64,
    admitted: oneshot::Receiver<()>,
    taken: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut queue = self.limit.lock();
        match queue.waiting.binary_search_by_key(&self.ticket, |waiter| waiter.ticket) {
            Ok(at) => {
                queue.waiting.remove(at);
                self.limit.admit(&mut queue);
            }
            // It was let in in this very moment, and does not come.
            Err(_) => {
                drop(queue);
                self.limit.leave();
            }
        }
    }
}
