//! Providers: whose tokens are accepted, and with which keys.

use std::time::Duration;

use super::{
    all,
    issuer::Facts,
    values::{MINUTE, Names, duration, word},
};
use crate::{
    config::{
        error::{did_you_mean, quote},
        file,
        path::Path,
        raw,
        report::Report,
    },
    token::{
        Algorithm,
        keys::{KeyError, KeySet},
        provider::{Config, KeySource, Profile},
    },
    types::{Audience, IssuerUrl},
};

/// The largest JWK Set that is read.
const MAX_JWKS: u64 = 1 << 20;
/// The members of a JWK that make it secret (RFC 7518 §6.2.2, §6.3.2, §6.4; RFC 8037 §2).
const SECRET_MEMBERS: [&str; 8] = ["k", "d", "p", "q", "dp", "dq", "qi", "oth"];

/// The audiences of those providers whose keys are the internal issuer's.
pub(super) fn local_audiences(raw: &raw::List<raw::Mapping<raw::Provider>>) -> Vec<String> {
    let local = raw.iter().flatten().flatten().filter(|provider| provider.jwks.as_deref() == Some("issuer"));
    let mut audiences: Vec<_> =
        local.flat_map(|provider| provider.audiences.iter().flatten().flatten().cloned()).collect();
    audiences.sort();
    audiences.dedup();
    audiences
}

/// Checks all providers, and collects their names.
pub(super) fn check_all(
    report: &mut Report,
    at: &Path,
    raw: raw::List<raw::Mapping<raw::Provider>>,
    issuer: &Facts,
) -> (Vec<Option<Config>>, Names) {
    let mut names = Names::new(at.clone(), "provider");
    let mut providers = Vec::new();
    for (path, raw::Mapping(raw)) in report.items(at, raw) {
        providers.push(check(report, &path, raw, &mut names, issuer));
    }
    (providers, names)
}

fn check(report: &mut Report, at: &Path, raw: raw::Provider, names: &mut Names, facts: &Facts) -> Option<Config> {
    let name = names.add(report, at, raw.name);
    let issuer = report.required(at, "issuer", raw.issuer, "the `iss` of its tokens, byte for byte");
    let issuer = issuer.and_then(|text| match text.as_str() {
        "" => report.refuse(&at.key("issuer"), "must not be empty"),
        _ => Some(IssuerUrl::new(text)),
    });
    let audiences = report.required(at, "audiences", raw.audiences, "whom its tokens must be meant for (`aud`)");
    let audiences = audiences.and_then(|list| audience_list(report, &at.key("audiences"), list));
    let algorithms = raw.algorithms.map(|list| algorithm_list(report, &at.key("algorithms"), list));
    let keys = keys(report, at, (raw.jwks, raw.jwks_file, raw.jwks_inline, raw.hmac_secret), algorithms.as_ref());

    let local = matches!(keys, Some(KeySource::InternalIssuer));
    if local {
        agree_with_issuer(report, at, issuer.as_ref(), audiences.as_deref(), facts);
    }
    let algorithms = match (algorithms, &keys) {
        (Some(given), Some(keys)) => {
            given.filter(|given| algorithms_fit(report, &at.key("algorithms"), given, keys, facts))
        }
        (Some(given), None) => given,
        (None, Some(KeySource::InternalIssuer)) => facts.algorithm.map(|algorithm| vec![algorithm]),
        (None, keys) => asymmetric(report, at, keys.as_ref()),
    };
    let leeway = if local { Duration::ZERO } else { Duration::from_secs(30) };
    let leeway = duration(report, &at.key("leeway"), raw.leeway, leeway, Duration::ZERO..=MINUTE);
    let profile = if local { Profile::Rfc9068 } else { Profile::Custom };
    let profiles = [("rfc9068", Profile::Rfc9068), ("custom", Profile::Custom)];
    let profile = word(report, &at.key("profile"), raw.profile.as_deref(), profile, &profiles);
    Some(Config {
        name: name?,
        issuer: issuer?,
        audiences: audiences?,
        algorithms: algorithms?,
        leeway: leeway?,
        profile: profile?,
        keys: keys?,
    })
}

/// A list of audiences that is not empty.
pub(super) fn audience_list(report: &mut Report, at: &Path, raw: Vec<Option<String>>) -> Option<Vec<Audience>> {
    if raw.is_empty() {
        return report.refuse(at, "must not be empty");
    }
    let mut audiences = Vec::new();
    for (path, text) in report.items(at, Some(raw)) {
        match text.as_str() {
            "" => report.error(&path, "must not be empty"),
            _ => audiences.push(Audience::new(text)),
        }
    }
    Some(audiences)
}

/// The algorithms of keys that were given without any: a shared secret verifies only where it is named.
fn asymmetric(report: &mut Report, at: &Path, keys: Option<&KeySource>) -> Option<Vec<Algorithm>> {
    let algorithms: Vec<_> = Algorithm::ALL.into_iter().filter(|algorithm| !algorithm.is_symmetric()).collect();
    match keys {
        Some(KeySource::Fixed(keys)) if !algorithms.iter().any(|algorithm| keys.fits(*algorithm)) => {
            report.required(at, "algorithms", None, "all its keys are shared secrets, whose algorithm has to be named")
        }
        Some(_) | None => Some(algorithms),
    }
}

/// An algorithm by its JOSE name.
pub(super) fn algorithm(report: &mut Report, at: &Path, name: &str) -> Option<Algorithm> {
    match name.parse() {
        Ok(algorithm) => Some(algorithm),
        Err(()) => {
            let mend = did_you_mean(name, Algorithm::ALL.iter().map(|algorithm| algorithm.name()));
            report.refuse(at, format!("{} is not an algorithm that is supported{mend}", quote(name)))
        }
    }
}

fn algorithm_list(report: &mut Report, at: &Path, raw: Vec<Option<String>>) -> Option<Vec<Algorithm>> {
    if raw.is_empty() {
        return report.refuse(at, "must not be empty");
    }
    let items = report.items(at, Some(raw));
    all(items.iter().map(|(path, name)| algorithm(report, path, name)))
}

type Sources =
    (Option<String>, Option<String>, Option<serde_json::Map<String, serde_json::Value>>, Option<raw::SecretText>);

/// The keys, from exactly one source. `algorithms` is `Some(None)` where they are given and wrong.
fn keys(
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

/// What a provider whose keys are the internal issuer's has to have in common with it.
fn agree_with_issuer(
    report: &mut Report,
    at: &Path,
    issuer: Option<&IssuerUrl>,
    audiences: Option<&[Audience]>,
    facts: &Facts,
) {
    if !facts.present {
        return report.error(&at.key("jwks"), "there is no `issuer:` section whose keys these could be");
    }
    if let (Some(issuer), Some(url)) = (issuer, &facts.url)
        && issuer != url
    {
        report.error(&at.key("issuer"), format!("must be the issuer's own url, {}", quote(url.as_str())));
    }
    if let (Some(audiences), Some(audience)) = (audiences, &facts.audience)
        && !audiences.contains(audience)
    {
        let audience = quote(audience.as_str());
        report
            .warn(&at.key("audiences"), format!("the issuer's tokens are for {audience}, so none of them is accepted"));
    }
}

/// Whether each algorithm that was named has a key it can be verified with.
fn algorithms_fit(report: &mut Report, at: &Path, given: &[Algorithm], keys: &KeySource, facts: &Facts) -> bool {
    let misfit = given.iter().position(|algorithm| match keys {
        KeySource::InternalIssuer => facts.algorithm.is_some_and(|signed| signed != *algorithm),
        KeySource::Fixed(keys) => !keys.fits(*algorithm),
    });
    if let Some(n) = misfit {
        report.error(&at.index(n), format!("no key of this provider is for {}", given[n]));
    }
    misfit.is_none()
}
