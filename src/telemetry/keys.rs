//! What is counted for the keys of each provider. The child series are looked up once, when the provider is put together.

use prometheus::IntGauge;

use super::Metrics;
use crate::clock::Timestamp;

/// One provider's series.
#[derive(Clone, Debug)]
pub struct KeyMetrics {
    metrics: Metrics,
    provider: Box<str>,
    keys: IntGauge,
}

impl KeyMetrics {
    /// The series of the provider called `name`.
    pub fn new(metrics: &Metrics, name: &str) -> Self {
        let keys = metrics.0.provider_keys.with_label_values(&[name]);
        Self { metrics: metrics.clone(), provider: name.into(), keys }
    }

    /// How many keys verify its tokens now.
    pub fn keys(&self, keys: usize) {
        self.keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
    }

    /// A set of keys came, and is in use. `skipped` keys of it cannot be.
    pub fn fetched(&self, now: Timestamp, skipped: usize) {
        self.fetch_ended("ok");
        let series = &self.metrics.0;
        let seconds = i64::try_from(now.0 / 1000).unwrap_or(i64::MAX);
        series.jwks_fetched_at.with_label_values(&[&*self.provider]).set(seconds);
        let skipped = i64::try_from(skipped).unwrap_or(i64::MAX);
        series.jwks_keys_skipped.with_label_values(&[&*self.provider]).set(skipped);
    }

    /// No set of keys came, or none that can be used. `result`: `unreachable`, `timed_out`, `redirected`, `bad_status`,
    /// `too_large`, `broken`, `bad_discovery`, `bad_keys`.
    pub fn not_fetched(&self, result: &'static str) {
        self.fetch_ended(result);
    }

    fn fetch_ended(&self, result: &str) {
        self.metrics.0.jwks_fetches.with_label_values(&[&*self.provider, result]).inc();
    }
}
