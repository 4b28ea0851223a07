//! How old what is known of revocations is.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

/// Up to when everything that was revoked is known here.
///
/// The moment is one of our own clock, which only goes forward, and never later than it was in truth.
#[derive(Debug)]
pub struct Freshness {
    base: Instant,
    /// Milliseconds from `base`; before it where that was learnt from a file.
    as_of: AtomicI64,
    max_age: Duration,
}

/// Not known yet.
const NEVER: i64 = i64::MIN;

impl Freshness {
    /// Nothing is known yet. What is older than `max_age` is stale.
    pub fn new(max_age: Duration) -> Self {
        Self { base: Instant::now(), as_of: AtomicI64::new(NEVER), max_age }
    }

    /// Everything up to `moment` is known. An earlier moment than before changes nothing.
    pub fn known_up_to(&self, moment: Instant) {
        let after = moment.saturating_duration_since(self.base).as_millis();
        let before = self.base.saturating_duration_since(moment).as_millis();
        let millis = |n: u128| i64::try_from(n).unwrap_or(i64::MAX);
        self.as_of.fetch_max(millis(after) - millis(before), Ordering::AcqRel);
    }

    /// Everything is known up to so long ago.
    pub fn known_since(&self, age: Duration) {
        let now = i64::try_from(self.base.elapsed().as_millis()).unwrap_or(i64::MAX);
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        self.as_of.fetch_max(now.saturating_sub(age).max(NEVER + 1), Ordering::AcqRel);
    }

    /// How old it is; `None` while nothing is known.
    pub fn age(&self) -> Option<Duration> {
        let as_of = self.as_of.load(Ordering::Acquire);
        let now = i64::try_from(self.base.elapsed().as_millis()).unwrap_or(i64::MAX);
        (as_of != NEVER).then(|| Duration::from_millis(u64::try_from(now.saturating_sub(as_of)).unwrap_or(0)))
    }

    /// Whether it is too old to be relied upon.
    pub fn is_stale(&self) -> bool {
        self.age().is_none_or(|age| age > self.max_age)
    }
}
