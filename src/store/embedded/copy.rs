//! Copying a store, table by table, and telling a copy what has changed since.

use std::{fs::File, path::Path};

use redb::{
    Database, Key, ReadTransaction, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError,
    TableHandle as _, Value, WriteTransaction,
};

use super::{
    backup::Copied,
    file::builder,
    noted::Changes,
    tables::{BACKUP, EachTable, META, SESSIONS, each_table},
};
use crate::clock::Timestamp;

/// How many rows are brought to disk at a time: so few that the store's own commits, on the same disk, wait for no more than
/// some MB.
const STEP: usize = 8192;

/// Writes what `from` sees into the empty file `path`, and brings it to disk. With `backup` it is marked as one of then.
pub(super) fn write_copy(
    from: &ReadTransaction,
    path: &Path,
    backup: Option<Timestamp>,
) -> Result<Copied, redb::Error> {
    let database = builder().create(path)?;
    let mut copying = Copying { from, to: &database };
    each_table(&mut copying)?;
    if let Some(at) = backup {
        let transaction = database.begin_write()?;
        transaction.open_table(META)?.insert(BACKUP, at.0)?;
        transaction.commit()?;
    }
    let sessions = sessions_of(&database)?;
    database.close()?;
    let file = File::open(path)?;
    file.sync_all()?;
    Ok(Copied { sessions, bytes: file.metadata()?.len() })
}

/// How many sessions a store has.
pub(super) fn sessions_of(database: &Database) -> Result<u64, redb::Error> {
    use redb::ReadableTableMetadata as _;
    Ok(database.begin_read()?.open_table(SESSIONS)?.len()?)
}

/// Brings up to `most` of the rows that have changed in `from` since it was copied to the copy, and to disk.
pub(super) fn catch_up(from: &Database, to: &Database, changes: &mut Changes, most: usize) -> Result<(), redb::Error> {
    let (from, to) = (from.begin_read()?, to.begin_write()?);
    let mut catching_up = CatchingUp { from: &from, to: &to, changes, left: most };
    each_table(&mut catching_up)?;
    Ok(to.commit()?)
}

struct Copying<'a> {
    from: &'a ReadTransaction,
    to: &'a Database,
}

impl EachTable for Copying<'_> {
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<(), redb::Error> {
        let from = match self.from.open_table(definition) {
            // It has come into use since the store was made, and has not been written to.
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            table => table?,
        };
        let mut rows = from.iter()?;
        loop {
            let transaction = self.to.begin_write()?;
            let mut copied = 0;
            {
                let mut copy = transaction.open_table(definition)?;
                for row in rows.by_ref().take(STEP) {
                    let (key, value) = row?;
                    copy.insert(key.value(), value.value())?;
                    copied += 1;
                }
            }
            transaction.commit()?;
            if copied < STEP {
                return Ok(());
            }
        }
    }
}

struct CatchingUp<'a> {
    from: &'a ReadTransaction,
    to: &'a WriteTransaction,
    changes: &'a mut Changes,
    left: usize,
}

impl EachTable for CatchingUp<'_> {
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<(), redb::Error> {
        let keys = self.changes.take(definition.name(), self.left);
        self.left -= keys.len();
        if keys.is_empty() {
            return Ok(());
        }
        let (from, mut to) = (self.from.open_table(definition)?, self.to.open_table(definition)?);
        for key in &keys {
            let key = K::from_bytes(key);
            match from.get(&key)? {
                Some(value) => drop(to.insert(&key, value.value())?),
                None => drop(to.remove(&key)?),
            }
        }
        Ok(())
    }
}
