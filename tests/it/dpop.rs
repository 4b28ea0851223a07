//! Tokens that are bound to a key (RFC 9449): from the issuer, over a refresh, to the gateway. Proofs are made here, without
//! Sidegate's own code.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::{
    Answer, Sidegate, Upstream,
    client::{request, sha256},
    config, config_with_issuer,
    tokens::{TestKey, changed, claims_with, now, provider},
};

const HOST: &str = "api.example.com";
const ALGORITHMS: &str = "algs=\"ES256 ES384 EdDSA Ed25519 PS256 PS384 PS512 RS256 RS384 RS512\"";

/// The public part of a key, as it stands in a proof.
fn jwk(key: &TestKey) -> Value {
    changed(key.jwk(), json!({ "kid": null, "alg": null }))
}

/// RFC 7638 §3.
fn thumbprint(key: &TestKey) -> String {
    // serde_json prints members by name and without white space, which is the canonical form.
    URL_SAFE_NO_PAD.encode(sha256(jwk(key).to_string().as_bytes()))
}

fn ath(token: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, token.as_bytes()))
}

/// A `jti` that nobody has had.
fn fresh() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("jti-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn header(key: &TestKey) -> Value {
    json!({ "typ": "dpop+jwt", "alg": key.alg, "jwk": jwk(key) })
}

fn says(method: &str, url: &str, token: Option<&str>) -> Value {
    changed(
        json!({ "jti": fresh(), "htm": method, "htu": url, "iat": now() }),
        json!({ "ath": token.map_or(Value::Null, |token| ath(token).into()) }),
    )
}

fn proof(key: &TestKey, method: &str, url: &str, token: Option<&str>) -> String {
    key.token(&header(key), &says(method, url, token))
}

fn url(path: &str) -> String {
    format!("http://{HOST}{path}")
}

/// A gate before an upstream that takes tokens of one key; `/bound` takes bound ones alone.
struct Gate {
    gate: Sidegate,
    upstream: Upstream,
    issuer: TestKey,
    /// How often which reason was given.
    refused: RefCell<BTreeMap<String, f64>>,
}

impl Gate {
    fn start(more: &str) -> Self {
        let (upstream, issuer) = (Upstream::start(), TestKey::new("ES256", "k1"));
        let routes = "routes:\n\
             \x20 - { name: bound, match: { path_prefix: /bound }, require: { bound: true }, upstream: app }\n\
             \x20 - { name: query, match: { path_prefix: /query }, legacy_query_token: true, upstream: app }\n\
             \x20 - { name: kept, match: { path_prefix: /kept }, forward_token: false, upstream: app }\n\
             \x20 - { name: all, match: { path_prefix: / }, upstream: app }\n";
        let gate = Sidegate::start(&config(upstream.address(), &(provider(&[&issuer], "leeway: 0s") + routes + more)));
        Self { gate, upstream, issuer, refused: RefCell::default() }
    }

    /// A token that is bound to a key.
    fn token(&self, key: &TestKey) -> String {
        self.issuer.token(&self.issuer.header(), &claims_with(json!({ "cnf": { "jkt": thumbprint(key) } })))
    }

    fn send(&self, method: &str, path: &str, authorization: &str, proofs: &[&str]) -> Answer {
        let mut headers = vec![("Host", HOST), ("Authorization", authorization)];
        headers.extend(proofs.iter().map(|proof| ("DPoP", *proof)));
        request(self.gate.address(), method, path, &headers, b"")
    }

    /// Sends a token by the scheme DPoP, with a proof.
    fn prove(&self, path: &str, token: &str, proof: &str) -> Answer {
        self.send("GET", path, &format!("DPoP {token}"), &[proof])
    }

    /// Refused with a 401, for this reason, with this error; nothing went upstream.
    fn refuses(&self, answer: &Answer, reason: &str, error: &str) {
        assert_eq!((answer.status, &*answer.member("error")), (401, error), "{reason}: {answer:?}");
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("DPoP realm=\"sidegate\", error=\""), "{reason}: {challenge}");
        assert!(challenge.contains(&format!("error=\"{error}\"")) && challenge.ends_with(ALGORITHMS), "{challenge}");
        let mut refused = self.refused.borrow_mut();
        let count = refused.entry(reason.to_owned()).or_default();
        *count += 1.0;
        assert_eq!(self.gate.rejected(reason), *count, "{reason} is not what is counted");
        assert!(self.upstream.take().is_empty(), "{reason}: it went upstream");
    }
}

#[test]
fn a_bound_token_passes_with_a_proof_of_any_algorithm() {
    let gate = Gate::start("");
    for alg in ["ES256", "ES384", "EdDSA", "Ed25519", "RS256", "PS384"] {
        let key = TestKey::new(alg, "proof");
        let token = gate.token(&key);
        let answer = gate.prove("/a?q=1", &token, &proof(&key, "GET", &url("/a"), Some(&token)));
        assert_eq!(answer.status, 200, "{alg}: {answer:?}");
        assert!(answer.header("dpop-nonce").is_none());
        assert_eq!(gate.upstream.only().all("authorization"), [format!("DPoP {token}")]);
    }
    // The scheme in any case; the address in its other spellings.
    let key = TestKey::new("ES256", "proof");
    let token = gate.token(&key);
    for htu in ["http://API.example.com:80/a%7Eb", "HTTP://api.example.com/a~b?x=y#z"] {
        let made = proof(&key, "GET", htu, Some(&token));
        assert_eq!(gate.send("GET", "/a~b", &format!("dpop {token}"), &[&made]).status, 200, "{htu}");
    }
    gate.upstream.take();
    // Where the token stays here, so does the proof.
    let made = proof(&key, "POST", &url("/kept"), Some(&token));
    assert_eq!(gate.send("POST", "/kept", &format!("DPoP {token}"), &[&made]).status, 200);
    let reached = gate.upstream.only();
    assert!(reached.all("authorization").is_empty() && reached.all("dpop").is_empty());
}

#[test]
fn a_stolen_token_is_worth_nothing() {
    let gate = Gate::start("");
    let (key, thief) = (TestKey::new("ES256", "own"), TestKey::new("ES256", "thief"));
    let token = gate.token(&key);
    let good = || says("GET", &url("/a"), Some(&token));
    let with = |changes: Value| key.token(&header(&key), &changed(good(), changes));
    let other = gate.token(&key) + "x";
    // By another key, method, path, host, scheme; for another token; too old, too new; malformed.
    let cases = [
        (proof(&thief, "GET", &url("/a"), Some(&token)), "proof_key_wrong", "invalid_dpop_proof"),
        (with(json!({ "htm": "POST" })), "proof_method_wrong", "invalid_dpop_proof"),
        (with(json!({ "htm": "get" })), "proof_method_wrong", "invalid_dpop_proof"),
        (with(json!({ "htu": url("/b") })), "proof_target_wrong", "invalid_dpop_proof"),
        (with(json!({ "htu": url("/a/") })), "proof_target_wrong", "invalid_dpop_proof"),
        (with(json!({ "htu": "http://evil.example/a" })), "proof_target_wrong", "invalid_dpop_proof"),
        (with(json!({ "htu": "https://api.example.com/a" })), "proof_target_wrong", "invalid_dpop_proof"),
        (with(json!({ "htu": "http://api.example.com:8080/a" })), "proof_target_wrong", "invalid_dpop_proof"),
        (with(json!({ "htu": "/a" })), "proof_target_wrong", "invalid_dpop_proof"),
        (with(json!({ "ath": ath(&other) })), "proof_token_wrong", "invalid_dpop_proof"),
        (with(json!({ "ath": null })), "proof_token_wrong", "invalid_dpop_proof"),
        (with(json!({ "iat": now() - 120 })), "proof_time_wrong", "use_dpop_nonce"),
        (with(json!({ "iat": now() + 120 })), "proof_time_wrong", "use_dpop_nonce"),
        (with(json!({ "nonce": "AAAA" })), "proof_nonce_stale", "use_dpop_nonce"),
        (with(json!({ "iat": null })), "proof_malformed", "invalid_dpop_proof"),
        (with(json!({ "iat": "now" })), "proof_malformed", "invalid_dpop_proof"),
        (with(json!({ "jti": null })), "proof_malformed", "invalid_dpop_proof"),
        (with(json!({ "jti": "" })), "proof_malformed", "invalid_dpop_proof"),
        (with(json!({ "jti": 7 })), "proof_malformed", "invalid_dpop_proof"),
        (with(json!({ "jti": "j".repeat(257) })), "proof_malformed", "invalid_dpop_proof"),
        (with(json!({ "more": "x".repeat(4096) })), "proof_malformed", "invalid_dpop_proof"),
        ("no.jwt".into(), "proof_malformed", "invalid_dpop_proof"),
    ];
    for (made, reason, error) in &cases {
        let answer = gate.prove("/a", &token, made);
        gate.refuses(&answer, reason, error);
        assert_eq!(answer.header("dpop-nonce").is_some(), *error == "use_dpop_nonce", "{reason}");
    }
    // Headers that no proof has.
    let made = |changes: Value| key.token(&changed(header(&key), changes), &good());
    let private = changed(jwk(&key), json!({ "d": "AAAA" }));
    let shared = TestKey::new("HS256", "shared");
    let cases = [
        (made(json!({ "typ": "jwt" })), "proof_malformed"),
        (made(json!({ "typ": null })), "proof_malformed"),
        (made(json!({ "crit": ["x"], "x": 1 })), "proof_malformed"),
        (made(json!({ "jwk": null })), "proof_malformed"),
        (made(json!({ "jwk": "k" })), "proof_malformed"),
        (made(json!({ "alg": "none" })), "proof_algorithm_unsupported"),
        (made(json!({ "alg": "HS256" })), "proof_algorithm_unsupported"),
        (made(json!({ "alg": "ES384" })), "proof_key_bad"),
        (made(json!({ "jwk": private })), "proof_key_bad"),
        // Its signature is another's: the thumbprint is the key's own.
        (thief.token(&header(&key), &good()), "proof_signature_bad"),
        (shared.token(&changed(header(&key), json!({ "alg": "HS256" })), &good()), "proof_algorithm_unsupported"),
    ];
    for (made, reason) in &cases {
        gate.refuses(&gate.prove("/a", &token, made), reason, "invalid_dpop_proof");
    }
    // Without a proof, with two, and as if it were bound to nothing.
    let authorization = format!("DPoP {token}");
    gate.refuses(&gate.send("GET", "/a", &authorization, &[]), "proof_missing", "invalid_token");
    let two = [proof(&key, "GET", &url("/a"), Some(&token)), proof(&key, "GET", &url("/a"), Some(&token))];
    let answer = gate.send("GET", "/a", &authorization, &[&two[0], &two[1]]);
    gate.refuses(&answer, "proof_malformed", "invalid_dpop_proof");
    let good = proof(&key, "GET", &url("/a"), Some(&token));
    gate.refuses(&gate.send("GET", "/a", &format!("Bearer {token}"), &[&good]), "proof_missing", "invalid_token");
    let answer = gate.send("GET", &format!("/query?access_token={token}"), "", &[]);
    assert_eq!(answer.status, 401);
    assert!(gate.upstream.take().is_empty());
    // That proof has not been used up by it.
    assert_eq!(gate.prove("/a", &token, &good).status, 200);
    gate.upstream.take();
    gate.refuses(&gate.prove("/a", &token, &good), "proof_replayed", "invalid_dpop_proof");
}

#[test]
fn what_is_bound_to_nothing_is_no_bound_token() {
    let gate = Gate::start("");
    let (key, plain) = (TestKey::new("ES256", "own"), gate.issuer.good());
    // A route that takes bound tokens alone says so from the first challenge on.
    let answer = request(gate.gate.address(), "GET", "/bound", &[("Host", HOST)], b"");
    assert_eq!(answer.header("www-authenticate").unwrap(), format!("DPoP realm=\"sidegate\", {ALGORITHMS}"));
    gate.refuses(&gate.send("GET", "/bound", &format!("Bearer {plain}"), &[]), "not_bound", "invalid_token");
    let made = proof(&key, "GET", &url("/bound"), Some(&plain));
    gate.refuses(&gate.prove("/bound", &plain, &made), "not_bound", "invalid_token");
    // Nor elsewhere, where the client believes that it is safe with a proof.
    gate.refuses(
        &gate.prove("/a", &plain, &proof(&key, "GET", &url("/a"), Some(&plain))),
        "not_bound",
        "invalid_token",
    );
    let token = gate.token(&key);
    assert_eq!(gate.prove("/bound", &token, &proof(&key, "GET", &url("/bound"), Some(&token))).status, 200);
    gate.upstream.take();
    // Bound in a way that nobody here understands, and bound to what is no thumbprint.
    for (cnf, reason) in [
        (json!({ "kid": "k" }), "confirmation_unknown"),
        (json!({}), "confirmation_unknown"),
        (json!("jkt"), "claim_malformed"),
        (json!({ "jkt": "short" }), "claim_malformed"),
        (json!({ "jkt": 7 }), "claim_malformed"),
        (json!({ "jkt": thumbprint(&key), "x5t#S256": [] }), "claim_malformed"),
    ] {
        let token = gate.issuer.token(&gate.issuer.header(), &claims_with(json!({ "cnf": cnf })));
        let answer = gate.send("GET", "/a", &format!("Bearer {token}"), &[]);
        assert_eq!((answer.status, &*answer.member("error")), (401, "invalid_token"), "{reason}");
        assert!(gate.gate.rejected(reason) > 0.0, "{reason}");
        assert!(gate.upstream.take().is_empty());
    }
}

#[test]
fn a_nonce_helps_whose_clock_is_wrong_and_can_be_asked_of_all() {
    let key = TestKey::new("ES256", "own");
    for (more, hours) in [("", 9), ("tokens: { dpop_nonces: always }\n", 0)] {
        let gate = Gate::start(more);
        let token = gate.token(&key);
        let at = now() - hours * 3600;
        let made = |nonce: Value| {
            let claims = changed(says("GET", &url("/a"), Some(&token)), json!({ "iat": at, "nonce": nonce }));
            key.token(&header(&key), &claims)
        };
        let answer = gate.prove("/a", &token, &made(Value::Null));
        gate.refuses(&answer, if hours > 0 { "proof_time_wrong" } else { "proof_nonce_missing" }, "use_dpop_nonce");
        let nonce = answer.header("dpop-nonce").unwrap().to_owned();
        let good = made(json!(nonce));
        assert_eq!(gate.prove("/a", &token, &good).status, 200);
        gate.upstream.take();
        gate.refuses(&gate.prove("/a", &token, &good), "proof_replayed", "invalid_dpop_proof");
        // It says when, and not that any clock will do.
        for wrong in [now() - 27 * 3600, now() + 27 * 3600] {
            let claims = changed(says("GET", &url("/a"), Some(&token)), json!({ "iat": wrong, "nonce": nonce }));
            gate.refuses(
                &gate.prove("/a", &token, &key.token(&header(&key), &claims)),
                "proof_time_wrong",
                "use_dpop_nonce",
            );
        }
        let mut forged = nonce.clone().into_bytes();
        forged[20] = if forged[20] == b'A' { b'B' } else { b'A' };
        let answer = gate.prove("/a", &token, &made(json!(String::from_utf8(forged).unwrap())));
        gate.refuses(&answer, "proof_nonce_stale", "use_dpop_nonce");
    }
}

#[test]
fn behind_a_trusted_proxy_a_request_came_as_the_proxy_says_for_whom_it_is_routed() {
    let key = TestKey::new("ES256", "own");
    for (more, status) in [("trusted_proxies: [127.0.0.1]\n", 200), ("", 401)] {
        let gate = Gate::start(more);
        let token = gate.token(&key);
        let made = proof(&key, "GET", "https://shop.example/a", Some(&token));
        let authorization = format!("DPoP {token}");
        let headers = [
            ("Host", "shop.example"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "elsewhere.example"),
            ("Authorization", &*authorization),
            ("DPoP", &*made),
        ];
        assert_eq!(request(gate.gate.address(), "GET", "/a", &headers, b"").status, status, "{more}");
        // A proof for another host is none, though a client has had the proxy say so.
        let elsewhere = proof(&key, "GET", "https://elsewhere.example/a", Some(&token));
        let headers = headers.map(|(name, value)| (name, if name == "DPoP" { &*elsewhere } else { value }));
        assert_eq!(request(gate.gate.address(), "GET", "/a", &headers, b"").status, 401, "{more}");
    }
}

/// The issuer's own tokens: `app` has a secret, `spa` has none.
fn issuer(upstream: &Upstream) -> Sidegate {
    let yaml =
        config_with_issuer(upstream.address(), "routes: [{ name: all, match: { path_prefix: / }, upstream: app }]\n");
    let strict = "    - { id: strict, grants: [refresh_token], legacy_password_grant: true, scopes: [read], \
                  dpop_bound_access_tokens: true }\n    - { id: web, grants: [authorization_code], scopes: [openid], \
                  redirect_uris: ['http://127.0.0.1/cb'] }\n";
    Sidegate::start(&yaml.replace("  clients:\n", &format!("  clients:\n{strict}")))
}

const TOKEN_URL: &str = "http://localhost:3000/oauth/token";
const LOGIN: &str = "grant_type=password&username=alice&password=wonderland&client_id=";

fn payload(token: &str) -> Value {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

fn ask(gate: &Sidegate, form: &str, proof: Option<&str>) -> Answer {
    let headers: Vec<_> = proof.map(|proof| ("DPoP", proof)).into_iter().collect();
    gate.post_form("/oauth/token", &headers, form)
}

#[test]
fn tokens_are_bound_to_the_key_that_their_client_shows() {
    let upstream = Upstream::start();
    let gate = issuer(&upstream);
    let (key, thief) = (TestKey::new("ES256", "own"), TestKey::new("ES256", "thief"));
    let shown = |key: &TestKey| proof(key, "POST", TOKEN_URL, None);
    let metadata = gate.get("/.well-known/oauth-authorization-server", &[]).json();
    assert_eq!(metadata["dpop_signing_alg_values_supported"][0], "ES256");

    let tokens = ask(&gate, &format!("{LOGIN}spa"), Some(&shown(&key)));
    assert_eq!((tokens.status, &*tokens.member("token_type")), (200, "DPoP"), "{tokens:?}");
    let access = tokens.member("access_token");
    assert_eq!(payload(&access)["cnf"], json!({ "jkt": thumbprint(&key) }));
    let made = proof(&key, "GET", &url("/a"), Some(&access));
    let authorization = format!("DPoP {access}");
    assert_eq!(gate.get("/a", &[("Host", HOST), ("Authorization", &authorization), ("DPoP", &made)]).status, 200);
    assert_eq!(gate.get("/a", &[("Authorization", &format!("Bearer {access}"))]).status, 401);

    // Its refresh token is worth nothing without that key, and nothing is lost when somebody tries.
    let refresh = format!("grant_type=refresh_token&client_id=spa&refresh_token={}", tokens.member("refresh_token"));
    for proof in [None, Some(shown(&thief))] {
        let answer = ask(&gate, &refresh, proof.as_deref());
        assert_eq!((answer.status, &*answer.member("error")), (400, "invalid_dpop_proof"), "{answer:?}");
    }
    assert_eq!(gate.metric("sidegate_refresh_tokens_total{outcome=\"wrong_key\"}"), 2.0);
    let tokens = ask(&gate, &refresh, Some(&shown(&key)));
    assert_eq!((tokens.status, &*tokens.member("token_type")), (200, "DPoP"), "{tokens:?}");
    // A lost answer is given again, to the same key alone.
    assert_eq!(ask(&gate, &refresh, Some(&shown(&thief))).status, 400);
    assert_eq!(ask(&gate, &refresh, Some(&shown(&key))).member("refresh_token"), tokens.member("refresh_token"));

    // Whoever asks about it learns what it is bound to.
    let about = gate.post_form(
        "/oauth/introspect",
        &[],
        &format!("client_id=app&client_secret=secret&token={}", tokens.member("access_token")),
    );
    let about = about.json();
    assert_eq!((&about["active"], &about["token_type"]), (&json!(true), &json!("DPoP")), "{about}");
    assert_eq!(about["cnf"], json!({ "jkt": thumbprint(&key) }));
    let about =
        gate.post_form("/oauth/introspect", &[], &format!("client_id=app&client_secret=secret&token={}", access));
    assert_eq!(about.json()["active"], true);

    // A client that authenticates may change its key.
    let login = format!("{LOGIN}app&client_secret=secret");
    let tokens = ask(&gate, &login, Some(&shown(&key)));
    let refresh = format!(
        "grant_type=refresh_token&client_id=app&client_secret=secret&refresh_token={}",
        tokens.member("refresh_token")
    );
    let tokens = ask(&gate, &refresh, Some(&shown(&thief)));
    assert_eq!(payload(&tokens.member("access_token"))["cnf"], json!({ "jkt": thumbprint(&thief) }));
    // Without a proof it gets what it got before there were any.
    let tokens = ask(&gate, &login, None);
    assert_eq!(tokens.member("token_type"), "Bearer");
    assert_eq!(payload(&tokens.member("access_token")).get("cnf"), None);
}

#[test]
fn a_bound_token_is_exchanged_for_one_that_is() {
    const BILLS: &str = "https://bills.example";
    let upstream = Upstream::start();
    let secret = crate::support::client::hex(&sha256(b"secret"));
    let grant = "urn:ietf:params:oauth:grant-type:token-exchange";
    let shop = format!(
        "    - {{ id: shop, secret_hash: 'sha256:{secret}', grants: ['{grant}'], scopes: [read], exchange: {{ from: [api], to: ['{BILLS}'] }} }}\n"
    );
    let routes = "routes: [{ name: all, match: { path_prefix: / }, upstream: app }]\n";
    let yaml = config_with_issuer(upstream.address(), routes)
        .replace("audience: api }", &format!("audience: api, resources: ['{BILLS}'] }}"))
        .replace("  clients:\n", &format!("  clients:\n{shop}"));
    let gate = Sidegate::start(&yaml);
    let (key, service) = (TestKey::new("ES256", "own"), TestKey::new("ES256", "service"));
    let shown = |key: &TestKey| proof(key, "POST", TOKEN_URL, None);
    let bound = ask(&gate, &format!("{LOGIN}spa"), Some(&shown(&key))).member("access_token");
    let form = |token: &str| {
        format!(
            "grant_type={grant}&client_id=shop&client_secret=secret&subject_token={token}&subject_token_type=\
             urn:ietf:params:oauth:token-type:access_token"
        )
    };
    let answer = ask(&gate, &form(&bound), None);
    assert_eq!((answer.status, &*answer.member("error")), (400, "invalid_request"), "{answer:?}");
    // To the key of whoever is to show it from now on.
    let answer = ask(&gate, &form(&bound), Some(&shown(&service)));
    assert_eq!(answer.member("token_type"), "DPoP");
    assert_eq!(payload(&answer.member("access_token"))["cnf"], json!({ "jkt": thumbprint(&service) }));
    let plain = ask(&gate, &format!("{LOGIN}spa"), None).member("access_token");
    assert_eq!(ask(&gate, &form(&plain), None).member("token_type"), "Bearer");
}

#[test]
fn a_proof_that_proves_nothing_gets_no_token() {
    let upstream = Upstream::start();
    let gate = issuer(&upstream);
    let key = TestKey::new("ES256", "own");
    let with = |changes: Value| key.token(&header(&key), &changed(says("POST", TOKEN_URL, None), changes));
    let login = format!("{LOGIN}spa");
    for (made, error) in [
        ("x".to_owned(), "invalid_dpop_proof"),
        (with(json!({ "htm": "GET" })), "invalid_dpop_proof"),
        (with(json!({ "htu": "http://localhost:3000/oauth/revoke" })), "invalid_dpop_proof"),
        (with(json!({ "htu": gate.url("/oauth/token") })), "invalid_dpop_proof"),
        (with(json!({ "iat": now() - 3600 })), "use_dpop_nonce"),
        (with(json!({ "nonce": "old" })), "use_dpop_nonce"),
    ] {
        let answer = ask(&gate, &login, Some(&made));
        assert_eq!((answer.status, &*answer.member("error")), (400, error), "{answer:?}");
        assert_eq!(answer.header("dpop-nonce").is_some(), error == "use_dpop_nonce");
    }
    // The nonce of the issuer is good here, and at the gateway.
    let nonce = ask(&gate, &login, Some(&with(json!({ "iat": 0 })))).header("dpop-nonce").unwrap().to_owned();
    let made = with(json!({ "iat": now() - 3600, "nonce": nonce }));
    let tokens = ask(&gate, &login, Some(&made));
    assert_eq!(tokens.status, 200, "{tokens:?}");
    assert_eq!(ask(&gate, &login, Some(&made)).member("error"), "invalid_dpop_proof", "it was used before");
    let access = tokens.member("access_token");
    let claims = changed(says("GET", &url("/a"), Some(&access)), json!({ "nonce": nonce }));
    let authorization = format!("DPoP {access}");
    let headers = [("Host", HOST), ("Authorization", &*authorization), ("DPoP", &*key.token(&header(&key), &claims))];
    assert_eq!(gate.get("/a", &headers).status, 200);
    // A client that is to bind its tokens gets no other.
    let answer = ask(&gate, &format!("{LOGIN}strict"), None);
    assert_eq!((answer.status, &*answer.member("error")), (400, "invalid_dpop_proof"));
    let tokens = ask(&gate, &format!("{LOGIN}strict"), Some(&with(json!({}))));
    assert_eq!(tokens.member("token_type"), "DPoP");
}

#[test]
fn a_code_can_be_bound_before_it_is_there_and_userinfo_wants_the_same_key() {
    let upstream = Upstream::start();
    let gate = issuer(&upstream);
    let (key, thief) = (TestKey::new("ES256", "own"), TestKey::new("ES256", "thief"));
    let ask_for = |jkt: &str| {
        format!(
            "/oauth/authorize?response_type=code&client_id=web&redirect_uri=http%3A%2F%2F127.0.0.1%3A5000%2Fcb\
             &code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256&dpop_jkt={jkt}"
        )
    };
    let back = gate.get(&ask_for("short"), &[]);
    assert!(back.header("location").unwrap().contains("error=invalid_request"), "{back:?}");
    let exchange = |with: Option<&TestKey>| {
        let (code, _) = crate::browser::code_for(&gate, &ask_for(&thumbprint(&key)));
        let form = format!(
            "grant_type=authorization_code&client_id=web&code={code}\
             &code_verifier=dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
        );
        ask(&gate, &form, with.map(|key| proof(key, "POST", TOKEN_URL, None)).as_deref())
    };
    for wrong in [None, Some(&thief)] {
        let answer = exchange(wrong);
        assert_eq!((answer.status, &*answer.member("error")), (400, "invalid_dpop_proof"), "{answer:?}");
    }
    let tokens = exchange(Some(&key));
    let access = tokens.member("access_token");
    assert_eq!(payload(&access)["cnf"]["jkt"], thumbprint(&key));

    let there = "http://localhost:3000/oauth/userinfo";
    let userinfo = |scheme: &str, proof: Option<String>| {
        let authorization = format!("{scheme} {access}");
        let mut headers = vec![("Authorization", &*authorization)];
        headers.extend(proof.as_deref().map(|proof| ("DPoP", proof)));
        gate.get("/oauth/userinfo", &headers)
    };
    let answer = userinfo("DPoP", Some(proof(&key, "GET", there, Some(&access))));
    assert_eq!((answer.status, &*answer.member("sub")), (200, "alice"), "{answer:?}");
    for (scheme, shown) in [
        ("Bearer", None),
        ("DPoP", None),
        ("Bearer", Some(proof(&key, "GET", there, Some(&access)))),
        ("DPoP", Some(proof(&thief, "GET", there, Some(&access)))),
        ("DPoP", Some(proof(&key, "POST", there, Some(&access)))),
        ("DPoP", Some(proof(&key, "GET", there, None))),
        ("DPoP", Some(proof(&key, "GET", TOKEN_URL, Some(&access)))),
    ] {
        let answer = userinfo(scheme, shown);
        assert_eq!((answer.status, &*answer.member("error")), (401, "invalid_dpop_proof"), "{answer:?}");
        assert!(answer.header("www-authenticate").unwrap().starts_with("DPoP "));
    }
}
