//! What a client of HTTP/2 may send that costs it nothing and us something: control frames, empty data, requests that it
//! resets. Frames are counted on their way in (RFC 9113 §4.1 gives their heads) against what honest use would bring along.
//!
//! The library below answers each of them as the RFC wants it and keeps its memory bounded; this bounds the work.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::telemetry::Metrics;

/// The bytes of a frame's head.
const HEAD: usize = 9;
/// What a connection may spend before it has done anything, and the most it can save up.
const CREDIT: u32 = 2000;
/// What every second adds, so that a quiet connection may go on asking whether we are there.
const PER_SECOND: u32 = 50;
/// A request allows for so many frames besides, among them its own reset half of the time.
const PER_REQUEST: u32 = 20;
/// What a reset costs: a hundred in a row that follow their requests at once are the end of a connection.
const RESET: u32 = 2 * PER_REQUEST;
/// As many bytes of a body allow for one frame besides.
const BYTES_PER_FRAME: usize = 512;
/// As many bytes of ours allow for one frame by which a client answers them. Those of gRPC open two windows for each small
/// message, which is 17 bytes at the least, and measure with a ping how long it took.
const BYTES_PER_ANSWER: usize = 4;
/// What a ping takes of that: more than the 17 bytes allow for that we say to it.
const PINGED: usize = 6;
/// How many such answers may be outstanding: the messages of some windows.
const MOST_ANSWERS: usize = 50_000;

/// A client's stream on which frames are counted.
pub(super) struct FrameGuard<S> {
    stream: S,
    metrics: Metrics,
    clock: Rc<Cell<Instant>>,
    /// When the passing of time was last turned into credit.
    paid: Instant,
    credit: u32,
    /// The head of the frame that is coming, as far as it has come.
    head: [u8; HEAD],
    have: usize,
    /// What is left of the frame whose head has come, or of the preface.
    skip: usize,
    /// Bytes of bodies that have come and have not been turned into credit yet.
    traffic: usize,
    /// Bytes of ours that have not been answered.
    written: usize,
}

impl<S> FrameGuard<S> {
    /// The stream begins with the preface. `clock` may be coarse.
    pub(super) fn new(stream: S, clock: Rc<Cell<Instant>>, metrics: Metrics) -> Self {
        let paid = clock.get();
        Self {
            stream,
            metrics,
            clock,
            paid,
            credit: CREDIT,
            head: [0; HEAD],
            have: 0,
            skip: PREFACE,
            traffic: 0,
            written: 0,
        }
    }

    /// Goes through what has come; whether it is more than an honest client would send.
    fn overspent(&mut self, mut bytes: &[u8]) -> bool {
        let seconds = self.clock.get().saturating_duration_since(self.paid).as_secs();
        if seconds > 0 {
            self.paid = self.clock.get();
            self.add(PER_SECOND.saturating_mul(u32::try_from(seconds).unwrap_or(u32::MAX)));
        }
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have < HEAD {
                return false;
            }
            self.have = 0;
            if self.frame() {
                return true;
            }
        }
    }

    /// One frame: what it costs, or what it earns.
    fn frame(&mut self) -> bool {
        let [a, b, c, kind, flags, ..] = self.head;
        self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
        let cost = match kind {
            DATA if self.skip > 0 => {
                self.earn(self.skip);
                // However little it brings: who types, plays or streams small messages sends nothing else, and what lies here
                // unread the library counts. But padding may be all there is, and nobody who is honest pads.
                u32::from(flags & PADDED != 0)
            }
            HEADERS => {
                self.add(PER_REQUEST);
                0
            }
            RST_STREAM => RESET,
            WINDOW_UPDATE => self.unasked(1),
            PING => self.unasked(PINGED),
            // Empty data, PRIORITY, SETTINGS, GOAWAY, CONTINUATION, and what nobody knows.
            _ => 1,
        };
        match self.credit.checked_sub(cost) {
            Some(left) => {
                self.credit = left;
                false
            }
            None => true,
        }
    }

    /// What a frame costs that may answer to bytes of ours: nothing, if it does.
    fn unasked(&mut self, answers: usize) -> u32 {
        match self.written.checked_sub(answers * BYTES_PER_ANSWER) {
            Some(left) => {
                self.written = left;
                0
            }
            None => 1,
        }
    }

    fn earn(&mut self, bytes: usize) {
        self.traffic += bytes;
        let frames = u32::try_from(self.traffic / BYTES_PER_FRAME).unwrap_or(u32::MAX);
        self.traffic %= BYTES_PER_FRAME;
        self.add(frames);
    }

    fn add(&mut self, credit: u32) {
        self.credit = self.credit.saturating_add(credit).min(CREDIT);
    }

    fn note(&mut self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = wrote {
            self.written = (self.written + bytes).min(MOST_ANSWERS * BYTES_PER_ANSWER);
        }
        wrote
    }
}

/// RFC 9113 §3.4: the preface's length.
const PREFACE: usize = 24;
/// RFC 9113 §6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const PADDED: u8 = 8;

impl<S: AsyncRead + Unpin> AsyncRead for FrameGuard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.overspent(&buf.filled()[before..]) {
            self.metrics.connection_closed("http2_flood");
            // The library ends the connection at an error; to who floods, no farewell is owed.
            return Poll::Ready(Err(io::Error::other("more control frames than requests account for")));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FrameGuard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
