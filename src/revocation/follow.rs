//! Following the revocation log that a gateway keeps: a snapshot, then what is added, then a beat every second, over one
//! answer that goes on.

use std::{
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Freshness, Revocations, snapshot,
    snapshot::Saved,
    wire::{Beat, Hello, Line, MAX_LINE, WireEntry},
};
use crate::{
    client::{Client, FetchError, Stream},
    clock::{Clock, Timestamp},
    telemetry::FeedMetrics,
    types::{IssuerUrl, Position, Secret},
};

/// A log to follow, as configured.
#[derive(Clone, Debug)]
pub struct FeedConfig {
    /// The gateways that keep it, or stand before who does; one after the other is asked.
    pub urls: Vec<String>,
    /// What they are shown.
    pub credential: Secret,
    /// Whom TLS to them trusts.
    pub tls: Arc<rustls::ClientConfig>,
    /// How old what is known may be before it is stale.
    pub max_staleness: Duration,
    /// Where what is known is kept for the next start.
    pub snapshot_file: Option<PathBuf>,
}

/// Keeps a table true to the log that a gateway keeps.
#[derive(Debug)]
pub struct Feed {
    config: FeedConfig,
    client: Client,
    revocations: Arc<Revocations>,
    freshness: Arc<Freshness>,
    clock: Clock,
    metrics: FeedMetrics,
    /// Whether all that is live has been heard, from whomever.
    loaded: watch::Sender<bool>,
    known: Mutex<Known>,
}

/// Up to where which log is known.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The issuer that keeps it.
    issuer: Option<IssuerUrl>,
    /// `None` where all of it has to be heard once more.
    position: Option<Position>,
}

/// Why a gateway is no longer listened to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Client(#[from] FetchError),
    #[error("it has not said anything for {} s", SILENCE.as_secs())]
    Silent,
    #[error("it said good-bye")]
    Closed,
    #[error("a line is damaged")]
    Damaged,
    #[error("a line is missing")]
    Gap,
    #[error("it does not speak as a Sidegate of this release does")]
    Foreign,
}

impl Ended {
    /// The name in metrics.
    const fn result(&self) -> &'static str {
        match self {
            Self::Client(FetchError::Status(401 | 403)) => "refused",
            Self::Client(error) => error.result(),
            Self::Silent => "timed_out",
            Self::Closed => "closed",
            Self::Damaged => "damaged",
            Self::Gap => "gap",
            Self::Foreign => "foreign",
        }
    }
}

/// How long the way to a gateway, and the head of its answer, may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a gateway that is listened to may be silent: it beats every second.
const SILENCE: Duration = Duration::from_secs(3);
/// How long it is waited before a gateway is asked again: at first, and at the most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How often it is looked whether the file has to be written; it takes a twentieth of the time at the most.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);

impl Feed {
    /// Takes what the file has, if there is one. Must be called within a runtime.
    ///
    /// # Errors
    /// When the system has no resolver, or TLS cannot be set up.
    pub fn new(
        config: FeedConfig,
        revocations: Arc<Revocations>,
        clock: Clock,
        metrics: FeedMetrics,
    ) -> Result<Arc<Self>, String> {
        let client = Client::streaming(&config.tls, PATIENCE)?;
        let freshness = Arc::new(Freshness::new(config.max_staleness));
        let (loaded, known) = (watch::Sender::new(false), Mutex::default());
        let feed = Self { config, client, revocations, freshness, clock, metrics, loaded, known };
        feed.load();
        Ok(Arc::new(feed))
    }

    /// How old what is known is.
    pub fn freshness(&self) -> &Arc<Freshness> {
        &self.freshness
    }

    /// Waits until all that is live has been heard, from a gateway or out of the file.
    pub async fn loaded(&self) {
        // It is never closed while it is asked.
        let _ = self.loaded.subscribe().wait_for(|loaded| *loaded).await;
    }

    /// Says in the metrics how old what is known is.
    pub fn report(&self) {
        self.metrics.age(self.freshness.age(), self.freshness.is_stale());
    }

    /// Follows for as long as it is polled.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(self.follow(), self.keep_file());
    }

    async fn follow(&self) {
        let (mut failures, mut complained) = (0, false);
        let mut urls = self.config.urls.iter().cycle();
        let mut url = urls.next();
        while let Some(asked) = url {
            let (ended, caught_up) = self.listen(asked, complained).await;
            self.metrics.connected(false);
            self.metrics.connection(ended.result());
            if let Ended::Gap | Ended::Damaged = ended {
                self.metrics.healed(ended.result());
                self.known().position = None;
            }
            // Who says good-bye is asked again at once, and is the same as before; any other end lets the next one try.
            let planned = caught_up && ended == Ended::Closed;
            if !planned {
                url = urls.next();
                if caught_up || !complained {
                    tracing::warn!(url = asked, cause = %ended, "the revocation feed is lost; what is known stays refused");
                }
            }
            (failures, complained) = if caught_up { (0, !planned) } else { (failures + 1, true) };
            sleep(pause(failures)).await;
        }
    }

    /// Listens to one gateway until that ends; says why, and whether everything live had been heard by then.
    async fn listen(&self, url: &str, complained: bool) -> (Ended, bool) {
        let mut caught_up = false;
        let ended = match self.hear(url, complained, &mut caught_up).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        };
        (ended, caught_up)
    }

    async fn hear(&self, url: &str, complained: bool, caught_up: &mut bool) -> Result<Infallible, Ended> {
        let asked = Instant::now();
        let mut lines = Lines { stream: self.open(url).await?, buffer: Vec::new(), read: 0 };
        let Line::Hello(hello) = lines.next().await? else { return Err(Ended::Foreign) };
        let began = hello.position().ok_or(Ended::Foreign)?;
        let ahead = self.begin(&hello, began, asked);
        loop {
            match lines.next().await? {
                Line::Entry(entry) => {
                    let at = entry.at;
                    self.take(entry, &hello, began.life)?;
                    if let (true, Some(at)) = (*caught_up, at) {
                        let after = self.clock.now().0 as f64 + ahead - at.0 as f64;
                        self.metrics.propagated(Duration::from_secs_f64(after.max(0.0) / 1000.0));
                    }
                }
                Line::Beat(beat) => {
                    self.beat(&beat, &hello, asked)?;
                    if !*caught_up {
                        *caught_up = true;
                        self.metrics.connection("ok");
                        self.metrics.connected(true);
                        if complained || began.number == 0 {
                            tracing::info!(url, number = beat.n, "following the revocation feed");
                        }
                    }
                }
                Line::Hello(_) => return Err(Ended::Foreign),
            }
        }
    }

    async fn open(&self, url: &str) -> Result<Stream, Ended> {
        let url = match self.known().position {
            Some(position) => format!("{url}{}after={position}", if url.contains('?') { '&' } else { '?' }),
            None => url.to_owned(),
        };
        let opening = self.client.open(&url, &self.config.credential);
        Ok(timeout(PATIENCE, opening).await.map_err(|_| Ended::Silent)??)
    }

    /// Learns where the gateway begins; answers by how many milliseconds its clock is ahead of ours.
    fn begin(&self, hello: &Hello, began: Position, asked: Instant) -> f64 {
        let mut known = self.known();
        match known.position {
            Some(position) if position.life != began.life => self.metrics.healed("new_life"),
            Some(position) if position != began => self.metrics.healed("rolled_back"),
            Some(_) | None => {}
        }
        *known = Known { issuer: Some(hello.issuer.clone()), position: Some(began) };
        drop(known);
        // It was said some time between the question and now.
        let said = self.clock.now().0 as f64 - asked.elapsed().as_millis() as f64 / 2.0;
        let ahead = hello.wall.0 as f64 - said;
        self.metrics.clock_offset(ahead / 1000.0);
        ahead
    }

    /// Puts an entry into the table.
    fn take(&self, entry: WireEntry, hello: &Hello, life: u64) -> Result<(), Ended> {
        let (prev, number) = (entry.prev, entry.n);
        let entry = entry.entry(&hello.issuer, life).ok_or(Ended::Damaged)?;
        self.step(prev, number, || self.revocations.put(&entry))
    }

    /// Everything live up to there has been said when the sender's clock showed that.
    fn beat(&self, beat: &Beat, hello: &Hello, asked: Instant) -> Result<(), Ended> {
        self.step(beat.prev, beat.n, || {})?;
        // The hello was said after it was asked for: so much later than the question, at the least, was the beat. However
        // long either lay on the way, this is never too late.
        self.freshness.known_up_to(asked + Duration::from_millis(beat.clock.saturating_sub(hello.clock)));
        self.loaded.send_if_modified(|loaded| !std::mem::replace(loaded, true));
        Ok(())
    }

    /// Goes on to a line's number, if nothing is missing before it.
    fn step(&self, prev: u64, number: u64, take: impl FnOnce()) -> Result<(), Ended> {
        let mut known = self.known();
        match &mut known.position {
            Some(position) if position.number == prev && number >= prev => {
                // In the table first: what is saved meanwhile must not claim more than it has.
                take();
                position.number = number;
                Ok(())
            }
            Some(_) | None => Err(Ended::Gap),
        }
    }

    fn load(&self) {
        let Some(path) = &self.config.snapshot_file else { return };
        let saved = match snapshot::load(path, &self.revocations) {
            Ok(Some(saved)) => saved,
            Ok(None) => return,
            Err(cause) => {
                let path = path.display();
                tracing::warn!(%path, cause, "the snapshot of revocations cannot be used; waiting for a gateway");
                return;
            }
        };
        let age = snapshot::age(&saved, self.clock.now());
        // Where the clock was set back, nobody knows how old it is: it stays stale until a gateway has spoken.
        if let Some(age) = age {
            self.freshness.known_since(age);
        }
        tracing::info!(
            path = %path.display(),
            age_seconds = age.map(|age| age.as_secs()),
            "revocations as they were saved; following the feed from there"
        );
        *self.known() = Known { issuer: Some(saved.issuer), position: Some(saved.position) };
        self.loaded.send_replace(true);
    }

    /// Writes the file whenever it has something to say.
    async fn keep_file(self: &Arc<Self>) {
        if self.config.snapshot_file.is_none() {
            return;
        }
        let mut rest = SAVE_INTERVAL;
        loop {
            sleep(rest).await;
            let (feed, started) = (self.clone(), Instant::now());
            // A panic there has been logged.
            let _ = tokio::task::spawn_blocking(move || feed.save()).await;
            rest = SAVE_INTERVAL.max(started.elapsed() * 20);
        }
    }

    /// Writes the file.
    pub fn save(&self) {
        let Some(path) = &self.config.snapshot_file else { return };
        let age = self.freshness.age();
        let Known { issuer: Some(issuer), position: Some(position) } = self.known().clone() else { return };
        let Some(age) = age.filter(|_| *self.loaded.borrow()) else { return };
        let as_of = Timestamp(self.clock.now().0.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)));
        match snapshot::save(path, &Saved { issuer, position, as_of }, &self.revocations) {
            Ok(entries) => tracing::debug!(entries, "the snapshot of revocations is written"),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the snapshot of revocations cannot be written")
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // It is replaced whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lines of an answer.
struct Lines {
    stream: Stream,
    buffer: Vec<u8>,
    /// How much of the buffer has been read.
    read: usize,
}

impl Lines {
    async fn next(&mut self) -> Result<Line, Ended> {
        loop {
            let unread = &self.buffer[self.read..];
            if let Some(end) = memchr::memchr(b'\n', unread) {
                let line = Line::read(&unread[..end]);
                self.read += end + 1;
                return line.ok_or(Ended::Damaged);
            }
            if unread.len() > MAX_LINE {
                return Err(Ended::Damaged);
            }
            self.buffer.drain(..self.read);
            self.read = 0;
            match timeout(SILENCE, self.stream.next()).await.map_err(|_| Ended::Silent)?? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None => return Err(Ended::Closed),
            }
        }
    }
}

/// How long to wait after so many failures in a row: some by chance, so that many do not come at once.
fn pause(failures: u32) -> Duration {
    let most = (BACKOFF.0 * 2_u32.saturating_pow(failures.min(10))).min(BACKOFF.1);
    let chance = f64::from(uuid::Uuid::now_v7().as_bytes()[15]) / 255.0;
    most.mul_f64(0.5 + chance / 2.0)
}
