//! Whose access tokens are accepted, and under which conditions.

use std::{sync::Arc, time::Duration};

use super::{Algorithm, keys::KeySet};
use crate::types::{Audience, IssuerUrl};

/// A provider as configured; every value has been checked.
#[derive(Clone, Debug)]
pub struct Config {
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
    /// Where its keys come from.
    pub keys: KeySource,
}

/// Which of a provider's tokens are access tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// RFC 9068: `typ` is `at+jwt`; `sub`, `client_id`, `iat` and `jti` are there.
    Rfc9068,
    /// Any signed JWT of it whose `typ`, where there is one, is `JWT` or `at+jwt`.
    Custom,
}

/// Where a provider's keys come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// The internal issuer hands them over in memory.
    InternalIssuer,
    /// They were in the configuration, or in a file it names.
    Fixed(KeySet),
}
