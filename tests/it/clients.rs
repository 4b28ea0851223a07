//! Stock OAuth clients, unmodified, over TLS with a CA of the test's own: the Rust `oauth2` crate here, Authlib and
//! oauth4webapi in tests/clients.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use oauth2::{
    AuthType, ClientId, ClientSecret, EndpointNotSet, EndpointSet, RequestTokenError, ResourceOwnerPassword,
    ResourceOwnerUsername, RevocationUrl, Scope, StandardRevocableToken, TokenResponse as _, TokenUrl,
    basic::{BasicClient, BasicErrorResponseType},
    reqwest,
};

use crate::support::{
    self, Upstream,
    client::{hex, sha256},
    tls::certify,
    tokens::argon2id,
};

/// Printable, and different once form-decoded: some libraries encode it for Basic, others send it as it is.
const SECRET: &str = "32+%41 of:entropy/&=";
const USER: &str = "alice";
const PASSWORD: &str = "pass wörd+%";

#[test]
fn authlib_does_every_grant() {
    let Some(python) = brought("target/test-tools/venv/bin/python", "Authlib") else { return };
    let gate = Gate::start("authlib");
    let mut flow = Command::new(python);
    flow.arg(in_tree("tests/clients/authlib_flow.py")).arg(&gate.base).arg(&gate.ca_file);
    all_right(&flow.output().unwrap());
}

#[test]
fn oauth4webapi_does_every_grant() {
    let Some(node) = support::tool("node") else { return };
    let Some(_) = brought("tests/clients/node/node_modules/oauth4webapi", "oauth4webapi") else { return };
    let gate = Gate::start("oauth4webapi");
    let mut flow = Command::new(node);
    flow.arg(in_tree("tests/clients/node/flow.mjs")).arg(&gate.base).env("NODE_EXTRA_CA_CERTS", &gate.ca_file);
    all_right(&flow.output().unwrap());
}

#[tokio::test]
async fn the_oauth2_crate_does_every_grant() {
    let gate = Gate::start("oauth2");
    let http = gate.http();
    for auth_type in [AuthType::BasicAuth, AuthType::RequestBody] {
        let client = gate.client("stock").set_client_secret(ClientSecret::new(SECRET.into())).set_auth_type(auth_type);
        gate.walk_through(&client, &http).await;

        let token = client.exchange_client_credentials().request_async(&http).await.unwrap();
        assert!(token.refresh_token().is_none());
        assert_eq!(gate.get(&http, token.access_token().secret()).await, 200);
    }
    gate.walk_through(&gate.client("stock-public"), &http).await;
}

type Client = BasicClient<EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet, EndpointSet>;

/// Sidegate over TLS, in front of an upstream that answers everything with 200.
struct Gate {
    _process: support::Sidegate,
    base: String,
    ca_file: PathBuf,
}

impl Gate {
    fn start(name: &str) -> Self {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("clients-{name}"));
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(&home).unwrap();
        let ca_file = certify(&home);
        // The issuer's URL has to be known before the process runs, so the port is chosen here.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let base = format!("https://127.0.0.1:{port}");
        let process = support::Sidegate::start(&config(&home, port, &base, Upstream::start().address()));
        Self { _process: process, base, ca_file }
    }

    /// What the crate's documentation recommends, with our CA.
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

    fn client(&self, id: &str) -> Client {
        BasicClient::new(ClientId::new(id.into()))
            .set_token_uri(TokenUrl::new(format!("{}/oauth/token", self.base)).unwrap())
            .set_revocation_url(RevocationUrl::new(format!("{}/oauth/revoke", self.base)).unwrap())
    }

    async fn get(&self, http: &reqwest::Client, token: &str) -> u16 {
        http.get(format!("{}/secret", self.base)).bearer_auth(token).send().await.unwrap().status().as_u16()
    }

    /// Password, refresh, a narrower refresh, revoke, and a refresh that must fail then.
    async fn walk_through(&self, client: &Client, http: &reqwest::Client) {
        let (user, password) = (ResourceOwnerUsername::new(USER.into()), ResourceOwnerPassword::new(PASSWORD.into()));
        let first = client.exchange_password(&user, &password).request_async(http).await.unwrap();
        assert_eq!(self.get(http, first.access_token().secret()).await, 200);

        let second = client.exchange_refresh_token(first.refresh_token().unwrap()).request_async(http).await.unwrap();
        assert_ne!(second.access_token().secret(), first.access_token().secret());
        assert_ne!(second.refresh_token().unwrap().secret(), first.refresh_token().unwrap().secret());
        assert_eq!(self.get(http, second.access_token().secret()).await, 200);

        let narrow = client
            .exchange_refresh_token(second.refresh_token().unwrap())
            .add_scope(Scope::new("read".into()))
            .request_async(http)
            .await
            .unwrap();
        assert_eq!(narrow.scopes(), Some(&vec![Scope::new("read".into())]));

        let last = narrow.refresh_token().unwrap();
        let doomed = StandardRevocableToken::from(last);
        client.revoke_token(doomed).unwrap().request_async(http).await.unwrap();
        match client.exchange_refresh_token(last).request_async(http).await {
            Err(RequestTokenError::ServerResponse(answer)) => {
                assert_eq!(answer.error(), &BasicErrorResponseType::InvalidGrant);
            }
            other => panic!("a revoked refresh token: {other:?}"),
        }
        assert_eq!(self.get(http, second.access_token().secret()).await, 401, "its session's tokens are dead");
    }
}

fn config(home: &Path, port: u16, base: &str, upstream: SocketAddr) -> String {
    let (home, secret, password) = (home.display(), hex(&sha256(SECRET.as_bytes())), argon2id(PASSWORD));
    format!(
        "
workers: 1
listeners:
  - name: public
    address: 127.0.0.1:{port}
    issuer: true
    tls:
      certificates:
        - {{ cert_file: {home}/cert.pem, key_file: {home}/key.pem }}
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
      secret_hash: 'sha256:{secret}'
      grants: [client_credentials, refresh_token]
      legacy_password_grant: true
      scopes: [read, write]
    - id: stock-public
      grants: [refresh_token]
      legacy_password_grant: true
      scopes: [read, write]
  users:
    - username: {USER}
      subject: user-of-the-clients-test
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
