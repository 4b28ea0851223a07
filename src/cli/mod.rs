//! The command line: its words here, each command in a file of its own.

mod ask;
pub mod check;
pub mod client;
pub mod hash_password;
pub mod healthcheck;
pub mod keys;
pub mod revoke;
pub mod run;
mod secret;
pub mod sessions;
pub mod store;
pub mod user;

use std::{
    fmt::Display,
    io::{self, Write as _},
    process::ExitCode,
};

/// A sidecar authorization proxy that verifies JWT access tokens without a look-up, issues them, and revokes them.
#[derive(Debug, clap::Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: run::Args,
}

impl Cli {
    /// The command that was given; without one, `run`.
    pub fn into_command(self) -> Command {
        self.command.unwrap_or(Command::Run(self.run))
    }
}

/// What Sidegate can be asked to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Serve (what happens without a command, too)
    Run(run::Args),
    /// Say what is wrong with a configuration, and nothing else
    Check(check::Args),
    /// Ask the process that runs whether it lives, or is ready: 0 when it is, 1 otherwise
    Healthcheck(healthcheck::Args),
    /// List, rotate and revoke the issuer's own keys, in the process that runs
    Keys(keys::Args),
    /// Refuse a token, a session, or whatever has begun for a user or a client, everywhere and at once
    Revoke(revoke::Args),
    /// List what is revoked, or take it back
    Revocations(revoke::ListArgs),
    /// List the sessions of the process that runs, or show one with its history
    Sessions(sessions::Args),
    /// Say how much the store has, copy it, or put a copy in its place
    Store(store::Args),
    /// Make a client for the configuration, or another secret for one
    Client(client::Args),
    /// Add, change, disable, remove and list the users of a file, which a process that runs takes up by itself
    User(user::Args),
    /// Turn a password into the hash that the configuration keeps of it
    HashPassword(hash_password::Args),
}

/// Something failed that was right as it was asked for.
const FAILED: u8 = 1;
/// The configuration or the arguments are wrong.
const WRONG: u8 = 2;

/// A line on standard output. Whoever closed it wants no more of it, so that a failure is none.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// A line on standard error.
fn complain(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Complains, and ends with `code`.
fn end(code: u8, line: impl Display) -> ExitCode {
    complain(line);
    ExitCode::from(code)
}
