//! The proofs that have been seen (RFC 9449 §11.1), for as long as they could be shown again, in bounded memory.
//!
//! They lie by the moment until which they could. Where there are too many, those go that have the least time left, and from
//! then on no proof is taken that has no more: what is forgotten is refused, never let in.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, OnceLock, PoisonError},
    time::Instant,
};

use aws_lc_rs::digest::{Context, SHA256};

use crate::{clock::Timestamp, types::Thumbprint};

/// Locks are held for one look. Several of them, since every core comes here.
const SHARDS: usize = 16;
/// How many proofs each remembers: a million in all, in some 40 MB.
const MOST: usize = 65_536;
/// How much of time goes together, in milliseconds.
const STEP: u64 = 5_000;

pub(super) struct Replays {
    shards: Box<[Mutex<Shard>]>,
    /// When the first proof came, by a clock that nobody sets, and by the one that they are dated by.
    began: OnceLock<(Instant, Timestamp)>,
}

#[derive(Default)]
struct Shard {
    steps: BTreeMap<u64, HashSet<u128>>,
    seen: usize,
    /// Steps up to this one are not remembered.
    forgotten: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is remembered from now on.
    Never,
    /// It is a replay.
    Before,
    /// It would have to be remembered for so short a time that nobody knows.
    Unknown,
}

impl Replays {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), began: OnceLock::new() }
    }

    /// Whether a key has shown a `jti`, in a proof that can be shown until then.
    pub(super) fn see(&self, key: &Thumbprint, jti: &str, until: Timestamp, now: Timestamp) -> Seen {
        let name = name(key, jti);
        let shard = &self.shards[name as usize % SHARDS];
        // A clock that jumps ahead, and back again, must not have proofs forgotten that can still be shown.
        let (began, first) = self.began.get_or_init(|| (Instant::now(), now));
        let now = now.min(*first + began.elapsed());
        shard.lock().unwrap_or_else(PoisonError::into_inner).see(name, until.0 / STEP, now.0 / STEP, MOST)
    }
}

impl Shard {
    fn see(&mut self, name: u128, step: u64, now: u64, most: usize) -> Seen {
        while let Some(entry) = self.steps.first_entry().filter(|entry| *entry.key() < now) {
            self.seen -= entry.remove().len();
        }
        if step <= self.forgotten {
            return Seen::Unknown;
        }
        if self.steps.get(&step).is_some_and(|names| names.contains(&name)) {
            return Seen::Before;
        }
        if self.seen >= most
            && let Some((first, names)) = self.steps.pop_first()
        {
            self.seen -= names.len();
            self.forgotten = first;
            if step <= first {
                return Seen::Unknown;
            }
        }
        self.steps.entry(step).or_default().insert(name);
        self.seen += 1;
        Seen::Never
    }
}

/// The key has a fixed length, so that the two cannot be parted in another way.
fn name(key: &Thumbprint, jti: &str) -> u128 {
    let mut digest = Context::new(&SHA256);
    digest.update(key);
    digest.update(jti.as_bytes());
    let digest = digest.finish();
    digest.as_ref().iter().take(16).fold(0, |name, byte| name << 8 | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_new_once_for_as_long_as_it_could_be_shown() {
        let mut shard = Shard::default();
        assert_eq!(shard.see(1, 10, 5, 100), Seen::Never);
        assert_eq!(shard.see(1, 10, 5, 100), Seen::Before);
        assert_eq!(shard.see(1, 10, 10, 100), Seen::Before);
        assert_eq!(shard.see(2, 10, 10, 100), Seen::Never);
        assert_eq!(shard.see(3, 12, 11, 100), Seen::Never);
        assert_eq!((shard.seen, shard.steps.len()), (1, 1), "what has had its time is gone");
    }

    #[test]
    fn what_is_forgotten_for_want_of_room_is_not_let_in_again() {
        let mut shard = Shard::default();
        for name in 0..4 {
            assert_eq!(shard.see(name, 10 + name as u64 / 2, 5, 4), Seen::Never);
        }
        assert_eq!(shard.see(9, 11, 5, 4), Seen::Never);
        for name in 0..2 {
            assert_eq!(shard.see(name, 10, 5, 4), Seen::Unknown);
        }
        assert_eq!(shard.see(2, 11, 5, 4), Seen::Before);
        // One that has the least time left finds no room.
        let mut shard = Shard { forgotten: 0, ..Shard::default() };
        assert_eq!(shard.see(1, 10, 5, 1), Seen::Never);
        assert_eq!(shard.see(2, 10, 5, 1), Seen::Unknown);
        assert_eq!(shard.see(1, 10, 5, 1), Seen::Unknown);
        assert!(shard.seen <= 1);
    }

    #[test]
    fn a_clock_that_jumps_ahead_and_back_forgets_nothing() {
        let (replays, at) = (Replays::new(), |seconds: u64| Timestamp::from_secs(1_800_000_000 + seconds));
        assert_eq!(replays.see(&[1; 32], "a", at(60), at(0)), Seen::Never);
        assert_eq!(replays.see(&[1; 32], "b", at(3660), at(3600)), Seen::Never);
        assert_eq!(replays.see(&[1; 32], "a", at(60), at(1)), Seen::Before);
        assert_eq!(replays.see(&[2; 32], "a", at(60), at(1)), Seen::Never);
    }
}
