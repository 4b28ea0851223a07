//! What stays open: WebSockets, server-sent events, gRPC, uploads. Their clients and servers are stock ones, which know
//! nothing of Sidegate.

mod browser;
mod close;
mod events;
mod extended;
mod grpc;
mod handshake;
mod interim;
mod notes;
mod programs;
mod python;
mod reload;
mod sockets;
mod websocket;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::{
    PATIENCE, Sidegate,
    tls::certify,
    tokens::{TestKey, provider},
};

/// Bytes both ways, whatever carries them.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

type Io = Box<dyn Duplex>;

/// What an upstream is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Http,
    Https,
    Unix,
    H2c,
}

/// A folder for a gate, with certificates.
fn home() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    certify(dir.path());
    dir
}

/// Listens as an upstream does. Answers how the configuration names it, and what is accepted.
async fn listen(by: By, home: &Path, protocols: &[&str]) -> (String, mpsc::Receiver<Io>) {
    let (send, accepted) = mpsc::channel(16);
    if by == By::Unix {
        let path = home.join("upstream.sock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = send.send(Box::new(stream) as Io).await;
            }
        });
        return (format!("urls: ['unix://{}']", path.display()), accepted);
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (scheme, tls) = match by {
        By::Https => ("https", Some(acceptor(home, protocols))),
        By::H2c => ("h2c", None),
        By::Http | By::Unix => ("http", None),
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let io: Io = match &tls {
                None => Box::new(stream),
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => Box::new(stream),
                    Err(_) => continue,
                },
            };
            let _ = send.send(io).await;
        }
    });
    let ca = if by == By::Https { ", tls: { ca_file: ca.pem }" } else { "" };
    (format!("urls: ['{scheme}://{address}']{ca}"), accepted)
}

fn acceptor(home: &Path, protocols: &[&str]) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(home.join("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(home.join("key.pem")).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Starts a gate with a listener `plain` and one that speaks TLS, `tls`, before an upstream `app`, as `upstream` says. It
/// takes tokens by `key`.
fn start(home: TempDir, upstream: &str, key: &TestKey, rest: &str) -> Sidegate {
    let yaml = format!(
        "workers: 1\n\
         listeners:\n\
         \x20 - {{ name: plain, address: 127.0.0.1:0 }}\n\
         \x20 - {{ name: tls, address: 127.0.0.1:0, tls: {{ certificates: [{{ cert_file: cert.pem, key_file: key.pem }}] }} }}\n\
         admin: {{ address: 127.0.0.1:0 }}\n\
         upstreams: [{{ name: app, {upstream} }}]\n\
         {}{rest}\n",
        provider(&[key], "leeway: 0s")
    );
    Sidegate::start_in(home, &yaml)
}

/// One route that needs a token.
const ALL: &str = "routes: [{ name: all, match: { path_prefix: / }, upstream: app }]";

/// How a client comes in.
#[derive(Clone, Copy, Debug)]
enum Over {
    Plain,
    /// With these protocols to choose from.
    Tls(&'static [&'static str]),
}

/// Connects a client.
async fn connect(gate: &Sidegate, over: Over) -> Io {
    match over {
        Over::Plain => Box::new(open(gate.listener("plain")).await),
        Over::Tls(protocols) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(gate.dir().join("ca.pem")).unwrap()).unwrap();
            let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
            let name = ServerName::try_from("localhost").unwrap();
            let socket = open(gate.listener("tls")).await;
            Box::new(TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap())
        }
    }
}

async fn open(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Waits, without holding up the test's servers, until `condition` holds.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    in_time(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// What a future comes to, if it does within the usual patience.
async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

/// How many streams Sidegate has ended for this reason.
fn ended(gate: &Sidegate, reason: &str) -> f64 {
    gate.metric(&format!("sidegate_streams_ended_total{{reason=\"{reason}\"}}"))
}
