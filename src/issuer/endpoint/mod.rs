//! The endpoints: requests into types, types into responses.

mod ask;
pub(super) mod authorize;
mod browsing;
pub(super) mod cors;
pub(super) mod feed;
pub(super) mod introspect;
pub(super) mod jwks;
pub(super) mod logout;
pub(super) mod metadata;
pub(super) mod register;
pub(super) mod revoke;
pub(super) mod token;
pub(super) mod userinfo;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};

use super::{
    Config, Issuer,
    error::{Error, refusal},
};
use crate::types::{IssuerUrl, Visitor};

/// What the issuer serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// RFC 6749 §3.1.
    Authorize,
    /// Where its page for logging in leads.
    LogIn,
    /// Where its page for consent leads.
    Consent,
    /// A browser's login ends; the `end_session_endpoint` of OpenID Connect RP-Initiated Logout §2.
    LogOut,
    /// RFC 6749 §3.2.
    Token,
    /// RFC 7591.
    Register,
    /// RFC 7009.
    Revoke,
    /// RFC 7662.
    Introspect,
    /// OpenID Connect Core §5.3.
    UserInfo,
    /// RFC 7517 §5.
    Jwks,
    /// RFC 8414, and OpenID Connect Discovery §4 where clients can ask for ID tokens.
    Metadata,
    /// The revocation log, for other processes of ours.
    Feed,
}

impl Endpoint {
    /// The name in metrics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Authorize => "authorize",
            Self::LogIn => "login",
            Self::Consent => "consent",
            Self::LogOut => "logout",
            Self::Register => "register",
            Self::Token => "token",
            Self::Revoke => "revoke",
            Self::Introspect => "introspect",
            Self::UserInfo => "userinfo",
            Self::Jwks => "jwks",
            Self::Metadata => "metadata",
            Self::Feed => "revocations",
        }
    }

    /// Whether requests to it are counted. What anybody may keep is not, and costs nothing; nor is a process of ours.
    pub(super) const fn is_limited(self) -> bool {
        !matches!(self, Self::Jwks | Self::Metadata | Self::Feed)
    }

    /// Whether a person at a browser sees what it answers.
    const fn has_pages(self) -> bool {
        matches!(self, Self::Authorize | Self::LogIn | Self::Consent | Self::LogOut)
    }
}

/// Where it serves them.
pub(super) struct Paths(Vec<(Box<str>, Endpoint)>);

impl Paths {
    /// What nobody can use is not there.
    pub(super) fn new(config: &Config) -> Self {
        let base = base_path(&config.url);
        let mut paths = vec![
            (format!("{base}{TOKEN}").into(), Endpoint::Token),
            (format!("{base}{REVOKE}").into(), Endpoint::Revoke),
            (format!("{base}{INTROSPECT}").into(), Endpoint::Introspect),
            (format!("{base}{JWKS}").into(), Endpoint::Jwks),
            // The well-known name goes between host and path (RFC 8414 §3.1).
            (format!("/.well-known/oauth-authorization-server{base}").into(), Endpoint::Metadata),
        ];
        if config.has_browsers() {
            paths.extend([
                (format!("{base}{AUTHORIZE}").into(), Endpoint::Authorize),
                (format!("{base}{LOG_IN}").into(), Endpoint::LogIn),
                (format!("{base}{CONSENT}").into(), Endpoint::Consent),
                (format!("{base}{LOG_OUT}").into(), Endpoint::LogOut),
            ]);
        }
        if config.has_id_tokens() {
            paths.extend([
                (format!("{base}{USERINFO}").into(), Endpoint::UserInfo),
                (format!("{base}/.well-known/openid-configuration").into(), Endpoint::Metadata),
            ]);
        }
        if config.registration.is_some() {
            paths.push((format!("{base}{REGISTER}").into(), Endpoint::Register));
        }
        if config.feed_credential.is_some() {
            paths.push((format!("{base}{FEED}").into(), Endpoint::Feed));
        }
        Self(paths)
    }

    pub(super) fn find(&self, path: &str) -> Option<Endpoint> {
        self.0.iter().find(|(known, _)| **known == *path).map(|(_, endpoint)| *endpoint)
    }
}

const AUTHORIZE: &str = "/oauth/authorize";
const LOG_IN: &str = "/oauth/login";
const CONSENT: &str = "/oauth/consent";
const LOG_OUT: &str = "/oauth/logout";
pub(super) const TOKEN: &str = "/oauth/token";
const FEED: &str = "/oauth/revocations";
const USERINFO: &str = "/oauth/userinfo";
const REGISTER: &str = "/oauth/register";
const REVOKE: &str = "/oauth/revoke";
const INTROSPECT: &str = "/oauth/introspect";
const JWKS: &str = "/.well-known/jwks.json";

/// The path of the issuer's URL; empty where it has none.
pub(super) fn base_path(url: &IssuerUrl) -> &str {
    let rest = url.as_str().split_once("://").map_or("", |(_, rest)| rest);
    rest.find('/').map_or("", |at| &rest[at..])
}

/// From where a request came, as whoever took it has noted.
pub(super) fn visitor(request: &Request<Bytes>) -> Visitor {
    request.extensions().get().cloned().unwrap_or_default()
}

/// The answer to what is refused before the endpoint has looked at it.
pub(super) fn refuse(issuer: &Issuer, endpoint: Endpoint, error: &Error) -> Response<Bytes> {
    if endpoint.has_pages() { browsing::failed(issuer, error) } else { error.response() }
}

/// The answer to a method that the endpoint does not have.
fn method_not_allowed(allow: &'static str) -> Response<Bytes> {
    let mut response =
        refusal(StatusCode::METHOD_NOT_ALLOWED, "invalid_request", "The endpoint does not take this method.");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

/// A document that anybody may read, and keep for a while.
fn document(request: &Request<Bytes>, text: &Bytes, max_age: Duration) -> Response<Bytes> {
    let head = request.method() == Method::HEAD;
    if !head && request.method() != Method::GET {
        return method_not_allowed("GET, HEAD");
    }
    let mut response = Response::new(if head { Bytes::new() } else { text.clone() });
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let fresh = HeaderValue::try_from(format!("public, max-age={}", max_age.as_secs()));
    headers.insert(header::CACHE_CONTROL, fresh.unwrap_or(HeaderValue::from_static("no-cache")));
    headers.insert(header::CONTENT_LENGTH, text.len().into());
    response
}
