//! Requests in a time, by the address they come from and by the client that sends them.

use std::num::NonZeroU32;

use sidegate::{rate::Rate, types::Visitor};

use super::*;

const HOME: &str = "192.0.2.7";
const CREDENTIALS: &str = "grant_type=client_credentials";

fn an_hour(requests: u32) -> Option<Rate> {
    let requests = NonZeroU32::new(requests).unwrap();
    Some(Rate { requests, per: 3600 * SECOND, burst: requests })
}

/// With `web`, which sends browsers, and `other`, which is as good as `svc`.
async fn rig(per_address: Option<Rate>, per_client: Option<Rate>) -> Rig {
    Rig::with(|config| {
        config.limits = Limits { per_address, per_client };
        for id in ["web", "app2"] {
            config.clients.push(Client {
                redirect_uris: vec![RedirectUri::parse("https://app.example.com/cb").unwrap()],
                scopes: Scopes::from_values(["openid", "read"]),
                ..client(id, None, &[GrantType::AuthorizationCode, GrantType::Password])
            });
        }
        config.clients.push(Client {
            scopes: Scopes::from_values(["openid", "read"]),
            ..client("house", Some(sha256("generated")), &[GrantType::Password])
        });
        config.clients.push(client("other", Some(sha256("generated")), &[GrantType::ClientCredentials]));
    })
    .await
}

impl Rig {
    /// Asks as somebody at an address.
    async fn ask(&self, from: &str, method: &str, path: &str, authorization: Option<&str>, form: &str) -> Answer {
        let visitor = Visitor::new(from.parse().unwrap(), &header::HeaderMap::new());
        let mut request = Request::builder().method(method).uri(path).extension(visitor);
        request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        self.send(request.body(Bytes::copy_from_slice(form.as_bytes())).unwrap()).await
    }

    async fn token_from(&self, from: &str, authorization: Option<&str>, form: &str) -> Answer {
        self.ask(from, "POST", "/oauth/token", authorization, form).await
    }

    fn limited(&self, endpoint: &str, by: &str) -> u64 {
        self.metric(&format!("sidegate_issuer_limited_total{{by=\"{by}\",endpoint=\"{endpoint}\"}}"))
    }
}

/// Every endpoint that is counted, and whether people see it.
const ENDPOINTS: [(&str, &str, bool); 8] = [
    ("POST", "/oauth/token", false),
    ("POST", "/oauth/revoke", false),
    ("POST", "/oauth/introspect", false),
    ("GET", "/oauth/userinfo", false),
    ("GET", "/oauth/authorize", true),
    ("POST", "/oauth/login", true),
    ("POST", "/oauth/consent", true),
    ("GET", "/oauth/logout", true),
];

#[tokio::test]
async fn an_address_has_one_allowance_at_every_endpoint() {
    for (method, path, is_page) in ENDPOINTS {
        let rig = rig(an_hour(2), None).await;
        for _ in 0..2 {
            assert_ne!(rig.ask(HOME, method, path, None, "").await.status(), 429, "{path}");
        }
        let refused = rig.ask(HOME, method, path, None, "").await;
        if is_page {
            assert_eq!(refused.status(), 429, "{path}");
            assert!(refused.header(header::CONTENT_TYPE).unwrap().starts_with("text/html"), "{path}");
            assert!(String::from_utf8_lossy(refused.0.body()).contains("Too many requests"), "{path}");
            refused.assert_not_kept();
        } else {
            refused.assert_error(429, "temporarily_unavailable");
        }
        assert_eq!(refused.header(header::RETRY_AFTER), Some("1800"), "{path}");
        assert_eq!(rig.limited(path.rsplit('/').next().unwrap(), "address"), 1, "{path}");
        // All endpoints share it, and nobody else does.
        rig.token_from(HOME, Some(&svc()), CREDENTIALS).await.assert_error(429, "temporarily_unavailable");
        rig.token_from("192.0.2.8", Some(&svc()), CREDENTIALS).await.tokens();
    }
}

#[tokio::test]
async fn what_everybody_may_keep_is_not_counted() {
    let rig = rig(an_hour(1), an_hour(1)).await;
    for path in ["/.well-known/jwks.json", "/.well-known/oauth-authorization-server"] {
        for _ in 0..3 {
            assert_eq!(rig.ask(HOME, "GET", path, None, "").await.status(), 200, "{path}");
        }
    }
    rig.token_from(HOME, Some(&svc()), CREDENTIALS).await.tokens();
}

#[tokio::test]
async fn an_allowance_comes_back_and_an_ipv6_address_has_that_of_its_network() {
    let rig = rig(an_hour(2), None).await;
    rig.token_from("2001:db8::1", Some(&svc()), CREDENTIALS).await.tokens();
    rig.token_from("2001:db8::2", Some(&svc()), CREDENTIALS).await.tokens();
    rig.token_from("2001:db8::ffff:3", Some(&svc()), CREDENTIALS).await.assert_error(429, "temporarily_unavailable");
    rig.token_from("2001:db8:0:1::1", Some(&svc()), CREDENTIALS).await.tokens();
    rig.pass(1800 * SECOND - Duration::from_millis(1));
    let refused = rig.token_from("2001:db8::1", Some(&svc()), CREDENTIALS).await;
    refused.assert_error(429, "temporarily_unavailable");
    assert_eq!(refused.header(header::RETRY_AFTER), Some("1"));
    rig.pass(Duration::from_millis(1));
    rig.token_from("2001:db8::1", Some(&svc()), CREDENTIALS).await.tokens();
    // Forgetting who has rested gives nobody anything.
    rig.issuer.sweep().await;
    rig.token_from("2001:db8::1", Some(&svc()), CREDENTIALS).await.assert_error(429, "temporarily_unavailable");
}

#[tokio::test]
async fn nobody_is_told_to_come_again_at_once() {
    let [requests, burst] = [3000, 1].map(|n| NonZeroU32::new(n).unwrap());
    let rig = rig(Some(Rate { requests, per: SECOND, burst }), None).await;
    rig.token_from(HOME, Some(&svc()), CREDENTIALS).await.tokens();
    let refused = rig.token_from(HOME, Some(&svc()), CREDENTIALS).await;
    assert_eq!((refused.status().as_u16(), refused.header(header::RETRY_AFTER)), (429, Some("1")), "a third of a ms");
    rig.pass(Duration::from_millis(1));
    rig.token_from(HOME, Some(&svc()), CREDENTIALS).await.tokens();
}

#[tokio::test]
async fn a_client_has_one_allowance_wherever_it_is_and_only_its_secret_uses_it_up() {
    let rig = rig(None, an_hour(3)).await;
    for n in 0..10 {
        let form = format!("{CREDENTIALS}&client_id=svc");
        rig.token_from(&format!("198.51.100.{n}"), Some(&basic("svc", "wrong")), CREDENTIALS).await;
        rig.token_from(&format!("198.51.100.{n}"), None, &form).await.assert_error(401, "invalid_client");
    }
    rig.token_from("192.0.2.1", Some(&svc()), CREDENTIALS).await.tokens();
    rig.ask("192.0.2.2", "POST", "/oauth/introspect", Some(&svc()), "token=x").await.json();
    rig.ask("192.0.2.3", "POST", "/oauth/revoke", Some(&svc()), "token=x").await.json();
    for (endpoint, form) in [("token", CREDENTIALS), ("introspect", "token=x"), ("revoke", "token=x")] {
        let refused = rig.ask("192.0.2.4", "POST", &format!("/oauth/{endpoint}"), Some(&svc()), form).await;
        refused.assert_error(429, "temporarily_unavailable");
        assert_eq!(refused.header(header::RETRY_AFTER), Some("1200"), "{endpoint}");
        assert_eq!(rig.limited(endpoint, "client"), 1, "{endpoint}");
    }
    rig.token_from("192.0.2.1", Some(&basic("other", "generated")), CREDENTIALS).await.tokens();
}

#[tokio::test]
async fn a_name_that_anybody_can_say_is_counted_where_it_is_said() {
    let rig = rig(None, an_hour(2)).await;
    let login = format!("{LOGIN}&client_id=spa");
    rig.token_from(HOME, None, &login).await.tokens();
    rig.token_from(HOME, None, &login).await.tokens();
    rig.token_from(HOME, None, &login).await.assert_error(429, "temporarily_unavailable");
    assert_eq!(rig.limited("token", "client_at_address"), 1);
    rig.token_from("192.0.2.8", None, &login).await.tokens();
    // As where a browser is sent in a client's name, be that one with a secret or not.
    let ask = |client| format!("/oauth/authorize?response_type=code&client_id={client}");
    for _ in 0..2 {
        assert_eq!(rig.ask(HOME, "GET", &ask("web"), None, "").await.status(), 303);
    }
    let refused = rig.ask(HOME, "GET", &ask("web"), None, "").await;
    assert_eq!((refused.status().as_u16(), refused.header(header::RETRY_AFTER)), (429, Some("1800")));
    assert_eq!(rig.limited("authorize", "client_at_address"), 1);
    assert_eq!(rig.ask("192.0.2.8", "GET", &ask("web"), None, "").await.status(), 303);
    assert_eq!(rig.ask(HOME, "GET", &ask("app2"), None, "").await.status(), 303);
}

#[tokio::test]
async fn whoever_has_a_token_of_a_client_uses_up_nothing_but_their_own() {
    for who in ["client_id=app2", "client_id=house&client_secret=generated"] {
        let rig = rig(None, an_hour(2)).await;
        let tokens = rig.token_from(HOME, None, &format!("{LOGIN}&{who}&scope=openid")).await.tokens();
        let bearer = format!("Bearer {}", tokens.access);
        let ask = |from: &'static str| rig.ask(from, "GET", "/oauth/userinfo", Some(&bearer), "");
        for _ in 0..2 {
            assert_eq!(ask("198.51.100.1").await.status(), 200, "{who}");
        }
        ask("198.51.100.1").await.assert_error(429, "temporarily_unavailable");
        assert_eq!(rig.limited("userinfo", "client_at_address"), 1, "{who}");
        assert_eq!(ask(HOME).await.status(), 200, "{who}");
    }
}

#[tokio::test]
async fn nobody_is_limited_unless_it_is_said() {
    let rig = Rig::new().await;
    for _ in 0..2000 {
        rig.token_from(HOME, Some(&svc()), CREDENTIALS).await.tokens();
    }
}

#[tokio::test]
async fn grants_are_counted_by_what_kind_of_client_has_asked() {
    let rig = rig(None, an_hour(2)).await;
    let count = |client: &str, grant: &str, result: &str| {
        let labels = format!("{{client_kind=\"{client}\",grant=\"{grant}\",result=\"{result}\"}}");
        rig.metric(&format!("sidegate_issuer_grants_total{labels}"))
    };
    for _ in 0..3 {
        rig.token_from(HOME, Some(&svc()), CREDENTIALS).await;
    }
    rig.token_from(HOME, None, &format!("{LOGIN}&client_id=spa")).await.tokens();
    // Who has not shown who they are is counted as nobody, whatever they say.
    rig.token_from(HOME, Some(&basic("svc", "wrong")), CREDENTIALS).await;
    rig.token_from(HOME, Some(&basic("no-such-client", "x")), CREDENTIALS).await;
    assert_eq!(count("confidential", "client_credentials", "ok"), 2);
    assert_eq!(count("confidential", "client_credentials", "temporarily_unavailable"), 1);
    assert_eq!(count("public", "password", "ok"), 1);
    assert_eq!(count("unknown", "client_credentials", "invalid_client"), 2);
}
