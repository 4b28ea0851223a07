//! What is counted of configurations.

use prometheus::{IntCounterVec, IntGauge};

use super::Metrics;
use crate::clock::Clock;

/// Their series.
#[derive(Clone, Debug)]
pub struct ReloadMetrics {
    reloads: IntCounterVec,
    successful: IntGauge,
    loaded_at: IntGauge,
}

impl ReloadMetrics {
    /// The series.
    pub fn new(metrics: &Metrics) -> Self {
        let series = &metrics.0;
        Self {
            reloads: series.reloads.clone(),
            successful: series.reload_successful.clone(),
            loaded_at: series.config_loaded_at.clone(),
        }
    }

    /// The configuration that serves is the latest there is.
    pub fn loaded(&self) {
        self.successful.set(1);
        self.loaded_at.set(i64::try_from(Clock::System.now().as_secs()).unwrap_or(i64::MAX));
    }

    /// Another one was taken up (`ok`), or refused (`failed`).
    pub fn ended(&self, result: &'static str) {
        self.reloads.with_label_values(&[result]).inc();
        if result != "ok" {
            self.successful.set(0);
        }
    }
}
