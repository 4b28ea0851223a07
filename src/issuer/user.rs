//! Who logs in.

use std::{collections::HashMap, sync::Arc};

use super::{
    By, CLIENT_SUBJECT, Client, Issuer, SecretHash, User, check_hash, device::DeviceId, error::Error, ledger::Cause,
    password::Passwords, throttle::Outcome,
};
use crate::{
    store::{Revoked, Unavailable},
    telemetry::audit::{Event, Facts},
    types::{SessionId, Subject, Visitor},
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

    /// Whom of these the other users lack, or have disabled.
    fn departed<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = Departed> + 'a {
        let active = self.by_subject.keys().filter(|subject| self.active(subject).is_some());
        active
            .filter(|subject| other.active(subject).is_none())
            .map(|subject| Departed { subject: subject.clone(), disabled: other.by_subject.contains_key(subject) })
    }
}

/// Somebody who could log in before, and cannot any more.
#[derive(Clone, Debug)]
pub struct Departed {
    subject: Subject,
    /// They are still there, disabled.
    disabled: bool,
}

impl Departed {
    fn cause(&self) -> (Cause, &'static str) {
        if self.disabled { (Cause::Disabled, "disabled") } else { (Cause::UserGone, "no user any more") }
    }
}

impl Issuer {
    /// Puts these users in the place of those there were, from the next request on. Answers whose sessions are to end, which
    /// is left to [`Issuer::end_sessions`]: a store that is away must not keep anybody able to log in.
    ///
    /// # Errors
    /// When they are not as the configuration's check leaves them.
    pub fn replace_users(&self, users: &[User]) -> Result<Vec<Departed>, String> {
        check(users)?;
        let before = self.users.swap(Arc::new(Users::new(users)));
        Ok(before.departed(&self.users.load()).collect())
    }

    /// Ends all that has begun for them, access tokens included. To be asked again when it fails.
    ///
    /// # Errors
    /// When the store cannot take it; some may have ended then.
    pub async fn end_sessions(&self, of: &[Departed]) -> Result<(), Unavailable> {
        let entries = of.iter().map(|departed| {
            let (cause, reason) = departed.cause();
            (Revoked::Subject(departed.subject.as_str().into()), cause, reason)
        });
        self.enter(entries).await
    }
}

/// What the config room has checked where text was read. Asked again, because a mistake here lets somebody in.
pub(super) fn check(users: &[User]) -> Result<(), String> {
    for user in users {
        check_hash(&user.password_hash).map_err(|why| format!("the hash of user {} {why}", user.username))?;
        if user.subject.as_str().starts_with(CLIENT_SUBJECT) {
            return Err(format!(
                "the subject of user {} begins with {CLIENT_SUBJECT:?}, which is for clients' own tokens",
                user.username
            ));
        }
    }
    Ok(())
}

/// What somebody has typed, and in which browser, if they are known there.
pub(super) struct Typed<'a> {
    pub(super) username: &'a str,
    pub(super) password: &'a str,
    pub(super) device: Option<DeviceId>,
}

/// Logs a user in, for a client; nobody, where the name or the password is wrong or they may not.
///
/// # Errors
/// When too many have failed before, or too many passwords wait to be looked at.
pub(super) async fn log_in(
    issuer: &Issuer,
    client: &Client,
    typed: &Typed<'_>,
    visitor: &Visitor,
) -> Result<Option<User>, Error> {
    let Typed { username, password, device } = *typed;
    let users = issuer.users.load_full();
    let facts = Facts { client: Some(&client.id), ..visitor.into() };
    let attempt = match issuer.throttle.login(username, device, visitor) {
        Ok(attempt) => attempt,
        Err(wait) => {
            let error = Error::Throttled(wait);
            let subject = users.named(username).map(|user| user.subject.as_str());
            let (code, reason) = (Some(error.code()), Some(error.reason()));
            issuer.audit.tell(Event::LoginFailed, Facts { subject, error: code, reason, ..facts });
            return Err(error);
        }
    };
    let user = users.log_in(&issuer.passwords, username, password).await;
    attempt.ended(match &user {
        Ok(Some(_)) => Outcome::Right,
        Ok(None) => Outcome::Wrong,
        Err(_) => Outcome::NotSeen,
    });
    let user = user?;
    if let Some(user) = user {
        let (subject, username) = (Some(user.subject.as_str()), Some(&*user.username));
        issuer.audit.tell(Event::LoggedIn, Facts { subject, username, ..facts });
    } else {
        // Never what was typed: it may be a password in the wrong field.
        let (subject, reason) = match users.named(username) {
            None => (None, "unknown_user"),
            Some(user) if user.disabled => (Some(user.subject.as_str()), "disabled"),
            Some(user) => (Some(user.subject.as_str()), "wrong_password"),
        };
        let error = Some("invalid_grant");
        issuer.audit.tell(Event::LoginFailed, Facts { subject, error, reason: Some(reason), ..facts });
    }
    Ok(user.cloned())
}

/// Looks once more whether a subject is somebody who may log in, and ends the session that was opened for them if not. Other users
/// may have taken the place of those that were looked at: whoever is not among them has no place here, or has begun before the
/// entry that ends what is theirs.
///
/// # Errors
/// When the store cannot answer.
pub(super) async fn is_still_active(
    issuer: &Issuer,
    subject: &Subject,
    session: Option<SessionId>,
) -> Result<bool, Unavailable> {
    if issuer.users.load().active(subject).is_some() {
        return Ok(true);
    }
    if let Some(session) = session {
        let by = By { subject: Some(subject.clone()), ..Cause::UserGone.into() };
        issuer.ledger.revoke_session(session, by, "its user is gone or disabled").await?;
    }
    Ok(false)
}
