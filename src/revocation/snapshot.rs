//! What is known of revocations, in a file: so that a process that follows a gateway starts ready while that is away.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use super::{
    Revocations,
    wire::{Beat, Hello, Line, MAX_LINE, WireEntry},
};
use crate::{
    clock::Timestamp,
    types::{IssuerUrl, Position},
};

/// What a file says beside its entries.
#[derive(Debug)]
pub(super) struct Saved {
    /// The issuer that keeps the log.
    pub(super) issuer: IssuerUrl,
    /// Up to where the log was known.
    pub(super) position: Position,
    /// When that was so, by our clock.
    pub(super) as_of: Timestamp,
}

/// Writes all of `revocations` beside the file, and puts it in its place: what has its name is whole.
pub(super) fn save(path: &Path, saved: &Saved, revocations: &Revocations) -> io::Result<usize> {
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let mut out = BufWriter::with_capacity(1 << 16, file);
    let Saved { issuer, position, as_of } = saved;
    let (mut line, mut entries, mut failed) = (Vec::with_capacity(256), 0, None);
    Line::Hello(Hello::new(issuer.clone(), *position, 0, *as_of)).write(&mut line);
    out.write_all(&line)?;
    revocations.for_each(&mut |entry| {
        line.clear();
        Line::Entry(WireEntry::remembered(&entry, issuer, position.life)).write(&mut line);
        if failed.is_none() {
            failed = out.write_all(&line).err();
        }
        entries += 1;
    });
    if let Some(error) = failed {
        return Err(error);
    }
    line.clear();
    Line::Beat(Beat { prev: 0, n: entries as u64, clock: 0 }).write(&mut line);
    out.write_all(&line)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(&beside, path)?;
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        File::open(folder)?.sync_all()?;
    }
    Ok(entries)
}

/// Puts what the file has into `revocations`; `None` where there is no file.
///
/// # Errors
/// When it cannot be read to its end. What it had up to there is in the table, where it does no harm.
pub(super) fn load(path: &Path, revocations: &Revocations) -> Result<Option<Saved>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut lines = BufReader::with_capacity(1 << 16, file);
    let damaged = || "it is damaged, or of another release".to_owned();
    let mut next = move || -> Result<Line, String> {
        let mut line = Vec::new();
        (&mut lines).take(MAX_LINE as u64).read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
        line.strip_suffix(b"\n").and_then(Line::read).ok_or_else(damaged)
    };
    let Line::Hello(hello) = next()? else { return Err(damaged()) };
    let position = hello.position().ok_or_else(damaged)?;
    let mut entries = 0;
    loop {
        match next()? {
            Line::Entry(entry) => {
                revocations.put(&entry.entry(&hello.issuer, position.life).ok_or_else(damaged)?);
                entries += 1;
            }
            Line::Beat(beat) if beat.n == entries => break,
            Line::Beat(_) | Line::Hello(_) => return Err(damaged()),
        }
    }
    Ok(Some(Saved { issuer: hello.issuer, position, as_of: hello.wall }))
}

/// How long ago `saved` was so; `None` where the clock says that it will be.
pub(super) fn age(saved: &Saved, now: Timestamp) -> Option<Duration> {
    now.since(saved.as_of)
}
