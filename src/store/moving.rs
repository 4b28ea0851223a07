//! A whole store on its way into another one, a piece at a time.

use std::time::Duration;

use super::{Digest, Revocation, Revoked, Store, Unavailable, row::Row};
use crate::{
    clock::Timestamp,
    types::{Position, SessionId},
};

/// How many sessions are in a piece.
pub(super) const PIECE: usize = 1000;

/// What there is but once in a store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    /// Where the log stands.
    pub(super) position: Position,
    /// When the last session of all will have ended.
    pub(super) last_session_ends: Timestamp,
    /// The longest that access tokens have ever lived.
    pub(super) access_lifetime: Duration,
}

/// An epoch that sessions are compared with.
#[derive(Clone, Debug)]
pub(super) struct Epoch {
    /// A subject, a client, or everything.
    pub(super) what: Revoked,
    /// Its number in the log.
    pub(super) number: u64,
    /// When it may be forgotten.
    pub(super) ends: Timestamp,
}

/// An authorization code or a replay marker.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// Whether it is a marker.
    pub(super) marks: bool,
    pub(super) name: Digest,
    pub(super) until: Timestamp,
    /// For which session it was taken.
    pub(super) taken: Option<SessionId>,
    pub(super) value: Vec<u8>,
}

/// Where a walk over all sessions is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cursor {
    Start,
    /// After this one.
    After(SessionId),
    /// At the beginning of this part.
    Part(u8),
}

/// Some sessions, and where the walk goes on.
pub(super) type Piece = (Vec<(SessionId, Row)>, Option<Cursor>);

/// What has been moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// How many sessions.
    pub sessions: u64,
    /// How many entries of the revocation log that still block something, or lift what did.
    pub revocations: u64,
}

/// Why a store was not moved. The one it was to come from is as it was, and serves again.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// There is something in the other one.
    #[error(
        "there is a store already where this one is to go ({0} sessions, log at {1}): move it away, or name another place"
    )]
    Taken(u64, Position),
    /// One of the two does not answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// Not everything arrived.
    #[error("{found} sessions of {sent} have arrived; nothing was changed where they come from")]
    Incomplete {
        /// How many there are where they went.
        found: u64,
        /// How many were sent there.
        sent: u64,
    },
}

/// Moves everything that is in one store into another, in which there must be nothing. Whoever has the first one open gets no
/// answers from it meanwhile, and none after it.
///
/// # Errors
/// When there is something in the other, or one of them does not answer.
pub async fn move_all(from: &Store, to: &Store) -> Result<Moved, MoveError> {
    let there = to.stats().await?;
    let position = to.tail().position();
    if there.sessions > 0 || there.revocations > 0 || position.number > 0 {
        return Err(MoveError::Taken(there.sessions, position));
    }
    let moved = match from.leave(true).await {
        Ok(()) => copy(from, to).await,
        // It may have been done all the same.
        Err(error) => Err(error.into()),
    };
    if moved.is_err() {
        // It goes on where it was. Should that fail too, its own error says more than this one.
        from.leave(false).await?;
    }
    moved
}

async fn copy(from: &Store, to: &Store) -> Result<Moved, MoveError> {
    let mut moved = Moved::default();
    let marks = from.marks().await?;
    let mut cursor = Some(Cursor::Start);
    while let Some(at) = cursor {
        let (piece, next) = from.piece(at).await?;
        moved.sessions += piece.len() as u64;
        to.take_sessions(piece).await?;
        cursor = next;
    }
    let mut after = 0;
    loop {
        let page = from.entries(after, PIECE).await?;
        let (read, last) = (page.len(), page.last().map(|entry| entry.number));
        moved.revocations += read as u64;
        to.take_entries(page).await?;
        match last {
            Some(last) if read == PIECE => after = last,
            _ => break,
        }
    }
    to.take_rest(from.epochs().await?, from.kept().await?, marks).await?;
    let found = to.stats().await?.sessions;
    if found != moved.sessions {
        return Err(MoveError::Incomplete { found, sent: moved.sessions });
    }
    Ok(moved)
}

/// The verbs of moving, which no process that serves uses.
impl Store {
    /// Has nobody else use it from now on, or use it again.
    async fn leave(&self, leave: bool) -> Result<(), Unavailable> {
        match self {
            // Its folder belongs to this process.
            Self::Embedded(_) => Ok(()),
            Self::Redis(store) => store.leave(leave).await,
        }
    }

    async fn marks(&self) -> Result<Marks, Unavailable> {
        match self {
            Self::Embedded(store) => store.marks().await,
            Self::Redis(store) => store.marks().await,
        }
    }

    async fn piece(&self, at: Cursor) -> Result<Piece, Unavailable> {
        match self {
            Self::Embedded(store) => store.piece(at).await,
            Self::Redis(store) => store.piece(at).await,
        }
    }

    /// Those of the log that still count.
    async fn entries(&self, after: u64, limit: usize) -> Result<Vec<Revocation>, Unavailable> {
        match self {
            Self::Embedded(store) => store.revocations(after, limit).await,
            Self::Redis(store) => store.entries(after, limit).await,
        }
    }

    async fn epochs(&self) -> Result<Vec<Epoch>, Unavailable> {
        match self {
            Self::Embedded(store) => store.epochs().await,
            Self::Redis(store) => store.epochs().await,
        }
    }

    async fn kept(&self) -> Result<Vec<Kept>, Unavailable> {
        match self {
            Self::Embedded(store) => store.kept().await,
            Self::Redis(store) => store.kept().await,
        }
    }

    async fn take_sessions(&self, sessions: Vec<(SessionId, Row)>) -> Result<(), Unavailable> {
        match self {
            Self::Embedded(store) => store.take_sessions(sessions).await,
            Self::Redis(store) => store.take_sessions(sessions).await,
        }
    }

    async fn take_entries(&self, entries: Vec<Revocation>) -> Result<(), Unavailable> {
        match self {
            Self::Embedded(store) => store.take_entries(entries).await,
            Self::Redis(store) => store.take_entries(entries).await,
        }
    }

    async fn take_rest(&self, epochs: Vec<Epoch>, kept: Vec<Kept>, marks: Marks) -> Result<(), Unavailable> {
        match self {
            Self::Embedded(store) => store.take_rest(epochs, kept, marks).await,
            Self::Redis(store) => store.take_rest(epochs, kept, marks).await,
        }
    }
}
