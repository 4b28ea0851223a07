//! What a configuration was made of: which files, and which parts of it a process cannot change its mind about.

use std::path::PathBuf;

use super::{Position, path::Path, report::Report};
use crate::{io::Stamp, types::Fingerprint};

/// The files that a configuration was read from, as they were then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched(Vec<(PathBuf, Option<Stamp>)>);

impl Watched {
    pub(super) fn add(&mut self, file: PathBuf, stamp: Option<Stamp>) {
        self.0.push((file, stamp));
    }

    pub(super) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// As they are now: others where another file is in one's place, or it was written to, or a symbolic link on the way to it leads
    /// elsewhere.
    pub fn again(&self) -> Self {
        Self(self.0.iter().map(|(file, _)| (file.clone(), Stamp::of(file).ok())).collect())
    }
}

/// A part of the configuration that holds for as long as the process runs.
#[derive(Clone, Debug)]
pub struct Fixed {
    /// Its path.
    pub path: String,
    /// Where it stands, if it does.
    pub at: Option<Position>,
    /// What it says.
    pub fingerprint: Fingerprint,
}

/// Those parts: what threads there are, what is open, what everything kept was made with.
const FIXED: [&[&str]; 19] = [
    &["workers"],
    &["limits", "max_connections"],
    &["limits", "max_connections_per_address"],
    &["shutdown"],
    &["trusted_proxies"],
    &["admin", "address"],
    &["tokens", "revocations_alarm"],
    &["tokens", "dpop_nonces"],
    &["revocation_feed"],
    &["log", "level"],
    &["log", "format"],
    &["log", "audit"],
    &["issuer", "url"],
    &["issuer", "store"],
    &["issuer", "master_key"],
    &["issuer", "previous_master_keys"],
    &["issuer", "keys"],
    &["issuer", "access_token", "algorithm"],
    &["issuer", "revocation_feed"],
];

pub(super) fn fixed(report: &Report) -> Vec<Fixed> {
    let fixed = |steps: &&[&str]| {
        let path = steps.iter().fold(Path::default(), |path, step| path.key(step));
        Fixed { path: path.to_string(), at: report.position(&path), fingerprint: report.fingerprint(&path) }
    };
    FIXED.iter().map(fixed).collect()
}
