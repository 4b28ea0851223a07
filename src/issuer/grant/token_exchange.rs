//! RFC 8693: a service that has been called with a user's token gets one for the next service, which says who acts for whom. It is
//! for less, lives no longer, and ends with the same session.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Granted, requested_scopes};
use crate::{
    clock::Timestamp,
    issuer::{
        Client, Exchange, GrantType, Issuer,
        access::{CLIENT_SUBJECT, Grant},
        error::Error,
        form::{Form, Param},
        possession::Asker,
    },
    token::{BEGAN_CLAIM, Identity},
    types::{Audience, Scopes, SessionId, Subject},
};

/// The types of token that an access token is of (§3).
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// How many services may stand behind one another in `act`: a call that goes further goes in a circle.
const MAX_CHAIN: usize = 8;

/// One text for all that is wrong with the token: which it was, only who has it needs to know.
const REFUSED: Error = Error::InvalidRequest(std::borrow::Cow::Borrowed(
    "The subject_token is invalid, expired, revoked or not for this client.",
));

pub(in crate::issuer) async fn grant(
    issuer: &Issuer,
    client: &Client,
    form: &Form,
    asker: &Asker,
) -> Result<Granted, Error> {
    let Asker { visitor, holds, .. } = asker;
    let Some(exchange) = &client.exchange else { return Err(Error::UnauthorizedClient) };
    let token = form.require(Param::SubjectToken)?;
    for (param, needed) in [(Param::SubjectTokenType, true), (Param::RequestedTokenType, false)] {
        let given = if needed { Some(form.require(param)?) } else { form.get(param) };
        if given.is_some_and(|kind| kind != ACCESS_TOKEN && kind != JWT) {
            return Err(Error::InvalidRequest("Access tokens alone can be exchanged, and be had.".into()));
        }
    }
    if form.get(Param::ActorToken).is_some() {
        return Err(Error::InvalidRequest("The client itself is who acts; an actor_token is not taken.".into()));
    }
    let now = issuer.clock.now();
    let subject_token = issuer.good_token(token)?.ok_or(REFUSED)?;
    // Whoever finds a token that was meant for another service has not been called with it.
    let is_for = |audience: &Audience| subject_token.audiences.iter().any(|aud| **aud == *audience.as_str());
    if !exchange.from.iter().any(is_for) {
        return Err(REFUSED);
    }
    // What was bound to a key or a certificate does not become worth stealing on its way.
    if !subject_token.confirmation.is_none() && holds.is_none() {
        return Err(Error::InvalidRequest(
            "A token that is bound is exchanged for one that is: show a DPoP proof.".into(),
        ));
    }
    let resources = targets(form, exchange)?;
    let subject = subject_token.text("sub").ok_or(REFUSED)?;
    let rest = rest(&subject_token, now).ok_or(REFUSED)?;
    // Nobody acts for a client that is gone or disabled, whatever its tokens still say.
    let is_enabled = |id: &str| issuer.enabled_client(id).is_some();
    let whose = [subject_token.text("client_id"), subject.strip_prefix(CLIENT_SUBJECT)];
    if !whose.into_iter().flatten().all(is_enabled) {
        return Err(REFUSED);
    }
    // A client's own token speaks for no user.
    let user = match subject.starts_with(CLIENT_SUBJECT) {
        true => None,
        false => Some(issuer.active_user(&Subject::new(subject)).await?.ok_or(REFUSED)?),
    };
    let allowed = Scopes::from_values(subject_token.scopes.iter().filter(|scope| client.scopes.contains(scope)));
    let scopes = requested_scopes(form, &allowed)?;
    let act = acting(client, &subject_token)?;
    let grant = Grant {
        asked: (GrantType::TokenExchange, visitor),
        bound_to: *holds,
        subject,
        scopes: &scopes,
        resources: &resources,
        session: subject_token.text("sid").and_then(SessionId::parse),
        began: subject_token.text(BEGAN_CLAIM).and_then(|began| began.parse().ok()).ok_or(REFUSED)?,
        claims: user.as_ref().map(|user| &user.claims),
        lifetime: issuer.access_lifetime(client).min(rest),
        act: Some(&act),
    };
    let granted = Granted::new(issuer, client, &grant, None, now).await?;
    Ok(Granted { issued_token_type: Some(ACCESS_TOKEN), ..granted })
}

/// What the token is to be for, by `resource` or `audience` (§2.1). Where the client may ask for one thing alone, it need not.
fn targets(form: &Form, exchange: &Exchange) -> Result<Box<[Box<str>]>, Error> {
    let mut targets: Vec<Box<str>> = Vec::new();
    for target in form.all(Param::Resource).chain(form.all(Param::Audience)).filter(|target| !target.is_empty()) {
        if !exchange.to.iter().any(|known| known.as_str() == target) {
            return Err(Error::InvalidTarget);
        }
        if !targets.iter().any(|before| **before == *target) {
            targets.push(target.into());
        }
    }
    match (&targets[..], &exchange.to[..]) {
        ([], [only]) => Ok([only.as_str().into()].into()),
        ([], _) => Err(Error::InvalidTarget),
        _ => Ok(targets.into()),
    }
}

/// §4.1: the client acts, for whoever has acted before it.
fn acting(client: &Client, subject_token: &Identity) -> Result<Value, Error> {
    let mut act = json!({ "sub": format!("{CLIENT_SUBJECT}{}", client.id), "client_id": client.id.as_str() });
    if let Some(before) = subject_token.claims.get("act") {
        let depth = std::iter::successors(Some(before), |act| act.get("act")).count();
        if depth >= MAX_CHAIN {
            return Err(Error::InvalidRequest("Too many services have acted for one another.".into()));
        }
        act["act"] = before.clone();
    }
    Ok(act)
}

/// For how long the token is still good.
fn rest(token: &Identity, now: Timestamp) -> Option<Duration> {
    Timestamp::from_secs(token.claims.get("exp")?.as_u64()?).since(now)
}
