//! What is counted for each request. Every worker has a recorder of its own, which holds the child series it has met, so
//! that no label is looked up on a request's way.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use prometheus::{Histogram, IntGauge};

use super::{Held, Metrics, OpenConnection};

/// Whether a request was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// It went to its upstream.
    Allowed,
    /// Sidegate refused it.
    Denied,
    /// Sidegate itself is who it was for (the issuer, a CORS preflight).
    Answered,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Index of its route; `None` when it matched none.
    pub route: Option<usize>,
    /// Whether it was let through.
    pub decision: Decision,
    /// Why; one of a closed set.
    pub reason: &'static str,
    /// What the client was told.
    pub status: StatusCode,
}

/// One worker's view of the metrics.
pub struct Recorder {
    metrics: Metrics,
    /// Route names, and at the end the name of none.
    routes: Vec<Arc<str>>,
    request_seconds: Vec<Histogram>,
    upstream_seconds: Vec<Histogram>,
    decision_seconds: Histogram,
    in_flight: IntGauge,
    requests: RefCell<HashMap<RequestKey, Held>>,
    /// The latest of them, since most requests end as the one before.
    latest: RefCell<Option<(RequestKey, Held)>>,
    /// The providers' names, in their order.
    providers: Vec<Arc<str>>,
    rejected_tokens: RefCell<HashMap<(Option<usize>, &'static str), Held>>,
    cache_hit: Held,
    cache_miss: Held,
    /// What this worker's cache had when that was last said: entries, bytes.
    cached: Cell<(i64, i64)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct RequestKey {
    route: usize,
    method: &'static str,
    status: StatusCode,
    decision: Decision,
    reason: &'static str,
}

impl Drop for Recorder {
    /// What its worker remembered goes with it.
    fn drop(&mut self) {
        self.tokens_cached(0, 0);
    }
}

impl Recorder {
    /// Looks up once what each request will need. The lists are in the order of the indices that the verbs take.
    pub fn new(metrics: Metrics, routes: &[Arc<str>], upstreams: &[Arc<str>], providers: &[Arc<str>]) -> Self {
        let routes: Vec<Arc<str>> = routes.iter().cloned().chain(["none".into()]).collect();
        let series = &metrics.0;
        Self {
            request_seconds: routes.iter().map(|name| series.request_seconds.with_label_values(&[name])).collect(),
            upstream_seconds: upstreams.iter().map(|name| series.upstream_seconds.with_label_values(&[name])).collect(),
            decision_seconds: series.decision_seconds.clone(),
            in_flight: series.in_flight.clone(),
            requests: RefCell::default(),
            latest: RefCell::default(),
            providers: providers.to_vec(),
            rejected_tokens: RefCell::default(),
            cache_hit: series.cache_lookups.with_label_values(&["hit"]),
            cache_miss: series.cache_lookups.with_label_values(&["miss"]),
            cached: Cell::default(),
            routes,
            metrics,
        }
    }

    /// A request has come in; it is in flight until the guard is dropped.
    pub fn request_started(&self) -> InFlight<'_> {
        self.in_flight.inc();
        InFlight(&self.in_flight)
    }

    /// A request has been answered.
    pub fn request_ended(&self, method: &Method, outcome: Outcome, took: Duration) {
        let route = outcome.route.unwrap_or(self.routes.len() - 1);
        let Outcome { decision, reason, status, .. } = outcome;
        let key = RequestKey { route, method: method_label(method), status, decision, reason };
        self.request_seconds[route].observe(took.as_secs_f64());
        let mut latest = self.latest.borrow_mut();
        match &*latest {
            Some((same, counter)) if *same == key => counter.inc(),
            Some(_) | None => {
                let counter = self.requests.borrow_mut().entry(key).or_insert_with(|| self.counter(key)).clone();
                counter.inc();
                *latest = Some((key, counter));
            }
        }
    }

    fn counter(&self, RequestKey { route, method, status, decision, reason }: RequestKey) -> Held {
        let decision = match decision {
            Decision::Allowed => "allowed",
            Decision::Denied => "denied",
            Decision::Answered => "answered",
        };
        self.metrics.0.requests.with_label_values(&[&self.routes[route], method, status.as_str(), decision, reason])
    }

    /// The decision about a request that came in at `started` has been made.
    pub fn decided(&self, started: Instant, now: Instant) {
        self.decision_seconds.observe((now - started).as_secs_f64());
    }

    /// An upstream has answered.
    pub fn upstream_answered(&self, upstream: usize, took: Duration) {
        self.upstream_seconds[upstream].observe(took.as_secs_f64());
    }

    /// An access token was, or was not, among the verified ones.
    pub fn token_looked_up(&self, hit: bool) {
        if hit { self.cache_hit.inc() } else { self.cache_miss.inc() }
    }

    /// How many verified tokens this worker remembers, and about how many bytes they take.
    pub fn tokens_cached(&self, entries: usize, bytes: u64) {
        let now = (i64::try_from(entries).unwrap_or(i64::MAX), i64::try_from(bytes).unwrap_or(i64::MAX));
        let before = self.cached.replace(now);
        self.metrics.0.cache_entries.add(now.0 - before.0);
        self.metrics.0.cache_bytes.add(now.1 - before.1);
    }

    /// A WebSocket has been opened, until the guard is dropped.
    pub fn tunnel_opened(&self) -> OpenConnection {
        OpenConnection::count(&self.metrics.0.tunnels)
    }

    /// A long answer, an upload or a tunnel was ended before its time. `reason`: `token_expired`, `token_revoked`,
    /// `tunnel_idle`.
    pub fn stream_ended(&self, reason: &'static str) {
        self.metrics.0.streams_ended.with_label_values(&[reason]).inc();
    }

    /// An access token was refused. `provider` is whose it claims to be, where there is such a one.
    pub fn token_rejected(&self, provider: Option<usize>, reason: &'static str) {
        let name = provider.and_then(|index| self.providers.get(index)).map_or("none", |name| name);
        let series = || self.metrics.0.rejected_tokens.with_label_values(&[name, reason]);
        self.rejected_tokens.borrow_mut().entry((provider, reason)).or_insert_with(series).inc();
    }
}

/// Counts a request as in flight.
pub struct InFlight<'a>(&'a IntGauge);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The method as a label: a closed set, since clients make up what they like.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::TRACE => "TRACE",
        Method::CONNECT => "CONNECT",
        _ => "other",
    }
}
