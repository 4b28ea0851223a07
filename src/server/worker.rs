//! A worker: one thread, one runtime, its own connections. Nothing it does waits for another.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::SyncSender,
    },
    time::{Duration, Instant},
};

use http::HeaderValue;
use tokio::{
    net::TcpStream,
    runtime::{Builder, LocalOptions},
    sync::{Notify, OwnedSemaphorePermit, mpsc},
    task::{AbortHandle, spawn_local},
    time::sleep,
};

use super::{
    Handler, Heartbeat,
    accept::Acceptor,
    address::Counted,
    config::Limits,
    connection::{self, Connection, Context},
    tls::Terminator,
    watch::{Finding, Watch},
};
use crate::{
    http::Peer,
    telemetry::{Metrics, OpenConnection},
};

/// What is handed to a worker.
pub(super) enum Arrival {
    /// A connection.
    Connection(Accepted),
    /// A listener to accept on, for all workers.
    Listener(Acceptor),
    /// The listener of that number is no more: what came by it ends as soon as it may.
    Gone(u64),
    /// What clients may ask of us from now on.
    Limits(Limits),
}

/// A connection on its way from the acceptor to a worker.
pub(super) struct Accepted {
    pub(super) stream: Stream,
    pub(super) address: SocketAddr,
    /// The number of the listener it came by.
    pub(super) listener: u64,
    pub(super) tls: Option<Arc<Terminator>>,
    pub(super) issuer: bool,
    /// Its place among all connections, its count by address, its count among the worker's and in the metrics; given back when it ends.
    pub(super) place: Place,
}

/// Its socket.
pub(super) enum Stream {
    /// On the runtime of the worker it was handed to, which accepted it.
    Here(TcpStream),
    /// On none.
    Elsewhere(std::net::TcpStream),
}

/// What a connection occupies for as long as it is open.
pub(super) struct Place {
    pub(super) _permit: OwnedSemaphorePermit,
    pub(super) _counted: Counted,
    pub(super) _open: OpenConnection,
    pub(super) load: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a worker is started with.
pub(super) struct Worker<F> {
    pub(super) make_handler: F,
    pub(super) arrivals: mpsc::UnboundedReceiver<Arrival>,
    pub(super) limits: Limits,
    pub(super) drain_timeout: Duration,
    pub(super) metrics: Metrics,
    pub(super) heartbeat: Arc<Heartbeat>,
}

impl<F> Worker<F> {
    /// Runs until no more connections can arrive and the last has ended, or has been given up.
    /// Says in `started` first whether it has a runtime to run on.
    pub(super) fn run<H>(self, started: &SyncSender<io::Result<()>>)
    where
        H: Handler,
        F: Fn() -> Rc<H>,
    {
        // Whoever started us waits for the word; if it does not, nothing is left to be told.
        match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => {
                let _ = started.send(Ok(()));
                runtime.block_on(self.serve());
            }
            Err(error) => drop(started.send(Err(error))),
        }
    }

    async fn serve<H>(mut self)
    where
        H: Handler,
        F: Fn() -> Rc<H>,
    {
        let handler = (self.make_handler)();
        let connections = Rc::new(Connections::new(self.limits));
        spawn_local(look_after(connections.clone(), self.metrics.clone(), self.heartbeat.clone()));
        // The last acceptor takes the desk with it.
        while let Some(arrival) = self.arrivals.recv().await {
            match arrival {
                Arrival::Connection(accepted) => self.start(accepted, &handler, &connections),
                Arrival::Listener(acceptor) => drop(spawn_local(acceptor.run())),
                Arrival::Gone(listener) => connections.drain(|its| its == listener),
                Arrival::Limits(limits) => connections.limits.set(limits),
            }
        }
        connections.drain(|_| true);
        if tokio::time::timeout(self.drain_timeout, connections.all_ended()).await.is_err() {
            let left = connections.open.borrow().len();
            tracing::warn!(connections = left, "gave up on connections that did not end in time");
            (0..left).for_each(|_| self.metrics.connection_closed("drain_timeout"));
        }
    }

    fn start<H: Handler>(&self, accepted: Accepted, handler: &Rc<H>, connections: &Rc<Connections>) {
        let Accepted { stream, address, listener, tls, issuer, place } = accepted;
        let stream = match stream {
            Stream::Here(stream) => stream,
            Stream::Elsewhere(stream) => match TcpStream::from_std(stream) {
                Ok(stream) => stream,
                Err(error) => return tracing::error!(%error, "a connection cannot be waited for"),
            },
        };
        let ip = address.ip().to_canonical();
        // An address is made of characters that a header may hold.
        let Ok(address_text) = HeaderValue::try_from(ip.to_string()) else { return };
        let peer = Peer { address: ip, address_text, secure: tls.is_some(), issuer, certificate: None };
        let watch = Watch::new(connections.clock.clone(), tls.is_some());
        let id = connections.next_id();
        // Whichever way the task ends, by itself, by the watch or by a panic, its entry goes with it. It is handed over, as
        // an async block around the two would hold the connection twice: before it is first polled, and then.
        let entry = Entry { connections: connections.clone(), id, _place: place };
        let task = spawn_local(connection::serve(
            Connection { stream, tls, peer },
            Context {
                handler: handler.clone(),
                watch: watch.clone(),
                limits: connections.limits.get(),
                metrics: self.metrics.clone(),
            },
            entry,
        ));
        connections.open.borrow_mut().insert(id, Open { listener, watch, task: task.abort_handle() });
    }
}

/// A worker's open connections.
struct Connections {
    open: RefCell<HashMap<u64, Open>>,
    last_id: Cell<u64>,
    /// For those that come, and for how long anybody may keep us waiting.
    limits: Cell<Limits>,
    /// The worker's coarse clock, set at each round.
    clock: Rc<Cell<Instant>>,
    one_ended: Notify,
}

/// One of them.
struct Open {
    listener: u64,
    watch: Rc<Watch>,
    task: AbortHandle,
}

impl Connections {
    fn new(limits: Limits) -> Self {
        Self {
            open: RefCell::default(),
            last_id: Cell::default(),
            limits: Cell::new(limits),
            clock: Rc::new(Cell::new(Instant::now())),
            one_ended: Notify::new(),
        }
    }

    fn next_id(&self) -> u64 {
        self.last_id.set(self.last_id.get() + 1);
        self.last_id.get()
    }

    /// Lets each that came by such a listener end what it is doing, and those that do nothing at once.
    fn drain(&self, by: impl Fn(u64) -> bool) {
        for Open { watch, task, .. } in self.open.borrow().values().filter(|open| by(open.listener)) {
            if watch.drain() {
                task.abort();
            }
        }
    }

    async fn all_ended(&self) {
        while !self.open.borrow().is_empty() {
            self.one_ended.notified().await;
        }
    }
}

/// Takes a connection off the list when its task ends.
pub(super) struct Entry {
    connections: Rc<Connections>,
    id: u64,
    _place: Place,
}

impl Drop for Entry {
    fn drop(&mut self) {
        // A round may be walking over the list while a task that it aborts is dropped; then the round sees to it.
        if let Ok(mut open) = self.connections.open.try_borrow_mut() {
            open.remove(&self.id);
        }
        self.connections.one_ended.notify_one();
    }
}

/// Walks over the connections a few times a second, and ends those whose client has kept us waiting for too long.
async fn look_after(connections: Rc<Connections>, metrics: Metrics, heartbeat: Arc<Heartbeat>) {
    loop {
        let limits = connections.limits.get();
        let now = Instant::now();
        connections.clock.set(now);
        heartbeat.beat();
        // Gathered first: a task that is aborted may take its entry off the list at once.
        let found: Vec<_> = {
            let open = connections.open.borrow();
            let late = |Open { watch, task, .. }: &Open| {
                watch.park_if_idle(now);
                Some((watch.overdue(now, &limits)?, watch.clone(), task.clone()))
            };
            open.values().filter_map(late).collect()
        };
        for (finding, watch, task) in found {
            match finding {
                Finding::End(cause) => {
                    metrics.connection_closed(cause);
                    task.abort();
                }
                Finding::Dismiss(cause) => {
                    metrics.connection_closed(cause);
                    watch.drain();
                }
                Finding::EndStreams(late) => {
                    for (cause, stream) in late {
                        metrics.stream_reset(cause);
                        stream.abort();
                    }
                }
            }
        }
        sleep(limits.round()).await;
    }
}
