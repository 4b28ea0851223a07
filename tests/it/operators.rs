//! What operators revoke, over the admin listener and by commands, against the real program.

use std::{
    io::{Read as _, Write as _},
    process::Output,
    time::Instant,
};

use serde_json::{Value, json};

use crate::support::{PATIENCE, Sidegate, Upstream, begin_to_read, client::request, config_with_issuer};

const ROUTE: &str = "routes: [{ name: all, match: { path_prefix: / }, upstream: app }]\n";
const TOKEN: &str = "Bearer 0123456789abcdef0123456789abcdef";

fn gate() -> Sidegate {
    gate_of(&Upstream::start())
}

fn gate_of(upstream: &Upstream) -> Sidegate {
    let admin = "admin: { address: 127.0.0.1:0, token: 0123456789abcdef0123456789abcdef }";
    let config = config_with_issuer(upstream.address(), ROUTE).replace("admin: { address: 127.0.0.1:0 }", admin);
    Sidegate::start(&config)
}

/// The access token and the refresh token of a login of alice.
fn log_in(gate: &Sidegate) -> (String, String) {
    let form = "grant_type=password&username=alice&password=wonderland";
    let answer = gate.post_form("/oauth/token", &[("Authorization", "Basic YXBwOnNlY3JldA==")], form);
    (answer.member("access_token"), answer.member("refresh_token"))
}

fn ask(gate: &Sidegate, method: &str, path: &str, token: &str, body: &Value) -> (u16, Value) {
    let headers = [("Authorization", token), ("Content-Type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = request(gate.admin_address(), method, path, &headers, body.as_bytes());
    (answer.status, serde_json::from_str(&answer.text()).unwrap())
}

fn revoke(gate: &Sidegate, body: &Value) -> (u16, Value) {
    ask(gate, "POST", "/admin/revocations", TOKEN, body)
}

#[test]
fn the_admin_api_revokes_lists_and_lifts() {
    let gate = gate();
    let (access, refresh) = log_in(&gate);
    assert_eq!(gate.get_with("/", &access).status, 200);
    let (status, entry) = revoke(&gate, &json!({"kind": "subject", "id": "alice", "reason": "laptop stolen"}));
    assert_eq!(status, 201, "{entry}");
    let number = entry["number"].as_u64().unwrap();
    assert_eq!((&entry["kind"], &entry["id"], &entry["lifts"]), (&json!("subject"), &json!("alice"), &json!(false)));
    assert!(entry["until"].as_f64().unwrap() > entry["at"].as_f64().unwrap() + 60.0, "{entry}");
    assert_eq!(gate.get_with("/", &access).status, 401);
    let form = format!("grant_type=refresh_token&refresh_token={refresh}");
    let refused = gate.post_form("/oauth/token", &[("Authorization", "Basic YXBwOnNlY3JldA==")], &form);
    assert_eq!((refused.status, refused.member("error")), (400, "invalid_grant".into()));
    let (later, _) = log_in(&gate);
    assert_eq!(gate.get_with("/", &later).status, 200);

    for n in 0..5 {
        assert_eq!(revoke(&gate, &json!({"kind": "token", "id": format!("jti-{n}")})).0, 201);
    }
    let page = |query: &str| ask(&gate, "GET", &format!("/admin/revocations{query}"), TOKEN, &Value::Null);
    let (status, all) = page("");
    let all = (status, all["revocations"].as_array().unwrap().clone(), all["next"].clone());
    assert_eq!((all.0, all.1.len(), &all.2), (200, 6, &Value::Null));
    assert_eq!(all.1[0], entry);
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let (_, page) = page(&format!("?after={after}&limit=2"));
        seen.extend(page["revocations"].as_array().unwrap().clone());
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(seen, all.1);

    let path = format!("/admin/revocations/{number}?reason=found");
    let (status, lifted) = ask(&gate, "DELETE", &path, TOKEN, &Value::Null);
    assert_eq!((status, &lifted["lifts"], &lifted["reason"]), (200, &json!(true), &json!("found")));
    assert_eq!(gate.get_with("/", &access).status, 200);
    assert_eq!(ask(&gate, "DELETE", &path, TOKEN, &Value::Null).0, 404);
    let log = gate.logged_until(|log| log.contains("lifted"));
    assert!(log.contains("laptop stolen") && log.contains("admin_api"), "{log}");
    assert!(!log.contains("0123456789abcdef0123456789abcdef"));
}

#[test]
fn nobody_without_the_admin_token_sees_or_changes_anything() {
    let gate = gate();
    for token in ["", "Bearer", "Bearer ", "Bearer 0123456789abcdef0123456789abcdeX", "Basic MDEy", &TOKEN[..30]] {
        for (method, path) in [("GET", ""), ("POST", ""), ("DELETE", "/1"), ("PUT", ""), ("GET", "/nothing")] {
            let (status, said) = ask(&gate, method, &format!("/admin/revocations{path}"), token, &Value::Null);
            assert_eq!((status, &said["error"]), (401, &json!("invalid_token")), "{method} {path} {token}");
        }
    }
    // With none in the configuration there is none that is right.
    let closed = Sidegate::start(&config_with_issuer(Upstream::start().address(), ROUTE));
    let (status, said) = ask(&closed, "GET", "/admin/revocations", "Bearer ", &Value::Null);
    assert_eq!(status, 403);
    assert!(said["error_description"].as_str().unwrap().contains("admin.token"), "{said}");
}

#[test]
fn what_the_admin_api_cannot_do_it_says() {
    let gate = gate();
    let (access, _) = log_in(&gate);
    for (body, status, why) in [
        (json!({"kind": "user", "id": "alice"}), 400, "`kind` must be one of"),
        (json!({"kind": "subject"}), 400, "needs its `id`"),
        (json!({"kind": "subject", "id": "a", "surprise": 1}), 400, "unknown field `surprise`"),
        (json!({"kind": "session", "id": "nobody"}), 404, "no such session"),
        (json!({"kind": "key", "id": "nobody"}), 409, "keys list"),
        (json!({"kind": "subject", "id": "a", "issuer": "https://nobody.example"}), 400, "no provider has the issuer"),
        (json!({"kind": "subject", "id": "x".repeat(20_000)}), 400, "larger than"),
    ] {
        let (got, said) = revoke(&gate, &body);
        assert_eq!(got, status, "{said}");
        assert!(said["error_description"].as_str().unwrap().contains(why), "{said}");
    }
    for query in ["?limit=0", "?limit=1001", "?after=x"] {
        assert_eq!(ask(&gate, "GET", &format!("/admin/revocations{query}"), TOKEN, &Value::Null).0, 400, "{query}");
    }
    assert_eq!(ask(&gate, "PUT", "/admin/revocations", TOKEN, &Value::Null).0, 405);
    assert_eq!(ask(&gate, "GET", "/admin/revocations/1", TOKEN, &Value::Null).0, 405);
    assert_eq!(ask(&gate, "DELETE", "/admin/revocations/x", TOKEN, &Value::Null).0, 404);
    assert_eq!(gate.get_with("/", &access).status, 200);
}

/// Runs a command beside a Sidegate that runs: its code, what it printed, what it complained of.
fn command(gate: &Sidegate, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sidegate"));
    let Output { status, stdout, stderr } = command.current_dir(gate.dir()).args(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn commands_revoke_list_and_lift() {
    let gate = gate();
    let (access, _) = log_in(&gate);
    let (code, said, _) = command(&gate, &["revocations", "list"]);
    assert_eq!((code, &*said), (Some(0), "nothing is revoked\n"));
    let (code, said, _) = command(&gate, &["revoke", "--subject", "alice", "--reason", "laptop stolen"]);
    assert_eq!(code, Some(0));
    assert!(said.starts_with("1  revoked subject alice of http://localhost:3000 for "), "{said}");
    assert!(said.ends_with(" s: laptop stolen\n"), "{said}");
    assert_eq!(gate.get_with("/", &access).status, 401);
    assert_eq!(command(&gate, &["revoke", "--everything", "--reason", "who knows"]).0, Some(0));
    let (_, listed, _) = command(&gate, &["revocations", "list"]);
    assert_eq!((listed.lines().count(), listed.lines().next()), (2, said.lines().next()));
    let (code, _, complained) = command(&gate, &["revocations", "lift", "7", "--reason", "no"]);
    assert!(code == Some(1) && complained.contains("no live entry has the number 7"), "{complained}");
    for number in ["1", "2"] {
        assert_eq!(command(&gate, &["revocations", "lift", number, "--reason", "found"]).0, Some(0));
    }
    assert_eq!(gate.get_with("/", &access).status, 200);
    let (code, _, complained) = command(&gate, &["revoke", "--reason", "nothing"]);
    assert!(code == Some(2) && complained.contains("--subject"), "{complained}");
    let (code, _, complained) = command(&gate, &["revoke", "--session", "nobody", "--reason", "no"]);
    assert!(code == Some(1) && complained.contains("no such session"), "{complained}");
}

#[test]
fn an_answer_that_goes_on_ends_when_an_epoch_reaches_its_token() {
    let upstream = Upstream::with(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").unwrap();
        // It goes on until somebody has had enough.
        let _ = stream.read(&mut [0]);
        false
    });
    let gate = gate_of(&upstream);
    for body in [
        json!({"kind": "subject", "id": "alice"}),
        json!({"kind": "client", "id": "app"}),
        json!({"kind": "everything"}),
        json!({"kind": "key"}),
    ] {
        let (access, _) = log_in(&gate);
        let mut body = body;
        if body["kind"] == "key" {
            let (_, said, _) = command(&gate, &["keys", "list"]);
            let active = said.lines().find(|line| line.contains(" active ")).unwrap();
            body["id"] = active.split_whitespace().next().unwrap().into();
        }
        let mut stream = begin_to_read(gate.address(), &access, b"hello\r\n");
        let (status, said) = revoke(&gate, &body);
        assert_eq!(status, 201, "{said}");
        let told = Instant::now();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(!rest.ends_with(b"0\r\n\r\n"), "it did not end well");
        assert!(told.elapsed() < PATIENCE, "it ended because of {body}");
    }
}

#[test]
fn sessions_are_listed_shown_with_their_history_and_ended() {
    let gate = gate();
    let agent = "curl/8.1 \u{1b}[31m".replace('\u{1b}', "\t");
    let form = "grant_type=password&username=alice&password=wonderland";
    let headers = [("Authorization", "Basic YXBwOnNlY3JldA=="), ("User-Agent", &*agent)];
    let answer = gate.post_form("/oauth/token", &headers, form);
    let (access, refresh) = (answer.member("access_token"), answer.member("refresh_token"));
    let refreshing = format!("grant_type=refresh_token&refresh_token={refresh}");
    let refreshed = gate.post_form("/oauth/token", &[("Authorization", "Basic YXBwOnNlY3JldA==")], &refreshing);
    assert_eq!(refreshed.status, 200);
    log_in(&gate);
    let get = |query: &str| ask(&gate, "GET", &format!("/admin/sessions{query}"), TOKEN, &Value::Null);

    let (status, page) = get("?limit=1");
    assert_eq!((status, page["sessions"].as_array().unwrap().len()), (200, 1), "{page}");
    let sid = page["next"].as_str().unwrap().to_owned();
    let (_, rest) = get(&format!("?after={sid}"));
    assert_eq!((rest["sessions"].as_array().unwrap().len(), &rest["next"]), (1, &Value::Null), "{rest}");
    for (query, found) in [("?subject=alice", 2), ("?subject=bob", 0), ("?client=app", 2), ("?client=spa", 0)] {
        assert_eq!(get(query).1["sessions"].as_array().unwrap().len(), found, "{query}");
    }
    for query in ["?limit=0", "?limit=1001", "?after=x", "?subject=a&client=b"] {
        assert_eq!(get(query).0, 400, "{query}");
    }

    let (status, session) = get(&format!("/{sid}"));
    assert_eq!(status, 200, "{session}");
    let words = ["state", "sub", "client_id", "scope"].map(|name| session[name].as_str().unwrap().to_owned());
    assert_eq!(words, ["live", "alice", "app", "read write"]);
    assert_eq!((&session["rotations"], &session["revoked"]), (&json!(1), &Value::Null));
    let history = session["history"].as_array().unwrap();
    assert_eq!(history.len(), 2, "{session}");
    assert_eq!(history[0]["address"], "127.0.0.1");
    // Nothing in it plays with a terminal.
    assert_eq!(history[0]["user_agent"], "curl/8.1 ?[31m");
    assert_eq!((&history[1]["refreshes"], &history[1]["user_agent"]), (&json!(1), &json!("")));
    assert!(!session.to_string().contains(&refresh[..20]), "nothing that can be presented: {session}");

    let (code, listed, _) = command(&gate, &["sessions", "list", "--subject", "alice"]);
    assert_eq!((code, listed.lines().count()), (Some(0), 2), "{listed}");
    assert!(listed.starts_with(&format!("{sid}  live ")), "{listed}");
    assert_eq!(command(&gate, &["sessions", "list", "--client", "spa"]).1, "there are no sessions\n");
    let (code, shown, _) = command(&gate, &["sessions", "show", &sid]);
    assert!(code == Some(0) && shown.contains("curl/8.1 ?[31m") && shown.contains("rotations  1"), "{shown}");
    let (code, counted, _) = command(&gate, &["store", "stats"]);
    assert!(code == Some(0) && counted.starts_with("sessions     2\n"), "{counted}");

    let (status, said) = ask(&gate, "DELETE", &format!("/admin/sessions/{sid}?reason=lost"), TOKEN, &Value::Null);
    assert_eq!((status, &said["kind"], &said["reason"]), (200, &json!("session"), &json!("lost")), "{said}");
    assert_eq!(gate.get_with("/", &access).status, 401);
    let (_, session) = get(&format!("/{sid}"));
    assert!(session["state"] == "revoked" && session["revoked"].is_number(), "{session}");

    for (method, path, status) in [("GET", "/x", 404), ("DELETE", "/x", 404), ("POST", "", 405), ("PUT", "/x", 405)] {
        assert_eq!(ask(&gate, method, &format!("/admin/sessions{path}"), TOKEN, &Value::Null).0, status, "{path}");
    }
    for token in ["Bearer x", ""] {
        assert_eq!(ask(&gate, "GET", "/admin/sessions", token, &Value::Null).0, 401);
    }
    let (code, _, complained) = command(&gate, &["sessions", "show", "nobody"]);
    assert!(code == Some(1) && complained.contains("no such session"), "{complained}");
}

#[test]
fn a_process_without_the_issuer_says_that_it_has_no_sessions() {
    let admin = "admin: { address: 127.0.0.1:0, token: 0123456789abcdef0123456789abcdef }";
    let upstream = Upstream::start();
    let keys = "providers: [{ name: other, issuer: https://idp.example, audiences: [api], algorithms: [HS256], \
                hmac_secret: 0123456789abcdef0123456789abcdef }]\n";
    let config = crate::support::config(upstream.address(), &format!("{keys}{ROUTE}"));
    let gate = Sidegate::start(&config.replace("admin: { address: 127.0.0.1:0 }", admin));
    let (status, said) = ask(&gate, "GET", "/admin/sessions", TOKEN, &Value::Null);
    assert_eq!((status, &said["error"]), (409, &json!("no_sessions")));
}

#[test]
fn the_store_is_backed_up_while_it_serves_and_while_it_rests_and_restored() {
    let gate = gate();
    let (_, refresh) = log_in(&gate);
    let (code, said, complained) = command(&gate, &["store", "backup", "one"]);
    assert_eq!(code, Some(0), "{complained}");
    let file = gate.dir().join("one");
    let bytes = std::fs::metadata(&file).unwrap().len();
    assert_eq!(said, format!("sessions     1\nbytes        {bytes}\nfile         {}\n", file.display()));
    gate.logged_until(|log| log.contains("the store is backed up"));
    let (code, _, complained) = command(&gate, &["store", "backup", "one"]);
    assert!(code == Some(1) && complained.contains("is there already; name a file that is not"), "{complained}");
    let (code, _, complained) = command(&gate, &["store", "restore", "one"]);
    let pid = format!("is in use by sidegate with pid {}; stop it first", gate.pid());
    assert!(code == Some(1) && complained.contains(&pid), "{complained}");
    log_in(&gate);

    // Nobody runs now.
    let folder = gate.kill();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sidegate"));
        let Output { status, stdout, stderr } = command.current_dir(folder.path()).args(arguments).output().unwrap();
        (status.code(), [stdout, stderr].map(|text| String::from_utf8(text).unwrap()).concat())
    };
    let (code, said) = run(&["store", "backup", "two"]);
    assert!(code == Some(0) && said.starts_with("sessions     2\n"), "{said}");
    let (code, said) = run(&["store", "restore", "one"]);
    assert!(code == Some(1) && said.contains("there is a store already; move it away first: mv "), "{said}");
    let store = folder.path().join("data/store.redb");
    std::fs::rename(&store, folder.path().join("moved")).unwrap();
    let (code, said) = run(&["store", "backup", "three"]);
    assert!(code == Some(1) && said.contains("there is no store in "), "{said}");
    assert!(!store.exists());
    let (code, said) = run(&["store", "restore", "one"]);
    assert!(code == Some(0) && said.starts_with("sessions     1\n"), "{said}");

    let config = std::fs::read_to_string(folder.path().join("config.yaml")).unwrap();
    let gate = Sidegate::start_in(folder, &config);
    gate.logged_until(|log| log.contains("the session store is a backup, made "));
    assert!(command(&gate, &["store", "stats"]).1.starts_with("sessions     1\n"));
    let form = format!("grant_type=refresh_token&refresh_token={refresh}");
    assert_eq!(gate.post_form("/oauth/token", &[("Authorization", "Basic YXBwOnNlY3JldA==")], &form).status, 200);
}
