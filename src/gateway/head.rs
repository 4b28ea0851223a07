//! One reading of a request's head: what two readers could read differently is refused before anything is decided.
//!
//! What stands in the bytes and is gone once they are parsed (a bare LF, a length beside a transfer coding) is found by the
//! server, and refused here; so is the same where it can still be seen, whatever parsed it.

use http::{HeaderName, HeaderValue, Method, Request, Uri, header};

use super::{headers::Reserved, reject::Rejection};
use crate::http::HeadFault;

/// Looks over a head, and tells what `Connection` names: those headers end here.
///
/// # Errors
/// When the target is no path of a resource, the body's length is said in more than one way, or `Connection` names what
/// is not the connection's.
pub(super) fn read<B>(
    request: &Request<B>,
    reserved: &Reserved,
    is_websocket: bool,
) -> Result<Vec<HeaderName>, Rejection> {
    if let Some(fault) = request.extensions().get::<HeadFault>() {
        return Err(Rejection::BadHead(*fault));
    }
    // A tunnel to anywhere is nothing that could be decided about; a WebSocket over HTTP/2 asks for one to here.
    if *request.method() == Method::CONNECT && !is_websocket {
        return Err(Rejection::BadTarget);
    }
    read_target(request.uri())?;
    let (mut lengths, mut codings) = (0, 0);
    let mut named = Vec::new();
    for (name, value) in request.headers() {
        match *name {
            header::CONTENT_LENGTH => lengths += 1,
            // No other coding, not even beside it: who does not know it would look for the end elsewhere (RFC 9112 §6.1).
            header::TRANSFER_ENCODING if !value.as_bytes().eq_ignore_ascii_case(b"chunked") => {
                return Err(Rejection::BadFraming);
            }
            header::TRANSFER_ENCODING => codings += 1,
            header::CONNECTION => read_connection(value, reserved, &mut named)?,
            _ => {}
        }
    }
    if lengths + codings > 1 { Err(Rejection::BadFraming) } else { Ok(named) }
}

/// Origin form, or absolute form for the web (RFC 9112 §3.2): neither `*`, nor an authority alone, nor another scheme.
/// The path has rules of its own; a query goes on as it is, and so has to be what a request line may hold.
fn read_target(uri: &Uri) -> Result<(), Rejection> {
    let scheme = uri.scheme_str().is_none_or(|scheme| matches!(scheme, "http" | "https"));
    let query = uri.query().is_none_or(|query| query.bytes().all(|byte| matches!(byte, 0x21..=0x7e) && byte != b'#'));
    if scheme && query && uri.path().starts_with('/') { Ok(()) } else { Err(Rejection::BadTarget) }
}

/// RFC 9110 §7.6.1: a list of what belongs to this connection alone. Whoever lists more would have it taken from what
/// the decision is about, or from what a proxy before us has set.
fn read_connection(value: &HeaderValue, reserved: &Reserved, named: &mut Vec<HeaderName>) -> Result<(), Rejection> {
    // What nearly everybody says names nothing that would not go anyway.
    if matches!(value.as_bytes(), b"keep-alive" | b"close") {
        return Ok(());
    }
    let options = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    for option in options.filter(|option| !option.is_empty()) {
        let name = HeaderName::from_bytes(option).map_err(|_| Rejection::BadConnection)?;
        if reserved.matters(name.as_str()) {
            return Err(Rejection::BadConnection);
        }
        named.push(name);
    }
    Ok(())
}
