//! TLS on a listener: which certificate is shown, sessions that are resumed, clients with certificates of their own, and
//! files that change while it serves.

mod authentication;
mod bound;
mod clients;
mod reload;
mod tools;

use std::{net::SocketAddr, sync::Arc};

use rustls::{
    HandshakeKind::{Full, Resumed},
    SignatureScheme::{ECDSA_NISTP256_SHA256, ED25519},
    version::{TLS12, TLS13},
};

use crate::support::{
    Sidegate, Upstream, config,
    tls::{Ca, Curious, ask, certify, client, dial, names},
};

/// One route that lets everybody in, and one listener with this `tls`.
fn tls_config(upstream: SocketAddr, tls: &str) -> String {
    let routes = "routes: [{ name: all, match: { path_prefix: / }, auth: none, upstream: app }]\n";
    let listener = "{ name: public, address: 127.0.0.1:0";
    config(upstream, routes).replace(listener, &format!("{listener}, tls: {{ {tls} }}"))
}

/// The entry of a certificate that has been signed into `{stem}.pem`.
fn entry(stem: &str) -> String {
    format!("{{ cert_file: {stem}.pem, key_file: {stem}.key }}")
}

/// The same, for a whole list of them.
fn certificates(stems: &[&str]) -> String {
    format!("certificates: [{}]", stems.iter().map(|stem| entry(stem)).collect::<Vec<_>>().join(", "))
}

/// The certificate that is shown to who asks for a name, whoever has signed it; an address asks for none.
fn shown(to: SocketAddr, name: &str) -> Vec<u8> {
    let stream = dial(to, &Arc::new(Curious::client(&[ECDSA_NISTP256_SHA256])), name).unwrap();
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn the_certificate_is_the_one_for_the_name_that_is_asked_for() {
    let upstream = Upstream::start();
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new(dir.path().join("ca.pem"));
    let sign = |stem: &str, of: &[&str]| ca.sign(&dir.path().join(stem), names(of)).der().to_vec();
    let first = sign("first", &["localhost"]);
    // The wildcard stands before the exact name, which goes before it all the same.
    let wildcard = sign("wildcard", &["*.example.com", "*.Example.org"]);
    let exact = sign("exact", &["api.example.com", "other.test"]);
    let yaml = tls_config(upstream.address(), &certificates(&["first", "wildcard", "exact"]));
    let gate = Sidegate::start_in(dir, &yaml);
    for (name, expected) in [
        ("localhost", &first),
        ("api.example.com", &exact),
        ("API.Example.COM", &exact),
        ("other.test", &exact),
        ("www.example.com", &wildcard),
        ("www.example.com.", &wildcard),
        ("WWW.example.org", &wildcard),
        // A wildcard stands for one label; what nobody has is answered by the first, as is who asks for nothing.
        ("a.www.example.com", &first),
        ("example.com", &first),
        ("com", &first),
        ("unknown.test", &first),
        ("127.0.0.1", &first),
    ] {
        assert!(shown(gate.address(), name) == *expected, "{name}");
    }
}

#[test]
fn of_two_certificates_for_a_name_the_client_is_shown_the_one_it_can_verify() {
    let upstream = Upstream::start();
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new(dir.path().join("ca.pem"));
    let ecdsa = ca.sign(&dir.path().join("ecdsa"), names(&["localhost"])).der();
    let ed25519 = ca.sign_for(&dir.path().join("ed25519"), names(&["localhost"]), &rcgen::PKCS_ED25519).der();
    let gate = Sidegate::start_in(dir, &tls_config(upstream.address(), &certificates(&["ecdsa", "ed25519"])));
    for (schemes, expected) in
        [(&[ECDSA_NISTP256_SHA256][..], &ecdsa), (&[ED25519], &ed25519), (&[ED25519, ECDSA_NISTP256_SHA256], &ecdsa)]
    {
        let stream = dial(gate.address(), &Arc::new(Curious::client(schemes)), "localhost").unwrap();
        assert!(stream.conn.peer_certificates().unwrap()[0] == *expected, "{schemes:?}");
    }
}

#[test]
fn sessions_are_resumed_by_whichever_worker() {
    let upstream = Upstream::start();
    let dir = tempfile::tempdir().unwrap();
    let ca = certify(dir.path());
    let yaml = tls_config(upstream.address(), "certificates: [{ cert_file: cert.pem, key_file: key.pem }]");
    let gate = Sidegate::start_in(dir, &yaml.replace("workers: 1", "workers: 2"));
    for version in [&TLS12, &TLS13] {
        let config = Arc::new(client(&ca, version, None));
        // Connections that stay open go to one worker and the other in turn.
        let mut open = Vec::new();
        for n in 0..6 {
            let mut stream = dial(gate.address(), &config, "localhost").unwrap();
            let kind = stream.conn.handshake_kind();
            assert_eq!(kind, Some(if n == 0 { Full } else { Resumed }), "{version:?}, connection {n}");
            // Tickets of TLS 1.3 come with the first answer.
            assert_eq!(ask(&mut stream, "/", "").unwrap(), 200);
            open.push(stream);
        }
        // A ticket is for the name it was given to.
        let other = dial(gate.address(), &config, "127.0.0.1").unwrap();
        assert_eq!(other.conn.handshake_kind(), Some(Full));
        // Nothing a client sends may come twice (RFC 8446 §8): no early data.
        let mut again = (*config).clone();
        again.enable_early_data = true;
        let mut stream = dial(gate.address(), &Arc::new(again), "localhost").unwrap();
        assert!(stream.conn.early_data().is_none() && !stream.conn.is_early_data_accepted());
    }
}

#[test]
fn a_listener_may_want_tls_1_3() {
    let upstream = Upstream::start();
    for (written, refused) in [("1.2", false), ("\"1.2\"", false), ("1.3", true), ("\"1.3\"", true)] {
        let dir = tempfile::tempdir().unwrap();
        let ca = certify(dir.path());
        let tls = format!("certificates: [{{ cert_file: cert.pem, key_file: key.pem }}], min_version: {written}");
        let gate = Sidegate::start_in(dir, &tls_config(upstream.address(), &tls));
        let connect = |version| dial(gate.address(), &Arc::new(client(&ca, version, None)), "localhost");
        assert_eq!(connect(&TLS12).is_err(), refused, "{written}");
        assert_eq!(ask(&mut connect(&TLS13).unwrap(), "/", "").unwrap(), 200, "{written}");
    }
}

/// Where the certificate of a listener stands in the metrics.
fn expiry(gate: &Sidegate, cert_file: &str) -> f64 {
    let labels = format!("{{cert_file=\"{cert_file}\",listener=\"public\"}}");
    gate.metric(&format!("sidegate_tls_certificate_expiry_timestamp_seconds{labels}"))
}

/// How often files that have changed were taken up, or were not.
fn reloads(gate: &Sidegate, result: &str) -> f64 {
    gate.metric(&format!("sidegate_tls_reloads_total{{result=\"{result}\"}}"))
}
