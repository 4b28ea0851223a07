//! The embedded store's tables, and its verbs upon them within one write transaction.

use std::{ops::Bound, time::Duration};

use redb::{ReadableTable as _, ReadableTableMetadata as _, Table, TableDefinition, WriteTransaction};

use super::{
    Digest, Lifted, MOST_ENDED, NewRevocation, NewSession, Opened, Presented, Record, Revocation, Revoked, Rotation,
    RotationRules, Session, Stats, Swept, Taken, Unavailable, Visitor, Whose,
    row::{Ended, Row, decode, encode},
};
use crate::{
    clock::Timestamp,
    types::{Position, SessionId, Subject},
};

type Id = &'static [u8; 16];
/// Which of the two it is, and the digest.
type CodeName = &'static [u8; 33];
/// When it goes, for which session it was taken, and what is kept.
type Code = (u64, Option<Id>, &'static [u8]);
/// The kind of an epoch, and its name; empty for everything.
type Name = (&'static str, &'static str);

const SESSIONS: TableDefinition<'_, Id, &[u8]> = TableDefinition::new("sessions");
/// When which session may be forgotten.
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
const LAST_SESSION_ENDS: &str = "last_session_ends";
/// The longest that access tokens have ever lived, in milliseconds.
const ACCESS_LIFETIME: &str = "access_lifetime";

/// The format this code writes, and the only one it reads.
pub(super) const CURRENT_FORMAT: u64 = 4;

/// The greatest identifier.
const ID_MAX: [u8; 16] = [0xff; 16];

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
    by_subject: Table<'t, (&'static str, Id), ()>,
    by_client: Table<'t, (&'static str, Id), ()>,
    codes: Table<'t, CodeName, Code>,
    code_expiry: Table<'t, (u64, CodeName), ()>,
    revocations: Table<'t, u64, &'static [u8]>,
    revocation_expiry: Table<'t, (u64, u64), ()>,
    latest: Table<'t, (&'static str, &'static str, &'static str), u64>,
    epochs: Table<'t, Name, (u64, u64)>,
    epoch_expiry: Table<'t, (u64, Name), ()>,
    meta: Table<'t, &'static str, u64>,
    now: Timestamp,
    position: Position,
    appended: Vec<Revocation>,
    changed: bool,
}

impl<'t> Tables<'t> {
    /// Opens the tables, and makes those that are not there. `position` is where the log stands.
    pub(super) fn open(
        transaction: &'t WriteTransaction,
        now: Timestamp,
        position: Position,
    ) -> Result<Self, redb::TableError> {
        Ok(Self {
            sessions: transaction.open_table(SESSIONS)?,
            session_expiry: transaction.open_table(SESSION_EXPIRY)?,
            by_subject: transaction.open_table(BY_SUBJECT)?,
            by_client: transaction.open_table(BY_CLIENT)?,
            codes: transaction.open_table(CODES)?,
            code_expiry: transaction.open_table(CODE_EXPIRY)?,
            revocations: transaction.open_table(REVOCATIONS)?,
            revocation_expiry: transaction.open_table(REVOCATION_EXPIRY)?,
            latest: transaction.open_table(LATEST)?,
            epochs: transaction.open_table(EPOCHS)?,
            epoch_expiry: transaction.open_table(EPOCH_EXPIRY)?,
            meta: transaction.open_table(META)?,
            now,
            position,
            appended: Vec::new(),
            changed: false,
        })
    }

    /// Marks a new file as ours, and begins its log.
    pub(super) fn initialise(&mut self) -> Result<(), redb::StorageError> {
        let [.., one, two] = *uuid::Uuid::now_v7().as_bytes();
        self.meta.insert(LIFE, self.now.0 << 16 | u64::from(u16::from_be_bytes([one, two])))?;
        self.meta.insert(FORMAT, CURRENT_FORMAT).map(drop)
    }

    /// Whether anything has been written, and what has been added to the log.
    pub(super) fn close(self) -> (bool, Vec<Revocation>) {
        (self.changed, self.appended)
    }

    pub(super) fn open_session(&mut self, new: &NewSession) -> Result<Opened, Fault> {
        let ended = match new.max_sessions {
            Some(most) => self.make_room(&new.subject, most)?,
            None => Vec::new(),
        };
        let id = new.id;
        let row = Row::open(new, self.now, self.position);
        self.put(id, None, &row)?;
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

    pub(super) fn keep_code(&mut self, name: &Digest, value: &[u8], until: Timestamp) -> Result<(), Fault> {
        self.keep(&named(CODE, name), value, until)
    }

    pub(super) fn take_code(&mut self, name: &Digest, session: SessionId) -> Result<Taken, Fault> {
        let name = named(CODE, name);
        let Some((until, taken, value)) = self.kept(&name)? else { return Ok(Taken::Unknown) };
        if let Some(before) = taken {
            return Ok(Taken::Before(before));
        }
        self.changed = true;
        self.codes.insert(&name, (until, Some(&session.0), [].as_slice()))?;
        Ok(Taken::Now(value))
    }

    pub(super) fn mark(&mut self, name: &Digest, until: Timestamp) -> Result<bool, Fault> {
        let name = named(MARK, name);
        let new = self.kept(&name)?.is_none();
        if new {
            self.keep(&name, &[], until)?;
        }
        Ok(new)
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

    fn keep(&mut self, name: &[u8; 33], value: &[u8], until: Timestamp) -> Result<(), Fault> {
        self.changed = true;
        let before = self.codes.insert(name, (until.0, None, value))?.map(|before| before.value().0);
        if let Some(before) = before {
            self.code_expiry.remove((before, name))?;
        }
        self.code_expiry.insert((until.0, name), ())?;
        Ok(())
    }

    /// What is kept under a name, unless its time is over.
    #[expect(clippy::type_complexity, reason = "a row of the table, owned, for the two verbs above")]
    fn kept(&self, name: &[u8; 33]) -> Result<Option<(u64, Option<SessionId>, Box<[u8]>)>, Fault> {
        let Some(row) = self.codes.get(name)? else { return Ok(None) };
        let (until, taken, value) = row.value();
        Ok((until > self.now.0).then(|| (until, taken.copied().map(SessionId), value.into())))
    }

    pub(super) fn session(&self, id: SessionId) -> Result<Option<Session>, Fault> {
        Ok(self.row(id)?.map(|row| row.session(id)))
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
        let before = row.expires();
        let rotation = row.rotate(id, presented.generation, rules, visitor, self.now, self.position.number + 1);
        match &rotation {
            Rotation::Rotated(_) | Rotation::Replayed(_) => self.put(id, Some(before), &row)?,
            Rotation::Reused(revocation) | Rotation::RolledBack(revocation) => {
                self.put(id, Some(before), &row)?;
                self.append(revocation.clone())?;
            }
            Rotation::Revoked(_) | Rotation::LoggedOut | Rotation::Expired | Rotation::Unknown => {}
        }
        Ok(rotation)
    }

    pub(super) fn revoke_session(&mut self, id: SessionId, reason: &str) -> Result<Option<Revocation>, Fault> {
        let Some(mut row) = self.row(id)? else { return Ok(None) };
        let (ended_before, expires_before) = (row.is_revoked(), row.expires());
        let revocation = row.revoke(id, Ended { at: self.now, number: self.position.number + 1 }, reason);
        if !ended_before {
            self.put(id, Some(expires_before), &row)?;
            self.append(revocation.clone())?;
        }
        Ok(Some(revocation))
    }

    pub(super) fn revoke(&mut self, new: NewRevocation) -> Result<Revocation, Fault> {
        let NewRevocation { issuer, what, until, reason } = new;
        let (number, at) = (self.position.number + 1, self.now);
        if let (None, Some(name)) = (&issuer, epoch_name(&what)) {
            let ends = self.meta.get(LAST_SESSION_ENDS)?.map_or(0, |at| at.value()).max(until.0);
            self.forget_epoch(name)?;
            self.epochs.insert(name, (number, ends))?;
            self.epoch_expiry.insert((ends, name), ())?;
        }
        let revocation = Revocation { number, at, issuer, what, until, refresh_until: until, lifts: false, reason };
        self.append(revocation)
    }

    pub(super) fn lift(&mut self, number: u64, reason: Box<str>) -> Result<Lifted, Fault> {
        let Some(lifted) = self.entry(number)?.filter(|entry| entry.until > self.now && !entry.lifts) else {
            return Ok(Lifted::Unknown);
        };
        if let (None, Revoked::Session(_) | Revoked::Key(_)) = (&lifted.issuer, &lifted.what) {
            return Ok(Lifted::Final(lifted.what));
        }
        if let (None, Some(name)) = (&lifted.issuer, epoch_name(&lifted.what)) {
            self.forget_epoch(name)?;
        }
        self.take_out(number)?;
        if epoch_name(&lifted.what).is_none() {
            // Of tokens and foreign sessions no list is kept by name; lifting is rare enough to look at all.
            for number in self.numbers_of(&lifted)? {
                self.take_out(number)?;
            }
        }
        let entry = Revocation { number: self.position.number + 1, at: self.now, lifts: true, reason, ..lifted };
        Ok(Lifted::Done(self.append(entry)?))
    }

    pub(super) fn log(&self, after: u64, limit: usize) -> Result<Vec<Revocation>, Fault> {
        let mut live = Vec::new();
        for entry in self.revocations.range(after.saturating_add(1)..)? {
            // One damaged entry fails the whole list: to serve without it would lift a revocation.
            let revocation: Revocation = decode(entry?.1.value()).map_err(Fault::Row)?;
            if revocation.until > self.now {
                live.push(revocation);
            }
            if live.len() == limit {
                break;
            }
        }
        Ok(live)
    }

    pub(super) fn longest_access_lifetime(&mut self, now: Duration) -> Result<Duration, Fault> {
        let longest = self.at_least(ACCESS_LIFETIME, u64::try_from(now.as_millis()).unwrap_or(u64::MAX))?;
        Ok(Duration::from_millis(longest))
    }

    pub(super) fn sweep(&mut self, limit: usize) -> Result<Swept, Fault> {
        let (now, mut swept) = (self.now.0, Swept::default());
        while swept.sessions < limit {
            let Some(id) = first_due(&self.session_expiry, now, |key| key.0, |key| *key.1)? else { break };
            self.session_expiry.remove((id.0, &id.1))?;
            if let Some(row) = self.readable_row(SessionId(id.1))? {
                self.by_subject.remove((row.subject(), &id.1))?;
                self.by_client.remove((row.client(), &id.1))?;
            }
            self.sessions.remove(&id.1)?;
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
        self.changed |= swept != Swept::default() || others > 0;
        Ok(swept)
    }

    fn row(&self, id: SessionId) -> Result<Option<Row>, Fault> {
        let Some(bytes) = self.sessions.get(&id.0)? else { return Ok(None) };
        decode(bytes.value()).map(Some).map_err(Fault::Row)
    }

    /// The same where many are walked over: one that is damaged must not stand in the way of the others.
    fn readable_row(&self, id: SessionId) -> Result<Option<Row>, Fault> {
        match self.row(id) {
            Err(Fault::Row(_)) => Ok(None),
            other => other,
        }
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

    fn entry(&self, number: u64) -> Result<Option<Revocation>, Fault> {
        let Some(bytes) = self.revocations.get(number)? else { return Ok(None) };
        decode(bytes.value()).map(Some).map_err(Fault::Row)
    }

    /// Takes an entry out of the log; one that is not there is out already.
    fn take_out(&mut self, number: u64) -> Result<(), Fault> {
        let Some(entry) = self.entry(number)? else { return Ok(()) };
        self.revocations.remove(number)?;
        self.revocation_expiry.remove((entry.until.0, number))?;
        let latest = self.latest.get(latest_name(&entry))?.map(|latest| latest.value());
        if latest == Some(number) {
            self.latest.remove(latest_name(&entry))?;
        }
        Ok(())
    }

    /// The numbers of the entries about the same thing.
    fn numbers_of(&self, same: &Revocation) -> Result<Vec<u64>, Fault> {
        let mut numbers = Vec::new();
        for row in self.revocations.iter()? {
            let entry: Revocation = decode(row?.1.value()).map_err(Fault::Row)?;
            if (&entry.what, &entry.issuer) == (&same.what, &same.issuer) {
                numbers.push(entry.number);
            }
        }
        Ok(numbers)
    }

    /// Adds an entry, which has the next number, to the revocation log.
    fn append(&mut self, mut revocation: Revocation) -> Result<Revocation, Fault> {
        self.changed = true;
        let number = revocation.number;
        let before = self.latest.get(latest_name(&revocation))?.map(|latest| latest.value());
        if let Some(before) = before {
            // It lasts as long as the one whose place it takes: a clock may have been set back since.
            let until = self.entry(before)?.map_or(revocation.until, |entry| entry.until);
            revocation.until = revocation.until.max(until);
            self.take_out(before)?;
        }
        if revocation.lifts || !revocation.what.is_exact() {
            self.latest.insert(latest_name(&revocation), number)?;
        }
        self.position.number = number;
        self.meta.insert(LAST_REVOCATION, number)?;
        self.revocations.insert(number, encode(&revocation).as_slice())?;
        self.revocation_expiry.insert((revocation.until.0, number), ())?;
        self.appended.push(revocation.clone());
        Ok(revocation)
    }

    fn due_epoch(&self, now: u64) -> Result<Option<(String, String)>, Fault> {
        Ok(self.epoch_expiry.first()?.and_then(|(key, _)| {
            let (at, (kind, id)) = key.value();
            (at <= now).then(|| (kind.to_owned(), id.to_owned()))
        }))
    }

    fn forget_epoch(&mut self, name: (&str, &str)) -> Result<(), Fault> {
        let ends = self.epochs.remove(name)?.map(|epoch| epoch.value().1);
        if let Some(ends) = ends {
            self.epoch_expiry.remove((ends, name))?;
        }
        Ok(())
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

    /// Keeps the greatest number under a name; answers it.
    fn at_least(&mut self, name: &'static str, number: u64) -> Result<u64, Fault> {
        let before = self.meta.get(name)?.map_or(0, |number| number.value());
        if number > before {
            self.changed = true;
            self.meta.insert(name, number)?;
        }
        Ok(before.max(number))
    }
}

/// Which of the two a name in `codes` is of.
const CODE: u8 = b'c';
const MARK: u8 = b'm';

fn named(kind: u8, name: &Digest) -> [u8; 33] {
    let mut whole = [kind; 33];
    whole[1..].copy_from_slice(name);
    whole
}

/// What the last entry about something is found by.
fn latest_name(entry: &Revocation) -> (&str, &str, &str) {
    let issuer = entry.issuer.as_ref().map_or("", |issuer| issuer.as_str());
    (issuer, entry.what.kind(), entry.what.id().unwrap_or(""))
}

/// What an epoch is found by.
fn epoch_name(what: &Revoked) -> Option<(&'static str, &str)> {
    match what {
        Revoked::Subject(_) | Revoked::Client(_) | Revoked::Everything => Some((what.kind(), what.id().unwrap_or(""))),
        Revoked::Token(_) | Revoked::Session(_) | Revoked::Key(_) => None,
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
