//! The entries of a kind of which there can be millions.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::name::Name;
use crate::clock::Timestamp;

/// How many maps the entries of one kind are spread over: a map that grows, or is swept, keeps few waiting.
const SHARDS: usize = 32;

/// The entries of a kind of which there can be millions.
#[derive(Debug)]
pub(super) struct Exact {
    shards: [RwLock<HashMap<Name, Mark>>; SHARDS],
    spread: RandomState,
    len: AtomicUsize,
    /// Bytes of names that are held outside of the maps.
    outside: AtomicUsize,
}

/// Which entry of the log names it last, and when it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) number: u64,
    pub(super) until: Timestamp,
}

impl Default for Exact {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            spread: RandomState::new(),
            len: AtomicUsize::new(0),
            outside: AtomicUsize::new(0),
        }
    }
}

impl Exact {
    fn shard(&self, name: &Name) -> &RwLock<HashMap<Name, Mark>> {
        &self.shards[self.spread.hash_one(name) as usize % SHARDS]
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    pub(super) fn has(&self, text: &str) -> bool {
        if self.len() == 0 {
            return false;
        }
        let name = Name::new(text);
        self.shard(&name).read().unwrap_or_else(PoisonError::into_inner).contains_key(&name)
    }

    pub(super) fn insert(&self, name: Name, mark: Mark) {
        let outside = name.outside();
        let mut shard = self.shard(&name).write().unwrap_or_else(PoisonError::into_inner);
        match shard.get_mut(&name) {
            Some(known) => *known = Mark { number: known.number.max(mark.number), until: known.until.max(mark.until) },
            None => {
                shard.insert(name, mark);
                self.outside.fetch_add(outside, Ordering::Relaxed);
                self.len.fetch_add(1, Ordering::Release);
            }
        }
    }

    pub(super) fn lift(&self, name: &Name, number: u64) {
        let mut shard = self.shard(name).write().unwrap_or_else(PoisonError::into_inner);
        if shard.get(name).is_some_and(|mark| mark.number < number) {
            shard.remove(name);
            self.gone(1, name.outside());
        }
    }

    pub(super) fn sweep(&self, now: Timestamp) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            let (before, mut outside) = (shard.len(), 0);
            shard.retain(|name, mark| {
                let stays = mark.until > now;
                outside += if stays { 0 } else { name.outside() };
                stays
            });
            self.gone(before - shard.len(), outside);
            if shard.capacity() > 4 * shard.len() + 64 {
                shard.shrink_to_fit();
            }
        }
    }

    pub(super) fn forget_numbers(&self) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            shard.values_mut().for_each(|mark| mark.number = 0);
        }
    }

    fn gone(&self, entries: usize, outside: usize) {
        self.len.fetch_sub(entries, Ordering::Relaxed);
        self.outside.fetch_sub(outside, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> usize {
        // A map has places for an eighth more than its capacity, and a byte beside each.
        let capacity = |shard: &RwLock<HashMap<Name, Mark>>| {
            shard.read().unwrap_or_else(PoisonError::into_inner).capacity() * 8 / 7 * (size_of::<(Name, Mark)>() + 1)
        };
        self.shards.iter().map(capacity).sum::<usize>() + self.outside.load(Ordering::Relaxed)
    }

    pub(super) fn for_each(&self, take: &mut impl FnMut(Box<str>, Mark)) {
        for shard in &self.shards {
            // Copied first: whoever takes them may take its time.
            let entries: Vec<_> = {
                let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
                shard.iter().map(|(name, mark)| (name.clone(), *mark)).collect()
            };
            entries.into_iter().for_each(|(name, mark)| take(name.text(), mark));
        }
    }
}
