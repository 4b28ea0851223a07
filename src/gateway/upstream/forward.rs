//! One worker's way to one upstream: a request in, its answer out, streaming both ways.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Instant,
};

use http::{Method, Request, Response, Version};
use http_body::Body as _;
use hyper::{body::Incoming, client::conn::TrySendError};
use tokio::{
    sync::watch,
    time::{Sleep, sleep_until, timeout},
};

use super::{
    Endpoints, Upstream, UpstreamFailure,
    body::{Answering, Held, Outgoing, Sending},
    endpoint::State,
    form, grpc,
    lane::{Active, Connection, Lane, Lease},
    patience::{Overdue, Patience, Waiting},
};
use crate::{
    gateway::{
        authorize::Permit,
        config::{Speech, Upstream as Config},
        headers::{self, Reserved},
    },
    http::{Body, RequestBody},
    telemetry::NotConnected,
};

/// The way.
pub(in crate::gateway) struct Forwarder {
    upstream: Arc<Upstream>,
    reserved: Arc<Reserved>,
    patience: Rc<Patience>,
    endpoints: RefCell<watch::Receiver<Endpoints>>,
    lanes: RefCell<Vec<Rc<Lane>>>,
    /// Where the search for the lane with the fewest requests begins, so that equals take turns.
    turn: Cell<usize>,
}

/// A request's place among those that an upstream may have in flight.
pub(super) struct Place(Rc<Forwarder>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.upstream.limit.leave();
    }
}

/// A failed exchange; with the request where it may be sent again.
struct Failed {
    why: UpstreamFailure,
    again: Option<Box<Request<Outgoing>>>,
    /// Whether it speaks against the endpoint.
    blame: bool,
}

impl Forwarder {
    pub(in crate::gateway) fn new(
        upstream: &Arc<Upstream>,
        reserved: &Arc<Reserved>,
        patience: &Rc<Patience>,
    ) -> Rc<Self> {
        let forwarder = Self {
            upstream: upstream.clone(),
            reserved: reserved.clone(),
            patience: patience.clone(),
            endpoints: RefCell::new(upstream.endpoints.subscribe()),
            lanes: RefCell::default(),
            turn: Cell::new(0),
        };
        forwarder.set_lanes();
        Rc::new(forwarder)
    }

    /// Closes what has been idle for too long.
    pub(in crate::gateway) fn sweep(&self, now: Instant) {
        self.lanes.borrow().iter().for_each(|lane| lane.sweep(now));
    }

    /// Sends a request whose headers are ready. It takes a [`Permit`], which only `authorize` makes; `now` is when it did.
    pub(in crate::gateway) async fn forward(
        self: &Rc<Self>,
        _proof: &Permit<'_>,
        request: Request<RequestBody>,
        now: Instant,
    ) -> Result<Response<Body>, UpstreamFailure> {
        let asked = if *request.method() == Method::POST { grpc::timeout(request.headers()) } else { None };
        let Some(most) = self.upstream.config.total_timeout.into_iter().chain(asked).min() else {
            return self.attempt(request, now, None).await;
        };
        let deadline = tokio::time::Instant::from_std(now) + most;
        // Boxed, since only these are timed as a whole, and the others need not carry the room for it.
        let sleep = Box::pin(sleep_until(deadline));
        tokio::time::timeout_at(deadline, Box::pin(self.attempt(request, now, Some(sleep))))
            .await
            .unwrap_or(Err(UpstreamFailure::ResponseTimeout))
    }

    async fn attempt(
        self: &Rc<Self>,
        request: Request<RequestBody>,
        mut now: Instant,
        deadline: Option<Pin<Box<Sleep>>>,
    ) -> Result<Response<Body>, UpstreamFailure> {
        let place = self.enter().await?;
        let (mut request, sending) = self.outgoing(request);
        let mut tried = Vec::new();
        let mut retries = self.upstream.config.retries;
        loop {
            let mut lease = self.lease(&mut tried, now).await?;
            let waiting = self.patience.note(now, self.upstream.config.response_timeout, sending.clone());
            match self.exchange(&mut lease, request, &waiting, sending.as_deref()).await {
                Ok(response) => {
                    lease.lane().endpoint.succeeded();
                    let held = Held { lease, sending, waiting, place };
                    return Ok(self.answer(response, held, deadline));
                }
                Err(Failed { again: Some(untouched), why, blame: _ }) if retries > 0 => {
                    tracing::debug!(upstream = %self.upstream.config.name, ?why, "a request is sent once more");
                    self.upstream.metrics.retried();
                    retries -= 1;
                    request = *untouched;
                    tried.push(lease.lane().clone());
                    now = Instant::now();
                }
                Err(Failed { why, blame, .. }) => {
                    if blame {
                        self.upstream.endpoint_failed(&lease.lane().endpoint);
                    }
                    return Err(why);
                }
            }
        }
    }

    /// Waits until there is room for one more request.
    pub(super) async fn enter(self: &Rc<Self>) -> Result<Place, UpstreamFailure> {
        self.upstream.limit.enter().await?;
        Ok(Place(self.clone()))
    }

    pub(super) fn config(&self) -> &Config {
        &self.upstream.config
    }

    /// Notes that a lane has had its turn; whether all have.
    pub(super) fn all_tried(&self, tried: &mut Vec<Rc<Lane>>, lane: &Rc<Lane>) -> bool {
        tried.push(lane.clone());
        self.lanes.borrow().iter().all(|lane| was_tried(lane, tried))
    }

    pub(super) fn outgoing(&self, request: Request<RequestBody>) -> (Request<Outgoing>, Option<Rc<Sending>>) {
        let (mut head, body) = request.into_parts();
        if head.version == Version::HTTP_2 {
            form::join_cookies(&mut head.headers);
        }
        let (body, sending) = Outgoing::new(body, self.upstream.config.idle_timeout, &self.reserved);
        (Request::from_parts(head, body), sending)
    }

    /// A connection to an endpoint. One that cannot be reached is passed over, as nothing has been sent: by the next one,
    /// until there is none. Those in `tried` have had their turn; only when all of them have, one of them has another.
    async fn lease(&self, tried: &mut Vec<Rc<Lane>>, now: Instant) -> Result<Lease, UpstreamFailure> {
        let again = !tried.is_empty();
        let mut slow = 0;
        loop {
            let Some(active) = self.choose(tried, now).await else { return Err(UpstreamFailure::Unreachable) };
            let lane = active.lane().clone();
            match active.lease(again).await {
                Ok(lease) => return Ok(lease),
                Err(why) => {
                    slow += usize::from(why == NotConnected::TimedOut);
                    tried.push(lane);
                    let left = self.lanes.borrow().iter().any(|lane| !was_tried(lane, tried));
                    // Each of those has cost the whole of the timeout.
                    if !left || slow > self.upstream.config.retries {
                        return Err(why.into());
                    }
                }
            }
        }
    }

    /// The lane with the fewest requests among those that are well. When none is, all of them are tried all the same: that
    /// every one is ill is less likely than that something is wrong with the way we tell.
    pub(super) async fn choose(&self, tried: &[Rc<Lane>], now: Instant) -> Option<Active> {
        if self.endpoints.borrow().has_changed().unwrap_or(false) {
            self.set_lanes();
        }
        if self.lanes.borrow().is_empty() {
            self.first_look_up().await;
        }
        let lanes = self.lanes.borrow();
        if let [only] = &lanes[..] {
            return Some(Active::on(only));
        }
        let healthy = |lane: &Lane| lane.endpoint.state(now) == State::Healthy;
        let lane = self
            .least(&lanes, |lane| !was_tried(lane, tried) && healthy(lane))
            .or_else(|| self.least(&lanes, |lane| !was_tried(lane, tried)))
            .or_else(|| self.least(&lanes, |lane| healthy(lane)))
            .or_else(|| self.least(&lanes, |_| true))?;
        Some(Active::on(lane))
    }

    fn least<'a>(&self, lanes: &'a [Rc<Lane>], may: impl Fn(&Rc<Lane>) -> bool) -> Option<&'a Rc<Lane>> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let (before, from) = lanes.split_at(turn % lanes.len().max(1));
        from.iter().chain(before).filter(|lane| may(lane)).min_by_key(|lane| lane.active())
    }

    /// Takes over the endpoints there are now, with the connections to those that there were before.
    fn set_lanes(&self) {
        let endpoints = self.endpoints.borrow_mut().borrow_and_update().clone();
        let mut lanes = self.lanes.borrow_mut();
        let before = std::mem::take(&mut *lanes);
        *lanes = endpoints
            .list()
            .iter()
            .map(|endpoint| {
                let known = before.iter().find(|lane| Arc::ptr_eq(&lane.endpoint, endpoint));
                known.cloned().unwrap_or_else(|| Lane::new(endpoint.clone(), self.upstream.clone()))
            })
            .collect();
    }

    /// Waits until the names have been looked up for the first time, if they have not been.
    async fn first_look_up(&self) {
        let mut endpoints = self.endpoints.borrow().clone();
        let looked_up = endpoints.wait_for(Endpoints::are_known);
        let _ = timeout(self.upstream.config.connect_timeout, looked_up).await;
        self.set_lanes();
    }

    async fn exchange(
        &self,
        lease: &mut Lease,
        mut request: Request<Outgoing>,
        waiting: &Waiting,
        sending: Option<&Sending>,
    ) -> Result<Response<Incoming>, Failed> {
        let (rested, endpoint) = (lease.rested, lease.lane().endpoint.clone());
        let broken = Failed { why: UpstreamFailure::Broken, again: None, blame: true };
        let bodiless = sending.is_none();
        let (copy, sent) = match lease.connection() {
            Some(Connection::One { sender, .. }) => {
                form::for_http1(&mut request, &endpoint.authority);
                // Half a microsecond, which a connection in constant use can do without: it is not the one that is timed
                // out.
                let copy = (rested && bodiless && request.method().is_safe()).then(|| form::copy(&request));
                (copy, in_time(sender.try_send_request(request), waiting).await)
            }
            Some(Connection::Many(connection)) => {
                let tls = matches!(self.upstream.config.speech, Speech::Tls(_));
                if form::for_http2(&mut request, &endpoint.authority, tls).is_err() {
                    return Err(Failed { why: UpstreamFailure::RequestHost, again: None, blame: false });
                }
                // A connection may be wound up at any time, while requests are under way on it.
                let copy = bodiless.then(|| form::copy(&request));
                let sent = connection.sender().borrow_mut().try_send_request(request);
                (copy, in_time(sent, waiting).await)
            }
            None => return Err(broken),
        };
        match sent {
            Ok(Ok(response)) => form::sound(response).ok_or(broken),
            Ok(Err(error)) => Err(failed(error, copy, rested, sending)),
            // Dropping the exchange closes the connection, or resets the stream.
            Err(Overdue::Upstream) => Err(Failed { why: UpstreamFailure::ResponseTimeout, ..broken }),
            Err(Overdue::Client) => Err(Failed { why: UpstreamFailure::RequestBody, again: None, blame: false }),
        }
    }

    fn answer(&self, response: Response<Incoming>, held: Held, deadline: Option<Pin<Box<Sleep>>>) -> Response<Body> {
        let (mut head, incoming) = response.into_parts();
        headers::to_client(&mut head.headers);
        head.version = Version::HTTP_11;
        head.extensions.clear();
        if incoming.is_end_stream() {
            held.settle();
            return Response::from_parts(head, Body::empty());
        }
        held.waiting.rest();
        let body = Answering::new(incoming, held, deadline, self.upstream.config.idle_timeout);
        Response::from_parts(head, Body::Streamed(Box::pin(body)))
    }
}

fn was_tried(lane: &Rc<Lane>, tried: &[Rc<Lane>]) -> bool {
    tried.iter().any(|other| Rc::ptr_eq(lane, other))
}

/// What `exchange` comes to, unless it is kept waiting for too long.
async fn in_time<T>(exchange: impl Future<Output = T>, waiting: &Waiting) -> Result<T, Overdue> {
    let mut exchange = pin!(exchange);
    poll_fn(|cx| match exchange.as_mut().poll(cx) {
        Poll::Ready(outcome) => Poll::Ready(Ok(outcome)),
        Poll::Pending => waiting.poll_overdue(cx).map(Err),
    })
    .await
}

/// What has become of a request that was not answered, and whether it may be sent again: what the upstream has got nothing
/// of, or says that it has not looked at; and what it may get twice, where it may have closed the connection in the moment
/// in which we took it (RFC 9110 §9.2.2, RFC 9113 §8.7).
fn failed(
    mut error: TrySendError<Request<Outgoing>>,
    copy: Option<Box<Request<Outgoing>>>,
    rested: bool,
    sending: Option<&Sending>,
) -> Failed {
    let untouched = error.take_message().map(Box::new);
    let error = error.into_error();
    tracing::debug!(?error, "an exchange with an upstream failed");
    if sending.is_some_and(Sending::is_broken) {
        return Failed { why: UpstreamFailure::RequestBody, again: None, blame: false };
    }
    let why = UpstreamFailure::Broken;
    if untouched.is_some() {
        return Failed { why, again: untouched, blame: !rested };
    }
    let unprocessed = is_unprocessed(&error);
    let again = copy.filter(|copy| unprocessed || copy.method().is_safe());
    Failed { why, again, blame: !rested && !unprocessed }
}

/// Whether the other end says that it has done nothing about the request: a stream that it refused, or one that is beyond
/// the last it will look at before it goes away.
fn is_unprocessed(error: &hyper::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            return h2.is_remote() && (h2.is_go_away() || h2.reason() == Some(h2::Reason::REFUSED_STREAM));
        }
        cause = error.source();
    }
    false
}
