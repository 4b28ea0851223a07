//! Failed logins make the next ones wait, and keep no owner out.

use std::collections::BTreeMap;

use super::*;

/// Somebody at an address.
struct Visitor<'r> {
    rig: &'r Rig,
    address: String,
    cookies: BTreeMap<String, String>,
}

fn from<'r>(rig: &'r Rig, address: impl Into<String>) -> Visitor<'r> {
    Visitor { rig, address: address.into(), cookies: BTreeMap::new() }
}

impl Visitor<'_> {
    async fn send(&mut self, request: http::request::Builder, body: String) -> Answer {
        let visitor = sidegate::types::Visitor::new(self.address.parse().unwrap(), &header::HeaderMap::new());
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = request.extension(visitor).header(header::COOKIE, cookies.join("; "));
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let answer = self.rig.send(request.body(body.into()).unwrap()).await;
        for cookie in answer.0.headers().get_all(header::SET_COOKIE) {
            let (name, value) = cookie.to_str().unwrap().split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.insert(name.into(), value.into());
        }
        answer
    }

    /// By the password grant.
    async fn try_out(&mut self, username: &str, password: &str) -> Answer {
        let form = [("grant_type", "password"), ("client_id", "spa"), ("username", username), ("password", password)];
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        self.send(Request::post("/oauth/token"), body).await
    }

    /// Whether the password was looked at; how long to wait, where it was not.
    async fn wait(&mut self, username: &str, password: &str) -> u64 {
        let answer = self.try_out(username, password).await;
        if answer.status() == 429 {
            answer.assert_error(429, "temporarily_unavailable");
            return answer.header(header::RETRY_AFTER).unwrap().parse().unwrap();
        }
        assert!(matches!(answer.status().as_u16(), 200 | 400), "{:?}", answer.0);
        0
    }

    async fn fail(&mut self, username: &str, times: usize) {
        for n in 0..times {
            assert_eq!(self.wait(username, "wrong").await, 0, "try {n}");
        }
    }

    /// At the login page.
    async fn log_in(&mut self, username: &str, password: &str) -> Answer {
        let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256";
        let ask = format!("/oauth/authorize?response_type=code&client_id=web&prompt=login&code_challenge={challenge}");
        let page = text(&self.send(Request::get(ask), String::new()).await);
        let at = page.find("name=\"ticket\" value=\"").unwrap() + 21;
        let ticket = page[at..].split('"').next().unwrap();
        let form = [("ticket", ticket), ("username", username), ("password", password)];
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        self.send(Request::post("/oauth/login"), body).await
    }
}

fn text(answer: &Answer) -> String {
    String::from_utf8(answer.0.body().to_vec()).unwrap()
}

/// With `web`, which sends browsers.
async fn rig() -> Rig {
    Rig::with(|config| {
        config.clients.push(Client {
            redirect_uris: vec![RedirectUri::parse("https://app.example.com/cb").unwrap()],
            ..client("web", None, &[GrantType::AuthorizationCode])
        });
    })
    .await
}

const HOME: &str = "192.0.2.7";

#[tokio::test]
async fn each_failure_beyond_a_few_doubles_the_wait_up_to_a_minute() {
    for username in ["alice", "nobody", "mallory"] {
        let rig = rig().await;
        let mut guest = from(&rig, HOME);
        guest.fail(username, 5).await;
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            // Asking on makes it no longer, and the right password is not looked at either.
            for password in ["wrong", "open sesame"] {
                assert_eq!(guest.wait(username, password).await, wait, "{username}");
            }
            rig.pass(SECOND * (wait as u32) - Duration::from_millis(1));
            assert_eq!(guest.wait(username, "wrong").await, 1, "{username}");
            rig.pass(Duration::from_millis(1));
            guest.fail(username, 1).await;
        }
        assert!(rig.metric("sidegate_throttled_total{by=\"user_at_address\"}") >= 24);
    }
}

#[tokio::test]
async fn who_is_right_is_forgiven_and_who_rests_is_so_in_time() {
    let rig = rig().await;
    let mut guest = from(&rig, HOME);
    guest.fail("alice", 5).await;
    assert_eq!(guest.wait("alice", "open sesame").await, 1);
    rig.pass(SECOND);
    guest.try_out("alice", "open sesame").await.tokens();
    guest.fail("alice", 5).await;
    // One of six is forgotten every five minutes.
    rig.pass(SECOND);
    guest.fail("alice", 1).await;
    rig.pass(601 * SECOND);
    guest.fail("alice", 1).await;
    assert_eq!(guest.wait("alice", "wrong").await, 1);
    rig.pass(3600 * SECOND);
    guest.fail("alice", 5).await;
    assert_eq!(guest.wait("alice", "wrong").await, 1);
    // A clock that is set back keeps nobody waiting for longer.
    rig.hand.fetch_sub(86_400_000, Ordering::SeqCst);
    assert_eq!(guest.wait("alice", "wrong").await, 1);
    rig.pass(SECOND);
    guest.try_out("alice", "open sesame").await.tokens();
}

#[tokio::test]
async fn a_flood_of_strangers_shares_one_budget_and_does_not_slow_the_owner() {
    let rig = rig().await;
    let mut owner = from(&rig, HOME);
    assert_eq!(owner.log_in("alice", "open sesame").await.status(), 303);
    let mut by_grant = from(&rig, "192.0.2.8");
    by_grant.try_out("alice", "open sesame").await.tokens();
    for n in 0..20 {
        from(&rig, format!("203.0.113.{n}")).fail("alice", 1).await;
    }
    for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
        // Another spelling is no other budget, lest there be a user base for which it is the same account.
        for (n, name) in ["alice", "ALICE", " Alice "].into_iter().enumerate() {
            assert_eq!(from(&rig, format!("198.51.100.{n}")).wait(name, "open sesame").await, wait);
        }
        rig.pass(SECOND * (wait as u32));
        from(&rig, format!("198.51.100.1{wait}")).fail("alice", 1).await;
    }
    assert!(rig.metric("sidegate_throttled_total{by=\"strangers\"}") >= 24);
    assert_eq!(from(&rig, "198.51.100.99").wait("alice", "wrong").await, 60);
    // The browser is known wherever it is; where the user has been, so is whoever comes without one.
    owner.address = "198.51.100.100".into();
    assert_eq!(owner.log_in("alice", "open sesame").await.status(), 303);
    by_grant.try_out("alice", "open sesame").await.tokens();
    // Nor does it slow anybody else.
    assert_eq!(from(&rig, "203.0.113.1").wait("mallory", "wrong").await, 0);
    // A process that starts anew knows the browser, and so does one that follows with another master key.
    let cookies = owner.cookies;
    let before = std::fs::read(rig.config.data.join("master.key")).unwrap();
    let rig = rig
        .restarted(|config| {
            config.master_key = Some(sidegate::types::Secret::new(vec![7; 64]));
            config.previous_master_keys = vec![sidegate::types::Secret::new(before)];
        })
        .await;
    for n in 0..20 {
        from(&rig, format!("203.0.113.{n}")).fail("alice", 1).await;
    }
    assert_eq!(from(&rig, "198.51.100.1").wait("alice", "open sesame").await, 1);
    let mut owner = Visitor { cookies, ..from(&rig, "198.51.100.100") };
    assert_eq!(owner.log_in("alice", "open sesame").await.status(), 303);
}

#[tokio::test]
async fn a_browser_that_is_known_has_no_more_tries_than_another() {
    let rig = rig().await;
    let mut owner = from(&rig, HOME);
    assert_eq!(owner.log_in("alice", "open sesame").await.status(), 303);
    for n in 0..5 {
        owner.address = format!("203.0.113.{n}");
        assert_eq!(owner.log_in("alice", "wrong").await.status(), 403);
    }
    assert_eq!(owner.log_in("alice", "open sesame").await.status(), 429);
    // Which is no matter of a stranger's.
    from(&rig, "203.0.113.1").try_out("alice", "open sesame").await.tokens();
    rig.pass(SECOND);
    assert_eq!(owner.log_in("alice", "open sesame").await.status(), 303);
}

#[tokio::test]
async fn a_cookie_makes_nobody_known_but_whom_it_is_for_and_as_long_as_it_is_good() {
    let rig = Rig::with(|config| {
        config.users.push(user("bob", "open sesame"));
        config.clients.push(Client {
            redirect_uris: vec![RedirectUri::parse("https://app.example.com/cb").unwrap()],
            ..client("web", None, &[GrantType::AuthorizationCode])
        });
    })
    .await;
    let mut both = from(&rig, HOME);
    assert_eq!(both.log_in("bob", "open sesame").await.status(), 303);
    let bobs = both.cookies["sidegate-device"].clone();
    assert_eq!(both.log_in("alice", "open sesame").await.status(), 303);
    let of_both = both.cookies["sidegate-device"].clone();
    assert!(of_both.ends_with(&format!(".{bobs}")), "{of_both} goes on with {bobs}");
    let made_up = URL_SAFE_NO_PAD.encode([7; 56]);
    let last = if bobs.ends_with('A') { "Q" } else { "A" };
    let altered = format!("{}{last}", &bobs[..bobs.len() - 1]);
    let crowd = format!("{made_up}.{made_up}.{made_up}.{made_up}.{bobs}");
    for n in 0..20 {
        from(&rig, format!("203.0.113.{n}")).fail("alice", 1).await;
        from(&rig, format!("203.0.113.{n}")).fail("bob", 1).await;
    }
    let try_out = async |username: &str, cookie: &str| {
        let mut guest = from(&rig, "198.51.100.1");
        guest.cookies.insert("sidegate-device".into(), cookie.into());
        guest.log_in(username, "wrong").await.status().as_u16()
    };
    for (username, cookie, status) in [
        ("alice", &*of_both, 403),
        ("bob", &of_both, 403),
        ("Bob", &of_both, 403),
        ("bob", &bobs, 403),
        ("alice", &bobs, 429),
        ("bob", &made_up, 429),
        ("bob", &altered, 429),
        ("bob", "", 429),
        ("bob", "....", 429),
        ("bob", &crowd, 429),
    ] {
        assert_eq!(try_out(username, cookie).await, status, "{username} {cookie}");
    }
    // Half a year after the last login nobody is known any more.
    rig.pass(181 * DAY);
    for n in 0..20 {
        from(&rig, format!("203.0.113.{n}")).fail("bob", 1).await;
    }
    assert_eq!(try_out("bob", &bobs).await, 429);
}

#[tokio::test]
async fn a_cookie_remembers_four_users_at_the_most() {
    let rig = Rig::with(|config| {
        config.users.extend(["a", "b", "c", "d", "e"].map(|name| user(name, "open sesame")));
        config.clients.push(Client {
            redirect_uris: vec![RedirectUri::parse("https://app.example.com/cb").unwrap()],
            ..client("web", None, &[GrantType::AuthorizationCode])
        });
    })
    .await;
    let mut shared = from(&rig, HOME);
    for name in ["a", "b", "a", "c", "d", "e"] {
        assert_eq!(shared.log_in(name, "open sesame").await.status(), 303);
    }
    assert_eq!(shared.cookies["sidegate-device"].split('.').count(), 4);
    shared.address = "198.51.100.1".into();
    for (name, status) in [("a", 403), ("b", 429), ("c", 403), ("d", 403), ("e", 403)] {
        for n in 0..20 {
            from(&rig, format!("203.0.113.{n}")).fail(name, 1).await;
        }
        assert_eq!(shared.log_in(name, "wrong").await.status(), status, "{name}");
    }
}

#[tokio::test]
async fn whoever_tries_many_names_from_one_network_waits_and_others_there_only_if_they_are_new() {
    let rig = rig().await;
    from(&rig, "2001:db8:0:1::1").try_out("alice", "open sesame").await.tokens();
    for n in 0..100 {
        from(&rig, format!("2001:db8:0:1::{n:x}")).fail(&format!("user{n}"), 1).await;
    }
    for wait in [1, 2, 4] {
        assert_eq!(from(&rig, "2001:db8:0:1:ffff::1").wait("somebody", "x").await, wait);
        rig.pass(SECOND * (wait as u32));
        from(&rig, "2001:db8:0:1:ffff::1").fail("somebody", 1).await;
    }
    assert!(rig.metric("sidegate_throttled_total{by=\"address\"}") >= 3);
    from(&rig, "2001:db8:0:1:ffff::2").try_out("alice", "open sesame").await.tokens();
    from(&rig, "2001:db8:0:2::1").fail("somebody", 1).await;
    from(&rig, "::ffff:192.0.2.1").fail("somebody", 1).await;
}

#[tokio::test]
async fn of_many_tries_at_once_no_more_are_looked_at_than_one_by_one() {
    // It takes so long that all are there before the first has failed.
    let rig = Rig::with(|config| config.users[0].password_hash = clients::slow("open sesame")).await;
    let all = futures_util::future::join_all((0..40).map(|_| {
        let mut guest = from(&rig, HOME);
        async move { guest.try_out("alice", "wrong").await.status().as_u16() }
    }));
    let all = all.await;
    assert_eq!(all.iter().filter(|status| **status == 400).count(), 5, "{all:?}");
    assert!(all.iter().all(|status| matches!(status, 400 | 429)), "{all:?}");
    rig.pass(SECOND);
    from(&rig, HOME).try_out("alice", "open sesame").await.tokens();
}

#[tokio::test]
async fn many_who_are_right_at_once_wait_for_each_other_and_get_in() {
    let rig = Rig::with(|config| {
        config.users[0].password_hash = clients::slow("open sesame");
        let app = config.clients.iter_mut().find(|client| client.id.as_str() == "app").unwrap();
        app.credentials = Credentials::Secrets(vec![clients::slow("secret")]);
        app.grants.push(GrantType::ClientCredentials);
    })
    .await;
    let people = (0..40).map(|_| {
        let mut guest = from(&rig, HOME);
        async move { guest.try_out("alice", "open sesame").await.status().as_u16() }
    });
    assert_eq!(futures_util::future::join_all(people).await, [200; 40]);
    let programs = (0..40).map(|_| {
        let request = Request::post("/oauth/token").header(header::AUTHORIZATION, basic("app", "secret"));
        let mut program = from(&rig, HOME);
        async move { program.send(request, "grant_type=client_credentials".into()).await.status().as_u16() }
    });
    assert_eq!(futures_util::future::join_all(programs).await, [200; 40]);
    assert_eq!(rig.metric("sidegate_throttled_total"), 0);
}

#[tokio::test]
async fn the_page_says_for_how_long_and_nothing_of_who_exists() {
    let rig = rig().await;
    let mut pages = Vec::new();
    for username in ["alice", "nobody", "mallory"] {
        let mut guest = from(&rig, format!("203.0.113.{}", pages.len()));
        for _ in 0..6 {
            assert_eq!(guest.log_in(username, "wrong").await.status(), 403);
            rig.pass(SECOND);
        }
        rig.pass(Duration::from_millis(500));
        for password in ["wrong", "open sesame"] {
            let answer = guest.log_in(username, password).await;
            assert_eq!((answer.status().as_u16(), answer.header(header::RETRY_AFTER)), (429, Some("1")), "{username}");
            answer.assert_not_kept();
            let page = text(&answer);
            assert!(page.contains("There were too many failed tries. Please try again in a second."), "{page}");
            let ticket = page.split("name=\"ticket\" value=\"").nth(1).unwrap().split('"').next().unwrap();
            pages.push(page.replace(ticket, "").replace(&format!("value=\"{username}\""), "value=\"\""));
        }
        rig.pass(SECOND);
        assert_eq!(guest.log_in(username, "wrong").await.status(), 403);
        let page = text(&guest.log_in(username, "wrong").await);
        assert!(page.contains("Please try again in 4 seconds."), "{page}");
        assert!(!guest.cookies.contains_key("sidegate-device"));
    }
    assert!(pages.iter().all(|page| *page == pages[0]), "{pages:?}");
}

#[tokio::test]
async fn a_secret_that_has_to_be_hashed_is_slowed_and_one_at_work_is_not() {
    let rig = rig().await;
    let try_out = async |id: &str, secret: &str, address: &str| {
        let request = Request::post("/oauth/token").header(header::AUTHORIZATION, basic(id, secret));
        from(&rig, address).send(request, LOGIN.into()).await.status().as_u16()
    };
    for _ in 0..5 {
        assert_eq!(try_out("app", "wrong", HOME).await, 401);
    }
    for (address, secret, status) in [(HOME, "secret", 429), ("192.0.2.8", "secret", 200), (HOME, "secret", 200)] {
        assert_eq!(try_out("app", secret, address).await, status, "{address}");
    }
    assert_eq!(try_out("app", "wrong", HOME).await, 429);
    assert_eq!(rig.metric("sidegate_throttled_total{by=\"client_at_address\"}"), 2);
    // 256 bits are guessed by nobody.
    for _ in 0..20 {
        assert_eq!(try_out("svc", "wrong", HOME).await, 401);
    }
    // Nor is the other reading of a good secret a failure.
    for _ in 0..20 {
        let request = Request::post("/oauth/token").header(header::AUTHORIZATION, basic("odd id&=", "100%+ä:&=x"));
        from(&rig, HOME).send(request, "grant_type=client_credentials".into()).await.tokens();
    }
}

#[tokio::test]
async fn where_it_is_off_nobody_waits() {
    let rig = Rig::with(|config| config.throttle = None).await;
    from(&rig, HOME).fail("alice", 50).await;
    from(&rig, HOME).try_out("alice", "open sesame").await.tokens();
}
