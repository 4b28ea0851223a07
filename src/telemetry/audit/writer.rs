//! The thread that writes, and the file it writes to.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::AsFd as _,
        unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering, mpsc::Receiver},
    time::{Duration, Instant},
};

use super::{Desk, Destination, Event, Facts, Message};

/// How much is written at a time, in bytes, a line more or less.
const PIECE: usize = 64 << 10;
/// How often it is looked whether the file was moved away.
const LOOK: Duration = Duration::from_secs(1);

/// What the thread has.
pub(super) struct Writer {
    desk: Arc<Desk>,
    /// `None` for standard output.
    path: Option<PathBuf>,
    /// `None` after it has refused something.
    file: Option<File>,
    looked: Instant,
    /// Whether standard output has got the beginning of a line alone.
    torn: bool,
}

impl Writer {
    pub(super) fn open(desk: Arc<Desk>, destination: &Destination) -> io::Result<Self> {
        let (file, path) = match destination {
            Destination::Stdout => (File::from(io::stdout().as_fd().try_clone_to_owned()?), None),
            Destination::File(path) => (open(path)?, Some(path.clone())),
        };
        Ok(Self { desk, path, file: Some(file), looked: Instant::now(), torn: false })
    }

    /// Goes on until it is told that this was all.
    pub(super) fn run(&mut self, lines: &Receiver<Message>) {
        let mut piece = Vec::new();
        loop {
            // The desk has a sender too: it is the message that ends it.
            let Ok(mut message) = lines.recv() else { return };
            if self.torn {
                piece.push(b'\n');
            }
            // So that whoever reads the log knows that something is missing about here.
            let lost = self.desk.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                piece.extend(self.desk.line(Event::Lost, Facts { lines: Some(lost), ..Facts::default() }));
            }
            let told = piece.len();
            let (mut end, mut all) = (false, false);
            loop {
                match message {
                    Message::Line(line) => piece.extend(line),
                    Message::End => end = true,
                }
                if end || piece.len() > PIECE {
                    break;
                }
                match lines.try_recv() {
                    Ok(next) => message = next,
                    Err(_) => {
                        all = true;
                        break;
                    }
                }
            }
            match self.write(&piece) {
                // It is said again when it begins again, but not with each piece of a flood.
                Ok(()) if all => self.desk.said.store(false, Ordering::Relaxed),
                Ok(()) => {}
                Err((written, error)) => {
                    if written < told {
                        self.desk.lost.fetch_add(lost, Ordering::Relaxed);
                    }
                    let missing = piece[written.max(told)..].iter().filter(|byte| **byte == b'\n').count();
                    self.desk.lose(missing as u64, &error);
                }
            }
            if end {
                return;
            }
            piece.clear();
        }
    }

    /// Writes whole lines; what went before an error is counted.
    fn write(&mut self, piece: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut written = 0;
        let outcome = self.file().and_then(|mut file| {
            while written < piece.len() {
                match file.write(&piece[written..]) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(more) => written += more,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        match (&outcome, written.checked_sub(1)) {
            (Ok(()), _) => self.torn = false,
            // What is opened anew is looked at then.
            (Err(_), _) if self.path.is_some() => self.file = None,
            (Err(_), Some(last)) => self.torn = piece[last] != b'\n',
            (Err(_), None) => {}
        }
        outcome.map_err(|error| (written, error))
    }

    /// The file of that name as it is now: whoever turns logs over moves it away, and tells nobody.
    fn file(&mut self) -> io::Result<&File> {
        if let Some(path) = &self.path {
            if self.looked.elapsed() >= LOOK {
                self.looked = Instant::now();
                let place = |file: fs::Metadata| (file.dev(), file.ino());
                let open = self.file.as_ref().and_then(|file| file.metadata().ok()).map(place);
                match fs::metadata(path).map(place) {
                    Ok(named) if Some(named) != open => self.file = None,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => self.file = None,
                    Ok(_) | Err(_) => {}
                }
            }
            if self.file.is_none() {
                self.file = Some(open(path)?);
            }
        }
        self.file.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// Opens a file to add lines to. The last one may have come half way, before a crash or on a full disk: the next begins
/// anew.
fn open(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let metadata = file.metadata()?;
    if let (true, Some(last)) = (metadata.is_file(), metadata.len().checked_sub(1)) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, last)?;
        if byte != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}
