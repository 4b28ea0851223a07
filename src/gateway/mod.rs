//! The request's way: path, route, authenticate, authorize, forward.

mod authenticate;
mod authorize;
pub mod config;
mod cors;
mod grpc;
mod headers;
pub mod path;
mod reject;
mod route;
mod streams;
mod tunnel;
mod upstream;
mod websocket;

use std::{
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, Request, Response, Version, header};
use http_body::Body as _;
use ipnet::IpNet;
use tokio::time::{MissedTickBehavior, interval};

use self::{
    authenticate::Authenticator,
    authorize::{Permit, authorize},
    config::{Config, Route},
    headers::Reserved,
    reject::Rejection,
    streams::{Streams, Watched},
    upstream::{Care, Forwarder, Handshaken, Patience, Upstream},
    websocket::Handshake,
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
    reserved: Arc<Reserved>,
    upstreams: Vec<Arc<Upstream>>,
    _care: Care,
    verifier: Arc<Verifier>,
    revocations: Arc<Revocations>,
    clock: Clock,
    metrics: Metrics,
    /// Which requests get a line in the log.
    log: log::Requests,
}

/// How often a worker looks for streams whose token is no longer good: a revocation ends them within a second.
const STREAMS_INTERVAL: Duration = Duration::from_millis(200);
/// How often a worker looks for connections that have been idle for too long.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

impl Gateway {
    /// Puts a gateway together. `demo` is where the built-in page listens, if an upstream is that. Must be called on the
    /// control runtime, which looks after the upstreams.
    pub fn new(
        config: Config,
        verifier: Verifier,
        revocations: Arc<Revocations>,
        clock: Clock,
        metrics: Metrics,
        demo: Option<SocketAddr>,
        log: log::Requests,
    ) -> Self {
        let reserved = Arc::new(Reserved::new(&config.routes));
        let (upstreams, care) = upstream::start(&config.upstreams, demo, &metrics);
        Self {
            config,
            reserved,
            upstreams,
            _care: care,
            verifier: Arc::new(verifier),
            revocations,
            clock,
            metrics,
            log,
        }
    }

    /// What one worker needs of its own. Must be called on the worker's thread, within its runtime.
    pub fn worker(self: &Arc<Self>) -> Rc<Worker> {
        let names = |names: &mut dyn Iterator<Item = &Arc<str>>| names.cloned().collect::<Vec<_>>();
        let waits = self.config.upstreams.iter().flat_map(|it| [it.response_timeout, it.idle_timeout]);
        let patience = Patience::start(waits);
        let forwarder = |upstream| Forwarder::new(upstream, &self.reserved, &patience);
        let worker = Rc::new(Worker {
            gateway: self.clone(),
            authenticator: Authenticator {
                verifier: self.verifier.clone(),
                revocations: self.revocations.clone(),
                clock: self.clock.clone(),
                cache: TokenCache::new(self.config.token_cache_bytes),
            },
            forwarders: self.upstreams.iter().map(forwarder).collect(),
            streams: Rc::default(),
            recorder: Recorder::new(
                self.metrics.clone(),
                &names(&mut self.config.routes.iter().map(|route| &route.name)),
                &names(&mut self.config.upstreams.iter().map(|upstream| &upstream.name)),
            ),
        });
        tokio::task::spawn_local(sweep(Rc::downgrade(&worker)));
        tokio::task::spawn_local(end_streams(Rc::downgrade(&worker)));
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

async fn end_streams(worker: Weak<Worker>) {
    let mut tick = interval(STREAMS_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(worker) = worker.upgrade() else { return };
        let Gateway { clock, revocations, .. } = &*worker.gateway;
        for ending in worker.streams.sweep(clock.now(), revocations) {
            worker.recorder.stream_ended(ending.reason());
        }
    }
}

/// One worker's gateway: what is shared, and the cache, connections and counters that are its own.
pub struct Worker {
    gateway: Arc<Gateway>,
    authenticator: Authenticator,
    forwarders: Vec<Rc<Forwarder>>,
    streams: Rc<Streams>,
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
    pub async fn handle(self: &Rc<Self>, request: Request<RequestBody>, peer: &Peer) -> Response<Body> {
        let started = Instant::now();
        let _in_flight = self.recorder.request_started();
        let method = request.method().clone();
        let mut trail = Trail::default();
        // Kept for the answer, since the request itself goes upstream.
        let accept = request.headers().get(header::ACCEPT).cloned();
        let is_grpc = request.version() == Version::HTTP_2 && grpc::is_grpc(request.headers());
        let mut status = None;
        let passed = self.pass(request, is_grpc, peer, started, &mut trail).await;
        let (mut response, decision, reason) = match passed {
            Ok(response) if trail.answered => (response, Decision::Answered, "preflight"),
            Ok(response) => (response, Decision::Allowed, "ok"),
            Err(rejection) => {
                let decision = if rejection.after_decision() { Decision::Allowed } else { Decision::Denied };
                let response = rejection.response(&self.gateway.config.realm, accept.as_ref());
                status = Some(response.status());
                let response = if is_grpc { grpc::refusal(&response, rejection.description()) } else { response };
                (response, decision, rejection.reason())
            }
        };
        // A refusal of gRPC is a 200 that says otherwise; what is counted is what it means.
        let status = status.unwrap_or(response.status());
        if let Some(rule) = trail.route.and_then(|route| self.gateway.config.routes[route].cors.as_ref())
            && !trail.answered
        {
            cors::decorate(rule, trail.origin.as_ref(), response.headers_mut());
        }
        let outcome = Outcome { route: trail.route, decision, reason, status };
        self.recorder.request_ended(&method, outcome, trail.ended.unwrap_or_else(Instant::now) - started);
        self.log(&method, outcome, peer);
        response
    }

    /// The whole way, one step after the other.
    async fn pass(
        self: &Rc<Self>,
        mut request: Request<RequestBody>,
        is_grpc: bool,
        peer: &Peer,
        started: Instant,
        trail: &mut Trail,
    ) -> Result<Response<Body>, Rejection> {
        let routes = &self.gateway.config.routes;
        if let Some(fault) = request.extensions().get::<HeadFault>() {
            return Err(Rejection::BadHead(*fault));
        }
        let websocket = Handshake::of(&request).map_err(|_| Rejection::BadHandshake)?;
        if *request.method() == Method::CONNECT && websocket.is_none() || request.uri().path().is_empty() {
            return Err(Rejection::BadTarget);
        }
        let host = route::host(&request).map_err(|_| Rejection::BadHost)?;
        let path = path::decode(request.uri().path()).map_err(Rejection::AmbiguousPath)?;
        if let Some(response) = self.preflight(&request, &host, &path, trail) {
            return Ok(response);
        }
        // However it is asked for, a WebSocket is something that one gets.
        let method = if websocket.is_some() { &Method::GET } else { request.method() };
        let (index, route) = route::find(routes, &host, &path, method).ok_or(Rejection::NoRoute)?;
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
        let answer = match websocket {
            None => self.exchange(&permit, request, is_grpc, decided).await?,
            Some(handshake) => self.connect(&permit, request, &handshake, decided).await?,
        };
        let answered = Instant::now();
        trail.ended = Some(answered);
        self.recorder.upstream_answered(route.upstream, answered - decided);
        Ok(answer)
    }

    /// Sends a request to its upstream; answers what that says.
    async fn exchange(
        &self,
        permit: &Permit<'_>,
        request: Request<RequestBody>,
        is_grpc: bool,
        decided: Instant,
    ) -> Result<Response<Body>, Rejection> {
        let forwarder = &self.forwarders[permit.route().upstream];
        let is_upload = streams::is_long(&request.body().size_hint());
        let watched = if is_upload { self.watch(permit) } else { None };
        let answer = match &watched {
            None => forwarder.forward(permit, request, decided).await,
            Some(watched) => {
                // Boxed: few are long, and the others need not have room for this.
                let exchange = Box::pin(forwarder.forward(permit, request, decided));
                watched.run(exchange).await.map_err(|ending| Rejection::Token(ending.into()))?
            }
        };
        let answer = answer.map_err(Rejection::Upstream)?;
        if !streams::is_long(&answer.body().size_hint()) {
            return Ok(answer);
        }
        Ok(match watched.or_else(|| self.watch(permit)) {
            Some(watched) => answer.map(|body| streams::guard(body, watched, is_grpc)),
            None => answer,
        })
    }

    /// Opens a WebSocket to the upstream, if that agrees.
    async fn connect(
        self: &Rc<Self>,
        permit: &Permit<'_>,
        request: Request<RequestBody>,
        handshake: &Handshake,
        decided: Instant,
    ) -> Result<Response<Body>, Rejection> {
        let opening = Box::pin(self.forwarders[permit.route().upstream].open_tunnel(permit, request, decided));
        Ok(match opening.await.map_err(Rejection::Upstream)? {
            Handshaken::Tunnel(head, upstream) => {
                handshake.answer(&head.headers, tunnel::tunnel(self.clone(), upstream, self.watch(permit)))
            }
            Handshaken::Refused(response) => response,
        })
    }

    /// A watch over what the permit has begun, if its route wants one.
    fn watch(&self, permit: &Permit<'_>) -> Option<Watched> {
        self.streams.watch(permit.route().close_streams, permit.verified()?)
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
