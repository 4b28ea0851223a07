//! Clients that are known by the certificate of their connection: `tls_client_auth` (RFC 8705 §2.1).

use std::path::Path;

use rcgen::{CertificateParams, DnType, SanType};
use serde_json::{Value, json};

use super::bound::{CLIENT_AUTH, post, send};
use crate::support::{
    Sidegate, Upstream, config_with_issuer,
    tls::{Ca, Issued, certify, common_name},
};

const ROUTES: &str = "routes: [{ name: all, match: { path_prefix: / }, upstream: app }]\n";
const FORM: &str = "grant_type=client_credentials&client_id=svc";

/// A gate with the client `svc` that is known like this, and a CA for clients.
fn start(upstream: &Upstream, known_by: &str) -> (Sidegate, Ca) {
    let dir = tempfile::tempdir().unwrap();
    certify(dir.path());
    let ca = Ca::new(dir.path().join("clients.pem"));
    let svc = format!(
        "    - {{ id: svc, {known_by}, grants: [client_credentials], tls_client_certificate_bound_access_tokens: true }}\n"
    );
    let yaml = config_with_issuer(upstream.address(), ROUTES)
        .replace("  clients:\n", &format!("  clients:\n{svc}"))
        .replace("127.0.0.1:0, issuer: true", &format!("127.0.0.1:0, issuer: true, tls: {{ {CLIENT_AUTH} }}"));
    (Sidegate::start_in(dir, &yaml), ca)
}

fn ask(gate: &Sidegate, own: Option<&Issued>, form: &str) -> (u16, Value) {
    let (status, answer) = post(gate.address(), &gate.dir().join("ca.pem"), own, form);
    let told = answer["error"].as_str().or(answer["access_token"].as_str());
    (status, told.into())
}

fn refused() -> (u16, Value) {
    (401, json!("invalid_client"))
}

fn alternative(name: SanType) -> CertificateParams {
    let mut params = common_name("anybody");
    params.subject_alt_names.push(name);
    params
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

fn email(address: &str) -> SanType {
    SanType::Rfc822Name(address.try_into().unwrap())
}

fn ip(address: &str) -> SanType {
    SanType::IpAddress(address.parse().unwrap())
}

fn subject(parts: &[(DnType, &str)]) -> CertificateParams {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (kind, value) in parts {
        params.distinguished_name.push(kind.clone(), *value);
    }
    params
}

#[test]
fn a_client_is_known_by_the_one_name_in_its_certificate() {
    use DnType::{CommonName, OrganizationName};
    let upstream = Upstream::start();
    let name = "svc.example.com";
    for (known_by, own, others) in [
        (
            "tls_client_auth_subject_dn: 'CN=svc,O=Example\\, Inc'",
            subject(&[(OrganizationName, "Example, Inc"), (CommonName, "svc")]),
            vec![
                subject(&[(CommonName, "svc")]),
                subject(&[(CommonName, "svc"), (OrganizationName, "Example, Inc")]),
                subject(&[(OrganizationName, "Example"), (CommonName, "svc")]),
                subject(&[(CommonName, "svc,O=Example\\, Inc")]),
                alternative(dns("CN=svc,O=Example")),
            ],
        ),
        (
            "tls_client_auth_san_dns: Svc.example.com",
            alternative(dns(name)),
            vec![
                alternative(dns("svc.example.com.evil.example")),
                alternative(dns("*.example.com")),
                alternative(uri(name)),
                alternative(email(name)),
                common_name(name),
            ],
        ),
        (
            "tls_client_auth_san_uri: spiffe://example.com/svc",
            alternative(uri("spiffe://example.com/svc")),
            vec![alternative(uri("spiffe://example.com/svc/")), alternative(uri("spiffe://example.com/SVC"))],
        ),
        (
            "tls_client_auth_san_ip: 2001:db8::7",
            alternative(ip("2001:db8:0::7")),
            vec![alternative(ip("2001:db8::8")), alternative(ip("192.0.2.7")), common_name("2001:db8::7")],
        ),
        (
            "tls_client_auth_san_email: svc@example.com",
            alternative(email("svc@example.com")),
            vec![alternative(email("other@example.com")), common_name("svc@example.com")],
        ),
    ] {
        let (gate, ca) = start(&upstream, known_by);
        let sign = |ca: &Ca, n: usize, params| ca.sign(&gate.dir().join(format!("client-{n}")), params);
        let own = sign(&ca, 0, own);
        let (status, token) = ask(&gate, Some(&own), FORM);
        assert_eq!(status, 200, "{known_by}: {token}");
        // It is bound as well, as this client's are.
        assert_eq!(send(&gate, Some(&own), "/", token.as_str().unwrap()), 200, "{known_by}");
        assert_eq!(send(&gate, None, "/", token.as_str().unwrap()), 401, "{known_by}");
        for (n, params) in others.into_iter().enumerate() {
            assert_eq!(ask(&gate, Some(&sign(&ca, n + 1, params)), FORM), refused(), "{known_by}: {n}");
        }
        assert_eq!(ask(&gate, None, FORM), refused(), "{known_by}");
    }
}

#[test]
fn a_certificate_is_the_only_way_of_a_client_that_has_one() {
    let upstream = Upstream::start();
    let (gate, ca) = start(&upstream, "tls_client_auth_san_dns: svc.example.com");
    let own = ca.sign(&gate.dir().join("own"), alternative(dns("svc.example.com")));
    for form in [
        format!("{FORM}&client_secret=secret"),
        "grant_type=client_credentials".into(),
        // A certificate is nothing to whoever is known by something else.
        "grant_type=client_credentials&client_id=app".into(),
        "grant_type=client_credentials&client_id=nobody".into(),
    ] {
        assert_eq!(ask(&gate, Some(&own), &form), refused(), "{form}");
    }
    // Nobody else's signature will do, nor the certificate's own.
    let stranger = Ca::new(gate.dir().join("strangers.pem"));
    let forged = stranger.sign(&gate.dir().join("forged"), alternative(dns("svc.example.com")));
    assert!(rejected_in_the_handshake(&gate, &forged));
    let form = format!("{FORM}&client_secret=");
    assert_eq!(ask(&gate, Some(&own), &form).0, 200, "an empty secret is none");
    // It may ask about tokens, being confidential.
    let (_, metadata) = get_metadata(&gate, &own);
    let methods = json!(["client_secret_basic", "client_secret_post", "tls_client_auth", "none"]);
    assert_eq!(metadata["token_endpoint_auth_methods_supported"], methods);
}

fn rejected_in_the_handshake(gate: &Sidegate, own: &Issued) -> bool {
    let config = crate::support::tls::client(&gate.dir().join("ca.pem"), &rustls::version::TLS13, Some(own));
    let stream = crate::support::tls::dial(gate.address(), &config.into(), "localhost");
    stream.and_then(|mut stream| crate::support::tls::ask(&mut stream, "/", "")).is_err()
}

fn get_metadata(gate: &Sidegate, own: &Issued) -> (u16, Value) {
    use std::io::{Read as _, Write as _};
    let config = crate::support::tls::client(&ca_of(gate), &rustls::version::TLS13, Some(own));
    let mut stream = crate::support::tls::dial(gate.address(), &config.into(), "localhost").unwrap();
    let head = "GET /.well-known/oauth-authorization-server HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    (answer[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
}

fn ca_of(gate: &Sidegate) -> std::path::PathBuf {
    Path::new(gate.dir()).join("ca.pem")
}
