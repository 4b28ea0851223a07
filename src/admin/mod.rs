//! The admin listener: metrics, probes, and what operators do. It is never the public one.

pub mod api;
pub mod reload;
pub mod socket;

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::Semaphore, time::timeout};

use self::api::Api;
use crate::{telemetry::Metrics, types::Secret};

/// The admin listener as configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens.
    pub address: SocketAddr,
    /// What operators show to see more than metrics, and to change anything.
    pub token: Option<Secret>,
}

/// What the probes tell.
#[derive(Clone, Debug)]
pub struct Health {
    started: Arc<AtomicBool>,
    ready: Arc<AtomicBool>,
    metrics: Metrics,
}

impl Health {
    /// Neither started nor ready.
    pub fn new(metrics: Metrics) -> Self {
        Self { started: Arc::default(), ready: Arc::default(), metrics }
    }

    /// Keys and revocations are loaded, and listeners accept.
    pub fn ready(&self) {
        self.started.store(true, Ordering::Release);
        self.ready.store(true, Ordering::Release);
        self.metrics.ready(true);
    }

    /// No new traffic is wanted.
    pub fn draining(&self) {
        self.ready.store(false, Ordering::Release);
        self.metrics.ready(false);
    }
}

/// A worker that has not gone round for this long is taken for stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);
/// How long one admin connection may last. A scrape every few seconds can well connect anew.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(60);
/// How many at one time: an operator, a few scrapers, the kubelet.
const MAX_CONNECTIONS: usize = 64;

/// Serves until it is dropped. `slowest_worker` tells how long ago the slowest worker was last seen.
///
/// # Errors
/// When the socket cannot be used.
pub async fn serve<P>(
    socket: TcpListener,
    health: Health,
    metrics: Metrics,
    api: Api,
    slowest_worker: P,
) -> io::Result<Infallible>
where
    P: Fn() -> Duration + Clone + Send + Sync + 'static,
{
    let socket = tokio::net::TcpListener::from_std(socket)?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { continue };
        let (stream, peer) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an admin connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (health, metrics, api) = (health.clone(), metrics.clone(), api.clone());
        let slowest_worker = slowest_worker.clone();
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(async |request: Request<Incoming>| {
                Ok::<_, Infallible>(if Api::has(request.uri().path()) {
                    api.answer(request, peer.ip()).await
                } else {
                    if let Some(feed) = &api.feed {
                        feed.report();
                    }
                    if let Some(issuer) = &api.issuer {
                        issuer.load().report_freshness();
                    }
                    answer(&request, &health, &metrics, &slowest_worker)
                })
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = timeout(CONNECTION_LIFETIME, connection).await {
                tracing::debug!(%error, "an admin connection broke");
            }
        });
    }
}

fn answer(
    request: &Request<Incoming>,
    health: &Health,
    metrics: &Metrics,
    slowest_worker: &impl Fn() -> Duration,
) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        // RFC 9110 §15.5.6 wants the list.
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let probe = |good: bool, bad: &'static str| {
        if good { plain(StatusCode::OK, "ok\n") } else { plain(StatusCode::SERVICE_UNAVAILABLE, bad) }
    };
    match request.uri().path() {
        "/livez" => probe(slowest_worker() < STUCK_AFTER, "a worker is stuck\n"),
        "/readyz" => probe(health.ready.load(Ordering::Acquire), "not ready\n"),
        "/startupz" => probe(health.started.load(Ordering::Acquire), "not started\n"),
        "/metrics" => match metrics.render() {
            Ok(text) => {
                let mut response = Response::new(Full::from(text));
                let kind = HeaderValue::from_static(prometheus::TEXT_FORMAT);
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            Err(error) => {
                tracing::error!(%error, "the metrics cannot be rendered");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be rendered; see the log\n")
            }
        },
        _ => plain(
            StatusCode::NOT_FOUND,
            "there are /metrics, /livez, /readyz, /startupz, /admin/revocations, /admin/sessions, /admin/config and /admin/reload\n",
        ),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
