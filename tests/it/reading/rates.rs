//! Requests in a time, by whom they are counted.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;

use super::{ended, open_gate};
use crate::support::{
    Answer, Sidegate, Upstream,
    client::{Connection, request},
    config,
    tokens::{TestKey, claims_with, provider},
    wait_for,
};

#[test]
fn a_route_takes_so_many_requests_over_all_workers() {
    let upstream = Upstream::start();
    let routes = "routes:
  - { name: slow, match: { path: /slow }, auth: none, rate_limit: { by: route, requests: 4, per: 1h }, upstream: app }
  - { name: rest, match: { path_prefix: / }, auth: none, upstream: app }
";
    let gate = Sidegate::start(&config(upstream.address(), routes).replace("workers: 1", "workers: 2"));
    let mut connections: Vec<_> = (0..2).map(|_| Connection::open(gate.address()).unwrap()).collect();
    let mut answers = Vec::new();
    for n in 0..6 {
        let connection = &mut connections[n % 2];
        connection.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        answers.push(connection.answer(false).unwrap());
    }
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 200, 200, 200, 429, 429]);
    let refused = &answers[5];
    assert_eq!(refused.member("error"), "too_many_requests");
    // One comes back in a quarter of an hour.
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((880..=900).contains(&wait), "{wait}");
    assert_eq!((upstream.take().len(), ended(&gate, "rate_limited")), (4, 2.0));
    assert_eq!(gate.get("/other", &[]).status, 200);
}

#[test]
fn an_allowance_comes_back() {
    let upstream = Upstream::start();
    let limit = "{ by: route, requests: 2, per: 1s, burst: 3 }";
    let gate = open_gate(&upstream, &format!(", rate_limit: {limit}"), "");
    let mut connection = Connection::open(gate.address()).unwrap();
    let mut ask = || {
        connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        connection.answer(false).unwrap()
    };
    let burst: Vec<_> = (0..3).map(|_| ask().status).collect();
    assert_eq!(burst, [200; 3]);
    let refused = wait_for("the allowance to be used up", || Some(ask()).filter(|answer| answer.status == 429));
    assert_eq!(refused.header("retry-after"), Some("1"), "half a second, rounded up");
    wait_for("the allowance to come back", || (ask().status == 200).then_some(()));
}

/// Asks as if from `address`, which a trusted proxy vouches for.
fn from(gate: &Sidegate, address: &str) -> u16 {
    gate.get("/", &[("X-Forwarded-For", address)]).status
}

#[test]
fn an_address_has_an_allowance_of_its_own() {
    let upstream = Upstream::start();
    let limit = ", rate_limit: { by: address, requests: 1, per: 1h }";
    let gate = open_gate(&upstream, limit, "trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]");
    for (address, expected) in [
        ("192.0.2.1", 200),
        ("192.0.2.1", 429),
        ("192.0.2.2", 200),
        // The last address that no trusted proxy has: what stands before it anybody may have written.
        ("203.0.113.9, 192.0.2.2", 429),
        ("192.0.2.3, 10.0.0.1", 200),
        ("203.0.113.9, 192.0.2.3,10.1.2.3 , 10.0.0.1", 429),
        ("192.0.2.3:4711", 429),
        ("::ffff:192.0.2.3", 429),
        ("[2001:db8::5]:4711", 200),
        // One customer has a whole /64.
        ("2001:db8::5", 429),
        ("2001:db8:0:0:ffff::1", 429),
        ("2001:db8:0:1::1", 200),
        // What cannot be read is nobody's: the proxy itself is counted.
        ("unknown", 200),
        ("_hidden", 429),
        ("", 429),
        ("192.0.2.77, garbage", 429),
    ] {
        assert_eq!(from(&gate, address), expected, "{address}");
    }
    // Two fields are one list.
    let fields = [("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-For", "192.0.2.99")];
    assert_eq!((gate.get("/", &fields).status, gate.get("/", &fields).status), (200, 429));
}

#[test]
fn a_stranger_has_the_allowance_of_its_own_address_whatever_it_says() {
    let upstream = Upstream::start();
    let gate = open_gate(&upstream, ", rate_limit: { by: address, requests: 1, per: 1h }", "");
    assert_eq!((from(&gate, "192.0.2.1"), from(&gate, "192.0.2.2"), gate.get("/", &[]).status), (200, 429, 429));
}

#[test]
fn a_subject_and_a_client_have_allowances_of_their_own() {
    let (upstream, ours, theirs) = (Upstream::start(), TestKey::new("ES256", "k1"), TestKey::new("ES256", "k1"));
    let jwks = |key: &TestKey| json!({ "keys": [key.jwk()] });
    let gate = Sidegate::start(&config(
        upstream.address(),
        &format!(
            "providers:
  - {{ name: ours, issuer: https://issuer.example, audiences: [api], jwks_inline: {} }}
  - {{ name: theirs, issuer: https://theirs.example, audiences: [api], profile: custom, jwks_inline: {} }}
routes:
  - name: subject
    match: {{ path: /subject }}
    auth: optional
    providers: [ours, theirs]
    rate_limit: {{ by: subject, requests: 2, per: 1h }}
    upstream: app
  - name: client
    match: {{ path: /client }}
    providers: [ours, theirs]
    rate_limit: {{ by: client, requests: 2, per: 1h }}
    upstream: app
  - name: both
    match: {{ path: /both }}
    providers: [ours, theirs]
    rate_limits: [{{ by: subject, requests: 1, per: 1h }}, {{ by: route, requests: 3, per: 1h }}]
    upstream: app
",
            jwks(&ours),
            jwks(&theirs)
        ),
    ));
    let token = |changes| ours.token(&ours.header(), &claims_with(changes));
    let foreign = |mut changes: serde_json::Value| {
        changes["iss"] = json!("https://theirs.example");
        theirs.token(&theirs.header(), &claims_with(changes))
    };
    let (alice, again) = (token(json!({})), token(json!({ "jti": "2", "client_id": "other" })));
    let bob = token(json!({ "sub": "bob" }));
    for (path, token, expected) in [
        // The subject counts, not the token.
        ("/subject", &alice, 200),
        ("/subject", &again, 200),
        ("/subject", &alice, 429),
        ("/subject", &again, 429),
        ("/subject", &bob, 200),
        // The same name from another issuer is somebody else.
        ("/subject", &foreign(json!({})), 200),
        ("/client", &alice, 200),
        ("/client", &bob, 200),
        ("/client", &alice, 429),
        ("/client", &again, 200),
        ("/client", &foreign(json!({ "client_id": null, "azp": "app" })), 200),
        ("/client", &foreign(json!({ "client_id": null, "azp": "app" })), 200),
        ("/client", &foreign(json!({ "client_id": null, "azp": "app" })), 429),
        ("/both", &alice, 200),
        ("/both", &alice, 429),
        ("/both", &bob, 200),
        // Who is refused by one limit has been counted by those before it, and no other subject gets more for it.
        ("/both", &foreign(json!({})), 429),
    ] {
        let answer = gate.get_with(path, token);
        assert_eq!(answer.status, expected, "{path} {answer:?}");
    }
    // To come without a name is no way round: such requests share the allowance of their address.
    let anonymous: Vec<_> = (0..3).map(|_| gate.get("/subject", &[]).status).collect();
    assert_eq!(anonymous, [200, 200, 429]);
    let nameless = foreign(json!({ "client_id": null }));
    assert_eq!([0; 3].map(|_| gate.get_with("/client", &nameless).status), [200, 200, 429]);
}

#[test]
fn what_can_be_counted_before_the_token_is() {
    let (upstream, key) = (Upstream::start(), TestKey::new("ES256", "k1"));
    let route = "routes: [{ name: all, match: { path_prefix: / }, rate_limits: [{ by: address, requests: 2, per: 1h }, { by: subject, requests: 1, per: 1h }], upstream: app }]";
    let gate = Sidegate::start(&config(upstream.address(), &(provider(&[&key], "leeway: 0s") + route)));
    let bad = TestKey::new("ES256", "k1").good();
    let statuses: Vec<_> = (0..4).map(|_| gate.get_with("/", &bad).status).collect();
    assert_eq!(statuses, [401, 401, 429, 429]);
    assert_eq!(gate.rejected("signature_bad"), 2.0, "no more were looked at");
    // A refusal for the rate is told as one to a page as well.
    let page: Answer = request(gate.address(), "GET", "/", &[("Accept", "text/html")], b"");
    assert_eq!((page.status, page.header("content-type")), (429, Some("text/html; charset=utf-8")));
    assert!(page.header("retry-after").is_some() && upstream.take().is_empty());
}

#[test]
fn more_addresses_than_are_counted_share_one_allowance() {
    use sidegate::{clock::Clock, config, gateway::rate::RateLimits};
    let routes = |limit: &str| {
        let dir = tempfile::tempdir().unwrap();
        let route =
            format!("{{ name: all, match: {{ path_prefix: / }}, auth: none, rate_limit: {limit}, upstream: app }}");
        let yaml = crate::support::config("127.0.0.1:1".parse().unwrap(), &format!("routes: [{route}]"));
        crate::support::write_config(dir.path(), &yaml);
        config::load(&dir.path().join("config.yaml")).expect("a good configuration").config.gateway.routes
    };
    let address = |n: u32| IpAddr::from(Ipv4Addr::from_bits(n));
    let limits = RateLimits::new(&routes("{ by: address, requests: 2, per: 1d }"), &Clock::System);
    let take = |limits: &RateLimits, n: u32| limits.count_anonymous(0, || address(n)).is_ok();
    // An attacker with a million addresses.
    for n in 0..1_000_000 {
        take(&limits, n);
    }
    let newcomers = (2_000_000..2_000_100).filter(|n| take(&limits, *n)).count();
    assert_eq!(newcomers, 0, "who comes then shares what others have used up");
    assert!((0..100).all(|n| take(&limits, n)), "who was there before has what is left of its own");
    assert!(!(0..100).any(|n| take(&limits, n)));
    // They are told apart again when others have rested.
    let limits = RateLimits::new(&routes("{ by: address, requests: 1, per: 200ms }"), &Clock::System);
    for n in 0..1_000_000 {
        take(&limits, n);
    }
    wait_for("room for newcomers", || {
        limits.prune();
        (2_000_000..2_000_100).all(|n| take(&limits, n)).then_some(())
    });
}
