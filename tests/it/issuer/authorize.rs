//! Authorization codes, and the pages on the way to one.

use std::collections::BTreeMap;

use super::*;

pub(super) const BACK: &str = "https://app.example.com/cb";
pub(super) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
/// Its S256, as RFC 7636 appendix B has it.
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// With `web` (public, asks for consent), `own` (confidential, of the house) and `both` (public, without refresh tokens).
async fn rig() -> Rig {
    rig_with(|_| {}).await
}

pub(super) async fn rig_with(change: impl FnOnce(&mut Config)) -> Rig {
    use GrantType::{AuthorizationCode as Code, RefreshToken as Refresh};
    let uris = |uris: &[&str]| uris.iter().map(|uri| RedirectUri::parse(uri).unwrap()).collect();
    Rig::with(|config| {
        config.clients.extend([
            Client {
                name: "Web <b>&amp; App".into(),
                redirect_uris: uris(&[BACK, "http://127.0.0.1/cb", "com.example.app:/cb"]),
                ..client("web", None, &[Code, Refresh])
            },
            Client {
                redirect_uris: uris(&["https://own.example.com/cb?tenant=1"]),
                consent: Consent::Skip,
                ..client("own", Some(sha256("generated")), &[Code, Refresh])
            },
            Client { redirect_uris: uris(&[BACK]), consent: Consent::Skip, ..client("short", None, &[Code]) },
            Client {
                redirect_uris: uris(&[BACK]),
                consent: Consent::Skip,
                scopes: Scopes::from_values(["openid", "profile", "read"]),
                ..client("oidc", None, &[Code, Refresh])
            },
            Client { disabled: true, redirect_uris: uris(&[BACK]), ..client("gone", None, &[Code]) },
        ]);
        change(config);
    })
    .await
}

/// A browser, with its cookies.
pub(super) struct Browser<'r> {
    pub(super) rig: &'r Rig,
    pub(super) cookies: BTreeMap<String, String>,
}

impl<'r> Browser<'r> {
    pub(super) fn new(rig: &'r Rig) -> Self {
        Self { rig, cookies: BTreeMap::new() }
    }

    pub(super) async fn get(&mut self, path: &str) -> Answer {
        self.send(Request::get(path), "").await
    }

    pub(super) async fn post(&mut self, path: &str, form: &[(&str, &str)]) -> Answer {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.send(request, &body).await
    }

    async fn send(&mut self, request: http::request::Builder, body: &str) -> Answer {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = request.header(header::COOKIE, cookies.join("; "));
        let answer = self.rig.send(request.body(Bytes::copy_from_slice(body.as_bytes())).unwrap()).await;
        for cookie in answer.0.headers().get_all(header::SET_COOKIE) {
            let (pair, attributes) = cookie.to_str().unwrap().split_once(';').unwrap();
            assert!(attributes.contains("HttpOnly") && attributes.contains("SameSite=Lax"), "{attributes}");
            let (name, value) = pair.split_once('=').unwrap();
            self.cookies.insert(name.into(), value.into());
        }
        answer
    }

    /// Asks for a code, and gets a page with a form.
    pub(super) async fn ask(&mut self, query: &str) -> Page {
        Page::of(&self.get(&format!("/oauth/authorize?{query}")).await)
    }

    pub(super) async fn log_in(&mut self, page: &Page, username: &str, password: &str) -> Answer {
        assert_eq!(page.action, "/oauth/login");
        let form = [("ticket", &*page.ticket), ("username", username), ("password", password)];
        self.post("/oauth/login", &form).await
    }

    /// Logs alice in, and follows to what comes then.
    pub(super) async fn logged_in(&mut self, query: &str) -> Answer {
        let page = self.ask(query).await;
        let answer = self.log_in(&page, "alice", "open sesame").await;
        assert_eq!(answer.status(), 303, "{:?}", answer.0);
        let next = location(&answer);
        self.get(next.strip_prefix(URL).unwrap()).await
    }

    pub(super) async fn decide(&mut self, page: &Page, decision: &str) -> Answer {
        assert_eq!(page.action, "/oauth/consent");
        self.post("/oauth/consent", &[("ticket", &*page.ticket), ("decision", decision)]).await
    }
}

/// A page with a form.
pub(super) struct Page {
    pub(super) text: String,
    pub(super) action: String,
    pub(super) ticket: String,
}

impl Page {
    #[track_caller]
    pub(super) fn of(answer: &Answer) -> Self {
        let text = page(answer);
        let between = |before: &str| {
            let at = text.find(before).unwrap_or_else(|| panic!("no form: {text}")) + before.len();
            text[at..].split('"').next().unwrap().to_owned()
        };
        let (action, ticket) = (between("action=\""), between("name=\"ticket\" value=\""));
        Self { text, action, ticket }
    }
}

/// The text of a page, which nobody may keep, frame or bring scripts into.
#[track_caller]
pub(super) fn page(answer: &Answer) -> String {
    assert_eq!(answer.header(header::CONTENT_TYPE), Some("text/html; charset=utf-8"), "{:?}", answer.0);
    let policy = answer.header(header::CONTENT_SECURITY_POLICY).unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-") && policy.contains("frame-ancestors 'none'"));
    assert_eq!(answer.header(header::X_FRAME_OPTIONS), Some("DENY"));
    assert_eq!(answer.header(header::REFERRER_POLICY), Some("no-referrer"));
    answer.assert_not_kept();
    let text = String::from_utf8(answer.0.body().to_vec()).unwrap();
    assert!(!text.contains("<script"));
    text
}

#[track_caller]
pub(super) fn location(answer: &Answer) -> String {
    assert_eq!(answer.status(), 303, "{:?}", answer.0);
    answer.assert_not_kept();
    answer.header(header::LOCATION).unwrap().to_owned()
}

/// What goes back to a client.
#[track_caller]
pub(super) fn back(answer: &Answer, to: &str) -> BTreeMap<String, String> {
    let location = location(answer);
    let (there, query) = location.rsplit_once(['?', '&']).map_or(("", ""), |_| location.split_at(to.len()));
    assert_eq!(there, to, "{location}");
    let found: BTreeMap<_, _> = form_urlencoded::parse(&query.as_bytes()[1..]).into_owned().collect();
    assert_eq!(found["iss"], URL);
    found
}

pub(super) fn asks(client: &str, more: &str) -> String {
    format!(
        "response_type=code&client_id={client}&state=a%26b&code_challenge={CHALLENGE}&code_challenge_method=S256{more}"
    )
}

fn web() -> String {
    asks("web", "&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb&scope=read")
}

/// A code for `web`.
async fn code(rig: &Rig) -> String {
    let mut browser = Browser::new(rig);
    let consent = Page::of(&browser.logged_in(&web()).await);
    let answer = browser.decide(&consent, "allow").await;
    back(&answer, BACK)["code"].clone()
}

async fn exchange(rig: &Rig, code: &str, more: &str) -> Answer {
    rig.token(None, &format!("grant_type=authorization_code&client_id=web&code={code}{more}")).await
}

fn proof() -> String {
    format!("&code_verifier={VERIFIER}&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb")
}

#[tokio::test]
async fn a_user_logs_in_consents_and_the_client_gets_tokens() {
    let rig = rig().await;
    let mut browser = Browser::new(&rig);
    let log_in = browser.ask(&web()).await;
    // What the configuration says is text.
    assert!(log_in.text.contains("Web &#60;b&#62;&#38;amp; App"), "{}", log_in.text);
    let answer = browser.log_in(&log_in, "alice", "open sesame").await;
    let next = location(&answer);
    let consent = Page::of(&browser.get(next.strip_prefix(URL).unwrap()).await);
    for shown in ["<li>read</li>", "app.example.com", "alice"] {
        assert!(consent.text.contains(shown), "{shown}: {}", consent.text);
    }
    let found = back(&browser.decide(&consent, "allow").await, BACK);
    assert_eq!(found["state"], "a&b");
    let tokens = exchange(&rig, &found["code"], &proof()).await.tokens();
    let claims = claims(&tokens.access);
    assert_eq!(
        (&claims["sub"], &claims["client_id"], &claims["scope"]),
        (&json!("user-alice"), &json!("web"), &json!("read"))
    );
    rig.refresh_as("web", &tokens.refresh).await.tokens();
    // The next time the browser is known, and so is what its user has agreed to.
    let found = back(&browser.get(&format!("/oauth/authorize?{}", web())).await, BACK);
    assert!(found["code"].starts_with("sgc1."));
    let consent = browser.ask(&format!("{}&prompt=consent", web())).await;
    assert_eq!(consent.action, "/oauth/consent");
    let found = back(&browser.decide(&consent, "deny").await, BACK);
    assert_eq!((&*found["error"], &*found["state"]), ("access_denied", "a&b"));
}

#[tokio::test]
async fn a_client_of_the_house_needs_no_consent_and_one_that_authenticates_no_challenge() {
    let rig = rig().await;
    let mut browser = Browser::new(&rig);
    let answer = browser.logged_in("response_type=code&client_id=own").await;
    let found = back(&answer, "https://own.example.com/cb?tenant=1");
    assert!(!found.contains_key("state"));
    let exchange = format!("grant_type=authorization_code&code={}", found["code"]);
    let tokens = rig.token(Some(&basic("own", "generated")), &exchange).await.tokens();
    assert_eq!(claims(&tokens.access)["scope"], "read write");
    // Without a challenge nobody has anything to prove (RFC 9700 §2.1.1).
    let found = back(
        &browser.get("/oauth/authorize?response_type=code&client_id=own").await,
        "https://own.example.com/cb?tenant=1",
    );
    let exchange = format!("grant_type=authorization_code&code={}&code_verifier={VERIFIER}", found["code"]);
    rig.token(Some(&basic("own", "generated")), &exchange).await.assert_error(400, "invalid_grant");
    // It can ask for consent all the same.
    let page = browser.ask("response_type=code&client_id=own&prompt=consent").await;
    assert_eq!(page.action, "/oauth/consent");
}

#[tokio::test]
async fn a_client_without_refresh_tokens_has_a_session_all_the_same() {
    let rig = rig().await;
    let answer = Browser::new(&rig).logged_in(&asks("short", "")).await;
    let code = &back(&answer, BACK)["code"];
    let request = format!("grant_type=authorization_code&client_id=short&code={code}&code_verifier={VERIFIER}");
    let tokens = rig.token(None, &request).await.tokens();
    assert_eq!(tokens.refresh, "");
    rig.token(None, &request).await.assert_error(400, "invalid_grant");
    assert!(rig.is_revoked(&tokens.access));
}

#[tokio::test]
async fn a_code_is_good_once_and_its_second_use_ends_what_came_of_it() {
    let rig = rig().await;
    let code = code(&rig).await;
    let tokens = exchange(&rig, &code, &proof()).await.tokens();
    assert!(!rig.is_revoked(&tokens.access));
    exchange(&rig, &code, &proof()).await.assert_error(400, "invalid_grant");
    assert!(rig.is_revoked(&tokens.access));
    rig.refresh_as("web", &tokens.refresh).await.assert_error(400, "invalid_grant");
}

#[tokio::test]
async fn a_code_is_nothing_without_what_belongs_to_it() {
    let rig = rig().await;
    for more in [
        "",
        "&code_verifier=",
        "&code_verifier=short",
        &format!("&code_verifier={CHALLENGE}"),
        &format!("&code_verifier={VERIFIER}x"),
        &format!("&code_verifier={VERIFIER}&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb%2F"),
        &format!("&code_verifier={VERIFIER}&redirect_uri=http%3A%2F%2F127.0.0.1%2Fcb"),
    ] {
        exchange(&rig, &code(&rig).await, more).await.assert_error(400, "invalid_grant");
    }
    for wrong in ["x", "sgc1.", "sgc1.AAAA", &format!("sgc1.{}", "A".repeat(43))] {
        exchange(&rig, wrong, &proof()).await.assert_error(400, "invalid_grant");
    }
    exchange(&rig, "", &proof()).await.assert_error(400, "invalid_request");
    // Another client's, though that one authenticates.
    let other = format!("grant_type=authorization_code&code={}{}", code(&rig).await, proof());
    rig.token(Some(&basic("own", "generated")), &other).await.assert_error(400, "invalid_grant");
    rig.token(Some(&svc()), &other).await.assert_error(400, "unauthorized_client");
    // A minute later it is over.
    let late = code(&rig).await;
    rig.pass(61 * SECOND);
    exchange(&rig, &late, &proof()).await.assert_error(400, "invalid_grant");
    let in_time = code(&rig).await;
    rig.pass(59 * SECOND);
    exchange(&rig, &in_time, &proof()).await.tokens();
}

#[tokio::test]
async fn of_many_who_come_with_a_code_at_once_one_gets_tokens_at_the_most() {
    let rig = rig().await;
    let code = code(&rig).await;
    let all = futures_util::future::join_all((0..8).map(|_| {
        let (code, proof) = (code.clone(), proof());
        let rig = &rig;
        async move { exchange(rig, &code, &proof).await.status() }
    }));
    let granted = all.await.into_iter().filter(|status| *status == 200).count();
    assert!(granted <= 1, "{granted}");
}

/// Whether the first one has its session by the time the second one comes, or not.
#[tokio::test]
async fn whenever_a_code_comes_a_second_time_what_came_of_the_first_ends() {
    let rig = rig().await;
    for _ in 0..20 {
        let (code, proof) = (code(&rig).await, proof());
        let (one, two) = tokio::join!(exchange(&rig, &code, &proof), exchange(&rig, &code, &proof));
        for answer in [one, two].into_iter().filter(|answer| answer.status() == 200) {
            let tokens = answer.tokens();
            assert!(rig.is_revoked(&tokens.access));
            rig.refresh_as("web", &tokens.refresh).await.assert_error(400, "invalid_grant");
        }
    }
    // Nor is it forgotten with the code's own minute.
    let code = code(&rig).await;
    let tokens = exchange(&rig, &code, &proof()).await.tokens();
    rig.pass(300 * SECOND);
    rig.issuer.sweep().await;
    exchange(&rig, &code, &proof()).await.assert_error(400, "invalid_grant");
    assert!(rig.is_revoked(&tokens.access));
}

/// From another site, without the cookies of ours that a browser sends with a GET alone.
#[tokio::test]
async fn what_a_client_has_a_browser_post_is_asked_for_again_by_a_get() {
    let rig = rig().await;
    let mut browser = Browser::new(&rig);
    let consent = Page::of(&browser.logged_in(&web()).await);
    back(&browser.decide(&consent, "allow").await, BACK);
    let query = format!("{}&resource=api&prompt=&unknown=x", web());
    let form: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let form: Vec<_> = form.iter().map(|(name, value)| (&**name, &**value)).collect();
    let mut bare = Browser::new(&rig);
    let next = location(&bare.post("/oauth/authorize", &form).await);
    assert!(bare.cookies.is_empty());
    let asked: Vec<_> = form_urlencoded::parse(next.split_once('?').unwrap().1.as_bytes()).into_owned().collect();
    let expected = form.iter().filter(|(name, value)| *name != "unknown" && !value.is_empty());
    let mut expected: Vec<_> = expected.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut sorted = asked;
    sorted.sort();
    expected.sort();
    assert_eq!(sorted, expected);
    let found = back(&browser.get(next.strip_prefix(URL).unwrap()).await, BACK);
    assert!(found["code"].starts_with("sgc1."));
    // What no browser would take is not sent on, and what is said twice is refused here as there.
    let long = "%".repeat(4096);
    for bad in [
        vec![("state", &*long), ("scope", &long), ("client_id", "web")],
        vec![("client_id", "web"), ("client_id", "own")],
    ] {
        let answer = bare.post("/oauth/authorize", &bad).await;
        assert_eq!((answer.status().as_u16(), answer.header(header::LOCATION)), (400, None));
        assert!(page(&answer).contains("This link does not work"));
    }
}

#[tokio::test]
async fn nobody_is_sent_to_where_the_client_has_not_registered() {
    let rig = rig().await;
    for query in [
        "response_type=code".to_owned(),
        asks("nobody", "&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb"),
        asks("gone", "&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb"),
        // It has several.
        asks("web", ""),
        asks("web", "&redirect_uri="),
        asks("web", "&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb%2F"),
        asks("web", "&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb%3Fx"),
        asks("web", "&redirect_uri=https%3A%2F%2Fapp.example.com%40evil.example%2Fcb"),
        asks("web", "&redirect_uri=http%3A%2F%2F127.0.0.1%3A80%40evil.example%2Fcb"),
        asks("web", "&redirect_uri=https%3A%2F%2Fevil.example%2Fcb"),
        asks("web", "&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb&redirect_uri=https%3A%2F%2Fevil.example"),
        asks("web", "&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb&client_id=own"),
        asks("web", "&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb%0d%0aX%3A1"),
        asks("web", &format!("&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb{}", "x".repeat(2000))),
        asks("web", &format!("&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb&state={}", "x".repeat(5000))),
    ] {
        let answer = Browser::new(&rig).get(&format!("/oauth/authorize?{query}")).await;
        assert_eq!(answer.status(), 400, "{query}");
        assert!(answer.header(header::LOCATION).is_none(), "{query}");
        assert!(page(&answer).contains("This link does not work"), "{query}");
    }
    // An app takes the port that it finds.
    let mut browser = Browser::new(&rig);
    browser.logged_in(&web()).await;
    for there in ["http://127.0.0.1:51004/cb", "com.example.app:/cb"] {
        let to: String = form_urlencoded::byte_serialize(there.as_bytes()).collect();
        let consent = browser.ask(&asks("web", &format!("&redirect_uri={to}"))).await;
        let found = back(&browser.decide(&consent, "allow").await, there);
        exchange(&rig, &found["code"], &format!("&code_verifier={VERIFIER}")).await.tokens();
    }
}

#[tokio::test]
async fn a_client_that_asks_for_what_it_cannot_have_is_told() {
    let rig = rig().await;
    let to = "&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb&state=s";
    let pkce = format!("&code_challenge={CHALLENGE}&code_challenge_method=S256");
    for (query, error) in [
        (format!("client_id=web{to}{pkce}"), "invalid_request"),
        (format!("client_id=web{to}{pkce}&response_type=token"), "unsupported_response_type"),
        (format!("client_id=web{to}{pkce}&response_type=code+id_token"), "unsupported_response_type"),
        (format!("client_id=web{to}{pkce}&response_type=code&response_mode=fragment"), "invalid_request"),
        (format!("client_id=web{to}&response_type=code"), "invalid_request"),
        (format!("client_id=web{to}&response_type=code&code_challenge={CHALLENGE}"), "invalid_request"),
        (
            format!("client_id=web{to}&response_type=code&code_challenge={VERIFIER}&code_challenge_method=plain"),
            "invalid_request",
        ),
        (
            format!("client_id=web{to}&response_type=code&code_challenge=short&code_challenge_method=S256"),
            "invalid_request",
        ),
        (format!("client_id=web{to}&response_type=code&code_challenge_method=S256"), "invalid_request"),
        (format!("client_id=web{to}{pkce}&response_type=code&scope=admin"), "invalid_scope"),
        (format!("client_id=web{to}{pkce}&response_type=code&prompt=none"), "login_required"),
        (format!("client_id=web{to}{pkce}&response_type=code&prompt=none+login"), "invalid_request"),
        (format!("client_id=web{to}{pkce}&response_type=code&prompt=other"), "invalid_request"),
        (format!("client_id=web{to}{pkce}&response_type=code&max_age=soon"), "invalid_request"),
        (format!("client_id=web{to}{pkce}&response_type=code&request=x"), "request_not_supported"),
        (
            format!("client_id=web{to}{pkce}&response_type=code&request_uri=https%3A%2F%2Fx"),
            "request_uri_not_supported",
        ),
    ] {
        let answer = Browser::new(&rig).get(&format!("/oauth/authorize?{query}")).await;
        let found = back(&answer, BACK);
        assert_eq!((&*found["error"], &*found["state"]), (error, "s"), "{query}");
        assert!(!found.contains_key("code"));
    }
}

#[tokio::test]
async fn a_wrong_password_is_asked_for_again_and_tells_nothing() {
    let rig = rig().await;
    let mut browser = Browser::new(&rig);
    let mut first = browser.ask(&web()).await;
    let mut pages = Vec::new();
    for (username, password) in [("alice", "wrong"), ("nobody", "open sesame"), ("mallory", "open sesame"), ("", "")] {
        let answer = browser.log_in(&first, username, password).await;
        assert_eq!(answer.status(), 403);
        let next = Page::of(&answer);
        assert!(!browser.cookies.contains_key("sidegate-login"));
        pages.push(next.text.replace(&next.ticket, "").replace(&format!("value=\"{username}\""), "value=\"\""));
        first = next;
    }
    assert_eq!(pages[0], pages[1]);
    assert_eq!(pages[0], pages[2]);
    // What was typed comes back as text.
    let odd = "\"><script>alert(1)</script>";
    let text = page(&browser.log_in(&first, odd, "x").await);
    assert!(text.contains("&#34;&#62;&#60;script&#62;"), "{text}");
    let answer = browser.log_in(&first, "alice", "open sesame").await;
    assert_eq!(answer.status(), 303);
}

#[tokio::test]
async fn a_form_that_did_not_come_from_a_page_of_ours_in_this_browser_does_nothing() {
    let rig = rig().await;
    let (mut browser, mut other) = (Browser::new(&rig), Browser::new(&rig));
    let page = browser.ask(&web()).await;
    other.ask(&web()).await;
    let mut changed = page.ticket.clone();
    changed.replace_range(4..5, if changed.as_bytes()[4] == b'A' { "B" } else { "A" });
    for (cookies, ticket) in [
        (&other.cookies, &*page.ticket),
        (&BTreeMap::new(), &page.ticket),
        (&browser.cookies, &changed),
        (&browser.cookies, ""),
    ] {
        let mut browser = Browser { rig: &rig, cookies: cookies.clone() };
        let form = [("ticket", ticket), ("username", "alice"), ("password", "open sesame")];
        let answer = browser.post("/oauth/login", &form).await;
        assert_eq!(answer.status(), 400);
        assert!(self::page(&answer).contains("Please try again"));
        assert!(!browser.cookies.contains_key("sidegate-login"));
    }
    // Of one kind of form for another.
    browser.logged_in(&web()).await;
    let log_out = Page::of(&browser.get("/oauth/logout").await);
    let answer = browser.post("/oauth/consent", &[("ticket", &log_out.ticket), ("decision", "allow")]).await;
    assert_eq!(answer.status(), 400);
    let consent = browser.ask(&web()).await;
    let answer = browser.post("/oauth/logout", &[("ticket", &consent.ticket)]).await;
    assert_eq!(answer.status(), 400);
    assert_eq!(browser.ask(&web()).await.action, "/oauth/consent", "still logged in");
    // A consent that another site has sent, with no ticket or somebody else's.
    other.logged_in(&web()).await;
    let answer = other.post("/oauth/consent", &[("ticket", &consent.ticket), ("decision", "allow")]).await;
    assert_eq!(answer.status(), 400);
}

#[tokio::test]
async fn a_page_that_was_open_for_too_long_says_so_and_loses_nothing() {
    let rig = rig().await;
    let mut browser = Browser::new(&rig);
    let old = browser.ask(&web()).await;
    rig.pass(3601 * SECOND);
    let answer = browser.log_in(&old, "alice", "open sesame").await;
    assert_eq!(answer.status(), 200);
    let fresh = Page::of(&answer);
    assert!(fresh.text.contains("open for too long") && fresh.text.contains("value=\"alice\""), "{}", fresh.text);
    let answer = browser.log_in(&fresh, "alice", "open sesame").await;
    let consent = Page::of(&browser.get(location(&answer).strip_prefix(URL).unwrap()).await);
    rig.pass(3601 * SECOND);
    assert!(page(&browser.decide(&consent, "allow").await).contains("expired"));
}

#[tokio::test]
async fn two_tabs_and_a_form_that_is_sent_twice_all_get_their_codes() {
    let rig = rig().await;
    let mut browser = Browser::new(&rig);
    let (one, two) = (browser.ask(&web()).await, browser.ask(&web()).await);
    for page in [&one, &two, &one] {
        let answer = browser.log_in(page, "alice", "open sesame").await;
        let consent = Page::of(&browser.get(location(&answer).strip_prefix(URL).unwrap()).await);
        for _ in 0..2 {
            let found = back(&browser.decide(&consent, "allow").await, BACK);
            exchange(&rig, &found["code"], &proof()).await.tokens();
        }
    }
}

#[tokio::test]
async fn a_login_is_as_recent_as_the_client_wants_it() {
    let rig = rig().await;
    let mut browser = Browser::new(&rig);
    browser.logged_in(&web()).await;
    rig.pass(100 * SECOND);
    for (more, action) in [
        ("", "/oauth/consent"),
        ("&max_age=100", "/oauth/consent"),
        ("&max_age=99", "/oauth/login"),
        ("&max_age=0", "/oauth/login"),
        ("&prompt=login", "/oauth/login"),
        ("&prompt=select_account", "/oauth/login"),
    ] {
        assert_eq!(browser.ask(&format!("{}{more}", web())).await.action, action, "{more}");
    }
    let answer = browser.get(&format!("/oauth/authorize?{}&prompt=none", web())).await;
    assert_eq!(back(&answer, BACK)["error"], "consent_required");
    let answer = browser.get(&format!("/oauth/authorize?{}&prompt=none&max_age=10", web())).await;
    assert_eq!(back(&answer, BACK)["error"], "login_required");
    // Who has logged in for it has done what was asked.
    for more in ["&prompt=login", "&max_age=0"] {
        rig.pass(SECOND);
        assert_eq!(Page::of(&browser.logged_in(&format!("{}{more}", web())).await).action, "/oauth/consent", "{more}");
    }
    let hinted = Browser::new(&rig).ask(&format!("{}&login_hint=al%22ice", web())).await;
    assert!(hinted.text.contains("value=\"al&#34;ice\""), "{}", hinted.text);
    // After eight hours nobody is logged in any more.
    rig.pass(8 * 3600 * SECOND);
    assert_eq!(browser.ask(&web()).await.action, "/oauth/login");
}

#[tokio::test]
async fn whoever_logs_out_is_asked_again() {
    let rig = rig().await;
    let mut browser = Browser::new(&rig);
    let consent = Page::of(&browser.logged_in(&web()).await);
    let kept = browser.cookies.clone();
    let code = back(&browser.decide(&consent, "allow").await, BACK)["code"].clone();
    let question = Page::of(&browser.get("/oauth/logout").await);
    let text = page(&browser.post("/oauth/logout", &[("ticket", &question.ticket)]).await);
    assert!(text.contains("You are logged out"));
    assert_eq!(browser.ask(&web()).await.action, "/oauth/login");
    // Nor is the cookie any good that somebody has kept, or the code.
    let mut thief = Browser { rig: &rig, cookies: kept };
    assert_eq!(thief.ask(&web()).await.action, "/oauth/login");
    exchange(&rig, &code, &proof()).await.assert_error(400, "invalid_grant");
    // Somebody who has it open already is told the same.
    assert!(page(&browser.get("/oauth/logout").await).contains("You are logged out"));
}

#[tokio::test]
async fn a_login_ends_with_its_user_and_by_an_operators_hand() {
    let rig = rig().await;
    let mut browser = Browser::new(&rig);
    browser.logged_in(&web()).await;
    let mut rig = rig;
    for (kind, id) in [("subject", "user-alice"), ("everything", "")] {
        let cookies = {
            let mut browser = Browser { rig: &rig, cookies: BTreeMap::new() };
            browser.logged_in(&web()).await;
            rig.ban(kind, id).await.unwrap();
            // Long after the entry itself is forgotten.
            rig.pass(3600 * SECOND);
            rig.issuer.sweep().await;
            assert_eq!(browser.ask(&web()).await.action, "/oauth/login", "{kind}");
            browser.logged_in(&web()).await;
            browser.cookies
        };
        // A login outlives the process; not the user.
        rig = rig.restarted(|_| {}).await;
        let mut browser = Browser { rig: &rig, cookies: cookies.clone() };
        assert_eq!(browser.ask(&web()).await.action, "/oauth/consent");
        let code = back(
            &{
                let page = browser.ask(&web()).await;
                browser.decide(&page, "allow").await
            },
            BACK,
        )["code"]
            .clone();
        rig = rig.restarted(|config| config.users[0].disabled = true).await;
        let mut browser = Browser { rig: &rig, cookies };
        assert_eq!(browser.ask(&web()).await.action, "/oauth/login");
        exchange(&rig, &code, &proof()).await.assert_error(400, "invalid_grant");
        rig = rig.restarted(|config| config.users[0].disabled = false).await;
    }
}

#[tokio::test]
async fn a_login_is_no_refresh_token_and_a_refresh_token_no_login() {
    let rig = rig().await;
    let mut browser = Browser::new(&rig);
    browser.logged_in(&web()).await;
    rig.refresh_as("web", &browser.cookies["sidegate-login"]).await.assert_error(400, "invalid_grant");
    let tokens = exchange(&rig, &code(&rig).await, &proof()).await.tokens();
    browser.cookies.insert("sidegate-login".into(), tokens.refresh);
    assert_eq!(browser.ask(&web()).await.action, "/oauth/login");
}

#[tokio::test]
async fn cookies_are_the_hosts_own_where_there_is_tls() {
    let rig = rig_with(|config| config.url = IssuerUrl::new("https://id.example.com")).await;
    let answer = rig.send(Request::get(format!("/oauth/authorize?{}", web())).body(Bytes::new()).unwrap()).await;
    let cookie = answer.header(header::SET_COOKIE).unwrap();
    assert!(
        cookie.starts_with("__Host-sidegate-browser=") && cookie.contains("; Secure") && cookie.contains("; Path=/;")
    );
    assert!(!cookie.contains("Domain"));
}

#[tokio::test]
async fn the_metadata_says_what_there_is() {
    let rig = rig().await;
    let path = "/.well-known/oauth-authorization-server";
    let metadata = rig.send(Request::get(path).body(Bytes::new()).unwrap()).await.json();
    assert_eq!(metadata["authorization_endpoint"], format!("{URL}/oauth/authorize"));
    assert_eq!(metadata["response_types_supported"], json!(["code"]));
    assert_eq!(metadata["code_challenge_methods_supported"], json!(["S256"]));
    assert_eq!(metadata["authorization_response_iss_parameter_supported"], true);
    assert!(metadata["grant_types_supported"].as_array().unwrap().contains(&json!("authorization_code")));
    // Where no client sends browsers, there is no such endpoint.
    let plain = Rig::new().await;
    let metadata = plain.send(Request::get(path).body(Bytes::new()).unwrap()).await.json();
    assert_eq!(metadata.get("authorization_endpoint"), None);
    assert!(plain.issuer.endpoint("/oauth/authorize").is_none());
}

/// Asks at the userinfo endpoint.
async fn userinfo(rig: &Rig, authorization: &str) -> Answer {
    let request = Request::get("/oauth/userinfo").header(header::AUTHORIZATION, authorization);
    rig.send(request.body(Bytes::new()).unwrap()).await
}

#[tokio::test]
async fn a_client_that_asks_who_it_is_gets_an_id_token_and_no_gateway_takes_that() {
    let rig = rig().await;
    let answer = Browser::new(&rig).logged_in(&asks("oidc", "&nonce=n-0S6%26WzA2Mj&scope=openid+read")).await;
    rig.pass(30 * SECOND);
    let code = &back(&answer, BACK)["code"];
    let request = format!("grant_type=authorization_code&client_id=oidc&code={code}&code_verifier={VERIFIER}");
    let tokens = rig.token(None, &request).await.tokens();
    let id_token = tokens.body["id_token"].as_str().unwrap();
    assert_eq!(part(id_token, 0)["typ"], "JWT");
    assert_eq!(part(id_token, 0)["kid"], part(&tokens.access, 0)["kid"]);
    let hash = digest::digest(&digest::SHA256, tokens.access.as_bytes());
    assert_eq!(
        claims(id_token),
        json!({
            "iss": URL, "sub": "user-alice", "aud": "oidc", "iat": START + 30, "exp": START + 330, "auth_time": START,
            "nonce": "n-0S6&WzA2Mj", "at_hash": URL_SAFE_NO_PAD.encode(&hash.as_ref()[..16]), "sid": tokens.sid(),
            "roles": ["admin"],
        })
    );
    // Of a refresh nobody has logged in.
    let refreshed = rig.refresh_as("oidc", &tokens.refresh).await.tokens();
    assert!(refreshed.body.get("id_token").is_none());
    // Who did not ask gets none.
    let answer = Browser::new(&rig).logged_in(&asks("oidc", "&scope=read")).await;
    let code = &back(&answer, BACK)["code"];
    let request = format!("grant_type=authorization_code&client_id=oidc&code={code}&code_verifier={VERIFIER}");
    let plain = rig.token(None, &request).await.tokens();
    assert!(plain.body.get("id_token").is_none());

    assert_eq!(
        userinfo(&rig, &format!("Bearer {}", tokens.access)).await.json(),
        json!({ "sub": "user-alice", "roles": ["admin"] })
    );
    let lacking = userinfo(&rig, &format!("bearer {}", plain.access)).await;
    assert_eq!((lacking.status().as_u16(), &lacking.json()["error"]), (403, &json!("insufficient_scope")));
    let challenge = lacking.header(header::WWW_AUTHENTICATE).unwrap();
    assert!(challenge.starts_with("Bearer ") && challenge.contains("scope=\"openid\""), "{challenge}");
    for wrong in [id_token, "x", &tokens.refresh, ""] {
        let refused = userinfo(&rig, &format!("Bearer {wrong}")).await;
        assert_eq!((refused.status().as_u16(), &refused.json()["error"]), (401, &json!("invalid_token")), "{wrong}");
    }
    let refused = userinfo(&rig, &app()).await;
    assert_eq!(refused.header(header::WWW_AUTHENTICATE), Some("Bearer realm=\"sidegate\""));
    rig.ban("session", &tokens.sid()).await.unwrap();
    assert_eq!(userinfo(&rig, &format!("Bearer {}", tokens.access)).await.status(), 401);
}

#[tokio::test]
async fn a_profile_has_what_a_user_is_called() {
    let rig = rig().await;
    let answer = Browser::new(&rig).logged_in(&asks("oidc", "&scope=openid+profile")).await;
    let code = &back(&answer, BACK)["code"];
    let request = format!("grant_type=authorization_code&client_id=oidc&code={code}&code_verifier={VERIFIER}");
    let tokens = rig.token(None, &request).await.tokens();
    assert_eq!(claims(tokens.body["id_token"].as_str().unwrap())["preferred_username"], "alice");
    let about = userinfo(&rig, &format!("Bearer {}", tokens.access)).await;
    assert_eq!(about.json()["preferred_username"], "alice");
    about.assert_not_kept();
    // Long after the token is over.
    rig.pass(301 * SECOND);
    assert_eq!(userinfo(&rig, &format!("Bearer {}", tokens.access)).await.status(), 401);
}

#[tokio::test]
async fn discovery_is_there_where_clients_can_ask_for_id_tokens() {
    let rig = rig().await;
    let discovered =
        rig.send(Request::get("/.well-known/openid-configuration").body(Bytes::new()).unwrap()).await.json();
    assert_eq!(discovered["issuer"], URL);
    assert_eq!(discovered["userinfo_endpoint"], format!("{URL}/oauth/userinfo"));
    assert_eq!(discovered["id_token_signing_alg_values_supported"], json!(["ES256"]));
    assert_eq!(discovered["subject_types_supported"], json!(["public"]));
    for required in ["authorization_endpoint", "token_endpoint", "jwks_uri", "response_types_supported"] {
        assert!(discovered.get(required).is_some(), "{required}");
    }
    let rig = rig_with(|config| config.clients.retain(|client| client.id.as_str() != "oidc")).await;
    assert!(rig.issuer.endpoint("/.well-known/openid-configuration").is_none());
    assert!(rig.issuer.endpoint("/oauth/userinfo").is_none());
}
