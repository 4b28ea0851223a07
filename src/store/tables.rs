//! The embedded store's tables, and its verbs upon them within one write transaction.

use redb::{ReadableTable as _, Table, TableDefinition, WriteTransaction};

use super::{
    NewSession, Presented, Revocation, Revoked, Rotation, RotationRules, Session, Swept, Unavailable,
    row::{Row, decode, encode},
};
use crate::{clock::Timestamp, types::SessionId};

type Id = &'static [u8; 16];

const SESSIONS: TableDefinition<'_, Id, &[u8]> = TableDefinition::new("sessions");
/// When which session may be forgotten.
const SESSION_EXPIRY: TableDefinition<'_, (u64, Id), ()> = TableDefinition::new("session_expiry");
/// The revocation log by sequence number.
const REVOCATIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("revocations");
/// When which entry of it may be forgotten.
const REVOCATION_EXPIRY: TableDefinition<'_, (u64, u64), ()> = TableDefinition::new("revocation_expiry");
/// Single numbers: the format, and the log's next sequence number, which must not start again when the log is empty.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("sidegate");
pub(super) const FORMAT: &str = "format";
const NEXT_REVOCATION: &str = "next_revocation";

/// The format this code writes, and the only one it reads.
pub(super) const CURRENT_FORMAT: u64 = 1;

/// Why a verb came to nothing.
pub(super) enum Fault {
    /// This one row cannot be read; the transaction is sound.
    Row(Unavailable),
    /// The transaction cannot be believed any more.
    Storage(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Storage(error.into())
    }
}

/// All tables, open for one transaction. A verb reads what it needs before it writes, so a [`Fault::Row`] leaves nothing
/// half done.
pub(super) struct Tables<'t> {
    sessions: Table<'t, Id, &'static [u8]>,
    session_expiry: Table<'t, (u64, Id), ()>,
    revocations: Table<'t, u64, &'static [u8]>,
    revocation_expiry: Table<'t, (u64, u64), ()>,
    meta: Table<'t, &'static str, u64>,
    now: Timestamp,
    changed: bool,
}

impl<'t> Tables<'t> {
    /// Opens the tables, and makes those that are not there.
    pub(super) fn open(transaction: &'t WriteTransaction, now: Timestamp) -> Result<Self, redb::TableError> {
        Ok(Self {
            sessions: transaction.open_table(SESSIONS)?,
            session_expiry: transaction.open_table(SESSION_EXPIRY)?,
            revocations: transaction.open_table(REVOCATIONS)?,
            revocation_expiry: transaction.open_table(REVOCATION_EXPIRY)?,
            meta: transaction.open_table(META)?,
            now,
            changed: false,
        })
    }

    /// Marks a new file as ours.
    pub(super) fn initialise(&mut self) -> Result<(), redb::StorageError> {
        self.meta.insert(FORMAT, CURRENT_FORMAT).map(drop)
    }

    /// Whether anything has been written.
    pub(super) fn changed(&self) -> bool {
        self.changed
    }

    pub(super) fn open_session(&mut self, new: &NewSession) -> Result<Session, Fault> {
        let id = SessionId::generate();
        let row = Row::open(new, self.now);
        self.put(id, None, &row)?;
        Ok(row.session(id))
    }

    pub(super) fn session(&self, id: SessionId) -> Result<Option<Session>, Fault> {
        Ok(self.row(id)?.map(|row| row.session(id)))
    }

    pub(super) fn rotate(&mut self, presented: Presented, rules: &RotationRules) -> Result<Rotation, Fault> {
        let id = presented.session;
        let Some(mut row) = self.row(id)? else { return Ok(Rotation::Unknown) };
        let before = row.expires();
        let rotation = row.rotate(id, presented.generation, rules, self.now);
        match &rotation {
            Rotation::Rotated(_) | Rotation::Replayed(_) => self.put(id, Some(before), &row)?,
            Rotation::Reused(revocation) | Rotation::RolledBack(revocation) => {
                self.put(id, Some(before), &row)?;
                self.append(revocation)?;
            }
            Rotation::Revoked(_) | Rotation::Expired | Rotation::Unknown => {}
        }
        Ok(rotation)
    }

    pub(super) fn revoke_session(&mut self, id: SessionId) -> Result<Option<Revocation>, Fault> {
        let Some(mut row) = self.row(id)? else { return Ok(None) };
        let (ended_before, expires_before) = (row.is_revoked(), row.expires());
        let revocation = row.revoke(id, self.now);
        if !ended_before {
            self.put(id, Some(expires_before), &row)?;
            self.append(&revocation)?;
        }
        Ok(Some(revocation))
    }

    pub(super) fn revoke_token(&mut self, jti: Box<str>, until: Timestamp) -> Result<Revocation, Fault> {
        let revocation = Revocation { what: Revoked::Token(jti), until, refresh_until: until };
        self.append(&revocation)?;
        Ok(revocation)
    }

    pub(super) fn live_revocations(&self) -> Result<Vec<Revocation>, Fault> {
        let mut live = Vec::new();
        for entry in self.revocations.iter()? {
            // One damaged entry fails the whole list: to serve without it would lift a revocation.
            let revocation: Revocation = decode(entry?.1.value()).map_err(Fault::Row)?;
            if revocation.until > self.now {
                live.push(revocation);
            }
        }
        Ok(live)
    }

    pub(super) fn sweep(&mut self, limit: usize) -> Result<Swept, Fault> {
        let (now, mut swept) = (self.now.0, Swept::default());
        while swept.sessions < limit {
            let Some(id) = first_due(&self.session_expiry, now, |key| key.0, |key| *key.1)? else { break };
            self.session_expiry.remove((id.0, &id.1))?;
            self.sessions.remove(&id.1)?;
            swept.sessions += 1;
        }
        while swept.revocations < limit {
            let Some((at, number)) = first_due(&self.revocation_expiry, now, |key| key.0, |key| key.1)? else { break };
            self.revocation_expiry.remove((at, number))?;
            self.revocations.remove(number)?;
            swept.revocations += 1;
        }
        self.changed |= swept != Swept::default();
        Ok(swept)
    }

    fn row(&self, id: SessionId) -> Result<Option<Row>, Fault> {
        let Some(bytes) = self.sessions.get(&id.0)? else { return Ok(None) };
        decode(bytes.value()).map(Some).map_err(Fault::Row)
    }

    /// Writes a row and moves its place in the expiry index.
    fn put(&mut self, id: SessionId, expired_before: Option<Timestamp>, row: &Row) -> Result<(), Fault> {
        self.changed = true;
        self.sessions.insert(&id.0, encode(row).as_slice())?;
        let expires = row.expires();
        if expired_before != Some(expires) {
            if let Some(before) = expired_before {
                self.session_expiry.remove((before.0, &id.0))?;
            }
            self.session_expiry.insert((expires.0, &id.0), ())?;
        }
        Ok(())
    }

    /// Adds an entry to the revocation log.
    fn append(&mut self, revocation: &Revocation) -> Result<(), Fault> {
        self.changed = true;
        let number = self.meta.get(NEXT_REVOCATION)?.map_or(0, |next| next.value());
        self.meta.insert(NEXT_REVOCATION, number + 1)?;
        self.revocations.insert(number, encode(revocation).as_slice())?;
        self.revocation_expiry.insert((revocation.until.0, number), ())?;
        Ok(())
    }
}

/// The first key of an expiry index, if its time has come.
fn first_due<K: redb::Key + 'static, T>(
    index: &Table<'_, K, ()>,
    now: u64,
    at: impl Fn(&K::SelfType<'_>) -> u64,
    of: impl Fn(&K::SelfType<'_>) -> T,
) -> Result<Option<(u64, T)>, redb::StorageError> {
    Ok(index.first()?.and_then(|(key, _)| {
        let key = key.value();
        (at(&key) <= now).then(|| (at(&key), of(&key)))
    }))
}
