//! What TLS needs of the disk: certificates with their keys, and the CAs of clients. Read at the start by the
//! configuration's check, and again while the process runs, so that one reading says what is wrong in both.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest;
use rustls::{
    InconsistentKeys, RootCertStore, SignatureAlgorithm,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use x509_parser::{certificate::Validity, extensions::GeneralName, prelude::X509Certificate, time::ASN1Time};

use super::{ClientAuth, provider};
use crate::{
    clock::Timestamp,
    io::{self, Contents},
};

/// The largest file of certificates or keys that is read.
const MAX_PEM: u64 = 1 << 20;
/// How long before its end a certificate is worth a warning, in seconds.
const SOON: i64 = 7 * 86_400;

/// Where a certificate and its key are.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// The certificate's file as the configuration names it; its name in metrics.
    pub name: Arc<str>,
    /// The PEM file of the certificate and its chain.
    pub cert_file: PathBuf,
    /// The PEM file of its private key.
    pub key_file: PathBuf,
}

/// What is wrong, and with which of the two files. Names the file, and quotes nothing of it.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The certificate's.
    Certificate(String),
    /// The key's.
    Key(String),
}

/// A certificate that can be served.
#[derive(Debug)]
pub struct Certificate {
    /// Where it came from.
    pub files: CertificateFiles,
    /// The DNS names it is for, in lower case; `*.example.com` among them as they are.
    pub names: Vec<Box<str>>,
    pub(super) key: Arc<CertifiedKey>,
    pub(super) seen: Seen,
    validity: Validity,
}

/// How a certificate stands in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its time has not come.
    NotYetValid,
    /// There is nothing to say about it.
    Valid,
    /// It ends within seven days.
    EndsSoon,
    /// It has ended.
    Expired,
}

/// The CAs of clients.
#[derive(Debug)]
pub struct ClientCas {
    pub(super) seen: Seen,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// What was found in files, as a hash: their bytes and who may read them, or why they cannot be read. Bytes rather than
/// dates, which say nothing when a symlink is turned to another folder.
pub(super) type Seen = [u8; 32];

/// The two files of a certificate as they were at one time.
pub(super) struct Pair {
    pub(super) seen: Seen,
    chain: Result<Contents, String>,
    key: Result<Contents, String>,
}

impl CertificateFiles {
    pub(super) fn read(&self) -> Pair {
        let (chain, key) = (read(&self.cert_file), read(&self.key_file));
        Pair { seen: seen(&[&chain, &key]), chain, key }
    }
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// All that is wrong with them; never empty.
    pub fn load(files: CertificateFiles) -> Result<Self, Vec<Fault>> {
        let pair = files.read();
        Self::of(files, pair)
    }

    /// Makes it of what was read.
    pub(super) fn of(files: CertificateFiles, pair: Pair) -> Result<Self, Vec<Fault>> {
        let chain =
            pair.chain.and_then(|contents| certificates(&files.cert_file, &contents)).map_err(Fault::Certificate);
        let key = pair.key.and_then(|contents| private_key(&files.key_file, &contents)).map_err(Fault::Key);
        let (chain, key) = match (chain, key) {
            (Ok(chain), Ok(key)) => (chain, key),
            (chain, key) => return Err(chain.err().into_iter().chain(key.err()).collect()),
        };
        Self::fit(files, pair.seen, chain, key).map_err(|fault| vec![fault])
    }

    fn fit(
        files: CertificateFiles,
        seen: Seen,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, Fault> {
        let unusable = |error: String| Fault::Certificate(about(&files.cert_file, &format!("cannot be used: {error}")));
        let (names, validity) = chain.first().map_or_else(|| Err("it is empty".into()), leaf).map_err(unusable)?;
        let key = provider().key_provider.load_private_key(key).map_err(|_| {
            Fault::Key(about(&files.key_file, "the key is none of RSA, ECDSA or Ed25519 that could be used"))
        })?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            // Unknown: a key whose public half cannot be seen. Handshakes will tell.
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                return Err(Fault::Key(about(&files.key_file, "the key does not belong to the certificate")));
            }
            Err(error) => return Err(unusable(error.to_string())),
        }
        Ok(Self { files, names, key: Arc::new(key), seen, validity })
    }

    /// The kind of its key: a client may be able to verify one kind alone.
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.key.key.algorithm()
    }

    /// The last second in which it is valid, since the epoch.
    pub fn expires(&self) -> i64 {
        self.validity.not_after.timestamp()
    }

    /// How it stands at a time.
    pub fn standing(&self, now: Timestamp) -> Standing {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        match self.expires() {
            _ if now < self.validity.not_before.timestamp() => Standing::NotYetValid,
            expires if expires < now => Standing::Expired,
            expires if expires.saturating_sub(now) < SOON => Standing::EndsSoon,
            _ => Standing::Valid,
        }
    }

    /// What an operator should hear about its standing, if anything.
    pub fn concern(&self, standing: Standing) -> Option<String> {
        let Validity { not_before, not_after } = &self.validity;
        match standing {
            Standing::Valid => None,
            Standing::NotYetValid => Some(format!("the certificate is not valid before {}", date(not_before))),
            Standing::EndsSoon => Some(format!("the certificate expires soon: {}", date(not_after))),
            Standing::Expired => Some(format!("the certificate has expired: {}", date(not_after))),
        }
    }
}

impl ClientCas {
    /// Reads the file of the CAs.
    ///
    /// # Errors
    /// Says what is wrong with it, and names it.
    pub fn load(auth: &ClientAuth) -> Result<Self, String> {
        let (seen, contents) = Self::read(auth);
        Self::of(auth, seen, contents)
    }

    pub(super) fn read(auth: &ClientAuth) -> (Seen, Result<Contents, String>) {
        let contents = read(&auth.ca_file);
        (seen(&[&contents]), contents)
    }

    /// Makes them of what was read.
    pub(super) fn of(auth: &ClientAuth, seen: Seen, contents: Result<Contents, String>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for ca in certificates(&auth.ca_file, &contents?)? {
            roots.add(ca).map_err(|_| about(&auth.ca_file, "a certificate in it cannot be read"))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let builder = if auth.required { builder } else { builder.allow_unauthenticated() };
        let verifier = builder.build().map_err(|error| about(&auth.ca_file, &format!("cannot be used: {error}")))?;
        Ok(Self { seen, verifier })
    }

    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.verifier.clone()
    }
}

fn read(path: &Path) -> Result<Contents, String> {
    io::read_file(path, MAX_PEM).map_err(|why| about(path, &why))
}

/// To the minute; certificates are in UTC.
fn date(time: &ASN1Time) -> String {
    let time = time.to_datetime();
    format!("{} {:02}:{:02} UTC", time.date(), time.hour(), time.minute())
}

fn about(path: &Path, what: &str) -> String {
    format!("{}: {what}", path.display())
}

fn seen(files: &[&Result<Contents, String>]) -> Seen {
    let mut hash = digest::Context::new(&digest::SHA256);
    for file in files {
        let (kind, bytes): (u8, &[u8]) = match file {
            Ok(contents) => (u8::from(contents.world_readable), &contents.bytes),
            Err(why) => (2, why.as_bytes()),
        };
        hash.update(&[kind]);
        hash.update(&bytes.len().to_be_bytes());
        hash.update(bytes);
    }
    let mut seen = Seen::default();
    seen.copy_from_slice(hash.finish().as_ref());
    seen
}

fn certificates(path: &Path, contents: &Contents) -> Result<Vec<CertificateDer<'static>>, String> {
    match CertificateDer::pem_slice_iter(&contents.bytes).collect::<Result<Vec<_>, _>>() {
        Ok(chain) if chain.is_empty() => Err(about(path, "there is no certificate in it")),
        Ok(chain) => Ok(chain),
        Err(_) => Err(about(path, "not PEM")),
    }
}

fn private_key(path: &Path, contents: &Contents) -> Result<PrivateKeyDer<'static>, String> {
    // The error could quote a line of the key, and is dropped.
    match PrivateKeyDer::from_pem_slice(&contents.bytes) {
        Ok(key) => contents.must_be_private(path).map(|()| key),
        Err(pem::Error::NoItemsFound) => {
            Err(about(path, "there is no private key in it (an encrypted one cannot be read)"))
        }
        Err(_) => Err(about(path, "not PEM")),
    }
}

/// What a certificate says of itself: the DNS names of its subjectAltName (its common name counts for nothing, RFC 9525
/// §2), and when it is valid.
fn leaf(der: &CertificateDer<'_>) -> Result<(Vec<Box<str>>, Validity), String> {
    let (_, parsed): (_, X509Certificate<'_>) =
        x509_parser::parse_x509_certificate(der).map_err(|error| error.to_string())?;
    let alternatives = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
    let names = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into()),
        _ => None,
    });
    Ok((names.collect(), parsed.validity().clone()))
}
