//! Whom we trust where we speak TLS first.

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::config::{file, path::Path, report::Report};

/// The largest file of certificates or keys that is read, in bytes.
pub(super) const MAX_PEM: u64 = 1 << 20;

/// The certificates in `ca_file` of the section at `at`; what the system trusts where that is left out.
pub(super) fn check(report: &mut Report, at: &Path, ca_file: Option<&str>) -> Option<RootCertStore> {
    match ca_file {
        Some(name) => in_file(report, &at.key("ca_file"), name),
        None => of_system(report, at),
    }
}

fn in_file(report: &mut Report, at: &Path, name: &str) -> Option<RootCertStore> {
    let certificates = certificates(report, at, name)?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        if let Err(error) = roots.add(certificate) {
            let path = report.resolve(name);
            return report.refuse(at, format!("{}: a certificate cannot be used: {error}", path.display()));
        }
    }
    Some(roots)
}

/// What the system trusts. A certificate that cannot be read there is left out: what it would vouch for is then refused.
fn of_system(report: &mut Report, at: &Path) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return report.refuse(at, "this system has no root certificates; name those to trust: { ca_file: … }");
    }
    Some(roots)
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
