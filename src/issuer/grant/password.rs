//! RFC 6749 §4.3: a user's password passes through the client. OAuth 2.1 drops it; so does the default.

use super::{Granted, requested_scopes};
use crate::{
    issuer::{
        Client, GrantType, Issuer, OFFLINE_ACCESS,
        access::Grant,
        error::Error,
        form::{Form, Param},
    },
    store::NewSession,
    telemetry::audit::{Event, Facts},
    types::{SessionId, Visitor},
};

pub(in crate::issuer) async fn grant(
    issuer: &Issuer,
    client: &Client,
    form: &Form,
    visitor: &Visitor,
) -> Result<Granted, Error> {
    let (username, password) = (form.require(Param::Username)?, form.require(Param::Password)?);
    let scopes = requested_scopes(form, &client.scopes)?;
    let user = issuer.users.log_in(&issuer.passwords, username, password).await?;
    let facts = Facts { client: Some(&client.id), ..visitor.into() };
    let Some(user) = user else {
        // One text for no such user, a wrong password and a disabled user.
        let error = Error::InvalidGrant("The username or the password is wrong.");
        // Never what was typed: it may be a password in the wrong field.
        let (subject, reason) = match issuer.users.named(username) {
            None => (None, "unknown_user"),
            Some(user) if user.disabled => (Some(user.subject.as_str()), "disabled"),
            Some(user) => (Some(user.subject.as_str()), "wrong_password"),
        };
        let facts = Facts { subject, error: Some(error.code()), reason: Some(reason), ..facts };
        issuer.audit.tell(Event::LoginFailed, facts);
        return Err(error);
    };
    let (subject, username) = (Some(user.subject.as_str()), Some(&*user.username));
    issuer.audit.tell(Event::LoggedIn, Facts { subject, username, ..facts });

    let now = issuer.clock.now();
    let position = issuer.ledger.position();
    let session = if client.grants.contains(&GrantType::RefreshToken) {
        let settings = &issuer.config.refresh_token;
        let remembered = scopes.contains(OFFLINE_ACCESS);
        let lifetimes = settings.lifetimes(client, remembered);
        let new = NewSession {
            id: SessionId::generate(&user.subject),
            client: client.id.clone(),
            subject: user.subject.clone(),
            scopes: scopes.clone(),
            idle_lifetime: lifetimes.idle,
            absolute_lifetime: lifetimes.absolute,
            access_lifetime: issuer.access_lifetime(client),
            remembered,
            max_sessions: settings.max_sessions,
            visitor: visitor.clone(),
        };
        Some(issuer.ledger.open(new).await?)
    } else {
        None
    };
    let refresh_token = session.as_ref().map(|session| issuer.refresh_tokens.issue(session));
    let grant = Grant {
        asked: (GrantType::Password, visitor),
        subject: user.subject.as_str(),
        scopes: &scopes,
        began: session.as_ref().map_or(position, |session| session.began),
        session: session.map(|session| session.id),
        claims: Some(&user.claims),
    };
    Granted::new(issuer, client, &grant, refresh_token, now)
}
