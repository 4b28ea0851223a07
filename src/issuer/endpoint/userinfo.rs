//! The userinfo endpoint (OpenID Connect Core §5.3): who an access token speaks for, as far as its scopes go.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};

use super::method_not_allowed;
use crate::{
    issuer::{
        Issuer,
        error::{Error, no_store, refusal},
        id_token::{OPENID, about},
    },
    store::{MAX_LEEWAY, Unavailable},
    token::verify::Proof,
    types::Subject,
};

pub(in crate::issuer) fn answer(issuer: &Issuer, request: &Request<Bytes>) -> Response<Bytes> {
    if request.method() != Method::GET && request.method() != Method::POST {
        return method_not_allowed("GET, POST");
    }
    // RFC 6750 §3.1: whoever shows nothing is told no more than how.
    let Some(token) = bearer(request.headers()) else {
        return challenge(StatusCode::UNAUTHORIZED, "", "invalid_request", "An access token is needed.");
    };
    let invalid = || {
        let more = ", error=\"invalid_token\"";
        challenge(
            StatusCode::UNAUTHORIZED,
            more,
            "invalid_token",
            "The access token is expired, revoked or none of ours.",
        )
    };
    let now = issuer.clock.now();
    let Ok(Proof { identity, key, .. }) = issuer.own.verify(token, now) else { return invalid() };
    if now + MAX_LEEWAY >= identity.expires_at || issuer.ledger.is_revoked(&identity.credential(&key)) {
        return invalid();
    }
    if issuer.freshness.as_ref().is_some_and(|freshness| freshness.is_stale()) {
        return Error::from(Unavailable("its revocations have not been heard of for too long".into())).response();
    }
    if !identity.scopes.contains(OPENID) {
        let more = ", error=\"insufficient_scope\", scope=\"openid\"";
        return challenge(
            StatusCode::FORBIDDEN,
            more,
            "insufficient_scope",
            "The access token lacks the scope openid.",
        );
    }
    let users = issuer.users.load();
    let user = identity.text("sub").and_then(|subject| users.active(&Subject::new(subject)));
    user.map_or_else(invalid, |user| no_store(StatusCode::OK, &about(user, &identity.scopes)))
}

/// The token in the one `Authorization` field.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else { return None };
    let (scheme, token) = field.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

fn challenge(status: StatusCode, more: &'static str, error: &str, description: &str) -> Response<Bytes> {
    let mut response = refusal(status, error, description);
    let challenge = HeaderValue::try_from(format!("Bearer realm=\"sidegate\"{more}")).expect("our own words");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}
