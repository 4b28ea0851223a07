//! A user at a browser, before the real program.

mod chromium;

use crate::support::{Answer, Sidegate, Upstream, config_with_issuer};

pub(crate) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub(crate) const ASK: &str = "/oauth/authorize?response_type=code&client_id=web&redirect_uri=http%3A%2F%2F127.0.0.1%3A5000%2Fcb\
                   &code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256";

fn gate(upstream: &Upstream) -> Sidegate {
    let routes = "routes: [{ name: all, match: { path_prefix: / }, upstream: app }]\n";
    let web = "{ id: web, grants: [authorization_code, refresh_token], scopes: [read], consent: skip, \
               redirect_uris: ['http://127.0.0.1/cb'] }";
    let yaml = config_with_issuer(upstream.address(), routes);
    Sidegate::start(&yaml.replace("  clients:\n", &format!("  clients:\n    - {web}\n")))
}

pub(crate) fn between<'t>(text: &'t str, before: &str, after: char) -> &'t str {
    let at = text.find(before).unwrap_or_else(|| panic!("no {before}: {text}")) + before.len();
    text[at..].split(after).next().unwrap()
}

/// The cookies that an answer sets, as a browser sends them.
pub(crate) fn cookie(answer: &Answer) -> String {
    let set = answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
    set.map(|(_, value)| value.split(';').next().unwrap()).collect::<Vec<_>>().join("; ")
}

/// Logs alice in and consents where that is asked for: what the client gets, and the browser's cookies.
pub(crate) fn code_for(gate: &Sidegate, ask: &str) -> (String, String) {
    let path = |url: &str| url.strip_prefix("http://localhost:3000").expect("the issuer's own").to_owned();
    let page = gate.get(ask, &[]);
    let (mark, text) = (cookie(&page), page.text());
    let form = format!("ticket={}&username=alice&password=wonderland", between(&text, "name=\"ticket\" value=\"", '"'));
    let logged_in = gate.post_form(between(&text, "action=\"", '"'), &[("Cookie", &mark)], &form);
    assert_eq!(logged_in.status, 303, "{logged_in:?}");
    let cookies = format!("{mark}; {}", cookie(&logged_in));
    let mut back = gate.get(&path(logged_in.header("location").unwrap()), &[("Cookie", &cookies)]);
    if back.status == 200 {
        let text = back.text();
        let form = format!("ticket={}&decision=allow", between(&text, "name=\"ticket\" value=\"", '"'));
        back = gate.post_form(between(&text, "action=\"", '"'), &[("Cookie", &cookies)], &form);
    }
    let location = back.header("location").unwrap();
    assert!(location.starts_with("http://127.0.0.1:5000/cb?code="), "{location}");
    (between(location, "code=", '&').to_owned(), cookies)
}

#[test]
fn a_login_leads_to_tokens_that_pass_and_stays_with_the_issuer() {
    let upstream = Upstream::start();
    let gate = gate(&upstream);
    let (code, cookies) = code_for(&gate, ASK);
    let form = format!("grant_type=authorization_code&client_id=web&code={code}&code_verifier={VERIFIER}");
    let tokens = gate.post_form("/oauth/token", &[], &form);
    let authorization = format!("Bearer {}", tokens.member("access_token"));
    // The browser sends its cookies to whatever is on the host; the upstream gets its own.
    let all = format!("theme=dark; {cookies}; lang=de");
    let answer = gate.get("/", &[("Authorization", &authorization), ("Cookie", &all)]);
    assert_eq!(answer.status, 200);
    assert_eq!(upstream.only().all("cookie"), ["theme=dark; lang=de"]);
    let answer = gate.get("/", &[("Authorization", &authorization), ("Cookie", "__Host-sidegate-login=x")]);
    assert_eq!(answer.status, 200);
    assert!(upstream.only().all("cookie").is_empty());
}
