//! Who logs in.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use serde_json::{Map, Value};

use super::{
    By, CLIENT_SUBJECT, Client, Config, Issuer, SecretHash, User, check_hash,
    device::DeviceId,
    error::Error,
    hook::{Hook, LogIn, LookUp},
    ledger::Cause,
    password::Passwords,
    throttle::Outcome,
};
use crate::{
    clock::Clock,
    store::{Revoked, Unavailable},
    telemetry::{
        Metrics,
        audit::{Event, Facts},
    },
    types::{SessionId, Subject, Visitor},
};

/// A user as tokens speak of them.
#[derive(Debug)]
pub(super) struct Account {
    /// What they are called.
    pub(super) username: Arc<str>,
    /// The `sub` of their tokens.
    pub(super) subject: Subject,
    /// What their tokens say besides.
    pub(super) claims: Map<String, Value>,
}

/// Where users come from.
pub(super) enum Users {
    /// They are all here. Replaced as a whole.
    Listed(ArcSwap<Listed>),
    /// Somebody else knows them.
    Hook(Box<Hook>),
}

/// Whether somebody is who they say.
enum Verdict {
    Right(Arc<Account>),
    /// Why not, for the audit log alone, and who it would have been, where that is known.
    Refused(&'static str, Option<Subject>),
}

impl Users {
    /// Those of a configuration.
    ///
    /// # Errors
    /// When a hook could not be asked.
    pub(super) fn new(config: &Config, clock: Clock, metrics: Metrics) -> Result<Self, String> {
        Ok(match &config.users_hook {
            None => Self::Listed(ArcSwap::from_pointee(Listed::new(&config.users))),
            Some(hook) => Self::Hook(Box::new(Hook::new(hook.clone(), clock, metrics)?)),
        })
    }

    /// Whether nobody outside has to be asked about them.
    pub(super) fn are_here(&self) -> bool {
        matches!(self, Self::Listed(_))
    }

    async fn log_in(
        &self,
        passwords: &Passwords,
        client: &Client,
        typed: &Typed<'_>,
        visitor: &Visitor,
    ) -> Result<Verdict, Error> {
        let Typed { username, password, .. } = *typed;
        match self {
            Self::Listed(users) => users.load_full().log_in(passwords, username, password).await,
            Self::Hook(hook) => {
                let said = hook.log_in(username, password, &client.id, visitor).await.map_err(Error::UsersAway)?;
                Ok(match said {
                    LogIn::Right(account) => Verdict::Right(account),
                    LogIn::Denied => Verdict::Refused("denied", None),
                    LogIn::Disabled => Verdict::Refused("disabled", None),
                })
            }
        }
    }

    /// Whom of these the others lack, or have disabled. Whoever is known elsewhere is asked for there.
    pub(super) fn departed(&self, other: &Self) -> Vec<Departed> {
        match (self, other) {
            (Self::Listed(these), Self::Listed(others)) => these.load().departed(&others.load()).collect(),
            (Self::Listed(_) | Self::Hook(_), Self::Hook(_)) | (Self::Hook(_), Self::Listed(_)) => Vec::new(),
        }
    }

    /// Whose name that is, if that is known here.
    fn named(&self, username: &str) -> Option<Subject> {
        match self {
            Self::Listed(users) => users.load().by_name.get(username).map(|user| user.account.subject.clone()),
            Self::Hook(_) => None,
        }
    }
}

/// Users found by what they type and by what their tokens call them.
pub(super) struct Listed {
    by_name: HashMap<Arc<str>, Entry>,
    by_subject: HashMap<Subject, Arc<str>>,
    /// A hash that is verified against where there is no user, so that time does not tell.
    decoy: Option<SecretHash>,
}

struct Entry {
    password_hash: SecretHash,
    disabled: bool,
    account: Arc<Account>,
}

impl From<&User> for Entry {
    fn from(user: &User) -> Self {
        let User { username, password_hash, subject, disabled, claims } = user.clone();
        Self { password_hash, disabled, account: Arc::new(Account { username, subject, claims }) }
    }
}

impl Listed {
    fn new(users: &[User]) -> Self {
        let hashes = || users.iter().map(|user| &user.password_hash);
        Self {
            by_name: users.iter().map(|user| (user.username.clone(), user.into())).collect(),
            by_subject: users.iter().map(|user| (user.subject.clone(), user.username.clone())).collect(),
            // One of the users' own, for it costs what theirs cost.
            decoy: hashes().find(|hash| matches!(hash, SecretHash::Argon2id(_))).or(hashes().next()).cloned(),
        }
    }

    /// The user of that name and password, if they may log in.
    async fn log_in(&self, passwords: &Passwords, username: &str, password: &str) -> Result<Verdict, Error> {
        let user = self.by_name.get(username);
        let right = match user.map(|user| &user.password_hash).or(self.decoy.as_ref()) {
            Some(hash) => passwords.verify(hash, password).await?,
            None => false,
        };
        let refused = |why, user: &Entry| Verdict::Refused(why, Some(user.account.subject.clone()));
        Ok(match user {
            None => Verdict::Refused("unknown_user", None),
            Some(user) if user.disabled => refused("disabled", user),
            Some(user) if !right => refused("wrong_password", user),
            Some(user) => Verdict::Right(user.account.clone()),
        })
    }

    /// The user that a session's tokens speak for, if they are still there and may still log in.
    fn active(&self, subject: &Subject) -> Option<&Arc<Account>> {
        let user = self.by_name.get(self.by_subject.get(subject)?).filter(|user| !user.disabled)?;
        Some(&user.account)
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
        let Users::Listed(listed) = &self.users else { return Err("the users are not here to be replaced".into()) };
        let before = listed.swap(Arc::new(Listed::new(users)));
        Ok(before.departed(&listed.load()).collect())
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

    /// The user that tokens speak for, if they are still there and may still log in.
    ///
    /// # Errors
    /// When that is to be asked for elsewhere, and there is no answer; or the store cannot take what follows from it.
    pub(super) async fn active_user(&self, subject: &Subject) -> Result<Option<Arc<Account>>, Error> {
        let hook = match &self.users {
            Users::Listed(users) => return Ok(users.load().active(subject).cloned()),
            // A client's own tokens are nobody else's business.
            Users::Hook(_) if subject.as_str().starts_with(CLIENT_SUBJECT) => return Ok(None),
            Users::Hook(hook) => hook,
        };
        let found = match hook.recalled(subject) {
            Some(found) => found,
            None => {
                let found = hook.look_up(subject).await.map_err(Error::UsersAway)?;
                let ends = |disabled| [Departed { subject: subject.clone(), disabled }];
                // Remembered when that is done: it is news as long as something they have goes on.
                match &found {
                    LookUp::Active(_) => {}
                    LookUp::Disabled => self.end_sessions(&ends(true)).await?,
                    LookUp::Gone => self.end_sessions(&ends(false)).await?,
                }
                hook.remember(subject, found.clone());
                found
            }
        };
        Ok(match found {
            LookUp::Active(account) => Some(account),
            LookUp::Disabled | LookUp::Gone => None,
        })
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
/// When too many have failed before, too many passwords wait to be looked at, or whoever knows the users does not answer.
pub(super) async fn log_in(
    issuer: &Issuer,
    client: &Client,
    typed: &Typed<'_>,
    visitor: &Visitor,
) -> Result<Option<Arc<Account>>, Error> {
    let facts = Facts { client: Some(&client.id), ..visitor.into() };
    let attempt = match issuer.throttle.login(typed.username, typed.device, visitor).await {
        Ok(attempt) => attempt,
        Err(wait) => {
            let error = Error::Throttled(wait);
            let (subject, code, reason) =
                (issuer.users.named(typed.username), Some(error.code()), Some(error.reason()));
            let subject = subject.as_ref().map(Subject::as_str);
            issuer.audit.tell(Event::LoginFailed, Facts { subject, error: code, reason, ..facts });
            return Err(error);
        }
    };
    let verdict = issuer.users.log_in(&issuer.passwords, client, typed, visitor).await;
    attempt.ended(match &verdict {
        Ok(Verdict::Right(_)) => Outcome::Right,
        Ok(Verdict::Refused(..)) => Outcome::Wrong,
        Err(_) => Outcome::NotSeen,
    });
    match verdict? {
        Verdict::Right(user) => {
            let (subject, username) = (Some(user.subject.as_str()), Some(&*user.username));
            issuer.audit.tell(Event::LoggedIn, Facts { subject, username, ..facts });
            Ok(Some(user))
        }
        // Never what was typed: it may be a password in the wrong field.
        Verdict::Refused(reason, subject) => {
            let subject = subject.as_ref().map(Subject::as_str);
            let (error, reason) = (Some("invalid_grant"), Some(reason));
            issuer.audit.tell(Event::LoginFailed, Facts { subject, error, reason, ..facts });
            Ok(None)
        }
    }
}

/// Looks once more whether a subject is somebody who may log in, and ends the session that was opened for them if not. Other users
/// may have taken the place of those that were looked at: whoever is not among them has no place here, or has begun before the
/// entry that ends what is theirs.
///
/// # Errors
/// When the store cannot answer, or whoever knows the users.
pub(super) async fn is_still_active(
    issuer: &Issuer,
    subject: &Subject,
    session: Option<SessionId>,
) -> Result<bool, Error> {
    if issuer.active_user(subject).await?.is_some() {
        return Ok(true);
    }
    if let Some(session) = session {
        let by = By { subject: Some(subject.clone()), ..Cause::UserGone.into() };
        issuer.ledger.revoke_session(session, by, "its user is gone or disabled").await?;
    }
    Ok(false)
}

/// What is found out of a session's user before its refresh token is spent, where somebody outside has to be asked: while they do not
/// answer nothing may be spent, since a client that comes again later than its retry window would lose its session.
pub(super) struct Ahead(Option<(Subject, Option<Arc<Account>>)>);

impl Ahead {
    /// Asks, if that has to be.
    ///
    /// # Errors
    /// As [`Issuer::active_user`].
    pub(super) async fn ask(issuer: &Issuer, session: SessionId) -> Result<Self, Error> {
        if issuer.users.are_here() {
            return Ok(Self(None));
        }
        let record = issuer.ledger.record(session).await?;
        // Of what has ended already there is nothing to be found out.
        let Some(record) = record.filter(|record| record.state(issuer.clock.now()) == "live") else {
            return Ok(Self(None));
        };
        let subject = record.session.subject;
        let user = issuer.active_user(&subject).await?;
        Ok(Self(Some((subject, user))))
    }

    /// The user of a session that has been refreshed.
    ///
    /// # Errors
    /// As [`Issuer::active_user`].
    pub(super) async fn user(self, issuer: &Issuer, subject: &Subject) -> Result<Option<Arc<Account>>, Error> {
        match self.0 {
            Some((asked, user)) if asked == *subject => Ok(user),
            Some(_) | None => issuer.active_user(subject).await,
        }
    }
}
