//! What is read of a store that goes, and written into one that comes.

use std::{collections::HashMap, time::Duration};

use redis::Pipeline;
use tokio::time::sleep;

use super::{
    PARTS, Place, Redis,
    log::{Besides, Known, uid},
    rows::{session_ids, stamped, unstamped},
    scripts::Script,
};
use crate::{
    clock::Timestamp,
    store::{
        Revocation, Revoked, Unavailable,
        moving::{Cursor, Epoch, Kept, Marks, PIECE, Piece},
        row::Row,
    },
    types::SessionId,
};

impl Redis {
    /// Has every process that uses it stop, or go on; waits until what is under way has come to its end.
    pub(in crate::store) async fn leave(&self, leave: bool) -> Result<(), Unavailable> {
        let mut mark = redis::cmd(if leave { "HSET" } else { "HDEL" });
        mark.arg(self.0.names.single(Place::Log, "meta")).arg("moved");
        if leave {
            mark.arg(1);
        }
        self.0.link.write::<()>(Place::Log, mark).await?;
        if leave {
            // Each looks at it twenty times a second, and lets what it has begun end within its deadline.
            sleep(self.0.link.timeout() + Duration::from_secs(1)).await;
        }
        Ok(())
    }

    pub(in crate::store) async fn marks(&self) -> Result<Marks, Unavailable> {
        let mut ask = redis::cmd("HMGET");
        ask.arg(self.0.names.single(Place::Log, "meta"));
        ask.arg(&["life", "last", "last_session_ends", "access_lifetime"]);
        type Meta = (u64, u64, Option<u64>, Option<u64>);
        let (life, number, ends, lifetime): Meta = self.0.link.read(Place::Log, &ask).await?;
        Ok(Marks {
            position: crate::types::Position { life, number },
            last_session_ends: Timestamp(ends.unwrap_or(0)),
            access_lifetime: Duration::from_millis(lifetime.unwrap_or(0)),
        })
    }

    /// All of a part at once: there are many parts.
    pub(in crate::store) async fn piece(&self, at: Cursor) -> Result<Piece, Unavailable> {
        let part = match at {
            Cursor::Part(part) => part,
            Cursor::Start | Cursor::After(_) => 0,
        };
        let place = Place::Part(part);
        let mut ask = redis::cmd("ZRANGE");
        ask.arg(self.0.names.single(place, "expiry")).arg(0).arg(-1);
        let ids = session_ids(self.0.link.read(place, &ask).await?);
        let rows = self.0.rows(&ids).await?.into_iter();
        let sessions = rows.filter_map(|(id, row)| Some((id, unstamped(&row?).ok()?))).collect();
        Ok((sessions, (part + 1 < PARTS).then_some(Cursor::Part(part + 1))))
    }

    pub(in crate::store) async fn entries(&self, after: u64, limit: usize) -> Result<Vec<Revocation>, Unavailable> {
        self.0.log(after, limit).await
    }

    pub(in crate::store) async fn epochs(&self) -> Result<Vec<Epoch>, Unavailable> {
        let mut ask = Pipeline::new();
        ask.cmd("HGETALL").arg(self.0.names.single(Place::Log, "epochs"));
        ask.cmd("ZRANGE").arg(self.0.names.single(Place::Log, "epoch_expiry")).arg(0).arg(-1).arg("WITHSCORES");
        let (numbers, ends): (HashMap<String, u64>, Vec<(String, f64)>) =
            self.0.link.read_all(Place::Log, &ask).await?;
        let epochs = ends.into_iter().filter_map(|(name, ends)| {
            let (kind, id) = name.split_once(':')?;
            let what = Revoked::parse(kind, (kind != "everything").then_some(id))?;
            Some(Epoch { what, number: *numbers.get(&name)?, ends: Timestamp(ends as u64) })
        });
        Ok(epochs.collect())
    }

    pub(in crate::store) async fn kept(&self) -> Result<Vec<Kept>, Unavailable> {
        let mut all = Vec::new();
        for place in Place::parts() {
            let mut ask = redis::cmd("ZRANGE");
            ask.arg(self.0.names.single(place, "codes")).arg(0).arg(-1);
            let names: Vec<Vec<u8>> = self.0.link.read(place, &ask).await?;
            for name in names {
                let Some((kind, Ok(digest))) = name.split_first().map(|(kind, rest)| (*kind, rest.try_into())) else {
                    continue;
                };
                let marks = kind == b'm';
                let key = if marks { self.0.names.mark(&digest) } else { self.0.names.code(&digest) };
                let mut ask = redis::cmd("HMGET");
                ask.arg(key).arg(&["until", "taken", "value"]);
                type Code = (Option<u64>, Option<Vec<u8>>, Option<Vec<u8>>);
                let (until, taken, value): Code = self.0.link.read(place, &ask).await?;
                let Some(until) = until.map(Timestamp) else { continue };
                let taken = taken.and_then(|id| id.try_into().ok()).map(SessionId);
                all.push(Kept { marks, name: digest, until, taken, value: value.unwrap_or_default() });
            }
        }
        Ok(all)
    }

    pub(in crate::store) async fn take_sessions(&self, sessions: Vec<(SessionId, Row)>) -> Result<(), Unavailable> {
        let mut by_part: HashMap<u8, Pipeline> = HashMap::new();
        for (id, row) in &sessions {
            self.0.note_client(row.client()).await?;
            let keys = self.0.keys_of(*id, Some(row));
            let mut open = Script::Open.on(&keys.iter().map(Vec::as_slice).collect::<Vec<_>>());
            open.arg(stamped(row)).arg(&id.0).arg(row.expires().0);
            by_part.entry(id.0[15] % PARTS).or_default().add_command(open);
        }
        for (part, opening) in by_part {
            self.0.link.write_all::<Vec<u8>>(Place::Part(part), opening).await?;
        }
        Ok(())
    }

    pub(in crate::store) async fn take_entries(&self, entries: Vec<Revocation>) -> Result<(), Unavailable> {
        for entries in entries.chunks(PIECE) {
            let mut adding = Pipeline::new();
            for entry in entries {
                // With the number that it has: the log that they come into is not further on.
                let known = Known { entry: entry.clone(), uid: uid() };
                adding.add_command(self.0.addition(&known, entry.number, &Besides::default()));
            }
            self.0.link.write_all::<Vec<String>>(Place::Log, adding).await?;
        }
        Ok(())
    }

    /// The last of it: from then on the log is that of the store that it comes from.
    pub(in crate::store) async fn take_rest(
        &self,
        epochs: Vec<Epoch>,
        kept: Vec<Kept>,
        marks: Marks,
    ) -> Result<(), Unavailable> {
        for Kept { marks, name, until, taken, value } in kept {
            let place = Place::of_digest(&name);
            let (key, kind) = if marks { (self.0.names.mark(&name), b"m") } else { (self.0.names.code(&name), b"c") };
            let mut keep = Pipeline::new();
            let keeping = keep.cmd("HSET").arg(&key).arg("until").arg(until.0).arg("value").arg(value);
            if let Some(id) = taken {
                keeping.arg("taken").arg(&id.0);
            }
            keep.cmd("PEXPIREAT").arg(&key).arg(until.0);
            keep.cmd("ZADD").arg(self.0.names.single(place, "codes")).arg(until.0).arg([kind, &name[..]].concat());
            self.0.link.write_all::<Vec<u64>>(place, keep).await?;
        }
        let life = marks.position.life;
        for place in Place::parts() {
            let mut mark = redis::cmd("SET");
            mark.arg(self.0.names.single(place, "life")).arg(life);
            self.0.link.write::<()>(place, mark).await?;
        }
        let key = |name| self.0.names.single(Place::Log, name);
        let mut rest = Pipeline::new();
        rest.cmd("DEL").arg(key("epochs")).arg(key("epoch_expiry")).ignore();
        for Epoch { what, number, ends } in epochs {
            let name = format!("{}:{}", what.kind(), what.id().unwrap_or(""));
            rest.cmd("HSET").arg(key("epochs")).arg(&name).arg(number).ignore();
            rest.cmd("ZADD").arg(key("epoch_expiry")).arg(ends.0).arg(&name).ignore();
        }
        let millis = u64::try_from(marks.access_lifetime.as_millis()).unwrap_or(u64::MAX);
        rest.cmd("HSET")
            .arg(key("meta"))
            .arg(&[
                ("life", life),
                ("last", marks.position.number),
                ("last_session_ends", marks.last_session_ends.0),
                ("access_lifetime", millis),
            ])
            .ignore();
        self.0.link.write_all::<()>(Place::Log, rest).await
    }
}
