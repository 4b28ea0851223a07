//! Users in a file of their own: a list as `issuer.users` has it, which is read again while the process runs, and changed by
//! commands.

use std::{io::ErrorKind, path::Path as FilePath};

use super::{check::user::check_all, error::Errors, path::Path, raw, read, report::Report};
use crate::issuer::User;

/// Reads and checks the file of users at `path`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &FilePath) -> Result<Vec<User>, Errors> {
    if path.metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Err(absent(path));
    }
    // There is nothing to warn of in a list of users.
    read(path, check_text).map(|(users, _)| users)
}

fn absent(path: &FilePath) -> Errors {
    let mend = format!("there is no such file; `sidegate user add NAME --file {}` makes it", path.display());
    Errors::of_file(&path.into(), mend)
}

fn check_text(text: &str, report: &mut Report) -> Option<Vec<User>> {
    let raw = raw::read_users(text, report)?;
    let mut demo = Vec::new();
    let users = check_all(report, &Path::default(), raw, &mut demo);
    for at in demo {
        report.error(
            &at,
            "these are the demo's credentials, which everybody knows; make your own with `sidegate hash-password`",
        );
    }
    users
}
