//! Redis as the place of sessions.

use std::{sync::Arc, time::Duration};

use http::Uri;

use super::{
    feed::MAX_STALENESS,
    roots::MAX_PEM,
    values::{HOUR, SECOND, count, duration},
};
use crate::{
    config::{file, path::Path, raw, report::Report},
    store::{Layout, Login, RedisConfig, Tls, Wait},
};

const FORM: &str =
    "not a URL of the form redis://host:6379, or rediss://… over TLS; user and password have keys of their own";
/// The longest a verb may take, in seconds: less than what the issuer waits for a store.
const MOST: Duration = Duration::from_secs(8);

/// Checks the section.
pub(super) fn check(report: &mut Report, at: &Path, raw: raw::Redis) -> Option<RedisConfig> {
    let urls = match (raw.url, raw.urls) {
        (Some(_), Some(_)) => report.refuse(&at.key("urls"), "url and urls are there both; keep one of them"),
        (None, None) => report.required(at, "url", None, "as in redis://redis.example:6379"),
        (Some(url), None) => Some(vec![(at.key("url"), url)]),
        (None, Some(list)) if list.is_empty() => report.refuse(&at.key("urls"), "must not be empty"),
        (None, list) => Some(report.items(&at.key("urls"), list)),
    };
    let default_port = if raw.sentinel.is_some() { 26_379 } else { 6_379 };
    let urls = urls.map(|urls| {
        let read = |(at, url): (Path, String)| server(report, &at, &url, default_port);
        urls.into_iter().map(read).collect::<Vec<_>>()
    });
    let servers: Option<Vec<_>> = urls.and_then(|urls| urls.into_iter().collect());
    let servers = servers.and_then(|servers| match servers.iter().any(|(_, tls)| *tls != servers[0].1) {
        true => report
            .refuse(&at.key("urls"), "redis:// and rediss:// are mixed; all of the servers speak TLS, or none of them"),
        false => Some(servers),
    });
    let over_tls = servers.as_ref().map(|servers| servers[0].1);
    let tls = match (over_tls, raw.ca_file) {
        (Some(false), Some(_)) => report.refuse(&at.key("ca_file"), "is for rediss:// alone"),
        (Some(true) | None, Some(name)) => {
            let at = at.key("ca_file");
            let pem = super::roots::certificates(report, &at, &name).and(file::named(report, &at, &name, MAX_PEM));
            pem.map(|contents| Some(Tls { roots: Some(contents.bytes.to_vec().into()) }))
        }
        (Some(true), None) => Some(Some(Tls { roots: None })),
        (Some(false) | None, None) => Some(None),
    };
    let own = login(report, at, ("user", raw.user), ("password", raw.password));
    let of_sentinels =
        login(report, at, ("sentinel_user", raw.sentinel_user), ("sentinel_password", raw.sentinel_password));
    let cluster = raw.cluster.is_some_and(|flag| flag.0);
    let layout = match (raw.sentinel, cluster, of_sentinels) {
        (Some(_), true, _) => report.refuse(&at.key("cluster"), "Sentinels have no cluster: take out one of the two"),
        (Some(name), ..) if name.is_empty() => report.refuse(&at.key("sentinel"), "must not be empty"),
        (Some(name), false, login) => login.map(|login| Layout::Sentinels { master: name.into(), login }),
        (None, _, Some(Some(_))) => {
            report.refuse(&at.key("sentinel_password"), "is for Sentinels; `sentinel` names the master that they know")
        }
        (None, _, None) => None,
        (None, true, Some(None)) => Some(Layout::Cluster),
        (None, false, Some(None)) => Some(Layout::Alone),
    };
    let prefix = raw.prefix.unwrap_or_else(|| "sidegate:".into());
    let prefix = match prefix {
        prefix if prefix.len() > 64 || !prefix.bytes().all(|byte| matches!(byte, 0x21..=0x7a)) => report
            .refuse(&at.key("prefix"), "must be up to 64 letters, digits and signs, without spaces or curly brackets"),
        prefix => Some(Arc::from(prefix)),
    };
    let timeout = duration(report, &at.key("timeout"), raw.timeout, 2 * SECOND, Duration::from_millis(100)..=MOST);
    let wait = match raw.wait {
        Some(raw::Mapping(raw)) => wait(report, &at.key("wait"), raw, timeout).map(Some),
        None => Some(None),
    };
    let (at_stale, range) = (at.key("max_staleness"), SECOND..=HOUR);
    let max_staleness = duration(report, &at_stale, raw.max_staleness, MAX_STALENESS, range);
    Some(RedisConfig {
        servers: servers?.into_iter().map(|(server, _)| server).collect(),
        layout: layout?,
        login: own?,
        tls: tls?,
        prefix: prefix?,
        timeout: timeout?,
        wait: wait?,
        max_staleness: max_staleness?,
    })
}

/// A host and a port, and whether TLS is spoken there.
fn server(report: &mut Report, at: &Path, url: &str, default_port: u16) -> Option<((Arc<str>, u16), bool)> {
    let Ok(uri) = url.parse::<Uri>() else { return report.refuse(at, FORM) };
    let tls = match uri.scheme_str() {
        Some("redis") => false,
        Some("rediss") => true,
        _ => return report.refuse(at, FORM),
    };
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = uri.host().unwrap_or("").trim_start_matches('[').trim_end_matches(']');
    if authority.contains('@') || host.is_empty() || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return report.refuse(at, FORM);
    }
    Some(((host.into(), uri.port_u16().unwrap_or(default_port)), tls))
}

#[expect(clippy::option_option, reason = "a fault, and nobody")]
fn login(
    report: &mut Report,
    at: &Path,
    (user_key, user): (&str, Option<String>),
    (password_key, password): (&str, Option<raw::SecretText>),
) -> Option<Option<Login>> {
    match (user, password) {
        (None, None) => Some(None),
        (Some(_), None) => report.required(at, password_key, None::<Option<Login>>, "which goes with the user"),
        (user, Some(password)) => {
            if user.as_deref() == Some("") {
                return report.refuse(&at.key(user_key), "must not be empty");
            }
            let at = at.key(password_key);
            let password = file::secret(report, &at, password)?;
            if str::from_utf8(password.expose()).is_err() {
                return report.refuse(&at, "must be text in UTF-8");
            }
            Some(Some(Login { user: user.map(Into::into), password }))
        }
    }
}

fn wait(report: &mut Report, at: &Path, raw: raw::Wait, whole: Option<Duration>) -> Option<Wait> {
    let replicas = count(report, &at.key("replicas"), raw.replicas, 1, 1..=16);
    let least = Duration::from_millis(10);
    // A server that does not answer is left after half of the whole time, and must not be taken for one that waits.
    let most = whole? / 4;
    let timeout = duration(report, &at.key("timeout"), raw.timeout, most.min(Duration::from_millis(500)), least..=most);
    Some(Wait { replicas: u32::try_from(replicas?).ok()?, timeout: timeout? })
}
