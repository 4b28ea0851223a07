//! `sidegate`: reads its arguments, does what they say, and ends with 0 (done), 1 (it failed while running) or 2 (the
//! configuration or the arguments are wrong).

use std::process::ExitCode;

use clap::Parser as _;
use sidegate::cli::{
    Cli, Command, check, client, hash_password, healthcheck, keys, revoke, run, sessions, store, user,
};

fn main() -> ExitCode {
    match Cli::parse().into_command() {
        // Load the configuration, then hand it to `app`, which wires the rooms and serves until it is told to stop.
        Command::Run(args) => run::main(&args),
        // Load it, say what is wrong with it, and no more.
        Command::Check(args) => check::main(&args),
        // Ask the process that runs how it is.
        Command::Healthcheck(args) => healthcheck::main(&args),
        // Tell the process that runs what to do with its signing keys.
        Command::Keys(args) => keys::main(&args),
        // Tell it what to refuse from now on; ask it what it refuses.
        Command::Revoke(args) => revoke::main(&args),
        Command::Revocations(args) => revoke::list(&args),
        // Ask it for the sessions it keeps.
        Command::Sessions(args) => sessions::main(&args),
        // Ask it for how much that is, or for a copy; put a copy in its place while it does not run.
        Command::Store(args) => store::main(&args),
        // Make a client to paste into the configuration, or another secret.
        Command::Client(args) => client::main(&args),
        // Change the file of users; whatever process has it takes it up by itself.
        Command::User(args) => user::main(&args),
        // Turn a password or a fresh secret into what the configuration keeps of it.
        Command::HashPassword(args) => hash_password::main(&args),
    }
}
