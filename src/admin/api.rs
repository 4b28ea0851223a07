//! What an operator can do over HTTP, who shows the admin token: see what is revoked, revoke, and lift; see sessions, and
//! end them.

pub mod sessions;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
};

use arc_swap::ArcSwapOption;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::reload::{self, Ask, CONFIG, RELOAD, Standing};
use crate::{
    clock::Timestamp,
    issuer::{By, Current, RevokeError, RevokeRequest},
    revocation::{Entry, Feed, Revocations},
    store::{Revocation, Unavailable},
    telemetry::audit::{Audit, Event, Facts},
    types::{Secret, Visitor},
};

/// Where it is.
const PATH: &str = "/admin/revocations";
/// Where sessions are.
const SESSIONS: &str = "/admin/sessions";
/// The largest body, in bytes.
const MAX_BODY: usize = 16 << 10;
/// How many entries a page has unless it is said, and at the most.
const PAGE: (usize, usize) = (100, 1000);

/// What it works on.
#[derive(Clone)]
pub struct Api {
    /// Who asks has to show this; without one nobody may.
    pub token: Arc<ArcSwapOption<Secret>>,
    /// Who keeps the log, if that is here.
    pub issuer: Option<Current>,
    /// What is in force here.
    pub revocations: Arc<Revocations>,
    /// Where they come from, if they are made elsewhere.
    pub feed: Option<Arc<Feed>>,
    /// Who takes up another configuration.
    pub reload: mpsc::Sender<Ask>,
    /// How it stands with that.
    pub standing: Arc<Mutex<Standing>>,
    /// Where it is told who was refused.
    pub audit: Audit,
}

/// Why a request is refused.
pub(super) enum Refusal {
    NoToken,
    WrongToken,
    Method(&'static str),
    NotFound(&'static str),
    NoLog,
    NoSessions,
    Wrong(String),
    Revoke(RevokeError),
    /// The configuration is refused, for what is said line by line.
    Config(String),
    /// The process is about to end.
    Ending,
}

impl From<RevokeError> for Refusal {
    fn from(error: RevokeError) -> Self {
        Self::Revoke(error)
    }
}

impl From<Unavailable> for Refusal {
    fn from(error: Unavailable) -> Self {
        Self::Revoke(error.into())
    }
}

impl Api {
    /// Whether a path is its own.
    pub fn has(path: &str) -> bool {
        matches!(path, CONFIG | RELOAD) || [PATH, SESSIONS].iter().any(|own| below(own, path).is_some())
    }

    /// Answers a request of its own.
    pub async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> Response<Full<Bytes>> {
        self.act(request, peer).await.unwrap_or_else(Refusal::response)
    }

    async fn act(&self, request: Request<Incoming>, peer: IpAddr) -> Result<Response<Full<Bytes>>, Refusal> {
        let visitor = Visitor::new(peer, request.headers());
        self.check_token(request.headers(), &visitor)?;
        let by = By::admin_api(visitor);
        let (method, query) = (request.method().clone(), request.uri().query().unwrap_or_default().to_owned());
        let issuer = self.issuer.as_ref().map(Current::load);
        match request.uri().path() {
            CONFIG => return reload::show(&self.standing, &method),
            RELOAD => return reload::reload(&self.reload, &method).await,
            _ => {}
        }
        if let Some(rest) = below(SESSIONS, request.uri().path()) {
            return sessions::act(issuer.as_deref().ok_or(Refusal::NoSessions)?, &method, rest, &query, by).await;
        }
        let rest = below(PATH, request.uri().path()).unwrap_or_default().to_owned();
        match (rest.strip_prefix('/'), method) {
            (None, Method::GET) => self.list(&query).await,
            (None, Method::POST) => {
                let issuer = issuer.ok_or(Refusal::NoLog)?;
                let asked: RevokeRequest = read(request).await?;
                // It goes to its end though whoever asked hangs up: a key is taken away first, and entered then.
                let revoker = issuer.clone();
                let revoking = tokio::spawn(async move { revoker.revoke(&asked, by).await });
                let revocation = revoking.await.map_err(|_| Unavailable("the request was broken off".into()))??;
                Ok(answer(StatusCode::CREATED, &described(&revocation, issuer.url().as_str())))
            }
            (None, _) => Err(Refusal::Method("GET, POST")),
            (Some(number), Method::DELETE) => {
                let issuer = issuer.ok_or(Refusal::NoLog)?;
                let number = number.parse().map_err(|_| Refusal::NotFound("an entry has a number"))?;
                let reason = parameter(&query, "reason").unwrap_or_else(|| "not said".into());
                let revocation = issuer.lift(number, &reason, by).await?;
                Ok(answer(StatusCode::OK, &described(&revocation, issuer.url().as_str())))
            }
            (Some(_), _) => Err(Refusal::Method("DELETE")),
        }
    }

    fn check_token(&self, headers: &HeaderMap, visitor: &Visitor) -> Result<(), Refusal> {
        let (refusal, error) = match self.token.load().as_deref() {
            Some(token) if token.is_shown_in(headers) => return Ok(()),
            Some(_) => (Refusal::WrongToken, "invalid_token"),
            None => (Refusal::NoToken, "no_admin_token"),
        };
        self.audit.tell(Event::AdminRefused, Facts { error: Some(error), ..visitor.into() });
        Err(refusal)
    }

    /// What is revoked: from the log where it is kept here, with its reasons; from memory elsewhere.
    async fn list(&self, query: &str) -> Result<Response<Full<Bytes>>, Refusal> {
        let after = number(query, "after", 0)?;
        let limit = limit(query)?;
        let (entries, last) = match self.issuer.as_ref().map(Current::load) {
            Some(issuer) => {
                let entries = issuer.revocations(after, limit).await?;
                let url = issuer.url().as_str();
                let last = entries.last().map(|last| last.number);
                (entries.iter().map(|entry| described(entry, url)).collect::<Vec<_>>(), last)
            }
            None => {
                let revocations = self.revocations.clone();
                // It walks over all there is.
                let listing = tokio::task::spawn_blocking(move || revocations.list(after, limit));
                let entries = listing.await.unwrap_or_default();
                (entries.iter().map(remembered).collect(), entries.last().map(|last| last.number))
            }
        };
        let next = last.filter(|_| entries.len() == limit);
        Ok(answer(StatusCode::OK, &json!({ "revocations": entries, "next": next })))
    }
}

/// An entry in the words of the API. `own` is the issuer that keeps the log.
pub fn described(entry: &Revocation, own: &str) -> Value {
    let issuer = entry.issuer.as_ref().map_or(own, |issuer| issuer.as_str());
    json!({
        "number": entry.number,
        "kind": entry.what.kind(),
        "id": entry.what.id(),
        "issuer": issuer,
        "lifts": entry.lifts,
        "reason": entry.reason,
        "at": seconds(entry.at),
        "until": seconds(entry.until),
    })
}

/// The same, as far as memory knows.
fn remembered(entry: &Entry) -> Value {
    json!({
        "number": entry.number,
        "kind": entry.what.kind(),
        "id": entry.what.id(),
        "issuer": entry.issuer.as_str(),
        "lifts": entry.lifts,
        "until": seconds(entry.until),
    })
}

/// Seconds since the epoch, as a JWT has them, with their fraction.
fn seconds(at: Timestamp) -> f64 {
    at.0 as f64 / 1000.0
}

async fn read<T: serde::de::DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refusal> {
    let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
    let body = body.map_err(|_| Refusal::Wrong(format!("the body is larger than {MAX_BODY} bytes, or broke off")))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| Refusal::Wrong(format!("the body: {error}")))
}

/// What comes after a path of ours, with the slash in front; empty where nothing does.
fn below<'a>(own: &str, path: &'a str) -> Option<&'a str> {
    path.strip_prefix(own).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn number(query: &str, name: &str, unless_said: u64) -> Result<u64, Refusal> {
    match parameter(query, name) {
        None => Ok(unless_said),
        Some(text) => text.parse().map_err(|_| Refusal::Wrong(format!("`{name}` is not a number"))),
    }
}

/// How many entries a page is to have.
fn limit(query: &str) -> Result<usize, Refusal> {
    let limit = usize::try_from(number(query, "limit", PAGE.0 as u64)?).unwrap_or(usize::MAX);
    if limit == 0 || limit > PAGE.1 {
        return Err(Refusal::Wrong(format!("`limit` must be from 1 to {}", PAGE.1)));
    }
    Ok(limit)
}

fn parameter(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

impl Refusal {
    fn response(self) -> Response<Full<Bytes>> {
        let (status, error, text) = match &self {
            Self::NoToken => (
                StatusCode::FORBIDDEN,
                "no_admin_token",
                "set admin.token in the configuration, and show it as a bearer token".to_owned(),
            ),
            Self::WrongToken => {
                (StatusCode::UNAUTHORIZED, "invalid_token", "show the admin token as a bearer token".to_owned())
            }
            Self::Method(allowed) => (StatusCode::METHOD_NOT_ALLOWED, "method", format!("only {allowed}")),
            Self::NotFound(text) => (StatusCode::NOT_FOUND, "not_found", (*text).to_owned()),
            Self::NoLog => (
                StatusCode::CONFLICT,
                "no_log",
                "the revocation log is kept elsewhere: ask the gateway that this process follows".to_owned(),
            ),
            Self::NoSessions => (
                StatusCode::CONFLICT,
                "no_sessions",
                "there is no `issuer:` here, which has the sessions: ask the gateway that has".to_owned(),
            ),
            Self::Wrong(text) => (StatusCode::BAD_REQUEST, "invalid_request", text.clone()),
            Self::Config(text) => (StatusCode::UNPROCESSABLE_ENTITY, "refused", text.clone()),
            Self::Ending => (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", "the process ends".to_owned()),
            Self::Revoke(error) => match error {
                RevokeError::Wrong(text) => (StatusCode::BAD_REQUEST, "invalid_request", text.clone()),
                RevokeError::Unknown(text) => (StatusCode::NOT_FOUND, "not_found", text.clone()),
                RevokeError::Final(text) | RevokeError::Keys(text) => (StatusCode::CONFLICT, "conflict", text.clone()),
                RevokeError::Unavailable(error) => {
                    (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", error.to_string())
                }
            },
        };
        let mut response = answer(status, &json!({ "error": error, "error_description": text }));
        let headers = response.headers_mut();
        match self {
            Self::WrongToken => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"sidegate admin\""));
            }
            Self::Method(allowed) => drop(headers.insert(header::ALLOW, HeaderValue::from_static(allowed))),
            Self::Revoke(RevokeError::Unavailable(_)) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

pub(super) fn answer(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{body}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
