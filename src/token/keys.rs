//! Keys that verify, prepared once.

/// The keys of one provider.
#[derive(Clone, Debug)]
pub struct KeySet {}

/// A key set that could not be read, or a key of it that cannot be used; says why, and nothing about secret keys.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(pub String);

impl KeySet {
    /// Reads a JWK Set (RFC 7517 §5). Keys that cannot be used are skipped, and listed beside the set.
    ///
    /// # Errors
    /// When the text is no JWK Set, or no key of it can be used.
    pub fn parse_jwks(_text: &str) -> Result<(Self, Vec<KeyError>), KeyError> {
        unimplemented!()
    }

    /// Whether a key of the set could also sign, so that the set is a secret.
    pub fn is_secret(&self) -> bool {
        unimplemented!()
    }

    /// Whether a key of the set fits `algorithm`.
    pub fn fits(&self, _algorithm: super::Algorithm) -> bool {
        unimplemented!()
    }
}
