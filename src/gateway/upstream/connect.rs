//! A connection to one endpoint, up to the point where HTTP begins: TCP or a Unix socket, TLS where there is to be TLS, and
//! what both ends have settled on to speak.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::endpoint::{Address, Endpoint};
use crate::{
    gateway::config::Speech,
    io::Socket,
    telemetry::{NotConnected, OpenUpstreamConnection},
};

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Protocol {
    Http1,
    Http2,
}

/// A connection's bytes.
pub(in crate::gateway) struct Io {
    stream: Stream,
    /// Counts it as open for as long as it is, whoever has it.
    _open: Option<OpenUpstreamConnection>,
}

enum Stream {
    Tcp(Socket),
    // Much larger than the others.
    Tls(Box<TlsStream<Socket>>),
    Unix(UnixStream),
}

/// Connects. Whoever calls this sets the deadline.
pub(in crate::gateway) async fn connect(endpoint: &Endpoint, speech: &Speech) -> Result<(Io, Protocol), NotConnected> {
    let unreachable = |error: io::Error| {
        tracing::debug!(endpoint = %endpoint.address, %error, "an upstream cannot be reached");
        NotConnected::Unreachable
    };
    let socket = match &endpoint.address {
        Address::Tcp(address) => Socket(open(*address).await.map_err(unreachable)?),
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(unreachable)?;
            return Ok((Io::new(Stream::Unix(stream)), Protocol::Http1));
        }
    };
    let (tls, name) = match (speech, &endpoint.server_name) {
        (Speech::Tls(tls), Some(name)) => (tls, name.clone()),
        (Speech::Http2, _) => return Ok((Io::new(Stream::Tcp(socket)), Protocol::Http2)),
        (Speech::Http1, _) => return Ok((Io::new(Stream::Tcp(socket)), Protocol::Http1)),
        // Nobody to trust: nothing to say. An endpoint that is spoken to over TLS is made with a name.
        (Speech::Tls(_), None) => return Err(NotConnected::Untrusted),
    };
    let stream = TlsConnector::from(tls.config.clone()).connect(name, socket).await.map_err(|error| {
        tracing::warn!(endpoint = %endpoint.address, %error, "TLS with an upstream failed");
        NotConnected::Untrusted
    })?;
    let protocol = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        // Who says nothing speaks what everybody does.
        Some(_) | None => Protocol::Http1,
    };
    Ok((Io::new(Stream::Tls(Box::new(stream))), protocol))
}

async fn open(address: std::net::SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // A request is written in one piece; waiting for more would only delay it.
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Io {
    fn new(stream: Stream) -> Self {
        Self { stream, _open: None }
    }

    /// The same, counted as open until it is dropped.
    pub(in crate::gateway) fn counted(self, open: OpenUpstreamConnection) -> Self {
        Self { _open: Some(open), ..self }
    }
}

/// Calls the method of whichever stream it is.
macro_rules! on {
    ($io:expr, $stream:ident => $call:expr) => {
        match &mut $io.get_mut().stream {
            Stream::Tcp(socket) => {
                let $stream = Pin::new(socket);
                $call
            }
            Stream::Tls(tls) => {
                let $stream = Pin::new(&mut **tls);
                $call
            }
            Stream::Unix(socket) => {
                let $stream = Pin::new(socket);
                $call
            }
        }
    };
}

impl AsyncRead for Io {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        on!(self, stream => stream.poll_write(cx, buf))
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on!(self, stream => stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Tcp(socket) => socket.is_write_vectored(),
            Stream::Tls(tls) => tls.is_write_vectored(),
            Stream::Unix(socket) => socket.is_write_vectored(),
        }
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on!(self, stream => stream.poll_shutdown(cx))
    }
}
