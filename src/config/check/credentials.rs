//! How a client shows who it is.

use super::{hash, keys};
use crate::{
    config::{demo, path::Path, raw, report::Report},
    issuer::{Client, Credentials, SecretHash},
};

/// The keys that say it which are there. One that is at fault is there nevertheless: a client that loses its last one would be a
/// public one.
pub(super) fn written(report: &Report, at: &Path, raw: &raw::Client) -> Vec<&'static str> {
    let keys = [
        ("secret_hash", raw.secret_hash.is_some()),
        ("secret_hashes", raw.secret_hashes.is_some()),
        ("jwks", raw.jwks.is_some()),
        ("jwks_file", raw.jwks_file.is_some()),
    ];
    keys.into_iter().filter(|(key, found)| *found || report.is_settled(&at.key(key))).map(|(key, _)| key).collect()
}

/// Takes the one that is `written`, of those.
pub(super) fn check(
    report: &mut Report,
    at: &Path,
    raw: &mut raw::Client,
    written: &[&str],
    demo: &mut Vec<Path>,
) -> Option<Credentials> {
    match *written {
        [] => Some(Credentials::None),
        [first, second, ..] if second != "secret_hashes" => {
            report.refuse(&at.key(second), format!("stands beside {first}; a client shows who it is in one way"))
        }
        ["jwks"] => keys::public_jwks(report, &at.key("jwks"), raw.jwks.take()?).map(Credentials::Keys),
        ["jwks_file"] => {
            keys::public_jwks_file(report, &at.key("jwks_file"), &raw.jwks_file.take()?).map(Credentials::Keys)
        }
        _ => secrets(report, at, raw.secret_hash.take(), raw.secret_hashes.take(), demo).map(Credentials::Secrets),
    }
}

/// The hashes of its secrets: of one, or of the two that it has while one follows the other. Never fewer than are written: a
/// client that loses its last one would be a public one.
fn secrets(
    report: &mut Report,
    at: &Path,
    one: Option<String>,
    several: raw::List<String>,
    demo: &mut Vec<Path>,
) -> Option<Vec<SecretHash>> {
    let list = at.key("secret_hashes");
    let hashes = match (one, several) {
        (Some(_), Some(_)) => {
            return report
                .refuse(&list, "stands beside secret_hash; a client has one of the two, and this takes both hashes");
        }
        (one, None) => one.into_iter().map(|text| (at.key("secret_hash"), text)).collect(),
        (None, Some(several)) => {
            if several.is_empty() {
                return report
                    .refuse(&list, "is empty; a client without a secret, which is a public one, leaves it out");
            }
            if several.len() > Client::MAX_SECRETS {
                let message =
                    format!("has {} hashes; there are two at most, while one secret follows another", several.len());
                return report.refuse(&list, message);
            }
            let written = several.len();
            let hashes = report.items(&list, Some(several));
            if hashes.len() < written {
                return None;
            }
            hashes
        }
    };
    let mut checked = Vec::new();
    for (at, text) in hashes {
        if demo::is_demo(&text) {
            demo.push(at.clone());
        }
        checked.push(hash::check(report, &at, &text, true));
    }
    // Keys with nothing good behind them are at fault already, and the file with them.
    checked.into_iter().collect()
}
