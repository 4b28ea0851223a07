//! A WebSocket to an upstream: a connection of its own, over which the handshake goes, and then whatever is said.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Version, response::Parts};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use tokio::{
    task::spawn_local,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    UpstreamFailure,
    connect::{Io, Protocol},
    form,
    forward::{Forwarder, Place},
    lane::Active,
    multiplexed::LocalExec,
    outgoing::Outgoing,
};
use crate::{
    gateway::{authorize::Permit, config::Speech, headers, websocket},
    http::{Body, RequestBody},
};

/// What an upstream says to a WebSocket that it does not want is passed on up to this size, in bytes.
const MAX_REFUSAL: usize = 64 * 1024;
/// How often a new connection is asked whether it takes extended CONNECTs: nobody says when that is settled.
const ASK_INTERVAL: Duration = Duration::from_millis(2);
/// How long that may take: the other end's settings are the first thing it says.
const MAX_SETTLING: Duration = Duration::from_secs(1);

/// What became of a handshake.
pub(in crate::gateway) enum Handshaken {
    /// The upstream has agreed, in these words, and speaks on this connection.
    Tunnel(Box<Parts>, OpenTunnel),
    /// It has not; this is what it says instead.
    Refused(Response<Body>),
}

/// The upstream's side of a tunnel, and what it occupies while it is open.
pub(in crate::gateway) struct OpenTunnel {
    pub(in crate::gateway) stream: TokioIo<Upgraded>,
    /// How long it may be silent in both directions.
    pub(in crate::gateway) idle_timeout: Duration,
    _place: Place,
    _active: Active,
}

impl Forwarder {
    /// Asks for a WebSocket. The request's headers are ready, but for the handshake's own.
    pub(in crate::gateway) async fn open_tunnel(
        self: &Rc<Self>,
        _proof: &Permit<'_>,
        request: Request<RequestBody>,
        now: std::time::Instant,
    ) -> Result<Handshaken, UpstreamFailure> {
        let place = self.enter().await?;
        let (active, io, protocol) = self.connect_own(now).await?;
        let request = self.outgoing(request);
        let authority = active.lane().endpoint.authority.clone();
        let config = self.config();
        let answered = async {
            match protocol {
                Protocol::Http1 => over_http1(io, request, &authority).await,
                Protocol::Http2 => over_http2(io, request, &authority, matches!(config.speech, Speech::Tls(_))).await,
            }
        };
        let deadline = Instant::now() + config.response_timeout;
        let (mut response, agreed) =
            timeout_at(deadline, answered).await.map_err(|_| UpstreamFailure::ResponseTimeout)??;
        headers::to_client(response.headers_mut());
        if !agreed {
            return refused(response, deadline).await;
        }
        let upgrade = hyper::upgrade::on(&mut response);
        let upgraded = timeout_at(deadline, upgrade).await.map_err(|_| UpstreamFailure::ResponseTimeout)?;
        let stream = TokioIo::new(upgraded.map_err(|_| UpstreamFailure::Broken)?);
        let tunnel = OpenTunnel { stream, idle_timeout: config.tunnel_idle_timeout, _place: place, _active: active };
        Ok(Handshaken::Tunnel(Box::new(response.into_parts().0), tunnel))
    }
}

/// The answer to a handshake, and whether it agrees.
type Answered = Result<(Response<Incoming>, bool), UpstreamFailure>;

async fn over_http1(io: Io, mut request: Request<Outgoing>, authority: &str) -> Answered {
    let key = websocket::ask_http1(&mut request).ok_or(UpstreamFailure::Broken)?;
    form::for_http1(&mut request, authority);
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(broken)?;
    spawn_local(connection.with_upgrades());
    let response = sender.send_request(request.map(bodiless)).await.map_err(broken)?;
    // 101 and nothing else; and 101 only by who has read what was asked.
    match (response.status(), websocket::has_agreed(response.headers(), &key)) {
        (http::StatusCode::SWITCHING_PROTOCOLS, true) => Ok((response, true)),
        (http::StatusCode::SWITCHING_PROTOCOLS, false) => Err(UpstreamFailure::Broken),
        _ => Ok((response, false)),
    }
}

async fn over_http2(io: Io, mut request: Request<Outgoing>, authority: &str, tls: bool) -> Answered {
    websocket::ask_http2(&mut request);
    form::for_http2(&mut request, authority, tls).map_err(|_| UpstreamFailure::RequestHost)?;
    let (mut sender, connection) =
        http2::Builder::new(LocalExec::default()).handshake(TokioIo::new(io)).await.map_err(broken)?;
    // What moves frames is a task of its own by now.
    let settled = async {
        while !connection.is_extended_connect_protocol_enabled() {
            sleep(ASK_INTERVAL).await;
        }
    };
    // RFC 8441 §3: who does not offer it is not asked.
    timeout(MAX_SETTLING, settled).await.map_err(|_| UpstreamFailure::Broken)?;
    // Whoever uses the connection is told of its end by the handshake or the tunnel that it breaks.
    spawn_local(connection);
    let response = sender.send_request(request.map(bodiless)).await.map_err(broken)?;
    let agreed = response.status().is_success();
    Ok((response, agreed))
}

/// A handshake has no body.
fn bodiless(_: Outgoing) -> Empty<Bytes> {
    Empty::new()
}

fn broken(error: hyper::Error) -> UpstreamFailure {
    tracing::debug!(%error, "a handshake with an upstream failed");
    UpstreamFailure::Broken
}

async fn refused(response: Response<Incoming>, deadline: Instant) -> Result<Handshaken, UpstreamFailure> {
    let (mut head, body) = response.into_parts();
    let body = timeout_at(deadline, Limited::new(body, MAX_REFUSAL).collect()).await;
    let body: Bytes =
        body.map_err(|_| UpstreamFailure::ResponseTimeout)?.map_err(|_| UpstreamFailure::Broken)?.to_bytes();
    // It is whole now, however it came.
    head.headers.remove(http::header::CONTENT_LENGTH);
    head.version = Version::HTTP_11;
    head.extensions.clear();
    Ok(Handshaken::Refused(Response::from_parts(head, Body::from(body))))
}
