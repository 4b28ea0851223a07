//! An HTTP/2 connection to an endpoint, which carries many requests at a time.

use std::{
    cell::{Cell, OnceCell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    time::{Duration, Instant},
};

use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::{AbortHandle, spawn_local};

use super::{
    connect::Io,
    outgoing::{Outgoing, Sending},
};
use crate::gateway::config::Upstream;

/// How much of a response may lie here before its client has taken it. It is a bound for each request, as it is over
/// HTTP/1.1, and there is as much for each stream a connection may have: one slow client keeps nothing from the others.
const STREAM_WINDOW: u32 = 512 * 1024;
/// The largest window there is (RFC 9113 §6.9.1).
const LARGEST_WINDOW: u32 = (1 << 31) - 1;
/// How much of a request's body may lie here before the upstream has taken it.
const SEND_BUFFER: usize = 256 * 1024;
/// Header fields of a response together, as HPACK counts them.
const MAX_HEADER_LIST: u32 = 128 * 1024;
/// How many streams that were reset here are remembered, and how many faults of the other end are answered by a reset,
/// before the connection ends. Bounds on what one that misbehaves can make us do.
const MAX_RESETS: usize = 1024;

/// The connection.
pub(super) struct Multiplexed {
    sender: RefCell<SendRequest<Outgoing>>,
    /// How many requests are under way on it.
    streams: Cell<usize>,
    most: usize,
    /// How many the other end allows.
    peer_most: Rc<Cell<usize>>,
    idle_since: Cell<Instant>,
    /// Bodies that are to be sent no further, and whether a sweep has seen them.
    unwanted: RefCell<Vec<(Rc<Sending>, bool)>>,
    /// Takes no more requests.
    condemned: Cell<bool>,
    /// The task that moves its frames.
    task: LocalExec,
}

impl Multiplexed {
    /// Begins to speak HTTP/2.
    pub(super) async fn start(io: Io, upstream: &Upstream) -> hyper::Result<Self> {
        let task = LocalExec::default();
        let streams = u32::try_from(upstream.max_streams).unwrap_or(u32::MAX);
        let mut builder = Builder::new(task.clone());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW.saturating_mul(streams).min(LARGEST_WINDOW))
            .initial_max_send_streams(upstream.max_streams)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEADER_LIST)
            .max_concurrent_reset_streams(MAX_RESETS)
            .max_pending_accept_reset_streams(MAX_RESETS)
            .max_local_error_reset_streams(MAX_RESETS)
            // Asked once within the silence that a body may keep: often enough to find out that nobody is there any more,
            // too seldom for a server that takes many questions for an attack.
            .keep_alive_interval((upstream.idle_timeout / 2).max(Duration::from_secs(1)))
            .keep_alive_timeout(upstream.connect_timeout);
        let (sender, connection) = builder.handshake(TokioIo::new(io)).await?;
        let peer_most = Rc::new(Cell::new(upstream.max_streams));
        let seen = peer_most.clone();
        spawn_local(async move {
            let mut connection = pin!(connection);
            let ended = poll_fn(|cx| {
                let polled = connection.as_mut().poll(cx);
                seen.set(connection.current_max_send_streams());
                polled
            });
            // Whoever uses the connection is told of its end by the request or the body that it breaks.
            if let Err(error) = ended.await {
                tracing::debug!(%error, "an upstream connection ended");
            }
        });
        Ok(Self {
            sender: RefCell::new(sender),
            streams: Cell::new(0),
            most: upstream.max_streams,
            peer_most,
            idle_since: Cell::new(Instant::now()),
            unwanted: RefCell::default(),
            condemned: Cell::new(false),
            task,
        })
    }

    /// Whether it can take one more request now.
    pub(super) fn has_room(&self) -> bool {
        // An end that allows none yet will have to take one to be of any use.
        let most = self.most.min(self.peer_most.get().max(1));
        self.streams.get() < most && !self.condemned.get() && !self.sender.borrow().is_closed()
    }

    pub(super) fn sender(&self) -> &RefCell<SendRequest<Outgoing>> {
        &self.sender
    }

    /// A request begins on it.
    pub(super) fn enter(&self) {
        self.streams.set(self.streams.get() + 1);
    }

    /// A request is over.
    pub(super) fn leave(&self, now: Instant) {
        self.streams.set(self.streams.get() - 1);
        self.idle_since.set(now);
    }

    /// A request is over, and the rest of its body is not to be sent.
    pub(super) fn cancel(&self, sending: Rc<Sending>) {
        sending.cancel();
        self.unwanted.borrow_mut().push((sending, false));
    }

    /// Whether it is worth keeping. Must be asked now and then.
    pub(super) fn sweep(&self, now: Instant, keep_alive: Duration) -> bool {
        // A body that waits for an upstream which grants no window does not hear that it is unwanted. From one sweep to the
        // next is time enough for the others; a connection with such a stream is given up once nothing else is on it.
        self.unwanted.borrow_mut().retain_mut(|(sending, seen)| {
            let lingers = Rc::strong_count(sending) > 1;
            if lingers && *seen {
                self.condemned.set(true);
            }
            *seen = true;
            lingers
        });
        if self.streams.get() > 0 {
            return true;
        }
        if self.condemned.get() {
            self.task.abort();
            return false;
        }
        !self.sender.borrow().is_closed() && now.saturating_duration_since(self.idle_since.get()) < keep_alive
    }
}

/// Runs a connection's tasks on this thread, and knows the first: the one that holds the socket.
#[derive(Clone, Default)]
pub(super) struct LocalExec(Rc<OnceCell<AbortHandle>>);

impl LocalExec {
    fn abort(&self) {
        if let Some(task) = self.0.get() {
            task.abort();
        }
    }
}

impl<F> hyper::rt::Executor<F> for LocalExec
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        let task = spawn_local(future);
        self.0.get_or_init(|| task.abort_handle());
    }
}
