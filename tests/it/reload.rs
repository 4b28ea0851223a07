//! Another configuration is taken up while the process runs, or refused as a whole.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use serde_json::{Value, json};

use crate::support::{
    Answer, Sidegate, Upstream, begin_to_read,
    client::{request, try_request},
    config_with_issuer,
    tokens::{TestKey, provider},
    wait_for, write_config,
};

const ADMIN: &str = "0123456789abcdef0123456789abcdef";
const OPEN: &str = "routes: [{ name: all, match: { path_prefix: / }, auth: none, upstream: app }]\n";
const GUARDED: &str = "routes: [{ name: all, match: { path_prefix: / }, upstream: app }]\n";
const APP: (&str, &str) = ("Authorization", "Basic YXBwOnNlY3JldA==");

fn configuration(upstream: &Upstream, routes: &str) -> String {
    let admin = format!("admin: {{ address: 127.0.0.1:0, token: {ADMIN} }}");
    config_with_issuer(upstream.address(), routes).replace("admin: { address: 127.0.0.1:0 }", &admin)
}

fn admin(gate: &Sidegate, method: &str, path: &str) -> Answer {
    let bearer = format!("Bearer {ADMIN}");
    request(gate.admin_address(), method, path, &[("Authorization", &bearer)], b"")
}

/// Puts a configuration there, and has it taken up.
fn reload(gate: &Sidegate, yaml: &str) {
    write_config(gate.dir(), yaml);
    let answer = admin(gate, "POST", "/admin/reload");
    assert_eq!((answer.status, answer.json()), (200, json!({ "taken_up": true })), "{answer:?}");
}

/// Puts one there that is refused; what is said of it.
fn refused(gate: &Sidegate, yaml: &str) -> String {
    write_config(gate.dir(), yaml);
    let answer = admin(gate, "POST", "/admin/reload");
    assert_eq!((answer.status, answer.member("error")), (422, "refused".into()), "{answer:?}");
    answer.member("error_description")
}

fn log_in(gate: &Sidegate, client: &str) -> Answer {
    let form = format!("grant_type=password&username=alice&password=wonderland&client_id={client}");
    gate.post_form("/oauth/token", &[], &form)
}

fn refresh(gate: &Sidegate, client: &str, token: &str) -> Answer {
    gate.post_form("/oauth/token", &[], &format!("grant_type=refresh_token&client_id={client}&refresh_token={token}"))
}

#[test]
fn a_file_that_changes_a_hang_up_and_an_operator_each_have_it_taken_up() {
    let upstream = Upstream::start();
    let gate = Sidegate::start(&configuration(&upstream, GUARDED));
    assert_eq!(gate.get("/", &[]).status, 401);
    write_config(gate.dir(), &configuration(&upstream, OPEN));
    wait_for("the file to be seen", || (gate.get("/", &[]).status == 200).then_some(()));

    reload(&gate, &configuration(&upstream, GUARDED));
    assert_eq!(gate.get("/", &[]).status, 401, "at once, when an operator waits for it");

    // What a variable of the environment says is looked at as well; nothing in the folder need have changed.
    gate.signal("HUP");
    wait_for("the signal", || (gate.metric("sidegate_config_reloads_total{result=\"ok\"}") >= 3.0).then_some(()));
    assert_eq!(gate.metric("sidegate_config_last_reload_successful"), 1.0);
    assert!(gate.metric("sidegate_config_loaded_timestamp_seconds") > 1e9);
    assert!(gate.logged().contains("took up the configuration"));
}

#[test]
fn a_symlink_that_is_turned_to_another_folder_is_seen() {
    let upstream = Upstream::start();
    let dir = tempfile::tempdir().unwrap();
    // As the kubelet lays out a ConfigMap: config.yaml -> ..data/config.yaml, ..data -> a folder with a time for a name.
    for (name, routes) in [("..1", GUARDED), ("..2", OPEN)] {
        fs::create_dir(dir.path().join(name)).unwrap();
        write_config(&dir.path().join(name), &configuration(&upstream, routes));
    }
    symlink("..1", dir.path().join("..data")).unwrap();
    let turned = tempfile::tempdir().unwrap();
    let outer = turned.path().join("config.yaml");
    symlink(dir.path().join("..data/config.yaml"), &outer).unwrap();
    let starter = format!("exec \"$0\" run --config {}", outer.display());
    let gate =
        Sidegate::start_within(tempfile::tempdir().unwrap(), &configuration(&upstream, OPEN), &["sh", "-c", &starter]);
    assert_eq!(gate.get("/", &[]).status, 401, "it reads the file behind the links");
    symlink("..2", dir.path().join("..next")).unwrap();
    fs::rename(dir.path().join("..next"), dir.path().join("..data")).unwrap();
    wait_for("the link to be seen", || (gate.get("/", &[]).status == 200).then_some(()));
}

#[test]
fn routes_upstreams_and_whose_tokens_are_taken_change() {
    let (first, second) = (Upstream::start(), Upstream::start());
    let (old, new) = (TestKey::new("ES256", "old"), TestKey::new("ES256", "new"));
    let yaml = |upstream: &Upstream, key: &TestKey, path: &str| {
        format!(
            "listeners: [{{ name: public, address: 127.0.0.1:0 }}]\n\
             admin: {{ address: 127.0.0.1:0, token: {ADMIN} }}\n\
             upstreams: [{{ name: app, urls: [http://{}] }}]\n\
             {}routes: [{{ name: all, match: {{ path: {path} }}, upstream: app }}]\n",
            upstream.address(),
            provider(&[key], "leeway: 0s")
        )
    };
    let gate = Sidegate::start(&yaml(&first, &old, "/a"));
    assert_eq!(gate.get_with("/a", &old.good()).status, 200);
    assert_eq!(gate.get_with("/a", &new.good()).status, 401);
    assert_eq!((first.take().len(), second.take().len()), (1, 0));

    reload(&gate, &yaml(&second, &new, "/b"));
    assert_eq!(gate.get_with("/a", &new.good()).status, 404);
    assert_eq!(gate.get_with("/b", &new.good()).status, 200);
    assert_eq!(gate.get_with("/b", &old.good()).status, 401, "a token that was remembered is not");
    assert_eq!((first.take().len(), second.take().len()), (0, 1));
}

#[test]
fn clients_users_and_lifetimes_change_and_what_goes_takes_its_sessions_along() {
    let upstream = Upstream::start();
    let yaml = configuration(&upstream, GUARDED);
    let gate = Sidegate::start(&yaml);
    let kept = log_in(&gate, "spa");
    let (access, token) = (kept.member("access_token"), kept.member("refresh_token"));
    assert_eq!(log_in(&gate, "other").status, 401);

    let more = yaml.replace(
        "    - { id: spa,",
        "    - { id: other, grants: [refresh_token], legacy_password_grant: true, scopes: [read], access_token_lifetime: 7m }\n    - { id: spa,",
    );
    reload(&gate, &more);
    let other = log_in(&gate, "other");
    assert_eq!((other.status, other.json()["expires_in"].clone()), (200, json!(420)));
    // Sessions, keys and what is revoked stay as they are.
    let next = refresh(&gate, "spa", &token);
    assert_eq!((next.status, gate.get_with("/", &access).status), (200, 200));

    reload(&gate, &more.replace("id: other, ", "id: other, disabled: true, "));
    assert_eq!(log_in(&gate, "other").status, 401);
    wait_for("its sessions to end", || (gate.get_with("/", &other.member("access_token")).status == 401).then_some(()));

    let nobody = more.replace("users: [{ username: alice,", "users: [{ username: bob,");
    reload(&gate, &nobody);
    assert_eq!(log_in(&gate, "spa").status, 400);
    wait_for("her sessions to end", || (gate.get_with("/", &access).status == 401).then_some(()));
    assert_eq!(refresh(&gate, "spa", &next.member("refresh_token")).status, 400);
}

/// An address that nobody else takes meanwhile: the other tests have 127.0.0.1.
fn free() -> SocketAddr {
    TcpListener::bind("127.9.8.7:0").unwrap().local_addr().unwrap()
}

#[test]
fn listeners_come_and_go() {
    let upstream = Upstream::start();
    let yaml = configuration(&upstream, OPEN);
    let gate = Sidegate::start(&yaml);
    let (public, second) = (gate.address(), free());
    let ask = |to: SocketAddr, path: &str| try_request(to, "GET", path, &[], b"").map(|answer| answer.status).ok();
    let two = |issuer: bool| {
        let more = format!("listeners: [{{ name: second, address: '{second}', issuer: {issuer} }}, {{ name: public,");
        yaml.replace("listeners: [{ name: public,", &more)
    };
    reload(&gate, &two(false));
    assert_eq!((ask(second, "/"), ask(public, "/")), (Some(200), Some(200)));
    assert_eq!(ask(second, "/.well-known/jwks.json"), Some(200), "the upstream's, since there is no issuer here");
    upstream.take();
    reload(&gate, &two(true));
    assert_eq!(ask(second, "/.well-known/jwks.json"), Some(200));
    assert_eq!(upstream.take().len(), 0, "the issuer's");
    reload(&gate, &yaml);
    wait_for("the second listener to close", || ask(second, "/").is_none().then_some(()));
    assert_eq!(ask(public, "/"), Some(200));

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().map(|at| (taken, at)).unwrap();
    let said = refused(&gate, &two(false).replace(&second.to_string(), &taken.1.to_string()));
    assert!(said.starts_with(&format!("{} is in use by ", taken.1)), "{said}");
    assert_eq!(ask(public, "/"), Some(200));
}

#[test]
fn what_is_wrong_is_refused_as_a_whole_and_said_in_its_place() {
    let free = |yaml: &str| {
        ["3000\"", "3001\"", "9900\""].iter().fold(yaml.to_owned(), |yaml, port| yaml.replacen(port, "0\"", 1))
    };
    let gate = Sidegate::start(&free(crate::config::BASE));
    // The faults that are tried are those of a file that everybody may read.
    fs::set_permissions(gate.dir().join("config.yaml"), fs::Permissions::from_mode(0o644)).unwrap();
    let listener = gate.listener("public");
    let serves = || try_request(listener, "GET", "/.well-known/jwks.json", &[], b"").unwrap().status;
    assert_eq!(serves(), 200);
    // `check` is tried with all of them. Not those about addresses, names of files and variables, which are others here.
    let elsewhere = |line: &&str| {
        !["2:", "3:", "4:"].iter().any(|at| line.starts_with(at))
            && !line.contains("127.0.0.1")
            && !line.contains("no such file")
    };
    let wrong = crate::config::WRONG.iter().filter(|(good, bad, said)| {
        !good.contains("127.0.0.1") && !bad.contains("${SIDEGATE_TEST") && said.iter().all(elsewhere)
    });
    let mut tried = 0;
    for (good, bad, expected) in wrong.step_by(2) {
        tried += 1;
        let yaml = free(&crate::config::BASE.replacen(good, bad, 1));
        fs::write(gate.dir().join("config.yaml"), &yaml).unwrap();
        gate.signal("HUP");
        // Each line of the log is an object.
        let in_json = |line: &&str| serde_json::to_string(line).unwrap().trim_matches('"').to_owned();
        let expected: Vec<_> = expected.iter().map(in_json).collect();
        let log = gate.logged_until(|log| expected.iter().all(|line| log.contains(line)));
        assert!(log.contains("the configuration from before serves on"), "{log}");
        assert_eq!(serves(), 200, "{bad}");
    }
    assert!(tried >= 50, "{tried}");
    assert_eq!(gate.metric("sidegate_config_last_reload_successful"), 0.0);
    assert!(gate.metric("sidegate_config_reloads_total{result=\"failed\"}") >= 50.0);
}

#[test]
fn what_holds_for_as_long_as_it_runs_is_named() {
    let upstream = Upstream::start();
    let yaml = configuration(&upstream, OPEN);
    let gate = Sidegate::start(&yaml);
    for (good, bad, path) in [
        ("workers: 1", "workers: 2", "1:1: workers"),
        ("admin: { address: 127.0.0.1:0", "admin: { address: 127.0.0.2:0", "3:10: admin.address"),
        ("http://localhost:3000", "http://localhost:3001", "7:3: issuer.url"),
        ("algorithm: ES256", "algorithm: RS256", "8:33: issuer.access_token.algorithm"),
        ("issuer:\n  url", "issuer:\n  store: { embedded: { path: elsewhere } }\n  url", "7:3: issuer.store"),
        ("issuer:\n  url", "issuer:\n  master_key: 0123456789abcdef0123456789abcdef\n  url", "7:3: issuer.master_key"),
    ] {
        assert!(yaml.contains(good), "{good}");
        let said = refused(&gate, &yaml.replace(good, bad));
        let file = gate.dir().join("config.yaml");
        let expected = format!("{}:{path}: cannot change while Sidegate runs; restart it to have that", file.display());
        assert_eq!(said, expected, "{bad}");
        assert_eq!(gate.get("/", &[]).status, 200);
    }
    reload(&gate, &yaml);
}

#[test]
fn an_operator_sees_what_serves_and_why_the_rest_does_not_and_no_secrets() {
    let upstream = Upstream::start();
    let yaml = configuration(&upstream, OPEN);
    let gate = Sidegate::start(&yaml);
    let shown = || admin(&gate, "GET", "/admin/config").json();
    let before = shown();
    assert_eq!(before["config"]["routes"][0]["name"], json!("all"));
    assert_eq!((&before["refused"], &before["taken_up"]), (&Value::Null, &json!(1)));
    let text = before.to_string();
    for secret in [ADMIN, "argon2id", "sha256:"] {
        assert!(!text.contains(secret), "{text}");
    }
    assert_eq!(before["config"]["issuer"]["clients"][0]["secret_hash"], json!("(hidden)"));

    let said = refused(&gate, &yaml.replace("routes:", "rotues:"));
    assert!(said.contains("did you mean \"routes\"?"), "{said}");
    let after = shown();
    assert_eq!((&after["config"], &after["taken_up"]), (&before["config"], &json!(1)));
    assert_eq!(after["refused"]["why"].as_array().unwrap().join_lines(), said);

    // Whoever shows no token learns nothing, and changes nothing.
    for (method, path) in [("GET", "/admin/config"), ("POST", "/admin/reload")] {
        assert_eq!(request(gate.admin_address(), method, path, &[], b"").status, 401);
    }
    // The token itself changes with the rest.
    let another = "fedcba9876543210fedcba9876543210";
    reload(&gate, &yaml.replace(ADMIN, another));
    assert_eq!(admin(&gate, "GET", "/admin/config").status, 401);
    let bearer = format!("Bearer {another}");
    let shown = request(gate.admin_address(), "GET", "/admin/config", &[("Authorization", &bearer)], b"").json();
    assert_eq!((&shown["refused"], &shown["taken_up"]), (&Value::Null, &json!(2)));
}

trait JoinLines {
    fn join_lines(&self) -> String;
}

impl JoinLines for Vec<Value> {
    fn join_lines(&self) -> String {
        self.iter().map(|line| line.as_str().unwrap()).collect::<Vec<_>>().join("\n")
    }
}

#[test]
fn a_stream_ends_with_its_token_though_its_configuration_has_gone() {
    let upstream = Upstream::with(|_, stream| {
        use std::io::Write as _;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n");
        // For as long as anybody listens.
        let _ = std::io::Read::read(stream, &mut [0; 1]);
        false
    });
    let yaml = configuration(&upstream, GUARDED);
    let gate = Sidegate::start(&yaml);
    let begin = || {
        let login = gate.post_form("/oauth/token", &[APP], "grant_type=password&username=alice&password=wonderland");
        let stream = begin_to_read(gate.address(), &login.member("access_token"), b"data: 1\n\n\r\n");
        (stream, login.member("refresh_token"))
    };
    let (mut stream, _) = begin();
    reload(&gate, &yaml.replace("lifetime: 5m", "lifetime: 6m"));
    reload(&gate, &yaml);
    // Until it has been looked at streams more than once since.
    for _ in 0..2 {
        let (mut later, token) = begin();
        assert_eq!(gate.post_form("/oauth/revoke", &[APP], &format!("token={token}")).status, 200);
        let _ = std::io::Read::read_to_end(&mut later, &mut Vec::new());
    }
    let body = json!({ "kind": "subject", "id": "alice", "reason": "test" }).to_string();
    let bearer = format!("Bearer {ADMIN}");
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    assert_eq!(request(gate.admin_address(), "POST", "/admin/revocations", &headers, body.as_bytes()).status, 201);
    let mut rest = Vec::new();
    // An end, or a reset: both say that it is over; the time that the stream waits for is the test's.
    let _ = std::io::Read::read_to_end(&mut stream, &mut rest);
    assert_eq!(gate.metric("sidegate_streams_ended_total{reason=\"token_revoked\"}"), 3.0);
}

#[test]
fn keys_that_are_fetched_stay_and_those_of_a_new_provider_come_first() {
    let (upstream, key) = (Upstream::start(), TestKey::new("ES256", "published"));
    let keys = json!({ "keys": [key.jwk()] }).to_string();
    let keys = Upstream::answering(move |_| {
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{keys}", keys.len())
            .into()
    });
    let yaml = configuration(&upstream, GUARDED);
    let gate = Sidegate::start(&yaml);
    let revoke = |issuer: &str| {
        let body =
            json!({ "kind": "subject", "id": "eve", "issuer": issuer, "reason": "test", "lasts": 60 }).to_string();
        let bearer = format!("Bearer {ADMIN}");
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        request(gate.admin_address(), "POST", "/admin/revocations", &headers, body.as_bytes()).status
    };
    assert_eq!((gate.get_with("/", &key.good()).status, revoke("https://idp.example")), (401, 400));
    let more = format!(
        "providers:\n  - {{ name: idp, issuer: https://idp.example, audiences: [api], leeway: 0s, jwks_uri: 'http://{}/' }}\n  - {{ name: local,",
        keys.address()
    );
    let more = yaml.replace("providers: [{ name: local,", &more).replace("jwks: issuer }]", "jwks: issuer }");
    let more = more.replace("upstream: app }]", "upstream: app, providers: [local] }]");
    reload(&gate, &more);
    assert_eq!((keys.take().len(), revoke("https://idp.example")), (1, 201), "what operators do goes by it too");
    reload(&gate, &more.replace("path_prefix: /", "path_prefix: /a"));
    assert_eq!(keys.take().len(), 0, "they are not asked for again");
    assert_eq!(gate.metric("sidegate_provider_keys{provider=\"idp\"}"), 1.0);
    // Whose keys do not come is not taken up.
    let nobody = more.replace(&keys.address().to_string(), &upstream.address().to_string());
    reload(&gate, &nobody.replace("jwks_uri: ", "jwks_fetch: { on_start: serve_others }, jwks_uri: "));
    assert_eq!(gate.get("/", &[]).status, 401);
}

#[test]
fn a_signing_key_that_is_replaced_is_no_other_configuration() {
    let upstream = Upstream::start();
    let yaml =
        configuration(&upstream, GUARDED).replace("issuer:\n  url", "issuer:\n  keys: { file: signing.pem }\n  url");
    let dir = tempfile::tempdir().unwrap();
    let put = |dir: &Path, name| {
        let file = dir.join("signing.pem");
        fs::write(&file, TestKey::new("ES256", name).private_pem()).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    };
    put(dir.path(), "one");
    let gate = Sidegate::start_in(dir, &yaml);
    let keys = || gate.get("/.well-known/jwks.json", &[]).json()["keys"].as_array().unwrap().len();
    assert_eq!(keys(), 1);
    put(gate.dir(), "two");
    wait_for("the next key", || (keys() == 2).then_some(()));
    reload(&gate, &yaml.replace("lifetime: 5m", "lifetime: 6m"));
    assert_eq!(gate.metric("sidegate_config_reloads_total{result=\"failed\"}"), 0.0);
}
