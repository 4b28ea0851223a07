//! Upstreams.

use std::time::Duration;

use http::Uri;

use super::values::{DAY, INSTANT, MINUTE, Names, count, duration};
use crate::{
    config::{path::Path, raw, report::Report},
    gateway::config::{Target, Upstream},
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
    let target = match raw.urls {
        Some(_) if demo => report.refuse(&at.key("demo"), "the built-in page has no `urls`; one of the two"),
        None if demo => Some(Target::Demo),
        urls => {
            let urls = report.required(at, "urls", urls, "where the upstream is, as in [http://127.0.0.1:8080]");
            urls.and_then(|urls| target(report, &at.key("urls"), urls))
        }
    };
    let mut deadline = |key: &str, raw, default, most| duration(report, &at.key(key), raw, default, INSTANT..=most);
    let connect_timeout = deadline("connect_timeout", raw.connect_timeout, Duration::from_secs(5), 10 * MINUTE);
    let response_timeout = deadline("response_timeout", raw.response_timeout, MINUTE, DAY);
    let idle_timeout = deadline("idle_timeout", raw.idle_timeout, MINUTE, DAY);
    let keep_alive = duration(report, &at.key("keep_alive"), raw.keep_alive, MINUTE, Duration::ZERO..=DAY);
    let max_idle = count(report, &at.key("max_idle"), raw.max_idle, 256, 0..=65_536);
    Some(Upstream {
        name: name?,
        target: target?,
        connect_timeout: connect_timeout?,
        response_timeout: response_timeout?,
        idle_timeout: idle_timeout?,
        keep_alive: keep_alive?,
        max_idle: max_idle?,
    })
}

fn target(report: &mut Report, at: &Path, urls: Vec<Option<String>>) -> Option<Target> {
    if urls.len() != 1 {
        return report.refuse(at, "must hold exactly one URL: balancing over several is not supported yet");
    }
    let (at, url) = report.items(at, Some(urls)).pop()?;
    // A URL is never repeated in a message: it may hold a password.
    if let Some(scheme) = ["https:", "h2c:", "unix:"].into_iter().find(|scheme| url.starts_with(scheme)) {
        return report.refuse(&at, format!("{scheme} is not supported yet; an upstream is http://host:port"));
    }
    let uri = url.strip_prefix("http://").and_then(|_| url.parse::<Uri>().ok());
    let Some((uri, authority)) = uri.and_then(|uri| uri.authority().cloned().map(|authority| (uri, authority))) else {
        return report.refuse(&at, "not a URL of the form http://host:port");
    };
    if authority.as_str().contains('@') {
        return report.refuse(&at, "credentials in a URL are not sent anywhere; take them out");
    }
    if uri.path() != "/" || uri.query().is_some() || url.ends_with('?') || url.contains('#') {
        return report
            .refuse(&at, "a path or query has no meaning here: the request's own is sent; end the URL after the port");
    }
    let host = authority.host();
    let port = match authority.as_str().strip_prefix(host) {
        Some("") => Some(80),
        Some(port) => port.strip_prefix(':').and_then(|port| port.parse().ok()).filter(|port| *port != 0),
        None => None,
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match port {
        Some(port) if !host.is_empty() => Some(Target::Http { host: host.into(), port }),
        _ => report.refuse(&at, "not a URL of the form http://host:port, with a port from 1 to 65535"),
    }
}
