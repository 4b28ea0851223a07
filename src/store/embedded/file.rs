//! The file of an embedded store: made, opened, and known for what it is.

use std::{
    cell::RefCell,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use redb::{Database, ReadableDatabase as _};

use super::{
    OpenError,
    tables::{CURRENT_FORMAT, FORMAT, META, Tables},
};
use crate::{
    clock::{Clock, Timestamp},
    store::DataFolder,
    types::Position,
};

/// The name of the file in the data folder.
pub(in crate::store) const FILE: &str = "store.redb";
/// What it is called until it is whole.
pub(super) const HALF: &str = "store.redb.new";

/// What redb may keep in memory. The working set of a store is the sessions that refresh just now, not all of them.
const CACHE_BYTES: usize = 4 << 20;

/// How a redb file begins.
const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";

pub(super) fn open_or_create(folder: &DataFolder, path: &Path, clock: &Clock) -> Result<Database, OpenError> {
    let storage = |cause: redb::Error| OpenError::Storage { path: path.into(), cause: Box::new(cause) };
    // Of one that was to take the file's place, or to become it.
    folder.discard(&folder.path().join(HALF)).map_err(|error| storage(error.into()))?;
    match begins_like_redb(path) {
        Ok(true) => {}
        Ok(false) => return Err(OpenError::Foreign(path.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(folder, path, clock.now()).map_err(storage)?;
        }
        Err(error) => return Err(storage(error.into())),
    }
    let database = reopen(path).map_err(|error| storage(error.into()))?;
    match format_of(&database).map_err(storage)? {
        Some(CURRENT_FORMAT) => Ok(database),
        Some(found) => Err(OpenError::OtherFormat { path: path.into(), found }),
        None => Err(OpenError::Foreign(path.into())),
    }
}

/// Makes the file under another name first: what has the store's name is whole, whenever the process ends.
fn create(folder: &DataFolder, path: &Path, now: Timestamp) -> Result<(), redb::Error> {
    let half = folder.path().join(HALF);
    drop(create_file(&half)?);
    let database = builder().create(&half)?;
    let transaction = database.begin_write()?;
    Tables::open(&transaction, now, Position::default(), &RefCell::default())?.initialise()?;
    transaction.commit()?;
    drop(database);
    std::fs::rename(&half, path)?;
    Ok(folder.sync()?)
}

/// Makes an empty file that is nobody else's.
pub(super) fn create_file(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

pub(super) fn reopen(path: &Path) -> Result<Database, redb::DatabaseError> {
    builder().open(path)
}

pub(super) fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

pub(super) fn begins_like_redb(path: &Path) -> io::Result<bool> {
    let mut magic = Vec::with_capacity(MAGIC.len());
    File::open(path)?.take(MAGIC.len() as u64).read_to_end(&mut magic)?;
    Ok(magic == MAGIC)
}

/// The format of a store; `None` when the database is somebody else's.
pub(super) fn format_of(database: &Database) -> Result<Option<u64>, redb::Error> {
    match database.begin_read()?.open_table(META) {
        Ok(meta) => Ok(meta.get(FORMAT)?.map(|format| format.value())),
        Err(redb::TableError::Storage(error)) => Err(error.into()),
        Err(_) => Ok(None),
    }
}
