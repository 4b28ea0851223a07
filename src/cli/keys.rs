//! `sidegate keys`: the issuer's own keys, in the process that runs.

use std::{path::PathBuf, process::ExitCode};

use super::{WRONG, ask::ask, end};

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
    let line = match &args.command {
        Command::List => "keys list".to_owned(),
        Command::Rotate { now: false } => "keys rotate".to_owned(),
        Command::Rotate { now: true } => "keys rotate now".to_owned(),
        Command::Revoke { kid } if kid.contains(char::is_whitespace) => {
            return end(WRONG, "a key's name has no spaces in it");
        }
        Command::Revoke { kid } => format!("keys revoke {kid}"),
    };
    ask(&args.config, line)
}
