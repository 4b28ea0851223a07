//! Moving what one issuer keeps into the place of another: the store, and the signing keys beside it.

use std::{path::Path, sync::Arc};

use super::{
    Config, OpenError, StoreConfig,
    keys::{Seal, Vault, master_key},
};
use crate::{
    clock::Clock,
    store::{DataFolder, LockError, MoveError, Moved, Store, move_all},
};

/// Why nothing was moved.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// One of the two places cannot be opened.
    #[error("{0}: {1}")]
    Open(&'static str, OpenError),
    /// A folder is in use.
    #[error("{0}; stop it first")]
    Lock(#[from] LockError),
    /// There is nothing to be moved.
    #[error("there is no store in {0}")]
    Nothing(String),
    /// Both are one.
    #[error("both configurations have the same store")]
    Same,
    /// The keys do not fit.
    #[error("{0}")]
    Keys(String),
    /// The store was not moved.
    #[error(transparent)]
    Move(#[from] MoveError),
}

/// Moves everything that is kept by an issuer with the configuration `from` to where one with the configuration `to` keeps it:
/// sessions, the revocation log, codes, and the signing keys. Nobody is logged out. In an embedded store nothing may run
/// meanwhile; with one in Redis whoever runs answers 503. What is left behind does not serve again.
///
/// # Errors
/// When a place cannot be opened, there is something in the other already, or the master keys do not go together. What is in
/// the first place then serves as before.
pub async fn migrate(from: &Config, to: &Config, clock: &Clock) -> Result<Moved, MigrateError> {
    let left = match &from.store {
        StoreConfig::Embedded => Some(Store::file_in(&from.data)),
        StoreConfig::Redis(_) => None,
    };
    if let Some(file) = left.as_ref().filter(|file| !file.exists()) {
        return Err(MigrateError::Nothing(file.display().to_string()));
    }
    let folder = Arc::new(DataFolder::lock(&from.data)?);
    let other = if same(&from.data, &to.data) { folder.clone() } else { Arc::new(DataFolder::lock(&to.data)?) };
    if left.is_some() && matches!(to.store, StoreConfig::Embedded) && Arc::ptr_eq(&folder, &other) {
        return Err(MigrateError::Same);
    }
    let origin =
        open(from, &folder, clock).await.map_err(|error| MigrateError::Open("the store to be moved", error))?;
    let target = open(to, &other, clock).await.map_err(|error| MigrateError::Open("where it is to go", error))?;
    if origin.tail().position().life == target.tail().position().life {
        return Err(MigrateError::Same);
    }
    let keys = (Vault::new(&folder, origin.shared_keys()), Vault::new(&other, target.shared_keys()));
    let text = keys_for(&keys, to, &other).await?;
    // The keys go first: should the rest fail, they are in nobody's way when it is tried again.
    if let Some(text) = text {
        let (_, vault) = keys;
        let written = tokio::task::spawn_blocking(move || vault.write(&text)).await;
        match written {
            Ok(Ok(true)) => {}
            Ok(Err(error)) => return Err(MigrateError::Keys(format!("the signing keys cannot be written: {error}"))),
            Ok(Ok(false)) | Err(_) => return Err(MigrateError::Keys("the signing keys cannot be written".into())),
        }
    }
    let moved = move_all(&origin, &target).await?;
    drop(origin);
    if let Some(file) = left {
        let name = file.with_extension("redb.moved");
        // Whoever starts with the old configuration finds no store, and this one again by its name.
        std::fs::rename(&file, &name).map_err(|error| MigrateError::Keys(format!("{}: {error}", file.display())))?;
    }
    Ok(moved)
}

async fn open(config: &Config, folder: &Arc<DataFolder>, clock: &Clock) -> Result<Store, OpenError> {
    Ok(match &config.store {
        StoreConfig::Embedded => Store::open_embedded(folder.clone(), clock.clone())?,
        StoreConfig::Redis(redis) => Store::open_redis_to_move((**redis).clone(), clock.clone()).await?,
    })
}

/// The signing keys that are to go along; the target's master key must open them.
async fn keys_for(
    (from, to): &(Vault, Vault),
    config: &Config,
    folder: &Arc<DataFolder>,
) -> Result<Option<String>, MigrateError> {
    let wrong = |error: &dyn std::fmt::Display| MigrateError::Keys(error.to_string());
    let (stored, there) = tokio::task::block_in_place(|| Ok::<_, super::KeyFileError>((from.read()?, to.read()?)))
        .map_err(|error| wrong(&error))?;
    let Some(stored) = stored else { return Ok(None) };
    // In one folder they are where they belong already.
    if there.as_ref().is_some_and(|there| there.expose() == stored.expose()) {
        return Ok(None);
    }
    if there.is_some() {
        return Err(MigrateError::Keys("there are signing keys already where these are to go: move them away".into()));
    }
    let master = match &config.master_key {
        Some(key) => key.clone(),
        None => master_key(folder).map_err(|error| wrong(&error))?,
    };
    if !Seal::new(&master, &config.previous_master_keys).opens(stored.expose()) {
        return Err(MigrateError::Keys(
            "the master key of the configuration that is moved to does not open the signing keys: with another one every \
             session would end. Have the same one there; where none was configured it is in `master.key` in the data \
             folder: master_key: { from_file: … }"
                .into(),
        ));
    }
    String::from_utf8(stored.expose().to_vec())
        .map(Some)
        .map_err(|_| MigrateError::Keys("the signing keys are damaged".into()))
}

fn same(one: &Path, other: &Path) -> bool {
    let whole = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    whole(one) == whole(other)
}
