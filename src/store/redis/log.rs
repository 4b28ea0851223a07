//! The revocation log in Redis, and how each process follows it.
//!
//! Every process reads the log on, twenty times a second, whoever has added to it. Where a failover has lost the end of it,
//! the processes that know that end put it back, with its numbers as far as they are free: tokens carry them.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};

use redis::Pipeline;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{Inner, names::Place, scripts::Script};
use crate::{
    clock::Timestamp,
    store::{
        Lifted, NewRevocation, Revocation, Revoked, Unavailable,
        row::{decode, encode},
    },
    types::{Position, SessionId},
};

/// How often the log is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How often it is asked whether the master is still the master.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked whether sessions are left to be ended that the log has as ended.
const FINISH_INTERVAL: Duration = Duration::from_millis(250);
/// How many entries are read at a time.
const PAGE: usize = 1000;
/// How many of the last entries each process could put back.
const REMEMBERED: usize = 4096;
/// How long who has added an entry about a session has to end it; then everybody looks.
const FINISHED_WITHIN: Duration = Duration::from_secs(1);
/// How long a verb that has added an entry waits for this process to have read it.
const READ_WITHIN: Duration = Duration::from_secs(1);

/// An entry, and its name that no other has: numbers can come twice where a failover has lost some.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) entry: Revocation,
    pub(super) uid: Box<str>,
}

/// What meta says of the log.
struct Head {
    life: Option<u64>,
    last: u64,
    uid: Box<str>,
    keys: u64,
    /// Everything has gone into another store.
    moved: bool,
}

/// What an entry does besides being one.
#[derive(Default)]
pub(super) struct Besides<'a> {
    /// That entry has to be there.
    required: Option<u64>,
    /// Those go.
    removed: &'a [u64],
}

/// How far this process has read.
pub(super) struct Reader {
    number: u64,
    uid: Box<str>,
    recent: VecDeque<Known>,
    /// How many connections had been made when all was well.
    connections: u64,
}

impl Inner {
    pub(super) async fn revoke(&self, new: NewRevocation) -> Result<Revocation, Unavailable> {
        let NewRevocation { issuer, what, until, reason } = new;
        let at = self.now();
        let entry = Revocation { number: 0, at, issuer, what, until, refresh_until: until, lifts: false, reason };
        self.append(entry).await
    }

    pub(super) async fn lift(&self, number: u64, reason: Box<str>) -> Result<Lifted, Unavailable> {
        let Some(Known { entry: lifted, .. }) = self.page(number.saturating_sub(1), Some(number), 1).await?.pop()
        else {
            return Ok(Lifted::Unknown);
        };
        if lifted.until <= self.now() || lifted.lifts {
            return Ok(Lifted::Unknown);
        }
        if let (None, Revoked::Session(_) | Revoked::Key(_)) = (&lifted.issuer, &lifted.what) {
            return Ok(Lifted::Final(lifted.what));
        }
        let mut removed = vec![number];
        if lifted.what.is_exact() {
            // Of tokens and foreign sessions no list is kept by name; lifting is rare enough to look at all.
            removed = self.numbers_of(&lifted).await?;
        }
        let entry = Revocation { number: 0, at: self.now(), lifts: true, reason, ..lifted };
        let besides = Besides { required: Some(number), removed: &removed };
        let added = self.add(Known { entry, uid: uid() }, 0, besides).await?;
        match added {
            Some(entry) => {
                self.wait_to_read(entry.number).await;
                Ok(Lifted::Done(entry))
            }
            None => Ok(Lifted::Unknown),
        }
    }

    /// Adds an entry; when this answers, this process has read it as well.
    pub(super) async fn append(&self, entry: Revocation) -> Result<Revocation, Unavailable> {
        let added = self.add(Known { entry, uid: uid() }, 0, Besides::default()).await?;
        let added = added.ok_or_else(|| Unavailable("Redis has not added an entry to its log".into()))?;
        self.wait_to_read(added.number).await;
        Ok(added)
    }

    /// Up to `limit` live entries after the one of that number.
    pub(super) async fn log(&self, after: u64, limit: usize) -> Result<Vec<Revocation>, Unavailable> {
        let (now, mut after, mut live) = (self.now(), after, Vec::new());
        loop {
            let page = self.page(after, None, PAGE).await?;
            let read = page.len();
            after = page.last().map_or(after, |last| last.entry.number);
            live.extend(page.into_iter().map(|known| known.entry).filter(|entry| entry.until > now));
            if live.len() >= limit || read < PAGE {
                live.truncate(limit);
                return Ok(live);
            }
        }
    }

    pub(super) async fn sweep_log(&self, limit: usize) -> Result<usize, Unavailable> {
        let key = |name| self.names.single(Place::Log, name);
        let keys = [key("entries"), key("expiry"), key("latest"), key("epochs"), key("epoch_expiry")];
        let mut sweep = Script::Sweep.on(&keys.each_ref().map(Vec::as_slice));
        sweep.arg(self.now().0).arg(limit);
        self.link.write(Place::Log, sweep).await
    }

    /// Which of these sessions an epoch of ours has ended: client, subject, and where it began.
    pub(super) async fn logged_out(&self, sessions: &[(&str, &str, Position)]) -> Result<Vec<bool>, Unavailable> {
        if sessions.is_empty() {
            return Ok(Vec::new());
        }
        let mut ask = redis::cmd("HMGET");
        ask.arg(self.names.single(Place::Log, "epochs")).arg("everything:");
        for (client, subject, _) in sessions {
            ask.arg(format!("client:{client}")).arg(format!("subject:{subject}"));
        }
        let numbers: Vec<Option<u64>> = self.link.read(Place::Log, &ask).await?;
        let life = self.life();
        let (everything, others) = numbers.split_first().map_or((None, &[][..]), |(first, rest)| (*first, rest));
        let ended = sessions.iter().zip(others.chunks(2)).map(|((_, _, began), epochs)| {
            let mut numbers = epochs.iter().chain([&everything]).flatten();
            // What began in another life is from before a log that was lost, and its epochs with it.
            began.life != life || numbers.any(|number| *began < Position { life, number: *number })
        });
        Ok(ended.collect())
    }

    /// Where the log stands now, whatever this process has read.
    pub(super) async fn position(&self, session_ends: Timestamp) -> Result<Position, Unavailable> {
        let meta = self.names.single(Place::Log, "meta");
        let mut ask = Pipeline::with_capacity(2);
        let mut greatest = Script::Greatest.on(&[&meta]);
        greatest.arg("last_session_ends").arg(session_ends.0);
        ask.add_command(greatest).ignore();
        ask.cmd("HGET").arg(&meta).arg("last");
        let (last,): (Option<u64>,) = self.link.write_all(Place::Log, ask).await?;
        let lost = || Unavailable("its revocation log has gone".into());
        Ok(Position { life: self.life(), number: last.ok_or_else(lost)? })
    }

    fn life(&self) -> u64 {
        self.tail.position().life
    }

    /// Adds an entry, with no lesser number than that. `None` where what has to be there is not.
    async fn add(&self, known: Known, least: u64, besides: Besides<'_>) -> Result<Option<Revocation>, Unavailable> {
        // No number that has been handed out comes again, whatever Redis has forgotten.
        let least = if least == 0 { self.tail.position().number + 1 } else { least };
        let append = self.addition(&known, least, &besides);
        let mut entry = known.entry;
        let answer: Option<String> = self.link.write(Place::Log, append).await?;
        let Some(answer) = answer else { return Ok(None) };
        let odd = || Unavailable("Redis answers what it should not to a new entry of its log".into());
        let (number, until) = answer.split_once(' ').ok_or_else(odd)?;
        entry.number = number.parse().map_err(|_| odd())?;
        entry.until = Timestamp(until.parse().map_err(|_| odd())?);
        Ok(Some(entry))
    }

    /// The command that adds an entry.
    pub(super) fn addition(&self, known: &Known, least: u64, besides: &Besides<'_>) -> redis::Cmd {
        let Known { entry, uid } = known;
        let key = |name| self.names.single(Place::Log, name);
        let keys = [
            key("meta"),
            key("entries"),
            key("expiry"),
            key("latest"),
            key("epochs"),
            key("epoch_expiry"),
            self.names.done(uid),
        ];
        let epoch = match (&entry.issuer, &entry.what) {
            (None, what @ (Revoked::Subject(_) | Revoked::Client(_) | Revoked::Everything)) => {
                format!("{}:{}", what.kind(), what.id().unwrap_or(""))
            }
            _ => String::new(),
        };
        let stands = entry.lifts || !entry.what.is_exact();
        let mut append = Script::Append.on(&keys.each_ref().map(Vec::as_slice));
        append.arg(least).arg(&**uid).arg(entry.until.0).arg(encode(entry)).arg(name_of(entry));
        append.arg(u8::from(stands)).arg(epoch).arg(u8::from(!entry.lifts));
        append.arg(besides.required.map_or(String::new(), |number| number.to_string())).arg(besides.removed);
        append
    }

    /// Entries after that number, up to another, as they are there.
    async fn page(&self, after: u64, to: Option<u64>, limit: usize) -> Result<Vec<Known>, Unavailable> {
        let mut ask = redis::cmd("XRANGE");
        ask.arg(self.names.single(Place::Log, "entries")).arg(format!("{}-0", after.saturating_add(1)));
        ask.arg(to.map_or("+".into(), |number| format!("{number}-0"))).arg("COUNT").arg(limit);
        let found: Vec<(String, HashMap<String, Vec<u8>>)> = self.link.read(Place::Log, &ask).await?;
        // One damaged entry fails the whole list: to serve without it would lift a revocation.
        found.into_iter().map(|(id, fields)| known(&id, &fields)).collect()
    }

    async fn numbers_of(&self, same: &Revocation) -> Result<Vec<u64>, Unavailable> {
        let (mut after, mut numbers) = (0, Vec::new());
        loop {
            let page = self.page(after, None, PAGE).await?;
            let alike = page.iter().map(|known| &known.entry);
            let alike = alike.filter(|entry| (&entry.what, &entry.issuer) == (&same.what, &same.issuer));
            numbers.extend(alike.map(|entry| entry.number));
            match page.last() {
                Some(last) if page.len() == PAGE => after = last.entry.number,
                _ => return Ok(numbers),
            }
        }
    }

    /// Waits until this process has read the log so far. What was added is there in any case.
    async fn wait_to_read(&self, number: u64) {
        self.wake.notify_one();
        let mut head = self.tail.head();
        let read = head.wait_for(|head| head.number >= number);
        let _ = timeout_at(Instant::now() + READ_WITHIN, read).await;
    }

    async fn head(&self) -> Result<Head, Unavailable> {
        let mut ask = Pipeline::with_capacity(2);
        ask.cmd("HMGET").arg(self.names.single(Place::Log, "meta")).arg(&["life", "last", "uid", "keys", "moved"]);
        ask.cmd("TIME");
        let asked = Instant::now();
        type Meta = (Option<u64>, Option<u64>, Option<String>, Option<u64>, Option<u64>);
        let ((life, last, uid, keys, moved), (seconds, micros)): (Meta, (u64, u64)) =
            self.link.read_all(Place::Log, &ask).await?;
        // It was so late at some moment since the question; the middle is wrong by half of the time that took at most.
        self.time.is(Timestamp(seconds * 1000 + micros / 1000), asked + asked.elapsed() / 2);
        Ok(Head {
            life,
            last: last.unwrap_or(0),
            uid: uid.unwrap_or_default().into(),
            keys: keys.unwrap_or(0),
            moved: moved.is_some(),
        })
    }
}

impl Reader {
    /// Up to where the log has been read.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Looks where the log stands, and at its last entries: what the process that added one could not finish is finished.
    pub(super) async fn start(inner: &Inner) -> Result<Self, Unavailable> {
        let connections = inner.link.connections();
        let head = inner.head().await?;
        let mut recent = inner.page(head.last.saturating_sub(REMEMBERED as u64), None, REMEMBERED).await?;
        recent.retain(|known| known.entry.number <= head.last);
        for known in &recent {
            inner.ended_with(&known.entry).await?;
        }
        inner.keys.send_replace(head.keys);
        Ok(Self { number: head.last, uid: head.uid, recent: recent.into(), connections })
    }

    /// Follows the log for as long as somebody has the store.
    pub(super) async fn run(mut self, store: Weak<Inner>) {
        let (mut complained, mut checked) = (false, Instant::now());
        while let Some(inner) = store.upgrade() {
            let asked = Instant::now();
            if asked >= checked + CHECK_INTERVAL {
                checked = asked;
                // What it cannot tell, the look below finds out.
                let _ = inner.link.is_current().await;
            }
            match self.look(&inner).await {
                Ok(true) => {
                    inner.tail.known_up_to(asked.into_std());
                    complained = false;
                }
                Ok(false) => {}
                Err(cause) if !complained => {
                    tracing::error!(%cause, "the revocation log in Redis cannot be read");
                    complained = true;
                }
                Err(_) => {}
            }
            let wake = inner.wake.clone();
            drop(inner);
            tokio::select! {
                () = wake.notified() => {}
                () = sleep_until(asked + LOOK_INTERVAL) => {}
            }
        }
    }

    /// Reads on. `false` where a connection was made anew meanwhile, so that it is not certain what was read.
    async fn look(&mut self, inner: &Arc<Inner>) -> Result<bool, Unavailable> {
        let head = inner.head().await?;
        if head.life != Some(inner.tail.position().life) {
            // Another log has taken its place, or nothing has. Tokens and followers are bound to the one we know.
            inner.lose("its data has gone, or is another's; bring it back, or restart Sidegate to begin anew");
            return Err(Unavailable("its data has gone".into()));
        }
        if head.moved {
            inner.lose(
                "it has moved, or is moving, into another store: start Sidegate with the configuration of that one",
            );
            return Err(Unavailable("it has moved into another store".into()));
        }
        inner.found();
        // After the answer: what gave it may be another server than before.
        let connections = inner.link.connections();
        let anew = connections != self.connections;
        let differs = head.last < self.number || head.last == self.number && head.uid != self.uid;
        if differs || anew && !self.is_in(inner).await? {
            self.heal(inner).await?;
        }
        if anew {
            // What it has of sessions may be older than what it has of the log. What was waiting is among these: a connection
            // that breaks again and again must not make the line longer each time.
            inner.unfinished.lock().unwrap_or_else(PoisonError::into_inner).clear();
            inner.finish(self.recent.iter().map(|known| &known.entry));
        }
        self.connections = connections;
        if !self.read_on(inner, &head).await? {
            return Ok(false);
        }
        inner.keys.send_if_modified(|keys| std::mem::replace(keys, head.keys) != head.keys);
        Ok(inner.link.connections() == connections)
    }

    async fn read_on(&mut self, inner: &Arc<Inner>, head: &Head) -> Result<bool, Unavailable> {
        while head.last > self.number {
            let page = inner.page(self.number, None, PAGE).await?;
            if inner.link.connections() != self.connections {
                return Ok(false);
            }
            let read = page.len();
            self.take(inner, page);
            if read < PAGE {
                // What is between has expired, or was taken out.
                if head.last > self.number {
                    (self.number, self.uid) = (head.last, head.uid.clone());
                    inner.tail.advance(head.last);
                }
                break;
            }
        }
        Ok(true)
    }

    /// Takes what follows what is known, and tells whoever follows.
    fn take(&mut self, inner: &Inner, page: Vec<Known>) {
        let Some(last) = page.last() else { return };
        (self.number, self.uid) = (last.entry.number, last.uid.clone());
        inner.tail.extend(page.iter().map(|known| known.entry.clone()).collect());
        // Who added it is about to end the session as well; should it not come to that, somebody else does.
        inner.finish(page.iter().map(|known| &known.entry));
        self.recent.extend(page);
        let surplus = self.recent.len().saturating_sub(REMEMBERED);
        self.recent.drain(..surplus);
    }

    /// Whether the last entry that is known is there.
    async fn is_in(&self, inner: &Inner) -> Result<bool, Unavailable> {
        let there = inner.page(self.number.saturating_sub(1), Some(self.number), 1).await?;
        Ok(self.number == 0 || there.first().is_some_and(|known| known.uid == self.uid))
    }

    /// Puts back what Redis has forgotten, and reads what others have added in its place.
    async fn heal(&mut self, inner: &Arc<Inner>) -> Result<(), Unavailable> {
        let from = self.recent.front().map_or(self.number, |known| known.entry.number.saturating_sub(1));
        let mut there = Vec::new();
        loop {
            let after = there.last().map_or(from, |known: &Known| known.entry.number);
            let page = inner.page(after, None, PAGE).await?;
            let last = page.len() < PAGE;
            there.extend(page);
            if last {
                break;
            }
        }
        let uids: HashSet<&str> = there.iter().map(|known| &*known.uid).collect();
        let ours: HashSet<&str> = self.recent.iter().map(|known| &*known.uid).collect();
        let now = inner.now();
        // A lifting that was lost stays lost: what it took back may have been said again since, and to be refused is the
        // safe side. What has been taken out on purpose is not missed: it had expired, or something later stands for it.
        let mut later = HashSet::new();
        let mut missing: Vec<&Known> = Vec::new();
        for known in self.recent.iter().rev() {
            let superseded = !later.insert(name_of(&known.entry));
            let lifted = there.iter().any(|other| other.entry.lifts && name_of(&other.entry) == name_of(&known.entry));
            let missed = !uids.contains(&*known.uid) && known.entry.until > now && !known.entry.lifts;
            if missed && !superseded && !lifted {
                missing.push(known);
            }
        }
        // Followers are past those numbers, and would never hear of them.
        let strangers: Vec<&Known> =
            there.iter().filter(|known| known.entry.number <= self.number && !ours.contains(&*known.uid)).collect();
        if !missing.is_empty() || !strangers.is_empty() {
            let (lost, others) = (missing.len(), strangers.len());
            tracing::warn!(lost, others, "Redis has forgotten the end of its revocation log; it is put back");
        }
        for known in missing.into_iter().rev() {
            inner.add(known.clone(), known.entry.number, Besides::default()).await?;
            inner.ended_with(&known.entry).await?;
        }
        let meta = inner.names.single(Place::Log, "meta");
        let mut last = Script::Greatest.on(&[&meta]);
        last.arg("last").arg(self.number);
        inner.link.write::<u64>(Place::Log, last).await?;
        for known in strangers {
            let besides = Besides { required: Some(known.entry.number), removed: &[known.entry.number] };
            let again = Known { entry: known.entry.clone(), uid: uid() };
            inner.add(again, self.number + 1, besides).await?;
        }
        let head = inner.head().await?;
        self.connections = inner.link.connections();
        self.read_on(inner, &head).await?;
        self.uid = head.uid;
        Ok(())
    }
}

impl Inner {
    /// Has sessions ended that these entries are about, a little later: who added them is about to do so.
    fn finish<'a>(&self, entries: impl Iterator<Item = &'a Revocation>) {
        let due = Instant::now() + FINISHED_WITHIN;
        let mut unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        unfinished.extend(entries.filter(|entry| session_in(entry).is_some()).map(|entry| (due, entry.clone())));
    }

    /// Ends what is due; what cannot be ended now comes again.
    async fn finish_due(&self) -> Result<(), Unavailable> {
        loop {
            let next = {
                let mut unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
                if unfinished.front().is_none_or(|(due, _)| *due > Instant::now()) {
                    return Ok(());
                }
                unfinished.pop_front()
            };
            let Some((due, entry)) = next else { return Ok(()) };
            if let Err(error) = self.ended_with(&entry).await {
                self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).push_front((due, entry));
                return Err(error);
            }
        }
    }
}

/// Ends sessions that the log has as ended and whose rows do not say so, for as long as somebody has the store.
pub(super) async fn finish(store: Weak<Inner>) {
    let mut complained = false;
    while let Some(inner) = store.upgrade() {
        match inner.finish_due().await {
            Ok(()) => complained = false,
            Err(cause) if !complained => {
                tracing::error!(%cause, "sessions that the log has as revoked cannot be ended yet");
                complained = true;
            }
            Err(_) => {}
        }
        drop(inner);
        sleep(FINISH_INTERVAL).await;
    }
}

/// An entry as it is in Redis: its number and until when it lasts are beside it.
fn known(id: &str, fields: &HashMap<String, Vec<u8>>) -> Result<Known, Unavailable> {
    let damaged = || Unavailable("an entry of its revocation log is damaged".into());
    let text = |name| fields.get(name).and_then(|field| str::from_utf8(field).ok());
    let mut entry: Revocation = decode(fields.get("entry").ok_or_else(damaged)?)?;
    entry.number = id.split_once('-').and_then(|(number, _)| number.parse().ok()).ok_or_else(damaged)?;
    entry.until = Timestamp(text("until").and_then(|until| until.parse().ok()).ok_or_else(damaged)?);
    Ok(Known { entry, uid: text("uid").ok_or_else(damaged)?.into() })
}

/// What the last entry about something is found by.
fn name_of(entry: &Revocation) -> String {
    let issuer = entry.issuer.as_ref().map_or("", |issuer| issuer.as_str());
    format!("{issuer}\0{}\0{}", entry.what.kind(), entry.what.id().unwrap_or(""))
}

/// A name that nothing else has.
pub(super) fn uid() -> Box<str> {
    uuid::Uuid::now_v7().simple().to_string().into()
}

/// The session of ours that an entry has ended.
pub(super) fn session_in(entry: &Revocation) -> Option<SessionId> {
    match (&entry.issuer, &entry.what, entry.lifts) {
        (None, Revoked::Session(id), false) => SessionId::parse(id),
        _ => None,
    }
}
