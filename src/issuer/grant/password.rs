//! RFC 6749 §4.3: a user's password passes through the client. OAuth 2.1 drops it; so does the default.

use super::{Granted, open_session, requested_resources, requested_scopes};
use crate::{
    issuer::{
        Client, GrantType, Issuer,
        access::Grant,
        error::Error,
        form::{Form, Param},
        possession::Asker,
        user::{self, Typed},
    },
    types::SessionId,
};

/// One text for no such user, a wrong password and a disabled user.
const REFUSED: Error = Error::InvalidGrant("The username or the password is wrong.");

pub(in crate::issuer) async fn grant(
    issuer: &Issuer,
    client: &Client,
    form: &Form,
    asker: &Asker,
) -> Result<Granted, Error> {
    let Asker { visitor, holds, .. } = asker;
    let (username, password) = (form.require(Param::Username)?, form.require(Param::Password)?);
    let scopes = requested_scopes(form, &client.scopes)?;
    let resources = requested_resources(issuer, form, &[])?;
    let typed = Typed { username, password, device: None };
    let Some(user) = user::log_in(issuer, client, &typed, visitor).await? else { return Err(REFUSED) };

    let now = issuer.clock.now();
    let position = issuer.ledger.position();
    let session = if client.grants.contains(&GrantType::RefreshToken) {
        Some(open_session(issuer, client, SessionId::generate(&user.subject), &user, &scopes, &resources, asker).await?)
    } else {
        None
    };
    if !user::is_still_active(issuer, &user.subject, session.as_ref().map(|session| session.id)).await? {
        return Err(REFUSED);
    }
    let refresh_token = session.as_ref().map(|session| issuer.refresh_tokens.issue(session));
    let grant = Grant {
        bound_to: *holds,
        lifetime: issuer.access_lifetime(client),
        act: None,
        asked: (GrantType::Password, visitor),
        subject: user.subject.as_str(),
        scopes: &scopes,
        resources: &resources,
        began: session.as_ref().map_or(position, |session| session.began),
        session: session.map(|session| session.id),
        claims: Some(&user.claims),
    };
    Granted::new(issuer, client, &grant, refresh_token, now).await
}
