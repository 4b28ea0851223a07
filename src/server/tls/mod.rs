//! TLS on a listener: which certificate is served, who may come in, and what new handshakes are done with once files change.

mod client;
mod files;
mod names;
mod reload;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use http::HeaderName;
use rustls::{
    Error, ServerConfig, ServerConnection, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier},
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use self::names::ByName;
pub use self::{
    files::{Certificate, CertificateFiles, ClientCas, Fault, Standing},
    reload::FileWatch,
};
use crate::http::ClientCertificate;

/// The protocols that are offered to clients (RFC 7301); the first one that a client has too is spoken.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The oldest version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2, and 1.3.
    Tls12,
    /// TLS 1.3 alone.
    Tls13,
}

/// Which clients show a certificate, and how the upstream hears of it.
#[derive(Clone, Debug)]
pub struct ClientAuth {
    /// Whether a client without a certificate is let in. One whose certificate is of somebody else's CA never is.
    pub required: bool,
    /// The PEM file of the CAs that sign for clients.
    pub ca_file: PathBuf,
    /// The header in which the upstream is told the certificate's subject.
    pub subject_header: HeaderName,
}

/// TLS on one listener. What it is done with is replaced as a whole when files change; connections that are open keep
/// what they began with.
#[derive(Debug)]
pub struct Terminator {
    min_version: MinVersion,
    client_auth: Option<ClientAuth>,
    /// Read once for each connection, written when files change: the lock is held for a copy of a pointer.
    current: RwLock<Arc<Current>>,
}

/// What new handshakes are done with.
#[derive(Debug)]
struct Current {
    parts: Parts,
    config: Arc<ServerConfig>,
}

/// What it is made of.
#[derive(Clone, Debug)]
struct Parts {
    certificates: Vec<Arc<Certificate>>,
    client_cas: Option<Arc<ClientCas>>,
    ticketer: Arc<dyn ProducesTickets>,
}

impl Terminator {
    /// Puts together what has been loaded. The first certificate is served where no name fits.
    ///
    /// # Errors
    /// When the system has no randomness for the keys of session tickets.
    pub fn new(
        min_version: MinVersion,
        certificates: Vec<Certificate>,
        client_auth: Option<(ClientAuth, ClientCas)>,
    ) -> Result<Self, Error> {
        let (client_auth, client_cas) = client_auth.unzip();
        let parts = Parts {
            certificates: certificates.into_iter().map(Arc::new).collect(),
            client_cas: client_cas.map(Arc::new),
            ticketer: new_ticketer()?,
        };
        let current = RwLock::new(Arc::new(Current::new(min_version, parts)));
        Ok(Self { min_version, client_auth, current })
    }

    /// The header in which upstreams are told whom a client's certificate names, where clients are asked for one.
    pub fn subject_header(&self) -> Option<&HeaderName> {
        self.client_auth.as_ref().map(|auth| &auth.subject_header)
    }

    /// Does the handshake. Answers the certificate as well that the client has shown, if it has.
    ///
    /// # Errors
    /// When the handshake fails, or the client's certificate cannot be taken for what it is.
    pub(super) async fn accept<S>(&self, stream: S) -> io::Result<(TlsStream<S>, Option<Arc<ClientCertificate>>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = TlsAcceptor::from(self.current().config.clone()).accept(stream).await?;
        let certificate = self.client_certificate(stream.get_ref().1)?;
        Ok((stream, certificate))
    }

    fn client_certificate(&self, connection: &ServerConnection) -> io::Result<Option<Arc<ClientCertificate>>> {
        let shown = connection.peer_certificates().and_then(<[_]>::first);
        let Some((auth, shown)) = self.client_auth.as_ref().zip(shown) else { return Ok(None) };
        client::read(shown, &auth.subject_header).map(|certificate| Some(Arc::new(certificate)))
    }

    fn current(&self) -> Arc<Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For handshakes to come.
    fn replace(&self, parts: Parts) {
        let new = Arc::new(Current::new(self.min_version, parts));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
    }
}

impl Current {
    fn new(min_version: MinVersion, parts: Parts) -> Self {
        let versions: &[&SupportedProtocolVersion] = match min_version {
            MinVersion::Tls12 => &[&TLS13, &TLS12],
            MinVersion::Tls13 => &[&TLS13],
        };
        let verifier =
            parts.client_cas.as_ref().map_or_else(WebPkiClientVerifier::no_client_auth, |cas| cas.verifier());
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("aws-lc-rs has suites for TLS 1.2 and 1.3")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(ByName::new(&parts.certificates)));
        config.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
        // Sessions live in tickets, which every worker can open and none has to keep. The rare client without tickets does a
        // whole handshake each time: a store of sessions would be a lock and memory for everybody.
        config.ticketer = parts.ticketer.clone();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // A client uses a ticket of TLS 1.3 once (RFC 8446 §C.4), and browsers open more than one connection. A ticket costs
        // 3 µs and 210 bytes; a whole handshake 90 µs, and twice that with a certificate of the client's.
        config.send_tls13_tickets = 2;
        Self { parts, config: Arc::new(config) }
    }
}

/// Keys of session tickets: made here, told to nobody, changed every six hours.
fn new_ticketer() -> Result<Arc<dyn ProducesTickets>, Error> {
    aws_lc_rs::Ticketer::new()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
