//! The upstream of the default configuration: a page worth protecting, on a port of its own, reached like any other.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Binds the page to a free port of the loopback and serves it in the background; answers where it is.
///
/// # Errors
/// When there is no port to be had.
pub async fn start() -> io::Result<SocketAddr> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = socket.local_addr()?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = socket.accept().await else { continue };
            tokio::spawn(async move {
                // Its only client is Sidegate, and what breaks here it reports there.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(page)).await;
            });
        }
    });
    Ok(address)
}

async fn page(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let subject = HeaderName::from_static("x-auth-subject");
    let who = request.headers().get(subject).and_then(|value| value.to_str().ok()).unwrap_or("nobody");
    let (status, text) = match request.uri().path() {
        "/secret" => (StatusCode::OK, "Secret area\n".to_owned()),
        "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
        "/" | "/whoami" => (StatusCode::OK, format!("You are {who}.\n")),
        "/admin" => (StatusCode::OK, format!("Admin area, {who}.\n")),
        _ => (StatusCode::NOT_FOUND, "The demo has /, /secret, /whoami, /admin and /healthz.\n".to_owned()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}
