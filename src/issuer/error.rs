//! What the issuer's endpoints answer when they do not do what they are asked: RFC 6749 §5.2, RFC 7009 §2.2.1, RFC 7662 §2.3.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::{hook::Away, possession::DPOP_NONCE};
use crate::{
    store::Unavailable,
    token::{dpop::Unproved, keys::KeyError},
};

/// Why a request was not granted, and whose fault it is.
#[derive(Debug)]
pub(super) enum Error {
    /// The client sent what no client should.
    InvalidRequest(Cow<'static, str>),
    /// The client is not who it says, or does not say.
    InvalidClient(Tried),
    /// What the client presents is not good, whatever the reason: the reason is in the metric and the log.
    InvalidGrant(&'static str),
    /// The client may not use this grant.
    UnauthorizedClient,
    /// There is no such grant.
    UnsupportedGrantType,
    /// More was asked for than can be had.
    InvalidScope(&'static str),
    /// A token was asked for something that none is made for, or that was not granted (RFC 8707 §2).
    InvalidTarget,
    /// What a client shows does not prove that it holds a key; with a nonce where another proof would (RFC 9449 §5, §8).
    Unproved(Unproved, Option<Box<str>>),
    /// Too many passwords wait to be looked at: ours, and it passes.
    Busy,
    /// Too many have failed before; they may try again after this, in whole seconds. Nothing has been looked at, so that it is no
    /// `invalid_grant`, at which a client would throw away what may be right.
    Throttled(Duration),
    /// There were too many requests; the next one is taken after this, in whole seconds. As with [`Error::Throttled`] nothing has been
    /// looked at (RFC 6585 §4).
    Limited(Duration),
    /// The store could not answer: ours, and never a reason to call a token bad.
    Unavailable(Unavailable),
    /// Whoever knows the users could not say: as the store.
    UsersAway(Away),
    /// A primitive failed: ours.
    Internal(KeyError),
}

/// How a client tried to authenticate, which decides how it is told that it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tried {
    /// With an `Authorization` field.
    Header,
    /// In the body, or not at all.
    Body,
}

/// How long a client should wait before it tries again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

impl Error {
    /// The `error` code, which is also the metric's label. RFC 6749 §5.2 has no code for our own failures at these
    /// endpoints; those of §4.1.2.1 say what is meant.
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::InvalidRequest(_) => "invalid_request",
            Self::InvalidClient(_) => "invalid_client",
            Self::InvalidGrant(_) => "invalid_grant",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::InvalidScope(_) => "invalid_scope",
            Self::InvalidTarget => "invalid_target",
            Self::Unproved(why, _) => why.code(),
            Self::Busy | Self::Throttled(_) | Self::Limited(_) | Self::Unavailable(_) | Self::UsersAway(_) => {
                "temporarily_unavailable"
            }
            Self::Internal(_) => "server_error",
        }
    }

    /// The answer to the client.
    pub(super) fn response(&self) -> Response<Bytes> {
        self.log();
        let mut response = refusal(self.status(), self.code(), self.description());
        match self {
            Self::InvalidClient(Tried::Header) => {
                let challenge = HeaderValue::from_static("Basic realm=\"sidegate\", charset=\"UTF-8\"");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            }
            Self::Busy | Self::Unavailable(_) | Self::UsersAway(_) => {
                response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
            }
            Self::Unproved(_, Some(nonce)) => {
                if let Ok(nonce) = HeaderValue::try_from(&**nonce) {
                    response.headers_mut().insert(DPOP_NONCE, nonce);
                }
            }
            Self::Throttled(wait) | Self::Limited(wait) => {
                response.headers_mut().insert(header::RETRY_AFTER, wait.as_secs().into());
            }
            Self::InvalidClient(Tried::Body)
            | Self::Unproved(_, None)
            | Self::InvalidRequest(_)
            | Self::InvalidGrant(_)
            | Self::UnauthorizedClient
            | Self::UnsupportedGrantType
            | Self::InvalidTarget
            | Self::InvalidScope(_)
            | Self::Internal(_) => {}
        }
        response
    }

    /// The private cause of what is our own fault goes here, and nowhere else.
    fn log(&self) {
        match self {
            Self::Unavailable(cause) => tracing::error!(%cause, "a request to the issuer could not be answered"),
            Self::UsersAway(cause) => tracing::error!(%cause, "the users could not be asked for"),
            Self::Internal(cause) => tracing::error!(%cause, "a request to the issuer failed"),
            Self::Busy => tracing::warn!("too many passwords wait to be looked at"),
            Self::InvalidRequest(_)
            | Self::InvalidClient(_)
            | Self::InvalidGrant(_)
            | Self::UnauthorizedClient
            | Self::UnsupportedGrantType
            | Self::InvalidTarget
            | Self::Unproved(..)
            | Self::InvalidScope(_)
            | Self::Throttled(_)
            | Self::Limited(_) => {}
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::InvalidClient(_) => StatusCode::UNAUTHORIZED,
            Self::InvalidRequest(_)
            | Self::InvalidGrant(_)
            | Self::UnauthorizedClient
            | Self::UnsupportedGrantType
            | Self::InvalidTarget
            | Self::Unproved(..)
            | Self::InvalidScope(_) => StatusCode::BAD_REQUEST,
            Self::Throttled(_) | Self::Limited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy | Self::Unavailable(_) | Self::UsersAway(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Why, for the audit log: what the client is told, or what it is not told of our own failures.
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Busy => "too_many_passwords",
            Self::Throttled(_) => "throttled",
            Self::Limited(_) => "limited",
            Self::Unavailable(_) => "store_unavailable",
            Self::UsersAway(_) => "users_unavailable",
            Self::Internal(_) => "internal",
            Self::Unproved(why, _) => why.reason(),
            Self::InvalidRequest(_)
            | Self::InvalidClient(_)
            | Self::InvalidGrant(_)
            | Self::UnauthorizedClient
            | Self::UnsupportedGrantType
            | Self::InvalidTarget
            | Self::InvalidScope(_) => self.description(),
        }
    }

    /// For people. Our own words and the names of our own parameters alone, so that it stays within
    /// %x20-21 / %x23-5B / %x5D-7E (RFC 6749 §5.2).
    fn description(&self) -> &str {
        match self {
            Self::InvalidRequest(why) => why,
            Self::InvalidClient(_) => "Client authentication failed.",
            Self::InvalidGrant(why) | Self::InvalidScope(why) => why,
            Self::UnauthorizedClient => "The client is not allowed to use this grant type.",
            Self::UnsupportedGrantType => "The grant type is not supported.",
            Self::InvalidTarget => "The resource is not one that this token can be for.",
            Self::Unproved(why, _) => why.description(),
            Self::Throttled(_) => "There have been too many failures; try again later.",
            Self::Limited(_) => "There have been too many requests; try again later.",
            Self::Busy | Self::Unavailable(_) | Self::UsersAway(_) => {
                "The server cannot answer at the moment; try again."
            }
            Self::Internal(_) => "The server failed.",
        }
    }
}

impl From<Unavailable> for Error {
    fn from(cause: Unavailable) -> Self {
        Self::Unavailable(cause)
    }
}

impl From<KeyError> for Error {
    fn from(cause: KeyError) -> Self {
        Self::Internal(cause)
    }
}

/// A refusal as RFC 6749 §5.2 has it, for whoever answers in the issuer's place too.
pub fn refusal(status: StatusCode, error: &str, description: &str) -> Response<Bytes> {
    no_store(status, &json!({ "error": error, "error_description": description }))
}

/// A JSON answer that nobody may keep (RFC 6749 §5.1).
pub(super) fn no_store(status: StatusCode, body: &impl serde::Serialize) -> Response<Bytes> {
    let text = serde_json::to_vec(body).expect("our own structs, of strings and numbers");
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    forbid_storing(headers);
    response
}

/// `Pragma` is for caches of HTTP/1.0, and RFC 6749 §5.1 asks for it.
pub(super) fn forbid_storing(headers: &mut http::HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
}
