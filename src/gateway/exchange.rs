//! What follows a permit: the exchange with the upstream, and a watch over it for as long as it goes on.

use std::{rc::Rc, time::Instant};

use http::{Request, Response};
use http_body::Body as _;

use super::{
    Worker,
    authorize::Permit,
    reject::Rejection,
    streams::{self, Watched},
    tunnel,
    upstream::{Handshaken, UpstreamFailure},
    websocket::Handshake,
};
use crate::http::{Body, RequestBody};

impl Worker {
    /// Sends a request to its upstream; answers what that says.
    pub(super) async fn exchange(
        &self,
        permit: &Permit<'_>,
        request: Request<RequestBody>,
        is_grpc: bool,
        decided: Instant,
    ) -> Result<Response<Body>, Rejection> {
        let forwarder = &self.forwarders[permit.route().upstream];
        let is_upload = streams::is_long(&request.body().size_hint());
        let watched = if is_upload { self.watch(permit) } else { None };
        let answer = match &watched {
            None => forwarder.forward(permit, request, decided).await,
            Some(watched) => {
                // Boxed: few are long, and the others need not have room for this.
                let exchange = Box::pin(forwarder.forward(permit, request, decided));
                watched.run(exchange).await.map_err(|ending| Rejection::Token(ending.into()))?
            }
        };
        let answer = answer.map_err(Rejection::Upstream)?;
        if !streams::is_long(&answer.body().size_hint()) {
            return Ok(answer);
        }
        Ok(match watched.or_else(|| self.watch(permit)) {
            Some(watched) => answer.map(|body| streams::guard(body, watched, is_grpc)),
            None => answer,
        })
    }

    /// Opens a WebSocket to the upstream, if that agrees.
    pub(super) async fn connect(
        self: &Rc<Self>,
        permit: &Permit<'_>,
        request: Request<RequestBody>,
        handshake: &Handshake,
        decided: Instant,
    ) -> Result<Response<Body>, Rejection> {
        let opening = Box::pin(self.forwarders[permit.route().upstream].open_tunnel(permit, request, decided));
        Ok(match opening.await.map_err(Rejection::Upstream)? {
            Handshaken::Tunnel(head, upstream) => {
                handshake.answer(&head.headers, tunnel::tunnel(self.clone(), upstream, self.watch(permit)))
            }
            // Over HTTP/2 it would be taken for a yes.
            Handshaken::Refused(response) if handshake.is_agreed_by(response.status()) => {
                return Err(Rejection::Upstream(UpstreamFailure::Broken));
            }
            Handshaken::Refused(response) => response,
        })
    }

    /// A watch over what the permit has begun, if its route wants one.
    fn watch(&self, permit: &Permit<'_>) -> Option<Watched> {
        self.streams.watch(permit.route().close_streams, permit.verified()?)
    }
}
