//! Sessions whose refresh tokens are refused before the store is asked.

use std::time::{Duration, Instant};

use moka::{Expiry, policy::EvictionPolicy, sync::Cache};

use crate::{
    clock::{Clock, Timestamp},
    types::SessionId,
};

/// How many sessions are remembered. What falls out costs a look-up in the store, whose own row says the same.
const CAPACITY: u64 = 100_000;

/// The blacklist of refresh tokens, by session: a bounded cache in front of the store's rows.
///
/// A hit is always true, for a session that was revoked stays so. A miss says nothing.
#[derive(Clone, Debug)]
pub struct Blacklist(Cache<SessionId, Timestamp>);

impl Blacklist {
    /// An empty one.
    pub fn new(clock: Clock) -> Self {
        let cache = Cache::builder()
            .max_capacity(CAPACITY)
            // The default policy weighs a newcomer against those that are asked for often, and would keep it out of a
            // full cache. The latest revocation is the one whose token is about to be presented.
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(UntilPresentable(clock))
            .build();
        Self(cache)
    }

    /// Refuses the session's refresh tokens until `refresh_until`, when the last of them could have been presented.
    pub fn insert(&self, session: SessionId, refresh_until: Timestamp) {
        self.0.insert(session, refresh_until);
    }

    /// Whether the session is known to have been revoked. Not `get`, which records each read on one channel.
    pub fn contains(&self, session: SessionId) -> bool {
        self.0.contains_key(&session)
    }
}

/// Lets each entry go when nothing is left for it to refuse.
struct UntilPresentable(Clock);

impl UntilPresentable {
    fn remaining(&self, until: Timestamp) -> Duration {
        until.since(self.0.now()).unwrap_or_default()
    }
}

impl Expiry<SessionId, Timestamp> for UntilPresentable {
    fn expire_after_create(&self, _: &SessionId, until: &Timestamp, _: Instant) -> Option<Duration> {
        Some(self.remaining(*until))
    }

    fn expire_after_update(
        &self,
        _: &SessionId,
        until: &Timestamp,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(self.remaining(*until))
    }
}
