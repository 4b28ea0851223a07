//! One of the issuer's keys, and how it is told of.

use std::{sync::Arc, time::Duration};

use super::sealed::Stored;
use crate::{
    clock::{Roughly, Timestamp},
    token::{Algorithm, keys::Key, sign::Signer},
};

/// What a key is for at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Next,
    Active,
    Retired,
    Revoked,
}

impl State {
    pub(super) const ALL: [Self; 4] = [Self::Next, Self::Active, Self::Retired, Self::Revoked];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Active => "active",
            Self::Retired => "retired",
            Self::Revoked => "revoked",
        }
    }
}

/// One of the keys.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) state: State,
    /// Since when it is that.
    pub(super) since: Timestamp,
    /// When the last token that it signed has expired; for one that signs no more.
    pub(super) until: Option<Timestamp>,
    pub(super) kid: Box<str>,
    pub(super) algorithm: Algorithm,
    /// `None` for one that is revoked: nobody has it any more.
    pub(super) key: Option<(Arc<Signer>, Arc<Key>, Stored)>,
}

impl Entry {
    /// It signs no more.
    pub(super) fn retire(&mut self, now: Timestamp, longest: Duration) {
        (self.state, self.since, self.until) = (State::Retired, now, Some(now + longest));
    }

    /// A line about it, at the time `now`; a key that is published signs after `publish_ahead`.
    pub(super) fn line(&self, now: Timestamp, publish_ahead: Duration) -> String {
        let ago = Roughly(now.since(self.since).unwrap_or_default());
        let what = match (self.state, self.until) {
            (State::Next, _) => format!("published {ago} ago, signs in {}", self.wait(now, publish_ahead)),
            (State::Active, _) => format!("signs since {ago} ago"),
            (State::Retired, Some(until)) => {
                format!("retired {ago} ago, verifies for {}", Roughly(until.since(now).unwrap_or_default()))
            }
            (State::Retired, None) => format!("retired {ago} ago"),
            (State::Revoked, _) => format!("revoked {ago} ago"),
        };
        format!("{:<43}  {:<6} {:<8} {what}", self.kid, self.algorithm.name(), self.state.name())
    }

    /// How long it is until it signs.
    pub(super) fn wait(&self, now: Timestamp, publish_ahead: Duration) -> Roughly {
        Roughly((self.since + publish_ahead).since(now).unwrap_or_default())
    }
}
