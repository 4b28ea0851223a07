//! Where an upstream is: its URLs, all of one scheme.

use std::path::PathBuf;

use http::Uri;

use crate::{
    config::{path::Path, report::Report},
    gateway::config::Origin,
};

/// How the URLs of an upstream begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
    H2c,
    Unix,
}

const SCHEMES: [(&str, Scheme); 4] =
    [("http://", Scheme::Http), ("https://", Scheme::Https), ("h2c://", Scheme::H2c), ("unix://", Scheme::Unix)];
const FORMS: &str = "not a URL of the form http://host:port, https://host:port, h2c://host:port or unix:///path";
/// The longest path of a Unix socket (unix(7)), without the byte that ends it.
const LONGEST_SOCKET: usize = 107;

/// Checks all URLs of an upstream.
pub(super) fn check_all(report: &mut Report, at: &Path, urls: Vec<Option<String>>) -> Option<(Scheme, Vec<Origin>)> {
    if urls.is_empty() {
        return report.refuse(at, "must hold at least one URL");
    }
    let found: Vec<_> =
        report.items(at, Some(urls)).into_iter().map(|(at, url)| (check(report, &at, &url), at)).collect();
    let mut scheme = None;
    let mut origins: Vec<Origin> = Vec::new();
    let mut whole = true;
    for (found, at) in found {
        let Some((this, origin)) = found else {
            whole = false;
            continue;
        };
        if *scheme.get_or_insert(this) != this {
            report.error(&at, "all URLs of an upstream have the same scheme; what is different is another upstream");
            whole = false;
        } else if origins.contains(&origin) {
            report.error(&at, "stands in the list already");
            whole = false;
        }
        origins.push(origin);
    }
    scheme.filter(|_| whole && !report.lost_entries(at)).map(|scheme| (scheme, origins))
}

/// A URL is never repeated in a message: it may hold a password.
fn check(report: &mut Report, at: &Path, url: &str) -> Option<(Scheme, Origin)> {
    let named = SCHEMES.iter().find_map(|(prefix, scheme)| Some((*scheme, url.strip_prefix(prefix)?)));
    let Some((scheme, rest)) = named else { return report.refuse(at, FORMS) };
    let origin = match scheme {
        Scheme::Unix => socket(report, at, rest),
        Scheme::Http | Scheme::H2c => host_and_port(report, at, rest, 80),
        Scheme::Https => host_and_port(report, at, rest, 443),
    };
    origin.map(|origin| (scheme, origin))
}

fn socket(report: &mut Report, at: &Path, path: &str) -> Option<Origin> {
    if !path.starts_with('/') || path.ends_with('/') || path.contains(['\0', '?', '#', '%']) {
        return report.refuse(at, "not a URL of the form unix:///run/app.sock: three slashes, and a path as it is");
    }
    if path.len() > LONGEST_SOCKET {
        return report.refuse(at, format!("no socket has a path of more than {LONGEST_SOCKET} bytes"));
    }
    Some(Origin::Unix(PathBuf::from(path)))
}

fn host_and_port(report: &mut Report, at: &Path, rest: &str, usual: u16) -> Option<Origin> {
    // Only what follows the scheme is of interest, and to the parser a scheme is as good as another.
    let uri = format!("http://{rest}").parse::<Uri>().ok();
    let Some((uri, authority)) = uri.and_then(|uri| uri.authority().cloned().map(|authority| (uri, authority))) else {
        return report.refuse(at, FORMS);
    };
    if authority.as_str().contains('@') {
        return report.refuse(at, "credentials in a URL are not sent anywhere; take them out");
    }
    if uri.path() != "/" || uri.query().is_some() || rest.contains(['?', '#']) {
        return report
            .refuse(at, "a path or query has no meaning here: the request's own is sent; end the URL after the port");
    }
    let host = authority.host();
    let port = match authority.as_str().strip_prefix(host) {
        Some("") => Some(usual),
        Some(port) => port.strip_prefix(':').and_then(|port| port.parse().ok()).filter(|port| *port != 0),
        None => None,
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match port {
        Some(port) if !host.is_empty() => Some(Origin::Tcp { host: host.into(), port }),
        _ => report.refuse(at, "not a URL of the form http://host:port, with a port from 1 to 65535"),
    }
}
