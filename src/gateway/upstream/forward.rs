//! One worker's way to one upstream: a request in, its answer out, streaming both ways.

use std::{pin::Pin, rc::Rc, sync::Arc, time::Instant};

use http::{Method, Request, Response, Version};
use tokio::time::{Sleep, sleep_until, timeout_at};

use super::{
    Upstream, UpstreamFailure,
    answering::{Answering, Held, Incoming},
    connect::{Io, Protocol},
    exchange::{Failed, exchange},
    form, grpc,
    lane::{Active, Lane, Lease},
    lanes::Lanes,
    outgoing::Outgoing,
    patience::Patience,
};
use crate::{
    gateway::{
        authorize::Permit,
        config::Upstream as Config,
        headers::{self, Reserved},
        turns::{Turn, Turns},
    },
    http::{Body, RequestBody},
    telemetry::NotConnected,
};

/// The way.
pub(in crate::gateway) struct Forwarder {
    upstream: Arc<Upstream>,
    reserved: Arc<Reserved>,
    patience: Rc<Patience>,
    turns: Rc<Turns>,
    lanes: Lanes,
}

/// A request's place among those that an upstream may have in flight.
pub(super) struct Place(Rc<Forwarder>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.upstream.limit.leave();
    }
}

impl Forwarder {
    pub(in crate::gateway) fn new(
        upstream: &Arc<Upstream>,
        reserved: &Arc<Reserved>,
        patience: &Rc<Patience>,
        turns: &Rc<Turns>,
    ) -> Rc<Self> {
        Rc::new(Self {
            upstream: upstream.clone(),
            reserved: reserved.clone(),
            patience: patience.clone(),
            turns: turns.clone(),
            lanes: Lanes::new(upstream),
        })
    }

    /// Closes what has been idle for too long.
    pub(in crate::gateway) fn sweep(&self, now: Instant) {
        self.lanes.sweep(now);
    }

    /// Sends a request whose headers are ready. It takes a [`Permit`], which only `authorize` makes; `now` is when it did.
    pub(in crate::gateway) async fn forward(
        self: &Rc<Self>,
        _proof: &Permit<'_>,
        request: Request<RequestBody>,
        now: Instant,
    ) -> Result<Response<Body>, UpstreamFailure> {
        let asked = if *request.method() == Method::POST { grpc::timeout(request.headers()) } else { None };
        let most = self.upstream.config.total_timeout.into_iter().chain(asked).min();
        // In one place while all is tried: a request is too large to be handed from one future to the next.
        let mut request = Some(self.outgoing(request));
        let Some(most) = most else { return self.attempt(&mut request, now, None).await };
        let deadline = tokio::time::Instant::from_std(now) + most;
        // Boxed, since only these are timed as a whole, and the others need not carry the room for it.
        let attempt = Box::pin(self.attempt(&mut request, now, Some(Box::pin(sleep_until(deadline)))));
        timeout_at(deadline, attempt).await.unwrap_or(Err(UpstreamFailure::ResponseTimeout))
    }

    async fn attempt(
        self: &Rc<Self>,
        request: &mut Option<Request<Outgoing>>,
        mut now: Instant,
        deadline: Option<Pin<Box<Sleep>>>,
    ) -> Result<Response<Body>, UpstreamFailure> {
        let place = if self.upstream.limit.try_enter() {
            Place(self.clone())
        } else {
            // Boxed, as below: few requests come this way, and all of them would carry the room for it.
            let place = Box::pin(self.wait_to_enter()).await?;
            now = Instant::now();
            place
        };
        let sending = request.as_ref().and_then(|request| request.body().sending());
        let mut tried = Vec::new();
        let mut retries = self.upstream.config.retries;
        loop {
            let lease = match self.at_hand(&tried, now) {
                Ok(lease) => lease,
                Err(chosen) => {
                    let lease = Box::pin(self.connect(chosen, &mut tried, now)).await?;
                    now = Instant::now();
                    lease
                }
            };
            let waiting = self.patience.note(now, self.upstream.config.response_timeout, sending.clone());
            match exchange(&lease, request, &waiting, sending.as_deref()).await {
                Ok(response) => {
                    self.upstream.endpoint_succeeded(&lease.lane().endpoint);
                    let held = Held { lease, sending, waiting, place };
                    return Ok(self.answer(response, held, deadline));
                }
                Err(Failed { why, blame }) => {
                    if blame {
                        self.upstream.endpoint_failed(&lease.lane().endpoint);
                    }
                    if request.is_none() || retries == 0 {
                        return Err(why);
                    }
                    tracing::debug!(upstream = %self.upstream.config.name, ?why, "a request is sent once more");
                    self.upstream.metrics.retried();
                    retries -= 1;
                    tried.push(lease.lane().clone());
                }
            }
        }
    }

    /// A place for one more request, once there is room.
    pub(super) async fn enter(self: &Rc<Self>) -> Result<Place, UpstreamFailure> {
        if self.upstream.limit.try_enter() { Ok(Place(self.clone())) } else { self.wait_to_enter().await }
    }

    async fn wait_to_enter(self: &Rc<Self>) -> Result<Place, UpstreamFailure> {
        self.upstream.limit.wait().await?;
        Ok(Place(self.clone()))
    }

    /// What its upstream is configured with.
    pub(super) fn config(&self) -> &Config {
        &self.upstream.config
    }

    /// A request as it goes out.
    pub(super) fn outgoing(&self, mut request: Request<RequestBody>) -> Request<Outgoing> {
        if request.version() == Version::HTTP_2 {
            form::join_cookies(request.headers_mut());
        }
        let idle_timeout = self.upstream.config.idle_timeout;
        request.map(|body| Outgoing::new(body, idle_timeout, &self.turns, &self.reserved))
    }

    /// A connection that nobody else will have, and its place on the lane it belongs to.
    pub(super) async fn connect_own(&self, now: Instant) -> Result<(Active, Io, Protocol), UpstreamFailure> {
        let mut tried = Vec::new();
        if !self.lanes.any_left(&tried) {
            self.lanes.first_look_up().await;
        }
        loop {
            let active = self.lanes.choose(&tried, now).ok_or(UpstreamFailure::Unreachable)?;
            match active.open_own().await {
                Ok((io, protocol)) => return Ok((active, io, protocol)),
                Err(why) => {
                    tried.push(active.lane().clone());
                    if !self.lanes.any_left(&tried) {
                        return Err(why.into());
                    }
                }
            }
        }
    }

    /// A connection that is there, for a request that has not been tried yet; any other gets one that is new, lest it meet
    /// the same end. Without one, the lane that was chosen for it.
    fn at_hand(&self, tried: &[Rc<Lane>], now: Instant) -> Result<Lease, Option<Active>> {
        match self.lanes.choose(tried, now) {
            Some(chosen) if tried.is_empty() => chosen.at_hand().map_err(Some),
            chosen => Err(chosen),
        }
    }

    /// A new connection to the endpoint that was chosen. One that cannot be reached is passed over, as nothing has been
    /// sent: by the next one, until there is none. Those in `tried` have had their turn; only when all of them have, one of
    /// them has another.
    async fn connect(
        &self,
        mut chosen: Option<Active>,
        tried: &mut Vec<Rc<Lane>>,
        now: Instant,
    ) -> Result<Lease, UpstreamFailure> {
        if chosen.is_none() {
            self.lanes.first_look_up().await;
            chosen = self.lanes.choose(tried, now);
        }
        let mut slow = 0;
        loop {
            let Some(active) = chosen else { return Err(UpstreamFailure::Unreachable) };
            let lane = active.lane().clone();
            match active.connect().await {
                Ok(lease) => return Ok(lease),
                Err(why) => {
                    slow += usize::from(why == NotConnected::TimedOut);
                    tried.push(lane);
                    // Each of the slow ones has cost the whole of the timeout.
                    if !self.lanes.any_left(tried) || slow > self.upstream.config.retries {
                        return Err(why.into());
                    }
                }
            }
            chosen = self.lanes.choose(tried, now);
        }
    }

    fn answer(&self, response: Response<Incoming>, held: Held, deadline: Option<Pin<Box<Sleep>>>) -> Response<Body> {
        let (mut head, incoming) = response.into_parts();
        headers::to_client(&mut head.headers);
        head.version = Version::HTTP_11;
        head.extensions.clear();
        if let Some(whole) = incoming.take_whole() {
            held.settle();
            return Response::from_parts(head, Body::from(whole));
        }
        if let Incoming::Http1(connection) = &incoming {
            connection.send_rest();
        }
        held.waiting.rest();
        let body = Answering::new(incoming, held, deadline, self.upstream.config.idle_timeout, Turn::new(&self.turns));
        Response::from_parts(head, Body::Streamed(Box::pin(body)))
    }
}
