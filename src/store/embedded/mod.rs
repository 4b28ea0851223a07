//! The embedded store: one file in one writer's hands.

mod backup;
mod codes;
mod copy;
mod file;
mod log;
mod moving;
mod noted;
mod renewal;
mod sessions;
mod tables;
mod writer;

use std::{
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use redb::{Database, ReadableDatabase as _};
use tokio::sync::{mpsc, oneshot};

pub use self::backup::{BackupError, Copied, RestoreError, restore};
pub(super) use self::file::FILE;
use self::{
    file::open_or_create,
    tables::{CURRENT_FORMAT, Fault, LAST_REVOCATION, LIFE, META, Tables},
    writer::{Job, Told, Writer},
};
use super::{
    DataFolder, Digest, Lifted, NewRevocation, NewSession, Opened, Presented, Record, Revocation, Rotation,
    RotationRules, Session, Standing, Stats, Swept, Tail, Taken, Unavailable, Visitor, Whose,
};
use crate::{
    clock::{Clock, Roughly, Timestamp},
    types::{Position, SessionId},
};

/// How many verbs may wait for the writer; further ones wait for a place.
const QUEUE: usize = 1024;

/// The store in a file of its own. Cheap to clone; the file is closed, and its folder given back, with the last handle.
#[derive(Clone, Debug)]
pub struct Embedded(Arc<Inner>);

/// Why a store could not be opened. The file is left as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something else lies where the store belongs.
    #[error("{} is not a session store of sidegate; move it away, or name another folder", .0.display())]
    Foreign(PathBuf),
    /// Another release has written it.
    #[error("{} has format {found}, which another release of sidegate has written; this one reads format {CURRENT_FORMAT}", path.display())]
    OtherFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// It could not be read or made.
    #[error("the session store {} cannot be opened: {cause}", path.display())]
    Storage {
        /// The file.
        path: PathBuf,
        /// What the database or the system said.
        cause: Box<redb::Error>,
    },
}

impl Embedded {
    pub(super) fn open(folder: Arc<DataFolder>, clock: Clock) -> Result<Self, OpenError> {
        let path = folder.path().join(FILE);
        let database = open_or_create(&folder, &path, &clock)?;
        let storage = |cause: redb::Error| OpenError::Storage { path: path.clone(), cause: Box::new(cause) };
        if let Some(made) = backup::take_up(&database, clock.now()).map_err(storage)? {
            let age = Roughly(clock.now().since(made).unwrap_or_default());
            tracing::warn!(
                made = made.as_secs(),
                "the session store is a backup, made {age} ago: who logged in since must log in again; what was revoked \
                 since is forgotten here, and refused by those that follow until it expires"
            );
        }
        let tail = Arc::new(Tail::new(position(&database).map_err(storage)?));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let itself = jobs.downgrade();
        let writer = Writer { path: path.clone(), clock: clock.clone(), tail: tail.clone(), folder, itself };
        let thread = thread::Builder::new()
            .name("sidegate-store".into())
            .spawn(move || writer.run(queue, database))
            .expect("a process that cannot start one thread cannot serve either");
        Ok(Self(Arc::new(Inner { jobs: Some(jobs), thread: Some(thread), tail, path, clock })))
    }

    pub(super) async fn open_session(&self, new: NewSession) -> Result<Opened, Unavailable> {
        self.run(move |tables| tables.open_session(&new)).await
    }

    pub(super) async fn session(&self, id: SessionId) -> Result<Option<Session>, Unavailable> {
        self.run(move |tables| tables.session(id)).await
    }

    pub(super) async fn rotate(
        &self,
        presented: Presented,
        rules: RotationRules,
        visitor: Visitor,
    ) -> Result<Rotation, Unavailable> {
        self.run(move |tables| tables.rotate(presented, &rules, &visitor)).await
    }

    pub(super) async fn look_up(
        &self,
        token: Presented,
        rules: RotationRules,
    ) -> Result<Option<Standing>, Unavailable> {
        self.run(move |tables| tables.look_up(token, &rules)).await
    }

    pub(super) async fn record(&self, id: SessionId) -> Result<Option<Record>, Unavailable> {
        self.run(move |tables| tables.record(id)).await
    }

    pub(super) async fn list(
        &self,
        whose: Whose,
        after: Option<SessionId>,
        limit: usize,
    ) -> Result<Vec<Record>, Unavailable> {
        self.run(move |tables| tables.list(&whose, after, limit)).await
    }

    pub(super) async fn keep_code(
        &self,
        name: Digest,
        value: Box<[u8]>,
        lifetime: Duration,
    ) -> Result<(), Unavailable> {
        self.run(move |tables| tables.keep_code(&name, &value, lifetime)).await
    }

    pub(super) async fn take_code(
        &self,
        name: Digest,
        session: SessionId,
        remembered: Duration,
    ) -> Result<Taken, Unavailable> {
        self.run(move |tables| tables.take_code(&name, session, remembered)).await
    }

    pub(super) async fn mark(&self, name: Digest, until: Timestamp) -> Result<bool, Unavailable> {
        self.run(move |tables| tables.mark(&name, until)).await
    }

    pub(super) async fn stats(&self) -> Result<Stats, Unavailable> {
        let bytes = std::fs::metadata(&self.0.path).map_or(0, |file| file.len());
        self.run(move |tables| tables.stats(bytes)).await
    }

    pub(super) async fn revoke_session(
        &self,
        id: SessionId,
        reason: Box<str>,
    ) -> Result<Option<Revocation>, Unavailable> {
        self.run(move |tables| tables.revoke_session(id, &reason)).await
    }

    pub(super) async fn revoke(&self, new: NewRevocation) -> Result<Revocation, Unavailable> {
        self.run(move |tables| tables.revoke(new)).await
    }

    pub(super) async fn lift(&self, number: u64, reason: Box<str>) -> Result<Lifted, Unavailable> {
        self.run(move |tables| tables.lift(number, reason)).await
    }

    pub(super) async fn revocations(&self, after: u64, limit: usize) -> Result<Vec<Revocation>, Unavailable> {
        self.run(move |tables| tables.log(after, limit)).await
    }

    pub(super) async fn longest_access_lifetime(&self, now: Duration) -> Result<Duration, Unavailable> {
        self.run(move |tables| tables.longest_access_lifetime(now)).await
    }

    pub(super) fn tail(&self) -> &Arc<Tail> {
        &self.0.tail
    }

    pub(super) async fn sweep(&self, limit: usize) -> Result<Swept, Unavailable> {
        self.run(move |tables| tables.sweep(limit)).await
    }

    /// Copies the store as it is now into a file of its own, on a thread of its own: nothing waits for it.
    pub(super) async fn backup(&self, path: PathBuf) -> Result<Copied, BackupError> {
        let (answer, answered) = oneshot::channel();
        self.tell(Told::Read(answer)).await?;
        let reading = answered.await.map_err(|_| Unavailable("it cannot be read".into()))?;
        let now = self.0.clock.now();
        let copying = tokio::task::spawn_blocking(move || {
            // All of it goes along, so that the file stays where it is though nobody waits any more.
            let reading = reading;
            backup::back_up(&reading.from, &path, now)
        });
        copying.await.unwrap_or_else(|_| Err(Unavailable("the backup was broken off".into()).into()))
    }

    /// Hands a verb to the writer, and answers when the transaction it went into is on disk.
    async fn run<T: Send + 'static>(
        &self,
        verb: impl FnOnce(&mut Tables<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |tables| {
            let result = match verb(tables) {
                Ok(value) => Ok(value),
                Err(Fault::Row(unavailable)) => Err(unavailable),
                Err(Fault::Storage(error)) => return Err(error),
            };
            // Whoever asked may have gone; the verb counts all the same.
            Ok(Box::new(move |committed| drop(answer.send(committed.and(result)))))
        });
        self.tell(Told::Verb(job)).await?;
        answered.await.unwrap_or_else(|_| Err(Unavailable("the transaction failed".into())))
    }

    async fn tell(&self, told: Told) -> Result<(), Unavailable> {
        let gone = || Unavailable("its writer has stopped".into());
        self.0.jobs.as_ref().ok_or_else(gone)?.send(told).await.map_err(|_| gone())
    }
}

#[derive(Debug)]
struct Inner {
    jobs: Option<mpsc::Sender<Told>>,
    thread: Option<JoinHandle<()>>,
    tail: Arc<Tail>,
    path: PathBuf,
    clock: Clock,
}

impl Drop for Inner {
    /// Waits for what is queued to be on disk, so that a folder that was given back is at rest.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the session store's writer had panicked");
        }
    }
}

/// Where the log stands.
fn position(database: &Database) -> Result<Position, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    let number = |name| Ok::<_, redb::Error>(meta.get(name)?.map_or(0, |number| number.value()));
    Ok(Position { life: number(LIFE)?, number: number(LAST_REVOCATION)? })
}
