//! What the endpoints have in common that browsers come to.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};

use crate::issuer::{
    Issuer,
    browser::Browser,
    error::{Error, forbid_storing},
    form::{Form, Param},
    pages::Notice,
};

/// The longest query that a browser is sent on with, in bytes: hardly anybody takes a longer one.
const MAX_QUERY_BYTES: usize = 16 * 1024;

/// What answers a browser, or why nothing better does.
pub(super) type Answer = Result<Response<Bytes>, Error>;

/// Answers a browser, and marks it where it is new.
pub(super) async fn respond(
    issuer: &Issuer,
    request: &Request<Bytes>,
    answer: impl AsyncFnOnce(&Browser) -> Answer,
) -> Response<Bytes> {
    let browser = match issuer.browsers.of(request.headers()) {
        Ok(browser) => browser,
        Err(cause) => return failed(issuer, &cause.into()),
    };
    let mut response = answer(&browser).await.unwrap_or_else(|error| failed(issuer, &error));
    if let Some(cookie) = issuer.browsers.marked(&browser) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

pub(super) fn failed(issuer: &Issuer, error: &Error) -> Response<Bytes> {
    // Its status, its place in the log and when to try again are those of any other answer.
    let plain = error.response();
    let what = match plain.status() {
        StatusCode::SERVICE_UNAVAILABLE => Notice::Unavailable,
        StatusCode::TOO_MANY_REQUESTS => Notice::TooMany,
        _ => Notice::Failed,
    };
    let mut response = issuer.look.notice(plain.status(), what, None);
    if let Some(after) = plain.headers().get(header::RETRY_AFTER) {
        response.headers_mut().insert(header::RETRY_AFTER, after.clone());
    }
    response
}

pub(super) fn notice(issuer: &Issuer, what: Notice) -> Response<Bytes> {
    issuer.look.notice(StatusCode::BAD_REQUEST, what, None)
}

/// Has a browser ask again for what a client has had it post to `path`. With what comes from another site browsers send our cookies
/// only if it is a GET (`SameSite=Lax`), and without them nobody would seem to be logged in.
pub(super) fn as_a_get(issuer: &Issuer, path: &str, params: &[Param], form: &Form) -> Response<Bytes> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for param in params {
        query.extend_pairs(form.all(*param).filter(|value| !value.is_empty()).map(|value| (param.name(), value)));
    }
    let query = query.finish();
    if query.len() > MAX_QUERY_BYTES {
        return bad_link(issuer, "The request is too long.");
    }
    see_other(&format!("{}{path}?{query}", issuer.config.url)).unwrap_or_else(|error| failed(issuer, &error))
}

/// A GET there, whatever this was (RFC 9700 §4.12).
pub(super) fn see_other(to: &str) -> Answer {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    let to = HeaderValue::try_from(to)
        .map_err(|_| Error::InvalidRequest("What was asked for cannot be sent back.".into()))?;
    headers.insert(header::LOCATION, to);
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    forbid_storing(headers);
    Ok(response)
}

pub(super) fn bad_link(issuer: &Issuer, why: &str) -> Response<Bytes> {
    issuer.look.notice(StatusCode::BAD_REQUEST, Notice::BadLink, Some(why))
}
