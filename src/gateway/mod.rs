//! The request's way: path, route, authenticate, authorize, forward.

mod authenticate;
mod authorize;
pub mod config;
mod cors;
mod forward;
mod headers;
pub mod path;
mod pool;
mod reject;
mod route;

use std::{
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, Request, Response, header};
use ipnet::IpNet;
use tokio::time::{MissedTickBehavior, interval};

use self::{
    authenticate::Authenticator,
    authorize::authorize,
    config::{Config, Route},
    forward::Forwarder,
    headers::Reserved,
    reject::Rejection,
};
use crate::{
    clock::Clock,
    http::{Body, HeadFault, Peer, RequestBody},
    revocation::Revocations,
    telemetry::{Decision, Metrics, Outcome, Recorder, log},
    token::{cache::TokenCache, verify::Verifier},
};

/// What all workers of a gateway share; none of it changes while it serves.
pub struct Gateway {
    config: Config,
    reserved: Reserved,
    verifier: Arc<Verifier>,
    revocations: Arc<Revocations>,
    clock: Clock,
    metrics: Metrics,
    demo: Option<SocketAddr>,
    /// Which requests get a line in the log.
    log: log::Requests,
}

/// How often a worker looks for connections that have been idle for too long.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

impl Gateway {
    /// Puts a gateway together. `demo` is where the built-in page listens, if an upstream is that.
    pub fn new(
        config: Config,
        verifier: Verifier,
        revocations: Arc<Revocations>,
        clock: Clock,
        metrics: Metrics,
        demo: Option<SocketAddr>,
        log: log::Requests,
    ) -> Self {
        let reserved = Reserved::new(&config.routes);
        Self { config, reserved, verifier: Arc::new(verifier), revocations, clock, metrics, demo, log }
    }

    /// What one worker needs of its own. Must be called on the worker's thread, within its runtime.
    pub fn worker(self: &Arc<Self>) -> Rc<Worker> {
        let names = |names: &mut dyn Iterator<Item = &Arc<str>>| names.cloned().collect::<Vec<_>>();
        let worker = Rc::new(Worker {
            gateway: self.clone(),
            authenticator: Authenticator {
                verifier: self.verifier.clone(),
                revocations: self.revocations.clone(),
                clock: self.clock.clone(),
                cache: TokenCache::new(self.config.token_cache_bytes),
            },
            forwarders: self.config.upstreams.iter().map(|upstream| Forwarder::new(upstream, self.demo)).collect(),
            recorder: Recorder::new(
                self.metrics.clone(),
                &names(&mut self.config.routes.iter().map(|route| &route.name)),
                &names(&mut self.config.upstreams.iter().map(|upstream| &upstream.name)),
            ),
        });
        tokio::task::spawn_local(sweep(Rc::downgrade(&worker)));
        worker
    }
}

async fn sweep(worker: Weak<Worker>) {
    let mut tick = interval(SWEEP_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = tick.tick().await.into_std();
        let Some(worker) = worker.upgrade() else { return };
        worker.forwarders.iter().for_each(|forwarder| forwarder.sweep(now));
    }
}

/// One worker's gateway: what is shared, and the cache, connections and counters that are its own.
pub struct Worker {
    gateway: Arc<Gateway>,
    authenticator: Authenticator,
    forwarders: Vec<Forwarder>,
    recorder: Recorder,
}

/// What is known of a request while it is on its way, for its answer, the log and the metrics.
#[derive(Default)]
struct Trail {
    route: Option<usize>,
    /// Whether it was a preflight, which Sidegate answers itself.
    answered: bool,
    /// Where the request came from, if its route has a rule about that.
    origin: Option<HeaderValue>,
    /// When the upstream had answered; the clock need not be read twice.
    ended: Option<Instant>,
}

impl Worker {
    /// Answers a request: by its upstream, or by a refusal.
    pub async fn handle(&self, request: Request<RequestBody>, peer: &Peer) -> Response<Body> {
        let started = Instant::now();
        let _in_flight = self.recorder.request_started();
        let method = request.method().clone();
        let mut trail = Trail::default();
        // Kept for the answer, since the request itself goes upstream.
        let accept = request.headers().get(header::ACCEPT).cloned();
        let passed = self.pass(request, peer, started, &mut trail).await;
        let (mut response, decision, reason) = match passed {
            Ok(response) if trail.answered => (response, Decision::Answered, "preflight"),
            Ok(response) => (response, Decision::Allowed, "ok"),
            Err(rejection) => {
                let decision = if rejection.after_decision() { Decision::Allowed } else { Decision::Denied };
                (rejection.response(&self.gateway.config.realm, accept.as_ref()), decision, rejection.reason())
            }
        };
        if let Some(rule) = trail.route.and_then(|route| self.gateway.config.routes[route].cors.as_ref())
            && !trail.answered
        {
            cors::decorate(rule, trail.origin.as_ref(), response.headers_mut());
        }
        let outcome = Outcome { route: trail.route, decision, reason, status: response.status() };
        self.recorder.request_ended(&method, outcome, trail.ended.unwrap_or_else(Instant::now) - started);
        self.log(&method, outcome, peer);
        response
    }

    /// The whole way, one step after the other.
    async fn pass(
        &self,
        mut request: Request<RequestBody>,
        peer: &Peer,
        started: Instant,
        trail: &mut Trail,
    ) -> Result<Response<Body>, Rejection> {
        let routes = &self.gateway.config.routes;
        if let Some(fault) = request.extensions().get::<HeadFault>() {
            return Err(Rejection::BadHead(*fault));
        }
        if *request.method() == Method::CONNECT || request.uri().path().is_empty() {
            return Err(Rejection::BadTarget);
        }
        let host = route::host(&request).map_err(|_| Rejection::BadHost)?;
        let path = path::decode(request.uri().path()).map_err(Rejection::AmbiguousPath)?;
        if let Some(response) = self.preflight(&request, &host, &path, trail) {
            return Ok(response);
        }
        let (index, route) = route::find(routes, &host, &path, request.method()).ok_or(Rejection::NoRoute)?;
        drop(path);
        trail.route = Some(index);
        if route.cors.is_some() {
            trail.origin = request.headers().get(header::ORIGIN).cloned();
        }
        let mut uri = std::mem::take(request.uri_mut());
        let identity = self.authenticator.authenticate(route, request.headers(), &mut uri, &self.recorder)?;
        *request.uri_mut() = uri;
        let permit = authorize(route, identity).map_err(|denial| Rejection::Denied(denial, route.scopes.clone()))?;
        let decided = Instant::now();
        self.recorder.decided(started, decided);
        let (version, trusted) = (request.version(), is_trusted(&self.gateway.config.trusted_proxies, peer));
        headers::to_upstream(request.headers_mut(), version, &self.gateway.reserved, peer, trusted, &permit);
        let answer = self.forwarders[route.upstream].forward(&permit, request).await.map_err(Rejection::Upstream)?;
        let answered = Instant::now();
        trail.ended = Some(answered);
        self.recorder.upstream_answered(route.upstream, answered - decided);
        Ok(answer)
    }

    /// The answer to a CORS preflight, if the route it asks about has a rule. It never reaches the upstream.
    fn preflight(
        &self,
        request: &Request<RequestBody>,
        host: &str,
        path: &str,
        trail: &mut Trail,
    ) -> Option<Response<Body>> {
        let method = cors::preflight_method(request)?;
        let (index, Route { cors, .. }) = route::find(&self.gateway.config.routes, host, path, &method)?;
        let rule = cors.as_ref()?;
        *trail = Trail { route: Some(index), answered: true, ..Trail::default() };
        Some(cors::preflight(rule, request.headers().get(header::ORIGIN)))
    }

    fn log(&self, method: &Method, outcome: Outcome, peer: &Peer) {
        let refused = outcome.reason != "ok" && outcome.decision != Decision::Answered;
        let wanted = match self.gateway.log {
            log::Requests::Off => false,
            log::Requests::Refused => refused,
            log::Requests::All => true,
        };
        if wanted {
            // No path: it may hold a token, and a name. The route says where it went.
            let route = outcome.route.map_or("none", |route| &*self.gateway.config.routes[route].name);
            let (status, reason, peer) = (outcome.status.as_u16(), outcome.reason, peer.address);
            tracing::info!(%method, route, status, reason, %peer, "{}", if refused { "refused" } else { "passed" });
        }
    }
}

fn is_trusted(proxies: &[IpNet], peer: &Peer) -> bool {
    proxies.iter().any(|net| net.contains(&peer.address))
}
