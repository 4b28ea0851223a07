//! Revoked access tokens: exact, unbounded, looked at without a store.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    clock::Timestamp,
    store::{Revocation, Revoked},
    types::IssuerUrl,
};

/// How wide a bucket of the expiry index is, in milliseconds: a sweep takes whole ones.
const BUCKET: u64 = 60_000;

/// Every live revocation of access tokens, keyed by issuer, kind and identifier.
///
/// A writer inserts, then moves one generation number on (Release). A request loads that number (Acquire) before it
/// looks, and need not look again at a token until the number has moved. The lock is a plain one: nobody holds it for
/// longer than a look-up or one insertion, and never across an await.
#[derive(Debug, Default)]
pub struct Revocations {
    entries: RwLock<HashMap<IssuerUrl, Entries>>,
    generation: AtomicU64,
}

/// How many entries there are, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Revoked sessions.
    pub sessions: usize,
    /// Single revoked tokens.
    pub tokens: usize,
}

#[derive(Debug, Default)]
struct Entries {
    sessions: Kind,
    tokens: Kind,
}

/// The entries of one kind. Each text is held once, and shared by the two sides.
#[derive(Debug, Default)]
struct Kind {
    until: HashMap<Arc<str>, Timestamp>,
    buckets: BTreeMap<u64, Vec<Arc<str>>>,
}

impl Revocations {
    /// Refuses from now on what `revocation` names among the tokens of `issuer`. A second one for the same thing can
    /// only make it last longer.
    pub fn insert(&self, issuer: &IssuerUrl, revocation: &Revocation) {
        {
            let mut entries = self.write();
            let entries = match entries.get_mut(issuer) {
                Some(entries) => entries,
                None => entries.entry(issuer.clone()).or_default(),
            };
            match &revocation.what {
                Revoked::Session(id) => entries.sessions.insert(id.to_string().into(), revocation.until),
                Revoked::Token(jti) => entries.tokens.insert((**jti).into(), revocation.until),
            }
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// A number that moves with every insertion. Load it before [`Revocations::is_revoked`], and keep the answer for as
    /// long as it has not moved.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether a token of `issuer` with these claims has been revoked, by itself or with its session.
    pub fn is_revoked(&self, issuer: &IssuerUrl, sid: Option<&str>, jti: Option<&str>) -> bool {
        let entries = self.read();
        let Some(entries) = entries.get(issuer) else { return false };
        sid.is_some_and(|sid| entries.sessions.until.contains_key(sid))
            || jti.is_some_and(|jti| entries.tokens.until.contains_key(jti))
    }

    /// How many entries there are, those included that the next sweep takes.
    pub fn sizes(&self) -> Sizes {
        self.read().values().fold(Sizes::default(), |sum, entries| Sizes {
            sessions: sum.sessions + entries.sessions.until.len(),
            tokens: sum.tokens + entries.tokens.until.len(),
        })
    }

    /// Forgets the entries whose last token has expired, bucket by bucket, so that requests get their turn in between.
    /// No generation moves: what such an entry blocked is refused by its expiry.
    pub fn sweep(&self, now: Timestamp) {
        while self
            .write()
            .values_mut()
            .fold(false, |more, entries| entries.sessions.sweep_one(now) | entries.tokens.sweep_one(now) | more)
        {
        }
    }

    // A panic while the lock was held leaves an entry too few in the index at the worst: it blocks for longer. To refuse
    // to look would stop every request.
    fn read(&self) -> RwLockReadGuard<'_, HashMap<IssuerUrl, Entries>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<IssuerUrl, Entries>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kind {
    fn insert(&mut self, id: Arc<str>, until: Timestamp) {
        if self.until.get(&id).is_some_and(|known| *known >= until) {
            return;
        }
        self.buckets.entry(until.0 / BUCKET).or_default().push(id.clone());
        self.until.insert(id, until);
    }

    /// Takes the oldest bucket if all of it has expired; whether there was one.
    fn sweep_one(&mut self, now: Timestamp) -> bool {
        let Some(bucket) = self.buckets.first_entry().filter(|bucket| (bucket.key() + 1) * BUCKET <= now.0) else {
            return false;
        };
        for id in bucket.remove() {
            // An entry that was prolonged stands in a later bucket as well, and leaves with that one.
            if self.until.get(&id).is_some_and(|until| *until <= now) {
                self.until.remove(&id);
            }
        }
        true
    }
}
