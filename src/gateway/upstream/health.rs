//! Active health checks: each address is asked now and then, once for the whole process.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Version, header};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    sync::watch as signal,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    Endpoints, Upstream,
    connect::{Protocol, connect},
    endpoint::Endpoint,
};
use crate::gateway::config::{HealthCheck, Speech};

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
    let patience: Duration = check.timeout;
    matches!(timeout(patience, ask(&upstream.config.speech, endpoint, check)).await, Ok(Some(true)))
}

/// On a connection of its own, so that it is seen whether one can be made. `None` when there is no answer.
async fn ask(speech: &Speech, endpoint: &Endpoint, check: &HealthCheck) -> Option<bool> {
    let (io, protocol) = connect(endpoint, speech).await.ok()?;
    let mut request = Request::new(Empty::<Bytes>::new());
    request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("sidegate-health-check"));
    // Connections are left to tasks, which end when nobody asks any more.
    let response = match protocol {
        Protocol::Http1 => {
            let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.ok()?;
            tokio::spawn(connection);
            *request.uri_mut() = check.path.clone().into();
            request.headers_mut().insert(header::HOST, HeaderValue::try_from(&*endpoint.authority).ok()?);
            request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            sender.send_request(request).await.ok()?
        }
        Protocol::Http2 => {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.ok()?;
            tokio::spawn(connection);
            let scheme = if matches!(speech, Speech::Tls(_)) { "https" } else { "http" };
            let uri = http::Uri::builder().scheme(scheme).authority(&*endpoint.authority);
            *request.uri_mut() = uri.path_and_query(check.path.clone()).build().ok()?;
            *request.version_mut() = Version::HTTP_2;
            sender.send_request(request).await.ok()?
        }
    };
    Some(response.status().is_success())
}
