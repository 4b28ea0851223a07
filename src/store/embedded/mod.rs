//! The embedded store: one file, one writer thread, and one commit for all that waited while the last one ran.

mod backup;
mod codes;
mod log;
mod sessions;
mod tables;

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use redb::{Database, Durability, ReadTransaction, ReadableDatabase as _};
use tokio::sync::{mpsc, oneshot};

pub use self::backup::{BackupError, Copied, RestoreError, restore};
use self::tables::{CURRENT_FORMAT, FORMAT, Fault, LAST_REVOCATION, LIFE, META, Tables};
use super::{
    DataFolder, Digest, Lifted, NewRevocation, NewSession, Opened, Presented, Record, Revocation, Rotation,
    RotationRules, Session, Stats, Swept, Tail, Taken, Unavailable, Visitor, Whose,
};
use crate::{
    clock::{Clock, Roughly, Timestamp},
    types::{Position, SessionId},
};

/// The name of the file in the data folder.
pub(super) const FILE: &str = "store.redb";
/// What it is called until it is whole.
const HALF: &str = "store.redb.new";

/// How many verbs may wait for the writer; further ones wait for a place.
const QUEUE: usize = 1024;

/// The most verbs in one commit, so that the first of them does not wait for an endless stream of others.
const BATCH: usize = 256;

/// What redb may keep in memory. The working set of a store is the sessions that refresh just now, not all of them.
const CACHE_BYTES: usize = 4 << 20;

/// How a redb file begins.
const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";

/// The store in a file of its own. Cheap to clone; the file is closed, and its folder given back, with the last handle.
#[derive(Clone, Debug)]
pub struct Embedded(Arc<Writer>);

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
        let (told, file, time) = (tail.clone(), path.clone(), clock.clone());
        let thread = thread::Builder::new()
            .name("sidegate-store".into())
            .spawn(move || write(queue, database, &path, &time, &told, folder))
            .expect("a process that cannot start one thread cannot serve either");
        Ok(Self(Arc::new(Writer { jobs: Some(jobs), thread: Some(thread), tail, path: file, clock })))
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

    pub(super) async fn keep_code(&self, name: Digest, value: Box<[u8]>, until: Timestamp) -> Result<(), Unavailable> {
        self.run(move |tables| tables.keep_code(&name, &value, until)).await
    }

    pub(super) async fn take_code(&self, name: Digest, session: SessionId) -> Result<Taken, Unavailable> {
        self.run(move |tables| tables.take_code(&name, session)).await
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
        let from = answered.await.map_err(|_| Unavailable("it cannot be read".into()))?;
        let now = self.0.clock.now();
        let copying = tokio::task::spawn_blocking(move || backup::back_up(&from, &path, now));
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

/// What the writer is told.
enum Told {
    /// To carry out a verb.
    Verb(Job),
    /// To say what is in the store: all that was acknowledged before.
    Read(oneshot::Sender<ReadTransaction>),
}

/// A verb on its way to the writer. It gives back how to answer, once it is known whether the commit held.
type Job = Box<dyn FnOnce(&mut Tables<'_>) -> Result<Answer, redb::Error> + Send>;
type Answer = Box<dyn FnOnce(Result<(), Unavailable>) + Send>;

#[derive(Debug)]
struct Writer {
    jobs: Option<mpsc::Sender<Told>>,
    thread: Option<JoinHandle<()>>,
    tail: Arc<Tail>,
    path: PathBuf,
    clock: Clock,
}

impl Drop for Writer {
    /// Waits for what is queued to be on disk, so that a folder that was given back is at rest.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the session store's writer had panicked");
        }
    }
}

/// The writer's life. `_folder` is held to the end of it, past the database.
fn write(
    mut queue: mpsc::Receiver<Told>,
    database: Database,
    path: &Path,
    clock: &Clock,
    tail: &Tail,
    _folder: Arc<DataFolder>,
) {
    let mut open = Some(database);
    while let Some(first) = queue.blocking_recv() {
        let (mut jobs, mut readers, mut next) = (Vec::new(), Vec::new(), Some(first));
        while let Some(told) = next {
            match told {
                Told::Verb(job) => jobs.push(job),
                Told::Read(reader) => readers.push(reader),
            }
            next = if jobs.len() < BATCH { queue.try_recv().ok() } else { None };
        }
        // redb refuses everything after its first failed write, by design. A disk that was full may have room again, so
        // the file is opened anew, which brings back the last commit that held.
        let database = match open.take().map_or_else(|| Ok(reopen(path)?), Ok::<_, redb::Error>) {
            Ok(database) => database,
            Err(error) => {
                tracing::error!(%error, "the session store cannot be opened again");
                continue; // The jobs are dropped, and with them the answers: unavailable to all.
            }
        };
        match commit(&database, jobs, clock.now(), tail) {
            Ok(()) => {
                for reader in readers {
                    match database.begin_read() {
                        // Whoever asked may have gone.
                        Ok(transaction) => drop(reader.send(transaction)),
                        Err(error) => tracing::error!(%error, "the session store cannot be read"),
                    }
                }
                open = Some(database);
            }
            Err(error) => tracing::error!(%error, "the session store could not commit"),
        }
    }
}

/// Carries out `jobs` in one durable transaction. On an error all of them are dropped unanswered.
fn commit(database: &Database, jobs: Vec<Job>, now: Timestamp, tail: &Tail) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    let mut tables = Tables::open(&transaction, now, tail.position())?;
    let answers = jobs.into_iter().map(|job| job(&mut tables)).collect::<Result<Vec<_>, _>>()?;
    let (changed, appended) = tables.close();
    // Look-ups alone need no disk.
    if changed {
        transaction.commit()?
    } else {
        transaction.abort()?
    }
    // Who follows the log learns of it before who asked does.
    tail.extend(appended);
    answers.into_iter().for_each(|answer| answer(Ok(())));
    Ok(())
}

/// Where the log stands.
fn position(database: &Database) -> Result<Position, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    let number = |name| Ok::<_, redb::Error>(meta.get(name)?.map_or(0, |number| number.value()));
    Ok(Position { life: number(LIFE)?, number: number(LAST_REVOCATION)? })
}

fn open_or_create(folder: &DataFolder, path: &Path, clock: &Clock) -> Result<Database, OpenError> {
    let storage = |cause: redb::Error| OpenError::Storage { path: path.into(), cause: Box::new(cause) };
    match begins_like_redb(path) {
        Ok(true) => {}
        Ok(false) => return Err(OpenError::Foreign(path.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(folder, path, clock.now()).map_err(storage)?;
        }
        Err(error) => return Err(storage(error.into())),
    }
    let database = reopen(path).map_err(|error| storage(error.into()))?;
    match format_of(&database).map_err(storage)? {
        Some(CURRENT_FORMAT) => Ok(database),
        Some(found) => Err(OpenError::OtherFormat { path: path.into(), found }),
        None => Err(OpenError::Foreign(path.into())),
    }
}

/// Makes the file under another name first: what has the store's name is whole, whenever the process ends.
fn create(folder: &DataFolder, path: &Path, now: Timestamp) -> Result<(), redb::Error> {
    let half = folder.path().join(HALF);
    folder.discard(&half)?;
    drop(backup::create(&half)?);
    let database = builder().create(&half)?;
    let transaction = database.begin_write()?;
    Tables::open(&transaction, now, Position::default())?.initialise()?;
    transaction.commit()?;
    drop(database);
    std::fs::rename(&half, path)?;
    Ok(folder.sync()?)
}

fn reopen(path: &Path) -> Result<Database, redb::DatabaseError> {
    builder().open(path)
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn begins_like_redb(path: &Path) -> io::Result<bool> {
    let mut magic = Vec::with_capacity(MAGIC.len());
    File::open(path)?.take(MAGIC.len() as u64).read_to_end(&mut magic)?;
    Ok(magic == MAGIC)
}

/// The format of a store; `None` when the database is somebody else's.
fn format_of(database: &Database) -> Result<Option<u64>, redb::Error> {
    match database.begin_read()?.open_table(META) {
        Ok(meta) => Ok(meta.get(FORMAT)?.map(|format| format.value())),
        Err(redb::TableError::Storage(error)) => Err(error.into()),
        Err(_) => Ok(None),
    }
}
