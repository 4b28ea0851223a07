//! Clients that sign who they are: `private_key_jwt` (RFC 7523), with assertions that are made without Sidegate's own code.

use sidegate::token::keys::KeySet;

use super::{audit::written, *};
use crate::support::tokens::{TestKey, changed, hmac_tag};

const SELF: &str = "grant_type=client_credentials";
const TYPE: &str = "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
const ALGORITHMS: [&str; 9] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

fn jwks(keys: &[&TestKey]) -> KeySet {
    let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
    KeySet::parse_jwks(&json!({ "keys": keys }).to_string()).unwrap().0
}

/// An issuer at which `svc` signs with one of these keys.
async fn rig(keys: &[&TestKey]) -> Rig {
    Rig::with(|config| config.clients[2].credentials = Credentials::Keys(jwks(keys))).await
}

fn header(key: &TestKey) -> Value {
    json!({ "alg": key.alg, "kid": key.kid })
}

/// What `svc` says when the clock stands at [`START`]; nobody has had its `jti`.
fn says() -> Value {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let jti = format!("jti-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    json!({ "iss": "svc", "sub": "svc", "aud": URL, "exp": START + 60, "iat": START, "jti": jti })
}

fn made(key: &TestKey, changes: Value) -> String {
    key.token(&header(key), &changed(says(), changes))
}

fn with(assertion: &str) -> String {
    format!("{SELF}&{TYPE}&client_assertion={assertion}")
}

#[tokio::test]
async fn a_client_signs_by_any_algorithm_and_at_every_endpoint() {
    for alg in ALGORITHMS {
        let key = TestKey::new(alg, "k1");
        let rig = rig(&[&key]).await;
        let tokens = rig.token(None, &with(&made(&key, json!({})))).await.tokens();
        assert_eq!(claims(&tokens.access)["client_id"], "svc", "{alg}");
        let about = |token: &str| format!("token={token}&{TYPE}&client_assertion={}", made(&key, json!({})));
        let told = rig.post("/oauth/introspect", None, &about(&tokens.access)).await;
        assert_eq!((told.status().as_u16(), &told.json()["active"]), (200, &json!(true)), "{alg}");
        assert_eq!(rig.post("/oauth/revoke", None, &about(&tokens.access)).await.status(), 200, "{alg}");
        assert!(rig.is_revoked(&tokens.access), "{alg}");
    }
}

#[tokio::test]
async fn what_libraries_write_differently_is_taken() {
    let key = TestKey::new("ES256", "k1");
    let rig = rig(&[&key]).await;
    let endpoint = format!("{URL}/oauth/token");
    for changes in [
        json!({ "aud": [URL] }),
        json!({ "aud": endpoint }),
        json!({ "aud": [endpoint] }),
        json!({ "iat": null }),
        json!({ "nbf": START }),
        json!({ "more": { "of": "it" } }),
        // Clocks differ.
        json!({ "exp": START - 29 }),
        json!({ "exp": START + 330, "iat": null }),
        json!({ "iat": START + 30, "nbf": START + 30 }),
        // Authlib's are for an hour.
        json!({ "exp": START + 3600 }),
    ] {
        rig.token(None, &with(&made(&key, changes))).await.tokens();
    }
    for typ in ["JWT", "jwt", "client-authentication+jwt", "application/client-authentication+jwt"] {
        let header = changed(header(&key), json!({ "typ": typ }));
        rig.token(None, &with(&key.token(&header, &says()))).await.tokens();
    }
    let unnamed = key.token(&json!({ "alg": "ES256" }), &says());
    rig.token(None, &with(&unnamed)).await.tokens();
    rig.token(None, &format!("{}&client_id=svc", with(&made(&key, json!({}))))).await.tokens();
}

#[tokio::test]
async fn an_assertion_that_proves_nothing_is_refused_and_nobody_is_told_why() {
    let (key, thief, other) = (TestKey::new("ES256", "k1"), TestKey::new("ES256", "k1"), TestKey::new("RS256", "k2"));
    let by = |changes: Value| made(&key, changes);
    let head = |changes: Value| key.token(&changed(header(&key), changes), &says());
    let claims = says().to_string();
    // The public key, taken for a secret; and no signature at all.
    let forged = |alg: &str, kid: Value| {
        let parts = [changed(json!({ "alg": alg }), json!({ "kid": kid })).to_string(), says().to_string()];
        parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".")
    };
    let shared = |alg: &str| {
        let signed = forged(alg, json!("k1"));
        let tag = URL_SAFE_NO_PAD.encode(hmac_tag(alg, &key.public_der(), signed.as_bytes()));
        format!("{signed}.{tag}")
    };
    let tampered = {
        let good = by(json!({}));
        let parts: Vec<_> = good.split('.').collect();
        format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(changed(says(), json!({ "x": 1 })).to_string()), parts[2])
    };
    let cases = [
        (by(json!({ "aud": "https://other.example" })), "audience_wrong"),
        (by(json!({ "aud": format!("{URL}/") })), "audience_wrong"),
        (by(json!({ "aud": "api" })), "audience_wrong"),
        (by(json!({ "aud": format!("{URL}/oauth/introspect") })), "audience_wrong"),
        (by(json!({ "aud": [URL, "https://other.example"] })), "audience_wrong"),
        (by(json!({ "aud": [URL, URL] })), "audience_wrong"),
        (by(json!({ "aud": [] })), "claim_malformed"),
        (by(json!({ "aud": 7 })), "claim_malformed"),
        (by(json!({ "aud": null })), "claim_missing"),
        (by(json!({ "iss": "app" })), "issuer_unknown"),
        (by(json!({ "iss": URL })), "issuer_unknown"),
        (by(json!({ "iss": null })), "claim_missing"),
        (by(json!({ "iss": ["svc"] })), "claim_malformed"),
        (by(json!({ "sub": null })), "claim_missing"),
        (by(json!({ "sub": "" })), "claim_malformed"),
        (by(json!({ "sub": "nobody", "iss": "nobody" })), "unknown_client"),
        (by(json!({ "sub": "SVC", "iss": "SVC" })), "unknown_client"),
        (by(json!({ "sub": "app", "iss": "app" })), "wrong_method"),
        (by(json!({ "sub": "spa", "iss": "spa" })), "wrong_method"),
        (by(json!({ "exp": null })), "claim_missing"),
        (by(json!({ "exp": "soon" })), "claim_malformed"),
        (by(json!({ "exp": START - 30 })), "expired"),
        (by(json!({ "exp": START - 3600 })), "expired"),
        (by(json!({ "exp": START + 331, "iat": null })), "lifetime_too_long"),
        (by(json!({ "exp": START + 86_400, "iat": null })), "lifetime_too_long"),
        (by(json!({ "exp": START + 3600, "iat": START - 330 })), "expired"),
        (by(json!({ "iat": START + 31 })), "issued_in_future"),
        (by(json!({ "nbf": START + 31 })), "not_yet_valid"),
        (by(json!({ "iat": "now" })), "claim_malformed"),
        (by(json!({ "jti": null })), "claim_missing"),
        (by(json!({ "jti": "" })), "claim_malformed"),
        (by(json!({ "jti": 7 })), "claim_malformed"),
        (by(json!({ "jti": "j".repeat(257) })), "claim_malformed"),
        (thief.token(&header(&key), &says()), "signature_bad"),
        (tampered, "signature_bad"),
        (other.token(&header(&other), &says()), "key_unknown"),
        (head(json!({ "kid": "k9" })), "key_unknown"),
        (head(json!({ "alg": "ES384" })), "key_wrong_algorithm"),
        (head(json!({ "alg": "RS256" })), "key_wrong_algorithm"),
        (head(json!({ "typ": "at+jwt" })), "type_wrong"),
        (head(json!({ "typ": "dpop+jwt" })), "type_wrong"),
        (head(json!({ "crit": ["x"] })), "critical_unknown"),
        (head(json!({ "jwk": thief.jwk() })), "key_in_header"),
        (head(json!({ "jku": "https://evil.example/keys" })), "key_in_header"),
        (head(json!({ "alg": "None" })), "algorithm_unsupported"),
        (format!("{}.", forged("none", Value::Null)), "algorithm_unsupported"),
        (format!("{}.", forged("ES256", Value::Null)), "signature_bad"),
        (shared("HS256"), "algorithm_not_allowed"),
        (shared("HS512"), "algorithm_not_allowed"),
        (
            key.token_of(header(&key).to_string().as_bytes(), claims.replace("{", "{\"sub\":\"app\",").as_bytes()),
            "token_malformed",
        ),
        ("no.jwt".into(), "token_malformed"),
        ("a.b.c.d.e".into(), "token_encrypted"),
    ];
    let (_, lines) = written(rig(&[&key]).await, async |rig| {
        for (assertion, reason) in &cases {
            let answer = rig.token(None, &with(assertion)).await;
            assert_eq!(answer.status(), 401, "{reason}: {assertion}");
            answer.assert_error(401, "invalid_client");
            assert_eq!(answer.json()["error_description"], "Client authentication failed.", "{reason}");
        }
    })
    .await;
    assert_eq!(lines.len(), cases.len());
    for (line, (_, reason)) in lines.iter().zip(&cases) {
        assert_eq!((&line["event"], &line["reason"]), (&json!("client_authentication"), &json!(reason)), "{line}");
        if *reason == "signature_bad" {
            assert_eq!(line["client"], "svc");
        }
    }
}

#[tokio::test]
async fn an_assertion_is_good_once_until_it_has_expired() {
    let key = TestKey::new("ES256", "k1");
    let rig = rig(&[&key]).await;
    let (one, last) =
        (made(&key, json!({ "jti": "one" })), made(&key, json!({ "jti": "last", "exp": START + 360, "iat": null })));
    rig.token(None, &with(&one)).await.tokens();
    rig.token(None, &with(&one)).await.assert_error(401, "invalid_client");
    // Another one with its name is the same; at every endpoint, and in another process on the same store.
    rig.token(None, &with(&made(&key, json!({ "jti": "one", "exp": START + 61 }))))
        .await
        .assert_error(401, "invalid_client");
    let form = format!("token=x&{TYPE}&client_assertion={one}");
    rig.post("/oauth/introspect", None, &form).await.assert_error(401, "invalid_client");
    rig.post("/oauth/revoke", None, &form).await.assert_error(401, "invalid_client");
    let (rig, lines) = written(rig, async |rig| {
        rig.token(None, &with(&one)).await.assert_error(401, "invalid_client");
        // For as long as it could be shown.
        rig.pass(89 * SECOND);
        rig.issuer.sweep().await;
        rig.token(None, &with(&one)).await.assert_error(401, "invalid_client");
        rig.pass(SECOND);
        rig.token(None, &with(&one)).await.assert_error(401, "invalid_client");
    })
    .await;
    let reasons: Vec<_> = lines.iter().map(|line| line["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["assertion_replayed", "assertion_replayed", "expired"]);
    // One that has failed for another reason is not spent, whoever it was that showed it first.
    let forged = TestKey::new("ES256", "k1").token(&header(&key), &changed(says(), json!({ "jti": "last" })));
    rig.token(None, &with(&forged)).await.assert_error(401, "invalid_client");
    rig.token(None, &format!("{}&client_id=app", with(&last))).await.assert_error(401, "invalid_client");
    rig.token(None, &with(&last)).await.tokens();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_show_one_at_once_one_is_let_in() {
    let key = TestKey::new("ES256", "k1");
    let (rig, body) = (Arc::new(rig(&[&key]).await), with(&made(&key, json!({}))));
    let asked: Vec<_> = (0..32)
        .map(|_| {
            let (rig, body) = (rig.clone(), body.clone());
            tokio::spawn(async move { rig.token(None, &body).await.status().as_u16() })
        })
        .collect();
    let mut statuses = BTreeMap::new();
    for answer in asked {
        *statuses.entry(answer.await.unwrap()).or_insert(0) += 1;
    }
    assert_eq!(statuses, BTreeMap::from([(200, 1), (401, 31)]));
}

#[tokio::test]
async fn a_client_shows_who_it_is_in_its_own_way_and_in_no_other() {
    let key = TestKey::new("ES256", "k1");
    let good = || made(&key, json!({}));
    // Two ways at once.
    let (rig, lines) = written(rig(&[&key]).await, async |rig| {
        let secret = format!("{}&client_id=svc&client_secret=generated", with(&good()));
        rig.token(None, &secret).await.assert_error(400, "invalid_request");
        rig.token(Some(&basic("svc", "")), &with(&good())).await.assert_error(400, "invalid_request");
        rig.token(Some(&app()), &with(&good())).await.assert_error(400, "invalid_request");
        let twice = format!("{}&client_assertion={}", with(&good()), good());
        rig.token(None, &twice).await.assert_error(400, "invalid_request");
        // More than is looked at.
        rig.token(None, &with(&"x".repeat(8193))).await.assert_error(400, "invalid_request");
    })
    .await;
    assert!(lines.iter().all(|line| line["event"] == "token"), "{lines:?}");
    // Half of one way, or another client's.
    let (mut rig, lines) = written(rig, async |rig| {
        for body in [
            format!("{SELF}&client_assertion={}", good()),
            format!("{SELF}&{TYPE}"),
            format!("{SELF}&{TYPE}&client_assertion="),
            format!("{SELF}&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:saml2-bearer&client_assertion={}", good()),
            format!("{}&client_id=app", with(&good())),
            // Nothing of what it has, or what it has none of.
            format!("{SELF}&client_id=svc"),
            format!("{SELF}&client_id=svc&client_secret=generated"),
        ] {
            rig.token(None, &body).await.assert_error(401, "invalid_client");
        }
        for secret in ["", "generated"] {
            assert_eq!(rig.token(Some(&basic("svc", secret)), SELF).await.status(), 401);
        }
    })
    .await;
    let reasons: Vec<_> = lines.iter().map(|line| line["reason"].as_str().unwrap()).collect();
    let expected = [&["assertion_type"; 4][..], &["assertion_of_another_client"], &["wrong_method"; 4]].concat();
    assert_eq!(reasons, expected);

    // A disabled one, and one that has another key now.
    rig.config.clients[2].disabled = true;
    let (rig, lines) = written(rig, async |rig| {
        rig.token(None, &with(&good())).await.assert_error(401, "invalid_client");
    })
    .await;
    assert_eq!(lines[0]["reason"], "disabled");
    let new = TestKey::new("RS256", "k2");
    let both = jwks(&[&key, &new]);
    let rig = rig.restarted(|config| {
        config.clients[2].disabled = false;
        config.clients[2].credentials = Credentials::Keys(both);
    });
    let rig = rig.await;
    rig.token(None, &with(&good())).await.tokens();
    rig.token(None, &with(&made(&new, json!({})))).await.tokens();
    let rig = rig.restarted(|config| config.clients[2].credentials = Credentials::Keys(jwks(&[&new]))).await;
    rig.token(None, &with(&good())).await.assert_error(401, "invalid_client");
    rig.token(None, &with(&made(&new, json!({})))).await.tokens();
}

#[tokio::test]
async fn a_client_that_signs_is_as_confidential_as_one_with_a_secret() {
    let key = TestKey::new("ES256", "k1");
    let rig = Rig::with(|config| config.clients[0].credentials = Credentials::Keys(jwks(&[&key]))).await;
    let shows = || format!("{TYPE}&client_assertion={}", made(&key, json!({ "iss": "app", "sub": "app" })));
    let tokens = rig.token(None, &format!("{LOGIN}&{}", shows())).await.tokens();
    let refresh = |token: &str| format!("grant_type=refresh_token&refresh_token={token}&{}", shows());
    let next = rig.token(None, &refresh(&tokens.refresh)).await.tokens();
    // It may ask again for longer than a public one.
    rig.pass(120 * SECOND);
    let late = format!(
        "grant_type=refresh_token&refresh_token={}&{TYPE}&client_assertion={}",
        tokens.refresh,
        made(&key, json!({ "iss": "app", "sub": "app", "exp": START + 180, "iat": START + 120 }))
    );
    assert_eq!(rig.token(None, &late).await.tokens().refresh, next.refresh);
    rig.token(None, &format!("grant_type=refresh_token&refresh_token={}&client_id=app", next.refresh))
        .await
        .assert_error(401, "invalid_client");
}

#[tokio::test]
async fn the_metadata_say_by_what_clients_sign() {
    let path = "/.well-known/oauth-authorization-server";
    let (ec, rsa) = (TestKey::new("ES256", "k1"), TestKey::new("RS256", "k2"));
    let keys = jwks(&[&ec, &rsa]);
    let rig = Rig::with(|config| config.clients[2].credentials = Credentials::Keys(keys)).await;
    let told = rig.send(Request::get(path).body(Bytes::new()).unwrap()).await.json();
    let (all, proving) = (
        json!(["client_secret_basic", "client_secret_post", "private_key_jwt", "none"]),
        json!(["client_secret_basic", "client_secret_post", "private_key_jwt"]),
    );
    for (endpoint, methods) in [("token", &all), ("revocation", &all), ("introspection", &proving)] {
        assert_eq!(&told[format!("{endpoint}_endpoint_auth_methods_supported")], methods, "{endpoint}");
        let algorithms = &told[format!("{endpoint}_endpoint_auth_signing_alg_values_supported")];
        assert_eq!(algorithms, &json!(["RS256", "ES256"]), "{endpoint}");
    }
    // Nobody signs, and nobody else is there.
    let told = Rig::new().await.send(Request::get(path).body(Bytes::new()).unwrap()).await.json();
    assert!(told.get("token_endpoint_auth_signing_alg_values_supported").is_none());
    assert_eq!(
        told["introspection_endpoint_auth_methods_supported"],
        json!(["client_secret_basic", "client_secret_post"])
    );
    let rig = Rig::with(|config| {
        config.clients.truncate(3);
        config.clients.drain(..2);
        config.clients[0].credentials = Credentials::Keys(jwks(&[&ec]));
    });
    let told = rig.await.send(Request::get(path).body(Bytes::new()).unwrap()).await.json();
    assert_eq!(told["token_endpoint_auth_methods_supported"], json!(["private_key_jwt"]));
    assert_eq!(told["introspection_endpoint_auth_methods_supported"], json!(["private_key_jwt"]));
}
