//! Several Sidegates with one store in Redis, against the real programs: any of them answers any request.

use std::time::Instant;

use serde_json::json;

use crate::support::{
    Sidegate, Upstream, config, config_with_issuer,
    redis::{Acl, Options, Redis},
    tokens::{TestKey, now},
    wait_for,
};

const ROUTE: &str = "routes: [{ name: all, match: { path_prefix: / }, upstream: app }]\n";
const FORM: &str = "grant_type=password&username=alice&password=wonderland";
const APP: (&str, &str) = ("Authorization", "Basic YXBwOnNlY3JldA==");

/// A configuration with a store in Redis, of which `redis` says more, and what `rest` has for the issuer.
fn shared(upstream: &Upstream, redis: &str, rest: &str) -> String {
    let issuer = format!("  store: {{ redis: {{ {redis} }} }}\n  master_key: 0123456789abcdef0123456789abcdef\n{rest}");
    config_with_issuer(upstream.address(), &format!("{issuer}{ROUTE}"))
}

fn at(redis: &Redis) -> String {
    format!("url: 'redis://{}'", redis.address())
}

fn log_in(gate: &Sidegate) -> (String, String) {
    let answer = gate.post_form("/oauth/token", &[APP], FORM);
    assert_eq!(answer.status, 200, "{answer:?}");
    (answer.member("access_token"), answer.member("refresh_token"))
}

/// Writes a file that may hold secrets.
fn private(path: &std::path::Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn run(gate: &Sidegate, args: &[&str]) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sidegate"));
    let output = command.args(args).arg("--config").arg(gate.dir().join("config.yaml")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_is_done_at_one_gate_holds_at_the_other() {
    let Some(redis) = Redis::start() else { return };
    let upstream = Upstream::start();
    let yaml = shared(&upstream, &at(&redis), "");
    let (one, two) = (Sidegate::start(&yaml), Sidegate::start(&yaml));
    let (access, refresh) = log_in(&one);
    assert_eq!(two.get_with("/", &access).status, 200, "with the keys that they share");
    assert_eq!(one.get("/.well-known/jwks.json", &[]).text(), two.get("/.well-known/jwks.json", &[]).text());
    let form = format!("grant_type=refresh_token&refresh_token={refresh}");
    let rotated = two.post_form("/oauth/token", &[APP], &form);
    assert_eq!(rotated.status, 200, "{rotated:?}");
    assert!(run(&one, &["sessions", "list", "--subject", "alice"]).contains("live"));

    // A revocation at one is in force at the other within a second.
    let revoked = two.post_form("/oauth/revoke", &[APP], &format!("token={}", rotated.member("refresh_token")));
    let since = Instant::now();
    assert_eq!(revoked.status, 200);
    wait_for("it to be refused", || (one.get_with("/", &access).status == 401).then_some(()));
    assert!(since.elapsed().as_secs() < 1);
    assert_eq!(one.post_form("/oauth/token", &[APP], &form).status, 400);
    assert!(run(&one, &["sessions", "list"]).contains("revoked"));

    let (access, _) = log_in(&one);
    run(&two, &["revoke", "--subject", "alice", "--reason", "laptop stolen"]);
    wait_for("it to be refused", || (one.get_with("/", &access).status == 401).then_some(()));
    assert!(run(&one, &["revocations", "list"]).contains("laptop stolen"));
    assert_eq!(one.get_with("/", &log_in(&two).0).status, 200, "who logs in after that is let in");
}

#[test]
fn an_assertion_of_a_client_is_good_at_one_gate_once() {
    let Some(mut redis) = Redis::start() else { return };
    let (upstream, key, thief) = (Upstream::start(), TestKey::new("ES256", "k1"), TestKey::new("ES256", "k1"));
    let signs = format!(
        "  clients:\n    - {{ id: signs, jwks: {}, grants: [client_credentials] }}\n",
        json!({ "keys": [key.jwk()] })
    );
    let yaml = shared(&upstream, &at(&redis), "").replace("  clients:\n", &signs);
    let (one, two) = (Sidegate::start(&yaml), Sidegate::start(&yaml));
    let made = |key: &TestKey, jti: &str| {
        let says =
            json!({ "iss": "signs", "sub": "signs", "aud": "http://localhost:3000", "exp": now() + 60, "jti": jti });
        let kind = "client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        let assertion = key.token(&json!({ "alg": "ES256", "kid": "k1" }), &says);
        format!("grant_type=client_credentials&{kind}&client_assertion={assertion}")
    };
    let ask = |gate: &Sidegate, form: &str| gate.post_form("/oauth/token", &[], form);
    let form = made(&key, "one");
    assert_eq!(ask(&one, &form).status, 200);
    assert_eq!(ask(&two, &form).status, 401);
    assert_eq!(ask(&one, &form).status, 401);
    assert_eq!(ask(&two, &made(&key, "two")).status, 200);
    // What is not the client's own does not get as far as the store; what is cannot be let in without it.
    redis.kill();
    assert_eq!(ask(&one, &made(&thief, "three")).status, 401);
    let answer = ask(&one, &made(&key, "three"));
    assert_eq!((answer.status, &*answer.member("error")), (503, "temporarily_unavailable"));
}

#[test]
fn gates_follow_each_others_signing_keys() {
    let Some(redis) = Redis::start() else { return };
    let upstream = Upstream::start();
    let yaml = shared(&upstream, &at(&redis), "");
    // Both at once, each of which would make a first key.
    let (one, two) = std::thread::scope(|scope| {
        let other = scope.spawn(|| Sidegate::start(&yaml));
        (Sidegate::start(&yaml), other.join().unwrap())
    });
    let keys = |gate: &Sidegate| gate.get("/.well-known/jwks.json", &[]).text();
    assert_eq!(keys(&one), keys(&two));
    let before = keys(&one);
    run(&one, &["keys", "rotate", "--now"]);
    assert_ne!(keys(&one), before);
    wait_for("the other to follow", || (keys(&two) == keys(&one)).then_some(()));
    assert_eq!(two.get_with("/", &log_in(&one).0).status, 200);
    assert_eq!(one.get_with("/", &log_in(&two).0).status, 200);
    // What one has revoked signs nowhere.
    let active = run(&two, &["keys", "list"]);
    let kid = active.lines().find(|line| line.contains(" active ")).unwrap().split(' ').next().unwrap();
    let (access, _) = log_in(&two);
    run(&one, &["keys", "revoke", kid]);
    wait_for("it to be refused", || (two.get_with("/", &access).status == 401).then_some(()));
    wait_for("another to sign", || (one.get_with("/", &log_in(&two).0).status == 200).then_some(()));
    // A third with another master key does not get in, and breaks nothing.
    let other = yaml.replace("0123456789abcdef0123456789abcdef", "00000000000000000000000000000000");
    let dir = tempfile::tempdir().unwrap();
    crate::support::write_config(dir.path(), &other);
    let output = crate::support::command(dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the signing keys in the session store does not go with the master key"), "{said}");
    assert_eq!(one.get_with("/", &log_in(&two).0).status, 200);
}

#[test]
fn a_key_that_was_revoked_does_not_come_back_by_a_failover() {
    let Some(redis) = Redis::start() else { return };
    let upstream = Upstream::start();
    let yaml = shared(&upstream, &at(&redis), "");
    let gates = [Sidegate::start(&yaml), Sidegate::start(&yaml)];
    let before = redis.cli(&["get", "sidegate:{log}:keys"]);
    let (access, _) = log_in(&gates[0]);
    let kid = run(&gates[0], &["keys", "list"]).split(' ').next().unwrap().to_owned();
    run(&gates[0], &["keys", "revoke", &kid]);
    let is_revoked = |gate: &Sidegate| {
        let list = run(gate, &["keys", "list"]);
        list.lines().any(|line| line.starts_with(&kid) && line.contains(" revoked ")).then_some(())
    };
    wait_for("both to know", || is_revoked(&gates[0]).and(is_revoked(&gates[1])));
    // What a replica had that did not know of it yet.
    let forgets = "redis.call('SET', 'sidegate:{log}:keys', ARGV[1]) \
                   redis.call('HINCRBY', 'sidegate:{log}:meta', 'keys', 1)";
    redis.cli(&["eval", forgets, "0", &before]);
    wait_for("it to be put back", || redis.cli(&["get", "sidegate:{log}:keys"]).contains("revoked").then_some(()));
    for gate in &gates {
        wait_for("it to be revoked", || is_revoked(gate));
        assert_eq!(gate.get_with("/", &access).status, 401);
        let (access, _) = log_in(gate);
        wait_for("the new key to be known", || {
            (gates.iter().all(|gate| gate.get_with("/", &access).status == 200)).then_some(())
        });
    }
}

#[test]
fn redis_over_tls_with_a_user_of_its_own_and_no_more_rights_than_documented() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/sessions.md")).unwrap();
    let rules = page.lines().find_map(|line| line.strip_prefix("ACL SETUSER sidegate on >password ")).unwrap();
    let acl = Acl { user: "sidegate", password: "hunter2", rules };
    let Some(redis) = Redis::start_with(Options { tls: true, acl: Some(acl), ..Options::default() }) else { return };
    let upstream = Upstream::start();
    let redis_yaml = |password: &str, ca: &str| {
        let port = redis.address().port();
        format!("url: 'rediss://localhost:{port}', user: sidegate, password: {password}, ca_file: '{ca}', timeout: 1s")
    };
    let ca = redis.ca_file().display().to_string();
    let gate = Sidegate::start(&shared(&upstream, &redis_yaml("hunter2", &ca), ""));
    let (access, refresh) = log_in(&gate);
    let form = format!("grant_type=refresh_token&refresh_token={refresh}");
    assert_eq!(gate.post_form("/oauth/token", &[APP], &form).status, 200);
    run(&gate, &["revoke", "--subject", "alice", "--reason", "a test"]);
    assert_eq!(gate.get_with("/", &access).status, 401);
    run(&gate, &["keys", "rotate", "--now"]);
    assert!(run(&gate, &["store", "stats"]).contains("sessions     1"));
    assert!(run(&gate, &["sessions", "list"]).contains("logged_out"));

    let refused = |yaml: &str| {
        let dir = tempfile::tempdir().unwrap();
        crate::support::write_config(dir.path(), yaml);
        let output = crate::support::command(dir.path()).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused(&shared(&upstream, &redis_yaml("secret-and-wrong", &ca), ""));
    assert!(said.contains("the session store in Redis cannot be opened: localhost:"), "{said}");
    assert!(said.contains("WRONGPASS") || said.contains("uthentication"), "{said}");
    assert!(!said.contains("secret-and-wrong"), "{said}");
    // Whom nobody has vouched for is not spoken to.
    let dir = tempfile::tempdir().unwrap();
    let stranger = crate::support::tls::Ca::new(dir.path().join("stranger.pem"));
    drop(stranger);
    let stranger = dir.path().join("stranger.pem").display().to_string();
    let said = refused(&shared(&upstream, &redis_yaml("hunter2", &stranger), ""));
    assert!(said.contains("certificate"), "{said}");
}

#[test]
fn a_sidecar_knows_that_its_gateway_does_not_know() {
    let Some(mut redis) = Redis::start_with(Options { appendfsync: Some("always"), ..Options::default() }) else {
        return;
    };
    let upstream = Upstream::start();
    let credential = "0123456789abcdef0123456789abcdef";
    let feed = format!("  revocation_feed: {{ credential: {credential} }}\n");
    let yaml = shared(&upstream, &at(&redis), &feed);
    let (one, two) = (Sidegate::start(&yaml), Sidegate::start(&yaml));
    let jwks = one.get("/.well-known/jwks.json", &[]).text();
    let sidecar = Sidegate::start(&config(
        upstream.address(),
        &format!(
            "revocation_feed: {{ urls: ['{}', '{}'], credential: {credential}, max_staleness: 2s }}\n\
             providers: [{{ name: local, issuer: http://localhost:3000, audiences: [api], jwks_inline: {jwks} }}]\n\
             routes: [{{ name: all, match: {{ path_prefix: / }}, upstream: app, on_stale: refuse }}]\n",
            one.url("/oauth/revocations"),
            two.url("/oauth/revocations"),
        ),
    ));
    let (access, refresh) = log_in(&one);
    assert_eq!(sidecar.get_with("/", &access).status, 200);
    redis.kill();
    wait_for("it to be stale", || (sidecar.get_with("/", &access).status == 503).then_some(()));
    redis.restart();
    wait_for("it to be fresh", || (sidecar.get_with("/", &access).status == 200).then_some(()));
    // What the gateway that it does not listen to revokes, it hears as well; and it goes on where it was at the other.
    assert_eq!(two.post_form("/oauth/revoke", &[APP], &format!("token={refresh}")).status, 200);
    wait_for("it to be refused", || (sidecar.get_with("/", &access).status == 401).then_some(()));
    let healed = |gate: &Sidegate| {
        let text = gate.admin("/metrics").text();
        text.lines().filter(|line| line.starts_with("sidegate_feed_healed_total{")).any(|line| !line.ends_with(" 0"))
    };
    drop(one);
    let (access, refresh) = log_in(&two);
    assert_eq!(two.post_form("/oauth/revoke", &[APP], &format!("token={refresh}")).status, 200);
    wait_for("it to be refused", || (sidecar.get_with("/", &access).status == 401).then_some(()));
    assert!(!healed(&sidecar), "{}", sidecar.admin("/metrics").text());
}

#[test]
fn nobody_is_told_that_a_token_is_bad_because_the_store_is_away() {
    let Some(mut redis) = Redis::start_with(Options { appendfsync: Some("always"), ..Options::default() }) else {
        return;
    };
    let upstream = Upstream::start();
    let gate = Sidegate::start(&shared(&upstream, &format!("{}, max_staleness: 1s, timeout: 1s", at(&redis)), ""));
    let (access, refresh) = log_in(&gate);
    let ask = |token: &str| gate.post_form("/oauth/introspect", &[APP], &format!("token={token}"));
    for token in [&access, &refresh] {
        assert_eq!(ask(token).json()["active"], true);
    }
    let (_, revoked) = log_in(&gate);
    assert_eq!(gate.post_form("/oauth/revoke", &[APP], &format!("token={revoked}")).status, 200);
    redis.kill();
    // The access token is known without the store, until what others may have revoked is not known for too long.
    for token in [&refresh, &access] {
        let answer =
            wait_for("an answer that there is none", || Some(ask(token)).filter(|answer| answer.status != 200));
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    }
    for token in ["x", &revoked] {
        assert_eq!(ask(token).text(), r#"{"active":false}"#, "that needs no store");
    }
    redis.restart();
    for token in [&access, &refresh] {
        wait_for("the store", || (ask(token).status == 200).then_some(()));
        assert_eq!(ask(token).json()["active"], true);
    }
}

#[test]
fn what_is_revoked_is_said_once_by_the_gate_that_was_asked() {
    let Some(redis) = Redis::start() else { return };
    let upstream = Upstream::start();
    let yaml = shared(&upstream, &at(&redis), "");
    let (one, two) = (Sidegate::start(&yaml), Sidegate::start(&yaml));
    let made = |gate: &Sidegate| gate.metric("sidegate_revocations_total{cause=\"revoke_endpoint\"}");
    for n in 1..=20 {
        let (access, refresh) = log_in(&two);
        for gate in [&one, &two] {
            assert_eq!(gate.post_form("/oauth/revoke", &[APP], &format!("token={refresh}")).status, 200);
            wait_for("the other to know", || (two.get_with("/", &access).status == 401).then_some(()));
        }
        assert_eq!((made(&one), made(&two)), (f64::from(n), 0.0));
    }
}

#[test]
fn a_store_moves_between_a_file_and_redis_and_logs_nobody_out() {
    let Some(redis) = Redis::start() else { return };
    let upstream = Upstream::start();
    let plain = config_with_issuer(upstream.address(), ROUTE);
    let gate = Sidegate::start(&plain);
    let (access, refresh) = log_in(&gate);
    let (gone, _) = log_in(&gate);
    let sid = run(&gate, &["sessions", "list"]).lines().last().unwrap().split(' ').next().unwrap().to_owned();
    run(&gate, &["revoke", "--session", &sid, "--reason", "a test"]);
    assert_eq!(gate.get_with("/", &gone).status, 401);
    // The master key that was made is named; everything else is as it was.
    let keyed = |redis: &str| {
        shared(&upstream, redis, "").replace("0123456789abcdef0123456789abcdef", "{ from_file: data/master.key }")
    };
    let to = gate.dir().join("redis.yaml");
    let new = keyed(&at(&redis));
    std::fs::write(&to, &new).unwrap();
    let migrate = |dir: &std::path::Path, from: &str, to: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sidegate"));
        let output =
            command.current_dir(dir).args(["store", "migrate", "--config", from, "--to", to]).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (code, said) = migrate(gate.dir(), "config.yaml", "redis.yaml");
    assert!(code == 1 && said.contains("is in use by sidegate with pid") && said.contains("stop it first"), "{said}");
    let dir = gate.kill();
    // With another master key every session would end: that is said, and nothing is done.
    private(&dir.path().join("other.yaml"), &shared(&upstream, &at(&redis), ""));
    let (code, said) = migrate(dir.path(), "config.yaml", "other.yaml");
    assert!(code == 1 && said.contains("does not open the signing keys"), "{said}");
    let (code, said) = migrate(dir.path(), "config.yaml", "redis.yaml");
    assert_eq!((code, said.as_str()), (0, "sessions     2\nrevocations  1\n"));
    assert!(!dir.path().join("data/store.redb").exists() && dir.path().join("data/store.redb.moved").exists());

    let gate = Sidegate::start_in(dir, &new);
    assert_eq!(gate.get_with("/", &access).status, 200);
    assert_eq!(gate.get_with("/", &gone).status, 401);
    let form = format!("grant_type=refresh_token&refresh_token={refresh}");
    let rotated = gate.post_form("/oauth/token", &[APP], &form);
    assert_eq!(rotated.status, 200, "{rotated:?}");

    // And back, while another Sidegate runs on Redis: it answers that it cannot, and refuses nobody's token.
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(gate.dir().join("data/master.key"), folder.path().join("master.key")).unwrap();
    let from =
        shared(&upstream, &at(&redis), "").replace("0123456789abcdef0123456789abcdef", "{ from_file: master.key }");
    std::fs::write(folder.path().join("redis.yaml"), from).unwrap();
    let file = plain.replace(
        "issuer:\n",
        "issuer:\n  master_key: { from_file: master.key }\n  store: { embedded: { path: back } }\n",
    );
    std::fs::write(folder.path().join("file.yaml"), &file).unwrap();
    let (code, said) = migrate(folder.path(), "redis.yaml", "file.yaml");
    assert_eq!((code, said.as_str()), (0, "sessions     2\nrevocations  1\n"));
    let form = format!("grant_type=refresh_token&refresh_token={}", rotated.member("refresh_token"));
    assert_eq!(gate.post_form("/oauth/token", &[APP], &form).status, 503);
    assert_eq!(gate.get_with("/", &access).status, 200);
    let back = Sidegate::start_in(folder, &file);
    assert_eq!(back.get_with("/", &rotated.member("access_token")).status, 200);
    assert_eq!(back.post_form("/oauth/token", &[APP], &form).status, 200);
}
