//! Where the signing keys lie: in a file of the data folder, or in a store that several processes share.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{runtime::Handle, sync::watch};

use super::file::{KeyFile, KeyFileError};
use crate::{
    store::{DataFolder, SharedKeys},
    types::Secret,
};

/// The file with all the keys.
const FILE: &str = "signing-keys.json";

/// Where the signing keys lie.
pub(in crate::issuer) enum Vault {
    /// In the data folder, which is this process's own.
    Folder(Arc<DataFolder>),
    /// In the store, beside those who share it. To be used on threads that may wait.
    Shared {
        store: SharedKeys,
        runtime: Handle,
        /// What was there when it was last looked at.
        known: Mutex<Box<[u8]>>,
        versions: Mutex<watch::Receiver<u64>>,
    },
}

impl Vault {
    /// Must be made within a runtime that outlives it.
    pub(in crate::issuer) fn new(folder: &Arc<DataFolder>, store: Option<SharedKeys>) -> Self {
        match store {
            None => Self::Folder(folder.clone()),
            Some(store) => {
                let versions = Mutex::new(store.versions());
                Self::Shared { store, runtime: Handle::current(), known: Mutex::default(), versions }
            }
        }
    }

    /// What lies there; `None` where nothing does yet.
    pub(in crate::issuer) fn read(&self) -> Result<Option<Secret>, KeyFileError> {
        match self {
            Self::Folder(folder) => KeyFile::new(folder, FILE).read_if_there(),
            Self::Shared { store, runtime, known, versions } => {
                versions.lock().unwrap_or_else(PoisonError::into_inner).mark_unchanged();
                let text = runtime.block_on(store.read());
                let text = text.map_err(|error| self.error(format!("cannot be read: {error}")))?;
                *known.lock().unwrap_or_else(PoisonError::into_inner) = text.clone().into();
                Ok((!text.is_empty()).then(|| Secret::new(text)))
            }
        }
    }

    /// Puts a text in place of what was read last. `false` where somebody else has done so in the meantime.
    pub(in crate::issuer) fn write(&self, text: &str) -> io::Result<bool> {
        match self {
            Self::Folder(folder) => folder.write(FILE, text.as_bytes()).map(|()| true),
            Self::Shared { store, runtime, known, .. } => {
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                let replaced = runtime.block_on(store.replace(&known, text.as_bytes())).map_err(io::Error::other)?;
                if replaced {
                    *known = text.as_bytes().into();
                }
                Ok(replaced)
            }
        }
    }

    /// Whether somebody else may have changed what lies there since it was read.
    pub(super) fn has_changed(&self) -> bool {
        match self {
            Self::Folder(_) => false,
            Self::Shared { versions, .. } => {
                versions.lock().unwrap_or_else(PoisonError::into_inner).has_changed().unwrap_or(false)
            }
        }
    }

    pub(super) fn error(&self, what: String) -> KeyFileError {
        match self {
            Self::Folder(folder) => KeyFile::new(folder, FILE).error(what),
            Self::Shared { .. } => KeyFileError { place: "the signing keys in the session store".into(), what },
        }
    }
}
