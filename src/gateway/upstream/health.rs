//! Active health checks: each address is asked now and then, once for the whole process.

use std::{
    io,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use http::{Request, Uri, header, uri::Scheme};
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::watch as signal,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    Endpoints, Upstream,
    connect::{Io, Protocol, connect},
    endpoint::Endpoint,
};
use crate::gateway::config::{HealthCheck, Speech};

/// Who asks.
const AGENT: &str = "sidegate-health-check";

/// Asks all endpoints that there are, for as long as they are there.
pub(super) async fn watch(upstream: Weak<Upstream>, mut endpoints: signal::Receiver<Endpoints>) {
    loop {
        // Those who are still there are asked from the beginning, but what is known of them stays.
        let mut rounds = JoinSet::new();
        for endpoint in endpoints.borrow_and_update().list() {
            rounds.spawn(rounds_of(upstream.clone(), endpoint.clone()));
        }
        if endpoints.changed().await.is_err() {
            return;
        }
    }
}

async fn rounds_of(upstream: Weak<Upstream>, endpoint: Arc<Endpoint>) {
    let Some(check) = upstream.upgrade().and_then(|upstream| upstream.config.health_check.clone()) else { return };
    let mut tick = interval(check.interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut well, mut ill) = (0, 0);
    loop {
        tick.tick().await;
        let Some(upstream) = upstream.upgrade() else { return };
        (well, ill) = if is_well(&upstream, &endpoint, &check).await { (well + 1, 0) } else { (0, ill + 1) };
        let changed = if well == check.healthy_after {
            endpoint.set_answering(true)
        } else if ill == check.unhealthy_after {
            endpoint.set_answering(false)
        } else {
            false
        };
        if changed {
            let (name, healthy) = (&upstream.config.name, well > 0);
            tracing::warn!(upstream = %name, endpoint = %endpoint.address, healthy, "an endpoint's health has changed");
            upstream.count();
        }
    }
}

/// Whether it answers in time, and with a success.
async fn is_well(upstream: &Upstream, endpoint: &Endpoint, check: &HealthCheck) -> bool {
    matches!(timeout(check.timeout, ask(&upstream.config.speech, endpoint, check)).await, Ok(Some(true)))
}

/// On a connection of its own, so that it is seen whether one can be made. `None` when there is no answer.
async fn ask(speech: &Speech, endpoint: &Endpoint, check: &HealthCheck) -> Option<bool> {
    match connect(endpoint, speech).await.ok()? {
        (io, Protocol::Http1) => ask_http1(io, endpoint, check).await.ok(),
        (io, Protocol::Http2) => {
            let scheme = if matches!(speech, Speech::Tls(_)) { Scheme::HTTPS } else { Scheme::HTTP };
            ask_http2(io, scheme, endpoint, check).await
        }
    }
}

/// All that is of interest stands in the response's first bytes: `HTTP/1.1 200`.
async fn ask_http1(mut io: Io, endpoint: &Endpoint, check: &HealthCheck) -> io::Result<bool> {
    let (path, host) = (&check.path, &endpoint.authority);
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: {AGENT}\r\nconnection: close\r\n\r\n");
    io.write_all(request.as_bytes()).await?;
    io.flush().await?;
    let mut first = [0; 12];
    io.read_exact(&mut first).await?;
    Ok(first.starts_with(b"HTTP/1.") && first[8..].starts_with(b" 2") && first[10..].iter().all(u8::is_ascii_digit))
}

async fn ask_http2(io: Io, scheme: Scheme, endpoint: &Endpoint, check: &HealthCheck) -> Option<bool> {
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.ok()?;
    // It ends when nobody asks any more.
    tokio::spawn(connection);
    let uri = Uri::builder().scheme(scheme).authority(&*endpoint.authority).path_and_query(check.path.clone());
    let request = Request::builder().uri(uri.build().ok()?).header(header::USER_AGENT, AGENT);
    let response = sender.send_request(request.body(Empty::<Bytes>::new()).ok()?).await.ok()?;
    Some(response.status().is_success())
}
