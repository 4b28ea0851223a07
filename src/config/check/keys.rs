//! Where a provider's keys come from.

use crate::{
    config::{file, path::Path, raw, report::Report},
    token::{
        Algorithm,
        keys::{KeyError, KeySet},
        provider::KeySource,
    },
};

/// The largest JWK Set that is read.
const MAX_JWKS: u64 = 1 << 20;
/// The members of a JWK that make it secret (RFC 7518 §6.2.2, §6.3.2, §6.4; RFC 8037 §2).
const SECRET_MEMBERS: [&str; 8] = ["k", "d", "p", "q", "dp", "dq", "qi", "oth"];

/// `jwks`, `jwks_file`, `jwks_inline`, `hmac_secret`.
pub(super) type Sources =
    (Option<String>, Option<String>, Option<serde_json::Map<String, serde_json::Value>>, Option<raw::SecretText>);

/// The keys, from exactly one source. `algorithms` is `Some(None)` where they are given and wrong.
pub(super) fn check(
    report: &mut Report,
    at: &Path,
    sources: Sources,
    algorithms: Option<&Option<Vec<Algorithm>>>,
) -> Option<KeySource> {
    match sources {
        (Some(jwks), None, None, None) if jwks == "issuer" => Some(KeySource::InternalIssuer),
        (Some(_), None, None, None) => {
            report.refuse(&at.key("jwks"), "can only be `issuer`; keys of others come from jwks_file or jwks_inline")
        }
        (None, Some(name), None, None) => jwks_file(report, &at.key("jwks_file"), &name),
        (None, None, Some(jwks), None) => jwks_inline(report, &at.key("jwks_inline"), jwks),
        (None, None, None, Some(secret)) => hmac_secret(report, at, secret, algorithms),
        (None, None, None, None) => {
            let sources = ["jwks", "jwks_file", "jwks_inline", "hmac_secret"];
            if !sources.iter().any(|key| report.is_settled(&at.key(key))) {
                report.error(at, "has no keys: give one of jwks: issuer, jwks_file, jwks_inline, hmac_secret");
            }
            None
        }
        _ => report.refuse(at, "keys come from exactly one of jwks, jwks_file, jwks_inline, hmac_secret"),
    }
}

fn jwks_file(report: &mut Report, at: &Path, name: &str) -> Option<KeySource> {
    let contents = file::named(report, at, name, MAX_JWKS)?;
    let path = report.resolve(name);
    let Ok(text) = std::str::from_utf8(&contents.bytes) else {
        return report.refuse(at, format!("{}: not UTF-8", path.display()));
    };
    let found = KeySet::parse_jwks(text);
    if serde_json::from_str(text).is_ok_and(|jwks| secret_members(&jwks).next().is_some()) {
        file::must_be_private(report, at, name, &contents);
    }
    key_set(report, at, &format!("{}: ", path.display()), found)
}

fn jwks_inline(report: &mut Report, at: &Path, jwks: serde_json::Map<String, serde_json::Value>) -> Option<KeySource> {
    let jwks = serde_json::Value::Object(jwks);
    for (index, member) in secret_members(&jwks) {
        file::must_not_be_literal(report, &at.key("keys").index(index).key(member));
    }
    key_set(report, at, "", KeySet::parse_jwks(&jwks.to_string()))
}

/// The secret parts of a JWK Set: which key, which member.
fn secret_members(jwks: &serde_json::Value) -> impl Iterator<Item = (usize, &'static str)> {
    let keys = jwks.get("keys").and_then(serde_json::Value::as_array).into_iter().flatten().enumerate();
    keys.flat_map(|(n, key)| {
        SECRET_MEMBERS.into_iter().filter(move |member| key.get(member).is_some()).map(move |member| (n, member))
    })
}

fn key_set(
    report: &mut Report,
    at: &Path,
    file: &str,
    found: Result<(KeySet, Vec<KeyError>), KeyError>,
) -> Option<KeySource> {
    match found {
        Ok((keys, skipped)) => {
            for why in skipped {
                report.warn(at, format!("{file}a key is not used: {why}"));
            }
            Some(KeySource::Fixed(keys))
        }
        Err(why) => report.refuse(at, format!("{file}{why}")),
    }
}

fn hmac_secret(
    report: &mut Report,
    at: &Path,
    raw: raw::SecretText,
    algorithms: Option<&Option<Vec<Algorithm>>>,
) -> Option<KeySource> {
    let secret = file::secret(report, &at.key("hmac_secret"), raw);
    let algorithm = match algorithms {
        Some(None) => return None,
        Some(Some(one)) if one.len() == 1 && one[0].is_symmetric() => one[0],
        Some(Some(_)) | None => {
            let message = "hmac_secret needs exactly one of HS256, HS384 or HS512";
            return report.refuse(&at.key("algorithms"), message);
        }
    };
    match KeySet::hmac(&secret?, algorithm) {
        Ok(keys) => Some(KeySource::Fixed(keys)),
        Err(why) => report.refuse(&at.key("hmac_secret"), why.to_string()),
    }
}
