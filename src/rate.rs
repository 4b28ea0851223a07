//! How many requests come through in a time, by whom they are counted.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash, RandomState},
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use governor::{
    Quota, RateLimiter,
    clock::{self, Clock as _},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{StateStore, keyed::ShrinkableKeyedStateStore},
};

use crate::clock::Clock;

/// So many requests in so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many requests it is.
    pub requests: NonZeroU32,
    /// In which time they come back; not zero.
    pub per: Duration,
    /// How many may come at once after a rest.
    pub burst: NonZeroU32,
}

/// Gives everybody who is counted an allowance of their own. Shared by whoever asks; every look is a few nanoseconds.
pub struct Limiter {
    limiter: RateLimiter<u64, Table, Ticks, NoOpMiddleware<Duration>>,
    /// Keys are kept as hashes: names are as long as whoever gives them likes. Nobody outside can make two of them meet.
    hasher: RandomState,
}

impl Limiter {
    /// Begins with every allowance whole. `None` for a time that is too short to be parted among its requests, which the
    /// configuration has no room for.
    pub fn new(rate: &Rate, clock: &Clock) -> Option<Self> {
        let quota = Quota::with_period(rate.per / rate.requests.get())?.allow_burst(rate.burst);
        let limiter = RateLimiter::new(quota, Table::default(), Ticks::of(clock));
        Some(Self { limiter, hasher: RandomState::new() })
    }

    /// Counts a request.
    ///
    /// # Errors
    /// How long to wait, when the allowance is used up.
    pub fn take(&self, whose: impl Hash) -> Result<(), Duration> {
        let key = self.hasher.hash_one(whose);
        self.limiter.check_key(&key).map_err(|not_until| not_until.wait_time_from(self.limiter.clock().now()))
    }

    /// Forgets those whose allowance is whole again.
    pub fn prune(&self) {
        self.limiter.retain_recent();
    }
}

/// By what time allowances come back: not by the machine's date, which may be set.
struct Ticks {
    since: Instant,
    simulated: Option<Clock>,
}

impl Ticks {
    fn of(clock: &Clock) -> Self {
        let simulated = matches!(clock, Clock::Simulated(_)).then(|| clock.clone());
        Self { since: Instant::now(), simulated }
    }
}

impl clock::Clock for Ticks {
    type Instant = Duration;

    fn now(&self) -> Duration {
        match &self.simulated {
            None => self.since.elapsed(),
            Some(clock) => Duration::from_millis(clock.now().0),
        }
    }
}

/// So many keys have an allowance of their own in each limit, in 9 MiB at the most. Those who come while so many are
/// known share one: who has thousands of addresses gets no more by them than one allowance, and shuts out nobody who was
/// there before. They are told apart again as soon as others have rested.
const MAX_KEYS: usize = 1 << 18;
const SHARDS: usize = 16;

/// What each key has used. Every look at it is a few nanoseconds under a lock that nobody awaits anything with.
#[derive(Default)]
struct Table {
    shards: [Mutex<HashMap<u64, Nanos>>; SHARDS],
    crowd: Mutex<Option<Nanos>>,
}

/// A panic elsewhere leaves no count half written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StateStore for Table {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, count: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut known = lock(&self.shards[*key as usize % SHARDS]);
        if let Some(used) = known.get_mut(key) {
            let (outcome, now_used) = count(Some(*used))?;
            *used = now_used;
            return Ok(outcome);
        }
        if known.len() < MAX_KEYS / SHARDS {
            let (outcome, used) = count(None)?;
            known.insert(*key, used);
            return Ok(outcome);
        }
        let mut crowd = lock(&self.crowd);
        let (outcome, used) = count(*crowd)?;
        *crowd = Some(used);
        Ok(outcome)
    }
}

impl ShrinkableKeyedStateStore<u64> for Table {
    fn retain_recent(&self, drop_below: Nanos) {
        for shard in &self.shards {
            let mut known = lock(shard);
            known.retain(|_, used| *used > drop_below);
            // What an attack has left is not kept for the next.
            if known.capacity() > 4 * known.len() + 1024 {
                known.shrink_to_fit();
            }
        }
    }

    fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
