//! MCP servers behind Sidegate, with the configuration that deploy/mcp.md shows: the scanner mcp-authlab, and the client of the official
//! SDK for Python.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::{PASSWORD, SUBJECT, USER, all_right, brought, certify, in_tree};
use crate::support::{Sidegate, tokens::argon2id};

#[test]
fn mcp_clients_register_log_in_and_call_tools() {
    let Some(python) = brought("target/test-tools/venv/bin/python", "mcp-authlab") else { return };
    let home = tempfile::tempdir().unwrap();
    let ca_file = certify(home.path());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let base = format!("https://127.0.0.1:{port}");
    let servers = ["/tools", "/notes"].map(|path| McpServer::start(&python, path));
    put(&home.path().join("users.yaml"), &users());
    let gate = Sidegate::start(&config(home.path(), port, &base, &servers));
    let mut command = Command::new(&python);
    command.arg(in_tree("tests/clients/mcp_flow.py")).arg(&base).arg(&ca_file).env("PYTHONDONTWRITEBYTECODE", "1");
    all_right(&command.output().unwrap());
    // It was Sidegate, not what is behind it, that has refused the hostile origin of each scan.
    let series = "code=\"403\",decision=\"denied\",method=\"POST\",reason=\"origin_foreign\",route=\"tools\"";
    assert_eq!(gate.metric(&format!("sidegate_requests_total{{{series}}}")), 2.0);
}

/// What the document shows, at this port, with files of this folder; and a client that is listed.
fn config(home: &Path, port: u16, base: &str, servers: &[McpServer; 2]) -> String {
    let document = fs::read_to_string(in_tree("deploy/mcp.md")).unwrap();
    let (_, rest) = document.split_once("\n```yaml\n").expect("a configuration");
    let mut yaml = rest.split_once("```").unwrap().0.to_owned();
    let client = "issuer:\n  clients:\n    - { id: stock-public, grants: [authorization_code, refresh_token], \
                  scopes: [tools, notes], redirect_uris: ['http://127.0.0.1/callback'] }\n";
    for (there, here) in [
        ("https://mcp.example.com", base),
        ("0.0.0.0:443", &format!("127.0.0.1:{port}")),
        ("http://127.0.0.1:8001", &format!("http://127.0.0.1:{}", servers[0].port)),
        ("http://127.0.0.1:8002", &format!("http://127.0.0.1:{}", servers[1].port)),
        ("/etc/sidegate/tls/fullchain.pem", &home.join("cert.pem").display().to_string()),
        ("/etc/sidegate/tls/key.pem", &home.join("key.pem").display().to_string()),
        ("/etc/sidegate/users.yaml", &home.join("users.yaml").display().to_string()),
        ("/var/lib/sidegate", &home.join("data").display().to_string()),
        ("\nissuer:\n", &format!("\n{client}")),
    ] {
        assert!(yaml.contains(there), "{there} is not in deploy/mcp.md");
        yaml = yaml.replace(there, here);
    }
    format!("{yaml}workers: 1\nadmin: {{ address: 127.0.0.1:0 }}\n")
}

fn users() -> String {
    let password = argon2id(PASSWORD);
    format!("- username: {USER}\n  subject: {SUBJECT}\n  password_hash: '{password}'\n")
}

fn put(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// tests/clients/mcp_server.py, ended when it is dropped.
struct McpServer {
    child: Child,
    port: u16,
}

impl McpServer {
    fn start(python: &Path, path: &str) -> Self {
        let mut command = Command::new(python);
        command.arg(in_tree("tests/clients/mcp_server.py")).arg(path).env("PYTHONDONTWRITEBYTECODE", "1");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, port: line.trim().parse().expect("the port that it is at") }
    }
}

impl Drop for McpServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
