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
    time::{Sleep, sleep_until, timeout, timeout_at},
};

use super::{
    Endpoints, Upstream, UpstreamFailure,
    body::{Answering, Held, Outgoing, Sending, Stream},
    connect::{Io, Protocol},
    endpoint::{Endpoint, State},
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

/// A failed exchange.
struct Failed {
    why: UpstreamFailure,
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
        let place = self.enter().await?;
        let sending = request.as_ref().and_then(|request| request.body().sending());
        let mut tried = Vec::new();
        let mut retries = self.upstream.config.retries;
        loop {
            let mut lease = match self.at_hand(&tried, now) {
                Ok(lease) => lease,
                // Boxed, since few requests come this way, and all of them would carry the room for it.
                Err(chosen) => Box::pin(self.connect(chosen, &mut tried, now)).await?,
            };
            let waiting = self.patience.note(now, self.upstream.config.response_timeout, sending.clone());
            match self.exchange(&mut lease, request, &waiting, sending.as_deref()).await {
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
                    now = Instant::now();
                }
            }
        }
    }

    /// Waits until there is room for one more request.
    pub(super) async fn enter(self: &Rc<Self>) -> Result<Place, UpstreamFailure> {
        if !self.upstream.limit.try_enter() {
            // Boxed, as few requests have to wait.
            Box::pin(self.upstream.limit.wait()).await?;
        }
        Ok(Place(self.clone()))
    }

    /// What its upstream is configured with.
    pub(super) fn config(&self) -> &Config {
        &self.upstream.config
    }

    /// A connection that nobody else will have, and its place on the lane it belongs to.
    pub(super) async fn connect_own(&self, now: Instant) -> Result<(Active, Io, Protocol), UpstreamFailure> {
        if self.lanes.borrow().is_empty() {
            self.first_look_up().await;
        }
        let mut tried = Vec::new();
        loop {
            let active = self.choose(&tried, now).ok_or(UpstreamFailure::Unreachable)?;
            match active.open_own().await {
                Ok((io, protocol)) => return Ok((active, io, protocol)),
                Err(why) => {
                    tried.push(active.lane().clone());
                    if self.lanes.borrow().iter().all(|lane| was_tried(lane, &tried)) {
                        return Err(why.into());
                    }
                }
            }
        }
    }

    /// A request as it goes out.
    pub(super) fn outgoing(&self, mut request: Request<RequestBody>) -> Request<Outgoing> {
        if request.version() == Version::HTTP_2 {
            form::join_cookies(request.headers_mut());
        }
        let idle_timeout = self.upstream.config.idle_timeout;
        request.map(|body| Outgoing::new(body, idle_timeout, &self.reserved))
    }

    /// A connection that is there, for a request that has not been tried yet; any other gets one that is new, lest it meet
    /// the same end. Without one, the lane that was chosen for it.
    fn at_hand(&self, tried: &[Rc<Lane>], now: Instant) -> Result<Lease, Option<Active>> {
        match self.choose(tried, now) {
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
            self.first_look_up().await;
            chosen = self.choose(tried, now);
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
                    let left = self.lanes.borrow().iter().any(|lane| !was_tried(lane, tried));
                    // Each of those has cost the whole of the timeout.
                    if !left || slow > self.upstream.config.retries {
                        return Err(why.into());
                    }
                }
            }
            chosen = self.choose(tried, now);
        }
    }

    /// The lane with the fewest requests among those that are well. When none is, all of them are tried all the same: that
    /// every one is ill is less likely than that something is wrong with the way we tell.
    fn choose(&self, tried: &[Rc<Lane>], now: Instant) -> Option<Active> {
        if self.endpoints.borrow().has_changed().unwrap_or(false) {
            self.set_lanes();
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

    /// Sends the request that is there, and leaves it there if it may be sent again.
    async fn exchange(
        &self,
        lease: &mut Lease,
        request: &mut Option<Request<Outgoing>>,
        waiting: &Waiting,
        sending: Option<&Sending>,
    ) -> Result<Response<Incoming>, Failed> {
        let rested = lease.rested;
        let broken = Failed { why: UpstreamFailure::Broken, blame: true };
        let (connection, Endpoint { authority, .. }) = lease.parts();
        let (Some(connection), Some(mut sent)) = (connection, request.take()) else { return Err(broken) };
        let bodiless = sending.is_none();
        let outcome = match connection {
            Connection::One { sender, .. } => {
                form::for_http1(&mut sent, authority);
                // Half a microsecond, which a connection in constant use can do without: it is not the one that is timed
                // out.
                if rested && bodiless && sent.method().is_safe() {
                    *request = Some(form::copy(&sent));
                }
                in_time(pin!(sender.try_send_request(sent)), waiting).await
            }
            Connection::Many(connection) => {
                let tls = matches!(self.upstream.config.speech, Speech::Tls(_));
                if form::for_http2(&mut sent, authority, tls).is_err() {
                    return Err(Failed { why: UpstreamFailure::RequestHost, blame: false });
                }
                // A connection may be wound up at any time, while requests are under way on it.
                if bodiless {
                    *request = Some(form::copy(&sent));
                }
                let answer = connection.sender().borrow_mut().try_send_request(sent.map(Stream));
                in_time(pin!(answer), waiting).await
            }
        };
        match outcome {
            Ok(mut response) => {
                if form::is_sound(&mut response) {
                    return Ok(response);
                }
                *request = None;
                Err(broken)
            }
            Err(Trouble::Failed { error, untouched }) => {
                let untouched = untouched.map(|sent| *sent);
                Err(failed(&error, untouched, request, rested, sending))
            }
            // Dropping the exchange closes the connection, or resets the stream.
            Err(Trouble::Overdue(who)) => {
                *request = None;
                Err(match who {
                    Overdue::Upstream => Failed { why: UpstreamFailure::ResponseTimeout, blame: true },
                    Overdue::Client => Failed { why: UpstreamFailure::RequestBody, blame: false },
                })
            }
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

/// Why there is no answer.
enum Trouble {
    Overdue(Overdue),
    /// With the request, where nothing of it was sent. Boxed, since it would be carried along by every answer.
    Failed {
        error: hyper::Error,
        untouched: Option<Box<Request<Outgoing>>>,
    },
}

/// What `exchange` comes to, unless it is kept waiting for too long.
fn in_time<B: Into<Outgoing>>(
    mut exchange: Pin<&mut impl Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>>>,
    waiting: &Waiting,
) -> impl Future<Output = Result<Response<Incoming>, Trouble>> {
    poll_fn(move |cx| match exchange.as_mut().poll(cx) {
        Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
        Poll::Ready(Err(mut failed)) => {
            let untouched = failed.take_message().map(|request| Box::new(request.map(Into::into)));
            Poll::Ready(Err(Trouble::Failed { error: failed.into_error(), untouched }))
        }
        Poll::Pending => waiting.poll_overdue(cx).map(|who| Err(Trouble::Overdue(who))),
    })
}

/// What has become of a request that was not answered. It is left in `request` if it may be sent again: what the upstream
/// has got nothing of, or says that it has not looked at; and what it may get twice, where it may have closed the connection
/// in the moment in which we took it (RFC 9110 §9.2.2, RFC 9113 §8.7).
fn failed(
    error: &hyper::Error,
    untouched: Option<Request<Outgoing>>,
    request: &mut Option<Request<Outgoing>>,
    rested: bool,
    sending: Option<&Sending>,
) -> Failed {
    tracing::debug!(?error, "an exchange with an upstream failed");
    if sending.is_some_and(Sending::is_broken) {
        return Failed { why: UpstreamFailure::RequestBody, blame: false };
    }
    let mut unprocessed = is_unprocessed(error);
    if untouched.is_some() {
        (*request, unprocessed) = (untouched, true);
    } else if !unprocessed && request.as_ref().is_some_and(|copy| !copy.method().is_safe()) {
        *request = None;
    }
    Failed { why: UpstreamFailure::Broken, blame: !rested && !unprocessed }
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
