//! Which certificate a client is shown: by the name it asks for (SNI, RFC 6066 §3).

use std::{collections::HashMap, sync::Arc};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::files::Certificate;

/// A listener's certificates by name. Two may be for one name, as long as their keys are of different kinds: who can
/// verify only one kind is shown that one.
#[derive(Debug)]
pub(super) struct ByName {
    default: Option<Arc<CertifiedKey>>,
    exact: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    /// `*.example.com` stands here as `example.com`.
    wildcards: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
}

impl ByName {
    pub(super) fn new(certificates: &[Arc<Certificate>]) -> Self {
        let default = certificates.first().map(|certificate| certificate.key.clone());
        let mut this = Self { default, exact: HashMap::new(), wildcards: HashMap::new() };
        for certificate in certificates {
            for name in &certificate.names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut this.wildcards, parent),
                    None => (&mut this.exact, &**name),
                };
                names.entry(name.into()).or_default().push(certificate.key.clone());
            }
        }
        this
    }

    /// An exact name goes before a wildcard, which stands for one label (RFC 9525 §6.3).
    fn find(&self, name: &str, suits: impl Fn(&CertifiedKey) -> bool) -> Option<&Arc<CertifiedKey>> {
        let wild = name.split_once('.').and_then(|(_, parent)| self.wildcards.get(parent));
        let fitting = || self.exact.get(name).into_iter().chain(wild).flatten();
        fitting().find(|key| suits(key)).or_else(|| fitting().next())
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let suits = |key: &CertifiedKey| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let named = hello.server_name().and_then(|name| self.find(&name.to_ascii_lowercase(), suits));
        named.or(self.default.as_ref()).cloned()
    }
}
