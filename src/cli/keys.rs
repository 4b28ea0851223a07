//! `sidegate keys`: the issuer's own keys, in the process that runs.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use super::{FAILED, WRONG, check::listing, end, say};
use crate::{admin::socket::SOCKET, config};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(35);
/// How much of it is read, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// What to do with them.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// The configuration of the process that runs
    #[arg(long, global = true, default_value = "config.yaml", value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Name them, with what each is for
    List,
    /// Publish another one, which signs when everybody can have it
    Rotate {
        /// Have it sign at once: whoever has not fetched it yet refuses its tokens until then
        #[arg(long)]
        now: bool,
    },
    /// Refuse everything that a key has signed, from now on
    Revoke {
        /// Its name (`kid`)
        kid: String,
    },
}

/// Does it: 0 when it is done, 1 when it cannot be, 2 when the configuration is wrong.
pub fn main(args: &Args) -> ExitCode {
    let loaded = match config::load(&args.config) {
        Ok(loaded) => loaded,
        Err(errors) => return end(WRONG, listing(&errors)),
    };
    let Some(issuer) = loaded.config.issuer else {
        return end(WRONG, format_args!("{}: there is no `issuer:` that could have keys", args.config.display()));
    };
    let line = match &args.command {
        Command::List => "keys list".to_owned(),
        Command::Rotate { now: false } => "keys rotate".to_owned(),
        Command::Rotate { now: true } => "keys rotate now".to_owned(),
        Command::Revoke { kid } if kid.contains(char::is_whitespace) => {
            return end(WRONG, "a key's name has no spaces in it");
        }
        Command::Revoke { kid } => format!("keys revoke {kid}"),
    };
    let path = issuer.data.join(SOCKET);
    match ask(&path, &line) {
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

/// Sends a command; answers what it came to.
fn ask(path: &Path, line: &str) -> io::Result<Result<String, String>> {
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
