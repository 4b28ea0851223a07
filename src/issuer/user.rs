//! Who logs in.

use std::{collections::HashMap, sync::Arc};

use super::{Client, Issuer, SecretHash, User, error::Error, password::Passwords};
use crate::{
    telemetry::audit::{Event, Facts},
    types::{Subject, Visitor},
};

/// The users, found by what they type and by what their tokens call them.
pub(super) struct Users {
    by_name: HashMap<Arc<str>, User>,
    by_subject: HashMap<Subject, Arc<str>>,
    /// A hash that is verified against where there is no user, so that time does not tell.
    decoy: Option<SecretHash>,
}

impl Users {
    pub(super) fn new(users: &[User]) -> Self {
        let hashes = || users.iter().map(|user| &user.password_hash);
        Self {
            by_name: users.iter().map(|user| (user.username.clone(), user.clone())).collect(),
            by_subject: users.iter().map(|user| (user.subject.clone(), user.username.clone())).collect(),
            // One of the users' own, for it costs what theirs cost.
            decoy: hashes().find(|hash| matches!(hash, SecretHash::Argon2id(_))).or(hashes().next()).cloned(),
        }
    }

    /// The user of that name and password, if they may log in.
    ///
    /// # Errors
    /// When too many passwords wait to be looked at.
    pub(super) async fn log_in(
        &self,
        passwords: &Passwords,
        username: &str,
        password: &str,
    ) -> Result<Option<&User>, Error> {
        let user = self.by_name.get(username);
        let Some(hash) = user.map(|user| &user.password_hash).or(self.decoy.as_ref()) else { return Ok(None) };
        let right = passwords.verify(hash, password).await?;
        Ok(user.filter(|user| right && !user.disabled))
    }

    /// The user of that name, who has not shown to be them.
    pub(super) fn named(&self, username: &str) -> Option<&User> {
        self.by_name.get(username)
    }

    /// The user that a session's tokens speak for, if they are still there and may still log in.
    pub(super) fn active(&self, subject: &Subject) -> Option<&User> {
        self.by_name.get(self.by_subject.get(subject)?).filter(|user| !user.disabled)
    }
}

/// Logs a user in, for a client; nobody, where the name or the password is wrong or they may not.
///
/// # Errors
/// When too many passwords wait to be looked at.
pub(super) async fn log_in<'a>(
    issuer: &'a Issuer,
    client: &Client,
    username: &str,
    password: &str,
    visitor: &Visitor,
) -> Result<Option<&'a User>, Error> {
    let user = issuer.users.log_in(&issuer.passwords, username, password).await?;
    let facts = Facts { client: Some(&client.id), ..visitor.into() };
    if let Some(user) = user {
        let (subject, username) = (Some(user.subject.as_str()), Some(&*user.username));
        issuer.audit.tell(Event::LoggedIn, Facts { subject, username, ..facts });
    } else {
        // Never what was typed: it may be a password in the wrong field.
        let (subject, reason) = match issuer.users.named(username) {
            None => (None, "unknown_user"),
            Some(user) if user.disabled => (Some(user.subject.as_str()), "disabled"),
            Some(user) => (Some(user.subject.as_str()), "wrong_password"),
        };
        let error = Some("invalid_grant");
        issuer.audit.tell(Event::LoginFailed, Facts { subject, error, reason: Some(reason), ..facts });
    }
    Ok(user)
}
