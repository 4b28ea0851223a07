//! Verifying what people and clients know: Argon2id off the runtime and bounded, SHA-256 on the spot.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use argon2::{Algorithm, Argon2, Block, Params, Version, password_hash::phc::PasswordHash};
use aws_lc_rs::{digest, hmac, rand};
use subtle::ConstantTimeEq as _;
use tokio::{runtime::Handle, sync::Semaphore, time::timeout};

use super::{SecretHash, error::Error};
use crate::types::Secret;

/// How many passwords are hashed at one time: each takes 20 ms of a core and 19 MiB.
const AT_ONCE: usize = 2;

/// How many more may wait; the next one is told to come back.
const WAITING: usize = 64;

/// How long one may wait.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most that looking at one password may cost: memory in KiB, passes, lanes.
const MAX_COST: (u32, u32, u32) = (1024 * 1024, 16, 16);

/// Allocations above 32 MiB are given back to the system by every common allocator as soon as they are freed, where
/// smaller ones may stay with the process for good. What is never touched takes no memory.
const RESERVED_BLOCKS: usize = 33 * 1024;

/// Verifies secrets, and remembers those of clients that were right.
pub(super) struct Passwords {
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
    /// Whose spare threads hash.
    runtime: Handle,
    process_key: hmac::Key,
    /// The MAC of each client's right secret, once it has been seen, by the secret's hash. Clients' hashes never change under
    /// an issuer, so there are at most as many as those.
    remembered: Mutex<HashMap<Arc<str>, hmac::Tag>>,
}

impl Passwords {
    /// Must be called within the issuer's runtime.
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        rand::fill(&mut key).expect("a system without random numbers cannot issue tokens");
        Self {
            admitted: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
            running: Arc::new(Semaphore::new(AT_ONCE)),
            runtime: Handle::current(),
            process_key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            remembered: Mutex::default(),
        }
    }

    /// Whether `secret` is the one behind `hash`.
    ///
    /// # Errors
    /// When too many wait already, or this one has waited too long.
    pub(super) async fn verify(&self, hash: &SecretHash, secret: &str) -> Result<bool, Error> {
        let phc = match hash {
            SecretHash::Sha256(expected) => return Ok(is_digest(expected, secret)),
            SecretHash::Argon2id(phc) => phc.clone(),
        };
        let admitted = self.admitted.clone().try_acquire_owned().map_err(|_| Error::Busy)?;
        let running = timeout(PATIENCE, self.running.clone().acquire_owned()).await.map_err(|_| Error::Busy)?;
        let running = running.map_err(|_| Error::Busy)?;
        let secret = Secret::new(secret.into());
        // The permits go along: a client that hangs up must not make room for more than can run.
        let verified = self.runtime.spawn_blocking(move || {
            let _permits = (admitted, running);
            Argon2id::parse(&phc).is_ok_and(|hash| hash.verify(secret.expose()))
        });
        verified.await.map_err(|_| Error::Busy)
    }

    /// Whether it is known at once that `secret` is behind one of a client's hashes. One that takes Argon2 is hashed once and
    /// recognised from then on: Argon2 is never in the way of a refresh.
    pub(super) fn recognise_client(&self, hashes: &[SecretHash], secret: &str) -> bool {
        hashes.iter().any(|hash| self.recognises(hash, secret))
    }

    /// The same where it has to be hashed.
    ///
    /// # Errors
    /// As [`Passwords::verify`].
    pub(super) async fn verify_client(&self, hashes: &[SecretHash], secret: &str) -> Result<bool, Error> {
        for hash in hashes {
            let SecretHash::Argon2id(phc) = hash else { continue };
            // Somebody else may have shown it meanwhile.
            if self.recognises(hash, secret) {
                return Ok(true);
            }
            if self.verify(hash, secret).await? {
                let tag = hmac::sign(&self.process_key, secret.as_bytes());
                self.remembered.lock().unwrap_or_else(PoisonError::into_inner).insert(phc.clone(), tag);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether it is known at once that `secret` is the one behind `hash`. Compared in constant time.
    fn recognises(&self, hash: &SecretHash, secret: &str) -> bool {
        match hash {
            SecretHash::Sha256(expected) => is_digest(expected, secret),
            SecretHash::Argon2id(phc) => {
                let seen = self.remembered.lock().unwrap_or_else(PoisonError::into_inner).get(phc).copied();
                seen.is_some_and(|tag| hmac::verify(&self.process_key, secret.as_bytes(), tag.as_ref()).is_ok())
            }
        }
    }
}

fn is_digest(expected: &[u8; 32], secret: &str) -> bool {
    digest::digest(&digest::SHA256, secret.as_bytes()).as_ref().ct_eq(expected).into()
}

/// Whether a hash can be verified against; if not, what it is instead.
///
/// # Errors
/// When it is no Argon2id hash, or asks for more work than a login is worth. Never repeats the text, which may be the secret.
pub fn check_hash(hash: &SecretHash) -> Result<(), &'static str> {
    match hash {
        SecretHash::Argon2id(phc) => Argon2id::parse(phc).map(drop),
        SecretHash::Sha256(_) => Ok(()),
    }
}

/// A PHC string taken apart.
struct Argon2id {
    hasher: Argon2<'static>,
    blocks: usize,
    salt: Box<[u8]>,
    expected: Box<[u8]>,
}

impl Argon2id {
    fn parse(phc: &str) -> Result<Self, &'static str> {
        let hash = PasswordHash::new(phc).map_err(|_| "is no PHC string")?;
        let algorithm = Algorithm::try_from(hash.algorithm.as_str()).map_err(|_| "is not an Argon2id hash")?;
        if algorithm != Algorithm::Argon2id {
            return Err("is not an Argon2id hash");
        }
        // A PHC string without `v=` is of the first version, which nobody should still have.
        let version = hash.version.and_then(|v| Version::try_from(v).ok()).filter(|v| *v == Version::V0x13);
        let version = version.ok_or("is not of version 19 of Argon2")?;
        let params = Params::try_from(&hash).map_err(|_| "has parameters that Argon2id does not take")?;
        let (memory, passes, lanes) = MAX_COST;
        if params.m_cost() > memory || params.t_cost() > passes || params.p_cost() > lanes {
            return Err("asks for more than 1 GiB of memory, 16 passes or 16 lanes");
        }
        let (Some(salt), Some(expected)) = (&hash.salt, &hash.hash) else { return Err("lacks its salt or its hash") };
        Ok(Self {
            blocks: params.block_count(),
            salt: salt.as_ref().into(),
            expected: expected.as_bytes().into(),
            hasher: Argon2::new(algorithm, version, params),
        })
    }

    fn verify(&self, secret: &[u8]) -> bool {
        let mut memory = Vec::with_capacity(self.blocks.max(RESERVED_BLOCKS));
        memory.resize(self.blocks, Block::default());
        let mut actual = vec![0; self.expected.len()];
        let hashed = self.hasher.hash_password_into_with_memory(secret, &self.salt, &mut actual, &mut memory);
        hashed.is_ok() && bool::from(actual.ct_eq(&self.expected))
    }
}
