//! A hook that knows the users.

use std::time::Duration;

use rustls::RootCertStore;
use serde_json::{Map, Value};

use super::{
    feed, fetch, roots,
    values::{HOUR, MINUTE, SECOND, duration},
};
use crate::{
    config::{path::Path, raw, report::Report},
    issuer::{RESERVED_CLAIMS, UsersHook},
};

/// The shortest credential, in bytes: 128 bits as hexadecimal digits.
const MIN_CREDENTIAL: usize = 32;

/// What is asked, in messages about its URL.
const WHAT: fetch::What = fetch::What {
    form: "not a URL of the form https://host/path, at which the users are asked for",
    insecure: "passwords over http can be read by anybody on the way: use https beyond loopback",
};

pub(super) fn check(report: &mut Report, at: &Path, raw: raw::UsersHook) -> Option<UsersHook> {
    let url = report.required(at, "url", raw.url, "where the users are asked for, as deploy/users-hook.md says");
    let secure = url.as_deref().and_then(|url| fetch::url_is_secure(report, &at.key("url"), url, false, WHAT));
    let roots = match (secure, &raw.ca_file) {
        // Nobody to be trusted or not.
        (Some(false), None) => Some(RootCertStore::empty()),
        (_, ca_file) => roots::check(report, at, ca_file.as_deref()),
    };
    let credential = report.required(at, "credential", raw.credential, "by which the hook knows who asks");
    let credential = credential.and_then(|raw| feed::bearer(report, &at.key("credential"), raw, MIN_CREDENTIAL));
    let range = Duration::from_millis(100)..=30 * SECOND;
    let timeout = duration(report, &at.key("timeout"), raw.timeout, 5 * SECOND, range);
    let recheck = duration(report, &at.key("recheck"), raw.recheck, MINUTE, Duration::ZERO..=HOUR);
    let claims = raw.claims.map(|raw| claims(report, &at.key("claims"), raw));
    secure?;
    Some(UsersHook {
        url: url?.into(),
        credential: credential?,
        tls: fetch::client(report, at, roots?)?,
        timeout: timeout?,
        recheck: recheck?,
        claims: match claims {
            Some(claims) => Some(claims?),
            None => None,
        },
    })
}

/// Which claims of tokens are which members of what the hook says.
fn claims(report: &mut Report, at: &Path, raw: Map<String, Value>) -> Option<Vec<(String, String)>> {
    let claims = raw.into_iter().map(|(claim, member)| {
        let at = at.key(&claim);
        if RESERVED_CLAIMS.contains(&claim.as_str()) {
            return report.refuse(&at, "is said by the issuer, not by a user's claims");
        }
        match member {
            Value::String(member) if !member.is_empty() => Some((claim, member)),
            Value::Null if report.is_settled(&at) => None,
            _ => report.refuse(&at, "must be the name of a member of the hook's claims, as in `roles: groups`"),
        }
    });
    super::all(claims)
}
