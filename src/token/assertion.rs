//! What a client signs to say who it is (RFC 7523 §3, OpenID Connect Core §9): a list of named checks, as for an access token.
//!
//! Nothing here waits. That an assertion is good once is for whoever shares a memory with the other processes to see to.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    claims::{check_clock, required_text, texts},
    json::object,
    keys::KeySet,
    verify::{Header, Parts, Refused, check_signature, decode, find_in, split},
};
use crate::clock::Timestamp;

/// The longest assertion that is looked at, in bytes: one with an RSA key of 8192 bits fits several times.
pub const MAX_BYTES: usize = 8192;
/// The longest `jti`, in bytes.
const MAX_JTI_BYTES: usize = 256;
/// For how long one is good at the most, and has to be remembered: until `exp`, or from `iat` on where `exp` is further ahead, as
/// Authlib's is by an hour.
const LONGEST: Duration = Duration::from_secs(300);
/// How far clients' clocks may be from ours.
const LEEWAY: Duration = Duration::from_secs(30);

/// An assertion that has been read, and proves nothing yet.
pub struct Assertion<'a> {
    parts: Parts<'a>,
    header: Header,
    claims: Map<String, Value>,
}

/// What an assertion proves, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven<'a> {
    /// What it is told from others of its client by.
    pub jti: &'a str,
    /// From when on it is not good any more in any case, leeway included.
    pub until: Timestamp,
}

impl<'a> Assertion<'a> {
    /// Reads one.
    ///
    /// # Errors
    /// When it is no JWT, or more of one than is looked at.
    pub fn read(text: &'a str) -> Result<Self, Refused> {
        let parts = split(text, MAX_BYTES)?;
        let header = Header::read(parts.header)?;
        let claims = object(&decode(parts.payload)?).ok_or(Refused::Malformed)?;
        Ok(Self { parts, header, claims })
    }

    /// Which client it says that it is by (§3, number 2).
    ///
    /// # Errors
    /// When it does not say.
    pub fn client(&self) -> Result<&str, Refused> {
        required_text(&self.claims, "sub")
    }

    /// Whether the client has signed it, for whoever has one of these names, and now.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(
        &self,
        client: &str,
        keys: &KeySet,
        audiences: &[&str],
        now: Timestamp,
    ) -> Result<Proven<'_>, Refused> {
        // Of a key that both have, either could have made it.
        if self.header.algorithm.is_symmetric() {
            return Err(Refused::AlgorithmNotAllowed);
        }
        // No JWT of another kind that the same key may sign (RFC 8725 §3.11); most clients name no kind, or the general one.
        if !matches!(self.header.media_type().as_deref(), None | Some("jwt" | "client-authentication+jwt")) {
            return Err(Refused::WrongType);
        }
        let (_, key) = find_in(keys, &self.header)?;
        check_signature(key, self.parts)?;
        if required_text(&self.claims, "iss")? != client || self.client()? != client {
            return Err(Refused::UnknownIssuer);
        }
        self.check_audience(audiences)?;
        let until = self.check_times(now)?;
        let jti = required_text(&self.claims, "jti")?;
        if jti.len() > MAX_JTI_BYTES {
            return Err(Refused::MalformedClaim);
        }
        Ok(Proven { jti, until })
    }

    fn check_times(&self, now: Timestamp) -> Result<Timestamp, Refused> {
        let (expires_at, issued_at) = check_clock(LEEWAY, &self.claims, now)?;
        let until = issued_at.map_or(expires_at, |at| expires_at.min(at + LONGEST + LEEWAY));
        match until {
            _ if until <= now => Err(Refused::Expired),
            _ if until > now + LONGEST + 2 * LEEWAY => Err(Refused::LifetimeTooLong),
            _ => Ok(until),
        }
    }

    /// It is for us, and for nobody else: another server that it was also for could use it here.
    fn check_audience(&self, ours: &[&str]) -> Result<(), Refused> {
        let audiences = texts(self.claims.get("aud").ok_or(Refused::MissingClaim)?)?;
        match &*audiences {
            [only] if ours.contains(&&**only) => Ok(()),
            _ => Err(Refused::WrongAudience),
        }
    }
}
