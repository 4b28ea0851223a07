//! `sidegate [run]`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{FAILED, WRONG, end};
use crate::{app, config};

/// What is read when nobody says otherwise.
const DEFAULT: &str = "config.yaml";

/// What to run with.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration [default: ./config.yaml]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Serves until it is told to stop.
pub fn main(args: &Args) -> ExitCode {
    if args.config.is_none() && !Path::new(DEFAULT).exists() {
        return end(
            WRONG,
            "sidegate: there is no config.yaml in this folder.\n\
             Name one with --config FILE, or begin with the commented default that is at the top of Sidegate's repository.",
        );
    }
    let path = args.config.as_deref().unwrap_or(Path::new(DEFAULT));
    match config::load(path) {
        Err(errors) => end(WRONG, super::check::listing(&errors)),
        Ok(loaded) => match app::run(path, loaded) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => end(FAILED, format_args!("sidegate: {error}")),
        },
    }
}
