//! Files of the data folder that hold keys.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use aws_lc_rs::rand;
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};

use crate::{
    store::DataFolder,
    token::{Algorithm, keys::KeyError},
    types::Secret,
};

/// How long the master key is that we make, and the least one that we take.
pub const MASTER_KEY_BYTES: usize = 32;

/// No private key that is given is longer.
const MAX_GIVEN_BYTES: u64 = 64 * 1024;
/// No file of ours is longer.
const MAX_KEY_BYTES: u64 = 1 << 20;

/// A key file that cannot be used. It is never replaced: with the key go all the tokens it made.
#[derive(Debug, thiserror::Error)]
#[error("{place} {what}")]
pub struct KeyFileError {
    /// Where it is.
    pub place: String,
    /// What is the matter with it.
    pub what: String,
}

impl KeyFileError {
    pub(super) fn of(path: &Path, what: String) -> Self {
        Self { place: format!("the key file {}", path.display()), what }
    }
}

/// The key that refresh tokens are derived from.
pub(in crate::issuer) fn master_key(folder: &DataFolder) -> Result<Secret, KeyFileError> {
    let file = KeyFile::new(folder, "master.key");
    let key = file.read_or_make(|| {
        let mut key = vec![0; MASTER_KEY_BYTES];
        // A line's end at the end of a secret's file is taken for that: a configuration can name this file, too.
        while matches!(key.last(), Some(0 | b'\n' | b'\r')) {
            rand::fill(&mut key).map_err(|_| KeyError("the system has no random numbers".into()))?;
        }
        Ok(Secret::new(key))
    })?;
    if key.expose().len() != MASTER_KEY_BYTES {
        return Err(file.error(format!("is damaged: it should have {MASTER_KEY_BYTES} bytes")));
    }
    Ok(key)
}

/// Reads a private key that somebody else has made; says what is wrong with it, and nothing that is in it.
pub(super) fn read_private_key(path: &Path, algorithm: Algorithm) -> Result<Secret, String> {
    let file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let mut text = Vec::with_capacity(8192);
    let read = file.take(MAX_GIVEN_BYTES).read_to_end(&mut text);
    let text = Secret::new(text);
    read.map_err(|error| format!("cannot be read: {error}"))?;
    private_key_in(&text, algorithm).map_err(str::to_owned)
}

/// The private key in a file's text: PKCS#8 in PEM, or the bytes themselves for HS256.
///
/// # Errors
/// When there is none.
pub fn private_key_in(text: &Secret, algorithm: Algorithm) -> Result<Secret, &'static str> {
    if algorithm.is_symmetric() {
        return Ok(Secret::new(text.expose().trim_ascii().to_vec()));
    }
    match PrivateKeyDer::from_pem_slice(text.expose()) {
        Ok(PrivateKeyDer::Pkcs8(key)) => Ok(Secret::new(key.secret_pkcs8_der().to_vec())),
        Ok(_) => Err("its key is not in PKCS#8 form; `openssl pkcs8 -topk8 -nocrypt` makes that of it"),
        Err(_) => Err("there is no private key in PEM form in it (an encrypted one cannot be read)"),
    }
}

pub(super) struct KeyFile<'a> {
    folder: &'a DataFolder,
    name: String,
}

impl<'a> KeyFile<'a> {
    pub(super) fn new(folder: &'a DataFolder, name: &str) -> Self {
        Self { folder, name: name.into() }
    }

    /// What is in it; `None` where it is not there.
    pub(super) fn read_if_there(&self) -> Result<Option<Secret>, KeyFileError> {
        match self.read() {
            Ok(text) => Ok(Some(text)),
            Err(Fault::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(fault) => Err(self.fault(fault)),
        }
    }

    /// Takes it away, if it is there. Where that cannot be, it stays, and hurts nobody.
    pub(super) fn remove(&self) {
        let _ = fs::remove_file(self.folder.path().join(&self.name));
    }

    fn fault(&self, fault: Fault) -> KeyFileError {
        match fault {
            Fault::Io(error) => self.error(format!("cannot be read: {error}")),
            Fault::Open(mode) => self.error(format!(
                "can be used by everybody (mode {:03o}): make it 600, and think about who may have read it",
                mode & 0o777
            )),
        }
    }

    fn read_or_make(&self, make: impl FnOnce() -> Result<Secret, KeyError>) -> Result<Secret, KeyFileError> {
        match self.read() {
            Ok(key) => Ok(key),
            Err(Fault::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                let key = make().map_err(|error| self.error(format!("cannot be made: {error}")))?;
                let written = self.folder.write(&self.name, key.expose());
                written.map_err(|error| self.error(format!("cannot be written: {error}")))?;
                Ok(key)
            }
            Err(fault) => Err(self.fault(fault)),
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

    pub(super) fn error(&self, what: String) -> KeyFileError {
        KeyFileError::of(&self.folder.path().join(&self.name), what)
    }
}

/// Why a file gave no key.
enum Fault {
    Io(io::Error),
    Open(u32),
}
