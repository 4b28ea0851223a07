//! One address of an upstream, and what is known of its health. Shared by all workers, in atomics.

use std::{
    fmt,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustls::pki_types::ServerName;

use crate::gateway::config::Outlier;

/// Where connections are made to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(Arc<Path>),
}

/// An address, and the name by which its URL has it.
#[derive(Debug)]
pub(in crate::gateway) struct Endpoint {
    pub(super) address: Address,
    /// The host and port that a request is for where its client named none.
    pub(super) authority: Box<str>,
    /// Whom its certificate has to name; `None` without TLS.
    pub(super) server_name: Option<ServerName<'static>>,
    /// Milliseconds in `ejected_until` are counted from here.
    since: Instant,
    /// Whether it answers what it is asked for its health.
    answering: AtomicBool,
    /// How many requests in a row it has failed.
    failures: AtomicU32,
    /// Until when it is left alone; 0 is not at all.
    ejected_until: AtomicU64,
}

/// What is known of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Healthy,
    /// It fails its health checks.
    Unhealthy,
    /// It failed too many requests, and is left alone for a while.
    Ejected,
}

// Relaxed throughout: each value stands for itself, and one request more or less for an address that has just failed or
// recovered is of no weight.
impl Endpoint {
    pub(super) fn new(address: Address, authority: Box<str>, server_name: Option<ServerName<'static>>) -> Self {
        Self {
            address,
            authority,
            server_name,
            since: Instant::now(),
            answering: AtomicBool::new(true),
            failures: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
        }
    }

    pub(super) fn state(&self, now: Instant) -> State {
        if !self.answering.load(Ordering::Relaxed) {
            return State::Unhealthy;
        }
        // Nobody has ever been ejected at most of them; then the time is not worked out.
        match self.ejected_until.load(Ordering::Relaxed) {
            0 => State::Healthy,
            until if self.millis(now) < until => State::Ejected,
            _ => State::Healthy,
        }
    }

    /// It has answered a request as one does. Answers whether it had been left alone before.
    pub(super) fn succeeded(&self) -> bool {
        // Read first: all workers write here, and mostly there is nothing to write.
        if self.failures.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.failures.store(0, Ordering::Relaxed);
        self.ejected_until.swap(0, Ordering::Relaxed) != 0
    }

    /// It has failed a request. Answers whether it is left alone for it.
    pub(super) fn failed(&self, rule: Outlier) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if rule.failures == 0 || failures < rule.failures {
            return false;
        }
        // The count stays: who fails again when it is over is left alone again.
        let now = Instant::now();
        let was = self.state(now);
        self.ejected_until.store(self.millis(now + rule.eject_for), Ordering::Relaxed);
        was == State::Healthy
    }

    /// What its health checks have come to. Answers whether that is new.
    pub(super) fn set_answering(&self, answering: bool) -> bool {
        self.answering.swap(answering, Ordering::Relaxed) != answering
    }

    fn millis(&self, at: Instant) -> u64 {
        // Rounded up, since 0 has a meaning of its own.
        let since = at.saturating_duration_since(self.since) + Duration::from_millis(1);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
