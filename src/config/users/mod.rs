//! Users in a file of their own: a list as `issuer.users` has it, which is read again while the process runs, and changed by
//! commands.

mod edit;

use std::{
    io::ErrorKind,
    path::{Path as FilePath, PathBuf},
};

pub use self::edit::{Change, EditError, change, check};
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
    read(path, check_text).map(|(users, ..)| users)
}

/// The file of users that the configuration at `path` names. Whatever else is wrong with that is no hindrance: a variable of
/// the environment need not be there for whoever adds a user.
///
/// # Errors
/// When it names none.
pub fn named_by(path: &FilePath) -> Result<PathBuf, Errors> {
    let mut found = None;
    let outcome = read(path, |text, report| {
        let at = Path::default().key("issuer").key("users");
        let users = raw::read(text, report)?.issuer.and_then(|issuer| issuer.0.users);
        found = match users {
            Some(raw::Users::Elsewhere(raw::UsersSource { file: Some(name), .. })) => Some(report.resolve(&name)),
            Some(raw::Users::Elsewhere(raw::UsersSource { http: Some(_), .. })) => {
                report.refuse(&at, "the users are asked for over HTTP; who knows them looks after them")
            }
            Some(raw::Users::Here(_)) => report.refuse(
                &at,
                "the users stand here, in the configuration; put them into a file and say users: { file: users.yaml }",
            ),
            Some(raw::Users::Elsewhere(_)) | None => {
                report.required(&at, "file", None, "the file with the users, as in users: { file: users.yaml }")
            }
        };
        Some(())
    });
    found.map_or_else(|| Err(outcome.err().unwrap_or_else(|| absent(path))), Ok)
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
