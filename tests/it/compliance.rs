//! What the RFCs ask of an authorization server, and the attacks that are known: a table of requests, all against one program.
//!
//! A row stands alone: what it needs from before, a code, a token, is made for it when its request names it in braces.

mod clients;
mod codes;
mod grants;
mod tokens;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use crate::{
    browser::{ASK, VERIFIER, between, code_for},
    support::{
        Answer, Sidegate, Upstream,
        client::try_request,
        config_with_issuer,
        tokens::{TestKey, argon2id, changed, hmac_tag, now},
    },
};

/// Several slices, since each part of the table has a file.
const TABLE: [&[Case]; 4] = [clients::CASES, grants::CASES, codes::CASES, tokens::CASES];

/// A request, and what is to come of it.
struct Case {
    name: &'static str,
    method: &'static str,
    path: &'static str,
    /// With one of these that has no value, the header is left out.
    headers: Fields,
    form: &'static str,
    wanted: Wanted,
    /// What a header of the answer begins with.
    header: Option<(&'static str, &'static str)>,
}

type Fields = &'static [(&'static str, &'static str)];

enum Wanted {
    /// Tokens of this scope; with a refresh token, or without.
    Tokens(&'static str, bool),
    /// A JSON answer of 200 that has these words.
    Words(&'static str),
    /// This status, error and, unless that is empty, description: where two failures must look the same, theirs do.
    Refused(u16, &'static str, &'static str),
    /// A page with these words, and the browser is sent nowhere.
    Page(u16, &'static str),
    /// The browser is sent here, with these words.
    Back(&'static str, &'static str),
    /// The gateway's status.
    Gate(u16),
}

use Wanted::{Back, Gate, Page, Refused, Tokens, Words};

const TOKEN: &str = "/oauth/token";
const REVOKE: &str = "/oauth/revoke";
const INTROSPECT: &str = "/oauth/introspect";

/// Nobody in particular.
const BARE: Fields = &[];
const APP: Fields = &[("Authorization", "Basic {app:secret}")];
const OWN: Fields = &[("Authorization", "Basic {own:secret}")];
const MUTE: Fields = &[("Authorization", "Basic {mute:secret}")];

const fn post(path: &'static str, name: &'static str, headers: Fields, form: &'static str, wanted: Wanted) -> Case {
    Case { name, method: "POST", path, headers, form, wanted, header: None }
}

const fn token(name: &'static str, headers: Fields, form: &'static str, wanted: Wanted) -> Case {
    post(TOKEN, name, headers, form, wanted)
}

impl Case {
    const fn with(self, header: &'static str, value: &'static str) -> Self {
        Self { header: Some((header, value)), ..self }
    }

    const fn by(self, method: &'static str) -> Self {
        Self { method, ..self }
    }
}

/// What the rows of the table are tried on.
struct Rig {
    gate: Sidegate,
    /// Of a browser at which alice is logged in.
    cookies: String,
    /// Of the client `signs`.
    key: TestKey,
    _upstream: Upstream,
}

impl Rig {
    fn start() -> Self {
        let upstream = Upstream::start();
        let routes = "routes: [{ name: all, match: { path_prefix: / }, upstream: app }]\n";
        let digest = crate::support::client::hex(&crate::support::client::sha256(b"secret"));
        let (slow, password) = (argon2id("secret"), argon2id("wonderland"));
        let key = TestKey::new("ES256", "k1");
        let jwks = json!({ "keys": [key.jwk()] });
        // `web` and `other` are public and alike; `own` is of the house; `mute` may do nothing but speak for itself, and so may
        // `signs`, which has no secret but a key.
        let clients = format!(
            "    - {{ id: web, grants: [authorization_code, refresh_token], scopes: [read], consent: skip, redirect_uris: \
             ['http://127.0.0.1/cb', 'https://app.example.com/cb'] }}\n    \
             - {{ id: other, grants: [authorization_code, refresh_token], scopes: [read], consent: skip, redirect_uris: \
             ['https://app.example.com/cb'] }}\n    \
             - {{ id: own, secret_hash: 'sha256:{digest}', grants: [authorization_code, refresh_token], scopes: [read, write], \
             consent: skip, redirect_uris: ['https://own.example.com/cb?tenant=1'] }}\n    \
             - {{ id: mute, secret_hash: 'sha256:{digest}', grants: [client_credentials], scopes: [read] }}\n    \
             - {{ id: signs, jwks: {jwks}, grants: [client_credentials], scopes: [read] }}\n    \
             - {{ id: slow, secret_hash: '{slow}', grants: [client_credentials], scopes: [read] }}\n    \
             - {{ id: gone, secret_hash: 'sha256:{digest}', grants: [client_credentials], scopes: [read], disabled: true }}\n"
        );
        // Failures are what this is about; how they make the next ones wait is tried elsewhere, and so is the grace for tabs that race.
        let yaml = config_with_issuer(upstream.address(), routes)
            .replace("  clients:\n", &format!("  throttle: {{ insecure_off: true }}\n  refresh_token: {{ reuse_interval: 0s, retry_window: 0s }}\n  clients:\n{clients}"))
            .replace(
                "users: [",
                &format!("users: [{{ username: mallory, password_hash: '{password}', disabled: true }}, "),
            );
        let gate = Sidegate::start(&yaml);
        let (_, cookies) = code_for(&gate, ASK);
        Self { gate, cookies, key, _upstream: upstream }
    }

    /// Puts in what a text names in braces.
    fn filled(&self, text: &str) -> String {
        let Some((before, rest)) = text.split_once('{') else { return text.to_owned() };
        let (what, after) = rest.split_once('}').unwrap();
        format!("{before}{}{}", self.made(what), self.filled(after))
    }

    /// What a row needs, made for it alone.
    fn made(&self, what: &str) -> String {
        let refresh = "refresh_token";
        match what {
            "verifier" => VERIFIER.to_owned(),
            "cookies" => self.cookies.clone(),
            "signed" => SIGNED.to_owned(),
            "KiB" => "x".repeat(1 << 10),
            "64 KiB" => "x".repeat(64 << 10),
            "MiB" => "x".repeat(1 << 20),
            // A code, good and with a challenge; one of another client; and one without a challenge.
            "code" => self.code(ASK),
            "own_code" => self.code(&ASK.replace("=web&", "=own&").replace(BACK_TO_WEB, BACK_TO_OWN)),
            "open_code" => self.code("/oauth/authorize?response_type=code&client_id=own"),
            // Spent, and by somebody without the verifier, or of another client.
            "spent_code" => self.spent().0,
            "missed_code" => {
                let code = self.code(ASK);
                let wrong = format!("code={code}&code_verifier={}", "x".repeat(43));
                self.must(400, "", &format!("grant_type=authorization_code&client_id=web&{wrong}"));
                code
            }
            "stolen_code" => {
                let code = self.code(ASK);
                let wrong = format!("client_id=other&code={code}&code_verifier={VERIFIER}");
                self.must(400, "", &format!("grant_type=authorization_code&{wrong}"));
                code
            }
            // What came of a code that was then shown again.
            "refresh_of_replayed_code" => self.replayed().member(refresh),
            "access_of_replayed_code" => self.replayed().member("access_token"),
            // Tokens of `app`, with everything it may have or with less, and of the public clients.
            "refresh" => self.login("").member(refresh),
            "narrow_refresh" => self.login("&scope=read").member(refresh),
            "access" => self.login("").member("access_token"),
            "spa_refresh" => self.spa().member(refresh),
            "spa_access" => self.spa().member("access_token"),
            "used_spa_refresh" => {
                let token = self.made("spa_refresh");
                self.must(200, "", &format!("grant_type=refresh_token&client_id=spa&refresh_token={token}"));
                token
            }
            "web_refresh" => self.spent().1.member(refresh),
            "mute_access" => self.ask("Basic {mute:secret}", "grant_type=client_credentials").member("access_token"),
            // Two refreshes old, and the last one of a session in which that was shown.
            "old_refresh" => self.rotated().0,
            "refresh_after_reuse" => {
                let (old, last) = self.rotated();
                self.must(400, "Basic {app:secret}", &format!("grant_type=refresh_token&refresh_token={old}"));
                last
            }
            // Tokens that somebody has tried to take what is not theirs with.
            "refresh_tried_by_spa" => {
                let token = self.made("refresh");
                self.must(400, "", &format!("grant_type=refresh_token&client_id=spa&refresh_token={token}"));
                token
            }
            "refresh_spa_tried_to_revoke" => {
                let token = self.made("refresh");
                let answer = self.gate.post_form(REVOKE, &[], &format!("client_id=spa&token={token}"));
                assert_eq!(answer.status, 400, "{answer:?}");
                token
            }
            "revoked_refresh" => self.revoked(refresh),
            "revoked_access" => self.revoked("access_token"),
            // What `signs` has signed: well, in vain, or once already.
            "assertion" => self.assertion(json!({})),
            "assertion_for_endpoint" => self.assertion(json!({ "aud": format!("{URL}/oauth/token") })),
            "assertion_for_two" => self.assertion(json!({ "aud": [URL, "https://other.example"] })),
            "assertion_for_another" => self.assertion(json!({ "aud": "https://other.example" })),
            "assertion_of_app" => self.assertion(json!({ "iss": "app", "sub": "app" })),
            "assertion_by_app" => self.assertion(json!({ "iss": "app" })),
            "assertion_without_end" => self.assertion(json!({ "exp": null })),
            "assertion_of_before" => self.assertion(json!({ "exp": now() - 60 })),
            "assertion_for_long" => self.assertion(json!({ "exp": now() + 3600 })),
            "assertion_without_name" => self.assertion(json!({ "jti": null })),
            "assertion_by_stranger" => {
                TestKey::new("ES256", "k1").token(&json!({ "alg": "ES256", "kid": "k1" }), &says())
            }
            "assertion_by_nobody" => {
                let parts = [json!({ "alg": "none" }), says()].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
                format!("{}.", parts.join("."))
            }
            "assertion_by_public_key" => {
                let parts = [json!({ "alg": "HS256", "kid": "k1" }), says()];
                let signed = parts.map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
                let tag = hmac_tag("HS256", &self.key.public_der(), signed.as_bytes());
                format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
            }
            "used_assertion" => {
                let assertion = self.assertion(json!({}));
                self.must(200, "", &format!("{SIGNED}&client_assertion={assertion}"));
                assertion
            }
            // Both parts of Basic.
            _ if what.contains(':') => STANDARD.encode(what),
            _ => panic!("what is {what}?"),
        }
    }

    fn ask(&self, authorization: &str, form: &str) -> Answer {
        let authorization = self.filled(authorization);
        let headers = [("Authorization", &*authorization)];
        self.gate.post_form(TOKEN, if authorization.is_empty() { &[] } else { &headers }, form)
    }

    fn assertion(&self, changes: Value) -> String {
        self.key.token(&json!({ "alg": "ES256", "kid": "k1" }), &changed(says(), changes))
    }

    #[track_caller]
    fn must(&self, status: u16, authorization: &str, form: &str) {
        let answer = self.ask(authorization, form);
        assert_eq!(answer.status, status, "{form}: {answer:?}");
    }

    fn login(&self, more: &str) -> Answer {
        self.ask("Basic {app:secret}", &format!("grant_type=password&username=alice&password=wonderland{more}"))
    }

    fn spa(&self) -> Answer {
        self.ask("", "grant_type=password&username=alice&password=wonderland&client_id=spa")
    }

    fn code(&self, ask: &str) -> String {
        let answer = self.gate.get(ask, &[("Cookie", &self.cookies)]);
        between(answer.header("location").unwrap(), "code=", '&').to_owned()
    }

    /// A code, and the tokens that came of it.
    fn spent(&self) -> (String, Answer) {
        let code = self.code(ASK);
        let form = format!("grant_type=authorization_code&client_id=web&code={code}&code_verifier={VERIFIER}");
        let tokens = self.ask("", &form);
        (code, tokens)
    }

    fn replayed(&self) -> Answer {
        let (code, tokens) = self.spent();
        self.must(
            400,
            "",
            &format!("grant_type=authorization_code&client_id=web&code={code}&code_verifier={VERIFIER}"),
        );
        tokens
    }

    /// The first and the third refresh token of a session.
    fn rotated(&self) -> (String, String) {
        let next = |token: &str| {
            let form = format!("grant_type=refresh_token&refresh_token={token}");
            self.ask("Basic {app:secret}", &form).member("refresh_token")
        };
        let first = self.made("refresh");
        let last = next(&next(&first));
        (first, last)
    }

    fn revoked(&self, kind: &str) -> String {
        let token = self.login("").member(kind);
        let authorization = self.filled("Basic {app:secret}");
        let answer = self.gate.post_form(REVOKE, &[("Authorization", &authorization)], &format!("token={token}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        token
    }

    fn send(&self, case: &Case) -> Answer {
        let (path, form) = (self.filled(case.path), self.filled(case.form));
        let mut headers: Vec<_> = case.headers.iter().map(|(name, value)| (*name, self.filled(value))).collect();
        if case.method == "POST" && !headers.iter().any(|(name, _)| *name == "Content-Type") {
            headers.push(("Content-Type", "application/x-www-form-urlencoded".to_owned()));
        }
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| (*name, &**value)).filter(|h| !h.1.is_empty()).collect();
        try_request(self.gate.address(), case.method, &path, &headers, form.as_bytes()).unwrap()
    }
}

/// What `signs` says; nobody has had its `jti`.
fn says() -> Value {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let jti = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
    json!({ "iss": "signs", "sub": "signs", "aud": URL, "exp": now() + 60, "jti": jti })
}

/// The issuer's URL, wherever it really listens.
const URL: &str = "http://localhost:3000";
const SIGNED: &str = "grant_type=client_credentials&\
                      client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

const BACK_TO_WEB: &str = "http%3A%2F%2F127.0.0.1%3A5000%2Fcb";
const BACK_TO_OWN: &str = "https%3A%2F%2Fown.example.com%2Fcb%3Ftenant%3D1";

/// What an answer lacks.
fn faults(case: &Case, answer: &Answer) -> Vec<String> {
    let mut faults = Vec::new();
    let mut demand = |good: bool, what: &str| {
        if !good {
            faults.push(what.to_owned());
        }
    };
    let all = |name: &str| {
        let fields = answer.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let member = |name: &str| json[name].as_str().unwrap_or_default();
    let location = all("Location").concat();
    match case.wanted {
        Tokens(scope, refreshes) => {
            demand(answer.status == 200, "200");
            // RFC 6749 §5.1.
            demand(!member("access_token").is_empty(), "access_token");
            demand(member("token_type") == "Bearer", "token_type");
            demand(json["expires_in"].is_u64(), "expires_in");
            demand(member("scope") == scope, "scope");
            demand(json["refresh_token"].is_string() == refreshes, "refresh_token, or none");
        }
        Words(words) => {
            demand(answer.status == 200, "200");
            demand(text.contains(words), words);
        }
        Refused(status, error, description) => {
            demand(answer.status == status, &status.to_string());
            demand(member("error") == error, error);
            demand(description.is_empty() || member("error_description") == description, description);
            // RFC 6749 §5.2.
            let spoken = |c| matches!(c, '\u{20}'..='\u{21}' | '\u{23}'..='\u{5b}' | '\u{5d}'..='\u{7e}');
            demand(member("error_description").chars().all(spoken), "a description of allowed characters");
            demand(json.get("access_token").is_none(), "no access_token");
            let basic = case.headers.iter().any(|(name, _)| *name == "Authorization");
            let challenged = all("WWW-Authenticate").iter().any(|field| field.starts_with("Basic "));
            demand(status != 401 || challenged == basic, "a challenge where a header was tried, and nowhere else");
        }
        Page(status, words) => {
            demand(answer.status == status, &status.to_string());
            demand(text.contains(words), words);
            demand(location.is_empty(), "no Location");
        }
        Back(to, words) => {
            demand(answer.status == 303, "303");
            demand(location.starts_with(to), to);
            demand(location.contains(words), words);
            // RFC 9207.
            demand(location.contains("&iss=http%3A%2F%2Flocalhost%3A3000"), "iss");
            demand(location.contains("error=") != location.contains("code="), "either a code or an error");
        }
        Gate(status) => demand(answer.status == status, &status.to_string()),
    }
    if let Some((name, value)) = case.header {
        let found = all(name);
        demand(found.len() == 1 && found[0].starts_with(value), &format!("{name}: {value}"));
    }
    if !matches!(case.wanted, Gate(_)) {
        demand(all("Cache-Control") == ["no-store"], "Cache-Control: no-store");
        demand(all("Pragma") == ["no-cache"], "Pragma: no-cache");
    }
    if matches!(case.wanted, Tokens(..) | Words(_) | Refused(..)) {
        demand(all("Content-Type") == ["application/json"], "Content-Type: application/json");
    }
    faults
}

#[test]
fn the_issuer_answers_as_the_rfcs_want_and_attackers_do_not() {
    let cases = || TABLE.into_iter().flatten();
    assert!(cases().count() >= 80, "{}", cases().count());
    let mut names: Vec<_> = cases().map(|case| case.name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "two rows of one name: {names:?}");

    let rig = Rig::start();
    let mut misses = String::new();
    for case in cases() {
        // What a row needs first can fail as well, and is no reason to leave out the rows after it.
        let answer = match catch_unwind(AssertUnwindSafe(|| rig.send(case))) {
            Ok(answer) => answer,
            Err(cause) => {
                let cause = cause.downcast_ref::<String>().map_or("it cannot be sent", |text| text);
                misses += &format!("{}: lacks what it needs: {cause:.300}\n", case.name);
                continue;
            }
        };
        let faults = faults(case, &answer);
        if !faults.is_empty() {
            let text = String::from_utf8_lossy(&answer.body);
            misses += &format!("{}: lacks {faults:?}: {} {:?} {text:.300}\n", case.name, answer.status, answer.headers);
        }
    }
    assert!(misses.is_empty(), "\n{misses}");
}
