//! How the keys in Redis are called, and which of them lie together.

use std::sync::Arc;

use crate::types::{SessionId, Subject};

/// Into how many parts sessions are spread. It cannot be changed later: a session's name says its part.
pub(super) const PARTS: u8 = Subject::PARTS;

/// Keys that are always on one server: what is in curly brackets in their names says so (Redis Cluster's hash tags).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// The revocation log, and whatever else there is but once.
    Log,
    /// A part of the sessions: everything of one subject is in one.
    Part(u8),
}

impl Place {
    /// All there are.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        std::iter::once(Self::Log).chain(Self::parts())
    }

    /// Those that hold sessions.
    pub(super) fn parts() -> impl Iterator<Item = Self> {
        (0..PARTS).map(Self::Part)
    }

    pub(super) fn of(session: SessionId) -> Self {
        Self::Part(session.0[15] % PARTS)
    }

    pub(super) fn of_subject(subject: &Subject) -> Self {
        Self::Part(subject.part())
    }

    pub(super) fn of_digest(digest: &[u8; 32]) -> Self {
        Self::Part(digest[0] % PARTS)
    }

    /// Its place in [`Place::all`].
    pub(super) fn index(self) -> usize {
        match self {
            Self::Log => 0,
            Self::Part(part) => usize::from(part) + 1,
        }
    }
}

/// The names below a prefix.
#[derive(Debug)]
pub(super) struct Names(pub(super) Arc<str>);

impl Names {
    /// A key of a place that there is but once.
    pub(super) fn single(&self, place: Place, name: &str) -> Vec<u8> {
        self.of(place, name, &[])
    }

    pub(super) fn row(&self, session: SessionId) -> Vec<u8> {
        self.of(Place::of(session), "s:", &session.0)
    }

    pub(super) fn by_subject(&self, place: Place, subject: &str) -> Vec<u8> {
        self.of(place, "subject:", subject.as_bytes())
    }

    pub(super) fn by_client(&self, place: Place, client: &str) -> Vec<u8> {
        self.of(place, "client:", client.as_bytes())
    }

    pub(super) fn code(&self, digest: &[u8; 32]) -> Vec<u8> {
        self.of(Place::of_digest(digest), "c:", digest)
    }

    pub(super) fn mark(&self, digest: &[u8; 32]) -> Vec<u8> {
        self.of(Place::of_digest(digest), "m:", digest)
    }

    /// Where it is remembered that an entry of the log was added.
    pub(super) fn done(&self, uid: &str) -> Vec<u8> {
        self.of(Place::Log, "done:", uid.as_bytes())
    }

    fn of(&self, place: Place, kind: &str, rest: &[u8]) -> Vec<u8> {
        let tag = match place {
            Place::Log => "{log}".to_owned(),
            Place::Part(part) => format!("{{{part:02}}}"),
        };
        [self.0.as_bytes(), tag.as_bytes(), b":", kind.as_bytes(), rest].concat()
    }
}
