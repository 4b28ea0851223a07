//! The revocation log on its way: who may follow ours, and whose we follow.

use std::time::Duration;

use rustls::RootCertStore;

use super::{
    fetch, roots,
    values::{HOUR, SECOND, duration},
};
use crate::{
    config::{file, path::Path, raw, report::Report},
    revocation::FeedConfig,
    types::Secret,
};

/// The shortest credential, in bytes: 128 bits as hexadecimal digits.
const MIN_CREDENTIAL: usize = 32;
/// How old what is known may be unless it is said.
pub(super) const MAX_STALENESS: Duration = Duration::from_secs(30);

/// The log that is followed; `issuer` says whether one is kept here. Also whether there is one at all.
pub(super) fn followed(
    report: &mut Report,
    at: &Path,
    raw: raw::Section<raw::FollowedFeed>,
    issuer: bool,
) -> (Option<FeedConfig>, bool) {
    let Some(raw::Mapping(raw)) = raw else { return (None, report.is_settled(at)) };
    if issuer {
        report.error(at, "the `issuer:` of this process keeps a revocation log of its own; a process has one log");
    }
    let urls = match (raw.url, raw.urls) {
        (Some(_), Some(_)) => report.refuse(&at.key("urls"), "url and urls are there both; keep one of them"),
        (None, None) => {
            report.required(at, "url", None, "of a gateway with the issuer, as in https://id.example/oauth/revocations")
        }
        (Some(url), None) => Some(vec![(at.key("url"), url)]),
        (None, Some(list)) if list.is_empty() => report.refuse(&at.key("urls"), "must not be empty"),
        (None, list) => Some(report.items(&at.key("urls"), list)),
    };
    let urls = urls.unwrap_or_default();
    let secure: Vec<_> = urls.iter().map(|(at, url)| fetch::url_is_secure(report, at, url, false, WHAT)).collect();
    let roots = match &raw.ca_file {
        None if secure.iter().all(|secure| *secure != Some(true)) => Some(RootCertStore::empty()),
        ca_file => roots::check(report, at, ca_file.as_deref()),
    };
    let text = report.required(at, "credential", raw.credential, "what the gateway's issuer.revocation_feed has");
    let credential = text.and_then(|text| credential(report, &at.key("credential"), text));
    let range = 2 * SECOND..=HOUR;
    let max_staleness = duration(report, &at.key("max_staleness"), raw.max_staleness, MAX_STALENESS, range);
    let snapshot_file = match raw.snapshot_file.as_deref() {
        Some("") => report.refuse(&at.key("snapshot_file"), "must not be empty"),
        name => Some(name.map(|name| report.resolve(name))),
    };
    let config = (|| {
        secure.iter().copied().collect::<Option<Vec<_>>>()?;
        Some(FeedConfig {
            urls: urls.into_iter().map(|(_, url)| url).collect(),
            credential: credential?,
            tls: fetch::client(report, at, roots?)?,
            max_staleness: max_staleness?,
            snapshot_file: snapshot_file?,
        })
    })();
    (config, true)
}

/// What is fetched, in a message.
const WHAT: fetch::What = fetch::What {
    form: "not a URL of the form https://host/oauth/revocations, where a gateway with the issuer answers",
    insecure: "what comes over http can be anybody's: use https beyond loopback",
};

/// Who may follow the log that is kept here: the credential, and whether it may go over http beyond loopback.
pub(super) fn served(
    report: &mut Report,
    at: &Path,
    raw: raw::Section<raw::ServedFeed>,
) -> Option<Option<(Secret, bool)>> {
    let Some(raw::Mapping(raw)) = raw else { return Some(None) };
    let text = report.required(at, "credential", raw.credential, "what processes show that follow the log");
    let credential = credential(report, &at.key("credential"), text?)?;
    let insecure = raw.insecure_http.is_some_and(|flag| flag.0);
    if insecure {
        report.warn(&at.key("insecure_http"), "whoever can read along learns the credential, and who is revoked");
    }
    Some(Some((credential, insecure)))
}

fn credential(report: &mut Report, at: &Path, raw: raw::SecretText) -> Option<Secret> {
    bearer(report, at, raw, MIN_CREDENTIAL)
}

/// A secret that is shown as a bearer token.
pub(super) fn bearer(report: &mut Report, at: &Path, raw: raw::SecretText, least: usize) -> Option<Secret> {
    let secret = file::secret(report, at, raw)?;
    let readable = secret.expose().iter().all(|byte| matches!(byte, 0x21..=0x7e));
    if secret.expose().len() < least || !readable {
        let mend = "`openssl rand -hex 32` makes one";
        return report.refuse(at, format!("must be at least {least} printable characters without spaces; {mend}"));
    }
    Some(secret)
}
