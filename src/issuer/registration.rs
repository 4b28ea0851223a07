//! Clients that register themselves (RFC 7591), and leave nothing behind here.
//!
//! The identifier that one is given is all that it has said, under a MAC of the master key. So a flood of registrations fills no
//! memory and no store, every process that shares the key knows every such client, and a client is known for as long as its key is.
//! Nothing in it is secret. Whoever says the same twice is the same client: none of them can show more than what it says.

use aws_lc_rs::{hkdf, hmac};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{Client, Consent, Credentials, GrantType, RedirectUri};
use crate::types::{ClientId, MAX_CLIENT_ID_BYTES, Scopes, Secret};

/// What every such identifier begins with.
const PREFIX: &str = "sgr1.";
const MAC_BYTES: usize = 32;

/// Clients that register themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The scopes they may ask for.
    pub scopes: Scopes,
}

/// What a client says of itself, and what has been checked of that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Said {
    /// What it calls itself.
    pub(super) name: Box<str>,
    /// Where a browser may be sent to.
    pub(super) redirect_uris: Vec<Box<str>>,
    /// The scopes it wants; `None`: all that there are for such clients.
    pub(super) scopes: Option<Box<str>>,
    /// Whether it wants refresh tokens.
    pub(super) refreshes: bool,
    /// Whether it wants its access tokens bound to its key (RFC 9449 §5.2).
    pub(super) dpop_bound: bool,
}

/// Makes and reads the identifiers.
pub(super) struct Registrations {
    rules: Option<Registration>,
    /// The current master key's first.
    keys: Vec<hmac::Key>,
}

impl Registrations {
    pub(super) fn new(rules: Option<Registration>, master: &Secret, previous: &[Secret]) -> Self {
        Self { rules, keys: [master].into_iter().chain(previous).map(key).collect() }
    }

    /// The same by other rules.
    pub(super) fn with(&self, rules: Option<Registration>) -> Self {
        Self { rules, keys: self.keys.clone() }
    }

    /// Who may register, if anybody may.
    pub(super) fn rules(&self) -> Option<&Registration> {
        self.rules.as_ref()
    }

    /// The client that says this; `None` where that is more than an identifier has room for.
    pub(super) fn register(&self, said: &Said) -> Option<Client> {
        let mut bytes = postcard::to_allocvec(said).expect("texts have a known length");
        let mac = hmac::sign(&self.keys[0], &bytes);
        bytes.extend_from_slice(mac.as_ref());
        let id = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        if id.len() <= MAX_CLIENT_ID_BYTES { self.read(&id) } else { None }
    }

    /// The client of that identifier, if we made it, and such clients are still taken.
    pub(super) fn read(&self, id: &str) -> Option<Client> {
        let rules = self.rules.as_ref()?;
        if id.len() > MAX_CLIENT_ID_BYTES {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(id.strip_prefix(PREFIX)?).ok()?;
        let (said, mac) = bytes.split_last_chunk::<MAC_BYTES>()?;
        if !self.keys.iter().any(|key| hmac::verify(key, said, mac).is_ok()) {
            return None;
        }
        client(id, postcard::from_bytes(said).ok()?, rules)
    }
}

/// What is so of every such client: it has no secret, its users are asked each time, and it has what the others have at the most.
fn client(id: &str, said: Said, rules: &Registration) -> Option<Client> {
    let mut grants = vec![GrantType::AuthorizationCode];
    grants.extend(said.refreshes.then_some(GrantType::RefreshToken));
    let scopes = match &said.scopes {
        None => rules.scopes.clone(),
        // What they may ask for can have become less since.
        Some(text) => Scopes::from_values(Scopes::parse(text)?.iter().filter(|scope| rules.scopes.contains(scope))),
    };
    Some(Client {
        id: ClientId::new(id),
        credentials: Credentials::None,
        name: said.name.into(),
        redirect_uris: said.redirect_uris.iter().map(|uri| RedirectUri::parse(uri).ok()).collect::<Option<_>>()?,
        post_logout_redirect_uris: Vec::new(),
        consent: Consent::Ask,
        grants,
        scopes,
        rotate: true,
        exchange: None,
        dpop_bound_access_tokens: said.dpop_bound,
        tls_client_certificate_bound_access_tokens: false,
        disabled: false,
        access_token_lifetime: None,
        lifetimes: None,
        registered_itself: true,
    })
}

fn key(master: &Secret) -> hmac::Key {
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"sidegate registrations, version 1");
    let key = salt.extract(master.expose());
    key.expand(&[b"client id"], hmac::HMAC_SHA256).expect("a SHA-256 key is short").into()
}
