//! Whose access tokens are accepted, and under which conditions.

use std::{sync::Arc, time::Duration};

use super::{Algorithm, keys::KeySet};
use crate::types::{Audience, Fingerprint, IssuerUrl};

/// A provider as configured; every value has been checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// What it was made of: one with the same is the same.
    pub fingerprint: Fingerprint,
    /// The name routes call it by.
    pub name: Arc<str>,
    /// Its tokens' `iss`.
    pub issuer: IssuerUrl,
    /// A token must be meant for one of these. Never empty.
    pub audiences: Vec<Audience>,
    /// What its tokens may be signed with. Never empty.
    pub algorithms: Vec<Algorithm>,
    /// By how much its clock may differ from ours, 0-60 s.
    pub leeway: Duration,
    /// Which tokens of it are access tokens.
    pub profile: Profile,
    /// Claims that must be there, and not null.
    pub required_claims: Vec<Box<str>>,
    /// How long a token may be valid, from `iat` to `exp`.
    pub max_lifetime: Option<Duration>,
    /// Where its keys come from.
    pub keys: KeySource,
}

/// Which of a provider's tokens are access tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// RFC 9068: `typ` is `at+jwt`; `sub`, `client_id`, `iat` and `jti` are there.
    Rfc9068,
    /// What OpenID providers issue that do not follow RFC 9068: `sub`, `iat` and the client (`azp`, `client_id`, `cid` or
    /// `appid`) are there, and nothing that makes it an ID token or a logout token.
    OidcAccess,
    /// Any signed JWT of it whose `typ`, where there is one, is `JWT` or `at+jwt`, and that is not plainly something else.
    Custom,
}

/// Where a provider's keys come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// The internal issuer hands them over in memory.
    InternalIssuer,
    /// They were in the configuration, or in a file it names.
    Fixed(KeySet),
    /// It publishes them.
    Published(Fetch),
}

/// How the keys that a provider publishes are fetched.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// Where they are.
    pub location: Location,
    /// Whom to trust.
    pub tls: Arc<rustls::ClientConfig>,
    /// How long an answer may take, and how long a request waits for one.
    pub timeout: Duration,
    /// The least and the longest time between two looks, whatever the provider says of its keys' freshness.
    pub refresh: (Duration, Duration),
    /// The time between two looks where the provider says nothing.
    pub unless_said: Duration,
    /// The least time between two looks that a token causes by naming a key that is not there.
    pub cooldown: Duration,
    /// How old a set may become while it cannot be fetched.
    pub max_stale: Duration,
    /// What happens then.
    pub on_stale: OnStale,
    /// What happens until there is one.
    pub on_start: OnStart,
}

/// Where published keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// At this URL.
    Jwks(String),
    /// Where the issuer's metadata say.
    Discovery,
}

/// What happens when keys have become too old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStale {
    /// They serve on; a metric tells their age.
    Serve,
    /// The provider's tokens are refused.
    Refuse,
}

/// What happens before the first keys are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStart {
    /// Nothing is served.
    Wait,
    /// Everything is served but this provider's tokens.
    ServeOthers,
}
