//! Listeners, TLS, connections, workers, drain. It is handed a service and knows neither gateway nor issuer.

mod accept;
mod address;
mod bind;
pub mod config;
mod connection;
mod frames;
mod head;
mod http1;
mod http2;
mod io;
pub mod tls;
mod watch;
mod worker;

use std::{
    future::Future,
    io::{Error, Result},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::sync_channel,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use http::{Request, Response};
use tokio::sync::{Semaphore, watch as signal};

pub use self::bind::{BindError, Bound, bind, bind_address, in_the_way};
use self::{
    accept::{Acceptor, Desk},
    address::Addresses,
    config::{Config, Limits, Listener},
    worker::{Arrival, Worker},
};
use crate::{
    http::{Body, Peer, RequestBody},
    telemetry::Metrics,
};

/// What answers requests. Each worker makes one for itself, and calls it on its own thread only.
pub trait Handler: 'static {
    /// Answers one request.
    fn handle(&self, request: Request<RequestBody>, peer: &Peer) -> impl Future<Output = Response<Body>>;
}

/// A server that runs until it is told to drain.
pub struct Server {
    workers: Vec<JoinHandle<()>>,
    heartbeats: Vec<Arc<Heartbeat>>,
    desks: Vec<Desk>,
    open: Vec<Open>,
    /// How many listeners there have been.
    numbers: u64,
    places: Arc<Semaphore>,
    addresses: Addresses,
    metrics: Metrics,
}

/// A listener that accepts.
struct Open {
    number: u64,
    /// The same socket as the acceptor's.
    bound: Bound,
    stop: signal::Sender<bool>,
}

/// Listeners that are bound, and do not accept yet.
pub struct Prepared(Vec<Next>);

enum Next {
    /// The one that accepts already, by its number.
    Same(u64),
    /// Another one, on a socket of its own or on that of one there is.
    Other(Bound),
}

/// Starts workers, and shares the listeners out among them.
///
/// # Errors
/// When a thread or its runtime cannot be started.
pub fn start<H, F>(config: &Config, listeners: Vec<Bound>, metrics: &Metrics, make_handler: F) -> Result<Server>
where
    H: Handler,
    F: Fn() -> Rc<H> + Clone + Send + 'static,
{
    let (desks, arrivals): (Vec<_>, Vec<_>) = (0..config.workers).map(|_| Desk::new()).unzip();
    let (mut workers, mut heartbeats) = (Vec::new(), Vec::new());
    for (n, arrivals) in arrivals.into_iter().enumerate() {
        let heartbeat = Arc::new(Heartbeat::new());
        let worker = Worker {
            make_handler: make_handler.clone(),
            arrivals,
            limits: config.limits,
            drain_timeout: config.drain_timeout,
            metrics: metrics.clone(),
            heartbeat: heartbeat.clone(),
        };
        let (started, word) = sync_channel(1);
        workers.push(thread::Builder::new().name(format!("worker-{n}")).spawn(move || worker.run(&started))?);
        // A worker that is not there would always have the fewest connections, and be handed all of them.
        word.recv().unwrap_or_else(|gone| Err(Error::other(gone)))?;
        heartbeats.push(heartbeat);
    }
    let mut server = Server {
        workers,
        heartbeats,
        desks,
        open: Vec::new(),
        numbers: 0,
        places: Arc::new(Semaphore::new(config.limits.max_connections)),
        addresses: Addresses::new(config.limits.max_connections_per_address, &config.proxies),
        metrics: metrics.clone(),
    };
    for listener in listeners {
        let open = server.accept(listener)?;
        server.open.push(open);
    }
    Ok(server)
}

impl Server {
    /// For who asks whether the workers are alive.
    pub fn pulse(&self) -> Pulse {
        Pulse(self.heartbeats.clone())
    }

    /// The listeners that accept.
    pub fn listeners(&self) -> Vec<Listener> {
        self.open.iter().map(|open| open.bound.listener.clone()).collect()
    }

    /// Binds what these listeners need that those there are have not. Nothing else changes, and what is not followed by
    /// [`Server::replace`] is given back.
    ///
    /// # Errors
    /// When an address cannot be had.
    pub fn prepare(&self, listeners: &[Listener]) -> std::result::Result<Prepared, BindError> {
        let next = |listener: &Listener| {
            if let Some(same) = self.open.iter().find(|open| open.bound.listener.fingerprint == listener.fingerprint) {
                return Ok(Next::Same(same.number));
            }
            let there = self.open.iter().find(|open| open.bound.listener.address == listener.address);
            Ok(Next::Other(match there {
                Some(open) => open.bound.again(listener.clone())?,
                None => bind(listener)?,
            }))
        };
        Ok(Prepared(listeners.iter().map(next).collect::<std::result::Result<_, _>>()?))
    }

    /// These accept from now on, within these limits; others stop, and their connections end what they are doing.
    ///
    /// # Errors
    /// When the system has no more descriptors; a listener may be missing then.
    pub fn replace(&mut self, Prepared(next): Prepared, limits: Limits) -> Result<()> {
        self.desks.iter().for_each(|desk| desk.hand_in(Arrival::Limits(limits)));
        let (mut before, mut failed) = (std::mem::take(&mut self.open), Ok(()));
        for next in next {
            match next {
                Next::Same(number) => {
                    let at = before.iter().position(|open| open.number == number);
                    self.open.extend(at.map(|at| before.swap_remove(at)));
                }
                Next::Other(bound) => match self.accept(bound) {
                    Ok(open) => self.open.push(open),
                    Err(error) => failed = Err(error),
                },
            }
        }
        for gone in before {
            // An acceptor that has ended hears of nothing.
            let _ = gone.stop.send(true);
            self.desks.iter().for_each(|desk| desk.hand_in(Arrival::Gone(gone.number)));
        }
        failed
    }

    fn accept(&mut self, bound: Bound) -> Result<Open> {
        let (stop, stopped) = signal::channel(false);
        let (number, home) = (self.numbers, usize::try_from(self.numbers).unwrap_or_default() % self.desks.len());
        let listener = bound.again(bound.listener.clone()).map_err(Error::other)?;
        self.numbers += 1;
        self.desks[home].hand_in(Arrival::Listener(Acceptor {
            listener,
            number,
            desks: self.desks.clone(),
            home,
            places: self.places.clone(),
            addresses: self.addresses.clone(),
            metrics: self.metrics.clone(),
            stopped,
        }));
        Ok(Open { number, bound, stop })
    }

    /// Stops accepting, lets every request in flight end, and returns when the last has, or has been given up.
    pub async fn drain(self) {
        for open in self.open {
            // An acceptor that has ended hears of nothing.
            let _ = open.stop.send(true);
        }
        drop(self.desks);
        let workers = self.workers;
        let joined = tokio::task::spawn_blocking(move || workers.into_iter().for_each(|worker| drop(worker.join())));
        if let Err(error) = joined.await {
            tracing::error!(%error, "waiting for the workers failed");
        }
    }
}

/// When a worker was last seen going round.
struct Heartbeat {
    started: Instant,
    /// Milliseconds after `started`.
    last: AtomicU64,
}

impl Heartbeat {
    fn new() -> Self {
        Self { started: Instant::now(), last: AtomicU64::new(0) }
    }

    fn beat(&self) {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(elapsed, Ordering::Relaxed);
    }

    fn age(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

/// Whether the workers are alive.
#[derive(Clone)]
pub struct Pulse(Vec<Arc<Heartbeat>>);

impl Pulse {
    /// The longest time in which a worker has not been round.
    pub fn slowest(&self) -> Duration {
        self.0.iter().map(|heartbeat| heartbeat.age()).max().unwrap_or_default()
    }
}
