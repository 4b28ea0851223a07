//! Signatures that take their time (RSA, P-384): on threads of their own, one for each core and no more, so that neither a
//! worker nor the issuer's runtime is held up by one.

use std::{
    collections::VecDeque,
    fmt,
    num::NonZero,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use tokio::{runtime::Handle, sync::oneshot};

use crate::token::{keys::KeyError, sign::Signer};

/// Signs, here where that is quick, elsewhere where it is not.
#[derive(Clone)]
pub(super) struct Signing {
    slow: Arc<Slow>,
    /// Whose spare threads sign.
    runtime: Handle,
}

struct Slow {
    state: Mutex<State>,
    threads: usize,
}

/// What waits. Signatures are counted, and made in the order of their numbers.
#[derive(Default)]
struct State {
    queue: VecDeque<Box<dyn FnOnce() + Send>>,
    /// How many threads sign.
    running: usize,
    queued: u64,
    taken: u64,
    /// Who waits until so many have been taken, in the order of those numbers.
    turns: VecDeque<(u64, oneshot::Sender<()>)>,
}

impl Signing {
    /// Must be called within the issuer's runtime.
    pub(super) fn new() -> Self {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        Self { slow: Arc::new(Slow { state: Mutex::default(), threads }), runtime: Handle::current() }
    }

    /// Signs `claims` as a JWT of the type `typ` (RFC 7515 §4.1.9).
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub(super) async fn sign(
        &self,
        signer: &Arc<Signer>,
        typ: &str,
        claims: &impl serde::Serialize,
    ) -> Result<String, KeyError> {
        if signer.is_quick() {
            return signer.sign(typ, claims);
        }
        let (signer, unsigned) = (signer.clone(), signer.prepare(typ, claims)?);
        // In a box, so that what is quick does not carry its room along.
        Box::pin(self.elsewhere(move || signer.finish(unsigned))).await
    }

    async fn elsewhere(
        &self,
        sign: impl FnOnce() -> Result<String, KeyError> + Send + 'static,
    ) -> Result<String, KeyError> {
        let (answer, answered) = oneshot::channel();
        // Whoever asked may have gone.
        if self.slow.queue(Box::new(move || drop(answer.send(sign())))) {
            let slow = self.slow.clone();
            self.runtime.spawn_blocking(move || slow.work());
        }
        answered.await.unwrap_or_else(|_| Err(KeyError("the thread that signs has stopped".into())))
    }

    /// Waits until every signature that was asked for before is made, or under way. Whoever will need one loses nothing by
    /// that, and those who wait go on together: where they go to the store, one commit does for all of them, in place of one
    /// after each signature.
    pub(super) async fn turn(&self) {
        if let Some(turn) = self.slow.turn() {
            // It ends without a word where its sender is gone.
            drop(turn.await);
        }
    }
}

impl Slow {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more thread is to work.
    fn queue(&self, job: Box<dyn FnOnce() + Send>) -> bool {
        let mut state = self.state();
        state.queue.push_back(job);
        state.queued += 1;
        let more = state.running < self.threads;
        state.running += usize::from(more);
        more
    }

    fn turn(&self) -> Option<oneshot::Receiver<()>> {
        let mut state = self.state();
        let before = state.queued;
        if state.taken == before {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        state.turns.push_back((before, sender));
        Some(receiver)
    }

    fn next(&self) -> Option<Box<dyn FnOnce() + Send>> {
        let mut state = self.state();
        let Some(job) = state.queue.pop_front() else {
            state.running -= 1;
            return None;
        };
        state.taken += 1;
        while state.turns.front().is_some_and(|(before, _)| *before <= state.taken) {
            state.turns.pop_front().map(|(_, turn)| turn.send(()));
        }
        Some(job)
    }

    /// The life of a thread that signs: until nothing is left.
    fn work(&self) {
        while let Some(job) = self.next() {
            // Whoever waits for it hears of that; the others have theirs made.
            drop(catch_unwind(AssertUnwindSafe(job)));
        }
    }
}

impl fmt::Debug for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signing").field("threads", &self.slow.threads).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn with_threads(threads: usize) -> Signing {
        Signing { slow: Arc::new(Slow { state: Mutex::default(), threads }), runtime: Handle::current() }
    }

    /// A signature that is made when it is told to be.
    fn held(
        made: &mpsc::Sender<char>,
        name: char,
    ) -> (mpsc::Sender<()>, impl FnOnce() -> Result<String, KeyError> + use<>) {
        let (go, told) = mpsc::channel();
        let made = made.clone();
        let sign = move || {
            told.recv().unwrap();
            made.send(name).unwrap();
            Ok(name.to_string())
        };
        (go, sign)
    }

    #[tokio::test]
    async fn a_turn_comes_when_what_was_asked_for_before_is_under_way() {
        let signing = Arc::new(with_threads(1));
        assert!(signing.slow.turn().is_none(), "nobody is before");
        let (made, order) = mpsc::channel();
        let (go_a, a) = held(&made, 'a');
        let (go_b, b) = held(&made, 'b');
        let (go_c, c) = held(&made, 'c');
        let sign = |job| {
            let signing = signing.clone();
            tokio::spawn(async move { signing.elsewhere(job).await })
        };
        let first = sign(Box::new(a) as Box<dyn FnOnce() -> Result<String, KeyError> + Send>);
        while signing.slow.state().taken < 1 {
            tokio::task::yield_now().await;
        }
        assert!(signing.slow.turn().is_none(), "a is under way");
        let second = sign(Box::new(b));
        while signing.slow.state().queued < 2 {
            tokio::task::yield_now().await;
        }
        let mut turn = signing.slow.turn().expect("b waits");
        let third = sign(Box::new(c));
        while signing.slow.state().queued < 3 {
            tokio::task::yield_now().await;
        }
        assert!(turn.try_recv().is_err());
        go_a.send(()).unwrap();
        // Though c still waits: what comes later holds nobody up.
        turn.await.unwrap();
        assert_eq!(signing.slow.state().taken, 2);
        go_b.send(()).unwrap();
        go_c.send(()).unwrap();
        for (task, name) in [(first, "a"), (second, "b"), (third, "c")] {
            assert_eq!(task.await.unwrap().unwrap(), name);
        }
        assert_eq!(order.try_iter().collect::<String>(), "abc");
    }

    #[tokio::test]
    async fn no_more_threads_sign_than_there_may_and_none_stays() {
        let signing = Arc::new(with_threads(2));
        let (made, _order) = mpsc::channel();
        let (go, all): (Vec<_>, Vec<_>) = ['a', 'b', 'c']
            .map(|name| {
                let ((go, job), signing) = (held(&made, name), signing.clone());
                (go, tokio::spawn(async move { signing.elsewhere(job).await }))
            })
            .into_iter()
            .unzip();
        while signing.slow.state().queued < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(signing.slow.state().running, 2);
        go.iter().for_each(|go| go.send(()).unwrap());
        for task in all {
            task.await.unwrap().unwrap();
        }
        while signing.slow.state().running > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_signature_that_panics_is_an_error_and_the_next_one_is_made() {
        let signing = with_threads(1);
        assert!(signing.elsewhere(|| panic!("on purpose")).await.is_err());
        assert_eq!(signing.elsewhere(|| Ok("signed".into())).await.unwrap(), "signed");
    }
}
