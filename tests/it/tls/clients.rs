//! Clients that show certificates: who is let in, and what the upstream hears of them.

use std::{path::Path, sync::Arc, time::SystemTime};

use rcgen::{CertificateParams, DnType, DnValue};
use rustls::{
    HandshakeKind::Resumed,
    version::{TLS12, TLS13},
};

use super::tls_config;
use crate::support::{
    Sidegate, Upstream,
    client::request,
    config,
    tls::{Ca, Issued, ask, certify, client, common_name, dial, names},
    wait_for,
};

/// A listener that asks for certificates of the CA in `clients.pem`, with its own of the one in `ca.pem`.
fn start(upstream: &Upstream, client_auth: &str) -> (Sidegate, Ca) {
    let dir = tempfile::tempdir().unwrap();
    certify(dir.path());
    let ca = Ca::new(dir.path().join("clients.pem"));
    let tls = format!(
        "certificates: [{{ cert_file: cert.pem, key_file: key.pem }}], client_auth: {{ ca_file: clients.pem{client_auth} }}"
    );
    (Sidegate::start_in(dir, &tls_config(upstream.address(), &tls)), ca)
}

/// Asks once on a connection of its own.
fn try_with(gate: &Sidegate, own: Option<&Issued>, headers: &str) -> std::io::Result<u16> {
    let config = Arc::new(client(&gate.dir().join("ca.pem"), &TLS13, own));
    ask(&mut dial(gate.address(), &config, "localhost")?, "/", headers)
}

#[test]
fn a_certificate_that_is_required_is_asked_of_everybody() {
    let upstream = Upstream::start();
    for written in ["", ", mode: required"] {
        let (gate, ca) = start(&upstream, written);
        let file = |stem: &str| gate.dir().join(stem);
        let alice = ca.sign(&file("alice"), common_name("alice"));
        let stranger = Ca::new(file("strangers.pem")).sign(&file("stranger"), common_name("alice"));
        for version in [&TLS12, &TLS13] {
            let ask_as = |own: Option<&Issued>| {
                let config = Arc::new(client(&file("ca.pem"), version, own));
                ask(&mut dial(gate.address(), &config, "localhost")?, "/", "")
            };
            assert!(ask_as(None).is_err(), "{version:?}");
            assert!(ask_as(Some(&stranger)).is_err(), "{version:?}");
            assert!(upstream.take().is_empty());
            assert_eq!(ask_as(Some(&alice)).unwrap(), 200);
            assert_eq!(upstream.only().all("x-client-cert-subject"), ["CN=alice"]);
        }
        let failed = || gate.metric("sidegate_connections_closed_total{cause=\"handshake_failed\"}");
        wait_for("the failures to be counted", || (failed() == 4.0).then_some(()));
    }
}

#[test]
fn a_certificate_that_is_optional_is_told_of_where_there_is_one() {
    let upstream = Upstream::start();
    let (gate, ca) = start(&upstream, ", mode: optional, subject_header: X-Seen-Subject");
    let file = |stem: &str| gate.dir().join(stem);
    assert_eq!(try_with(&gate, None, "").unwrap(), 200);
    assert!(upstream.only().all("x-seen-subject").is_empty());
    let alice = ca.sign(&file("alice"), common_name("alice"));
    assert_eq!(try_with(&gate, Some(&alice), "").unwrap(), 200);
    assert_eq!(upstream.only().all("x-seen-subject"), ["CN=alice"]);
    // A bad one is not as good as none.
    let stranger = Ca::new(file("strangers.pem")).sign(&file("stranger"), common_name("alice"));
    assert!(try_with(&gate, Some(&stranger), "").is_err());
    let mut late = common_name("late");
    late.not_after = SystemTime::UNIX_EPOCH.into();
    late.not_before = SystemTime::UNIX_EPOCH.into();
    assert!(try_with(&gate, Some(&ca.sign(&file("late"), late)), "").is_err());
    // One that is for servers says nothing about a client.
    let mut server = common_name("server");
    server.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    assert!(try_with(&gate, Some(&ca.sign(&file("server"), server)), "").is_err());
    assert!(upstream.take().is_empty());
}

#[test]
fn nobody_but_the_gate_says_whose_certificate_it_was() {
    let upstream = Upstream::start();
    let dir = tempfile::tempdir().unwrap();
    certify(dir.path());
    let ca = Ca::new(dir.path().join("clients.pem"));
    let alice = ca.sign(&dir.path().join("alice"), common_name("alice"));
    let routes =
        "trusted_proxies: [127.0.0.1]\nroutes: [{ name: all, match: { path_prefix: / }, auth: none, upstream: app }]";
    let plain = "{ name: public, address: 127.0.0.1:0 }";
    let tls = "{ name: tls, address: 127.0.0.1:0, tls: { certificates: [{ cert_file: cert.pem, key_file: key.pem }], \
               client_auth: { mode: optional, ca_file: clients.pem } } }";
    let yaml = config(upstream.address(), routes).replace(plain, &format!("{plain}, {tls}"));
    let gate = Sidegate::start_in(dir, &yaml);
    let forged = [
        ("X-Client-Cert-Subject", "CN=root"),
        ("x_client_cert_subject", "CN=root"),
        ("X-CLIENT_CERT-SUBJECT", "CN=root"),
        ("x.client.cert.subject", "CN=root"),
    ];
    let told = || {
        let headers = upstream.only().headers;
        let folded = |name: &str| name.to_lowercase().replace(['_', '.'], "-");
        let told = headers.iter().filter(|(name, _)| folded(name) == "x-client-cert-subject");
        told.map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()
    };
    // On a listener that asks for nothing and from a proxy that is trusted, too.
    assert_eq!(request(gate.listener("public"), "GET", "/", &forged, b"").status, 200);
    assert!(told().is_empty());
    let lines: String = forged.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    for (own, expected) in [(None, &[][..]), (Some(&alice), &["x-client-cert-subject: CN=alice".to_owned()])] {
        let config = Arc::new(client(&gate.dir().join("ca.pem"), &TLS13, own));
        let mut stream = dial(gate.listener("tls"), &config, "localhost").unwrap();
        assert_eq!(ask(&mut stream, "/", &lines).unwrap(), 200);
        assert_eq!(told(), expected);
        // Nor can it be taken away as if it were the connection's.
        let mut stream = dial(gate.listener("tls"), &config, "localhost").unwrap();
        assert_eq!(ask(&mut stream, "/", "Connection: x-client-cert-subject\r\n").unwrap(), 400);
        assert!(upstream.take().is_empty());
    }
}

/// A certificate whose subject has these parts, in this order.
fn subject(parts: Vec<(DnType, DnValue)>) -> CertificateParams {
    let mut params = names(&["client.test"]);
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (kind, value) in parts {
        params.distinguished_name.push(kind, value);
    }
    params
}

#[test]
fn a_subject_is_written_so_that_it_reads_in_one_way() {
    use DnType::{CommonName, CountryName, CustomDnType, OrganizationName, OrganizationalUnitName};
    let text = |text: &str| DnValue::from(text);
    let upstream = Upstream::start();
    let (gate, ca) = start(&upstream, "");
    let long = "x".repeat(5000);
    for (n, (parts, expected)) in [
        (
            vec![(CountryName, text("DE")), (OrganizationName, text("Example GmbH")), (CommonName, text("alice"))],
            Some("CN=alice,O=Example GmbH,C=DE"),
        ),
        // What could pose as a part of its own.
        (vec![(CommonName, text("alice,O=Admins+OU=Root"))], Some("CN=alice\\,O=Admins\\+OU=Root")),
        (vec![(CommonName, text("a\\\"<b>;c=d"))], Some("CN=a\\\\\\\"\\<b\\>\\;c=d")),
        // What a header would trim, or could not carry.
        (vec![(CommonName, text(" a # b "))], Some("CN=\\20a # b\\20")),
        (vec![(CommonName, text("#a"))], Some("CN=\\#a")),
        (vec![(CommonName, text("a\r\nX-Auth: b\0"))], Some("CN=a\\0D\\0AX-Auth: b\\00")),
        (vec![(CommonName, text("Zoë"))], Some("CN=Zo\\C3\\AB")),
        (vec![(CommonName, text(""))], Some("CN=")),
        (
            vec![(CommonName, DnValue::BmpString(rcgen::string::BmpString::try_from("Zoë").unwrap()))],
            Some("CN=Zo\\C3\\AB"),
        ),
        // What has no name is written as numbers, with the encoding of its value (a UTF8String of two bytes).
        (
            vec![(CustomDnType(vec![1, 2, 3, 4]), text("hi")), (OrganizationalUnitName, text("x"))],
            Some("OU=x,1.2.3.4=#0C026869"),
        ),
        (vec![(CustomDnType(vec![1, 2, 840, 113549, 1, 9, 1]), text("a@b.c"))], Some("emailAddress=a@b.c")),
        // Nothing to say, and too much.
        (vec![], None),
        (vec![(CommonName, text(&long))], None),
    ]
    .into_iter()
    .enumerate()
    {
        let own = ca.sign(&gate.dir().join(format!("client-{n}")), subject(parts));
        let forged = "X-Client-Cert-Subject: CN=root\r\n";
        assert_eq!(try_with(&gate, Some(&own), forged).unwrap(), 200, "{expected:?}");
        let told: Vec<_> = expected.into_iter().collect();
        assert_eq!(upstream.only().all("x-client-cert-subject"), told);
    }
}

#[test]
fn a_session_brings_its_certificate_along_and_ends_with_it() {
    let upstream = Upstream::start();
    let (gate, ca) = start(&upstream, "");
    for version in [&TLS12, &TLS13] {
        let mut brief = common_name("brief");
        brief.not_after = (SystemTime::now() + std::time::Duration::from_secs(4)).into();
        let own = ca.sign(&gate.dir().join("brief"), brief);
        let config = Arc::new(client(&gate.dir().join("ca.pem"), version, Some(&own)));
        let attempt = || {
            let mut stream = dial(gate.address(), &config, "localhost").unwrap();
            (stream.conn.handshake_kind(), ask(&mut stream, "/", ""))
        };
        assert_eq!(attempt().1.unwrap(), 200);
        let (kind, answer) = attempt();
        assert_eq!((kind, answer.unwrap()), (Some(Resumed), 200), "{version:?}");
        assert_eq!(upstream.take()[1].all("x-client-cert-subject"), ["CN=brief"]);
        // Until it has expired: the handshake that resumes does not look at it again.
        wait_for("the session to be refused", || {
            let (kind, answer) = attempt();
            assert_eq!(kind, Some(Resumed));
            answer.is_err().then_some(())
        });
        upstream.take();
    }
}

#[test]
fn a_ca_that_is_taken_away_takes_its_sessions_along() {
    let upstream = Upstream::start();
    let (gate, ca) = start(&upstream, "");
    let file = |stem: &str| gate.dir().join(stem);
    let alice = ca.sign(&file("alice"), common_name("alice"));
    let config = Arc::new(client(&file("ca.pem"), &TLS13, Some(&alice)));
    let mut before = dial(gate.address(), &config, "localhost").unwrap();
    assert_eq!(ask(&mut before, "/", "").unwrap(), 200);
    let bob = ca_in_its_place(&file("clients.pem")).sign(&file("bob"), common_name("bob"));
    wait_for("the new CA to be trusted", || try_with(&gate, Some(&bob), "").ok());
    let ticket_held = dial(gate.address(), &config, "localhost");
    assert!(ticket_held.and_then(|mut stream| ask(&mut stream, "/", "")).is_err());
    assert!(try_with(&gate, Some(&alice), "").is_err());
    assert_eq!(super::reloads(&gate, "ok"), 1.0);
    // What is open goes on.
    assert_eq!(ask(&mut before, "/", "").unwrap(), 200);
    // A file that cannot be used leaves the CAs as they are.
    std::fs::write(file("clients.pem"), "nonsense").unwrap();
    wait_for("it to be refused", || (super::reloads(&gate, "failed") == 1.0).then_some(()));
    assert_eq!(try_with(&gate, Some(&bob), "").unwrap(), 200);
    let said = gate.logged_until(|log| log.contains("CAs of clients from before"));
    assert!(said.contains("clients.pem: there is no certificate in it; the CAs of clients from before"), "{said}");
}

fn ca_in_its_place(file: &Path) -> Ca {
    let mut ca = Ca::new(file.with_extension("other"));
    std::fs::rename(&ca.file, file).unwrap();
    ca.file = file.to_owned();
    ca
}
