//! Keys as they lie on disk: sealed under a key that the master key yields, each for its own name and algorithm alone.

use std::sync::Arc;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf, rand,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::entry::{Entry, State};
use crate::{
    clock::Timestamp,
    token::{Algorithm, keys::KeyError, sign::Signer},
    types::Secret,
};

/// What seals with the current master key, and opens what that or one of before has sealed.
pub(in crate::issuer) struct Seal {
    current: LessSafeKey,
    previous: Vec<LessSafeKey>,
}

/// A private key that is sealed: a nonce, and what only the master key opens; in base64url.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub(super) struct Stored(Box<str>);

/// The file.
#[derive(serde::Serialize, serde::Deserialize)]
struct Wire {
    version: u32,
    keys: Vec<WireKey>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct WireKey {
    kid: Box<str>,
    alg: Box<str>,
    state: State,
    since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<Stored>,
}

const VERSION: u32 = 1;

impl Seal {
    pub(in crate::issuer) fn new(master: &Secret, previous: &[Secret]) -> Self {
        Self { current: sealing_key(master), previous: previous.iter().map(sealing_key).collect() }
    }

    /// A key that is new here.
    pub(super) fn entry(
        &self,
        algorithm: Algorithm,
        private_key: &Secret,
        state: State,
        now: Timestamp,
    ) -> Result<Entry, KeyError> {
        let signer = Signer::new(algorithm, private_key)?;
        let (kid, key) = (Box::from(signer.kid()), Arc::new(signer.key()?));
        let stored = self.close(&kid, algorithm, private_key)?;
        Ok(Entry { state, since: now, until: None, kid, algorithm, key: Some((Arc::new(signer), key, stored)) })
    }

    fn close(&self, kid: &str, algorithm: Algorithm, private_key: &Secret) -> Result<Stored, KeyError> {
        let mut nonce = [0; NONCE_LEN];
        // So few are ever sealed under one key that random ones do not meet.
        rand::fill(&mut nonce).map_err(|_| KeyError("the system has no random numbers".into()))?;
        let mut sealed = private_key.expose().to_vec();
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        let closed = self.current.seal_in_place_append_tag(nonce_used, bound_to(kid, algorithm), &mut sealed);
        closed.map_err(|_| KeyError("the key could not be sealed".into()))?;
        Ok(Stored(URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat()).into()))
    }

    /// What was sealed, and whether that was with a master key of before.
    fn open(&self, kid: &str, algorithm: Algorithm, stored: &Stored) -> Option<(Secret, bool)> {
        let opened = open_with(&self.current, kid, algorithm, stored).map(|secret| (secret, false));
        let mut previous = self.previous.iter();
        opened.or_else(|| previous.find_map(|key| open_with(key, kid, algorithm, stored)).map(|secret| (secret, true)))
    }

    /// Reads the file, and says whether something in it was sealed with a master key of before; or what is wrong with it.
    pub(super) fn open_all(&self, text: &[u8]) -> Result<(Vec<Entry>, bool), String> {
        let wire: Wire = serde_json::from_slice(text).map_err(|error| format!("is damaged: {error}"))?;
        if wire.version != VERSION {
            return Err(format!("is of version {}, which this Sidegate does not know", wire.version));
        }
        let mut sealed_before = false;
        let entries = wire.keys.into_iter().map(|key| self.open_one(key, &mut sealed_before));
        Ok((entries.collect::<Result<_, _>>()?, sealed_before))
    }

    /// Whether it opens everything in a text.
    pub(in crate::issuer) fn opens(&self, text: &[u8]) -> bool {
        self.open_all(text).is_ok()
    }

    fn open_one(&self, wire: WireKey, sealed_before: &mut bool) -> Result<Entry, String> {
        let WireKey { kid, alg, state, since, until, sealed } = wire;
        let algorithm: Algorithm = alg.parse().map_err(|()| format!("names an algorithm that is unknown: {alg:?}"))?;
        let key = match (state, sealed) {
            (State::Revoked, _) => None,
            (State::Next | State::Active | State::Retired, None) => {
                return Err(format!("is damaged: {kid} has no key"));
            }
            (State::Next | State::Active | State::Retired, Some(sealed)) => {
                let opened = self.open(&kid, algorithm, &sealed);
                let (private_key, before) = opened.ok_or_else(|| {
                    format!(
                        "does not go with the master key (at {kid}): bring that back, name it among \
                         `previous_master_keys`, or move it away to have new keys made"
                    )
                })?;
                let sealed = if before {
                    *sealed_before = true;
                    self.close(&kid, algorithm, &private_key).map_err(|error| error.to_string())?
                } else {
                    sealed
                };
                let signer = Signer::new(algorithm, &private_key).map_err(|error| error.to_string())?;
                let key = signer.key().map_err(|error| error.to_string())?;
                Some((Arc::new(signer), Arc::new(key), sealed))
            }
        };
        Ok(Entry { state, since, until, kid, algorithm, key })
    }

    /// The text of the file.
    pub(super) fn close_all(&self, entries: &[Entry]) -> String {
        let wire = |entry: &Entry| WireKey {
            kid: entry.kid.clone(),
            alg: entry.algorithm.name().into(),
            state: entry.state,
            since: entry.since,
            until: entry.until,
            sealed: entry.key.as_ref().map(|(_, _, stored)| stored.clone()),
        };
        let wire = Wire { version: VERSION, keys: entries.iter().map(wire).collect() };
        serde_json::to_string_pretty(&wire).expect("names, numbers and texts can be written")
    }
}

fn sealing_key(master: &Secret) -> LessSafeKey {
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"sidegate signing keys, version 1");
    let key = salt.extract(master.expose());
    let key = key.expand(&[b"seal"], &AES_256_GCM).expect("a key is shorter than HKDF can make them");
    LessSafeKey::new(UnboundKey::from(key))
}

fn open_with(key: &LessSafeKey, kid: &str, algorithm: Algorithm, stored: &Stored) -> Option<Secret> {
    let mut bytes = URL_SAFE_NO_PAD.decode(&*stored.0).ok()?;
    let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let opened = key.open_in_place(nonce, bound_to(kid, algorithm), sealed).ok()?;
    let secret = Secret::new(opened.to_vec());
    zeroize::Zeroize::zeroize(&mut bytes);
    Some(secret)
}

/// A sealed key cannot be passed off as another.
fn bound_to(kid: &str, algorithm: Algorithm) -> Aad<Vec<u8>> {
    Aad::from(format!("{}\0{kid}", algorithm.name()).into_bytes())
}
