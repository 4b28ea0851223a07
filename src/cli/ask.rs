//! Telling the process that runs what to do: a line over the socket in its data folder, and what it answers.

use std::{
    fmt::Display,
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use super::{FAILED, WRONG, check::listing, end, say};
use crate::{admin::socket::SOCKET, config};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(35);
/// How much of it is read, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// Has the process that runs with the configuration `config` do what `line` says: 0 when it is done, 1 when it cannot be, 2
/// when the configuration is wrong.
pub(super) fn ask(config: &Path, line: impl Display) -> ExitCode {
    let loaded = match config::load(config) {
        Ok(loaded) => loaded,
        Err(errors) => return end(WRONG, listing(&errors)),
    };
    let Some(issuer) = loaded.config.issuer else {
        return end(WRONG, format_args!("{}: there is no `issuer:`, which does such things", config.display()));
    };
    let path = issuer.data.join(SOCKET);
    match converse(&path, &line) {
        Ok(Ok(text)) => {
            say(text.trim_end());
            ExitCode::SUCCESS
        }
        Ok(Err(text)) => end(FAILED, text.trim_end()),
        Err(error) => {
            end(FAILED, format_args!("no Sidegate runs on {} ({}: {error})", issuer.data.display(), path.display()))
        }
    }
}

fn converse(path: &Path, line: &impl Display) -> io::Result<Result<String, String>> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    match answer.split_once('\n') {
        Some(("ok", text)) => Ok(Ok(text.to_owned())),
        Some(("error", text)) => Ok(Err(text.to_owned())),
        Some(_) | None => Err(io::Error::other("it hung up without an answer")),
    }
}
