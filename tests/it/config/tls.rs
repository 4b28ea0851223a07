//! What can be wrong with a listener's TLS.

use std::{fs, time::SystemTime};

use super::{BASE, Folder, check, faults, text};
use crate::support::tls::{Ca, common_name, names};

/// The base with this as the second listener's `tls`.
fn with(folder: &Folder, tls: &str) -> std::path::PathBuf {
    folder.write("config.yaml", &BASE.replace("3001\"", &format!("3001\", tls: {{ {tls} }}")))
}

/// A folder with a CA and two certificates of it.
fn folder() -> Folder {
    let folder = Folder::new();
    let at = |name: &str| folder.0.path().join(name);
    let ca = Ca::new(at("ca.pem"));
    ca.sign(&at("one"), names(&["one.test", "*.one.test"]));
    ca.sign(&at("two"), names(&["two.test"]));
    folder
}

const ONE: &str = "{ cert_file: one.pem, key_file: one.key }";
const TWO: &str = "{ cert_file: two.pem, key_file: two.key }";

#[test]
fn every_fault_of_tls_is_said_in_its_place() {
    let folder = folder();
    folder.write("empty.pem", "");
    folder.write("torn.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    folder.write("odd.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    folder.write("odd.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    folder.allow(std::path::Path::new("odd.key"), 0o600);
    let ca = "client_auth: { ca_file: ca.pem";
    for (tls, expected) in [
        (
            "min_version: 1.3",
            &["listeners[1].tls.certificates: missing: as in `[{ cert_file: cert.pem, key_file: key.pem }]`"][..],
        ),
        ("certificates: []", &["listeners[1].tls.certificates: must not be empty"]),
        ("certificates: [~]", &["listeners[1].tls.certificates[0]: nothing stands here"]),
        (
            &format!("certificates: [{ONE}, {{ cert_file: two.pem }}, {{ key_file: two.key }}]"),
            &[
                "listeners[1].tls.certificates[1].key_file: missing: the PEM file of the private key",
                "listeners[1].tls.certificates[2].cert_file: missing: the PEM file of the certificate and its chain",
            ],
        ),
        (
            "certificates: [{ cert_file: none.pem, key_file: none.key }, { cert_file: one.pem, key_file: two.key }]",
            &[
                "listeners[1].tls.certificates[0].cert_file: none.pem: there is no such file",
                "listeners[1].tls.certificates[0].key_file: none.key: there is no such file",
                "listeners[1].tls.certificates[1].key_file: two.key: the key does not belong to the certificate",
            ],
        ),
        (
            "certificates: [{ cert_file: torn.pem, key_file: one.key }]",
            &["listeners[1].tls.certificates[0].cert_file: torn.pem: not PEM"],
        ),
        (
            "certificates: [{ cert_file: one.pem, key_file: odd.key }]",
            &[
                "listeners[1].tls.certificates[0].key_file: odd.key: the key is none of RSA, ECDSA or Ed25519 that could be used",
            ],
        ),
        (
            &format!("certificates: [{ONE}], min_version: 1.1"),
            &[r#"listeners[1].tls.min_version: must be 1.2 or 1.3; did you mean "1.2"?"#],
        ),
        (
            &format!("certificates: [{ONE}], client_auth: {{ mode: maybe, ca_file: none.pem, subject_header: host }}"),
            &[
                "listeners[1].tls.client_auth.mode: must be required or optional",
                "listeners[1].tls.client_auth.ca_file: none.pem: there is no such file",
                r#"listeners[1].tls.client_auth.subject_header: "host" has a meaning of its own; choose a name such as x-auth-subject"#,
            ],
        ),
        (
            &format!("certificates: [{ONE}], client_auth: {{ mode: optional }}"),
            &["listeners[1].tls.client_auth.ca_file: missing: the PEM file of the CAs that sign for clients"],
        ),
        (
            &format!("certificates: [{ONE}], client_auth: {{ ca_file: empty.pem }}"),
            &["listeners[1].tls.client_auth.ca_file: empty.pem: there is no certificate in it"],
        ),
        (
            &format!("certificates: [{ONE}], client_auth: {{ ca_file: odd.pem }}"),
            &["listeners[1].tls.client_auth.ca_file: odd.pem: a certificate in it cannot be read"],
        ),
        // An upstream could not tell the two apart, however they are spelt.
        (
            &format!("certificates: [{ONE}], {ca}, subject_header: x_auth_subject }}"),
            &[
                "routes[1].claim_headers[0].header: is for the subjects of client certificates, by the listener in line 3",
            ],
        ),
    ] {
        let said = faults(&folder, &with(&folder, tls));
        let said: Vec<_> = said.iter().map(|line| line.splitn(3, ':').nth(2).unwrap().trim_start()).collect();
        assert_eq!(said, expected, "{tls}");
    }
    let odd = faults(&folder, &with(&folder, "certificates: [{ cert_file: odd.pem, key_file: one.key }]"));
    assert!(odd.len() == 1 && odd[0].contains("certificates[0].cert_file: odd.pem: cannot be used: "), "{odd:?}");
}

#[test]
fn a_certificate_that_helps_nobody_is_warned_of() {
    let folder = folder();
    let at = |name: &str| folder.0.path().join(name);
    let ca = Ca::new(at("ca.pem"));
    let mut late = names(&["late.test"]);
    (late.not_before, late.not_after) = (SystemTime::UNIX_EPOCH.into(), SystemTime::UNIX_EPOCH.into());
    ca.sign(&at("late"), late);
    let mut early = names(&["early.test"]);
    early.not_before = rcgen::date_time_ymd(2100, 1, 2);
    ca.sign(&at("early"), early);
    let mut soon = names(&["soon.test"]);
    soon.not_after = (SystemTime::now() + std::time::Duration::from_secs(6 * 86_400)).into();
    ca.sign(&at("soon"), soon);
    ca.sign(&at("shadowed"), names(&["ONE.test", "two.test"]));
    ca.sign_for(&at("other"), names(&["one.test"]), &rcgen::PKCS_ED25519);
    ca.sign(&at("nameless"), common_name("three.test"));
    let stems = ["one", "two", "late", "early", "soon", "shadowed", "other", "nameless"];
    let list: Vec<_> = stems.iter().map(|stem| format!("{{ cert_file: {stem}.pem, key_file: {stem}.key }}")).collect();
    let output = check(&folder, &with(&folder, &format!("certificates: [{}]", list.join(", "))), &[]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let said: Vec<_> = said.lines().map(|line| line.split_once("listeners[1].tls.certificates").unwrap().1).collect();
    let never = "is never served: earlier ones have its names, or it has none";
    assert_eq!(said.len(), 5, "{said:?}");
    assert_eq!(said[0], "[2].cert_file: the certificate has expired: 1970-01-01 00:00 UTC");
    assert_eq!(said[1], "[3].cert_file: the certificate is not valid before 2100-01-02 00:00 UTC");
    assert!(said[2].starts_with("[4].cert_file: the certificate expires soon: 2"), "{said:?}");
    assert_eq!(said[3..], [format!("[5]: {never}"), format!("[7]: {never}")]);
    // The first is for everybody.
    fs::remove_file(at("two.pem")).unwrap();
    ca.sign(&at("two"), common_name("nobody"));
    let output = check(&folder, &with(&folder, &format!("certificates: [{TWO}, {ONE}]")), &[]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}
