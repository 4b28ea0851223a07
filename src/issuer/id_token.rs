//! ID tokens (OpenID Connect Core §2): who has logged in, for the client that asked; no gateway takes one.

use std::sync::Arc;

use aws_lc_rs::digest::{self, Algorithm as Digest, SHA256, SHA384, SHA512};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use super::{Client, Issuer, RESERVED_CLAIMS, error::Error, user::Account};
use crate::{
    clock::Timestamp,
    token::Algorithm,
    types::{Scopes, SessionId, Subject},
};

/// The scope that asks for one (OpenID Connect Core §3.1.2.1).
pub const OPENID: &str = "openid";
/// The scope that asks for what a user is called (§5.4).
pub(super) const PROFILE: &str = "profile";

/// The `typ` of one.
const TYPE: &str = "JWT";

/// What an ID token says of a login.
pub(super) struct Authentication<'a> {
    /// When it was.
    pub(super) at: Timestamp,
    /// What the client wants to find again in it.
    pub(super) nonce: Option<&'a str>,
    /// The session that came of it.
    pub(super) session: SessionId,
    /// What goes out beside it.
    pub(super) access_token: &'a str,
}

impl Issuer {
    /// The ID token for a client that has asked for one.
    pub(super) async fn id_token(
        &self,
        client: &Client,
        user: &Account,
        scopes: &Scopes,
        login: &Authentication<'_>,
        now: Timestamp,
    ) -> Result<Option<String>, Error> {
        if !scopes.contains(OPENID) || self.config.access_token.algorithm.is_symmetric() {
            return Ok(None);
        }
        let mut claims = about(user, scopes);
        let own = json!({
            "iss": self.config.url.as_str(),
            "aud": client.id.as_str(),
            "iat": now.as_secs(),
            "exp": now.as_secs() + self.access_lifetime(client).as_secs(),
            "auth_time": login.at.as_secs(),
            "at_hash": at_hash(self.config.access_token.algorithm, login.access_token),
            "sid": login.session.to_string(),
        });
        claims.extend(own.as_object().cloned().unwrap_or_default());
        if let Some(nonce) = login.nonce {
            claims.insert("nonce".into(), nonce.into());
        }
        Ok(Some(self.signing.sign(&self.ring.signer(), TYPE, &claims).await?))
    }
}

/// What an ID token says that comes back as a hint.
pub(super) struct Hint {
    /// The client that it was for.
    pub(super) client: Arc<Client>,
    /// Who had logged in.
    pub(super) subject: Subject,
    /// The client's session that came of it.
    pub(super) session: SessionId,
}

impl Issuer {
    /// Reads one of ours that a client shows, though it may have expired (RP-Initiated Logout §4): as long as the key that has
    /// signed it verifies. One that says nothing we can rely on is none.
    pub(super) fn hint(&self, id_token: &str) -> Option<Hint> {
        let claims = self.own.signed(id_token, TYPE).ok()?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        Some(Hint {
            client: self.enabled_client(text("aud")?)?,
            subject: Subject::new(text("sub")?),
            session: SessionId::parse(text("sid")?)?,
        })
    }
}

/// Who a user is, as far as the scopes go: what is configured of them, under what they are.
pub(super) fn about(user: &Account, scopes: &Scopes) -> Map<String, Value> {
    let others = user.claims.iter().filter(|(name, _)| !RESERVED_CLAIMS.contains(&name.as_str()));
    let mut claims: Map<_, _> = others.map(|(name, value)| (name.clone(), value.clone())).collect();
    if scopes.contains(PROFILE) {
        claims.insert("preferred_username".into(), (&*user.username).into());
    }
    claims.insert("sub".into(), user.subject.as_str().into());
    claims
}

/// The left half of a digest of the access token, by the algorithm that signs (§3.1.3.6).
fn at_hash(algorithm: Algorithm, access_token: &str) -> String {
    let by: &Digest = match algorithm {
        Algorithm::Hs256 | Algorithm::Rs256 | Algorithm::Ps256 | Algorithm::Es256 => &SHA256,
        Algorithm::Hs384 | Algorithm::Rs384 | Algorithm::Ps384 | Algorithm::Es384 => &SHA384,
        Algorithm::Hs512 | Algorithm::Rs512 | Algorithm::Ps512 | Algorithm::EdDsa => &SHA512,
    };
    let digest = digest::digest(by, access_token.as_bytes());
    URL_SAFE_NO_PAD.encode(&digest.as_ref()[..digest.as_ref().len() / 2])
}
