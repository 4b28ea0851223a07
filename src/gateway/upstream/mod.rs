//! Upstreams: which addresses they have and how well those are, how much is asked of them at a time, and the way there.
//!
//! What workers share of an upstream is [`Upstream`]: addresses, their health, the number of requests in flight. It is looked
//! after on the control runtime. Each worker has a [`Forwarder`] of its own, with connections that no other worker uses.

mod answering;
mod connect;
mod endpoint;
mod exchange;
mod form;
mod forward;
mod grpc;
mod health;
mod http1;
mod lane;
mod lanes;
mod limit;
mod multiplexed;
mod outgoing;
mod patience;
mod resolve;
mod tunnel;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use self::{
    endpoint::{Endpoint, State},
    limit::{Limit, NoRoom},
};
pub(super) use self::{
    forward::Forwarder,
    patience::Patience,
    tunnel::{Handshaken, OpenTunnel},
};
use super::config;
use crate::telemetry::{Metrics, UpstreamMetrics};

/// How an upstream, or the way to it, failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpstreamFailure {
    /// Nobody answers at its address, or it has none.
    Unreachable,
    /// Who answers there is not who should, or speaks no TLS that we do.
    Untrusted,
    /// Making the connection took too long.
    ConnectTimeout,
    /// The response's head took too long.
    ResponseTimeout,
    /// The connection broke, or what came is not HTTP, or not what was asked for.
    Broken,
    /// It has as many requests as it may, and as many wait as may.
    QueueFull,
    /// The request has waited for others for as long as it may.
    QueueTimeout,
    /// The client's own body broke off on the way, or stood still.
    RequestBody,
    /// The client named a host that HTTP/2 cannot carry.
    RequestHost,
}

impl UpstreamFailure {
    /// The name in metrics and logs.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Unreachable => "upstream_unreachable",
            Self::Untrusted => "upstream_untrusted",
            Self::ConnectTimeout => "upstream_connect_timeout",
            Self::ResponseTimeout => "upstream_response_timeout",
            Self::Broken => "upstream_broken",
            Self::QueueFull => "upstream_queue_full",
            Self::QueueTimeout => "upstream_queue_timeout",
            Self::RequestBody => "request_body_broken",
            Self::RequestHost => "host_bad",
        }
    }
}

impl From<NoRoom> for UpstreamFailure {
    fn from(why: NoRoom) -> Self {
        match why {
            NoRoom::QueueFull => Self::QueueFull,
            NoRoom::QueueTimeout => Self::QueueTimeout,
        }
    }
}

/// What all workers share of an upstream.
pub(super) struct Upstream {
    config: config::Upstream,
    endpoints: watch::Sender<Endpoints>,
    limit: Limit,
    metrics: UpstreamMetrics,
    /// What looks after it in the background.
    care: Mutex<JoinSet<()>>,
}

/// The addresses of an upstream.
#[derive(Clone, Debug)]
enum Endpoints {
    /// Its names are being looked up for the first time.
    Unknown,
    /// These; none where its names lead nowhere.
    Known(Arc<[Arc<Endpoint>]>),
}

impl Endpoints {
    fn are_known(&self) -> bool {
        matches!(self, Self::Known(_))
    }

    fn list(&self) -> &[Arc<Endpoint>] {
        match self {
            Self::Unknown => &[],
            Self::Known(list) => list,
        }
    }
}

/// How often is counted how many addresses are well.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// Puts upstreams together, and begins to look after them on the runtime this is called in. `demo` is where the built-in
/// page listens, if one of them is that. Those of `before` that are to be the same stay as they are, with what is known of them.
pub(super) fn start(
    configs: &[config::Upstream],
    demo: Option<SocketAddr>,
    metrics: &Metrics,
    before: &[Arc<Upstream>],
) -> Vec<Arc<Upstream>> {
    let upstream = |config: &config::Upstream| {
        let same = before.iter().find(|upstream| upstream.config.fingerprint == config.fingerprint);
        same.cloned().unwrap_or_else(|| Upstream::start(config.clone(), demo, metrics))
    };
    configs.iter().map(upstream).collect()
}

/// Lets go of those that are not among the `next`: what is under way there goes on, and nobody looks after them any more.
pub(super) fn retire(upstreams: &[Arc<Upstream>], next: &[Arc<Upstream>]) {
    for upstream in upstreams.iter().filter(|upstream| !next.iter().any(|other| Arc::ptr_eq(upstream, other))) {
        upstream.care.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        let has_heir = next.iter().find(|other| other.config.name == upstream.config.name);
        match has_heir {
            Some(heir) => heir.count(),
            None => upstream.metrics.endpoints(0, 0, 0),
        }
    }
}

impl Upstream {
    fn start(config: config::Upstream, demo: Option<SocketAddr>, metrics: &Metrics) -> Arc<Self> {
        let metrics = UpstreamMetrics::new(metrics, &config.name);
        let limit = Limit::new(config.max_requests, config.max_queue, config.queue_timeout, metrics.clone());
        let origins = resolve::Origins::of(&config, demo);
        let endpoints = watch::Sender::new(origins.known_from_the_start());
        let upstream = Arc::new(Self { config, endpoints, limit, metrics, care: Mutex::default() });
        upstream.count();
        let mut tasks = JoinSet::new();
        if !upstream.endpoints.borrow().are_known() {
            tasks.spawn(resolve::keep_up(Arc::downgrade(&upstream), origins));
        }
        if upstream.config.health_check.is_some() {
            tasks.spawn(health::watch(Arc::downgrade(&upstream), upstream.endpoints.subscribe()));
        }
        tasks.spawn(keep_count(Arc::downgrade(&upstream)));
        *upstream.care.lock().unwrap_or_else(PoisonError::into_inner) = tasks;
        upstream
    }

    /// An endpoint has answered a request.
    fn endpoint_succeeded(&self, endpoint: &Endpoint) {
        if endpoint.succeeded() {
            self.count();
        }
    }

    /// An endpoint has failed a request.
    fn endpoint_failed(&self, endpoint: &Endpoint) {
        if endpoint.failed(self.config.outlier) {
            tracing::warn!(
                upstream = %self.config.name, endpoint = %endpoint.address, for_ = ?self.config.outlier.eject_for,
                "an endpoint has failed too often, and is left alone for a while"
            );
            self.metrics.ejected();
            self.count();
        }
    }

    /// Says how many endpoints are well.
    fn count(&self) {
        let now = Instant::now();
        let endpoints = self.endpoints.borrow();
        let count = |state| endpoints.list().iter().filter(|endpoint| endpoint.state(now) == state).count();
        self.metrics.endpoints(count(State::Healthy), count(State::Unhealthy), count(State::Ejected));
    }
}

/// Those that were left alone recover by themselves, and nobody sees it happen.
async fn keep_count(upstream: Weak<Upstream>) {
    let mut tick = interval(COUNT_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(upstream) = upstream.upgrade() else { return };
        upstream.count();
    }
}
