//! The userinfo endpoint (OpenID Connect Core §5.3): who an access token speaks for, as far as its scopes go.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};

use super::{Endpoint, USERINFO, method_not_allowed, visitor};
use crate::{
    issuer::{
        Issuer,
        error::{Error, no_store, refusal},
        id_token::{OPENID, about},
        possession::{self, DPOP_NONCE, Sent},
    },
    types::Subject,
};

pub(in crate::issuer) async fn answer(issuer: &Issuer, request: &Request<Bytes>) -> Response<Bytes> {
    if request.method() != Method::GET && request.method() != Method::POST {
        return method_not_allowed("GET, POST");
    }
    // RFC 6750 §3.1: whoever shows nothing is told no more than how.
    let Some((by_dpop, token)) = credentials(request.headers()) else {
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
    let identity = match issuer.good_token(token) {
        Ok(Some(identity)) => identity,
        Ok(None) => return invalid(),
        Err(cause) => return Error::from(cause).response(),
    };
    // Whoever has the token is not the client for that.
    let client = identity.text("client_id").and_then(|id| issuer.client(id));
    let counted =
        client.map_or(Ok(()), |client| issuer.count_named_client(Endpoint::UserInfo, &client, &visitor(request)));
    if let Err(limited) = counted {
        return limited.response();
    }
    let sent = Sent { token, by_dpop, confirmation: &identity.confirmation };
    let nonce = match possession::check(issuer, request, USERINFO, &sent) {
        Ok(nonce) => nonce,
        Err(error) => return unproved(&error),
    };
    if !identity.scopes.contains(OPENID) {
        let more = ", error=\"insufficient_scope\", scope=\"openid\"";
        return challenge(
            StatusCode::FORBIDDEN,
            more,
            "insufficient_scope",
            "The access token lacks the scope openid.",
        );
    }
    let Some(subject) = identity.text("sub").map(Subject::new) else { return invalid() };
    let mut response = match issuer.active_user(&subject).await {
        Ok(Some(user)) => no_store(StatusCode::OK, &about(&user, &identity.scopes)),
        Ok(None) => invalid(),
        Err(error) => error.response(),
    };
    if let Some(nonce) = nonce.and_then(|nonce| HeaderValue::try_from(nonce).ok()) {
        response.headers_mut().insert(DPOP_NONCE, nonce);
    }
    response
}

/// RFC 9449 §7.1, RFC 8705 §3: whoever sends the token does not hold what it is bound to.
fn unproved(error: &Error) -> Response<Bytes> {
    let mut response = error.response();
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let code = if let Error::Unproved(..) = error { error.code() } else { "invalid_token" };
    let challenge = HeaderValue::try_from(format!("DPoP realm=\"sidegate\", error=\"{code}\"")).expect("our own words");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

/// The token in the one `Authorization` field, and whether it comes by the scheme DPoP.
fn credentials(headers: &HeaderMap) -> Option<(bool, &str)> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else { return None };
    let (scheme, token) = field.to_str().ok()?.split_once(' ')?;
    let by_dpop = scheme.eq_ignore_ascii_case("dpop");
    (by_dpop || scheme.eq_ignore_ascii_case("bearer")).then_some((by_dpop, token))
}

fn challenge(status: StatusCode, more: &'static str, error: &str, description: &str) -> Response<Bytes> {
    let mut response = refusal(status, error, description);
    let challenge = HeaderValue::try_from(format!("Bearer realm=\"sidegate\"{more}")).expect("our own words");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}
