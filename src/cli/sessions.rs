//! `sidegate sessions`: the sessions of the process that runs.

use std::{path::PathBuf, process::ExitCode};

use super::ask::ask;
use crate::issuer::SessionsRequest;

/// What to see of sessions.
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
    /// Name them, a line each, the oldest first; those that have ended stay for a while
    List {
        /// Those of one user
        #[arg(long, value_name = "SUB", conflicts_with = "client")]
        subject: Option<String>,
        /// Those of one client
        #[arg(long, value_name = "CLIENT_ID")]
        client: Option<String>,
        /// Begin after this one
        #[arg(long, value_name = "SID")]
        after: Option<String>,
        /// So many at the most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
    /// Show one, with from where it was used and when
    Show {
        /// Its name (`sid`)
        sid: String,
    },
}

/// Shows sessions: 0 when that is done, 1 when it cannot be, 2 when the configuration is wrong.
pub fn main(args: &Args) -> ExitCode {
    match &args.command {
        Command::List { subject, client, after, limit } => {
            let (subject, client, after) = (subject.clone(), client.clone(), after.clone());
            let request = SessionsRequest { subject, client, after, limit: usize::from(*limit) };
            // Text and numbers alone: it can always be written.
            ask(&args.config, format_args!("sessions list {}", serde_json::json!(request)))
        }
        Command::Show { sid } => ask(&args.config, format_args!("sessions show {}", sid.trim())),
    }
}
