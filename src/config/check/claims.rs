//! Claims that a route asks for, and those it hands to the upstream in headers.

use std::collections::HashMap;

use http::HeaderName;
use serde_json::{Map, Value};

use super::all;
use crate::{
    config::{error::quote, path::Path, raw, report::Report},
    gateway::config::{ClaimHeader, ClaimRule},
};

/// Headers that mean something to HTTP, to Sidegate or to the upstream's trust in either; as they are once folded.
const TAKEN: &[&str] = &[
    "accept",
    "age",
    "allow",
    "authorization",
    "connection",
    "cookie",
    "cookie2",
    "date",
    "expect",
    "forwarded",
    "from",
    "host",
    "http2-settings",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "max-forwards",
    "origin",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "referer",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "warning",
    "www-authenticate",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
];
const TAKEN_PREFIXES: &[&str] = &["accept-", "access-control-", "cache-", "content-", "sec-", "x-forwarded-"];

/// What a token's claims must be: each claim one of its values.
pub(super) fn rules(report: &mut Report, at: &Path, raw: Option<Map<String, Value>>) -> Option<Vec<ClaimRule>> {
    let mut rules = Vec::new();
    for (claim, wanted) in raw.into_iter().flatten() {
        let at = at.key(&claim);
        let path = claim_path(report, &at, &claim);
        let any_of = match wanted {
            Value::Array(list) if list.is_empty() => report.refuse(&at, "must not be empty: no token could pass"),
            Value::Array(list) => {
                all(list.into_iter().enumerate().map(|(n, value)| scalar(report, &at.index(n), value)))
            }
            one => scalar(report, &at, one).map(|value| vec![value]),
        };
        rules.push((|| Some(ClaimRule { path: path?, any_of: any_of? }))());
    }
    all(rules)
}

/// Which claims go into which headers.
pub(super) fn headers(
    report: &mut Report,
    at: &Path,
    raw: raw::List<raw::Mapping<raw::ClaimHeader>>,
) -> Option<Vec<ClaimHeader>> {
    let mut folded = HashMap::<String, Path>::new();
    let mut headers = Vec::new();
    for (path, raw::Mapping(raw)) in report.items(at, raw) {
        let claim = report.required(&path, "claim", raw.claim, "the claim, as in `sub` or `realm_access.roles`");
        let claim = claim.and_then(|claim| claim_path(report, &path.key("claim"), &claim));
        let name = report.required(&path, "header", raw.header, "the header it goes into, as in `x-auth-subject`");
        let at = path.key("header");
        let header = name.and_then(|name| header(report, &at, &name));
        if let Some(header) = &header {
            if let Some(first) = folded.get(&fold(header.as_str())) {
                let line = report.line(first);
                report.error(
                    &at,
                    format!("an upstream could take it for the header in line {line}; choose another name"),
                );
            } else {
                folded.insert(fold(header.as_str()), at);
            }
        }
        headers.push((|| Some(ClaimHeader { claim: claim?, header: header? }))());
    }
    all(headers)
}

/// A header that says who a caller is, and means nothing else to anybody.
pub(super) fn header(report: &mut Report, at: &Path, text: &str) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        return report.refuse(at, "not a header name");
    };
    let folded = fold(name.as_str());
    if TAKEN.contains(&folded.as_str()) || TAKEN_PREFIXES.iter().any(|prefix| folded.starts_with(prefix)) {
        let message =
            format!("{} has a meaning of its own; choose a name such as x-auth-subject", quote(name.as_str()));
        return report.refuse(at, message);
    }
    Some(name)
}

/// A name as upstreams that put headers into variables see it: all that is no letter or digit is the same.
pub(super) fn fold(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

/// The way to a claim: a JSON pointer (RFC 6901) where it begins with a slash, names joined by dots otherwise.
fn claim_path(report: &mut Report, at: &Path, text: &str) -> Option<Vec<Box<str>>> {
    let steps: Vec<Box<str>> = match text.strip_prefix('/') {
        Some(pointer) => {
            let valid = pointer.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
            if !valid {
                return report.refuse(at, "not a JSON pointer: `~` is followed by 0 or 1 (RFC 6901 §3)");
            }
            pointer.split('/').map(|step| step.replace("~1", "/").replace("~0", "~").into()).collect()
        }
        None => text.split('.').map(Into::into).collect(),
    };
    if steps.iter().any(|step| step.is_empty()) {
        return report.refuse(
            at,
            "not a claim: a name in it is empty; write sub, realm_access.roles, or /a~1b for a name with a slash",
        );
    }
    if steps.len() > 16 {
        return report.refuse(at, "claims are looked for at most 16 levels deep");
    }
    Some(steps)
}

fn scalar(report: &mut Report, at: &Path, value: Value) -> Option<Value> {
    match value {
        Value::Bool(_) | Value::Number(_) | Value::String(_) => Some(value),
        Value::Null if report.is_settled(at) => None,
        Value::Null | Value::Array(_) | Value::Object(_) => {
            report.refuse(at, "must be a string, a number, true or false, or a list of these")
        }
    }
}
