//! The issuer as configured; every value has been checked.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{id_token::OPENID, keys::KeysConfig, redirect::RedirectUri, registration::Registration};
use crate::{
    http::CertificateName,
    io::Stamp,
    rate::Rate,
    store::{OnRollback, RedisConfig},
    token::{Algorithm, keys::KeySet},
    types::{Audience, ClientId, IssuerUrl, Scopes, Secret, Subject},
};

/// The issuer as configured; every value has been checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The `iss` of its tokens and the base of its endpoints; no trailing slash.
    pub url: IssuerUrl,
    /// What it puts into access tokens.
    pub access_token: AccessToken,
    /// How its sessions live.
    pub refresh_token: RefreshToken,
    /// The folder that is this process's own: of the embedded store, of generated keys, of the socket for commands.
    pub data: PathBuf,
    /// Where sessions and revocations are kept.
    pub store: StoreConfig,
    /// The key that refresh tokens are derived from; generated into `data` when `None`.
    pub master_key: Option<Secret>,
    /// The master keys of before. What they made is still read; nothing new is made with them.
    pub previous_master_keys: Vec<Secret>,
    /// How its signing keys follow each other.
    pub keys: KeysConfig,
    /// What processes show that follow the revocation log; `None`: nobody may.
    pub feed_credential: Option<Secret>,
    /// How users log in at a browser, and what they see there.
    pub login: Login,
    /// What failed logins cost; `None`: nothing.
    pub throttle: Option<Throttle>,
    /// How many requests it takes.
    pub limits: Limits,
    /// Who may ask for tokens.
    pub clients: Vec<Client>,
    /// How others may that register themselves; `None`: they may not.
    pub registration: Option<Registration>,
    /// Who may log in.
    pub users: Vec<User>,
    /// Where those come from that take their place while it runs; `None`: nobody does.
    pub users_file: Option<UsersFile>,
    /// Whether each DPoP proof needs a nonce (RFC 9449 §8); otherwise those whose time says nothing.
    pub needs_nonces: bool,
    /// Who is asked about users, where none are here.
    pub users_hook: Option<UsersHook>,
    /// The other issuers whose tokens the gateway takes, and how long those live at the most, leeway included, where that is
    /// known: what is to be revoked has to be remembered for as long.
    pub others: Vec<(IssuerUrl, Option<Duration>)>,
}

impl Config {
    /// Whether any client sends browsers to the authorization endpoint.
    pub(super) fn has_browsers(&self) -> bool {
        self.has_grant(GrantType::AuthorizationCode)
    }

    /// Whether any client has that grant.
    pub(super) fn has_grant(&self, grant: GrantType) -> bool {
        let registered = [GrantType::AuthorizationCode, GrantType::RefreshToken].contains(&grant);
        self.clients.iter().any(|client| client.grants.contains(&grant)) || registered && self.registration.is_some()
    }

    /// How long any of its access tokens lives.
    pub(super) fn longest_access_lifetime(&self) -> Duration {
        let lifetimes = self.clients.iter().filter_map(|client| client.access_token_lifetime);
        lifetimes.chain([self.access_token.lifetime]).max().unwrap_or_default()
    }

    /// Whether any client can ask for ID tokens.
    pub(super) fn has_id_tokens(&self) -> bool {
        let asks =
            |client: &Client| client.grants.contains(&GrantType::AuthorizationCode) && client.scopes.contains(OPENID);
        let registered = self.registration.as_ref().is_some_and(|registration| registration.scopes.contains(OPENID));
        !self.access_token.algorithm.is_symmetric() && (registered || self.clients.iter().any(asks))
    }
}

/// Where sessions and revocations are kept.
#[derive(Clone, Debug)]
pub enum StoreConfig {
    /// In a file of the data folder.
    Embedded,
    /// In Redis, which several processes share. They have the master key in common as well.
    Redis(Box<RedisConfig>),
}

/// Access tokens (RFC 9068).
#[derive(Clone, Debug)]
pub struct AccessToken {
    /// Default lifetime; a client may have its own.
    pub lifetime: Duration,
    /// What they are signed with.
    pub algorithm: Algorithm,
    /// Their `aud`, where nothing else is asked for.
    pub audience: Audience,
    /// What else they can be for, when a client asks for that (RFC 8707).
    pub resources: Vec<Audience>,
}

impl AccessToken {
    /// All that they can be for.
    pub(super) fn audiences(&self) -> impl Iterator<Item = &Audience> {
        [&self.audience].into_iter().chain(&self.resources)
    }
}

/// Refresh tokens and the sessions behind them.
#[derive(Clone, Debug)]
pub struct RefreshToken {
    /// How long sessions live.
    pub lifetimes: Lifetimes,
    /// How long those live that are to be remembered, since they have the scope [`OFFLINE_ACCESS`].
    pub remembered: Lifetimes,
    /// How many live sessions a subject may have; with another one the oldest ends. `None`: any number.
    pub max_sessions: Option<u32>,
    /// How long tabs that race get the same successor.
    pub reuse_interval: Duration,
    /// How long a public client that lost an answer gets the same successor.
    pub retry_window: Duration,
    /// The same for a client that authenticates; `None`: for as long as the session lives.
    pub confidential_retry_window: Option<Duration>,
    /// What a generation from the future means.
    pub on_rollback: OnRollback,
}

/// How users log in at a browser, and what they see there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// How long a browser stays logged in.
    pub lifetime: Duration,
    /// Whose pages they are, as people know it.
    pub name: Arc<str>,
    /// A picture above the pages, as a `data:` URL.
    pub logo: Option<Arc<str>>,
    /// What buttons and links are coloured with: red, green, blue.
    pub color: [u8; 3],
}

/// How many logins may fail before the next one has to wait, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Throttle {
    /// Of one user at one network, or in one browser that the user is known in. At least 1, as the others.
    pub failures: u32,
    /// Of one user, by all who are not known to be them.
    pub failures_by_strangers: u32,
    /// From one network, of all users.
    pub failures_by_address: u32,
    /// The longest wait, at least a second.
    pub longest_wait: Duration,
}

/// How many requests the issuer takes; `None`: any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// From one address: an IPv4 address, or the /64 of an IPv6 address.
    pub per_address: Option<Rate>,
    /// Of one client.
    pub per_client: Option<Rate>,
}

/// How long a session lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Without a refresh.
    pub idle: Duration,
    /// At the most.
    pub absolute: Duration,
}

/// The scope that asks for a session that is to be remembered (OpenID Connect Core §11).
pub const OFFLINE_ACCESS: &str = "offline_access";

/// A registered client (RFC 6749 §2).
#[derive(Clone, Debug)]
pub struct Client {
    /// Its identifier.
    pub id: ClientId,
    /// How it shows who it is.
    pub credentials: Credentials,
    /// What people know it by.
    pub name: Arc<str>,
    /// Where a browser may be sent to with a code, or with the news that there is none.
    pub redirect_uris: Vec<RedirectUri>,
    /// Where a browser may be sent to when its user has logged out (OpenID Connect RP-Initiated Logout §3).
    pub post_logout_redirect_uris: Vec<RedirectUri>,
    /// Whether its users are asked before it gets anything of theirs.
    pub consent: Consent,
    /// The grants it may use.
    pub grants: Vec<GrantType>,
    /// The scopes it may ask for, and gets when it asks for none.
    pub scopes: Scopes,
    /// Whether a refresh makes a new refresh token. Always so for public clients (RFC 9700 §4.14.2).
    pub rotate: bool,
    /// What it may exchange for what, if it has that grant.
    pub exchange: Option<Exchange>,
    /// Whether it gets no access token but one that is bound to its key (RFC 9449 §5.2).
    pub dpop_bound_access_tokens: bool,
    /// Whether its access tokens are bound to the certificate that it shows (RFC 8705 §3.4).
    pub tls_client_certificate_bound_access_tokens: bool,
    /// A disabled client is none: it cannot authenticate, and what it has been given ends.
    pub disabled: bool,
    /// Lifetime of its access tokens where it differs from the issuer's.
    pub access_token_lifetime: Option<Duration>,
    /// How long its sessions live where that differs from the issuer's.
    pub lifetimes: Option<Lifetimes>,
    /// Whether nobody but itself says who it is (RFC 7591).
    pub registered_itself: bool,
}

/// What a client may exchange (RFC 8693): a service of ours that calls others for whoever has called it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// What it is itself: tokens for one of these, it has been called with.
    pub from: Vec<Audience>,
    /// What it may call.
    pub to: Vec<Audience>,
}

impl Client {
    /// How many secrets it may have at a time: the one of now, and the one that follows.
    pub const MAX_SECRETS: usize = 2;

    /// Whether it has nothing to show, so that anybody can say its name (RFC 6749 §2.1).
    pub fn is_public(&self) -> bool {
        matches!(self.credentials, Credentials::None)
    }

    /// The hashes of its secrets, if it has any.
    pub(super) fn secret_hashes(&self) -> &[SecretHash] {
        match &self.credentials {
            Credentials::Secrets(hashes) => hashes,
            Credentials::None | Credentials::Keys(_) | Credentials::Certificate(_) => &[],
        }
    }

    /// What it is in metrics: `public` or `confidential`.
    pub(super) fn kind(&self) -> &'static str {
        if self.is_public() { "public" } else { "confidential" }
    }
}

/// How a client shows who it is (RFC 6749 §2.3). In one way: of two, the weaker one would be everybody's way in.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// Not at all.
    None,
    /// By a secret, as `client_secret_basic` or `client_secret_post`. These are the hashes, any of which is good: two while one
    /// follows the other, at most [`Client::MAX_SECRETS`].
    Secrets(Vec<SecretHash>),
    /// By what one of its keys has signed: `private_key_jwt` (RFC 7523 §2.2). None of them is a secret.
    Keys(KeySet),
    /// By the certificate of its connection, which a CA of the listener has signed for this name: `tls_client_auth` (RFC 8705 §2.1).
    Certificate(CertificateName),
}

impl RefreshToken {
    /// How long the sessions of a client live. One that is to be remembered never lives shorter for it.
    pub(super) fn lifetimes(&self, client: &Client, remembered: bool) -> Lifetimes {
        let usual = client.lifetimes.unwrap_or(self.lifetimes);
        if !remembered {
            return usual;
        }
        Lifetimes { idle: usual.idle.max(self.remembered.idle), absolute: usual.absolute.max(self.remembered.absolute) }
    }
}

/// Whether a client's users are asked before it gets anything of theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Whenever it asks for more than they have agreed to since they have logged in at the browser; each time, where any app can
    /// pose as the client.
    Ask,
    /// Not unless it asks for that: a client of the same house.
    Skip,
}

/// The grants a client can be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantType {
    /// RFC 6749 §4.1, with PKCE (RFC 7636).
    AuthorizationCode,
    /// RFC 6749 §4.4.
    ClientCredentials,
    /// RFC 6749 §6.
    RefreshToken,
    /// RFC 8693.
    TokenExchange,
    /// RFC 6749 §4.3, which OAuth 2.1 drops; `legacy_password_grant` in the configuration.
    Password,
}

impl GrantType {
    /// All there are.
    pub const ALL: [Self; 5] =
        [Self::AuthorizationCode, Self::ClientCredentials, Self::Password, Self::RefreshToken, Self::TokenExchange];

    /// The value of `grant_type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization_code",
            Self::ClientCredentials => "client_credentials",
            Self::RefreshToken => "refresh_token",
            Self::Password => "password",
            Self::TokenExchange => "urn:ietf:params:oauth:grant-type:token-exchange",
        }
    }

    /// The grant of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|grant| grant.name() == name)
    }
}

/// A file with users.
#[derive(Clone, Debug)]
pub struct UsersFile {
    /// Where it is.
    pub path: PathBuf,
    /// What was there when its users were read.
    pub seen: Option<Stamp>,
}

/// A service that is asked about users, by the contract in `deploy/users-hook.md`.
#[derive(Clone, Debug)]
pub struct UsersHook {
    /// Where it answers.
    pub url: Box<str>,
    /// What it is shown.
    pub credential: Secret,
    /// Whom to trust.
    pub tls: Arc<rustls::ClientConfig>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How long what it has said of a user is good.
    pub recheck: Duration,
    /// Claims of tokens, each with the member of its answer's claims that it is; `None`: all of those, as they are.
    pub claims: Option<Vec<(String, String)>>,
}

/// Who may log in.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    /// What they type.
    pub username: Arc<str>,
    /// The Argon2id hash of their password.
    pub password_hash: SecretHash,
    /// The `sub` of their tokens.
    pub subject: Subject,
    /// A disabled user can neither log in nor refresh.
    pub disabled: bool,
    /// Claims of theirs that go into access tokens as they are (roles, groups).
    pub claims: serde_json::Map<String, serde_json::Value>,
}

/// How a secret is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretHash {
    /// A PHC string `$argon2id$…`: for what a person chose.
    Argon2id(Arc<str>),
    /// SHA-256 of a secret of at least 256 random bits, which nobody can search: `sha256:<64 hex digits>`.
    Sha256([u8; 32]),
}
