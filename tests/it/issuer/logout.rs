//! Logging out at a browser, as a client asks for it (OpenID Connect RP-Initiated Logout 1.0).

use super::{
    authorize::{Browser, Page, VERIFIER, asks, back, location, page, rig_with},
    *,
};
use crate::support::tokens::TestKey;

const BACK: &str = "https://app.example.com/cb";
const OUT: &str = "https://app.example.com/out";
/// The same as a client sends it.
const TO_OUT: &str = "post_logout_redirect_uri=https%3A%2F%2Fapp.example.com%2Fout";

/// Where `oidc` and `web` have their users sent to, and another user, `bob`.
async fn rig() -> Rig {
    rig_with(|config| {
        let uris = [OUT, "https://app.example.com/out?tenant=1", "http://127.0.0.1/out", "com.example.app:/out"];
        for client in &mut config.clients {
            if matches!(client.id.as_str(), "oidc" | "web") {
                client.post_logout_redirect_uris = uris.iter().map(|uri| RedirectUri::parse(uri).unwrap()).collect();
            }
        }
        config.users.push(user("bob", "open sesame"));
        // So that nothing but its type tells an access token of an ID token.
        config.access_token.audience = Audience::new("oidc");
    })
    .await
}

/// What a client has of a user who has logged in.
struct Session {
    tokens: Tokens,
    id_token: String,
}

/// Has `oidc` get tokens for whoever is logged in at the browser, or is then.
async fn session_of(browser: &mut Browser<'_>, username: &str) -> Session {
    let query = asks("oidc", "&scope=openid+read");
    let mut answer = browser.get(&format!("/oauth/authorize?{query}")).await;
    if answer.status() == 200 {
        answer = browser.log_in(&Page::of(&answer), username, "open sesame").await;
        answer = browser.get(location(&answer).strip_prefix(URL).unwrap()).await;
    }
    let code = back(&answer, BACK)["code"].clone();
    let request = format!("grant_type=authorization_code&client_id=oidc&code={code}&code_verifier={VERIFIER}");
    let tokens = browser.rig.token(None, &request).await.tokens();
    let id_token = tokens.body["id_token"].as_str().unwrap().into();
    Session { tokens, id_token }
}

async fn log_out(browser: &mut Browser<'_>, query: &str) -> Answer {
    browser.get(&format!("/oauth/logout?{query}")).await
}

async fn is_logged_in(browser: &mut Browser<'_>) -> bool {
    let answer = browser.get(&format!("/oauth/authorize?{}&prompt=none", asks("oidc", ""))).await;
    back(&answer, BACK).contains_key("code")
}

/// Whether the client's session goes on; nothing is spent on finding out.
async fn goes_on(rig: &Rig, session: &Session) -> bool {
    let record = rig.issuer.session(sidegate::types::SessionId::parse(&session.tokens.sid()).unwrap()).await;
    let live = record.unwrap().unwrap().state(rig.issuer.now()) == "live";
    assert_eq!(rig.is_revoked(&session.tokens.access), !live, "its access tokens end with it");
    live
}

#[tokio::test]
async fn a_client_that_shows_who_is_logged_in_has_them_logged_out_at_once() {
    let rig = rig().await;
    let mut browser = Browser::new(&rig);
    let (here, other) = (session_of(&mut browser, "alice").await, session_of(&mut browser, "alice").await);
    let kept = browser.cookies.clone();
    let answer = log_out(&mut browser, &format!("id_token_hint={}&{TO_OUT}&state=a%26b+c", here.id_token)).await;
    assert_eq!(location(&answer), format!("{OUT}?state=a%26b+c"));
    assert!(answer.header(header::SET_COOKIE).unwrap().contains("Max-Age=0"));
    assert!(!is_logged_in(&mut browser).await);
    assert!(!is_logged_in(&mut Browser { rig: &rig, cookies: kept }).await, "nor is a cookie any good that was kept");
    assert!(!goes_on(&rig, &here).await);
    rig.refresh_as("oidc", &here.tokens.refresh).await.assert_error(400, "invalid_grant");
    assert!(goes_on(&rig, &other).await, "the page says that apps keep their own");
    // Once more, as by a reload: there is nothing left to be asked.
    let answer = log_out(&mut browser, &format!("id_token_hint={}&{TO_OUT}", here.id_token)).await;
    assert_eq!(location(&answer), OUT);
    assert!(goes_on(&rig, &other).await);
}

#[tokio::test]
async fn a_hint_may_have_expired_and_is_good_as_long_as_its_key_verifies() {
    let rig = rig().await;
    let mut browser = Browser::new(&rig);
    let session = session_of(&mut browser, "alice").await;
    rig.issuer.rotate_keys(true, Cause::Command).unwrap();
    rig.pass(310 * SECOND);
    let query = format!("id_token_hint={}&{TO_OUT}", session.id_token);
    assert_eq!(location(&log_out(&mut browser, &query).await), OUT);
    let session = session_of(&mut browser, "alice").await;
    rig.pass(7 * 3600 * SECOND);
    let query = format!("id_token_hint={}", session.id_token);
    assert!(page(&log_out(&mut browser, &query).await).contains("You are logged out"));
    // A key that is forgotten proves nothing; the user is asked.
    let session = session_of(&mut browser, "alice").await;
    rig.issuer.rotate_keys(true, Cause::Command).unwrap();
    rig.pass(3600 * SECOND);
    rig.issuer.tend_keys();
    let query = format!("id_token_hint={}&client_id=oidc&{TO_OUT}", session.id_token);
    let question = Page::of(&log_out(&mut browser, &query).await);
    assert!(goes_on(&rig, &session).await && is_logged_in(&mut browser).await);
    let answer = browser.post("/oauth/logout", &[("ticket", &question.ticket), ("decision", "log_out")]).await;
    assert_eq!(location(&answer), OUT);
    assert!(!is_logged_in(&mut browser).await);
}

/// Hints that prove nothing: forged, of somebody else, or none at all.
async fn worthless(rig: &Rig, good: &Session) -> Vec<String> {
    let (head, rest) = good.id_token.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = |alg: &str| encode(&json!({ "alg": alg, "typ": "JWT" }));
    let said = claims(&good.id_token);
    let changed = |name: &str, value: Value| {
        let mut said = said.clone();
        said[name] = value;
        format!("{head}.{}.{signature}", encode(&said))
    };
    let kid = part(&good.id_token, 0)["kid"].clone();
    let foreign = TestKey::new("ES256", "k").token(&json!({ "alg": "ES256", "typ": "JWT", "kid": kid }), &said);
    // Another issuer of ours, with the same URL and the same clients.
    let elsewhere = self::rig().await;
    let theirs = session_of(&mut Browser::new(&elsewhere), "alice").await.id_token;
    let jwks = rig.send(Request::get("/.well-known/jwks.json").body(Bytes::new()).unwrap()).await;
    let by_public_key = {
        let message = format!("{}.{payload}", unsigned("HS256"));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, jwks.0.body());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&key, message.as_bytes())))
    };
    vec![
        "x".into(),
        "..".into(),
        format!("{head}.{payload}."),
        format!("{}.{payload}.", unsigned("none")),
        format!("{}.{payload}.{signature}", unsigned("NONE")),
        by_public_key,
        changed("sub", json!("user-bob")),
        changed("aud", json!("web")),
        changed("iss", json!("https://other.example")),
        foreign,
        theirs,
        // It was never an ID token.
        good.tokens.access.clone(),
        good.tokens.refresh.clone(),
        format!("{}.", good.id_token),
        good.id_token[..good.id_token.len() - 1].into(),
    ]
}

#[tokio::test]
async fn whoever_proves_nothing_has_the_user_asked_first() {
    let rig = rig().await;
    let mut browser = Browser::new(&rig);
    let session = session_of(&mut browser, "alice").await;
    let mut hints: Vec<_> = worthless(&rig, &session).await;
    hints.push(String::new());
    for hint in &hints {
        for more in ["", "&client_id=oidc", &format!("&{TO_OUT}"), &format!("&client_id=web&{TO_OUT}")] {
            let answer = log_out(&mut browser, &format!("id_token_hint={hint}{more}")).await;
            assert_eq!(answer.status(), 200, "{hint} {more}");
            let question = Page::of(&answer);
            assert!(question.text.contains("Log out?") && question.text.contains("<b>alice</b>"), "{}", question.text);
            // There is a way back where one is known.
            assert_eq!(question.text.contains("Stay logged in"), more.contains("web"), "{hint} {more}");
        }
    }
    assert!(is_logged_in(&mut browser).await && goes_on(&rig, &session).await);
    // Nobody is sent anywhere for a client that is not known.
    let question = Page::of(&log_out(&mut browser, &format!("id_token_hint={}&{TO_OUT}", hints[0])).await);
    let answer = browser.post("/oauth/logout", &[("ticket", &question.ticket), ("decision", "log_out")]).await;
    assert!(answer.header(header::LOCATION).is_none() && page(&answer).contains("You are logged out"));
    assert!(!is_logged_in(&mut browser).await);
    assert!(goes_on(&rig, &session).await);
}

#[tokio::test]
async fn a_user_who_has_confirmed_it_goes_on_to_where_the_client_wants() {
    let rig = rig().await;
    let mut browser = Browser::new(&rig);
    session_of(&mut browser, "alice").await;
    let question = Page::of(&log_out(&mut browser, &format!("client_id=web&{TO_OUT}&state=s")).await);
    assert!(question.text.contains("Web &#60;b&#62;&#38;amp; App"), "{}", question.text);
    // Who would rather stay goes back as well, and is still logged in.
    let answer = browser.post("/oauth/logout", &[("ticket", &question.ticket), ("decision", "stay")]).await;
    assert_eq!(location(&answer), format!("{OUT}?state=s"));
    assert!(is_logged_in(&mut browser).await);
    // However long the page was open.
    rig.pass(3601 * SECOND);
    for _ in 0..2 {
        let answer = browser.post("/oauth/logout", &[("ticket", &question.ticket), ("decision", "log_out")]).await;
        assert_eq!(location(&answer), format!("{OUT}?state=s"));
        assert!(!is_logged_in(&mut browser).await);
    }
    // Who has logged out already is asked nothing.
    let answer = log_out(&mut browser, &format!("client_id=web&{TO_OUT}")).await;
    assert_eq!(location(&answer), OUT);
    assert!(page(&log_out(&mut browser, "client_id=web").await).contains("You are logged out"));
}

#[tokio::test]
async fn where_a_browser_may_go_on_to_is_looked_at_when_it_does() {
    let rig = rig().await;
    let (cookies, ticket) = {
        let mut browser = Browser::new(&rig);
        session_of(&mut browser, "alice").await;
        let question = Page::of(&log_out(&mut browser, &format!("client_id=oidc&{TO_OUT}")).await);
        (browser.cookies, question.ticket)
    };
    let rig = rig.restarted(|config| config.clients.iter_mut().for_each(|c| c.post_logout_redirect_uris.clear())).await;
    let mut browser = Browser { rig: &rig, cookies };
    let answer = browser.post("/oauth/logout", &[("ticket", &ticket), ("decision", "log_out")]).await;
    assert!(answer.header(header::LOCATION).is_none() && page(&answer).contains("You are logged out"));
    assert!(!is_logged_in(&mut browser).await);
}

#[tokio::test]
async fn nobody_is_logged_out_or_sent_on_by_a_link_that_is_wrong() {
    let rig = rig().await;
    let mut browser = Browser::new(&rig);
    let session = session_of(&mut browser, "alice").await;
    let hint = format!("id_token_hint={}", session.id_token);
    let to = |uri: &str| format!("post_logout_redirect_uri={uri}");
    let bare = |uri: &str| form_urlencoded::byte_serialize(uri.as_bytes()).collect::<String>();
    let mut wrong = vec![
        // Another client's than the one that it says it is.
        format!("{hint}&client_id=web&{TO_OUT}"),
        format!("{hint}&client_id=web"),
        format!("client_id=nobody&{TO_OUT}"),
        "client_id=gone".into(),
        format!("{hint}&client_id=gone"),
        // It has registered where codes go to, and none of this.
        format!("client_id=own&{TO_OUT}"),
        // Said twice.
        format!("{hint}&{TO_OUT}&{}", to("https%3A%2F%2Fevil.example")),
        format!("{hint}&{hint}"),
        format!("{hint}&{TO_OUT}&state=1&state=2"),
        format!("{hint}&client_id=oidc&client_id=oidc"),
        // A header of its own.
        format!("{hint}&{TO_OUT}&state=a%0d%0aLocation%3A+https%3A%2F%2Fevil.example"),
        format!("{hint}&{TO_OUT}&state=%00"),
        format!("{hint}&{TO_OUT}%0d%0aX%3A1"),
        format!("{hint}&{TO_OUT}&state={}", "x".repeat(5000)),
        format!("id_token_hint={}", "x".repeat(17_000)),
    ];
    for uri in [
        BACK,
        "https://app.example.com/out/",
        "https://app.example.com/out?x",
        "https://app.example.com/OUT",
        "https://APP.example.com/out",
        "https://app.example.com:443/out",
        "https://app.example.com/x/../out",
        "https://app.example.com/%6fut",
        "https://app.example.com/out#there",
        "https://app.example.com.evil.example/out",
        "https://app.example.com@evil.example/out",
        "https://app.example.com\\@evil.example/out",
        "http://app.example.com/out",
        "http://127.0.0.1:80@evil.example/out",
        "http://127.0.0.1:99999/out",
        "//app.example.com/out",
        "/out",
        "javascript:alert(1)",
        "com.example.app:/other",
    ] {
        wrong.push(format!("{hint}&{}", to(&bare(uri))));
        wrong.push(format!("client_id=oidc&{}", to(&bare(uri))));
    }
    for query in &wrong {
        let answer = log_out(&mut browser, query).await;
        assert_eq!(answer.status(), 400, "{query}");
        assert!(answer.header(header::LOCATION).is_none() && answer.header(header::SET_COOKIE).is_none(), "{query}");
        assert!(page(&answer).contains("This link does not work"), "{query}");
    }
    assert!(is_logged_in(&mut browser).await && goes_on(&rig, &session).await);
}

#[tokio::test]
async fn a_state_comes_back_as_it_was_and_loopback_ports_are_free() {
    let rig = rig().await;
    for (asked, found) in [
        (TO_OUT.to_owned(), OUT.to_owned()),
        (format!("{TO_OUT}&state="), OUT.to_owned()),
        (format!("{TO_OUT}&state=%2526%23%3C%C3%A9"), format!("{OUT}?state=%2526%23%3C%C3%A9")),
        (format!("{TO_OUT}%3Ftenant%3D1&state=s"), format!("{OUT}?tenant=1&state=s")),
        ("post_logout_redirect_uri=http%3A%2F%2F127.0.0.1%3A51004%2Fout".into(), "http://127.0.0.1:51004/out".into()),
        ("post_logout_redirect_uri=com.example.app%3A%2Fout&state=1".into(), "com.example.app:/out?state=1".into()),
    ] {
        let mut browser = Browser::new(&rig);
        let session = session_of(&mut browser, "alice").await;
        // What others send along is none of ours.
        let query = format!("id_token_hint={}&{asked}&logout_hint=alice&ui_locales=de", session.id_token);
        assert_eq!(location(&log_out(&mut browser, &query).await), found);
        assert!(!is_logged_in(&mut browser).await);
    }
}

#[tokio::test]
async fn what_a_client_has_a_browser_post_is_asked_again_as_a_get() {
    let rig = rig().await;
    let mut browser = Browser::new(&rig);
    let session = session_of(&mut browser, "alice").await;
    for form in [&[][..], &[("ticket", "")], &[("decision", "log_out")], &[("id_token_hint", &*session.id_token)]] {
        let answer = browser.post("/oauth/logout", form).await;
        assert!(location(&answer).starts_with(&format!("{URL}/oauth/logout?")), "{form:?}");
        assert!(is_logged_in(&mut browser).await && goes_on(&rig, &session).await, "{form:?}");
    }
    // It comes without cookies: what is open in another tab must not lose its own.
    let form = [("id_token_hint", &*session.id_token), ("post_logout_redirect_uri", OUT), ("state", "a&b"), ("x", "y")];
    let answer = Browser::new(&rig).post("/oauth/logout", &form).await;
    assert!(answer.header(header::SET_COOKIE).is_none());
    let next = location(&answer);
    assert_eq!(next, format!("{URL}/oauth/logout?id_token_hint={}&{TO_OUT}&state=a%26b", session.id_token));
    let answer = browser.get(next.strip_prefix(URL).unwrap()).await;
    assert_eq!(location(&answer), format!("{OUT}?state=a%26b"));
    assert!(!is_logged_in(&mut browser).await);
}

#[tokio::test]
async fn a_page_of_another_browser_logs_nobody_out() {
    let rig = rig().await;
    let (mut browser, mut other) = (Browser::new(&rig), Browser::new(&rig));
    session_of(&mut browser, "alice").await;
    session_of(&mut other, "alice").await;
    let query = format!("client_id=oidc&{TO_OUT}");
    let (ours, theirs) =
        (Page::of(&log_out(&mut browser, &query).await).ticket, Page::of(&log_out(&mut other, &query).await).ticket);
    let mut changed = ours.clone();
    changed.replace_range(20..21, if changed.as_bytes()[20] == b'A' { "B" } else { "A" });
    for ticket in [&*theirs, &changed, "x"] {
        for decision in ["log_out", "stay"] {
            let answer = browser.post("/oauth/logout", &[("ticket", ticket), ("decision", decision)]).await;
            assert_eq!(answer.status(), 400);
            assert!(answer.header(header::LOCATION).is_none() && page(&answer).contains("Please try again"));
        }
    }
    assert!(is_logged_in(&mut browser).await && is_logged_in(&mut other).await);
}

#[tokio::test]
async fn somebody_else_who_is_logged_in_is_asked_and_the_clients_own_session_ends() {
    let rig = rig().await;
    let (mut browser, mut other) = (Browser::new(&rig), Browser::new(&rig));
    let alices = session_of(&mut browser, "alice").await;
    let bobs = session_of(&mut other, "bob").await;
    let answer = log_out(&mut other, &format!("id_token_hint={}&{TO_OUT}", alices.id_token)).await;
    let question = Page::of(&answer);
    assert!(question.text.contains("<b>bob</b>"));
    assert!(is_logged_in(&mut other).await && is_logged_in(&mut browser).await);
    assert!(!goes_on(&rig, &alices).await && goes_on(&rig, &bobs).await);
    let answer = other.post("/oauth/logout", &[("ticket", &question.ticket), ("decision", "log_out")]).await;
    assert_eq!(location(&answer), OUT);
    assert!(!is_logged_in(&mut other).await && is_logged_in(&mut browser).await);
}

#[tokio::test]
async fn a_hint_of_a_client_that_is_disabled_is_none() {
    let rig = rig().await;
    let (cookies, id_token) = {
        let mut browser = Browser::new(&rig);
        let session = session_of(&mut browser, "alice").await;
        (browser.cookies, session.id_token)
    };
    let disable = |config: &mut Config| {
        config
            .clients
            .iter_mut()
            .filter(|client| client.id.as_str() == "oidc")
            .for_each(|client| client.disabled = true);
    };
    let rig = rig.restarted(disable).await;
    let mut browser = Browser { rig: &rig, cookies };
    Page::of(&log_out(&mut browser, &format!("id_token_hint={id_token}&{TO_OUT}")).await);
    let answer = log_out(&mut browser, &format!("id_token_hint={id_token}&client_id=oidc&{TO_OUT}")).await;
    assert_eq!(answer.status(), 400);
}

#[tokio::test]
async fn discovery_says_where() {
    let rig = rig().await;
    let path = "/.well-known/openid-configuration";
    let discovered = rig.send(Request::get(path).body(Bytes::new()).unwrap()).await.json();
    assert_eq!(discovered["end_session_endpoint"], format!("{URL}/oauth/logout"));
}
