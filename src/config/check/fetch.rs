//! Keys that a provider publishes: where they are, and how often they are looked at.

use std::{sync::Arc, time::Duration};

use http::Uri;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};

use super::{
    roots,
    values::{duration, word},
};
use crate::{
    config::{path::Path, raw, report::Report},
    token::provider::{Fetch, Location, OnStale, OnStart},
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// `jwks_uri`, or `discovery` with the provider's issuer, and the section `jwks_fetch`. `at` is the provider.
pub(super) fn check(
    report: &mut Report,
    at: &Path,
    jwks_uri: Option<String>,
    issuer: Option<&str>,
    raw: Option<raw::Fetch>,
) -> Option<Fetch> {
    let raw = raw.unwrap_or_default();
    let section = at.key("jwks_fetch");
    let insecure = raw.insecure_http.is_some_and(|flag| flag.0);
    let secure = match (&jwks_uri, issuer) {
        (Some(url), _) => url_is_secure(report, &at.key("jwks_uri"), url, insecure, KEYS),
        (None, Some(issuer)) => url_is_secure(report, &at.key("issuer"), issuer, insecure, KEYS),
        (None, None) => None,
    };
    let roots = match (secure, &raw.ca_file) {
        // Nobody to be trusted or not.
        (Some(false), None) => Some(RootCertStore::empty()),
        (_, ca_file) => roots::check(report, &section, ca_file.as_deref()),
    };
    let mut time = |name: &str, raw, default, range| duration(report, &section.key(name), raw, default, range);
    let timeout = time("timeout", raw.timeout, 5 * SECOND, Duration::from_millis(100)..=60 * SECOND);
    let least = time("min_refresh", raw.min_refresh, 30 * SECOND, SECOND..=DAY);
    let most = time("max_refresh", raw.max_refresh, HOUR, SECOND..=DAY);
    let cooldown = time("cooldown", raw.cooldown, 10 * SECOND, SECOND..=HOUR);
    let max_stale = time("max_stale", raw.max_stale, DAY, SECOND..=365 * DAY);
    let (least, most) = (least?, most?);
    if least > most {
        report.error(&section.key("min_refresh"), "is longer than max_refresh");
        return None;
    }
    let on_stale = [("serve", OnStale::Serve), ("refuse", OnStale::Refuse)];
    let on_stale = word(report, &section.key("on_stale"), raw.on_stale.as_deref(), OnStale::Serve, &on_stale);
    let on_start = [("wait", OnStart::Wait), ("serve_others", OnStart::ServeOthers)];
    let on_start = word(report, &section.key("on_start"), raw.on_start.as_deref(), OnStart::Wait, &on_start);
    secure?;
    Some(Fetch {
        location: jwks_uri.map_or(Location::Discovery, Location::Jwks),
        tls: client(report, &section, roots?)?,
        timeout: timeout?,
        refresh: (least, most),
        unless_said: (5 * 60 * SECOND).clamp(least, most),
        cooldown: cooldown?,
        max_stale: max_stale?,
        on_stale: on_stale?,
        on_start: on_start?,
    })
}

/// What is fetched, in messages about its URL.
#[derive(Clone, Copy)]
pub(super) struct What {
    /// It is no URL of that form.
    pub(super) form: &'static str,
    /// It is one of http.
    pub(super) insecure: &'static str,
}

const KEYS: What = What {
    form: "not a URL of the form https://host/path, from which keys could be fetched",
    insecure: "keys that come over http can be anybody's: use https, or say jwks_fetch: { insecure_http: true }",
};

/// Whether a URL is one of https. One of http is taken where nobody can stand in between, or where it is asked for.
pub(super) fn url_is_secure(report: &mut Report, at: &Path, url: &str, insecure: bool, what: What) -> Option<bool> {
    // A URL is never repeated in a message: it may hold a password.
    let Ok(uri) = url.parse::<Uri>() else { return report.refuse(at, what.form) };
    let Some(authority) = uri.authority() else { return report.refuse(at, what.form) };
    if authority.as_str().contains('@') {
        return report.refuse(at, "credentials in a URL are not sent anywhere; take them out");
    }
    match uri.scheme_str() {
        Some("https") => Some(true),
        Some("http") if insecure || is_loopback(authority.host()) => Some(false),
        Some("http") => report.refuse(at, what.insecure),
        Some(_) | None => report.refuse(at, what.form),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

pub(super) fn client(report: &mut Report, at: &Path, roots: RootCertStore) -> Option<Arc<ClientConfig>> {
    // Which versions a provider has is known when it is built; aws-lc-rs has both.
    let made = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12]);
    match made {
        Ok(builder) => Some(Arc::new(builder.with_root_certificates(roots).with_no_client_auth())),
        Err(error) => report.refuse(at, format!("TLS cannot be had: {error}")),
    }
}
