//! Tokens for the next hop (RFC 8693): a service that has been called exchanges the caller's token for one for the service that
//! it calls.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::{
    Answer, Sidegate, Upstream,
    client::{hex, sha256},
    config_with_issuer,
    tokens::TestKey,
};

const BILLS: &str = "https://bills.example";
const MAIL: &str = "https://mail.example";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// `shop` is `api` and may call `bills` and `mail`; `bills` may call `mail`; `app` and `spa` have users.
fn gate(upstream: &Upstream) -> Sidegate {
    let routes = format!(
        "routes:\n\
         \x20 - {{ name: bills, match: {{ path_prefix: /bills }}, audiences: ['{BILLS}'], upstream: app, \
         claim_headers: [{{ claim: act.sub, header: x-act }}, {{ claim: sub, header: x-sub }}] }}\n\
         \x20 - {{ name: mail, match: {{ path_prefix: /mail }}, audiences: ['{MAIL}'], upstream: app }}\n\
         \x20 - {{ name: all, match: {{ path_prefix: / }}, audiences: [api], upstream: app }}\n"
    );
    let secret = hex(&sha256(b"secret"));
    let service = |id: &str, from: &str, to: &str| {
        format!(
            "    - {{ id: {id}, secret_hash: 'sha256:{secret}', grants: ['{GRANT}', client_credentials], \
             scopes: [read, bill], exchange: {{ from: ['{from}'], to: [{to}] }} }}\n"
        )
    };
    let services =
        service("shop", "api", &format!("'{BILLS}', '{MAIL}'")) + &service("bills", BILLS, &format!("'{MAIL}'"));
    let yaml = config_with_issuer(upstream.address(), &routes)
        .replace("audiences: [api], jwks", &format!("audiences: [api, '{BILLS}', '{MAIL}'], jwks"))
        .replace("audience: api }", &format!("audience: api, resources: ['{BILLS}', '{MAIL}'] }}"))
        .replace("lifetime: 5m", "lifetime: 10m")
        .replace("  clients:\n", &format!("  clients:\n{services}"));
    Sidegate::start(&yaml)
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn exchange(gate: &Sidegate, service: &str, token: &str, more: &str) -> Answer {
    let form = format!(
        "client_id={service}&client_secret=secret&grant_type={}&subject_token={token}&subject_token_type={}{more}",
        encoded(GRANT),
        encoded(ACCESS_TOKEN)
    );
    gate.post_form("/oauth/token", &[], &form)
}

fn claims(tokens: &Answer) -> Value {
    assert_eq!(tokens.status, 200, "{tokens:?}");
    let token = tokens.member("access_token");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

fn log_in(gate: &Sidegate) -> Answer {
    let form = "grant_type=password&client_id=app&client_secret=secret&username=alice&password=wonderland";
    gate.post_form("/oauth/token", &[], form)
}

#[test]
fn a_service_gets_a_token_for_the_next_that_says_who_acts_for_whom() {
    let upstream = Upstream::start();
    let gate = gate(&upstream);
    let users = log_in(&gate);
    let user = claims(&users);
    let to_bills = format!("&resource={}", encoded(BILLS));
    let first = exchange(&gate, "shop", &users.member("access_token"), &to_bills);
    let told = claims(&first);
    assert_eq!(
        (first.member("token_type").as_str(), first.member("issued_token_type").as_str()),
        ("Bearer", ACCESS_TOKEN)
    );
    assert!(first.json().get("refresh_token").is_none());
    assert_eq!(told["act"], json!({ "sub": "client:shop", "client_id": "shop" }));
    assert_eq!((&told["sub"], &told["sid"], &told["aud"]), (&user["sub"], &user["sid"], &json!(BILLS)));
    assert_eq!((&told["client_id"], &told["scope"]), (&json!("shop"), &json!("read")), "what both may");
    assert!(told["exp"].as_u64() <= user["exp"].as_u64() && told["jti"] != user["jti"]);
    let remaining = told["exp"].as_u64().unwrap() - told["iat"].as_u64().unwrap();
    assert_eq!(first.json()["expires_in"], remaining);

    // It passes where it is for, and nowhere else; and the upstream can be told who acts.
    let bills = first.member("access_token");
    assert_eq!(gate.get_with("/bills", &bills).status, 200);
    let reached = upstream.only();
    assert_eq!((reached.all("x-sub"), reached.all("x-act")), (vec!["alice"], vec!["client:shop"]));
    assert_eq!(gate.get_with("/", &bills).status, 401);

    // The next one does the same; where there is one choice, it goes without saying. The one before it stays in sight.
    let second = exchange(&gate, "bills", &bills, "&scope=read");
    let told = claims(&second);
    assert_eq!(
        told["act"],
        json!({ "sub": "client:bills", "client_id": "bills", "act": { "sub": "client:shop", "client_id": "shop" } })
    );
    assert_eq!((&told["sub"], &told["aud"]), (&json!("alice"), &json!(MAIL)));
    assert_eq!(gate.get_with("/mail", &second.member("access_token")).status, 200);

    // All of it ends with the session.
    let form = format!("client_id=app&client_secret=secret&token={}", users.member("refresh_token"));
    assert_eq!(gate.post_form("/oauth/revoke", &[], &form).status, 200);
    for (path, token) in [("/bills", &bills), ("/mail", &second.member("access_token"))] {
        assert_eq!(gate.get_with(path, token).status, 401);
    }
    let answer = exchange(&gate, "bills", &bills, "");
    assert_eq!((answer.status, &*answer.member("error")), (400, "invalid_request"));
    let metadata = gate.get("/.well-known/oauth-authorization-server", &[]).json();
    assert!(metadata["grant_types_supported"].as_array().unwrap().contains(&json!(GRANT)));
}

#[test]
fn an_exchange_gives_less_never_more() {
    let upstream = Upstream::start();
    let gate = gate(&upstream);
    let users = log_in(&gate);
    let token = users.member("access_token");
    let to_bills = format!("&resource={}", encoded(BILLS));
    let stranger = TestKey::new("ES256", "k").good();
    let service = gate.post_form(
        "/oauth/token",
        &[],
        &format!("grant_type=client_credentials&client_id=app&client_secret=secret&resource={}", encoded(BILLS)),
    );
    for (service, token, more, error) in [
        ("shop", &*token, "", "invalid_target"),
        ("shop", &token, "&resource=api", "invalid_target"),
        ("shop", &token, "&audience=https%3A%2F%2Fevil.example", "invalid_target"),
        ("shop", &token, &(to_bills.clone() + "&scope=write"), "invalid_scope"),
        ("shop", &token, &(to_bills.clone() + "&scope=read+bill"), "invalid_scope"),
        ("shop", &token, &(to_bills.clone() + "&actor_token=x"), "invalid_request"),
        ("shop", &token, &(to_bills.clone() + "&requested_token_type=urn:x"), "invalid_request"),
        ("shop", &token, &(to_bills.clone() + "&subject_token=x"), "invalid_request"),
        ("shop", &users.member("refresh_token"), &to_bills, "invalid_request"),
        ("shop", &stranger, &to_bills, "invalid_request"),
        ("shop", "x", &to_bills, "invalid_request"),
        // It was not called with this one.
        ("bills", &token, "", "invalid_request"),
        ("shop", &service.member("access_token"), &to_bills, "invalid_request"),
        ("app", &token, &to_bills, "unauthorized_client"),
    ] {
        let answer = exchange(&gate, service, token, more);
        assert_eq!((answer.status, &*answer.member("error")), (400, error), "{service} {more}: {answer:?}");
    }
    // A token of another type, or of none.
    for kind in ["", "&subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Arefresh_token"] {
        let form = format!(
            "client_id=shop&client_secret=secret&grant_type={}&subject_token={token}{to_bills}{kind}",
            encoded(GRANT)
        );
        let answer = gate.post_form("/oauth/token", &[], &form);
        assert_eq!((answer.status, &*answer.member("error")), (400, "invalid_request"), "{kind}");
    }
    // A client that speaks for itself has its place in the chain too, and by `audience` it is the same.
    let answer = exchange(&gate, "bills", &service.member("access_token"), &format!("&audience={}", encoded(MAIL)));
    let told = claims(&answer);
    assert_eq!((&told["sub"], &told["act"]["sub"]), (&json!("client:app"), &json!("client:bills")));
}
