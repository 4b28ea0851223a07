//! The verbs about sessions, within one write transaction.

use std::ops::Bound;

use redb::{ReadableTable as _, Table};

use super::tables::{Fault, Id, LAST_SESSION_ENDS, Tables};
use crate::{
    store::{
        MOST_ENDED, NewSession, Opened, Presented, Record, Revocation, Rotation, RotationRules, Session, Standing,
        Visitor, Whose,
        row::{Ended, Row, decode, encode},
    },
    types::{Position, SessionId, Subject},
};

/// The greatest identifier.
const ID_MAX: [u8; 16] = [0xff; 16];

impl Tables<'_> {
    pub(super) fn open_session(&mut self, new: &NewSession) -> Result<Opened, Fault> {
        let ended = match new.max_sessions {
            Some(most) => self.make_room(&new.subject, most)?,
            None => Vec::new(),
        };
        let id = new.id;
        let row = Row::open(new, self.now, self.position);
        self.put_new(id, &row)?;
        self.by_subject.insert((row.subject(), &id.0), ())?;
        self.by_client.insert((row.client(), &id.0), ())?;
        self.at_least(LAST_SESSION_ENDS, row.absolute_expiry().0)?;
        Ok(Opened { session: row.session(id), ended })
    }

    /// Ends the oldest sessions of a subject, so that with another one there are no more than `most`.
    fn make_room(&mut self, subject: &Subject, most: u32) -> Result<Vec<Revocation>, Fault> {
        let mut live = Vec::new();
        for entry in self.by_subject.range((subject.as_str(), &[0; 16])..=(subject.as_str(), &ID_MAX))? {
            let id = SessionId(*entry?.0.value().1);
            if let Some(row) = self.readable_row(id)?
                && row.is_live(self.now)
                && !self.logged_out(&row)?
            {
                live.push(id);
            }
        }
        // The oldest come first: an identifier begins with the time at which it was made.
        let surplus = (live.len() + 1).saturating_sub(most as usize).min(MOST_ENDED);
        let mut ended = Vec::new();
        for id in live.into_iter().take(surplus) {
            ended.extend(self.revoke_session(id, "its subject had opened too many others")?);
        }
        Ok(ended)
    }

    pub(super) fn session(&self, id: SessionId) -> Result<Option<Session>, Fault> {
        Ok(self.row(id)?.map(|row| row.session(id)))
    }

    pub(super) fn look_up(&self, token: Presented, rules: &RotationRules) -> Result<Option<Standing>, Fault> {
        match self.row(token.session)? {
            Some(row) if !self.logged_out(&row)? => Ok(row.standing(token, rules, self.now)),
            Some(_) | None => Ok(None),
        }
    }

    pub(super) fn record(&self, id: SessionId) -> Result<Option<Record>, Fault> {
        match self.row(id)? {
            Some(row) => Ok(Some(row.record(id, self.logged_out(&row)?))),
            None => Ok(None),
        }
    }

    pub(super) fn list(&self, whose: &Whose, after: Option<SessionId>, limit: usize) -> Result<Vec<Record>, Fault> {
        let from = after.map_or(Bound::Included([0; 16]), |after| Bound::Excluded(after.0));
        let mut found = Vec::new();
        let named = |name: &str, table: &Table<'_, (&'static str, Id), ()>| -> Result<Vec<SessionId>, Fault> {
            let from = from.as_ref().map(|id| (name, id));
            let range = table.range::<(&str, &[u8; 16])>((from, Bound::Included((name, &ID_MAX))))?;
            range.take(limit).map(|entry| Ok(SessionId(*entry?.0.value().1))).collect()
        };
        let ids = match whose {
            Whose::Everybodys => {
                let range = self.sessions.range::<&[u8; 16]>((from.as_ref(), Bound::Unbounded))?;
                range.take(limit).map(|entry| Ok(SessionId(*entry?.0.value()))).collect::<Result<_, Fault>>()?
            }
            Whose::Subject(subject) => named(subject.as_str(), &self.by_subject)?,
            Whose::Client(client) => named(client.as_str(), &self.by_client)?,
        };
        for id in ids {
            if let Some(row) = self.readable_row(id)? {
                found.push(row.record(id, self.logged_out(&row)?));
            }
        }
        Ok(found)
    }

    pub(super) fn rotate(
        &mut self,
        presented: Presented,
        rules: &RotationRules,
        visitor: &Visitor,
    ) -> Result<Rotation, Fault> {
        let id = presented.session;
        let Some(mut row) = self.row(id)? else { return Ok(Rotation::Unknown) };
        if !row.is_revoked() && self.logged_out(&row)? {
            return Ok(Rotation::LoggedOut);
        }
        let rotation = row.rotate(id, presented.generation, rules, visitor, self.now, self.position.number + 1);
        match &rotation {
            Rotation::Rotated(_) | Rotation::Replayed(_) => self.put(id, &row)?,
            Rotation::Reused(revocation) | Rotation::RolledBack(revocation) => {
                self.put(id, &row)?;
                self.append(revocation.clone())?;
            }
            Rotation::Revoked(_) | Rotation::WrongKey | Rotation::LoggedOut | Rotation::Expired | Rotation::Unknown => {
            }
        }
        Ok(rotation)
    }

    pub(super) fn revoke_session(&mut self, id: SessionId, reason: &str) -> Result<Option<Revocation>, Fault> {
        let Some(mut row) = self.row(id)? else { return Ok(None) };
        let ended_before = row.is_revoked();
        let revocation = row.revoke(id, Ended { at: self.now, number: self.position.number + 1 }, reason);
        if !ended_before {
            self.put(id, &row)?;
            self.append(revocation.clone())?;
        }
        Ok(Some(revocation))
    }

    /// Whether one of our own epochs has ended whatever had begun when the session did.
    fn logged_out(&self, row: &Row) -> Result<bool, Fault> {
        for name in [("subject", row.subject()), ("client", row.client()), ("everything", "")] {
            let epoch = self.epochs.get(name)?.map(|epoch| epoch.value().0);
            if epoch.is_some_and(|number| row.began() < Position { life: self.position.life, number }) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn row(&self, id: SessionId) -> Result<Option<Row>, Fault> {
        let Some(bytes) = self.sessions.get(&id.0)? else { return Ok(None) };
        decode(bytes.value()).map(Some).map_err(Fault::Row)
    }

    /// The same where many are walked over: one that is damaged must not stand in the way of the others.
    pub(super) fn readable_row(&self, id: SessionId) -> Result<Option<Row>, Fault> {
        match self.row(id) {
            Err(Fault::Row(_)) => Ok(None),
            other => other,
        }
    }

    /// Writes a row that was not there, with its place in the expiry index.
    pub(super) fn put_new(&mut self, id: SessionId, row: &Row) -> Result<(), Fault> {
        self.session_expiry.insert((row.expires().0, &id.0), ())?;
        self.put(id, row)
    }

    /// Writes a row. Its place in the expiry index stays. Should a refresh have shortened its life (its client's idle lifetime
    /// is less by now), it is kept a while longer than it has to be.
    fn put(&mut self, id: SessionId, row: &Row) -> Result<(), Fault> {
        self.changed = true;
        self.sessions.insert(&id.0, encode(row).as_slice())?;
        Ok(())
    }
}
