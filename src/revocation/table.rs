//! Revoked access tokens: exact, unbounded, looked at without a store.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;

use super::{
    epochs::{Epoch, Epochs},
    exact::{Exact, Mark},
    name::Name,
};
use crate::{
    clock::Timestamp,
    store::{Revocation, Revoked},
    telemetry::Metrics,
    types::{Credential, IssuerUrl, Position},
};

/// Every live revocation of access tokens, by issuer.
///
/// A writer inserts, then moves one generation number on (Release). A request loads that number (Acquire) before it
/// looks, and need not look again at a token until the number has moved. The locks are plain ones: nobody holds one for
/// longer than a look-up, an insertion or a step of a sweep, and never across an await.
#[derive(Debug)]
pub struct Revocations {
    issuers: ArcSwap<Vec<(IssuerUrl, Arc<Table>)>>,
    /// One at a time adds an issuer, or begins another life.
    changing: Mutex<()>,
    /// The log's latest life that was heard of.
    life: AtomicU64,
    generation: AtomicU64,
    /// What time has passed in this process, for a wall clock that is set forward.
    started: Instant,
    first_seen: AtomicU64,
    /// With how many entries somebody should look at it, and whether that has been said.
    alarm: usize,
    alarmed: AtomicBool,
}

/// How many entries there are, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// In the order of [`Revoked::KINDS`].
    pub entries: [usize; 6],
    /// About how many bytes they take.
    pub bytes: usize,
}

/// An entry as memory holds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its number in the log; 0 where that was a log of before.
    pub number: u64,
    /// The log's life.
    pub life: u64,
    /// Whose tokens it is about.
    pub issuer: IssuerUrl,
    /// What is refused.
    pub what: Revoked,
    /// When it goes.
    pub until: Timestamp,
    /// When it was made; `None` where that is not kept.
    pub at: Option<Timestamp>,
    /// Whether it is an epoch of the issuer that keeps the log, whose tokens say where that stood when they began.
    pub by_position: bool,
    /// Whether it takes back what came before it.
    pub lifts: bool,
}

/// The entries about one issuer's tokens.
#[derive(Debug, Default)]
struct Table {
    tokens: Exact,
    sessions: Exact,
    epochs: RwLock<Epochs>,
    /// How many epochs there are, so that nobody takes the lock for none.
    epoch_count: AtomicUsize,
}

impl Default for Revocations {
    fn default() -> Self {
        Self {
            issuers: ArcSwap::default(),
            changing: Mutex::default(),
            life: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            started: Instant::now(),
            first_seen: AtomicU64::new(u64::MAX),
            alarm: usize::MAX,
            alarmed: AtomicBool::new(false),
        }
    }
}

impl Revocations {
    /// An empty table, which raises an alarm when it has more entries than that. It goes on to take them.
    pub fn with_alarm(alarm: usize) -> Self {
        Self { alarm, ..Self::default() }
    }

    /// Says in the metrics how large it is, and in the log when it has become too large.
    pub fn report(&self, metrics: &Metrics) {
        let Sizes { entries, bytes } = self.sizes();
        let all: usize = entries.iter().sum();
        let alarm = all > self.alarm;
        metrics.revocation_table(&Revoked::KINDS, &entries, bytes, alarm);
        if alarm && !self.alarmed.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                entries = all,
                bytes,
                "more is revoked than tokens.revocations_alarm has; nothing is forgotten"
            );
        } else if !alarm {
            self.alarmed.store(false, Ordering::Relaxed);
        }
    }

    /// Refuses from now on what an entry of the log names, or no longer. `own` is the issuer that keeps the log, and `life`
    /// the log's life. A second entry for the same thing can only make it last longer; one that comes before what lifted
    /// it changes nothing, however late it arrives.
    pub fn insert(&self, own: &IssuerUrl, life: u64, revocation: &Revocation) {
        let Revocation { number, at, what, until, lifts, .. } = revocation;
        let ours = revocation.issuer.as_ref().is_none_or(|issuer| issuer == own);
        self.put(&Entry {
            number: *number,
            issuer: revocation.issuer.as_ref().unwrap_or(own).clone(),
            what: what.clone(),
            until: *until,
            at: Some(*at),
            life,
            by_position: ours,
            lifts: *lifts,
        });
    }

    /// Takes an entry as another process, or an earlier one, held it.
    pub fn put(&self, entry: &Entry) {
        let known = self.life.load(Ordering::Acquire);
        if entry.life > known {
            self.begin_life(entry.life);
        }
        if entry.life >= known {
            self.table(&entry.issuer).put(entry, entry.number);
        } else if !entry.lifts {
            // Of a log that is gone: it blocks what it blocked, and nothing of the log of today came before it.
            self.table(&entry.issuer).put(entry, 0);
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// A number that moves with every insertion. Load it before [`Revocations::is_revoked`], and keep the answer for as
    /// long as it has not moved.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether a token has been revoked: by itself, with its session or its key, or by an epoch it began before.
    pub fn is_revoked(&self, token: &Credential<'_>) -> bool {
        let issuers = self.issuers.load();
        issuers.iter().find(|(issuer, _)| issuer == token.issuer).is_some_and(|(_, table)| table.is_revoked(token))
    }

    /// Whether there is an entry of that name about `issuer`'s tokens, of an exact kind.
    pub fn has(&self, issuer: &IssuerUrl, what: &Revoked) -> bool {
        let issuers = self.issuers.load();
        let Some((_, table)) = issuers.iter().find(|(known, _)| known == issuer) else { return false };
        match what {
            Revoked::Token(id) => table.tokens.has(id),
            Revoked::Session(id) => table.sessions.has(id),
            other => table.read().find(other).is_some(),
        }
    }

    /// How many entries there are, those included that the next sweep takes.
    pub fn sizes(&self) -> Sizes {
        let mut sizes = Sizes::default();
        for (_, table) in self.issuers.load().iter() {
            for (n, exact) in [&table.tokens, &table.sessions].into_iter().enumerate() {
                sizes.entries[n] += exact.len();
                sizes.bytes += exact.bytes();
            }
            let (epochs, bytes) = table.read().sizes();
            sizes.entries.iter_mut().skip(2).zip(epochs).for_each(|(sum, more)| *sum += more);
            sizes.bytes += bytes;
        }
        sizes
    }

    /// Forgets the entries whose last token has expired, a part at a time, so that requests get their turn in between. No
    /// generation moves: what such an entry blocked is refused by its expiry.
    ///
    /// A clock that is set forward does not count before as much time has passed, for it may be set back again.
    pub fn sweep(&self, now: Timestamp) {
        let first = self.first_seen.fetch_min(now.0, Ordering::Relaxed).min(now.0);
        let passed = Timestamp(first) + self.started.elapsed() + SLACK;
        let now = now.min(passed);
        for (_, table) in self.issuers.load().iter() {
            table.tokens.sweep(now);
            table.sessions.sweep(now);
            let mut epochs = table.write();
            epochs.sweep(now);
            table.epoch_count.store(epochs.len(), Ordering::Release);
        }
    }

    /// Up to `limit` entries after the one of that number, in their order; they are looked for among all.
    pub fn list(&self, after: u64, limit: usize) -> Vec<Entry> {
        let mut found = std::collections::BinaryHeap::new();
        self.for_each(&mut |entry| {
            if entry.number > after {
                found.push(entry);
                if found.len() > limit {
                    found.pop();
                }
            }
        });
        found.into_sorted_vec()
    }

    /// Calls `take` with every entry, in no order. What is inserted meanwhile may be among them.
    pub fn for_each(&self, take: &mut impl FnMut(Entry)) {
        for (issuer, table) in self.issuers.load().iter() {
            let life = self.life.load(Ordering::Acquire);
            let exact = |what, mark: Mark| Entry {
                number: mark.number,
                life,
                issuer: issuer.clone(),
                what,
                until: mark.until,
                at: None,
                by_position: false,
                lifts: false,
            };
            table.tokens.for_each(&mut |name, mark| take(exact(Revoked::Token(name), mark)));
            table.sessions.for_each(&mut |name, mark| take(exact(Revoked::Session(name), mark)));
            table.read().for_each(issuer, life, take);
        }
    }

    /// The log has begun anew, with its first number. What is known stays; nothing of it is later than what comes now.
    fn begin_life(&self, life: u64) {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, table) in self.issuers.load().iter() {
            table.tokens.forget_numbers();
            table.sessions.forget_numbers();
            let mut epochs = table.write();
            epochs.forget_lifts();
            table.epoch_count.store(epochs.len(), Ordering::Release);
        }
        self.life.store(life, Ordering::Release);
    }

    fn table(&self, issuer: &IssuerUrl) -> Arc<Table> {
        let find = || self.issuers.load().iter().find(|(known, _)| known == issuer).map(|(_, table)| table.clone());
        if let Some(table) = find() {
            return table;
        }
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        find().unwrap_or_else(|| {
            let table = Arc::new(Table::default());
            let mut issuers = Vec::clone(&self.issuers.load());
            issuers.push((issuer.clone(), table.clone()));
            self.issuers.store(Arc::new(issuers));
            table
        })
    }
}

/// How much further than the time that has passed a wall clock may be, when it is believed.
const SLACK: std::time::Duration = std::time::Duration::from_secs(5);

impl Table {
    fn put(&self, entry: &Entry, number: u64) {
        let exact = match &entry.what {
            Revoked::Token(id) => Some((&self.tokens, id)),
            Revoked::Session(id) => Some((&self.sessions, id)),
            Revoked::Key(_) | Revoked::Subject(_) | Revoked::Client(_) | Revoked::Everything => None,
        };
        let until = entry.until;
        if let (false, Some((exact, id))) = (entry.lifts, exact) {
            // The common way: nothing is lifted. Nobody lifts it meanwhile, for the lock is held.
            let epochs = self.read();
            if epochs.has_lifted_nothing() {
                return exact.insert(Name::new(id), Mark { number, until });
            }
        }
        let mut epochs = self.write();
        if entry.lifts {
            if let Some((exact, id)) = exact {
                exact.lift(&Name::new(id), number);
            }
            epochs.lift(&entry.what, Position { life: entry.life, number }, until);
        } else if epochs.lifted_at(&entry.what).is_none_or(|lifted| lifted < number) {
            match exact {
                Some((exact, id)) => exact.insert(Name::new(id), Mark { number, until }),
                None => {
                    let position = Position { life: entry.life, number: entry.number };
                    let (at, by_position) = (entry.at.unwrap_or_default(), entry.by_position);
                    epochs.insert(&entry.what, Epoch { position, until, at, by_position });
                }
            }
        }
        self.epoch_count.store(epochs.len(), Ordering::Release);
    }

    fn is_revoked(&self, token: &Credential<'_>) -> bool {
        token.session.is_some_and(|sid| self.sessions.has(sid))
            || token.token.is_some_and(|jti| self.tokens.has(jti))
            || (self.epoch_count.load(Ordering::Acquire) > 0 && self.read().refuse(token))
    }

    // A panic while a lock was held leaves an entry too many at the worst. To refuse to look would stop every request.
    fn read(&self) -> RwLockReadGuard<'_, Epochs> {
        self.epochs.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Epochs> {
        self.epochs.write().unwrap_or_else(PoisonError::into_inner)
    }
}
