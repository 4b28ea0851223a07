//! The form of a refresh token: `sg1.<key id>.<base64url(session ‖ generation ‖ MAC)>`.
//!
//! The MAC's key is derived for each session from a master key, and the MAC covers the client. So nothing secret is
//! stored, a successor can be made again, and a token that is forged or another client's is refused before any store is
//! asked.

use aws_lc_rs::{hkdf, hmac};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    store::{Presented, Session},
    types::{ClientId, Secret, SessionId},
};

/// What every refresh token begins with, so that a scanner for leaked secrets can find it.
const PREFIX: &str = "sg1.";

const SESSION_BYTES: usize = 16;
const GENERATION_BYTES: usize = 4;
const MAC_BYTES: usize = 32;
const TOKEN_BYTES: usize = SESSION_BYTES + GENERATION_BYTES + MAC_BYTES;

/// Makes and reads refresh tokens.
pub(super) struct RefreshTokens {
    current: Master,
    /// Keys of before, whose tokens are still good: each is answered with a successor of the current key.
    previous: Vec<Master>,
}

/// A master key, made ready.
struct Master {
    key: hkdf::Prk,
    id: Box<str>,
}

impl Master {
    fn new(master_key: &Secret) -> Self {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"sidegate refresh token, version 1");
        let key = salt.extract(master_key.expose());
        let mut id = [0; 6];
        key.expand(&[b"key id"], Length(id.len())).and_then(|okm| okm.fill(&mut id)).expect("6 bytes are few");
        Self { key, id: URL_SAFE_NO_PAD.encode(id).into() }
    }

    fn mac<'a>(&self, session: SessionId, body: &'a [u8], client: &'a ClientId) -> Mac<'a> {
        let info: [&[u8]; 2] = [b"session", &session.0];
        let key = self.key.expand(&info, hmac::HMAC_SHA256).expect("a SHA-256 key is short").into();
        Mac { key, body, client }
    }
}

impl RefreshTokens {
    pub(super) fn new(master_key: &Secret, previous: &[Secret]) -> Self {
        Self { current: Master::new(master_key), previous: previous.iter().map(Master::new).collect() }
    }

    /// The refresh token of the session's live generation. It is the same whenever it is made.
    pub(super) fn issue(&self, session: &Session) -> String {
        let mut bytes = [0; TOKEN_BYTES];
        let (body, mac) = bytes.split_at_mut(SESSION_BYTES + GENERATION_BYTES);
        body[..SESSION_BYTES].copy_from_slice(&session.id.0);
        body[SESSION_BYTES..].copy_from_slice(&session.generation.to_be_bytes());
        mac.copy_from_slice(self.current.mac(session.id, body, &session.client).sign().as_ref());
        format!("{PREFIX}{}.{}", self.current.id, URL_SAFE_NO_PAD.encode(bytes))
    }

    /// What a refresh token names, if we made it, and for this client.
    pub(super) fn read(&self, token: &str, client: &ClientId) -> Option<Presented> {
        let (key_id, text) = token.strip_prefix(PREFIX)?.split_once('.')?;
        let master = [&self.current].into_iter().chain(&self.previous).find(|master| *master.id == *key_id)?;
        // One spelling for each token: no padding, no stray bits, no other length.
        let bytes: [u8; TOKEN_BYTES] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (body, mac) = bytes.split_at(SESSION_BYTES + GENERATION_BYTES);
        let (session, generation) = body.split_at(SESSION_BYTES);
        let session = SessionId(session.try_into().ok()?);
        master
            .mac(session, body, client)
            .verify(mac)
            .then_some(Presented { session, generation: u32::from_be_bytes(generation.try_into().ok()?) })
    }

    /// Whether the text means to be a refresh token of ours.
    pub(super) fn looks_like(token: &str) -> bool {
        token.starts_with(PREFIX)
    }
}

/// HMAC over the session and generation, which have a fixed length, and the client's name behind them.
struct Mac<'a> {
    key: hmac::Key,
    body: &'a [u8],
    client: &'a ClientId,
}

impl Mac<'_> {
    fn message(&self) -> Vec<u8> {
        [self.body, self.client.as_str().as_bytes()].concat()
    }

    fn sign(&self) -> hmac::Tag {
        hmac::sign(&self.key, &self.message())
    }

    fn verify(&self, mac: &[u8]) -> bool {
        mac.len() == MAC_BYTES && hmac::verify(&self.key, &self.message(), mac).is_ok()
    }
}

/// How many bytes HKDF is to make.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}
