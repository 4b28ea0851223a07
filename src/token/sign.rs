//! Signing access tokens with a key pair prepared once.

use aws_lc_rs::{
    digest,
    encoding::AsDer,
    hmac,
    rand::{self, SystemRandom},
    rsa,
    signature::{
        self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, ParsedPublicKey, RsaKeyPair, RsaPublicKeyComponents,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use super::{
    Algorithm,
    keys::{Key, KeyError, rsa_parameters},
};
use crate::types::Secret;

/// A key that signs. The private key is wiped when it is dropped (aws-lc does so for its own memory).
pub struct Signer {
    algorithm: Algorithm,
    kid: Box<str>,
    pair: Pair,
}

/// What stands before the claims (RFC 7515 §4.1).
#[derive(serde::Serialize)]
struct Header<'a> {
    alg: &'a str,
    kid: &'a str,
    typ: &'a str,
}

/// A JWT of [`Signer::prepare`] that lacks its signature.
pub struct Unsigned(String);

enum Pair {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
    Shared(Box<hmac::Key>, Secret),
}

/// The algorithms that [`Signer`] signs with.
pub const SIGNING_ALGORITHMS: [Algorithm; 6] =
    [Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa, Algorithm::Rs256, Algorithm::Ps256, Algorithm::Hs256];

impl Signer {
    /// Makes a new private key for `algorithm`, in the form [`Signer::new`] reads: PKCS#8 DER, or 32 bytes for HS256.
    ///
    /// # Errors
    /// When `algorithm` is not one of [`SIGNING_ALGORITHMS`], or the system has no random numbers to give.
    pub fn generate(algorithm: Algorithm) -> Result<Secret, KeyError> {
        let failed = |_| KeyError(format!("no {algorithm} key could be made"));
        Ok(Secret::new(match algorithm {
            Algorithm::Es256 => generate_ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?,
            Algorithm::Es384 => generate_ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).map_err(failed)?,
            Algorithm::EdDsa => Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(failed)?.as_ref().to_vec(),
            Algorithm::Rs256 | Algorithm::Ps256 => {
                let pair = RsaKeyPair::generate(rsa::KeySize::Rsa2048).map_err(failed)?;
                pair.as_der().map_err(failed)?.as_ref().to_vec()
            }
            Algorithm::Hs256 => {
                let mut secret = vec![0; 32];
                rand::fill(&mut secret).map_err(failed)?;
                secret
            }
            other => return Err(not_for_signing(other)),
        }))
    }

    /// Prepares a private key.
    ///
    /// # Errors
    /// When the bytes are no key for `algorithm`, or `algorithm` is not one of [`SIGNING_ALGORITHMS`].
    pub fn new(algorithm: Algorithm, private_key: &Secret) -> Result<Self, KeyError> {
        let key = private_key.expose();
        let rejected = |_| KeyError(format!("it is not a private key for {algorithm} in PKCS#8 form"));
        let pair = match algorithm {
            Algorithm::Es256 => {
                Pair::Ec(EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, key).map_err(rejected)?)
            }
            Algorithm::Es384 => {
                Pair::Ec(EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, key).map_err(rejected)?)
            }
            Algorithm::EdDsa => Pair::Ed(Ed25519KeyPair::from_pkcs8(key).map_err(rejected)?),
            Algorithm::Rs256 | Algorithm::Ps256 => Pair::Rsa(Box::new(RsaKeyPair::from_pkcs8(key).map_err(rejected)?)),
            Algorithm::Hs256 => {
                Key::hmac(None, key, algorithm)?;
                Pair::Shared(Box::new(hmac::Key::new(hmac::HMAC_SHA256, key)), private_key.clone())
            }
            other => return Err(not_for_signing(other)),
        };
        Ok(Self { algorithm, kid: thumbprint(&pair).into(), pair })
    }

    /// Signs `claims` as a JWT whose header carries `typ`, our `alg` and `kid`.
    ///
    /// # Errors
    /// When the claims are no JSON object, or the primitive fails; neither happens with a key that [`Signer::new`] took.
    pub fn sign(&self, typ: &str, claims: &impl serde::Serialize) -> Result<String, KeyError> {
        self.finish(self.prepare(typ, claims)?)
    }

    /// All of [`Signer::sign`] but the signature.
    ///
    /// # Errors
    /// When the claims are no JSON object.
    pub fn prepare(&self, typ: &str, claims: &impl serde::Serialize) -> Result<Unsigned, KeyError> {
        let unwritable = |e| KeyError(format!("claims that are no JSON: {e}"));
        let header = Header { alg: self.algorithm.name(), kid: &self.kid, typ };
        let (header, claims) =
            (serde_json::to_vec(&header).map_err(unwritable)?, serde_json::to_vec(claims).map_err(unwritable)?);
        let mut token = String::with_capacity(claims.len() * 4 / 3 + 512);
        URL_SAFE_NO_PAD.encode_string(header, &mut token);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        Ok(Unsigned(token))
    }

    /// The signature.
    ///
    /// # Errors
    /// When the primitive fails, which does not happen with a key that [`Signer::new`] took.
    pub fn finish(&self, Unsigned(mut token): Unsigned) -> Result<String, KeyError> {
        let signature = self.signature(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let failed = |_| KeyError(format!("signing with {} failed", self.algorithm));
        Ok(match &self.pair {
            Pair::Ec(pair) => pair.sign(&SystemRandom::new(), message).map_err(failed)?.as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let encoding: &'static dyn signature::RsaEncoding = match self.algorithm {
                    Algorithm::Ps256 => &signature::RSA_PSS_SHA256,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                pair.sign(encoding, &SystemRandom::new(), message, &mut signature).map_err(failed)?;
                signature
            }
            Pair::Shared(key, _) => hmac::sign(key, message).as_ref().to_vec(),
        })
    }

    /// Whether a signature takes some ten microseconds; with RSA and P-384 it is ten times as many.
    pub fn is_quick(&self) -> bool {
        match &self.pair {
            Pair::Ec(_) => self.algorithm == Algorithm::Es256,
            Pair::Ed(_) | Pair::Shared(..) => true,
            Pair::Rsa(_) => false,
        }
    }

    /// The key's name.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The JWK to publish (RFC 7517); `None` for a symmetric key, which is never published.
    pub fn public_jwk(&self) -> Option<serde_json::Value> {
        let mut jwk = public_members(&self.pair)?;
        jwk["kid"] = json!(self.kid);
        jwk["alg"] = json!(self.algorithm.name());
        jwk["use"] = json!("sig");
        Some(jwk)
    }

    /// The key that verifies what we sign.
    ///
    /// # Errors
    /// None that a key which [`Signer::new`] took could cause.
    pub fn key(&self) -> Result<Key, KeyError> {
        let rejected = |_| KeyError("a public key does not fit its private one".into());
        let parsed = match &self.pair {
            Pair::Ec(pair) => {
                let parameters: &'static dyn signature::VerificationAlgorithm = match self.algorithm {
                    Algorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
                    _ => &signature::ECDSA_P256_SHA256_FIXED,
                };
                ParsedPublicKey::new(parameters, pair.public_key()).map_err(rejected)?
            }
            Pair::Ed(pair) => ParsedPublicKey::new(&signature::ED25519, pair.public_key()).map_err(rejected)?,
            Pair::Rsa(pair) => {
                let (n, e) = rsa_components(pair);
                RsaPublicKeyComponents { n, e }
                    .to_parsed_public_key(rsa_parameters(self.algorithm)?)
                    .map_err(rejected)?
            }
            Pair::Shared(_, secret) => {
                return Key::hmac(Some(&self.kid), secret.expose(), self.algorithm);
            }
        };
        Ok(Key::public(Some(&self.kid), self.algorithm, parsed))
    }
}

fn generate_ec(algorithm: &'static signature::EcdsaSigningAlgorithm) -> Result<Vec<u8>, aws_lc_rs::error::Unspecified> {
    Ok(EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new())?.as_ref().to_vec())
}

fn not_for_signing(algorithm: Algorithm) -> KeyError {
    let names: Vec<_> = SIGNING_ALGORITHMS.iter().map(|a| a.name()).collect();
    KeyError(format!("Sidegate does not sign with {algorithm}; it does with {}", names.join(", ")))
}

/// The required public members of a JWK (RFC 7518 §6, RFC 8037 §2); `None` for a shared secret.
fn public_members(pair: &Pair) -> Option<serde_json::Value> {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    match pair {
        Pair::Ec(pair) => {
            // An uncompressed point: 4, x, y.
            let point = &pair.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            let curve = if x.len() == 32 { "P-256" } else { "P-384" };
            Some(json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) }))
        }
        Pair::Ed(pair) => Some(json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref()) })),
        Pair::Rsa(pair) => {
            let (n, e) = rsa_components(pair);
            Some(json!({ "kty": "RSA", "n": encode(&n), "e": encode(&e) }))
        }
        Pair::Shared(..) => None,
    }
}

fn rsa_components(pair: &RsaKeyPair) -> (Vec<u8>, Vec<u8>) {
    let key = pair.public_key();
    (
        key.modulus().big_endian_without_leading_zero().to_vec(),
        key.exponent().big_endian_without_leading_zero().to_vec(),
    )
}

/// The name of a key: its JWK thumbprint (RFC 7638), so that it is the same after a restart and nobody has to invent it.
/// A shared secret is named by a MAC under itself, which tells nothing about it.
fn thumbprint(pair: &Pair) -> String {
    match (pair, public_members(pair)) {
        // serde_json's maps are ordered by name and print without white space: the canonical form of RFC 7638 §3.3.
        (_, Some(members)) => URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, members.to_string().as_bytes())),
        (Pair::Shared(key, _), None) => URL_SAFE_NO_PAD.encode(hmac::sign(key, b"sidegate key id").as_ref()),
        (Pair::Ec(_) | Pair::Ed(_) | Pair::Rsa(_), None) => String::new(),
    }
}
