//! A browser, with its cookies, at which the user sits.

use std::collections::BTreeMap;

use oauth2::reqwest::{Client, StatusCode, Url};

use super::{Gate, PASSWORD, USER};

pub(super) struct Browser {
    http: Client,
    issuer: Url,
    cookies: BTreeMap<String, String>,
}

impl Browser {
    pub(super) fn new(gate: &Gate) -> Self {
        Self { http: gate.http(), issuer: gate.base.parse().unwrap(), cookies: BTreeMap::new() }
    }

    /// Goes where a client sends it: follows redirects, logs in, and decides. Ends where it would leave for the client.
    pub(super) async fn go(&mut self, to: Url, decision: &str) -> Url {
        let mut at = to;
        let mut form: Option<Vec<(&str, String)>> = None;
        for _ in 0..8 {
            let request = match form.take() {
                Some(form) => self.http.post(at.clone()).form(&form),
                None => self.http.get(at.clone()),
            };
            let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let answer = request.header("Cookie", cookies.join("; ")).send().await.unwrap();
            for line in answer.headers().get_all("set-cookie") {
                let (name, rest) = line.to_str().unwrap().split_once('=').unwrap();
                self.cookies.insert(name.into(), rest.split(';').next().unwrap().into());
            }
            if answer.status() == StatusCode::SEE_OTHER {
                at = answer.headers()["location"].to_str().unwrap().parse().unwrap();
                if at.origin() != self.issuer.origin() {
                    return at;
                }
                continue;
            }
            assert_eq!(answer.status(), StatusCode::OK, "{at}");
            let page = answer.text().await.unwrap();
            let mut filled = vec![("ticket", between(&page, "name=\"ticket\" value=\"").to_owned())];
            if page.contains("name=\"username\"") {
                filled.extend([("username", USER.into()), ("password", PASSWORD.into())]);
            } else {
                filled.push(("decision", decision.into()));
            }
            at = at.join(between(&page, "action=\"")).unwrap();
            form = Some(filled);
        }
        panic!("no way back to the client; it ended at {at}");
    }
}

fn between<'t>(page: &'t str, before: &str) -> &'t str {
    let at = page.find(before).unwrap_or_else(|| panic!("no {before}: {page}")) + before.len();
    page[at..].split('"').next().unwrap()
}

/// A parameter of the URL with which a browser comes back.
pub(super) fn parameter(back: &Url, name: &str) -> Option<String> {
    back.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}
