//! The request's way: path, route, authenticate, authorize, forward.

mod authenticate;
mod authority;
pub mod authorize;
pub mod config;
mod cors;
mod exchange;
mod grpc;
mod head;
mod headers;
mod metadata;
pub mod path;
mod possession;
pub mod rate;
mod readings;
mod reject;
pub mod route;
mod streams;
mod tunnel;
mod turns;
mod upstream;
mod websocket;

use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr},
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header};
use http_body::Body as _;
use ipnet::IpNet;
use tokio::time::{MissedTickBehavior, interval};

use self::{
    authenticate::{Authenticated, Authenticator},
    authorize::authorize,
    config::{Auth, Config, Oddities, OnStale, Route},
    headers::Reserved,
    metadata::Documents,
    path::Ambiguous,
    possession::Sender,
    rate::RateLimits,
    readings::Path,
    reject::{Challenge, Rejection},
    streams::Streams,
    turns::Turns,
    upstream::{Forwarder, Patience, Upstream},
    websocket::Handshake,
};
use crate::{
    clock::Clock,
    http::{Body, Peer, RequestBody},
    revocation::{Freshness, Revocations},
    telemetry::{Decision, Metrics, Outcome, Recorder, log},
    token::{cache::TokenCache, dpop::Proofs, verify::Verifier},
};

/// What all workers of a gateway share; none of it changes while it serves, but for what is counted.
pub struct Gateway {
    config: Config,
    reserved: Arc<Reserved>,
    /// What any route allows of paths with several readings.
    allow_paths: Oddities,
    documents: Documents,
    rates: RateLimits,
    upstreams: Vec<Arc<Upstream>>,
    verifier: Arc<Verifier>,
    proofs: Arc<Proofs>,
    revocations: Arc<Revocations>,
    /// Up to when they are known; `None` where they are made here.
    freshness: Option<Arc<Freshness>>,
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
    /// Puts a gateway together. `revocations` come with how fresh they are, where another process makes them. `demo` is where the built-in page listens, if an upstream is that. Upstreams that are as they were
    /// `before` stay, with what is known of them. Must be called on the control runtime, which looks after the upstreams.
    pub fn new(
        config: Config,
        (verifier, proofs): (Verifier, Arc<Proofs>),
        (revocations, freshness): (Arc<Revocations>, Option<Arc<Freshness>>),
        (clock, metrics): (Clock, Metrics),
        demo: Option<SocketAddr>,
        log: log::Requests,
        before: Option<&Self>,
    ) -> Self {
        let reserved = Arc::new(Reserved::new(&config));
        let allow_paths = config.routes.iter().fold(Oddities::default(), |all, route| all.or(route.allow_paths));
        let rates = RateLimits::new(&config.routes, &clock);
        let before = before.map_or(&[][..], |before| &before.upstreams);
        let upstreams = upstream::start(&config.upstreams, demo, &metrics, before);
        let verifier = Arc::new(verifier);
        Self {
            reserved,
            allow_paths,
            documents: Documents::new(&config.routes, &verifier.issuers().cloned().collect::<Vec<_>>()),
            config,
            rates,
            upstreams,
            verifier,
            proofs,
            revocations,
            freshness,
            clock,
            metrics,
            log,
        }
    }

    /// Another one serves from now on.
    pub fn retire(&self, next: &Self) {
        upstream::retire(&self.upstreams, &next.upstreams);
    }

    /// What verifies its tokens.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Whether too little is known of what was revoked of late.
    fn is_stale(&self) -> bool {
        self.freshness.as_ref().is_some_and(|freshness| freshness.is_stale())
    }

    /// Whether it limits how many requests come through, so that [`Gateway::prune`] has something to do.
    pub fn limits_rates(&self) -> bool {
        !self.rates.is_empty()
    }

    /// Forgets clients that have not asked for so long that their allowance is whole. For whoever has the time: a worker
    /// has not.
    pub fn prune(&self) {
        self.rates.prune();
    }

    /// What one worker needs of its own. Must be called on the worker's thread, within its runtime.
    pub fn worker(self: &Arc<Self>) -> Rc<Worker> {
        let names = |names: &mut dyn Iterator<Item = &Arc<str>>| names.cloned().collect::<Vec<_>>();
        let waits = self.config.upstreams.iter().flat_map(|it| [it.response_timeout, it.idle_timeout]);
        let patience = Patience::start(waits);
        let turns = Turns::start();
        let forwarder = |upstream| Forwarder::new(upstream, &self.reserved, &patience, &turns);
        let worker = Rc::new(Worker {
            gateway: self.clone(),
            authenticator: Authenticator {
                verifier: self.verifier.clone(),
                revocations: self.revocations.clone(),
                clock: self.clock.clone(),
                cache: TokenCache::new(self.config.token_cache_bytes),
                proofs: self.proofs.clone(),
            },
            forwarders: self.upstreams.iter().map(forwarder).collect(),
            streams: Rc::default(),
            retired: Cell::default(),
            turns,
            recorder: Recorder::new(
                self.metrics.clone(),
                &names(&mut self.config.routes.iter().map(|route| &route.name)),
                &names(&mut self.config.upstreams.iter().map(|upstream| &upstream.name)),
                &names(&mut self.verifier.names()),
            ),
        });
        tokio::task::spawn_local(sweep(Rc::downgrade(&worker)));
        tokio::task::spawn_local(end_streams(worker.clone()));
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
        let (entries, bytes) = worker.authenticator.cache.usage();
        worker.recorder.tokens_cached(entries, bytes);
    }
}

/// Goes on for as long as there are streams: another configuration is no reason to let one outlive its token.
async fn end_streams(worker: Rc<Worker>) {
    let mut tick = interval(STREAMS_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !(worker.retired.get() && worker.streams.is_empty()) {
        tick.tick().await;
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
    turns: Rc<Turns>,
    recorder: Recorder,
    retired: Cell<bool>,
}

/// What is known of a request while it is on its way, for its answer, the log and the metrics.
#[derive(Default)]
struct Trail {
    route: Option<usize>,
    /// What it was, where Sidegate answers it itself: a preflight, or a request for metadata.
    answered: Option<&'static str>,
    /// Where the request came from, if its route has a rule about that.
    origin: Option<HeaderValue>,
    /// A nonce for the client's next proof.
    nonce: Option<Box<str>>,
    /// When the upstream had answered; the clock need not be read twice.
    ended: Option<Instant>,
}

impl Worker {
    /// Whose request it is: the peer's, or where that is a trusted proxy, whom it names.
    pub fn client_address(&self, headers: &HeaderMap, peer: &Peer) -> IpAddr {
        headers::client_address(headers, peer, &self.gateway.config.trusted_proxies)
    }

    /// No more requests come to this one; those that are here go on to their ends.
    pub fn retire(&self) {
        self.retired.set(true);
    }

    /// Answers a request: by its upstream, or by a refusal.
    pub async fn handle(self: &Rc<Self>, request: Request<RequestBody>, peer: &Peer) -> Response<Body> {
        let started = Instant::now();
        let _in_flight = self.recorder.request_started();
        let method = request.method().clone();
        let mut trail = Trail::default();
        // Kept for the answer, since the request itself goes upstream.
        let accept = request.headers().get(header::ACCEPT).cloned();
        let is_grpc = request.version() == Version::HTTP_2 && grpc::is_grpc(request.headers());
        let has_body = !request.body().is_end_stream() && request.version() < Version::HTTP_2;
        let mut status = None;
        let passed = self.pass(request, is_grpc, peer, started, &mut trail).await;
        let (mut response, decision, reason) = match passed {
            Ok(response) => match trail.answered {
                Some(what) => (response, Decision::Answered, what),
                None => (response, Decision::Allowed, "ok"),
            },
            Err(rejection) => {
                let decision = if rejection.after_decision() { Decision::Allowed } else { Decision::Denied };
                let route = trail.route.map(|route| &self.gateway.config.routes[route]);
                let realm = &self.gateway.config.realm;
                let challenge = Challenge { realm, route };
                let mut response = rejection.response(&challenge, accept.as_ref());
                status = Some(response.status());
                if is_grpc {
                    response = grpc::refusal(&response, rejection.description());
                } else if has_body && decision == Decision::Denied {
                    // Nobody has read the body, and what follows an answer must not be taken for the next request.
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                (response, decision, rejection.reason())
            }
        };
        // A refusal of gRPC is a 200 that says otherwise; what is counted is what it means.
        let status = status.unwrap_or(response.status());
        if let Some(rule) = trail.route.and_then(|route| self.gateway.config.routes[route].cors.as_ref())
            && trail.answered.is_none()
        {
            cors::decorate(rule, trail.origin.as_ref(), response.headers_mut());
        }
        if let Some(nonce) = trail.nonce.as_deref().and_then(|nonce| HeaderValue::try_from(nonce).ok()) {
            response.headers_mut().insert(reject::DPOP_NONCE, nonce);
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
        let gateway = &*self.gateway;
        let websocket = Handshake::of(&request).map_err(|_| Rejection::BadHandshake)?;
        let named = head::read(&request, &gateway.reserved, websocket.is_some())?;
        let host = authority::host(&request).map_err(|_| Rejection::BadHost)?;
        let path = readings::read(request.uri().path(), gateway.allow_paths).map_err(Rejection::AmbiguousPath)?;
        if let Some(response) = self.preflight(&request, &host, &path, trail) {
            return Ok(response);
        }
        if let Some(response) = gateway.documents.find(request.method(), &host, request.uri().path()) {
            trail.answered = Some("metadata");
            return Ok(response);
        }
        // However it is asked for, a WebSocket is something that one gets.
        let method = if websocket.is_some() { &Method::GET } else { request.method() };
        let found = self.route(&host, &path, method).map_err(Rejection::AmbiguousPath)?;
        let (index, route) = found.ok_or(Rejection::NoRoute)?;
        drop(path);
        trail.route = Some(index);
        if route.cors.is_some() {
            trail.origin = request.headers().get(header::ORIGIN).cloned();
        }
        if !cors::takes_origin(route, request.headers()) {
            return Err(Rejection::ForeignOrigin);
        }
        let proxies = &gateway.config.trusted_proxies;
        let address = |headers: &HeaderMap| headers::client_address(headers, peer, proxies);
        gateway.rates.count_anonymous(index, || address(request.headers())).map_err(Rejection::RateLimited)?;
        if route.on_stale == OnStale::Refuse && route.auth != Auth::None && gateway.is_stale() {
            return Err(Rejection::Stale);
        }
        let mut uri = std::mem::take(request.uri_mut());
        let sender = Sender { method: request.method(), headers: request.headers(), peer, proxies };
        let authenticated = self.authenticator.authenticate(route, &sender, &mut uri, &self.recorder).await?;
        let Authenticated { identity, nonce } = authenticated;
        trail.nonce = nonce;
        let who = identity.as_deref().map(|verified| &verified.identity);
        gateway.rates.count_identified(index, who, || address(request.headers())).map_err(Rejection::RateLimited)?;
        *request.uri_mut() = uri;
        let permit = authorize(route, identity).map_err(|denial| Rejection::Denied(denial, route.scopes.clone()))?;
        let decided = Instant::now();
        self.recorder.decided(started, decided);
        let outgrown = match route.max_body_bytes {
            Some(bytes) if !request.body().is_end_stream() => {
                Some(request.body_mut().bound(bytes).ok_or(Rejection::BodyTooLarge)?)
            }
            Some(_) | None => None,
        };
        let (version, trusted) = (request.version(), is_trusted(proxies, peer));
        headers::name_host(&mut request);
        headers::to_upstream(request.headers_mut(), named, version, &gateway.reserved, peer, trusted, &permit);
        let answer = match websocket {
            None => self.exchange(&permit, request, is_grpc, decided).await,
            Some(handshake) => self.connect(&permit, request, &handshake, decided).await,
        };
        let answer = answer.map_err(|rejection| match outgrown {
            Some(outgrown) if outgrown.get() => Rejection::BodyTooLarge,
            Some(_) | None => rejection,
        })?;
        let answered = Instant::now();
        trail.ended = Some(answered);
        self.recorder.upstream_answered(route.upstream, answered - decided);
        Ok(answer)
    }

    /// The route that every reading of a path leads to, with its index.
    fn route(&self, host: &str, path: &Path<'_>, method: &Method) -> Result<Option<(usize, &Route)>, Ambiguous> {
        let routes = &self.gateway.config.routes;
        path.resolve(|reading| route::find(routes, host, reading, method), |route| route.allow_paths)
    }

    /// The answer to a CORS preflight, if the route it asks about has a rule. It never reaches the upstream.
    fn preflight(
        &self,
        request: &Request<RequestBody>,
        host: &str,
        path: &Path<'_>,
        trail: &mut Trail,
    ) -> Option<Response<Body>> {
        let method = cors::preflight_method(request)?;
        let (index, Route { cors, .. }) = self.route(host, path, &method).ok()??;
        let rule = cors.as_ref()?;
        *trail = Trail { route: Some(index), answered: Some("preflight"), ..Trail::default() };
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
