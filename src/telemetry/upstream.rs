//! What is counted for each upstream. The child series are looked up once, when the upstream is put together.

use prometheus::{IntCounter, IntGauge};

use super::Metrics;

/// One upstream's series.
#[derive(Clone, Debug)]
pub struct UpstreamMetrics {
    connections: IntGauge,
    unreachable: IntCounter,
    timed_out: IntCounter,
    untrusted: IntCounter,
    healthy: IntGauge,
    unhealthy: IntGauge,
    ejected: IntGauge,
    ejections: IntCounter,
    retries: IntCounter,
    queued: IntGauge,
    queue_full: IntCounter,
    queue_timeout: IntCounter,
}

/// Why a connection to an upstream could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotConnected {
    /// Nobody answers at the address.
    Unreachable,
    /// It took too long.
    TimedOut,
    /// TLS failed: for what the other side is, or for what it says.
    Untrusted,
}

impl UpstreamMetrics {
    /// The series of the upstream called `name`.
    pub fn new(metrics: &Metrics, name: &str) -> Self {
        let series = &metrics.0;
        let failures = |reason| series.upstream_connection_failures.with_label_values(&[name, reason]);
        let endpoints = |state| series.upstream_endpoints.with_label_values(&[name, state]);
        let rejections = |reason| series.upstream_rejections.with_label_values(&[name, reason]);
        Self {
            connections: series.upstream_connections.with_label_values(&[name]),
            unreachable: failures("unreachable"),
            timed_out: failures("timeout"),
            untrusted: failures("tls"),
            healthy: endpoints("healthy"),
            unhealthy: endpoints("unhealthy"),
            ejected: endpoints("ejected"),
            ejections: series.upstream_ejections.with_label_values(&[name]),
            retries: series.upstream_retries.with_label_values(&[name]),
            queued: series.upstream_queue.with_label_values(&[name]),
            queue_full: rejections("queue_full"),
            queue_timeout: rejections("queue_timeout"),
        }
    }

    /// A connection has been made; it counts as open until the guard is dropped.
    pub fn connected(&self) -> OpenUpstreamConnection {
        self.connections.inc();
        OpenUpstreamConnection(self.connections.clone())
    }

    /// A connection could not be made.
    pub fn not_connected(&self, why: NotConnected) {
        match why {
            NotConnected::Unreachable => self.unreachable.inc(),
            NotConnected::TimedOut => self.timed_out.inc(),
            NotConnected::Untrusted => self.untrusted.inc(),
        }
    }

    /// How many addresses there are, by what is known of them.
    pub fn endpoints(&self, healthy: usize, unhealthy: usize, ejected: usize) {
        for (gauge, count) in [(&self.healthy, healthy), (&self.unhealthy, unhealthy), (&self.ejected, ejected)] {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// An address has failed so often that it is left alone for a while.
    pub fn ejected(&self) {
        self.ejections.inc();
    }

    /// A request is sent once more.
    pub fn retried(&self) {
        self.retries.inc();
    }

    /// How many requests wait for others to end.
    pub fn queued(&self, waiting: usize) {
        self.queued.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// A request was refused since too many wait already.
    pub fn queue_full(&self) {
        self.queue_full.inc();
    }

    /// A request was refused since it waited for too long.
    pub fn queue_timed_out(&self) {
        self.queue_timeout.inc();
    }
}

/// Counts a connection to an upstream as open.
#[derive(Debug)]
pub struct OpenUpstreamConnection(IntGauge);

impl Drop for OpenUpstreamConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
