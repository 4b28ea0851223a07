//! Users of a team's own, behind an HTTP hook.

use std::{
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs::default_provider};
use sidegate::{
    issuer::UsersHook,
    types::{Secret, Visitor},
};

use super::*;
use crate::support::Upstream;

const CREDENTIAL: &str = "0123456789abcdef0123456789abcdef";

/// Somebody's user base: what it answers to passwords and to look-ups, as status and body. An empty body breaks off.
#[derive(Clone)]
struct People(Arc<Mutex<Said>>, Upstream);

#[derive(Clone)]
struct Said {
    to_password: (u16, String),
    to_look_up: (u16, String),
}

fn alice() -> String {
    let claims = json!({ "groups": ["dev"], "email": "alice@example.com", "sub": "root", "exp": 1, "nothing": null });
    json!({ "version": 1, "subject": "u-1", "username": "alice", "claims": claims, "later": true }).to_string()
}

impl People {
    fn start() -> Self {
        let said = Said { to_password: (200, alice()), to_look_up: (200, alice()) };
        let said = Arc::new(Mutex::new(said));
        let answers = said.clone();
        let upstream = Upstream::answering(move |request| {
            let question: Value = serde_json::from_slice(&request.body).unwrap();
            let said = answers.lock().unwrap().clone();
            let (status, body) = if question.get("lookup").is_some() { said.to_look_up } else { said.to_password };
            match (status, &*body) {
                (_, "") => Vec::new(),
                (0, _) => body.into(),
                _ => format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into(),
            }
        });
        Self(said, upstream)
    }

    fn say(&self, to_password: (u16, &str), to_look_up: (u16, &str)) {
        let own = |(status, body): (u16, &str)| (status, body.to_owned());
        *self.0.lock().unwrap() = Said { to_password: own(to_password), to_look_up: own(to_look_up) };
    }

    fn say_of_look_ups(&self, status: u16, body: &str) {
        self.0.lock().unwrap().to_look_up = (status, body.to_owned());
    }

    /// What it was asked since this was last asked.
    fn asked(&self) -> Vec<Value> {
        self.1.take().iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect()
    }

    async fn rig(&self) -> Rig {
        self.rig_with(|_| {}).await
    }

    async fn rig_with(&self, change: impl FnOnce(&mut UsersHook)) -> Rig {
        let tls = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let tls = tls.with_safe_default_protocol_versions().unwrap();
        let tls = tls.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let mut hook = UsersHook {
            url: format!("http://{}/hook", self.1.address()).into(),
            credential: Secret::new(CREDENTIAL.into()),
            tls: Arc::new(tls),
            timeout: 5 * SECOND,
            recheck: 60 * SECOND,
            claims: None,
        };
        change(&mut hook);
        Rig::with(|config| {
            (config.users, config.users_hook) = (Vec::new(), Some(hook));
            config.clients.push(Client {
                redirect_uris: vec![RedirectUri::parse("https://app.example.com/cb").unwrap()],
                consent: Consent::Skip,
                scopes: Scopes::from_values(["openid", "profile", "read"]),
                ..client("web", None, &[GrantType::AuthorizationCode, GrantType::RefreshToken])
            });
        })
        .await
    }
}

impl Rig {
    fn hook_calls(&self, operation: &str, result: &str) -> u64 {
        self.metric(&format!("sidegate_users_hook_calls_total{{operation=\"{operation}\",result=\"{result}\"}}"))
    }
}

#[tokio::test]
async fn a_password_goes_to_the_hook_and_what_it_says_into_tokens() {
    let people = People::start();
    let rig = people.rig().await;
    let request = Request::post("/oauth/token")
        .header(header::AUTHORIZATION, app())
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .extension(Visitor::new([192, 0, 2, 7].into(), &header::HeaderMap::new()));
    let tokens = rig.send(request.body(Bytes::from(LOGIN)).unwrap()).await.tokens();
    let claims = claims(&tokens.access);
    assert_eq!(
        (&claims["sub"], &claims["groups"], &claims["email"]),
        (&json!("u-1"), &json!(["dev"]), &json!("alice@example.com"))
    );
    assert!(claims["exp"].as_u64().unwrap() > 1 && claims.get("nothing").is_none(), "{claims}");
    let reached = people.1.only();
    assert_eq!(reached.line, "POST /hook HTTP/1.1");
    assert_eq!(reached.all("authorization"), [format!("Bearer {CREDENTIAL}")]);
    assert_eq!(reached.all("content-type"), ["application/json"]);
    let asked: Value = serde_json::from_slice(&reached.body).unwrap();
    let expected = json!({
        "version": 1, "username": "alice", "password": "open sesame", "client_id": "app", "address": "192.0.2.7",
    });
    assert_eq!(asked, expected);
    // What has just been said need not be asked again.
    rig.refresh(&tokens.refresh).await.tokens();
    assert!(people.asked().is_empty());
    assert_eq!(rig.hook_calls("log_in", "ok"), 1);
}

#[tokio::test]
async fn claims_are_mapped_and_what_says_something_of_the_token_is_not() {
    let people = People::start();
    let names = [("roles", "groups"), ("mail", "email"), ("tenant", "none")];
    let names = names.map(|(claim, member)| (claim.to_owned(), member.to_owned()));
    let rig = people.rig_with(|hook| hook.claims = Some(names.into())).await;
    let said = claims(&rig.log_in().await.access);
    assert_eq!((&said["roles"], &said["mail"]), (&json!(["dev"]), &json!("alice@example.com")));
    for absent in ["groups", "email", "tenant"] {
        assert!(said.get(absent).is_none(), "{said}");
    }
}

#[tokio::test]
async fn a_denial_is_a_wrong_password_and_slows_what_follows() {
    let denied = r#"{"version":1,"denied":true}"#;
    let disabled = r#"{"version":1,"disabled":true}"#;
    let people = People::start();
    let rig = people.rig().await;
    for answer in [(200, denied), (401, denied), (403, denied), (200, disabled), (403, disabled)] {
        people.say(answer, (500, "x"));
        rig.token(Some(&app()), LOGIN).await.assert_error(400, "invalid_grant");
    }
    assert_eq!((rig.hook_calls("log_in", "denied"), rig.hook_calls("log_in", "disabled")), (3, 2));
    people.asked();
    rig.token(Some(&app()), LOGIN).await.assert_error(429, "temporarily_unavailable");
    assert!(people.asked().is_empty());
}

/// What is no answer, however it comes.
fn no_answers() -> Vec<(u16, String)> {
    let alike = |text: &str| (200, text.to_owned());
    let user = |change: &dyn Fn(&mut Value)| {
        let mut user: Value = serde_json::from_str(&alice()).unwrap();
        change(&mut user);
        (200, user.to_string())
    };
    vec![
        (500, alice()),
        (201, alice()),
        (404, alice()),
        (401, alice()),
        (401, "{}".into()),
        (401, "<h1>Unauthorized</h1>".into()),
        (404, "not found".into()),
        (503, r#"{"version":1,"denied":true}"#.into()),
        (500, r#"{"version":1,"gone":true}"#.into()),
        (200, String::new()),
        alike("{"),
        alike("null"),
        alike("[]"),
        alike("{}"),
        alike(r#"{"version":1}"#),
        alike(r#"{"version":2,"denied":true}"#),
        alike(r#"{"version":"1","denied":true}"#),
        alike(r#"{"denied":true}"#),
        alike(r#"{"version":1,"denied":false}"#),
        alike(r#"{"version":1,"denied":"true"}"#),
        alike(r#"{"version":1,"denied":true,"denied":false}"#),
        alike(r#"{"version":1,"denied":true,"gone":true}"#),
        alike(r#"{"version":1,"denied":true,"subject":"u-1"}"#),
        alike(r#"{"version":1,"subject":"u-1","disabled":false,"gone":true}"#),
        alike(r#"{"version":1,"subject":["u-1"]}"#),
        user(&|user| user["subject"] = "".into()),
        user(&|user| user["subject"] = "client:app".into()),
        user(&|user| user["subject"] = "u\n1".into()),
        user(&|user| user["subject"] = "u".repeat(257).into()),
        user(&|user| user["username"] = "".into()),
        user(&|user| user["username"] = "a\u{7f}".into()),
        user(&|user| user["username"] = "a".repeat(257).into()),
        user(&|user| user["claims"] = "x".into()),
        user(&|user| user["claims"] = json!({ "x": "x".repeat(5000) })),
        user(&|user| user["more"] = "x".repeat(70_000).into()),
        (0, format!("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\nConnection: close\r\n\r\n{}", alice())),
        (0, "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n".into()),
        (0, "HTTP/1.1 307 Temporary Redirect\r\nLocation: /hook\r\nContent-Length: 0\r\n\r\n".into()),
        (
            0,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11170\r\n".to_owned()
                + &"x".repeat(70_000)
                + "\r\n0\r\n\r\n",
        ),
        (0, "SSH-2.0-OpenSSH_9.2\r\n".into()),
    ]
}

#[tokio::test]
async fn whatever_is_no_answer_is_an_outage_and_nobodys_fault() {
    let people = People::start();
    // A wrong length is found out when the connection has nothing more to give.
    let rig = people.rig_with(|hook| hook.timeout = SECOND).await;
    let tokens = rig.log_in().await;
    people.asked();
    for (status, body) in no_answers() {
        let shown = body.chars().take(80).collect::<String>();
        people.say((status, &body), (status, &body));
        rig.token(Some(&app()), LOGIN).await.assert_error(503, "temporarily_unavailable");
        assert_eq!(people.asked().len(), 1, "{status} {shown}: asked once, and nowhere else");
        // Nor does anybody lose a session by it, or a refresh token.
        rig.pass(61 * SECOND);
        rig.refresh(&tokens.refresh).await.assert_error(503, "temporarily_unavailable");
        assert_eq!(people.asked().len(), 1, "{status} {shown}");
    }
    assert_eq!(rig.refreshes("rotated"), 0);
    // Each question has answers of its own.
    people.say((200, r#"{"version":1,"gone":true}"#), (200, r#"{"version":1,"denied":true}"#));
    rig.token(Some(&app()), LOGIN).await.assert_error(503, "temporarily_unavailable");
    rig.refresh(&tokens.refresh).await.assert_error(503, "temporarily_unavailable");
    people.say_of_look_ups(200, &alice().replace("u-1", "u-2"));
    rig.refresh(&tokens.refresh).await.assert_error(503, "temporarily_unavailable");
    // None of these was a failure that anybody has to wait for.
    people.say((200, &alice()), (200, &alice()));
    rig.log_in().await;
    rig.refresh(&tokens.refresh).await.tokens();
    assert_eq!(rig.hook_calls("log_in", "redirected"), 2);
}

#[tokio::test]
async fn a_hook_that_is_not_there_or_says_nothing_is_an_outage() {
    let people = People::start();
    let rig = people.rig_with(|hook| hook.url = "http://127.0.0.1:1/".into()).await;
    // Nobody has failed by that, however often it is tried.
    for _ in 0..7 {
        rig.token(Some(&app()), LOGIN).await.assert_error(503, "temporarily_unavailable");
    }
    assert_eq!(rig.hook_calls("log_in", "unreachable"), 7);
    let silent = Upstream::reading_nothing(thread::park);
    let url = format!("http://{}/", silent.address());
    let rig = people.rig_with(|hook| (hook.url, hook.timeout) = (url.into(), SECOND / 5)).await;
    let began = Instant::now();
    // Many at once wait for a turn, and for no longer than for an answer.
    let all = (0..80).map(|n| {
        let form = format!("grant_type=password&client_id=spa&username=user{n}&password=x");
        let rig = &rig;
        async move { rig.token(None, &form).await.status().as_u16() }
    });
    assert!(futures_util::future::join_all(all).await.iter().all(|status| *status == 503));
    assert!(began.elapsed() < 10 * SECOND, "{:?}", began.elapsed());
    assert_eq!(rig.hook_calls("log_in", "timed_out") + rig.hook_calls("log_in", "busy"), 80);
}

#[tokio::test]
async fn who_is_gone_or_disabled_loses_what_they_have() {
    for (answer, cause) in
        [((404, r#"{"version":1,"gone":true}"#), "user_gone"), ((200, r#"{"version":1,"disabled":true}"#), "disabled")]
    {
        let people = People::start();
        let rig = people.rig().await;
        let (first, second) = (rig.log_in().await, rig.log_in_publicly().await);
        people.say_of_look_ups(answer.0, answer.1);
        people.asked();
        // For a minute what it said holds.
        let first = rig.refresh(&first.refresh).await.tokens();
        rig.pass(60 * SECOND);
        rig.refresh(&first.refresh).await.assert_error(400, "invalid_grant");
        assert!(rig.is_revoked(&first.access) && rig.is_revoked(&second.access));
        rig.refresh_publicly(&second.refresh).await.assert_error(400, "invalid_grant");
        assert_eq!(people.asked(), [json!({ "version": 1, "lookup": "u-1" })]);
        assert_eq!(rig.metric(&format!("sidegate_revocations_total{{cause=\"{cause}\"}}")), 1);
        // What has ended is not asked about again, and what begins later is good.
        rig.pass(60 * SECOND);
        rig.refresh(&first.refresh).await.assert_error(400, "invalid_grant");
        assert!(people.asked().is_empty());
        people.say_of_look_ups(200, &alice());
        let back = rig.log_in().await;
        rig.pass(60 * SECOND);
        rig.refresh(&back.refresh).await.tokens();
        assert!(!rig.is_revoked(&back.access));
    }
}

#[tokio::test]
async fn what_is_said_of_a_user_later_goes_into_later_tokens() {
    let people = People::start();
    let rig = people.rig().await;
    let tokens = rig.log_in().await;
    people.say_of_look_ups(200, r#"{"version":1,"subject":"u-1","username":"ally","claims":{"groups":["ops"]}}"#);
    let tokens = rig.refresh(&tokens.refresh).await.tokens();
    assert_eq!(claims(&tokens.access)["groups"], json!(["dev"]));
    rig.pass(60 * SECOND);
    let tokens = rig.refresh(&tokens.refresh).await.tokens();
    assert_eq!(claims(&tokens.access)["groups"], json!(["ops"]));
    people.asked();
    rig.pass(59 * SECOND);
    let tokens = rig.refresh(&tokens.refresh).await.tokens();
    assert!(people.asked().is_empty(), "for a minute that holds");
    let asked = rig.post("/oauth/introspect", Some(&app()), &format!("token={}", tokens.access)).await.json();
    assert_eq!((&asked["active"], &asked["username"]), (&json!(true), &json!("ally")));
    // While it is away, a resource server is told what the token says; of a refresh token nobody can say whether it is good.
    people.say_of_look_ups(500, "x");
    rig.pass(60 * SECOND);
    let asked = rig.post("/oauth/introspect", Some(&app()), &format!("token={}", tokens.access)).await.json();
    assert_eq!((&asked["active"], asked.get("username")), (&json!(true), None));
    let asked = rig.post("/oauth/introspect", Some(&app()), &format!("token={}", tokens.refresh)).await;
    asked.assert_error(503, "temporarily_unavailable");
}

#[tokio::test]
async fn it_is_asked_each_time_where_that_is_wanted() {
    let people = People::start();
    let rig = people.rig_with(|hook| hook.recheck = Duration::ZERO).await;
    let tokens = rig.log_in().await;
    people.asked();
    rig.refresh(&tokens.refresh).await.tokens();
    assert_eq!(people.asked().len(), 1);
    people.say_of_look_ups(200, r#"{"version":1,"gone":true}"#);
    rig.token(Some(&app()), &format!("grant_type=refresh_token&refresh_token={}", tokens.refresh))
        .await
        .assert_error(400, "invalid_grant");
}

#[tokio::test]
async fn a_browser_logs_in_by_it_and_is_told_to_try_again_while_it_is_away() {
    let people = People::start();
    let rig = people.rig().await;
    let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256";
    let ask =
        format!("/oauth/authorize?response_type=code&client_id=web&scope=openid+profile&code_challenge={challenge}");
    let page = rig.send(Request::get(&ask).body(Bytes::new()).unwrap()).await;
    let mut cookies = vec![cookie(&page, "sidegate-browser")];
    let text = String::from_utf8(page.0.body().to_vec()).unwrap();
    let ticket = text.split("name=\"ticket\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let form = format!("ticket={ticket}&username=alice&password=open+sesame");
    let post = async |cookies: &[String]| {
        let request = Request::post("/oauth/login").header(header::COOKIE, cookies.join("; "));
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        rig.send(request.body(Bytes::from(form.clone())).unwrap()).await
    };
    people.say((500, "x"), (500, "x"));
    let away = post(&cookies).await;
    assert_eq!((away.status().as_u16(), away.header(header::RETRY_AFTER)), (503, Some("1")));
    assert!(String::from_utf8_lossy(away.0.body()).contains("Not available at the moment"));
    people.say((200, r#"{"version":1,"denied":true}"#), (500, "x"));
    assert_eq!(post(&cookies).await.status(), 403);
    people.say((200, &alice()), (200, &alice()));
    let logged_in = post(&cookies).await;
    assert_eq!(logged_in.status(), 303);
    cookies.push(cookie(&logged_in, "sidegate-login"));
    let again = async || {
        let request = Request::get(&ask).header(header::COOKIE, cookies.join("; "));
        rig.send(request.body(Bytes::new()).unwrap()).await
    };
    let back = again().await;
    let code = back.header(header::LOCATION).unwrap().split("code=").nth(1).unwrap().split('&').next().unwrap();
    let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let form = format!("grant_type=authorization_code&client_id=web&code={code}&code_verifier={verifier}");
    let tokens = rig.token(None, &form).await.tokens();
    let id_token = claims(tokens.body["id_token"].as_str().unwrap());
    assert_eq!((&id_token["sub"], &id_token["preferred_username"]), (&json!("u-1"), &json!("alice")));
    let about = async || {
        let request =
            Request::get("/oauth/userinfo").header(header::AUTHORIZATION, format!("Bearer {}", tokens.access));
        rig.send(request.body(Bytes::new()).unwrap()).await
    };
    assert_eq!(about().await.json()["email"], "alice@example.com");
    // A login that is there goes on while the hook is away, as long as what it said is good.
    people.say_of_look_ups(500, "x");
    assert_eq!(again().await.status(), 303);
    rig.pass(60 * SECOND);
    assert_eq!((again().await.status().as_u16(), about().await.status().as_u16()), (503, 503));
    people.say_of_look_ups(200, &alice());
    assert_eq!((again().await.status().as_u16(), about().await.status().as_u16()), (303, 200));
    rig.pass(60 * SECOND);
    people.say_of_look_ups(200, r#"{"version":1,"disabled":true}"#);
    // Nobody is logged in any more.
    assert_eq!((again().await.status().as_u16(), about().await.status().as_u16()), (200, 401));
    people.say_of_look_ups(200, &alice());
    rig.pass(60 * SECOND);
    assert_eq!(again().await.status(), 200, "what has ended stays so");
}

fn cookie(answer: &Answer, name: &str) -> String {
    let set = answer.0.headers().get_all(header::SET_COOKIE).iter().map(|value| value.to_str().unwrap());
    set.map(|text| text.split(';').next().unwrap().to_owned())
        .find(|pair| pair.starts_with(&format!("{name}=")))
        .unwrap()
}

#[tokio::test]
async fn a_clients_own_token_is_no_users() {
    let people = People::start();
    let rig = people.rig().await;
    let tokens = rig.token(Some(&svc()), "grant_type=client_credentials").await.tokens();
    let asked = rig.post("/oauth/introspect", Some(&svc()), &format!("token={}", tokens.access)).await.json();
    assert_eq!(asked["active"], true);
    assert!(people.asked().is_empty());
}
