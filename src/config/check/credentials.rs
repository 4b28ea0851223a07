//! How a client shows who it is.

use super::{hash, keys};
use crate::{
    config::{demo, path::Path, raw, report::Report},
    http::CertificateName,
    issuer::{Client, Credentials, SecretHash},
    server::config::Listener,
};

/// The keys that say it which are there. One that is at fault is there nevertheless: a client that loses its last one would be a
/// public one.
pub(super) fn written(report: &Report, at: &Path, raw: &raw::Client) -> Vec<&'static str> {
    let keys = [
        ("secret_hash", raw.secret_hash.is_some()),
        ("secret_hashes", raw.secret_hashes.is_some()),
        ("jwks", raw.jwks.is_some()),
        ("jwks_file", raw.jwks_file.is_some()),
        (SUBJECT, raw.tls_client_auth_subject_dn.is_some()),
        (DNS, raw.tls_client_auth_san_dns.is_some()),
        (URI, raw.tls_client_auth_san_uri.is_some()),
        (IP, raw.tls_client_auth_san_ip.is_some()),
        (EMAIL, raw.tls_client_auth_san_email.is_some()),
    ];
    keys.into_iter().filter(|(key, found)| *found || report.is_settled(&at.key(key))).map(|(key, _)| key).collect()
}

/// Takes the one that is `written`, of those.
pub(super) fn check(
    report: &mut Report,
    at: &Path,
    raw: &mut raw::Client,
    written: &[&str],
    demo: &mut Vec<Path>,
) -> Option<Credentials> {
    match *written {
        [] => Some(Credentials::None),
        [first, second, ..] if second != "secret_hashes" => {
            report.refuse(&at.key(second), format!("stands beside {first}; a client shows who it is in one way"))
        }
        ["jwks"] => keys::public_jwks(report, &at.key("jwks"), raw.jwks.take()?).map(Credentials::Keys),
        ["jwks_file"] => {
            keys::public_jwks_file(report, &at.key("jwks_file"), &raw.jwks_file.take()?).map(Credentials::Keys)
        }
        [SUBJECT] => subject(report, &at.key(SUBJECT), raw.tls_client_auth_subject_dn.take()?),
        [DNS] => dns(report, &at.key(DNS), &raw.tls_client_auth_san_dns.take()?),
        [URI] => uri(report, &at.key(URI), raw.tls_client_auth_san_uri.take()?),
        [IP] => ip(report, &at.key(IP), &raw.tls_client_auth_san_ip.take()?),
        [EMAIL] => email(report, &at.key(EMAIL), raw.tls_client_auth_san_email.take()?),
        _ => secrets(report, at, raw.secret_hash.take(), raw.secret_hashes.take(), demo).map(Credentials::Secrets),
    }
}

/// A client that is known by its certificate has to have a place to show that.
pub(super) fn can_be_shown(report: &mut Report, root: &Path, clients: &[Client], listeners: &[Listener]) {
    let asks = |listener: &Listener| {
        listener.issuer && listener.tls.as_ref().is_some_and(|tls| tls.subject_header().is_some())
    };
    if listeners.iter().any(asks) {
        return;
    }
    for (n, client) in clients.iter().enumerate() {
        if matches!(client.credentials, Credentials::Certificate(_)) {
            let at = root.key("issuer").key("clients").index(n);
            report.warn(
                &at,
                "no listener with `issuer: true` asks for certificates (tls.client_auth), so it can get nothing",
            );
        }
    }
}

// The names that RFC 8705 §2.1.2 has for them.
const SUBJECT: &str = "tls_client_auth_subject_dn";
const DNS: &str = "tls_client_auth_san_dns";
const URI: &str = "tls_client_auth_san_uri";
const IP: &str = "tls_client_auth_san_ip";
const EMAIL: &str = "tls_client_auth_san_email";

/// What Sidegate would never write in that way would never be found in a certificate.
fn subject(report: &mut Report, at: &Path, name: String) -> Option<Credentials> {
    let spaced = name.match_indices(", ").any(|(n, _)| !name[..n].ends_with('\\'));
    if name.is_empty() || name.starts_with('/') || !name.contains('=') || spaced || !name.is_ascii() {
        return report.refuse(
            at,
            "must be a name as RFC 4514 writes it, the last part first and without spaces between, as upstreams are told it: \
             CN=reporting,O=Example; what is not ASCII as \\C3\\AB",
        );
    }
    Some(Credentials::Certificate(CertificateName::Subject(name.into())))
}

fn dns(report: &mut Report, at: &Path, name: &str) -> Option<Credentials> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if name.is_empty() || !name.bytes().all(is_plain) {
        return report.refuse(at, "must be one host name, as in reporting.example.com");
    }
    Some(Credentials::Certificate(CertificateName::Dns(name.to_ascii_lowercase().into())))
}

fn uri(report: &mut Report, at: &Path, uri: String) -> Option<Credentials> {
    if !uri.contains(':') || !uri.bytes().all(|b| b.is_ascii_graphic()) {
        return report.refuse(at, "must be a URI, as in spiffe://example.com/reporting");
    }
    Some(Credentials::Certificate(CertificateName::Uri(uri.into())))
}

fn ip(report: &mut Report, at: &Path, address: &str) -> Option<Credentials> {
    match address.parse() {
        Ok(address) => Some(Credentials::Certificate(CertificateName::Ip(address))),
        Err(_) => report.refuse(at, "must be an IP address"),
    }
}

fn email(report: &mut Report, at: &Path, address: String) -> Option<Credentials> {
    if !address.contains('@') || !address.bytes().all(|b| b.is_ascii_graphic()) {
        return report.refuse(at, "must be an email address");
    }
    Some(Credentials::Certificate(CertificateName::Email(address.into())))
}

/// The hashes of its secrets: of one, or of the two that it has while one follows the other. Never fewer than are written: a
/// client that loses its last one would be a public one.
fn secrets(
    report: &mut Report,
    at: &Path,
    one: Option<String>,
    several: raw::List<String>,
    demo: &mut Vec<Path>,
) -> Option<Vec<SecretHash>> {
    let list = at.key("secret_hashes");
    let hashes = match (one, several) {
        (Some(_), Some(_)) => {
            return report
                .refuse(&list, "stands beside secret_hash; a client has one of the two, and this takes both hashes");
        }
        (one, None) => one.into_iter().map(|text| (at.key("secret_hash"), text)).collect(),
        (None, Some(several)) => {
            if several.is_empty() {
                return report
                    .refuse(&list, "is empty; a client without a secret, which is a public one, leaves it out");
            }
            if several.len() > Client::MAX_SECRETS {
                let message =
                    format!("has {} hashes; there are two at most, while one secret follows another", several.len());
                return report.refuse(&list, message);
            }
            let written = several.len();
            let hashes = report.items(&list, Some(several));
            if hashes.len() < written {
                return None;
            }
            hashes
        }
    };
    let mut checked = Vec::new();
    for (at, text) in hashes {
        if demo::is_demo(&text) {
            demo.push(at.clone());
        }
        checked.push(hash::check(report, &at, &text, true));
    }
    // Keys with nothing good behind them are at fault already, and the file with them.
    checked.into_iter().collect()
}
