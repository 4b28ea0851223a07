//! The session store, in the verbs of the domain. Each verb is atomic, and durable before it answers.

mod embedded;
mod lock;
mod log;
mod moving;
mod redis;
mod row;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    clock::{Clock, Timestamp},
    types::{ClientId, Position, Scopes, SessionId, Subject, Thumbprint},
};

pub use embedded::{BackupError, Copied, Embedded, OpenError, RestoreError, restore};
pub use lock::{DataFolder, LockError};
pub use log::{Lifted, NewRevocation, Revocation, Revoked, Tail};
pub use moving::{MoveError, Moved, move_all};
pub use redis::{Layout, Login, Redis, RedisConfig, RedisOpenError, Tls, Wait};

pub use crate::types::Visitor;

/// Where sessions and revocations are kept. Cheap to clone.
///
/// Every verb is one atomic step on the store's own clock, and what it answers is as durable as the store makes things before
/// it answers. Whoever asks sees a verb to its end: in Redis, one that is dropped half-way may come to nothing.
#[derive(Clone, Debug)]
pub enum Store {
    /// A file that one process owns.
    Embedded(Embedded),
    /// Redis or Valkey, which several processes share.
    Redis(Redis),
}

impl Store {
    /// Opens the store in `folder`, or makes it there. The folder is given back when the last handle is gone.
    ///
    /// # Errors
    /// When the file is not ours, is of a newer format, or cannot be read: it is never replaced.
    pub fn open_embedded(folder: Arc<DataFolder>, clock: Clock) -> Result<Self, OpenError> {
        Embedded::open(folder, clock).map(Self::Embedded)
    }

    /// Opens the store in Redis, or begins it there. Must be called within the runtime that is to follow its log.
    ///
    /// # Errors
    /// When Redis does not answer in time, refuses, or has a store of another format below the prefix.
    pub async fn open_redis(config: RedisConfig, clock: Clock) -> Result<Self, RedisOpenError> {
        Redis::open(config, clock, redis::Purpose::Serve).await.map(Self::Redis)
    }

    /// The same to move what is in it: also where that was begun before, and came to no end.
    ///
    /// # Errors
    /// When Redis does not answer in time, refuses, or has a store of another format below the prefix.
    pub async fn open_redis_to_move(config: RedisConfig, clock: Clock) -> Result<Self, RedisOpenError> {
        Redis::open(config, clock, redis::Purpose::Move).await.map(Self::Redis)
    }

    /// The file of the embedded store in a data folder.
    pub fn file_in(folder: &Path) -> PathBuf {
        folder.join(embedded::FILE)
    }

    /// Opens a session; its first refresh token is generation 0. Where its subject has more sessions then than it may have,
    /// the oldest end with that.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn open(&self, new: NewSession) -> Result<Opened, Unavailable> {
        match self {
            Self::Embedded(store) => store.open_session(new).await,
            Self::Redis(store) => store.open_session(new).await,
        }
    }

    /// The session of that name, whether it has ended or not.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn session(&self, id: SessionId) -> Result<Option<Session>, Unavailable> {
        match self {
            Self::Embedded(store) => store.session(id).await,
            Self::Redis(store) => store.session(id).await,
        }
    }

    /// Presents a refresh token whose HMAC has been found right.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn rotate(
        &self,
        presented: Presented,
        rules: RotationRules,
        visitor: Visitor,
    ) -> Result<Rotation, Unavailable> {
        match self {
            Self::Embedded(store) => store.rotate(presented, rules, visitor).await,
            Self::Redis(store) => store.rotate(presented, rules, visitor).await,
        }
    }

    /// How a refresh token stands whose HMAC has been found right, without presenting it: nothing moves, and nothing ends.
    /// `None` where [`Store::rotate`] would refuse it now.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn look_up(&self, token: Presented, rules: RotationRules) -> Result<Option<Standing>, Unavailable> {
        match self {
            Self::Embedded(store) => store.look_up(token, rules).await,
            Self::Redis(store) => store.look_up(token, rules).await,
        }
    }

    /// What there is to be seen of a session, whether it has ended or not.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn record(&self, id: SessionId) -> Result<Option<Record>, Unavailable> {
        match self {
            Self::Embedded(store) => store.record(id).await,
            Self::Redis(store) => store.record(id).await,
        }
    }

    /// Up to `limit` sessions after `after`, ended ones among them, in an order that stays. Fewer than `limit` are the last.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn list(&self, whose: Whose, after: Option<SessionId>, limit: usize) -> Result<Vec<Record>, Unavailable> {
        match self {
            Self::Embedded(store) => store.list(whose, after, limit).await,
            Self::Redis(store) => store.list(whose, after, limit).await,
        }
    }

    /// Keeps an authorization code, under a digest of it, for so long.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn keep_code(&self, name: Digest, value: Box<[u8]>, lifetime: Duration) -> Result<(), Unavailable> {
        match self {
            Self::Embedded(store) => store.keep_code(name, value, lifetime).await,
            Self::Redis(store) => store.keep_code(name, value, lifetime).await,
        }
    }

    /// Takes an authorization code for a session that is to be opened with it. Only who comes first gets it; whoever comes within
    /// `remembered` from then on learns which session that was for.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn take_code(
        &self,
        name: Digest,
        session: SessionId,
        remembered: Duration,
    ) -> Result<Taken, Unavailable> {
        match self {
            Self::Embedded(store) => store.take_code(name, session, remembered).await,
            Self::Redis(store) => store.take_code(name, session, remembered).await,
        }
    }

    /// Remembers until that moment that something was presented, under a digest of it: whether it is so for the first time.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn mark(&self, name: Digest, until: Timestamp) -> Result<bool, Unavailable> {
        match self {
            Self::Embedded(store) => store.mark(name, until).await,
            Self::Redis(store) => store.mark(name, until).await,
        }
    }

    /// How much there is in it.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn stats(&self) -> Result<Stats, Unavailable> {
        match self {
            Self::Embedded(store) => store.stats().await,
            Self::Redis(store) => store.stats().await,
        }
    }

    /// Writes all there is in it now to a file, which is a store of its own, while it goes on to serve. `path` says where from
    /// the root on.
    ///
    /// # Errors
    /// When the file is there already, cannot be written, or the store is not a file.
    pub async fn backup(&self, path: PathBuf) -> Result<Copied, BackupError> {
        match self {
            Self::Embedded(store) => store.backup(path).await,
            Self::Redis(_) => Err(BackupError::NotAFile),
        }
    }

    /// Ends a session. One that has ended answers with the revocation that ended it; an unknown one with `None`.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn revoke_session(&self, id: SessionId, reason: &str) -> Result<Option<Revocation>, Unavailable> {
        match self {
            Self::Embedded(store) => store.revoke_session(id, reason.into()).await,
            Self::Redis(store) => store.revoke_session(id, reason.into()).await,
        }
    }

    /// Adds an entry to the revocation log. An epoch ends the sessions it is about with that: from then on none of them
    /// rotates.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn revoke(&self, new: NewRevocation) -> Result<Revocation, Unavailable> {
        match self {
            Self::Embedded(store) => store.revoke(new).await,
            Self::Redis(store) => store.revoke(new).await,
        }
    }

    /// Takes back the entry of that number, where nothing but the entry was made by it.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn lift(&self, number: u64, reason: &str) -> Result<Lifted, Unavailable> {
        match self {
            Self::Embedded(store) => store.lift(number, reason.into()).await,
            Self::Redis(store) => store.lift(number, reason.into()).await,
        }
    }

    /// Up to `limit` entries of the revocation log that still block something, or lift what did, after the one of that
    /// number, in their order. Fewer than `limit` are the last.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn revocations(&self, after: u64, limit: usize) -> Result<Vec<Revocation>, Unavailable> {
        match self {
            Self::Embedded(store) => store.revocations(after, limit).await,
            Self::Redis(store) => store.revocations(after, limit).await,
        }
    }

    /// The end of the revocation log.
    pub fn tail(&self) -> &Arc<Tail> {
        match self {
            Self::Embedded(store) => store.tail(),
            Self::Redis(store) => store.tail(),
        }
    }

    /// The longest that access tokens have ever lived, as they live `now` included: a configuration may have shortened it
    /// while there are some of before.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn longest_access_lifetime(&self, now: Duration) -> Result<Duration, Unavailable> {
        match self {
            Self::Embedded(store) => store.longest_access_lifetime(now).await,
            Self::Redis(store) => store.longest_access_lifetime(now).await,
        }
    }

    /// Where signing keys are shared with other processes that have the same store; `None` where there is no other.
    pub fn shared_keys(&self) -> Option<SharedKeys> {
        match self {
            Self::Embedded(_) => None,
            Self::Redis(store) => Some(SharedKeys(store.clone())),
        }
    }

    /// Forgets at most `limit` sessions and `limit` revocations that nothing depends on any more.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn sweep(&self, limit: usize) -> Result<Swept, Unavailable> {
        match self {
            Self::Embedded(store) => store.sweep(limit).await,
            Self::Redis(store) => store.sweep(limit).await,
        }
    }
}

/// Signing keys in a store that several processes share: one text, which is sealed by whoever puts it there.
#[derive(Clone, Debug)]
pub struct SharedKeys(Redis);

impl SharedKeys {
    /// The text; empty where there is none.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn read(&self) -> Result<Vec<u8>, Unavailable> {
        self.0.keys().await
    }

    /// Puts a text in place of another: `false` where that one is not there any more.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn replace(&self, before: &[u8], text: &[u8]) -> Result<bool, Unavailable> {
        self.0.replace_keys(before, text).await
    }

    /// Changes a moment after the text does.
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.0.key_versions()
    }
}

/// What a sweep has forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many sessions.
    pub sessions: usize,
    /// How many revocations.
    pub revocations: usize,
    /// Whether another step would have something to do.
    pub more: bool,
}

/// What opens a session: a grant that yields a refresh token.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Its identifier, a fresh one.
    pub id: SessionId,
    /// The client the session's refresh tokens are bound to.
    pub client: ClientId,
    /// Who logged in.
    pub subject: Subject,
    /// What was granted; a refresh may narrow an access token, never the session.
    pub scopes: Scopes,
    /// How long the session lives without a refresh.
    pub idle_lifetime: Duration,
    /// How long it lives at the most.
    pub absolute_lifetime: Duration,
    /// Lifetime of the access token that goes out with it: a revocation has to outlive that token.
    pub access_lifetime: Duration,
    /// Whether its idle lifetime is that of one that is to be remembered.
    pub remembered: bool,
    /// How many live sessions its subject may have with this one; `None`: any number.
    pub max_sessions: Option<u32>,
    /// The key that its refresh tokens are bound to (RFC 9449 §5), for a client that shows nothing else.
    pub key: Option<Thumbprint>,
    /// What its access tokens are for (RFC 8707), where that was said.
    pub resources: Box<[Box<str>]>,
    /// Who opens it.
    pub visitor: Visitor,
}

/// A session that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The session.
    pub session: Session,
    /// Those that ended because there would have been too many.
    pub ended: Vec<Revocation>,
}

/// A stretch of a session's life in which it was used from one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visit {
    /// When it began: with the opening, or a refresh.
    pub from: Timestamp,
    /// When it was last.
    pub last: Timestamp,
    /// How many refreshes there were, answers that were given again included.
    pub refreshes: u32,
    /// From where.
    pub visitor: Visitor,
}

impl Visit {
    /// How many a session keeps: the first, and the last ones.
    pub const KEPT: usize = 4;
}

/// A session as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What a grant sees of it.
    pub session: Session,
    /// When it was opened.
    pub opened: Timestamp,
    /// When it ends unless it is refreshed before.
    pub idle_expiry: Timestamp,
    /// When it ends in any case.
    pub absolute_expiry: Timestamp,
    /// Whether it is one that is to be remembered.
    pub remembered: bool,
    /// When it was revoked.
    pub ended: Option<Timestamp>,
    /// Whether an epoch has ended it.
    pub logged_out: bool,
    /// Its history, in its order.
    pub visits: Vec<Visit>,
}

impl Record {
    /// What has become of it by `now`: `live`, `revoked`, `logged_out` (by an epoch) or `expired`.
    pub fn state(&self, now: Timestamp) -> &'static str {
        match self {
            Self { ended: Some(_), .. } => "revoked",
            Self { logged_out: true, .. } => "logged_out",
            Self { idle_expiry, .. } if now >= *idle_expiry => "expired",
            _ => "live",
        }
    }
}

/// Whose sessions are to be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// All there are.
    Everybodys,
    /// One subject's.
    Subject(Subject),
    /// Those of one client.
    Client(ClientId),
}

/// A digest (SHA-256) of something that is not to be readable in a store.
pub type Digest = [u8; 32];

/// What came of taking an authorization code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// This was kept under it, and nobody gets it again.
    Now(Box<[u8]>),
    /// It was taken before, for this session.
    Before(SessionId),
    /// There is none, or not any more.
    Unknown,
}

/// How much a store has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Sessions, those included that have ended and are not swept yet.
    pub sessions: u64,
    /// Entries of the revocation log.
    pub revocations: u64,
    /// Epochs that sessions are compared with.
    pub epochs: u64,
    /// Authorization codes and replay markers.
    pub codes: u64,
    /// How many bytes it takes: of the file, or of the servers' memory.
    pub bytes: u64,
    /// Where its log stands.
    pub log: String,
}

/// A live session as a grant needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its identifier, the `sid` of its access tokens.
    pub id: SessionId,
    /// The client it belongs to.
    pub client: ClientId,
    /// Who logged in.
    pub subject: Subject,
    /// What was granted.
    pub scopes: Scopes,
    /// The generation whose refresh token is the live one.
    pub generation: u32,
    /// Where the revocation log stood when it began.
    pub began: Position,
    /// The key that its refresh tokens are bound to.
    pub key: Option<Thumbprint>,
    /// What its access tokens are for, where that was said.
    pub resources: Box<[Box<str>]>,
}

/// A refresh token whose HMAC has been found right for the client that presents it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presented {
    /// The session it names.
    pub session: SessionId,
    /// The generation it was issued as; the first is 0.
    pub generation: u32,
}

/// How a client's refresh tokens turn over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationRules {
    /// Whether a refresh makes a new generation. `false` (confidential clients only) keeps the refresh token and moves
    /// its idle lifetime alone.
    pub rotate: bool,
    /// How long any of the last four superseded generations still yields the current one: tabs that race.
    pub reuse_interval: Duration,
    /// How long the generation just superseded still yields the current one: an answer that was lost. `None`: for as
    /// long as the session lives.
    pub retry_window: Option<Duration>,
    /// The same where the session is bound to a key, which whoever has stolen the token does not have.
    pub bound_retry_window: Option<Duration>,
    /// The key that whoever presents it has shown.
    pub key: Option<Thumbprint>,
    /// Whether a session that is bound to no key is bound to that from now on: its client shows nothing else (RFC 9449 §5).
    pub binds: bool,
    /// How far a refresh moves the idle expiry.
    pub idle_lifetime: Duration,
    /// The same of a session that is to be remembered.
    pub remembered_idle_lifetime: Duration,
    /// Lifetime of the access token that goes out with the answer.
    pub access_lifetime: Duration,
    /// What a generation from the future means.
    pub on_rollback: OnRollback,
}

/// What to do when a client proves that the store has forgotten a rotation (it was restored from a backup).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRollback {
    /// Believe the token's HMAC, and go on from its generation.
    RollForward,
    /// End the session: the user logs in again.
    Relogin,
}

/// What came of presenting a refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// It was the live one; `generation` is its successor's (its own, where the client does not rotate).
    Rotated(Session),
    /// It had been superseded a moment ago; `generation` is the live one's, and nothing moved.
    Replayed(Session),
    /// It had been superseded too long ago: the session is now revoked.
    Reused(Revocation),
    /// It comes from a generation the store has never made, and the rules say to log in again: the session is now revoked.
    RolledBack(Revocation),
    /// The session had been revoked before: by this, which whoever has not heard of it yet may learn now.
    Revoked(Revocation),
    /// An epoch has ended whatever had begun before it, this session with it.
    LoggedOut,
    /// The session is bound to another key than was shown. Nothing moved.
    WrongKey,
    /// The session's idle or absolute lifetime is over.
    Expired,
    /// There is no such session.
    Unknown,
}

/// How many sessions are ended at a time because their subject has too many: where a limit is set for the first time, there
/// may be very many.
const MOST_ENDED: usize = 256;

/// The longest leeway a provider may be configured with (RFC 7519 §4.1.4: "usually no more than a few minutes").
pub const MAX_LEEWAY: Duration = Duration::from_secs(60);

/// How a refresh token stands that would be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its session.
    pub session: Session,
    /// When it was issued; `None` where that is not kept any more.
    pub issued: Option<Timestamp>,
    /// When its session ends unless it is refreshed before. The grace of a superseded token can be over sooner.
    pub expires: Timestamp,
}

/// A store that could not answer. Never a reason to tell a client that its token is bad.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the session store is not available: {0}")]
pub struct Unavailable(pub Arc<str>);
