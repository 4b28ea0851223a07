//! Keys that verify. Each is prepared once, and fixed to its algorithms when it is read: what a token's header says can
//! only pick among them.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac,
    signature::{self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};

use super::Algorithm;
use crate::types::Secret;

/// The keys of one provider, those without a name first, then by their names. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct KeySet(Arc<[Arc<Key>]>);

/// A key set that could not be read, or a key of it that cannot be used; says why, and nothing about secret keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(pub String);

impl KeySet {
    /// Takes keys that have been made. Of two that a token could not tell apart, the first counts.
    pub fn new(mut keys: Vec<Arc<Key>>) -> Self {
        keys.sort_by(|a, b| a.kid.cmp(&b.kid));
        Self(keys.into())
    }

    /// Reads a JWK Set (RFC 7517 §5). Keys that cannot be used are skipped, and listed beside the set.
    ///
    /// # Errors
    /// When the text is no JWK Set, or no key of it can be used.
    pub fn parse_jwks(text: &str) -> Result<(Self, Vec<KeyError>), KeyError> {
        Self::default().followed_by(text)
    }

    /// Reads the JWK Set that follows this one, as [`KeySet::parse_jwks`] does. A key that is in both is the same.
    ///
    /// # Errors
    /// When the text is no JWK Set, or no key of it can be used.
    pub fn followed_by(&self, text: &str) -> Result<(Self, Vec<KeyError>), KeyError> {
        #[derive(serde::Deserialize)]
        struct Wire {
            keys: Vec<serde_json::Value>,
        }
        // serde_json's own message would quote what it read, which may be a key.
        let wire: Wire = serde_json::from_str(text).map_err(|e| {
            KeyError(format!("no JWK Set: not JSON with a list of \"keys\" (line {}, column {})", e.line(), e.column()))
        })?;
        let (mut keys, mut skipped) = (Vec::<Arc<Key>>::new(), Vec::new());
        for (n, jwk) in wire.keys.into_iter().enumerate() {
            match self.key(jwk) {
                Ok(key) if keys.iter().any(|other| other.clashes(&key)) => {
                    skipped.push(KeyError(format!("keys[{n}]: a key of this \"kid\" came before it")));
                }
                Ok(key) => keys.push(key),
                Err(KeyError(why)) => skipped.push(KeyError(format!("keys[{n}]: {why}"))),
            }
        }
        match (keys.is_empty(), skipped.is_empty()) {
            (false, _) => Ok((Self::new(keys), skipped)),
            (true, true) => Err(KeyError("no JWK Set: its list of \"keys\" is empty".into())),
            (true, false) => {
                let why: Vec<_> = skipped.iter().map(ToString::to_string).collect();
                Err(KeyError(format!("no key in it can be used: {}", why.join("; "))))
            }
        }
    }

    /// A single shared secret.
    ///
    /// # Errors
    /// When `algorithm` is not HS*, or the secret is shorter than its hash (RFC 7518 §3.2).
    pub fn hmac(secret: &Secret, algorithm: Algorithm) -> Result<Self, KeyError> {
        Key::hmac(None, secret.expose(), algorithm).map(Self::single)
    }

    pub(super) fn single(key: Key) -> Self {
        Self(Arc::new([Arc::new(key)]))
    }

    /// The key that a JWK describes: the one that is here already, if it is the same to the last member.
    fn key(&self, jwk: serde_json::Value) -> Result<Arc<Key>, KeyError> {
        let digest = digest(&SHA256, jwk.to_string().as_bytes()).as_ref().try_into().ok();
        match self.0.iter().find(|key| key.digest == digest) {
            Some(known) if digest.is_some() => Ok(known.clone()),
            Some(_) | None => Key::from_jwk(jwk).map(|key| Arc::new(Key { digest, ..key })),
        }
    }

    /// Reads the JWK Set that follows this one, which anybody can read: a shared secret in it is none.
    ///
    /// # Errors
    /// When the text is no JWK Set, or no key of it can be used.
    pub fn followed_by_published(&self, text: &str) -> Result<(Self, Vec<KeyError>), KeyError> {
        let (Self(keys), mut skipped) = self.followed_by(text)?;
        let (secret, public): (Vec<_>, Vec<_>) = keys.iter().cloned().partition(|key| key.is_secret());
        skipped.extend(secret.iter().map(|_| KeyError("a shared secret was published, and is none".into())));
        match public.is_empty() {
            false => Ok((Self(public.into()), skipped)),
            true => Err(KeyError("no key in it can be used: all are shared secrets".into())),
        }
    }

    /// Whether there is a key of this name.
    pub fn has(&self, kid: &str) -> bool {
        self.0.binary_search_by(|key| key.kid.as_deref().cmp(&Some(kid))).is_ok()
    }

    /// The names of its keys.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|key| key.kid.as_deref())
    }

    /// Whether it has the very same keys as another.
    pub fn is_same(&self, other: &Self) -> bool {
        self.len() == other.len() && self.0.iter().all(|key| other.contains(key))
    }

    /// Whether a key is one of the set: this very one, not one that is like it.
    pub fn contains(&self, key: &Arc<Key>) -> bool {
        self.0.iter().any(|other| Arc::ptr_eq(other, key))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a key of the set could also sign, so that the set is a secret.
    pub fn is_secret(&self) -> bool {
        self.0.iter().any(|key| key.is_secret())
    }

    /// Whether a key of the set fits `algorithm`.
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        self.0.iter().any(|key| key.verifier(algorithm).is_some())
    }

    /// The key for a token: the one named, which must fit the algorithm; or, where the token or the key has no name, the
    /// only one that fits.
    pub(super) fn select(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Selected<'_>, NoKey> {
        if kid.is_some() {
            let first = self.0.partition_point(|key| key.kid.as_deref() < kid);
            let mut named = self.0[first..].iter().take_while(|key| key.kid.as_deref() == kid).peekable();
            if named.peek().is_some() {
                return named.find_map(|key| key.selected(algorithm)).ok_or(NoKey::WrongAlgorithm);
            }
        }
        let candidates = self.0.iter().take_while(|key| kid.is_none() || key.kid.is_none());
        let mut fitting = candidates.filter_map(|key| key.selected(algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => Ok(only),
            (Some(_), Some(_)) => Err(NoKey::Ambiguous),
            (None, _) => Err(NoKey::Unknown),
        }
    }
}

/// Why a token has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// No key of that name, nor one without a name that fits.
    Unknown,
    /// The key of that name is for another algorithm.
    WrongAlgorithm,
    /// The token names none, and more than one fits.
    Ambiguous,
}

/// One key.
pub struct Key {
    kid: Option<Box<str>>,
    material: Material,
    /// The SHA-256 of the JWK it was read from, to know it again by.
    digest: Option<[u8; 32]>,
}

/// A key, and the algorithm it is to be used with.
pub(super) type Selected<'a> = (&'a Arc<Key>, Verifier<'a>);

enum Material {
    /// One prepared form for each algorithm it may be used with: one, unless it is an RSA key that names none.
    Public(Vec<(Algorithm, ParsedPublicKey)>),
    Shared(Algorithm, Box<hmac::Key>),
}

/// A key together with the algorithm it is to be used with.
#[derive(Clone, Copy)]
pub(super) enum Verifier<'a> {
    Public(&'a ParsedPublicKey),
    Shared(&'a hmac::Key),
}

impl Verifier<'_> {
    /// Whether `signature` is the key's over `message`. Lengths and encodings are strict (no DER for ECDSA, no r = s = 0),
    /// and a MAC is compared in constant time: the primitives see to both.
    pub(super) fn verify(self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Public(key) => key.verify_sig(message, signature).is_ok(),
            Self::Shared(key) => hmac::verify(key, message, signature).is_ok(),
        }
    }
}

impl Key {
    /// Its name (`kid`).
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// A public key in the form `signature::ParsedPublicKey` reads for `algorithm`.
    pub(super) fn public(kid: Option<&str>, algorithm: Algorithm, key: ParsedPublicKey) -> Self {
        Self { kid: kid.map(Into::into), material: Material::Public(vec![(algorithm, key)]), digest: None }
    }

    pub(super) fn hmac(kid: Option<&str>, secret: &[u8], algorithm: Algorithm) -> Result<Self, KeyError> {
        let (hash, least) = match algorithm {
            Algorithm::Hs256 => (hmac::HMAC_SHA256, 32),
            Algorithm::Hs384 => (hmac::HMAC_SHA384, 48),
            Algorithm::Hs512 => (hmac::HMAC_SHA512, 64),
            Algorithm::Rs256
            | Algorithm::Rs384
            | Algorithm::Rs512
            | Algorithm::Ps256
            | Algorithm::Ps384
            | Algorithm::Ps512
            | Algorithm::Es256
            | Algorithm::Es384
            | Algorithm::EdDsa => return Err(KeyError(format!("{algorithm} does not take a shared secret"))),
        };
        if secret.len() < least {
            return Err(KeyError(format!(
                "a secret for {algorithm} has at least {least} bytes, this one {}",
                secret.len()
            )));
        }
        Ok(Self {
            kid: kid.map(Into::into),
            material: Material::Shared(algorithm, Box::new(hmac::Key::new(hash, secret))),
            digest: None,
        })
    }

    pub(super) fn from_jwk(value: serde_json::Value) -> Result<Self, KeyError> {
        let fail = |why: &str| Err(KeyError(why.into()));
        if value.get("kty").and_then(|kty| kty.as_str()) != Some("oct") && value.get("d").is_some() {
            return fail("it is a private key, which has no place here");
        }
        // Read here, since the type does not know every name.
        let named = value.get("alg").and_then(|name| name.as_str()).map(str::parse::<Algorithm>).transpose();
        // The message of the type would quote what it read.
        let Ok(jwk) = serde_json::from_value::<Jwk>(value) else { return fail("it is not a JWK (RFC 7517)") };
        if jwk.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
            return fail("its \"use\" is not \"sig\"");
        }
        if jwk.common.key_operations.as_ref().is_some_and(|ops| !ops.contains(&KeyOperations::Verify)) {
            return fail("its \"key_ops\" do not hold \"verify\"");
        }
        let Ok(named) = named else { return fail("its \"alg\" is not one that Sidegate verifies") };
        let kid = jwk.common.key_id.as_deref();
        let candidates: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &[
                Algorithm::Rs256,
                Algorithm::Rs384,
                Algorithm::Rs512,
                Algorithm::Ps256,
                Algorithm::Ps384,
                Algorithm::Ps512,
            ],
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => &[Algorithm::Es256],
                EllipticCurve::P384 => &[Algorithm::Es384],
                _ => return fail("its curve is not P-256 or P-384"),
            },
            AlgorithmParameters::OctetKeyPair(key) => match key.curve {
                EllipticCurve::Ed25519 => &[Algorithm::EdDsa],
                _ => return fail("its curve is not Ed25519"),
            },
            AlgorithmParameters::OctetKey(key) => {
                let Some(algorithm) = named else { return fail("a shared secret must name its \"alg\"") };
                return Self::hmac(kid, Secret::new(bytes(&key.value)?).expose(), algorithm);
            }
            _ => return fail("its \"kty\" is not RSA, EC, OKP or oct"),
        };
        let algorithms: Vec<_> = candidates.iter().copied().filter(|a| named.is_none_or(|named| named == *a)).collect();
        if algorithms.is_empty() {
            return fail("its \"alg\" does not go with its \"kty\" and \"crv\"");
        }
        let prepared =
            algorithms.into_iter().map(|a| Ok((a, prepare(&jwk.algorithm, a)?))).collect::<Result<_, KeyError>>()?;
        Ok(Self { kid: kid.map(Into::into), material: Material::Public(prepared), digest: None })
    }

    fn is_secret(&self) -> bool {
        matches!(self.material, Material::Shared(..))
    }

    pub(super) fn verifier(&self, algorithm: Algorithm) -> Option<Verifier<'_>> {
        match &self.material {
            Material::Public(forms) => {
                forms.iter().find(|(a, _)| *a == algorithm).map(|(_, key)| Verifier::Public(key))
            }
            Material::Shared(a, key) => (*a == algorithm).then_some(Verifier::Shared(key)),
        }
    }

    fn selected(self: &Arc<Self>, algorithm: Algorithm) -> Option<Selected<'_>> {
        self.verifier(algorithm).map(|verifier| (self, verifier))
    }

    /// Whether a token could not tell the two apart.
    fn clashes(&self, other: &Self) -> bool {
        self.kid.is_some()
            && self.kid == other.kid
            && Algorithm::ALL.iter().any(|a| self.verifier(*a).is_some() && other.verifier(*a).is_some())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithms: Vec<_> = Algorithm::ALL.into_iter().filter(|a| self.verifier(*a).is_some()).collect();
        f.debug_struct("Key").field("kid", &self.kid).field("algorithms", &algorithms).finish_non_exhaustive()
    }
}

fn bytes(text: &str) -> Result<Vec<u8>, KeyError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyError("a member of it is not base64url without padding".into()))
}

fn prepare(key: &AlgorithmParameters, algorithm: Algorithm) -> Result<ParsedPublicKey, KeyError> {
    match key {
        AlgorithmParameters::RSA(rsa) => {
            let (n, e) = (bytes(&rsa.n)?, bytes(&rsa.e)?);
            if n.first() == Some(&0) || e.first() == Some(&0) {
                return Err(KeyError("its \"n\" or \"e\" begins with a zero byte (RFC 7518 §2)".into()));
            }
            // The parameters below would refuse its signatures; this refuses the key.
            let bits = (n.len() * 8).saturating_sub(n.first().map_or(0, |first| first.leading_zeros() as usize));
            if !(2048..=8192).contains(&bits) {
                return Err(KeyError(format!("an RSA key has 2048 to 8192 bits, this one {bits}")));
            }
            if is_roca(&n) {
                return Err(KeyError("its \"n\" is of the kind that can be factored (CVE-2017-15361)".into()));
            }
            if e.len() > 4 || e.last().is_none_or(|last| last % 2 == 0) || e == [1] {
                return Err(KeyError("its \"e\" is not an odd number from 3 up to 32 bits".into()));
            }
            RsaPublicKeyComponents { n, e }
                .to_parsed_public_key(rsa_parameters(algorithm)?)
                .map_err(|_| KeyError("it is not an RSA key".into()))
        }
        AlgorithmParameters::EllipticCurve(ec) => {
            let (x, y) = (bytes(&ec.x)?, bytes(&ec.y)?);
            let (parameters, size): (&'static dyn signature::VerificationAlgorithm, _) = match algorithm {
                Algorithm::Es256 => (&signature::ECDSA_P256_SHA256_FIXED, 32),
                Algorithm::Es384 => (&signature::ECDSA_P384_SHA384_FIXED, 48),
                other => return Err(KeyError(format!("{other} is not for keys on a curve"))),
            };
            if x.len() != size || y.len() != size {
                return Err(KeyError(format!("its \"x\" and \"y\" must have {size} bytes each")));
            }
            // SEC 1 §2.3.3: an uncompressed point.
            ParsedPublicKey::new(parameters, [&[4][..], &x, &y].concat())
                .map_err(|_| KeyError("its point is not on its curve".into()))
        }
        AlgorithmParameters::OctetKeyPair(okp) => ParsedPublicKey::new(&signature::ED25519, bytes(&okp.x)?)
            .map_err(|_| KeyError("it is not an Ed25519 key".into())),
        _ => Err(KeyError("it is not a public key".into())),
    }
}

/// Whether a modulus was made by the library of ROCA (CVE-2017-15361): modulo each of these primes it is a power of 65537.
/// That is so of one other modulus in a hundred million.
fn is_roca(n: &[u8]) -> bool {
    const PRIMES: [u32; 38] = [
        3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107,
        109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
    ];
    PRIMES.iter().all(|prime| {
        let rest = n.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime);
        let mut power = 1;
        (0..*prime).any(|_| {
            power = power * 65537 % prime;
            power == rest
        })
    })
}

/// The parameters that refuse moduli below 2048 bits.
///
/// # Errors
/// When `algorithm` is not for RSA keys.
pub(super) fn rsa_parameters(algorithm: Algorithm) -> Result<&'static RsaParameters, KeyError> {
    Ok(match algorithm {
        Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
        other => return Err(KeyError(format!("{other} is not for RSA keys"))),
    })
}
