//! The names of revoked tokens and sessions, held in as few bytes as they take.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// A `jti` or a `sid`. Those that are 128 bits in a usual spelling take no more than that; each text has one form, so
/// that two are equal exactly when their texts are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Name {
    /// 22 characters of base64url.
    Base64([u8; 16]),
    /// 32 lower-case hexadecimal digits.
    Hex([u8; 16]),
    /// A UUID as RFC 9562 writes it, in lower case.
    Uuid([u8; 16]),
    /// Any other.
    Text(Box<str>),
}

impl Name {
    pub(super) fn new(text: &str) -> Self {
        let short = match text.len() {
            22 => URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).map(Self::Base64),
            32 => hex(text.bytes()).map(Self::Hex),
            36 if [8, 13, 18, 23].iter().all(|at| text.as_bytes()[*at] == b'-') => {
                let digits = text.bytes().enumerate().filter(|(at, _)| !matches!(at, 8 | 13 | 18 | 23));
                hex(digits.map(|(_, digit)| digit)).map(Self::Uuid)
            }
            _ => None,
        };
        short.unwrap_or_else(|| Self::Text(text.into()))
    }

    /// What it was made of.
    pub(super) fn text(&self) -> Box<str> {
        match self {
            Self::Base64(bytes) => URL_SAFE_NO_PAD.encode(bytes).into(),
            Self::Hex(bytes) => uuid::Uuid::from_bytes(*bytes).simple().to_string().into(),
            Self::Uuid(bytes) => uuid::Uuid::from_bytes(*bytes).to_string().into(),
            Self::Text(text) => text.clone(),
        }
    }

    /// How many bytes it takes beside itself.
    pub(super) fn outside(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Base64(_) | Self::Hex(_) | Self::Uuid(_) => 0,
        }
    }
}

/// 128 bits from exactly 32 lower-case digits.
fn hex(digits: impl Iterator<Item = u8>) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    for (n, digit) in digits.enumerate() {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        *bytes.get_mut(n / 2)? |= value << (4 * (1 - n % 2));
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::Name;

    #[test]
    fn every_text_has_one_name_and_comes_back() {
        let texts = [
            "",
            "a",
            "AAAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAAAB", // Stray bits: no base64url of 16 bytes, another text.
            "0123456789abcdef0123456789abcdef",
            "0123456789ABCDEF0123456789abcdef",
            "0123456789abcdef0123456789abcdeg",
            "01234567-89ab-cdef-0123-456789abcdef",
            "01234567-89AB-cdef-0123-456789abcdef",
            "01234567-89ab-cdef-01234567-89abcdef",
            "0123456789abcdef0123456789abcdef----",
            "é23456789abcdef0123456789abcdef",
        ];
        for (n, one) in texts.iter().enumerate() {
            assert_eq!(&*Name::new(one).text(), *one);
            for (m, other) in texts.iter().enumerate() {
                assert_eq!(Name::new(one) == Name::new(other), n == m, "{one} {other}");
            }
        }
        assert_eq!(size_of::<Name>(), 24);
    }
}
