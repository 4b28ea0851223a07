//! What each grant answers, and what each mistake does.

use std::sync::Mutex;

use super::*;

#[tokio::test]
async fn a_password_opens_a_session() {
    let rig = Rig::new().await;
    let answer = rig.token(Some(&app()), LOGIN).await;
    answer.assert_not_kept();
    assert_eq!(answer.header(header::CONTENT_TYPE), Some("application/json"));
    let tokens = answer.tokens();
    assert_eq!(tokens.body["token_type"], "Bearer");
    assert_eq!(tokens.body["expires_in"], 300);
    assert_eq!(tokens.body["scope"], "read write");
    assert!(tokens.refresh.starts_with("sg1."), "{}", tokens.refresh);

    let (header, claims) = (part(&tokens.access, 0), claims(&tokens.access));
    assert_eq!((&header["typ"], &header["alg"]), (&json!("at+jwt"), &json!("ES256")));
    let expected = json!({
        "iss": URL, "aud": "api", "sub": "user-alice", "client_id": "app", "scope": "read write",
        "iat": START, "exp": START + 300, "sid": claims["sid"], "jti": claims["jti"], "roles": ["admin"],
        "sidegate_began": claims["sidegate_began"],
    });
    assert_eq!(claims, expected, "a user's claims go under the issuer's, never over them");
    assert_ne!(claims["sid"], "none");
    assert!(claims["sidegate_began"].as_str().unwrap().ends_with(".1"), "mallory is disabled: that is the first entry");
    assert_eq!(
        rig.metric("sidegate_issuer_grants_total{client_kind=\"confidential\",grant=\"password\",result=\"ok\"}"),
        1
    );
}

#[tokio::test]
async fn a_client_without_the_refresh_grant_gets_no_session() {
    let rig = Rig::new().await;
    let tokens = rig.token(Some(&basic("plain", "generated")), LOGIN).await.tokens();
    assert!(tokens.body.get("refresh_token").is_none());
    assert!(claims(&tokens.access).get("sid").is_none());
    let token = "grant_type=refresh_token&refresh_token=sg1.a.b";
    rig.token(Some(&basic("plain", "generated")), token).await.assert_error(400, "unauthorized_client");
}

#[tokio::test]
async fn a_client_speaks_for_itself() {
    let rig = Rig::new().await;
    let tokens = rig.token(Some(&svc()), "grant_type=client_credentials&scope=read").await.tokens();
    assert_eq!((&tokens.body["expires_in"], &tokens.body["scope"]), (&json!(60), &json!("read")));
    assert!(tokens.body.get("refresh_token").is_none());
    let claims = claims(&tokens.access);
    assert_eq!((&claims["sub"], &claims["client_id"]), (&json!("client:svc"), &json!("svc")));
    assert_eq!(claims["exp"], START + 60);
    assert!(claims.get("sid").is_none());
    // A bare name proves nothing, though the configuration lists the grant (RFC 6749 §4.4).
    let public = rig.token(None, "grant_type=client_credentials&client_id=spa").await;
    public.assert_error(400, "unauthorized_client");
}

#[tokio::test]
async fn a_login_that_fails_does_not_say_why() {
    let rig = Rig::new().await;
    let mut texts = BTreeMap::new();
    for (username, password) in [
        ("alice", "wrong"),
        ("nobody", "open+sesame"),
        ("mallory", "open+sesame"),
        ("mallory", "wrong"),
        ("user-alice", "open+sesame"),
        ("ALICE", "open+sesame"),
    ] {
        let body = format!("grant_type=password&username={username}&password={password}");
        let answer = rig.token(Some(&app()), &body).await;
        answer.assert_error(400, "invalid_grant");
        texts.insert(answer.json()["error_description"].to_string(), ());
    }
    assert_eq!(texts.len(), 1, "{texts:?}");
}

#[tokio::test]
async fn a_request_that_no_client_should_make_is_an_invalid_request() {
    let rig = Rig::new().await;
    let long = "x".repeat(5000);
    let bodies = [
        String::new(),
        "username=alice&password=open+sesame".into(),
        "grant_type=&username=alice&password=open+sesame".into(),
        "grant_type=password&username=alice".into(),
        "grant_type=password&password=open+sesame".into(),
        "grant_type=password&username=alice&password=".into(),
        "grant_type=refresh_token".into(),
        format!("{LOGIN}&grant_type=password"),
        format!("{LOGIN}&username=alice"),
        format!("{LOGIN}&scope=read&scope=write"),
        format!("{LOGIN}&scope=&scope=write"),
        format!("{LOGIN}&client_id=app&client_id=app"),
        format!("{LOGIN}&scope={long}"),
        format!("{LOGIN}&client_id={long}"),
        format!("grant_type=password&username={long}&password=x"),
        format!("grant_type=password&username=alice&password={long}"),
        format!("grant_type=refresh_token&refresh_token={long}"),
        "grant_type=password&username=alice%00&password=open+sesame".into(),
        "grant_type=password&username=alice%0d%0a&password=open+sesame".into(),
        "grant_type=password&username=alice&password=open+sesame%7f".into(),
        "grant_type=password&username=alice&password=%ff".into(),
        format!("{LOGIN}&x={}", "y".repeat(70_000)),
    ];
    for body in bodies {
        let answer = rig.token(Some(&app()), &body).await;
        assert_eq!(answer.json()["error"], "invalid_request", "{body:.120}");
        answer.assert_error(400, "invalid_request");
    }
}

#[tokio::test]
async fn a_description_never_repeats_what_the_client_sent() {
    let rig = Rig::new().await;
    let answer = rig.token(Some(&app()), "grant_type=%22%3Cscript%3E&username=%5c%22").await;
    answer.assert_error(400, "unsupported_grant_type");
    assert!(!String::from_utf8_lossy(answer.0.body()).contains("<script"));
}

#[tokio::test]
async fn unknown_parameters_are_ignored_however_often_they_come() {
    let rig = Rig::new().await;
    let body = format!("{LOGIN}&wanted=a&wanted=b&looked=%00&{}=1", "z".repeat(3000));
    rig.token(Some(&app()), &body).await.tokens();
}

#[tokio::test]
async fn only_a_form_is_read() {
    let rig = Rig::new().await;
    let send = |types: &'static [&'static str]| {
        let mut request = Request::post("/oauth/token").header(header::AUTHORIZATION, app());
        for content_type in types {
            request = request.header(header::CONTENT_TYPE, *content_type);
        }
        rig.send(request.body(Bytes::from_static(LOGIN.as_bytes())).unwrap())
    };
    for types in [
        &[][..],
        &["application/json"],
        &["text/plain"],
        &["application/x-www-form-urlencodedx"],
        &["application/x-www-form-urlencoded", "application/x-www-form-urlencoded"],
    ] {
        send(types).await.assert_error(400, "invalid_request");
    }
    for types in [&["application/x-www-form-urlencoded; charset=UTF-8"][..], &["Application/X-WWW-Form-Urlencoded"]] {
        send(types).await.tokens();
    }
}

#[tokio::test]
async fn other_methods_are_told_which_there_are() {
    let rig = Rig::new().await;
    for (path, method, allow) in [
        ("/oauth/token", "GET", "POST"),
        ("/oauth/token", "PUT", "POST"),
        ("/oauth/revoke", "GET", "POST"),
        ("/oauth/introspect", "GET", "POST"),
        ("/.well-known/jwks.json", "POST", "GET, HEAD"),
        ("/.well-known/oauth-authorization-server", "DELETE", "GET, HEAD"),
    ] {
        let answer = rig.send(Request::builder().method(method).uri(path).body(Bytes::new()).unwrap()).await;
        answer.assert_error(405, "invalid_request");
        assert_eq!(answer.header(header::ALLOW), Some(allow), "{method} {path}");
    }
}

#[tokio::test]
async fn grants_and_scopes_have_their_own_errors() {
    let rig = Rig::new().await;
    for (authorization, body, code) in [
        (app(), "grant_type=client_credentials", "unauthorized_client"),
        (svc(), LOGIN, "unauthorized_client"),
        (app(), "grant_type=authorization_code&code=x", "unauthorized_client"),
        (app(), "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code", "unsupported_grant_type"),
        (app(), "grant_type=Password", "unsupported_grant_type"),
        (svc(), "grant_type=client_credentials&scope=admin", "invalid_scope"),
        (svc(), "grant_type=client_credentials&scope=read+admin", "invalid_scope"),
        (svc(), "grant_type=client_credentials&scope=re%22ad", "invalid_scope"),
    ] {
        let answer = rig.token(Some(&authorization), body).await;
        assert_eq!(answer.json()["error"], code, "{body}");
        answer.assert_error(400, code);
    }
    assert_eq!(rig.metric("sidegate_issuer_grants_total{client_kind=\"confidential\",grant=\"client_credentials\",result=\"invalid_scope\"}"), 3);
    assert_eq!(
        rig.metric(
            "sidegate_issuer_grants_total{client_kind=\"confidential\",grant=\"unknown\",result=\"unsupported_grant_type\"}"
        ),
        2
    );
}

#[tokio::test]
async fn the_log_tells_what_happened_and_no_secret() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || Shared(writer.clone()))
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let rig = Rig::new().await;
    // Another test's thread may have met these log lines first, when nobody listened, and have put that down.
    tracing::callsite::rebuild_interest_cache();
    let first = rig.log_in_publicly().await;
    let second = rig.refresh_publicly(&first.refresh).await.tokens();
    rig.pass(61 * SECOND);
    rig.refresh_publicly(&first.refresh).await.assert_error(400, "invalid_grant");
    let third = rig.log_in().await;
    rig.post("/oauth/revoke", Some(&app()), &format!("token={}", third.access)).await;
    rig.token(Some(&basic("app", "wr0ng-secret")), LOGIN).await;
    rig.token(Some(&app()), "grant_type=password&username=alice&password=wr0ng-password").await;

    let log = String::from_utf8(log.lock().unwrap().clone()).unwrap();
    let jti = claims(&third.access)["jti"].as_str().unwrap().to_owned();
    for told in ["a used refresh token was presented again", &first.sid(), "cause=\"revoke_endpoint\"", &jti] {
        assert!(log.contains(told), "{told} is not in\n{log}");
    }
    let secrets = [&*first.refresh, &*second.refresh, &*third.refresh, &*first.access, &*second.access, &*third.access];
    for secret in secrets.into_iter().chain(["open sesame", "wr0ng-secret", "wr0ng-password", "secret\""]) {
        assert!(!log.contains(secret), "{secret} is in\n{log}");
    }
}

struct Shared(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
