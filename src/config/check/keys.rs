//! Where a provider's keys come from.

use super::fetch;
use crate::{
    config::{file, path::Path, raw, report::Report},
    io::Contents,
    token::{
        Algorithm,
        keys::{KeyError, KeySet},
        provider::KeySource,
    },
    types::IssuerUrl,
};

/// The largest JWK Set that is read.
const MAX_JWKS: u64 = 1 << 20;
/// The members of a JWK that make it secret (RFC 7518 §6.2.2, §6.3.2, §6.4; RFC 8037 §2).
const SECRET_MEMBERS: [&str; 8] = ["k", "d", "p", "q", "dp", "dq", "qi", "oth"];

/// What a provider says of its keys.
pub(super) struct Sources {
    pub(super) jwks: Option<String>,
    pub(super) jwks_uri: Option<String>,
    pub(super) discovery: Option<raw::Flag>,
    pub(super) fetch: Option<raw::Fetch>,
    pub(super) jwks_file: Option<String>,
    pub(super) jwks_inline: Option<serde_json::Map<String, serde_json::Value>>,
    pub(super) hmac_secret: Option<raw::SecretText>,
}

const NAMES: [&str; 6] = ["jwks", "jwks_uri", "discovery", "jwks_file", "jwks_inline", "hmac_secret"];

/// The keys, from exactly one source. `algorithms` is `Some(None)` where they are given and wrong.
pub(super) fn check(
    report: &mut Report,
    at: &Path,
    sources: Sources,
    issuer: Option<&IssuerUrl>,
    algorithms: Option<&Option<Vec<Algorithm>>>,
) -> Option<KeySource> {
    let Sources { jwks, jwks_uri, discovery, fetch, jwks_file, jwks_inline, hmac_secret } = sources;
    // `discovery: false` says where keys do not come from.
    let discovery = discovery.filter(|flag| flag.0);
    let is_published = jwks_uri.is_some() || discovery.is_some();
    if fetch.is_some() && !is_published {
        report.error(&at.key("jwks_fetch"), "nothing is fetched: there is neither jwks_uri nor discovery: true");
    }
    let given = [
        jwks.is_some(),
        jwks_uri.is_some(),
        discovery.is_some(),
        jwks_file.is_some(),
        jwks_inline.is_some(),
        hmac_secret.is_some(),
    ];
    match given.into_iter().filter(|given| *given).count() {
        0 => {
            if !NAMES.iter().any(|key| report.is_settled(&at.key(key))) {
                report.error(at, format!("has no keys: give one of {}", listed()));
            }
            return None;
        }
        1 => {}
        _ => return report.refuse(at, format!("keys come from exactly one of {}", listed())),
    }
    if is_published {
        let issuer = issuer.map(IssuerUrl::as_str);
        return fetch::check(report, at, jwks_uri, issuer, fetch).map(KeySource::Published);
    }
    match (jwks, jwks_file, jwks_inline, hmac_secret) {
        (Some(jwks), ..) if jwks == "issuer" => Some(KeySource::InternalIssuer),
        (Some(_), ..) => report.refuse(
            &at.key("jwks"),
            "can only be `issuer`; keys of others come from jwks_uri, discovery, jwks_file or jwks_inline",
        ),
        (_, Some(name), ..) => self::jwks_file(report, &at.key("jwks_file"), &name).map(KeySource::Fixed),
        (_, _, Some(jwks), _) => self::jwks_inline(report, &at.key("jwks_inline"), jwks).map(KeySource::Fixed),
        (_, _, _, Some(secret)) => self::hmac_secret(report, at, secret, algorithms),
        (None, None, None, None) => None,
    }
}

fn listed() -> String {
    NAMES
        .map(|name| match name {
            "jwks" => "jwks: issuer",
            "discovery" => "discovery: true",
            other => other,
        })
        .join(", ")
}

fn jwks_file(report: &mut Report, at: &Path, name: &str) -> Option<KeySet> {
    let contents = file::named(report, at, name, MAX_JWKS)?;
    let (path, text) = text(report, at, name, &contents)?;
    if serde_json::from_str(text).is_ok_and(|jwks| secret_members(&jwks).next().is_some()) {
        file::must_be_private(report, at, name, &contents);
    }
    key_set(report, at, &path, KeySet::parse_jwks(text))
}

fn jwks_inline(report: &mut Report, at: &Path, jwks: serde_json::Map<String, serde_json::Value>) -> Option<KeySet> {
    let jwks = serde_json::Value::Object(jwks);
    for (index, member) in secret_members(&jwks) {
        file::must_not_be_literal(report, &at.key("keys").index(index).key(member));
    }
    key_set(report, at, "", KeySet::parse_jwks(&jwks.to_string()))
}

/// Somebody else's keys, from a file: what they keep to themselves has no place in it.
pub(super) fn public_jwks_file(report: &mut Report, at: &Path, name: &str) -> Option<KeySet> {
    let contents = file::named(report, at, name, MAX_JWKS)?;
    let (path, text) = text(report, at, name, &contents)?;
    if let Some((index, member)) = serde_json::from_str(text).ok().and_then(|jwks| secret_members(&jwks).next()) {
        return report.refuse(at, format!("{path}keys[{index}] {}", not_public(member)));
    }
    key_set(report, at, &path, KeySet::parse_jwks(text))
}

/// The same, from the configuration.
pub(super) fn public_jwks(
    report: &mut Report,
    at: &Path,
    jwks: serde_json::Map<String, serde_json::Value>,
) -> Option<KeySet> {
    let jwks = serde_json::Value::Object(jwks);
    if let Some((index, member)) = secret_members(&jwks).next() {
        return report.refuse(&at.key("keys").index(index), not_public(member));
    }
    key_set(report, at, "", KeySet::parse_jwks(&jwks.to_string()))
}

fn not_public(member: &str) -> String {
    format!(
        "has a \"{member}\": it is a private key or a shared secret, and only its owner may have those; put the public part \
         here, of a new key"
    )
}

/// What is in a file of keys, behind the beginning of what there is to say about it.
fn text<'a>(report: &mut Report, at: &Path, name: &str, contents: &'a Contents) -> Option<(String, &'a str)> {
    let path = format!("{}: ", report.resolve(name).display());
    match std::str::from_utf8(&contents.bytes) {
        Ok(text) => Some((path, text)),
        Err(_) => report.refuse(at, format!("{path}not UTF-8")),
    }
}

/// The secret parts of a JWK Set: which key, which member.
fn secret_members(jwks: &serde_json::Value) -> impl Iterator<Item = (usize, &'static str)> + use<'_> {
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
) -> Option<KeySet> {
    match found {
        Ok((keys, skipped)) => {
            for why in skipped {
                report.warn(at, format!("{file}a key is not used: {why}"));
            }
            Some(keys)
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
