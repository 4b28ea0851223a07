//! The grants, one file each.

pub(super) mod authorization_code;
pub(super) mod client_credentials;
pub(super) mod password;
pub(super) mod refresh;
pub(super) mod token_exchange;

use serde::Serialize;

use super::{
    Client, Issuer, OFFLINE_ACCESS,
    access::Grant,
    error::Error,
    form::{Form, Param},
    possession::Asker,
    user::Account,
};
use crate::{
    clock::Timestamp,
    store::{NewSession, Session},
    types::{Scopes, SessionId},
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
    /// RFC 8693 §2.2.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_token_type: Option<&'static str>,
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
            token_type: if grant.bound_to.key.is_some() { "DPoP" } else { "Bearer" },
            expires_in: grant.lifetime.as_secs(),
            refresh_token,
            scope: Some(grant.scopes.to_string()).filter(|scope| !scope.is_empty()),
            id_token: None,
            issued_token_type: None,
        })
    }
}

/// Opens a session of a user at a client.
async fn open_session(
    issuer: &Issuer,
    client: &Client,
    id: SessionId,
    user: &Account,
    scopes: &Scopes,
    resources: &[Box<str>],
    asker: &Asker,
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
        // A client that authenticates shows who it is at each refresh (RFC 9449 §5).
        resources: resources.into(),
        key: asker.holds.key.filter(|_| client.is_public()),
        visitor: asker.visitor.clone(),
    };
    Ok(issuer.ledger.open(new).await?)
}

/// What a token is asked for (RFC 8707 §2): out of what was `granted` before, where anything was, and is still there to be had. All
/// of that, when the request does not say; nothing in particular, when nobody has.
///
/// # Errors
/// `invalid_target`, when it is none of those, or none of those is left.
pub(super) fn requested_resources(
    issuer: &Issuer,
    form: &Form,
    granted: &[Box<str>],
) -> Result<Box<[Box<str>]>, Error> {
    let settings = &issuer.config.access_token;
    let is_known = |resource: &str| settings.audiences().any(|known| known.as_str() == resource);
    let left: Vec<&str> = granted.iter().map(|granted| &**granted).filter(|granted| is_known(granted)).collect();
    if left.len() < granted.len() && left.is_empty() {
        return Err(Error::InvalidTarget);
    }
    let mut asked: Vec<Box<str>> = Vec::new();
    for resource in form.all(Param::Resource).filter(|resource| !resource.is_empty()) {
        let good = if granted.is_empty() { is_known(resource) } else { left.contains(&resource) };
        if !good {
            return Err(Error::InvalidTarget);
        }
        if !asked.iter().any(|before| **before == *resource) {
            asked.push(resource.into());
        }
    }
    Ok(if asked.is_empty() { left.into_iter().map(Into::into).collect() } else { asked.into() })
}

/// The same at a refresh: a login that was for nothing in particular was for what all are for, and does not become one for all there
/// is.
///
/// # Errors
/// As [`requested_resources`].
pub(super) fn refreshed_resources(issuer: &Issuer, form: &Form, session: &Session) -> Result<Box<[Box<str>]>, Error> {
    let usual = issuer.config.access_token.audience.as_str();
    if session.resources.is_empty() {
        let others = form.all(Param::Resource).any(|resource| !resource.is_empty() && resource != usual);
        return if others { Err(Error::InvalidTarget) } else { Ok(Box::default()) };
    }
    requested_resources(issuer, form, &session.resources)
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
