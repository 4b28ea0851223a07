//! Keys and tokens made without Sidegate's own code, so that a mistake in it cannot hide.

use std::time::{SystemTime, UNIX_EPOCH};

use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, Version};
use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://issuer.example";
pub(crate) const AUDIENCE: &str = "api";

/// A key pair with its name.
pub(crate) struct TestKey {
    pub(crate) alg: &'static str,
    pub(crate) kid: &'static str,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Secret(Vec<u8>),
}

impl TestKey {
    pub(crate) fn new(alg: &'static str, kid: &'static str) -> Self {
        let ec = |signing| Pair::Ec(EcdsaKeyPair::generate(signing).unwrap());
        let pair = match alg {
            "RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512" => {
                Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
            }
            "ES256" => ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            "ES384" => ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            "EdDSA" | "Ed25519" => Pair::Ed(Ed25519KeyPair::generate().unwrap()),
            "HS256" | "HS384" | "HS512" => Pair::Secret([7; 64].to_vec()),
            other => panic!("{other}?"),
        };
        Self { alg, kid, pair }
    }

    /// The public JWK (the secret one for HS*).
    pub(crate) fn jwk(&self) -> Value {
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => {
                let key = pair.public_key();
                json!({ "kty": "RSA", "n": b64(key.modulus().big_endian_without_leading_zero()),
                        "e": b64(key.exponent().big_endian_without_leading_zero()) })
            }
            Pair::Ec(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({ "kty": "EC", "crv": curve, "x": b64(x), "y": b64(y) })
            }
            Pair::Ed(pair) => json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key().as_ref()) }),
            Pair::Secret(secret) => json!({ "kty": "oct", "k": b64(secret) }),
        };
        jwk["kid"] = json!(self.kid);
        jwk["alg"] = json!(self.alg);
        jwk
    }

    /// The private key as PKCS #8, in PEM.
    pub(crate) fn private_pem(&self) -> String {
        let der = match &self.pair {
            Pair::Rsa(pair) => AsDer::<Pkcs8V1Der<'static>>::as_der(pair).unwrap().as_ref().to_vec(),
            Pair::Ec(pair) => pair.to_pkcs8v1().unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.to_pkcs8v1().unwrap().as_ref().to_vec(),
            Pair::Secret(_) => panic!("a secret has no such form"),
        };
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der))
    }

    /// The public key as X.509 SubjectPublicKeyInfo, DER: what a confused verifier takes for a secret.
    pub(crate) fn public_der(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Pair::Ec(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Secret(secret) => secret.clone(),
        }
    }

    /// The header this key's tokens have.
    pub(crate) fn header(&self) -> Value {
        json!({ "alg": self.alg, "typ": "at+jwt", "kid": self.kid })
    }

    /// A token with this header and these claims, signed with this key by its algorithm, whatever the header says.
    pub(crate) fn token(&self, header: &Value, claims: &Value) -> String {
        self.token_of(header.to_string().as_bytes(), claims.to_string().as_bytes())
    }

    /// The same from raw texts.
    pub(crate) fn token_of(&self, header: &[u8], claims: &[u8]) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// A good token.
    pub(crate) fn good(&self) -> String {
        self.token(&self.header(), &claims())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let rng = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let encoding: &dyn signature::RsaEncoding = match self.alg {
                    "RS256" => &signature::RSA_PKCS1_SHA256,
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    _ => &signature::RSA_PSS_SHA512,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &rng, message, &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair) => pair.sign(&rng, message).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Secret(secret) => hmac_tag(self.alg, secret, message),
        }
    }
}

/// A MAC by the algorithm of this name.
pub(crate) fn hmac_tag(alg: &str, secret: &[u8], message: &[u8]) -> Vec<u8> {
    let algorithm = match alg {
        "HS384" => hmac::HMAC_SHA384,
        "HS512" => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    hmac::sign(&hmac::Key::new(algorithm, secret), message).as_ref().to_vec()
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims that are in order.
pub(crate) fn claims() -> Value {
    json!({ "iss": ISSUER, "sub": "alice", "aud": AUDIENCE, "exp": now() + 300, "iat": now(), "jti": "1",
            "client_id": "app", "scope": "read write" })
}

/// `claims` with members changed; a null takes one out.
pub(crate) fn claims_with(changes: Value) -> Value {
    changed(claims(), changes)
}

/// An object with members changed; a null takes one out.
pub(crate) fn changed(mut object: Value, changes: Value) -> Value {
    let (members, Value::Object(changes)) = (object.as_object_mut().unwrap(), changes) else { panic!() };
    for (name, value) in changes {
        if value.is_null() {
            members.remove(&name)
        } else {
            members.insert(name, value)
        };
    }
    object
}

/// A provider section for these keys, with the profile and more settings as YAML.
pub(crate) fn provider(keys: &[&TestKey], more: &str) -> String {
    let jwks = json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() });
    format!("providers: [{{ name: idp, issuer: '{ISSUER}', audiences: [{AUDIENCE}], jwks_inline: {jwks}, {more} }}]\n")
}

/// A hash of a password at the least cost that is taken, so that tests do not wait for it.
pub(crate) fn argon2id(password: &str) -> String {
    let cheap = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
    cheap.hash_password(password.as_bytes()).unwrap().to_string()
}
