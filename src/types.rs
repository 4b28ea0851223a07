//! The words every room speaks. Lookalike strings get types of their own, so that a client can never stand where a
//! subject is meant.

use std::{collections::BTreeSet, fmt, net::IpAddr, ops::Deref, str::FromStr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Declares a cheap-to-clone string type.
macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps a string that has been checked where it was read.
            pub fn new(value: impl Into<Arc<str>>) -> Self {
                Self(value.into())
            }

            /// The text as it goes over the wire.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Box::<str>::deserialize(deserializer).map(|text| Self(text.into()))
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type! {
    /// An OAuth client's identifier (RFC 6749 §2.2).
    ClientId
}
name_type! {
    /// Whom a token speaks for: the `sub` claim (RFC 7519 §4.1.2).
    Subject
}
name_type! {
    /// Who issued a token: the `iss` claim, compared byte for byte (RFC 9068 §4).
    IssuerUrl
}
name_type! {
    /// Whom a token is meant for: one member of the `aud` claim (RFC 7519 §4.1.3).
    Audience
}

impl Subject {
    /// Into how many parts subjects are spread, so that a store on several servers has all of one subject's sessions on one.
    pub const PARTS: u8 = 64;

    /// Which of the parts it is in.
    pub fn part(&self) -> u8 {
        let hash = crc32fast::hash(self.0.as_bytes());
        (hash % u32::from(Self::PARTS)) as u8
    }
}

/// A set of scope values (RFC 6749 §3.3), kept in order so that it always prints the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(BTreeSet<Box<str>>);

impl Scopes {
    /// Reads a space-separated list; `None` when a value holds a character outside RFC 6749's `scope-token`.
    pub fn parse(text: &str) -> Option<Self> {
        text.split(' ')
            .filter(|scope| !scope.is_empty())
            .map(|scope| is_scope_token(scope).then(|| scope.into()))
            .collect::<Option<_>>()
            .map(Self)
    }

    /// Collects values that are known to be scope tokens.
    pub fn from_values<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        Self(values.into_iter().map(Into::into).collect())
    }

    /// Whether `scope` is a member.
    pub fn contains(&self, scope: &str) -> bool {
        self.0.contains(scope)
    }

    /// Whether every member of `other` is one of ours.
    pub fn covers(&self, other: &Self) -> bool {
        other.0.is_subset(&self.0)
    }

    /// Whether there is no scope at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The members in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(Deref::deref)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, scope) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str(" ")?;
            }
            f.write_str(scope)?;
        }
        Ok(())
    }
}

/// RFC 6749 §3.3: `scope-token = 1*( %x21 / %x23-5B / %x5D-7E )`.
pub fn is_scope_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// The longest identifier of a client, in bytes: one that has registered itself says all about it in there.
pub const MAX_CLIENT_ID_BYTES: usize = 512;
/// The longest name or identifier of a user, in bytes.
pub const MAX_USER_ID_BYTES: usize = 256;

/// Whether a client or a user may be called that: printable ASCII (RFC 6749 appendix A.1), so many characters of it at the most.
pub fn is_identifier(text: &str, most: usize) -> bool {
    !text.is_empty() && text.len() <= most && text.bytes().all(|b| matches!(b, 0x20..=0x7e))
}

/// A refresh-token family: what a login opened and a revocation ends. 128 bits, a UUID version 7.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// A fresh identifier for a session of that subject, whose part its last six bits are. Nothing depends on nobody guessing
    /// it: a refresh token carries an HMAC besides.
    pub fn generate(subject: &Subject) -> Self {
        Self::generate_in(subject.part())
    }

    /// The same where nothing but the subject's part is known.
    pub fn generate_in(part: u8) -> Self {
        let mut id = *uuid::Uuid::now_v7().as_bytes();
        id[15] = (id[15] & !(Subject::PARTS - 1)) | (part % Subject::PARTS);
        Self(id)
    }

    /// The part of its subject.
    pub const fn part(self) -> u8 {
        self.0[15] % Subject::PARTS
    }

    /// Reads the form that [`fmt::Display`] writes, the one the `sid` claim carries.
    pub fn parse(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// From where a client spoke, as far as it can be told.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Visitor {
    /// Its address; empty where that is not known.
    pub address: Box<str>,
    /// What it calls itself (`User-Agent`), cut off after [`Visitor::MAX_AGENT`] bytes. Anybody can say anything.
    pub agent: Box<str>,
}

impl Visitor {
    /// How much of an agent's name is kept, in bytes.
    pub const MAX_AGENT: usize = 120;

    /// Who sends a request with these headers from `address`.
    pub fn new(address: IpAddr, headers: &HeaderMap) -> Self {
        let agent = headers.get(header::USER_AGENT).map_or(&[][..], HeaderValue::as_bytes);
        // What is shown to an operator later must not be able to play with the terminal.
        let agent = agent.iter().take(Self::MAX_AGENT);
        let agent: String =
            agent.map(|byte| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { '?' }).collect();
        Self { address: address.to_string().into(), agent: agent.into() }
    }
}

/// A place in the revocation log. What began at one place is refused by the epochs of later ones: no clock has a say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// Which log. One that begins anew, since its store was lost, has a greater life, and all of it comes later.
    pub life: u64,
    /// How many entries it had.
    pub number: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{}", self.life, self.number)
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (life, number) = text.split_once('.').ok_or(())?;
        let place = Self { life: u64::from_str_radix(life, 16).map_err(drop)?, number: number.parse().map_err(drop)? };
        // One spelling for each: no sign, no zeros in front.
        if place.to_string() == text { Ok(place) } else { Err(()) }
    }
}

/// What a token can be revoked by. By what it does not say, it cannot.
#[derive(Clone, Copy, Debug)]
pub struct Credential<'a> {
    /// Its `iss`.
    pub issuer: &'a IssuerUrl,
    /// Its `jti`.
    pub token: Option<&'a str>,
    /// Its `sid`.
    pub session: Option<&'a str>,
    /// Its `sub`.
    pub subject: Option<&'a str>,
    /// The client it was issued to.
    pub client: Option<&'a str>,
    /// The `kid` of the key that signed it.
    pub key: Option<&'a str>,
    /// Where the log stood when its session began; tokens of our own issuer say so.
    pub began: Option<&'a str>,
    /// When its user logged in, or it was issued, in whole seconds since the epoch.
    pub dated: Option<u64>,
}

/// The SHA-256 by which a key (RFC 7638) or a certificate (RFC 8705 §3.1) is known.
pub type Thumbprint = [u8; 32];

/// A digest of what a part of the configuration was made of: its text, variables filled in, and the files it names. Two parts with equal ones
/// say the same; the default is equal to nothing, itself included.
#[derive(Clone, Copy, Default)]
pub struct Fingerprint(Option<[u8; 32]>);

impl Fingerprint {
    /// One with this digest.
    pub const fn new(digest: [u8; 32]) -> Self {
        Self(Some(digest))
    }
}

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        self.0.is_some() && self.0 == other.0
    }
}

// A digest of a short secret would tell it.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint")
    }
}

/// A value that must not be seen: no `Display`, a `Debug` that hides it, no `==` that takes longer the nearer a guess is,
/// wiped when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves. Every caller is a place where they could leak.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether a request shows it as its one bearer token (RFC 6750 §2.1). Compared in constant time, its length apart.
    pub fn is_shown_in(&self, headers: &HeaderMap) -> bool {
        let mut fields = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(field), None) = (fields.next(), fields.next()) else { return false };
        let shown = field.as_bytes().split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
        shown.is_some_and(|(_, shown)| bool::from(shown.ct_eq(&self.0)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
