//! Remembering tokens that were verified: one cache for each worker, without a lock.
//!
//! It holds who a token speaks for, never what was decided about it: a hit is still asked for its expiry and its
//! revocation, and the route decides anew. Only verified tokens enter, so a flood of bad ones displaces nothing.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use quick_cache::{Weighter, unsync};

use super::{Identity, keys::Key, verify::Proof};
use crate::types::Credential;

/// Verified tokens by their whole text, bounded by bytes.
pub struct TokenCache {
    entries: Option<RefCell<Entries>>,
}

type Entries = unsync::Cache<Box<[u8]>, Rc<Verified>, Bytes>;

/// A token whose signature and claims were found right.
pub struct Verified {
    /// Whom it speaks for.
    pub identity: Identity,
    /// The key that signed it.
    pub key: Arc<Key>,
    /// The set in which the key was last found.
    pub seen_keys: Cell<u64>,
    /// The revocation table's generation when it was last found not to be revoked.
    pub seen_generation: Cell<u64>,
}

impl Verified {
    /// A token that has just been verified, and was not revoked at `generation`.
    pub fn new(proof: Proof, generation: u64) -> Self {
        let Proof { identity, key, generation: keys } = proof;
        Self { identity, key, seen_keys: Cell::new(keys), seen_generation: Cell::new(generation) }
    }

    /// What the token can be revoked by.
    pub fn credential(&self) -> Credential<'_> {
        self.identity.credential(&self.key)
    }
}

#[derive(Clone)]
struct Bytes;

impl Weighter<Box<[u8]>, Rc<Verified>> for Bytes {
    fn weight(&self, token: &Box<[u8]>, _: &Rc<Verified>) -> u64 {
        // The claims are about as long decoded as the token is, and four times that as a tree of values.
        token.len() as u64 * 5
    }
}

/// What a token with an identity of common size weighs, to size the table by.
const USUAL_WEIGHT: usize = 4096;

impl TokenCache {
    /// A cache of about `bytes` of memory; with 0 it remembers nothing.
    pub fn new(bytes: usize) -> Self {
        let entries = (bytes > 0)
            .then(|| RefCell::new(unsync::Cache::with_weighter(bytes.div_ceil(USUAL_WEIGHT), bytes as u64, Bytes)));
        Self { entries }
    }

    /// The identity that `token` was found to have.
    pub fn get(&self, token: &[u8]) -> Option<Rc<Verified>> {
        self.entries.as_ref()?.borrow().get(token).cloned()
    }

    /// How many tokens are remembered, and about how many bytes that takes.
    pub fn usage(&self) -> (usize, u64) {
        self.entries.as_ref().map_or((0, 0), |entries| {
            let entries = entries.borrow();
            (entries.len(), entries.weight())
        })
    }

    /// Forgets a token.
    pub fn remove(&self, token: &[u8]) {
        if let Some(entries) = &self.entries {
            entries.borrow_mut().remove(token);
        }
    }

    /// Remembers a verified token.
    pub fn insert(&self, token: &str, verified: Rc<Verified>) {
        if let Some(entries) = &self.entries {
            entries.borrow_mut().insert(token.as_bytes().into(), verified);
        }
    }
}
