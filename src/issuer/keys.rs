//! The issuer's own keys, made on first start and kept in the data folder.

use std::{
    fs::{File, Permissions},
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
};

use aws_lc_rs::rand;

use crate::{
    store::DataFolder,
    token::{Algorithm, keys::KeyError, sign::Signer},
    types::Secret,
};

/// How long the master key is that we make, and the least one that we take.
pub const MASTER_KEY_BYTES: usize = 32;

/// No private key of ours is longer.
const MAX_KEY_BYTES: u64 = 16 * 1024;

/// A key file that cannot be used. It is never replaced: with the key go all the tokens it made.
#[derive(Debug, thiserror::Error)]
#[error("the key file {} {what}", path.display())]
pub struct KeyFileError {
    /// The file.
    pub path: PathBuf,
    /// What is the matter with it.
    pub what: String,
}

/// The key that refresh tokens are derived from.
pub(super) fn master_key(folder: &DataFolder) -> Result<Secret, KeyFileError> {
    let file = KeyFile { folder, name: "master.key".into() };
    let key = file.read_or_make(|| {
        let mut key = vec![0; MASTER_KEY_BYTES];
        rand::fill(&mut key).map_err(|_| KeyError("the system has no random numbers".into()))?;
        Ok(Secret::new(key))
    })?;
    if key.expose().len() != MASTER_KEY_BYTES {
        return Err(file.error(format!("is damaged: it should have {MASTER_KEY_BYTES} bytes")));
    }
    Ok(key)
}

/// The key that access tokens are signed with; each algorithm has a file of its own, so that a change of the algorithm and
/// back again finds the old key.
pub(super) fn signer(folder: &DataFolder, algorithm: Algorithm) -> Result<Signer, KeyFileError> {
    let file = KeyFile { folder, name: format!("signing-{}.key", algorithm.name().to_ascii_lowercase()) };
    let key = file.read_or_make(|| Signer::generate(algorithm))?;
    Signer::new(algorithm, &key).map_err(|error| file.error(format!("cannot be used: {error}")))
}

struct KeyFile<'a> {
    folder: &'a DataFolder,
    name: String,
}

impl KeyFile<'_> {
    fn read_or_make(&self, make: impl FnOnce() -> Result<Secret, KeyError>) -> Result<Secret, KeyFileError> {
        match self.read() {
            Ok(key) => Ok(key),
            Err(Fault::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                let key = make().map_err(|error| self.error(format!("cannot be made: {error}")))?;
                let written = self.folder.write_new(&self.name, key.expose());
                written.map_err(|error| self.error(format!("cannot be written: {error}")))?;
                Ok(key)
            }
            Err(Fault::Io(error)) => Err(self.error(format!("cannot be read: {error}"))),
            Err(Fault::Open(mode)) => Err(self.error(format!(
                "can be used by everybody (mode {:03o}): make it 600, and think about who may have read it",
                mode & 0o777
            ))),
        }
    }

    fn read(&self) -> Result<Secret, Fault> {
        let file = File::open(self.folder.path().join(&self.name)).map_err(Fault::Io)?;
        let mode = Permissions::mode(&file.metadata().map_err(Fault::Io)?.permissions());
        // The group is left to the operator: a mounted secret is often readable by the pod's own.
        if mode & 0o007 != 0 {
            return Err(Fault::Open(mode));
        }
        let mut key = Vec::with_capacity(4096);
        file.take(MAX_KEY_BYTES).read_to_end(&mut key).map_err(Fault::Io)?;
        Ok(Secret::new(key))
    }

    fn error(&self, what: String) -> KeyFileError {
        KeyFileError { path: self.folder.path().join(&self.name), what }
    }
}

/// Why a file gave no key.
enum Fault {
    Io(io::Error),
    Open(u32),
}
