//! RFC 6749 §4.3: a user's password passes through the client. OAuth 2.1 drops it; so does the default.

use super::{Granted, requested_scopes};
use crate::{
    issuer::{
        Client, GrantType, Issuer, OFFLINE_ACCESS,
        access::Grant,
        error::Error,
        form::{Form, Param},
    },
    store::{NewSession, Visitor},
    types::SessionId,
};

pub(in crate::issuer) async fn grant(
    issuer: &Issuer,
    client: &Client,
    form: &Form,
    visitor: Visitor,
) -> Result<Granted, Error> {
    let (username, password) = (form.require(Param::Username)?, form.require(Param::Password)?);
    let scopes = requested_scopes(form, &client.scopes)?;
    let user = issuer.users.log_in(&issuer.passwords, username, password).await?;
    // One text for no such user, a wrong password and a disabled user.
    let user = user.ok_or(Error::InvalidGrant("The username or the password is wrong."))?;

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
            visitor,
        };
        Some(issuer.ledger.open(new).await?)
    } else {
        None
    };
    let refresh_token = session.as_ref().map(|session| issuer.refresh_tokens.issue(session));
    let grant = Grant {
        subject: user.subject.as_str(),
        scopes: &scopes,
        began: session.as_ref().map_or(position, |session| session.began),
        session: session.map(|session| session.id),
        claims: Some(&user.claims),
    };
    Granted::new(issuer, client, &grant, refresh_token, now)
}
