//! Signing access tokens with a key pair prepared once.

use super::{
    Algorithm,
    keys::{KeyError, KeySet},
};
use crate::types::Secret;

/// A key that signs.
pub struct Signer {}

impl Signer {
    /// Makes a new private key for `algorithm`, in the form [`Signer::new`] reads (PKCS#8 DER; for HS*, raw bytes).
    pub fn generate(_algorithm: Algorithm) -> Secret {
        unimplemented!()
    }

    /// Prepares a private key.
    ///
    /// # Errors
    /// When the bytes are no key for `algorithm`.
    pub fn new(_algorithm: Algorithm, _private_key: &Secret) -> Result<Self, KeyError> {
        unimplemented!()
    }

    /// Signs `claims` as a JWT whose header carries `typ`, our `alg` and `kid`.
    pub fn sign(&self, _typ: &str, _claims: &impl serde::Serialize) -> String {
        unimplemented!()
    }

    /// The JWK Set to publish (RFC 7517); empty for a symmetric key, which is never published.
    pub fn public_jwks(&self) -> serde_json::Value {
        unimplemented!()
    }

    /// The keys that verify what we sign.
    pub fn key_set(&self) -> KeySet {
        unimplemented!()
    }
}
