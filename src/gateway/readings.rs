//! Paths with more than one reading, where a route takes them by name (`allow_paths`).
//!
//! Such a path goes upstream as it came, and nobody here knows how the upstream reads it. So every reading is looked up,
//! and all of them have to lead to the one route that takes it: then it does not matter for the decision which one the
//! upstream has. A route that takes anything is no way round a route that asks for more.

use std::borrow::Cow;

use super::{
    config::{Oddities, Oddity},
    path::{self, Ambiguous, decode},
};

/// A request's path, ready to be matched.
pub(super) enum Path<'a> {
    /// It has one reading: this.
    Plain(Cow<'a, str>),
    /// It has several.
    Odd(Odd),
}

/// A path that some route may take although it has several readings.
pub(super) struct Odd {
    /// What a route has to allow.
    oddities: Oddities,
    /// As every reader there is might see it, decoded.
    readings: Vec<String>,
    /// What to say when no route takes it.
    why: Ambiguous,
}

/// So many bytes of a path with several readings are looked at, and so many readings. Both are far more than any honest
/// path has, and bound what a dishonest one costs.
const MAX_BYTES: usize = 4096;
const MAX_READINGS: usize = 64;

/// Reads a path; `allowed` is what the routes take, all of them together.
///
/// # Errors
/// When it has more than one reading, and no route could take it.
pub(super) fn read(raw: &str, allowed: Oddities) -> Result<Path<'_>, Ambiguous> {
    match decode(raw) {
        Ok(path) => Ok(Path::Plain(path)),
        Err(why) => Odd::read(raw, allowed, why).map(Path::Odd),
    }
}

impl Path<'_> {
    /// What `find` finds for this path; for one with several readings, what it finds for each of them alike. `takes`
    /// says whether a find takes such a path at all.
    ///
    /// # Errors
    /// When readings lead to different finds, or to one that does not take them.
    pub(super) fn resolve<T>(
        &self,
        find: impl Fn(&str) -> Option<(usize, T)>,
        takes: impl Fn(&T) -> Oddities,
    ) -> Result<Option<(usize, T)>, Ambiguous> {
        let odd = match self {
            Self::Plain(path) => return Ok(find(path)),
            Self::Odd(odd) => odd,
        };
        let mut finds = odd.readings.iter().map(|reading| find(reading));
        let first = finds.next().flatten().filter(|(_, found)| takes(found).cover(odd.oddities)).ok_or(odd.why)?;
        let agreed = finds.all(|other| other.is_some_and(|(index, _)| index == first.0));
        if agreed { Ok(Some(first)) } else { Err(odd.why) }
    }
}

impl Odd {
    fn read(raw: &str, allowed: Oddities, why: Ambiguous) -> Result<Self, Ambiguous> {
        // Mostly no route allows anything, and this is the end of it.
        if allowed == Oddities::default() || raw.len() > MAX_BYTES || !raw.starts_with('/') {
            return Err(why);
        }
        let oddities = oddities(raw, &literal(raw)?);
        if !allowed.cover(oddities) {
            return Err(why);
        }
        let mut spellings = vec![raw.to_owned()];
        let mut readings = Vec::new();
        while let Some(spelling) = spellings.get(readings.len()).cloned() {
            // What is refused in a request is refused in every reading of it: above all a dot segment.
            readings.push(literal(&spelling)?);
            for reader in READERS {
                let Some(seen) = reader(&spelling) else { continue };
                if !spellings.contains(&seen) {
                    spellings.push(seen);
                }
            }
            if spellings.len() > MAX_READINGS {
                return Err(why);
            }
        }
        Ok(Self { oddities, readings, why })
    }
}

fn oddities(raw: &str, literal: &str) -> Oddities {
    let encoded = |low: &str, high: &str| raw.contains(low) || raw.contains(high);
    [
        (Oddity::EncodedSlash, encoded("%2f", "%2F")),
        (Oddity::EmptySegment, raw.contains("//")),
        (Oddity::Semicolon, literal.contains(';')),
        (Oddity::Backslash, raw.contains('\\') || encoded("%5c", "%5C")),
        (Oddity::DoubleEncoding, is_encoded_twice(raw)),
    ]
    .into_iter()
    .filter_map(|(oddity, there)| there.then_some(oddity))
    .collect()
}

/// The path decoded, but for separators, which stay what they are: within their segment.
fn literal(raw: &str) -> Result<String, Ambiguous> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'%' => {
                let byte = path::hex_pair(tail).ok_or(Ambiguous::BadEncoding)?;
                rest = &tail[2..];
                match byte {
                    b'/' => decoded.extend_from_slice(b"%2f"),
                    b'\\' => decoded.extend_from_slice(b"%5c"),
                    0..=0x1f | 0x7f => return Err(Ambiguous::ForbiddenByte),
                    _ => decoded.push(byte),
                }
            }
            0..=0x20 | 0x7f..=0xff | b'?' | b'#' => return Err(Ambiguous::ForbiddenByte),
            _ => decoded.push(byte),
        }
    }
    if decoded.split(|byte| *byte == b'/').any(|segment| matches!(segment, b"." | b"..")) {
        return Err(Ambiguous::DotSegment);
    }
    String::from_utf8(decoded).map_err(|_| Ambiguous::NotUtf8)
}

/// What readers make of a spelling, one habit each; `None` where the habit changes nothing. They are applied one after
/// the other in every order, until nothing new comes of it: each leaves less of what it looks for, so that there is an end.
const READERS: [fn(&str) -> Option<String>; 6] = [
    |raw| replaced(raw, &["%2f", "%2F"]),
    |raw| replaced(raw, &["\\", "%5c", "%5C"]),
    merge_slashes,
    skip_authority,
    cut_parameters,
    decode_again,
];

/// A separator that is written in another way is a slash.
fn replaced(raw: &str, separators: &[&str]) -> Option<String> {
    let seen = separators.iter().fold(Cow::Borrowed(raw), |seen, separator| {
        if seen.contains(separator) { Cow::Owned(seen.replace(separator, "/")) } else { seen }
    });
    matches!(seen, Cow::Owned(_)).then(|| seen.into_owned())
}

/// `//` is one slash.
fn merge_slashes(raw: &str) -> Option<String> {
    raw.contains("//").then(|| {
        let mut before = '\0';
        raw.chars().filter(|c| std::mem::replace(&mut before, *c) != '/' || *c != '/').collect()
    })
}

/// What follows `//` is a host (RFC 3986 §4.2).
fn skip_authority(raw: &str) -> Option<String> {
    let rest = raw.strip_prefix("//")?;
    Some(rest.find('/').map_or_else(|| "/".to_owned(), |at| rest[at..].to_owned()))
}

/// What follows a semicolon in a segment is a parameter, and no part of its name. One that is encoded is taken for one
/// too: who leaves it alone reads a name that no route has.
fn cut_parameters(raw: &str) -> Option<String> {
    let cut = |segment: &str| [";", "%3b", "%3B"].iter().filter_map(|semicolon| segment.find(semicolon)).min();
    raw.split('/').any(|segment| cut(segment).is_some()).then(|| {
        let segments = raw.split('/').map(|segment| &segment[..cut(segment).unwrap_or(segment.len())]);
        segments.collect::<Vec<_>>().join("/")
    })
}

/// It is decoded once more than is right.
fn decode_again(raw: &str) -> Option<String> {
    is_encoded_twice(raw).then(|| {
        let mut seen = String::with_capacity(raw.len());
        for byte in once_decoded(raw) {
            match byte {
                // What must not stand for itself in a path was meant as a character, and stays one.
                0..=0x20 | 0x7f..=0xff | b'?' | b'#' => seen.push_str(&format!("%{byte:02x}")),
                _ => seen.push(char::from(byte)),
            }
        }
        seen
    })
}

fn is_encoded_twice(raw: &str) -> bool {
    let decoded: Vec<u8> = once_decoded(raw).collect();
    decoded.windows(3).any(|window| window[0] == b'%' && path::hex_pair(&window[1..]).is_some())
}

fn once_decoded(raw: &str) -> impl Iterator<Item = u8> + '_ {
    let mut rest = raw.as_bytes();
    std::iter::from_fn(move || {
        let (&byte, tail) = rest.split_first()?;
        let pair = if byte == b'%' { path::hex_pair(tail) } else { None };
        rest = if pair.is_some() { &tail[2..] } else { tail };
        Some(pair.unwrap_or(byte))
    })
}
