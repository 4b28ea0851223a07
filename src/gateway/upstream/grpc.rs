//! What a gRPC request says about itself.

use std::time::Duration;

use http::{HeaderMap, HeaderName, header};

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// How long a gRPC client waits for the whole answer (gRPC over HTTP/2, "Requests": at most eight digits and a unit).
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let kind = headers.get(header::CONTENT_TYPE)?;
    if !kind.as_bytes().starts_with(b"application/grpc") {
        return None;
    }
    let text = headers.get(&TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}
