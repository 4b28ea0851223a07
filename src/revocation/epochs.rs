//! Epochs, and the few other entries that are not counted in millions: revoked keys, and what was lifted.

use std::collections::HashMap;

use super::table::Entry;
use crate::{
    clock::Timestamp,
    store::Revoked,
    types::{Credential, IssuerUrl, Position},
};

/// What was said about a subject, a client, a key or everything, at last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Epoch {
    pub(super) position: Position,
    pub(super) until: Timestamp,
    pub(super) at: Timestamp,
    /// Whether tokens say where the log stood when they began; those of other issuers say no more than the date.
    pub(super) by_position: bool,
}

/// Those about one issuer's tokens.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    subjects: HashMap<Box<str>, Epoch>,
    clients: HashMap<Box<str>, Epoch>,
    keys: HashMap<Box<str>, Epoch>,
    everything: Option<Epoch>,
    /// What was taken back, by which entry, and until when that has to be remembered: an entry from before may still come.
    lifted: HashMap<Revoked, (u64, Timestamp)>,
}

impl Epoch {
    /// Whether what began then is refused.
    fn refuses(&self, token: &Credential<'_>) -> bool {
        // What does not say when it began is taken for older than all.
        if self.by_position {
            let began: Option<Position> = token.began.and_then(|text| text.parse().ok());
            began.is_none_or(|began| began < self.position)
        } else {
            // Whole seconds are all there is: whatever is of the same second is refused with what came before it.
            token.dated.is_none_or(|dated| dated <= self.at.as_secs())
        }
    }

    /// The later of two in the order of the log; it lasts as long as either.
    fn merge(self, other: Self) -> Self {
        let later = if self.position < other.position { other } else { self };
        Self { until: self.until.max(other.until), ..later }
    }
}

impl Epochs {
    pub(super) fn refuse(&self, token: &Credential<'_>) -> bool {
        let of = |map: &HashMap<Box<str>, Epoch>, id: Option<&str>| id.and_then(|id| map.get(id)).copied();
        of(&self.keys, token.key).is_some()
            || of(&self.subjects, token.subject).is_some_and(|epoch| epoch.refuses(token))
            || of(&self.clients, token.client).is_some_and(|epoch| epoch.refuses(token))
            || self.everything.is_some_and(|epoch| epoch.refuses(token))
    }

    pub(super) fn find(&self, what: &Revoked) -> Option<Epoch> {
        match what {
            Revoked::Key(id) => self.keys.get(id).copied(),
            Revoked::Subject(id) => self.subjects.get(id).copied(),
            Revoked::Client(id) => self.clients.get(id).copied(),
            Revoked::Everything => self.everything,
            Revoked::Token(_) | Revoked::Session(_) => None,
        }
    }

    pub(super) fn insert(&mut self, what: &Revoked, epoch: Epoch) {
        let epoch = self.find(what).map_or(epoch, |known| known.merge(epoch));
        match what {
            Revoked::Key(id) => drop(self.keys.insert(id.clone(), epoch)),
            Revoked::Subject(id) => drop(self.subjects.insert(id.clone(), epoch)),
            Revoked::Client(id) => drop(self.clients.insert(id.clone(), epoch)),
            Revoked::Everything => self.everything = Some(epoch),
            Revoked::Token(_) | Revoked::Session(_) => {}
        }
    }

    /// Takes back what was said before.
    pub(super) fn lift(&mut self, what: &Revoked, position: Position, until: Timestamp) {
        let number = position.number;
        if self.find(what).is_some_and(|epoch| epoch.position < position) {
            match what {
                Revoked::Key(id) => drop(self.keys.remove(id)),
                Revoked::Subject(id) => drop(self.subjects.remove(id)),
                Revoked::Client(id) => drop(self.clients.remove(id)),
                Revoked::Everything => self.everything = None,
                Revoked::Token(_) | Revoked::Session(_) => {}
            }
        }
        let known = self.lifted.entry(what.clone()).or_insert((number, until));
        *known = (known.0.max(number), known.1.max(until));
    }

    pub(super) fn has_lifted_nothing(&self) -> bool {
        self.lifted.is_empty()
    }

    /// The number of the entry that has lifted this.
    pub(super) fn lifted_at(&self, what: &Revoked) -> Option<u64> {
        self.lifted.get(what).map(|(number, _)| *number)
    }

    /// Those lifts were of a log that is gone.
    pub(super) fn forget_lifts(&mut self) {
        self.lifted.clear();
    }

    pub(super) fn sweep(&mut self, now: Timestamp) {
        for map in [&mut self.subjects, &mut self.clients, &mut self.keys] {
            map.retain(|_, epoch| epoch.until > now);
            if map.capacity() > 4 * map.len() + 64 {
                map.shrink_to_fit();
            }
        }
        self.everything = self.everything.filter(|epoch| epoch.until > now);
        self.lifted.retain(|_, (_, until)| *until > now);
    }

    /// How many there are, what was lifted included.
    pub(super) fn len(&self) -> usize {
        self.sizes().0.iter().sum::<usize>() + self.lifted.len()
    }

    /// How many keys, subjects, clients there are, and whether everything; and about how many bytes they take.
    pub(super) fn sizes(&self) -> ([usize; 4], usize) {
        let maps = [&self.keys, &self.subjects, &self.clients];
        let bytes = |map: &HashMap<Box<str>, Epoch>| map.capacity() * 8 / 7 * (size_of::<(Box<str>, Epoch)>() + 32);
        let [keys, subjects, clients] = maps.map(HashMap::len);
        ([keys, subjects, clients, usize::from(self.everything.is_some())], maps.into_iter().map(bytes).sum())
    }

    pub(super) fn for_each(&self, issuer: &IssuerUrl, life: u64, take: &mut impl FnMut(Entry)) {
        let mut told = |what, epoch: &Epoch| {
            let Epoch { position: Position { life, number }, until, at, by_position } = *epoch;
            let issuer = issuer.clone();
            take(Entry { number, life, issuer, what, until, at: Some(at), by_position, lifts: false });
        };
        self.keys.iter().for_each(|(id, epoch)| told(Revoked::Key(id.clone()), epoch));
        self.subjects.iter().for_each(|(id, epoch)| told(Revoked::Subject(id.clone()), epoch));
        self.clients.iter().for_each(|(id, epoch)| told(Revoked::Client(id.clone()), epoch));
        self.everything.iter().for_each(|epoch| told(Revoked::Everything, epoch));
        for (what, (number, until)) in &self.lifted {
            let (issuer, what) = (issuer.clone(), what.clone());
            let (number, until) = (*number, *until);
            take(Entry { number, life, issuer, what, until, at: None, by_position: false, lifts: true });
        }
    }
}
