//! Providers: whose tokens are accepted, and with which keys.

use std::time::Duration;

use super::{
    all,
    issuer::Facts,
    keys,
    values::{Names, duration, word},
};
use crate::{
    config::{
        error::{did_you_mean, quote},
        path::Path,
        raw,
        report::Report,
    },
    store::MAX_LEEWAY,
    token::{
        Algorithm,
        provider::{Config, KeySource, Profile},
    },
    types::{Audience, IssuerUrl},
};

/// The audiences of those providers whose keys are the internal issuer's; `None` where a fault hides some.
pub(super) fn local_audiences(raw: &raw::List<raw::Mapping<raw::Provider>>) -> Option<Vec<String>> {
    let mut audiences = Vec::new();
    for provider in raw.iter().flatten() {
        let provider = provider.as_ref()?;
        if provider.jwks.as_deref() == Some("issuer") {
            audiences.extend(provider.audiences.as_ref()?.iter().cloned().collect::<Option<Vec<_>>>()?);
        }
    }
    audiences.sort();
    audiences.dedup();
    Some(audiences)
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
    let sources = keys::Sources {
        jwks: raw.jwks,
        jwks_uri: raw.jwks_uri,
        discovery: raw.discovery,
        fetch: raw.jwks_fetch.map(|section| section.0),
        jwks_file: raw.jwks_file,
        jwks_inline: raw.jwks_inline,
        hmac_secret: raw.hmac_secret,
    };
    let keys = keys::check(report, at, sources, issuer.as_ref(), algorithms.as_ref());

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
    let leeway = duration(report, &at.key("leeway"), raw.leeway, leeway, Duration::ZERO..=MAX_LEEWAY);
    let profile = if local { Profile::Rfc9068 } else { Profile::Custom };
    let profiles = [("rfc9068", Profile::Rfc9068), ("oidc_access", Profile::OidcAccess), ("custom", Profile::Custom)];
    let profile = word(report, &at.key("profile"), raw.profile.as_deref(), profile, &profiles);
    let required_claims = claim_names(report, &at.key("required_claims"), raw.required_claims);
    let lifetimes = Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 3600);
    let max_lifetime = match raw.max_lifetime {
        None => Some(None),
        given => duration(report, &at.key("max_lifetime"), given, Duration::ZERO, lifetimes).map(Some),
    };
    Some(Config {
        fingerprint: report.fingerprint(at),
        name: name?,
        issuer: issuer?,
        audiences: audiences?,
        algorithms: algorithms?,
        leeway: leeway?,
        profile: profile?,
        required_claims: required_claims?,
        max_lifetime: max_lifetime?,
        keys: keys?,
    })
}

fn claim_names(report: &mut Report, at: &Path, raw: raw::List<String>) -> Option<Vec<Box<str>>> {
    let named = report.items(at, raw);
    all(named.into_iter().map(|(path, name)| match name.as_str() {
        "" => report.refuse(&path, "must not be empty"),
        _ => Some(name.into_boxed_str()),
    }))
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
        // What is published is never a shared secret.
        KeySource::Published(_) => algorithm.is_symmetric(),
    });
    if let Some(n) = misfit {
        report.error(&at.index(n), format!("no key of this provider is for {}", given[n]));
    }
    misfit.is_none()
}
