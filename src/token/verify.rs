//! Verifying an access token: a list of named checks, in an order in which no step trusts what a later one has to prove.
//!
//! Nothing here waits, locks, or reads anything but the token, the keys in memory, and the clock.

use std::{cell::Cell, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{
    Algorithm, Identity,
    claims::{
        check_audience, check_is_access_token, check_profile, check_times, read_confirmation, read_scopes,
        required_text,
    },
    json::object,
    keys::{Key, KeySet, NoKey, Verifier as KeyVerifier},
    live::{Keys, LiveKeys},
    provider::{self, Profile},
    remote::{Fetching, Remote},
};
use crate::{
    clock::Timestamp,
    types::{Fingerprint, IssuerUrl},
};

/// Why a token was refused. The name is for the log and the metric; the client is told less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is longer than what is looked at.
    TooLarge,
    /// Five parts: a JWE (RFC 7516), which is not even read.
    Encrypted,
    /// It is not three parts of strict base64url, two of them JSON objects.
    Malformed,
    /// Its `alg` is `none`, or nothing we know.
    UnsupportedAlgorithm,
    /// It asks for an extension to be understood.
    UnknownCritical,
    /// It brings its own key.
    KeyInHeader,
    /// Its `typ` is not that of an access token of its provider.
    WrongType,
    /// No provider has its `iss`.
    UnknownIssuer,
    /// Its provider does not sign with its `alg`.
    AlgorithmNotAllowed,
    /// Its provider's keys are not here, so that nothing can be said about it.
    KeysUnavailable,
    /// Its provider has no such key.
    UnknownKey,
    /// It names no key, and more than one fits.
    AmbiguousKey,
    /// The key it names is for another algorithm.
    WrongKeyAlgorithm,
    /// The signature is not the key's.
    BadSignature,
    /// `exp` has passed.
    Expired,
    /// `nbf` has not come.
    NotYetValid,
    /// `iat` has not come.
    IssuedInFuture,
    /// It is valid for longer than its provider's tokens may be.
    LifetimeTooLong,
    /// `aud` names none of ours.
    WrongAudience,
    /// A claim that must be there is not.
    MissingClaim,
    /// A claim has the wrong type, or a value out of range.
    MalformedClaim,
    /// It is bound to something, and nothing is known of how that is shown.
    UnknownConfirmation,
    /// Found by who asks the revocation table.
    Revoked,
}

impl Refused {
    /// The name in metrics and logs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooLarge => "token_too_large",
            Self::Encrypted => "token_encrypted",
            Self::Malformed => "token_malformed",
            Self::UnsupportedAlgorithm => "algorithm_unsupported",
            Self::UnknownCritical => "critical_unknown",
            Self::KeyInHeader => "key_in_header",
            Self::WrongType => "type_wrong",
            Self::UnknownIssuer => "issuer_unknown",
            Self::AlgorithmNotAllowed => "algorithm_not_allowed",
            Self::KeysUnavailable => "keys_unavailable",
            Self::UnknownKey => "key_unknown",
            Self::AmbiguousKey => "key_ambiguous",
            Self::WrongKeyAlgorithm => "key_wrong_algorithm",
            Self::BadSignature => "signature_bad",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::IssuedInFuture => "issued_in_future",
            Self::LifetimeTooLong => "lifetime_too_long",
            Self::WrongAudience => "audience_wrong",
            Self::MissingClaim => "claim_missing",
            Self::MalformedClaim => "claim_malformed",
            Self::UnknownConfirmation => "confirmation_unknown",
            Self::Revoked => "revoked",
        }
    }
}

/// The providers, each with its keys, ready to verify.
#[derive(Debug)]
pub struct Verifier {
    providers: Vec<Provider>,
    max_bytes: usize,
}

/// A provider with its keys.
#[derive(Debug)]
pub struct Provider {
    /// What it was configured with.
    pub config: provider::Config,
    /// Its keys.
    pub keys: Arc<LiveKeys>,
    /// Where they come from, if it publishes them.
    pub remote: Option<Arc<Fetching>>,
}

/// What a token was found to prove, and by which key.
#[derive(Debug)]
pub struct Proof {
    /// Whom it speaks for.
    pub identity: Identity,
    /// The key that signed it.
    pub key: Arc<Key>,
    /// The set the key was found in.
    pub(super) generation: u64,
}

/// Why a token was refused, and whose it claims to be.
#[derive(Debug)]
pub struct Refusal {
    /// The reason.
    pub why: Refused,
    /// The index of its provider, once that is known.
    pub provider: Option<usize>,
    /// The key it names, where that is all that is wrong with it so far: its provider may have it since.
    pub unknown_kid: Option<Box<str>>,
}

impl From<Refused> for Refusal {
    fn from(why: Refused) -> Self {
        Self { why, provider: None, unknown_kid: None }
    }
}

/// The longest `kid` that is looked for.
const MAX_KID_BYTES: usize = 256;

impl Verifier {
    /// Takes the providers in the order in which routes refer to them. `max_bytes` bounds a token.
    pub fn new(providers: Vec<Provider>, max_bytes: usize) -> Self {
        Self { providers, max_bytes }
    }

    /// Verifies `token` at the time `now`, but for its revocation, which can change at any moment and is asked each time.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Proof, Refusal> {
        let parts = split(token, self.max_bytes)?;
        let header = Header::read(parts.header)?;
        self.check_algorithm_is_known(header.algorithm)?;
        let claims = object(&decode(parts.payload)?).ok_or(Refused::Malformed)?;
        let (index, provider) = self.find_provider(&claims)?;
        let refused = |why| {
            let unknown_kid = if why == Refused::UnknownKey { header.kid.clone() } else { None };
            Refusal { why, provider: Some(index), unknown_kid }
        };
        provider.verify(index, parts, &header, claims, now).map_err(refused)
    }

    /// What a JWT of that `typ` says, if one of its provider's keys has signed it now or before. It is no access token: whom it is
    /// for, and until when, is for whoever asks to judge.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn signed(&self, token: &str, typ: &str) -> Result<Map<String, Value>, Refused> {
        let parts = split(token, self.max_bytes)?;
        let header = Header::read(parts.header)?;
        self.check_algorithm_is_known(header.algorithm)?;
        let claims = object(&decode(parts.payload)?).ok_or(Refused::Malformed)?;
        let (_, provider) = self.find_provider(&claims)?;
        check_algorithm(provider, header.algorithm)?;
        if header.typ.as_deref() != Some(typ) {
            return Err(Refused::WrongType);
        }
        let keys = provider.keys.load();
        let (_, verifier) = find_key(&keys, &header)?;
        check_signature(verifier, parts)?;
        Ok(claims)
    }

    /// Whether a token that was verified by `key`, of this provider, would still be. `seen` is the set in which the key was
    /// found last.
    pub fn still_knows(&self, provider: usize, key: &Arc<Key>, seen: &Cell<u64>) -> bool {
        let Some(provider) = self.providers.get(provider) else { return false };
        let keys = provider.keys.load();
        if seen.get() == keys.generation {
            return true;
        }
        let known = keys.set.as_ref().is_some_and(|set| set.contains(key));
        if known {
            seen.set(keys.generation);
        }
        known
    }

    /// Where a provider's keys come from, if it publishes them.
    pub fn remote(&self, provider: usize) -> Option<&Arc<Remote>> {
        Some(self.providers.get(provider)?.remote.as_ref()?.remote())
    }

    /// What fetches the keys of the provider that was made of the same, if one was.
    pub fn fetching(&self, fingerprint: &Fingerprint) -> Option<&Arc<Fetching>> {
        self.providers.iter().find(|provider| provider.config.fingerprint == *fingerprint)?.remote.as_ref()
    }

    /// Those providers that publish their keys.
    pub fn remotes(&self) -> impl Iterator<Item = &Arc<Remote>> {
        self.providers.iter().filter_map(|provider| Some(provider.remote.as_ref()?.remote()))
    }

    /// The names of the providers, in their order.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.providers.iter().map(|provider| &provider.config.name)
    }

    /// The `iss` of the providers, in their order.
    pub fn issuers(&self) -> impl Iterator<Item = &IssuerUrl> {
        self.providers.iter().map(|provider| &provider.config.issuer)
    }

    fn check_algorithm_is_known(&self, algorithm: Algorithm) -> Result<(), Refused> {
        let known = self.providers.iter().any(|p| p.config.algorithms.contains(&algorithm));
        known.then_some(()).ok_or(Refused::AlgorithmNotAllowed)
    }

    fn find_provider(&self, claims: &Map<String, Value>) -> Result<(usize, &Provider), Refused> {
        let issuer = required_text(claims, "iss")?;
        let found = self.providers.iter().enumerate().find(|(_, p)| p.config.issuer.as_str() == issuer);
        found.ok_or(Refused::UnknownIssuer)
    }
}

/// Judges a signature as [`Verifier::verify`] does, whatever it signs.
#[cfg(test)]
pub(super) fn signature_of(verifier: &Verifier, keys: &Keys, token: &str) -> Result<(), Refused> {
    let parts = split(token, verifier.max_bytes)?;
    let header = Header::read(parts.header)?;
    decode(parts.payload)?;
    let (_, key) = find_key(keys, &header)?;
    check_signature(key, parts)
}

impl Provider {
    fn verify(
        &self,
        index: usize,
        parts: Parts<'_>,
        header: &Header,
        claims: Map<String, Value>,
        now: Timestamp,
    ) -> Result<Proof, Refused> {
        check_algorithm(self, header.algorithm)?;
        check_type(self, header.media_type().as_deref())?;
        let keys = self.keys.load();
        let (key, verifier) = find_key(&keys, header)?;
        check_signature(verifier, parts)?;
        let expires_at = check_times(&self.config, &claims, now)?;
        let audiences = check_audience(&self.config, &claims)?;
        check_is_access_token(&claims)?;
        check_profile(&self.config, &claims)?;
        let issuer = self.config.issuer.clone();
        let (scopes, confirmation) = (read_scopes(&claims)?, read_confirmation(&claims)?);
        let identity = Identity { provider: index, issuer, expires_at, audiences, scopes, confirmation, claims };
        Ok(Proof { identity, key: key.clone(), generation: keys.generation })
    }
}

/// A JWT taken apart (RFC 7515 §3.1).
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) header: &'a str,
    pub(super) payload: &'a str,
    signature: &'a str,
    signed: &'a str,
}

/// Takes a JWT apart that is no longer than this.
pub(super) fn split(token: &str, max_bytes: usize) -> Result<Parts<'_>, Refused> {
    if token.len() > max_bytes {
        return Err(Refused::TooLarge);
    }
    let mut parts = token.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(payload), Some(signature), None, None, None) => {
            let signed = &token[..header.len() + 1 + payload.len()];
            Ok(Parts { header, payload, signature, signed })
        }
        (Some(_), Some(_), Some(_), Some(_), Some(_), None) => Err(Refused::Encrypted),
        _ => Err(Refused::Malformed),
    }
}

/// The JOSE header (RFC 7515 §4).
pub(super) struct Header {
    pub(super) algorithm: Algorithm,
    typ: Option<String>,
    kid: Option<Box<str>>,
}

impl Header {
    /// Its `typ` (RFC 7515 §4.1.9): a media type, in any case, whose "application/" may be left out.
    pub(super) fn media_type(&self) -> Option<String> {
        self.typ.as_ref().map(|typ| {
            let lower = typ.to_ascii_lowercase();
            lower.strip_prefix("application/").map_or(lower.clone(), str::to_owned)
        })
    }

    pub(super) fn read(encoded: &str) -> Result<Self, Refused> {
        let mut members = object(&decode(encoded)?).ok_or(Refused::Malformed)?;
        let mut text = |name: &str| match members.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                Err(Refused::Malformed)
            }
        };
        let (algorithm, typ, kid) = (text("alg")?.ok_or(Refused::Malformed)?, text("typ")?, text("kid")?);
        // `none` and its spellings end here like any other name that is not in the list.
        let algorithm = algorithm.parse().map_err(|()| Refused::UnsupportedAlgorithm)?;
        // RFC 7515 §4.1.11: what is marked critical and not understood must be refused, and no extension is understood.
        // That goes for `b64` (RFC 7797) also where it is not marked.
        if members.contains_key("crit") || members.contains_key("b64") {
            return Err(Refused::UnknownCritical);
        }
        // A key that came with the token proves nothing. It would not be used; a token that carries one is not ours.
        if ["jwk", "jku", "x5u", "x5c"].iter().any(|name| members.contains_key(*name)) {
            return Err(Refused::KeyInHeader);
        }
        if kid.as_ref().is_some_and(|kid| kid.len() > MAX_KID_BYTES) {
            return Err(Refused::UnknownKey);
        }
        Ok(Self { algorithm, typ, kid: kid.map(Into::into) })
    }
}

/// Strict base64url: no padding, no white space, no bits left over (RFC 7515 §2).
pub(super) fn decode(text: &str) -> Result<Vec<u8>, Refused> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Refused::Malformed)
}

fn check_algorithm(provider: &Provider, algorithm: Algorithm) -> Result<(), Refused> {
    provider.config.algorithms.contains(&algorithm).then_some(()).ok_or(Refused::AlgorithmNotAllowed)
}

fn check_type(provider: &Provider, typ: Option<&str>) -> Result<(), Refused> {
    let right = match provider.config.profile {
        Profile::Rfc9068 => typ == Some("at+jwt"),
        Profile::OidcAccess | Profile::Custom => matches!(typ, None | Some("jwt" | "at+jwt")),
    };
    right.then_some(()).ok_or(Refused::WrongType)
}

fn find_key<'a>(keys: &'a Keys, header: &Header) -> Result<(&'a Arc<Key>, KeyVerifier<'a>), Refused> {
    find_in(keys.set.as_ref().ok_or(Refused::KeysUnavailable)?, header)
}

/// The key of a set that a token is to be verified with.
pub(super) fn find_in<'a>(set: &'a KeySet, header: &Header) -> Result<(&'a Arc<Key>, KeyVerifier<'a>), Refused> {
    set.select(header.kid.as_deref(), header.algorithm).map_err(|why| match why {
        NoKey::Unknown => Refused::UnknownKey,
        NoKey::WrongAlgorithm => Refused::WrongKeyAlgorithm,
        NoKey::Ambiguous => Refused::AmbiguousKey,
    })
}

pub(super) fn check_signature(key: KeyVerifier<'_>, parts: Parts<'_>) -> Result<(), Refused> {
    let signature = decode(parts.signature)?;
    key.verify(parts.signed.as_bytes(), &signature).then_some(()).ok_or(Refused::BadSignature)
}
