//! The issuer's own keys: which sign, which are published, which verify, and how one follows the other.
//!
//! A key is `next` first: published, so that everybody has it before it signs. Then it is `active` and signs; then `retired`,
//! and verifies until the last token it signed has expired. A key that is `revoked` verifies nothing from that moment on. What
//! is decided is on disk before it holds.

mod entry;
mod file;
mod sealed;
mod vault;

use std::{
    fmt::Write as _,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;

pub(super) use self::file::master_key;
pub use self::file::{KeyFileError, MASTER_KEY_BYTES, private_key_in};
use self::{
    entry::{Entry, State},
    file::{KeyFile, read_private_key},
};
pub(super) use self::{sealed::Seal, vault::Vault};
use super::By;
use crate::{
    clock::{Clock, Timestamp},
    io::Stamp,
    store::{self, DataFolder},
    telemetry::{
        Metrics,
        audit::{Audit, Event, Facts, KeyChange},
    },
    token::{
        Algorithm,
        keys::{KeyError, KeySet},
        live::LiveKeys,
        sign::Signer,
    },
};

/// How keys follow each other; every value has been checked.
#[derive(Clone, Debug)]
pub struct KeysConfig {
    /// How long a key signs; `None`: until somebody says otherwise.
    pub rotate_every: Option<Duration>,
    /// How long a key is published before it signs; shorter than `rotate_every`.
    pub publish_ahead: Duration,
    /// A file with the key that is to sign: PKCS#8 in PEM, or 32 bytes or more for HS256. When another one is put there, that
    /// follows. `None`: keys are made here.
    pub file: Option<PathBuf>,
}

impl KeysConfig {
    /// For how long others may keep the published keys: whoever keeps them for as long has a key before it signs.
    pub(super) fn max_age(&self) -> Duration {
        const LONGEST: Duration = Duration::from_secs(300);
        (self.publish_ahead / 2).min(LONGEST)
    }
}

/// The keys of one issuer.
pub(super) struct Ring {
    vault: Vault,
    seal: Seal,
    config: KeysConfig,
    algorithm: Algorithm,
    /// How long a token may be valid after it was signed, for whoever is the most lenient about time.
    longest: Mutex<Duration>,
    clock: Clock,
    metrics: Metrics,
    audit: Audit,
    entries: Mutex<Vec<Entry>>,
    /// Which state of the file has been looked at.
    seen: Mutex<Option<Stamp>>,
    /// What was last complained of, so that it is not said twice a second.
    complaint: Mutex<String>,
    /// What follows from them.
    active: ArcSwap<Signer>,
    jwks: ArcSwap<Bytes>,
    live: Arc<LiveKeys>,
}

/// What the time can have come for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A key that no token needs any more goes.
    Forget,
    /// The next one signs.
    Activate,
    /// Another one is published.
    Follow,
    /// There may be another key in the file.
    LookAtFile,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// There is no such key.
    #[error("there is no key {0:?}; `sidegate keys list` names those there are")]
    Unknown(String),
    /// It has been revoked already.
    #[error("the key {0:?} has been revoked already")]
    Revoked(String),
    /// A key that is to follow is there already.
    #[error("the key {0:?} is published already, and signs in {1}; `sidegate keys rotate --now` has it sign at once")]
    UnderWay(String, String),
    /// Which key signs is said by a file.
    #[error("which key signs is said by {}: put another one there", .0.display())]
    InFile(PathBuf),
    /// The file's key cannot be used.
    #[error("{}: {what}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is the matter with it.
        what: String,
    },
    /// A key could not be made.
    #[error("a key could not be made: {0}")]
    Key(#[from] KeyError),
    /// The disk refuses, or the store. Nothing has changed.
    #[error("the keys cannot be written: {0}")]
    Io(#[from] std::io::Error),
    /// What another process has put there cannot be used.
    #[error(transparent)]
    Shared(#[from] KeyFileError),
    /// Another process that shares the store has changed the keys just now.
    #[error("another Sidegate has changed the keys just now: look at them again")]
    Meanwhile,
}

impl Ring {
    /// Takes the keys that are in the data folder, or in a store that is shared; makes the first one where there is none. Waits
    /// for the store: not for a runtime's own threads.
    pub(super) fn open(
        (folder, vault): (&Arc<DataFolder>, Vault),
        seal: Seal,
        config: KeysConfig,
        algorithm: Algorithm,
        longest_lifetime: Duration,
        clock: Clock,
        (metrics, audit): (Metrics, Audit),
    ) -> Result<Self, KeyFileError> {
        let longest = longest_lifetime + store::MAX_LEEWAY;
        let [before, entries] = loop {
            // Of several that begin at once, one makes the first key.
            if let Some(found) = first_look(folder, &vault, &seal, &config, algorithm, longest, clock.now())? {
                break found;
            }
        };
        let is_right = |entry: &&Entry| entry.state == State::Active && entry.algorithm == algorithm;
        let Some(active) = entries.iter().find(is_right).and_then(|entry| entry.key.clone()) else {
            return Err(vault.error("are damaged: there is none that signs".into()));
        };
        let ring = Self {
            vault,
            seal,
            longest: Mutex::new(longest),
            config,
            algorithm,
            clock,
            metrics,
            audit,
            active: ArcSwap::new(active.0),
            jwks: ArcSwap::default(),
            live: LiveKeys::new(KeySet::default()),
            entries: Mutex::default(),
            seen: Mutex::default(),
            complaint: Mutex::default(),
        };
        ring.publish(&entries);
        ring.tell(&before, &entries, Facts { cause: Some("start"), ..Facts::default() });
        *ring.entries() = entries;
        Ok(ring)
    }

    /// The key that signs now.
    pub(super) fn signer(&self) -> Arc<Signer> {
        self.active.load_full()
    }

    /// From now on tokens live for as long as this, or as before.
    pub(super) fn lengthen(&self, longest_lifetime: Duration) {
        let mut longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        *longest = longest_lifetime.saturating_add(store::MAX_LEEWAY).max(*longest);
    }

    fn longest(&self) -> Duration {
        *self.longest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys that verify now.
    pub(super) fn live(&self) -> &Arc<LiveKeys> {
        &self.live
    }

    /// The keys that are published now (RFC 7517 §5).
    pub(super) fn jwks(&self) -> Arc<Bytes> {
        self.jwks.load_full()
    }

    /// For how long others may keep what is published.
    pub(super) fn max_age(&self) -> Duration {
        self.config.max_age()
    }

    /// Does what the time has come for, and logs what hinders it.
    pub(super) fn look_after(&self) {
        let complaint = self.tend().err().map(|error| error.to_string()).unwrap_or_default();
        let mut last = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != complaint && !complaint.is_empty() {
            tracing::error!(error = complaint, "the signing keys stay as they are");
        }
        *last = complaint;
    }

    /// Whether there is something to do for [`Ring::look_after`]. Cheap enough to be asked twice a second.
    pub(super) fn is_due(&self) -> bool {
        let entries = match self.entries.try_lock() {
            Ok(entries) => entries,
            Err(TryLockError::Poisoned(entries)) => entries.into_inner(),
            // A command is changing them, and may take its time.
            Err(TryLockError::WouldBlock) => return false,
        };
        self.vault.has_changed() || self.step(&entries, self.clock.now()).is_some()
    }

    /// Does what the time has come for; it writes only when something changes.
    ///
    /// # Errors
    /// When a key cannot be made or read, or the disk refuses; the keys are then what they were.
    fn tend(&self) -> Result<(), KeysError> {
        let mut entries = self.entries();
        let now = self.clock.now();
        if self.vault.has_changed() {
            self.reload(&mut entries)?;
        }
        while let Some(step) = self.step(&entries, now) {
            let mut changed = entries.clone();
            match step {
                Step::Forget => changed.retain(|entry| entry.until.is_none_or(|until| now < until)),
                Step::Activate => self.activate(&mut changed, now),
                Step::Follow => changed.push(self.fresh(State::Next, now)?),
                Step::LookAtFile if !self.take_given(&mut changed, now)? => continue,
                Step::LookAtFile => {}
            }
            let cause = if step == Step::LookAtFile { "file" } else { "time" };
            self.commit(&mut entries, changed, Facts { cause: Some(cause), ..Facts::default() })?;
        }
        Ok(())
    }

    /// What the time has come for. The file comes last: whatever is the matter with it, time goes on.
    fn step(&self, entries: &[Entry], now: Timestamp) -> Option<Step> {
        let since = |state| entries.iter().find(|entry| entry.state == state).map(|entry| entry.since);
        let due = |since: Timestamp, wait: Duration| now >= since + wait;
        if entries.iter().any(|entry| entry.until.is_some_and(|until| now >= until)) {
            return Some(Step::Forget);
        }
        match (since(State::Next), since(State::Active), self.config.rotate_every) {
            (Some(next), ..) if due(next, self.config.publish_ahead) => return Some(Step::Activate),
            (None, Some(active), Some(every)) if due(active, every.saturating_sub(self.config.publish_ahead)) => {
                return Some(Step::Follow);
            }
            _ => {}
        }
        let stamp = Stamp::of(self.config.file.as_deref()?).ok();
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (stamp.is_none() || stamp != seen).then_some(Step::LookAtFile)
    }

    /// Has another key follow: published from now on, and signing when everybody can have it; or at once.
    ///
    /// # Errors
    /// When one is to follow already, a key cannot be made, or the disk refuses.
    pub(super) fn rotate(&self, at_once: bool, by: &By) -> Result<String, KeysError> {
        let mut entries = self.entries();
        if let (Some(path), false) = (&self.config.file, entries.iter().any(|entry| entry.state == State::Next)) {
            return Err(KeysError::InFile(path.clone()));
        }
        let (now, mut changed) = (self.clock.now(), entries.clone());
        match changed.iter().find(|entry| entry.state == State::Next) {
            Some(next) if !at_once => {
                let wait = next.wait(now, self.config.publish_ahead);
                return Err(KeysError::UnderWay(next.kid.to_string(), wait.to_string()));
            }
            Some(_) => {}
            None => changed.push(self.fresh(State::Next, now)?),
        }
        if at_once {
            self.activate(&mut changed, now);
        }
        self.commit(&mut entries, changed, by.facts())?;
        let newest = entries.iter().rev().find(|entry| matches!(entry.state, State::Next | State::Active));
        Ok(newest.map(|entry| entry.line(now, self.config.publish_ahead)).unwrap_or_default())
    }

    /// Refuses everything that a key has signed, from now on. Another one signs at once if it was the one that did.
    ///
    /// # Errors
    /// When there is no such key, another one cannot be made, or the disk refuses.
    pub(super) fn revoke(&self, kid: &str, by: &By) -> Result<String, KeysError> {
        let mut entries = self.entries();
        let (now, mut changed) = (self.clock.now(), entries.clone());
        let Some(entry) = changed.iter_mut().find(|entry| &*entry.kid == kid) else {
            return Err(KeysError::Unknown(kid.chars().take(100).collect()));
        };
        let was = entry.state;
        if was == State::Revoked {
            return Err(KeysError::Revoked(kid.into()));
        }
        (entry.state, entry.since, entry.key) = (State::Revoked, now, None);
        entry.until = Some(now + self.longest());
        if was == State::Active {
            if !changed.iter().any(|entry| entry.state == State::Next) {
                changed.push(self.fresh(State::Next, now)?);
            }
            self.activate(&mut changed, now);
        }
        self.commit(&mut entries, changed, by.facts())?;
        Ok(self.list_of(&entries, now))
    }

    /// The names of those that are revoked, while a token that one of them signed could still be shown.
    pub(super) fn revoked(&self) -> Vec<String> {
        let entries = self.entries();
        let revoked = entries.iter().filter(|entry| entry.state == State::Revoked);
        revoked.map(|entry| entry.kid.to_string()).collect()
    }

    /// A line for each key.
    pub(super) fn list(&self) -> String {
        self.list_of(&self.entries(), self.clock.now())
    }

    fn list_of(&self, entries: &[Entry], now: Timestamp) -> String {
        entries.iter().fold(String::new(), |mut text, entry| {
            let _ = writeln!(text, "{}", entry.line(now, self.config.publish_ahead));
            text
        })
    }

    /// Has the key in the file follow, in place of another that was to, unless it signs already or is about to. Answers whether
    /// that changes anything.
    fn take_given(&self, entries: &mut Vec<Entry>, now: Timestamp) -> Result<bool, KeysError> {
        let Some(path) = &self.config.file else { return Ok(false) };
        let stamp = Stamp::of(path)?;
        let wrong = |what| KeysError::File { path: path.clone(), what };
        let key = read_private_key(path, self.algorithm).map_err(wrong)?;
        let given = self.seal.entry(self.algorithm, &key, State::Next, now);
        let given = given.map_err(|error| wrong(error.to_string()))?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(stamp);
        let before = entries.len();
        match entries.iter().find(|entry| entry.kid == given.kid).map(|known| known.state) {
            Some(State::Revoked) => {
                return Err(wrong(format!("{} has been revoked: put another key in its place", given.kid)));
            }
            Some(State::Next) => return Ok(false),
            // Somebody has thought better of the one that was to follow.
            Some(State::Active) => {
                entries.retain(|entry| entry.state != State::Next);
                return Ok(entries.len() != before);
            }
            // One of before is to sign again; it is published already, and waits like any other.
            Some(State::Retired) => entries.retain(|entry| entry.state != State::Next && entry.kid != given.kid),
            None => entries.retain(|entry| entry.state != State::Next),
        }
        entries.push(given);
        Ok(true)
    }

    fn fresh(&self, state: State, now: Timestamp) -> Result<Entry, KeysError> {
        Ok(self.seal.entry(self.algorithm, &Signer::generate(self.algorithm)?, state, now)?)
    }

    /// The next key signs, and the one that did verifies on.
    fn activate(&self, entries: &mut [Entry], now: Timestamp) {
        for entry in entries.iter_mut() {
            match entry.state {
                State::Active => entry.retire(now, self.longest()),
                State::Next => (entry.state, entry.since) = (State::Active, now),
                State::Retired | State::Revoked => {}
            }
        }
    }

    /// On disk first, or in the store; then for everybody.
    fn commit(&self, entries: &mut Vec<Entry>, changed: Vec<Entry>, why: Facts<'_>) -> Result<(), KeysError> {
        if !self.vault.write(&self.seal.close_all(&changed))? {
            self.reload(entries)?;
            return Err(KeysError::Meanwhile);
        }
        self.adopt(entries, changed, why);
        Ok(())
    }

    /// Takes what another process has put into the store.
    fn reload(&self, entries: &mut Vec<Entry>) -> Result<(), KeysError> {
        let Some(text) = self.vault.read()? else { return Ok(()) };
        let (mut changed, _) = self.seal.open_all(text.expose()).map_err(|why| self.vault.error(why))?;
        let now = self.clock.now();
        // A store that has failed over may have forgotten that a key was revoked. It does not come back by that.
        let revoked = |entry: &&Entry| entry.state == State::Revoked && entry.until.is_none_or(|until| now < until);
        let mut forgotten = false;
        for ours in entries.iter().filter(revoked) {
            match changed.iter_mut().find(|theirs| theirs.kid == ours.kid) {
                Some(theirs) if theirs.state == State::Revoked => continue,
                Some(theirs) => *theirs = ours.clone(),
                None => changed.push(ours.clone()),
            }
            forgotten = true;
        }
        if forgotten {
            if !changed.iter().any(|entry| entry.state == State::Active) {
                // The one that signs here already, if there is one: others know it by now.
                match entries.iter().find(|entry| entry.state == State::Active) {
                    Some(ours) => changed.push(ours.clone()),
                    None => changed.push(self.fresh(State::Active, now)?),
                }
            }
            if !self.vault.write(&self.seal.close_all(&changed))? {
                return Err(KeysError::Meanwhile);
            }
        }
        self.adopt(entries, changed, Facts { cause: Some("elsewhere"), ..Facts::default() });
        Ok(())
    }

    fn adopt(&self, entries: &mut Vec<Entry>, changed: Vec<Entry>, why: Facts<'_>) {
        self.publish(&changed);
        for entry in &changed {
            let before = entries.iter().find(|before| before.kid == entry.kid).map(|before| before.state);
            if before != Some(entry.state) {
                tracing::info!(kid = %entry.kid, state = entry.state.name(), "a signing key has changed");
                self.metrics.signing_key_changed(entry.state.name());
            }
        }
        self.tell(entries, &changed, why);
        *entries = changed;
    }

    fn tell(&self, before: &[Entry], after: &[Entry], why: Facts<'_>) {
        let tell = |change, entry: &Entry| self.audit.tell(Event::Key(change), Facts { kid: Some(&entry.kid), ..why });
        for entry in after {
            let was = before.iter().find(|before| before.kid == entry.kid).map(|before| before.state);
            if was.is_none() {
                tell(KeyChange::Made, entry);
            }
            match entry.state {
                state if was == Some(state) => {}
                State::Next => {}
                State::Active => tell(KeyChange::Activated, entry),
                State::Retired => tell(KeyChange::Retired, entry),
                State::Revoked => tell(KeyChange::Revoked, entry),
            }
        }
        let gone = before.iter().filter(|before| after.iter().all(|entry| entry.kid != before.kid));
        gone.for_each(|entry| tell(KeyChange::Forgotten, entry));
    }

    fn publish(&self, entries: &[Entry]) {
        let keys = || entries.iter().filter_map(|entry| entry.key.as_ref());
        let jwks: Vec<_> = keys().filter_map(|(signer, ..)| signer.public_jwk()).collect();
        // What verifies comes before what signs, and after it where a key goes.
        self.live.replace(KeySet::new(keys().map(|(_, key, _)| key.clone()).collect()));
        self.jwks.store(Arc::new(serde_json::json!({ "keys": jwks }).to_string().into()));
        let active = entries.iter().find(|entry| entry.state == State::Active).and_then(|entry| entry.key.as_ref());
        if let Some((signer, ..)) = active {
            self.active.store(signer.clone());
        }
        for state in State::ALL {
            self.metrics.signing_keys(state.name(), entries.iter().filter(|entry| entry.state == state).count());
        }
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        // What is in it is replaced whole, so that a panic leaves nothing half done.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What lies there when a process starts, and the same with a key that signs; `None` where somebody else has changed it
/// meanwhile.
fn first_look(
    folder: &Arc<DataFolder>,
    vault: &Vault,
    seal: &Seal,
    config: &KeysConfig,
    algorithm: Algorithm,
    longest: Duration,
    now: Timestamp,
) -> Result<Option<[Vec<Entry>; 2]>, KeyFileError> {
    let stored = vault.read()?;
    let (mut entries, mut changed) = match &stored {
        // What was sealed with a master key of before is sealed anew: from then on that one is not needed for it.
        Some(text) => seal.open_all(text.expose()).map_err(|why| vault.error(why))?,
        None => (Vec::new(), false),
    };
    let before = entries.clone();
    let given = match &config.file {
        Some(path) => {
            let wrong = |what| KeyFileError::of(path, what);
            let key = read_private_key(path, algorithm).map_err(wrong)?;
            Some(seal.entry(algorithm, &key, State::Active, now).map_err(|error| wrong(error.to_string()))?)
        }
        None => None,
    };
    let old = KeyFile::new(folder, &format!("signing-{}.key", algorithm.name().to_ascii_lowercase()));
    if !entries.iter().any(|entry| entry.state == State::Active && entry.algorithm == algorithm) {
        let fresh = match given {
            Some(entry) => entry,
            None => {
                // A key that was made when there was but one goes on.
                let key = match if stored.is_none() { old.read_if_there()? } else { None } {
                    Some(key) => key,
                    None => {
                        Signer::generate(algorithm).map_err(|error| vault.error(format!("cannot be made: {error}")))?
                    }
                };
                let fresh = seal.entry(algorithm, &key, State::Active, now);
                fresh.map_err(|error| old.error(format!("cannot be used: {error}")))?
            }
        };
        if entries.iter().any(|entry| entry.kid == fresh.kid && entry.state == State::Revoked) {
            return Err(vault.error(format!("say that {} has been revoked: put another key in its place", fresh.kid)));
        }
        entries.retain(|entry| entry.kid != fresh.kid);
        entries.iter_mut().filter(|entry| entry.state == State::Active).for_each(|entry| entry.retire(now, longest));
        entries.retain(|entry| entry.state != State::Next || entry.algorithm == algorithm);
        entries.push(fresh);
        changed = true;
    }
    if changed {
        let written = vault.write(&seal.close_all(&entries));
        if !written.map_err(|error| vault.error(format!("cannot be written: {error}")))? {
            return Ok(None);
        }
        old.remove();
    }
    Ok(Some([before, entries]))
}
