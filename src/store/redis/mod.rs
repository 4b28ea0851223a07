//! The store in Redis or Valkey, which several processes share: alone, under Sentinels, or as a cluster.
//!
//! What a verb does to a session is decided here, by the same code as in the embedded store; a script then puts the new row in
//! place of the old one unless somebody else was faster, in which case it is decided anew. A session is ended in its row,
//! then in the log; where a failover has lost the one or the other, whoever has read the log on tells it again. What time
//! it is, the server of the log says.

mod codes;
mod config;
mod link;
mod log;
mod moving;
mod names;
mod rows;
mod scripts;
mod sessions;

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use redis::Pipeline;
use tokio::sync::{Notify, watch};

pub use self::config::{Layout, Login, RedisConfig, Tls, Wait};
use self::{
    link::Link,
    log::Reader,
    names::{Names, PARTS, Place},
    rows::unstamped,
    scripts::Script,
};
use super::{
    Lifted, NewRevocation, NewSession, Opened, Presented, Record, Revocation, Rotation, RotationRules, Session,
    Standing, Stats, Swept, Tail, Unavailable, Visitor, Whose,
};
use crate::{
    clock::{Clock, Timestamp},
    types::{Position, SessionId},
};

/// The format of what is kept there.
const FORMAT: u64 = 1;

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

    pub(super) async fn look_up(
        &self,
        token: Presented,
        rules: RotationRules,
    ) -> Result<Option<Standing>, Unavailable> {
        self.0.look_up(token, &rules).await
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
        let mut swept = Swept { sessions: 0, revocations, more: revocations >= limit };
        let mut due = 0;
        for _ in 0..PARTS {
            let part = *self.0.swept.lock().unwrap_or_else(PoisonError::into_inner);
            let (looked_at, forgotten) = self.0.sweep_part(Place::Part(part), limit - due).await?;
            due += looked_at;
            swept.sessions += forgotten;
            if due >= limit {
                swept.more = true;
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
            // There is nothing in it yet that could be lost: no replica has to have it.
            link.read_all::<()>(Place::Log, &begin).await?;
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
        if link.read::<Option<u64>>(place, &ask).await?.is_none() {
            let mut mark = redis::cmd("SET");
            mark.arg(&marker).arg(position.life).arg("NX");
            empty += u8::from(link.read::<Option<String>>(place, &mark).await?.is_some());
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
