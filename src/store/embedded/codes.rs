//! The verbs about authorization codes and replay markers, within one write transaction.

use std::time::Duration;

use redb::ReadableTable as _;

use super::tables::{Fault, Tables};
use crate::{
    clock::Timestamp,
    store::{Digest, Taken},
    types::SessionId,
};

impl Tables<'_> {
    pub(super) fn keep_code(&mut self, name: &Digest, value: &[u8], lifetime: Duration) -> Result<(), Fault> {
        self.keep(&named(CODE, name), None, value, self.now + lifetime)
    }

    pub(super) fn take_code(
        &mut self,
        name: &Digest,
        session: SessionId,
        remembered: Duration,
    ) -> Result<Taken, Fault> {
        let name = named(CODE, name);
        let Some((taken, value)) = self.kept(&name)? else { return Ok(Taken::Unknown) };
        if let Some(before) = taken {
            return Ok(Taken::Before(before));
        }
        self.keep(&name, Some(session), &[], self.now + remembered)?;
        Ok(Taken::Now(value))
    }

    pub(super) fn mark(&mut self, name: &Digest, until: Timestamp) -> Result<bool, Fault> {
        let name = named(MARK, name);
        let new = self.kept(&name)?.is_none();
        if new {
            self.keep(&name, None, &[], until)?;
        }
        Ok(new)
    }

    fn keep(&mut self, name: &[u8; 33], taken: Option<SessionId>, value: &[u8], until: Timestamp) -> Result<(), Fault> {
        self.changed = true;
        let before =
            self.codes.insert(name, (until.0, taken.as_ref().map(|id| &id.0), value))?.map(|before| before.value().0);
        if let Some(before) = before {
            self.code_expiry.remove((before, name))?;
        }
        self.code_expiry.insert((until.0, name), ())?;
        Ok(())
    }

    /// For which session it was taken, and what is kept under a name, unless its time is over.
    #[expect(clippy::type_complexity, reason = "a row of the table, owned, for the two verbs above")]
    fn kept(&self, name: &[u8; 33]) -> Result<Option<(Option<SessionId>, Box<[u8]>)>, Fault> {
        let Some(row) = self.codes.get(name)? else { return Ok(None) };
        let (until, taken, value) = row.value();
        Ok((until > self.now.0).then(|| (taken.copied().map(SessionId), value.into())))
    }
}

/// Which of the two a name in `codes` is of.
pub(super) const CODE: u8 = b'c';
pub(super) const MARK: u8 = b'm';

pub(super) fn named(kind: u8, name: &Digest) -> [u8; 33] {
    let mut whole = [kind; 33];
    whole[1..].copy_from_slice(name);
    whole
}
