//! How many requests come through in a time, by whom they are counted: shared by all workers, and looked at as soon as it
//! is known who is asking.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use governor::{
    Quota, RateLimiter,
    clock::MonotonicClock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{StateStore, keyed::ShrinkableKeyedStateStore},
};

use super::config::{By, RateLimit, Route};
use crate::{http::network_of, token::Identity};

/// The limits of all routes, in their order.
pub struct RateLimits {
    routes: Vec<Vec<Limit>>,
    /// Keys are kept as hashes: subjects are as long as their issuer likes. Nobody outside can make two of them meet.
    hasher: RandomState,
}

struct Limit {
    by: By,
    limiter: RateLimiter<u64, Table, MonotonicClock, NoOpMiddleware<Instant>>,
}

impl RateLimits {
    /// Begins with every allowance whole.
    pub fn new(routes: &[Route]) -> Self {
        let limits = |route: &Route| route.rate_limits.iter().filter_map(Limit::new).collect();
        Self { routes: routes.iter().map(limits).collect(), hasher: RandomState::new() }
    }

    /// Whether there is any limit at all.
    pub fn is_empty(&self) -> bool {
        self.routes.iter().all(Vec::is_empty)
    }

    /// Counts a request whose token has not been looked at: by route and by address.
    ///
    /// # Errors
    /// How long to wait, when an allowance is used up.
    pub fn count_anonymous(&self, route: usize, address: impl Fn() -> IpAddr) -> Result<(), Duration> {
        self.routes[route].iter().try_for_each(|limit| match limit.by {
            By::Route => limit.take(0),
            By::Address => limit.take(self.address_key(address())),
            By::Client | By::Subject => Ok(()),
        })
    }

    /// Counts a request that `identity` makes: by client and by subject. One that has neither is counted by its address,
    /// lest leaving the token away be a way round.
    ///
    /// # Errors
    /// How long to wait, when an allowance is used up.
    pub fn count_identified(
        &self,
        route: usize,
        identity: Option<&Identity>,
        address: impl Fn() -> IpAddr,
    ) -> Result<(), Duration> {
        self.routes[route].iter().try_for_each(|limit| {
            let name = match limit.by {
                By::Route | By::Address => return Ok(()),
                By::Client => identity.and_then(|who| Some((who, who.text("client_id").or_else(|| who.text("azp"))?))),
                By::Subject => identity.and_then(|who| Some((who, who.text("sub")?))),
            };
            // The same name is somebody else where another issuer gives it.
            limit.take(match name {
                Some((who, name)) => self.hasher.hash_one((who.issuer.as_str(), name)),
                None => self.address_key(address()),
            })
        })
    }

    fn address_key(&self, address: IpAddr) -> u64 {
        self.hasher.hash_one(network_of(address))
    }

    /// Forgets those whose allowance is whole again.
    pub fn prune(&self) {
        self.routes.iter().flatten().for_each(|limit| limit.limiter.retain_recent());
    }
}

impl Limit {
    /// `None` for a time that is too short to be parted among its requests, which the configuration has no room for.
    fn new(rule: &RateLimit) -> Option<Self> {
        let quota = Quota::with_period(rule.per / rule.requests.get())?.allow_burst(rule.burst);
        Some(Self { by: rule.by, limiter: RateLimiter::new(quota, Table::default(), MonotonicClock) })
    }

    fn take(&self, key: u64) -> Result<(), Duration> {
        self.limiter.check_key(&key).map_err(|not_until| not_until.wait_time_from(Instant::now()))
    }
}

/// So many keys have an allowance of their own in each limit, in 9 MiB at the most. Those who come while so many are
/// known share one: who has thousands of addresses gets no more by them than one allowance, and shuts out nobody who was
/// there before. They are told apart again as soon as others have rested.
const MAX_KEYS: usize = 1 << 18;
const SHARDS: usize = 16;

/// What each key has used. Every look at it is a few nanoseconds under a lock that nobody awaits anything with.
#[derive(Default)]
struct Table {
    shards: [Mutex<HashMap<u64, Nanos>>; SHARDS],
    crowd: Mutex<Option<Nanos>>,
}

/// A panic elsewhere leaves no count half written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StateStore for Table {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, count: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut known = lock(&self.shards[*key as usize % SHARDS]);
        if let Some(used) = known.get_mut(key) {
            let (outcome, now_used) = count(Some(*used))?;
            *used = now_used;
            return Ok(outcome);
        }
        if known.len() < MAX_KEYS / SHARDS {
            let (outcome, used) = count(None)?;
            known.insert(*key, used);
            return Ok(outcome);
        }
        let mut crowd = lock(&self.crowd);
        let (outcome, used) = count(*crowd)?;
        *crowd = Some(used);
        Ok(outcome)
    }
}

impl ShrinkableKeyedStateStore<u64> for Table {
    fn retain_recent(&self, drop_below: Nanos) {
        for shard in &self.shards {
            let mut known = lock(shard);
            known.retain(|_, used| *used > drop_below);
            // What an attack has left is not kept for the next.
            if known.capacity() > 4 * known.len() + 1024 {
                known.shrink_to_fit();
            }
        }
    }

    fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
