//! A listener's certificate and key.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
};

use crate::config::{file, path::Path, raw, report::Report};

/// The largest file of certificates or keys that is read.
const MAX_PEM: u64 = 1 << 20;

/// Makes the TLS side of a listener: TLS 1.2 and 1.3, HTTP/1.1 by ALPN.
pub(super) fn check(report: &mut Report, at: &Path, raw: raw::Tls) -> Option<Arc<ServerConfig>> {
    let what = "one `{ cert_file: …, key_file: … }`";
    let list = report.required(at, "certificates", raw.certificates, what)?;
    let at = at.key("certificates");
    if list.len() != 1 {
        return report.refuse(&at, format!("must hold exactly {what}: choosing among several is not supported yet"));
    }
    let (at, raw::Mapping(raw)) = report.items(&at, Some(list)).pop()?;
    let cert_file = report.required(&at, "cert_file", raw.cert_file, "the PEM file of the certificate and its chain");
    let certificates = cert_file.and_then(|name| certificates(report, &at.key("cert_file"), &name));
    let key_file = report.required(&at, "key_file", raw.key_file, "the PEM file of the private key");
    let key = key_file.as_ref().and_then(|name| private_key(report, &at.key("key_file"), name));
    let (certificates, key, key_file) = (certificates?, key?, key_file?);
    // Which versions a provider has is known when it is built; aws-lc-rs has both.
    let made = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key));
    match made {
        Ok(mut config) => {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Some(Arc::new(config))
        }
        Err(rustls::Error::InconsistentKeys(_)) => {
            let file = report.resolve(&key_file);
            report
                .refuse(&at.key("key_file"), format!("{}: the key does not belong to the certificate", file.display()))
        }
        Err(error) => report.refuse(&at, format!("certificate and key cannot be used: {error}")),
    }
}

/// The certificates in a PEM file; at least one.
pub(super) fn certificates(report: &mut Report, at: &Path, name: &str) -> Option<Vec<CertificateDer<'static>>> {
    let contents = file::named(report, at, name, MAX_PEM)?;
    let path = report.resolve(name);
    match CertificateDer::pem_slice_iter(&contents.bytes).collect::<Result<Vec<_>, _>>() {
        Ok(chain) if chain.is_empty() => {
            report.refuse(at, format!("{}: there is no certificate in it", path.display()))
        }
        Ok(chain) => Some(chain),
        Err(_) => report.refuse(at, format!("{}: not PEM", path.display())),
    }
}

/// A private key, which nobody else may read.
pub(super) fn private_key(report: &mut Report, at: &Path, name: &str) -> Option<PrivateKeyDer<'static>> {
    let contents = file::named(report, at, name, MAX_PEM)?;
    let path = report.resolve(name);
    // The error could quote a line of the key, and is dropped.
    match PrivateKeyDer::from_pem_slice(&contents.bytes) {
        Ok(key) => {
            file::must_be_private(report, at, name, &contents);
            Some(key)
        }
        Err(pem::Error::NoItemsFound) => report
            .refuse(at, format!("{}: there is no private key in it (an encrypted one cannot be read)", path.display())),
        Err(_) => report.refuse(at, format!("{}: not PEM", path.display())),
    }
}
