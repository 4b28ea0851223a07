//! A provider's keys as they are now. They are replaced as a whole, while workers read them without a lock.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::{ArcSwap, Guard};

use super::keys::KeySet;

/// A provider's keys, which may change at any time.
#[derive(Debug)]
pub struct LiveKeys(ArcSwap<Keys>);

/// The keys of one moment.
#[derive(Debug)]
pub struct Keys {
    /// The set; `None` while there is none, so that nothing can be said about a token.
    pub set: Option<KeySet>,
    /// Which set it is: no other has this number.
    pub(super) generation: u64,
}

impl Keys {
    fn new(set: Option<KeySet>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // The number only has to be another one; the swap orders what it stands for.
        Arc::new(Self { set, generation: NEXT.fetch_add(1, Ordering::Relaxed) })
    }
}

impl LiveKeys {
    /// Begins with these keys.
    pub fn new(set: KeySet) -> Arc<Self> {
        Arc::new(Self(ArcSwap::new(Keys::new(Some(set)))))
    }

    /// Begins with none.
    pub fn missing() -> Arc<Self> {
        Arc::new(Self(ArcSwap::new(Keys::new(None))))
    }

    /// From the next look-up on, these are the keys. A token that was verified before with a key that is not among them is
    /// not remembered.
    pub fn replace(&self, set: KeySet) {
        self.0.store(Keys::new(Some(set)));
    }

    /// There are no keys any more that can be relied on.
    pub fn forget(&self) {
        self.0.store(Keys::new(None));
    }

    /// The keys as they are now. To be held for no longer than one look.
    pub fn load(&self) -> Guard<Arc<Keys>> {
        self.0.load()
    }
}
