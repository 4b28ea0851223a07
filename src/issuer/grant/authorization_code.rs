//! RFC 6749 §4.1.3: a code for tokens, with what only its client knows (RFC 7636 §4.6).

use subtle::ConstantTimeEq as _;

use super::{Granted, open_session, requested_resources};
use crate::{
    issuer::{
        By, Client, GrantType, Issuer,
        access::Grant,
        code::{self, Kept},
        error::Error,
        form::{Form, Param},
        id_token::Authentication,
        ledger::Cause,
        possession::{Asker, unproved},
        user,
    },
    store::Taken,
    telemetry::audit::{Event, Facts},
    token::dpop::Unproved,
    types::{Scopes, SessionId, Subject, Visitor},
};

/// One text for all that is wrong with a code: which it was is in the audit log.
const REFUSED: Error = Error::InvalidGrant("The authorization code is invalid, expired or used.");

pub(in crate::issuer) async fn grant(
    issuer: &Issuer,
    client: &Client,
    form: &Form,
    asker: &Asker,
) -> Result<Granted, Error> {
    let Asker { visitor, holds, .. } = asker;
    let code = form.require(Param::Code)?;
    let refused = |reason: &'static str, session: Option<SessionId>| {
        let facts = Facts {
            client: Some(&client.id),
            session,
            error: Some(REFUSED.code()),
            reason: Some(reason),
            ..visitor.into()
        };
        issuer.audit.tell(Event::CodeRefused, facts);
        REFUSED
    };
    let Some((digest, id)) = code::read(code) else { return Err(refused("forged", None)) };
    let now = issuer.clock.now();
    // Whoever comes with it, rightly or not, comes once.
    let kept = match issuer.ledger.take_code(digest, id, code::REMEMBERED).await? {
        Taken::Now(kept) => Kept::decode(&kept).ok_or_else(|| refused("damaged", None))?,
        Taken::Before(session) => {
            // The mark first: whoever has the code may not have opened the session yet, and will see it then.
            issuer.ledger.mark(digest, issuer.clock.now() + code::REMEMBERED).await?;
            end(issuer, client, session, visitor).await?;
            return Err(refused("reused", Some(session)));
        }
        Taken::Unknown => return Err(refused("unknown", None)),
    };
    if *kept.client != *client.id.as_str() {
        return Err(refused("another_client", None));
    }
    // It may be left out (OAuth 2.1 drops it); what is said has to be right.
    if form.get(Param::RedirectUri).is_some_and(|uri| *uri != *kept.redirect_uri) {
        return Err(refused("another_redirect_uri", None));
    }
    match (kept.challenge, form.get(Param::CodeVerifier)) {
        (None, None) => {}
        (Some(challenge), Some(verifier)) if is_verifier(verifier) => {
            if !bool::from(code::sha256(verifier.as_bytes()).ct_eq(&challenge)) {
                return Err(refused("another_code_verifier", None));
            }
        }
        (Some(_), _) => return Err(refused("no_code_verifier", None)),
        // Somebody has taken the challenge out on the way (RFC 9700 §2.1.1).
        (None, Some(_)) => return Err(refused("no_code_challenge", None)),
    }
    // The key that the code was asked for with (RFC 9449 §10).
    if kept.key.is_some() && kept.key != holds.key {
        refused("another_key", None);
        let why = if holds.key.is_some() { Unproved::WrongKey } else { Unproved::Missing };
        return Err(unproved(issuer, why));
    }
    // Whoever has logged out since, or been logged out, has not meant it any more.
    let Some(login) = issuer.login_record(kept.login).await? else { return Err(refused("logged_out", None)) };
    let subject = Subject::new(&*kept.subject);
    let user = issuer.active_user(&subject).await?.filter(|_| subject.part() == id.part());
    let Some(user) = user else { return Err(refused("user_gone", None)) };
    let resources = requested_resources(issuer, form, &kept.resources)?;
    let scopes = Scopes::parse(&kept.scopes).unwrap_or_default();
    // What comes of it later can be for all that the user has agreed to.
    let granted_resources = if kept.resources.is_empty() { &resources } else { &kept.resources };
    // Also where there is no refresh token to come: it is by its session that what comes of a code can be ended.
    let session = open_session(issuer, client, id, &user, &scopes, granted_resources, asker).await?;
    // The session first: whoever comes with the code from now on finds it, and whoever has come before has left a mark.
    if !issuer.ledger.mark(digest, issuer.clock.now() + code::REMEMBERED).await? {
        end(issuer, client, session.id, visitor).await?;
        return Err(refused("reused", Some(session.id)));
    }
    if !user::is_still_active(issuer, &subject, Some(session.id)).await? {
        return Err(refused("user_gone", Some(session.id)));
    }
    let refreshes = client.grants.contains(&GrantType::RefreshToken);
    let refresh_token = refreshes.then(|| issuer.refresh_tokens.issue(&session));
    let grant = Grant {
        bound_to: *holds,
        lifetime: issuer.access_lifetime(client),
        act: None,
        asked: (GrantType::AuthorizationCode, visitor),
        subject: user.subject.as_str(),
        scopes: &scopes,
        resources: &resources,
        began: session.began,
        session: Some(session.id),
        claims: Some(&user.claims),
    };
    let granted = Granted::new(issuer, client, &grant, refresh_token, now).await?;
    let login = Authentication {
        at: login.opened,
        nonce: kept.nonce.as_deref(),
        session: session.id,
        access_token: &granted.access_token,
    };
    let id_token = issuer.id_token(client, &user, &scopes, &login, now).await?;
    Ok(Granted { id_token, ..granted })
}

/// Ends what came of a code that two have (RFC 6749 §4.1.2).
async fn end(issuer: &Issuer, client: &Client, session: SessionId, visitor: &Visitor) -> Result<(), Error> {
    tracing::warn!(%session, client = %client.id, "an authorization code was presented again");
    let by = By::client(&client.id, visitor.clone()).because(Cause::CodeReuse);
    issuer.ledger.revoke_session(session, by, "its authorization code was presented again").await?;
    Ok(())
}

/// RFC 7636 §4.1.
fn is_verifier(text: &str) -> bool {
    (43..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'))
}
