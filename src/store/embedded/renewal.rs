//! Writing the file anew while the store serves. redb gives room back at the end of its file alone, and there is almost always
//! something there: after very many sessions have gone, the file would stay as large as it ever was.

use std::{
    cell::RefCell,
    fmt, fs,
    path::Path,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use redb::{Database, ReadTransaction, ReadableDatabase as _};
use tokio::sync::mpsc::WeakSender;

use super::{
    copy::{catch_up, write_copy},
    file::{HALF, create_file, reopen},
    noted::Changes,
    writer::Told,
};
use crate::store::DataFolder;

/// The file is written anew when it is larger than this, in bytes, and …
const FLOOR: u64 = 4 << 20;
/// … so many for each row that is left besides. A session takes 300 to 1,100 bytes in a file that has just been written, with
/// its places in the indices, and about twice as many in one that has been written to at random. A file grows by doubling.
const ROW: u64 = 2048;
/// It has to have become so many times larger since it was written anew last: rows can be larger than is thought here.
const GROWN: u64 = 3;
/// How many changes go into the copy between two transactions of the store; what is left of them, at most as many, does so
/// while the store waits.
const STEP: usize = 1024;
/// How long after one that failed another is begun.
const REST: Duration = Duration::from_secs(600);

/// The file's renewal. One is under way at a time.
#[derive(Debug)]
pub(super) struct Renewal {
    state: State,
    /// How large the file was when it was new.
    settled: u64,
    not_before: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Resting,
    /// A thread copies what there was when it began.
    Copying(JoinHandle<()>),
    /// What has changed since is put into the copy.
    CatchingUp(Database),
}

/// What the thread has come to.
pub(super) type Copied = Result<Database, redb::Error>;

impl Renewal {
    pub(super) fn new() -> Self {
        Self { state: State::Resting, settled: 0, not_before: None }
    }

    /// Whether there is something to do, though no verb waits.
    pub(super) fn is_catching_up(&self) -> bool {
        matches!(self.state, State::CatchingUp(_))
    }

    /// Begins, if the file is much larger than `rows` need, and nothing is under way.
    pub(super) fn begin_if_due(
        &mut self,
        rows: u64,
        database: &Database,
        folder: &DataFolder,
        path: &Path,
        jobs: &WeakSender<Told>,
        changes: &RefCell<Changes>,
    ) {
        let bytes = fs::metadata(path).map_or(0, |file| file.len());
        let need = FLOOR + rows * ROW;
        let due = bytes > need && bytes > GROWN * self.settled;
        let rested = self.not_before.is_none_or(|moment| Instant::now() >= moment);
        if !due || !rested || !matches!(self.state, State::Resting) {
            return;
        }
        // The store itself must not run out of it.
        let room = rustix::fs::statvfs(folder.path()).map_or(u64::MAX, |disk| disk.f_bavail * disk.f_frsize);
        if room < need {
            return self.failed(&format_args!("it may take {need} bytes more, and the disk has {room} left"));
        }
        match begin(database, folder, jobs.clone()) {
            Ok(thread) => {
                changes.borrow_mut().begin();
                self.state = State::Copying(thread);
            }
            Err(error) => {
                self.failed(&error);
                self.give_up(folder, changes);
            }
        }
    }

    /// The thread has come to its end.
    pub(super) fn copied(&mut self, copied: Copied, folder: &DataFolder, changes: &RefCell<Changes>) {
        if let State::Copying(thread) = std::mem::replace(&mut self.state, State::Resting) {
            // It has said its last word.
            let _ = thread.join();
        }
        match copied {
            Ok(copy) => self.state = State::CatchingUp(copy),
            Err(error) => {
                self.failed(&error);
                self.give_up(folder, changes);
            }
        }
    }

    /// Does a step; gives the database back, or the one that has taken its place. `None` where it has to be opened again.
    pub(super) fn go_on(
        &mut self,
        database: Database,
        folder: &DataFolder,
        path: &Path,
        changes: &RefCell<Changes>,
    ) -> Option<Database> {
        let copy = match std::mem::replace(&mut self.state, State::Resting) {
            State::CatchingUp(copy) => copy,
            other => {
                self.state = other;
                return Some(database);
            }
        };
        let Some(left) = changes.borrow().len() else {
            drop(copy);
            self.give_up(folder, changes);
            return Some(database);
        };
        if let Err(error) = catch_up(&database, &copy, &mut changes.borrow_mut(), STEP) {
            drop(copy);
            self.failed(&error);
            self.give_up(folder, changes);
            return Some(database);
        }
        if left > STEP {
            self.state = State::CatchingUp(copy);
            return Some(database);
        }
        // Both are the same now, and nobody writes.
        *changes.borrow_mut() = Changes::Off;
        let before = fs::metadata(path).map_or(0, |file| file.len());
        match take_place(copy, folder, path) {
            Ok((new, bytes)) => {
                self.settled = bytes;
                tracing::info!(before, bytes, "the session store's file is written anew");
                close_apart(database);
                Some(new)
            }
            Err(error) => {
                self.failed(&error);
                self.give_up(folder, changes);
                // Whichever file has the name now is whole. This one may not have it any more.
                None
            }
        }
    }

    /// The store cannot be read just now.
    pub(super) fn interrupt(&mut self, folder: &DataFolder, changes: &RefCell<Changes>) {
        if self.is_catching_up() {
            self.state = State::Resting;
            self.give_up(folder, changes);
        }
        // A thread that copies finds out by itself.
        changes.borrow_mut().give_up();
    }

    /// The store is closed.
    pub(super) fn end(self, folder: &DataFolder) {
        match self.state {
            State::Resting => return,
            // It has nothing to read any more.
            State::Copying(thread) => drop(thread.join()),
            State::CatchingUp(copy) => drop(copy),
        }
        // What is left of it the next start takes away.
        let _ = folder.discard(&folder.path().join(HALF));
    }

    fn failed(&mut self, error: &dyn fmt::Display) {
        self.not_before = Some(Instant::now() + REST);
        tracing::warn!(%error, "the session store's file cannot be written anew; it stays as it is");
    }

    fn give_up(&mut self, folder: &DataFolder, changes: &RefCell<Changes>) {
        *changes.borrow_mut() = Changes::Off;
        let _ = folder.discard(&folder.path().join(HALF));
    }
}

/// Has a thread copy what is there now.
fn begin(database: &Database, folder: &DataFolder, jobs: WeakSender<Told>) -> Result<JoinHandle<()>, redb::Error> {
    let half = folder.path().join(HALF);
    folder.discard(&half)?;
    drop(create_file(&half)?);
    let from = database.begin_read()?;
    let copying = move || {
        let copied = copy(from, &half);
        // Where the store has been closed meanwhile, nobody wants it; the next start takes the file away.
        if let Some(jobs) = jobs.upgrade() {
            let _ = jobs.blocking_send(Told::Copied(copied));
        }
    };
    Ok(thread::Builder::new().name("sidegate-copy".into()).spawn(copying)?)
}

fn copy(from: ReadTransaction, half: &Path) -> Copied {
    write_copy(&from, half, None)?;
    Ok(reopen(half)?)
}

/// Puts the copy in the file's place; answers how large it is.
fn take_place(copy: Database, folder: &DataFolder, path: &Path) -> Result<(Database, u64), redb::Error> {
    let half = folder.path().join(HALF);
    copy.close()?;
    fs::rename(&half, path)?;
    folder.sync()?;
    Ok((reopen(path)?, fs::metadata(path)?.len()))
}

/// Closes a file that has no name any more. Where it is a large one that takes the system a tenth of a second, for which no
/// verb is to wait.
fn close_apart(database: Database) {
    // Where there is no thread to be had it is closed here.
    let _ = thread::Builder::new().name("sidegate-close".into()).spawn(move || drop(database));
}
