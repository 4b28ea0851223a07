//! The verbs about the revocation log, and what is kept of it, within one write transaction.

use redb::ReadableTable as _;

use super::tables::{Fault, LAST_REVOCATION, LAST_SESSION_ENDS, Tables};
use crate::store::{
    Lifted, NewRevocation, Revocation, Revoked,
    row::{decode, encode},
};

impl Tables<'_> {
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

    /// Adds an entry, which has the next number, to the revocation log.
    pub(super) fn append(&mut self, mut revocation: Revocation) -> Result<Revocation, Fault> {
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

    fn entry(&self, number: u64) -> Result<Option<Revocation>, Fault> {
        let Some(bytes) = self.revocations.get(number)? else { return Ok(None) };
        decode(bytes.value()).map(Some).map_err(Fault::Row)
    }

    /// Takes an entry out of the log; one that is not there is out already.
    pub(super) fn take_out(&mut self, number: u64) -> Result<(), Fault> {
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

    pub(super) fn due_epoch(&self, now: u64) -> Result<Option<(String, String)>, Fault> {
        Ok(self.epoch_expiry.first()?.and_then(|(key, _)| {
            let (at, (kind, id)) = key.value();
            (at <= now).then(|| (kind.to_owned(), id.to_owned()))
        }))
    }

    pub(super) fn forget_epoch(&mut self, name: (&str, &str)) -> Result<(), Fault> {
        let ends = self.epochs.remove(name)?.map(|epoch| epoch.value().1);
        if let Some(ends) = ends {
            self.epoch_expiry.remove((ends, name))?;
        }
        Ok(())
    }
}

/// What the last entry about something is found by.
pub(super) fn latest_name(entry: &Revocation) -> (&str, &str, &str) {
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
