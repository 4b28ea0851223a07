//! Every way in which a request can end here, and what the client is told: one exhaustive map from reason to answer.
//! The reason goes to the log and the metric; the client learns what it needs to do better, and nothing about keys.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use super::{
    authorize::Denial, config::Route, metadata, path::Ambiguous, possession::Unheld, upstream::UpstreamFailure,
};
use crate::{
    http::{Body, HeadFault},
    token::{dpop, verify::Refused},
    types::Scopes,
};

/// Why a request was not passed on, or its answer not passed back.
#[derive(Clone, Debug)]
pub(super) enum Rejection {
    /// The request's head has more than one reading, or is too long to be read.
    BadHead(HeadFault),
    /// The Host is missing, doubled, malformed, or disagrees with the request target.
    BadHost,
    /// It asks for a WebSocket in a way that is none.
    BadHandshake,
    /// CONNECT, `*`, or a target that is no path.
    BadTarget,
    /// The body's length is said in more than one way.
    BadFraming,
    /// `Connection` names a header that more than the connection depends on.
    BadConnection,
    /// The path has more than one reading.
    AmbiguousPath(Ambiguous),
    /// No route matches.
    NoRoute,
    /// It comes from a page of an origin that the route does not take.
    ForeignOrigin,
    /// A limit of the route is used up; for so long.
    RateLimited(Duration),
    /// The body is larger than the route takes.
    BodyTooLarge,
    /// The route needs a token, and there is none.
    NoToken,
    /// `Authorization` is of another scheme than Bearer and DPoP.
    NotBearer,
    /// A token in two places, or two in one.
    TwoTokens,
    /// The token is no good.
    Token(Refused),
    /// The token is good, but whoever sends it does not show that it is theirs.
    Unheld(Unheld),
    /// What was revoked of late is not known, and the route wants that.
    Stale,
    /// The token is good, but not for this route; with the scopes the route asks for.
    Denied(Denial, Scopes),
    /// The request was let through, and the upstream failed it.
    Upstream(UpstreamFailure),
}

/// Where nonces are given to clients (RFC 9449 §8).
pub(super) const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// What a challenge says besides why (RFC 9110 §11.6.1).
pub(super) struct Challenge<'a> {
    /// The `realm`.
    pub(super) realm: &'a str,
    /// What the request came to.
    pub(super) route: Option<&'a Route>,
}

/// An error as the client sees it (RFC 6750 §3.1, RFC 6749 §5.2).
struct Answer {
    status: StatusCode,
    error: &'static str,
    description: &'static str,
}

impl Rejection {
    /// The name in metrics and logs.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::BadHead(HeadFault::BareLf) => "bare_lf",
            Self::BadHead(HeadFault::Length | HeadFault::Coding) => "framing_bad",
            Self::BadHead(HeadFault::Fragment) => "target_bad",
            Self::BadHead(HeadFault::Pipelined) => "pipelined_after_chunks",
            Self::BadHead(HeadFault::TooMany) => "headers_too_many",
            Self::BadHost => "host_bad",
            Self::BadHandshake => "websocket_bad",
            Self::BadTarget => "target_bad",
            Self::BadFraming => "framing_bad",
            Self::BadConnection => "connection_header_bad",
            Self::AmbiguousPath(_) => "path_ambiguous",
            Self::NoRoute => "no_route",
            Self::ForeignOrigin => "origin_foreign",
            Self::RateLimited(_) => "rate_limited",
            Self::BodyTooLarge => "body_too_large",
            Self::NoToken => "no_token",
            Self::NotBearer => "not_bearer",
            Self::TwoTokens => "two_tokens",
            Self::Token(refused) => refused.reason(),
            Self::Unheld(why) => why.reason(),
            Self::Stale => "revocations_stale",
            Self::Denied(Denial::Anonymous, _) => "no_token",
            Self::Denied(Denial::WrongProvider, _) => "provider_wrong",
            Self::Denied(Denial::WrongAudience, _) => "audience_wrong",
            Self::Denied(Denial::MissingScope, _) => "scope_missing",
            Self::Denied(Denial::MissingClaim, _) => "claim_missing",
            Self::Upstream(failure) => failure.reason(),
        }
    }

    /// Whether the gate let the request through, and it failed later.
    pub(super) fn after_decision(&self) -> bool {
        matches!(self, Self::Upstream(_))
    }

    /// What the client is told, in words that stand in a header too.
    pub(super) fn description(&self) -> &'static str {
        self.answer().description
    }

    fn answer(&self) -> Answer {
        let answer = |status, error, description| Answer { status, error, description };
        let invalid_request = |description| answer(StatusCode::BAD_REQUEST, "invalid_request", description);
        let invalid_token = |description| answer(StatusCode::UNAUTHORIZED, "invalid_token", description);
        let insufficient = |description| answer(StatusCode::FORBIDDEN, "insufficient_scope", description);
        let no_token = answer(StatusCode::UNAUTHORIZED, "unauthorized", "This needs an access token.");
        match self {
            Self::BadHead(fault) => match fault {
                HeadFault::BareLf => invalid_request("A line of the request's head ends without a carriage return."),
                HeadFault::Length => invalid_request("The request's Content-Length is not one plain number."),
                HeadFault::Coding => invalid_request("The request's body has more than one length."),
                HeadFault::Fragment => invalid_request("The request target holds a fragment."),
                HeadFault::Pipelined => invalid_request("The request was sent before the answer to the one before it."),
                HeadFault::TooMany => answer(
                    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                    "invalid_request",
                    "The request has too many header fields.",
                ),
            },
            Self::BadHost => {
                invalid_request("The Host header is missing, doubled, malformed or at odds with the request target.")
            }
            Self::BadHandshake => {
                invalid_request("The request for a WebSocket has no key, or more than one, or a body.")
            }
            Self::BadTarget => invalid_request("The request target is not a path."),
            Self::BadFraming => invalid_request("The length of the request's body is said in more than one way."),
            Self::BadConnection => {
                invalid_request("The Connection header names a header that is not the connection's.")
            }
            Self::AmbiguousPath(why) => invalid_request(why.description()),
            Self::NoRoute => answer(StatusCode::NOT_FOUND, "not_found", "There is nothing at this address."),
            Self::ForeignOrigin => {
                answer(StatusCode::FORBIDDEN, "forbidden", "Pages of this origin may not call here.")
            }
            Self::RateLimited(_) => answer(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_requests",
                "There were too many requests; wait a while.",
            ),
            Self::BodyTooLarge => {
                answer(StatusCode::PAYLOAD_TOO_LARGE, "content_too_large", "The request's body is too large.")
            }
            Self::NoToken | Self::Denied(Denial::Anonymous, _) => no_token,
            Self::NotBearer => {
                Answer { description: "This needs an access token, by the Bearer or the DPoP scheme.", ..no_token }
            }
            Self::TwoTokens => invalid_request("The request carries more than one access token."),
            // Nothing is known against the token.
            Self::Stale => answer(
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable",
                "What was revoked of late is not known here.",
            ),
            Self::Token(Refused::KeysUnavailable) => answer(
                StatusCode::SERVICE_UNAVAILABLE,
                "temporarily_unavailable",
                "Access tokens of this issuer cannot be verified at the moment.",
            ),
            Self::Token(refused) => invalid_token(match refused {
                // The words of the article that Sidegate grew from.
                Refused::Expired => "The access token provided has expired.",
                Refused::Revoked => "The access token provided has been revoked.",
                Refused::Malformed
                | Refused::TooLarge
                | Refused::Encrypted
                | Refused::MissingClaim
                | Refused::MalformedClaim => "The access token provided is malformed.",
                Refused::NotYetValid | Refused::IssuedInFuture => "The access token provided is not valid yet.",
                Refused::WrongAudience => "The access token provided is meant for another service.",
                Refused::UnsupportedAlgorithm
                | Refused::UnknownConfirmation
                | Refused::UnknownCritical
                | Refused::KeyInHeader
                | Refused::WrongType
                | Refused::UnknownIssuer
                | Refused::AlgorithmNotAllowed
                | Refused::UnknownKey
                | Refused::AmbiguousKey
                | Refused::WrongKeyAlgorithm
                | Refused::LifetimeTooLong
                | Refused::KeysUnavailable
                | Refused::BadSignature => "The access token provided is invalid.",
            }),
            Self::Unheld(Unheld::Proof(why, _)) => answer(StatusCode::UNAUTHORIZED, why.code(), why.description()),
            Self::Unheld(Unheld::NotBound) => {
                invalid_token("The access token provided is not bound to its client, and has to be.")
            }
            Self::Unheld(Unheld::NoProof) => {
                invalid_token("The access token provided is bound to a key, and needs a DPoP proof.")
            }
            Self::Unheld(Unheld::NoCertificate | Unheld::WrongCertificate) => {
                invalid_token("The access token provided is bound to another certificate.")
            }
            Self::Denied(Denial::WrongProvider | Denial::WrongAudience, _) => {
                invalid_token("The access token provided is meant for another service.")
            }
            Self::Denied(Denial::MissingScope, _) => {
                insufficient("The access token provided lacks a scope that this needs.")
            }
            Self::Denied(Denial::MissingClaim, _) => {
                insufficient("The access token provided lacks a claim that this needs.")
            }
            Self::Upstream(failure) => match failure {
                UpstreamFailure::Unreachable => {
                    answer(StatusCode::BAD_GATEWAY, "bad_gateway", "The service behind the gate cannot be reached.")
                }
                UpstreamFailure::Untrusted | UpstreamFailure::Broken => answer(
                    StatusCode::BAD_GATEWAY,
                    "bad_gateway",
                    "The service behind the gate did not answer properly.",
                ),
                UpstreamFailure::ConnectTimeout | UpstreamFailure::ResponseTimeout => answer(
                    StatusCode::GATEWAY_TIMEOUT,
                    "gateway_timeout",
                    "The service behind the gate did not answer in time.",
                ),
                UpstreamFailure::QueueFull | UpstreamFailure::QueueTimeout => answer(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "service_unavailable",
                    "The service behind the gate has too much to do.",
                ),
                UpstreamFailure::RequestHost => invalid_request("The host cannot be passed on."),
                UpstreamFailure::RequestBody => invalid_request("The request's body broke off."),
            },
        }
    }

    /// `WWW-Authenticate` for a 401, or a 403 about scopes (RFC 6750 §3). Without a token there is no error code in it.
    fn challenge(&self, challenge: &Challenge<'_>, answer: &Answer) -> Option<HeaderValue> {
        let Answer { error, description, .. } = answer;
        let Challenge { realm, route } = challenge;
        // A client that has shown a proof, or should, is answered in its own scheme (RFC 9449 §7.1).
        let dpop = match self {
            Self::Unheld(why) => !matches!(why, Unheld::NoCertificate | Unheld::WrongCertificate),
            _ => route.is_some_and(|route| route.bound),
        };
        let scheme = if dpop { "DPoP" } else { "Bearer" };
        let mut text = match self {
            Self::NoToken | Self::NotBearer | Self::Denied(Denial::Anonymous, _) => {
                format!("{scheme} realm=\"{realm}\"")
            }
            Self::Denied(Denial::MissingScope, scopes) => {
                format!(
                    "{scheme} realm=\"{realm}\", error=\"{error}\", error_description=\"{description}\", scope=\"{scopes}\""
                )
            }
            Self::Token(Refused::KeysUnavailable)
            | Self::Stale
            | Self::BadHead(_)
            | Self::BadHandshake
            | Self::BadHost
            | Self::BadTarget
            | Self::BadFraming
            | Self::BadConnection
            | Self::AmbiguousPath(_)
            | Self::NoRoute
            | Self::ForeignOrigin
            | Self::RateLimited(_)
            | Self::BodyTooLarge
            | Self::Upstream(_) => return None,
            Self::Token(_) | Self::Unheld(_) | Self::TwoTokens | Self::Denied(..) => {
                format!("{scheme} realm=\"{realm}\", error=\"{error}\", error_description=\"{description}\"")
            }
        };
        if let Some(Route { resource: Some(resource), scopes, .. }) = route {
            // RFC 9728 §5.1; and for whoever has no token yet, what to ask for (RFC 6750 §3).
            text += &format!(", resource_metadata=\"{}\"", metadata::url_of(resource));
            if !scopes.is_empty() && !matches!(self, Self::Denied(Denial::MissingScope, _)) {
                text += &format!(", scope=\"{scopes}\"");
            }
        }
        if dpop {
            let algorithms: Vec<_> = dpop::algorithm_names().collect();
            text += &format!(", algs=\"{}\"", algorithms.join(" "));
        }
        // Realm and scopes were checked for quotes when the configuration was read.
        HeaderValue::try_from(text).ok()
    }

    /// The response: JSON, or the same words as a page for a browser that asks for one.
    pub(super) fn response(&self, challenge: &Challenge<'_>, accept: Option<&HeaderValue>) -> Response<Body> {
        let answer = self.answer();
        let (kind, text) = if wants_html(accept) {
            ("text/html; charset=utf-8", page(&answer))
        } else {
            ("application/json", json(&answer))
        };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(challenge) = self.challenge(challenge, &answer) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Self::Unheld(Unheld::Proof(_, Some(nonce))) = self
            && let Ok(nonce) = HeaderValue::try_from(&**nonce)
        {
            headers.insert(DPOP_NONCE, nonce);
        }
        if let Self::RateLimited(wait) = self {
            // Rounded up: who comes a moment too early has come in vain.
            headers.insert(header::RETRY_AFTER, (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).into());
        }
        response
    }
}

/// Whether a person is looking: a browser names text/html first, a program hardly ever names it.
fn wants_html(accept: Option<&HeaderValue>) -> bool {
    let accept = accept.and_then(|value| value.to_str().ok()).unwrap_or("");
    accept.split(',').find_map(|item| match item.split(';').next().unwrap_or("").trim() {
        "text/html" => Some(true),
        "application/json" => Some(false),
        _ => None,
    }) == Some(true)
}

/// The texts are ours and hold nothing that JSON would escape.
fn json(Answer { error, description, .. }: &Answer) -> Bytes {
    format!("{{\"error\":\"{error}\",\"error_description\":\"{description}\"}}\n").into()
}

fn page(Answer { status, error, description }: &Answer) -> Bytes {
    let title = status.canonical_reason().unwrap_or("Error");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{code} {title}</title>\n\
         <style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:20vh auto;padding:0 1rem;color:#222}}\
         h1{{font-size:1.25rem}}code{{color:#666}}</style>\n\
         <h1>{title}</h1>\n<p>{description}</p>\n<p><code>{code} {error}</code></p>\n</html>\n",
        code = status.as_u16(),
    )
    .into()
}
