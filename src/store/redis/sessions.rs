//! What is done to a session: decided here, upon the row as it is, and decided anew where somebody else was faster.

use std::time::Duration;

use redis::Value;

use super::{
    Inner,
    log::session_in,
    names::Place,
    rows::{about, session_ids, stamped, unstamped},
    scripts::Script,
};
use crate::{
    store::{
        MOST_ENDED, NewSession, Opened, Presented, Revocation, Rotation, RotationRules, Standing, Unavailable, Visitor,
        row::{Ended, Row},
    },
    types::{SessionId, Subject},
};

/// How often a verb decides anew because somebody else was faster.
const TRIES: usize = 200;
/// How long who has ended a session has to enter that into the log, before others do it.
const ENTERED_WITHIN: Duration = Duration::from_secs(10);

/// What came of putting a row in place of another.
enum Swapped {
    Done,
    /// This is there instead.
    Other(Vec<u8>),
    Gone,
}

impl Inner {
    pub(super) async fn open_session(&self, new: &NewSession) -> Result<Opened, Unavailable> {
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
        let surplus = live.len().saturating_sub(most).min(MOST_ENDED);
        let mut ended = Vec::new();
        for (_, id) in live.into_iter().take(surplus) {
            if let Some((revocation, true)) = self.end(id, "its subject had opened too many others").await? {
                ended.push(revocation);
            }
        }
        Ok(ended)
    }

    pub(super) async fn rotate(
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
                    (rotation, self.swap(id, &bytes, &stamped(&next)).await?)
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
                Rotation::Revoked(_)
                | Rotation::WrongKey
                | Rotation::LoggedOut
                | Rotation::Expired
                | Rotation::Unknown => {
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

    pub(super) async fn look_up(
        &self,
        token: Presented,
        rules: &RotationRules,
    ) -> Result<Option<Standing>, Unavailable> {
        match self.row(token.session).await? {
            Some((_, row)) if !row.is_revoked() && !self.is_logged_out(&row).await? => {
                Ok(row.standing(token, rules, self.now()))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Ends a session; also answers whether it had not ended before.
    pub(super) async fn end(&self, id: SessionId, reason: &str) -> Result<Option<(Revocation, bool)>, Unavailable> {
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
                    self.swap(id, &bytes, &bytes).await?;
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
        match self.swap(id, bytes, &ended).await? {
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
        self.swap(id, bytes, &stamped(&next)).await?;
        Ok(revocation)
    }

    /// Ends the session that an entry of the log is about, where that is not done yet.
    pub(super) async fn ended_with(&self, entry: &Revocation) -> Result<(), Unavailable> {
        let Some(id) = session_in(entry) else { return Ok(()) };
        let Some((mut bytes, mut row)) = self.row(id).await? else { return Ok(()) };
        while !row.is_revoked() {
            let mut next = row.clone();
            next.revoke(id, Ended { at: entry.at, number: entry.number }, "");
            match self.swap(id, &bytes, &stamped(&next)).await? {
                Swapped::Done | Swapped::Gone => break,
                Swapped::Other(there) => {
                    row = unstamped(&there)?;
                    bytes = there;
                }
            }
        }
        Ok(())
    }

    async fn swap(&self, id: SessionId, old: &[u8], new: &[u8]) -> Result<Swapped, Unavailable> {
        self.in_place()?;
        let mut swap = Script::Swap.on(&[&self.names.row(id)]);
        swap.arg(old).arg(new);
        Ok(match self.link.write(Place::of(id), swap).await? {
            Value::Int(1) => Swapped::Done,
            Value::BulkString(there) => Swapped::Other(there),
            _ => Swapped::Gone,
        })
    }
}
