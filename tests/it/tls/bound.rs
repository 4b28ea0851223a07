//! Tokens that are bound to a certificate (RFC 8705 §3): from the issuer to the gateway.

use std::{io::Read as _, io::Write as _, net::SocketAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls::version::TLS13;
use serde_json::{Value, json};

use super::tls_config;
use crate::support::{
    Sidegate, Upstream,
    client::{hex, sha256},
    config_with_issuer,
    tls::{Ca, Issued, ask, certify, client, common_name, dial},
    tokens::{TestKey, claims_with, provider},
};

pub(super) const CLIENT_AUTH: &str = "certificates: [{ cert_file: cert.pem, key_file: key.pem }], \
                           client_auth: { mode: optional, ca_file: clients.pem }";

fn thumbprint(certificate: &Issued) -> String {
    URL_SAFE_NO_PAD.encode(sha256(&certificate.der()))
}

/// A folder with certificates: of the gate, of alice and of a thief.
pub(super) fn certificates() -> (tempfile::TempDir, Issued, Issued) {
    let dir = tempfile::tempdir().unwrap();
    certify(dir.path());
    let ca = Ca::new(dir.path().join("clients.pem"));
    let [alice, thief] = ["alice", "thief"].map(|name| ca.sign(&dir.path().join(name), common_name(name)));
    (dir, alice, thief)
}

/// Sends a token on a connection of its own.
pub(super) fn send(gate: &Sidegate, own: Option<&Issued>, path: &str, token: &str) -> u16 {
    let config = Arc::new(client(&gate.dir().join("ca.pem"), &TLS13, own));
    let mut stream = dial(gate.address(), &config, "localhost").unwrap();
    ask(&mut stream, path, &format!("Authorization: Bearer {token}\r\n")).unwrap()
}

#[test]
fn a_token_that_is_bound_to_a_certificate_passes_with_that_alone() {
    let (upstream, key) = (Upstream::start(), TestKey::new("ES256", "k1"));
    let (dir, alice, thief) = certificates();
    let routes = "routes: [{ name: bound, match: { path_prefix: /bound }, require: { bound: true }, upstream: app }, \
                  { name: all, match: { path_prefix: / }, upstream: app }]";
    let yaml = tls_config(upstream.address(), CLIENT_AUTH);
    let yaml = yaml.split("routes:").next().unwrap().to_owned() + &provider(&[&key], "leeway: 0s") + routes;
    let gate = Sidegate::start_in(dir, &yaml);
    let cnf = json!({ "cnf": { "x5t#S256": thumbprint(&alice) } });
    let token = key.token(&key.header(), &claims_with(cnf));
    for path in ["/", "/bound"] {
        assert_eq!(send(&gate, Some(&alice), path, &token), 200);
        assert_eq!(send(&gate, Some(&thief), path, &token), 401);
        assert_eq!(send(&gate, None, path, &token), 401);
    }
    assert_eq!(upstream.take().len(), 2);
    assert!(gate.rejected("certificate_wrong") == 2.0 && gate.rejected("certificate_missing") == 2.0);
    // A certificate does not make a token one that is bound to it.
    assert_eq!(send(&gate, Some(&alice), "/", &key.good()), 200);
    assert_eq!(send(&gate, Some(&alice), "/bound", &key.good()), 401);
    // Of two things that it is bound to, one is not enough.
    let cnf = json!({ "cnf": { "x5t#S256": thumbprint(&alice), "jkt": thumbprint(&thief) } });
    let token = key.token(&key.header(), &claims_with(cnf));
    assert_eq!(send(&gate, Some(&alice), "/", &token), 401);
    assert_eq!(gate.rejected("proof_missing"), 1.0);
}

/// Asks the issuer for tokens over TLS.
pub(super) fn post(to: SocketAddr, ca: &std::path::Path, own: Option<&Issued>, form: &str) -> (u16, Value) {
    let config = Arc::new(client(ca, &TLS13, own));
    let mut stream = dial(to, &config, "localhost").unwrap();
    let length = form.len();
    let head = "POST /oauth/token HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Type: application/x-www-form-urlencoded\r\n";
    stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{form}").as_bytes()).unwrap();
    let mut answer = Vec::new();
    // Its end need not be said in TLS's own words.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    (answer[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[test]
fn a_client_can_have_its_tokens_bound_to_its_certificate() {
    let upstream = Upstream::start();
    let (dir, alice, thief) = certificates();
    let routes = "routes: [{ name: all, match: { path_prefix: / }, require: { bound: true }, upstream: app }]\n";
    let secret = hex(&sha256(b"secret"));
    let svc = format!(
        "    - {{ id: svc, secret_hash: 'sha256:{secret}', grants: [client_credentials], scopes: [read], \
         tls_client_certificate_bound_access_tokens: true }}\n"
    );
    let yaml = config_with_issuer(upstream.address(), routes)
        .replace("  clients:\n", &format!("  clients:\n{svc}"))
        .replace("127.0.0.1:0, issuer: true", &format!("127.0.0.1:0, issuer: true, tls: {{ {CLIENT_AUTH} }}"));
    let gate = Sidegate::start_in(dir, &yaml);
    let ca = gate.dir().join("ca.pem");
    let form = "grant_type=client_credentials&client_id=svc&client_secret=secret";
    let (status, tokens) = post(gate.address(), &ca, Some(&alice), form);
    assert_eq!((status, &tokens["token_type"]), (200, &json!("Bearer")), "{tokens}");
    let token = tokens["access_token"].as_str().unwrap();
    assert_eq!(send(&gate, Some(&alice), "/", token), 200);
    assert_eq!(send(&gate, Some(&thief), "/", token), 401);
    let (status, refused) = post(gate.address(), &ca, None, form);
    assert_eq!((status, &refused["error"]), (400, &json!("invalid_request")), "{refused}");
    // Others are not bound to what they happen to show.
    let other = "grant_type=client_credentials&client_id=app&client_secret=secret";
    let (_, tokens) = post(gate.address(), &ca, Some(&alice), other);
    assert_eq!(send(&gate, Some(&alice), "/", tokens["access_token"].as_str().unwrap()), 401);
}
