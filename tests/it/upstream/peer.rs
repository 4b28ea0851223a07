//! An upstream made of hyper, which speaks what it is told to, and remembers what reached it.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    thread,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version, request};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{
    body::{Body, Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

use crate::support::tls;

/// What a peer speaks.
#[derive(Clone)]
pub(super) enum Wire {
    Http1,
    Http2,
    /// TLS, with these protocols by ALPN; whether clients have to show a certificate of the same CA.
    Tls(&'static [&'static str], bool),
    /// HTTP/1.1 on a Unix socket.
    Unix,
}

/// A response's body.
pub(super) type Answer = UnsyncBoxBody<Bytes, Infallible>;

type Answering = Pin<Box<dyn Future<Output = Response<Answer>> + Send>>;

/// A request as it came, read to its end.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) head: request::Parts,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

/// The upstream.
pub(super) struct Peer {
    address: Option<SocketAddr>,
    home: tempfile::TempDir,
    scheme: &'static str,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
}

impl Peer {
    /// Answers everything with the request's body.
    pub(super) fn echo(wire: &Wire) -> Self {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let memory = seen.clone();
        let mut peer = Self::start(wire, move |request| {
            let memory = memory.clone();
            async move {
                let (head, body) = request.into_parts();
                // A body that breaks off has not been seen.
                let Ok(body) = body.collect().await else { return Response::new(whole("")) };
                let trailers = body.trailers().cloned();
                let body = body.to_bytes();
                memory.lock().unwrap().push(Seen { head, body: body.clone(), trailers });
                Response::new(whole(body))
            }
        });
        peer.seen = seen;
        peer
    }

    /// Answers as it is told.
    pub(super) fn start<F, A>(wire: &Wire, answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Answer>> + Send + 'static,
    {
        let home = tempfile::tempdir().unwrap();
        let answer: Arc<dyn Fn(Request<Incoming>) -> Answering + Send + Sync> =
            Arc::new(move |request| Box::pin(answer(request)));
        let connections = Arc::new(AtomicUsize::new(0));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (scheme, tls) = match wire {
            Wire::Http1 => ("http", None),
            Wire::Http2 => ("h2c", None),
            Wire::Unix => ("unix", None),
            Wire::Tls(protocols, ask) => {
                let ca = tls::certify(home.path());
                ("https", Some(TlsAcceptor::from(server_config(home.path(), &ca, protocols, *ask))))
            }
        };
        let (count, prior) = (connections.clone(), matches!(wire, Wire::Http2));
        let address = if let Wire::Unix = wire {
            let listener = runtime.block_on(async { UnixListener::bind(home.path().join("app.sock")).unwrap() });
            runtime.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    count.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(serve(stream, false, answer.clone()));
                }
            });
            None
        } else {
            let listener = runtime.block_on(async { TcpListener::bind("127.0.0.1:0").await.unwrap() });
            let address = listener.local_addr().unwrap();
            runtime.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    count.fetch_add(1, Ordering::SeqCst);
                    stream.set_nodelay(true).unwrap();
                    let (tls, answer) = (tls.clone(), answer.clone());
                    tokio::spawn(async move {
                        match tls {
                            None => serve(stream, prior, answer).await,
                            Some(tls) => {
                                let Ok(stream) = tls.accept(stream).await else { return };
                                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                                serve(stream, http2, answer).await;
                            }
                        }
                    });
                }
            });
            Some(address)
        };
        // It serves for as long as the test runs.
        thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        Self { address, home, scheme, seen: Arc::default(), connections }
    }

    /// Its URL.
    pub(super) fn url(&self) -> String {
        match self.address {
            Some(address) => format!("{}://{address}", self.scheme),
            None => format!("unix://{}", self.home.path().join("app.sock").display()),
        }
    }

    /// What to write into an upstream's mapping to reach it.
    pub(super) fn config(&self) -> String {
        let tls = match self.scheme {
            "https" => format!(", tls: {{ ca_file: {} }}", self.file("ca.pem").display()),
            _ => String::new(),
        };
        format!("urls: [\"{}\"]{tls}", self.url())
    }

    /// A file of the CA that it has, if it speaks TLS.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// What has reached it since this was last asked; only an echo remembers.
    pub(super) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    /// The only request since this was last asked.
    pub(super) fn only(&self) -> Seen {
        let mut seen = self.take();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }

    /// How many connections were made to it.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve<S>(stream: S, http2: bool, answer: Arc<dyn Fn(Request<Incoming>) -> Answering + Send + Sync>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let answering = answer(request);
        async move { Ok::<_, Infallible>(answering.await) }
    });
    // What breaks here, a test sees at the other end.
    if http2 {
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }
}

fn server_config(home: &Path, ca: &Path, protocols: &[&str], ask: bool) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_file(home.join("cert.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(home.join("key.pem")).unwrap();
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = if ask {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A body that is there at once.
pub(super) fn whole(text: impl Into<Bytes>) -> Answer {
    Full::new(text.into()).boxed_unsync()
}

/// A body that comes as it is sent, one piece waiting at the most.
pub(super) fn flow() -> (mpsc::Sender<Frame<Bytes>>, Answer) {
    let (send, frames) = mpsc::channel(1);
    (send, Flow(frames).boxed_unsync())
}

struct Flow(mpsc::Receiver<Frame<Bytes>>);

impl Body for Flow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

/// Which version of HTTP a wire carries.
pub(super) fn version(wire: &Wire) -> Version {
    match wire {
        Wire::Http1 | Wire::Unix => Version::HTTP_11,
        Wire::Http2 => Version::HTTP_2,
        Wire::Tls(protocols, _) if protocols.first() == Some(&"h2") => Version::HTTP_2,
        Wire::Tls(..) => Version::HTTP_11,
    }
}

/// Every wire there is.
pub(super) const WIRES: [Wire; 6] = [
    Wire::Http1,
    Wire::Http2,
    Wire::Tls(&["http/1.1"], false),
    Wire::Tls(&["h2", "http/1.1"], false),
    // One that knows nothing of ALPN speaks what everybody does.
    Wire::Tls(&[], false),
    Wire::Unix,
];
