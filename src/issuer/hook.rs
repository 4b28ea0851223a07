//! Users of the team's own, asked for over HTTP: a password in, who that is and what is to be said of them out. The contract is
//! `deploy/users-hook.md`.
//!
//! Only an answer that says so, in the words of the contract, is a wrong password or a user who is gone. Everything else is the
//! hook's outage, at which nobody is let in and nobody loses a session.

use std::{sync::Arc, time::Duration};

use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::{sync::Semaphore, time::timeout};
use zeroize::Zeroizing;

use super::{CLIENT_SUBJECT, RESERVED_CLAIMS, UsersHook, user::Account};
use crate::{
    client::{Client, FetchError},
    clock::{Clock, Timestamp},
    telemetry::Metrics,
    types::{ClientId, MAX_USER_ID_BYTES, Subject, Visitor, is_identifier},
};

/// The version of the contract.
const VERSION: u32 = 1;
/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;
/// The largest claims of one user, in bytes, as for those of the configuration: they go into every token.
const MAX_CLAIMS: usize = 4096;
/// How many questions of each kind may be under way at one time: a flood of logins keeps nobody from a refresh.
const AT_ONCE: usize = 64;
/// How much memory what is remembered may take, in bytes, and what each user takes besides their claims.
const MAX_REMEMBERED: u64 = 8 << 20;
const EACH: usize = 512;

/// The hook, and what it has said lately.
pub(super) struct Hook {
    config: UsersHook,
    client: Client,
    log_ins: Semaphore,
    look_ups: Semaphore,
    said: Cache<Subject, Said>,
    clock: Clock,
    metrics: Metrics,
}

/// What has become of a password.
#[derive(Debug)]
pub(super) enum LogIn {
    /// It is right, and this user's.
    Right(Arc<Account>),
    /// It is wrong, or there is no such user.
    Denied,
    /// They may not log in.
    Disabled,
}

/// What has become of a user.
#[derive(Clone, Debug)]
pub(super) enum LookUp {
    /// They are there.
    Active(Arc<Account>),
    /// They may not log in any more, nor stay.
    Disabled,
    /// There is no such user.
    Gone,
}

#[derive(Clone)]
struct Said {
    at: Timestamp,
    found: LookUp,
    /// In bytes.
    weight: u32,
}

/// Why it is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum Away {
    #[error("{0}")]
    Fetch(#[from] FetchError),
    #[error("it answers with status {0} and without the words for that")]
    Status(u16),
    #[error("its answer {0}")]
    Answer(&'static str),
    #[error("too many wait for its answers")]
    Busy,
}

impl Away {
    /// The name in metrics.
    const fn result(&self) -> &'static str {
        match self {
            Self::Fetch(error) => error.result(),
            Self::Status(_) => "bad_status",
            Self::Answer(_) => "bad_answer",
            Self::Busy => "busy",
        }
    }
}

/// What is asked. No `Debug`: it holds a password.
#[derive(Serialize)]
#[serde(untagged)]
enum Question<'a> {
    LogIn {
        version: u32,
        username: &'a str,
        password: &'a str,
        client_id: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        address: &'a str,
    },
    LookUp {
        version: u32,
        lookup: &'a str,
    },
}

impl Question<'_> {
    /// The name in metrics.
    const fn name(&self) -> &'static str {
        match self {
            Self::LogIn { .. } => "log_in",
            Self::LookUp { .. } => "look_up",
        }
    }
}

/// What is answered. Other members are for later versions to use, and are not looked at.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    version: Option<u32>,
    subject: Option<String>,
    username: Option<String>,
    claims: Option<Map<String, Value>>,
    denied: bool,
    disabled: bool,
    gone: bool,
}

/// An answer of which exactly one can be meant.
enum Verdict {
    User {
        subject: String,
        username: Option<String>,
        claims: Map<String, Value>,
    },
    Denied,
    /// Whom it names, if it does.
    Disabled {
        subject: Option<String>,
    },
    Gone,
}

impl Verdict {
    const fn result(&self) -> &'static str {
        match self {
            Self::User { .. } => "ok",
            Self::Denied => "denied",
            Self::Disabled { .. } => "disabled",
            Self::Gone => "gone",
        }
    }
}

impl Hook {
    /// Asks nothing yet.
    ///
    /// # Errors
    /// When there is no resolver, or TLS cannot be had.
    pub(super) fn new(config: UsersHook, clock: Clock, metrics: Metrics) -> Result<Self, String> {
        let client = Client::of_service(&config.url, &config.tls, config.timeout)?;
        // A second at the least, which is no answer's age: that is reckoned by the clock.
        let kept = config.recheck.max(Duration::from_secs(1));
        let said = Cache::builder().weigher(|_, said: &Said| said.weight).max_capacity(MAX_REMEMBERED);
        let said = said.time_to_live(kept).build();
        Ok(Self {
            config,
            client,
            log_ins: Semaphore::new(AT_ONCE),
            look_ups: Semaphore::new(AT_ONCE),
            said,
            clock,
            metrics,
        })
    }

    /// Whose password this is.
    ///
    /// # Errors
    /// When it does not say.
    pub(super) async fn log_in(
        &self,
        username: &str,
        password: &str,
        client: &ClientId,
        visitor: &Visitor,
    ) -> Result<LogIn, Away> {
        let (client_id, address) = (client.as_str(), &*visitor.address);
        let question = Question::LogIn { version: VERSION, username, password, client_id, address };
        match self.ask(&question).await? {
            Verdict::User { subject, username: called, claims } => {
                let called = called.unwrap_or_else(|| username.to_owned());
                let account = Arc::new(self.account(subject, called, claims)?);
                self.remember(&account.subject, LookUp::Active(account.clone()));
                Ok(LogIn::Right(account))
            }
            Verdict::Denied => Ok(LogIn::Denied),
            Verdict::Disabled { .. } => Ok(LogIn::Disabled),
            Verdict::Gone => Err(Away::Answer("says `gone`, which is no answer to a password")),
        }
    }

    /// What it has said of a subject so lately that it need not be asked.
    pub(super) fn recalled(&self, subject: &Subject) -> Option<LookUp> {
        let said = self.said.get(subject)?;
        let fresh = self.clock.now().since(said.at).is_some_and(|age| age < self.config.recheck);
        fresh.then_some(said.found)
    }

    /// Asks about a subject. Whoever asks has it remembered, when what follows from the answer is done.
    ///
    /// # Errors
    /// When it does not say.
    pub(super) async fn look_up(&self, subject: &Subject) -> Result<LookUp, Away> {
        let question = Question::LookUp { version: VERSION, lookup: subject.as_str() };
        match self.ask(&question).await? {
            Verdict::User { subject: other, .. } if other != subject.as_str() => {
                Err(Away::Answer("is about another subject"))
            }
            Verdict::User { subject, username, claims } => {
                let called = username.unwrap_or_else(|| subject.clone());
                Ok(LookUp::Active(Arc::new(self.account(subject, called, claims)?)))
            }
            Verdict::Disabled { subject: Some(other) } if other != subject.as_str() => {
                Err(Away::Answer("is about another subject"))
            }
            Verdict::Disabled { .. } => Ok(LookUp::Disabled),
            Verdict::Gone => Ok(LookUp::Gone),
            // It has taken the question for a login without a password: to believe it would end everybody's sessions.
            Verdict::Denied => Err(Away::Answer("says `denied`, which is no answer to a look-up")),
        }
    }

    pub(super) fn remember(&self, subject: &Subject, found: LookUp) {
        let claims = match &found {
            LookUp::Active(account) => Value::Object(account.claims.clone()).to_string().len(),
            LookUp::Disabled | LookUp::Gone => 0,
        };
        let weight = u32::try_from(EACH + claims).unwrap_or(u32::MAX);
        self.said.insert(subject.clone(), Said { at: self.clock.now(), found, weight });
    }

    async fn ask(&self, question: &Question<'_>) -> Result<Verdict, Away> {
        let verdict = self.call(question).await;
        let result = verdict.as_ref().map_or_else(Away::result, Verdict::result);
        self.metrics.users_hook_asked(question.name(), result);
        verdict
    }

    async fn call(&self, question: &Question<'_>) -> Result<Verdict, Away> {
        let turns = match question {
            Question::LogIn { .. } => &self.log_ins,
            Question::LookUp { .. } => &self.look_ups,
        };
        let waited = timeout(self.config.timeout, turns.acquire()).await;
        let _turn = waited.map_err(|_| Away::Busy)?.map_err(|_| Away::Busy)?;
        let text = Zeroizing::new(serde_json::to_string(question).expect("our own struct, of strings and numbers"));
        let (status, body) = self.client.post(&self.config.url, &self.config.credential, &text, MAX_ANSWER).await?;
        read(status, &body)
    }

    /// A user as tokens have it.
    fn account(&self, subject: String, username: String, said: Map<String, Value>) -> Result<Account, Away> {
        if !is_identifier(&subject, MAX_USER_ID_BYTES) || subject.starts_with(CLIENT_SUBJECT) {
            return Err(Away::Answer("has a subject that nobody can have"));
        }
        if username.is_empty() || username.len() > 256 || username.chars().any(char::is_control) {
            return Err(Away::Answer("has a username that nobody can have"));
        }
        let mut claims = match &self.config.claims {
            None => said,
            Some(names) => {
                let found = names.iter().filter_map(|(claim, member)| Some((claim.clone(), said.get(member)?.clone())));
                found.collect()
            }
        };
        // They say something of the token, not of the user.
        claims.retain(|name, value| !value.is_null() && !RESERVED_CLAIMS.contains(&name.as_str()));
        if Value::Object(claims.clone()).to_string().len() > MAX_CLAIMS {
            return Err(Away::Answer("has claims of more than 4 KiB"));
        }
        Ok(Account { username: username.into(), subject: Subject::new(subject), claims })
    }
}

/// A status alone says nothing: proxies answer too, and 401 is what a hook says to a credential that it does not know.
fn read(status: u16, body: &[u8]) -> Result<Verdict, Away> {
    if !matches!(status, 200 | 401 | 403 | 404) {
        return Err(Away::Status(status));
    }
    let answer = serde_json::from_slice::<Answer>(body).ok();
    let Some(answer) = answer.filter(|answer| answer.version.is_some()) else {
        return Err(match status {
            200 => Away::Answer("is not JSON as the contract has it"),
            status => Away::Status(status),
        });
    };
    if answer.version != Some(VERSION) {
        return Err(Away::Answer("is of another version"));
    }
    match answer {
        Answer { subject: Some(subject), username, claims, denied: false, disabled: false, gone: false, .. }
            if status == 200 =>
        {
            Ok(Verdict::User { subject, username, claims: claims.unwrap_or_default() })
        }
        Answer { denied: true, disabled: false, gone: false, subject: None, .. } => Ok(Verdict::Denied),
        Answer { disabled: true, denied: false, gone: false, subject, .. } => Ok(Verdict::Disabled { subject }),
        Answer { gone: true, denied: false, disabled: false, subject: None, .. } => Ok(Verdict::Gone),
        _ => Err(Away::Answer("says nothing that can be meant, or several things")),
    }
}
