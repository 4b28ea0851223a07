//! The gateway: which request goes where, what it must prove, and what the upstream gets to see of it.

mod origins;

use std::{
    collections::HashSet,
    io::{Read as _, Write as _},
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    Sidegate, Upstream,
    client::{Connection, raw, request},
    config,
    tokens::{TestKey, claims, claims_with, provider},
    wait_for,
};

fn es256() -> TestKey {
    TestKey::new("ES256", "k1")
}

#[test]
fn the_first_matching_route_decides() {
    let (upstream, key) = (Upstream::start(), es256());
    let gate = Sidegate::start(&config(
        upstream.address(),
        &(provider(&[&key], "leeway: 0s")
            + "routes:
  - { name: exact, match: { path: /exact }, auth: none, upstream: app }
  - { name: get, match: { path_prefix: /docs, methods: [GET] }, auth: none, upstream: app }
  - { name: host, match: { path_prefix: /host, hosts: [a.example, '*.b.example'] }, auth: none, upstream: app }
  - { name: caf, match: { path_prefix: /caf%C3%A9 }, auth: none, upstream: app }
  - { name: closed, match: { path_prefix: /closed }, upstream: app }
"),
    ));
    let status =
        |method: &str, path: &str, host: &str| request(gate.address(), method, path, &[("Host", host)], b"").status;
    for (method, path, host, expected) in [
        ("GET", "/exact", "x", 200),
        ("GET", "/exact?q=1", "x", 200),
        ("GET", "/exact/", "x", 404),
        ("GET", "/exact/more", "x", 404),
        ("GET", "/exactly", "x", 404),
        ("GET", "/docs", "x", 200),
        ("GET", "/docs/", "x", 200),
        ("GET", "/docs/a/b", "x", 200),
        ("GET", "/docsandmore", "x", 404),
        ("POST", "/docs", "x", 404),
        ("GET", "/host", "a.example", 200),
        ("GET", "/host", "A.Example.", 200),
        ("GET", "/host", "a.example:8080", 200),
        ("GET", "/host", "x.b.example", 200),
        ("GET", "/host", "y.x.b.example", 200),
        ("GET", "/host", "b.example", 404),
        ("GET", "/host", "xb.example", 404),
        ("GET", "/host", "a.example.evil", 404),
        ("GET", "/caf%c3%a9/x", "x", 200),
        ("GET", "/c%61f%C3%A9", "x", 200),
        ("GET", "/%63losed", "x", 401),
        ("GET", "/closed", "x", 401),
        ("GET", "/", "x", 404),
    ] {
        upstream.take();
        assert_eq!(status(method, path, host), expected, "{method} {path} at {host}");
        assert_eq!(upstream.take().len(), usize::from(expected == 200), "{method} {path} at {host}");
    }
    // The path that was matched is the path that is sent.
    status("GET", "/c%61f%C3%A9/%7Ex?q=%2f..%2f&a=b", "x");
    assert_eq!(upstream.only().target(), "/c%61f%C3%A9/%7Ex?q=%2f..%2f&a=b");
    let answer = request(gate.address(), "GET", "/nothing", &[], b"");
    assert_eq!((answer.status, answer.member("error").as_str()), (404, "not_found"));
    assert!(gate.metric("sidegate_requests_total{code=\"404\",decision=\"denied\",method=\"GET\",reason=\"no_route\",route=\"none\"}") > 0.0);
}

#[test]
fn a_path_with_two_readings_is_refused() {
    let upstream = Upstream::start();
    let gate = Sidegate::start(&config(
        upstream.address(),
        "routes: [{ name: all, match: { path_prefix: / }, auth: none, upstream: app }]",
    ));
    for path in [
        "//",
        "//a",
        "/a//b",
        "/a//",
        "/./a",
        "/a/.",
        "/a/..",
        "/../a",
        "/a/../b",
        "/%2e/a",
        "/a/%2e%2e/b",
        "/a/.%2e/b",
        "/a/%2E%2e",
        "/a%2fb",
        "/a%2Fb",
        "/a%5cb",
        "/a%5Cb",
        "/a\\b",
        "/a;b",
        "/a;v=1/b",
        "/a%3bb",
        "/a%00",
        "/a%0a",
        "/a%0d%0aX:%20y",
        "/a%7f",
        "/a%252e%252e/b",
        "/a%25%32%65",
        "/%2561",
        "/a%",
        "/a%2",
        "/a%zz",
        "/%c0%af",
        "/%ff",
        "/%ed%a0%80",
        "/a%e2%82",
        "*",
    ] {
        let answer = request(gate.address(), "GET", path, &[], b"");
        assert_eq!(answer.status, 400, "{path}");
        assert!(upstream.take().is_empty(), "{path}");
    }
    for bytes in [
        &b"GET /a HTTP/1.1\r\n\r\n"[..],
        b"GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: a, b\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: a@b\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: a:80:80\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: \r\n\r\n",
        b"GET http://a/x HTTP/1.1\r\nHost: b\r\n\r\n",
        b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
        b"GET /a HTTP/1.1\r\nHost : a\r\n\r\n",
    ] {
        let answer = raw(gate.address(), bytes).unwrap();
        assert_eq!(answer.status, 400, "{:?}", String::from_utf8_lossy(bytes));
        assert!(upstream.take().is_empty(), "{:?}", String::from_utf8_lossy(bytes));
    }
    for path in ["/", "/a/", "/a.b/..c/...", "/a%20b", "/a%7Eb", "/a%c3%a9", "/100%25", "/a:b@c!$&'()*+,=-_~"] {
        assert_eq!(request(gate.address(), "GET", path, &[], b"").status, 200, "{path}");
        assert_eq!(upstream.only().target(), path);
    }
    // Absolute form that agrees with its Host is the same request, and reaches the upstream in origin form.
    assert_eq!(
        raw(gate.address(), b"GET http://a/x?y HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap().status,
        200
    );
    assert_eq!(upstream.only().line, "GET /x?y HTTP/1.1");
}

#[test]
fn auth_is_required_optional_or_none() {
    let (upstream, key) = (Upstream::start(), es256());
    let gate = Sidegate::start(&config(
        upstream.address(),
        &(provider(&[&key], "leeway: 0s")
            + "routes:
  - { name: optional, match: { path: /optional }, auth: optional, upstream: app, claim_headers: [{ claim: sub, header: x-user }] }
  - { name: none, match: { path: /none }, auth: none, upstream: app }
  - { name: required, match: { path: /required }, upstream: app, claim_headers: [{ claim: sub, header: x-user }] }
"),
    ));
    let good = format!("Bearer {}", key.good());
    let bad = format!("Bearer {}", TestKey::new("ES256", "k1").good());
    for (path, authorization, expected, user) in [
        ("/required", None, 401, None),
        ("/required", Some(&good), 200, Some("alice")),
        ("/required", Some(&bad), 401, None),
        ("/optional", None, 200, None),
        ("/optional", Some(&good), 200, Some("alice")),
        ("/optional", Some(&bad), 401, None),
        ("/optional", Some(&"Basic dGVzdDp0ZXN0".to_owned()), 401, None),
        ("/none", None, 200, None),
        ("/none", Some(&bad), 200, None),
    ] {
        let headers: Vec<_> = authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
        let answer = gate.get(path, &headers);
        assert_eq!(answer.status, expected, "{path} {authorization:?}");
        let reached = upstream.take();
        assert_eq!(reached.len(), usize::from(expected == 200), "{path}");
        if let Some(reached) = reached.first() {
            assert_eq!(reached.all("x-user"), user.into_iter().collect::<Vec<_>>(), "{path}");
        }
    }
}

#[test]
fn a_credential_has_one_reading() {
    let (upstream, key) = (Upstream::start(), es256());
    let gate = Sidegate::start(&config(
        upstream.address(),
        &(provider(&[&key], "leeway: 0s") + "routes: [{ name: all, match: { path_prefix: / }, upstream: app }]"),
    ));
    let good = key.good();
    let ask =
        |values: &[&str]| gate.get("/", &values.iter().map(|value| ("Authorization", *value)).collect::<Vec<_>>());
    for value in [format!("Bearer {good}"), format!("bearer {good}"), format!("BEARER   {good}")] {
        assert_eq!(ask(&[&value]).status, 200, "{value}");
    }
    for value in [
        "Bearer",
        "Bearer ",
        "Basic dGVzdDp0ZXN0",
        "",
        &format!("Token {good}"),
        &format!("Bearer{good}"),
        &good,
        "Negotiate",
    ] {
        let answer = ask(&[value]);
        assert_eq!(
            (answer.status, answer.header("www-authenticate")),
            (401, Some("Bearer realm=\"sidegate\"")),
            "{value}"
        );
        assert_eq!(answer.member("error"), "unauthorized");
    }
    for value in [
        format!("Bearer {good},{good}"),
        format!("Bearer {good} {good}"),
        format!("Bearer \"{good}\""),
        format!("Bearer\t{good}"),
        format!("Bearer {good}, Basic x"),
    ] {
        assert_eq!(ask(&[&value]).status, 401, "{value}");
    }
    let twice = ask(&[&format!("Bearer {good}"), &format!("Bearer {good}")]);
    assert_eq!((twice.status, twice.member("error").as_str()), (400, "invalid_request"));
    // The parameter is not looked at where the route does not say so; it goes on as any other.
    upstream.take();
    assert_eq!(gate.get(&format!("/?access_token={good}"), &[]).status, 401);
    assert!(upstream.take().is_empty());
}

#[test]
fn a_query_token_works_where_allowed_and_goes_no_further() {
    let (upstream, key) = (Upstream::start(), es256());
    let gate = Sidegate::start(&config(
        upstream.address(),
        &(provider(&[&key], "leeway: 0s")
            + "routes: [{ name: all, match: { path_prefix: / }, legacy_query_token: true, upstream: app }]\nlog: { requests: all, level: trace }"),
    ));
    let good = key.good();
    let ask = |target: &str| gate.get(target, &[]).status;
    for (target, reaches) in [
        (format!("/a?access_token={good}"), "/a"),
        (format!("/a?x=1&access_token={good}&y=%20"), "/a?x=1&y=%20"),
        (format!("/a?%61ccess_token={good}&x"), "/a?x"),
        (format!("/a?access_token={}", good.replace('.', "%2E")), "/a"),
    ] {
        assert_eq!(ask(&target), 200, "{target}");
        let reached = upstream.only();
        assert_eq!(reached.target(), reaches);
        assert!(reached.all("authorization").is_empty());
    }
    assert_eq!(ask(&format!("/a?access_token={good}&access_token={good}")), 400);
    assert_eq!(
        gate.get(&format!("/a?access_token={good}"), &[("Authorization", &format!("Bearer {good}"))]).status,
        400
    );
    assert_eq!(ask("/a?access_token="), 401);
    assert_eq!(ask("/a?access_token"), 401);
    assert_eq!(ask(&format!("/a?Access_Token={good}")), 401);
    assert!(upstream.take().is_empty());
    let log = gate.logged_until(|log| log.matches("passed").count() == 4 && log.matches("refused").count() == 5);
    assert!(!log.contains(&good[..40]), "the log holds the token");
    assert!(!gate.admin("/metrics").text().contains(&good[..40]));
}

#[test]
fn scopes_claims_providers_and_audiences_are_required_of_a_token() {
    let (upstream, ours, theirs) = (Upstream::start(), es256(), es256());
    let jwks = |key: &TestKey| json!({ "keys": [key.jwk()] });
    let gate = Sidegate::start(&config(
        upstream.address(),
        &format!(
            "providers:
  - {{ name: ours, issuer: https://issuer.example, audiences: [api, billing], jwks_inline: {} }}
  - {{ name: theirs, issuer: https://theirs.example, audiences: [api], jwks_inline: {} }}
routes:
  - {{ name: scopes, match: {{ path: /scopes }}, providers: [ours], require: {{ scopes: [read, admin] }}, upstream: app }}
  - {{ name: claims, match: {{ path: /claims }}, providers: [ours], require: {{ claims: {{ tier: gold, realm.roles: [ops, dev], /x~1y: 1 }} }}, upstream: app }}
  - {{ name: audience, match: {{ path: /audience }}, providers: [ours], audiences: [billing], upstream: app }}
  - {{ name: both, match: {{ path: /both }}, providers: [ours, theirs], upstream: app }}
  - {{ name: ours, match: {{ path: /ours }}, providers: [ours], upstream: app }}
",
            jwks(&ours),
            jwks(&theirs)
        ),
    ));
    let token = |changes| ours.token(&ours.header(), &claims_with(changes));
    let foreign = theirs.token(&theirs.header(), &claims_with(json!({ "iss": "https://theirs.example" })));
    let disguised = theirs.token(&theirs.header(), &claims());
    for (path, token, expected, reason) in [
        ("/scopes", token(json!({ "scope": "admin x read" })), 200, "ok"),
        ("/scopes", token(json!({ "scope": "read administrator" })), 403, "scope_missing"),
        ("/scopes", token(json!({ "scope": "read" })), 403, "scope_missing"),
        ("/scopes", token(json!({ "scope": null })), 403, "scope_missing"),
        ("/claims", token(json!({ "tier": "gold", "realm": { "roles": ["x", "dev"] }, "x/y": 1 })), 200, "ok"),
        ("/claims", token(json!({ "tier": "gold", "realm": { "roles": "ops" }, "x/y": 1 })), 200, "ok"),
        ("/claims", token(json!({ "tier": "silver", "realm": { "roles": ["ops"] }, "x/y": 1 })), 403, "claim_missing"),
        ("/claims", token(json!({ "tier": "gold", "realm": { "roles": ["x"] }, "x/y": 1 })), 403, "claim_missing"),
        ("/claims", token(json!({ "tier": "gold", "realm.roles": "ops", "x/y": 1 })), 403, "claim_missing"),
        ("/claims", token(json!({ "tier": "gold", "realm": { "roles": ["ops"] }, "x/y": "1" })), 403, "claim_missing"),
        ("/claims", token(json!({ "tier": { "gold": true } })), 403, "claim_missing"),
        ("/audience", token(json!({ "aud": ["api", "billing"] })), 200, "ok"),
        ("/audience", token(json!({})), 401, "audience_wrong"),
        ("/both", token(json!({})), 200, "ok"),
        ("/both", foreign.clone(), 200, "ok"),
        ("/ours", foreign, 401, "provider_wrong"),
        ("/both", disguised, 401, "signature_bad"),
    ] {
        upstream.take();
        let answer = gate.get_with(path, &token);
        assert_eq!(answer.status, expected, "{path} {reason}: {answer:?}");
        assert_eq!(upstream.take().len(), usize::from(expected == 200));
        let decision = if expected == 200 { "allowed" } else { "denied" };
        let series = format!(
            "sidegate_requests_total{{code=\"{expected}\",decision=\"{decision}\",method=\"GET\",reason=\"{reason}\",route=\"{}\"}}",
            &path[1..]
        );
        assert!(gate.metric(&series) >= 1.0, "{series}");
    }
    let answer = gate.get_with("/scopes", &token(json!({ "scope": "read" })));
    assert_eq!(answer.member("error"), "insufficient_scope");
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(
        challenge.contains("error=\"insufficient_scope\"") && challenge.ends_with("scope=\"admin read\""),
        "{challenge}"
    );
}

#[test]
fn identity_headers_are_ours_alone() {
    let (upstream, key) = (Upstream::start(), es256());
    let gate = Sidegate::start(&config(
        upstream.address(),
        &(provider(&[&key], "leeway: 0s")
            + "routes:
  - { name: open, match: { path: /open }, auth: none, upstream: app }
  - name: closed
    match: { path_prefix: / }
    forward_token: false
    upstream: app
    claim_headers:
      - { claim: sub, header: x-auth-subject }
      - { claim: groups, header: X-Groups }
      - { claim: deep.er, header: x-deep }
      - { claim: flags, header: x-flags }
      - { claim: absent, header: x-absent }
"),
    ));
    let spellings = [
        "x-auth-subject",
        "X-Auth-Subject",
        "X_Auth_Subject",
        "x_auth-subject",
        "X-AUTH_SUBJECT",
        "x.auth.subject",
        "x~auth^subject",
    ];
    let forged: Vec<_> = spellings
        .map(|name| (name, "root"))
        .into_iter()
        .chain([("x-absent", "root"), ("X_Groups", "wheel"), ("x-kept", "yes")])
        .collect();
    assert_eq!(gate.get("/open", &forged).status, 200);
    let reached = upstream.only();
    let names: Vec<String> = reached.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
    assert!(
        !names.iter().any(|name| name.contains("subject") || name.contains("groups") || name.contains("absent")),
        "{names:?}"
    );
    assert_eq!(reached.all("x-kept"), ["yes"]);

    let token = key.token(
        &key.header(),
        &claims_with(json!({ "groups": ["a", "b"], "deep": { "er": 7 }, "flags": { "x": true } })),
    );
    let bearer = format!("Bearer {token}");
    let headers: Vec<_> = forged.iter().copied().chain([("Authorization", bearer.as_str())]).collect();
    assert_eq!(gate.get("/x", &headers).status, 200);
    let reached = upstream.only();
    assert_eq!(reached.all("x-auth-subject"), ["alice"]);
    assert_eq!(reached.all("x-groups"), ["a,b"]);
    assert_eq!(reached.all("x-deep"), ["7"]);
    assert_eq!(reached.all("x-flags"), [r#"{"x":true}"#]);
    assert!(reached.all("authorization").is_empty(), "forward_token: false");
    let names: Vec<String> = reached.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
    assert!(!names.iter().any(|name| name.contains('_') || name.contains("absent")), "{names:?}");

    // A subject that no header can carry names nobody, rather than somebody else.
    for subject in ["alice\r\nx-auth-subject: root", "a\u{0}b", " alice"] {
        let token = key.token(&key.header(), &claims_with(json!({ "sub": subject })));
        assert_eq!(gate.get_with("/x", &token).status, 200);
        assert!(upstream.only().all("x-auth-subject").is_empty(), "{subject:?}");
    }
}

#[test]
fn forwarding_headers_are_believed_from_trusted_proxies_alone() {
    let forged = [
        ("X-Forwarded-For", "1.2.3.4"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Port", "1"),
        ("Forwarded", "for=1.2.3.4"),
        ("X_Forwarded_For", "6.6.6.6"),
        ("Via", "1.1 other"),
        ("Host", "app.example"),
    ];
    for (trusted, expected) in [
        ("[]", [vec!["127.0.0.1"], vec!["http"], vec!["app.example"], vec![], vec![]]),
        (
            "[127.0.0.0/8]",
            [vec!["1.2.3.4, 127.0.0.1"], vec!["https"], vec!["evil.example"], vec!["1"], vec!["for=1.2.3.4"]],
        ),
    ] {
        let upstream = Upstream::start();
        let gate = Sidegate::start(&config(
            upstream.address(),
            &format!(
                "trusted_proxies: {trusted}\nroutes: [{{ name: all, match: {{ path_prefix: / }}, auth: none, upstream: app }}]"
            ),
        ));
        assert_eq!(gate.get("/", &forged).status, 200);
        let reached = upstream.only();
        for (name, values) in
            ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "forwarded"]
                .into_iter()
                .zip(expected)
        {
            assert_eq!(reached.all(name), values, "{name} with {trusted}");
        }
        assert!(reached.all("x_forwarded_for").is_empty());
        assert_eq!(reached.all("host"), ["app.example"]);
        assert_eq!(reached.all("via").join(", "), "1.1 other, 1.1 sidegate");
    }
}

#[test]
fn what_else_a_stranger_says_of_its_way_is_gone() {
    let names =
        ["X-Forwarded-Prefix", "X-Forwarded-Ssl", "X-Forwarded-User", "X-Real-IP", "X-Original-URL", "X-Rewrite-URL"];
    let said: Vec<_> = names.iter().chain(&["X-Forwarded", "X-Kept"]).map(|name| (*name, "/admin")).collect();
    let looks: Vec<_> = ["X_Forwarded_Prefix", "x.forwarded-user", "X_Real_IP"].map(|name| (name, "1")).to_vec();
    for (trusted, kept) in [("[]", false), ("[127.0.0.1]", true)] {
        let upstream = Upstream::start();
        let gate = Sidegate::start(&config(
            upstream.address(),
            &format!(
                "trusted_proxies: {trusted}\nroutes: [{{ name: all, match: {{ path_prefix: / }}, auth: none, upstream: app }}]"
            ),
        ));
        assert_eq!(gate.get("/", &[&said[..], &looks].concat()).status, 200);
        let reached = upstream.only();
        for name in names {
            assert_eq!(reached.all(name).len(), usize::from(kept), "{name} with {trusted}: {reached:?}");
        }
        for (name, _) in &looks {
            assert!(reached.all(name).is_empty(), "{name} with {trusted}: {reached:?}");
        }
        assert_eq!((reached.all("x-forwarded").len(), reached.all("x-kept").len()), (1, 1));
    }
}

#[test]
fn an_old_client_that_names_a_host_in_its_target_reaches_that_host() {
    let upstream = Upstream::start();
    let gate = Sidegate::start(&config(
        upstream.address(),
        "routes: [{ name: one, match: { path_prefix: /, hosts: [a.example] }, auth: none, upstream: app }]",
    ));
    assert_eq!(raw(gate.address(), b"GET http://a.example:81/x HTTP/1.0\r\n\r\n").unwrap().status, 200);
    let reached = upstream.only();
    assert_eq!((reached.target(), reached.all("host")), ("/x", vec!["a.example:81"]));
    assert_eq!(reached.all("x-forwarded-host"), ["a.example:81"]);
}

#[test]
fn what_belongs_to_one_connection_stays_on_it() {
    let upstream = Upstream::answering(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nX-End: 2\r\n\r\nok".to_vec()
    });
    let gate = Sidegate::start(&config(
        upstream.address(),
        "routes: [{ name: all, match: { path_prefix: / }, auth: none, upstream: app }]",
    ));
    let mut connection = Connection::open(gate.address()).unwrap();
    connection
        .send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Private\r\nX-Private: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nProxy-Authorization: Basic eA==\r\nProxy-Connection: x\r\nUpgrade: websocket\r\nX-Kept: 2\r\n\r\n")
        .unwrap();
    let answer = connection.answer(false).unwrap();
    assert_eq!((answer.header("x-hop"), answer.header("keep-alive"), answer.header("x-end")), (None, None, Some("2")));
    let reached = upstream.only();
    for name in ["x-private", "keep-alive", "proxy-authorization", "proxy-connection", "upgrade", "connection"] {
        assert!(reached.all(name).is_empty(), "{name}: {reached:?}");
    }
    assert_eq!((reached.all("x-kept"), reached.all("host")), (vec!["2"], vec!["a"]));
    // That it takes trailers is the one thing in TE that goes for the whole way.
    assert_eq!(reached.all("te"), ["trailers"]);
}

#[test]
fn a_refusal_speaks_json_to_programs_and_html_to_people() {
    let upstream = Upstream::start();
    let gate = Sidegate::start(&config(
        upstream.address(),
        &(provider(&[&es256()], "leeway: 0s")
            + "routes: [{ name: all, match: { path_prefix: / }, upstream: app }]\ntokens: { realm: the vault }"),
    ));
    for accept in ["*/*", "application/json", "application/json, text/html", "text/plain"] {
        let answer = gate.get("/", &[("Accept", accept)]);
        assert_eq!((answer.status, answer.header("content-type")), (401, Some("application/json")));
        assert_eq!(
            answer.json(),
            json!({ "error": "unauthorized", "error_description": "This needs an access token." })
        );
        assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"the vault\""));
    }
    let page = gate.get("/", &[("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")]);
    assert_eq!((page.status, page.header("content-type")), (401, Some("text/html; charset=utf-8")));
    assert!(
        page.text().contains("This needs an access token.") && page.text().contains("unauthorized"),
        "{}",
        page.text()
    );
    assert_eq!(request(gate.address(), "HEAD", "/", &[], b"").status, 401);
}

#[test]
fn a_preflight_is_answered_from_the_rule() {
    let (upstream, key) = (
        Upstream::answering(|_| {
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nAccess-Control-Allow-Origin: *\r\n\r\n".to_vec()
        }),
        es256(),
    );
    let gate = Sidegate::start(&config(
        upstream.address(),
        &(provider(&[&key], "leeway: 0s")
            + "routes:
  - name: api
    match: { path_prefix: /api, methods: [GET, PUT] }
    cors: { origins: ['https://app.example'], headers: [authorization, x-a], expose_headers: [x-b], credentials: true, max_age: 10m }
    upstream: app
  - { name: any, match: { path_prefix: /any }, cors: { origins: ['*'] }, auth: none, upstream: app }
  - { name: rest, match: { path_prefix: / }, upstream: app }
"),
    ));
    let preflight = |path: &str, origin: &str, method: &str| {
        request(gate.address(), "OPTIONS", path, &[("Origin", origin), ("Access-Control-Request-Method", method)], b"")
    };
    let answer = preflight("/api/x", "https://app.example", "PUT");
    assert_eq!(answer.status, 204);
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example"),
        ("access-control-allow-methods", "GET, PUT"),
        ("access-control-allow-headers", "authorization, x-a"),
        ("access-control-allow-credentials", "true"),
        ("access-control-max-age", "600"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    assert_eq!(preflight("/any", "https://who.example", "POST").header("access-control-allow-origin"), Some("*"));
    assert_eq!(preflight("/api/x", "https://evil.example", "PUT").header("access-control-allow-origin"), None);
    // No rule, no way round the token: not by the method alone, not by asking about a method the route does not serve.
    assert_eq!(preflight("/x", "https://app.example", "GET").status, 401);
    assert_eq!(preflight("/api/x", "https://app.example", "DELETE").status, 401);
    assert_eq!(request(gate.address(), "OPTIONS", "/api/x", &[], b"").status, 401);
    assert!(upstream.take().is_empty(), "a preflight reached the upstream");

    let bearer = format!("Bearer {}", key.good());
    let answer = gate.get("/api/x", &[("Origin", "https://app.example"), ("Authorization", &bearer)]);
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("https://app.example")));
    assert_eq!((answer.header("access-control-expose-headers"), answer.header("vary")), (Some("x-b"), Some("Origin")));
    let answer = gate.get("/api/x", &[("Origin", "https://evil.example"), ("Authorization", &bearer)]);
    assert_eq!(answer.header("access-control-allow-origin"), None, "the upstream's word is not the rule's");
    let refused = gate.get("/api/x", &[("Origin", "https://app.example")]);
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, Some("https://app.example")));
}

#[test]
fn bodies_stream_both_ways() {
    // The upstream answers each piece of the request's body before the next is sent: nothing may be held back.
    let upstream = Upstream::with(|request, stream| {
        assert_eq!(request.all("content-length"), ["3"], "three bytes are read by now");
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        for piece in ["one", "two"] {
            stream.write_all(format!("3\r\n{piece}\r\n").as_bytes()).unwrap();
            let mut go = [0; 1];
            // The test says when, over a channel of its own: the same connection is in the gate's hands.
            GO.lock().unwrap().as_ref().unwrap().recv().unwrap();
            let _ = &mut go;
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
        true
    });
    static GO: Mutex<Option<mpsc::Receiver<()>>> = Mutex::new(None);
    let (go, wait) = mpsc::channel();
    *GO.lock().unwrap() = Some(wait);
    let gate = Sidegate::start(&config(
        upstream.address(),
        "routes: [{ name: all, match: { path_prefix: / }, auth: none, upstream: app }]",
    ));
    let mut connection = Connection::open(gate.address()).unwrap();
    connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").unwrap();
    let mut seen = Vec::new();
    for piece in ["one", "two"] {
        wait_for(piece, || {
            let mut buffer = [0; 1024];
            let n = connection.stream().read(&mut buffer).unwrap();
            seen.extend_from_slice(&buffer[..n]);
            seen.windows(3).any(|window| window == piece.as_bytes()).then_some(())
        });
        go.send(()).unwrap();
    }
    assert_eq!(upstream.only().body, b"abc");
}

#[test]
fn large_bodies_pass_unchanged_in_either_framing() {
    let upstream = Upstream::answering(|request| {
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len()).into_bytes();
        answer.extend_from_slice(&request.body);
        answer
    });
    let gate = Sidegate::start(&config(
        upstream.address(),
        "routes: [{ name: all, match: { path_prefix: / }, auth: none, upstream: app }]",
    ));
    let body: Vec<u8> = (0..8 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert!(request(gate.address(), "POST", "/", &[], &body).body == body);
    let mut connection = Connection::open(gate.address()).unwrap();
    connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    for chunk in body[..1 << 20].chunks(10_007) {
        connection.send(&[format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat()).unwrap();
    }
    connection.send(b"0\r\n\r\n").unwrap();
    assert!(connection.answer(false).unwrap().body == body[..1 << 20]);
}

#[test]
fn a_body_of_no_known_length_passes_with_a_method_that_seldom_has_one() {
    let upstream = Upstream::start();
    let gate = Sidegate::start(&config(
        upstream.address(),
        "routes: [{ name: all, match: { path_prefix: / }, auth: none, upstream: app }]",
    ));
    let chunked = b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nquery\r\n0\r\n\r\n";
    assert_eq!(raw(gate.address(), chunked).unwrap().status, 200);
    assert_eq!(upstream.only().body, b"query");
}

#[test]
fn the_body_is_not_asked_for_before_the_decision() {
    let (upstream, key) = (Upstream::start(), es256());
    let gate = Sidegate::start(&config(
        upstream.address(),
        &(provider(&[&key], "leeway: 0s") + "routes: [{ name: all, match: { path_prefix: / }, upstream: app }]"),
    ));
    let ask = |authorization: &str| {
        let mut connection = Connection::open(gate.address()).unwrap();
        connection
            .send(
                format!(
                    "POST / HTTP/1.1\r\nHost: a\r\n{authorization}Content-Length: 3\r\nExpect: 100-continue\r\n\r\n"
                )
                .as_bytes(),
            )
            .unwrap();
        let mut first = [0; 12];
        (&mut connection.stream()).read_exact(&mut first).unwrap();
        (connection, String::from_utf8(first.to_vec()).unwrap())
    };
    assert_eq!(ask("").1, "HTTP/1.1 401");
    let (mut connection, first) = ask(&format!("Authorization: Bearer {}\r\n", key.good()));
    assert_eq!(first, "HTTP/1.1 100");
    connection.send(b"abc").unwrap();
    wait_for("the body to arrive", || upstream.take().pop().filter(|reached| reached.body == b"abc"));
}

#[test]
fn connections_to_an_upstream_are_used_again() {
    let upstream = Upstream::answering(|request| match request.target() {
        "/head" => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec(),
        "/304" => b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n".to_vec(),
        "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        "/chunked" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
    });
    let gate = Sidegate::start(&config(
        upstream.address(),
        "routes: [{ name: all, match: { path_prefix: / }, auth: none, upstream: app }]",
    ));
    let mut connection = Connection::open(gate.address()).unwrap();
    for n in 0..20 {
        let (method, path, expected) = [
            ("GET", "/", 200),
            ("HEAD", "/head", 200),
            ("GET", "/304", 304),
            ("GET", "/204", 204),
            ("GET", "/chunked", 200),
            ("POST", "/", 200),
        ][n % 6];
        connection.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
        let answer = connection.answer(method == "HEAD").unwrap();
        assert_eq!(answer.status, expected, "{path}");
        match path {
            "/head" => assert_eq!(answer.header("content-length"), Some("5")),
            "/" | "/chunked" => assert_eq!(answer.text(), "hello"),
            _ => assert!(answer.body.is_empty()),
        }
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn an_upstream_that_closes_a_rested_connection_costs_no_safe_request() {
    // Each connection answers one request, and closes when the next one comes: what a keep-alive timeout looks like that
    // runs out in the moment in which the connection is used.
    let first = Mutex::new(HashSet::new());
    let upstream = Upstream::with(move |_, stream| {
        let new = first.lock().unwrap().insert(stream.peer_addr().unwrap());
        new && stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").is_ok()
    });
    let gate = Sidegate::start(&config(
        upstream.address(),
        "routes: [{ name: all, match: { path_prefix: / }, auth: none, upstream: app }]",
    ));
    let rest = || {
        let start = Instant::now();
        wait_for("the connection to have rested", || (start.elapsed() > Duration::from_millis(2100)).then_some(()));
    };
    assert_eq!(gate.get("/", &[]).status, 200);
    rest();
    assert_eq!(gate.get("/", &[]).status, 200);
    let seen: Vec<_> = upstream.take();
    assert_eq!(seen.len(), 3, "the second request was sent twice");
    rest();
    // The upstream may have done what a POST asked for.
    assert_eq!(request(gate.address(), "POST", "/", &[], b"x").status, 502);
    assert_eq!(upstream.take().len(), 1);
}

#[test]
fn an_upstream_that_fails_is_told_apart() {
    let upstream = Upstream::with(|request, stream| match request.target() {
        "/garbage" => stream.write_all(b"SSH-2.0-OpenSSH_9\r\n\r\n").is_err(),
        "/close" => false,
        "/switch" => {
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n").is_err()
        }
        "/lengths" => stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
            .is_err(),
        "/short" => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort").is_err(),
        "/stall" => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort").is_ok(),
        _ => true,
    });
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gate = Sidegate::start(&format!(
        "workers: 1
listeners: [{{ name: public, address: 127.0.0.1:0 }}]
admin: {{ address: 127.0.0.1:0 }}
upstreams:
  - {{ name: app, urls: [http://{}], response_timeout: 300ms, idle_timeout: 300ms }}
  - {{ name: nobody, urls: [http://{nobody}] }}
routes:
  - {{ name: nobody, match: {{ path: /nobody }}, auth: none, upstream: nobody }}
  - {{ name: all, match: {{ path_prefix: / }}, auth: none, upstream: app }}
",
        upstream.address()
    ));
    for (path, expected, error) in [
        ("/nobody", 502, "bad_gateway"),
        ("/garbage", 502, "bad_gateway"),
        ("/close", 502, "bad_gateway"),
        ("/switch", 502, "bad_gateway"),
        ("/lengths", 502, "bad_gateway"),
        ("/hang", 504, "gateway_timeout"),
    ] {
        let answer = gate.get(path, &[]);
        assert_eq!((answer.status, answer.member("error").as_str()), (expected, error), "{path}");
    }
    // The head is out: all that is left is to break the connection, so that nobody takes half an answer for a whole one.
    for path in ["/short", "/stall"] {
        let broken = crate::support::client::try_request(gate.address(), "GET", path, &[], b"");
        assert!(broken.is_err(), "{path}: {broken:?}");
    }
    for reason in ["upstream_unreachable", "upstream_broken", "upstream_response_timeout"] {
        let text = gate.admin("/metrics").text();
        assert!(text.contains(&format!("reason=\"{reason}\"")), "{reason}");
    }
}

#[test]
fn a_client_that_leaves_takes_its_upstream_request_with_it() {
    let (left, gone) = mpsc::channel();
    let left = Mutex::new(left);
    let upstream = Upstream::with(move |_, stream| {
        // Never answers; reads until the gate hangs up.
        let _ = stream.read(&mut [0; 1]);
        let _ = left.lock().unwrap().send(());
        false
    });
    let gate = Sidegate::start(&config(
        upstream.address(),
        "routes: [{ name: all, match: { path_prefix: / }, auth: none, upstream: app }]",
    ));
    let mut connection = Connection::open(gate.address()).unwrap();
    connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    wait_for("the request to arrive", || upstream.take().pop());
    drop(connection);
    gone.recv_timeout(Duration::from_secs(10)).unwrap();
}
