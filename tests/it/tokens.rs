//! Access tokens: every algorithm passes, and everything that is wrong with one is refused, with the right status, without
//! reaching the upstream.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::{
    Answer, Sidegate, Upstream, config,
    tokens::{self, TestKey, changed, claims, claims_with, hmac_tag, now, provider},
};

const ROUTE: &str = "routes: [{ name: all, match: { path_prefix: / }, upstream: app }]\n";

fn gate(upstream: &Upstream, keys: &[&TestKey], more: &str) -> Sidegate {
    Sidegate::start(&config(upstream.address(), &(provider(keys, more) + ROUTE)))
}

#[test]
fn every_algorithm_verifies() {
    let upstream = Upstream::start();
    let names = [
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA", "Ed25519", "HS256", "HS384",
        "HS512",
    ];
    let keys: Vec<TestKey> = names.map(|alg| TestKey::new(alg, alg)).into();
    let gate = gate(&upstream, &keys.iter().collect::<Vec<_>>(), &format!("algorithms: [{}]", names.join(", ")));
    for key in &keys {
        assert_eq!(gate.get_with("/", &key.good()).status, 200, "{}", key.alg);
        let other = keys.iter().find(|other| other.alg != key.alg).unwrap();
        let confused = other.token(&key.header(), &claims());
        assert_eq!(gate.get_with("/", &confused).status, 401, "{} signed by {}", key.alg, other.alg);
    }
}

#[test]
fn shapes_that_are_allowed_pass() {
    let (upstream, key) = (Upstream::start(), TestKey::new("ES256", "k1"));
    let gate = gate(&upstream, &[&key], "leeway: 10s");
    let header = |changes| changed(key.header(), changes);
    for (what, token) in [
        ("aud as a list", key.token(&key.header(), &claims_with(json!({ "aud": ["other", "api"] })))),
        ("no typ", key.token(&header(json!({ "typ": null })), &claims())),
        ("typ JWT", key.token(&header(json!({ "typ": "JWT" })), &claims())),
        ("typ as a media type", key.token(&header(json!({ "typ": "application/AT+jwt" })), &claims())),
        ("no kid, with one key", key.token(&header(json!({ "kid": null })), &claims())),
        ("exp with a fraction", key.token(&key.header(), &claims_with(json!({ "exp": now() as f64 + 60.5 })))),
        ("within the leeway after exp", key.token(&key.header(), &claims_with(json!({ "exp": now() - 3 })))),
        ("within the leeway before nbf", key.token(&key.header(), &claims_with(json!({ "nbf": now() + 3 })))),
        ("scp in place of scope", key.token(&key.header(), &claims_with(json!({ "scope": null, "scp": ["read"] })))),
        ("claims of one's own", key.token(&key.header(), &claims_with(json!({ "x": { "y": [1, 2.5, null, true] } })))),
    ] {
        assert_eq!(gate.get_with("/", &token).status, 200, "{what}");
    }
}

#[test]
fn a_profile_asks_for_what_rfc_9068_does() {
    let (upstream, key) = (Upstream::start(), TestKey::new("ES256", "k1"));
    let gate = gate(&upstream, &[&key], "profile: rfc9068");
    assert_eq!(gate.get_with("/", &key.good()).status, 200);
    let header = |changes| changed(key.header(), changes);
    for token in [
        key.token(&header(json!({ "typ": "JWT" })), &claims()),
        key.token(&header(json!({ "typ": null })), &claims()),
        key.token(&key.header(), &claims_with(json!({ "sub": null }))),
        key.token(&key.header(), &claims_with(json!({ "client_id": null }))),
        key.token(&key.header(), &claims_with(json!({ "iat": null }))),
        key.token(&key.header(), &claims_with(json!({ "jti": null }))),
    ] {
        assert_eq!(gate.get_with("/", &token).status, 401, "{token}");
    }
}

#[test]
fn what_an_openid_provider_signs_besides_access_tokens_never_passes() {
    let (upstream, key) = (Upstream::start(), TestKey::new("ES256", "k1"));
    for profile in ["custom", "oidc_access"] {
        let gate = gate(&upstream, &[&key], &format!("profile: {profile}"));
        let plain = changed(key.header(), json!({ "typ": "JWT" }));
        let token = |changes| key.token(&plain, &claims_with(changes));
        for (what, changes) in [
            ("as Keycloak does", json!({ "typ": "Bearer", "azp": "app", "client_id": null, "jti": null })),
            ("as Auth0 does", json!({ "azp": "app", "client_id": null, "gty": "client-credentials" })),
            ("as Okta does", json!({ "cid": "app", "client_id": null, "scope": null, "scp": ["read"] })),
            ("as Entra does", json!({ "azp": "app", "client_id": null, "scope": null, "scp": "read", "nbf": now() })),
        ] {
            assert_eq!(gate.get_with("/", &token(changes)).status, 200, "{profile}: {what}");
        }
        for (what, changes) in [
            ("an ID token, by its nonce", json!({ "azp": "app", "nonce": "n" })),
            ("an ID token, by at_hash", json!({ "azp": "app", "at_hash": "MTIzNDU2Nzg5MDEyMzQ1Ng" })),
            ("an ID token, by c_hash", json!({ "azp": "app", "c_hash": "MTIzNDU2Nzg5MDEyMzQ1Ng" })),
            ("an ID token of Keycloak", json!({ "typ": "ID", "azp": "app" })),
            ("a refresh token of Keycloak", json!({ "typ": "Refresh", "azp": "app" })),
            ("an offline token of Keycloak", json!({ "typ": "Offline", "azp": "app" })),
            ("a logout token", json!({ "events": { "http://schemas.openid.net/event/backchannel-logout": {} } })),
            ("a logout token of Keycloak", json!({ "typ": "Logout" })),
        ] {
            let before = gate.rejected("type_wrong");
            assert_eq!(gate.get_with("/", &token(changes)).status, 401, "{profile}: {what}");
            assert_eq!(gate.rejected("type_wrong"), before + 1.0, "{profile}: {what}");
        }
        let logout = changed(key.header(), json!({ "typ": "logout+jwt" }));
        assert_eq!(gate.get_with("/", &key.token(&logout, &claims())).status, 401);
    }
    // An ID token without any mark still lacks what says whom it was issued to.
    let gate = gate(&upstream, &[&key], "profile: oidc_access");
    for missing in ["client_id", "sub", "iat"] {
        let token = key.token(&key.header(), &claims_with(json!({ missing: null })));
        assert_eq!(gate.get_with("/", &token).status, 401, "{missing}");
    }
    assert_eq!(gate.rejected("claim_missing"), 3.0);
}

#[test]
fn a_provider_may_ask_for_claims_and_for_short_lives() {
    let (upstream, key) = (Upstream::start(), TestKey::new("ES256", "k1"));
    let gate = gate(&upstream, &[&key], "required_claims: [tenant, plan], max_lifetime: 10m, leeway: 20s");
    let token = |changes| {
        let asked = changed(claims(), json!({ "tenant": "t", "plan": { "name": "p" } }));
        key.token(&key.header(), &changed(asked, changes))
    };
    let issued = now();
    for changes in [json!({}), json!({ "iat": issued, "exp": issued + 600 })] {
        assert_eq!(gate.get_with("/", &token(changes)).status, 200);
    }
    for (changes, reason) in [
        (json!({ "tenant": null }), "claim_missing"),
        (json!({ "plan": null }), "claim_missing"),
        (json!({ "iat": null }), "claim_missing"),
        (json!({ "iat": issued, "exp": issued + 601 }), "lifetime_too_long"),
        (json!({ "iat": issued - 86400 }), "lifetime_too_long"),
    ] {
        let before = gate.rejected(reason);
        assert_eq!(gate.get_with("/", &token(changes.clone())).status, 401, "{changes}");
        assert_eq!(gate.rejected(reason), before + 1.0, "{changes}");
    }
}

#[test]
fn a_token_of_one_provider_passes_for_no_other() {
    let (upstream, one, two) = (Upstream::start(), TestKey::new("ES256", "k"), TestKey::new("ES256", "k"));
    let provider = |name: &str, key: &TestKey| {
        let keys = json!({ "keys": [key.jwk()] });
        format!("{{ name: {name}, issuer: 'https://{name}.example', audiences: [{name}-api], jwks_inline: {keys} }}")
    };
    let gate = Sidegate::start(&config(
        upstream.address(),
        &format!(
            "providers: [{}, {}]\n\
             routes: [{{ name: one, match: {{ path_prefix: /one }}, providers: [one], upstream: app }},\n\
             \x20 {{ name: both, match: {{ path_prefix: / }}, providers: [one, two], upstream: app }}]\n",
            provider("one", &one),
            provider("two", &two),
        ),
    ));
    let token = |key: &TestKey, issuer: &str, audience: &str| {
        let (issuer, audience) = (format!("https://{issuer}.example"), format!("{audience}-api"));
        key.token(&key.header(), &claims_with(json!({ "iss": issuer, "aud": audience })))
    };
    for (what, token, at_one, at_both) in [
        ("one's", token(&one, "one", "one"), 200, 200),
        ("two's", token(&two, "two", "two"), 401, 200),
        ("two's key, one's name", token(&two, "one", "one"), 401, 401),
        ("one's key, two's name", token(&one, "two", "two"), 401, 401),
        ("one's, for two's audience", token(&one, "one", "two"), 401, 401),
        ("a third's", token(&one, "three", "one"), 401, 401),
    ] {
        // Twice, for what is remembered of the first time.
        for _ in 0..2 {
            assert_eq!(gate.get_with("/one", &token).status, at_one, "{what}");
            assert_eq!(gate.get_with("/", &token).status, at_both, "{what}");
        }
    }
    let of = |provider, reason| {
        gate.metric(&format!("sidegate_rejected_tokens_total{{provider=\"{provider}\",reason=\"{reason}\"}}"))
    };
    assert_eq!((of("one", "signature_bad"), of("two", "signature_bad"), of("none", "issuer_unknown")), (4.0, 4.0, 4.0));
}

/// What is wrong, the token, and the reason that the metric must give.
type Wrong = (String, String, &'static str);

/// Every wrong token there is, for a provider that takes RS256, ES256 and HS256 with the keys `rs`, `es` and `hs`.
fn wrong_tokens(rs: &TestKey, es: &TestKey, hs: &TestKey) -> Vec<Wrong> {
    let good = es.good();
    let [head, body, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let b64 = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let mut wrong: Vec<Wrong> = Vec::new();
    let mut add = |what: &str, token: String, reason| wrong.push((what.to_owned(), token, reason));

    // The algorithm.
    for alg in ["none", "None", "NONE", "nOnE", "none ", "", "HS1", "es256", "ES256K", "RS1", "dir", "A128GCM"] {
        let header = json!({ "alg": alg, "typ": "at+jwt", "kid": "es" }).to_string();
        add(&format!("alg {alg:?}, no signature"), format!("{}.{body}.", b64(&header)), "algorithm_unsupported");
    }
    add(
        "alg none with a signature",
        es.token(&json!({ "alg": "none", "kid": "es" }), &claims()),
        "algorithm_unsupported",
    );
    add("an alg that is a number", es.token(&json!({ "alg": 256, "kid": "es" }), &claims()), "token_malformed");
    add("an alg that is a list", es.token(&json!({ "alg": ["ES256"], "kid": "es" }), &claims()), "token_malformed");
    add("no alg", es.token(&json!({ "kid": "es" }), &claims()), "token_malformed");
    add(
        "an alg that the provider does not take",
        es.token(&changed(es.header(), json!({ "alg": "ES384" })), &claims()),
        "algorithm_not_allowed",
    );
    for (name, key, secret) in
        [("DER", rs, rs.public_der()), ("PEM", rs, pem(&rs.public_der())), ("EC", es, es.public_der())]
    {
        let signed =
            format!("{}.{}", b64(&json!({ "alg": "HS256", "kid": key.kid }).to_string()), b64(&claims().to_string()));
        let tag = URL_SAFE_NO_PAD.encode(hmac_tag("HS256", &secret, signed.as_bytes()));
        add(
            &format!("a public key ({name}) as the secret of an HMAC"),
            format!("{signed}.{tag}"),
            "key_wrong_algorithm",
        );
        let signed =
            format!("{}.{}", b64(&json!({ "alg": "HS256", "kid": "hs" }).to_string()), b64(&claims().to_string()));
        let tag = URL_SAFE_NO_PAD.encode(hmac_tag("HS256", &secret, signed.as_bytes()));
        add(&format!("the same ({name}) under the secret's name"), format!("{signed}.{tag}"), "signature_bad");
    }
    add(
        "PS256 in place of RS256",
        rs.token(&changed(rs.header(), json!({ "alg": "PS256" })), &claims()),
        "algorithm_not_allowed",
    );
    add(
        "ES256 named on an RSA key",
        rs.token(&changed(rs.header(), json!({ "alg": "ES256" })), &claims()),
        "key_wrong_algorithm",
    );

    // The key.
    for kid in ["other", "ES", "../../dev/null", "es' OR '1'='1", "es\u{0}", "http://evil.example/k", " es"] {
        add(&format!("kid {kid:?}"), es.token(&changed(es.header(), json!({ "kid": kid })), &claims()), "key_unknown");
    }
    add(
        "a kid of 300 bytes",
        es.token(&changed(es.header(), json!({ "kid": "k".repeat(300) })), &claims()),
        "key_unknown",
    );
    add("a kid that is a number", es.token(&changed(es.header(), json!({ "kid": 1 })), &claims()), "token_malformed");
    let stranger = TestKey::new("ES256", "es");
    add("a stranger's key under our name", stranger.good(), "signature_bad");
    add(
        "a jwk in the header",
        stranger.token(&changed(es.header(), json!({ "jwk": stranger.jwk() })), &claims()),
        "key_in_header",
    );
    add(
        "a jku in the header",
        stranger.token(&changed(es.header(), json!({ "jku": "https://evil.example/jwks" })), &claims()),
        "key_in_header",
    );
    add(
        "an x5u in the header",
        stranger.token(&changed(es.header(), json!({ "x5u": "https://evil.example/x" })), &claims()),
        "key_in_header",
    );
    add(
        "an x5c in the header",
        stranger.token(&changed(es.header(), json!({ "x5c": ["AA=="] })), &claims()),
        "key_in_header",
    );

    // The header.
    add(
        "crit with an unknown name",
        es.token(&changed(es.header(), json!({ "crit": ["exp2"], "exp2": 1 })), &claims()),
        "critical_unknown",
    );
    add("an empty crit", es.token(&changed(es.header(), json!({ "crit": [] })), &claims()), "critical_unknown");
    add(
        "b64 false",
        es.token(&changed(es.header(), json!({ "b64": false, "crit": ["b64"] })), &claims()),
        "critical_unknown",
    );
    for typ in ["id+jwt", "logout+jwt", "dpop+jwt", "rt+jwt", "at+jwt ", ""] {
        add(&format!("typ {typ:?}"), es.token(&changed(es.header(), json!({ "typ": typ })), &claims()), "type_wrong");
    }
    add(
        "a header with a name twice",
        es.token_of(br#"{"alg":"none","alg":"ES256","kid":"es"}"#, claims().to_string().as_bytes()),
        "token_malformed",
    );
    add("a header that is a list", es.token_of(br#"["ES256"]"#, claims().to_string().as_bytes()), "token_malformed");
    add("a header that is no JSON", es.token_of(b"alg=ES256", claims().to_string().as_bytes()), "token_malformed");
    add(
        "a header with text after it",
        es.token_of(br#"{"alg":"ES256","kid":"es"} x"#, claims().to_string().as_bytes()),
        "token_malformed",
    );
    add(
        "a number in the header that never ends",
        es.token_of(br#"{"alg":"ES256","kid":"es","x":1e1000000}"#, claims().to_string().as_bytes()),
        "token_malformed",
    );

    // The times.
    let mut claim = |what: &str, changes: Value, reason| {
        wrong.push((what.to_owned(), es.token(&es.header(), &claims_with(changes)), reason));
    };
    claim("expired", json!({ "exp": now() - 1 }), "expired");
    claim("expired long ago", json!({ "exp": 0 }), "expired");
    claim("no exp", json!({ "exp": null }), "claim_missing");
    for exp in [
        json!("9999999999"),
        json!(true),
        json!([now() + 60]),
        json!({}),
        json!(-1),
        json!(-1.5),
        json!(1e300),
        json!(u64::MAX),
        json!(253_402_300_800u64),
    ] {
        claim(&format!("exp {exp}"), json!({ "exp": exp }), "claim_malformed");
    }
    claim("nbf ahead", json!({ "nbf": now() + 60 }), "not_yet_valid");
    claim("nbf as text", json!({ "nbf": "0" }), "claim_malformed");
    claim("iat ahead", json!({ "iat": now() + 60 }), "issued_in_future");
    claim("iat as text", json!({ "iat": "0" }), "claim_malformed");

    // Whose it is, and whom it is for.
    claim("another issuer", json!({ "iss": "https://evil.example" }), "issuer_unknown");
    claim("the issuer with a slash", json!({ "iss": format!("{}/", tokens::ISSUER) }), "issuer_unknown");
    claim("the issuer in capitals", json!({ "iss": tokens::ISSUER.to_uppercase() }), "issuer_unknown");
    claim("no issuer", json!({ "iss": null }), "claim_missing");
    for iss in [json!([tokens::ISSUER]), json!(1), json!({}), json!("")] {
        claim(&format!("iss {iss}"), json!({ "iss": iss }), "claim_malformed");
    }
    claim("another audience", json!({ "aud": "other" }), "audience_wrong");
    claim("an audience that begins like ours", json!({ "aud": "api2" }), "audience_wrong");
    claim("no audience", json!({ "aud": null }), "claim_missing");
    for aud in [json!([]), json!(["api", 1]), json!({ "api": 1 }), json!(1), json!(true)] {
        claim(&format!("aud {aud}"), json!({ "aud": aud }), "claim_malformed");
    }
    for (name, value) in [
        ("sub", json!(1)),
        ("sub", json!("")),
        ("jti", json!([])),
        ("client_id", json!({})),
        ("sid", json!(5)),
        ("scope", json!(1)),
        ("scope", json!("a\"b")),
        ("scope", json!(["a b"])),
    ] {
        claim(&format!("{name} {value}"), json!({ name: value }), "claim_malformed");
    }

    // The claims as text.
    let mut claims_text = |what: &str, text: &[u8]| {
        wrong.push((what.to_owned(), es.token_of(es.header().to_string().as_bytes(), text), "token_malformed"));
    };
    let text = claims().to_string();
    claims_text("a claim twice", format!("{},\"aud\":\"api\"}}", &text[..text.len() - 1]).as_bytes());
    claims_text(
        "a name twice further down",
        format!("{},\"x\":{{\"a\":1,\"a\":2}}}}", &text[..text.len() - 1]).as_bytes(),
    );
    claims_text(
        "nested 200 deep",
        format!("{},\"x\":{}1{}}}", &text[..text.len() - 1], "[".repeat(200), "]".repeat(200)).as_bytes(),
    );
    claims_text(
        "nested 20 deep",
        format!("{},\"x\":{}1{}}}", &text[..text.len() - 1], "[".repeat(20), "]".repeat(20)).as_bytes(),
    );
    claims_text(
        "invalid UTF-8",
        &[text.as_bytes()[..text.len() - 1].to_vec(), b",\"x\":\"\xff\xfe\"}".to_vec()].concat(),
    );
    claims_text("a lone surrogate", format!("{},\"x\":\"\\ud800\"}}", &text[..text.len() - 1]).as_bytes());
    claims_text("a number out of all bounds", format!("{},\"x\":1e1000000}}", &text[..text.len() - 1]).as_bytes());
    claims_text("no claims", b"");
    claims_text("claims that are null", b"null");
    claims_text("claims that are a string", b"\"claims\"");
    claims_text("claims cut off", &text.as_bytes()[..text.len() / 2]);

    // The three parts.
    let mut add = |what: &str, token: String, reason| wrong.push((what.to_owned(), token, reason));
    add(
        "the signature of another token",
        format!(
            "{head}.{body}.{}",
            es.token(&es.header(), &claims_with(json!({ "jti": "2" }))).rsplit('.').next().unwrap()
        ),
        "signature_bad",
    );
    add("no signature", format!("{head}.{body}."), "signature_bad");
    add("a signature of zeros", format!("{head}.{body}.{}", URL_SAFE_NO_PAD.encode([0; 64])), "signature_bad");
    add(
        "a signature cut short",
        format!("{head}.{body}.{}", URL_SAFE_NO_PAD.encode(&URL_SAFE_NO_PAD.decode(signature).unwrap()[..60])),
        "signature_bad",
    );
    add(
        "a signature with more after it",
        format!(
            "{head}.{body}.{}",
            URL_SAFE_NO_PAD.encode([URL_SAFE_NO_PAD.decode(signature).unwrap(), vec![0]].concat())
        ),
        "signature_bad",
    );
    add(
        "a signature in DER",
        format!("{head}.{body}.{}", der_signature(&URL_SAFE_NO_PAD.decode(signature).unwrap())),
        "signature_bad",
    );
    add(
        "other claims under a good signature",
        format!("{head}.{}.{signature}", b64(&claims_with(json!({ "sub": "root" })).to_string())),
        "signature_bad",
    );
    add("a padded signature", format!("{good}=="), "token_malformed");
    add("a padded header", format!("{head}=.{body}.{signature}"), "token_malformed");
    add(
        "bits left over at the end",
        format!("{}{}", &good[..good.len() - 1], flip_last_bits(&good)),
        "token_malformed",
    );
    add("standard base64", format!("{head}.{body}.+/{}", &signature[2..]), "token_malformed");
    add("two parts", format!("{head}.{body}"), "token_malformed");
    add("four parts", format!("{good}.{signature}"), "token_malformed");
    add("six parts", format!("{good}.a.b.c"), "token_malformed");
    add("five parts: a JWE", format!("{head}.{body}.{signature}.a.b"), "token_encrypted");
    add("empty parts", "..".to_owned(), "token_malformed");
    add("one part", "abc".to_owned(), "token_malformed");
    add("9 KiB", es.token(&es.header(), &claims_with(json!({ "x": "x".repeat(7000) }))), "token_too_large");

    // With the secret.
    add(
        "HS256 with another secret",
        {
            let signed = format!("{}.{}", b64(&hs.header().to_string()), b64(&claims().to_string()));
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(hmac_tag("HS256", b"guess", signed.as_bytes())))
        },
        "signature_bad",
    );
    add("HS512 under an HS256 key", es_like_hs512(hs), "algorithm_not_allowed");
    add(
        "no kid, with several keys",
        es.token(&changed(es.header(), json!({ "kid": null })), &claims()),
        "key_ambiguous",
    );
    wrong
}

fn pem(der: &[u8]) -> Vec<u8> {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n")).into_bytes()
}

fn der_signature(raw: &[u8]) -> String {
    let integer = |half: &[u8]| {
        let half = [&[0], half].concat();
        [&[2, half.len() as u8], &half[..]].concat()
    };
    let both = [integer(&raw[..32]), integer(&raw[32..])].concat();
    URL_SAFE_NO_PAD.encode([&[0x30, both.len() as u8], &both[..]].concat())
}

/// The last letter of 64 bytes in base64url carries four bits that must be zero.
fn flip_last_bits(token: &str) -> char {
    const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = LETTERS.find(token.chars().last().unwrap()).unwrap();
    LETTERS.chars().nth(at | 1).unwrap()
}

fn es_like_hs512(hs: &TestKey) -> String {
    hs.token(&changed(hs.header(), json!({ "alg": "HS512" })), &claims())
}

#[test]
fn every_wrong_token_is_refused_for_its_own_reason() {
    let upstream = Upstream::start();
    // A second ES256 key, so that a token has to say which.
    let [rs, es, es2, hs] =
        [("RS256", "rs"), ("ES256", "es"), ("ES256", "es2"), ("HS256", "hs")].map(|(alg, kid)| TestKey::new(alg, kid));
    let gate = gate(&upstream, &[&rs, &es, &es2, &hs], "algorithms: [RS256, ES256, HS256], leeway: 0s");
    for key in [&rs, &es, &es2, &hs] {
        assert_eq!(gate.get_with("/", &key.good()).status, 200, "{}", key.kid);
    }
    upstream.take();
    let wrong = wrong_tokens(&rs, &es, &hs);
    assert!(wrong.len() >= 100, "only {}", wrong.len());
    for (what, token, reason) in &wrong {
        let before = gate.rejected(reason);
        let answer = gate.get_with("/", token);
        assert_invalid_token(what, &answer);
        let (after, log) = (gate.rejected(reason), gate.logged());
        assert_eq!(after, before + 1.0, "{what}: not refused for {reason}: {}", log.lines().last().unwrap_or_default());
    }
    assert!(upstream.take().is_empty());
    // Nothing of it has worn it out.
    assert_eq!(gate.get_with("/", &es.good()).status, 200);
    let log = gate.logged();
    assert!(!log.contains("panicked"), "{log}");
}

fn assert_invalid_token(what: &str, answer: &Answer) {
    assert_eq!(answer.status, 401, "{what}: {answer:?}");
    assert_eq!(answer.member("error"), "invalid_token", "{what}");
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(challenge.starts_with("Bearer realm=\"sidegate\", error=\"invalid_token\""), "{what}: {challenge}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}");
}

#[test]
fn an_enormous_token_is_refused_at_its_size() {
    let (upstream, key) = (Upstream::start(), TestKey::new("ES256", "k1"));
    let gate = gate(&upstream, &[&key], "leeway: 0s");
    let rss = |gate: &Sidegate| gate.metric("process_resident_memory_bytes");
    let before = rss(&gate);
    for _ in 0..20 {
        // Larger than any head may be: the connection's bound comes first.
        match crate::support::client::try_request(
            gate.address(),
            "GET",
            "/",
            &[("Authorization", &format!("Bearer {}", "a".repeat(1 << 20)))],
            b"",
        ) {
            Ok(answer) => assert_eq!(answer.status, 431),
            // It may hang up while we are still sending.
            Err(error) => assert!(
                matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe),
                "{error}"
            ),
        }
    }
    // Larger than a token may be, smaller than a head: 60,000 levels deep, if somebody read it.
    for _ in 0..20 {
        assert_eq!(gate.get_with("/", &"e.".repeat(20_000)).status, 401);
        assert_eq!(gate.get_with("/", &URL_SAFE_NO_PAD.encode("[".repeat(40_000))).status, 401);
    }
    assert!(upstream.take().is_empty());
    assert!(rss(&gate) - before < 8e6, "grew by {} bytes", rss(&gate) - before);
    assert_eq!(gate.get_with("/", &key.good()).status, 200);
}

#[test]
fn a_remembered_token_expires_all_the_same() {
    let (upstream, key) = (Upstream::start(), TestKey::new("ES256", "k1"));
    let gate = gate(&upstream, &[&key], "leeway: 0s");
    let token = key.token(&key.header(), &claims_with(json!({ "exp": now() + 2 })));
    assert_eq!(gate.get_with("/", &token).status, 200);
    assert_eq!(gate.get_with("/", &token).status, 200);
    assert!(gate.metric("sidegate_token_cache_lookups_total{result=\"hit\"}") >= 1.0);
    let answer = crate::support::wait_for("the token to expire", || {
        let answer = gate.get_with("/", &token);
        (answer.status != 200).then_some(answer)
    });
    assert_eq!(answer.status, 401);
    assert_eq!(answer.member("error_description"), "The access token provided has expired.");
}

#[test]
fn what_is_remembered_is_counted_and_bounded() {
    let (upstream, key) = (Upstream::start(), TestKey::new("EdDSA", "k1"));
    let rest = provider(&[&key], "leeway: 0s") + ROUTE + "tokens: { cache: 16KiB }\n";
    let gate = Sidegate::start(&config(upstream.address(), &rest).replace("workers: 1", "workers: 2"));
    let size = || (gate.metric("sidegate_token_cache_entries"), gate.metric("sidegate_token_cache_bytes"));
    assert_eq!(gate.get_with("/", &key.good()).status, 200);
    crate::support::wait_for("an entry", || (size().0 == 1.0).then_some(()));
    assert!(size().1 > 100.0);
    for n in 0..100 {
        let token = key.token(&key.header(), &claims_with(json!({ "jti": n.to_string() })));
        assert_eq!(gate.get_with("/", &token).status, 200);
    }
    // Each worker counts now and then.
    crate::support::wait_for("more", || (size().0 > 4.0).then_some(()));
    assert!(size().1 <= 2.0 * 16384.0, "{:?}", size());
}

#[test]
fn without_a_cache_every_token_is_verified() {
    let (upstream, key) = (Upstream::start(), TestKey::new("EdDSA", "k1"));
    let gate = Sidegate::start(&config(
        upstream.address(),
        &(provider(&[&key], "leeway: 0s") + ROUTE + "tokens: { cache: 0 }\n"),
    ));
    let token = key.good();
    for _ in 0..3 {
        assert_eq!(gate.get_with("/", &token).status, 200);
    }
    assert_eq!(gate.metric("sidegate_token_cache_lookups_total{result=\"hit\"}"), 0.0);
}
