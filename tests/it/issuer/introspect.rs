//! The introspection endpoint (RFC 7662).

use std::process::Command;

use super::*;
use crate::support::{Sidegate, Upstream, config_with_issuer, tokens::TestKey};

impl Rig {
    async fn introspect(&self, authorization: Option<&str>, body: &str) -> Answer {
        self.post("/oauth/introspect", authorization, body).await
    }

    /// What a client is told of a token.
    async fn told(&self, authorization: &str, token: &str) -> Value {
        let answer = self.introspect(Some(authorization), &format!("token={token}")).await;
        assert_eq!(answer.status(), 200, "{:?}", answer.0);
        answer.assert_not_kept();
        assert_eq!(answer.header(header::CONTENT_TYPE), Some("application/json"));
        answer.json()
    }

    async fn is_active(&self, authorization: &str, token: &str) -> bool {
        let told = self.told(authorization, token).await;
        if told["active"] == true {
            return true;
        }
        assert_eq!(told, json!({ "active": false }), "and not a word more");
        false
    }
}

#[tokio::test]
async fn a_good_access_token_is_told_with_what_it_says() {
    let rig = Rig::new().await;
    let tokens = rig.log_in().await;
    let says = claims(&tokens.access);
    let expected = json!({
        "active": true, "scope": "read write", "client_id": "app", "username": "alice", "token_type": "Bearer",
        "exp": START + 300, "iat": START, "sub": "user-alice", "aud": "api", "iss": URL,
        "jti": says["jti"], "sid": tokens.sid(),
    });
    assert_eq!(rig.told(&app(), &tokens.access).await, expected);
    // A resource server asks, which is another client.
    assert_eq!(rig.told(&svc(), &tokens.access).await, expected);
    for hint in ["access_token", "refresh_token", "nonsense", ""] {
        let body = format!("token={}&token_type_hint={hint}", tokens.access);
        assert_eq!(rig.introspect(Some(&svc()), &body).await.json(), expected, "{hint} is only a hint");
    }

    // A client's own token has neither a user nor a session.
    let own = rig.token(Some(&svc()), "grant_type=client_credentials&scope=read").await.tokens();
    assert_eq!(
        rig.told(&app(), &own.access).await,
        json!({
            "active": true, "scope": "read", "client_id": "svc", "token_type": "Bearer", "exp": START + 60,
            "iat": START, "sub": "client:svc", "aud": "api", "iss": URL, "jti": claims(&own.access)["jti"],
        })
    );
    assert_eq!(rig.metric("sidegate_introspections_total{result=\"active\"}"), 7);
}

#[tokio::test]
async fn a_good_refresh_token_is_told_to_its_client_and_is_not_spent() {
    let rig = Rig::new().await;
    let first = rig.log_in().await;
    let mut expected = json!({
        "active": true, "scope": "read write", "client_id": "app", "username": "alice", "exp": START + 14 * 86_400,
        "iat": START, "sub": "user-alice", "iss": URL, "sid": first.sid(),
    });
    for hint in ["", "&token_type_hint=access_token", "&token_type_hint=refresh_token"] {
        let body = format!("token={}{hint}", first.refresh);
        assert_eq!(rig.introspect(Some(&app()), &body).await.json(), expected);
    }
    assert!(!rig.is_active(&svc(), &first.refresh).await, "it is another client's");

    rig.pass(100 * SECOND);
    let second = rig.refresh(&first.refresh).await.tokens();
    expected["exp"] = json!(START + 100 + 14 * 86_400);
    assert_eq!(rig.told(&app(), &first.refresh).await, expected, "a lost answer would be given again");
    expected["iat"] = json!(START + 100);
    assert_eq!(rig.told(&app(), &second.refresh).await, expected);

    // Two generations back it is that of tabs that race, and no longer.
    let third = rig.refresh(&second.refresh).await.tokens();
    rig.pass(10 * SECOND);
    assert!(rig.is_active(&app(), &first.refresh).await);
    rig.pass(SECOND);
    assert!(!rig.is_active(&app(), &first.refresh).await);
    // To ask is not to present: a refresh with it would have ended the session.
    assert!(rig.is_active(&app(), &third.refresh).await && rig.is_active(&app(), &third.access).await);
    rig.refresh(&third.refresh).await.tokens();
}

#[tokio::test]
async fn a_refresh_token_is_good_as_long_as_a_refresh_would_be_answered() {
    let rig = Rig::new().await;
    let (idle, kept) = (rig.log_in().await, rig.log_in().await);
    rig.pass(13 * DAY);
    let kept = rig.refresh(&kept.refresh).await.tokens();
    rig.pass(DAY - SECOND);
    assert!(rig.is_active(&app(), &idle.refresh).await);
    rig.pass(SECOND);
    assert!(!rig.is_active(&app(), &idle.refresh).await && rig.is_active(&app(), &kept.refresh).await);

    // What its client may ask for no more is not among its scopes.
    let rig = rig.restarted(|config| config.clients[0].scopes = Scopes::from_values(["read"])).await;
    assert_eq!(rig.told(&app(), &kept.refresh).await["scope"], "read");
    let rig = rig.restarted(|config| config.clients[0].grants = vec![GrantType::Password]).await;
    assert!(!rig.is_active(&app(), &kept.refresh).await, "its client may not refresh");
    let rig = rig
        .restarted(|config| {
            config.clients[0].grants = vec![GrantType::RefreshToken];
            config.users.clear();
        })
        .await;
    assert!(!rig.is_active(&app(), &kept.refresh).await, "its user is gone");
    let rig = rig.restarted(|config| config.users = vec![user("alice", "open sesame")]).await;
    assert!(rig.is_active(&app(), &kept.refresh).await, "and nothing was ended by asking");
}

#[tokio::test]
async fn an_access_token_expires_when_it_says() {
    let rig = Rig::new().await;
    let tokens = rig.log_in().await;
    rig.pass(299 * SECOND);
    assert!(rig.is_active(&svc(), &tokens.access).await);
    rig.pass(SECOND);
    assert!(!rig.is_active(&svc(), &tokens.access).await);
    assert_eq!(rig.metric("sidegate_introspections_total{result=\"inactive\"}"), 1);
}

#[tokio::test]
async fn what_was_revoked_in_any_way_is_not_active() {
    // The name of what is revoked, and whether the refresh token goes with it.
    type Name = fn(&Tokens) -> String;
    let ways: [(&str, Name, bool); 6] = [
        ("token", |tokens| claims(&tokens.access)["jti"].as_str().unwrap().into(), false),
        ("session", Tokens::sid, true),
        ("subject", |_| "user-alice".into(), true),
        ("client", |_| "app".into(), true),
        ("everything", |_| String::new(), true),
        ("key", |tokens| part(&tokens.access, 0)["kid"].as_str().unwrap().into(), false),
    ];
    let rig = Rig::new().await;
    for (kind, name, with_refresh) in ways {
        let tokens = rig.log_in().await;
        assert!(rig.is_active(&svc(), &tokens.access).await && rig.is_active(&app(), &tokens.refresh).await, "{kind}");
        rig.ban(kind, &name(&tokens)).await.unwrap();
        assert!(!rig.is_active(&svc(), &tokens.access).await, "{kind}");
        assert_eq!(rig.is_active(&app(), &tokens.refresh).await, !with_refresh, "{kind}");
    }

    // At the revocation endpoint, and where only the store knows of it any more.
    let tokens = rig.log_in().await;
    assert_eq!(rig.post("/oauth/revoke", Some(&app()), &format!("token={}", tokens.refresh)).await.status(), 200);
    assert!(!rig.is_active(&svc(), &tokens.access).await && !rig.is_active(&app(), &tokens.refresh).await);
    let again = rig.log_in().await;
    rig.ban("subject", "user-alice").await.unwrap();
    let rig = rig.restarted(|_| {}).await;
    assert!(!rig.is_active(&svc(), &again.access).await && !rig.is_active(&app(), &again.refresh).await);
}

#[tokio::test]
async fn what_is_no_token_of_ours_is_not_active() {
    let rig = Rig::new().await;
    let (mine, public) = (rig.log_in().await, rig.log_in_publicly().await);
    let unsigned = mine.access.rsplit_once('.').unwrap().0;
    let flipped =
        mine.refresh.replace(&mine.refresh[20..24], if &mine.refresh[20..24] == "AAAA" { "BBBB" } else { "AAAA" });
    let stranger = TestKey::new("ES256", part(&mine.access, 0)["kid"].as_str().unwrap().to_owned().leak());
    let says = claims(&mine.access);
    let mut others = says.clone();
    others["iss"] = json!("https://idp.example");
    for (what, token) in [
        ("nothing", "x".to_owned()),
        ("like a refresh token", "sg1.a.b".into()),
        ("altered", flipped),
        ("a public client's", public.refresh.clone()),
        ("like a JWT", "a.b.c".into()),
        ("unsigned", format!("{unsigned}.")),
        ("badly signed", format!("{unsigned}.{}", "A".repeat(86))),
        ("another's signature", stranger.token(&stranger.header(), &says)),
        ("another issuer's", stranger.token(&stranger.header(), &others)),
        ("long", "x".repeat(16 * 1024)),
    ] {
        assert!(!rig.is_active(&app(), &token).await, "{what}");
    }
    // It is as good as ever for those who made it and got it.
    assert!(rig.is_active(&app(), &public.access).await);
    rig.refresh_publicly(&public.refresh).await.tokens();
}

#[tokio::test]
async fn only_a_confidential_client_may_ask() {
    let rig = Rig::with(|config| config.clients[5].disabled = true).await;
    let body = format!("token={}", rig.log_in_publicly().await.access);
    for (authorization, more) in [
        (None, ""),
        (None, "&client_id=spa"),
        (None, "&client_id=spa&client_secret="),
        (None, "&client_id=app"),
        (None, "&client_id=app&client_secret=wrong"),
        (None, "&client_id=nobody&client_secret=secret"),
        (None, "&client_id=plain&client_secret=generated"),
        (Some(basic("app", "wrong")), ""),
        (Some(basic("spa", "")), ""),
    ] {
        let answer = rig.introspect(authorization.as_deref(), &format!("{body}{more}")).await;
        assert_eq!((answer.status().as_u16(), &answer.json()["error"]), (401, &json!("invalid_client")), "{more}");
        assert_eq!(answer.header(header::WWW_AUTHENTICATE).is_some(), authorization.is_some(), "{more}");
        answer.assert_not_kept();
    }
    let answer = rig.introspect(None, &format!("{body}&client_id=app&client_secret=secret")).await;
    assert_eq!(answer.json()["active"], true);
    assert_eq!(rig.metric("sidegate_introspections_total{result=\"invalid_client\"}"), 9);
}

#[tokio::test]
async fn what_is_no_question_is_told_so() {
    let rig = Rig::new().await;
    let token = rig.log_in().await.access;
    for body in [
        String::new(),
        "token=".into(),
        "token_type_hint=access_token".into(),
        format!("token={token}&token={token}"),
        format!("token={token}&token_type_hint=access_token&token_type_hint=access_token"),
        format!("token={}", "x".repeat(16 * 1024 + 1)),
        format!("token={token}&client_id=app&client_secret=secret"),
    ] {
        rig.introspect(Some(&app()), &body).await.assert_error(400, "invalid_request");
    }
    let json = Request::post("/oauth/introspect").header(header::AUTHORIZATION, app());
    let json = json.header(header::CONTENT_TYPE, "application/json").body(Bytes::from(format!("token={token}")));
    rig.send(json.unwrap()).await.assert_error(400, "invalid_request");
    assert_eq!(rig.metric("sidegate_introspections_total{result=\"invalid_request\"}"), 8);
}

#[test]
fn the_program_answers_resource_servers() {
    const APP: (&str, &str) = ("Authorization", "Basic YXBwOnNlY3JldA==");
    let upstream = Upstream::start();
    let route = "routes: [{ name: all, match: { path_prefix: / }, upstream: app }]\n";
    let gate = Sidegate::start(&config_with_issuer(upstream.address(), route));
    let login = gate.post_form("/oauth/token", &[APP], "grant_type=password&username=alice&password=wonderland");
    let (access, refresh) = (login.member("access_token"), login.member("refresh_token"));
    let ask = |headers: &[(&str, &str)], form: &str| gate.post_form("/oauth/introspect", headers, form);
    for token in [&access, &refresh] {
        let answer = ask(&[APP], &format!("token={token}"));
        assert_eq!((answer.status, &answer.json()["active"]), (200, &json!(true)), "{answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    assert_eq!(ask(&[], &format!("token={access}&client_id=spa")).status, 401);
    assert_eq!(ask(&[("Authorization", "Basic YXBwOndyb25n")], &format!("token={access}")).status, 401);
    assert_eq!(ask(&[APP], &format!("token={access}&token={access}")).status, 400);
    assert_eq!(ask(&[APP], "").status, 400);
    let get = gate.get(&format!("/oauth/introspect?token={access}"), &[APP]);
    assert_eq!((get.status, get.header("allow")), (405, Some("POST")));
    assert_eq!(
        gate.get("/.well-known/oauth-authorization-server", &[]).member("introspection_endpoint"),
        "http://localhost:3000/oauth/introspect"
    );

    let mut command = Command::new(env!("CARGO_BIN_EXE_sidegate"));
    let revoke = command.args(["revoke", "--subject", "alice", "--reason", "a test"]).arg("--config");
    assert!(revoke.arg(gate.dir().join("config.yaml")).output().unwrap().status.success());
    for token in [&access, &refresh] {
        assert_eq!(ask(&[APP], &format!("token={token}")).text(), r#"{"active":false}"#);
    }
    assert_eq!(gate.metric("sidegate_introspections_total{result=\"inactive\"}"), 2.0);
}
