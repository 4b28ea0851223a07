//! WebSocket: the handshake over HTTP/1.1 (RFC 6455 §4) and over HTTP/2 (RFC 8441), and from either to the other.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use hyper::ext::Protocol;

use crate::http::{Body, RequestBody, Tunnel};

/// A client that wants to go on in WebSocket; what it expects of the answer.
#[derive(Clone, Debug)]
pub(super) enum Handshake {
    /// By HTTP/1.1, with this key; it wants to see that the key was understood.
    Upgrade(HeaderValue),
    /// By HTTP/2, which needs no key.
    Connect,
}

/// A handshake that is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Malformed;

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

impl Handshake {
    /// What a request asks for, if it asks for a WebSocket.
    ///
    /// # Errors
    /// When it does so in a way that two readers could understand differently.
    pub(super) fn of(request: &Request<RequestBody>) -> Result<Option<Self>, Malformed> {
        let headers = request.headers();
        if request.version() == Version::HTTP_2 {
            return Ok((*request.method() == Method::CONNECT && is_websocket(request)).then_some(Self::Connect));
        }
        if !headers.contains_key(header::UPGRADE) || !lists(headers, header::CONNECTION, "upgrade") {
            return Ok(None);
        }
        let mut named = headers.get_all(header::UPGRADE).iter();
        let websocket = named.next().is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"));
        // Another protocol, or a choice of several: what we do not know we do not offer, as RFC 9110 §7.8 lets us.
        if !websocket || named.next().is_some() {
            return Ok(None);
        }
        let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
        match (keys.next(), keys.next()) {
            // RFC 6455 §4.1: a GET of HTTP/1.1, of course without a body, whose key is 16 bytes in base64.
            (Some(key), None)
                if *request.method() == Method::GET
                    && request.version() == Version::HTTP_11
                    && request.body().is_end_stream()
                    && STANDARD.decode(key).is_ok_and(|key| key.len() == 16) =>
            {
                Ok(Some(Self::Upgrade(key.clone())))
            }
            _ => Err(Malformed),
        }
    }

    /// Whether the client would take an answer with this status for the beginning of the tunnel (RFC 8441 §5: any 2xx).
    pub(super) fn is_agreed_by(&self, status: StatusCode) -> bool {
        match self {
            Self::Upgrade(_) => status == StatusCode::SWITCHING_PROTOCOLS,
            Self::Connect => status.is_success(),
        }
    }

    /// The answer that begins the tunnel: the upstream's, as far as it is for the client.
    pub(super) fn answer(&self, upstream: &HeaderMap, tunnel: Tunnel) -> Response<Body> {
        let mut response = Response::new(Body::Tunnel(tunnel));
        let headers = response.headers_mut();
        *headers = upstream.clone();
        // A tunnel has none, whatever the upstream said (RFC 9110 §8.6, §9.3.6); over HTTP/2 it would be reset for it.
        headers.remove(header::CONTENT_LENGTH);
        match self {
            Self::Upgrade(key) => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(header::UPGRADE, WEBSOCKET);
                if let Some(accept) = accept(key) {
                    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
                }
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            }
            Self::Connect => {
                headers.remove(header::SEC_WEBSOCKET_ACCEPT);
            }
        }
        response
    }
}

/// Makes a request ask an upstream of HTTP/1.1 for a WebSocket; answers the key that it has to show it understood, unless
/// there is no randomness to be had.
pub(super) fn ask_http1<B>(request: &mut Request<B>) -> Option<HeaderValue> {
    *request.method_mut() = Method::GET;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    let mut key = [0; 16];
    // RFC 6455 §4.1: random, so that nobody between takes an old answer for a new one. It protects nothing else.
    aws_lc_rs::rand::fill(&mut key).ok()?;
    let key = HeaderValue::try_from(STANDARD.encode(key)).ok()?;
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, WEBSOCKET);
    headers.insert(header::SEC_WEBSOCKET_KEY, key.clone());
    headers.entry(header::SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
    Some(key)
}

/// Makes a request ask an upstream of HTTP/2 for one.
pub(super) fn ask_http2<B>(request: &mut Request<B>) {
    *request.method_mut() = Method::CONNECT;
    let headers = request.headers_mut();
    headers.remove(header::SEC_WEBSOCKET_KEY);
    headers.entry(header::SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
    request.extensions_mut().insert(Protocol::from_static("websocket"));
}

/// Whether an upstream of HTTP/1.1 has agreed (RFC 6455 §4.1): to that protocol, and having read this key.
pub(super) fn has_agreed(headers: &HeaderMap, key: &HeaderValue) -> bool {
    let only = |name: HeaderName| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none())
    };
    only(header::UPGRADE).is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && lists(headers, header::CONNECTION, "upgrade")
        && only(header::SEC_WEBSOCKET_ACCEPT).is_some_and(|shown| Some(shown) == accept(key).as_ref())
}

/// RFC 6455 §4.2.2: what shows that a key was read. SHA-1 is no secret's keeper here.
fn accept(key: &HeaderValue) -> Option<HeaderValue> {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat());
    // Base64 is made of characters that a header may hold.
    HeaderValue::try_from(STANDARD.encode(hash)).ok()
}

fn is_websocket<B>(request: &Request<B>) -> bool {
    request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket")
}

/// Whether a list of tokens names this one.
fn lists(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}
