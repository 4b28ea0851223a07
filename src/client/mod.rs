//! Asking others over HTTP, for what Sidegate itself needs: bounded in time and size, over TLS where it is asked for, through
//! the proxy that the environment names (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`).

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use reqwest::{Url, redirect::Policy};

use crate::types::Secret;

/// How we introduce ourselves.
const USER_AGENT: &str = concat!("Sidegate/", env!("CARGO_PKG_VERSION"));
/// How often an answer may point elsewhere.
const MAX_REDIRECTS: usize = 3;
/// How many connections to a service are kept without work, and for how long.
const MAX_IDLE: usize = 8;
const IDLE: Duration = Duration::from_secs(30);

/// Who asks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client(reqwest::Client);

/// What was answered.
#[derive(Debug)]
pub struct Document {
    /// Its content.
    pub body: Vec<u8>,
    /// For how long it says that it is fresh (RFC 9111 §4.2.1), less the age it already has; `None` where it does not say.
    pub fresh_for: Option<Duration>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Nobody there takes a connection, or proves to be who they should be.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("it took too long")]
    TimedOut,
    /// It points to another origin, or on and on.
    #[error("it points to somewhere else, where we do not follow")]
    Redirected,
    /// It answered with this status.
    #[error("it answers with status {0}")]
    Status(u16),
    /// It answered with more than this, in bytes.
    #[error("it answers with more than {0} bytes")]
    TooLarge(usize),
    /// The answer is no HTTP, or broke off.
    #[error("its answer broke: {0}")]
    Broken(String),
}

impl FetchError {
    /// The name in metrics.
    pub const fn result(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Redirected => "redirected",
            Self::Status(_) => "bad_status",
            Self::TooLarge(_) => "too_large",
            Self::Broken(_) => "broken",
        }
    }
}

impl Client {
    /// A client that trusts what `tls` trusts, and takes no longer than `timeout` for all of an answer.
    ///
    /// # Errors
    /// When the system has no resolver, or TLS cannot be set up.
    pub fn new(tls: &Arc<rustls::ClientConfig>, timeout: Duration) -> Result<Self, String> {
        Self::build(for_documents().timeout(timeout), tls)
    }

    /// A client of one service, at `url`, which is asked often: connections are kept, and no redirect is followed, since what is
    /// sent is for that service alone. So is what goes without TLS: no proxy gets to see it.
    ///
    /// # Errors
    /// When the system has no resolver, or TLS cannot be set up.
    pub fn of_service(url: &str, tls: &Arc<rustls::ClientConfig>, timeout: Duration) -> Result<Self, String> {
        let builder = reqwest::Client::builder().timeout(timeout).redirect(Policy::none());
        let builder = builder.pool_max_idle_per_host(MAX_IDLE).pool_idle_timeout(IDLE);
        Self::build(if url.starts_with("https:") { builder } else { builder.no_proxy() }, tls)
    }

    fn build(builder: reqwest::ClientBuilder, tls: &Arc<rustls::ClientConfig>) -> Result<Self, String> {
        builder
            .tls_backend_preconfigured(rustls::ClientConfig::clone(tls))
            .user_agent(USER_AGENT)
            .build()
            .map(Self)
            .map_err(|error| chain(&error))
    }

    /// A client for answers that go on: `timeout` is for the way to them, and nothing bounds how long they last.
    ///
    /// # Errors
    /// When the system has no resolver, or TLS cannot be set up.
    pub fn streaming(tls: &Arc<rustls::ClientConfig>, timeout: Duration) -> Result<Self, String> {
        Self::build(for_documents().connect_timeout(timeout), tls)
    }

    /// Asks for an answer that goes on, with a bearer token. Who asks bounds the wait for its head, and for each piece.
    ///
    /// # Errors
    /// When there is no answer, or another than 200.
    pub async fn open(&self, url: &str, bearer: &Secret) -> Result<Stream, FetchError> {
        let request = self.0.get(url).header(header::AUTHORIZATION, authorization(bearer)?);
        let response = request.send().await.map_err(failed)?;
        match response.status() {
            StatusCode::OK => Ok(Stream(response)),
            status if status.is_redirection() => Err(FetchError::Redirected),
            status => Err(FetchError::Status(status.as_u16())),
        }
    }

    /// Asks for a document of up to `most` bytes.
    ///
    /// # Errors
    /// When there is no answer, or another than 200.
    pub async fn get(&self, url: &str, most: usize) -> Result<Document, FetchError> {
        let request = self.0.get(url).header(header::ACCEPT, "application/json");
        let response = request.send().await.map_err(failed)?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_redirection() => return Err(FetchError::Redirected),
            status => return Err(FetchError::Status(status.as_u16())),
        }
        let fresh_for = fresh_for(response.headers());
        Ok(Document { body: read(response, most).await?, fresh_for })
    }

    /// Puts a question in JSON, with a bearer token: the status of the answer, and up to `most` bytes of it.
    ///
    /// # Errors
    /// When there is no answer, or one that points elsewhere.
    pub async fn post(
        &self,
        url: &str,
        bearer: &Secret,
        json: &str,
        most: usize,
    ) -> Result<(u16, Vec<u8>), FetchError> {
        let kind = HeaderValue::from_static("application/json");
        let request = self.0.post(url).header(header::ACCEPT, &kind).header(header::CONTENT_TYPE, &kind);
        let request = request.header(header::AUTHORIZATION, authorization(bearer)?).body(json.to_owned());
        let response = request.send().await.map_err(failed)?;
        let status = response.status();
        if status.is_redirection() {
            return Err(FetchError::Redirected);
        }
        Ok((status.as_u16(), read(response, most).await?))
    }
}

/// Follows a document to elsewhere on its origin. A set of keys is asked for every few minutes: no connection is kept for that.
fn for_documents() -> reqwest::ClientBuilder {
    let redirects = Policy::custom(|attempt| {
        let from = attempt.previous().last().map(Url::origin);
        if attempt.previous().len() > MAX_REDIRECTS || from != Some(attempt.url().origin()) {
            attempt.stop()
        } else {
            attempt.follow()
        }
    });
    reqwest::Client::builder().redirect(redirects).pool_max_idle_per_host(0)
}

fn authorization(bearer: &Secret) -> Result<HeaderValue, FetchError> {
    let credential = [b"Bearer ", bearer.expose()].concat();
    let mut credential = HeaderValue::from_maybe_shared(bytes::Bytes::from(credential))
        .map_err(|_| FetchError::Broken("the credential cannot be sent".into()))?;
    credential.set_sensitive(true);
    Ok(credential)
}

async fn read(mut response: reqwest::Response, most: usize) -> Result<Vec<u8>, FetchError> {
    let too_large = FetchError::TooLarge(most);
    if response.content_length().is_some_and(|length| length > most as u64) {
        return Err(too_large);
    }
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        if body.len() + piece.len() > most {
            return Err(too_large);
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// An answer that goes on.
#[derive(Debug)]
pub struct Stream(reqwest::Response);

impl Stream {
    /// What comes next; `None` at its end.
    ///
    /// # Errors
    /// When it breaks.
    pub async fn next(&mut self) -> Result<Option<bytes::Bytes>, FetchError> {
        self.0.chunk().await.map_err(failed)
    }
}

fn failed(error: reqwest::Error) -> FetchError {
    // The URL is the reader's own, and may hold what nobody else should see.
    let error = error.without_url();
    match &error {
        e if e.is_timeout() => FetchError::TimedOut,
        e if e.is_connect() => FetchError::Unreachable(chain(e)),
        e => FetchError::Broken(chain(e)),
    }
}

/// What an error says, and what the errors behind it say.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// RFC 9111 §5.2.2: `max-age`, of which `Age` has gone by already; nothing where it is not to be kept.
fn fresh_for(headers: &HeaderMap) -> Option<Duration> {
    let directives = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut max_age = None;
    for directive in directives.flat_map(|value| value.split(',')).map(str::trim) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        if name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("no-cache") {
            return Some(Duration::ZERO);
        }
        if name.eq_ignore_ascii_case("max-age") {
            max_age = max_age.or(value.trim_matches('"').parse().ok());
        }
    }
    let age = headers.get(header::AGE).and_then(|age| age.to_str().ok()?.parse().ok()).unwrap_or(0);
    max_age.map(|max_age: u64| Duration::from_secs(max_age.saturating_sub(age)))
}
