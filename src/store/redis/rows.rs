//! Rows of sessions: how they are kept, read, found and forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
};

use redis::Pipeline;

use super::{
    Inner,
    names::{PARTS, Place},
    scripts::Script,
};
use crate::{
    store::{
        Record, Unavailable,
        row::{Row, decode, encode},
    },
    types::{Position, SessionId},
};

/// How many rows are asked for at a time.
const CHUNK: usize = 256;
/// How many bytes are in front of a row.
const STAMP: usize = 8;

impl Inner {
    /// A session's row, and its bytes.
    pub(super) async fn row(&self, id: SessionId) -> Result<Option<(Vec<u8>, Row)>, Unavailable> {
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
    pub(super) async fn rows(&self, ids: &[SessionId]) -> Result<Vec<(SessionId, Option<Vec<u8>>)>, Unavailable> {
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

    pub(super) async fn records(&self, rows: Vec<(SessionId, Row)>) -> Result<Vec<Record>, Unavailable> {
        let logged_out = self.logged_out(&rows.iter().map(|(_, row)| about(row)).collect::<Vec<_>>()).await?;
        Ok(rows.iter().zip(logged_out).map(|((id, row), logged_out)| row.record(*id, logged_out)).collect())
    }

    pub(super) async fn is_logged_out(&self, row: &Row) -> Result<bool, Unavailable> {
        Ok(self.logged_out(&[about(row)]).await?.contains(&true))
    }

    pub(super) async fn clients(&self) -> Result<Vec<String>, Unavailable> {
        self.in_place()?;
        let mut ask = redis::cmd("SMEMBERS");
        ask.arg(self.names.single(Place::Log, "clients"));
        self.link.read(Place::Log, &ask).await
    }

    /// Has a client in the list of those that have sessions.
    pub(super) async fn note_client(&self, client: &str) -> Result<(), Unavailable> {
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
    pub(super) async fn clients_sessions(
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
    pub(super) async fn indexed(
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

    /// Forgets sessions of one part, and what is left of codes. Answers how many it has looked at, and how many are forgotten.
    pub(super) async fn sweep_part(&self, place: Place, limit: usize) -> Result<(usize, usize), Unavailable> {
        let (expiry, now) = (self.names.single(place, "expiry"), self.now());
        let mut ask = Pipeline::new();
        ask.cmd("ZRANGEBYSCORE").arg(&expiry).arg("-inf").arg(now.0).arg("LIMIT").arg(0).arg(limit);
        ask.cmd("ZREMRANGEBYSCORE").arg(self.names.single(place, "codes")).arg("-inf").arg(now.0).ignore();
        let (due,): (Vec<Vec<u8>>,) = self.link.read_all(place, &ask).await?;
        let due = session_ids(due);
        if due.is_empty() {
            return Ok((0, 0));
        }
        let (mut sweep, mut forgotten) = (Pipeline::new(), 0);
        for (id, bytes) in self.rows(&due).await? {
            let row = bytes.as_deref().and_then(|bytes| unstamped(bytes).ok());
            // A refresh does not move it.
            if let Some(expires) = row.as_ref().map(Row::expires).filter(|expires| *expires > now) {
                sweep.cmd("ZADD").arg(&expiry).arg("XX").arg(expires.0).arg(&id.0);
                continue;
            }
            let keys = self.keys_of(id, row.as_ref());
            let mut one = Script::Forget.on(&keys.iter().map(Vec::as_slice).collect::<Vec<_>>());
            one.arg(bytes.unwrap_or_default()).arg(&id.0);
            sweep.add_command(one);
            forgotten += 1;
        }
        self.link.write_all::<Vec<bool>>(place, sweep).await?;
        Ok((due.len(), forgotten))
    }

    /// The row's key, the expiry index, and those of its subject and its client where they are known.
    pub(super) fn keys_of(&self, id: SessionId, row: Option<&Row>) -> Vec<Vec<u8>> {
        let place = Place::of(id);
        let mut keys = vec![self.names.row(id), self.names.single(place, "expiry")];
        if let Some(row) = row {
            keys.push(self.names.by_subject(place, row.subject()));
            keys.push(self.names.by_client(place, row.client()));
        }
        keys
    }
}

/// A row as it is kept: behind a stamp that no other writing has. Whoever asks for one again because an answer was lost knows by
/// it whether the row that is there is the own one.
pub(super) fn stamped(row: &Row) -> Vec<u8> {
    let mut stamp = [0; STAMP];
    // Should the system have no random numbers, two that write the very same row may both think that they did.
    let _ = aws_lc_rs::rand::fill(&mut stamp);
    [&stamp[..], &encode(row)].concat()
}

pub(super) fn unstamped(bytes: &[u8]) -> Result<Row, Unavailable> {
    let (_, row) = bytes.split_at_checked(STAMP).ok_or_else(|| Unavailable("a row of it is damaged".into()))?;
    decode(row)
}

/// What an epoch is compared with.
pub(super) fn about(row: &Row) -> (&str, &str, Position) {
    (row.client(), row.subject(), row.began())
}

pub(super) fn session_ids(members: Vec<Vec<u8>>) -> Vec<SessionId> {
    members.into_iter().filter_map(|member| member.try_into().ok().map(SessionId)).collect()
}
