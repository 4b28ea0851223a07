//! The pages in a real browser: Debian's Chromium, which playwright-core drives (tests/clients/node/browser).
//!
//! The program is the real one on a loopback address, with a clock that the scripts can put forward.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    clients::{all_right, brought, in_tree},
    support::{self, Sidegate, Upstream, own_clock, tokens::argon2id},
};

#[test]
fn users_log_in_consent_and_log_out_in_chromium() {
    let Some(tools) = Tools::find() else { return };
    all_right(&tools.run("flows.mjs", &[]).output().unwrap());
}

#[test]
fn the_pages_look_right_in_chromium_and_axe_finds_nothing() {
    let Some(tools) = Tools::find() else { return };
    // For whoever wants to see them.
    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pages");
    fs::create_dir_all(&shots).unwrap();
    all_right(&tools.run("looks.mjs", &[&shots]).output().unwrap());
}

/// The programs, and what they are about.
struct Tools {
    node: PathBuf,
    chromium: PathBuf,
    url: String,
    gate: Sidegate,
}

impl Tools {
    fn find() -> Option<Self> {
        let (node, chromium) = (support::tool("node")?, support::tool("chromium")?);
        for package in ["playwright-core", "axe-core"] {
            brought(&format!("tests/clients/node/node_modules/{package}"), package)?;
        }
        // The issuer's URL has to be known before the process runs, so the port is chosen here.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("http://localhost:{port}");
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("logo.svg"), LOGO).unwrap();
        let clock = own_clock(dir.path()).map(|(name, path)| format!("{name}={}", path.display()));
        let starter = ["env", &*clock[0], &*clock[1]];
        let gate = Sidegate::start_within(dir, &config(port, &url, &Upstream::start()), &starter);
        Some(Self { node, chromium, url, gate })
    }

    fn run(&self, script: &str, more: &[&Path]) -> Command {
        let mut run = Command::new(&self.node);
        run.arg(in_tree("tests/clients/node/browser").join(script)).arg(&self.url);
        run.arg(self.gate.dir().join("clock")).args(more).env("CHROMIUM", &self.chromium);
        run
    }
}

const LOGO: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 40"><circle cx="20" cy="20" r="20" fill="#0b57d0"/>
<path d="M12 10h4v20h-4zM24 10h4v20h-4z" fill="#fff"/></svg>"##;

fn config(port: u16, url: &str, upstream: &Upstream) -> String {
    let (alice, bob) = (argon2id("wonderland"), argon2id("builder"));
    let uris = "redirect_uris: ['http://127.0.0.1/cb'], post_logout_redirect_uris: ['http://127.0.0.1/out']";
    let long = "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetzverwaltung";
    format!(
        "workers: 1\n\
         listeners: [{{ name: public, address: '127.0.0.1:{port}', issuer: true }}]\n\
         admin: {{ address: 127.0.0.1:0 }}\n\
         upstreams: [{{ name: app, urls: [http://{}] }}]\n\
         providers: [{{ name: local, issuer: '{url}', audiences: [api], jwks: issuer }}]\n\
         routes: [{{ name: all, match: {{ path_prefix: / }}, upstream: app }}]\n\
         issuer:\n\
         \x20 url: {url}\n\
         \x20 access_token: {{ lifetime: 5m, algorithm: ES256, audience: api }}\n\
         \x20 login: {{ name: Example Works, logo_file: logo.svg }}\n\
         \x20 clients:\n\
         \x20   - {{ id: shop, name: Corner Shop, grants: [authorization_code, refresh_token], scopes: [openid, profile, read], {uris} }}\n\
         \x20   - {{ id: long, name: {long}, grants: [authorization_code], scopes: [read], {uris} }}\n\
         \x20 users:\n\
         \x20   - {{ username: alice, password_hash: '{alice}' }}\n\
         \x20   - {{ username: bob, password_hash: '{bob}' }}\n",
        upstream.address(),
    )
}
