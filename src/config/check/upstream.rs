//! Upstreams.

mod tls;
mod url;

use std::time::Duration;

use http::uri::PathAndQuery;

use super::values::{DAY, HOUR, INSTANT, MINUTE, Names, SECOND, count, duration};
use crate::{
    config::{path::Path, raw, report::Report},
    gateway::config::{HealthCheck, Outlier, Speech, Target, Upstream},
};

/// Checks all upstreams, and collects their names.
pub(super) fn check_all(
    report: &mut Report,
    at: &Path,
    raw: raw::List<raw::Mapping<raw::Upstream>>,
) -> (Vec<Option<Upstream>>, Names) {
    let mut names = Names::new(at.clone(), "upstream");
    let mut upstreams = Vec::new();
    for (path, raw::Mapping(raw)) in report.items(at, raw) {
        upstreams.push(check(report, &path, raw, &mut names));
    }
    (upstreams, names)
}

fn check(report: &mut Report, at: &Path, raw: raw::Upstream, names: &mut Names) -> Option<Upstream> {
    let name = names.add(report, at, raw.name);
    let demo = raw.demo.is_some_and(|flag| flag.0);
    let place = match raw.urls {
        Some(_) if demo => report.refuse(&at.key("demo"), "the built-in page has no `urls`; one of the two"),
        None if demo => speech(report, at, url::Scheme::Http, raw.tls).map(|speech| (Target::Demo, speech)),
        urls => {
            let urls = report.required(at, "urls", urls, "where the upstream is, as in [http://127.0.0.1:8080]");
            let found = urls.and_then(|urls| url::check_all(report, &at.key("urls"), urls));
            found.and_then(|(scheme, origins)| Some((Target::Origins(origins), speech(report, at, scheme, raw.tls)?)))
        }
    };
    let mut deadline = |key: &str, raw, default, most| duration(report, &at.key(key), raw, default, INSTANT..=most);
    let connect_timeout = deadline("connect_timeout", raw.connect_timeout, 5 * SECOND, 10 * MINUTE);
    let response_timeout = deadline("response_timeout", raw.response_timeout, MINUTE, DAY);
    let idle_timeout = deadline("idle_timeout", raw.idle_timeout, MINUTE, DAY);
    let tunnel_idle_timeout = deadline("tunnel_idle_timeout", raw.tunnel_idle_timeout, HOUR, DAY);
    let queue_timeout = deadline("queue_timeout", raw.queue_timeout, 5 * SECOND, HOUR);
    let total_timeout = match raw.total_timeout {
        Some(raw) => deadline("total_timeout", Some(raw), DAY, 30 * DAY).map(Some),
        None => Some(None),
    };
    let dns_refresh = duration(report, &at.key("dns_refresh"), raw.dns_refresh, 30 * SECOND, SECOND..=DAY);
    let keep_alive = duration(report, &at.key("keep_alive"), raw.keep_alive, MINUTE, Duration::ZERO..=DAY);
    let mut number = |key: &str, raw, default, range| count(report, &at.key(key), raw, default, range);
    let max_idle = number("max_idle", raw.max_idle, 256, 0..=65_536);
    let max_streams = number("max_streams_per_connection", raw.max_streams_per_connection, 100, 1..=4096);
    let retries = number("retries", raw.retries, 1, 0..=10);
    let max_requests = number("max_requests", raw.max_requests, 10_000, 1..=10_000_000);
    let max_queue = number("max_queue", raw.max_queue, 1000, 0..=1_000_000);
    let outlier = outlier(report, &at.key("outlier"), raw.outlier);
    let health_check = match raw.health_check {
        Some(raw::Mapping(raw)) => health_check(report, &at.key("health_check"), raw).map(Some),
        None => Some(None),
    };
    let (target, speech) = place?;
    Some(Upstream {
        fingerprint: report.fingerprint(at),
        name: name?,
        target,
        speech,
        connect_timeout: connect_timeout?,
        response_timeout: response_timeout?,
        idle_timeout: idle_timeout?,
        tunnel_idle_timeout: tunnel_idle_timeout?,
        total_timeout: total_timeout?,
        keep_alive: keep_alive?,
        max_idle: max_idle?,
        max_streams: max_streams?,
        dns_refresh: dns_refresh?,
        outlier: outlier?,
        health_check: health_check?,
        retries: retries?,
        max_requests: max_requests?,
        max_queue: max_queue?,
        queue_timeout: queue_timeout?,
    })
}

/// What is spoken follows from the URLs; `tls` says how, where it is TLS.
fn speech(report: &mut Report, at: &Path, scheme: url::Scheme, raw: raw::Section<raw::UpstreamTls>) -> Option<Speech> {
    let plain = match scheme {
        url::Scheme::Https => return tls::check(report, &at.key("tls"), raw).map(Speech::Tls),
        url::Scheme::Http | url::Scheme::Unix => Speech::Http1,
        url::Scheme::H2c => Speech::Http2,
    };
    match raw {
        Some(_) => report.refuse(&at.key("tls"), "only https:// speaks TLS; take this out, or change the URLs"),
        None => Some(plain),
    }
}

fn outlier(report: &mut Report, at: &Path, raw: raw::Section<raw::Outlier>) -> Option<Outlier> {
    let raw = raw.map(|section| section.0).unwrap_or_default();
    let failures = count(report, &at.key("failures"), raw.failures, 5, 0..=1_000_000);
    let eject_for = duration(report, &at.key("eject_for"), raw.eject_for, 10 * SECOND, INSTANT..=DAY);
    Some(Outlier { failures: u32::try_from(failures?).ok()?, eject_for: eject_for? })
}

fn health_check(report: &mut Report, at: &Path, raw: raw::HealthCheck) -> Option<HealthCheck> {
    let path = report.required(at, "path", raw.path, "what is asked for, as in /healthz");
    let path = path.and_then(|path| match PathAndQuery::try_from(&path) {
        Ok(target) if path.starts_with('/') && !path.contains('#') => Some(target),
        Ok(_) | Err(_) => report.refuse(&at.key("path"), "not a path; write /healthz"),
    });
    let interval = duration(report, &at.key("interval"), raw.interval, 5 * SECOND, Duration::from_millis(10)..=DAY);
    let timeout = duration(report, &at.key("timeout"), raw.timeout, 2 * SECOND, INSTANT..=10 * MINUTE);
    let mut times = |key: &str, raw, default| count(report, &at.key(key), raw, default, 1..=1000);
    let unhealthy_after = times("unhealthy_after", raw.unhealthy_after, 3);
    let healthy_after = times("healthy_after", raw.healthy_after, 2);
    Some(HealthCheck {
        path: path?,
        interval: interval?,
        timeout: timeout?,
        unhealthy_after: u32::try_from(unhealthy_after?).ok()?,
        healthy_after: u32::try_from(healthy_after?).ok()?,
    })
}
