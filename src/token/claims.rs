//! What a token claims: what each check reads of it, and what it refuses.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{
    Confirmation,
    provider::{Config, Profile},
    verify::Refused,
};
use crate::{
    clock::Timestamp,
    types::{Scopes, Thumbprint},
};

/// The latest NumericDate taken for a date: the end of the year 9999.
const LATEST_DATE: f64 = 253_402_300_799.0;

/// RFC 7519 §4.1.4-4.1.6, each within the provider's leeway. The end of the token's life is the answer.
pub(super) fn check_times(
    provider: &Config,
    claims: &Map<String, Value>,
    now: Timestamp,
) -> Result<Timestamp, Refused> {
    let leeway = provider.leeway;
    let (expires_at, issued_at) = check_clock(leeway, claims, now)?;
    if let Some(most) = provider.max_lifetime
        && expires_at > issued_at.ok_or(Refused::MissingClaim)? + leeway + most
    {
        return Err(Refused::LifetimeTooLong);
    }
    Ok(expires_at)
}

/// That its time is now. The end of that, leeway included, and when it began, if it says so, are the answer.
pub(super) fn check_clock(
    leeway: Duration,
    claims: &Map<String, Value>,
    now: Timestamp,
) -> Result<(Timestamp, Option<Timestamp>), Refused> {
    let expires_at = read_date(claims, "exp")?.ok_or(Refused::MissingClaim)? + leeway;
    if now >= expires_at {
        return Err(Refused::Expired);
    }
    if read_date(claims, "nbf")?.is_some_and(|from| from > now + leeway) {
        return Err(Refused::NotYetValid);
    }
    let issued_at = read_date(claims, "iat")?;
    if issued_at.is_some_and(|at| at > now + leeway) {
        return Err(Refused::IssuedInFuture);
    }
    Ok((expires_at, issued_at))
}

/// A NumericDate: seconds, perhaps with a fraction, between 1970 and 9999 (RFC 7519 §2).
fn read_date(claims: &Map<String, Value>, name: &str) -> Result<Option<Timestamp>, Refused> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let Value::Number(number) = value else { return Err(Refused::MalformedClaim) };
    match (number.as_u64(), number.as_f64()) {
        (Some(seconds), Some(float)) if float <= LATEST_DATE => Ok(Some(Timestamp::from_secs(seconds))),
        // In range, so that the cast cannot wrap.
        (None, Some(seconds)) if (0.0..=LATEST_DATE).contains(&seconds) => {
            Ok(Some(Timestamp((seconds * 1000.0) as u64)))
        }
        _ => Err(Refused::MalformedClaim),
    }
}

/// RFC 7519 §4.1.3: a string, or a list of strings, one of which must be ours.
pub(super) fn check_audience(provider: &Config, claims: &Map<String, Value>) -> Result<Vec<Box<str>>, Refused> {
    let audiences = match claims.get("aud") {
        None => return Err(Refused::MissingClaim),
        Some(value) => texts(value)?,
    };
    let ours = audiences.iter().any(|aud| provider.audiences.iter().any(|ours| ours.as_str() == &**aud));
    ours.then_some(audiences).ok_or(Refused::WrongAudience)
}

/// What else an issuer signs is no access token, though it may look like one: an ID token (OpenID Connect Core §2: `nonce`,
/// `at_hash`, `c_hash`), a logout token (Back-Channel Logout §2.4: `events`), and what Keycloak calls by other names in `typ`.
pub(super) fn check_is_access_token(claims: &Map<String, Value>) -> Result<(), Refused> {
    let named = claims.get("typ").and_then(Value::as_str);
    let other = matches!(named, Some("ID" | "Refresh" | "Offline" | "Logout"));
    let marked = ["nonce", "at_hash", "c_hash", "events"].iter().any(|name| claims.contains_key(*name));
    if other || marked { Err(Refused::WrongType) } else { Ok(()) }
}

/// The types of what else we read; and what has to be there: what the provider was configured with, and for RFC 9068 what
/// its §2.2 has.
pub(super) fn check_profile(provider: &Config, claims: &Map<String, Value>) -> Result<(), Refused> {
    for name in ["sub", "client_id", "jti", "sid"] {
        let required = match provider.profile {
            Profile::Rfc9068 => name != "sid",
            Profile::OidcAccess => name == "sub",
            Profile::Custom => false,
        };
        if required || claims.contains_key(name) {
            required_text(claims, name)?;
        }
    }
    match provider.profile {
        Profile::Rfc9068 | Profile::OidcAccess if !claims.contains_key("iat") => return Err(Refused::MissingClaim),
        // Whom a token was issued to; an ID token has it in its audience.
        Profile::OidcAccess if !CLIENT_CLAIMS.iter().any(|name| claims.contains_key(*name)) => {
            return Err(Refused::MissingClaim);
        }
        Profile::Rfc9068 | Profile::OidcAccess | Profile::Custom => {}
    }
    let missing = |name: &str| claims.get(name).is_none_or(Value::is_null);
    if provider.required_claims.iter().any(|name| missing(name)) { Err(Refused::MissingClaim) } else { Ok(()) }
}

/// The client in a token of Keycloak, Auth0 or Entra; of anybody by RFC 9068; of Okta; of Entra's first version.
pub(super) const CLIENT_CLAIMS: [&str; 4] = ["azp", "client_id", "cid", "appid"];

pub(super) fn required_text<'a>(claims: &'a Map<String, Value>, name: &str) -> Result<&'a str, Refused> {
    match claims.get(name) {
        None => Err(Refused::MissingClaim),
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        Some(_) => Err(Refused::MalformedClaim),
    }
}

/// RFC 9068 §2.2.3 has `scope` as one string; `scp` is what some issuers write, and some of either write a list.
pub(super) fn read_scopes(claims: &Map<String, Value>) -> Result<Scopes, Refused> {
    match claims.get("scope").or_else(|| claims.get("scp")) {
        None => Ok(Scopes::default()),
        Some(Value::String(text)) => Scopes::parse(text).ok_or(Refused::MalformedClaim),
        Some(list @ Value::Array(members)) if !members.is_empty() => {
            let texts = texts(list)?;
            let all_scopes = texts.iter().all(|text| crate::types::is_scope_token(text));
            all_scopes.then(|| Scopes::from_values(texts.iter().map(|t| &**t))).ok_or(Refused::MalformedClaim)
        }
        Some(Value::Array(_)) => Ok(Scopes::default()),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => Err(Refused::MalformedClaim),
    }
}

/// RFC 7800 §3.1. A token that is bound in a way that is not understood is refused: taken for a bearer token, it would be worth
/// more to a thief than its issuer meant.
pub(super) fn read_confirmation(claims: &Map<String, Value>) -> Result<Confirmation, Refused> {
    let members = match claims.get("cnf") {
        None => return Ok(Confirmation::default()),
        Some(Value::Object(members)) => members,
        Some(_) => return Err(Refused::MalformedClaim),
    };
    let thumbprint = |name: &str| -> Result<Option<Thumbprint>, Refused> {
        let Some(value) = members.get(name) else { return Ok(None) };
        let bytes = value.as_str().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Some).ok_or(Refused::MalformedClaim)
    };
    let confirmation = Confirmation { key: thumbprint("jkt")?, certificate: thumbprint("x5t#S256")? };
    if confirmation.is_none() { Err(Refused::UnknownConfirmation) } else { Ok(confirmation) }
}

/// A string, or a list of strings that is not empty.
pub(super) fn texts(value: &Value) -> Result<Vec<Box<str>>, Refused> {
    let text = |value: &Value| value.as_str().map(Into::into).ok_or(Refused::MalformedClaim);
    match value {
        Value::String(_) => Ok(vec![text(value)?]),
        Value::Array(members) if !members.is_empty() => members.iter().map(text).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Err(Refused::MalformedClaim)
        }
    }
}
