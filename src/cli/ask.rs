//! Telling the process that runs what to do: a line over the socket in its data folder, and what it answers.

use std::{
    fmt::Display,
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use super::{FAILED, WRONG, check::listing, end, say};
use crate::{admin::socket::SOCKET, config, issuer};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(35);
/// How much of it is read, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// Has the process that runs with the configuration `config` do what `line` says: 0 when it is done, 1 when it cannot be, 2
/// when the configuration is wrong.
pub(super) fn ask(config: &Path, line: impl Display) -> ExitCode {
    let data = match data_folder(config) {
        Ok(data) => data,
        Err(code) => return code,
    };
    tell(&data, line, PATIENCE).unwrap_or_else(|error| end(FAILED, nobody_runs(&data, &error)))
}

/// Where the issuer of a configuration has its data; the exit code where that cannot be told, which has been said then.
fn data_folder(config: &Path) -> Result<PathBuf, ExitCode> {
    issuer_of(config).map(|issuer| issuer.data)
}

/// The issuer of a configuration; the exit code where there is none, which has been said then.
pub(super) fn issuer_of(config: &Path) -> Result<issuer::Config, ExitCode> {
    let loaded = config::load(config).map_err(|errors| end(WRONG, listing(&errors)))?;
    match loaded.config.issuer {
        Some(issuer) => Ok(issuer),
        None => Err(end(WRONG, format_args!("{}: there is no `issuer:`, which does such things", config.display()))),
    }
}

/// The same of the process that runs on a data folder, which is waited for so long; an error where it cannot be spoken to.
pub(super) fn tell(data: &Path, line: impl Display, patience: Duration) -> io::Result<ExitCode> {
    Ok(match converse(&data.join(SOCKET), &line, patience)? {
        Ok(text) => {
            say(text.trim_end());
            ExitCode::SUCCESS
        }
        Err(text) => end(FAILED, text.trim_end()),
    })
}

/// What to say where it cannot.
pub(super) fn nobody_runs(data: &Path, error: &io::Error) -> String {
    format!("no Sidegate runs on {} ({}: {error})", data.display(), data.join(SOCKET).display())
}

fn converse(path: &Path, line: &impl Display, patience: Duration) -> io::Result<Result<String, String>> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    match answer.split_once('\n') {
        Some(("ok", text)) => Ok(Ok(text.to_owned())),
        Some(("error", text)) => Ok(Err(text.to_owned())),
        Some(_) | None => Err(io::Error::other("it hung up without an answer")),
    }
}
