//! RFC 6749 §6: a refresh token for a new access token, and for its own successor.

use super::{Granted, requested_scopes};
use crate::{
    issuer::{
        Client, Issuer,
        access::Grant,
        error::Error,
        form::{Form, Param},
        ledger::Cause,
    },
    store::{Rotation, RotationRules, Session, Visitor},
    types::Scopes,
};

/// One text for all that is wrong with a refresh token: which it was is in the metric.
const REFUSED: Error = Error::InvalidGrant("The refresh token is invalid, expired or revoked.");

pub(in crate::issuer) async fn grant(
    issuer: &Issuer,
    client: &Client,
    form: &Form,
    visitor: Visitor,
) -> Result<Granted, Error> {
    let token = form.require(Param::RefreshToken)?;
    let refused = |outcome| {
        issuer.metrics.refresh(outcome);
        REFUSED
    };
    // Forged, or another client's: known without asking anybody.
    let presented = issuer.refresh_tokens.read(token, &client.id).ok_or_else(|| refused("forged"))?;
    if issuer.ledger.is_blacklisted(presented.session) {
        return Err(refused("blacklisted"));
    }
    // What a session allows never changes, so a scope that goes beyond it is refused before the token is spent on it.
    if form.get(Param::Scope).is_some() {
        let session = issuer.ledger.session(presented.session).await?.ok_or_else(|| refused("unknown"))?;
        requested_scopes(form, &still_allowed(client, &session))?;
    }

    let now = issuer.clock.now();
    let session = match issuer.ledger.rotate(presented, rules(issuer, client), visitor).await? {
        Rotation::Rotated(session) => {
            issuer.metrics.refresh("rotated");
            session
        }
        Rotation::Replayed(session) => {
            issuer.metrics.refresh("replayed");
            session
        }
        Rotation::Reused(_) => {
            tracing::warn!(session = %presented.session, client = %client.id, "a used refresh token was presented again");
            return Err(refused("reused"));
        }
        Rotation::RolledBack(_) => {
            tracing::warn!(session = %presented.session, client = %client.id, "the store has forgotten a rotation");
            return Err(refused("rolled_back"));
        }
        Rotation::Revoked(_) => return Err(refused("revoked")),
        Rotation::LoggedOut => return Err(refused("logged_out")),
        Rotation::Expired => return Err(refused("expired")),
        Rotation::Unknown => return Err(refused("unknown")),
    };
    // Asked on every refresh: a user who was disabled or removed loses the session, not only the next password.
    let Some(user) = issuer.users.active(&session.subject) else {
        tracing::warn!(session = %session.id, subject = %session.subject, "the session of a user who may not log in any more");
        issuer.ledger.revoke_session(session.id, Cause::UserGone, "its user is gone or disabled").await?;
        return Err(REFUSED);
    };
    let scopes = requested_scopes(form, &still_allowed(client, &session))?;
    let grant = Grant {
        subject: user.subject.as_str(),
        scopes: &scopes,
        session: Some(session.id),
        began: session.began,
        claims: Some(&user.claims),
    };
    Granted::new(issuer, client, &grant, Some(issuer.refresh_tokens.issue(&session)), now)
}

/// How this client's tokens turn over.
fn rules(issuer: &Issuer, client: &Client) -> RotationRules {
    let settings = &issuer.config.refresh_token;
    let public = client.secret_hash.is_none();
    RotationRules {
        rotate: public || client.rotate,
        reuse_interval: settings.reuse_interval,
        // Whoever has stolen a public client's token can present it without proving anything else.
        retry_window: if public { Some(settings.retry_window) } else { settings.confidential_retry_window },
        idle_lifetime: settings.lifetimes(client, false).idle,
        remembered_idle_lifetime: settings.lifetimes(client, true).idle,
        access_lifetime: issuer.access_lifetime(client),
        on_rollback: settings.on_rollback,
    }
}

/// What the session was granted, less what the client has lost since.
fn still_allowed(client: &Client, session: &Session) -> Scopes {
    Scopes::from_values(session.scopes.iter().filter(|scope| client.scopes.contains(scope)))
}
