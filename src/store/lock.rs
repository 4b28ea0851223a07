//! One owner for each data folder.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::io::replace_file;

/// A data folder that belongs to this process alone until it is dropped. Whoever reads or writes below it asks for this
/// proof, so nothing in it is opened before the lock is held.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    /// The kernel gives the lock back when this closes, however the process ends.
    _lock: File,
}

/// Why a data folder could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("the data folder {} is in use by sidegate with pid {pid}", path.display())]
    InUse {
        /// The folder as it was named.
        path: PathBuf,
        /// What the other one left in the lock file; `unknown` in the moment before it did.
        pid: String,
    },
    /// It cannot be made or written to.
    #[error("the data folder {} cannot be used: {cause}", path.display())]
    Io {
        /// The folder as it was named.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

impl DataFolder {
    /// Takes `path` for this process; makes it, with mode 0700, where it is not there.
    ///
    /// # Errors
    /// When another process has it, or it cannot be made or written to.
    pub fn lock(path: &Path) -> Result<Self, LockError> {
        let io = |cause| LockError::Io { path: path.into(), cause };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::InUse { path: path.into(), pid: holder(&mut lock) });
            }
            Err(TryLockError::Error(cause)) => return Err(io(cause)),
        }
        // The file stays when the process ends: removing it would let two processes lock two files of one name.
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(io)?;
        Ok(Self { path: path.into(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts a file there whole or not at all, with mode 0600, and on disk before this returns.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        replace_file(&self.path.join(name), content, None)
    }

    /// Removes what a crash left of a file in the making. The lock is held, so nobody else is making it now.
    pub(super) fn discard(&self, half: &Path) -> io::Result<()> {
        match fs::remove_file(half) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Brings the folder's own entries to disk: a renamed file is only found after a power cut if this was done.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// The pid in a lock file that somebody else holds.
fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    // A pid has few digits; the bound is against a file that is no lock file.
    let read = lock.take(20).read_to_string(&mut text);
    match text.trim() {
        pid if read.is_ok() && !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()) => pid.into(),
        _ => "unknown".into(),
    }
}
