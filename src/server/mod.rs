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
    config::Config,
    worker::Worker,
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
    stop: signal::Sender<bool>,
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
    let (stop, stopped) = signal::channel(false);
    let (desks, arrivals): (Vec<_>, Vec<_>) = (0..config.workers).map(|_| Desk::new()).unzip();
    let mut shares: Vec<Vec<Acceptor>> = arrivals.iter().map(|_| Vec::new()).collect();
    let places = Arc::new(Semaphore::new(config.limits.max_connections));
    let addresses = Addresses::new(config.limits.max_connections_per_address, &config.proxies);
    for (n, listener) in listeners.into_iter().enumerate() {
        shares[n % config.workers].push(Acceptor {
            listener,
            desks: desks.clone(),
            home: n % config.workers,
            places: places.clone(),
            addresses: addresses.clone(),
            metrics: metrics.clone(),
            stopped: stopped.clone(),
        });
    }
    let (mut workers, mut heartbeats) = (Vec::new(), Vec::new());
    for (n, (arrivals, acceptors)) in arrivals.into_iter().zip(shares).enumerate() {
        let heartbeat = Arc::new(Heartbeat::new());
        let worker = Worker {
            make_handler: make_handler.clone(),
            acceptors,
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
    Ok(Server { workers, heartbeats, stop })
}

impl Server {
    /// For who asks whether the workers are alive.
    pub fn pulse(&self) -> Pulse {
        Pulse(self.heartbeats.clone())
    }

    /// Stops accepting, lets every request in flight end, and returns when the last has, or has been given up.
    pub async fn drain(self) {
        // Without receivers all acceptors have ended already.
        let _ = self.stop.send(true);
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
