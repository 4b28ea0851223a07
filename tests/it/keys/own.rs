//! The internal issuer's own keys, told what to do by commands, and read by another Sidegate over HTTP.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::Output,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{gate, get_with};
use crate::support::{Sidegate, Upstream, client::request, config_with_issuer, wait_for};

const ROUTE: &str = "routes: [{ name: all, match: { path_prefix: / }, upstream: app }]\n";

fn issuing(keys: &str) -> Sidegate {
    let rest = format!("\x20 keys: {{ {keys} }}\n{ROUTE}");
    Sidegate::start(&config_with_issuer(Upstream::start().address(), &rest))
}

fn token_of(issuer: std::net::SocketAddr) -> String {
    let headers = [("Authorization", "Basic YXBwOnNlY3JldA=="), ("Content-Type", "application/x-www-form-urlencoded")];
    request(issuer, "POST", "/oauth/token", &headers, b"grant_type=client_credentials").member("access_token")
}

/// Runs `sidegate keys …` beside a Sidegate that runs; what it printed, and complained.
fn keys(gate: &Sidegate, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sidegate"));
    let Output { status, stdout, stderr } =
        command.current_dir(gate.dir()).arg("keys").args(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// The keys of a state, by their names.
fn in_state(gate: &Sidegate, state: &str) -> Vec<String> {
    let (code, listed, complained) = keys(gate, &["list"]);
    assert_eq!((code, &*complained), (Some(0), ""));
    let words = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.filter(|words| words[2] == state).map(|words| words[0].to_owned()).collect()
}

#[test]
fn commands_tell_the_process_that_runs() {
    let gate = issuing("rotate_every: never, publish_ahead: 1h");
    let socket = gate.dir().join("data/admin.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let first = in_state(&gate, "active");
    let before = token_of(gate.address());
    assert_eq!(gate.get_with("/", &before).status, 200);

    let (code, said, _) = keys(&gate, &["rotate"]);
    assert!(code == Some(0) && said.contains("signs in"), "{said}");
    let next = in_state(&gate, "next");
    assert_eq!((in_state(&gate, "active"), next.len()), (first.clone(), 1));
    let (code, _, complained) = keys(&gate, &["rotate"]);
    assert!(code == Some(1) && complained.contains("--now"), "{complained}");
    assert_eq!(keys(&gate, &["rotate", "--now"]).0, Some(0));
    assert_eq!((in_state(&gate, "active"), in_state(&gate, "retired")), (next.clone(), first.clone()));
    let after = token_of(gate.address());
    for token in [&before, &after] {
        assert_eq!(gate.get_with("/", token).status, 200);
    }

    // What it has signed is refused at the next request, remembered or not.
    assert_eq!(keys(&gate, &["revoke", &first[0]]).0, Some(0));
    assert_eq!(gate.get_with("/", &before).status, 401);
    assert_eq!(gate.get_with("/", &after).status, 200);
    assert_eq!(keys(&gate, &["revoke", &next[0]]).0, Some(0));
    assert_eq!(gate.get_with("/", &after).status, 401);
    assert_eq!(gate.get_with("/", &token_of(gate.address())).status, 200);
    assert_eq!((in_state(&gate, "revoked").len(), in_state(&gate, "active").len()), (2, 1));

    let (code, _, complained) = keys(&gate, &["revoke", "nobody"]);
    assert!(code == Some(1) && complained.contains("there is no key \"nobody\""), "{complained}");
    let (code, _, complained) = keys(&gate, &["revoke", "two words"]);
    assert!(code == Some(2) && complained.contains("no spaces"), "{complained}");
    let log = gate.logged();
    assert_eq!(log.matches("\"state\":\"revoked\"").count(), 2, "{log}");
}

#[test]
fn where_nothing_runs_that_is_said() {
    let gate = issuing("rotate_every: never");
    let dir = gate.kill();
    let mut keys = std::process::Command::new(env!("CARGO_BIN_EXE_sidegate"));
    let output = keys.current_dir(dir.path()).args(["keys", "list"]).output().unwrap();
    let complained = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(complained.contains("no Sidegate runs on") && complained.contains("admin.sock"), "{complained}");
    // What a crash has left of the socket is in nobody's way.
    let gate = Sidegate::start_in(dir, &config_with_issuer(Upstream::start().address(), ROUTE));
    assert_eq!(in_state(&gate, "active").len(), 1);
}

#[test]
fn storm_of_own_keys_that_rotate_refuses_no_good_token() {
    let storm = Duration::from_secs(if std::env::var_os("SIDEGATE_SOAK").is_some() { 120 } else { 12 });
    let issuer = issuing("rotate_every: 5s, publish_ahead: 3s");
    let elsewhere = gate(&format!(
        "providers: [{{ name: idp, issuer: http://localhost:3000, audiences: [api], profile: rfc9068, leeway: 0s, jwks_uri: '{}', jwks_fetch: {{ min_refresh: 1s, max_refresh: 1s, cooldown: 1s }} }}]\n{ROUTE}",
        issuer.url("/.well-known/jwks.json")
    ));
    let (here, there, passed) = (issuer.address(), elsewhere.address(), AtomicUsize::new(0));
    let end = Instant::now() + storm;
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut old = token_of(here);
                while Instant::now() < end {
                    let fresh = token_of(here);
                    for token in [&fresh, &old] {
                        for gate in [here, there] {
                            let answer = get_with(gate, token);
                            assert_eq!(answer.status, 200, "{}", answer.text());
                        }
                    }
                    passed.fetch_add(1, Ordering::Relaxed);
                    old = fresh;
                }
            });
        }
    });
    assert!(passed.into_inner() > 50);
    assert!(in_state(&issuer, "retired").len() >= usize::try_from(storm.as_secs()).unwrap() / 5 - 1);
    // What is revoked here is refused there when the keys have been fetched again.
    let active = in_state(&issuer, "active").remove(0);
    let token = token_of(here);
    assert_eq!(get_with(there, &token).status, 200);
    keys(&issuer, &["revoke", &active]);
    assert_eq!(get_with(here, &token).status, 401);
    wait_for("it to be refused elsewhere", || (get_with(there, &token).status == 401).then_some(()));
}
