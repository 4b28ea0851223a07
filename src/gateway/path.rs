//! One reading of the path (invariant 2). What two readers could take for two different paths is refused, so that the
//! path a rule was written for is the path the upstream serves.

use std::borrow::Cow;

/// Why a path has more than one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ambiguous {
    /// It does not begin with a slash.
    NotAbsolute,
    /// `//`: some readers merge it, some take what follows for a host.
    EmptySegment,
    /// `.` or `..`, however encoded.
    DotSegment,
    /// `%2f`, `%5c`, or a backslash.
    Separator,
    /// `;`, or `%3b`: some readers cut what follows it.
    PathParameter,
    /// `%` without two hexadecimal digits.
    BadEncoding,
    /// What it decodes to holds `%` and two hexadecimal digits: a reader that decodes twice sees another path.
    DoubleEncoding,
    /// A control character, or a byte that belongs encoded.
    ForbiddenByte,
    /// What it decodes to is not UTF-8.
    NotUtf8,
}

impl Ambiguous {
    /// What is wrong, for the client that sent it.
    pub const fn description(self) -> &'static str {
        match self {
            Self::NotAbsolute => "The request target is not a path.",
            Self::EmptySegment => "The path holds an empty segment.",
            Self::DotSegment => "The path holds a dot segment.",
            Self::Separator => "The path holds a backslash or an encoded separator.",
            Self::PathParameter => "The path holds a semicolon.",
            Self::BadEncoding => "The path holds a percent sign without two hexadecimal digits.",
            Self::DoubleEncoding => "The path is percent-encoded twice.",
            Self::ForbiddenByte => "The path holds a character that must not stand in it.",
            Self::NotUtf8 => "The path is not UTF-8.",
        }
    }
}

/// Decodes a path for matching; the raw one, unchanged, is what goes upstream.
///
/// Segments are compared decoded, so `/%61dmin` is `/admin` for a rule as it is for an upstream; and since no separator
/// can come out of decoding, the segments are the same before and after.
///
/// # Errors
/// When there is more than one reading.
pub fn decode(raw: &str) -> Result<Cow<'_, str>, Ambiguous> {
    if !raw.starts_with('/') {
        return Err(Ambiguous::NotAbsolute);
    }
    let mut encoded = false;
    for byte in raw.bytes() {
        match byte {
            b'%' => encoded = true,
            b'\\' => return Err(Ambiguous::Separator),
            b';' => return Err(Ambiguous::PathParameter),
            0..=0x20 | 0x7f..=0xff | b'?' | b'#' => return Err(Ambiguous::ForbiddenByte),
            _ => {}
        }
    }
    let path = if encoded { Cow::Owned(percent_decode(raw.as_bytes())?) } else { Cow::Borrowed(raw) };
    check_segments(path.as_bytes())?;
    Ok(path)
}

/// One walk from slash to slash: `str::split` would cost more than the rest of a decision.
fn check_segments(path: &[u8]) -> Result<(), Ambiguous> {
    let mut start = 1;
    for (at, byte) in path.iter().enumerate().skip(1) {
        if *byte == b'/' {
            if start == at {
                return Err(Ambiguous::EmptySegment);
            }
            check_dots(&path[start..at])?;
            start = at + 1;
        }
    }
    // The last one may be empty: a trailing slash makes a path of its own.
    check_dots(&path[start..])
}

fn check_dots(segment: &[u8]) -> Result<(), Ambiguous> {
    if matches!(segment, b"." | b"..") { Err(Ambiguous::DotSegment) } else { Ok(()) }
}

fn percent_decode(raw: &[u8]) -> Result<String, Ambiguous> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'%' {
            decoded.push(byte);
            rest = tail;
            continue;
        }
        let byte = hex_pair(tail).ok_or(Ambiguous::BadEncoding)?;
        rest = &tail[2..];
        match byte {
            b'/' | b'\\' => return Err(Ambiguous::Separator),
            b';' => return Err(Ambiguous::PathParameter),
            0..=0x1f | 0x7f => return Err(Ambiguous::ForbiddenByte),
            _ => decoded.push(byte),
        }
    }
    // Looked for in what came out, since the digits may have been encoded too.
    if decoded.windows(3).any(|window| window[0] == b'%' && hex_pair(&window[1..]).is_some()) {
        return Err(Ambiguous::DoubleEncoding);
    }
    String::from_utf8(decoded).map_err(|_| Ambiguous::NotUtf8)
}

/// The byte that two hexadecimal digits at the front of `text` stand for.
pub(super) fn hex_pair(text: &[u8]) -> Option<u8> {
    let digit = |n: usize| char::from(*text.get(n)?).to_digit(16).map(|d| d as u8);
    Some(digit(0)? << 4 | digit(1)?)
}
