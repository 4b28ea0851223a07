//! What is counted of revocations on their way from the gateway that keeps the log.

use std::time::Duration;

use super::{Metrics, OpenConnection};

/// The series of who follows a feed, or serves one.
#[derive(Clone, Debug)]
pub struct FeedMetrics(Metrics);

/// For a revocation on its way: 1 ms to 60 s.
pub(super) const PROPAGATION_BUCKETS: [f64; 12] =
    [0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 60.0];

impl FeedMetrics {
    /// Those of this process.
    pub fn new(metrics: &Metrics) -> Self {
        Self(metrics.clone())
    }

    /// How old what is known of revocations is. Asked for right before a scrape.
    pub fn age(&self, age: Option<Duration>, stale: bool) {
        self.0.0.feed_age.set(age.map_or(f64::INFINITY, |age| age.as_secs_f64()));
        self.0.0.feed_stale.set(i64::from(stale));
    }

    /// Whether a gateway is being listened to.
    pub fn connected(&self, connected: bool) {
        self.0.0.feed_connected.set(i64::from(connected));
    }

    /// A connection to a gateway was tried, or ended. `result`: `ok` (it spoke), `unreachable`, `refused` (it does not take
    /// our credential), `bad_status`, `timed_out` (it fell silent), `broken`, `damaged`, `gap`.
    pub fn connection(&self, result: &'static str) {
        self.0.0.feed_connections.with_label_values(&[result]).inc();
    }

    /// All of the log was taken once more. `cause`: `gap`, `damaged`, `new_life`, `rolled_back`.
    pub fn healed(&self, cause: &'static str) {
        self.0.0.feed_healed.with_label_values(&[cause]).inc();
    }

    /// How far the gateway's clock is ahead of ours, in seconds.
    pub fn clock_offset(&self, seconds: f64) {
        self.0.0.feed_clock_offset.set(seconds);
    }

    /// A revocation that was made so long ago has come into force here.
    pub fn propagated(&self, after: Duration) {
        self.0.revocation_in_force(after);
    }

    /// Somebody follows us, until the guard is dropped.
    pub fn follower(&self) -> OpenConnection {
        OpenConnection::count(&self.0.0.feed_followers)
    }
}
