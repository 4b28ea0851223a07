//! What a user has agreed to, and for how long it is remembered.

use super::{
    authorize::{BACK, Browser, Page, asks, back, rig_with},
    *,
};

const APP: &str = "http://127.0.0.1:5000/cb";

/// With `first` and `second` (confidential, ask for consent), `site` (public, on the web) and `phone` (public, on a device).
async fn rig() -> Rig {
    rig_with(|config| {
        config.access_token.resources = vec![Audience::new("https://a.example"), Audience::new("https://b.example")];
        let uris = |uri| vec![RedirectUri::parse(uri).unwrap()];
        let grants = &[GrantType::AuthorizationCode];
        for id in ["first", "second"] {
            let redirect_uris = uris(BACK);
            config.clients.push(Client { redirect_uris, ..client(id, Some(sha256("generated")), grants) });
        }
        config.clients.push(Client { redirect_uris: uris(BACK), ..client("site", None, grants) });
        config.clients.push(Client { redirect_uris: uris("http://127.0.0.1/cb"), ..client("phone", None, grants) });
        config.clients.push(Client { redirect_uris: uris("com.example.app:/cb"), ..client("native", None, grants) });
        for n in 0..20 {
            let id = format!("app-{n}");
            config.clients.push(Client { redirect_uris: uris(BACK), ..client(&id, None, grants) });
        }
    })
    .await
}

impl Browser<'_> {
    /// Whether the user is asked; nobody answers.
    async fn is_asked(&mut self, client: &str, more: &str) -> bool {
        let answer = self.get(&format!("/oauth/authorize?{}", asks(client, more))).await;
        match answer.status().as_u16() {
            200 => {
                assert_eq!(Page::of(&answer).action, "/oauth/consent", "{client}{more}");
                true
            }
            _ => {
                assert!(answer.header(header::LOCATION).unwrap().contains("code="), "{client}{more}: {:?}", answer.0);
                false
            }
        }
    }

    async fn agree(&mut self, client: &str, more: &str) {
        let page = self.ask(&asks(client, more)).await;
        assert_eq!(self.decide(&page, "allow").await.status(), 303);
    }
}

/// At which alice is logged in, and has agreed that `first` may read.
async fn agreed(rig: &Rig) -> Browser<'_> {
    let mut browser = Browser::new(rig);
    let page = Page::of(&browser.logged_in(&asks("first", "&scope=read")).await);
    back(&browser.decide(&page, "allow").await, BACK);
    browser
}

#[tokio::test]
async fn what_was_agreed_to_is_not_asked_again_and_anything_more_is() {
    let rig = rig().await;
    let mut browser = agreed(&rig).await;
    assert!(!browser.is_asked("first", "&scope=read").await);
    assert!(!browser.is_asked("first", "&scope=read&prompt=none").await);
    assert!(!browser.is_asked("first", "&scope=read&resource=https%3A%2F%2Fa.example").await, "it was for anything");
    for (client, more) in [
        ("first", "&scope=read+write"),
        ("first", "&scope=write"),
        ("first", ""),
        ("first", "&scope=read&prompt=consent"),
        ("second", "&scope=read"),
    ] {
        assert!(browser.is_asked(client, more).await, "{client}{more}");
    }
    // Nothing is agreed to by asking, or by saying no.
    let page = browser.ask(&asks("second", "&scope=read")).await;
    browser.decide(&page, "deny").await;
    assert!(browser.is_asked("second", "&scope=read").await);
    // A no takes back an earlier yes.
    browser.agree("second", "&scope=read").await;
    let page = browser.ask(&asks("second", "&scope=read&prompt=consent")).await;
    browser.decide(&page, "deny").await;
    assert!(browser.is_asked("second", "&scope=read").await);
    assert!(!browser.is_asked("first", "&scope=read").await);
    // What comes later is added to what was there.
    browser.agree("first", "&scope=write").await;
    browser.agree("second", "&scope=read").await;
    assert!(!browser.is_asked("first", "&scope=read+write").await);
    assert!(!browser.is_asked("second", "&scope=read").await);
}

#[tokio::test]
async fn what_was_agreed_to_for_one_resource_is_not_for_another() {
    let rig = rig().await;
    let mut browser = Browser::new(&rig);
    browser.logged_in(&asks("first", "")).await;
    browser.agree("first", "&scope=read&resource=https%3A%2F%2Fa.example").await;
    assert!(!browser.is_asked("first", "&scope=read&resource=https%3A%2F%2Fa.example").await);
    for more in
        ["", "&resource=https%3A%2F%2Fb.example", "&resource=https%3A%2F%2Fa.example&resource=https%3A%2F%2Fb.example"]
    {
        assert!(browser.is_asked("first", &format!("&scope=read{more}")).await, "{more}");
    }
    // Nor does a wider scope that was for something else come along.
    browser.agree("first", "&scope=write&resource=https%3A%2F%2Fb.example").await;
    assert!(browser.is_asked("first", "&scope=read&resource=https%3A%2F%2Fb.example").await);
}

#[tokio::test]
async fn whoever_any_app_can_pose_as_asks_each_time() {
    let rig = rig().await;
    let mut browser = agreed(&rig).await;
    for (client, port) in [("phone", true), ("native", false)] {
        let more = if port { "&redirect_uri=http%3A%2F%2F127.0.0.1%3A5000%2Fcb" } else { "" };
        let page = browser.ask(&asks(client, more)).await;
        let answer = browser.decide(&page, "allow").await;
        back(&answer, if port { APP } else { "com.example.app:/cb" });
        assert!(answer.header(header::SET_COOKIE).is_none(), "{client}");
        assert!(browser.is_asked(client, more).await, "{client}");
        let none = browser.get(&format!("/oauth/authorize?{}&prompt=none", asks(client, more))).await;
        assert!(none.header(header::LOCATION).unwrap().contains("error=consent_required"), "{client}");
    }
    browser.agree("site", "").await;
    assert!(!browser.is_asked("site", "").await);
}

#[tokio::test]
async fn it_is_remembered_for_one_login_in_one_browser() {
    let rig = rig().await;
    let mut browser = agreed(&rig).await;
    let cookie = browser.cookies["sidegate-consented"].clone();
    // Another browser, or another login in this one, has agreed to nothing, even with the cookie.
    let mut other = Browser::new(&rig);
    other.logged_in(&asks("first", "&scope=read")).await;
    other.cookies.insert("sidegate-consented".into(), cookie.clone());
    assert!(other.is_asked("first", "&scope=read").await);
    let again = browser.logged_in(&asks("first", "&scope=read&prompt=login")).await;
    assert_eq!(Page::of(&again).action, "/oauth/consent");
    // A cookie that somebody has made, or changed, says nothing.
    let mut browser = agreed(&rig).await;
    let good = browser.cookies["sidegate-consented"].clone();
    let mark = browser.cookies["sidegate-browser"].clone();
    for bad in [String::new(), "x".into(), good.replacen(&good[4..5], "-", 1), good[..good.len() - 4].into(), mark] {
        browser.cookies.insert("sidegate-consented".into(), bad);
        assert!(browser.is_asked("first", "&scope=read").await);
    }
    browser.cookies.insert("sidegate-consented".into(), good);
    assert!(!browser.is_asked("first", "&scope=read").await);
    // Logging out ends it.
    let question = Page::of(&browser.get("/oauth/logout").await);
    browser.post("/oauth/logout", &[("ticket", &question.ticket)]).await;
    assert_eq!(Page::of(&browser.logged_in(&asks("first", "&scope=read")).await).action, "/oauth/consent");
}

#[tokio::test]
async fn a_revoked_client_has_to_ask_again_however_long_ago_that_was() {
    let mut rig = rig().await;
    let cookies = {
        let mut browser = agreed(&rig).await;
        browser.agree("second", "&scope=read").await;
        rig.ban("client", "first").await.unwrap();
        assert!(browser.is_asked("first", "&scope=read").await);
        // Long after its tokens are over; and others are not concerned.
        rig.pass(7 * 3600 * SECOND);
        rig.issuer.sweep().await;
        assert!(browser.is_asked("first", "&scope=read").await);
        assert!(!browser.is_asked("second", "&scope=read").await);
        browser.agree("first", "&scope=read").await;
        assert!(!browser.is_asked("first", "&scope=read").await);
        browser.cookies
    };
    // It outlives the process, and not a client that was disabled for a while.
    let disable = |disabled: bool| {
        move |config: &mut Config| {
            config
                .clients
                .iter_mut()
                .filter(|client| client.id.as_str() == "first")
                .for_each(|c| c.disabled = disabled);
        }
    };
    rig = rig.restarted(|_| {}).await;
    assert!(!Browser { rig: &rig, cookies: cookies.clone() }.is_asked("first", "&scope=read").await);
    rig = rig.restarted(disable(true)).await;
    rig = rig.restarted(disable(false)).await;
    let mut browser = Browser { rig: &rig, cookies };
    assert!(browser.is_asked("first", "&scope=read").await);
    assert!(!browser.is_asked("second", "&scope=read").await);
    // Whoever is logged out everywhere has agreed to nothing.
    rig.ban("subject", "user-alice").await.unwrap();
    assert_eq!(Page::of(&browser.logged_in(&asks("second", "&scope=read")).await).action, "/oauth/consent");
}

#[tokio::test]
async fn a_consent_is_no_older_than_a_login_may_be() {
    let mut rig = rig().await;
    let cookies = agreed(&rig).await.cookies;
    rig = rig.restarted(|config| config.login.lifetime = 60 * SECOND).await;
    let mut browser = Browser { rig: &rig, cookies };
    rig.pass(59 * SECOND);
    assert!(!browser.is_asked("first", "&scope=read").await);
    rig.pass(SECOND);
    assert!(browser.is_asked("first", "&scope=read").await);
}

#[tokio::test]
async fn a_browser_remembers_a_few_and_forgets_the_oldest() {
    let rig = rig().await;
    let mut browser = agreed(&rig).await;
    for n in 0..20 {
        browser.agree(&format!("app-{n}"), "").await;
        assert!(browser.cookies["sidegate-consented"].len() <= 2048);
    }
    assert!(browser.is_asked("first", "&scope=read").await);
    assert!(browser.is_asked("app-0", "").await);
    assert!(!browser.is_asked("app-19", "").await && !browser.is_asked("app-10", "").await);
}
