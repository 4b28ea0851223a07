//! Another configuration while the process runs: read and checked whole, prepared whole, then put in the place of the one that
//! serves. Whatever fails before that leaves everything as it was.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{App, Error, PRUNE_INTERVAL, Shared, Stop, users::tend_users, verifier, wait_for_keys, wants_demo};
use crate::{
    admin::reload::{Ask, Standing},
    config::{self, Fixed, Loaded},
    demo,
    gateway::Gateway,
    issuer::{Departed, Issuer, UsersFile},
    server::{config::Listener, tls::FileWatch},
    telemetry::{
        Metrics, ReloadMetrics,
        audit::{Event, Facts},
    },
};

/// How often it is looked whether the files of the configuration have changed.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often a configuration that was refused is tried again: what it lacks may be in a file that it names for the first time.
const RETRY_ROUNDS: u32 = 20;
/// How long the keys of a provider that is new are waited for.
const KEYS_PATIENCE: Duration = Duration::from_secs(10);
/// How often it is tried again to end sessions that the store did not take.
const SETTLE_INTERVAL: Duration = Duration::from_millis(500);

/// What is known of configurations that were taken up, or were not.
pub(super) struct Reloads {
    asks: mpsc::Receiver<Ask>,
    standing: Arc<Mutex<Standing>>,
    metrics: ReloadMetrics,
}

/// What is looked after for one configuration, until another takes its place.
pub(super) struct Tended {
    _tasks: JoinSet<()>,
}

impl Reloads {
    /// With where to ask for another configuration. `shown` is the one that serves, without its secrets.
    pub(super) fn new(shown: Value, metrics: &Metrics) -> (Self, mpsc::Sender<Ask>) {
        let (sender, asks) = mpsc::channel(1);
        let metrics = ReloadMetrics::new(metrics);
        metrics.loaded();
        (Self { asks, standing: Arc::new(Mutex::new(Standing::new(shown))), metrics }, sender)
    }

    /// For who asks how it stands.
    pub(super) fn standing(&self) -> Arc<Mutex<Standing>> {
        self.standing.clone()
    }

    fn ended(&self, outcome: &Result<Value, String>) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(shown) => {
                self.metrics.loaded();
                self.metrics.ended("ok");
                standing.loaded(shown.clone());
            }
            Err(why) => {
                self.metrics.ended("failed");
                standing.refused(why.clone());
            }
        }
    }
}

impl Tended {
    /// Looks after the files of users and certificates, the counts of clients, and what is to end for those who have gone.
    pub(super) fn start(
        shared: &Shared,
        users: Option<UsersFile>,
        listeners: &[Listener],
        metrics: &Metrics,
        departed: Option<Vec<Departed>>,
    ) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(FileWatch::new(listeners, metrics).run());
        if let Some(issuer) = &shared.issuer {
            if let Some(departed) = departed {
                tasks.spawn(settle(issuer.clone(), departed));
            }
            if let Some(file) = users {
                tasks.spawn(tend_users(issuer.clone(), file));
            }
        }
        if shared.gateway.limits_rates() {
            let gateway = shared.gateway.clone();
            tasks.spawn(async move {
                loop {
                    tokio::time::sleep(PRUNE_INTERVAL).await;
                    gateway.prune();
                }
            });
        }
        Self { _tasks: tasks }
    }
}

/// Ends what those had who are no users any more, or are disabled, whenever the store takes it.
async fn settle(issuer: Arc<Issuer>, departed: Vec<Departed>) {
    let mut has_complained = false;
    while let Err(cause) = issuer.settle(&departed).await {
        if !has_complained {
            tracing::error!(%cause, "the sessions of those who are disabled, or no users any more, have not ended; it is tried again");
            has_complained = true;
        }
        tokio::time::sleep(SETTLE_INTERVAL).await;
    }
}

impl App {
    /// Takes up another configuration whenever there is one at `path`, by itself, on SIGHUP or when an operator asks for it;
    /// until it is told to stop.
    pub(super) async fn keep_up(&mut self, path: &Path, told_to_stop: &mut Stop) -> Result<(), Error> {
        let mut hang_ups = signal(SignalKind::hangup())?;
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Rounds until what was refused is tried again.
        let mut retry = None;
        // Files that have changed, as they were when that was seen: whoever writes them is given a round to finish.
        let mut settling = None;
        loop {
            let ask = tokio::select! {
                () = told_to_stop.wait() => return Ok(()),
                _ = hang_ups.recv() => None,
                Some(ask) = self.reloads.asks.recv() => Some(ask),
                _ = look.tick() => {
                    retry = match retry {
                        Some(rounds) if rounds > 0 => Some(rounds - 1),
                        other => other,
                    };
                    let watched = self.watched.clone();
                    // A disk that is slow keeps a thread of its own waiting. A panic there has been logged.
                    let looking = tokio::task::spawn_blocking(move || watched.again());
                    let now = looking.await.ok().filter(|now| *now != self.watched);
                    let has_settled = now.is_some() && now == settling;
                    settling = now;
                    if !has_settled && retry != Some(0) {
                        continue;
                    }
                    None
                }
            };
            // Before it is read: what is written meanwhile is seen in the next round.
            self.watched = self.watched.again();
            let outcome = tokio::select! {
                outcome = self.reload(path) => outcome,
                () = told_to_stop.wait() => return Ok(()),
            };
            let is_news = self.reloads.standing.lock().unwrap_or_else(PoisonError::into_inner).is_news(&outcome);
            match &outcome {
                Ok(_) => tracing::info!(file = %path.display(), "took up the configuration"),
                Err(why) if is_news || ask.is_some() => {
                    tracing::error!("the configuration from before serves on, since the new one is refused:\n{why}");
                }
                Err(_) => {}
            }
            retry = outcome.is_err().then_some(RETRY_ROUNDS);
            if is_news || ask.is_some() {
                self.reloads.ended(&outcome);
            }
            if let Some(Ask { reply }) = ask {
                // Whoever asked may have gone.
                let _ = reply.send(outcome.map(drop));
            }
        }
    }

    /// Reads the configuration at `path` and takes it up. Answers it without its secrets.
    ///
    /// # Errors
    /// Why it is not taken up: all that is wrong with it, line by line.
    async fn reload(&mut self, path: &Path) -> Result<Value, String> {
        let file = path.to_owned();
        let loading = tokio::task::spawn_blocking(move || config::load(&file));
        let loaded = loading.await.map_err(|_| "it could not be read; the log says why".to_owned())?;
        let loaded = loaded.map_err(|errors| errors.to_string())?;
        let warnings = loaded.warnings.clone();
        let shown = self.take_up(path, loaded).await?;
        // Not of one that is refused, and tried again and again.
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        Ok(shown)
    }

    async fn take_up(&mut self, path: &Path, loaded: Loaded) -> Result<Value, String> {
        let Loaded { config, watched, fixed, shown, warnings: _ } = loaded;
        let needs_restart = fixed_that_differ(path, &self.fixed, &fixed);
        if !needs_restart.is_empty() {
            return Err(needs_restart);
        }
        let said = |error: &dyn std::fmt::Display| error.to_string();

        // All that can fail comes first, and changes nothing.
        let listeners = self.server.prepare(&config.server.listeners).map_err(|error| said(&error))?;
        if self.demo.is_none() && wants_demo(&config) {
            self.demo = Some(demo::start().await.map_err(|error| said(&error))?);
        }
        let verifier = verifier(
            &config,
            self.shared.issuer.as_deref(),
            &self.clock,
            &self.metrics,
            Some(self.shared.gateway.verifier()),
        )
        .map_err(|error| said(&error))?;
        if timeout(KEYS_PATIENCE, wait_for_keys(&verifier)).await.is_err() {
            return Err(format!("a provider has not published its keys within {} s", KEYS_PATIENCE.as_secs()));
        }
        let users_file = config.issuer.as_ref().and_then(|issuer| issuer.users_file.clone());
        let (issuer, departed) = match (&self.shared.issuer, config.issuer) {
            (Some(issuer), Some(config)) => {
                let (issuer, departed) = issuer.reconfigure(config).await.map_err(|error| said(&error))?;
                (Some(issuer), departed)
            }
            (before, _) => (before.clone(), Vec::new()),
        };
        let gateway = Arc::new(Gateway::new(
            config.gateway,
            (verifier, self.proofs.clone()),
            (self.revocations.clone(), self.freshness.clone()),
            (self.clock.clone(), self.metrics.clone()),
            self.demo,
            config.log.requests,
            Some(&self.shared.gateway),
        ));

        // From here on it is the new one that counts.
        let form_timeout = 2 * config.server.limits.body_timeout;
        let shared = Shared { gateway, issuer, form_timeout };
        if let (Some(current), Some(issuer)) = (&self.issuer, &shared.issuer) {
            current.replace(issuer.clone());
        }
        self.admin_token.store(config.admin.token.map(Arc::new));
        self.fronts.replace(shared.clone()).await;
        self.shared.gateway.retire(&shared.gateway);
        if let Err(error) = self.server.replace(listeners, config.server.limits) {
            tracing::error!(%error, "a listener could not be opened, though its address is there");
        }
        self.tended = Tended::start(&shared, users_file, &self.server.listeners(), &self.metrics, Some(departed));
        (self.shared, self.watched, self.fixed) = (shared, watched, fixed);
        self.audit.tell(Event::Reloaded, Facts::default());
        Ok(shown)
    }
}

/// A line for each part that is not as it was, and cannot be changed while the process runs.
fn fixed_that_differ(path: &Path, before: &[Fixed], now: &[Fixed]) -> String {
    let differ = before.iter().zip(now).filter(|(before, now)| before.fingerprint != now.fingerprint);
    let lines = differ.map(|(_, now)| {
        let place = now.at.map(|at| format!(":{}:{}", at.line, at.column)).unwrap_or_default();
        format!("{}{place}: {}: cannot change while Sidegate runs; restart it to have that", path.display(), now.path)
    });
    lines.collect::<Vec<_>>().join("\n")
}
