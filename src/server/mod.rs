//! Listeners, TLS, connections, workers, drain. It is handed a service and knows neither gateway nor issuer.

mod bind;
pub mod config;
mod connection;
mod frames;
mod head;
mod http1;
mod http2;
mod io;
mod watch;
mod worker;

use std::{
    future::Future,
    io::{Error, Result},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::sync_channel,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use http::{Request, Response};
use tokio::sync::{Semaphore, mpsc, watch as signal};

pub use self::bind::{BindError, Bound, bind, bind_address, in_the_way};
use self::{
    config::Config,
    worker::{Accepted, Place, Worker},
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

/// Starts workers and acceptors on listeners that are bound. Acceptors run on the runtime this is called in.
///
/// # Errors
/// When a thread or its runtime cannot be started.
pub fn start<H, F>(config: &Config, listeners: Vec<Bound>, metrics: &Metrics, make_handler: F) -> Result<Server>
where
    H: Handler,
    F: Fn() -> Rc<H> + Clone + Send + 'static,
{
    let (stop, stopped) = signal::channel(false);
    let (mut workers, mut heartbeats, mut desks) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..config.workers {
        let (desk, arrivals) = mpsc::unbounded_channel();
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
        desks.push(Desk { load: Arc::default(), arrivals: desk });
    }
    let places = Arc::new(Semaphore::new(config.limits.max_connections));
    for listener in listeners {
        tokio::spawn(accept(listener, desks.clone(), places.clone(), metrics.clone(), stopped.clone()));
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

/// Where a worker's connections are handed in.
#[derive(Clone)]
struct Desk {
    load: Arc<AtomicUsize>,
    arrivals: mpsc::UnboundedSender<Accepted>,
}

/// Accepts on one listener, and hands each connection to the worker that has the fewest.
///
/// One acceptor, rather than a listening socket for each worker: the kernel would share connections out by a hash, which
/// is uneven when they are few and long, and would let a second process share the port unseen.
async fn accept(
    listener: Bound,
    desks: Vec<Desk>,
    places: Arc<Semaphore>,
    metrics: Metrics,
    mut stopped: signal::Receiver<bool>,
) {
    loop {
        // The connection first, then its place: an acceptor that held a place while nobody came would keep it from the other
        // listeners. With none left this one waits here, and those behind it in the kernel's queue.
        let next = async {
            let accepted = listener.accept().await;
            Some((accepted, places.clone().acquire_owned().await.ok()?))
        };
        let ((stream, address), permit) = tokio::select! {
            accepted = next => match accepted {
                Some((Ok(accepted), permit)) => (accepted, permit),
                Some((Err(error), _)) => {
                    // Out of descriptors or memory: time is the only help.
                    tracing::error!(listener = %listener.name, %error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                None => return,
            },
            _ = stopped.changed() => return,
        };
        let Some(desk) = desks.iter().min_by_key(|desk| desk.load.load(Ordering::Relaxed)) else { return };
        desk.load.fetch_add(1, Ordering::Relaxed);
        let place = Place { _permit: permit, _open: metrics.connection(&listener.name), load: desk.load.clone() };
        let accepted = Accepted { stream, address, tls: listener.tls.clone(), issuer: listener.issuer, place };
        // A worker that has gone takes the connection with it.
        let _ = desk.arrivals.send(accepted);
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
