//! The body of a response as it comes (RFC 9112 §6.3, §7.1).

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};

use crate::http::BodyError;

/// The longest line before a chunk, with its extensions, in bytes.
const MAX_LINE: usize = 4096;
/// The most that trailers may have, in bytes and in fields.
const MAX_TRAILERS: usize = 16 * 1024;
const MAX_TRAILER_FIELDS: usize = 64;

/// What is still to come of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Nothing.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks, of which this comes next.
    Chunks(Chunk),
    /// All that comes until the connection is closed.
    Rest,
}

/// What comes next of a body in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// The line that says how long the next one is.
    Size,
    /// So many bytes of one.
    Data(u64),
    /// The end of the line after one.
    End,
    /// What follows the last one.
    Trailers,
}

/// What was made of what is here.
pub(super) enum Decoded {
    Frame(Frame<Bytes>),
    /// More has to come: at least so many bytes, if it is a piece of the content.
    More(u64),
    /// That was all.
    End,
}

impl Body {
    pub(super) fn is_over(self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }

    /// Takes out of `input` what comes next.
    ///
    /// # Errors
    /// When it is not what it should be.
    pub(super) fn decode(&mut self, input: &mut Bytes) -> Result<Decoded, BodyError> {
        loop {
            match self {
                Self::None | Self::Length(0) => return Ok(Decoded::End),
                Self::Length(left) | Self::Chunks(Chunk::Data(left)) if input.is_empty() => {
                    return Ok(Decoded::More(*left));
                }
                Self::Length(left) => return Ok(Decoded::Frame(take(input, left))),
                Self::Rest if input.is_empty() => return Ok(Decoded::More(u64::MAX)),
                Self::Rest => return Ok(Decoded::Frame(Frame::data(std::mem::take(input)))),
                Self::Chunks(Chunk::Data(left)) => {
                    let frame = take(input, left);
                    if *left == 0 {
                        *self = Self::Chunks(Chunk::End);
                    }
                    return Ok(Decoded::Frame(frame));
                }
                Self::Chunks(Chunk::End) => match &input[..] {
                    [b'\r', b'\n', ..] => {
                        input.advance(2);
                        *self = Self::Chunks(Chunk::Size);
                    }
                    [] | [b'\r'] => return Ok(Decoded::More(0)),
                    _ => return Err("a chunk has more than its length".into()),
                },
                Self::Chunks(Chunk::Size) => match memchr::memchr(b'\n', &input[..input.len().min(MAX_LINE)]) {
                    Some(end) => {
                        let size = chunk_size(&input[..end]).ok_or("a chunk's length is none")?;
                        input.advance(end + 1);
                        *self = Self::Chunks(if size == 0 { Chunk::Trailers } else { Chunk::Data(size) });
                    }
                    None if input.len() < MAX_LINE => return Ok(Decoded::More(0)),
                    None => return Err("the line before a chunk is too long".into()),
                },
                Self::Chunks(Chunk::Trailers) => {
                    let Some(trailers) = trailers(input)? else { return Ok(Decoded::More(0)) };
                    *self = Self::None;
                    return Ok(if trailers.is_empty() {
                        Decoded::End
                    } else {
                        Decoded::Frame(Frame::trailers(trailers))
                    });
                }
            }
        }
    }

    /// All that is left, if that is here.
    pub(super) fn take_whole(&mut self, input: &mut Bytes) -> Option<Bytes> {
        let left = match *self {
            Self::None => 0,
            Self::Length(left) => usize::try_from(left).ok().filter(|left| *left <= input.len())?,
            Self::Chunks(_) | Self::Rest => return None,
        };
        *self = Self::None;
        Some(input.split_to(left))
    }

    /// The connection has been closed.
    ///
    /// # Errors
    /// When that is not how the body ends.
    pub(super) fn ended(&mut self) -> Result<(), BodyError> {
        match self {
            Self::None | Self::Rest => *self = Self::None,
            Self::Length(_) | Self::Chunks(_) => return Err("the connection was closed within a body".into()),
        }
        Ok(())
    }

    pub(super) fn size_hint(self) -> SizeHint {
        match self {
            Self::None => SizeHint::with_exact(0),
            Self::Length(left) => SizeHint::with_exact(left),
            Self::Chunks(_) | Self::Rest => SizeHint::default(),
        }
    }
}

fn take(input: &mut Bytes, left: &mut u64) -> Frame<Bytes> {
    let taken = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
    *left -= taken as u64;
    Frame::data(input.split_to(taken))
}

/// The length in the line before a chunk; what extends it means nothing to us. The line ends in CRLF, the LF of which has
/// been taken.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\r")?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    if !matches!(rest.trim_ascii_start(), [] | [b';', ..]) || rest.contains(&b'\r') {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// What follows the last chunk, once all of it is here.
fn trailers(input: &mut Bytes) -> Result<Option<HeaderMap>, BodyError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let whole = input.clone();
    let httparse::Status::Complete((length, fields)) = httparse::parse_headers(&whole, &mut fields)? else {
        return if input.len() < MAX_TRAILERS { Ok(None) } else { Err("the trailers are too large".into()) };
    };
    input.advance(length);
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let value = HeaderValue::from_maybe_shared(whole.slice_ref(field.value))?;
        trailers.append(HeaderName::from_bytes(field.name.as_bytes())?, value);
    }
    Ok(Some(trailers))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a body in chunks comes to when it comes in pieces of `size` bytes; with what is left over.
    fn decoded(bytes: &[u8], size: usize) -> Result<(Vec<u8>, HeaderMap, Vec<u8>), String> {
        let (mut body, mut input) = (Body::Chunks(Chunk::Size), Bytes::new());
        let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
        let mut pieces = bytes.chunks(size);
        loop {
            match body.decode(&mut input).map_err(|error| error.to_string())? {
                Decoded::End => break,
                Decoded::More(_) => {
                    let piece = pieces.next().ok_or("it has not ended")?;
                    input = [&input[..], piece].concat().into();
                }
                Decoded::Frame(frame) => match frame.into_data() {
                    Ok(piece) => data.extend_from_slice(&piece),
                    Err(frame) => trailers = frame.into_trailers().unwrap(),
                },
            }
        }
        let rest = pieces.fold(input.to_vec(), |rest, piece| [&rest, piece].concat());
        Ok((data, trailers, rest))
    }

    #[test]
    fn chunks_are_put_together_however_they_come() {
        let bytes = b"5\r\nhello\r\n0006;name=\"v;\"; x \r\n world\r\nA \r\n0123456789\r\n0\r\nx-sum: 7\r\nx-sum: 8\r\n\r\nHTTP/1.1";
        for size in 1..=bytes.len() {
            let (data, trailers, rest) = decoded(bytes, size).unwrap();
            assert_eq!((&data[..], &rest[..]), (&b"hello world0123456789"[..], &b"HTTP/1.1"[..]), "{size}");
            assert_eq!(trailers.get_all("x-sum").iter().collect::<Vec<_>>(), ["7", "8"], "{size}");
        }
    }

    #[test]
    fn what_is_no_chunk_is_an_error() {
        for bytes in [
            "\r\n",
            "x\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\rx\r\nhello\r\n0\r\n\r\n",
            "5;\r\r\nhello\r\n0\r\n\r\n",
            "5 5\r\nhello\r\n0\r\n\r\n",
            "5,\r\nhello\r\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhell\r\n0\r\n\r\n",
            "5\r\nhelloo\r\n0\r\n\r\n",
            "10000000000000005\r\nhello\r\n0\r\n\r\n",
            "0\r\nx sum: 7\r\n\r\n",
            "0\r\n: 7\r\n\r\n",
            "0\r\nx\0: 7\r\n\r\n",
            "0\r\nx: 7\r\n y\r\n\r\n",
            "0\r\n",
            "",
            &format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(MAX_LINE)),
            &format!("0\r\nx: {}", "y".repeat(MAX_TRAILERS)),
            &format!("0\r\n{}\r\n", "x: y\r\n".repeat(MAX_TRAILER_FIELDS + 1)),
        ] {
            for size in [1, bytes.len().max(1)] {
                assert!(decoded(bytes.as_bytes(), size).is_err(), "{:?} by {size}", &bytes[..bytes.len().min(40)]);
            }
        }
    }
}
