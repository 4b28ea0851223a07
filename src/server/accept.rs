//! Accepting connections, and handing each to the worker that has the fewest.
//!
//! A listener is one socket that one worker accepts on, rather than a socket for each: the kernel would share connections
//! out by a hash, which is uneven when they are few and long, and would let a second process share the port unseen. What
//! stays with the worker that accepted it, as half of all do with two, crosses no thread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Semaphore, mpsc, watch};

use super::{
    bind::{Accepting, Bound},
    worker::{Accepted, Place, Stream},
};
use crate::telemetry::Metrics;

/// How long to wait when there are no descriptors or no memory for another connection: time is the only help.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a worker's connections are handed in.
#[derive(Clone)]
pub(super) struct Desk {
    load: Arc<AtomicUsize>,
    arrivals: mpsc::UnboundedSender<Accepted>,
}

impl Desk {
    /// A desk, and the side of it where the worker sits.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Accepted>) {
        let (arrivals, worker) = mpsc::unbounded_channel();
        (Self { load: Arc::default(), arrivals }, worker)
    }
}

/// What accepts on one listener.
pub(super) struct Acceptor {
    pub(super) listener: Bound,
    pub(super) desks: Vec<Desk>,
    /// Which of them is the desk of the worker that accepts.
    pub(super) home: usize,
    /// How many connections there may be, over all listeners.
    pub(super) places: Arc<Semaphore>,
    pub(super) metrics: Metrics,
    /// Turns when nothing more is to be accepted.
    pub(super) stopped: watch::Receiver<bool>,
}

impl Acceptor {
    /// Accepts until it is told to stop.
    pub(super) async fn run(self) {
        let Self { listener, desks, home, places, metrics, mut stopped } = self;
        let listener = match listener.accepting() {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "a listener cannot be waited for"),
        };
        tokio::select! {
            () = accept(&listener, &desks, home, &places, &metrics) => {}
            _ = stopped.changed() => {}
        }
    }
}

async fn accept(listener: &Accepting, desks: &[Desk], home: usize, places: &Arc<Semaphore>, metrics: &Metrics) {
    loop {
        // The connection first, then its place: an acceptor that held a place while nobody came would keep it from the other
        // listeners. With none left this one waits here, and those behind it in the kernel's queue.
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::error!(listener = %listener.name, %error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = places.clone().acquire_owned().await else { return };
        let load = |n: &usize| (desks[*n].load.load(Ordering::Relaxed), *n != home);
        let Some(least) = (0..desks.len()).min_by_key(load) else { return };
        // It leaves this runtime for another's, or stays where it is.
        let stream = match least == home {
            true => Stream::Here(stream),
            false => match stream.into_std() {
                Ok(stream) => Stream::Elsewhere(stream),
                Err(_) => continue,
            },
        };
        let desk = &desks[least];
        desk.load.fetch_add(1, Ordering::Relaxed);
        let place = Place { _permit: permit, _open: metrics.connection(&listener.name), load: desk.load.clone() };
        let accepted = Accepted { stream, address, tls: listener.tls.clone(), issuer: listener.issuer, place };
        // A worker that has gone takes the connection with it.
        let _ = desk.arrivals.send(accepted);
    }
}
