//! Proofs of possession (RFC 9449): that whoever sends a token holds the key it is bound to.
//!
//! Nothing here waits for anything but a shard of what has been seen. A proof is looked at from its cheapest side first: what it
//! says, whose key it brings, and only then the signature; a proof that was seen before is known by then.

mod nonces;
mod replays;

use std::{borrow::Cow, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Uri;
use serde_json::{Map, Value};
use subtle::ConstantTimeEq as _;

use self::{
    nonces::{Nonce, Nonces},
    replays::{Replays, Seen},
};
use super::{Algorithm, ED25519, json::object, keys::Key};
use crate::{
    clock::Timestamp,
    types::{Secret, Thumbprint},
};

/// The longest proof that is looked at, in bytes: an RSA key and signature of 4096 bits fit.
const MAX_BYTES: usize = 4096;
/// The longest `jti`, in bytes.
const MAX_JTI_BYTES: usize = 256;
/// The largest RSA modulus in base64url: 4096 bits. A larger one costs more to use than a request is worth.
const MAX_MODULUS: usize = 683;
/// How far `iat` may be from now, where nothing else says that a proof is fresh (§11.1: "seconds or minutes").
const WINDOW: Duration = Duration::from_secs(60);
/// The same where a nonce says it: clocks of clients are wrong by whole time zones.
const WINDOW_WITH_NONCE: Duration = Duration::from_secs(26 * 3600);

/// The algorithms that proofs are signed with: never one with a shared key (§4.2).
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::EdDsa,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
];

/// Their names; one of them has two.
pub fn algorithm_names() -> impl Iterator<Item = &'static str> {
    let other = |algorithm: Algorithm| (algorithm == Algorithm::EdDsa).then_some(ED25519);
    ALGORITHMS.into_iter().flat_map(move |algorithm| [algorithm.name()].into_iter().chain(other(algorithm)))
}

/// What proofs are checked with: the nonces that were given out, and the proofs that have been seen.
pub struct Proofs {
    nonces: Nonces,
    replays: Replays,
    /// Whether each proof needs a nonce (§8, §9); otherwise it is asked for where a client's clock is wrong.
    required: bool,
}

/// What a request shows, and what it is.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// The one `DPoP` field.
    pub proof: &'a [u8],
    /// The request's method.
    pub method: &'a str,
    /// Where the client has sent it.
    pub target: Target<'a>,
    /// The access token it carries, if it carries one.
    pub access_token: Option<&'a [u8]>,
    /// The key that the token is bound to, if it is.
    pub key: Option<&'a Thumbprint>,
}

/// Where a request was sent, as its client sees it.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// `https`, or `http`.
    pub scheme: &'a str,
    /// Host, and port where there is one.
    pub authority: &'a str,
    /// The path as it was sent.
    pub path: &'a str,
}

/// What a proof proves.
#[derive(Debug, PartialEq, Eq)]
pub struct Proven {
    /// The key that has signed it.
    pub key: Thumbprint,
    /// What the next proof should have, where this one's nonce is getting old (§8.2).
    pub nonce: Option<String>,
}

/// Why a proof proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproved {
    /// There is none.
    Missing,
    /// It is not one JWT with the members of §4.2.
    Malformed,
    /// It is signed by an algorithm that proofs are not signed with.
    Algorithm,
    /// The key it brings cannot be used, or is a private one.
    Key,
    /// `htm` is another method.
    Method,
    /// `htu` is another place.
    Target,
    /// `ath` is another access token's, or missing.
    Token,
    /// The token is bound to another key.
    WrongKey,
    /// `iat` is too far from now.
    Time,
    /// The nonce is too old, or none of ours.
    Nonce,
    /// There is no nonce, and has to be one.
    NoNonce,
    /// The signature is not the key's.
    Signature,
    /// It has been shown before.
    Replayed,
}

impl Unproved {
    /// The name in metrics and logs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Missing => "proof_missing",
            Self::Malformed => "proof_malformed",
            Self::Algorithm => "proof_algorithm_unsupported",
            Self::Key => "proof_key_bad",
            Self::Method => "proof_method_wrong",
            Self::Target => "proof_target_wrong",
            Self::Token => "proof_token_wrong",
            Self::WrongKey => "proof_key_wrong",
            Self::Time => "proof_time_wrong",
            Self::Nonce => "proof_nonce_stale",
            Self::NoNonce => "proof_nonce_missing",
            Self::Signature => "proof_signature_bad",
            Self::Replayed => "proof_replayed",
        }
    }

    /// The error code for the client (§5, §7.1, §8). One that says when its clock says can be helped by a nonce.
    pub const fn code(self) -> &'static str {
        if self.wants_nonce() { "use_dpop_nonce" } else { "invalid_dpop_proof" }
    }

    /// Whether another proof would do that has a nonce of ours.
    pub const fn wants_nonce(self) -> bool {
        matches!(self, Self::Time | Self::Nonce | Self::NoNonce)
    }

    /// What the client is told.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Missing => "A DPoP proof is needed.",
            Self::Malformed => "The DPoP proof is malformed, or there is more than one.",
            Self::Algorithm => "The DPoP proof is signed by an algorithm that is not supported.",
            Self::Key => "The key in the DPoP proof cannot be used.",
            Self::Method => "The DPoP proof is for another method.",
            Self::Target => "The DPoP proof is for another address.",
            Self::Token => "The DPoP proof is for another access token.",
            Self::WrongKey => "The DPoP proof is by another key than the token is bound to.",
            Self::Time => "The DPoP proof was made too long ago, or is not valid yet; use a nonce.",
            Self::Nonce => "The nonce of the DPoP proof is too old.",
            Self::NoNonce => "The DPoP proof needs a nonce.",
            Self::Signature => "The signature of the DPoP proof is wrong.",
            Self::Replayed => "The DPoP proof has been used before.",
        }
    }
}

impl Proofs {
    /// With the nonces of whoever else has the same key; `None`: with nobody else's. `required`: each proof needs one.
    pub fn new(key: Option<&Secret>, required: bool) -> Self {
        Self { nonces: Nonces::new(key), replays: Replays::new(), required }
    }

    /// Others that take the same nonces, and remember proofs for themselves: what anybody can fill the one memory with, leaves room in
    /// the other.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { nonces: self.nonces.clone(), replays: Replays::new(), required: self.required }
    }

    /// A nonce for the next proof.
    pub fn nonce(&self, now: Timestamp) -> String {
        self.nonces.current(now)
    }

    /// Checks a proof (§4.3).
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check(&self, shown: &Shown<'_>, now: Timestamp) -> Result<Proven, Unproved> {
        let proof = std::str::from_utf8(shown.proof).ok().filter(|proof| proof.len() <= MAX_BYTES);
        let proof = proof.ok_or(Unproved::Malformed)?;
        let mut parts = proof.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Unproved::Malformed);
        };
        let (algorithm, mut jwk) = read_header(header)?;
        let claims = object(&decode(payload)?).ok_or(Unproved::Malformed)?;
        let text = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(&**text)),
            Some(_) => Err(Unproved::Malformed),
        };
        let jti = text("jti")?.filter(|jti| !jti.is_empty() && jti.len() <= MAX_JTI_BYTES);
        let jti = jti.ok_or(Unproved::Malformed)?;
        if text("htm")?.ok_or(Unproved::Malformed)? != shown.method {
            return Err(Unproved::Method);
        }
        if !shown.target.is(text("htu")?.ok_or(Unproved::Malformed)?) {
            return Err(Unproved::Target);
        }
        if let Some(token) = shown.access_token {
            let right = URL_SAFE_NO_PAD.encode(digest(&SHA256, token));
            if text("ath")?.ok_or(Unproved::Token)? != right {
                return Err(Unproved::Token);
            }
        }
        let key = thumbprint(&jwk).ok_or(Unproved::Key)?;
        if shown.key.is_some_and(|bound| !bool::from(bound.ct_eq(&key))) {
            return Err(Unproved::WrongKey);
        }
        let made = claims.get("iat").and_then(Value::as_f64).filter(|seconds| (0.0..1e11).contains(seconds));
        // In range, so that the cast cannot wrap.
        let made = Timestamp((made.ok_or(Unproved::Malformed)? * 1000.0) as u64);
        let (until, next) = self.freshness(text("nonce")?, made, now)?;
        // One prepared form, in place of one for each algorithm of an RSA key.
        jwk.entry("alg").or_insert_with(|| algorithm.name().into());
        let public = Key::from_jwk(Value::Object(jwk)).map_err(|_| Unproved::Key)?;
        let verifier = public.verifier(algorithm).ok_or(Unproved::Key)?;
        let signed = &proof[..header.len() + 1 + payload.len()];
        if !verifier.verify(signed.as_bytes(), &decode(signature)?) {
            return Err(Unproved::Signature);
        }
        match self.replays.see(&key, jti, until, now) {
            Seen::Never => Ok(Proven { key, nonce: next }),
            Seen::Before => Err(Unproved::Replayed),
            // There is no room to remember one that is so old.
            Seen::Unknown => Err(Unproved::Time),
        }
    }

    /// Until when a proof may be shown, and the nonce that should follow; a nonce, where there is one, decides (§11.1).
    fn freshness(
        &self,
        nonce: Option<&str>,
        made: Timestamp,
        now: Timestamp,
    ) -> Result<(Timestamp, Option<String>), Unproved> {
        let (window, until, next) = match nonce {
            None if self.required => return Err(Unproved::NoNonce),
            None => (WINDOW, made + WINDOW, None),
            Some(nonce) => match self.nonces.read(nonce, now) {
                Nonce::Fresh(until) => (WINDOW_WITH_NONCE, until, None),
                Nonce::Aging(until) => (WINDOW_WITH_NONCE, until, Some(self.nonces.current(now))),
                Nonce::Bad => return Err(Unproved::Nonce),
            },
        };
        if made + window < now || now + window < made { Err(Unproved::Time) } else { Ok((until, next)) }
    }
}

impl Target<'_> {
    /// Whether `htu` names it, "ignoring any query and fragment parts" (§4.3), by RFC 3986 §6.2.2 and §6.2.3.
    fn is(&self, htu: &str) -> bool {
        let Ok(uri) = htu.parse::<Uri>() else { return false };
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return false };
        let path = if self.path.is_empty() { "/" } else { self.path };
        scheme.eq_ignore_ascii_case(self.scheme)
            && same_authority(scheme, authority.as_str(), self.authority)
            && (uri.path() == path || normal(uri.path()) == normal(path))
    }
}

/// Case does not matter in a host, nor whether the scheme's own port is said, nor a final dot.
fn same_authority(scheme: &str, one: &str, other: &str) -> bool {
    let own = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let plain = |authority: &str| {
        let authority = authority.strip_suffix(own).or_else(|| authority.strip_suffix(':')).unwrap_or(authority);
        authority.to_ascii_lowercase()
    };
    !one.contains('@') && plain(one) == plain(other)
}

/// What needs no percent sign loses it, and what does has capitals.
fn normal(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 3).and_then(|code| u8::from_str_radix(code, 16).ok());
        let Some(byte) = code else {
            out.push('%');
            rest = &rest[at + 1..];
            continue;
        };
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// What the proof is signed with, and the key that comes with it.
fn read_header(encoded: &str) -> Result<(Algorithm, Map<String, Value>), Unproved> {
    let mut header = object(&decode(encoded)?).ok_or(Unproved::Malformed)?;
    let text = |name: &str| header.get(name).and_then(Value::as_str);
    if text("typ").is_none_or(|typ| !typ.eq_ignore_ascii_case("dpop+jwt")) || header.contains_key("crit") {
        return Err(Unproved::Malformed);
    }
    let algorithm = text("alg").ok_or(Unproved::Malformed)?.parse().map_err(|()| Unproved::Algorithm)?;
    if !ALGORITHMS.contains(&algorithm) {
        return Err(Unproved::Algorithm);
    }
    match header.remove("jwk") {
        Some(Value::Object(jwk)) => Ok((algorithm, jwk)),
        _ => Err(Unproved::Malformed),
    }
}

/// The thumbprint of a public key (RFC 7638 §3): its required members, in their order. What they hold is base64url, which
/// [`Key::from_jwk`] finds out, so that each key has one.
fn thumbprint(jwk: &Map<String, Value>) -> Option<Thumbprint> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let is_plain = |text: &&str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let member = |name: &str| text(name).filter(is_plain);
    let canonical = match text("kty")? {
        "EC" => {
            let (crv, x, y) = (member("crv")?, member("x")?, member("y")?);
            format!(r#"{{"crv":"{crv}","kty":"EC","x":"{x}","y":"{y}"}}"#)
        }
        "OKP" => format!(r#"{{"crv":"{}","kty":"OKP","x":"{}"}}"#, member("crv")?, member("x")?),
        "RSA" => {
            let (e, n) = (member("e")?, member("n").filter(|n| n.len() <= MAX_MODULUS)?);
            format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#)
        }
        _ => return None,
    };
    digest(&SHA256, canonical.as_bytes()).as_ref().try_into().ok()
}

/// Strict base64url: no padding, no white space, no bits left over (RFC 7515 §2).
fn decode(text: &str) -> Result<Vec<u8>, Unproved> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Unproved::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_several_spellings_and_no_neighbours() {
        let target = Target { scheme: "https", authority: "API.example.com", path: "/a%7eb/c" };
        for htu in [
            "https://api.example.com/a%7eb/c",
            "HTTPS://api.example.com:443/a~b/c",
            "https://api.example.com/a%7Eb/c?q=1",
            "https://api.example.com/a~b/c#fragment",
        ] {
            assert!(target.is(htu), "{htu}");
        }
        for htu in [
            "http://api.example.com/a~b/c",
            "https://api.example.com:8443/a~b/c",
            "https://api.example.com.evil/a~b/c",
            "https://user@api.example.com/a~b/c",
            "https://api.example.com/a~b/C",
            "https://api.example.com/a~b/c/",
            "https://api.example.com/a~b%2fc",
            "https://api.example.com/",
            "/a~b/c",
            "",
        ] {
            assert!(!target.is(htu), "{htu}");
        }
        assert!(Target { path: "", ..target }.is("https://api.example.com"));
    }

    #[test]
    fn a_thumbprint_is_that_of_rfc_7638() {
        // §3.1's example.
        let jwk = serde_json::json!({
            "kty": "RSA", "e": "AQAB", "alg": "RS256", "kid": "2011-04-29",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        });
        let print = thumbprint(jwk.as_object().unwrap()).unwrap();
        assert_eq!(URL_SAFE_NO_PAD.encode(print), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }
}
