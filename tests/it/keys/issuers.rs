//! Issuers of others, unmodified: their tokens pass, their keys rotate while requests come in, and they come and go.

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines, Write as _},
    net::TcpListener,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use super::{ROUTE, fetches, gate, get_with};
use crate::support::{
    Answer, Sidegate,
    client::{request, try_request},
    tool, wait_for,
};

const NANOIDP: &str = r#"
config_version: 1
oauth:
  issuer: "@issuer@"
  audience: "api"
  clients: [{ client_id: "app", client_secret: "secret", description: "a client" }]
"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    OidcProvider,
    Oauth2MockServer,
    NanoIdp,
}

/// One that runs.
struct Issuer {
    kind: Kind,
    child: Child,
    /// What it is told, and what it says to that.
    talk: (ChildStdin, Lines<BufReader<ChildStdout>>),
    port: u16,
    /// Its folder.
    _folder: tempfile::TempDir,
}

impl Kind {
    const ALL: [Self; 3] = [Self::OidcProvider, Self::Oauth2MockServer, Self::NanoIdp];

    /// Starts one on a port that was free a moment ago, or on the one that is named; `None` where its program is absent.
    fn start(self, port: Option<u16>) -> Option<Issuer> {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let port = port.unwrap_or_else(free);
        let folder = tempfile::tempdir().unwrap();
        let program = match self {
            Self::OidcProvider | Self::Oauth2MockServer => tool("node")?,
            Self::NanoIdp => tool("nanoidp")?,
        };
        let mut command = Command::new(program);
        match self {
            Self::OidcProvider => command.args([&*script(), "oidc-provider", &port.to_string()]),
            Self::Oauth2MockServer => command.args([&*script(), "oauth2-mock-server", &port.to_string()]),
            Self::NanoIdp => {
                let settings = NANOIDP.replace("@issuer@", &format!("http://127.0.0.1:{port}"));
                fs::write(folder.path().join("settings.yaml"), settings).unwrap();
                fs::write(folder.path().join("users.yaml"), "config_version: 1\nusers: {}\n").unwrap();
                command.arg("--port").arg(port.to_string()).arg("--config").arg(folder.path())
            }
        };
        command.current_dir(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let talk = (stdin, BufReader::new(stdout).lines());
        let issuer = Issuer { kind: self, child, talk, port, _folder: folder };
        wait_for("an issuer", || issuer.try_token().filter(|answer| answer.status == 200));
        Some(issuer)
    }
}

impl Issuer {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn try_token(&self) -> Option<Answer> {
        let headers =
            [("Authorization", "Basic YXBwOnNlY3JldA=="), ("Content-Type", "application/x-www-form-urlencoded")];
        let form: &[u8] = match self.kind {
            Kind::OidcProvider | Kind::Oauth2MockServer => b"grant_type=client_credentials&scope=read",
            Kind::NanoIdp => b"grant_type=client_credentials",
        };
        try_request(([127, 0, 0, 1], self.port).into(), "POST", "/token", &headers, form).ok()
    }

    /// A token from its token endpoint.
    fn token(&self) -> String {
        self.try_token().unwrap().member("access_token")
    }

    /// Signs with another key from now on, which is published since now, too.
    fn rotate(&mut self) {
        match self.kind {
            Kind::OidcProvider | Kind::Oauth2MockServer => {
                let (stdin, stdout) = &mut self.talk;
                stdin.write_all(b"rotate\n").unwrap();
                assert!(stdout.any(|line| line.unwrap() == "rotate"));
            }
            Kind::NanoIdp => {
                let rotated = request(([127, 0, 0, 1], self.port).into(), "POST", "/api/keys/rotate", &[], b"");
                assert_eq!(rotated.status, 200, "{}", rotated.text());
            }
        }
    }

    fn gate(&self, fetch: &str) -> Sidegate {
        gate(&format!(
            "providers: [{{ name: idp, issuer: '{}', audiences: [api], discovery: true, jwks_fetch: {{ {fetch} }} }}]\n{ROUTE}",
            self.url()
        ))
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn script() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/node/issuers.mjs").display().to_string()
}

#[test]
fn their_tokens_pass_and_their_keys_rotate_under_load() {
    for kind in Kind::ALL {
        let Some(mut issuer) = kind.start(None) else { return };
        let gate = issuer.gate("min_refresh: 1h, cooldown: 1s");
        let (token, over, asked) = (Mutex::new(issuer.token()), AtomicBool::new(false), AtomicUsize::new(0));
        let address = gate.address();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let token = token.lock().unwrap().clone();
                        let answer = get_with(address, &token);
                        assert_eq!(answer.status, 200, "{kind:?}: {}", answer.text());
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let passed = |more| {
                let before = asked.load(Ordering::Relaxed);
                wait_for("requests", || (asked.load(Ordering::Relaxed) >= before + more).then_some(()));
            };
            passed(50);
            issuer.rotate();
            // Until one is signed with the new key, for one that signs with all of them in turn.
            for _ in 0..4 {
                *token.lock().unwrap() = issuer.token();
                passed(20);
            }
            over.store(true, Ordering::Relaxed);
        });
        assert_eq!(fetches(&gate, "ok"), 2.0, "{kind:?}: once at the start, and once for the new key");
    }
}

#[test]
fn they_come_and_go() {
    for kind in Kind::ALL {
        let Some(issuer) = kind.start(None) else { return };
        let gate = issuer.gate("min_refresh: 1s, max_refresh: 1s, cooldown: 1s");
        let (port, old) = (issuer.port, issuer.token());
        assert_eq!(gate.get_with("/", &old).status, 200, "{kind:?}");
        drop(issuer);
        wait_for("failures", || (fetches(&gate, "unreachable") >= 2.0).then_some(()));
        assert_eq!(gate.get_with("/", &old).status, 200, "{kind:?}");
        // Another one in its place has other keys.
        let Some(issuer) = kind.start(Some(port)) else { return };
        let new = issuer.token();
        wait_for("its keys", || (gate.get_with("/", &new).status == 200).then_some(()));
        assert_eq!(gate.get_with("/", &old).status, 401, "{kind:?}");
    }
}
