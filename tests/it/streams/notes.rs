//! A gRPC service on tonic, written by hand, so that no protoc is needed.

use std::{
    convert::Infallible,
    io,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    codec::CompressionEncoding,
    codegen::{BoxFuture, BoxStream, Service},
    metadata::MetadataValue,
    server::{Grpc, NamedService},
    transport::server::{Connected, Server},
};
use tonic_prost::ProstCodec;

use super::{By, Io, listen};

/// The one message.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Note {
    #[prost(string, tag = "1")]
    pub(super) text: String,
    #[prost(uint32, tag = "2")]
    pub(super) count: u32,
}

impl Note {
    pub(super) fn new(text: impl Into<String>, count: u32) -> Self {
        Self { text: text.into(), count }
    }
}

/// The service, on an upstream of its own.
///
/// `Echo` answers what it gets, and metadata `x-told` too, as a header and as a trailer; where the text is `fail`, with a
/// status. `Count` answers as many notes as it is told, `Join` all that it gets in one, `Chat` each with itself, and with a
/// status after `fail`. `Wait` never answers.
#[derive(Clone, Default)]
pub(super) struct Notes {
    pub(super) config: String,
    seen: Arc<Mutex<Vec<HeaderMap>>>,
    waiting: Arc<AtomicUsize>,
}

impl Notes {
    pub(super) async fn start(by: By, home: &Path) -> Self {
        let (config, accepted) = listen(by, home, &["h2"]).await;
        let this = Self { config, ..Self::default() };
        let incoming = ReceiverStream::new(accepted).map(|io| Ok::<_, io::Error>(Accepted(io)));
        tokio::spawn(Server::builder().add_service(this.clone()).serve_with_incoming(incoming));
        this
    }

    /// The headers of the only call since this was last asked.
    pub(super) fn only(&self) -> HeaderMap {
        let mut seen = std::mem::take(&mut *self.seen.lock().unwrap());
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }

    /// Whether nothing has come.
    pub(super) fn is_untouched(&self) -> bool {
        self.seen.lock().unwrap().is_empty()
    }

    /// How many calls wait for ever.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    async fn wait(self) -> Result<Response<Note>, Status> {
        let _waits = Waits::new(self.waiting);
        std::future::pending().await
    }
}

/// A call that waits; counted for as long as it does.
struct Waits(Arc<AtomicUsize>);

impl Waits {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl NamedService for Notes {
    const NAME: &'static str = "test.Notes";
}

impl Service<http::Request<Body>> for Notes {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.seen.lock().unwrap().push(request.headers().clone());
        let this = self.clone();
        let mut grpc = Grpc::new(ProstCodec::<Note, Note>::default())
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip);
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/test.Notes/Echo" => grpc.unary(Call(echo), request).await,
                "/test.Notes/Count" => grpc.server_streaming(Call(count), request).await,
                "/test.Notes/Join" => grpc.client_streaming(Call(join), request).await,
                "/test.Notes/Chat" => grpc.streaming(Call(chat), request).await,
                "/test.Notes/Wait" => grpc.unary(Call(move |_: Request<Note>| this.clone().wait()), request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// A method as the library wants it.
struct Call<F>(F);

impl<F, M, Out> Service<Request<M>> for Call<F>
where
    F: FnMut(Request<M>) -> Out,
    Out: Future + Send + 'static,
    Out::Output: IntoResult,
{
    type Response = <Out::Output as IntoResult>::Ok;
    type Error = Status;
    type Future = BoxFuture<Self::Response, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<M>) -> Self::Future {
        let answering = (self.0)(request);
        Box::pin(async move { answering.await.into_result() })
    }
}

/// A result, by whatever name.
trait IntoResult {
    type Ok;
    fn into_result(self) -> Result<Self::Ok, Status>;
}

impl<T> IntoResult for Result<T, Status> {
    type Ok = T;
    fn into_result(self) -> Self {
        self
    }
}

async fn echo(request: Request<Note>) -> Result<Response<Note>, Status> {
    let told = request.metadata().get("x-told").cloned();
    let note = request.into_inner();
    if note.text == "fail" {
        // Words that must be percent-encoded on the wire, and details besides.
        let mut status = Status::with_details(Code::FailedPrecondition, "nö: 100%\nway", vec![0, 255, 7].into());
        status.metadata_mut().insert("x-more", MetadataValue::from_static("of it"));
        return Err(status);
    }
    let mut response = Response::new(note);
    if let Some(told) = told {
        response.metadata_mut().insert("x-told", told);
    }
    response.metadata_mut().insert_bin("x-raw-bin", MetadataValue::from_bytes(&[0, 1, 255]));
    Ok(response)
}

async fn count(request: Request<Note>) -> Result<Response<BoxStream<Note>>, Status> {
    let Note { text, count } = request.into_inner();
    let notes: BoxStream<Note> = Box::pin(tokio_stream::iter((0..count).map(move |n| Ok(Note::new(&*text, n)))));
    Ok(Response::new(notes))
}

async fn join(request: Request<Streaming<Note>>) -> Result<Response<Note>, Status> {
    let mut notes = request.into_inner();
    let mut joined = Note::default();
    while let Some(note) = notes.next().await {
        joined.text += &note?.text;
        joined.count += 1;
    }
    Ok(Response::new(joined))
}

async fn chat(request: Request<Streaming<Note>>) -> Result<Response<BoxStream<Note>>, Status> {
    let answers = request.into_inner().map(|note| match note {
        Ok(note) if note.text == "fail" => Err(Status::aborted("as you wish")),
        other => other,
    });
    Ok(Response::new(Box::pin(answers) as Pin<Box<dyn Stream<Item = _> + Send>>))
}

/// A connection as the library wants it.
struct Accepted(Io);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
