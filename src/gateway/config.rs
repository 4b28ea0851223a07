//! The gateway as configured; every value has been checked.

use std::{path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, uri::PathAndQuery};
use ipnet::IpNet;
use rustls::pki_types::ServerName;

use crate::{
    rate::Rate,
    types::{Audience, Fingerprint, Scopes},
};

/// Everything the gateway needs besides keys.
#[derive(Clone, Debug)]
pub struct Config {
    /// Tried in order; the first that matches decides.
    pub routes: Vec<Route>,
    /// Where requests go.
    pub upstreams: Vec<Upstream>,
    /// Headers in which listeners pass on whom a client's certificate names: as much ours as claim headers are.
    pub certificate_headers: Vec<HeaderName>,
    /// Peers whose X-Forwarded-* headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The largest access token that is looked at, in bytes.
    pub max_token_bytes: usize,
    /// How many bytes of verified tokens each worker remembers; 0 remembers none.
    pub token_cache_bytes: usize,
    /// Whether each DPoP proof needs a nonce (RFC 9449 §9); otherwise those whose time says nothing.
    pub needs_nonces: bool,
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
    /// Which paths with several readings it takes, where each reading leads to it.
    pub allow_paths: Oddities,
    /// Whether a token is needed.
    pub auth: Auth,
    /// Indices into the list of providers whose tokens it takes. Empty only with `Auth::None`.
    pub providers: Vec<usize>,
    /// Where not empty: the token must be meant for one of these as well.
    pub audiences: Vec<Audience>,
    /// Under what URL clients know what it guards (RFC 9728 §1.2), if they can find out whose tokens that takes.
    pub resource: Option<Audience>,
    /// All of these scopes are needed.
    pub scopes: Scopes,
    /// All of these claims are needed.
    pub claims: Vec<ClaimRule>,
    /// Whether a token has to be bound to its client's key or certificate, so that whoever has stolen it has nothing.
    pub bound: bool,
    /// Identity headers that the upstream is given.
    pub claim_headers: Vec<ClaimHeader>,
    /// Whether `Authorization` goes on to the upstream.
    pub forward_token: bool,
    /// Whether a token may come as `?access_token=` (RFC 6750 §2.3, which OAuth 2.1 drops).
    pub legacy_query_token: bool,
    /// When what is still under way ends with the token that began it.
    pub close_streams: CloseStreams,
    /// What happens while it is not known what was revoked of late.
    pub on_stale: OnStale,
    /// Who may call from a browser.
    pub cors: Option<Cors>,
    /// The origins whose pages' requests it takes; `None`: those of any, which CORS keeps from reading the answers.
    pub origins: Option<Vec<HeaderValue>>,
    /// How large a request's body may be, in bytes; `None` sets no bound.
    pub max_body_bytes: Option<u64>,
    /// How many requests it takes; each of these has to agree.
    pub rate_limits: Vec<RateLimit>,
    /// Index into the list of upstreams.
    pub upstream: usize,
}

/// What gives a path several readings, and can be allowed by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// `%2f`: it stays within its segment for some, and parts two segments for others.
    EncodedSlash = 1 << 0,
    /// `//`: some readers merge it, some take what follows for a host.
    EmptySegment = 1 << 1,
    /// `;` or `%3b`: some readers cut what follows it.
    Semicolon = 1 << 2,
    /// A backslash or `%5c`: a slash to some.
    Backslash = 1 << 3,
    /// What it decodes to holds `%` and two hexadecimal digits: some decode again.
    DoubleEncoding = 1 << 4,
}

/// A set of oddities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Oddities(u8);

impl Oddities {
    /// Whether every member of `other` is one of ours.
    pub const fn cover(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// The members of both.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<Oddity> for Oddities {
    fn from_iter<I: IntoIterator<Item = Oddity>>(members: I) -> Self {
        Self(members.into_iter().fold(0, |bits, oddity| bits | oddity as u8))
    }
}

/// So many requests in so long, of whoever is counted.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    /// Who shares the allowance.
    pub by: By,
    /// How large it is.
    pub rate: Rate,
}

/// Who shares an allowance of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// All requests of the route.
    Route,
    /// Those from one address: an IPv4 address, or the /64 of an IPv6 address.
    Address,
    /// Those of one client of one issuer (`client_id`, or `azp`). Those of none are counted by address.
    Client,
    /// Those of one subject of one issuer. Those of none are counted by address.
    Subject,
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

/// When long answers, uploads and tunnels are ended before their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseStreams {
    /// When their token has expired or is revoked.
    OnExpiry,
    /// When their token is revoked.
    OnRevocation,
    /// Not at all: who was let in may stay.
    Never,
}

/// What a route does while the revocations that are known are too old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStale {
    /// Tokens are let in that are not known to be revoked.
    Serve,
    /// Nobody's token is.
    Refuse,
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
    /// What it was made of: one with the same is the same.
    pub fingerprint: Fingerprint,
    /// Its name in metrics and logs.
    pub name: Arc<str>,
    /// What it is.
    pub target: Target,
    /// What is spoken there.
    pub speech: Speech,
    /// How long a connection may take to be made, TLS included.
    pub connect_timeout: Duration,
    /// How long it may take to the response's head, from the request's, or from the last of its body that moved.
    pub response_timeout: Duration,
    /// How long either body may stand still.
    pub idle_timeout: Duration,
    /// How long a WebSocket may be silent in both directions.
    pub tunnel_idle_timeout: Duration,
    /// How long all of it may take, from the decision to the response's last byte.
    pub total_timeout: Option<Duration>,
    /// How long a kept-alive connection is kept without work.
    pub keep_alive: Duration,
    /// The most idle HTTP/1.1 connections each worker keeps, for each address.
    pub max_idle: usize,
    /// The most requests at a time on one HTTP/2 connection.
    pub max_streams: usize,
    /// After how long names are looked up again.
    pub dns_refresh: Duration,
    /// When an address is left alone for a while.
    pub outlier: Outlier,
    /// How addresses are asked whether they are well; `None` does not ask.
    pub health_check: Option<HealthCheck>,
    /// How often a request may be sent once more.
    pub retries: usize,
    /// The most requests in flight, over all workers.
    pub max_requests: usize,
    /// The most requests that wait for one of those to end.
    pub max_queue: usize,
    /// How long they wait.
    pub queue_timeout: Duration,
}

/// What an upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Requests are balanced over these. Never empty.
    Origins(Vec<Origin>),
    /// The built-in page that the default configuration protects.
    Demo,
}

/// What one URL of an upstream names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A host and a port.
    Tcp {
        /// A name or an address, as written (an IPv6 address without its brackets).
        host: Box<str>,
        /// The scheme's own where the URL names none.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// What is spoken with an upstream.
#[derive(Clone, Debug)]
pub enum Speech {
    /// HTTP/1.1 (`http://`, `unix://`).
    Http1,
    /// HTTP/2 from the first byte on (`h2c://`).
    Http2,
    /// TLS, and in it whichever of the two the upstream prefers (`https://`).
    Tls(ClientTls),
}

/// How an upstream is spoken to over TLS.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// Whom we trust, and who we are.
    pub config: Arc<rustls::ClientConfig>,
    /// The name its certificate has to be for, where that is not the URL's host.
    pub server_name: Option<ServerName<'static>>,
}

impl ClientTls {
    /// The same, with HTTP/1.1 for the only choice.
    pub(super) fn for_http1(&self) -> Self {
        let mut config = (*self.config).clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { config: Arc::new(config), server_name: self.server_name.clone() }
    }
}

/// Passive health: an address that fails so often in a row gets nothing for a while.
#[derive(Clone, Copy, Debug)]
pub struct Outlier {
    /// After so many failures; 0 is never.
    pub failures: u32,
    /// For so long.
    pub eject_for: Duration,
}

/// Active health: what every address is asked now and then.
#[derive(Clone, Debug)]
pub struct HealthCheck {
    /// The request's target.
    pub path: PathAndQuery,
    /// How often.
    pub interval: Duration,
    /// How long the answer may take.
    pub timeout: Duration,
    /// Unhealthy after so many failures in a row.
    pub unhealthy_after: u32,
    /// Healthy again after so many successes in a row.
    pub healthy_after: u32,
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
        let token = if self.bound { "bound token" } else { "token" };
        let needs = match self.auth {
            Auth::None => "no token".to_owned(),
            Auth::Optional => "token if any".to_owned(),
            Auth::Required if self.scopes.is_empty() => token.to_owned(),
            Auth::Required => format!("{token} with scope {}", self.scopes),
        };
        format!("{:<10} {methods}{path}  ({needs}) -> {upstream}", self.name)
    }
}
