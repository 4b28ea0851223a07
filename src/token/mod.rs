//! Access tokens: verifying them, the keys for it, signing them, remembering those that were verified. And what else is signed
//! to show something: proofs of possession, assertions of clients.

pub mod assertion;
pub mod cache;
mod claims;
pub mod dpop;
mod json;
pub mod keys;
pub mod live;
pub mod provider;
pub mod remote;
pub mod sign;
pub mod verify;
#[cfg(test)]
mod wycheproof;

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Map, Value};

use crate::{
    clock::Timestamp,
    types::{Credential, IssuerUrl, Scopes, Thumbprint},
};

/// The claim in which a token of our own says where the revocation log stood when its session began.
pub const BEGAN_CLAIM: &str = "sidegate_began";

/// Who a verified token speaks for, and until when.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Index of the provider it came from.
    pub provider: usize,
    /// The provider's `iss`.
    pub issuer: IssuerUrl,
    /// When it ceases to be valid, leeway included.
    pub expires_at: Timestamp,
    /// Whom it is meant for.
    pub audiences: Vec<Box<str>>,
    /// What it allows.
    pub scopes: Scopes,
    /// What it is bound to.
    pub confirmation: Confirmation,
    /// All of its claims. The registered ones have their right types.
    pub claims: Map<String, Value>,
}

/// What a token is bound to (RFC 7800 §3.1): whoever sends it has to show that they hold that; of two, both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confirmation {
    /// A key, which proofs show (RFC 9449 §6.1, `jkt`).
    pub key: Option<Thumbprint>,
    /// A certificate, which the TLS handshake shows (RFC 8705 §3.1, `x5t#S256`).
    pub certificate: Option<Thumbprint>,
}

impl Confirmation {
    /// Whether the token is bound to nothing: whoever has it may use it (RFC 6750 §1.2).
    pub fn is_none(&self) -> bool {
        self.key.is_none() && self.certificate.is_none()
    }
}

impl Serialize for Confirmation {
    /// As it stands in a token.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, thumbprint) in [("jkt", &self.key), ("x5t#S256", &self.certificate)] {
            if let Some(thumbprint) = thumbprint {
                map.serialize_entry(name, &URL_SAFE_NO_PAD.encode(thumbprint))?;
            }
        }
        map.end()
    }
}

impl Identity {
    /// A claim that is a string.
    pub fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim).and_then(Value::as_str)
    }

    /// The client it was issued to.
    fn client(&self) -> Option<&str> {
        claims::CLIENT_CLAIMS.iter().find_map(|name| self.text(name))
    }

    /// What the token can be revoked by; `key` has signed it.
    pub fn credential<'a>(&'a self, key: &'a keys::Key) -> Credential<'a> {
        Credential {
            issuer: &self.issuer,
            token: self.text("jti"),
            session: self.text("sid"),
            subject: self.text("sub"),
            client: self.client(),
            key: key.kid(),
            began: self.text(BEGAN_CLAIM),
            dated: self.dated(),
        }
    }

    /// When its user logged in, or else it was issued, in whole seconds since the epoch: rounded down.
    fn dated(&self) -> Option<u64> {
        let date = self.claims.get("auth_time").or_else(|| self.claims.get("iat"))?;
        date.as_u64().or_else(|| date.as_f64().map(|seconds| seconds as u64))
    }

    /// The value at a path of object members; `None` where there is none.
    pub fn claim(&self, path: &[Box<str>]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.claims.get(&**first)?, |value, name| value.get(&**name))
    }
}

/// A signature algorithm (RFC 7518 §3.1, RFC 8037). `none` is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

/// The other name of EdDSA with Ed25519 (RFC 9864 §2.2).
pub const ED25519: &str = "Ed25519";

impl Algorithm {
    /// All of them, in the order in which documents list them.
    pub const ALL: [Self; 12] = [
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    /// The name in a JOSE header. Case matters there (RFC 7515 §4.1.1).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// Whether the key that verifies could also sign.
    pub const fn is_symmetric(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        // RFC 9864 §2.2 has a name for EdDSA with this curve, the only one that there is here.
        if name == ED25519 {
            return Ok(Self::EdDsa);
        }
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name).ok_or(())
    }
}
