//! What a route matches: paths in normal form, host names, methods.

use http::Method;

use super::{all, values::Names};
use crate::{
    config::{error::quote, path::Path, raw, report::Report},
    gateway::{
        config::{HostPattern, PathPattern},
        path::{Ambiguous, decode},
    },
};

/// The path of a route, percent-decoded. What the gateway refuses in a request can match nothing, so that it is a fault here.
pub(super) fn path(
    report: &mut Report,
    at: &Path,
    exact: Option<String>,
    prefix: Option<String>,
) -> Option<PathPattern> {
    let (at, text, is_prefix) = match (exact, prefix) {
        (Some(text), None) => (at.key("path"), text, false),
        (None, Some(text)) => (at.key("path_prefix"), text, true),
        (Some(_), Some(_)) => return report.refuse(at, "give one of path and path_prefix, not both"),
        (None, None) => {
            if !["path", "path_prefix"].iter().any(|key| report.is_settled(&at.key(key))) {
                report.error(at, "missing: one of path and path_prefix");
            }
            return None;
        }
    };
    let decoded = match normal_form(&text) {
        Ok(decoded) => decoded,
        Err(why) => return report.refuse(&at, why),
    };
    if !is_prefix {
        return Some(PathPattern::Exact(decoded.into()));
    }
    let shorter = decoded.strip_suffix('/').filter(|rest| !rest.is_empty());
    Some(PathPattern::Prefix(shorter.unwrap_or(&decoded).into()))
}

/// Whether every path that `later` matches is one that `earlier` matches.
pub(super) fn covers(earlier: &PathPattern, later: &PathPattern) -> bool {
    match (earlier, later) {
        (PathPattern::Exact(a), PathPattern::Exact(b)) => a == b,
        (PathPattern::Exact(_), PathPattern::Prefix(_)) => false,
        (PathPattern::Prefix(a), PathPattern::Exact(b) | PathPattern::Prefix(b)) => {
            **a == *"/" || b.strip_prefix(&**a).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    }
}

/// The path as the gateway reads it in a request, which is the only reading there is.
fn normal_form(text: &str) -> Result<String, &'static str> {
    // Here a letter that belongs percent-encoded in a request may stand as itself.
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            0x21..=0x7e => encoded.push(char::from(byte)),
            other => encoded.push_str(&format!("%{other:02x}")),
        }
    }
    decode(&encoded).map(Into::into).map_err(|why| match why {
        Ambiguous::NotAbsolute => "must begin with `/`",
        Ambiguous::EmptySegment => "must not hold `//`: requests with it are refused",
        Ambiguous::DotSegment => "must not hold `.` or `..` as a segment: requests with these are refused",
        Ambiguous::Separator => "must not hold a backslash, %2f or %5c: requests with these are refused",
        Ambiguous::PathParameter => "must not hold `;`: requests with it are refused",
        Ambiguous::BadEncoding => "a `%` must be followed by two hexadecimal digits",
        Ambiguous::DoubleEncoding => "must not be percent-encoded twice",
        Ambiguous::ForbiddenByte => "must not hold `?`, `#` or control characters: a path is matched without its query",
        Ambiguous::NotUtf8 => "must be UTF-8 when percent-decoded",
    })
}

/// Host names, lower case.
pub(super) fn hosts(report: &mut Report, at: &Path, raw: raw::List<String>) -> Option<Vec<HostPattern>> {
    let items = report.items(at, raw);
    all(items.iter().map(|(path, text)| host(report, path, text)))
}

fn host(report: &mut Report, at: &Path, text: &str) -> Option<HostPattern> {
    let lower = text.to_ascii_lowercase();
    if let Some(address) = lower.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match address.parse::<std::net::Ipv6Addr>() {
            Ok(address) => Some(HostPattern::Exact(format!("[{address}]").into())),
            Err(_) => report.refuse(at, "not an IPv6 address in brackets"),
        };
    }
    let (below, name) = lower.strip_prefix("*.").map_or((false, &*lower), |name| (true, name));
    let label = |label: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        !label.is_empty() && label.len() <= 63 && label.bytes().all(fits)
    };
    if text == "*" {
        return report.refuse(at, "leave hosts out to serve every host");
    }
    if name.len() > 253 || !name.split('.').all(label) {
        return report
            .refuse(at, "not a host name; write api.example.com or *.example.com, without scheme, port or path");
    }
    Some(if below { HostPattern::Below(name.into()) } else { HostPattern::Exact(name.into()) })
}

/// Methods, which are compared case by case (RFC 9110 §9.1).
pub(super) fn methods(report: &mut Report, at: &Path, raw: raw::List<String>) -> Option<Vec<Method>> {
    let items = report.items(at, raw);
    all(items.iter().map(|(path, text)| method(report, path, text)))
}

fn method(report: &mut Report, at: &Path, text: &str) -> Option<Method> {
    let upper = text.to_ascii_uppercase();
    if upper == "CONNECT" {
        return report.refuse(at, "CONNECT opens a tunnel, and is never forwarded");
    }
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"];
    if text != upper && known.contains(&upper.as_str()) {
        return report.refuse(at, format!("methods are written in capitals; did you mean {}?", quote(&upper)));
    }
    match Method::from_bytes(text.as_bytes()) {
        Ok(method) => Some(method),
        Err(_) => report.refuse(at, "not a method; write GET, POST, …"),
    }
}

/// The upstreams or providers that names stand for.
pub(super) fn indices(report: &mut Report, at: &Path, raw: Vec<Option<String>>, names: &Names) -> Option<Vec<usize>> {
    let items = report.items(at, Some(raw));
    all(items.iter().map(|(path, name)| names.find(report, path, name)))
}
