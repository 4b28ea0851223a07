//! The session store, in the verbs of the domain. Each verb is atomic, and durable before it answers.

mod embedded;
mod lock;
mod log;
mod row;
mod tables;

use std::{sync::Arc, time::Duration};

use serde::Deserialize;

use crate::{
    clock::Clock,
    types::{ClientId, Position, Scopes, SessionId, Subject},
};

pub use embedded::{Embedded, OpenError};
pub use lock::{DataFolder, LockError};
pub use log::{Lifted, NewRevocation, Revocation, Revoked, Tail};

/// Where sessions and revocations are kept. Cheap to clone.
///
/// Every verb is one atomic step on the store's own clock, and what it answers is on disk before it answers. A verb whose
/// caller went away is carried out all the same.
#[derive(Clone, Debug)]
pub enum Store {
    /// A file that one process owns.
    Embedded(Embedded),
}

impl Store {
    /// Opens the store in `folder`, or makes it there. The folder is given back when the last handle is gone.
    ///
    /// # Errors
    /// When the file is not ours, is of a newer format, or cannot be read: it is never replaced.
    pub fn open_embedded(folder: Arc<DataFolder>, clock: Clock) -> Result<Self, OpenError> {
        Embedded::open(folder, clock).map(Self::Embedded)
    }

    /// Opens a session; its first refresh token is generation 0.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn open(&self, new: NewSession) -> Result<Session, Unavailable> {
        match self {
            Self::Embedded(store) => store.open_session(new).await,
        }
    }

    /// The session of that name, whether it has ended or not.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn session(&self, id: SessionId) -> Result<Option<Session>, Unavailable> {
        match self {
            Self::Embedded(store) => store.session(id).await,
        }
    }

    /// Presents a refresh token whose HMAC has been found right.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn rotate(&self, presented: Presented, rules: RotationRules) -> Result<Rotation, Unavailable> {
        match self {
            Self::Embedded(store) => store.rotate(presented, rules).await,
        }
    }

    /// Ends a session. One that has ended answers with the revocation that ended it; an unknown one with `None`.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn revoke_session(&self, id: SessionId, reason: &str) -> Result<Option<Revocation>, Unavailable> {
        match self {
            Self::Embedded(store) => store.revoke_session(id, reason.into()).await,
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
        }
    }

    /// Takes back the entry of that number, where nothing but the entry was made by it.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn lift(&self, number: u64, reason: &str) -> Result<Lifted, Unavailable> {
        match self {
            Self::Embedded(store) => store.lift(number, reason.into()).await,
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
        }
    }

    /// The end of the revocation log.
    pub fn tail(&self) -> &Arc<Tail> {
        match self {
            Self::Embedded(store) => store.tail(),
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
        }
    }

    /// Forgets at most `limit` sessions and `limit` revocations that nothing depends on any more.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn sweep(&self, limit: usize) -> Result<Swept, Unavailable> {
        match self {
            Self::Embedded(store) => store.sweep(limit).await,
        }
    }
}

/// What a sweep has forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many sessions.
    pub sessions: usize,
    /// How many revocations.
    pub revocations: usize,
}

/// What opens a session: a grant that yields a refresh token.
#[derive(Clone, Debug)]
pub struct NewSession {
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
    /// How far a refresh moves the idle expiry.
    pub idle_lifetime: Duration,
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
    /// The session's idle or absolute lifetime is over.
    Expired,
    /// There is no such session.
    Unknown,
}

/// The longest leeway a provider may be configured with (RFC 7519 §4.1.4: "usually no more than a few minutes").
pub const MAX_LEEWAY: Duration = Duration::from_secs(60);

/// A store that could not answer. Never a reason to tell a client that its token is bad.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the session store is not available: {0}")]
pub struct Unavailable(pub Arc<str>);
