//! Failures make those that follow wait: at logins, and where a client's secret takes Argon2 to look at.
//!
//! Whoever comes too early is refused at once, before the password is looked at, and told when to come again; what is refused does
//! not count, so that asking on makes nothing longer. The first failures cost nothing, then the wait is 1, 2, 4 … seconds, up to a
//! bound. One failure is forgotten every few minutes. Nobody is ever locked out: that would hand the lock to whoever wants to keep
//! the owner out.
//!
//! Of those who come at once, as many are looked at as may fail. The others, up to a number, wait until it is known how these end:
//! a program that begins with sixteen requests has done nothing wrong.
//!
//! Whose failures one waits for depends on whether they can be the owner's:
//!
//! - A browser in which this user has logged in before shows that by a cookie ([`super::device`]), and has a count of its own: no
//!   flood of strangers slows it down.
//! - So has a network from which this user has logged in before, for those who have no such cookie (the password grant, another
//!   browser at home). It is remembered in memory alone.
//! - Everybody else is a stranger, and waits for three counts: their network's for this user, all strangers' for this user (one
//!   budget, however many addresses they have), and their network's for whatever user, which is looser, since a whole house may
//!   stand behind it. An owner at a new place is a stranger, and competes with those who flood the account.
//!
//! A name that nobody has counts as one that somebody has, and is refused in the same words. What was typed is not kept: keys are
//! MACs under a key of the process. They are made of the name without case, lest every spelling that a user base takes for the
//! same account be a budget of its own.
//!
//! Counts are this process's own. Several that share a store let through as many times as much; the cookie is good at all of them.

use std::{
    net::IpAddr,
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::{hmac, rand};
use moka::sync::Cache;
use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};

use super::{config::Throttle as Rules, device::DeviceId};
use crate::{
    clock::{Clock, Timestamp},
    http::network_of,
    telemetry::Metrics,
    types::{ClientId, Visitor},
};

/// How often a failure is forgotten, where waits are no longer than that.
const FORGET_EVERY: Duration = Duration::from_secs(5 * 60);
/// How many wait until it is known how those end who came before them, and for how long.
const WAITING: usize = 64;
const PATIENCE: Duration = Duration::from_secs(5);
/// When to come again, for whoever is one too many of them or has waited for so long.
const A_MOMENT: Duration = Duration::from_secs(1);
/// How many counts of one kind are kept, a few hundred bytes each. Those that are asked for often stay longest.
const MAX_COUNTS: u64 = 1 << 15;
/// For how long they are, once nobody asks for them: longer than the highest takes to be forgotten, but for extreme settings.
const KEPT: Duration = Duration::from_secs(86_400);
/// How many networks are remembered from which users have logged in, and for how long.
const MAX_PLACES: u64 = 1 << 15;
const PLACES_KEPT: Duration = Duration::from_secs(30 * 86_400);

/// A MAC of what is counted.
type Key = [u8; 16];

/// Counts failures, and says who has to wait. Every look is short, and under a lock that nobody awaits anything with.
pub(super) struct Throttle {
    rules: Option<Rules>,
    clock: Clock,
    metrics: Metrics,
    key: hmac::Key,
    counts: Mutex<Counts>,
    /// Told to all who wait, as an attempt ends.
    ended: Notify,
    waiting: Semaphore,
}

/// By what failures are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// A browser that the user is known in.
    Browser,
    /// A user's name, and the network it is typed at.
    UserAtAddress,
    /// A user's name, by whomever is not known.
    Strangers,
    /// A network.
    Address,
    /// A client, and the network that a secret comes from.
    ClientAtAddress,
    /// A network that clients register from.
    Registration,
}

impl By {
    const ALL: [Self; 6] =
        [Self::Browser, Self::UserAtAddress, Self::Strangers, Self::Address, Self::ClientAtAddress, Self::Registration];

    /// The name in metrics.
    const fn name(self) -> &'static str {
        match self {
            Self::Browser => "browser",
            Self::UserAtAddress => "user_at_address",
            Self::Strangers => "strangers",
            Self::Address => "address",
            Self::ClientAtAddress => "client_at_address",
            Self::Registration => "registration",
        }
    }

    /// The failure that makes the next one wait.
    const fn free(self, rules: &Rules) -> u32 {
        match self {
            Self::Browser | Self::UserAtAddress | Self::ClientAtAddress => rules.failures,
            Self::Strangers => rules.failures_by_strangers,
            Self::Address | Self::Registration => rules.failures_by_address,
        }
    }

    /// Whether somebody who was right is forgiven what came before. Not where others' failures are counted as well: whoever has
    /// an account could wipe them out by logging in to it.
    const fn is_forgiven(self) -> bool {
        match self {
            Self::Browser | Self::UserAtAddress | Self::ClientAtAddress => true,
            Self::Strangers | Self::Address | Self::Registration => false,
        }
    }
}

/// One of these for each kind, so that a flood of one kind drives out no other's.
struct Counts {
    of: [Cache<Key, Count>; By::ALL.len()],
    /// Where users have logged in.
    places: Cache<Key, ()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    failures: u32,
    /// Tries that are being looked at.
    pending: u32,
    /// When the last one failed.
    last: Timestamp,
    /// From when on it is reckoned how many are forgotten.
    since: Timestamp,
}

/// Why a secret is not looked at yet. The longer of two is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Hold {
    /// As many as may fail are being looked at.
    Others,
    /// Too many have failed.
    For(Duration),
}

/// Leave to have a secret looked at. It counts as a failure unless it is said how that ended.
pub(super) struct Attempt<'t> {
    throttle: &'t Throttle,
    counted: Vec<(By, Key)>,
    /// Where its user is known afterwards, if it is right.
    place: Option<Key>,
    outcome: Outcome,
}

/// How a look at a secret ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was right.
    Right,
    /// It was not.
    Wrong,
    /// It has not been looked at, for a fault of ours.
    NotSeen,
}

impl Throttle {
    /// One that has counted nothing yet; without rules it counts nothing.
    pub(super) fn new(rules: Option<Rules>, clock: Clock, metrics: Metrics) -> Self {
        let mut key = [0; 32];
        rand::fill(&mut key).expect("a system without random numbers cannot issue tokens");
        let of = By::ALL.map(|_| Cache::builder().max_capacity(MAX_COUNTS).time_to_idle(KEPT).build());
        let places = Cache::builder().max_capacity(MAX_PLACES).time_to_live(PLACES_KEPT).build();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let counts = Mutex::new(Counts { of, places });
        Self { rules, clock, metrics, key, counts, ended: Notify::new(), waiting: Semaphore::new(WAITING) }
    }

    /// Leave to look at the password of whoever has typed `username`; `device` is the browser that this user is known in.
    ///
    /// # Errors
    /// How long to wait, in whole seconds.
    pub(super) async fn login(
        &self,
        username: &str,
        device: Option<DeviceId>,
        visitor: &Visitor,
    ) -> Result<Attempt<'_>, Duration> {
        let (name, network) = (folded(username), network(visitor));
        let place = self.name(By::UserAtAddress, &[name.as_bytes(), &network]);
        let binding = match device {
            Some(DeviceId(id)) => vec![(By::Browser, self.name(By::Browser, &[&id]))],
            None if self.lock().places.contains_key(&place) => vec![(By::UserAtAddress, place)],
            None => vec![
                (By::UserAtAddress, place),
                (By::Strangers, self.name(By::Strangers, &[name.as_bytes()])),
                (By::Address, self.name(By::Address, &[&network])),
            ],
        };
        self.begin(binding, Some(place)).await
    }

    /// Leave to look at a secret of that client which has to be hashed. One that has been right is recognised without, so that a
    /// client at work is slowed by nobody.
    ///
    /// # Errors
    /// How long to wait, in whole seconds.
    pub(super) async fn client(&self, client: &ClientId, visitor: &Visitor) -> Result<Attempt<'_>, Duration> {
        let key = self.name(By::ClientAtAddress, &[client.as_str().as_bytes(), &network(visitor)]);
        self.begin(vec![(By::ClientAtAddress, key)], None).await
    }

    async fn begin(&self, counted: Vec<(By, Key)>, place: Option<Key>) -> Result<Attempt<'_>, Duration> {
        let attempt = |counted| Attempt { throttle: self, counted, place, outcome: Outcome::Wrong };
        let Some(rules) = &self.rules else { return Ok(attempt(Vec::new())) };
        let Err((mut hold, mut by)) = self.count(rules, &counted) else { return Ok(attempt(counted)) };
        if let (Hold::Others, Ok(_place)) = (hold, self.waiting.try_acquire()) {
            let counted_in = timeout(PATIENCE, async {
                loop {
                    // Listening before it is looked: one that ends in between has been heard.
                    let mut ended = pin!(self.ended.notified());
                    ended.as_mut().enable();
                    (hold, by) = match self.count(rules, &counted) {
                        Err((Hold::Others, by)) => (Hold::Others, by),
                        Err(too_early) => break Err(too_early),
                        Ok(()) => break Ok(()),
                    };
                    ended.await;
                }
            });
            match counted_in.await {
                Ok(Ok(())) => return Ok(attempt(counted)),
                Ok(Err(too_early)) => (hold, by) = too_early,
                Err(_) => {}
            }
        }
        self.metrics.throttled(by.name());
        let wait = match hold {
            Hold::Others => A_MOMENT,
            Hold::For(wait) => wait,
        };
        Err(Duration::from_secs(wait.as_millis().div_ceil(1000) as u64))
    }

    /// Leave to register a client. Each one counts, whatever becomes of it: it costs us nothing to keep, but a line in the audit log.
    ///
    /// # Errors
    /// How long to wait, in whole seconds.
    pub(super) async fn registration(&self, visitor: &Visitor) -> Result<(), Duration> {
        let key = self.name(By::Registration, &[&network(visitor)]);
        self.begin(vec![(By::Registration, key)], None).await.map(drop)
    }

    /// All that has to be waited for is looked at before anything is counted, and both in one step: of many who come at once no
    /// more are let in than of many who come one by one.
    fn count(&self, rules: &Rules, counted: &[(By, Key)]) -> Result<(), (Hold, By)> {
        let now = self.clock.now();
        let counts = self.lock();
        let hold = |(by, key): &(By, Key)| Some((counts.get(*by, key, rules, now).hold(*by, rules, now)?, *by));
        if let Some(longest) = counted.iter().filter_map(hold).max_by_key(|(hold, _)| *hold) {
            return Err(longest);
        }
        for (by, key) in counted {
            let mut count = counts.get(*by, key, rules, now);
            count.pending += 1;
            counts.of(*by).insert(*key, count);
        }
        Ok(())
    }

    fn name(&self, by: By, parts: &[&[u8]]) -> Key {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(by.name().as_bytes());
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let tag = context.sign();
        *tag.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // A panic leaves no count half written.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// Says how it ended.
    pub(super) fn ended(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let Some(rules) = &self.throttle.rules else { return };
        let now = self.throttle.clock.now();
        let counts = self.throttle.lock();
        for (by, key) in &self.counted {
            let mut count = counts.get(*by, key, rules, now);
            count.pending = count.pending.saturating_sub(1);
            match self.outcome {
                Outcome::Right if by.is_forgiven() => count.failures = 0,
                Outcome::Right | Outcome::NotSeen => {}
                Outcome::Wrong => count.fail(*by, rules, now),
            }
            if count.failures == 0 && count.pending == 0 {
                counts.of(*by).invalidate(key);
            } else {
                counts.of(*by).insert(*key, count);
            }
        }
        if let (Outcome::Right, Some(place)) = (self.outcome, self.place) {
            counts.places.insert(place, ());
        }
        drop(counts);
        self.throttle.ended.notify_waiters();
    }
}

impl Counts {
    fn of(&self, by: By) -> &Cache<Key, Count> {
        &self.of[by as usize]
    }

    /// A count as it is now.
    fn get(&self, by: By, key: &Key, rules: &Rules, now: Timestamp) -> Count {
        let mut count = self.of(by).get(key).unwrap_or_default();
        // A clock that has been set back must not keep anybody waiting until it is where it was. It is reckoned anew from now on.
        if count.last > now {
            (count.last, count.since) = (now, now);
            self.of(by).insert(*key, count);
        }
        count.forget(FORGET_EVERY.max(rules.longest_wait), now);
        count
    }
}

impl Count {
    fn forget(&mut self, every: Duration, now: Timestamp) {
        let passed = now.since(self.since).unwrap_or_default().as_millis() / every.as_millis();
        let forgotten = u32::try_from(passed).unwrap_or(u32::MAX).min(self.failures);
        self.failures -= forgotten;
        self.since = self.since + every * forgotten;
    }

    /// What to wait for, if at all.
    fn hold(&self, by: By, rules: &Rules, now: Timestamp) -> Option<Hold> {
        let free = by.free(rules);
        if self.failures + self.pending < free {
            return None;
        }
        // One at a time; another may have failed before this one is done.
        if self.pending > 0 {
            return Some(Hold::Others);
        }
        let wait = Duration::from_secs(1 << (self.failures - free).min(32)).min(rules.longest_wait);
        let left = wait.saturating_sub(now.since(self.last).unwrap_or_default());
        Some(left).filter(|left| !left.is_zero()).map(Hold::For)
    }

    /// No higher than where the wait is longest, so that it is not long after a flood that it gets shorter.
    fn fail(&mut self, by: By, rules: &Rules, now: Timestamp) {
        if self.failures == 0 {
            self.since = now;
        }
        let doublings = u64::BITS - (rules.longest_wait.as_secs().max(1) - 1).leading_zeros();
        self.failures = (self.failures + 1).min(by.free(rules) + doublings);
        self.last = now;
    }
}

/// A name without case and without blanks around it.
pub(super) fn folded(username: &str) -> String {
    username.trim().to_lowercase()
}

/// The network that somebody speaks from; nothing where that is not known.
fn network(visitor: &Visitor) -> Vec<u8> {
    match visitor.address.parse().map(network_of) {
        Ok(IpAddr::V4(address)) => address.octets().into(),
        Ok(IpAddr::V6(address)) => address.octets().into(),
        Err(_) => Vec::new(),
    }
}
