//! `sidegate revoke` and `sidegate revocations`: what is refused, in the process that runs and in all that follow it.

use std::{path::PathBuf, process::ExitCode};

use super::ask::ask;
use crate::issuer::RevokeRequest;

/// What to revoke.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    what: What,
    /// Whose tokens, where they are another provider's
    #[arg(long, value_name = "ISS")]
    issuer: Option<String>,
    /// Why; it goes into the log
    #[arg(long)]
    reason: String,
    /// For how many seconds tokens of now can live at the most, where that is not known of the issuer
    #[arg(long, value_name = "SECONDS")]
    lasts: Option<u64>,
    /// The configuration of the process that runs
    #[arg(long, default_value = "config.yaml", value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// One access token
    #[arg(long, value_name = "JTI")]
    token: Option<String>,
    /// A session: its refresh token, and its access tokens
    #[arg(long, value_name = "SID")]
    session: Option<String>,
    /// Everything that has begun for a user: log out everywhere
    #[arg(long, value_name = "SUB")]
    subject: Option<String>,
    /// Everything that was issued to a client
    #[arg(long, value_name = "CLIENT_ID")]
    client: Option<String>,
    /// Everything that a key has signed
    #[arg(long, value_name = "KID")]
    key: Option<String>,
    /// Everything that the issuer has issued
    #[arg(long)]
    everything: bool,
}

/// What to do with what is revoked.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(subcommand)]
    command: ListCommand,
    /// The configuration of the process that runs
    #[arg(long, global = true, default_value = "config.yaml", value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, clap::Subcommand)]
enum ListCommand {
    /// Name what is revoked, a line each
    List {
        /// Begin after this number
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// So many at the most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1000))]
        limit: u64,
    },
    /// Take back what an entry has revoked, where that can be
    Lift {
        /// Its number
        number: u64,
        /// Why; it goes into the log
        #[arg(long)]
        reason: String,
    },
}

/// Revokes: 0 when it is done, 1 when it cannot be, 2 when the configuration is wrong.
pub fn main(args: &Args) -> ExitCode {
    let What { token, session, subject, client, key, everything: _ } = &args.what;
    let kinds = [("token", token), ("session", session), ("subject", subject), ("client", client), ("key", key)];
    let named = kinds.into_iter().find_map(|(kind, id)| Some((kind, Some(id.clone()?))));
    let (kind, id) = named.unwrap_or(("everything", None));
    let (issuer, reason) = (args.issuer.clone(), args.reason.clone());
    let request = RevokeRequest { kind: kind.into(), id, issuer, reason, lasts: args.lasts };
    // Text and numbers alone: it can always be written.
    ask(&args.config, format_args!("revoke {}", serde_json::json!(request)))
}

/// Lists, or lifts.
pub fn list(args: &ListArgs) -> ExitCode {
    match &args.command {
        ListCommand::List { after, limit } => ask(&args.config, format_args!("revocations list {after} {limit}")),
        ListCommand::Lift { number, reason } => {
            ask(&args.config, format_args!("revocations lift {number} {}", serde_json::json!(reason)))
        }
    }
}
