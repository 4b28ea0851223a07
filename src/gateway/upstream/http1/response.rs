//! What we believe of a response's head: one version, one status, and one way to tell where its body ends. A head that can
//! be read in two ways is no answer, since the client, or a cache before us, might read it in the other.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header};
use httparse::{ParserConfig, Status};

use super::{
    super::form::length,
    MAX_HEAD,
    body::{Body, Chunk},
};
use crate::http::BodyError;

/// The most fields of a head.
const MAX_FIELDS: usize = 100;

/// A head that has been read.
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) body: Body,
    /// Whether the other end lets another exchange follow.
    pub(super) keeps_alive: bool,
}

/// Takes a head out of `input`, if all of it is there. The answer to a HEAD has no body, whatever it says.
///
/// # Errors
/// When it is none, or could be read in two ways.
pub(super) fn read(input: &mut Bytes, is_head: bool) -> Result<Option<Head>, BodyError> {
    if input.is_empty() {
        return Ok(None);
    }
    let whole = input.clone();
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = ParserConfig::default();
    let Status::Complete(length) = config.parse_response_with_uninit_headers(&mut parsed, &whole, &mut fields)? else {
        return Ok(None);
    };
    if length > MAX_HEAD {
        return Err("the head of the response is too large".into());
    }
    input.advance(length);
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    for field in &*parsed.headers {
        let value = HeaderValue::from_maybe_shared(whole.slice_ref(field.value))?;
        headers.append(HeaderName::from_bytes(field.name.as_bytes())?, value);
    }
    let status = StatusCode::from_u16(parsed.code.unwrap_or(0))?;
    let version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let body = if status.is_informational() { Body::None } else { body_of(&mut headers, version, status, is_head)? };
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err("it changes to a protocol that nobody asked for".into());
    }
    let keeps_alive = body != Body::Rest && keeps_alive(&headers, version);
    let mut response = Response::new(());
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    Ok(Some(Head { response, body, keeps_alive }))
}

/// How the body's end is told (RFC 9112 §6.3): by one coding, or one length, or by the end of the connection. What is said
/// twice is said once from here on, if it is the same.
fn body_of(headers: &mut HeaderMap, version: Version, status: StatusCode, is_head: bool) -> Result<Body, BodyError> {
    let length = length(headers)?;
    let coded = headers.contains_key(header::TRANSFER_ENCODING);
    if coded {
        // With another coding the client would get a body that nobody has decoded, and not hear of it.
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        let chunked = codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if length.is_some() || version != Version::HTTP_11 || !chunked || codings.next().is_some() {
            return Err("the response can be cut in two ways".into());
        }
    }
    Ok(match length {
        _ if is_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) => Body::None,
        _ if coded => Body::Chunks(Chunk::Size),
        Some(length) => Body::Length(length),
        None => Body::Rest,
    })
}

/// RFC 9112 §9.3. Whoever says both that it closes and that it does not is taken at the former.
fn keeps_alive(headers: &HeaderMap, version: Version) -> bool {
    let says = |option: &[u8]| {
        let values = headers.get_all(header::CONNECTION).iter();
        let mut options = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        options.any(|said| said.trim_ascii().eq_ignore_ascii_case(option))
    };
    !says(b"close") && (version == Version::HTTP_11 || says(b"keep-alive"))
}
