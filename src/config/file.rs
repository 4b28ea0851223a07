//! Files the configuration names, and the secrets in them or in the configuration itself.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::Path as FilePath,
};

use zeroize::Zeroizing;

use super::{path::Path, raw::SecretText, report::Report};
use crate::types::Secret;

/// The largest file a secret may come from.
const MAX_SECRET: u64 = 64 << 10;
/// The mend for a secret that everybody can read where it is.
const ELSEWHERE: &str = "or move the secret into ${NAME} or { from_file: … }";

/// A file's bytes, and whether everybody on the machine may read them.
pub(super) struct Contents {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) world_readable: bool,
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// Says what is wrong with the file, without naming it.
pub(super) fn read(path: &FilePath, limit: u64) -> Result<Contents, String> {
    let attempt = || -> io::Result<(Vec<u8>, bool)> {
        let file = File::open(path)?;
        // Of the file that was opened, whatever its name has come to mean since.
        let mode = file.metadata()?.permissions().mode();
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes)?;
        Ok((bytes, mode & 0o004 != 0))
    };
    let (bytes, world_readable) = attempt().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission to read it is denied".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => format!("it cannot be read: {error}"),
    })?;
    let bytes = Zeroizing::new(bytes);
    if bytes.len() as u64 > limit {
        return Err(format!("it is larger than {} KiB", limit >> 10));
    }
    Ok(Contents { bytes, world_readable })
}

/// Reads a file that a value names; `None` and a fault when that cannot be done.
pub(super) fn named(report: &mut Report, at: &Path, name: &str, limit: u64) -> Option<Contents> {
    let path = report.resolve(name);
    match read(&path, limit) {
        Ok(contents) => Some(contents),
        Err(why) => report.refuse(at, format!("{}: {why}", path.display())),
    }
}

/// The file at `name` holds a secret: a fault when everybody may read it.
pub(super) fn must_be_private(report: &mut Report, at: &Path, name: &str, contents: &Contents) {
    if contents.world_readable {
        let path = report.resolve(name);
        let path = path.display();
        report.error(at, format!("{path} holds a secret and everybody on this machine may read it: chmod o-r {path}"));
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
