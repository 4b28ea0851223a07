//! The internal issuer.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use http::Uri;

use super::{
    client, feed, login, provider, rate, redis, user,
    values::{DAY, HOUR, MINUTE, SECOND, count, duration, word},
};
use crate::{
    config::{error::one_of, file, path::Path, raw, report::Report},
    issuer::{
        AccessToken, Config, GrantType, KeysConfig, Lifetimes, MASTER_KEY_BYTES, OPENID, RefreshToken, StoreConfig,
        private_key_in,
    },
    store::OnRollback,
    token::{
        Algorithm,
        sign::{SIGNING_ALGORITHMS, Signer},
    },
    types::{Audience, IssuerUrl, Secret},
};

/// The largest file of a private key that is read, in bytes.
const MAX_KEY: u64 = 64 << 10;
/// The longest a session may live.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What others have to know of the issuer, even where something is wrong with it.
#[derive(Default)]
pub(super) struct Facts {
    /// Whether there is an `issuer:` section.
    pub(super) present: bool,
    pub(super) url: Option<IssuerUrl>,
    pub(super) algorithm: Option<Algorithm>,
    pub(super) audience: Option<Audience>,
    /// Where the demo's credentials stand.
    pub(super) demo: Vec<Path>,
    /// Whether other processes add to its revocation log as well.
    pub(super) shared: bool,
    /// Where the revocation feed stands that wants TLS beyond loopback.
    pub(super) feed: Option<Path>,
}

/// Checks the section; `local_audiences` are those of the providers that take its tokens, where they are known.
pub(super) fn check(
    report: &mut Report,
    at: &Path,
    raw: raw::Section<raw::Issuer>,
    local_audiences: Option<Vec<String>>,
) -> (Option<Config>, Facts) {
    let Some(raw::Mapping(raw)) = raw else {
        // A section at fault is there nevertheless.
        return (None, Facts { present: report.is_settled(at), ..Facts::default() });
    };
    let url = report.required(at, "url", raw.url, "its own URL, the `iss` of its tokens");
    let url = url.and_then(|url| self_url(report, &at.key("url"), url));
    let (access_token, algorithm, audience) =
        access_token(report, &at.key("access_token"), raw.access_token, local_audiences);
    let refresh_token = refresh_token(report, &at.key("refresh_token"), raw.refresh_token);
    let shared = raw.store.as_ref().is_some_and(|store| store.0.redis.is_some());
    let written = raw.master_key.is_some();
    let master_key = raw.master_key.map(|raw| master_key(report, &at.key("master_key"), raw));
    let (store, data) = store(report, &at.key("store"), raw.store);
    if matches!(store, Some(StoreConfig::Redis(_))) && !written {
        report.required(
            at,
            "master_key",
            None::<()>,
            "which all that share a store in Redis have in common; `openssl rand -hex 32` makes one",
        );
    }
    let previous = report.items(&at.key("previous_master_keys"), raw.previous_master_keys);
    let previous: Vec<_> = previous.into_iter().map(|(at, raw)| self::master_key(report, &at, raw)).collect();
    let feed_at = at.key("revocation_feed");
    let feed = feed::served(report, &feed_at, raw.revocation_feed);
    let keys = signing_keys(report, &at.key("keys"), raw.keys, algorithm);
    let login = login::check(report, &at.key("login"), raw.login);
    let throttle = login::throttle(report, &at.key("throttle"), raw.throttle);
    let limits = rate::of_issuer(report, &at.key("limits"), raw.limits);
    let mut demo = Vec::new();
    let clients = client::check_all(report, &at.key("clients"), raw.clients, access_token.as_ref(), &mut demo);
    let registration = raw.registration.map(|raw| client::registration(report, &at.key("registration"), raw));
    let wants_id_tokens = clients
        .iter()
        .flatten()
        .any(|client| client.grants.contains(&GrantType::AuthorizationCode) && client.scopes.contains(OPENID))
        || registration.iter().flatten().any(|registration| registration.scopes.contains(OPENID));
    if wants_id_tokens && algorithm.is_some_and(Algorithm::is_symmetric) {
        let message =
            "clients with the scope openid verify ID tokens, and nobody but this process has this key; take ES256";
        report.error(&at.key("access_token").key("algorithm"), message);
    }
    let users = user::check_wherever(report, &at.key("users"), raw.users, &mut demo);
    let over_tls = matches!(feed, Some(Some((_, false))));
    let feed_at = over_tls.then_some(feed_at);
    let facts = Facts { present: true, url: url.clone(), algorithm, audience, demo, shared, feed: feed_at };
    let config = (|| {
        let user::Source { users, file: users_file, hook: users_hook } = users?;
        Some(Config {
            url: url?,
            access_token: access_token?,
            refresh_token: refresh_token?,
            data: data?,
            store: store?,
            master_key: match master_key {
                Some(key) => Some(key?),
                None => None,
            },
            previous_master_keys: previous.into_iter().collect::<Option<_>>()?,
            keys: keys?,
            feed_credential: feed?.map(|(credential, _)| credential),
            login: login?,
            throttle: throttle?,
            limits: limits?,
            clients: clients?,
            registration: match registration {
                Some(registration) => Some(registration?),
                None => None,
            },
            users,
            users_file,
            users_hook,
            others: Vec::new(),
            needs_nonces: false,
        })
    })();
    (config, facts)
}

/// Where sessions are kept, and the folder of this process.
fn store(report: &mut Report, at: &Path, raw: raw::Section<raw::Store>) -> (Option<StoreConfig>, Option<PathBuf>) {
    let raw = raw.map(|section| section.0).unwrap_or_default();
    let (store, at, path) = match (raw.embedded, raw.redis) {
        (Some(_), Some(_)) => {
            return (report.refuse(at, "has both `embedded` and `redis`; sessions are kept in one of them"), None);
        }
        (None, Some(raw::Mapping(mut redis))) => {
            let (at, path) = (at.key("redis"), redis.path.take());
            (redis::check(report, &at, redis).map(|redis| StoreConfig::Redis(Box::new(redis))), at, path)
        }
        (embedded, None) => {
            (Some(StoreConfig::Embedded), at.key("embedded"), embedded.and_then(|section| section.0.path))
        }
    };
    let data = match path.as_deref() {
        Some("") => report.refuse(&at.key("path"), "must not be empty"),
        folder => Some(report.resolve(folder.unwrap_or("data"))),
    };
    (store, data)
}

fn master_key(report: &mut Report, at: &Path, raw: raw::SecretText) -> Option<Secret> {
    let key = file::secret(report, at, raw)?;
    if key.expose().len() < MASTER_KEY_BYTES {
        return report
            .refuse(at, format!("must be at least {MASTER_KEY_BYTES} bytes long; `openssl rand -hex 32` makes one"));
    }
    Some(key)
}

/// How its keys follow each other.
fn signing_keys(
    report: &mut Report,
    at: &Path,
    raw: raw::Section<raw::SigningKeys>,
    algorithm: Option<Algorithm>,
) -> Option<KeysConfig> {
    let raw = raw.map(|section| section.0).unwrap_or_default();
    let (every_at, ahead_at) = (at.key("rotate_every"), at.key("publish_ahead"));
    let file = match (raw.file, algorithm) {
        (None, _) => Some(None),
        (Some(name), Some(algorithm)) => given_key(report, &at.key("file"), &name, algorithm).map(Some),
        (Some(_), None) => None,
    };
    let rotate_every = match raw.rotate_every {
        Some(raw::Scalar(text)) if text == "never" => Some(None),
        Some(_) if !matches!(file, Some(None)) => {
            report.refuse(&every_at, "keys of a file follow each other when another one is put there; take this out")
        }
        None if !matches!(file, Some(None)) => Some(None),
        other => duration(report, &every_at, other, 30 * DAY, 2 * SECOND..=LONGEST).map(Some),
    };
    let ahead = match rotate_every {
        Some(Some(every)) => DAY.min(every / 2),
        Some(None) | None => DAY,
    };
    // Half of it is how long others may keep the published keys, in whole seconds.
    let publish_ahead = duration(report, &ahead_at, raw.publish_ahead, ahead, 2 * SECOND..=30 * DAY);
    let (rotate_every, publish_ahead) = (rotate_every?, publish_ahead?);
    if rotate_every.is_some_and(|every| publish_ahead >= every) {
        return report.refuse(&ahead_at, "must be shorter than rotate_every, or a key would follow before it signs");
    }
    Some(KeysConfig { rotate_every, publish_ahead, file: file? })
}

/// A file with a private key, which is looked at again while it runs.
fn given_key(report: &mut Report, at: &Path, name: &str, algorithm: Algorithm) -> Option<PathBuf> {
    let contents = file::looked_after(report, at, name, MAX_KEY)?;
    let path = report.resolve(name);
    let key = private_key_in(&Secret::new(contents.bytes.to_vec()), algorithm).map_err(str::to_owned);
    match key.and_then(|key| Signer::new(algorithm, &key).map_err(|error| error.to_string())) {
        Ok(_) => {
            file::must_be_private(report, at, name, &contents);
            Some(path)
        }
        Err(why) => report.refuse(at, format!("{}: {why}", path.display())),
    }
}

/// An URL under which clients find the issuer (RFC 8414 §2; plain http only where nobody can listen in).
fn self_url(report: &mut Report, at: &Path, text: String) -> Option<IssuerUrl> {
    const FORM: &str =
        "not a URL of the form https://auth.example.com: no query, fragment, credentials or trailing slash";
    let Ok(uri) = text.parse::<Uri>() else { return report.refuse(at, FORM) };
    let (scheme, authority) = (uri.scheme_str().unwrap_or(""), uri.authority().map_or("", |a| a.as_str()));
    let clean = !text.contains(['?', '#']) && !text.ends_with('/') && !authority.contains('@');
    let starts_as_is = text.starts_with(&format!("{scheme}://{authority}"));
    if !clean || !starts_as_is || authority.is_empty() || !matches!(scheme, "http" | "https") {
        return report.refuse(at, FORM);
    }
    let host = uri.host().unwrap_or("");
    if scheme == "http" && !is_loopback(host) {
        return report.refuse(at, "plain http is for loopback alone; write https://");
    }
    Some(IssuerUrl::new(text))
}

/// Whether a host of an URL is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.ends_with(".localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What tokens can be for (RFC 8707 §2: absolute, no fragment).
fn resources(report: &mut Report, at: &Path, raw: raw::List<String>) -> Option<Vec<Audience>> {
    let items = report.items(at, raw).into_iter().map(|(path, text)| {
        let rest = text.split_once(':').filter(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
        let plain = text.len() <= 1024 && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        match rest {
            Some(_) if plain => Some(Audience::new(text)),
            _ => report.refuse(&path, "not an absolute URI without fragment, as in https://api.example.com/orders"),
        }
    });
    super::all(items.collect::<Vec<_>>())
}

fn access_token(
    report: &mut Report,
    at: &Path,
    raw: raw::Section<raw::AccessToken>,
    local_audiences: Option<Vec<String>>,
) -> (Option<AccessToken>, Option<Algorithm>, Option<Audience>) {
    let raw = raw.map(|section| section.0).unwrap_or_default();
    let lifetime = access_lifetime(report, &at.key("lifetime"), raw.lifetime, 5 * MINUTE);
    let algorithm = match raw.algorithm {
        None => Some(Algorithm::Es256),
        Some(name) => {
            let at = at.key("algorithm");
            match provider::algorithm(report, &at, &name) {
                Some(algorithm) if !SIGNING_ALGORITHMS.contains(&algorithm) => {
                    let names = SIGNING_ALGORITHMS.map(Algorithm::name);
                    report.refuse(&at, format!("tokens are signed with {}", one_of(&names)))
                }
                algorithm => algorithm,
            }
        }
    };
    // Where exactly one audience is accepted from this issuer, it goes without saying.
    if local_audiences.is_none() {
        report.excuse(at.key("audience"));
    }
    let only = local_audiences.filter(|list| list.len() == 1).and_then(|mut list| list.pop());
    let what = "whom the tokens are for (`aud`), as the provider with `jwks: issuer` accepts it";
    let audience = report.required(at, "audience", raw.audience.or(only), what);
    let audience = audience.and_then(|audience| match audience.as_str() {
        "" => report.refuse(&at.key("audience"), "must not be empty"),
        _ => Some(Audience::new(audience)),
    });
    let resources = resources(report, &at.key("resources"), raw.resources);
    let whole = (|| {
        let (lifetime, algorithm, audience) = (lifetime?, algorithm?, audience.clone()?);
        Some(AccessToken { lifetime, algorithm, audience, resources: resources? })
    })();
    (whole, algorithm, audience)
}

/// The lifetime of access tokens: as long as a revocation has to be remembered.
pub(super) fn access_lifetime(
    report: &mut Report,
    at: &Path,
    raw: Option<raw::Scalar>,
    default: Duration,
) -> Option<Duration> {
    let lifetime = duration(report, at, raw, default, SECOND..=DAY)?;
    // A token's dates are whole seconds.
    if lifetime.subsec_nanos() != 0 {
        return report.refuse(at, "must be whole seconds");
    }
    Some(lifetime)
}

/// How long sessions live; what is not said is as in `unless_said`.
pub(super) fn lifetimes(
    report: &mut Report,
    at: &Path,
    raw: raw::Lifetimes,
    unless_said: Lifetimes,
) -> Option<Lifetimes> {
    let written = raw.idle_lifetime.is_some();
    let mut span = |key: &str, raw, default| duration(report, &at.key(key), raw, default, SECOND..=LONGEST);
    let absolute = span("absolute_lifetime", raw.absolute_lifetime, unless_said.absolute);
    let idle = span("idle_lifetime", raw.idle_lifetime, unless_said.idle);
    let lifetimes = Lifetimes { idle: idle?, absolute: absolute? };
    if lifetimes.idle > lifetimes.absolute {
        let at = at.key(if written { "idle_lifetime" } else { "absolute_lifetime" });
        let days = |time: Duration| time.as_secs() / 86_400;
        return report.refuse(
            &at,
            format!(
                "idle_lifetime ({}d unless set) must not be longer than absolute_lifetime ({}d unless set)",
                days(unless_said.idle),
                days(unless_said.absolute)
            ),
        );
    }
    Some(lifetimes)
}

fn refresh_token(report: &mut Report, at: &Path, raw: raw::Section<raw::RefreshToken>) -> Option<RefreshToken> {
    let raw = raw.map(|section| section.0).unwrap_or_default();
    let mut span = |key: &str, raw, default, range| duration(report, &at.key(key), raw, default, range);
    let retry_window = span("retry_window", raw.retry_window, MINUTE, Duration::ZERO..=HOUR);
    let reuse_interval = span("reuse_interval", raw.reuse_interval, 10 * SECOND, Duration::ZERO..=5 * MINUTE);
    let confidential_retry_window = raw
        .confidential_retry_window
        .map(|raw| span("confidential_retry_window", Some(raw), Duration::ZERO, Duration::ZERO..=LONGEST));
    let meanings = [("relogin", OnRollback::Relogin), ("roll_forward", OnRollback::RollForward)];
    let on_rollback = word(report, &at.key("on_rollback"), raw.on_rollback.as_deref(), OnRollback::Relogin, &meanings);
    let usual = Lifetimes { idle: 14 * DAY, absolute: 90 * DAY };
    let own = raw::Lifetimes { idle_lifetime: raw.idle_lifetime, absolute_lifetime: raw.absolute_lifetime };
    let lifetimes = lifetimes(report, at, own, usual);
    let remembered = match raw.remembered {
        Some(raw::Mapping(raw)) => {
            let longer = Lifetimes { idle: 90 * DAY, absolute: 365 * DAY };
            self::lifetimes(report, &at.key("remembered"), raw, longer)
        }
        None => lifetimes,
    };
    let max_at = at.key("max_sessions_per_subject");
    let max_sessions = raw.max_sessions_per_subject.map(|raw| count(report, &max_at, Some(raw), 1, 1..=10_000));
    Some(RefreshToken {
        lifetimes: lifetimes?,
        remembered: remembered?,
        max_sessions: match max_sessions {
            Some(most) => Some(u32::try_from(most?).ok()?),
            None => None,
        },
        reuse_interval: reuse_interval?,
        retry_window: retry_window?,
        confidential_retry_window: match confidential_retry_window {
            Some(window) => Some(window?),
            None => None,
        },
        on_rollback: on_rollback?,
    })
}
