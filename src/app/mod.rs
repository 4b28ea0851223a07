//! The one place that wires rooms: start, serve, drain.

mod commands;
mod front;
mod listening;
mod reload;
mod users;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{
    runtime::{Builder, Handle},
    signal::unix::{SignalKind, signal},
};

pub use self::listening::Listening;
use self::{
    commands::obey,
    front::{Fronts, Shared},
    reload::{Reloads, Tended},
};
use crate::{
    admin::{self, Health, api::Api},
    client::Client,
    clock::Clock,
    config::{Config, Fixed, Loaded, Watched},
    demo,
    gateway::{self, Gateway},
    issuer::{self, Current, Issuer},
    revocation::{Feed, Freshness, Revocations},
    server::{self, BindError, Pulse, Server},
    telemetry::{
        FeedMetrics, KeyMetrics, Metrics,
        audit::{Audit, Destination, Event, Facts, Keeper},
        log,
    },
    token::{
        dpop::Proofs,
        live::LiveKeys,
        provider::{KeySource, OnStart},
        remote::Remote,
        verify::{Provider, Verifier},
    },
    types::Secret,
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
    /// Security decisions could not be written down.
    #[error("the audit log {0} cannot be written: {1}")]
    Audit(Destination, io::Error),
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
pub fn run(path: &Path, loaded: Loaded) -> Result<(), Error> {
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
        let mut app = tokio::select! {
            app = App::start(loaded, Clock::System) => app?,
            () = told_to_stop.wait() => return Ok(()),
        };
        app.announce();
        app.keep_up(path, &mut told_to_stop).await?;
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
    issuer: Option<Current>,
    feed: Option<Arc<Feed>>,
    background: tokio::task::JoinSet<()>,
    audit: Audit,
    /// What another configuration takes the place of, and what it shares with it.
    shared: Shared,
    fronts: Fronts,
    tended: Tended,
    reloads: Reloads,
    watched: Watched,
    fixed: Vec<Fixed>,
    demo: Option<SocketAddr>,
    admin_token: Arc<ArcSwapOption<Secret>>,
    proofs: Arc<Proofs>,
    revocations: Arc<Revocations>,
    freshness: Option<Arc<Freshness>>,
    clock: Clock,
    metrics: Metrics,
    /// Writes what is left of the audit log when the app is gone.
    keeper: Option<Keeper>,
}

impl App {
    /// Takes its addresses and its data first, so that a second instance fails before it does anything; then loads keys
    /// and revocations; then serves. When it answers, it is ready. Must be called on the control runtime.
    ///
    /// # Errors
    /// When an address, the data or the system refuses.
    pub async fn start(loaded: Loaded, clock: Clock) -> Result<Self, Error> {
        let Loaded { config, watched, fixed, shown, warnings: _ } = loaded;
        let metrics = Metrics::new()?;
        let health = Health::new(metrics.clone());
        let (admin_socket, admin_address) = server::bind_address(config.admin.address)?;
        let bound = config.server.listeners.iter().map(server::bind).collect::<Result<Vec<_>, _>>()?;
        let (audit, keeper) = match &config.log.audit {
            Some(to) => {
                let started = Audit::start(to, clock.clone(), metrics.clone());
                let (audit, keeper) = started.map_err(|error| Error::Audit(to.clone(), error))?;
                (audit, Some(keeper))
            }
            None => (Audit::default(), None),
        };
        let revocations = Arc::new(Revocations::with_alarm(config.revocations_alarm));
        // There is nothing to forget yet: it learns what time it is, and how fast that goes.
        revocations.sweep(clock.now());
        let issuer = match &config.issuer {
            Some(issuer) => {
                let (config, revocations) = (issuer.clone(), revocations.clone());
                Some(Issuer::open(config, clock.clone(), revocations, metrics.clone(), audit.clone()).await?)
            }
            None => None,
        };
        let commands = match &config.issuer {
            Some(issuer) => Some(admin::socket::bind(&issuer.data)?),
            None => None,
        };
        let demo = if wants_demo(&config) { Some(demo::start().await?) } else { None };
        let listening = Listening::of(&config, &bound, admin_address);
        let verifier = verifier(&config, issuer.as_deref(), &clock, &metrics, None)?;
        let issuer_now = issuer.clone().map(Current::new);
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
        let (reloads, asks) = Reloads::new(shown, &metrics);
        let admin_token = Arc::new(ArcSwapOption::from(config.admin.token.clone().map(Arc::new)));
        let api = Api {
            token: admin_token.clone(),
            issuer: issuer_now.clone(),
            reload: asks,
            standing: reloads.standing(),
            revocations: revocations.clone(),
            feed: feed.clone(),
            audit: audit.clone(),
        };
        background.spawn(async move {
            let slowest = move || beat.get().map(Pulse::slowest).unwrap_or_default();
            let Err(error) = admin::serve(admin_socket, probes, scraped, api, slowest).await;
            tracing::error!(%error, "the admin listener failed");
        });
        if let Some(feed) = &feed {
            background.spawn(feed.clone().run());
            background.spawn(tend_table(revocations.clone(), clock.clone(), metrics.clone()));
        }
        wait_for_keys(&verifier).await;
        if let Some(feed) = &feed {
            feed.loaded().await;
        }
        let freshness = match (&feed, &issuer) {
            (Some(feed), _) => Some(feed.freshness().clone()),
            (None, Some(issuer)) => issuer.freshness(),
            (None, None) => None,
        };
        let needs_nonces = config.gateway.needs_nonces;
        let proofs = issuer.as_ref().map_or_else(|| Proofs::new(None, needs_nonces), |issuer| issuer.proofs());
        let proofs = Arc::new(proofs);
        let gateway = Arc::new(Gateway::new(
            config.gateway,
            (verifier, proofs.clone()),
            (revocations.clone(), freshness.clone()),
            (clock.clone(), metrics.clone()),
            demo,
            config.log.requests,
            None,
        ));
        let shared = Shared { gateway, issuer: issuer.clone(), form_timeout: 2 * config.server.limits.body_timeout };
        let fronts = Fronts::new(shared.clone(), metrics.clone(), Handle::current());
        let maker = fronts.clone();
        let server = server::start(&config.server, bound, &metrics, move || maker.make())?;
        // There is nobody else to set it.
        let _ = pulse.set(server.pulse());
        if let (Some(issuer), Some(current), Some(commands)) = (issuer, issuer_now.clone(), commands) {
            let swept = current.clone();
            background.spawn(tend_keys(issuer.clone()));
            background
                .spawn(admin::socket::serve(commands, audit.clone(), move |line, uid| obey(current.load(), line, uid)));
            background.spawn(async move {
                loop {
                    tokio::time::sleep(SWEEP_INTERVAL).await;
                    swept.load().sweep().await;
                }
            });
        }
        let users_file = config.issuer.and_then(|issuer| issuer.users_file);
        let tended = Tended::start(&shared, users_file, &server.listeners(), &metrics, None);
        health.ready();
        audit.tell(Event::Started, Facts::default());
        let drain_delay = config.server.drain_delay;
        Ok(Self {
            server,
            health,
            listening,
            drain_delay,
            issuer: issuer_now,
            feed,
            background,
            audit,
            keeper,
            shared,
            fronts,
            tended,
            reloads,
            watched,
            fixed,
            demo,
            admin_token,
            proofs,
            revocations,
            freshness,
            clock,
            metrics,
        })
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
            issuer.load().dismiss_followers();
        }
        self.server.drain().await;
        drop(self.tended);
        self.background.shutdown().await;
        if let Some(feed) = self.feed.take() {
            // A panic there has been logged.
            let _ = tokio::task::spawn_blocking(move || feed.save()).await;
        }
        self.audit.tell(Event::Stopped, Facts::default());
        let keeper = self.keeper.take();
        let _ = tokio::task::spawn_blocking(move || drop(keeper)).await;
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

fn wants_demo(config: &Config) -> bool {
    config.gateway.upstreams.iter().any(|upstream| upstream.target == gateway::config::Target::Demo)
}

/// What verifies tokens. Keys that were fetched `before` for the same provider are fetched on.
fn verifier(
    config: &Config,
    issuer: Option<&Issuer>,
    clock: &Clock,
    metrics: &Metrics,
    before: Option<&Verifier>,
) -> Result<Verifier, Error> {
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
                if let Some(same) = before.and_then(|before| before.fetching(&config.fingerprint)) {
                    let (keys, remote) = (same.remote().keys().clone(), Some(same.clone()));
                    providers.push(Provider { config: config.clone(), keys, remote });
                    continue;
                }
                let client =
                    Client::new(&fetch.tls, fetch.timeout).map_err(|why| Error::Client(config.name.clone(), why))?;
                let remote = Remote::new(&config.name, &config.issuer, fetch.clone(), client, clock.clone(), metrics);
                (remote.keys().clone(), Some(remote.start()))
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
