//! Turns for those who move much.
//!
//! A worker is one thread, and a body goes on for as long as there is more of it and whoever takes it takes it. So two
//! hundred clients who want all of a large file keep one who wants a little waiting, for as long as it takes to move a piece
//! for each of them. To prevent that, whoever has moved [`TURN`] bytes waits in a line before the next piece, and between
//! two of that line the worker looks at what else there is to do.

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use tokio::{
    sync::Notify,
    task::{spawn_local, yield_now},
};

/// How much is moved in a turn, in bytes, give or take a piece.
const TURN: usize = 32 * 1024;

/// The line of one worker.
#[derive(Default)]
pub(super) struct Turns {
    line: RefCell<VecDeque<Rc<Ticket>>>,
    joined: Notify,
}

/// Something that moves, such as a body.
pub(super) struct Turn {
    turns: Rc<Turns>,
    /// How much it has moved since its last turn began.
    moved: usize,
    /// Its place in the line.
    ticket: Option<Rc<Ticket>>,
}

#[derive(Default)]
struct Ticket {
    /// Who waits; `None` when it is its turn.
    waits: RefCell<Option<Waker>>,
}

impl Turns {
    /// Begins to give turns. Must be called on the worker's thread, within its runtime, which ends it too.
    pub(super) fn start() -> Rc<Self> {
        let turns = Rc::new(Self::default());
        spawn_local(turns.clone().give());
        turns
    }

    async fn give(self: Rc<Self>) {
        loop {
            let next = self.line.borrow_mut().pop_front();
            match next.and_then(|ticket| ticket.waits.take()) {
                Some(waker) => {
                    waker.wake();
                    // Goes on when the worker has looked at its sockets.
                    yield_now().await;
                }
                None if self.line.borrow().is_empty() => self.joined.notified().await,
                None => {}
            }
        }
    }
}

impl Turn {
    pub(super) fn new(turns: &Rc<Turns>) -> Self {
        Self { turns: turns.clone(), moved: 0, ticket: None }
    }

    /// To be asked before more is moved.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.moved < TURN {
            return Poll::Ready(());
        }
        let Some(ticket) = &self.ticket else {
            let ticket = Rc::new(Ticket { waits: RefCell::new(Some(cx.waker().clone())) });
            self.turns.line.borrow_mut().push_back(ticket.clone());
            self.turns.joined.notify_one();
            self.ticket = Some(ticket);
            return Poll::Pending;
        };
        if let Some(waker) = &mut *ticket.waits.borrow_mut() {
            waker.clone_from(cx.waker());
            return Poll::Pending;
        }
        (self.moved, self.ticket) = (0, None);
        Poll::Ready(())
    }

    /// So many bytes have been moved.
    pub(super) fn moved(&mut self, bytes: usize) {
        self.moved += bytes;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Nobody waits any more, so that its turn goes to the next.
        if let Some(ticket) = &self.ticket {
            drop(ticket.waits.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::runtime::{Builder, LocalOptions};

    use super::*;

    async fn take(turn: &mut Turn) {
        poll_fn(|cx| turn.poll(cx)).await;
        turn.moved(TURN);
    }

    fn on_a_worker<T>(test: impl Future<Output = T>) -> T {
        Builder::new_current_thread().build_local(LocalOptions::default()).unwrap().block_on(test)
    }

    #[test]
    fn between_two_turns_there_is_time_for_everything_else() {
        const MANY: usize = 20;
        const OFTEN: usize = 5;
        on_a_worker(async {
            let (turns, order) = (Turns::start(), Rc::new(RefCell::new(Vec::new())));
            let movers: Vec<_> = (0..MANY)
                .map(|mover| {
                    let (mut turn, order) = (Turn::new(&turns), order.clone());
                    spawn_local(async move {
                        for _ in 0..OFTEN {
                            take(&mut turn).await;
                            order.borrow_mut().push(mover);
                        }
                    })
                })
                .collect();
            let mut seen = 0;
            while movers.iter().any(|mover| !mover.is_finished()) {
                yield_now().await;
                let moved = order.borrow().len();
                // The first piece is free.
                assert!(seen == 0 || moved <= seen + 1, "{moved} after {seen}");
                seen = moved;
            }
            let expected: Vec<_> = (0..OFTEN).flat_map(|_| 0..MANY).collect();
            assert_eq!(*order.borrow(), expected);
        });
    }

    #[test]
    fn whoever_leaves_the_line_keeps_nobody_waiting() {
        on_a_worker(async {
            let turns = Turns::start();
            let mut line: Vec<_> = (0..10).map(|_| Turn::new(&turns)).collect();
            for turn in &mut line {
                take(turn).await;
                assert!(turn.poll(&mut Context::from_waker(Waker::noop())).is_pending());
            }
            let last = line.pop();
            drop(line);
            take(&mut last.unwrap()).await;
        });
    }
}
