//! curl and openssl, unmodified.

use std::{
    process::{Command, Stdio},
    sync::Arc,
};

use rustls::version::TLS13;

use super::{certificates, tls_config};
use crate::support::{
    Sidegate, Upstream,
    tls::{Ca, Issued, ask, client, common_name, dial, names, put},
    tool,
};

/// Three names by SNI, and certificates of clients where they have them.
fn start(upstream: &Upstream) -> (Sidegate, Ca) {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new(dir.path().join("ca.pem"));
    ca.sign(&dir.path().join("first"), names(&["localhost"]));
    ca.sign(&dir.path().join("exact"), names(&["api.example.com"]));
    ca.sign(&dir.path().join("wildcard"), names(&["*.example.com"]));
    ca.sign(&dir.path().join("alice"), common_name("alice"));
    let list = certificates(&["first", "exact", "wildcard"]);
    let tls = format!("{list}, client_auth: {{ mode: optional, ca_file: ca.pem }}");
    (Sidegate::start_in(dir, &tls_config(upstream.address(), &tls)), ca)
}

#[test]
fn curl_gets_the_certificate_of_each_name() {
    let Some(curl) = tool("curl") else { return };
    let upstream = Upstream::start();
    let (gate, _) = start(&upstream);
    let port = gate.address().port();
    let curl = |name: &str, more: &[&str]| {
        let mut command = Command::new(&curl);
        command.current_dir(gate.dir()).args(["-sS", "--max-time", "20", "--cacert", "ca.pem"]).args(more);
        command.arg("--resolve").arg(format!("{name}:{port}:127.0.0.1"));
        command.arg(format!("https://{name}:{port}/")).output().unwrap()
    };
    for name in ["localhost", "api.example.com", "www.example.com"] {
        for version in [&["--tlsv1.2", "--tls-max", "1.2"][..], &["--tlsv1.3"]] {
            let output = curl(name, version);
            assert_eq!(output.stdout, b"hello", "{name}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    // 60: the certificate is not for this name.
    assert_eq!(curl("www.example.org", &[]).status.code(), Some(60));
    assert_eq!(upstream.take().len(), 6);
    let output = curl("localhost", &["--cert", "alice.pem", "--key", "alice.key"]);
    assert_eq!(output.stdout, b"hello", "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(upstream.only().all("x-client-cert-subject"), ["CN=alice"]);
}

#[test]
fn openssl_resumes_its_session() {
    let Some(openssl) = tool("openssl") else { return };
    let upstream = Upstream::start();
    let (gate, _) = start(&upstream);
    let connect = |more: &[&str]| {
        let mut command = Command::new(&openssl);
        command.current_dir(gate.dir()).args(["s_client", "-CAfile", "ca.pem", "-verify_return_error", "-ign_eof"]);
        command.arg("-connect").arg(gate.address().to_string()).args(["-servername", "api.example.com"]).args(more);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), request).unwrap();
        let output = child.wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let first = connect(&[version, "-sess_out", "session.pem"]);
        assert!(first.contains("New, ") && first.contains("hello"), "{first}");
        assert!(first.contains("Verification: OK"), "{first}");
        let second = connect(&[version, "-sess_in", "session.pem"]);
        assert!(second.contains("Reused, ") && second.contains("hello"), "{second}");
    }
}

#[test]
fn openssl_writes_subjects_in_the_same_way() {
    let Some(openssl) = tool("openssl") else { return };
    let upstream = Upstream::start();
    let (gate, ca) = start(&upstream);
    put(&gate.dir().join("ca.key"), &ca.key());
    put(&gate.dir().join("req.cnf"), "[req]\ndistinguished_name = dn\n[dn]\n");
    let openssl = |args: &[&str]| {
        let output = Command::new(&openssl).current_dir(gate.dir()).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for subject in [
        "/C=DE/ST=Berlin/L=Mitte/O=Example, Inc./CN=alice",
        // One part of two attributes, and a person.
        "/DC=test/DC=example/OU=Tür+UID=u-17/CN=Zoë \"Z\" <z>+serialNumber=5/emailAddress=z@example.test",
        "/CN=#1; b/2.5.4.3=c\\\\d",
    ] {
        let request = ["req", "-config", "req.cnf", "-x509", "-CA", "ca.pem", "-CAkey", "ca.key", "-newkey", "ec"];
        let key = ["-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "own.key", "-out", "own.pem"];
        let what = ["-utf8", "-multivalue-rdn", "-subj", subject, "-addext", "basicConstraints=critical,CA:FALSE"];
        openssl(&[&request[..], &key, &what].concat());
        let written = openssl(&["x509", "-in", "own.pem", "-noout", "-subject", "-nameopt", "RFC2253"]);
        let own = Issued { cert_file: gate.dir().join("own.pem"), key_file: gate.dir().join("own.key") };
        let config = Arc::new(client(&ca.file, &TLS13, Some(&own)));
        assert_eq!(ask(&mut dial(gate.address(), &config, "localhost").unwrap(), "/", "").unwrap(), 200);
        assert_eq!(
            upstream.only().all("x-client-cert-subject"),
            [written.trim_end().strip_prefix("subject=").unwrap()]
        );
    }
}
