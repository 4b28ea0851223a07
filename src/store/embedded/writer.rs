//! The embedded store's one writer: a thread, and one commit for all that waited while the last one ran.

use std::{cell::RefCell, path::PathBuf, sync::Arc};

use redb::{Database, Durability, ReadTransaction, ReadableDatabase as _};
use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    oneshot,
};

use super::{
    file::reopen,
    noted::Changes,
    renewal::{self, Renewal},
    tables::{Closed, Tables},
};
use crate::{
    clock::Clock,
    store::{DataFolder, Tail, Unavailable},
};

/// The most verbs in one commit, so that the first of them does not wait for an endless stream of others.
const BATCH: usize = 256;

/// What the writer is told.
pub(super) enum Told {
    /// To carry out a verb.
    Verb(Job),
    /// To say what is in the store: all that was acknowledged before.
    Read(oneshot::Sender<Reading>),
    /// That the copy which is to take the file's place is there.
    Copied(renewal::Copied),
}

/// A verb on its way to the writer. It gives back how to answer, once it is known whether the commit held.
pub(super) type Job = Box<dyn FnOnce(&mut Tables<'_>) -> Result<Answer, redb::Error> + Send>;
pub(super) type Answer = Box<dyn FnOnce(Result<(), Unavailable>) + Send>;

/// The store as it was at a moment, for whoever reads all of it.
pub(super) struct Reading {
    pub(super) from: ReadTransaction,
    /// While it is held, the file stays where it is.
    _here: Arc<()>,
}

/// What the writer has.
pub(super) struct Writer {
    pub(super) path: PathBuf,
    pub(super) clock: Clock,
    pub(super) tail: Arc<Tail>,
    /// Held to the end of its life, past the database.
    pub(super) folder: Arc<DataFolder>,
    /// The way to itself. It ends when all others have given up theirs.
    pub(super) itself: mpsc::WeakSender<Told>,
}

impl Writer {
    /// Its life.
    pub(super) fn run(self, mut queue: mpsc::Receiver<Told>, database: Database) {
        let (mut open, mut renewal, changes) = (Some(database), Renewal::new(), RefCell::default());
        let readers = Arc::new(());
        while let Some(batch) = next(&mut queue, renewal.is_catching_up()) {
            let Batch { jobs, asked, copied } = batch;
            if let Some(copied) = copied {
                renewal.copied(copied, &self.folder, &changes);
            }
            if !asked.is_empty() {
                // A copy that others make is waited for by somebody; this one is begun again.
                changes.borrow_mut().give_up();
            }
            // redb refuses everything after its first failed write, by design. A disk that was full may have room again,
            // so the file is opened anew, which brings back the last commit that held.
            let database = match open.take().map_or_else(|| Ok(reopen(&self.path)?), Ok::<_, redb::Error>) {
                Ok(database) => database,
                Err(error) => {
                    tracing::error!(%error, "the session store cannot be opened again");
                    renewal.interrupt(&self.folder, &changes);
                    continue; // The jobs are dropped, and with them the answers: unavailable to all.
                }
            };
            let swept = match self.commit(&database, jobs, &changes) {
                Ok(swept) => swept,
                Err(error) => {
                    tracing::error!(%error, "the session store could not commit");
                    renewal.interrupt(&self.folder, &changes);
                    continue;
                }
            };
            for reader in asked {
                match database.begin_read() {
                    // Whoever asked may have gone.
                    Ok(from) => drop(reader.send(Reading { from, _here: readers.clone() })),
                    Err(error) => tracing::error!(%error, "the session store cannot be read"),
                }
            }
            if let (Some(rows), 1) = (swept, Arc::strong_count(&readers)) {
                renewal.begin_if_due(rows, &database, &self.folder, &self.path, &self.itself, &changes);
            }
            open = renewal.go_on(database, &self.folder, &self.path, &changes);
        }
        drop(open);
        renewal.end(&self.folder);
    }

    /// Carries out `jobs` in one durable transaction; answers how many rows are left where a sweep among them has come to its
    /// end. On an error all of them are dropped unanswered.
    fn commit(
        &self,
        database: &Database,
        jobs: Vec<Job>,
        changes: &RefCell<Changes>,
    ) -> Result<Option<u64>, redb::Error> {
        if jobs.is_empty() {
            return Ok(None);
        }
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let mut tables = Tables::open(&transaction, self.clock.now(), self.tail.position(), changes)?;
        let answers = jobs.into_iter().map(|job| job(&mut tables)).collect::<Result<Vec<_>, _>>()?;
        let Closed { changed, appended, swept } = tables.close()?;
        // Look-ups alone need no disk.
        if changed {
            transaction.commit()?
        } else {
            transaction.abort()?
        }
        // Who follows the log learns of it before who asked does.
        self.tail.extend(appended);
        answers.into_iter().for_each(|answer| answer(Ok(())));
        Ok(swept)
    }
}

/// What was told at a time.
#[derive(Default)]
struct Batch {
    jobs: Vec<Job>,
    asked: Vec<oneshot::Sender<Reading>>,
    copied: Option<renewal::Copied>,
}

/// What has been told meanwhile; waits for something, unless there is something else to do. `None` when nobody is left to tell
/// anything.
fn next(queue: &mut mpsc::Receiver<Told>, busy: bool) -> Option<Batch> {
    let mut next = if busy {
        match queue.try_recv() {
            Ok(told) => Some(told),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => return None,
        }
    } else {
        Some(queue.blocking_recv()?)
    };
    let mut batch = Batch::default();
    while let Some(told) = next {
        match told {
            Told::Verb(job) => batch.jobs.push(job),
            Told::Read(reader) => batch.asked.push(reader),
            Told::Copied(copied) => batch.copied = Some(copied),
        }
        next = if batch.jobs.len() < BATCH { queue.try_recv().ok() } else { None };
    }
    Some(batch)
}
