//! What is read of a store that goes, and written into one that comes, within one transaction.

use std::{ops::Bound, time::Duration};

use redb::{ReadableTable as _, ReadableTableMetadata as _};

use super::{
    Embedded,
    tables::{ACCESS_LIFETIME, Fault, LAST_REVOCATION, LAST_SESSION_ENDS, LIFE, Tables},
};
use crate::{
    clock::Timestamp,
    store::{
        Revocation, Revoked, Unavailable,
        moving::{Cursor, Epoch, Kept, Marks, PIECE, Piece},
        row::{Row, decode, encode},
    },
    types::SessionId,
};

impl Embedded {
    pub(in crate::store) async fn marks(&self) -> Result<Marks, Unavailable> {
        self.run(|tables| tables.marks()).await
    }

    pub(in crate::store) async fn piece(&self, at: Cursor) -> Result<Piece, Unavailable> {
        self.run(move |tables| tables.piece(at)).await
    }

    pub(in crate::store) async fn epochs(&self) -> Result<Vec<Epoch>, Unavailable> {
        self.run(|tables| tables.all_epochs()).await
    }

    pub(in crate::store) async fn kept(&self) -> Result<Vec<Kept>, Unavailable> {
        self.run(|tables| tables.all_kept()).await
    }

    pub(in crate::store) async fn take_sessions(&self, sessions: Vec<(SessionId, Row)>) -> Result<(), Unavailable> {
        self.run(move |tables| tables.take_sessions(&sessions)).await
    }

    pub(in crate::store) async fn take_entries(&self, entries: Vec<Revocation>) -> Result<(), Unavailable> {
        self.run(move |tables| tables.take_entries(&entries)).await
    }

    pub(in crate::store) async fn take_rest(
        &self,
        epochs: Vec<Epoch>,
        kept: Vec<Kept>,
        marks: Marks,
    ) -> Result<(), Unavailable> {
        self.run(move |tables| tables.take_rest(&epochs, &kept, marks)).await
    }
}

impl Tables<'_> {
    fn marks(&self) -> Result<Marks, Fault> {
        let number = |name| Ok::<_, Fault>(self.meta.get(name)?.map_or(0, |number| number.value()));
        Ok(Marks {
            position: self.position,
            last_session_ends: Timestamp(number(LAST_SESSION_ENDS)?),
            access_lifetime: Duration::from_millis(number(ACCESS_LIFETIME)?),
        })
    }

    fn piece(&self, at: Cursor) -> Result<Piece, Fault> {
        let after = match &at {
            Cursor::After(id) => Bound::Excluded(&id.0),
            Cursor::Start | Cursor::Part(_) => Bound::Unbounded,
        };
        let (mut sessions, mut last) = (Vec::new(), None);
        for row in self.sessions.range::<&[u8; 16]>((after, Bound::Unbounded))?.take(PIECE) {
            let (id, bytes) = row?;
            last = Some(SessionId(*id.value()));
            // A damaged row is nobody's session any more, here or there.
            if let Ok(row) = decode(bytes.value()) {
                sessions.push((SessionId(*id.value()), row));
            }
        }
        Ok((sessions, last.map(Cursor::After)))
    }

    fn all_epochs(&self) -> Result<Vec<Epoch>, Fault> {
        let mut epochs = Vec::new();
        for row in self.epochs.iter()? {
            let (name, epoch) = row?;
            let ((kind, id), (number, ends)) = (name.value(), epoch.value());
            let id = (!id.is_empty() || kind != "everything").then_some(id);
            epochs.extend(Revoked::parse(kind, id).map(|what| Epoch { what, number, ends: Timestamp(ends) }));
        }
        Ok(epochs)
    }

    fn all_kept(&self) -> Result<Vec<Kept>, Fault> {
        let mut all = Vec::new();
        for row in self.codes.iter()? {
            let (name, kept) = row?;
            let ([kind, digest @ ..], (until, taken, value)) = (name.value(), kept.value());
            all.push(Kept {
                marks: *kind == super::codes::MARK,
                name: *digest,
                until: Timestamp(until),
                taken: taken.copied().map(SessionId),
                value: value.to_vec(),
            });
        }
        Ok(all)
    }

    fn take_sessions(&mut self, sessions: &[(SessionId, Row)]) -> Result<(), Fault> {
        for (id, row) in sessions {
            self.put_new(*id, row)?;
            self.by_subject.insert((row.subject(), &id.0), ())?;
            self.by_client.insert((row.client(), &id.0), ())?;
        }
        Ok(())
    }

    fn take_entries(&mut self, entries: &[Revocation]) -> Result<(), Fault> {
        self.changed = true;
        for entry in entries {
            self.revocations.insert(entry.number, encode(entry).as_slice())?;
            self.revocation_expiry.insert((entry.until.0, entry.number), ())?;
            if entry.lifts || !entry.what.is_exact() {
                self.latest.insert(super::log::latest_name(entry), entry.number)?;
            }
        }
        Ok(())
    }

    /// The last of it: from then on the log is that of the store that it comes from.
    fn take_rest(&mut self, epochs: &[Epoch], kept: &[Kept], marks: Marks) -> Result<(), Fault> {
        debug_assert_eq!(self.epochs.len().unwrap_or_default(), 0, "nothing was in it");
        self.changed = true;
        for Epoch { what, number, ends } in epochs {
            let name = (what.kind(), what.id().unwrap_or(""));
            self.epochs.insert(name, (*number, ends.0))?;
            self.epoch_expiry.insert((ends.0, name), ())?;
        }
        for Kept { marks, name, until, taken, value } in kept {
            let name = super::codes::named(if *marks { super::codes::MARK } else { super::codes::CODE }, name);
            self.codes.insert(&name, (until.0, taken.as_ref().map(|id| &id.0), value.as_slice()))?;
            self.code_expiry.insert((until.0, &name), ())?;
        }
        let Marks { position, last_session_ends, access_lifetime } = marks;
        self.meta.insert(LIFE, position.life)?;
        self.meta.insert(LAST_REVOCATION, position.number)?;
        self.meta.insert(LAST_SESSION_ENDS, last_session_ends.0)?;
        let millis = u64::try_from(access_lifetime.as_millis()).unwrap_or(u64::MAX);
        self.meta.insert(ACCESS_LIFETIME, millis)?;
        Ok(())
    }
}
