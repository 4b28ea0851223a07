//! One worker's connections to one upstream. No lock: a worker is one thread.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::forward::UpstreamFailure;
use crate::{http::RequestBody, io::Socket};

/// The connections of one worker to one upstream.
pub(super) struct Pool {
    host: Box<str>,
    port: u16,
    connect_timeout: Duration,
    keep_alive: Duration,
    max_idle: usize,
    /// The most recently used last, so that a quiet hour lets the others time out.
    idle: RefCell<Vec<Idle>>,
    /// When the pool was last swept: near enough to say since when a connection is idle, and cheaper than to ask.
    swept: Cell<Instant>,
}

struct Idle {
    sender: SendRequest<RequestBody>,
    since: Instant,
}

/// A connection lent out. It goes back by [`Lease::give_back`], or is closed when it is dropped: a connection that may be
/// out of step is never used again.
pub(super) struct Lease {
    pool: Rc<Pool>,
    sender: SendRequest<RequestBody>,
    /// Whether it has lain idle for a while, so that the upstream may be about to close it.
    pub(super) rested: bool,
}

impl Pool {
    pub(super) fn new(
        host: &str,
        port: u16,
        connect_timeout: Duration,
        keep_alive: Duration,
        max_idle: usize,
    ) -> Rc<Self> {
        Rc::new(Self {
            host: host.into(),
            port,
            connect_timeout,
            keep_alive,
            max_idle,
            idle: RefCell::default(),
            swept: Cell::new(Instant::now()),
        })
    }

    /// What to put into Host where the client sent none.
    pub(super) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// An idle connection, or a new one.
    pub(super) async fn lease(self: &Rc<Self>) -> Result<Lease, UpstreamFailure> {
        match self.take_idle() {
            Some(Idle { sender, since }) => Ok(Lease { pool: self.clone(), sender, rested: since != self.swept.get() }),
            None => self.connect().await,
        }
    }

    fn take_idle(&self) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        // One that has just been given back may still have its last bytes to settle; it is left for later.
        let ready = idle.iter().rposition(|connection| connection.sender.is_ready())?;
        Some(idle.remove(ready))
    }

    /// A new connection.
    pub(super) async fn connect(self: &Rc<Self>) -> Result<Lease, UpstreamFailure> {
        let opening = async {
            let stream = TcpStream::connect((&*self.host, self.port)).await?;
            stream.set_nodelay(true)?;
            http1::Builder::new().handshake(TokioIo::new(Socket(stream))).await.map_err(io::Error::other)
        };
        let (sender, connection) = match timeout(self.connect_timeout, opening).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                tracing::debug!(upstream = %self.authority(), %error, "the upstream cannot be reached");
                return Err(UpstreamFailure::Unreachable);
            }
            Err(_) => return Err(UpstreamFailure::ConnectTimeout),
        };
        tokio::task::spawn_local(async move {
            // Whoever uses the connection is told of its end by the request or the body that it breaks.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an upstream connection ended");
            }
        });
        Ok(Lease { pool: self.clone(), sender, rested: false })
    }

    /// Closes connections that have been idle for too long, or whose other end has gone.
    pub(super) fn sweep(&self, now: Instant) {
        self.swept.set(now);
        let fresh = |idle: &Idle| !idle.sender.is_closed() && now.duration_since(idle.since) < self.keep_alive;
        self.idle.borrow_mut().retain(fresh);
    }
}

impl Lease {
    /// The connection, to send one request.
    pub(super) fn sender(&mut self) -> &mut SendRequest<RequestBody> {
        &mut self.sender
    }

    /// The exchange has ended in good order: the connection may carry another.
    pub(super) fn give_back(self) {
        let mut idle = self.pool.idle.borrow_mut();
        if !self.sender.is_closed() && idle.len() < self.pool.max_idle {
            idle.push(Idle { sender: self.sender, since: self.pool.swept.get() });
        }
    }
}
