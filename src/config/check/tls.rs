//! A listener's TLS: certificates with their keys, and who may come in.

use std::sync::Arc;

use http::HeaderName;

use super::{all, claims, values::word};
use crate::{
    clock::Clock,
    config::{path::Path, raw, report::Report},
    gateway::config::Route,
    server::{
        config::Listener,
        tls::{Certificate, CertificateFiles, ClientAuth, ClientCas, Fault, MinVersion, Terminator},
    },
};

/// The header for the subject of a client's certificate unless the file says otherwise.
const SUBJECT_HEADER: HeaderName = HeaderName::from_static("x-client-cert-subject");

/// Makes the TLS side of a listener.
pub(super) fn check(report: &mut Report, at: &Path, raw: raw::Tls) -> Option<Arc<Terminator>> {
    let certificates = certificates(report, at, raw.certificates);
    let versions = [("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)];
    let written = raw.min_version.map(|version| version.0);
    let min_version = word(report, &at.key("min_version"), written.as_deref(), MinVersion::Tls12, &versions);
    let client_auth = raw.client_auth.map(|raw::Mapping(raw)| client_auth(report, &at.key("client_auth"), raw));
    let client_auth = match client_auth {
        Some(client_auth) => Some(client_auth?),
        None => None,
    };
    match Terminator::new(min_version?, certificates?, client_auth) {
        Ok(tls) => Some(Arc::new(tls)),
        Err(error) => report.refuse(at, format!("no keys for session tickets can be made: {error}")),
    }
}

fn certificates(
    report: &mut Report,
    at: &Path,
    raw: raw::List<raw::Mapping<raw::Certificate>>,
) -> Option<Vec<Certificate>> {
    let list = report.required(at, "certificates", raw, "as in `[{ cert_file: cert.pem, key_file: key.pem }]`")?;
    let at = at.key("certificates");
    if list.is_empty() {
        return report.refuse(&at, "must not be empty");
    }
    let items = report.items(&at, Some(list));
    let paths: Vec<Path> = items.iter().map(|(path, _)| path.clone()).collect();
    let loaded = all(items.into_iter().map(|(path, raw::Mapping(raw))| certificate(report, &path, raw)))?;
    for (n, path) in paths.iter().enumerate() {
        let concern = loaded[n].concern(loaded[n].standing(Clock::System.now()));
        if let Some(concern) = concern {
            report.warn(&path.key("cert_file"), concern);
        }
        if is_never_served(n, &loaded) {
            report.warn(path, "is never served: earlier ones have its names, or it has none");
        }
    }
    // An element at fault is missing from the list, and has been reported.
    (!report.lost_entries(&at)).then_some(loaded)
}

fn certificate(report: &mut Report, at: &Path, raw: raw::Certificate) -> Option<Certificate> {
    let cert_file = report.required(at, "cert_file", raw.cert_file, "the PEM file of the certificate and its chain");
    let key_file = report.required(at, "key_file", raw.key_file, "the PEM file of the private key");
    let (cert_file, key_file) = (cert_file?, key_file?);
    let files = CertificateFiles {
        name: cert_file.as_str().into(),
        cert_file: report.resolve(&cert_file),
        key_file: report.resolve(&key_file),
    };
    match Certificate::load(files) {
        Ok(certificate) => Some(certificate),
        Err(faults) => {
            for fault in faults {
                match fault {
                    Fault::Certificate(message) => report.error(&at.key("cert_file"), message),
                    Fault::Key(message) => report.error(&at.key("key_file"), message),
                }
            }
            None
        }
    }
}

/// Whether whatever a client asks for, an earlier certificate is shown. The first is also for who asks for nothing known,
/// and a key of another kind is for who cannot verify the first's.
fn is_never_served(n: usize, certificates: &[Certificate]) -> bool {
    let (earlier, this) = (&certificates[..n], &certificates[n]);
    let is_taken = |name| earlier.iter().any(|one| one.algorithm() == this.algorithm() && one.names.contains(name));
    n > 0 && this.names.iter().all(is_taken)
}

fn client_auth(report: &mut Report, at: &Path, raw: raw::ClientAuth) -> Option<(ClientAuth, ClientCas)> {
    let required = word(report, &at.key("mode"), raw.mode.as_deref(), true, &[("required", true), ("optional", false)]);
    let header = raw.subject_header;
    let header = header.map_or(Some(SUBJECT_HEADER), |name| claims::header(report, &at.key("subject_header"), &name));
    let ca_file = report.required(at, "ca_file", raw.ca_file, "the PEM file of the CAs that sign for clients");
    // The CAs are looked at in any case: what is wrong with them is to be said along with the rest.
    let auth = ca_file.map(|name| ClientAuth {
        required: required.unwrap_or(true),
        ca_file: report.resolve(&name),
        subject_header: header.clone().unwrap_or(SUBJECT_HEADER),
    });
    let cas = auth.as_ref().and_then(|auth| match ClientCas::load(auth) {
        Ok(cas) => Some(cas),
        Err(message) => report.refuse(&at.key("ca_file"), message),
    });
    required.and(header)?;
    auth.zip(cas)
}

/// A claim and a certificate's subject in one header: the upstream could not tell which of the two it reads.
pub(super) fn keep_apart(report: &mut Report, root: &Path, listeners: &[Listener], routes: &[Route]) {
    for (n, route) in routes.iter().enumerate() {
        for (m, claim) in route.claim_headers.iter().enumerate() {
            let same = |name: &HeaderName| claims::fold(name.as_str()) == claims::fold(claim.header.as_str());
            let subject =
                |listener: &Listener| listener.tls.as_ref()?.subject_header().filter(|name| same(name)).cloned();
            if let Some(index) = listeners.iter().position(|listener| subject(listener).is_some()) {
                let listener = root.key("listeners").index(index).key("tls").key("client_auth");
                let line = report.line(&listener.key("subject_header"));
                let at = root.key("routes").index(n).key("claim_headers").index(m).key("header");
                report
                    .error(&at, format!("is for the subjects of client certificates, by the listener in line {line}"));
            }
        }
    }
}
