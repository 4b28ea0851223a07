//! gRPC over HTTP/2: a refusal in its own words, since its clients do not read ours ("gRPC over HTTP2", Responses).

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::http::Body;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Whether a request is one of gRPC: `application/grpc`, with or without a message format.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.and_then(|kind| kind.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest, [] | [b'+' | b';', ..]))
}

/// A refusal as a response that is all trailers. `refused` is what it is over plain HTTP.
pub(super) fn refusal(refused: &Response<Body>, description: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if let Some(challenge) = refused.headers().get(header::WWW_AUTHENTICATE) {
        headers.insert(header::WWW_AUTHENTICATE, challenge.clone());
    }
    set_status(headers, code(refused.status()), description);
    response
}

/// The trailers of a stream whose token is no longer good.
pub(super) fn unauthenticated(description: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    set_status(&mut trailers, code(StatusCode::UNAUTHORIZED), description);
    trailers
}

fn set_status(headers: &mut HeaderMap, code: u16, description: &'static str) {
    headers.insert(GRPC_STATUS, code.into());
    // Our words hold nothing that would have to be percent-encoded.
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(description));
}

/// The status code of gRPC that says the same ("HTTP to gRPC Status Code Mapping"; where that has no better word than
/// INTERNAL or UNAVAILABLE, the one that is meant).
fn code(status: StatusCode) -> u16 {
    match status {
        StatusCode::UNAUTHORIZED => 16,
        StatusCode::FORBIDDEN => 7,
        StatusCode::NOT_FOUND => 12,
        StatusCode::GATEWAY_TIMEOUT => 4,
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            8
        }
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => 14,
        _ => 13,
    }
}
