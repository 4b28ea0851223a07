//! Keys that a provider publishes: fetched, refreshed, asked for once more; and a provider that does not answer as it should.

mod issuers;
mod own;

use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use serde_json::{Value, json};

use crate::support::{
    Answer, Sidegate, Upstream,
    client::request,
    config,
    tls::{self, Ca},
    tokens::{AUDIENCE, ISSUER, TestKey, changed, claims, claims_with},
    wait_for,
};

const ROUTE: &str = "routes: [{ name: open, match: { path: /open }, auth: none, upstream: app }, { name: all, match: { path_prefix: / }, upstream: app }]\n";
/// Looked at again after a second, and as often because of a token.
const EAGER: &str = "min_refresh: 1s, max_refresh: 1s, cooldown: 1s";
/// Looked at again in an hour, or because of a token.
const LAZY: &str = "min_refresh: 1h, cooldown: 1s";

/// A provider's web server.
#[derive(Clone)]
struct Provider {
    server: Upstream,
    says: Arc<Mutex<Says>>,
}

#[derive(Clone)]
enum Says {
    /// These bytes, whatever it is asked.
    Bytes(Vec<u8>),
    /// Something else at each of these paths.
    Paths(Vec<(&'static str, Value)>),
    /// The beginning of an answer that has no end.
    Endless,
    /// Nothing.
    Silence,
}

impl Provider {
    fn start(says: Says) -> Self {
        let says = Arc::new(Mutex::new(says));
        let now = says.clone();
        let server = Upstream::with(move |request, stream| {
            let says = now.lock().unwrap().clone();
            match says {
                Says::Bytes(bytes) => stream.write_all(&bytes).is_ok(),
                Says::Paths(paths) => {
                    let found = paths.iter().find(|(path, _)| request.target() == *path);
                    let answer = found.map_or_else(|| status("404 Not Found"), |(_, document)| ok(document));
                    stream.write_all(&answer).is_ok()
                }
                Says::Endless => {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
                    while stream.write_all(chunk.as_bytes()).is_ok() {}
                    false
                }
                Says::Silence => {
                    // Until the other end has had enough.
                    let _ = std::io::copy(stream, &mut std::io::sink());
                    false
                }
            }
        });
        Self { server, says }
    }

    fn with(keys: &[&TestKey]) -> Self {
        Self::start(Says::Bytes(ok(&jwks(keys))))
    }

    fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    fn publishes(&self, keys: &[&TestKey]) {
        self.says(Says::Bytes(ok(&jwks(keys))));
    }

    /// How often it has been asked since this was last asked.
    fn asked(&self) -> usize {
        self.server.take().len()
    }

    fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// The provider of `ISSUER` in a configuration, whose keys are at its root.
    fn config(&self, fetch: &str) -> String {
        published(&self.url(), fetch)
    }
}

fn published(jwks_uri: &str, fetch: &str) -> String {
    format!(
        "providers: [{{ name: idp, issuer: '{ISSUER}', audiences: [{AUDIENCE}], leeway: 0s, jwks_uri: {jwks_uri}, jwks_fetch: {{ {fetch} }} }}]\n{ROUTE}"
    )
}

fn jwks(keys: &[&TestKey]) -> Value {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() })
}

fn ok(document: &Value) -> Vec<u8> {
    let body = document.to_string();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into()
}

fn status(line: &str) -> Vec<u8> {
    format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n").into()
}

fn gate(provider: &str) -> Sidegate {
    Sidegate::start(&config(Upstream::start().address(), provider))
}

fn get_with(gate: SocketAddr, token: &str) -> Answer {
    request(gate, "GET", "/", &[("Authorization", &format!("Bearer {token}"))], b"")
}

fn fetches(gate: &Sidegate, result: &str) -> f64 {
    gate.metric(&format!("sidegate_jwks_fetches_total{{provider=\"idp\",result=\"{result}\"}}"))
}

#[test]
fn keys_are_there_before_the_first_request() {
    let (rs, es) = (TestKey::new("RS256", "rs"), TestKey::new("ES256", "es"));
    let provider = Provider::with(&[&rs, &es]);
    let gate = gate(&provider.config(LAZY));
    let asked = provider.server.take();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].all("user-agent"), [concat!("Sidegate/", env!("CARGO_PKG_VERSION"))]);
    for key in [&rs, &es] {
        assert_eq!(gate.get_with("/", &key.good()).status, 200, "{}", key.kid);
    }
    assert_eq!(provider.asked(), 0, "what is known is not asked for");
    assert_eq!(gate.metric("sidegate_provider_keys{provider=\"idp\"}"), 2.0);
    let fetched = gate.metric("sidegate_jwks_fetched_timestamp_seconds{provider=\"idp\"}");
    assert!((fetched - crate::support::tokens::now() as f64).abs() < 60.0, "{fetched}");
}

#[test]
fn they_are_found_by_either_metadata() {
    let key = TestKey::new("ES256", "k1");
    for well_known in ["/realms/a/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/realms/a"]
    {
        let provider = Provider::start(Says::Silence);
        let issuer = format!("{}/realms/a", provider.url());
        let metadata = json!({ "issuer": issuer, "jwks_uri": format!("{}/keys", provider.url()) });
        provider.says(Says::Paths(vec![(well_known, metadata), ("/keys", jwks(&[&key]))]));
        let gate = gate(&format!(
            "providers: [{{ name: idp, issuer: '{issuer}', audiences: [{AUDIENCE}], discovery: true }}]\n{ROUTE}"
        ));
        let token = key.token(&key.header(), &claims_with(json!({ "iss": issuer })));
        assert_eq!(gate.get_with("/", &token).status, 200, "{well_known}");
    }
}

#[test]
fn metadata_of_another_issuer_lead_nowhere() {
    let key = TestKey::new("ES256", "k1");
    let provider = Provider::start(Says::Silence);
    let keys = format!("{}/keys", provider.url());
    let well_known = "/.well-known/openid-configuration";
    for (metadata, why) in [
        (json!({ "issuer": format!("{}/", provider.url()), "jwks_uri": keys }), "of another issuer"),
        (json!({ "issuer": "https://other.example", "jwks_uri": keys }), "of another issuer"),
        (json!({ "issuer": provider.url(), "jwks_uri": "file:///etc/passwd" }), "does not begin with https://"),
        (json!({ "issuer": provider.url() }), "not JSON with"),
    ] {
        provider.says(Says::Paths(vec![(well_known, metadata), ("/keys", jwks(&[&key]))]));
        let gate = gate(&format!(
            "providers: [{{ name: idp, issuer: '{}', audiences: [{AUDIENCE}], discovery: true, jwks_fetch: {{ on_start: serve_others }} }}]\n{ROUTE}",
            provider.url()
        ));
        let token = key.token(&key.header(), &claims_with(json!({ "iss": provider.url() })));
        assert_eq!(gate.get_with("/", &token).status, 503);
        assert!(fetches(&gate, "bad_discovery") >= 1.0);
        gate.logged_until(|log| log.contains(why));
    }
}

#[test]
fn a_new_key_is_asked_for_once_and_one_that_is_gone_verifies_nothing() {
    let (old, new) = (TestKey::new("ES256", "old"), TestKey::new("ES256", "new"));
    let provider = Provider::with(&[&old]);
    let gate = gate(&provider.config(LAZY));
    let (before, after) = (old.good(), new.good());
    assert_eq!(gate.get_with("/", &before).status, 200);
    provider.asked();
    provider.publishes(&[&new]);
    for _ in 0..3 {
        assert_eq!(gate.get_with("/", &after).status, 200);
    }
    assert_eq!(provider.asked(), 1);
    // It was verified before, and remembered.
    assert_eq!(gate.get_with("/", &before).status, 401);
    assert_eq!(
        gate.rejected("key_unknown"),
        gate.metric("sidegate_rejected_tokens_total{provider=\"idp\",reason=\"key_unknown\"}")
    );
    let log = gate.logged();
    assert!(log.contains("the keys have changed"), "{log}");
}

#[test]
fn a_key_that_stays_keeps_what_was_verified_with_it() {
    let (stays, goes) = (TestKey::new("ES256", "stays"), TestKey::new("ES256", "goes"));
    let provider = Provider::with(&[&goes, &stays]);
    let gate = gate(&provider.config(EAGER));
    let token = stays.good();
    assert_eq!(gate.get_with("/", &token).status, 200);
    provider.publishes(&[&stays]);
    wait_for("the other set", || (gate.metric("sidegate_provider_keys{provider=\"idp\"}") == 1.0).then_some(()));
    let misses = gate.metric("sidegate_token_cache_lookups_total{result=\"miss\"}");
    assert_eq!(gate.get_with("/", &token).status, 200);
    assert_eq!(gate.metric("sidegate_token_cache_lookups_total{result=\"miss\"}"), misses);
    // The same name does not make it the same key.
    let impostor = TestKey::new("ES256", "stays");
    provider.publishes(&[&impostor]);
    wait_for("a refusal", || (gate.get_with("/", &token).status == 401).then_some(()));
    assert_eq!(gate.get_with("/", &impostor.good()).status, 200);
}

#[test]
fn unknown_keys_cause_no_more_than_one_look_in_a_cool_down() {
    const CLIENTS: usize = 8;
    const TOKENS: usize = 100;
    let key = TestKey::new("ES256", "k1");
    let provider = Provider::with(&[&key]);
    let gate = gate(&provider.config("min_refresh: 1h, cooldown: 1h"));
    assert_eq!(provider.asked(), 1);
    let good = key.good();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (gate, key, good) = (gate.address(), &key, &good);
            scope.spawn(move || {
                for n in 0..TOKENS {
                    let header = changed(key.header(), json!({ "kid": format!("{client}-{n}") }));
                    assert_eq!(get_with(gate, &key.token(&header, &claims())).status, 401);
                    assert_eq!(get_with(gate, good).status, 200);
                }
            });
        }
    });
    assert_eq!(provider.asked(), 1, "the cool-down is an hour");
    assert_eq!(gate.rejected("key_unknown"), (CLIENTS * TOKENS) as f64);
}

#[test]
fn one_name_that_does_not_exist_is_soon_not_asked_for_any_more() {
    let key = TestKey::new("ES256", "k1");
    let provider = Provider::with(&[&key]);
    let gate = gate(&provider.config(LAZY));
    provider.asked();
    let nobody = key.token(&changed(key.header(), json!({ "kid": "nobody" })), &claims());
    wait_for("a look", || {
        assert_eq!(gate.get_with("/", &nobody).status, 401);
        (provider.asked() > 0).then_some(())
    });
    // The cool-down ends, and another name is asked for again while this one is not.
    let mut other = 0;
    wait_for("another look", || {
        assert_eq!(gate.get_with("/", &nobody).status, 401);
        assert_eq!(provider.asked(), 0, "it was asked for");
        other += 1;
        let token = key.token(&changed(key.header(), json!({ "kid": format!("other-{other}") })), &claims());
        assert_eq!(gate.get_with("/", &token).status, 401);
        (provider.asked() > 0).then_some(())
    });
}

#[test]
fn whatever_it_answers_the_keys_that_are_there_serve_on() {
    let key = TestKey::new("ES256", "k1");
    let elsewhere = Provider::with(&[&key]);
    let redirect = |to: &str| format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").into_bytes();
    let large = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 50 << 20).into_bytes();
    let secret = TestKey::new("HS256", "hs");
    let cases = [
        (Says::Bytes(status("500 Oops")), "bad_status"),
        (Says::Bytes(status("204 No Content")), "bad_status"),
        (Says::Bytes(b"garbage\r\n\r\n".to_vec()), "broken"),
        (Says::Bytes(ok(&json!("garbage"))), "bad_keys"),
        (Says::Bytes(ok(&json!({ "keys": [] }))), "bad_keys"),
        (Says::Bytes(ok(&json!({ "keys": [{ "kty": "RSA", "n": "AQAB", "e": "AQAB" }] }))), "bad_keys"),
        (Says::Bytes(ok(&jwks(&[&secret]))), "bad_keys"),
        (Says::Bytes(large), "too_large"),
        (Says::Endless, "too_large"),
        (Says::Bytes(redirect(&elsewhere.url())), "redirected"),
        (Says::Bytes(redirect("/again")), "redirected"),
        (Says::Silence, "timed_out"),
    ];
    for (says, result) in cases {
        let provider = Provider::with(&[&key]);
        let gate = gate(&provider.config(&format!("{EAGER}, timeout: 300ms")));
        assert_eq!(gate.get_with("/", &key.good()).status, 200);
        provider.says(says);
        wait_for(result, || (fetches(&gate, result) >= 1.0).then_some(()));
        assert_eq!(gate.get_with("/", &key.good()).status, 200, "{result}");
        gate.logged_until(|log| log.contains("the keys cannot be fetched"));
        provider.publishes(&[&key]);
        wait_for("it to be well again", || (fetches(&gate, "ok") >= 2.0).then_some(()));
    }
    assert_eq!(elsewhere.asked(), 0);
}

#[test]
fn redirects_within_an_origin_are_followed() {
    let key = TestKey::new("ES256", "k1");
    let document = ok(&jwks(&[&key]));
    let provider = Upstream::answering(move |request| match request.target() {
        "/there" => document.clone(),
        _ => b"HTTP/1.1 307 Moved\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n".to_vec(),
    });
    let gate = gate(&published(&format!("http://{}/here", provider.address()), LAZY));
    assert_eq!(gate.get_with("/", &key.good()).status, 200);
}

#[test]
fn keys_that_have_become_too_old_are_refused_where_that_is_asked_for() {
    let key = TestKey::new("ES256", "k1");
    for (on_stale, expected) in [("refuse", 503), ("serve", 200)] {
        let provider = Provider::with(&[&key]);
        let gate = gate(&provider.config(&format!("{EAGER}, max_stale: 1s, on_stale: {on_stale}")));
        let (remembered, fresh) = (key.good(), key.token(&key.header(), &claims_with(json!({ "jti": "2" }))));
        assert_eq!(gate.get_with("/", &remembered).status, 200);
        provider.says(Says::Bytes(status("500 Oops")));
        wait_for("failures", || (fetches(&gate, "bad_status") >= 3.0).then_some(()));
        for token in [&remembered, &fresh] {
            let answer = gate.get_with("/", token);
            assert_eq!(answer.status, expected, "{on_stale}");
            if expected == 503 {
                assert_eq!(answer.member("error"), "temporarily_unavailable");
                assert_eq!((answer.header("retry-after"), answer.header("www-authenticate")), (Some("1"), None));
            }
        }
        provider.publishes(&[&key]);
        wait_for("the keys again", || (gate.get_with("/", &fresh).status == 200).then_some(()));
    }
}

#[test]
fn a_provider_that_is_not_there_is_waited_for() {
    let key = TestKey::new("ES256", "k1");
    let provider = Provider::start(Says::Bytes(status("503 Later")));
    let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let yaml = config(Upstream::start().address(), &provider.config(LAZY))
        .replace("admin: { address: 127.0.0.1:0 }", &format!("admin: {{ address: {admin} }}"));
    let starting = thread::spawn(move || Sidegate::start(&yaml));
    wait_for("some looks", || (provider.server.connections() >= 2).then_some(()));
    let probe = |path| request(admin, "GET", path, &[], b"").status;
    assert_eq!((probe("/livez"), probe("/startupz"), probe("/readyz")), (200, 503, 503));
    assert!(!starting.is_finished());
    provider.publishes(&[&key]);
    let gate = starting.join().unwrap();
    assert_eq!((probe("/readyz"), gate.get_with("/", &key.good()).status), (200, 200));
}

#[test]
fn the_others_are_served_where_that_is_asked_for() {
    let key = TestKey::new("ES256", "k1");
    let provider = Provider::start(Says::Bytes(status("503 Later")));
    let gate = gate(&provider.config(&format!("{EAGER}, on_start: serve_others")));
    assert_eq!(gate.get("/open", &[]).status, 200);
    assert_eq!(gate.get_with("/", &key.good()).status, 503);
    assert_eq!(gate.get("/", &[]).status, 401, "no keys are needed to see that there is no token");
    provider.publishes(&[&key]);
    wait_for("the keys", || (gate.get_with("/", &key.good()).status == 200).then_some(()));
}

#[test]
fn keys_of_many_kinds_are_taken_and_those_that_cannot_be_are_named() {
    let key = TestKey::new("ES256", "k1");
    let mut keys: Vec<Value> = (0..1000).map(|n| changed(key.jwk(), json!({ "kid": format!("key-{n}") }))).collect();
    keys.push(json!({ "kty": "RSA", "kid": "small", "n": "AQAB", "e": "AQAB" }));
    keys.push(changed(key.jwk(), json!({ "kid": "other-use", "use": "enc" })));
    keys.push(json!({ "kty": "NEW", "kid": "unheard-of" }));
    keys.push(key.jwk());
    let provider = Provider::start(Says::Bytes(ok(&json!({ "keys": keys }))));
    let gate = gate(&provider.config(LAZY));
    assert_eq!(gate.get_with("/", &key.good()).status, 200);
    assert_eq!(gate.metric("sidegate_provider_keys{provider=\"idp\"}"), 1001.0);
    assert_eq!(gate.metric("sidegate_jwks_keys_skipped{provider=\"idp\"}"), 3.0);
    let log = gate.logged();
    assert_eq!(log.matches("a key is not used").count(), 3, "{log}");
}

#[test]
fn its_freshness_is_heard_within_bounds() {
    let key = TestKey::new("ES256", "k1");
    let body = jwks(&[&key]).to_string();
    let fresh =
        format!("HTTP/1.1 200 OK\r\nCache-Control: public, max-age=1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let provider = Provider::start(Says::Bytes(fresh.into()));
    let gate = gate(&provider.config("min_refresh: 1s, max_refresh: 1h"));
    wait_for("another look", || (fetches(&gate, "ok") >= 2.0).then_some(()));
}

#[test]
fn it_is_believed_for_its_certificate_alone() {
    let home = tempfile::tempdir().unwrap();
    let (ca, other) = (Ca::new(home.path().join("ca.pem")), Ca::new(home.path().join("other.pem")));
    let issued = ca.sign(&home.path().join("cert"), tls::names(&["localhost"]));
    let key = TestKey::new("ES256", "k1");
    let provider = Provider::with(&[&key]);
    // Another Sidegate speaks TLS for it.
    let front = Sidegate::start(&format!(
        "workers: 1\nadmin: {{ address: 127.0.0.1:0 }}\n\
         listeners: [{{ name: public, address: 127.0.0.1:0, tls: {{ certificates: [{{ cert_file: {}, key_file: {} }}] }} }}]\n\
         upstreams: [{{ name: app, urls: [{}] }}]\n\
         routes: [{{ name: all, match: {{ path_prefix: / }}, auth: none, upstream: app }}]\n",
        issued.cert_file.display(),
        issued.key_file.display(),
        provider.url(),
    ));
    let url = format!("https://localhost:{}/", front.address().port());
    let trusting =
        |ca: &Ca, more: &str| gate(&published(&url, &format!("{LAZY}, ca_file: {}{more}", ca.file.display())));
    assert_eq!(trusting(&ca, "").get_with("/", &key.good()).status, 200);
    let wary = trusting(&other, ", on_start: serve_others");
    assert_eq!(wary.get_with("/", &key.good()).status, 503);
    assert!(fetches(&wary, "unreachable") >= 1.0);
    wary.logged_until(|log| log.contains("invalid peer certificate"));
}

#[test]
fn the_proxy_of_the_environment_is_gone_through() {
    let key = TestKey::new("ES256", "k1");
    let proxy = Provider::with(&[&key]);
    let yaml = config(
        Upstream::start().address(),
        &published("http://keys.example/jwks", &format!("{LAZY}, insecure_http: true")),
    );
    let variable = format!("HTTP_PROXY={}", proxy.url());
    let gate = Sidegate::start_within(tempfile::tempdir().unwrap(), &yaml, &["env", &variable]);
    assert_eq!(proxy.server.only().target(), "http://keys.example/jwks");
    assert_eq!(gate.get_with("/", &key.good()).status, 200);
}

#[test]
fn storm_of_keys_that_rotate_refuses_no_good_token() {
    let rounds = if std::env::var_os("SIDEGATE_SOAK").is_some() { 100 } else { 4 };
    let names: Vec<&'static str> = (0..=rounds).map(|n| &*n.to_string().leak()).collect();
    let first = TestKey::new("ES256", names[0]);
    let provider = Provider::with(&[&first]);
    let gate = gate(&provider.config(EAGER));
    let (current, over, asked) = (Mutex::new(Arc::new(first)), AtomicBool::new(false), AtomicUsize::new(0));
    let address = gate.address();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let key = current.lock().unwrap().clone();
                    let answer = get_with(address, &key.good());
                    assert_eq!(answer.status, 200, "{}: {}", key.kid, answer.text());
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for name in &names[1..] {
            let (old, next) = (current.lock().unwrap().clone(), Arc::new(TestKey::new("ES256", name)));
            provider.publishes(&[&old, &next]);
            // Published before it signs, and for as long as its tokens may be about.
            let seen = fetches(&gate, "ok");
            wait_for("a look that began later", || (fetches(&gate, "ok") >= seen + 2.0).then_some(()));
            *current.lock().unwrap() = next;
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(asked.into_inner() > 100);
    assert_eq!(gate.rejected("key_unknown"), 0.0);
}
