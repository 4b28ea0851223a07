//! Authorization codes (RFC 6749 §4.1.2): 31 random bytes, and the part in which the session will be that comes of one. A store
//! has them by their digest alone.

use std::time::Duration;

use aws_lc_rs::{digest, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{
    store::Digest,
    token::keys::KeyError,
    types::{SessionId, Subject, Thumbprint},
};

/// How long one is good for.
pub(super) const LIFETIME: Duration = Duration::from_secs(60);

/// How long one is remembered that has been used, so that a second use is known for what it is: far longer than it can take from
/// there to the session, too.
pub(super) const REMEMBERED: Duration = Duration::from_secs(600);

/// What every one begins with, so that a scanner for leaked secrets can find it.
const PREFIX: &str = "sgc1.";
const BYTES: usize = 32;
/// The version byte in front of what is kept.
const VERSION: u8 = 2;

/// What is kept under a code until it comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) client: Box<str>,
    pub(super) redirect_uri: Box<str>,
    /// The S256 challenge (RFC 7636 §4.2); a client that authenticates may do without.
    pub(super) challenge: Option<[u8; 32]>,
    pub(super) subject: Box<str>,
    pub(super) scopes: Box<str>,
    /// What the client wants to find again in an ID token.
    pub(super) nonce: Option<Box<str>>,
    /// The key that its client will show (RFC 9449 §10).
    pub(super) key: Option<Thumbprint>,
    /// What it was asked for (RFC 8707 §2.1).
    pub(super) resources: Box<[Box<str>]>,
    /// The login at the browser that it was given to.
    pub(super) login: SessionId,
}

/// A new code for a subject.
pub(super) fn generate(subject: &Subject) -> Result<String, KeyError> {
    let mut bytes = [0; BYTES];
    rand::fill(&mut bytes).map_err(|_| KeyError("the system has no random numbers".into()))?;
    bytes[BYTES - 1] = subject.part();
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// Under what a code is kept, and a fresh name for the session that is to come of it; `None` where nobody made it.
pub(super) fn read(code: &str) -> Option<(Digest, SessionId)> {
    let bytes: [u8; BYTES] = URL_SAFE_NO_PAD.decode(code.strip_prefix(PREFIX)?).ok()?.try_into().ok()?;
    Some((digest_of(code), SessionId::generate_in(bytes[BYTES - 1])))
}

pub(super) fn digest_of(code: &str) -> Digest {
    sha256(code.as_bytes())
}

pub(super) fn sha256(bytes: &[u8]) -> Digest {
    let mut digest = [0; 32];
    digest.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    digest
}

impl Kept {
    pub(super) fn encode(&self) -> Box<[u8]> {
        postcard::to_extend(self, vec![VERSION]).expect("texts and numbers have a known length").into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let [VERSION, kept @ ..] = bytes else { return None };
        postcard::from_bytes(kept).ok()
    }
}
