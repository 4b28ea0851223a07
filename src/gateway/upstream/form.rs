//! The form of a request in the protocol of its connection, and what a response says of its length.

use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};

use super::outgoing::Outgoing;
use crate::gateway::headers;

/// HTTP/1.1 to an origin has the path alone in its first line, and a Host (RFC 9112 §3.2.1). `authority` is what a handshake
/// is for where its client did not say; other requests are written in this form by [`super::http1`].
pub(super) fn for_http1(request: &mut Request<Outgoing>, authority: &str) {
    *request.version_mut() = Version::HTTP_11;
    headers::name_host(request);
    *request.uri_mut() = Uri::from(target(request.uri()));
    if !request.headers().contains_key(header::HOST)
        && let Ok(host) = HeaderValue::try_from(authority)
    {
        request.headers_mut().insert(header::HOST, host);
    }
}

/// HTTP/2 has scheme and authority beside the path, and neither a Host nor a word about the connection (RFC 9113 §8.2.2,
/// §8.3.1).
///
/// # Errors
/// When the host that the client named cannot stand there.
pub(super) fn for_http2(request: &mut Request<Outgoing>, authority: &str, tls: bool) -> Result<(), BadAuthority> {
    *request.version_mut() = Version::HTTP_2;
    // A request that was on its way over HTTP/2 before has it in its target.
    let host = request.headers_mut().remove(header::HOST);
    let named = match (host, request.uri().authority()) {
        (Some(host), _) => Authority::try_from(host.as_bytes()),
        (None, Some(named)) => Ok(named.clone()),
        (None, None) => Authority::try_from(authority),
    };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(named.map_err(|_| BadAuthority)?);
    parts.path_and_query = Some(target(request.uri()));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| BadAuthority)?;
    request.headers_mut().remove(header::TRANSFER_ENCODING);
    Ok(())
}

/// A host that HTTP/1.1 can carry and HTTP/2 cannot.
#[derive(Clone, Copy, Debug)]
pub(super) struct BadAuthority;

fn target(uri: &Uri) -> PathAndQuery {
    uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"))
}

/// RFC 9113 §8.2.3: who compresses headers may send a cookie in pieces; anybody else takes the first piece for all of it.
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let pieces: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if pieces.len() < 2 {
        return;
    }
    // Header values joined by "; " are one header value.
    if let Ok(whole) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(header::COOKIE, whole);
    }
}

/// A copy of a request without a body.
pub(super) fn copy(request: &Request<Outgoing>) -> Request<Outgoing> {
    let mut copy = Request::new(Outgoing::empty());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    copy
}

/// Whether a response of HTTP/2 can be believed to end where it says: it has one length at most, given in one of the ways in
/// which we read it, and nobody speaks another protocol now.
pub(super) fn is_sound<B>(response: &mut Response<B>) -> bool {
    response.status() != StatusCode::SWITCHING_PROTOCOLS && length(response.headers_mut()).is_ok()
}

/// The length that a response names (RFC 9112 §6.3). What is said twice is said once from here on, if it is the same.
///
/// # Errors
/// When that is no number, or there are two.
pub(super) fn length(headers: &mut HeaderMap) -> Result<Option<u64>, &'static str> {
    let Some(first) = headers.get(header::CONTENT_LENGTH) else { return Ok(None) };
    let digits = first.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let length = digits.and_then(|digits| digits.parse().ok()).ok_or("the response's length is no number")?;
    // Where there are as many names as there are fields, none stands twice.
    if headers.keys_len() < headers.len() {
        let once = first.clone();
        if headers.get_all(header::CONTENT_LENGTH).iter().any(|length| *length != once) {
            return Err("the response has two lengths");
        }
        headers.insert(header::CONTENT_LENGTH, once);
    }
    Ok(Some(length))
}
