//! Backups: copies of an embedded store, made while it serves, and put in its place again.

use std::{
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use redb::{Database, ReadTransaction, ReadableDatabase as _, ReadableTable as _};

use super::{
    copy::{sessions_of, write_copy},
    file::{FILE, HALF, begins_like_redb, create_file, format_of, reopen},
    tables::{BACKUP, CURRENT_FORMAT, LAST_REVOCATION, META},
};
use crate::{
    clock::Timestamp,
    store::{DataFolder, Unavailable},
};

/// How much further a log goes on when its store is a backup. In the time that is lost, tokens went out that say where the
/// log stood when they began; the next epoch has to come after all of them, and nobody knows how far it had got.
const JUMP: u64 = 1 << 32;
/// How much further still for each millisecond since the backup was made: one backup can be put in place twice, and the
/// second time it has to jump beyond where the first got to.
const JUMP_BY_MILLISECOND: u64 = 1 << 10;

/// A copy of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// How many sessions are in it.
    pub sessions: u64,
    /// How large its file is.
    pub bytes: u64,
}

impl fmt::Display for Copied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sessions     {}\nbytes        {}", self.sessions, self.bytes)
    }
}

/// Why there is no backup. What was begun of it is removed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Something has that name.
    #[error("{} is there already; name a file that is not, or move that one away", .0.display())]
    Exists(PathBuf),
    /// It could not be read or written.
    #[error("the backup {} cannot be written: {cause}", path.display())]
    Storage {
        /// The file that was to be.
        path: PathBuf,
        /// What the database or the system said.
        cause: Box<redb::Error>,
    },
    /// The store does not answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The store is no file of this process.
    #[error("this store is not a file of Sidegate's; it is backed up where it is kept")]
    NotAFile,
}

/// Why a backup was not put in place. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A store is there.
    #[error("there is a store already; move it away first: mv {0} {0}.before", path.display())]
    Exists {
        /// Its file.
        path: PathBuf,
    },
    /// This is no store.
    #[error("{} is not a backup of a session store of sidegate", .0.display())]
    Foreign(PathBuf),
    /// Another release has written it.
    #[error("{} has format {found}, which another release of sidegate has written; this one reads format {CURRENT_FORMAT}", path.display())]
    OtherFormat {
        /// The backup.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// It is not as it was written.
    #[error("the backup {} is damaged; take another one", .0.display())]
    Damaged(PathBuf),
    /// It could not be read, or its copy not written.
    #[error("the backup {} cannot be put into {}: {cause}", path.display(), folder.display())]
    Storage {
        /// The backup.
        path: PathBuf,
        /// The data folder.
        folder: PathBuf,
        /// What the database or the system said.
        cause: Box<redb::Error>,
    },
}

/// Writes what `from` sees to `path`, as a store of its own that is marked as a backup.
pub(super) fn back_up(from: &ReadTransaction, path: &Path, now: Timestamp) -> Result<Copied, BackupError> {
    let storage = |cause: redb::Error| BackupError::Storage { path: path.into(), cause: Box::new(cause) };
    let mut half = path.as_os_str().to_owned();
    half.push(".new");
    let half = PathBuf::from(half);
    for name in [path, &half] {
        match fs::symlink_metadata(name) {
            Ok(_) => return Err(BackupError::Exists(name.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(storage(error.into())),
        }
    }
    // Whoever begins at the same time is refused here, and loses nothing by it.
    drop(create_file(&half).map_err(|error| storage(error.into()))?);
    let copied = write_copy(from, &half, Some(now)).and_then(|copied| {
        fs::rename(&half, path)?;
        // A path without a folder in it is one in this folder.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(copied)
    });
    copied.map_err(|cause| {
        let _ = fs::remove_file(&half);
        storage(cause)
    })
}

/// Puts a backup in place of a store that is not in `folder` any more, and answers what is in it. It is a backup to the
/// store until it is opened.
///
/// # Errors
/// When a store is there, or the file is not a whole one of our format: it is left as it is, and so is the folder.
pub fn restore(folder: &DataFolder, backup: &Path) -> Result<Copied, RestoreError> {
    let (whole, half) = (folder.path().join(FILE), folder.path().join(HALF));
    let storage = |cause: redb::Error| {
        let (path, folder) = (backup.into(), folder.path().into());
        RestoreError::Storage { path, folder, cause: Box::new(cause) }
    };
    let system = |error: io::Error| storage(error.into());
    match fs::symlink_metadata(&whole) {
        Ok(_) => return Err(RestoreError::Exists { path: whole }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(system(error)),
    }
    if !begins_like_redb(backup).map_err(system)? {
        return Err(RestoreError::Foreign(backup.into()));
    }
    folder.discard(&half).map_err(system)?;
    let copied =
        copy_file(backup, &half).map_err(system).and_then(|written| check_copy(&half, backup, written, storage));
    match copied {
        Ok(copied) => {
            fs::rename(&half, &whole).and_then(|()| folder.sync()).map_err(system)?;
            Ok(copied)
        }
        Err(error) => {
            let _ = fs::remove_file(&half);
            Err(error)
        }
    }
}

/// Copies a file as it is; answers when it was written.
fn copy_file(from: &Path, to: &Path) -> io::Result<Timestamp> {
    let mut from = File::open(from)?;
    let mut to = create_file(to)?;
    io::copy(&mut from, &mut to)?;
    to.sync_all()?;
    let written = from.metadata()?.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(Timestamp::default() + written)
}

/// Reads all of a backup's copy, and marks it where it is a plain copy of a store: for that, the same things are lost.
fn check_copy(
    half: &Path,
    backup: &Path,
    written: Timestamp,
    storage: impl Fn(redb::Error) -> RestoreError + Copy,
) -> Result<Copied, RestoreError> {
    let damaged = |error: redb::Error| match error {
        redb::Error::Corrupted(_) => RestoreError::Damaged(backup.into()),
        error => storage(error),
    };
    let mut database = reopen(half).map_err(|error| damaged(error.into()))?;
    if !database.check_integrity().map_err(|error| damaged(error.into()))? {
        return Err(RestoreError::Damaged(backup.into()));
    }
    match format_of(&database).map_err(damaged)? {
        Some(CURRENT_FORMAT) => {}
        Some(found) => return Err(RestoreError::OtherFormat { path: backup.into(), found }),
        None => return Err(RestoreError::Foreign(backup.into())),
    }
    let sessions = mark(&database, written).map_err(damaged)?;
    database.close().map_err(|error| storage(error.into()))?;
    let file = File::open(half).and_then(|file| file.sync_all().and_then(|()| file.metadata()));
    Ok(Copied { sessions, bytes: file.map_err(|error| storage(error.into()))?.len() })
}

/// Marks a store as a backup, if it is not one; answers how many sessions it has.
fn mark(database: &Database, written: Timestamp) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        let marked = meta.get(BACKUP)?.is_some();
        if !marked {
            meta.insert(BACKUP, written.0)?;
        }
    }
    transaction.commit()?;
    sessions_of(database)
}

/// Has the log of a backup go on further than it can have got since the backup was made, and takes the mark off, both or
/// neither; answers when it was made. `None` where the store is no backup.
pub(super) fn take_up(database: &Database, now: Timestamp) -> Result<Option<Timestamp>, redb::Error> {
    let made = database.begin_read()?.open_table(META)?.get(BACKUP)?.map(|at| Timestamp(at.value()));
    let Some(made) = made else { return Ok(None) };
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        let last = meta.get(LAST_REVOCATION)?.map_or(0, |number| number.value());
        let passed = now.0.saturating_sub(made.0).saturating_mul(JUMP_BY_MILLISECOND);
        // The life stays: epochs of another one would come before, or after, all that has begun in this.
        meta.insert(LAST_REVOCATION, last.saturating_add(JUMP).saturating_add(passed))?;
        meta.remove(BACKUP)?;
    }
    transaction.commit()?;
    Ok(Some(made))
}
