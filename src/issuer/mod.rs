//! The internal issuer: the token endpoint and what belongs to it, behind plain requests and responses.

mod access;
mod assertion;
mod browser;
mod by;
mod client;
mod code;
mod config;
mod consented;
mod current;
mod device;
mod endpoint;
mod error;
mod form;
mod grant;
mod hook;
mod id_token;
mod keys;
mod ledger;
mod limits;
mod migrate;
mod pages;
mod password;
mod possession;
mod redirect;
mod registration;
mod revoke;
mod session;
mod signing;
mod throttle;
mod user;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::mpsc;

pub use self::{
    access::{CLIENT_SUBJECT, RESERVED_CLAIMS},
    by::By,
    config::{
        AccessToken, Client, Config, Consent, Credentials, Exchange, GrantType, Lifetimes, Limits, Login,
        OFFLINE_ACCESS, RefreshToken, SecretHash, StoreConfig, Throttle, User, UsersFile, UsersHook,
    },
    current::{Current, ReconfigureError},
    endpoint::Endpoint,
    error::refusal,
    form::MAX_FORM_BYTES,
    id_token::OPENID,
    keys::{KeyFileError, KeysConfig, KeysError, MASTER_KEY_BYTES, private_key_in},
    ledger::Cause,
    migrate::{MigrateError, migrate},
    password::check_hash,
    redirect::RedirectUri,
    registration::Registration,
    revoke::{RevokeError, RevokeRequest, SessionsRequest},
    user::Departed,
};
use self::{
    browser::Browsers,
    device::Devices,
    endpoint::Paths,
    keys::{Ring, Seal, Vault},
    ledger::Ledger,
    pages::Look,
    password::Passwords,
    registration::Registrations,
    session::RefreshTokens,
    signing::Signing,
    user::Users,
};
use crate::{
    clock::Clock,
    revocation::{Blacklist, Freshness, Revocations},
    store::{self, DataFolder, LockError, RedisOpenError, Store, Unavailable},
    telemetry::{FeedMetrics, Metrics, audit::Audit},
    token::{
        dpop::Proofs,
        keys::KeyError,
        live::LiveKeys,
        provider::{self, KeySource, Profile},
        verify::{Provider, Verifier},
    },
    types::{ClientId, Fingerprint, IssuerUrl},
};

/// The largest token that `/oauth/revoke` and `/oauth/introspect` look at, in bytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// How many sessions one step of a sweep takes, so that refreshes get their turn in between.
const SWEEP_STEP: usize = 8;

/// The internal issuer. It has a runtime of its own, for what takes its time.
pub struct Issuer {
    config: Config,
    clients: HashMap<ClientId, Arc<Client>>,
    registrations: Registrations,
    users: Users,
    paths: Paths,
    feeds: Arc<endpoint::feed::Feeds>,
    clock: Clock,
    metrics: Metrics,
    audit: Audit,
    passwords: Arc<Passwords>,
    throttle: Arc<throttle::Throttle>,
    limits: limits::Limits,
    refresh_tokens: Arc<RefreshTokens>,
    browsers: Arc<Browsers>,
    devices: Arc<Devices>,
    look: Look,
    ring: Arc<Ring>,
    signing: Signing,
    /// Knows our own access tokens, for whoever revokes one or asks about it.
    own: Verifier,
    ledger: Ledger,
    /// Up to when the revocation log is known, where others add to it as well.
    freshness: Option<Arc<Freshness>>,
    /// What clients' proofs are checked with.
    proofs: Arc<Proofs>,
    /// How long access tokens live at the most, those of an earlier configuration included.
    longest: Duration,
    /// What anybody may read, made once.
    metadata: Bytes,
}

/// Why the issuer could not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data folder is not ours.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A key in it cannot be used.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// A key could not be made.
    #[error("a key could not be made: {0}")]
    Key(#[from] KeyError),
    /// The session store cannot be opened.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// The same, in Redis.
    #[error(transparent)]
    Redis(#[from] RedisOpenError),
    /// It does not give out its revocations, and to serve without them would lift them.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The configuration holds what its check should have refused.
    #[error("{0}")]
    Config(String),
}

impl Issuer {
    /// Takes the data folder, makes what keys it lacks, opens the store, and loads every live revocation into
    /// `revocations` and the blacklist. When it answers, nothing that was revoked is forgotten.
    ///
    /// # Errors
    /// When the folder, a key or the store cannot be used.
    pub async fn open(
        config: Config,
        clock: Clock,
        revocations: Arc<Revocations>,
        metrics: Metrics,
        audit: Audit,
    ) -> Result<Arc<Self>, OpenError> {
        check(&config)?;
        let folder = Arc::new(DataFolder::lock(&config.data)?);
        let master = match &config.master_key {
            Some(key) => key.clone(),
            None => keys::master_key(&folder)?,
        };
        let longest = config.longest_access_lifetime();
        let store = match &config.store {
            StoreConfig::Embedded => Store::open_embedded(folder.clone(), clock.clone())?,
            StoreConfig::Redis(redis) => Store::open_redis((**redis).clone(), clock.clone()).await?,
        };
        let longest = store.longest_access_lifetime(longest).await?;
        let algorithm = config.access_token.algorithm;
        let rules = config.keys.clone();
        let seal = Seal::new(&master, &config.previous_master_keys);
        let vault = Vault::new(&folder, store.shared_keys());
        let (at, times, told) = (folder.clone(), clock.clone(), (metrics.clone(), audit.clone()));
        let ring = move || Ring::open((&at, vault), seal, rules, algorithm, longest, times, told);
        let ring = tokio::task::spawn_blocking(ring)
            .await
            .map_err(|_| OpenError::Config("keys could not be made".into()))??;
        let blacklist = Blacklist::new(clock.clone());
        let url = config.url.clone();
        let ledger = Ledger::new(url, store, revocations, blacklist, clock.clone(), metrics.clone(), audit.clone());
        ledger.load().await?;
        let freshness = match &config.store {
            StoreConfig::Embedded => None,
            StoreConfig::Redis(redis) => Some(Arc::new(Freshness::new(redis.max_staleness))),
        };
        if let Some(freshness) = &freshness {
            tokio::spawn(ledger.clone().follow(freshness.clone()));
        }
        let ring = Arc::new(ring);
        let issuer = Arc::new(Self {
            clients: config.clients.iter().map(|client| (client.id.clone(), Arc::new(client.clone()))).collect(),
            registrations: Registrations::new(config.registration.clone(), &master, &config.previous_master_keys),
            users: Users::new(&config, clock.clone(), metrics.clone()).map_err(OpenError::Config)?,
            paths: Paths::new(&config),
            feeds: Arc::new(endpoint::feed::Feeds::new(FeedMetrics::new(&metrics))),
            passwords: Arc::new(Passwords::new()),
            throttle: Arc::new(throttle::Throttle::new(config.throttle.clone(), clock.clone(), metrics.clone())),
            limits: limits::Limits::new(&config.limits, &clock),
            refresh_tokens: Arc::new(RefreshTokens::new(&master, &config.previous_master_keys)),
            browsers: Arc::new(Browsers::new(&config.url, &master, &config.previous_master_keys, clock.clone())),
            devices: Arc::new(Devices::new(&config.url, &master, &config.previous_master_keys, clock.clone())),
            look: Look::new(&config.login),
            own: own_tokens(&config, ring.live().clone()),
            metadata: endpoint::metadata::document(&config).into(),
            ring,
            signing: Signing::new(),
            ledger,
            freshness,
            proofs: Arc::new(Proofs::new(Some(&master), config.needs_nonces)),
            longest,
            config,
            clock,
            metrics,
            audit,
        });
        issuer.catch_up().await?;
        Ok(issuer)
    }

    /// The `iss` of its tokens.
    pub fn url(&self) -> &IssuerUrl {
        &self.config.url
    }

    /// The path that its own paths begin with; empty where its URL has none.
    fn base(&self) -> &str {
        endpoint::base_path(&self.config.url)
    }

    /// The keys that verify its access tokens.
    pub fn keys(&self) -> Arc<LiveKeys> {
        self.ring.live().clone()
    }

    /// What the gateway's proofs of possession are checked with: a nonce that was given out here is good at the gateway.
    pub fn proofs(&self) -> Proofs {
        self.proofs.beside()
    }

    /// Up to when the revocation log is known, where other processes add to it as well.
    pub fn freshness(&self) -> Option<Arc<Freshness>> {
        self.freshness.clone()
    }

    /// Says in the metrics how old what is known of the revocation log is, where others add to it as well.
    pub fn report_freshness(&self) {
        if let Some(freshness) = &self.freshness {
            FeedMetrics::new(&self.metrics).age(freshness.age(), freshness.is_stale());
        }
    }

    /// The client of that name, disabled or not: as configured, or as it has registered itself. What is configured comes first, so that
    /// one that has registered itself can be disabled as well.
    fn client(&self, id: &str) -> Option<Arc<Client>> {
        let configured = self.clients.get(id).cloned();
        configured.or_else(|| self.registrations.read(id).map(Arc::new))
    }

    /// The same where it is not disabled.
    fn enabled_client(&self, id: &str) -> Option<Arc<Client>> {
        self.client(id).filter(|client| !client.disabled)
    }

    /// What it serves at a path, taken byte for byte as the client sent it; `None` where the path is not the issuer's.
    pub fn endpoint(&self, path: &str) -> Option<Endpoint> {
        self.paths.find(path)
    }

    /// Whether an answer holds up the thread that makes it no longer than a request that is forwarded does. Passwords are
    /// hashed, signatures that take their time are made and the embedded store is written on other threads, so that what is
    /// left is a quick signature, or the verification of one. A connection to Redis, or to whoever knows the users, is made by
    /// whoever finds none, and belongs on the issuer's own runtime, so that it outlives who has asked for it.
    pub fn is_quick(&self, endpoint: Endpoint) -> bool {
        match endpoint {
            Endpoint::Token | Endpoint::Introspect => {
                matches!(self.config.store, StoreConfig::Embedded) && self.users.are_here()
            }
            Endpoint::UserInfo => self.users.are_here(),
            Endpoint::Jwks | Endpoint::Metadata | Endpoint::Register => true,
            Endpoint::Authorize
            | Endpoint::LogIn
            | Endpoint::Consent
            | Endpoint::LogOut
            | Endpoint::Revoke
            | Endpoint::Feed => false,
        }
    }

    /// Answers a request whose body has been read, up to [`MAX_FORM_BYTES`].
    ///
    /// Dropping the future loses no revocation: what has gone to the store is told to memory all the same.
    pub async fn handle(&self, endpoint: Endpoint, request: http::Request<Bytes>) -> http::Response<Bytes> {
        if let Some(response) = endpoint::cors::preflight(endpoint, &request) {
            return response;
        }
        let mut response = self.answer(endpoint, &request).await;
        endpoint::cors::decorate(endpoint, response.headers_mut());
        response
    }

    async fn answer(&self, endpoint: Endpoint, request: &http::Request<Bytes>) -> http::Response<Bytes> {
        if let Err(limited) = self.count_visitor(endpoint, &endpoint::visitor(request)) {
            return endpoint::refuse(self, endpoint, &limited);
        }
        match endpoint {
            Endpoint::Authorize => endpoint::authorize::answer(self, request).await,
            Endpoint::LogIn => endpoint::authorize::log_in(self, request).await,
            Endpoint::Consent => endpoint::authorize::consent(self, request).await,
            Endpoint::LogOut => endpoint::logout::answer(self, request).await,
            Endpoint::Token => endpoint::token::answer(self, request).await,
            Endpoint::Register => endpoint::register::answer(self, request).await,
            Endpoint::Revoke => endpoint::revoke::answer(self, request).await,
            Endpoint::Introspect => endpoint::introspect::answer(self, request).await,
            Endpoint::UserInfo => endpoint::userinfo::answer(self, request).await,
            Endpoint::Jwks => endpoint::jwks::answer(self, request),
            Endpoint::Metadata => endpoint::metadata::answer(self, request),
            // It has no end, so that it is not for whoever waits for one.
            Endpoint::Feed => refusal(http::StatusCode::INTERNAL_SERVER_ERROR, "server_error", "This goes on."),
        }
    }

    /// Lets a process follow the revocation log: what is to be sent to it, for as long as it listens. Must be called within
    /// the issuer's runtime.
    ///
    /// # Errors
    /// The answer to who may not, or to one too many.
    pub fn follow(&self, request: &http::Request<Bytes>) -> Result<mpsc::Receiver<Bytes>, Box<http::Response<Bytes>>> {
        endpoint::feed::answer(self, request)
    }

    /// Says good-bye to all that follow the revocation log: they ask again, or somebody else.
    pub fn dismiss_followers(&self) {
        self.feeds.dismiss();
    }

    /// Whether the time has come for [`Issuer::tend_keys`] to do something. To be asked often.
    pub fn keys_are_due(&self) -> bool {
        self.ring.is_due()
    }

    /// Has keys follow each other as their time comes. Takes its time, where keys are made slowly.
    pub fn tend_keys(&self) {
        self.ring.look_after();
    }

    /// A line for each of its own keys.
    pub fn list_keys(&self) -> String {
        self.ring.list()
    }

    /// Has another key of its own follow: published at once, and signing when everybody can have it, or `at_once`. Takes its
    /// time, where keys are made slowly. Answers the line of that key.
    ///
    /// # Errors
    /// When one is to follow already, or it cannot be.
    pub fn rotate_keys(&self, at_once: bool, by: impl Into<By>) -> Result<String, KeysError> {
        self.ring.rotate(at_once, &by.into())
    }

    /// Forgets sessions and revocations that nothing depends on any more. Once a minute is often enough.
    pub async fn sweep(&self) {
        self.limits.prune();
        self.ledger.sweep(SWEEP_STEP, self.clock.now()).await;
    }
}

/// What the config room has checked where text was read. Asked again, because a mistake here lets somebody in.
fn check(config: &Config) -> Result<(), OpenError> {
    user::check(&config.users).map_err(OpenError::Config)?;
    if config.users_hook.is_some() && !config.users.is_empty() {
        return Err(OpenError::Config("there are users here, and a hook that knows others".into()));
    }
    for client in &config.clients {
        for hash in client.secret_hashes() {
            check_hash(hash).map_err(|why| OpenError::Config(format!("the hash of client {} {why}", client.id)))?;
        }
        if let Credentials::Keys(keys) = &client.credentials
            && keys.is_secret()
        {
            return Err(OpenError::Config(format!("a key of client {} is a secret", client.id)));
        }
    }
    if config.master_key.iter().chain(&config.previous_master_keys).any(|key| key.expose().len() < MASTER_KEY_BYTES) {
        return Err(OpenError::Config(format!("a master key has less than {MASTER_KEY_BYTES} bytes")));
    }
    Ok(())
}

/// A verifier for our own tokens, as lenient about time as the most lenient gateway: what one of them would still let
/// in must be possible to revoke.
fn own_tokens(config: &Config, keys: Arc<LiveKeys>) -> Verifier {
    let own = provider::Config {
        fingerprint: Fingerprint::default(),
        name: "issuer".into(),
        issuer: config.url.clone(),
        audiences: config.access_token.audiences().cloned().collect(),
        algorithms: vec![config.access_token.algorithm],
        leeway: store::MAX_LEEWAY,
        profile: Profile::Rfc9068,
        required_claims: Vec::new(),
        max_lifetime: None,
        keys: KeySource::InternalIssuer,
    };
    Verifier::new(vec![Provider { config: own, keys, remote: None }], MAX_TOKEN_BYTES)
}
