//! Cross-origin requests (the Fetch standard, "CORS protocol"): answered from the route's rule, never from the upstream.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};

use super::config::{Cors, CorsOrigins, Route};
use crate::http::Body;

/// Whether the route takes a request of the origin that it names. One that names none is no page's: a page cannot keep its browser
/// from saying so (the Fetch standard, "`Origin` header").
pub(super) fn takes_origin(route: &Route, headers: &HeaderMap) -> bool {
    let Some(origins) = &route.origins else { return true };
    let mut named = headers.get_all(header::ORIGIN).iter();
    match (named.next(), named.next()) {
        (None, _) => true,
        (Some(origin), None) => origins.contains(origin),
        (Some(_), Some(_)) => false,
    }
}

/// The method a preflight asks about; `None` when the request is no preflight.
pub(super) fn preflight_method<B>(request: &Request<B>) -> Option<Method> {
    if *request.method() != Method::OPTIONS || !request.headers().contains_key(header::ORIGIN) {
        return None;
    }
    Method::from_bytes(request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()
}

/// The answer to a preflight. What the rule does not allow is simply not promised, and the browser refuses.
pub(super) fn preflight(rule: &Cors, origin: Option<&HeaderValue>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    if allow_origin(rule, origin, headers) {
        set_list(headers, header::ACCESS_CONTROL_ALLOW_METHODS, rule.methods.iter().map(Method::as_str));
        set_list(headers, header::ACCESS_CONTROL_ALLOW_HEADERS, rule.headers.iter().map(HeaderName::as_str));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, rule.max_age.as_secs().into());
    }
    let vary = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
    headers.insert(header::VARY, HeaderValue::from_static(vary));
    response
}

/// Puts the rule onto a response, an error too: a page must be able to read why it was refused. What the upstream said
/// about origins is removed; the rule is the only word.
pub(super) fn decorate(rule: &Cors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    for name in [
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        header::ACCESS_CONTROL_ALLOW_METHODS,
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        header::ACCESS_CONTROL_MAX_AGE,
    ] {
        headers.remove(name);
    }
    if allow_origin(rule, origin, headers) {
        set_list(headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, rule.expose_headers.iter().map(HeaderName::as_str));
    }
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
}

fn allow_origin(rule: &Cors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) -> bool {
    let allowed = match (&rule.origins, origin) {
        (_, None) => return false,
        (CorsOrigins::Any, Some(_)) => HeaderValue::from_static("*"),
        (CorsOrigins::List(list), Some(origin)) if list.contains(origin) => origin.clone(),
        (CorsOrigins::List(_), Some(_)) => return false,
    };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    if rule.credentials {
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    true
}

fn set_list<'a>(headers: &mut HeaderMap, name: HeaderName, values: impl Iterator<Item = &'a str>) {
    let list = values.collect::<Vec<_>>().join(", ");
    // Method and header names joined by commas are a header value.
    if let (false, Ok(value)) = (list.is_empty(), HeaderValue::try_from(list)) {
        headers.insert(name, value);
    }
}
