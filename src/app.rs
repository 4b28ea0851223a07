//! The one place that wires rooms: start, serve, drain.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use tokio::{
    runtime::{Builder, Handle},
    signal::unix::{SignalKind, signal},
};

use crate::{
    admin::{self, Health, api::Api},
    client::Client,
    clock::Clock,
    config::{Config, Loaded},
    demo,
    gateway::{self, Gateway},
    http::{Body, HeadFault, Peer, RequestBody},
    issuer::{self, Cause, Endpoint, Issuer, MAX_FORM_BYTES, RevokeRequest},
    revocation::{Feed, Revocations},
    server::{self, BindError, Bound, Handler, Pulse, Server, tls::FileWatch},
    store::Revocation,
    telemetry::{Decision, FeedMetrics, KeyMetrics, Metrics, Outcome, Recorder, log},
    token::{
        live::LiveKeys,
        provider::{KeySource, OnStart},
        remote::Remote,
        verify::{Provider, Verifier},
    },
};

/// Why the process could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address could not be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The issuer could not start.
    #[error(transparent)]
    Issuer(#[from] issuer::OpenError),
    /// Threads, sockets or signals could not be had.
    #[error("the system refuses: {0}")]
    System(#[from] io::Error),
    /// What is needed to ask others could not be had.
    #[error("the keys of the provider {0} cannot be fetched: {1}")]
    Client(Arc<str>, String),
    /// What is needed to follow the revocation log could not be had.
    #[error("the revocation feed cannot be followed: {0}")]
    Feed(String),
    /// A series could not be registered.
    #[error("the metrics cannot be set up: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Threads for issuer, store and admin. What takes long there (a password's hash) has threads of its own.
const CONTROL_THREADS: usize = 2;
/// How often expired sessions and revocations are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// How often a table that follows a log is swept and measured.
const TABLE_INTERVAL: Duration = Duration::from_secs(5);

/// How often it is looked whether the time for another signing key has come.
const KEYS_INTERVAL: Duration = Duration::from_millis(500);

/// How often clients that are counted, and have not asked for a while, are forgotten.
const PRUNE_INTERVAL: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// When it cannot start.
pub fn run(loaded: Loaded) -> Result<(), Error> {
    let _log = log::start(&loaded.config.log);
    keep_freed_memory();
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let control = Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        // A hash takes 19 MiB: the issuer bounds how many run, and idle threads need not linger.
        .thread_keep_alive(Duration::from_secs(5))
        .enable_all()
        .build()?;
    let outcome = control.block_on(async {
        let mut told_to_stop = Stop::listen()?;
        let app = tokio::select! {
            app = App::start(loaded.config, Clock::System) => app?,
            () = told_to_stop.wait() => return Ok(()),
        };
        app.announce();
        told_to_stop.wait().await;
        app.stop().await;
        Ok(())
    });
    // Nothing that is left may keep the process: what matters is on disk.
    control.shutdown_background();
    outcome
}

/// Lets glibc keep up to 2 MiB of freed memory at the end of each worker's heap. By default it gives back what is above
/// 128 KiB at once, and a busy worker asks for the same pages again a moment later. It takes twice the size of the largest
/// block that was mapped by itself and freed; other allocators make nothing of this.
fn keep_freed_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 20)));
}

/// A Sidegate that serves.
pub struct App {
    server: Server,
    health: Health,
    listening: Listening,
    drain_delay: Duration,
    issuer: Option<Arc<Issuer>>,
    feed: Option<Arc<Feed>>,
    background: tokio::task::JoinSet<()>,
}

/// Where it really listens, and what there is: for who starts it.
#[derive(Clone, Debug)]
pub struct Listening {
    /// Each listener's name, address, whether it speaks TLS, and whether it answers the issuer's paths.
    pub listeners: Vec<(Arc<str>, SocketAddr, bool, bool)>,
    /// The admin listener.
    pub admin: SocketAddr,
    /// The issuer's `iss`, where there is one.
    pub issuer: Option<String>,
    routes: Vec<String>,
    demo: bool,
}

impl App {
    /// Takes its addresses and its data first, so that a second instance fails before it does anything; then loads keys
    /// and revocations; then serves. When it answers, it is ready. Must be called on the control runtime.
    ///
    /// # Errors
    /// When an address, the data or the system refuses.
    pub async fn start(config: Config, clock: Clock) -> Result<Self, Error> {
        let metrics = Metrics::new()?;
        let health = Health::new(metrics.clone());
        let (admin_socket, admin_address) = server::bind_address(config.admin.address)?;
        let bound = config.server.listeners.iter().map(server::bind).collect::<Result<Vec<_>, _>>()?;
        let revocations = Arc::new(Revocations::with_alarm(config.revocations_alarm));
        // There is nothing to forget yet: it learns what time it is, and how fast that goes.
        revocations.sweep(clock.now());
        let issuer = match &config.issuer {
            Some(issuer) => {
                Some(Issuer::open(issuer.clone(), clock.clone(), revocations.clone(), metrics.clone()).await?)
            }
            None => None,
        };
        let commands = match &config.issuer {
            Some(issuer) => Some(admin::socket::bind(&issuer.data)?),
            None => None,
        };
        let demo = if wants_demo(&config) { Some(demo::start().await?) } else { None };
        let listening = Listening::of(&config, &bound, admin_address);
        let verifier = verifier(&config, issuer.as_deref(), &clock, &metrics)?;
        let mut background = tokio::task::JoinSet::new();
        // Before there is anything to serve: who waits for keys is alive, and says that it is not ready.
        let pulse = Arc::new(OnceLock::<Pulse>::new());
        let (beat, probes, scraped) = (pulse.clone(), health.clone(), metrics.clone());
        let feed = match config.revocation_feed {
            Some(feed) => {
                let made = Feed::new(feed, revocations.clone(), clock.clone(), FeedMetrics::new(&metrics));
                Some(made.map_err(Error::Feed)?)
            }
            None => None,
        };
        let api = Api {
            token: config.admin.token.clone(),
            issuer: issuer.clone(),
            revocations: revocations.clone(),
            feed: feed.clone(),
        };
        background.spawn(async move {
            let slowest = move || beat.get().map(Pulse::slowest).unwrap_or_default();
            let Err(error) = admin::serve(admin_socket, probes, scraped, api, slowest).await;
            tracing::error!(%error, "the admin listener failed");
        });
        verifier.remotes().for_each(|remote| drop(background.spawn(remote.clone().run())));
        if let Some(feed) = &feed {
            background.spawn(feed.clone().run());
            background.spawn(tend_table(revocations.clone(), clock.clone(), metrics.clone()));
        }
        wait_for_keys(&verifier).await;
        if let Some(feed) = &feed {
            feed.loaded().await;
        }
        let gateway = Arc::new(Gateway::new(
            config.gateway,
            verifier,
            (revocations, feed.as_ref().map(|feed| feed.freshness().clone())),
            clock,
            metrics.clone(),
            demo,
            config.log.requests,
        ));
        let front = FrontMaker {
            gateway: gateway.clone(),
            issuer: issuer.clone(),
            metrics: metrics.clone(),
            control: Handle::current(),
        };
        let server = server::start(&config.server, bound, &metrics, move || front.make())?;
        // There is nobody else to set it.
        let _ = pulse.set(server.pulse());
        background.spawn(FileWatch::new(&config.server.listeners, &metrics).run());
        let followed = issuer.clone();
        if let (Some(issuer), Some(commands)) = (issuer, commands) {
            background.spawn(tend_keys(issuer.clone()));
            let told = issuer.clone();
            background.spawn(admin::socket::serve(commands, move |line| obey(told.clone(), line)));
            background.spawn(async move {
                loop {
                    tokio::time::sleep(SWEEP_INTERVAL).await;
                    issuer.sweep().await;
                }
            });
        }
        if gateway.limits_rates() {
            background.spawn(async move {
                loop {
                    tokio::time::sleep(PRUNE_INTERVAL).await;
                    gateway.prune();
                }
            });
        }
        health.ready();
        let drain_delay = config.server.drain_delay;
        Ok(Self { server, health, listening, drain_delay, issuer: followed, feed, background })
    }

    /// Where it listens.
    pub fn listening(&self) -> &Listening {
        &self.listening
    }

    /// Not ready; serve on for the delay; refuse new connections; finish what is in flight, up to the timeout.
    pub async fn stop(mut self) {
        self.health.draining();
        tracing::info!("draining");
        tokio::time::sleep(self.drain_delay).await;
        // Who follows asks somebody else, or again when there is one; until then it knows what it knows.
        if let Some(issuer) = &self.issuer {
            issuer.dismiss_followers();
        }
        self.server.drain().await;
        if let Some(feed) = self.feed.take() {
            // A panic there has been logged.
            let _ = tokio::task::spawn_blocking(move || feed.save()).await;
        }
        self.background.shutdown().await;
        tracing::info!("drained");
    }

    /// Tells whoever started it what it listens on, which routes there are, and what to try.
    fn announce(&self) {
        // In one write: whoever reads along gets the whole of it at once.
        let mut text = Vec::new();
        let mut out = io::stdout().lock();
        // Where nobody reads standard output any more, nobody misses it.
        let _ = self.listening.print(&mut text).and_then(|()| out.write_all(&text)).and_then(|()| out.flush());
    }
}

/// Forgets what is no longer revoked because it has expired, where no issuer does that.
async fn tend_table(revocations: Arc<Revocations>, clock: Clock, metrics: Metrics) {
    loop {
        let (table, now) = (revocations.clone(), clock.now());
        // It takes some milliseconds for a million. A panic there has been logged.
        let _ = tokio::task::spawn_blocking(move || table.sweep(now)).await;
        revocations.report(&metrics);
        tokio::time::sleep(TABLE_INTERVAL).await;
    }
}

/// Has the issuer's keys follow each other. RSA keys are made slowly, so that it is not the runtime's thread that waits.
async fn tend_keys(issuer: Arc<Issuer>) {
    loop {
        tokio::time::sleep(KEYS_INTERVAL).await;
        if !issuer.keys_are_due() {
            continue;
        }
        let issuer = issuer.clone();
        // A panic there has been logged.
        let _ = tokio::task::spawn_blocking(move || issuer.tend_keys()).await;
    }
}

/// Does what a command of the same user says.
async fn obey(issuer: Arc<Issuer>, line: String) -> admin::socket::Outcome {
    let wrong = || "this Sidegate does not know that command; it may be older than the one that asks".to_owned();
    let revoked = |entry: Revocation| describe(&entry, issuer.url().as_str());
    if let Some(request) = line.strip_prefix("revoke ") {
        let request: RevokeRequest = serde_json::from_str(request).map_err(|_| wrong())?;
        let entry = issuer.revoke(&request, Cause::Command).await;
        return entry.map(revoked).map_err(|error| error.to_string());
    }
    if let Some(kid) = line.strip_prefix("keys revoke ") {
        let (kind, id, reason) = ("key".into(), Some(kid.into()), "`sidegate keys revoke`".into());
        let request = RevokeRequest { kind, id, reason, ..RevokeRequest::default() };
        issuer.revoke(&request, Cause::Command).await.map_err(|error| error.to_string())?;
        return Ok(issuer.list_keys());
    }
    if let Some(rest) = line.strip_prefix("revocations lift ") {
        let (number, reason) = rest.split_once(' ').ok_or_else(wrong)?;
        let (number, reason): (u64, String) =
            (number.parse().map_err(|_| wrong())?, serde_json::from_str(reason).map_err(|_| wrong())?);
        let entry = issuer.lift(number, &reason, Cause::Command).await;
        return entry.map(revoked).map_err(|error| error.to_string());
    }
    if let Some((after, limit)) = line.strip_prefix("revocations list ").and_then(|rest| rest.split_once(' ')) {
        let (after, limit) = (after.parse().map_err(|_| wrong())?, limit.parse().map_err(|_| wrong())?);
        let entries = issuer.revocations(after, limit).await.map_err(|error| error.to_string())?;
        let lines: Vec<_> = entries.into_iter().map(revoked).collect();
        return Ok(if lines.is_empty() { "nothing is revoked".into() } else { lines.join("\n") });
    }
    let obeying = tokio::task::spawn_blocking(move || {
        let words: Vec<_> = line.split(' ').collect();
        let outcome = match words[..] {
            ["keys", "list"] => return Ok(issuer.list_keys()),
            ["keys", "rotate"] => issuer.rotate_keys(false),
            ["keys", "rotate", "now"] => issuer.rotate_keys(true),
            _ => return Err(wrong()),
        };
        outcome.map_err(|error| error.to_string())
    });
    obeying.await.unwrap_or_else(|_| Err("it failed; the log says how".into()))
}

/// An entry of the revocation log, for a person.
fn describe(entry: &Revocation, own: &str) -> String {
    let issuer = entry.issuer.as_ref().map_or(own, |issuer| issuer.as_str());
    let verb = if entry.lifts { "lifted" } else { "revoked" };
    let left = entry.until.since(entry.at).unwrap_or_default().as_secs();
    let Revocation { number, what, reason, .. } = entry;
    let name = what.id().map(|id| format!(" {id}")).unwrap_or_default();
    format!("{number}  {verb} {}{name} of {issuer} for {left} s: {reason}", what.kind())
}

fn wants_demo(config: &Config) -> bool {
    config.gateway.upstreams.iter().any(|upstream| upstream.target == gateway::config::Target::Demo)
}

fn verifier(config: &Config, issuer: Option<&Issuer>, clock: &Clock, metrics: &Metrics) -> Result<Verifier, Error> {
    let mut providers = Vec::new();
    for config in &config.providers {
        let metrics = KeyMetrics::new(metrics, &config.name);
        let (keys, remote) = match (&config.keys, issuer) {
            (KeySource::Fixed(keys), _) => {
                metrics.keys(keys.len());
                (LiveKeys::new(keys.clone()), None)
            }
            (KeySource::InternalIssuer, Some(issuer)) => (issuer.keys(), None),
            // The configuration's check refuses a provider of an issuer that is not there. Were it wrong, nobody would be
            // let in.
            (KeySource::InternalIssuer, None) => (LiveKeys::missing(), None),
            (KeySource::Published(fetch), _) => {
                let client =
                    Client::new(&fetch.tls, fetch.timeout).map_err(|why| Error::Client(config.name.clone(), why))?;
                let remote = Remote::new(&config.name, &config.issuer, fetch.clone(), client, clock.clone(), metrics);
                (remote.keys().clone(), Some(remote))
            }
        };
        providers.push(Provider { config: config.clone(), keys, remote });
    }
    Ok(Verifier::new(providers, config.gateway.max_token_bytes))
}

/// Waits for the keys that others publish, as long as their providers are to be waited for.
async fn wait_for_keys(verifier: &Verifier) {
    for remote in verifier.remotes() {
        match remote.on_start() {
            OnStart::Wait => remote.loaded().await,
            OnStart::ServeOthers => remote.tried().await,
        }
    }
}

/// SIGTERM or SIGINT.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    /// Listens before anything starts, so that no signal is lost.
    fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Makes each worker's front.
#[derive(Clone)]
struct FrontMaker {
    gateway: Arc<Gateway>,
    issuer: Option<Arc<Issuer>>,
    metrics: Metrics,
    control: Handle,
}

impl FrontMaker {
    fn make(&self) -> Rc<Front> {
        Rc::new(Front {
            gateway: self.gateway.worker(),
            issuer: self.issuer.clone(),
            recorder: Recorder::new(self.metrics.clone(), &["issuer".into()], &[], &[]),
            control: self.control.clone(),
        })
    }
}

/// What a worker serves: the issuer's paths where the listener answers them, the gateway for everything else.
struct Front {
    gateway: Rc<gateway::Worker>,
    issuer: Option<Arc<Issuer>>,
    recorder: Recorder,
    control: Handle,
}

impl Handler for Front {
    async fn handle(&self, request: Request<RequestBody>, peer: &Peer) -> Response<Body> {
        // What has more than one reading is the gateway's to refuse.
        let readable = request.extensions().get::<HeadFault>().is_none();
        let issuer = self.issuer.as_ref().filter(|_| peer.issuer && readable);
        match issuer.and_then(|issuer| Some((issuer, issuer.endpoint(request.uri().path())?))) {
            Some((issuer, endpoint)) => self.ask(issuer, endpoint, request).await,
            None => self.gateway.handle(request, peer).await,
        }
    }
}

impl Front {
    /// Reads the form on this worker, and lets the issuer answer on its own runtime, where it may take its time.
    async fn ask(&self, issuer: &Arc<Issuer>, endpoint: Endpoint, request: Request<RequestBody>) -> Response<Body> {
        let started = std::time::Instant::now();
        let _in_flight = self.recorder.request_started();
        let method = request.method().clone();
        let (head, body) = request.into_parts();
        let response = match Limited::new(body, MAX_FORM_BYTES).collect().await {
            Ok(form) => {
                let (issuer, request) = (issuer.clone(), Request::from_parts(head, form.to_bytes()));
                if endpoint == Endpoint::Feed {
                    return self.feed(&issuer, &request, started);
                }
                match self.control.spawn(async move { issuer.handle(endpoint, request).await }).await {
                    Ok(response) => response,
                    Err(error) => {
                        tracing::error!(%error, "the issuer failed");
                        issuer::refusal(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "The issuer failed.")
                    }
                }
            }
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                issuer::refusal(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request", "The form is larger than 64 KiB.")
            }
            Err(_) => issuer::refusal(StatusCode::BAD_REQUEST, "invalid_request", "The body broke off."),
        };
        let response = response.map(Body::from);
        let status = response.status();
        let outcome = Outcome { route: Some(0), decision: Decision::Answered, reason: "issuer", status };
        self.recorder.request_ended(&method, outcome, started.elapsed());
        response
    }
}

impl Front {
    /// Has a process follow the revocation log. The log is read on the issuer's runtime.
    fn feed(
        &self,
        issuer: &Arc<Issuer>,
        request: &Request<bytes::Bytes>,
        started: std::time::Instant,
    ) -> Response<Body> {
        let _issuers = self.control.enter();
        let response = match issuer.follow(request) {
            Ok(pieces) => {
                let mut response = Response::new(Body::from(pieces));
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
                // Nobody on the way shall keep, change or gather what must arrive at once.
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
                headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
                response
            }
            Err(refusal) => refusal.map(Body::from),
        };
        let outcome =
            Outcome { route: Some(0), decision: Decision::Answered, reason: "feed", status: response.status() };
        self.recorder.request_ended(request.method(), outcome, started.elapsed());
        response
    }
}

impl Listening {
    fn of(config: &Config, bound: &[Bound], admin: SocketAddr) -> Self {
        let listeners = config.server.listeners.iter().zip(bound);
        let upstreams = &config.gateway.upstreams;
        Self {
            listeners: listeners
                .map(|(configured, bound)| {
                    (bound.name.clone(), bound.address, configured.tls.is_some(), configured.issuer)
                })
                .collect(),
            admin,
            issuer: config.issuer.as_ref().map(|issuer| issuer.url.to_string()),
            routes: config.gateway.routes.iter().map(|route| route.describe(&upstreams[route.upstream].name)).collect(),
            demo: wants_demo(config),
        }
    }

    fn print(&self, out: &mut impl io::Write) -> io::Result<()> {
        writeln!(out, "Sidegate {} (pid {}) is ready.", env!("CARGO_PKG_VERSION"), std::process::id())?;
        for (name, address, tls, issuer) in &self.listeners {
            let scheme = if *tls { "https" } else { "http" };
            let issuer = if *issuer { ", with the issuer" } else { "" };
            writeln!(out, "  listener  {name:<10} {scheme}://{address}{issuer}")?;
        }
        writeln!(out, "  admin     {:<10} http://{}/metrics", "", self.admin)?;
        if let Some(issuer) = &self.issuer {
            writeln!(out, "  issuer    {:<10} {issuer}", "")?;
        }
        for route in &self.routes {
            writeln!(out, "  route     {route}")?;
        }
        if let (true, Some(url)) = (self.demo, &self.issuer) {
            let token = format!("{url}/oauth/token");
            writeln!(
                out,
                "\nTry:\n  curl -u testclient:secret -d 'grant_type=password&username=test&password=test' {token}"
            )?;
        }
        Ok(())
    }
}
