//! What pages of any site may call (the Fetch standard, "CORS protocol"): the endpoints that a client in a browser needs, none of
//! which gives anything for a cookie. Which origin a page is of says nothing about its client; what the client shows does.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};

use super::Endpoint;

/// The answer to a preflight; `None` for any other request.
pub(in crate::issuer) fn preflight(endpoint: Endpoint, request: &Request<Bytes>) -> Option<Response<Bytes>> {
    let headers = request.headers();
    let asks = *request.method() == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let methods = methods(endpoint).filter(|_| asks && headers.contains_key(header::ORIGIN))?;
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    let allowed = HeaderValue::from_static("authorization, content-type, dpop");
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600"));
    Some(response)
}

/// Lets a page read the answer, an error too.
pub(in crate::issuer) fn decorate(endpoint: Endpoint, headers: &mut HeaderMap) {
    if methods(endpoint).is_some() {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        let exposed = HeaderValue::from_static("dpop-nonce, retry-after, www-authenticate");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

/// By which methods pages may call it; `None`: not at all.
fn methods(endpoint: Endpoint) -> Option<&'static str> {
    match endpoint {
        Endpoint::Token | Endpoint::Revoke | Endpoint::Register => Some("POST"),
        Endpoint::UserInfo => Some("GET, POST"),
        Endpoint::Jwks | Endpoint::Metadata => Some("GET, HEAD"),
        // A browser goes there itself; or only what has a secret asks.
        Endpoint::Authorize
        | Endpoint::LogIn
        | Endpoint::Consent
        | Endpoint::LogOut
        | Endpoint::Introspect
        | Endpoint::Feed => None,
    }
}
