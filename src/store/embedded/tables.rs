//! The embedded store's tables, and what is done to all of them within one write transaction.

use std::{cell::RefCell, time::Duration};

use redb::{Key, ReadableTable as _, ReadableTableMetadata as _, Table, TableDefinition, Value, WriteTransaction};

use super::noted::{Changes, Noted};
use crate::{
    clock::Timestamp,
    store::{Revocation, Stats, Swept, Unavailable},
    types::{Position, SessionId},
};

pub(super) type Id = &'static [u8; 16];
/// Which of the two it is, and the digest.
type CodeName = &'static [u8; 33];
/// When it goes, for which session it was taken, and what is kept.
type Code = (u64, Option<Id>, &'static [u8]);
/// The kind of an epoch, and its name; empty for everything.
type Name = (&'static str, &'static str);

pub(super) const SESSIONS: TableDefinition<'_, Id, &[u8]> = TableDefinition::new("sessions");
/// When which session may be forgotten, as it was when it was opened or last looked at: mostly it is later by now.
const SESSION_EXPIRY: TableDefinition<'_, (u64, Id), ()> = TableDefinition::new("session_expiry");
/// The sessions of a subject.
const BY_SUBJECT: TableDefinition<'_, (&str, Id), ()> = TableDefinition::new("sessions_by_subject");
/// The sessions of a client.
const BY_CLIENT: TableDefinition<'_, (&str, Id), ()> = TableDefinition::new("sessions_by_client");
/// Authorization codes, and what has been presented once, by digest: when it goes, for which session it was taken, and what
/// was kept under it. The first byte of the name says which of the two.
const CODES: TableDefinition<'_, CodeName, Code> = TableDefinition::new("codes");
/// When which of them goes.
const CODE_EXPIRY: TableDefinition<'_, (u64, CodeName), ()> = TableDefinition::new("code_expiry");
/// The revocation log by sequence number.
const REVOCATIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("revocations");
/// When which entry of it may be forgotten.
const REVOCATION_EXPIRY: TableDefinition<'_, (u64, u64), ()> = TableDefinition::new("revocation_expiry");
/// The log's last entry about what is named again and again, by issuer (empty for our own), kind and name: it takes the place
/// of those before it, so that the log is as long as there are things to be refused.
const LATEST: TableDefinition<'_, (&str, &str, &str), u64> = TableDefinition::new("latest_revocations");
/// Our own issuer's epochs, by kind and name: the last one's number in the log, and when it may be forgotten, since the last
/// session that it ended would have ended by itself.
const EPOCHS: TableDefinition<'_, Name, (u64, u64)> = TableDefinition::new("epochs");
/// The same, by that time.
const EPOCH_EXPIRY: TableDefinition<'_, (u64, Name), ()> = TableDefinition::new("epoch_expiry");
/// Single numbers: the format, and what follows.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("sidegate");
pub(super) const FORMAT: &str = "format";
/// Which log this is: when it began, in milliseconds, and 16 bits of chance.
pub(super) const LIFE: &str = "life";
/// The number of the log's last entry. It must not start again when the log is empty.
pub(super) const LAST_REVOCATION: &str = "last_revocation";
/// When the last session of all will have ended, if nothing ends it before.
pub(super) const LAST_SESSION_ENDS: &str = "last_session_ends";
/// The longest that access tokens have ever lived, in milliseconds.
pub(super) const ACCESS_LIFETIME: &str = "access_lifetime";

/// When this file was written, in milliseconds, where it is a backup that has not been opened since.
pub(super) const BACKUP: &str = "backup";

/// The format this code writes, and the only one it reads.
pub(super) const CURRENT_FORMAT: u64 = 4;

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
    pub(super) sessions: Noted<'t, Id, &'static [u8]>,
    pub(super) session_expiry: Noted<'t, (u64, Id), ()>,
    pub(super) by_subject: Noted<'t, (&'static str, Id), ()>,
    pub(super) by_client: Noted<'t, (&'static str, Id), ()>,
    pub(super) codes: Noted<'t, CodeName, Code>,
    pub(super) code_expiry: Noted<'t, (u64, CodeName), ()>,
    pub(super) revocations: Noted<'t, u64, &'static [u8]>,
    pub(super) revocation_expiry: Noted<'t, (u64, u64), ()>,
    pub(super) latest: Noted<'t, (&'static str, &'static str, &'static str), u64>,
    pub(super) epochs: Noted<'t, Name, (u64, u64)>,
    pub(super) epoch_expiry: Noted<'t, (u64, Name), ()>,
    pub(super) meta: Noted<'t, &'static str, u64>,
    pub(super) now: Timestamp,
    pub(super) position: Position,
    pub(super) appended: Vec<Revocation>,
    pub(super) changed: bool,
    /// Whether a sweep has found no more to forget.
    swept: bool,
}

/// What verbs have come to, all of a transaction.
pub(super) struct Closed {
    /// Whether anything has been written.
    pub(super) changed: bool,
    /// What has been added to the log.
    pub(super) appended: Vec<Revocation>,
    /// How many rows are left, where a sweep has found no more to forget.
    pub(super) swept: Option<u64>,
}

impl<'t> Tables<'t> {
    /// Opens the tables, and makes those that are not there. `position` is where the log stands; `changes` take what is written.
    pub(super) fn open(
        transaction: &'t WriteTransaction,
        now: Timestamp,
        position: Position,
        changes: &'t RefCell<Changes>,
    ) -> Result<Self, redb::TableError> {
        Ok(Self {
            sessions: Noted::open(transaction, SESSIONS, changes)?,
            session_expiry: Noted::open(transaction, SESSION_EXPIRY, changes)?,
            by_subject: Noted::open(transaction, BY_SUBJECT, changes)?,
            by_client: Noted::open(transaction, BY_CLIENT, changes)?,
            codes: Noted::open(transaction, CODES, changes)?,
            code_expiry: Noted::open(transaction, CODE_EXPIRY, changes)?,
            revocations: Noted::open(transaction, REVOCATIONS, changes)?,
            revocation_expiry: Noted::open(transaction, REVOCATION_EXPIRY, changes)?,
            latest: Noted::open(transaction, LATEST, changes)?,
            epochs: Noted::open(transaction, EPOCHS, changes)?,
            epoch_expiry: Noted::open(transaction, EPOCH_EXPIRY, changes)?,
            meta: Noted::open(transaction, META, changes)?,
            now,
            position,
            appended: Vec::new(),
            changed: false,
            swept: false,
        })
    }

    /// Marks a new file as ours, and begins its log.
    pub(super) fn initialise(&mut self) -> Result<(), redb::StorageError> {
        let [.., one, two] = *uuid::Uuid::now_v7().as_bytes();
        self.meta.insert(LIFE, self.now.0 << 16 | u64::from(u16::from_be_bytes([one, two])))?;
        self.meta.insert(FORMAT, CURRENT_FORMAT).map(drop)
    }

    pub(super) fn close(self) -> Result<Closed, redb::Error> {
        let swept = match self.swept {
            true => Some(self.sessions.len()? + self.revocations.len()? + self.epochs.len()? + self.codes.len()?),
            false => None,
        };
        Ok(Closed { changed: self.changed, appended: self.appended, swept })
    }

    pub(super) fn stats(&self, bytes: u64) -> Result<Stats, Fault> {
        Ok(Stats {
            sessions: self.sessions.len()?,
            revocations: self.revocations.len()?,
            epochs: self.epochs.len()?,
            codes: self.codes.len()?,
            bytes,
            log: self.position.to_string(),
        })
    }

    pub(super) fn longest_access_lifetime(&mut self, now: Duration) -> Result<Duration, Fault> {
        let longest = self.at_least(ACCESS_LIFETIME, u64::try_from(now.as_millis()).unwrap_or(u64::MAX))?;
        Ok(Duration::from_millis(longest))
    }

    pub(super) fn sweep(&mut self, limit: usize) -> Result<Swept, Fault> {
        let (now, mut swept) = (self.now.0, Swept::default());
        let mut due = 0;
        while due < limit {
            let Some((at, id)) = first_due(&self.session_expiry, now, |key| key.0, |key| *key.1)? else { break };
            due += 1;
            self.session_expiry.remove((at, &id))?;
            let row = self.readable_row(SessionId(id))?;
            // A refresh does not move it: that would be half of what is written for one.
            if let Some(expires) = row.as_ref().map(|row| row.expires().0).filter(|expires| *expires > now) {
                self.session_expiry.insert((expires, &id), ())?;
                continue;
            }
            if let Some(row) = row {
                self.by_subject.remove((row.subject(), &id))?;
                self.by_client.remove((row.client(), &id))?;
            }
            self.sessions.remove(&id)?;
            swept.sessions += 1;
        }
        while swept.revocations < limit {
            let Some((at, number)) = first_due(&self.revocation_expiry, now, |key| key.0, |key| key.1)? else { break };
            self.revocation_expiry.remove((at, number))?;
            self.take_out(number)?;
            swept.revocations += 1;
        }
        let mut others = 0;
        while others < limit {
            let Some((kind, id)) = self.due_epoch(now)? else { break };
            self.forget_epoch((&kind, &id))?;
            others += 1;
        }
        while others < limit {
            let Some((at, name)) = first_due(&self.code_expiry, now, |key| key.0, |key| *key.1)? else { break };
            self.code_expiry.remove((at, &name))?;
            self.codes.remove(&name)?;
            others += 1;
        }
        self.changed |= due + swept.revocations + others > 0;
        swept.more = [due, swept.revocations, others].contains(&limit);
        self.swept |= !swept.more;
        Ok(swept)
    }

    /// Keeps the greatest number under a name; answers it.
    pub(super) fn at_least(&mut self, name: &'static str, number: u64) -> Result<u64, Fault> {
        let before = self.meta.get(name)?.map_or(0, |number| number.value());
        if number > before {
            self.changed = true;
            self.meta.insert(name, number)?;
        }
        Ok(before.max(number))
    }
}

/// What is done to every table, whatever is in it.
pub(super) trait EachTable {
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<(), redb::Error>;
}

/// Does it. What marks a file as ours comes last.
pub(super) fn each_table(done: &mut impl EachTable) -> Result<(), redb::Error> {
    done.table(SESSIONS)?;
    done.table(SESSION_EXPIRY)?;
    done.table(BY_SUBJECT)?;
    done.table(BY_CLIENT)?;
    done.table(CODES)?;
    done.table(CODE_EXPIRY)?;
    done.table(REVOCATIONS)?;
    done.table(REVOCATION_EXPIRY)?;
    done.table(LATEST)?;
    done.table(EPOCHS)?;
    done.table(EPOCH_EXPIRY)?;
    done.table(META)
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
