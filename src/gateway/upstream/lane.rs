//! One worker's connections to one endpoint. No lock: a worker is one thread.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use tokio::{sync::Notify, task::spawn_local, time::timeout};

use super::{
    Upstream, UpstreamFailure,
    connect::{Io, Protocol, connect},
    endpoint::Endpoint,
    http1::Http1,
    multiplexed::Multiplexed,
    outgoing::Sending,
};
use crate::{gateway::config::Speech, telemetry::NotConnected};

/// The connections of one worker to one endpoint.
pub(super) struct Lane {
    pub(super) endpoint: Arc<Endpoint>,
    upstream: Arc<Upstream>,
    /// How many requests are under way, or wait for a connection.
    active: Cell<usize>,
    /// What was spoken on the latest connection, or will be.
    speaks: Cell<Option<Protocol>>,
    /// HTTP/1.1 without work. The most recently used last, so that a quiet hour lets the others time out.
    idle: RefCell<Vec<Idle>>,
    /// HTTP/2. The oldest first, and used first, so that those who were needed once time out.
    multiplexed: RefCell<Vec<Rc<Multiplexed>>>,
    /// A connection that is being made for more than one.
    attempt: RefCell<Option<Rc<Attempt>>>,
    /// When the lane was last swept: near enough to say since when a connection is idle, and cheaper than to ask.
    swept: Cell<Instant>,
}

struct Idle {
    connection: Rc<Http1>,
    since: Instant,
}

/// A connection on the way that several wait for.
#[derive(Default)]
struct Attempt {
    over: Notify,
    outcome: Cell<Option<Result<(), NotConnected>>>,
}

/// A request's place on a lane, from when the lane is chosen for it.
pub(super) struct Active(Rc<Lane>);

/// A connection lent out. It goes back by [`Lease::give_back`]; when it is dropped, an HTTP/1.1 connection is closed, since
/// one that may be out of step is never used again.
pub(super) struct Lease {
    active: Active,
    connection: Option<Connection>,
    /// Whether it has lain idle for a while, so that the upstream may be about to close it.
    pub(super) rested: bool,
}

/// What requests are sent on.
pub(super) enum Connection {
    /// HTTP/1.1: one at a time.
    One(Rc<Http1>),
    /// HTTP/2.
    Many(Rc<Multiplexed>),
}

impl Lane {
    pub(super) fn new(endpoint: Arc<Endpoint>, upstream: Arc<Upstream>) -> Rc<Self> {
        // What TLS carries is settled when it is there.
        let speaks = match upstream.config.speech {
            Speech::Http1 => Some(Protocol::Http1),
            Speech::Http2 => Some(Protocol::Http2),
            Speech::Tls(_) => None,
        };
        Rc::new(Self {
            endpoint,
            upstream,
            active: Cell::new(0),
            speaks: Cell::new(speaks),
            idle: RefCell::default(),
            multiplexed: RefCell::default(),
            attempt: RefCell::default(),
            swept: Cell::new(Instant::now()),
        })
    }

    /// How many requests it has.
    pub(super) fn active(&self) -> usize {
        self.active.get()
    }

    /// Closes what has been idle for too long, or whose other end has gone.
    pub(super) fn sweep(&self, now: Instant) {
        self.swept.set(now);
        let keep_alive = self.upstream.config.keep_alive;
        let fresh =
            |idle: &Idle| now.saturating_duration_since(idle.since) < keep_alive && idle.connection.is_at_rest();
        self.idle.borrow_mut().retain(fresh);
        self.multiplexed.borrow_mut().retain(|connection| connection.sweep(now, keep_alive));
    }

    /// An idle HTTP/1.1 connection; with whether it has lain idle for a while.
    fn take_idle(&self) -> Option<(Connection, bool)> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let Idle { connection, since } = idle.pop()?;
            // The other end may have hung up since.
            if connection.is_at_rest() {
                return Some((Connection::One(connection), since != self.swept.get()));
            }
        }
    }

    /// An HTTP/2 connection with room.
    fn share(&self) -> Option<Connection> {
        let connections = self.multiplexed.borrow();
        let connection = connections.iter().find(|connection| connection.has_room())?;
        connection.enter();
        Some(Connection::Many(connection.clone()))
    }

    async fn open(&self) -> Result<(Io, Protocol), NotConnected> {
        let (io, protocol) = self.open_as(&self.upstream.config.speech).await?;
        self.speaks.set(Some(protocol));
        Ok((io, protocol))
    }

    async fn open_as(&self, speech: &Speech) -> Result<(Io, Protocol), NotConnected> {
        let Upstream { config, metrics, .. } = &*self.upstream;
        match timeout(config.connect_timeout, connect(&self.endpoint, speech)).await {
            Ok(Ok((io, protocol))) => Ok((io.counted(metrics.connected()), protocol)),
            Ok(Err(why)) => Err(self.not_connected(why)),
            Err(_) => Err(self.not_connected(NotConnected::TimedOut)),
        }
    }

    fn not_connected(&self, why: NotConnected) -> NotConnected {
        self.upstream.metrics.not_connected(why);
        self.upstream.endpoint_failed(&self.endpoint);
        why
    }

    /// Makes a connection that is known to be HTTP/1.1, or makes the best of it if it is not.
    async fn connect_one(&self) -> Result<Connection, NotConnected> {
        let (io, protocol) = self.open().await?;
        let connection = match protocol {
            Protocol::Http1 => return Ok(Connection::One(Http1::new(io))),
            Protocol::Http2 => self.start_http2(io).await.map(|connection| {
                connection.enter();
                Connection::Many(connection)
            }),
        };
        connection.map_err(|error| self.broke_at_once(&error))
    }

    /// Makes a connection that others may share, or waits for one that is being made.
    async fn connect_many(self: &Rc<Self>) -> Result<Connection, NotConnected> {
        let joining = async {
            loop {
                self.join().await?;
                if let Some(connection) = self.share() {
                    return Ok(connection);
                }
                // It turned out to be HTTP/1.1, so that there is one for each.
                if self.speaks.get() == Some(Protocol::Http1) {
                    return match self.take_idle() {
                        Some((connection, _)) => Ok(connection),
                        None => self.connect_one().await,
                    };
                }
            }
        };
        match timeout(self.upstream.config.connect_timeout, joining).await {
            Ok(connection) => connection,
            // An attempt that was too slow is counted where it is made.
            Err(_) => Err(NotConnected::TimedOut),
        }
    }

    /// Waits for the one connection that is being made, and sees to it that one is.
    async fn join(self: &Rc<Self>) -> Result<(), NotConnected> {
        let running = self.attempt.borrow().clone();
        let attempt = running.unwrap_or_else(|| self.begin_attempt());
        loop {
            if let Some(outcome) = attempt.outcome.get() {
                return outcome;
            }
            attempt.over.notified().await;
        }
    }

    /// On a task of its own: it goes on when the request that asked for it does not.
    fn begin_attempt(self: &Rc<Self>) -> Rc<Attempt> {
        let attempt = Rc::new(Attempt::default());
        *self.attempt.borrow_mut() = Some(attempt.clone());
        let (lane, running) = (self.clone(), attempt.clone());
        spawn_local(async move {
            let outcome = lane.attempt_one().await;
            *lane.attempt.borrow_mut() = None;
            running.outcome.set(Some(outcome));
            running.over.notify_waiters();
        });
        attempt
    }

    async fn attempt_one(&self) -> Result<(), NotConnected> {
        let (io, protocol) = self.open().await?;
        match protocol {
            Protocol::Http2 => self.start_http2(io).await.map(drop).map_err(|error| self.broke_at_once(&error)),
            Protocol::Http1 => {
                self.put_by(Connection::One(Http1::new(io)));
                Ok(())
            }
        }
    }

    async fn start_http2(&self, io: Io) -> hyper::Result<Rc<Multiplexed>> {
        let connection = Rc::new(Multiplexed::start(io, &self.upstream.config).await?);
        self.multiplexed.borrow_mut().push(connection.clone());
        Ok(connection)
    }

    fn broke_at_once(&self, error: &hyper::Error) -> NotConnected {
        tracing::debug!(endpoint = %self.endpoint.address, %error, "an upstream connection broke at once");
        self.not_connected(NotConnected::Unreachable)
    }

    /// Keeps a connection for the next request; one too many is closed.
    fn put_by(&self, connection: Connection) {
        match connection {
            Connection::One(connection) => {
                let mut idle = self.idle.borrow_mut();
                if idle.len() < self.upstream.config.max_idle && connection.is_at_rest() {
                    idle.push(Idle { connection, since: self.swept.get() });
                } else {
                    connection.close();
                }
            }
            Connection::Many(connection) => connection.leave(self.swept.get()),
        }
    }
}

impl Active {
    /// Chooses `lane` for a request.
    pub(super) fn on(lane: &Rc<Lane>) -> Self {
        lane.active.set(lane.active.get() + 1);
        Self(lane.clone())
    }

    pub(super) fn lane(&self) -> &Rc<Lane> {
        &self.0
    }

    /// A connection that nobody else will have. Over TLS it is one of HTTP/1.1, since hardly any server takes a WebSocket
    /// over HTTP/2; browsers do the same.
    pub(super) async fn open_own(&self) -> Result<(Io, Protocol), NotConnected> {
        match &self.0.upstream.config.speech {
            Speech::Tls(tls) => self.0.open_as(&Speech::Tls(tls.for_http1())).await,
            speech @ (Speech::Http1 | Speech::Http2) => self.0.open_as(speech).await,
        }
    }

    /// A connection that is there.
    pub(super) fn at_hand(self) -> Result<Lease, Self> {
        let there = match self.0.speaks.get() {
            Some(Protocol::Http1) => self.0.take_idle(),
            Some(Protocol::Http2) | None => self.0.share().map(|connection| (connection, false)),
        };
        match there {
            Some((connection, rested)) => Ok(Lease { active: self, connection: Some(connection), rested }),
            None => Err(self),
        }
    }

    /// A new connection, or a place on one with others.
    pub(super) async fn connect(self) -> Result<Lease, NotConnected> {
        let connection = match self.0.speaks.get() {
            Some(Protocol::Http1) => self.0.connect_one().await?,
            Some(Protocol::Http2) | None => match self.0.share() {
                Some(connection) => connection,
                None => self.0.connect_many().await?,
            },
        };
        Ok(Lease { active: self, connection: Some(connection), rested: false })
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

impl Lease {
    pub(super) fn lane(&self) -> &Rc<Lane> {
        &self.active.0
    }

    /// The connection, and whose it is.
    pub(super) fn parts(&self) -> (Option<&Connection>, &Endpoint) {
        (self.connection.as_ref(), &self.active.0.endpoint)
    }

    /// The exchange has ended in good order: the connection may carry another.
    pub(super) fn give_back(mut self) {
        if let Some(connection) = self.connection.take() {
            self.lane().put_by(connection);
        }
    }

    /// The exchange is over before its request was sent. HTTP/1.1 has no way of saying so but to hang up.
    pub(super) fn cancel(self, sending: Rc<Sending>) {
        match &self.connection {
            Some(Connection::Many(connection)) => connection.cancel(sending),
            Some(Connection::One(_)) | None => {}
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.connection.take() {
            Some(Connection::One(connection)) => connection.close(),
            Some(Connection::Many(connection)) => connection.leave(self.lane().swept.get()),
            None => {}
        }
    }
}

impl From<NotConnected> for UpstreamFailure {
    fn from(why: NotConnected) -> Self {
        match why {
            NotConnected::Unreachable => Self::Unreachable,
            NotConnected::TimedOut => Self::ConnectTimeout,
            NotConnected::Untrusted => Self::Untrusted,
        }
    }
}
