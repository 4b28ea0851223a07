//! Stock OAuth and OpenID Connect clients, unmodified, over TLS with a CA of the test's own and on loopback without: crates
//! here, those for Python and Node.js in tests/clients.

mod browser;
mod mcp;
mod oauth;
mod oidc;

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use oauth2::reqwest;
use serde_json::json;

use crate::support::{
    self, Upstream,
    client::{hex, sha256},
    tls::{Ca, certify, names},
    tokens::{TestKey, argon2id},
};

/// Printable, and different once form-decoded: some libraries encode it for Basic, others send it as it is.
const SECRET: &str = "32+%41 of:entropy/&=";
/// What follows it: a client may have two.
const OTHER_SECRET: &str = "another: with a colon";
const USER: &str = "alice";
const PASSWORD: &str = "pass wörd+%";
const SUBJECT: &str = "user-of-the-clients-test";
/// Of a web application.
const REDIRECT: &str = "https://app.example.com/cb";
/// Of an application on the user's own machine, which takes any port (RFC 8252 §7.3).
const LOOPBACK_REDIRECT: &str = "http://127.0.0.1:51004/cb";

#[test]
fn authlib_does_every_grant() {
    python("authlib_flow.py");
}

#[test]
fn authlib_logs_users_in_by_openid_connect() {
    python("authlib_oidc_flow.py");
}

#[test]
fn requests_oauthlib_does_every_grant() {
    python("requests_oauthlib_flow.py");
}

#[test]
fn oauth4webapi_does_every_grant() {
    node("oauth4webapi", "oauth4webapi.mjs");
}

#[test]
fn oauth4webapi_binds_tokens_to_its_key() {
    node("oauth4webapi", "dpop.mjs");
}

#[test]
fn authlib_signs_who_it_is() {
    python("authlib_jwt_flow.py");
}

#[test]
fn oauth4webapi_signs_who_it_is() {
    node("oauth4webapi", "oauth4webapi_jwt.mjs");
}

#[test]
fn openid_client_signs_who_it_is() {
    node("openid-client", "openid_client_jwt.mjs");
}

#[test]
fn openid_client_does_every_grant() {
    node("openid-client", "openid_client.mjs");
}

#[test]
fn simple_oauth2_does_every_grant() {
    node("simple-oauth2", "simple_oauth2.mjs");
}

#[test]
fn badgateway_oauth2_client_does_every_grant() {
    node("@badgateway/oauth2-client", "badgateway.mjs");
}

/// Runs a flow of tests/clients against a Sidegate of its own each way.
fn python(flow: &str) {
    let Some(python) = brought("target/test-tools/venv/bin/python", "Authlib") else { return };
    for over in Over::BOTH {
        let gate = Gate::start(flow, over);
        let mut command = Command::new(&python);
        command.arg(in_tree("tests/clients").join(flow)).arg(&gate.base).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("CLIENT_KEYS", &gate.home);
        if let Over::Tls = over {
            command.arg(&gate.ca_file);
        }
        all_right(&command.output().unwrap());
    }
}

/// The same for one of tests/clients/node, with the package that it is about.
fn node(package: &str, flow: &str) {
    let Some(node) = support::tool("node") else { return };
    let Some(_) = brought(&format!("tests/clients/node/node_modules/{package}"), package) else { return };
    for over in Over::BOTH {
        let gate = Gate::start(flow, over);
        let mut command = Command::new(&node);
        command.arg(in_tree("tests/clients/node").join(flow)).arg(&gate.base);
        command.env("NODE_EXTRA_CA_CERTS", &gate.ca_file).env("CLIENT_KEYS", &gate.home);
        all_right(&command.output().unwrap());
    }
}

/// How clients come to a gate.
#[derive(Clone, Copy, Debug)]
enum Over {
    /// At an address, with a certificate for it.
    Tls,
    /// At `localhost`, where the issuer's URL may do without.
    Loopback,
}

impl Over {
    const BOTH: [Self; 2] = [Self::Tls, Self::Loopback];
}

/// Sidegate, in front of an upstream that answers everything with 200.
struct Gate {
    _process: support::Sidegate,
    base: String,
    ca_file: PathBuf,
    /// Where the private keys of `stock-keys` are.
    home: PathBuf,
}

impl Gate {
    fn start(name: &str, over: Over) -> Self {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("clients-{name}-{over:?}"));
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(&home).unwrap();
        let ca_file = certify(&home);
        Ca::new(home.join("clients.pem")).sign(&home.join("client"), names(&["stock-tls.example.com"]));
        let keys = [TestKey::new("RS256", "rsa"), TestKey::new("ES256", "ec")];
        for key in &keys {
            fs::write(home.join(format!("{}.pem", key.kid)), key.private_pem()).unwrap();
        }
        fs::write(home.join("keys.json"), json!({ "keys": keys.map(|key| key.jwk()) }).to_string()).unwrap();
        // The issuer's URL has to be known before the process runs, so the port is chosen here.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (base, tls) = match over {
            Over::Tls => {
                let at = home.display();
                let pair = format!("{{ cert_file: {at}/cert.pem, key_file: {at}/key.pem }}");
                let clients = format!("client_auth: {{ mode: optional, ca_file: {at}/clients.pem }}");
                (format!("https://127.0.0.1:{port}"), format!("tls: {{ certificates: [{pair}], {clients} }}"))
            }
            Over::Loopback => (format!("http://localhost:{port}"), String::new()),
        };
        let process = support::Sidegate::start(&config(&home, port, &tls, &base, Upstream::start().address()));
        Self { _process: process, base, ca_file, home }
    }

    /// What the documentation of the crates recommends, with our CA.
    fn http(&self) -> reqwest::Client {
        // reqwest takes whichever provider the process has; another test may have been first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let ca = reqwest::Certificate::from_pem(&fs::read(&self.ca_file).unwrap()).unwrap();
        reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(10))
            .no_proxy()
            .add_root_certificate(ca)
            .build()
            .unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// What the gateway says to a token.
    async fn get(&self, http: &reqwest::Client, token: &str) -> u16 {
        http.get(self.url("/secret")).bearer_auth(token).send().await.unwrap().status().as_u16()
    }
}

fn config(home: &Path, port: u16, tls: &str, base: &str, upstream: SocketAddr) -> String {
    let (home, password) = (home.display(), argon2id(PASSWORD));
    let [secret, other] = [SECRET, OTHER_SECRET].map(|secret| hex(&sha256(secret.as_bytes())));
    format!(
        "
workers: 1
listeners:
  - name: public
    address: 127.0.0.1:{port}
    issuer: true
    {tls}
admin:
  address: 127.0.0.1:0
upstreams:
  - name: app
    urls: [http://{upstream}]
providers:
  - name: local
    issuer: {base}
    audiences: [https://api.example.com]
    algorithms: [ES256]
    jwks: issuer
routes:
  - name: all
    match: {{ path_prefix: / }}
    upstream: app
issuer:
  url: {base}
  access_token: {{ lifetime: 5m, algorithm: ES256, audience: https://api.example.com }}
  store: {{ embedded: {{ path: {home}/data }} }}
  clients:
    - id: stock
      secret_hashes: ['sha256:{secret}', 'sha256:{other}']
      grants: [authorization_code, client_credentials, refresh_token]
      legacy_password_grant: true
      scopes: [openid, profile, read, write]
      redirect_uris: [{REDIRECT}, https://app.example.com/other]
    - id: stock-keys
      jwks_file: {home}/keys.json
      grants: [authorization_code, client_credentials, refresh_token]
      scopes: [openid, profile, read, write]
      redirect_uris: [{REDIRECT}]
    - id: stock-tls
      tls_client_auth_san_dns: stock-tls.example.com
      grants: [client_credentials]
      scopes: [read, write]
    - id: stock-public
      grants: [authorization_code, refresh_token]
      legacy_password_grant: true
      scopes: [openid, profile, read, write]
      redirect_uris: [http://127.0.0.1/cb, com.example.app:/cb]
  users:
    - username: {USER}
      subject: {SUBJECT}
      password_hash: '{password}'
"
    )
}

pub(crate) fn all_right(out: &Output) {
    let (said, wrong) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && said.ends_with("all as it should be\n"), "{said}{wrong}");
}

/// What tests/setup.sh brings into the tree; where it is not there, the same as for a program that is not.
pub(crate) fn brought(path: &str, name: &str) -> Option<PathBuf> {
    let path = in_tree(path);
    if path.exists() { Some(path) } else { support::tool(name) }
}

pub(crate) fn in_tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
