//! The revocation endpoint (RFC 7009).

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde_json::json;

use super::{Endpoint, method_not_allowed, visitor};
use crate::issuer::{
    By, Client, Issuer, client,
    error::{Error, no_store},
    form::{Form, Param},
    session::RefreshTokens,
};
use crate::{
    store::{NewRevocation, Revoked},
    telemetry::audit::{Event, Facts},
    token::verify::Proof,
    types::Visitor,
};

/// Why, for the log.
const ASKED: &str = "its client asked for it";

pub(in crate::issuer) async fn answer(issuer: &Issuer, request: &Request<Bytes>) -> Response<Bytes> {
    if request.method() != Method::POST {
        return method_not_allowed("POST");
    }
    let (visitor, mut client) = (visitor(request), None);
    match revoke(issuer, request, &visitor, &mut client).await {
        // §2.2: the status says it all, and clients ignore the rest. Some, simple-oauth2 among them, take only JSON for an answer.
        Ok(()) => no_store(StatusCode::OK, &json!({})),
        Err(error) => {
            // Who is not who they say has a line already; a flood has a counter, and no line for each.
            if !matches!(error, Error::InvalidClient(_) | Error::Limited(_)) {
                let (client, code) = (client.as_ref().map(|client| &client.id), Some(error.code()));
                let facts = Facts { client, error: code, reason: Some(error.reason()), ..Facts::from(&visitor) };
                issuer.audit.tell(Event::RevocationRefused, facts);
            }
            error.response()
        }
    }
}

/// The hint is not needed: the two kinds of token look different. `known` is set to the client as soon as that is known.
async fn revoke(
    issuer: &Issuer,
    request: &Request<Bytes>,
    visitor: &Visitor,
    known: &mut Option<Arc<Client>>,
) -> Result<(), Error> {
    let form = Form::read(request.headers(), request.body())?;
    let token = form.require(Param::Token)?;
    let client = client::authenticate(issuer, request, &form, visitor).await?;
    *known = Some(client.clone());
    let client = &*client;
    issuer.count_client(Endpoint::Revoke, client, visitor)?;
    let by = By::client(&client.id, visitor.clone());
    if RefreshTokens::looks_like(token) {
        revoke_refresh_token(issuer, client, token, by).await
    } else {
        revoke_access_token(issuer, client, token, by).await
    }
}

/// Ends the session. A superseded token does so as well: whoever holds one has held the session.
async fn revoke_refresh_token(issuer: &Issuer, client: &Client, token: &str, by: By) -> Result<(), Error> {
    let Some(presented) = issuer.refresh_tokens.read(token, &client.id) else {
        let others = issuer.clients.keys().any(|id| issuer.refresh_tokens.read(token, id).is_some());
        // A token that nobody has made is as good as revoked (§2.2). So is one of a client that has registered itself: of those there
        // is no list.
        return if others { Err(not_yours()) } else { Ok(()) };
    };
    // Not the blacklist, which may know before the gateway does.
    if issuer.ledger.has(&Revoked::Session(presented.session.to_string().into())) {
        return Ok(());
    }
    issuer.ledger.revoke_session(presented.session, by, ASKED).await?;
    Ok(())
}

/// Ends this one token; its session goes on.
async fn revoke_access_token(issuer: &Issuer, client: &Client, token: &str, by: By) -> Result<(), Error> {
    // One that we would not let in anyway is as good as revoked.
    let Ok(Proof { identity, key, .. }) = issuer.own.verify(token, issuer.clock.now()) else { return Ok(()) };
    if identity.text("client_id") != Some(client.id.as_str()) {
        return Err(not_yours());
    }
    let Some(jti) = identity.text("jti") else { return Ok(()) };
    if issuer.ledger.is_revoked(&identity.credential(&key)) {
        return Ok(());
    }
    let what = Revoked::Token(jti.into());
    let new = NewRevocation { issuer: None, what, until: identity.expires_at, reason: ASKED.into() };
    issuer.ledger.revoke(new, by).await?;
    Ok(())
}

/// §2.1: "the request is refused and the client is informed of the error".
fn not_yours() -> Error {
    Error::InvalidRequest("The token was issued to another client.".into())
}
