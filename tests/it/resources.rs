//! Tokens for one of several resources (RFC 8707), and what clients can find out about a route by its address alone (RFC 9728).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::{Answer, Sidegate, Upstream, client::request, config_with_issuer};

const ORDERS: &str = "http://localhost:3000/orders";
const BILLS: &str = "http://localhost:3000/bills";

/// `/orders` and `/bills`, each for tokens that are for it; all else for those that are for `api`.
fn gate(upstream: &Upstream) -> Sidegate {
    let routes = format!(
        "routes:\n\
         \x20 - {{ name: orders, match: {{ path_prefix: /orders, methods: [GET] }}, resource: '{ORDERS}', \
         require: {{ scopes: [read] }}, upstream: app }}\n\
         \x20 - {{ name: write, match: {{ path_prefix: /orders }}, resource: '{ORDERS}', \
         require: {{ scopes: [read, write] }}, upstream: app }}\n\
         \x20 - {{ name: bills, match: {{ path_prefix: /bills }}, resource: '{BILLS}', require: {{ bound: true }}, upstream: app }}\n\
         \x20 - {{ name: all, match: {{ path_prefix: / }}, audiences: [api], upstream: app }}\n"
    );
    let yaml = config_with_issuer(upstream.address(), &routes)
        .replace("audiences: [api], jwks", &format!("audiences: [api, '{ORDERS}', '{BILLS}'], jwks"))
        .replace("audience: api }", &format!("audience: api, resources: ['{ORDERS}', '{BILLS}'] }}"));
    let web = "    - { id: web, grants: [authorization_code, refresh_token], scopes: [read], consent: skip, \
               redirect_uris: ['http://127.0.0.1/cb'] }\n";
    Sidegate::start(&yaml.replace("  clients:\n", &format!("  clients:\n{web}")))
}

fn encoded(resource: &str) -> String {
    form_urlencoded::byte_serialize(resource.as_bytes()).collect()
}

fn for_all(resources: &[&str]) -> String {
    resources.iter().map(|resource| format!("&resource={}", encoded(resource))).collect()
}

fn token(gate: &Sidegate, form: &str) -> Answer {
    gate.post_form("/oauth/token", &[], form)
}

#[track_caller]
fn audience(tokens: &Answer) -> Value {
    assert_eq!(tokens.status, 200, "{tokens:?}");
    let token = tokens.member("access_token");
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice::<Value>(&payload).unwrap()["aud"].clone()
}

#[track_caller]
fn refused(answer: &Answer) {
    assert_eq!((answer.status, &*answer.member("error")), (400, "invalid_target"), "{answer:?}");
}

#[test]
fn a_token_is_for_what_was_asked_and_passes_there_alone() {
    let upstream = Upstream::start();
    let gate = gate(&upstream);
    let service = "grant_type=client_credentials&client_id=app&client_secret=secret";
    for (resources, expected) in [
        (&[][..], json!("api")),
        (&["api"], json!("api")),
        (&[ORDERS], json!(ORDERS)),
        (&[ORDERS, BILLS, ORDERS], json!([ORDERS, BILLS])),
    ] {
        assert_eq!(audience(&token(&gate, &(service.to_owned() + &for_all(resources)))), expected);
    }
    for wrong in ["https://evil.example/", "http://localhost:3000/orders/", "http://localhost:3000/Orders", "orders"] {
        refused(&token(&gate, &(service.to_owned() + &for_all(&[ORDERS, wrong]))));
    }
    let nine = token(&gate, &(service.to_owned() + &for_all(&[ORDERS; 9])));
    assert_eq!((nine.status, &*nine.member("error")), (400, "invalid_request"));

    let orders = token(&gate, &(service.to_owned() + &for_all(&[ORDERS]))).member("access_token");
    assert_eq!(gate.get_with("/orders/7", &orders).status, 200);
    assert_eq!(gate.get_with("/", &orders).status, 401);
    let plain = token(&gate, service).member("access_token");
    assert_eq!(gate.get_with("/orders/7", &plain).status, 401);
    assert_eq!(gate.get_with("/", &plain).status, 200);
    assert_eq!(gate.rejected("audience_wrong"), 0.0, "the provider takes all of them");
}

#[test]
fn a_refresh_can_narrow_what_a_login_was_for_and_not_widen_it() {
    let upstream = Upstream::start();
    let gate = gate(&upstream);
    let ask = "/oauth/authorize?response_type=code&client_id=web&redirect_uri=http%3A%2F%2F127.0.0.1%3A5000%2Fcb\
               &code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256";
    let exchange = |ask: &str, more: &str| {
        let (code, _) = crate::browser::code_for(&gate, ask);
        let form = format!(
            "grant_type=authorization_code&client_id=web&code={code}\
             &code_verifier=dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk{more}"
        );
        token(&gate, &form)
    };
    let refresh = |tokens: &Answer, more: &str| {
        let refresh = tokens.member("refresh_token");
        token(&gate, &format!("grant_type=refresh_token&client_id=web&refresh_token={refresh}{more}"))
    };
    let both = ask.to_owned() + &for_all(&[ORDERS, BILLS]);
    let tokens = exchange(&both, &for_all(&[ORDERS]));
    assert_eq!(audience(&tokens), ORDERS);
    let tokens = refresh(&tokens, "");
    assert_eq!(audience(&tokens), json!([ORDERS, BILLS]), "all that the login was for");
    let narrow = refresh(&tokens, &for_all(&[BILLS]));
    assert_eq!(audience(&narrow), BILLS);
    refused(&refresh(&narrow, &for_all(&["api"])));
    assert_eq!(refresh(&narrow, "").status, 200, "nothing was spent on it");
    refused(&exchange(&both, &for_all(&["api"])));
    // Who has not said what it is for may say so later, once.
    let tokens = exchange(ask, &for_all(&[BILLS]));
    assert_eq!(audience(&tokens), BILLS);
    let tokens = refresh(&tokens, "");
    assert_eq!(audience(&tokens), BILLS);
    refused(&refresh(&tokens, &for_all(&[ORDERS])));
    // Who never says so stays with what all are for.
    let tokens = refresh(&exchange(ask, ""), "");
    assert_eq!(audience(&tokens), "api");
    refused(&refresh(&tokens, &for_all(&[ORDERS])));
    assert_eq!(audience(&refresh(&tokens, &for_all(&["api"]))), "api");
    let back = gate.get(&(ask.to_owned() + "&state=s&resource=https%3A%2F%2Fevil.example"), &[]);
    let location = back.header("location").unwrap();
    assert!(location.contains("error=invalid_target") && location.contains("state=s"), "{location}");
}

#[test]
fn a_client_learns_from_a_refusal_where_to_get_a_token() {
    let upstream = Upstream::start();
    let gate = gate(&upstream);
    let get = |path: &str, host: &str| request(gate.address(), "GET", path, &[("Host", host)], b"");
    let place = "/.well-known/oauth-protected-resource/orders";
    let answer = get("/orders/7", "localhost:3000");
    assert_eq!(
        answer.header("www-authenticate").unwrap(),
        format!("Bearer realm=\"sidegate\", resource_metadata=\"http://localhost:3000{place}\", scope=\"read\"")
    );
    let document = get(place, "localhost:3000");
    assert_eq!((document.status, document.header("access-control-allow-origin")), (200, Some("*")));
    let algorithms =
        json!(["ES256", "ES384", "EdDSA", "Ed25519", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"]);
    assert_eq!(
        document.json(),
        json!({
            "resource": ORDERS,
            "authorization_servers": ["http://localhost:3000"],
            "scopes_supported": ["read", "write"],
            "bearer_methods_supported": ["header"],
            "dpop_signing_alg_values_supported": algorithms,
        })
    );
    let head = request(gate.address(), "HEAD", place, &[("Host", "localhost")], b"");
    assert_eq!((head.status, head.text().as_str()), (200, ""));
    // Of another host, of what is none, and by another method it is a path like any other.
    for (method, path, host) in [
        ("GET", place, "other.example"),
        ("GET", "/.well-known/oauth-protected-resource", "localhost"),
        ("GET", "/.well-known/oauth-protected-resource/orders/7", "localhost"),
        ("POST", place, "localhost"),
    ] {
        assert_eq!(request(gate.address(), method, path, &[("Host", host)], b"").status, 401, "{method} {path} {host}");
    }
    // A route that takes bound tokens alone says both.
    let challenge = get("/bills", "localhost").header("www-authenticate").unwrap().to_owned();
    assert!(challenge.starts_with("DPoP realm=\"sidegate\", resource_metadata=\"http://localhost:3000/.well-known/"));
    assert!(upstream.take().is_empty());
}
