//! The form of a request in the protocol of its connection, and whether a response has the form of one.

use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body as _;
use hyper::body::Incoming;

use super::outgoing::Outgoing;
use crate::gateway::headers;

/// HTTP/1.1 to an origin has the path alone in its first line, and a Host (RFC 9112 §3.2.1). `authority` is what the
/// request is for where its client did not say.
pub(super) fn for_http1(request: &mut Request<Outgoing>, authority: &str) {
    *request.version_mut() = Version::HTTP_11;
    if request.uri().authority().is_some() {
        // It may have been on its way over HTTP/2 before, which leaves it no Host.
        headers::name_host(request);
        *request.uri_mut() = Uri::from(target(request.uri()));
    }
    if !request.headers().contains_key(header::HOST)
        && let Ok(host) = HeaderValue::try_from(authority)
    {
        request.headers_mut().insert(header::HOST, host);
    }
    // hyper leaves such a body away with GET and HEAD, unless it is told how to send it.
    if request.body().size_hint().exact().is_none() {
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
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

/// Whether a response can be believed to end where it says: nobody speaks another protocol now (nobody asked for one), and
/// it has one length at most (RFC 9112 §6.3), given in one of the ways in which we read it.
pub(super) fn is_sound(response: &mut Response<Incoming>) -> bool {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return false;
    }
    // hyper looks for a coding first: what it reads by its length has none.
    let read_by_length = response.body().size_hint().exact().is_some_and(|length| length > 0);
    let headers = response.headers_mut();
    let length = headers.get(header::CONTENT_LENGTH);
    if length.is_some_and(|length| !is_number(length.as_bytes())) {
        return false;
    }
    // With another coding the client would get a body that nobody has decoded, and not hear of it.
    if !read_by_length && headers.contains_key(header::TRANSFER_ENCODING) {
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        let chunked = codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
        return length.is_none() && chunked && codings.next().is_none();
    }
    // Where there are as many names as there are fields, none stands twice.
    if headers.keys_len() == headers.len() {
        return true;
    }
    // What is said twice is said once from here on, if it is the same.
    let once = length.cloned();
    if headers.get_all(header::CONTENT_LENGTH).iter().any(|length| Some(length) != once.as_ref()) {
        return false;
    }
    if let Some(once) = once {
        headers.insert(header::CONTENT_LENGTH, once);
    }
    true
}

fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}
