//! Access tokens as RFC 9068 has them.

use std::time::Duration;

use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Map, Value};

use super::{Client, GrantType, Issuer, error::Error};
use crate::{
    clock::Timestamp,
    store::{MAX_LEEWAY, Unavailable},
    telemetry::audit::{Event, Facts},
    token::{BEGAN_CLAIM, Confirmation, Identity, verify::Proof},
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
    /// What it is bound to.
    pub(super) bound_to: Confirmation,
    /// Whom it speaks for.
    pub(super) subject: &'a str,
    /// What it allows.
    pub(super) scopes: &'a Scopes,
    /// What it is for; empty: what all are for.
    pub(super) resources: &'a [Box<str>],
    /// The session that ends it.
    pub(super) session: Option<SessionId>,
    /// Where the revocation log stood when the session began, or before the token was asked for.
    pub(super) began: Position,
    /// How long it lives.
    pub(super) lifetime: Duration,
    /// Who acts for the subject (RFC 8693 §4.1).
    pub(super) act: Option<&'a Value>,
    /// A user's own claims, which go under ours and never over them.
    pub(super) claims: Option<&'a Map<String, Value>>,
}

impl Issuer {
    /// How long the client's access tokens live.
    pub(super) fn access_lifetime(&self, client: &Client) -> Duration {
        client.access_token_lifetime.unwrap_or(self.config.access_token.lifetime)
    }

    /// What an access token of ours says, if it is good now; `None` for anything else.
    ///
    /// # Errors
    /// When it is not known what others have revoked of late.
    pub(super) fn good_token(&self, token: &str) -> Result<Option<Identity>, Unavailable> {
        let now = self.clock.now();
        let Ok(Proof { identity, key, .. }) = self.own.verify(token, now) else { return Ok(None) };
        // That is as lenient about time as a gateway can be; this is told what the token says.
        if now + MAX_LEEWAY >= identity.expires_at || self.ledger.is_revoked(&identity.credential(&key)) {
            return Ok(None);
        }
        // Others may have revoked it, and we have not heard of them for too long to say that nobody has.
        if self.freshness.as_ref().is_some_and(|freshness| freshness.is_stale()) {
            return Err(Unavailable("its revocations have not been heard of for too long".into()));
        }
        Ok(Some(identity))
    }

    /// Signs an access token. `now` is read before the store is asked: the store reckons from its own, later moment how
    /// long a revocation of the session has to last.
    pub(super) async fn access_token(
        &self,
        client: &Client,
        grant: &Grant<'_>,
        now: Timestamp,
    ) -> Result<String, Error> {
        let jti = uuid::Uuid::now_v7().simple().to_string();
        let claims = Claims {
            users: grant.claims,
            iss: self.config.url.as_str(),
            aud: match grant.resources {
                [] => Audiences::One(self.config.access_token.audience.as_str()),
                [one] => Audiences::One(one),
                several => Audiences::Several(several),
            },
            sub: grant.subject,
            client_id: client.id.as_str(),
            iat: now.as_secs(),
            exp: now.as_secs() + grant.lifetime.as_secs(),
            act: grant.act,
            jti: &jti,
            scope: Some(grant.scopes).filter(|scopes| !scopes.is_empty()),
            sid: grant.session,
            began: grant.began,
            bound_to: grant.bound_to,
        };
        let signer = self.ring.signer();
        let token = self.signing.sign(&signer, "at+jwt", &claims).await?;
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

/// RFC 7519 §4.1.3: one is a string.
#[derive(Serialize)]
#[serde(untagged)]
enum Audiences<'a> {
    One(&'a str),
    Several(&'a [Box<str>]),
}

/// What a token says, written as it is gathered: a grant makes thousands of them a second.
struct Claims<'a> {
    users: Option<&'a Map<String, Value>>,
    iss: &'a str,
    aud: Audiences<'a>,
    sub: &'a str,
    client_id: &'a str,
    iat: u64,
    exp: u64,
    jti: &'a str,
    scope: Option<&'a Scopes>,
    sid: Option<SessionId>,
    began: Position,
    bound_to: Confirmation,
    act: Option<&'a Value>,
}

impl Serialize for Claims<'_> {
    /// Each name once: a user's claim that has the name of one of ours is left out, whether or not this token has ours.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.users.into_iter().flatten() {
            if !RESERVED_CLAIMS.contains(&name.as_str()) {
                map.serialize_entry(name, value)?;
            }
        }
        map.serialize_entry("iss", self.iss)?;
        map.serialize_entry("aud", &self.aud)?;
        map.serialize_entry("sub", self.sub)?;
        map.serialize_entry("client_id", self.client_id)?;
        map.serialize_entry("iat", &self.iat)?;
        map.serialize_entry("exp", &self.exp)?;
        map.serialize_entry("jti", self.jti)?;
        if let Some(scopes) = self.scope {
            map.serialize_entry("scope", &scopes.to_string())?;
        }
        if let Some(session) = self.sid {
            map.serialize_entry("sid", &session.to_string())?;
        }
        if let Some(act) = self.act {
            map.serialize_entry("act", act)?;
        }
        if !self.bound_to.is_none() {
            map.serialize_entry("cnf", &self.bound_to)?;
        }
        map.serialize_entry(BEGAN_CLAIM, &self.began.to_string())?;
        map.end()
    }
}
