//! RFC 6749 §6: a refresh token for a new access token, and for its own successor.

use super::{Granted, refreshed_resources, requested_scopes};
use crate::{
    issuer::{
        By, Client, GrantType, Issuer,
        access::Grant,
        error::Error,
        form::{Form, Param},
        ledger::Cause,
        possession::{Asker, unproved},
        user::Ahead,
    },
    store::{Revocation, Rotation, RotationRules, Session},
    telemetry::audit::{Event, Facts, Refresh},
    token::dpop::Unproved,
    types::Scopes,
};

/// One text for all that is wrong with a refresh token: which it was is in the metric.
const REFUSED: Error = Error::InvalidGrant("The refresh token is invalid, expired or revoked.");

pub(in crate::issuer) async fn grant(
    issuer: &Issuer,
    client: &Client,
    form: &Form,
    asker: &Asker,
) -> Result<Granted, Error> {
    let Asker { visitor, holds, .. } = asker;
    let token = form.require(Param::RefreshToken)?;
    let facts = Facts { client: Some(&client.id), ..visitor.into() };
    let refused = |outcome: Refresh, facts| {
        issuer.metrics.refresh(outcome.name());
        tell_refused(issuer, outcome, facts);
        REFUSED
    };
    // Forged, or another client's: known without asking anybody.
    let presented = issuer.refresh_tokens.read(token, &client.id).ok_or_else(|| refused(Refresh::Forged, facts))?;
    let facts = Facts { session: Some(presented.session), generation: Some(presented.generation), ..facts };
    if issuer.ledger.is_blacklisted(presented.session) {
        return Err(refused(Refresh::Blacklisted, facts));
    }
    // What a session allows never changes, so a scope that goes beyond it is refused before the token is spent on it.
    if form.get(Param::Scope).is_some() || form.get(Param::Resource).is_some() {
        let session = issuer.ledger.session(presented.session).await?;
        let session = session.ok_or_else(|| refused(Refresh::Unknown, facts))?;
        requested_scopes(form, &still_allowed(client, &session))?;
        refreshed_resources(issuer, form, &session)?;
    }

    let ahead = Ahead::ask(issuer, presented.session).await?;
    issuer.signing.turn().await;
    let now = issuer.clock.now();
    let rules = RotationRules { key: holds.key, ..rules(issuer, client) };
    let (outcome, session) = match issuer.ledger.rotate(presented, rules, visitor.clone()).await? {
        Rotation::Rotated(session) => (Refresh::Rotated, session),
        Rotation::Replayed(session) => (Refresh::Replayed, session),
        Rotation::Reused(Revocation { number, .. }) => {
            tracing::warn!(session = %presented.session, client = %client.id, "a used refresh token was presented again");
            return Err(refused(Refresh::Reused, Facts { number: Some(number), ..facts }));
        }
        Rotation::RolledBack(Revocation { number, .. }) => {
            tracing::warn!(session = %presented.session, client = %client.id, "the store has forgotten a rotation");
            return Err(refused(Refresh::RolledBack, Facts { number: Some(number), ..facts }));
        }
        Rotation::Revoked(Revocation { number, .. }) => {
            return Err(refused(Refresh::Revoked, Facts { number: Some(number), ..facts }));
        }
        Rotation::WrongKey => {
            refused(Refresh::WrongKey, facts);
            let why = if holds.key.is_some() { Unproved::WrongKey } else { Unproved::Missing };
            return Err(unproved(issuer, why));
        }
        Rotation::LoggedOut => return Err(refused(Refresh::LoggedOut, facts)),
        Rotation::Expired => return Err(refused(Refresh::Expired, facts)),
        Rotation::Unknown => return Err(refused(Refresh::Unknown, facts)),
    };
    issuer.metrics.refresh(outcome.name());
    let facts = Facts { subject: Some(session.subject.as_str()), ..facts };
    // Asked on every refresh: a user who was disabled or removed loses the session, not only the next password.
    let Some(user) = ahead.user(issuer, &session.subject).await? else {
        tracing::warn!(session = %session.id, subject = %session.subject, "the session of a user who may not log in any more");
        let by = By { subject: Some(session.subject.clone()), ..Cause::UserGone.into() };
        let revocation = issuer.ledger.revoke_session(session.id, by, "its user is gone or disabled").await?;
        tell_refused(issuer, Refresh::UserGone, Facts { number: revocation.map(|it| it.number), ..facts });
        return Err(REFUSED);
    };
    issuer.audit.tell(Event::Refresh(outcome), facts);
    let scopes = requested_scopes(form, &still_allowed(client, &session))?;
    let resources = refreshed_resources(issuer, form, &session)?;
    let grant = Grant {
        bound_to: *holds,
        lifetime: issuer.access_lifetime(client),
        act: None,
        asked: (GrantType::RefreshToken, visitor),
        subject: user.subject.as_str(),
        scopes: &scopes,
        resources: &resources,
        session: Some(session.id),
        began: session.began,
        claims: Some(&user.claims),
    };
    Granted::new(issuer, client, &grant, Some(issuer.refresh_tokens.issue(&session)), now).await
}

fn tell_refused(issuer: &Issuer, outcome: Refresh, facts: Facts<'_>) {
    issuer.audit.tell(Event::Refresh(outcome), Facts { error: Some(REFUSED.code()), ..facts });
}

/// How this client's tokens turn over.
pub(in crate::issuer) fn rules(issuer: &Issuer, client: &Client) -> RotationRules {
    let settings = &issuer.config.refresh_token;
    let public = client.is_public();
    RotationRules {
        rotate: public || client.rotate,
        reuse_interval: settings.reuse_interval,
        // Whoever has stolen a public client's token can present it without proving anything else.
        retry_window: if public { Some(settings.retry_window) } else { settings.confidential_retry_window },
        bound_retry_window: settings.confidential_retry_window,
        key: None,
        binds: public,
        idle_lifetime: settings.lifetimes(client, false).idle,
        remembered_idle_lifetime: settings.lifetimes(client, true).idle,
        access_lifetime: issuer.access_lifetime(client),
        on_rollback: settings.on_rollback,
    }
}

/// What the session was granted, less what the client has lost since.
pub(in crate::issuer) fn still_allowed(client: &Client, session: &Session) -> Scopes {
    Scopes::from_values(session.scopes.iter().filter(|scope| client.scopes.contains(scope)))
}
