//! Users of the issuer.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{client::identifier, hash, hook};
use crate::{
    config::{demo, error::quote, path::Path, raw, report::Report, users},
    io::Stamp,
    issuer::{CLIENT_SUBJECT, RESERVED_CLAIMS, User, UsersFile, UsersHook},
    types::{MAX_USER_ID_BYTES, Subject},
};

/// Users as they are configured.
#[derive(Default)]
pub(super) struct Source {
    /// Those that are known.
    pub(super) users: Vec<User>,
    /// The file that has them.
    pub(super) file: Option<UsersFile>,
    /// Whom to ask, where none are known.
    pub(super) hook: Option<UsersHook>,
}

/// Checks the users, and the file or the hook that has them where they are not written here; where the demo's is among them goes
/// into `demo`.
pub(super) fn check_wherever(
    report: &mut Report,
    at: &Path,
    raw: Option<raw::Users>,
    demo: &mut Vec<Path>,
) -> Option<Source> {
    let name = match raw {
        None => return Some(Source::default()),
        Some(raw::Users::Here(list)) => {
            return check_all(report, at, list, demo).map(|users| Source { users, ..Source::default() });
        }
        Some(raw::Users::Elsewhere(raw::UsersSource { file: Some(_), http: Some(_) })) => {
            return report.refuse(at, "has both `file` and `http`; users come from one of them");
        }
        Some(raw::Users::Elsewhere(raw::UsersSource { file: None, http: Some(raw::Mapping(raw)) })) => {
            let hook = hook::check(report, &at.key("http"), raw)?;
            return Some(Source { hook: Some(hook), ..Source::default() });
        }
        Some(raw::Users::Elsewhere(_)) if report.is_settled(&at.key("http")) => return None,
        Some(raw::Users::Elsewhere(raw::UsersSource { file: name, .. })) => {
            report.required(at, "file", name, "the file with the users; `sidegate user add` makes one")?
        }
    };
    let at = at.key("file");
    if name.is_empty() {
        return report.refuse(&at, "must not be empty");
    }
    let path = report.resolve(&name);
    let seen = Stamp::of(&path).ok();
    match users::load(&path) {
        Ok(users) => Some(Source { users, file: Some(UsersFile { path, seen }), hook: None }),
        Err(errors) => {
            for problem in errors.problems() {
                match problem.at {
                    Some(_) => report.adopt(problem.clone()),
                    // There is no better place to name than where the file is.
                    None => report.error(&at, problem.to_string()),
                }
            }
            None
        }
    }
}

/// Checks all users; where the demo's is among them goes into `demo`.
pub(in crate::config) fn check_all(
    report: &mut Report,
    at: &Path,
    raw: raw::List<raw::Mapping<raw::User>>,
    demo: &mut Vec<Path>,
) -> Option<Vec<User>> {
    let (mut names, mut subjects) = (HashMap::new(), HashMap::new());
    let mut users = Vec::new();
    for (path, raw::Mapping(raw)) in report.items(at, raw) {
        users.push(check(report, &path, raw, &mut names, &mut subjects, demo));
    }
    users.into_iter().collect()
}

fn check(
    report: &mut Report,
    at: &Path,
    raw: raw::User,
    names: &mut HashMap<String, Path>,
    subjects: &mut HashMap<String, Path>,
    demo: &mut Vec<Path>,
) -> Option<User> {
    let username = report.required(at, "username", raw.username, "what the user types");
    let username = username.and_then(|name| identifier(report, &at.key("username"), name, MAX_USER_ID_BYTES, names));
    let what = "the output of `sidegate hash-password`";
    let hash = report.required(at, "password_hash", raw.password_hash, what).and_then(|text| {
        let at = at.key("password_hash");
        if demo::is_demo(&text) {
            demo.push(at.clone());
        }
        hash::check(report, &at, &text, false)
    });
    let subject_at = at.key(if raw.subject.is_some() { "subject" } else { "username" });
    let subject = raw.subject.or_else(|| username.clone()).and_then(|subject| {
        if subject.starts_with(CLIENT_SUBJECT) {
            return report
                .refuse(&subject_at, format!("a subject must not begin with {}: clients do", quote(CLIENT_SUBJECT)));
        }
        identifier(report, &subject_at, subject, MAX_USER_ID_BYTES, subjects)
    });
    let claims = claims(report, &at.key("claims"), raw.claims);
    Some(User {
        username: username?.into(),
        password_hash: hash?,
        subject: Subject::new(subject?),
        disabled: raw.disabled.is_some_and(|flag| flag.0),
        claims: claims?,
    })
}

fn claims(report: &mut Report, at: &Path, raw: Option<Map<String, Value>>) -> Option<Map<String, Value>> {
    let claims = raw.unwrap_or_default();
    let mut valid = true;
    for (name, value) in &claims {
        let at = at.key(name);
        if RESERVED_CLAIMS.contains(&name.as_str()) {
            report.error(&at, "is said by the issuer, not by a user's claims");
            valid = false;
        } else if value.is_null() && !report.is_settled(&at) {
            report.error(&at, "nothing stands here");
            valid = false;
        }
    }
    // It goes into every token, and a token of more than 8 KiB is refused.
    if Value::Object(claims.clone()).to_string().len() > 4096 {
        return report.refuse(at, "must not be larger than 4 KiB: they go into every token of the user");
    }
    valid.then_some(claims)
}
