//! The store in Redis or Valkey, which several processes share: alone, under Sentinels, or as a cluster.
//!
//! What a verb does to a session is decided here, by the same code as in the embedded store; a script then puts the new row in
//! place of the old one unless somebody else was faster, in which case it is decided anew. A session is ended in its row,
//! then in the log; where a failover has lost the one or the other, whoever has read the log on tells it again. What time
//! it is, the server of the log says.

mod config;
mod link;
mod log;
mod moving;
mod names;
mod scripts;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use redis::{Pipeline, Value};
use tokio::sync::{Notify, watch};

pub use self::config::{Layout, Login, RedisConfig, Tls, Wait};
use self::{
    link::Link,
    log::{Reader, session_in, uid},
    names::{Names, PARTS, Place},
    scripts::Script,
};
use super::{
    Digest, Lifted, NewRevocation, NewSession, Opened, Presented, Record, Revocation, Rotation, RotationRules, Session,
    Stats, Swept, Tail, Taken, Unavailable, Visitor, Whose,
    row::{Ended, Row, decode, encode},
};
use crate::{
    clock::{Clock, Timestamp},
    types::{Position, SessionId, Subject},
};

/// The format of what is kept there.
const FORMAT: u64 = 1;
/// How often a verb decides anew because somebody else was faster.
const TRIES: usize = 200;
/// How long who has ended a session has to enter that into the log, before others do it.
const ENTERED_WITHIN: Duration = Duration::from_secs(10);
/// How many rows are asked for at a time.
const CHUNK: usize = 256;

/// The store in Redis. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Redis(Arc<Inner>);

/// Why the store in Redis could not be opened. Nothing has been changed there.
#[derive(Debug, thiserror::Error)]
pub enum RedisOpenError {
    /// It does not answer, or refuses.
    #[error("the session store in Redis cannot be opened: {}", .0.0)]
    Unavailable(#[from] Unavailable),
    /// Another release has written it.
    #[error(
        "the session store in Redis below {prefix:?} has format {found}, which another release of sidegate has written; this one reads format {FORMAT}"
    )]
    OtherFormat {
        /// How the names of its keys begin.
        prefix: Arc<str>,
        /// Its format.
        found: u64,
    },
    /// There is nothing in it any more that counts.
    #[error("the session store in Redis below {0:?} has moved into another one: `sidegate store migrate` did that")]
    Moved(Arc<str>),
}

/// What a store is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Serve,
    /// To move it, which may have been begun before.
    Move,
}

struct Inner {
    link: Arc<Link>,
    names: Names,
    clock: Clock,
    tail: Arc<Tail>,
    time: ServerTime,
    /// Wakes who reads the log.
    wake: Arc<Notify>,
    /// Which version the signing keys have.
    keys: watch::Sender<u64>,
    /// Why nothing is answered.
    lost: Mutex<Option<Arc<str>>>,
    /// The clients that are known to be in the list of those there are.
    clients: Mutex<HashSet<Box<str>>>,
    /// Where sweeping goes on.
    swept: Mutex<u8>,
    /// What the log has of sessions, and their rows may not have yet; and from when on that is looked at.
    unfinished: Mutex<VecDeque<(tokio::time::Instant, Revocation)>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("prefix", &self.names.0).finish_non_exhaustive()
    }
}

/// What came of putting a row in place of another.
enum Swapped {
    Done,
    /// This is there instead.
    Other(Vec<u8>),
    Gone,
}

impl Redis {
    /// Opens the store that is there, or begins one. Must be called within the runtime that is to read its log.
    pub(super) async fn open(config: RedisConfig, clock: Clock, purpose: Purpose) -> Result<Self, RedisOpenError> {
        let names = Names(config.prefix.clone());
        let link = Arc::new(Link::new(config));
        let position = begin(&link, &names, purpose).await?;
        let inner = Arc::new(Inner {
            link,
            names,
            clock,
            tail: Arc::new(Tail::followed(position)),
            time: ServerTime::default(),
            wake: Arc::default(),
            keys: watch::Sender::new(0),
            lost: Mutex::default(),
            clients: Mutex::default(),
            swept: Mutex::default(),
            unfinished: Mutex::default(),
        });
        let reader = Reader::start(&inner).await?;
        inner.tail.advance(reader.number());
        tokio::spawn(reader.run(Arc::downgrade(&inner)));
        tokio::spawn(log::finish(Arc::downgrade(&inner)));
        Ok(Self(inner))
    }

    pub(super) async fn open_session(&self, new: NewSession) -> Result<Opened, Unavailable> {
        self.0.open_session(&new).await
    }

    pub(super) async fn session(&self, id: SessionId) -> Result<Option<Session>, Unavailable> {
        Ok(self.0.row(id).await?.map(|(_, row)| row.session(id)))
    }

    pub(super) async fn rotate(
        &self,
        presented: Presented,
        rules: RotationRules,
        visitor: Visitor,
    ) -> Result<Rotation, Unavailable> {
        self.0.rotate(presented, &rules, &visitor).await
    }

    pub(super) async fn record(&self, id: SessionId) -> Result<Option<Record>, Unavailable> {
        match self.0.row(id).await? {
            Some((_, row)) => Ok(self.0.records(vec![(id, row)]).await?.pop()),
            None => Ok(None),
        }
    }

    pub(super) async fn list(
        &self,
        whose: Whose,
        after: Option<SessionId>,
        limit: usize,
    ) -> Result<Vec<Record>, Unavailable> {
        let ids = match &whose {
            Whose::Subject(subject) => {
                let place = Place::of_subject(subject);
                self.0.indexed(vec![(place, self.0.names.by_subject(place, subject.as_str()))], after, limit).await?
            }
            Whose::Client(client) => self.0.clients_sessions(&[client.as_str()], after, limit).await?,
            Whose::Everybodys => {
                let clients: Vec<String> = self.0.clients().await?;
                let clients: Vec<&str> = clients.iter().map(String::as_str).collect();
                self.0.clients_sessions(&clients, after, limit).await?
            }
        };
        let rows = self.0.rows(&ids).await?;
        let readable = rows.into_iter().filter_map(|(id, row)| Some((id, unstamped(&row?).ok()?))).collect();
        self.0.records(readable).await
    }

    pub(super) async fn keep_code(&self, name: Digest, value: Box<[u8]>, until: Timestamp) -> Result<(), Unavailable> {
        self.0.in_place()?;
        let place = Place::of_digest(&name);
        let mut keep = Script::Keep.on(&[&self.0.names.code(&name), &self.0.names.single(place, "codes")]);
        keep.arg(until.0).arg([b"c", &name[..]].concat()).arg(&*value);
        self.0.link.write(place, keep).await
    }

    pub(super) async fn take_code(&self, name: Digest, session: SessionId) -> Result<Taken, Unavailable> {
        self.0.in_place()?;
        let mut take = Script::Take.on(&[&self.0.names.code(&name)]);
        take.arg(self.0.now().0).arg(&session.0);
        let answer: Option<(Vec<u8>, Vec<u8>)> = self.0.link.write(Place::of_digest(&name), take).await?;
        let Some((taken, value)) = answer else {
            return self.0.has_its_data(Place::of_digest(&name)).await.map(|()| Taken::Unknown);
        };
        let by = SessionId(taken.try_into().map_err(|_| Unavailable("an authorization code is damaged".into()))?);
        Ok(if by == session { Taken::Now(value.into()) } else { Taken::Before(by) })
    }

    pub(super) async fn mark(&self, name: Digest, until: Timestamp) -> Result<bool, Unavailable> {
        self.0.in_place()?;
        let place = Place::of_digest(&name);
        let mut mark = Script::Mark.on(&[&self.0.names.mark(&name), &self.0.names.single(place, "codes")]);
        mark.arg(self.0.now().0).arg(until.0).arg([b"m", &name[..]].concat()).arg(&*uid());
        self.0.link.write(place, mark).await
    }

    pub(super) async fn stats(&self) -> Result<Stats, Unavailable> {
        let (mut sessions, mut codes) = (0, 0);
        for place in Place::parts() {
            let mut ask = Pipeline::new();
            ask.cmd("ZCARD").arg(self.0.names.single(place, "expiry"));
            ask.cmd("ZCARD").arg(self.0.names.single(place, "codes"));
            let (some, others): (u64, u64) = self.0.link.read_all(place, &ask).await?;
            (sessions, codes) = (sessions + some, codes + others);
        }
        let mut ask = Pipeline::new();
        ask.cmd("XLEN").arg(self.0.names.single(Place::Log, "entries"));
        ask.cmd("HLEN").arg(self.0.names.single(Place::Log, "epochs"));
        let (revocations, epochs) = self.0.link.read_all(Place::Log, &ask).await?;
        let memory: Vec<String> = self.0.link.of_each(redis::cmd("INFO").arg("memory")).await?;
        let used =
            |info: &String| info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse::<u64>().ok());
        let bytes = memory.iter().filter_map(used).sum();
        Ok(Stats { sessions, revocations, epochs, codes, bytes, log: self.0.tail.position().to_string() })
    }

    pub(super) async fn revoke_session(
        &self,
        id: SessionId,
        reason: Box<str>,
    ) -> Result<Option<Revocation>, Unavailable> {
        Ok(self.0.end(id, &reason).await?.map(|(revocation, _)| revocation))
    }

    pub(super) async fn revoke(&self, new: NewRevocation) -> Result<Revocation, Unavailable> {
        self.0.in_place()?;
        self.0.revoke(new).await
    }

    pub(super) async fn lift(&self, number: u64, reason: Box<str>) -> Result<Lifted, Unavailable> {
        self.0.in_place()?;
        self.0.lift(number, reason).await
    }

    pub(super) async fn revocations(&self, after: u64, limit: usize) -> Result<Vec<Revocation>, Unavailable> {
        self.0.in_place()?;
        self.0.log(after, limit).await
    }

    pub(super) fn tail(&self) -> &Arc<Tail> {
        &self.0.tail
    }

    pub(super) async fn longest_access_lifetime(&self, now: Duration) -> Result<Duration, Unavailable> {
        let meta = self.0.names.single(Place::Log, "meta");
        let mut ask = redis::cmd("HGET");
        ask.arg(&meta).arg("access_lifetime");
        let known: Option<u64> = self.0.link.read(Place::Log, &ask).await?;
        if let Some(known) = known.map(Duration::from_millis).filter(|known| *known >= now) {
            return Ok(known);
        }
        let mut greatest = Script::Greatest.on(&[&meta]);
        greatest.arg("access_lifetime").arg(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        Ok(Duration::from_millis(self.0.link.write(Place::Log, greatest).await?))
    }

    pub(super) async fn keys(&self) -> Result<Vec<u8>, Unavailable> {
        let mut ask = redis::cmd("GET");
        ask.arg(self.0.names.single(Place::Log, "keys"));
        Ok(self.0.link.read::<Option<Vec<u8>>>(Place::Log, &ask).await?.unwrap_or_default())
    }

    pub(super) async fn replace_keys(&self, before: &[u8], text: &[u8]) -> Result<bool, Unavailable> {
        let key = |name| self.0.names.single(Place::Log, name);
        let mut replace = Script::Replace.on(&[&key("keys"), &key("meta")]);
        replace.arg(before).arg(text);
        self.0.link.write(Place::Log, replace).await
    }

    pub(super) fn key_versions(&self) -> watch::Receiver<u64> {
        self.0.keys.subscribe()
    }

    pub(super) async fn sweep(&self, limit: usize) -> Result<Swept, Unavailable> {
        self.0.in_place()?;
        let revocations = self.0.sweep_log(limit).await?;
        let mut swept = Swept { sessions: 0, revocations };
        for _ in 0..PARTS {
            let part = *self.0.swept.lock().unwrap_or_else(PoisonError::into_inner);
            swept.sessions += self.0.sweep_part(Place::Part(part), limit - swept.sessions).await?;
            if swept.sessions >= limit {
                break;
            }
            *self.0.swept.lock().unwrap_or_else(PoisonError::into_inner) = (part + 1) % PARTS;
        }
        Ok(swept)
    }
}

impl Inner {
    /// What time it is, as the server of the log has it.
    fn now(&self) -> Timestamp {
        match &self.clock {
            Clock::System => self.time.now(),
            simulated @ Clock::Simulated(_) => simulated.now(),
        }
    }

    /// Nothing is answered any more, since what is there is not what this process knows.
    fn lose(&self, why: &str) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if lost.is_none() {
            tracing::error!("the session store in Redis is not answered from: {why}");
        }
        *lost = Some(why.into());
    }

    fn found(&self) {
        if self.lost.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            tracing::info!("the session store in Redis is there again");
        }
    }

    fn in_place(&self) -> Result<(), Unavailable> {
        match &*self.lost.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => Err(Unavailable(why.clone())),
            None => Ok(()),
        }
    }

    /// Whether a part is what it was, so that what is not there has never been.
    async fn has_its_data(&self, place: Place) -> Result<(), Unavailable> {
        let mut ask = redis::cmd("EXISTS");
        ask.arg(self.names.single(place, "life"));
        match self.link.read(place, &ask).await? {
            true => Ok(()),
            false => Err(Unavailable("a part of it has lost its data".into())),
        }
    }

    async fn open_session(&self, new: &NewSession) -> Result<Opened, Unavailable> {
        self.in_place()?;
        let id = new.id;
        debug_assert_eq!(Place::of(id), Place::of_subject(&new.subject), "a session is named after its subject's part");
        self.note_client(new.client.as_str()).await?;
        // Read before the row is written: whatever ends what has begun by now is further on.
        let now = self.now();
        let began = self.position(now + new.absolute_lifetime).await?;
        let row = Row::open(new, now, began);
        let place = Place::of(id);
        let keys = self.keys_of(id, Some(&row));
        let mut open = Script::Open.on(&keys.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let bytes = stamped(&row);
        open.arg(&bytes).arg(&id.0).arg(row.expires().0);
        match self.link.write::<bool>(place, open).await {
            Ok(true) => {}
            Ok(false) => return Err(Unavailable("a session of that name is there already".into())),
            Err(error) => {
                // It may be there all the same, and nobody has it: it must not count among those of its subject.
                let mut forget = Script::Forget.on(&keys.iter().map(Vec::as_slice).collect::<Vec<_>>());
                forget.arg(&bytes).arg(&id.0);
                let link = self.link.clone();
                tokio::spawn(async move { link.read::<bool>(place, &forget).await });
                return Err(error);
            }
        }
        let ended = match new.max_sessions {
            Some(most) => self.make_room(&new.subject, most as usize).await?,
            None => Vec::new(),
        };
        Ok(Opened { session: row.session(id), ended })
    }

    /// Ends the oldest sessions of a subject, so that there are no more than `most`. Whoever opens one does so afterwards: of
    /// two that open one at once, each sees both, and both end the same.
    async fn make_room(&self, subject: &Subject, most: usize) -> Result<Vec<Revocation>, Unavailable> {
        let place = Place::of_subject(subject);
        let mut all = redis::cmd("ZRANGE");
        all.arg(self.names.by_subject(place, subject.as_str())).arg(0).arg(-1);
        let ids = session_ids(self.link.read(place, &all).await?);
        let now = self.now();
        let rows = self.rows(&ids).await?.into_iter();
        let rows: Vec<(SessionId, Row)> = rows
            .filter_map(|(id, row)| Some((id, unstamped(&row?).ok()?)))
            .filter(|(_, row)| row.is_live(now))
            .collect();
        let logged_out = self.logged_out(&rows.iter().map(|(_, row)| about(row)).collect::<Vec<_>>()).await?;
        let live = rows.iter().zip(logged_out).filter(|(_, logged_out)| !logged_out);
        let mut live: Vec<_> = live.map(|((id, row), _)| (row.opened(), *id)).collect();
        live.sort_unstable();
        let surplus = live.len().saturating_sub(most).min(super::MOST_ENDED);
        let mut ended = Vec::new();
        for (_, id) in live.into_iter().take(surplus) {
            if let Some((revocation, true)) = self.end(id, "its subject had opened too many others").await? {
                ended.push(revocation);
            }
        }
        Ok(ended)
    }

    async fn rotate(
        &self,
        presented: Presented,
        rules: &RotationRules,
        visitor: &Visitor,
    ) -> Result<Rotation, Unavailable> {
        let id = presented.session;
        let Some((mut bytes, mut row)) = self.row(id).await? else { return Ok(Rotation::Unknown) };
        // An epoch that comes after this has come after the rotation: what goes out began before it, and is refused.
        if !row.is_revoked() && self.is_logged_out(&row).await? {
            return Ok(Rotation::LoggedOut);
        }
        for _ in 0..TRIES {
            let mut next = row.clone();
            let rotation = next.rotate(id, presented.generation, rules, visitor, self.now(), 0);
            let (rotation, swapped) = match rotation {
                Rotation::Rotated(_) | Rotation::Replayed(_) => {
                    (rotation, self.swap(id, &bytes, &stamped(&next), next.expires()).await?)
                }
                Rotation::Reused(revocation) => {
                    let (revocation, swapped) = self.ended_by(id, &bytes, &row, revocation).await?;
                    (Rotation::Reused(revocation), swapped)
                }
                Rotation::RolledBack(revocation) => {
                    let (revocation, swapped) = self.ended_by(id, &bytes, &row, revocation).await?;
                    (Rotation::RolledBack(revocation), swapped)
                }
                // Who ended it a while ago has come no further.
                Rotation::Revoked(ended)
                    if !row.is_entered() && self.now().since(ended.at).is_some_and(|since| since > ENTERED_WITHIN) =>
                {
                    return self.entered(id, &bytes, &row, "it had ended").await.map(Rotation::Revoked);
                }
                Rotation::Revoked(_) | Rotation::LoggedOut | Rotation::Expired | Rotation::Unknown => {
                    return Ok(rotation);
                }
            };
            match swapped {
                Swapped::Done => return Ok(rotation),
                Swapped::Gone => return self.has_its_data(Place::of(id)).await.map(|()| Rotation::Unknown),
                Swapped::Other(there) => {
                    row = unstamped(&there)?;
                    bytes = there;
                }
            }
        }
        Err(Unavailable("too many ask for one session at once".into()))
    }

    /// Ends a session; also answers whether it had not ended before.
    async fn end(&self, id: SessionId, reason: &str) -> Result<Option<(Revocation, bool)>, Unavailable> {
        let Some((mut bytes, mut row)) = self.row(id).await? else { return Ok(None) };
        for _ in 0..TRIES {
            let revocation = row.clone().revoke(id, Ended { at: self.now(), number: 0 }, reason);
            if row.is_revoked() && !row.is_entered() {
                // Who ended it has come no further.
                return Ok(Some((self.entered(id, &bytes, &row, reason).await?, true)));
            }
            if row.is_revoked() {
                if self.link.waits() {
                    // Who ended it may have been told that too few have it.
                    self.swap(id, &bytes, &bytes, row.expires()).await?;
                }
                return Ok(Some((revocation, false)));
            }
            let (revocation, swapped) = self.ended_by(id, &bytes, &row, revocation).await?;
            match swapped {
                Swapped::Done => return Ok(Some((revocation, true))),
                Swapped::Gone => return Ok(None),
                Swapped::Other(there) => {
                    row = unstamped(&there)?;
                    bytes = there;
                }
            }
        }
        Err(Unavailable("too many ask for one session at once".into()))
    }

    /// Ends a session in its row, which decides who was first; then enters that into the log, and its number into the row.
    async fn ended_by(
        &self,
        id: SessionId,
        bytes: &[u8],
        row: &Row,
        revocation: Revocation,
    ) -> Result<(Revocation, Swapped), Unavailable> {
        let mut next = row.clone();
        next.revoke(id, Ended { at: revocation.at, number: 0 }, "");
        let ended = stamped(&next);
        match self.swap(id, bytes, &ended, next.expires()).await? {
            Swapped::Done => Ok((self.entered(id, &ended, &next, &revocation.reason).await?, Swapped::Done)),
            swapped => Ok((revocation, swapped)),
        }
    }

    /// Enters into the log that a session has ended, where its row says that and no number of the log yet.
    async fn entered(&self, id: SessionId, bytes: &[u8], row: &Row, reason: &str) -> Result<Revocation, Unavailable> {
        let mut next = row.clone();
        let revocation = self.append(next.revoke(id, Ended { at: self.now(), number: 0 }, reason)).await?;
        next.enter(revocation.number);
        // Where somebody else was faster, it is in the log twice, and says the same.
        self.swap(id, bytes, &stamped(&next), next.expires()).await?;
        Ok(revocation)
    }

    /// Ends the session that an entry of the log is about, where that is not done yet.
    async fn ended_with(&self, entry: &Revocation) -> Result<(), Unavailable> {
        let Some(id) = session_in(entry) else { return Ok(()) };
        let Some((mut bytes, mut row)) = self.row(id).await? else { return Ok(()) };
        while !row.is_revoked() {
            let mut next = row.clone();
            next.revoke(id, Ended { at: entry.at, number: entry.number }, "");
            match self.swap(id, &bytes, &stamped(&next), next.expires()).await? {
                Swapped::Done | Swapped::Gone => break,
                Swapped::Other(there) => {
                    row = unstamped(&there)?;
                    bytes = there;
                }
            }
        }
        Ok(())
    }

    async fn swap(&self, id: SessionId, old: &[u8], new: &[u8], expires: Timestamp) -> Result<Swapped, Unavailable> {
        self.in_place()?;
        let place = Place::of(id);
        let mut swap = Script::Swap.on(&[&self.names.row(id), &self.names.single(place, "expiry")]);
        swap.arg(old).arg(new).arg(&id.0).arg(expires.0);
        Ok(match self.link.write(place, swap).await? {
            Value::Int(1) => Swapped::Done,
            Value::BulkString(there) => Swapped::Other(there),
            _ => Swapped::Gone,
        })
    }

    /// A session's row, and its bytes.
    async fn row(&self, id: SessionId) -> Result<Option<(Vec<u8>, Row)>, Unavailable> {
        self.in_place()?;
        let place = Place::of(id);
        let mut ask = redis::cmd("MGET");
        ask.arg(self.names.row(id)).arg(self.names.single(place, "life"));
        let (row, life): (Option<Vec<u8>>, Option<String>) = self.link.read(place, &ask).await?;
        match (row, life) {
            (Some(bytes), _) => {
                let row = unstamped(&bytes)?;
                Ok(Some((bytes, row)))
            }
            (None, Some(_)) => Ok(None),
            // Not a reason to tell anybody that a session is unknown.
            (None, None) => Err(Unavailable("a part of it has lost its data".into())),
        }
    }

    /// Rows in the order of their names.
    async fn rows(&self, ids: &[SessionId]) -> Result<Vec<(SessionId, Option<Vec<u8>>)>, Unavailable> {
        let mut by_place: BTreeMap<u8, Vec<SessionId>> = BTreeMap::new();
        ids.iter().for_each(|id| by_place.entry(id.0[15] % PARTS).or_default().push(*id));
        let mut found = BTreeMap::new();
        for (part, ids) in by_place {
            for ids in ids.chunks(CHUNK) {
                let mut ask = redis::cmd("MGET");
                for id in ids {
                    ask.arg(self.names.row(*id));
                }
                let rows: Vec<Option<Vec<u8>>> = self.link.read(Place::Part(part), &ask).await?;
                found.extend(ids.iter().copied().zip(rows));
            }
        }
        Ok(found.into_iter().collect())
    }

    async fn records(&self, rows: Vec<(SessionId, Row)>) -> Result<Vec<Record>, Unavailable> {
        let logged_out = self.logged_out(&rows.iter().map(|(_, row)| about(row)).collect::<Vec<_>>()).await?;
        Ok(rows.iter().zip(logged_out).map(|((id, row), logged_out)| row.record(*id, logged_out)).collect())
    }

    async fn is_logged_out(&self, row: &Row) -> Result<bool, Unavailable> {
        Ok(self.logged_out(&[about(row)]).await?.contains(&true))
    }

    async fn clients(&self) -> Result<Vec<String>, Unavailable> {
        self.in_place()?;
        let mut ask = redis::cmd("SMEMBERS");
        ask.arg(self.names.single(Place::Log, "clients"));
        self.link.read(Place::Log, &ask).await
    }

    /// Has a client in the list of those that have sessions.
    async fn note_client(&self, client: &str) -> Result<(), Unavailable> {
        let known = || self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains(client) {
            return Ok(());
        }
        let mut note = redis::cmd("SADD");
        note.arg(self.names.single(Place::Log, "clients")).arg(client);
        self.link.write::<()>(Place::Log, note).await?;
        known().insert(client.into());
        Ok(())
    }

    /// The first sessions of some clients, in all parts.
    async fn clients_sessions(
        &self,
        clients: &[&str],
        after: Option<SessionId>,
        limit: usize,
    ) -> Result<Vec<SessionId>, Unavailable> {
        let places = Place::parts().flat_map(|place| clients.iter().map(move |client| (place, *client)));
        let indexes = places.map(|(place, client)| (place, self.names.by_client(place, client))).collect();
        self.indexed(indexes, after, limit).await
    }

    /// The first names after one in several indexes.
    async fn indexed(
        &self,
        indexes: Vec<(Place, Vec<u8>)>,
        after: Option<SessionId>,
        limit: usize,
    ) -> Result<Vec<SessionId>, Unavailable> {
        self.in_place()?;
        let from = after.map_or(b"-".to_vec(), |after| [b"(", &after.0[..]].concat());
        let mut ids = BTreeSet::new();
        for (place, index) in indexes {
            let mut ask = redis::cmd("ZRANGEBYLEX");
            ask.arg(index).arg(&from).arg("+").arg("LIMIT").arg(0).arg(limit);
            ids.extend(session_ids(self.link.read(place, &ask).await?));
        }
        Ok(ids.into_iter().take(limit).collect())
    }

    /// Forgets sessions of one part, and what is left of codes.
    async fn sweep_part(&self, place: Place, limit: usize) -> Result<usize, Unavailable> {
        let expiry = self.names.single(place, "expiry");
        let mut ask = Pipeline::new();
        ask.cmd("ZRANGEBYSCORE").arg(&expiry).arg("-inf").arg(self.now().0).arg("LIMIT").arg(0).arg(limit);
        ask.cmd("ZREMRANGEBYSCORE").arg(self.names.single(place, "codes")).arg("-inf").arg(self.now().0).ignore();
        let (due,): (Vec<Vec<u8>>,) = self.link.read_all(place, &ask).await?;
        let due = session_ids(due);
        if due.is_empty() {
            return Ok(0);
        }
        let mut forget = Pipeline::new();
        for (id, bytes) in self.rows(&due).await? {
            let row = bytes.as_deref().and_then(|bytes| unstamped(bytes).ok());
            let keys = self.keys_of(id, row.as_ref());
            let mut one = Script::Forget.on(&keys.iter().map(Vec::as_slice).collect::<Vec<_>>());
            one.arg(bytes.unwrap_or_default()).arg(&id.0);
            forget.add_command(one);
        }
        self.link.write_all::<Vec<bool>>(place, forget).await?;
        Ok(due.len())
    }

    /// The row's key, the expiry index, and those of its subject and its client where they are known.
    fn keys_of(&self, id: SessionId, row: Option<&Row>) -> Vec<Vec<u8>> {
        let place = Place::of(id);
        let mut keys = vec![self.names.row(id), self.names.single(place, "expiry")];
        if let Some(row) = row {
            keys.push(self.names.by_subject(place, row.subject()));
            keys.push(self.names.by_client(place, row.client()));
        }
        keys
    }
}

/// Finds the store, or begins it: where its log stands.
async fn begin(link: &Arc<Link>, names: &Names, purpose: Purpose) -> Result<Position, RedisOpenError> {
    let meta = names.single(Place::Log, "meta");
    let mut ask = Pipeline::new();
    ask.cmd("HMGET").arg(&meta).arg(&["format", "life", "moved"]);
    ask.cmd("TIME");
    type Meta = (Option<u64>, Option<u64>, Option<u64>);
    let ((format, life, moved), (seconds, micros)): (Meta, (u64, u64)) = link.read_all(Place::Log, &ask).await?;
    if moved.is_some() && purpose == Purpose::Serve {
        return Err(RedisOpenError::Moved(names.0.clone()));
    }
    match format {
        Some(FORMAT) => {}
        Some(found) => return Err(RedisOpenError::OtherFormat { prefix: names.0.clone(), found }),
        None => {
            let [.., one, two] = *uuid::Uuid::now_v7().as_bytes();
            let life = (seconds * 1000 + micros / 1000) << 16 | u64::from(u16::from_be_bytes([one, two]));
            // Of several that begin at once, the first one does.
            let mut begin = Pipeline::new();
            begin.cmd("HSETNX").arg(&meta).arg("life").arg(life).ignore();
            begin.cmd("HSETNX").arg(&meta).arg("last").arg(0).ignore();
            begin.cmd("HSETNX").arg(&meta).arg("format").arg(FORMAT).ignore();
            link.write_all::<()>(Place::Log, begin).await?;
        }
    }
    let mut ask = redis::cmd("HMGET");
    ask.arg(&meta).arg(&["life", "last"]);
    let (begun, number): (Option<u64>, Option<u64>) = link.read(Place::Log, &ask).await?;
    let lost = || Unavailable("its revocation log is damaged".into());
    let position = Position { life: begun.ok_or_else(lost)?, number: number.ok_or_else(lost)? };
    let mut empty = 0;
    for place in Place::parts() {
        let marker = names.single(place, "life");
        let mut ask = redis::cmd("GET");
        ask.arg(&marker);
        // What is there needs no write, and so no replica to have it.
        if link.read::<Option<u64>>(place, &ask).await?.is_none() {
            let mut mark = redis::cmd("SET");
            mark.arg(&marker).arg(position.life).arg("NX");
            empty += u8::from(link.write::<Option<String>>(place, mark).await?.is_some());
        }
    }
    if empty > 0 && life.is_some() {
        tracing::warn!(
            parts = empty,
            of = PARTS,
            "Redis has lost parts of the session store: whoever had a session there has to log in again"
        );
    }
    let policies: Vec<String> = link.of_each(redis::cmd("INFO").arg("memory")).await?;
    if policies.iter().any(|info| evicts(info)) {
        tracing::warn!("Redis may drop sessions when its memory is full: set `maxmemory-policy noeviction` there");
    }
    Ok(position)
}

/// Whether a server drops what it is not told to, as `INFO memory` has it.
fn evicts(info: &str) -> bool {
    let value = |name| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    value("maxmemory:").is_some_and(|most| most != "0")
        && value("maxmemory_policy:").is_some_and(|policy| policy != "noeviction")
}

/// How many bytes are in front of a row.
const STAMP: usize = 8;

/// A row as it is kept: behind a stamp that no other writing has. Whoever asks for one again because an answer was lost knows by
/// it whether the row that is there is the own one.
fn stamped(row: &Row) -> Vec<u8> {
    let mut stamp = [0; STAMP];
    // Should the system have no random numbers, two that write the very same row may both think that they did.
    let _ = aws_lc_rs::rand::fill(&mut stamp);
    [&stamp[..], &encode(row)].concat()
}

fn unstamped(bytes: &[u8]) -> Result<Row, Unavailable> {
    let (_, row) = bytes.split_at_checked(STAMP).ok_or_else(|| Unavailable("a row of it is damaged".into()))?;
    decode(row)
}

/// What an epoch is compared with.
fn about(row: &Row) -> (&str, &str, Position) {
    (row.client(), row.subject(), row.began())
}

fn session_ids(members: Vec<Vec<u8>>) -> Vec<SessionId> {
    members.into_iter().filter_map(|member| member.try_into().ok().map(SessionId)).collect()
}

/// What time it is where the log is: as it was told last, and what has passed since by a clock that nobody sets.
#[derive(Default)]
struct ServerTime(Mutex<Option<(Timestamp, Instant)>>);

impl ServerTime {
    fn is(&self, time: Timestamp, at: tokio::time::Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, at.into_std()));
    }

    fn now(&self) -> Timestamp {
        let told = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // It has been told before there is anything to ask for.
        told.map_or_else(|| Clock::System.now(), |(time, at)| time + at.elapsed())
    }
}
