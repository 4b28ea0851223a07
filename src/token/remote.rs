//! Keys that a provider publishes: fetched before the first request, refreshed behind the requests' back, and once more when a
//! token names a key that is not among them.
//!
//! However many tokens name such keys, a provider is asked no more often than its cool-down allows, by one task. When it does
//! not answer, the keys that it had serve on.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::rand;
use moka::sync::Cache;
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, sleep_until, timeout},
};

use super::{
    keys::{KeyError, KeySet},
    live::LiveKeys,
    provider::{Fetch, Location, OnStale, OnStart},
};
use crate::{
    client::{Client, FetchError},
    clock::Clock,
    telemetry::KeyMetrics,
    types::IssuerUrl,
};

/// The largest document that is read, in bytes.
const MAX_DOCUMENT: usize = 1 << 20;
/// The first pause after a fetch that failed, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How many names of keys that do not exist are remembered.
const MAX_UNKNOWN: u64 = 1024;
/// For how many cool-downs.
const UNKNOWN_COOLDOWNS: u32 = 6;

/// A provider's published keys.
#[derive(Debug)]
pub struct Remote {
    name: Arc<str>,
    issuer: IssuerUrl,
    fetch: Fetch,
    client: Client,
    keys: Arc<LiveKeys>,
    clock: Clock,
    metrics: KeyMetrics,
    /// Somebody wants the keys to be looked at again.
    wanted: Notify,
    /// Whether they can be: a fetch is under way, or the cool-down is over.
    open: AtomicBool,
    /// Tells those who wait.
    ended: watch::Sender<Ended>,
    /// Names that were looked for in vain.
    unknown: Cache<Box<str>, ()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ended {
    /// How many fetches have ended.
    fetches: u64,
    /// How many wishes for one came too early.
    refusals: u64,
}

/// Keys that are fetched for as long as somebody holds this.
#[derive(Debug)]
pub struct Fetching {
    remote: Arc<Remote>,
    task: AbortHandle,
}

impl Fetching {
    /// The keys.
    pub fn remote(&self) -> &Arc<Remote> {
        &self.remote
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why there are no new keys.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Fetch(#[from] FetchError),
    #[error("{0}")]
    Discovery(&'static str),
    #[error("{0}")]
    Keys(#[from] KeyError),
}

impl Failure {
    const fn result(&self) -> &'static str {
        match self {
            Self::Fetch(error) => error.result(),
            Self::Discovery(_) => "bad_discovery",
            Self::Keys(_) => "bad_keys",
        }
    }
}

/// Why keys are looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Age,
    Token,
}

/// What the task that fetches knows.
#[derive(Default)]
struct Progress {
    /// Where the keys are, if that had to be found out.
    discovered: Option<String>,
    /// How many fetches have failed in a row.
    failures: u32,
    /// When one succeeded last.
    fresh: Option<Instant>,
    /// What could not be used of the latest set.
    skipped: Vec<KeyError>,
}

impl Remote {
    /// Fetches nothing yet.
    pub fn new(
        name: &Arc<str>,
        issuer: &IssuerUrl,
        fetch: Fetch,
        client: Client,
        clock: Clock,
        metrics: KeyMetrics,
    ) -> Arc<Self> {
        let remembered = (fetch.cooldown * UNKNOWN_COOLDOWNS).max(Duration::from_secs(1));
        Arc::new(Self {
            name: name.clone(),
            issuer: issuer.clone(),
            fetch,
            client,
            keys: LiveKeys::missing(),
            clock,
            metrics,
            wanted: Notify::new(),
            open: AtomicBool::new(true),
            ended: watch::Sender::default(),
            unknown: Cache::builder().max_capacity(MAX_UNKNOWN).time_to_live(remembered).build(),
        })
    }

    /// The keys.
    pub fn keys(&self) -> &Arc<LiveKeys> {
        &self.keys
    }

    /// What happens before there are keys.
    pub fn on_start(&self) -> OnStart {
        self.fetch.on_start
    }

    /// Waits until there are keys.
    pub async fn loaded(&self) {
        let mut ended = self.ended.subscribe();
        while self.keys.load().set.is_none() {
            // Its sender is ours.
            let _ = ended.changed().await;
        }
    }

    /// Waits until it has been tried to get keys.
    pub async fn tried(&self) {
        let mut ended = self.ended.subscribe();
        // As above.
        let _ = ended.wait_for(|ended| ended.fetches > 0).await;
    }

    /// A token names a key that was not there. Has the provider asked once more, if that is allowed now; answers whether
    /// another look is worth it.
    pub async fn look_again(&self, kid: &str) -> bool {
        let is_there = || self.keys.load().set.as_ref().is_some_and(|set| set.has(kid));
        if is_there() {
            return true;
        }
        if !self.open.load(Ordering::Acquire) || self.unknown.contains_key(kid) {
            return false;
        }
        let mut ended = self.ended.subscribe();
        let fetches = ended.borrow_and_update().fetches;
        self.wanted.notify_one();
        let waited = timeout(self.fetch.timeout, ended.changed()).await;
        let fetched = waited.is_ok() && ended.borrow().fetches != fetches;
        // A look that ended just before this one began to wait counts as well.
        let found = is_there();
        if fetched && !found {
            self.unknown.insert(kid.into(), ());
        }
        fetched || found
    }

    /// Begins to fetch, on the runtime this is called in.
    pub fn start(self: Arc<Self>) -> Arc<Fetching> {
        let task = tokio::spawn(self.clone().run()).abort_handle();
        Arc::new(Fetching { remote: self, task })
    }

    async fn run(self: Arc<Self>) {
        let mut progress = Progress::default();
        // When a token may cause a look.
        let mut closed_until = Instant::now();
        loop {
            // Whoever wants a look now waits for this one.
            self.open.store(true, Ordering::Release);
            let fresh_for = self.refresh(&mut progress).await;
            self.open.store(Instant::now() >= closed_until, Ordering::Release);
            self.ended.send_modify(|ended| ended.fetches += 1);
            let due = Instant::now() + self.pause(&progress, fresh_for);
            if self.wait(due, closed_until).await == Cause::Token {
                closed_until = Instant::now() + self.fetch.cooldown;
            }
        }
    }

    /// Waits until it is time to fetch again, or somebody wants it and it may be.
    async fn wait(&self, due: Instant, closed_until: Instant) -> Cause {
        loop {
            tokio::select! {
                () = sleep_until(due) => return Cause::Age,
                () = sleep_until(closed_until), if !self.open.load(Ordering::Acquire) => {
                    self.open.store(true, Ordering::Release);
                }
                () = self.wanted.notified() => {
                    if Instant::now() >= closed_until {
                        return Cause::Token;
                    }
                    // Too early: nobody needs to wait for more.
                    self.ended.send_modify(|ended| ended.refusals += 1);
                }
            }
        }
    }

    /// How long the keys serve before they are looked at again. Not all proxies at the same moment.
    fn pause(&self, progress: &Progress, fresh_for: Option<Duration>) -> Duration {
        let (least, most) = self.fetch.refresh;
        match progress.failures {
            0 => {
                let pause = fresh_for.unwrap_or(self.fetch.unless_said).clamp(least, most);
                pause - pause.mul_f64(random() / 10.0)
            }
            failures => {
                let pause = (PAUSES.0 * (1 << failures.min(6))).min(PAUSES.1).min(most);
                pause.mul_f64(0.5 + random() / 2.0)
            }
        }
    }

    async fn refresh(&self, progress: &mut Progress) -> Option<Duration> {
        match self.ask(progress).await {
            Ok(fresh_for) => {
                if progress.failures > 0 {
                    tracing::info!(provider = %self.name, "the keys can be fetched again");
                }
                (progress.failures, progress.fresh) = (0, Some(Instant::now()));
                fresh_for
            }
            Err(failure) => {
                self.metrics.not_fetched(failure.result());
                progress.failures = progress.failures.saturating_add(1);
                // They may have moved.
                progress.discovered = None;
                let serving = self.keys.load().set.is_some();
                tracing::warn!(provider = %self.name, %failure, failures = progress.failures, serving, "the keys cannot be fetched");
                let stale = progress.fresh.is_some_and(|fresh| fresh.elapsed() >= self.fetch.max_stale);
                if serving && stale && self.fetch.on_stale == OnStale::Refuse {
                    tracing::error!(provider = %self.name, "the keys are too old; its tokens are refused until there are others");
                    self.keys.forget();
                    self.metrics.keys(0);
                }
                None
            }
        }
    }

    async fn ask(&self, progress: &mut Progress) -> Result<Option<Duration>, Failure> {
        let url = match (&self.fetch.location, &progress.discovered) {
            (Location::Jwks(url), _) | (Location::Discovery, Some(url)) => url.clone(),
            (Location::Discovery, None) => progress.discovered.insert(self.discover().await?).clone(),
        };
        let document = self.client.get(&url, MAX_DOCUMENT).await?;
        let text = std::str::from_utf8(&document.body).map_err(|_| KeyError("no JWK Set: not UTF-8".into()))?;
        let known = self.keys.load().set.clone().unwrap_or_default();
        let (set, skipped) = known.followed_by_published(text)?;
        let (keys, unusable) = (set.len(), skipped.len());
        if skipped != progress.skipped {
            for why in &skipped {
                tracing::warn!(provider = %self.name, "a key is not used: {why}");
            }
            progress.skipped = skipped;
        }
        if !set.is_same(&known) {
            let names = |set: &KeySet| set.names().map(str::to_owned).collect::<BTreeSet<_>>();
            let (before, after) = (names(&known), names(&set));
            let added: Vec<_> = after.difference(&before).take(10).collect();
            let removed: Vec<_> = before.difference(&after).take(10).collect();
            tracing::info!(provider = %self.name, keys = set.len(), ?added, ?removed, "the keys have changed");
            self.keys.replace(set);
        }
        self.metrics.keys(keys);
        self.metrics.fetched(self.clock.now(), unusable);
        Ok(document.fresh_for)
    }

    /// Where the keys are: by OpenID Connect Discovery §4, or by RFC 8414 §3.
    async fn discover(&self) -> Result<String, Failure> {
        let [openid, oauth] = metadata_urls(self.issuer.as_str()).ok_or(Failure::Discovery("the issuer is no URL"))?;
        let document = match self.client.get(&openid, MAX_DOCUMENT).await {
            Err(FetchError::Status(_)) => self.client.get(&oauth, MAX_DOCUMENT).await?,
            other => other?,
        };
        #[derive(serde::Deserialize)]
        struct Metadata {
            issuer: String,
            jwks_uri: String,
        }
        let metadata: Metadata = serde_json::from_slice(&document.body)
            .map_err(|_| Failure::Discovery("its metadata are not JSON with an \"issuer\" and a \"jwks_uri\""))?;
        // RFC 8414 §3.3: exactly the same, or the document is somebody else's.
        if metadata.issuer != self.issuer.as_str() {
            return Err(Failure::Discovery("its metadata are of another issuer"));
        }
        // What came over TLS must not lead to what did not.
        let allowed = |scheme| metadata.jwks_uri.starts_with(scheme);
        if !allowed("https://") && (openid.starts_with("https://") || !allowed("http://")) {
            return Err(Failure::Discovery("its \"jwks_uri\" does not begin with https://"));
        }
        Ok(metadata.jwks_uri)
    }
}

/// Where an issuer's metadata are; the second by RFC 8414, which puts the well-known name before the issuer's path.
fn metadata_urls(issuer: &str) -> Option<[String; 2]> {
    let issuer = issuer.strip_suffix('/').unwrap_or(issuer);
    let host = issuer.find("://")? + 3;
    let path = issuer[host..].find('/').map_or(issuer.len(), |n| host + n);
    let (origin, path) = issuer.split_at(path);
    Some([
        format!("{issuer}/.well-known/openid-configuration"),
        format!("{origin}/.well-known/oauth-authorization-server{path}"),
    ])
}

/// From 0 up to 1. Where the system has none to give, 0 is as good.
fn random() -> f64 {
    let mut bytes = [0; 4];
    let _ = rand::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}
