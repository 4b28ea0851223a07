//! Files the configuration names, and the secrets in them or in the configuration itself.

use super::{path::Path, raw::SecretText, report::Report};
use crate::{
    io::{Contents, Stamp, read_file},
    types::Secret,
};

/// The largest file a secret may come from.
const MAX_SECRET: u64 = 64 << 10;
/// The mend for a secret that everybody can read where it is.
const ELSEWHERE: &str = "or move the secret into ${NAME} or { from_file: … }";

/// Reads a file that a value names, and which is a part of the configuration from then on: when it changes, that does. `None` and a
/// fault when it cannot be read.
pub(super) fn named(report: &mut Report, at: &Path, name: &str, limit: u64) -> Option<Contents> {
    let path = report.resolve(name);
    // Before it is read: what is put there meanwhile is seen as a change.
    let stamp = Stamp::of(&path).ok();
    let contents = looked_after(report, at, name, limit)?;
    report.has_read(at, path, stamp, &contents.bytes);
    Some(contents)
}

/// The same of a file that somebody else looks after while the process runs.
pub(super) fn looked_after(report: &mut Report, at: &Path, name: &str, limit: u64) -> Option<Contents> {
    let path = report.resolve(name);
    match read_file(&path, limit) {
        Ok(contents) => Some(contents),
        Err(why) => report.refuse(at, format!("{}: {why}", path.display())),
    }
}

/// The file at `name` holds a secret: a fault when everybody may read it.
pub(super) fn must_be_private(report: &mut Report, at: &Path, name: &str, contents: &Contents) {
    if let Err(fault) = contents.must_be_private(&report.resolve(name)) {
        report.error(at, fault);
    }
}

/// The configuration holds a secret at `at`: a fault when everybody may read it.
pub(super) fn must_not_be_literal(report: &mut Report, at: &Path) {
    if report.world_readable && report.is_literal(at) {
        report.error(
            at,
            format!("a secret in a file that everybody on this machine may read: chmod o-r the file, {ELSEWHERE}"),
        );
    }
}

/// A secret, from wherever it is.
pub(super) fn secret(report: &mut Report, at: &Path, raw: SecretText) -> Option<Secret> {
    let secret = match raw {
        SecretText::Here(text) => {
            must_not_be_literal(report, at);
            Secret::new(text.as_bytes().to_vec())
        }
        SecretText::File(name) => {
            let name = report.required(at, "from_file", name, "the file that holds the secret")?;
            let at = at.key("from_file");
            let contents = named(report, &at, &name, MAX_SECRET)?;
            must_be_private(report, &at, &name, &contents);
            let bytes = contents.bytes.strip_suffix(b"\n").unwrap_or(&contents.bytes);
            Secret::new(bytes.strip_suffix(b"\r").unwrap_or(bytes).to_vec())
        }
    };
    if secret.expose().is_empty() {
        return report.refuse(at, "the secret is empty");
    }
    Some(secret)
}
