//! Which route a request takes: the first that matches by host, path and method. Without one it goes nowhere.

use std::borrow::Cow;

use http::{Method, Request, Version, header};

use super::config::{HostPattern, PathPattern, Route};

/// The host a request is for: lower case, without port and final dot.
///
/// # Errors
/// When there is no host in HTTP/1.1, more than one, or one that disagrees with an absolute request target
/// (RFC 9112 §3.2).
pub(super) fn host<B>(request: &Request<B>) -> Result<Cow<'_, str>, BadHost> {
    let mut fields = request.headers().get_all(header::HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (Some(host), None) => Some(host.to_str().map_err(|_| BadHost)?),
        (None, None) => None,
        (_, Some(_)) => return Err(BadHost),
    };
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let host = match (field, authority) {
        (Some(field), Some(authority)) if !field.eq_ignore_ascii_case(authority) => return Err(BadHost),
        (Some(host), _) | (None, Some(host)) => host,
        // HTTP/1.0 knows no Host; it can take the routes for every host.
        (None, None) if request.version() <= Version::HTTP_10 => return Ok(Cow::Borrowed("")),
        (None, None) => return Err(BadHost),
    };
    let name = strip_port(host).ok_or(BadHost)?;
    let name = name.strip_suffix('.').unwrap_or(name);
    let capitals = name.bytes().any(|byte| byte.is_ascii_uppercase());
    Ok(if capitals { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) })
}

/// A Host that cannot be believed.
#[derive(Clone, Copy, Debug)]
pub(super) struct BadHost;

/// `uri-host [ ":" port ]` (RFC 9110 §7.2), without user information.
fn strip_port(host: &str) -> Option<&str> {
    let end = if host.starts_with('[') {
        host.find(']')? + 1
    } else {
        host.bytes().position(|b| b == b':').unwrap_or(host.len())
    };
    let (name, port) = host.split_at(end);
    let in_name =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'[' | b']' | b':' | b'%');
    let good_port = match port.as_bytes() {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    (good_port && !name.is_empty() && name.bytes().all(in_name)).then_some(name)
}

/// The first route for this host, path (decoded) and method, with its index.
pub(super) fn find<'a>(routes: &'a [Route], host: &str, path: &str, method: &Method) -> Option<(usize, &'a Route)> {
    routes.iter().enumerate().find(|(_, route)| {
        path_matches(&route.path, path)
            && (route.methods.is_empty() || route.methods.contains(method))
            && (route.hosts.is_empty() || route.hosts.iter().any(|pattern| host_matches(pattern, host)))
    })
}

/// A route that matches a path matches it at segment boundaries: `/admin` is not a prefix of `/administrator`.
fn path_matches(pattern: &PathPattern, path: &str) -> bool {
    match pattern {
        PathPattern::Exact(exact) => path == &**exact,
        PathPattern::Prefix(prefix) if &**prefix == "/" => true,
        PathPattern::Prefix(prefix) => {
            path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    }
}

fn host_matches(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Exact(name) => host == &**name,
        HostPattern::Below(parent) => {
            host.strip_suffix(&**parent).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        }
    }
}
