//! The gateway as configured; every value has been checked.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;

use crate::types::{Audience, Scopes};

/// Everything the gateway needs besides keys.
#[derive(Clone, Debug)]
pub struct Config {
    /// Tried in order; the first that matches decides.
    pub routes: Vec<Route>,
    /// Where requests go.
    pub upstreams: Vec<Upstream>,
    /// Peers whose X-Forwarded-* headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The largest access token that is looked at, in bytes.
    pub max_token_bytes: usize,
    /// How many bytes of verified tokens each worker remembers; 0 remembers none.
    pub token_cache_bytes: usize,
    /// The `realm` of challenges (RFC 9110 §11.5).
    pub realm: Arc<str>,
}

/// One rule: which requests, what they must prove, where they go.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name in metrics and logs.
    pub name: Arc<str>,
    /// Host names it serves, lower case; `*.example.com` matches one or more labels. Empty: every host.
    pub hosts: Vec<HostPattern>,
    /// Paths it serves.
    pub path: PathPattern,
    /// Methods it serves. Empty: every method.
    pub methods: Vec<Method>,
    /// Whether a token is needed.
    pub auth: Auth,
    /// Indices into the list of providers whose tokens it takes. Empty only with `Auth::None`.
    pub providers: Vec<usize>,
    /// Where not empty: the token must be meant for one of these as well.
    pub audiences: Vec<Audience>,
    /// All of these scopes are needed.
    pub scopes: Scopes,
    /// All of these claims are needed.
    pub claims: Vec<ClaimRule>,
    /// Identity headers that the upstream is given.
    pub claim_headers: Vec<ClaimHeader>,
    /// Whether `Authorization` goes on to the upstream.
    pub forward_token: bool,
    /// Whether a token may come as `?access_token=` (RFC 6750 §2.3, which OAuth 2.1 drops).
    pub legacy_query_token: bool,
    /// Who may call from a browser.
    pub cors: Option<Cors>,
    /// Index into the list of upstreams.
    pub upstream: usize,
}

/// Whether a route needs a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// No token, no way.
    Required,
    /// No credential is anonymous; a bad one is refused all the same.
    Optional,
    /// Whatever comes. Identity headers are stripped here too.
    None,
}

/// A host name, or all names below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This name.
    Exact(Box<str>),
    /// Any name that ends in a dot and this.
    Below(Box<str>),
}

/// Which paths: compared segment by segment after percent-decoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPattern {
    /// This path.
    Exact(Box<str>),
    /// This path and everything below it; without a trailing slash, except for `/` itself.
    Prefix(Box<str>),
}

/// A claim that must equal a value, or one of several. A claim that is itself a list needs one member that does.
#[derive(Clone, Debug)]
pub struct ClaimRule {
    /// Where it stands: `["realm_access", "roles"]`.
    pub path: Vec<Box<str>>,
    /// Any of these will do. Never empty.
    pub any_of: Vec<serde_json::Value>,
}

/// An identity header.
#[derive(Clone, Debug)]
pub struct ClaimHeader {
    /// Where the claim stands.
    pub claim: Vec<Box<str>>,
    /// The header it goes into.
    pub header: HeaderName,
}

/// Cross-origin rules of a route (the Fetch standard).
#[derive(Clone, Debug)]
pub struct Cors {
    /// Which origins.
    pub origins: CorsOrigins,
    /// Which methods a preflight is promised; never empty.
    pub methods: Vec<Method>,
    /// Which request headers a preflight is promised, lower case.
    pub headers: Vec<HeaderName>,
    /// Which response headers a page may read.
    pub expose_headers: Vec<HeaderName>,
    /// Whether cookies and client certificates may come along. Never with `CorsOrigins::Any`.
    pub credentials: bool,
    /// How long a preflight's answer may be kept.
    pub max_age: Duration,
}

/// Which origins may call.
#[derive(Clone, Debug)]
pub enum CorsOrigins {
    /// All of them.
    Any,
    /// These, byte for byte.
    List(Vec<HeaderValue>),
}

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Its name in metrics and logs.
    pub name: Arc<str>,
    /// What it is.
    pub target: Target,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long it may take from the request's head to the response's.
    pub response_timeout: Duration,
    /// How long either body may stand still.
    pub idle_timeout: Duration,
    /// How long a kept-alive connection is kept without work.
    pub keep_alive: Duration,
    /// The most idle connections each worker keeps.
    pub max_idle: usize,
}

/// What an upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `http://host:port`.
    Http {
        /// A name or an address, as written (an IPv6 address without its brackets).
        host: Box<str>,
        /// 80 where the URL names none.
        port: u16,
    },
    /// The built-in page that the default configuration protects.
    Demo,
}

impl Route {
    /// One line for whoever started the process: name, what it matches, what it asks for, where it leads.
    pub fn describe(&self, upstream: &str) -> String {
        let path = match &self.path {
            PathPattern::Exact(path) => path.to_string(),
            PathPattern::Prefix(path) if path.ends_with('/') => format!("{path}*"),
            PathPattern::Prefix(path) => format!("{path} {path}/*"),
        };
        let methods: Vec<_> = self.methods.iter().map(Method::as_str).collect();
        let methods = if methods.is_empty() { String::new() } else { format!("{} ", methods.join(",")) };
        let needs = match self.auth {
            Auth::None => "no token".to_owned(),
            Auth::Optional => "token if any".to_owned(),
            Auth::Required if self.scopes.is_empty() => "token".to_owned(),
            Auth::Required => format!("token with scope {}", self.scopes),
        };
        format!("{:<10} {methods}{path}  ({needs}) -> {upstream}", self.name)
    }
}
