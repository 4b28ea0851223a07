//! A session as it is kept, and the rotation table: pure, so that every backend decides alike.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    MAX_LEEWAY, NewSession, OnRollback, Presented, Record, Revocation, Revoked, Rotation, RotationRules, Session,
    Standing, Unavailable, Visit, Visitor,
};
use crate::{
    clock::Timestamp,
    types::{ClientId, Position, Scopes, SessionId, Subject, Thumbprint},
};

/// How many superseded generations are remembered: as many tabs as can sensibly race.
const REMEMBERED: usize = 4;

/// How much longer a session is kept than anything depends on it: a clock that was set forward may be set back again.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// The version byte in front of every row. Another one is refused, never guessed at.
const VERSION: u8 = 4;

/// One session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    client: Box<str>,
    subject: Box<str>,
    scopes: Box<str>,
    /// Whether it lives as long as one does that is to be remembered.
    remembered: bool,
    generation: u32,
    /// When the last generations were superseded, newest first: `[0]` is generation − 1's.
    superseded_at: Vec<Timestamp>,
    idle_expiry: Timestamp,
    absolute_expiry: Timestamp,
    /// The latest expiry of any access token that went out with this session.
    access_until: Timestamp,
    /// Where the revocation log stood when it began.
    began: Position,
    /// Once this is set, nothing else in the row moves: the revocation it stands for can be told again at any time.
    ended: Option<Ended>,
    /// From where it was opened, then from where it was refreshed last; never empty.
    visits: Vec<Visit>,
    /// The key that its refresh tokens are bound to. Rows of version 3 end before it.
    key: Option<Thumbprint>,
    /// What its access tokens are for, where that was said.
    resources: Box<[Box<str>]>,
}

/// The revocation that ended a session: when, and its number in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) at: Timestamp,
    pub(super) number: u64,
}

impl Row {
    pub(super) fn open(new: &NewSession, now: Timestamp, began: Position) -> Self {
        let absolute_expiry = now + new.absolute_lifetime;
        Self {
            client: new.client.as_str().into(),
            subject: new.subject.as_str().into(),
            scopes: new.scopes.to_string().into(),
            remembered: new.remembered,
            generation: 0,
            superseded_at: Vec::new(),
            idle_expiry: (now + new.idle_lifetime).min(absolute_expiry),
            absolute_expiry,
            access_until: now + new.access_lifetime,
            began,
            ended: None,
            visits: vec![Visit { from: now, last: now, refreshes: 0, visitor: new.visitor.clone() }],
            key: new.key,
            resources: new.resources.clone(),
        }
    }

    /// The rotation table of the design, row by row in its order. Changes the row only where the outcome says so.
    /// `next` is the number of the log's next entry.
    pub(super) fn rotate(
        &mut self,
        id: SessionId,
        presented: u32,
        rules: &RotationRules,
        visitor: &Visitor,
        now: Timestamp,
        next: u64,
    ) -> Rotation {
        let end = Ended { at: now, number: next };
        // Revoked comes first: a token that was revoked a moment ago must never fall into a grace.
        if self.is_revoked() {
            return Rotation::Revoked(self.revoke(id, end, ""));
        }
        if now >= self.refresh_until() {
            return Rotation::Expired;
        }
        if self.key.is_some() && self.key != rules.key {
            return Rotation::WrongKey;
        }
        if presented == self.generation {
            return self.advance(id, presented, rules, visitor, now);
        }
        if presented < self.generation {
            if !self.within_grace(presented, rules, now) {
                return Rotation::Reused(self.revoke(id, end, "a used refresh token was presented again"));
            }
            self.goes_out(rules, visitor, now);
            return Rotation::Replayed(self.session(id));
        }
        match rules.on_rollback {
            // The generations that were lost are forgotten: their moments are not known, so none of them has a grace.
            OnRollback::RollForward => {
                self.superseded_at.clear();
                self.advance(id, presented, rules, visitor, now)
            }
            OnRollback::Relogin => Rotation::RolledBack(self.revoke(id, end, "the store had forgotten a rotation")),
        }
    }

    /// Ends the session; one that has ended answers how it did.
    pub(super) fn revoke(&mut self, id: SessionId, end: Ended, reason: &str) -> Revocation {
        let Ended { at, number } = *self.ended.get_or_insert(end);
        Revocation {
            number,
            at,
            issuer: None,
            what: Revoked::Session(id.to_string().into()),
            until: self.access_until + MAX_LEEWAY,
            refresh_until: self.refresh_until(),
            lifts: false,
            reason: reason.into(),
        }
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.ended.is_some()
    }

    /// Whether it is known under which number the log has its end; 0 is none.
    pub(super) fn is_entered(&self) -> bool {
        self.ended.is_some_and(|ended| ended.number > 0)
    }

    /// The log has its end under that number.
    pub(super) fn enter(&mut self, number: u64) {
        if let Some(ended) = &mut self.ended {
            ended.number = number;
        }
    }

    pub(super) fn subject(&self) -> &str {
        &self.subject
    }

    pub(super) fn client(&self) -> &str {
        &self.client
    }

    pub(super) fn opened(&self) -> Timestamp {
        self.visits.first().map_or(Timestamp::default(), |visit| visit.from)
    }

    pub(super) fn began(&self) -> Position {
        self.began
    }

    pub(super) fn absolute_expiry(&self) -> Timestamp {
        self.absolute_expiry
    }

    /// From when on the row may be forgotten: none of its refresh tokens can be presented any more, and no access token
    /// is left that ending the session would have to reach.
    pub(super) fn expires(&self) -> Timestamp {
        self.refresh_until().max(self.access_until + MAX_LEEWAY) + FORGOTTEN_AFTER
    }

    /// Whether a refresh token of it could still be good, as far as the row knows.
    pub(super) fn is_live(&self, now: Timestamp) -> bool {
        !self.is_revoked() && now < self.refresh_until()
    }

    /// How a refresh token of it stands; `None` where it would be refused. Asked of the rotation table itself, on a copy, so
    /// that the two never differ.
    pub(super) fn standing(&self, token: Presented, rules: &RotationRules, now: Timestamp) -> Option<Standing> {
        let Presented { session: id, generation } = token;
        // Whoever only asks shows no key.
        let rules = &RotationRules { key: self.key, ..*rules };
        match self.clone().rotate(id, generation, rules, &Visitor::default(), now, 0) {
            Rotation::Rotated(_) | Rotation::Replayed(_) => Some(Standing {
                session: self.session(id),
                issued: self.issued(generation),
                expires: self.refresh_until(),
            }),
            Rotation::Reused(_)
            | Rotation::RolledBack(_)
            | Rotation::Revoked(_)
            | Rotation::WrongKey
            | Rotation::LoggedOut
            | Rotation::Expired
            | Rotation::Unknown => None,
        }
    }

    /// When that generation's refresh token was issued: as the one before it was superseded.
    fn issued(&self, generation: u32) -> Option<Timestamp> {
        if generation == 0 {
            return Some(self.opened());
        }
        let age = self.generation.checked_sub(generation)?;
        self.superseded_at.get(age as usize).copied()
    }

    /// What an operator sees of it.
    pub(super) fn record(&self, id: SessionId, logged_out: bool) -> Record {
        Record {
            session: self.session(id),
            opened: self.opened(),
            idle_expiry: self.idle_expiry.min(self.absolute_expiry),
            absolute_expiry: self.absolute_expiry,
            remembered: self.remembered,
            ended: self.ended.map(|ended| ended.at),
            logged_out,
            visits: self.visits.clone(),
        }
    }

    pub(super) fn session(&self, id: SessionId) -> Session {
        Session {
            id,
            client: ClientId::new(&*self.client),
            subject: Subject::new(&*self.subject),
            scopes: Scopes::from_values(self.scopes.split(' ').filter(|scope| !scope.is_empty())),
            generation: self.generation,
            began: self.began,
            key: self.key,
            resources: self.resources.clone(),
        }
    }

    fn advance(
        &mut self,
        id: SessionId,
        from: u32,
        rules: &RotationRules,
        visitor: &Visitor,
        now: Timestamp,
    ) -> Rotation {
        if rules.binds {
            self.key = self.key.or(rules.key);
        }
        // Four thousand million refreshes of one session do not happen; if they did, its last token would stay.
        let to = if rules.rotate { from.saturating_add(1) } else { from };
        if to > from {
            self.superseded_at.insert(0, now);
            self.superseded_at.truncate(REMEMBERED);
        }
        self.generation = to;
        self.idle_expiry = now + if self.remembered { rules.remembered_idle_lifetime } else { rules.idle_lifetime };
        self.goes_out(rules, visitor, now);
        Rotation::Rotated(self.session(id))
    }

    fn within_grace(&self, presented: u32, rules: &RotationRules, now: Timestamp) -> bool {
        let age = (self.generation - presented - 1) as usize;
        let Some(superseded_at) = self.superseded_at.get(age) else { return false };
        let last = age == 0;
        // A clock that was set back must not cost a user the session: no time has passed, but for the last one only.
        let Some(elapsed) = now.since(*superseded_at).or(last.then_some(Duration::ZERO)) else {
            return false;
        };
        // A window of zero is no window, not one of a millisecond.
        let within = |window: Duration| !window.is_zero() && elapsed <= window;
        let retry_window = if self.key.is_some() { rules.bound_retry_window } else { rules.retry_window };
        within(rules.reuse_interval) || (last && retry_window.is_none_or(within))
    }

    /// Tokens go out with it, to this visitor.
    fn goes_out(&mut self, rules: &RotationRules, visitor: &Visitor, now: Timestamp) {
        self.access_until = self.access_until.max(now + rules.access_lifetime);
        match self.visits.last_mut() {
            Some(last) if last.visitor == *visitor => {
                (last.last, last.refreshes) = (now, last.refreshes.saturating_add(1));
            }
            Some(_) | None => {
                // Who opened it is kept.
                if self.visits.len() == Visit::KEPT {
                    self.visits.remove(1);
                }
                self.visits.push(Visit { from: now, last: now, refreshes: 1, visitor: visitor.clone() });
            }
        }
    }

    fn refresh_until(&self) -> Timestamp {
        self.idle_expiry.min(self.absolute_expiry)
    }
}

/// Puts a value behind the version byte.
pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION]).expect("our own types have a known length, and a Vec takes all of it")
}

fn read<T: for<'a> Deserialize<'a>>(row: &[u8]) -> Result<T, Unavailable> {
    postcard::from_bytes(row).map_err(|_| Unavailable("a row of it is damaged".into()))
}

/// Reads what [`encode`] wrote.
pub(super) fn decode<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, Unavailable> {
    match bytes {
        [VERSION, row @ ..] => read(row),
        // It ended before the key of a session and its resources: none, which are zeros. What other rows say ends before that.
        [3, row @ ..] => read(&[row, &[0, 0]].concat()),
        _ => Err(Unavailable("a row of it has another version".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_version_3_is_one_without_a_key() {
        let subject = Subject::new("alice");
        let new = NewSession {
            id: SessionId::generate(&subject),
            client: ClientId::new("app"),
            subject,
            scopes: Scopes::default(),
            idle_lifetime: Duration::from_secs(60),
            absolute_lifetime: Duration::from_secs(60),
            access_lifetime: Duration::from_secs(60),
            remembered: false,
            max_sessions: None,
            key: None,
            resources: Box::default(),
            visitor: Visitor::default(),
        };
        let row = Row::open(&new, Timestamp::from_secs(1), Position::default());
        let mut bytes = encode(&row);
        assert_eq!((bytes.pop(), bytes.pop()), (Some(0), Some(0)));
        bytes[0] = 3;
        assert_eq!(decode::<Row>(&bytes).unwrap(), row);
        let bound = Row { key: Some([7; 32]), ..row };
        assert_eq!(decode::<Row>(&encode(&bound)).unwrap(), bound);
        let ended = Ended { at: Timestamp::from_secs(2), number: 9 };
        let mut bytes = encode(&ended);
        bytes[0] = 3;
        assert_eq!(decode::<Ended>(&bytes).unwrap(), ended);
        bytes[0] = 5;
        assert!(decode::<Ended>(&bytes).is_err());
    }
}
