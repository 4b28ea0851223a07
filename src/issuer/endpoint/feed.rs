//! The revocation log for other processes: what is live, then what is added, then a beat every second, in one answer that
//! goes on (`revocation/wire.rs` has its lines).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{method_not_allowed, visitor};
use crate::{
    clock::Clock,
    issuer::{Issuer, error::refusal},
    revocation::wire::{Beat, Hello, Line, WireEntry},
    store::{Revocation, Store, Tail},
    telemetry::{
        FeedMetrics,
        audit::{Event, Facts},
    },
    types::{IssuerUrl, Position},
};

/// How many processes may follow.
const MAX_FOLLOWERS: usize = 1024;
/// How many pieces may wait for a follower that reads slowly.
const PIECES: usize = 4;
/// How many entries are in one piece.
const PAGE: usize = 512;
/// How often it is said that nothing more has come.
const BEAT: Duration = Duration::from_secs(1);
/// How long one answer lasts: clocks that only go forward go apart, and followers are to be spread anew.
const LIFETIME: Duration = Duration::from_secs(600);

/// Those that follow.
pub(in crate::issuer) struct Feeds {
    places: Arc<Semaphore>,
    dismissed: watch::Sender<bool>,
    /// The clock of beats.
    started: Instant,
    metrics: FeedMetrics,
}

impl Feeds {
    pub(in crate::issuer) fn new(metrics: FeedMetrics) -> Self {
        let places = Arc::new(Semaphore::new(MAX_FOLLOWERS));
        Self { places, dismissed: watch::Sender::new(false), started: Instant::now(), metrics }
    }

    pub(in crate::issuer) fn dismiss(&self) {
        self.dismissed.send_replace(true);
    }
}

/// Begins an answer: what is put into the channel goes to who follows.
pub(in crate::issuer) fn answer(
    issuer: &Issuer,
    request: &Request<Bytes>,
) -> Result<mpsc::Receiver<Bytes>, Box<Response<Bytes>>> {
    if request.method() != Method::GET {
        return Err(method_not_allowed("GET").into());
    }
    let credential = issuer.config.feed_credential.as_ref();
    if !credential.is_some_and(|credential| credential.is_shown_in(request.headers())) {
        let visitor = visitor(request);
        let facts = Facts { error: Some("invalid_token"), ..Facts::from(&visitor) };
        issuer.audit.tell(Event::FollowerRefused, facts);
        let why = "Show the credential of the revocation feed as a bearer token.";
        let mut response = refusal(StatusCode::UNAUTHORIZED, "invalid_token", why);
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return Err(response.into());
    }
    let feeds = &issuer.feeds;
    let Ok(place) = feeds.places.clone().try_acquire_owned() else {
        let why = "Too many follow already.";
        return Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", why).into());
    };
    let store = issuer.ledger.store().clone();
    let now = store.tail().position();
    let asked = request.uri().query().and_then(|query| {
        form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "after").and_then(|(_, at)| at.parse().ok())
    });
    let (pieces, answer) = mpsc::channel(PIECES);
    let mut follower = Follower {
        tail: store.tail().clone(),
        store,
        issuer: issuer.config.url.clone(),
        clock: issuer.clock.clone(),
        started: feeds.started,
        said: 0,
        read: 0,
        life: now.life,
        pieces,
    };
    let (mut dismissed, counted) = (feeds.dismissed.subscribe(), feeds.metrics.follower());
    tokio::spawn(async move {
        let (_place, _counted) = (place, counted);
        // Who comes from another life of the log, or from further on than it has got, has to hear all of it.
        if let Some(Position { life, number }) = asked
            && life == follower.life
            && follower.gets_to(number).await
        {
            (follower.said, follower.read) = (number, number);
        }
        tokio::select! {
            // Whoever does not listen any more is noticed by the next beat.
            _ = follower.serve() => {}
            _ = dismissed.wait_for(|dismissed| *dismissed) => {}
            () = sleep(LIFETIME) => {}
        }
    });
    Ok(answer)
}

/// How long it may take until what others have added to a shared log is read here.
const READ_WITHIN: Duration = Duration::from_secs(1);

/// One that follows.
struct Follower {
    tail: Arc<Tail>,
    store: Store,
    issuer: IssuerUrl,
    clock: Clock,
    started: Instant,
    life: u64,
    /// The number of the last line that was said.
    said: u64,
    /// Up to where the log has been read.
    read: u64,
    pieces: mpsc::Sender<Bytes>,
}

/// It has gone, or the log cannot be read.
struct Gone;

impl Follower {
    async fn serve(mut self) -> Result<(), Gone> {
        let mut head = self.tail.head();
        let hello = Hello::new(
            self.issuer.clone(),
            Position { life: self.life, number: self.said },
            self.now(),
            self.clock.now(),
        );
        self.say(|out| Line::Hello(hello).write(out)).await?;
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = beat.tick() => {
                    // Read before the log is: what was acknowledged before this moment comes before the beat.
                    let clock = self.known_up_to();
                    self.tell().await?;
                    let beat = Beat { prev: std::mem::replace(&mut self.said, self.read), n: self.read, clock };
                    self.say(|out| Line::Beat(beat).write(out)).await?;
                }
                changed = head.changed() => {
                    changed.map_err(|_| Gone)?;
                    self.tell().await?;
                }
            }
        }
    }

    /// Whether the log has got to that number. Where others add to it as well, they may have told of what is read here in a
    /// moment.
    async fn gets_to(&self, number: u64) -> bool {
        let mut head = self.tail.head();
        let got = timeout(READ_WITHIN, head.wait_for(|head| head.number >= number));
        self.tail.position().number >= number || self.tail.is_shared() && matches!(got.await, Ok(Ok(_)))
    }

    /// Tells all that the log has further on.
    async fn tell(&mut self) -> Result<(), Gone> {
        loop {
            let head = self.tail.position().number;
            let page: Vec<Arc<Revocation>> = match self.tail.after(self.read, PAGE) {
                Some(page) => page,
                None => {
                    let page = self.store.revocations(self.read, PAGE).await.map_err(|_| Gone)?;
                    page.into_iter().map(Arc::new).collect()
                }
            };
            let Some(last) = page.last().map(|last| last.number) else {
                // What lies between has expired.
                self.read = self.read.max(head);
                return Ok(());
            };
            let mut said = self.said;
            self.say(|out| {
                for entry in &page {
                    Line::Entry(WireEntry::of(said, entry)).write(out);
                    said = entry.number;
                }
            })
            .await?;
            (self.said, self.read) = (last, last);
        }
    }

    async fn say(&self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Gone> {
        let mut piece = Vec::with_capacity(256);
        write(&mut piece);
        self.pieces.send(piece.into()).await.map_err(|_| Gone)
    }

    /// Up to when the log is known here, on the clock of beats.
    fn known_up_to(&self) -> u64 {
        let since = self.tail.as_of().saturating_duration_since(self.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
