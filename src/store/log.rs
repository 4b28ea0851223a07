//! The revocation log: what must be refused from now on, in the order in which it was said.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    clock::Timestamp,
    types::{IssuerUrl, Position},
};

/// What a revocation names.
///
/// The first three are exact: each names tokens that are refused whenever they began. The others are epochs: they refuse
/// what began before they were said, and nothing that begins after.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Revoked {
    /// One access token, by `jti`.
    Token(Box<str>),
    /// Every access token of a session, by `sid`.
    Session(Box<str>),
    /// Everything that a key has signed, by `kid`. A key that was revoked does not come back.
    Key(Box<str>),
    /// What speaks for a subject (`sub`): log this user out everywhere.
    Subject(Box<str>),
    /// What was issued to a client (`client_id`).
    Client(Box<str>),
    /// Whatever the issuer has issued.
    Everything,
}

impl Revoked {
    /// The names of the kinds, in metrics, logs and the admin API.
    pub const KINDS: [&'static str; 6] = ["token", "session", "key", "subject", "client", "everything"];

    /// The name of its kind, one of [`Revoked::KINDS`].
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Session(_) => "session",
            Self::Key(_) => "key",
            Self::Subject(_) => "subject",
            Self::Client(_) => "client",
            Self::Everything => "everything",
        }
    }

    /// Whether it names tokens or sessions, of which there can be millions, each named once.
    pub const fn is_exact(&self) -> bool {
        matches!(self, Self::Token(_) | Self::Session(_))
    }

    /// What it names; `None` for everything.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Token(id) | Self::Session(id) | Self::Key(id) | Self::Subject(id) | Self::Client(id) => Some(id),
            Self::Everything => None,
        }
    }

    /// That kind with that name; `None` where the kind is unknown, or has no name, or must have one.
    pub fn parse(kind: &str, id: Option<&str>) -> Option<Self> {
        Some(match (kind, id) {
            ("token", Some(id)) => Self::Token(id.into()),
            ("session", Some(id)) => Self::Session(id.into()),
            ("key", Some(id)) => Self::Key(id.into()),
            ("subject", Some(id)) => Self::Subject(id.into()),
            ("client", Some(id)) => Self::Client(id.into()),
            ("everything", None) => Self::Everything,
            _ => return None,
        })
    }
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Its place in the log; the first is 1.
    pub number: u64,
    /// When it was made, by the store's clock.
    pub at: Timestamp,
    /// Whose tokens it is about; `None` for those of the issuer that keeps the log.
    pub issuer: Option<IssuerUrl>,
    /// What is refused.
    pub what: Revoked,
    /// When the last access token it can block has expired, largest leeway included; the entry may go then.
    pub until: Timestamp,
    /// When a refresh token of the session could last have been presented; of no meaning for other kinds.
    pub refresh_until: Timestamp,
    /// Whether it takes back what the log has said of the same thing before.
    pub lifts: bool,
    /// Why, in somebody's words.
    pub reason: Box<str>,
}

/// What is to be added to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRevocation {
    /// Whose tokens it is about; `None` for those of the issuer that keeps the log.
    pub issuer: Option<IssuerUrl>,
    /// What is refused.
    pub what: Revoked,
    /// When the last access token it can block has expired, largest leeway included.
    pub until: Timestamp,
    /// Why, in somebody's words.
    pub reason: Box<str>,
}

/// What came of taking an entry of the log back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lifted {
    /// This entry says so.
    Done(Revocation),
    /// There is no entry of that number, or it has expired.
    Unknown,
    /// It has ended what does not come back: a session of ours, or a key.
    Final(Revoked),
}

/// How many entries the tail keeps in memory. Whoever follows and is further behind reads the store.
const RECENT: usize = 4096;

/// The end of the log, in memory, for whoever follows it.
#[derive(Debug)]
pub struct Tail {
    head: watch::Sender<Position>,
    recent: Mutex<VecDeque<Arc<Revocation>>>,
    /// Up to when all of the log is known; `None` where this process alone writes it.
    as_of: Option<Mutex<Instant>>,
}

impl Tail {
    pub(super) fn new(head: Position) -> Self {
        Self { head: watch::Sender::new(head), recent: Mutex::default(), as_of: None }
    }

    /// Of a log to which others add as well.
    pub(super) fn followed(head: Position) -> Self {
        Self { as_of: Some(Mutex::new(Instant::now())), ..Self::new(head) }
    }

    /// Whether others add to the log as well.
    pub fn is_shared(&self) -> bool {
        self.as_of.is_some()
    }

    /// Up to which moment whatever was added to the log is known here.
    pub fn as_of(&self) -> Instant {
        let known = self.as_of.as_ref().map(|as_of| *as_of.lock().unwrap_or_else(PoisonError::into_inner));
        known.unwrap_or_else(Instant::now)
    }

    /// Whatever was added to the log up to that moment is known.
    pub(super) fn known_up_to(&self, moment: Instant) {
        if let Some(as_of) = &self.as_of {
            *as_of.lock().unwrap_or_else(PoisonError::into_inner) = moment;
        }
    }

    /// The log has got as far as that, with nothing that is still there.
    pub(super) fn advance(&self, number: u64) {
        self.head.send_if_modified(|head| {
            let moves = number > head.number;
            head.number = head.number.max(number);
            moves
        });
    }

    /// The last entry's place; wakes whoever waits for it to move.
    pub fn head(&self) -> watch::Receiver<Position> {
        self.head.subscribe()
    }

    /// Where the log stands now.
    pub fn position(&self) -> Position {
        *self.head.borrow()
    }

    /// Up to `limit` entries after the one of that number, if all that follow it are still in memory.
    pub fn after(&self, number: u64, limit: usize) -> Option<Vec<Arc<Revocation>>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        match recent.front() {
            Some(first) if first.number <= number + 1 => {
                let known = recent.partition_point(|entry| entry.number <= number);
                Some(recent.range(known..).take(limit).cloned().collect())
            }
            None if number >= self.position().number => Some(Vec::new()),
            Some(_) | None => None,
        }
    }

    /// Takes what has just become durable, in its order.
    pub(super) fn extend(&self, entries: Vec<Revocation>) {
        let Some(last) = entries.last().map(|entry| entry.number) else { return };
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.extend(entries.into_iter().map(Arc::new));
        let surplus = recent.len().saturating_sub(RECENT);
        recent.drain(..surplus);
        drop(recent);
        self.head.send_modify(|head| head.number = last);
    }
}
