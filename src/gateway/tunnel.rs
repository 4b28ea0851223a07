//! What a WebSocket is to us once both ends have agreed: bytes, both ways, until one of them ends, both are silent for too
//! long, or the token that opened it is no longer good.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes},
    time::{Instant, sleep_until},
};

use super::{Worker, streams::Watched, turns::Turn, upstream::OpenTunnel};
use crate::http::{ClientIo, Tunnel};

/// How much is carried at a time, in bytes, each way.
const PIECE: usize = 8 * 1024;

/// Makes the tunnel; it runs when it is given the client's side.
pub(super) fn tunnel(worker: Rc<Worker>, upstream: OpenTunnel, watched: Option<Watched>) -> Tunnel {
    Box::new(move |client| Box::pin(carry(worker, client, upstream, watched)))
}

async fn carry(worker: Rc<Worker>, client: ClientIo, mut upstream: OpenTunnel, watched: Option<Watched>) {
    let _open = worker.recorder.tunnel_opened();
    let moved = Rc::new(Cell::new(Instant::now()));
    let mut client = Noting { stream: client, moved: moved.clone(), turn: Turn::new(&worker.turns) };
    let carrying = async {
        tokio::select! {
            // How it ends is the business of its ends.
            _ = copy_bidirectional_with_sizes(&mut client, &mut upstream.stream, PIECE, PIECE) => {}
            () = silence(&moved, upstream.idle_timeout) => worker.recorder.stream_ended("tunnel_idle"),
        }
    };
    match watched {
        // Whoever ended it has counted it.
        Some(watched) => drop(watched.run(carrying).await),
        None => carrying.await,
    }
}

/// Waits until nothing has moved for so long.
async fn silence(moved: &Cell<Instant>, most: Duration) {
    loop {
        let end = moved.get() + most;
        if end <= Instant::now() {
            return;
        }
        sleep_until(end).await;
    }
}

/// The client's side, which notes when something moves, and moves in turn. Whatever goes to or comes from the upstream passes here too.
struct Noting {
    stream: ClientIo,
    moved: Rc<Cell<Instant>>,
    turn: Turn,
}

impl Noting {
    fn note(&mut self, bytes: usize) {
        self.moved.set(Instant::now());
        self.turn.moved(bytes);
    }
}

impl AsyncRead for Noting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.turn.poll(cx));
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.note(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Noting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.turn.poll(cx));
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.note(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
