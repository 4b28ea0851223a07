//! TLS to an upstream: whom we trust, and who we are.

use std::sync::Arc;

use rustls::{
    ClientConfig,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName,
        pem::{self, PemObject as _},
    },
};

use super::super::roots::{self, MAX_PEM, certificates};
use crate::{
    config::{file, path::Path, raw, report::Report},
    gateway::config::ClientTls,
};

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Makes the TLS side of an upstream: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN.
pub(super) fn check(report: &mut Report, at: &Path, raw: raw::Section<raw::UpstreamTls>) -> Option<ClientTls> {
    let raw = raw.map(|section| section.0).unwrap_or_default();
    let roots = roots::check(report, at, raw.ca_file.as_deref());
    let server_name = match raw.server_name {
        Some(name) => match ServerName::try_from(name) {
            Ok(name) => Some(Some(name)),
            Err(_) => report.refuse(&at.key("server_name"), "not a host name or an IP address"),
        },
        None => Some(None),
    };
    let at = at.key("client_certificate");
    let identity = match raw.client_certificate {
        Some(raw::Mapping(raw)) => identity(report, &at, raw).map(Some),
        None => Some(None),
    };
    let (roots, server_name, identity) = (roots?, server_name?, identity?);
    // Which versions a provider has is known when it is built; aws-lc-rs has both.
    let made = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map(|builder| builder.with_root_certificates(roots))
        .and_then(|builder| match identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key),
            None => Ok(builder.with_no_client_auth()),
        });
    match made {
        Ok(mut config) => {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Some(ClientTls { config: Arc::new(config), server_name })
        }
        Err(rustls::Error::InconsistentKeys(_)) => {
            report.refuse(&at.key("key_file"), "the key does not belong to the certificate")
        }
        Err(error) => report.refuse(&at, format!("certificate and key cannot be used: {error}")),
    }
}

fn identity(report: &mut Report, at: &Path, raw: raw::Certificate) -> Option<Identity> {
    let cert_file = report.required(at, "cert_file", raw.cert_file, "the PEM file of the certificate and its chain");
    let chain = cert_file.and_then(|name| certificates(report, &at.key("cert_file"), &name));
    let key_file = report.required(at, "key_file", raw.key_file, "the PEM file of the private key");
    let key = key_file.and_then(|name| private_key(report, &at.key("key_file"), &name));
    Some((chain?, key?))
}

/// A private key, which nobody else may read.
fn private_key(report: &mut Report, at: &Path, name: &str) -> Option<PrivateKeyDer<'static>> {
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
