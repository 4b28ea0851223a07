//! From shapes to what each room asks for. A check goes on after a fault: it reports, and hands on `None`.

mod claims;
mod client;
mod cors;
mod credentials;
mod feed;
mod fetch;
mod hash;
mod hook;
mod issuer;
mod keys;
mod listener;
mod login;
mod pattern;
mod provider;
mod rate;
mod redis;
mod roots;
mod route;
mod tls;
mod upstream;
pub(super) mod user;
mod values;

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use values::{HOUR, bound, count, duration, size, word};

use super::{Config, path::Path, raw, report::Report};
use crate::{
    admin, gateway, server,
    telemetry::{audit::Destination, log},
    token::provider::KeySource,
};

/// Checks everything, in the order in which names are needed. `None` only when a fault has been reported.
pub(super) fn config(report: &mut Report, mut raw: raw::Config) -> Option<Config> {
    let root = Path::default();
    let local_audiences = provider::local_audiences(&raw.providers);
    let (issuer, facts) = issuer::check(report, &root.key("issuer"), raw.issuer, local_audiences);
    let (upstreams, upstream_names) = upstream::check_all(report, &root.key("upstreams"), raw.upstreams);
    let (providers, provider_names) = provider::check_all(report, &root.key("providers"), raw.providers, &facts);
    let trusted_proxies = trusted_proxies(report, &root.key("trusted_proxies"), raw.trusted_proxies);
    let max_body_bytes = raw.limits.as_mut().and_then(|limits| limits.0.max_body_bytes.take());
    let max_body_bytes = bound(report, &root.key("limits").key("max_body_bytes"), max_body_bytes, None);
    let bounds = (raw.workers, raw.limits, raw.shutdown, trusted_proxies.clone());
    let (server, admin) = server(report, &root, raw.listeners, raw.admin, bounds, &facts);
    let (followed, follows) = feed::followed(report, &root.key("revocation_feed"), raw.revocation_feed, facts.present);
    let names = route::Names {
        follows: follows || facts.shared,
        upstreams: upstream_names,
        providers: provider_names,
        audiences: audiences(&providers),
        max_body_bytes: max_body_bytes.flatten(),
    };
    let routes = route::check_all(report, &root.key("routes"), raw.routes, &names, facts.present);
    let tokens = tokens(report, &root.key("tokens"), raw.tokens);
    let log = log(report, &root.key("log"), raw.log);
    let Tokens { max_token_bytes, token_cache_bytes, revocations_alarm, realm, needs_nonces } = tokens?;
    max_body_bytes?;
    let (server, routes) = (server?, all(routes)?);
    tls::keep_apart(report, &root, &server.listeners, &routes);
    let clients = issuer.as_ref().map_or(&[][..], |issuer| &issuer.clients);
    credentials::can_be_shown(report, &root, clients, &server.listeners);
    let terminators = server.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    let providers = all(providers)?;
    let others = providers.iter().filter(|provider| !matches!(provider.keys, KeySource::InternalIssuer));
    let others = others.map(|it| (it.issuer.clone(), it.max_lifetime.map(|longest| longest + it.leeway))).collect();
    let certificate_headers = terminators.filter_map(|tls| tls.subject_header().cloned()).collect();
    Some(Config {
        server,
        gateway: gateway::config::Config {
            routes,
            upstreams: all(upstreams)?,
            certificate_headers,
            trusted_proxies: trusted_proxies?,
            max_token_bytes,
            token_cache_bytes,
            realm,
            needs_nonces,
        },
        providers,
        issuer: if facts.present { Some(crate::issuer::Config { others, needs_nonces, ..issuer? }) } else { None },
        revocations_alarm,
        admin: admin?,
        revocation_feed: if follows { Some(followed?) } else { None },
        log: log?,
    })
}

/// The audiences of each provider; `None` where they are not known for a fault of its own.
fn audiences(providers: &[Option<crate::token::provider::Config>]) -> Vec<Option<Vec<crate::types::Audience>>> {
    providers.iter().map(|provider| provider.as_ref().map(|provider| provider.audiences.clone())).collect()
}

/// A list without faults. Goes through all of it, so that each fault is reported: collecting into an `Option` would stop
/// at the first.
fn all<T>(list: impl IntoIterator<Item = Option<T>>) -> Option<Vec<T>> {
    let list: Vec<_> = list.into_iter().collect();
    list.into_iter().collect()
}

type Bounds = (Option<raw::Scalar>, raw::Section<raw::Limits>, raw::Section<raw::Shutdown>, Option<Vec<IpNet>>);

fn server(
    report: &mut Report,
    root: &Path,
    listeners: raw::List<raw::Mapping<raw::Listener>>,
    admin: raw::Section<raw::Admin>,
    (workers, limits_raw, shutdown, proxies): Bounds,
    facts: &issuer::Facts,
) -> (Option<server::config::Config>, Option<admin::Config>) {
    let (listeners, admin) = listener::check_all(report, root, listeners, admin, facts);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = count(report, &root.key("workers"), workers, cores.min(1024), 1..=1024);
    let limits = limits(report, &root.key("limits"), limits_raw);
    let at = root.key("shutdown");
    let shutdown = shutdown.map(|section| section.0).unwrap_or_default();
    let range = Duration::ZERO..=HOUR;
    let delay = duration(report, &at.key("drain_delay"), shutdown.drain_delay, Duration::ZERO, range.clone());
    let timeout = duration(report, &at.key("drain_timeout"), shutdown.drain_timeout, Duration::from_secs(30), range);
    let server = (|| {
        Some(server::config::Config {
            listeners: listeners?,
            workers: workers?,
            limits: limits?,
            proxies: proxies?,
            drain_delay: delay?,
            drain_timeout: timeout?,
        })
    })();
    (server, admin)
}

fn limits(report: &mut Report, at: &Path, raw: raw::Section<raw::Limits>) -> Option<server::config::Limits> {
    let raw = raw.map(|section| section.0).unwrap_or_default();
    let max_connections = count(report, &at.key("max_connections"), raw.max_connections, 10_000, 1..=1_000_000);
    let at_address = at.key("max_connections_per_address");
    let per_address =
        raw.max_connections_per_address.map(|raw| count(report, &at_address, Some(raw), 1, 1..=1_000_000));
    let max_header_bytes = size(report, &at.key("max_header_bytes"), raw.max_header_bytes, 64 << 10, 8 << 10..=1 << 20);
    let max_headers = count(report, &at.key("max_headers"), raw.max_headers, 100, 10..=1000);
    let max_streams = count(report, &at.key("max_streams"), raw.max_streams, 100, 1..=10_000);
    let mut deadline = |key: &str, raw, seconds| {
        duration(report, &at.key(key), raw, Duration::from_secs(seconds), values::INSTANT..=24 * HOUR)
    };
    let tls_handshake_timeout = deadline("tls_handshake_timeout", raw.tls_handshake_timeout, 10);
    let header_timeout = deadline("header_timeout", raw.header_timeout, 10);
    let body_timeout = deadline("body_timeout", raw.body_timeout, 60);
    let keep_alive_timeout = deadline("keep_alive_timeout", raw.keep_alive_timeout, 75);
    Some(server::config::Limits {
        max_connections: max_connections?,
        max_connections_per_address: match per_address {
            Some(most) => Some(most?),
            None => None,
        },
        max_header_bytes: max_header_bytes?,
        max_headers: max_headers?,
        max_streams: u32::try_from(max_streams?).ok()?,
        tls_handshake_timeout: tls_handshake_timeout?,
        header_timeout: header_timeout?,
        body_timeout: body_timeout?,
        keep_alive_timeout: keep_alive_timeout?,
    })
}

fn trusted_proxies(report: &mut Report, at: &Path, raw: raw::List<String>) -> Option<Vec<IpNet>> {
    let mut nets = Vec::new();
    for (path, text) in report.items(at, raw) {
        let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        match net {
            Some(net) if net.prefix_len() == 0 => {
                report.warn(&path, "every peer is believed in what it says about the client's address");
                nets.push(Some(net));
            }
            Some(net) => nets.push(Some(net.trunc())),
            None => nets.push(report.refuse(&path, "not a network; write 10.0.0.0/8 or a single address")),
        }
    }
    all(nets)
}

/// What holds for all tokens.
struct Tokens {
    max_token_bytes: usize,
    token_cache_bytes: usize,
    revocations_alarm: usize,
    realm: std::sync::Arc<str>,
    needs_nonces: bool,
}

fn tokens(report: &mut Report, at: &Path, raw: raw::Section<raw::Tokens>) -> Option<Tokens> {
    let raw = raw.map(|section| section.0).unwrap_or_default();
    let max_bytes = size(report, &at.key("max_bytes"), raw.max_bytes, 8 << 10, 256..=256 << 10);
    let cache = size(report, &at.key("cache"), raw.cache, 4 << 20, 0..=1 << 30);
    let alarm = raw.revocations_alarm;
    let alarm = count(report, &at.key("revocations_alarm"), alarm, 1_000_000, 1..=1_000_000_000);
    let realm = raw.realm.unwrap_or_else(|| "sidegate".into());
    // It stands in a quoted string (RFC 9110 §11.5) that every client has to read; escapes are more than some can do.
    let fits = |b: u8| matches!(b, 0x20..=0x7e) && !matches!(b, b'"' | b'\\');
    if realm.is_empty() || realm.len() > 128 || !realm.bytes().all(fits) {
        return report
            .refuse(&at.key("realm"), "must be 1 to 128 printable ASCII characters, quotes and backslashes excepted");
    }
    let choices = [("when_needed", false), ("always", true)];
    let needs_nonces = word(report, &at.key("dpop_nonces"), raw.dpop_nonces.as_deref(), false, &choices);
    Some(Tokens {
        max_token_bytes: max_bytes?,
        token_cache_bytes: cache?,
        revocations_alarm: alarm?,
        realm: realm.into(),
        needs_nonces: needs_nonces?,
    })
}

fn log(report: &mut Report, at: &Path, raw: raw::Section<raw::Log>) -> Option<log::Config> {
    use log::{Format, Requests};
    use tracing::Level;
    let raw = raw.map(|section| section.0).unwrap_or_default();
    let levels = [
        ("error", Level::ERROR),
        ("warn", Level::WARN),
        ("info", Level::INFO),
        ("debug", Level::DEBUG),
        ("trace", Level::TRACE),
    ];
    let level = word(report, &at.key("level"), raw.level.as_deref(), Level::INFO, &levels);
    let formats = [("auto", Format::Auto), ("text", Format::Text), ("json", Format::Json)];
    let format = word(report, &at.key("format"), raw.format.as_deref(), Format::Auto, &formats);
    let which = [("off", Requests::Off), ("refused", Requests::Refused), ("all", Requests::All)];
    let requests = word(report, &at.key("requests"), raw.requests.as_deref(), Requests::Refused, &which);
    let at = at.key("audit");
    let audit = match raw.audit.as_deref() {
        None => Some(None),
        Some("") => report.refuse(&at, "must not be empty"),
        Some("stdout") => Some(Some(Destination::Stdout)),
        // It would become a file of that name.
        Some("stderr") => report.refuse(&at, "must be a file or stdout: standard error has the other log"),
        Some(name) => match report.resolve(name) {
            path if path.is_dir() => report.refuse(&at, format!("{}: it is a directory", path.display())),
            path => Some(Some(Destination::File(path))),
        },
    };
    Some(log::Config { level: level?, format: format?, requests: requests?, audit: audit? })
}
