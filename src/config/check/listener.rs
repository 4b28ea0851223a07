//! Listeners, the admin listener, and whether they get into each other's way.

use std::net::SocketAddr;

use super::{
    feed, issuer, tls,
    values::{Names, address},
};
use crate::{
    admin,
    config::{path::Path, raw, report::Report},
    server::{config::Listener, in_the_way},
};

/// The shortest admin token, in bytes: 128 bits as hexadecimal digits.
const MIN_TOKEN: usize = 32;

/// Where the admin listener is unless the file says otherwise.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9900);

/// Checks all listeners and the admin listener.
pub(super) fn check_all(
    report: &mut Report,
    root: &Path,
    raw: raw::List<raw::Mapping<raw::Listener>>,
    admin: raw::Section<raw::Admin>,
    facts: &issuer::Facts,
) -> (Option<Vec<Listener>>, Option<admin::Config>) {
    let at = root.key("listeners");
    let raw =
        report.required(root, "listeners", raw, "where to listen, as in `- { name: public, address: 127.0.0.1:3000 }`");
    if raw.as_ref().is_some_and(Vec::is_empty) {
        report.error(&at, "must not be empty");
    }
    let mut names = Names::new(at.clone(), "listener");
    let (mut found, mut listeners, mut places) = (true, Vec::new(), Vec::new());
    for (path, raw::Mapping(raw)) in report.items(&at, raw) {
        let name = names.add(report, &path, raw.name);
        let text = report.required(&path, "address", raw.address, "an IP address and a port, as in 127.0.0.1:3000");
        let address = text.and_then(|text| address(report, &path.key("address"), &text));
        let issuer = raw.issuer.is_some_and(|flag| flag.0);
        if issuer && !facts.present {
            report.error(&path.key("issuer"), "there is no `issuer:` section whose paths it could answer");
        }
        let encrypted = raw.tls.is_some();
        let tls = raw.tls.map(|raw::Mapping(raw)| tls::check(report, &path.key("tls"), raw));
        if let Some(address) = address {
            places.push(Place { path: path.key("address"), address, written: true });
            if issuer {
                guard_issuer(report, &path, address, encrypted, facts);
            }
        }
        let fingerprint = report.fingerprint(&path);
        match (name, address, tls) {
            (Some(name), Some(address), None) => {
                listeners.push(Listener { fingerprint, name, address, tls: None, issuer })
            }
            (Some(name), Some(address), Some(Some(tls))) => {
                listeners.push(Listener { fingerprint, name, address, tls: Some(tls), issuer });
            }
            (None, ..) | (_, None, _) | (_, _, Some(None)) => found = false,
        }
    }
    if facts.present && found && !listeners.iter().any(|listener| listener.issuer) && !listeners.is_empty() {
        report.warn(&root.key("issuer"), "no listener has `issuer: true`, so nobody can reach the token endpoint");
    }
    let admin = check_admin(report, root, admin, &mut places);
    refuse_overlaps(report, places);
    (found.then_some(listeners), admin)
}

fn check_admin(
    report: &mut Report,
    root: &Path,
    raw: raw::Section<raw::Admin>,
    places: &mut Vec<Place>,
) -> Option<admin::Config> {
    let path = root.key("admin").key("address");
    let (text, token) = raw.map_or((None, None), |raw::Mapping(raw)| (raw.address, raw.token));
    let token = token.map(|raw| {
        let at = root.key("admin").key("token");
        feed::bearer(report, &at, raw, MIN_TOKEN)
    });
    let written = text.is_some();
    let address = text.map_or(Some(ADMIN), |text| address(report, &path, &text))?;
    places.push(Place { path, address, written });
    let token = match token {
        Some(token) => Some(token?),
        None => None,
    };
    Some(admin::Config { address, token })
}

/// What must, or should, not be offered beyond this machine.
fn guard_issuer(report: &mut Report, path: &Path, address: SocketAddr, encrypted: bool, facts: &issuer::Facts) {
    if address.ip().to_canonical().is_loopback() {
        return;
    }
    let line = report.line(&path.key("address"));
    for demo in &facts.demo {
        let message = format!(
            "these are the demo's credentials, which everybody knows: they work on loopback only, and the listener in line \
             {line} ({address}) is not; make your own with `sidegate hash-password`"
        );
        report.error(demo, message);
    }
    if let (false, Some(feed)) = (encrypted, &facts.feed) {
        let message = format!(
            "the revocation feed would answer without TLS on the listener in line {line} ({address}): give that TLS, or say \
             insecure_http: true where somebody else sees to it"
        );
        report.error(feed, message);
    }
    if !encrypted {
        report.warn(
            path,
            "the token endpoint answers without TLS beyond loopback: passwords and tokens can be read on the way",
        );
    }
}

/// An address that will be listened on.
struct Place {
    path: Path,
    address: SocketAddr,
    /// Whether it stands in the file; the admin listener's default does not, and the other one is to be mended.
    written: bool,
}

/// Two listeners on one port: one would take the other's connections, or fail to start.
fn refuse_overlaps(report: &mut Report, mut places: Vec<Place>) {
    places.sort_by_key(|place| if place.written { report.line(&place.path) } else { 0 });
    for (n, Place { path, address, .. }) in places.iter().enumerate() {
        let Some(first) = places[..n].iter().find(|first| overlap(*address, first.address)) else { continue };
        let other = first.address;
        let message = if first.written {
            format!("{address} is taken by {} ({other}) in line {}", first.path, report.line(&first.path))
        } else {
            format!("{address} is taken by the admin listener ({other} unless admin.address says otherwise)")
        };
        report.error(path, message);
    }
}

/// Port 0 is a free one, whichever that is.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0 && in_the_way(a, b)
}
