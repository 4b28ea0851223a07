//! Tables whose changes are noted while the store is written anew, so that the copy can be told of them.

use std::{
    borrow::Borrow,
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
};

use redb::{
    AccessGuard, Key, StorageError, Table, TableDefinition, TableError, TableHandle as _, Value, WriteTransaction,
};

/// How many changes are noted at the most. A copy that is further behind is given up: it takes up memory until it has caught
/// up, about 100 bytes for each.
const MOST: usize = 500_000;

/// The keys of rows that have changed, by table.
#[derive(Debug, Default)]
pub(super) enum Changes {
    /// Nobody wants to know.
    #[default]
    Off,
    /// These have.
    Noted(BTreeMap<Box<str>, BTreeSet<Box<[u8]>>>),
    /// There were too many, or the copy is not wanted any more.
    Lost,
}

impl Changes {
    pub(super) fn begin(&mut self) {
        *self = Self::Noted(BTreeMap::new());
    }

    /// Whoever copies has to begin anew.
    pub(super) fn give_up(&mut self) {
        if let Self::Noted(_) = self {
            *self = Self::Lost;
        }
    }

    /// How many are noted; `None` where not all are.
    pub(super) fn len(&self) -> Option<usize> {
        match self {
            Self::Noted(tables) => Some(tables.values().map(BTreeSet::len).sum()),
            Self::Off | Self::Lost => None,
        }
    }

    /// Takes up to `most` keys of a table out.
    pub(super) fn take(&mut self, table: &str, most: usize) -> Vec<Box<[u8]>> {
        let Self::Noted(tables) = self else { return Vec::new() };
        let Some(keys) = tables.get_mut(table) else { return Vec::new() };
        std::iter::from_fn(|| keys.pop_first()).take(most).collect()
    }

    fn note(&mut self, table: &str, key: &[u8]) {
        let Self::Noted(tables) = self else { return };
        match tables.get_mut(table) {
            Some(keys) => drop(keys.insert(key.into())),
            None => drop(tables.insert(table.into(), BTreeSet::from([key.into()]))),
        }
        if self.len().is_some_and(|noted| noted > MOST) {
            self.give_up();
        }
    }
}

/// A table, open for one transaction.
pub(super) struct Noted<'t, K: Key + 'static, V: Value + 'static> {
    table: Table<'t, K, V>,
    changes: &'t RefCell<Changes>,
}

impl<'t, K: Key + 'static, V: Value + 'static> Noted<'t, K, V> {
    pub(super) fn open(
        transaction: &'t WriteTransaction,
        definition: TableDefinition<'_, K, V>,
        changes: &'t RefCell<Changes>,
    ) -> Result<Self, TableError> {
        Ok(Self { table: transaction.open_table(definition)?, changes })
    }

    pub(super) fn insert<'k, 'v>(
        &mut self,
        key: impl Borrow<K::SelfType<'k>>,
        value: impl Borrow<V::SelfType<'v>>,
    ) -> Result<Option<AccessGuard<'_, V>>, StorageError> {
        self.note(key.borrow());
        self.table.insert(key, value)
    }

    pub(super) fn remove<'k>(
        &mut self,
        key: impl Borrow<K::SelfType<'k>>,
    ) -> Result<Option<AccessGuard<'_, V>>, StorageError> {
        self.note(key.borrow());
        self.table.remove(key)
    }

    /// A transaction that comes to nothing leaves names behind of rows that have not changed, which does no harm.
    fn note(&self, key: &K::SelfType<'_>) {
        self.changes.borrow_mut().note(self.table.name(), K::as_bytes(key).as_ref());
    }
}

/// For reading alone.
impl<'t, K: Key + 'static, V: Value + 'static> Deref for Noted<'t, K, V> {
    type Target = Table<'t, K, V>;

    fn deref(&self) -> &Self::Target {
        &self.table
    }
}
