//! One reading of whom a request is for: the Host, the authority of the request target, and whether they agree.

use std::{borrow::Cow, net::Ipv6Addr};

use http::{Request, Version, header, uri::Scheme};

/// The host a request is for: lower case, without port and final dot.
///
/// # Errors
/// When there is no host in HTTP/1.1, more than one, one with several readings, or one that disagrees with the request
/// target (RFC 9112 §3.2, RFC 9113 §8.3.1).
pub(super) fn host<B>(request: &Request<B>) -> Result<Cow<'_, str>, BadHost> {
    let mut fields = request.headers().get_all(header::HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (Some(host), None) => Some(host.to_str().map_err(|_| BadHost)?),
        (None, None) => None,
        (_, Some(_)) => return Err(BadHost),
    };
    let target = request.uri().authority().map(http::uri::Authority::as_str);
    match (field, target) {
        (Some(field), Some(target)) => {
            let (field, target) = (Authority::read(field)?, Authority::read(target)?);
            let port = |authority: &Authority<'_>| authority.port.or_else(|| default_port(request.uri().scheme()));
            if field.host != target.host || port(&field) != port(&target) {
                return Err(BadHost);
            }
            Ok(field.host)
        }
        (Some(host), None) | (None, Some(host)) => Ok(Authority::read(host)?.host),
        // HTTP/1.0 knows no Host; it can take the routes for every host.
        (None, None) if request.version() <= Version::HTTP_10 => Ok(Cow::Borrowed("")),
        (None, None) => Err(BadHost),
    }
}

/// A Host that cannot be believed.
#[derive(Clone, Copy, Debug)]
pub(super) struct BadHost;

/// `uri-host [ ":" port ]` (RFC 9110 §7.2), without user information.
struct Authority<'a> {
    host: Cow<'a, str>,
    /// `None` where there is none, or an empty one.
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    fn read(text: &'a str) -> Result<Self, BadHost> {
        let end = match text.strip_prefix('[') {
            Some(rest) => rest.find(']').ok_or(BadHost)? + 2,
            None => text.bytes().position(|byte| byte == b':').unwrap_or(text.len()),
        };
        let (host, port) = text.split_at(end);
        let port = match port.as_bytes() {
            [] | [b':'] => None,
            // `parse` would take a sign.
            [b':', digits @ ..] if digits.iter().all(u8::is_ascii_digit) => {
                Some(port[1..].parse().map_err(|_| BadHost)?)
            }
            _ => return Err(BadHost),
        };
        Ok(Self { host: if host.starts_with('[') { address(host)? } else { name(host)? }, port })
    }
}

/// A name, or an IPv4 address. What RFC 3986 allows besides (percent-encoding, `!$&'()*+,;=`) is in no name that is in
/// use, and has several readings.
fn name(text: &str) -> Result<Cow<'_, str>, BadHost> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    if name.is_empty() || !name.bytes().all(fits) {
        return Err(BadHost);
    }
    let capitals = name.bytes().any(|byte| byte.is_ascii_uppercase());
    Ok(if capitals { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) })
}

/// An IPv6 address in its brackets, in the one spelling that routes are compared with.
fn address(text: &str) -> Result<Cow<'_, str>, BadHost> {
    let address: Ipv6Addr = text[1..text.len() - 1].parse().map_err(|_| BadHost)?;
    Ok(Cow::Owned(format!("[{address}]")))
}

fn default_port(scheme: Option<&Scheme>) -> Option<u16> {
    match scheme?.as_str() {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}
