//! The introspection endpoint (RFC 7662): whether a token is good now, and what it says.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Endpoint, method_not_allowed, visitor};
use crate::{
    issuer::{
        CLIENT_SUBJECT, Client, GrantType, Issuer, client,
        error::{Error, no_store},
        form::{Form, Param},
        grant::refresh::{rules, still_allowed},
        session::RefreshTokens,
    },
    store::Standing,
    token::Confirmation,
    types::{IssuerUrl, Scopes, Subject},
};

pub(in crate::issuer) async fn answer(issuer: &Issuer, request: &Request<Bytes>) -> Response<Bytes> {
    if request.method() != Method::POST {
        return method_not_allowed("POST");
    }
    let result = introspect(issuer, request).await;
    issuer.metrics.introspection(match &result {
        Ok(Some(_)) => "active",
        Ok(None) => "inactive",
        Err(error) => error.code(),
    });
    match result {
        Ok(Some(active)) => no_store(StatusCode::OK, &active),
        // §2.2: not a word about a token that is not good, "including why".
        Ok(None) => no_store(StatusCode::OK, &json!({ "active": false })),
        Err(error) => error.response(),
    }
}

/// What a good token says (§2.2). What a token has none of is left out.
#[derive(Serialize)]
struct Active {
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    client_id: Box<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<Box<str>>,
    /// How an access token is used (RFC 6749 §7.1). A refresh token is shown to nobody but us, and has no such type.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<&'static str>,
    /// What it is bound to (RFC 9449 §6.2, RFC 8705 §3.2).
    #[serde(skip_serializing_if = "Option::is_none")]
    cnf: Option<Confirmation>,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<u64>,
    sub: Box<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<Value>,
    iss: IssuerUrl,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<Box<str>>,
}

/// `None` for whatever is not good. The hint is not needed: the two kinds of token look different.
///
/// §2.1 wants to know who asks, so that nobody tries out tokens here: a public client's bare name does not say that.
async fn introspect(issuer: &Issuer, request: &Request<Bytes>) -> Result<Option<Active>, Error> {
    let form = Form::read(request.headers(), request.body())?;
    let token = form.require(Param::Token)?;
    let visitor = visitor(request);
    let client = client::authenticate_confidential(issuer, request, &form, &visitor).await?;
    issuer.count_client(Endpoint::Introspect, &client, &visitor)?;
    if RefreshTokens::looks_like(token) {
        refresh_token(issuer, &client, token).await
    } else {
        access_token(issuer, token).await
    }
}

/// An access token may be asked about by every confidential client, whosever it is: it is shown to resource servers, and it is
/// they who ask. §2.2 lets us answer `false` to one that the token is not for; but no client stands for an audience. Whoever asks has the token, and could read all of this in it but for the username.
async fn access_token(issuer: &Issuer, token: &str) -> Result<Option<Active>, Error> {
    let Some(identity) = issuer.good_token(token)? else { return Ok(None) };
    let text = |name| identity.text(name).map(Box::<str>::from);
    let number = |name| identity.claims.get(name).and_then(Value::as_u64);
    // Claims of ours that the verifier has found to be there.
    let (Some(client_id), Some(sub), Some(exp)) = (text("client_id"), text("sub"), number("exp")) else {
        return Ok(None);
    };
    // It is good without: a user base that is away takes no more from the answer than the name.
    let user = match sub.starts_with(CLIENT_SUBJECT) {
        true => None,
        false => match issuer.active_user(&Subject::new(&*sub)).await {
            Ok(None) => return Ok(None),
            known => known.ok().flatten(),
        },
    };
    Ok(Some(Active {
        active: true,
        scope: spoken(&identity.scopes),
        client_id,
        username: user.map(|user| Box::from(&*user.username)),
        token_type: Some(if identity.confirmation.key.is_some() { "DPoP" } else { "Bearer" }),
        cnf: Some(identity.confirmation).filter(|cnf| !cnf.is_none()),
        exp,
        iat: number("iat"),
        sub,
        aud: identity.claims.get("aud").cloned(),
        jti: text("jti"),
        sid: text("sid"),
        iss: identity.issuer,
    }))
}

/// A refresh token may be asked about by the client it was issued to alone, whose name is part of its MAC: nobody else is ever
/// shown it. It is good if a refresh with it would be answered; nothing is spent on finding out.
async fn refresh_token(issuer: &Issuer, client: &Client, token: &str) -> Result<Option<Active>, Error> {
    let Some(presented) = issuer.refresh_tokens.read(token, &client.id) else { return Ok(None) };
    if !client.grants.contains(&GrantType::RefreshToken) || issuer.ledger.is_blacklisted(presented.session) {
        return Ok(None);
    }
    let Some(Standing { session, issued, expires }) = issuer.ledger.look_up(presented, rules(issuer, client)).await?
    else {
        return Ok(None);
    };
    let Some(user) = issuer.active_user(&session.subject).await? else { return Ok(None) };
    Ok(Some(Active {
        active: true,
        scope: spoken(&still_allowed(client, &session)),
        client_id: client.id.as_str().into(),
        username: Some(Box::from(&*user.username)),
        token_type: None,
        cnf: None,
        exp: expires.as_secs(),
        iat: issued.map(|at| at.as_secs()),
        sub: session.subject.as_str().into(),
        aud: None,
        jti: None,
        sid: Some(session.id.to_string().into()),
        iss: issuer.config.url.clone(),
    }))
}

fn spoken(scopes: &Scopes) -> Option<String> {
    Some(scopes.to_string()).filter(|scope| !scope.is_empty())
}
