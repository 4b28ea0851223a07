//! Access tokens as RFC 9068 has them.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{Client, GrantType, Issuer, error::Error};
use crate::{
    clock::Timestamp,
    telemetry::audit::{Event, Facts},
    token::BEGAN_CLAIM,
    types::{Position, Scopes, SessionId, Visitor},
};

/// What the `sub` of a client's own token begins with. No user's subject does, so that a client never stands where a user
/// is meant (RFC 9068 §5).
pub const CLIENT_SUBJECT: &str = "client:";

/// Claims that say something about the token, the client or the login to whoever verifies it, and are therefore never a
/// user's to set (RFC 7519 §4.1, RFC 8693 §4, RFC 9068 §2.2, OpenID Connect Core §2; `scp` is some issuers' `scope`).
pub const RESERVED_CLAIMS: [&str; 30] = [
    "acr",
    "act",
    "amr",
    "at_hash",
    "aud",
    "auth_time",
    "authorization_details",
    "azp",
    "c_hash",
    "client_id",
    "cnf",
    "entitlement",
    "events",
    "exp",
    "iat",
    "iss",
    "jti",
    "may_act",
    "nbf",
    "nonce",
    "s_hash",
    "scope",
    "scp",
    "sid",
    BEGAN_CLAIM,
    "sub",
    "toe",
    "token_type",
    "txn",
    "typ",
];

/// What an access token says besides what every one says, and for whom it is.
pub(super) struct Grant<'a> {
    /// What was asked for, and from where.
    pub(super) asked: (GrantType, &'a Visitor),
    /// Whom it speaks for.
    pub(super) subject: &'a str,
    /// What it allows.
    pub(super) scopes: &'a Scopes,
    /// The session that ends it.
    pub(super) session: Option<SessionId>,
    /// Where the revocation log stood when the session began, or before the token was asked for.
    pub(super) began: Position,
    /// A user's own claims, which go under ours and never over them.
    pub(super) claims: Option<&'a Map<String, Value>>,
}

impl Issuer {
    /// How long the client's access tokens live.
    pub(super) fn access_lifetime(&self, client: &Client) -> Duration {
        client.access_token_lifetime.unwrap_or(self.config.access_token.lifetime)
    }

    /// Signs an access token. `now` is read before the store is asked: the store reckons from its own, later moment how
    /// long a revocation of the session has to last.
    pub(super) fn access_token(&self, client: &Client, grant: &Grant<'_>, now: Timestamp) -> Result<String, Error> {
        let mut claims: Map<String, Value> = grant
            .claims
            .into_iter()
            .flatten()
            .filter(|(name, _)| !RESERVED_CLAIMS.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let mut set = |name: &str, value: Value| claims.insert(name.into(), value);
        set("iss", self.config.url.as_str().into());
        set("aud", self.config.access_token.audience.as_str().into());
        set("sub", grant.subject.into());
        set("client_id", client.id.as_str().into());
        set("iat", now.as_secs().into());
        set("exp", (now.as_secs() + self.access_lifetime(client).as_secs()).into());
        let jti = uuid::Uuid::now_v7().simple().to_string();
        set("jti", jti.as_str().into());
        if !grant.scopes.is_empty() {
            set("scope", grant.scopes.to_string().into());
        }
        if let Some(session) = grant.session {
            set("sid", session.to_string().into());
        }
        set(BEGAN_CLAIM, grant.began.to_string().into());
        let signer = self.ring.signer();
        let token = signer.sign("at+jwt", &claims)?;
        let (grant_type, visitor) = grant.asked;
        let facts = Facts {
            client: Some(&client.id),
            subject: Some(grant.subject),
            session: grant.session,
            grant: Some(grant_type.name()),
            scope: Some(grant.scopes),
            jti: Some(&jti),
            kid: Some(signer.kid()),
            ..Facts::from(visitor)
        };
        self.audit.tell(Event::TokenIssued, facts);
        Ok(token)
    }
}
