//! Clients that register themselves (RFC 7591): what they may say, what they are, and that nobody is led astray by one.

use std::{fs, process::Command};

use serde_json::{Value, json};

use crate::{
    browser::{ASK, VERIFIER, between, cookie},
    support::{Answer, Sidegate, Upstream, client::request, config_with_issuer, wait_for},
};

const MASTER: &str = "0123456789abcdef0123456789abcdef";
const NEXT: &str = "fedcba9876543210fedcba9876543210";
/// What shows on a page that nobody has checked who the app is.
const UNCHECKED: &str = "This app has registered itself here.";

fn yaml(upstream: &Upstream, more: &str) -> String {
    let rest = format!(
        "\x20 registration: {{ scopes: [read, write, openid] }}\n{more}\
         routes: [{{ name: all, match: {{ path_prefix: /api }}, upstream: app }}]\n\
         log: {{ audit: audit.jsonl }}\n"
    );
    config_with_issuer(upstream.address(), &rest)
}

fn gate() -> Sidegate {
    let more = format!("\x20 master_key: {MASTER}\n\x20 throttle: {{ failures_by_address: 10000 }}\n");
    Sidegate::start(&yaml(&Upstream::start(), &more))
}

fn post(gate: &Sidegate, kind: &str, body: &[u8]) -> Answer {
    request(gate.address(), "POST", "/oauth/register", &[("Content-Type", kind)], body)
}

fn register(gate: &Sidegate, metadata: &Value) -> Answer {
    post(gate, "application/json", metadata.to_string().as_bytes())
}

/// The identifier of a program on its user's machine.
fn program(gate: &Sidegate, name: &str) -> String {
    let metadata = json!({
        "client_name": name,
        "redirect_uris": ["http://127.0.0.1/cb"],
        "grant_types": ["authorization_code", "refresh_token"],
    });
    let answer = register(gate, &metadata);
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.member("client_id")
}

/// What a browser is sent here with for that client.
fn ask(client: &str) -> String {
    ASK.replace("client_id=web", &format!("client_id={client}"))
}

/// A browser at which alice logs in and decides.
struct Browser<'g> {
    gate: &'g Sidegate,
    cookies: String,
}

impl<'g> Browser<'g> {
    fn new(gate: &'g Sidegate) -> Self {
        Self { gate, cookies: String::new() }
    }

    fn get(&mut self, path: &str) -> Answer {
        let answer = self.gate.get(path, &[("Cookie", &self.cookies)]);
        self.keep(answer)
    }

    fn send(&mut self, page: &Answer, more: &str) -> Answer {
        let text = page.text();
        let form = format!("ticket={}&{more}", between(&text, "name=\"ticket\" value=\"", '"'));
        let answer = self.gate.post_form(between(&text, "action=\"", '"'), &[("Cookie", &self.cookies)], &form);
        self.keep(answer)
    }

    fn keep(&mut self, answer: Answer) -> Answer {
        let set = cookie(&answer);
        if !set.is_empty() {
            self.cookies = if self.cookies.is_empty() { set } else { format!("{}; {set}", self.cookies) };
        }
        answer
    }

    /// The page for consent, after logging in where that is asked for.
    fn consent_page(&mut self, client: &str) -> Answer {
        let page = self.get(&ask(client));
        if !page.text().contains("name=\"password\"") {
            return page;
        }
        assert!(page.text().contains(UNCHECKED), "{}", page.text());
        let there = self.send(&page, "username=alice&password=wonderland");
        let location = there.header("location").unwrap_or_else(|| panic!("{there:?}"));
        let location = location.strip_prefix("http://localhost:3000").unwrap().to_owned();
        self.get(&location)
    }

    fn tokens(&mut self, client: &str) -> Answer {
        let page = self.consent_page(client);
        let back = self.send(&page, "decision=allow");
        let code = between(back.header("location").unwrap(), "code=", '&').to_owned();
        let form = format!("grant_type=authorization_code&client_id={client}&code={code}&code_verifier={VERIFIER}");
        self.gate.post_form("/oauth/token", &[], &form)
    }
}

fn refresh(gate: &Sidegate, client: &str, tokens: &Answer) -> Answer {
    let token = tokens.member("refresh_token");
    gate.post_form("/oauth/token", &[], &format!("grant_type=refresh_token&client_id={client}&refresh_token={token}"))
}

/// That nobody knows a client of that name, and no browser is sent anywhere for it.
#[track_caller]
fn unknown(gate: &Sidegate, client: &str) {
    let page = gate.get(&ask(client), &[]);
    assert_eq!((page.status, page.header("location")), (400, None), "{client}");
    assert!(!page.text().contains("<a "), "{}", page.text());
    let form = format!("grant_type=refresh_token&refresh_token=x&client_id={client}");
    let answer = gate.post_form("/oauth/token", &[], &form);
    assert!(matches!(&*answer.member("error"), "invalid_client" | "invalid_request"), "{answer:?}");
}

#[test]
fn nobody_registers_unless_that_is_configured() {
    let upstream = Upstream::start();
    let gate = Sidegate::start(&yaml(&upstream, "").replace("  registration: { scopes: [read, write, openid] }\n", ""));
    let answer = register(&gate, &json!({ "redirect_uris": ["http://127.0.0.1/cb"] }));
    assert_eq!((answer.status, &*answer.member("error")), (404, "not_found"));
    let metadata = gate.get("/.well-known/oauth-authorization-server", &[]).json();
    assert!(metadata.get("registration_endpoint").is_none(), "{metadata}");
    assert!(metadata.get("authorization_endpoint").is_none(), "no client has a use for it: {metadata}");
}

#[test]
fn a_client_is_told_what_it_is_registered_as() {
    let gate = gate();
    let metadata = gate.get("/.well-known/oauth-authorization-server", &[]).json();
    assert_eq!(metadata["registration_endpoint"], "http://localhost:3000/oauth/register");
    assert_eq!(metadata["code_challenge_methods_supported"], json!(["S256"]));
    assert!(metadata["grant_types_supported"].as_array().unwrap().contains(&json!("authorization_code")));
    assert!(metadata["token_endpoint_auth_methods_supported"].as_array().unwrap().contains(&json!("none")));
    // With the scope openid there is OpenID Connect.
    assert_eq!(gate.get("/.well-known/openid-configuration", &[]).status, 200);

    let answer = register(&gate, &json!({ "redirect_uris": ["https://app.example.com/cb"] }));
    assert_eq!((answer.status, answer.header("cache-control")), (201, Some("no-store")));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "clients in a browser register too");
    let least = json!({
        "client_id": answer.member("client_id"),
        "client_name": "app.example.com",
        "redirect_uris": ["https://app.example.com/cb"],
        "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code"],
        "response_types": ["code"],
        "scope": "openid read write",
        "dpop_bound_access_tokens": false,
    });
    assert_eq!(answer.json(), least);

    // What Visual Studio Code says, and more.
    let uris = [
        "https://insiders.vscode.dev/redirect",
        "https://vscode.dev/redirect",
        "http://localhost/",
        "http://127.0.0.1/",
        "http://localhost:33418/",
        "http://127.0.0.1:33418/",
    ];
    let answer = register(
        &gate,
        &json!({
            "client_name": " Visual Studio Code ",
            "client_uri": "https://code.visualstudio.com",
            "logo_uri": "javascript:alert(1)",
            "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
            "response_types": ["code", "token"],
            "redirect_uris": uris,
            "scope": "read",
            "token_endpoint_auth_method": "none",
            "application_type": "native",
            "dpop_bound_access_tokens": true,
            "consent": "skip",
            "disabled": { "deep": [[[[{}]]]] },
        }),
    );
    let mut said = answer.json();
    let id = said["client_id"].take();
    assert!(id.as_str().is_some_and(|id| id.len() <= 512 && id.starts_with("sgr1.")), "{id}");
    assert_eq!(
        said,
        json!({
            "client_id": null,
            "client_name": "Visual Studio Code",
            "redirect_uris": uris,
            "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "scope": "read",
            "dpop_bound_access_tokens": true,
        })
    );
    assert_eq!(program(&gate, "x"), program(&gate, "x"), "the same is the same client");
    assert_eq!(gate.metric("sidegate_client_registrations_total{result=\"ok\"}"), 4.0);
    assert!(!gate.admin("/metrics").text().contains("sgr1."), "no series for each client");
}

#[test]
fn what_a_client_says_has_bounds() {
    let gate = gate();
    let with = |name: &str, value: Value| {
        let mut metadata = json!({ "client_name": "x", "redirect_uris": ["https://app.example.com/cb"] });
        metadata[name] = value;
        metadata.to_string()
    };
    let uris = |uris: &[&str]| with("redirect_uris", json!(uris));
    let name = |name: &str| with("client_name", json!(name));
    let long = format!("https://app.example.com/{}", "x".repeat(400));
    let (uri, data) = ("invalid_redirect_uri", "invalid_client_metadata");
    let nine: Vec<String> = (0..9).map(|n| format!("https://app.example.com/{n}")).collect();
    for (body, error) in [
        (uris(&[]), uri),
        (with("redirect_uris", Value::Null), uri),
        (with("redirect_uris", json!(nine)), uri),
        (uris(&["javascript:alert(1)"]), uri),
        (uris(&["https://app.example.com/cb", "data:text/html,x"]), uri),
        (uris(&["https://app.example.com/cb#there"]), uri),
        (uris(&["https://user@app.example.com/cb"]), uri),
        (uris(&["http://app.example.com/cb"]), uri),
        (uris(&["cursor://anysphere.cursor-mcp/cb"]), uri),
        (uris(&["/cb"]), uri),
        (uris(&["https://app.example.com/\r\nSet-Cookie: a=b"]), uri),
        (uris(&[&long]), data),
        (uris(&["https://app.example.com/".repeat(100).as_str()]), uri),
        (with("redirect_uris", json!("https://app.example.com/cb")), data),
        (with("redirect_uris", json!([7])), data),
        (name(""), data),
        (name("  "), data),
        (name(&"x".repeat(65)), data),
        (name("two\nlines"), data),
        (name("turned \u{202e}round"), data),
        (name("un\u{200b}seen"), data),
        (name("un\u{e0041}seen"), data),
        (with("token_endpoint_auth_method", json!("client_secret_basic")), data),
        (with("token_endpoint_auth_method", json!("private_key_jwt")), data),
        (with("grant_types", json!([])), data),
        (with("grant_types", json!(["client_credentials"])), data),
        (with("grant_types", json!(["refresh_token"])), data),
        (with("response_types", json!(["token"])), data),
        (with("scope", json!("read admin")), data),
        (with("scope", json!("read \"")), data),
        (String::from("[]"), data),
        (String::from("{"), data),
        (String::from(r#"{"redirect_uris": ["https://a.example/"], "redirect_uris": ["https://b.example/"]}"#), data),
        (with("more", json!("x".repeat(17 << 10))), data),
        (format!(r#"{{"redirect_uris": ["https://a.example/"], "deep": {}}}"#, "[".repeat(9000)), data),
    ] {
        let answer = post(&gate, "application/json", body.as_bytes());
        let shown: String = body.chars().take(200).collect();
        assert_eq!((answer.status, &*answer.member("error")), (400, error), "{shown}: {}", answer.text());
    }
    let good = with("more", Value::Null);
    for kind in ["application/x-www-form-urlencoded", "text/plain", ""] {
        assert_eq!(post(&gate, kind, good.as_bytes()).member("error"), data, "{kind}");
    }
    assert_eq!(post(&gate, "application/json; charset=utf-8", good.as_bytes()).status, 201);
    assert_eq!(post(&gate, "application/json", &[b' '; 70_000]).status, 413);
    assert_eq!(gate.get("/oauth/register", &[]).status, 405);
    // The longest that fits is a client like any other.
    let fits = (0..400).rev().find_map(|n| {
        let answer = register(
            &gate,
            &json!({ "client_name": "x", "redirect_uris": [format!("https://a.example/{}", "x".repeat(n))] }),
        );
        (answer.status == 201).then(|| answer.member("client_id"))
    });
    let fits = fits.unwrap();
    assert!((500..=512).contains(&fits.len()), "{}", fits.len());
    let page = gate.get(&format!("/oauth/authorize?response_type=code&client_id={fits}&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256"), &[]);
    assert_eq!(page.status, 200, "{}", page.text());
}

#[test]
fn nobody_makes_an_identifier_but_the_issuer() {
    let gate = gate();
    let own = program(&gate, "Own");
    assert_eq!(gate.get(&ask(&own), &[]).status, 200);
    let other = Sidegate::start(&yaml(&Upstream::start(), &format!("\x20 master_key: {NEXT}\n")));
    let mut forged = vec![
        program(&other, "Own"),
        own[..own.len() - 1].to_owned(),
        own[..own.len() - 44].to_owned(),
        format!("{own}A"),
        format!("{own}="),
        own.replace("sgr1.", "sgr2."),
        own.replace("sgr1.", ""),
        "sgr1.".into(),
        format!("sgr1.{}", "A".repeat(507)),
        format!("sgr1.{}", "A".repeat(600)),
    ];
    let swap = |at: usize| {
        let mut bytes = own.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    forged.extend((5..own.len()).step_by(7).map(swap));
    for id in forged {
        unknown(&gate, &id);
    }
    // It says where browsers go; whoever asks cannot.
    let elsewhere = ask(&own).replace("127.0.0.1%3A5000%2Fcb", "evil.example%2Fcb");
    let page = gate.get(&elsewhere, &[]);
    assert_eq!((page.status, page.header("location")), (400, None));
    assert!(!page.text().contains("evil.example"), "{}", page.text());
}

#[test]
fn its_user_is_always_asked_and_told_that_nobody_has_checked_it() {
    let gate = gate();
    let id = program(&gate, "<b>Your Bank</b> & \"friends\"");
    let mut browser = Browser::new(&gate);
    let page = browser.consent_page(&id);
    let text = page.text();
    assert!(text.contains(UNCHECKED) && text.contains("<b>127.0.0.1:5000</b>"), "{text}");
    assert!(text.contains("&#60;b&#62;Your Bank&#60;/b&#62; &#38; &#34;friends&#34;"), "{text}");
    // Whoever is at the browser decides to go back.
    let denied = browser.send(&page, "decision=deny");
    let location = denied.header("location").unwrap();
    assert!(location.starts_with("http://127.0.0.1:5000/cb?error=access_denied"), "{location}");

    let tokens = browser.tokens(&id);
    assert_eq!((tokens.status, &*tokens.member("scope")), (200, "openid read write"), "{tokens:?}");
    assert_eq!(gate.get_with("/api", &tokens.member("access_token")).status, 200);
    let again = browser.consent_page(&id);
    assert!(again.text().contains("value=\"allow\""), "asked each time: {}", again.text());

    // Nobody is sent on who has not been asked (RFC 9700 §4.11.2): there is a link, for whoever wants to.
    for (more, error) in [
        ("&prompt=none", "consent_required"),
        ("&scope=admin", "invalid_scope"),
        ("&resource=https%3A%2F%2Fevil.example", "invalid_target"),
        ("&response_mode=fragment", "invalid_request"),
    ] {
        let page = browser.get(&format!("{}{more}&state=s%22%3E%3Cscript%3E", ask(&id)));
        assert_eq!((page.status, page.header("location")), (400, None), "{more}");
        let text = page.text();
        let link = between(&text, "<a href=\"", '"');
        assert!(link.starts_with(&format!("http://127.0.0.1:5000/cb?error={error}&#38;")), "{link}");
        assert!(text.contains(UNCHECKED) && !text.contains("<script"), "{text}");
    }
    let nobody = Browser::new(&gate).get(&format!("{}&prompt=none", ask(&id)));
    assert!(nobody.status == 400 && nobody.text().contains("error=login_required"), "{nobody:?}");
    // Without PKCE there is nothing.
    let bare = ask(&id).split("&code_challenge").next().unwrap().to_owned();
    assert_eq!(gate.get(&bare, &[]).status, 400);
}

#[test]
fn what_it_has_rotates_and_can_be_taken_back() {
    let gate = gate();
    let id = program(&gate, "Program");
    let mut browser = Browser::new(&gate);
    let tokens = browser.tokens(&id);
    let second = refresh(&gate, &id, &tokens);
    assert_eq!(second.status, 200, "{second:?}");
    assert_ne!(second.member("refresh_token"), tokens.member("refresh_token"));
    // Another client cannot use it.
    let other = program(&gate, "Another");
    assert_eq!(refresh(&gate, &other, &second).member("error"), "invalid_grant");

    let revoked = Command::new(env!("CARGO_BIN_EXE_sidegate"))
        .current_dir(gate.dir())
        .args(["revoke", "--client", &id, "--reason", "it misbehaves"])
        .output()
        .unwrap();
    assert!(revoked.status.success(), "{revoked:?}");
    assert_eq!(gate.get_with("/api", &second.member("access_token")).status, 401);
    assert_eq!(refresh(&gate, &id, &second).member("error"), "invalid_grant");
    // Its user can let it in again.
    let later = browser.tokens(&id);
    assert_eq!(gate.get_with("/api", &later.member("access_token")).status, 200);

    // An operator keeps it out.
    let config = fs::read_to_string(gate.dir().join("config.yaml")).unwrap();
    let listed = format!("  clients:\n    - {{ id: {id}, disabled: true, grants: [refresh_token] }}\n");
    let gate = Sidegate::start_in(gate.kill(), &config.replace("  clients:\n", &listed));
    unknown(&gate, &id);
    assert_eq!(gate.get_with("/api", &later.member("access_token")).status, 401);
    assert_eq!(gate.get(&ask(&other), &[]).status, 200);
}

#[test]
fn it_is_known_for_as_long_as_the_master_key_is() {
    let gate = gate();
    let id = program(&gate, "Program");
    let tokens = Browser::new(&gate).tokens(&id);
    let config = fs::read_to_string(gate.dir().join("config.yaml")).unwrap();
    let rotated = format!("master_key: {NEXT}\n  previous_master_keys: [{MASTER}]");
    let gate = Sidegate::start_in(gate.kill(), &config.replace(&format!("master_key: {MASTER}"), &rotated));
    let tokens = refresh(&gate, &id, &tokens);
    assert_eq!(tokens.status, 200, "{tokens:?}");
    let new = program(&gate, "Program");
    assert_ne!(new, id, "by the key of now");
    let gate = Sidegate::start_in(
        gate.kill(),
        &config.replace(&format!("master_key: {MASTER}"), &format!("master_key: {NEXT}")),
    );
    unknown(&gate, &id);
    assert_eq!(gate.get(&ask(&new), &[]).status, 200);
    // What they may ask for is what is configured now; where none may register any more, those of before are gone too.
    let less = config.replace(MASTER, NEXT);
    let gate = Sidegate::start_in(gate.kill(), &less.replace("scopes: [read, write, openid]", "scopes: [read]"));
    assert_eq!(Browser::new(&gate).tokens(&new).member("scope"), "read");
    let gate =
        Sidegate::start_in(gate.kill(), &less.replace("registration: { scopes: [read, write, openid] }", "keys: {}"));
    let form = format!("grant_type=refresh_token&refresh_token=x&client_id={new}");
    assert_eq!(gate.post_form("/oauth/token", &[], &form).member("error"), "invalid_client");
}

#[test]
fn many_registrations_wait_for_each_other_and_are_told() {
    let upstream = Upstream::start();
    let gate = Sidegate::start(&yaml(&upstream, "\x20 throttle: { failures_by_address: 3 }\n"));
    let id = program(&gate, "One");
    assert_eq!(register(&gate, &json!({})).status, 400);
    program(&gate, "Three");
    let answer = register(&gate, &json!({ "redirect_uris": ["http://127.0.0.1/cb"] }));
    assert_eq!((answer.status, &*answer.member("error")), (429, "temporarily_unavailable"), "{answer:?}");
    assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(gate.metric("sidegate_throttled_total{by=\"registration\"}"), 1.0);
    // Whoever is there logs in all the same.
    assert_eq!(Browser::new(&gate).tokens(&id).status, 200);

    let lines = wait_for("the audit log", || {
        let text = fs::read_to_string(gate.dir().join("audit.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let lines: Vec<_> = lines.filter(|line| line["event"] == "client_registration").collect();
        (lines.len() == 4).then_some(lines)
    });
    let told: Vec<_> = lines.iter().map(|line| line["outcome"].as_str().unwrap()).collect();
    assert_eq!(told, ["ok", "refused", "ok", "refused"]);
    assert_eq!((&lines[0]["client"], &lines[0]["address"]), (&json!(id), &json!("127.0.0.1")), "{}", lines[0]);
    assert_eq!(lines[1]["error"], "invalid_redirect_uri");
    assert_eq!(lines[3]["reason"], "throttled");
}
