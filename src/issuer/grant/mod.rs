//! The grants, one file each.

pub(super) mod authorization_code;
pub(super) mod client_credentials;
pub(super) mod password;
pub(super) mod refresh;

use serde::Serialize;

use super::{
    Client, Issuer, OFFLINE_ACCESS, User,
    access::Grant,
    error::Error,
    form::{Form, Param},
};
use crate::{
    clock::Timestamp,
    store::{NewSession, Session},
    types::{Scopes, SessionId, Visitor},
};

/// A successful answer (RFC 6749 §5.1).
#[derive(Serialize)]
pub(super) struct Granted {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    /// OpenID Connect Core §3.1.3.3.
    #[serde(skip_serializing_if = "Option::is_none")]
    id_token: Option<String>,
}

impl Granted {
    async fn new(
        issuer: &Issuer,
        client: &Client,
        grant: &Grant<'_>,
        refresh_token: Option<String>,
        now: Timestamp,
    ) -> Result<Self, Error> {
        Ok(Self {
            access_token: issuer.access_token(client, grant, now).await?,
            token_type: "Bearer",
            expires_in: issuer.access_lifetime(client).as_secs(),
            refresh_token,
            scope: Some(grant.scopes.to_string()).filter(|scope| !scope.is_empty()),
            id_token: None,
        })
    }
}

/// Opens a session of a user at a client.
async fn open_session(
    issuer: &Issuer,
    client: &Client,
    id: SessionId,
    user: &User,
    scopes: &Scopes,
    visitor: &Visitor,
) -> Result<Session, Error> {
    let settings = &issuer.config.refresh_token;
    let remembered = scopes.contains(OFFLINE_ACCESS);
    let lifetimes = settings.lifetimes(client, remembered);
    let new = NewSession {
        id,
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
    Ok(issuer.ledger.open(new).await?)
}

/// What the request asks for out of what `allowed` has; all of it when it does not say (RFC 6749 §3.3).
pub(super) fn requested_scopes(form: &Form, allowed: &Scopes) -> Result<Scopes, Error> {
    let Some(text) = form.get(Param::Scope) else { return Ok(allowed.clone()) };
    let asked = Scopes::parse(text).ok_or(Error::InvalidScope("The scope is malformed."))?;
    if !allowed.covers(&asked) {
        return Err(Error::InvalidScope("The scope goes beyond what can be granted."));
    }
    // Blanks alone ask for nothing in particular.
    Ok(if asked.is_empty() { allowed.clone() } else { asked })
}
