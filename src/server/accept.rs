//! Accepting connections, and handing each to the worker that has the fewest.
//!
//! A listener is one socket that one worker accepts on, rather than a socket for each: the kernel would share connections
//! out by a hash, which is uneven when they are few and long, and would let a second process share the port unseen. What
//! stays with the worker that accepted it, as half of all do with two, crosses no thread.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::TcpStream,
    sync::{Semaphore, mpsc, watch},
    task::yield_now,
};

use super::{
    address::Addresses,
    bind::{Accepting, Bound},
    worker::{Accepted, Arrival, Place, Stream},
};
use crate::telemetry::Metrics;

/// How long to wait when there are no descriptors or no memory for another connection: time is the only help.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a worker's connections are handed in.
#[derive(Clone)]
pub(super) struct Desk {
    load: Arc<AtomicUsize>,
    arrivals: mpsc::UnboundedSender<Arrival>,
}

impl Desk {
    /// A desk, and the side of it where the worker sits.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Arrival>) {
        let (arrivals, worker) = mpsc::unbounded_channel();
        (Self { load: Arc::default(), arrivals }, worker)
    }

    /// Hands something in. A worker that has gone takes it with it.
    pub(super) fn hand_in(&self, arrival: Arrival) {
        let _ = self.arrivals.send(arrival);
    }
}

/// What accepts on one listener.
pub(super) struct Acceptor {
    pub(super) listener: Bound,
    /// Its number: no other listener has had it.
    pub(super) number: u64,
    pub(super) desks: Vec<Desk>,
    /// Which of them is the desk of the worker that accepts.
    pub(super) home: usize,
    /// How many connections there may be, over all listeners.
    pub(super) places: Arc<Semaphore>,
    /// How many of them may be from one address.
    pub(super) addresses: Addresses,
    pub(super) metrics: Metrics,
    /// Turns when nothing more is to be accepted.
    pub(super) stopped: watch::Receiver<bool>,
}

impl Acceptor {
    /// Accepts until it is told to stop.
    pub(super) async fn run(self) {
        let Self { listener, number, desks, home, places, addresses, metrics, mut stopped } = self;
        let listener = match listener.accepting() {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "a listener cannot be waited for"),
        };
        let accepting = async {
            loop {
                let (stream, address) = next(&listener).await;
                let Some(counted) = addresses.enter(address.ip()) else {
                    // Closed at once, and before it could take a place from others.
                    metrics.connection_refused(&listener.name, "per_address");
                    continue;
                };
                // The connection first, then its place: an acceptor that held a place while nobody came would keep it from the
                // other listeners. With none left this one waits here, and those behind it in the kernel's queue.
                let Ok(permit) = places.clone().acquire_owned().await else { return };
                let load = |n: &usize| (desks[*n].load.load(Ordering::Relaxed), *n != home);
                let Some(least) = (0..desks.len()).min_by_key(load) else { return };
                let desk = &desks[least];
                let stream =
                    if least == home { Ok(Stream::Here(stream)) } else { stream.into_std().map(Stream::Elsewhere) };
                let Ok(stream) = stream else { continue };
                desk.load.fetch_add(1, Ordering::Relaxed);
                let place = Place {
                    _permit: permit,
                    _counted: counted,
                    _open: metrics.connection(&listener.name),
                    load: desk.load.clone(),
                };
                let (tls, issuer) = (listener.tls.clone(), listener.issuer);
                desk.hand_in(Arrival::Connection(Accepted { stream, address, listener: number, tls, issuer, place }));
                // However many wait in the kernel's queue: those who are here have their turn after each of them.
                yield_now().await;
            }
        };
        tokio::select! {
            () = accepting => {}
            _ = stopped.changed() => {}
        }
    }
}

async fn next(listener: &Accepting) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::error!(listener = %listener.name, %error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
