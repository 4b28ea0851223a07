//! Clients in Python, as they come from PyPI, over TLS.

use std::process::Command;

use serde_json::json;

use super::{By, home, notes::Notes, sockets::Sockets, start};
use crate::{
    clients::{all_right, brought, in_tree},
    support::tokens::{TestKey, claims_with},
};

#[tokio::test(flavor = "multi_thread")]
async fn grpcio_makes_every_kind_of_call() {
    let Some(python) = brought("target/test-tools/venv/bin/python", "grpcio") else { return };
    let key = TestKey::new("ES256", "k");
    let home = home();
    let upstream = Notes::start(By::H2c, home.path()).await;
    let routes = "routes: [{ name: admin, match: { path: /test.Notes/Admin }, require: { scopes: [admin] }, upstream: app }, \
                  { name: rest, match: { path_prefix: /test.Notes }, upstream: app }]";
    let gate = start(home, &upstream.config, &key, routes);
    let expired = key.token(&key.header(), &claims_with(json!({ "exp": 1000 })));
    let mut flow = Command::new(python);
    flow.arg(in_tree("tests/clients/grpc_flow.py")).arg(gate.listener("tls").to_string());
    flow.arg(gate.dir().join("ca.pem")).args([key.good(), expired]).env_remove("http_proxy").env_remove("https_proxy");
    all_right(&flow.output().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_converses() {
    let Some(python) = brought("target/test-tools/venv/bin/python", "websockets") else { return };
    let key = TestKey::new("ES256", "k");
    let home = home();
    let upstream = Sockets::start(By::Http, home.path()).await;
    let gate = start(home, &upstream.config, &key, super::ALL);
    let mut flow = Command::new(python);
    flow.arg(in_tree("tests/clients/websocket_flow.py")).arg(format!("wss://{}", gate.listener("tls")));
    flow.arg(gate.dir().join("ca.pem")).arg(key.good());
    all_right(&flow.output().unwrap());
}
