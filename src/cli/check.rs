//! `sidegate check`.

use std::{path::PathBuf, process::ExitCode};

use super::{WRONG, complain, end, say};
use crate::config::{self, Config, Errors, counted};

/// What to check.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration
    #[arg(default_value = "config.yaml", value_name = "FILE")]
    config: PathBuf,
}

/// Says what is wrong with a configuration: 0 when nothing is, 2 otherwise.
pub fn main(args: &Args) -> ExitCode {
    match config::load(&args.config) {
        Err(errors) => end(WRONG, listing(&errors)),
        Ok(loaded) => {
            for warning in &loaded.warnings {
                complain(format_args!("{}: warning: {}", warning.place(), warning.text()));
            }
            say(format_args!("{}: ok ({})", args.config.display(), summary(&loaded.config)));
            ExitCode::SUCCESS
        }
    }
}

/// All that is wrong, and how much that is.
pub(super) fn listing(errors: &Errors) -> String {
    format!("{errors}\n{}", counted(errors.problems().len(), "problem"))
}

fn summary(config: &Config) -> String {
    let mut parts = vec![
        counted(config.server.listeners.len(), "listener"),
        counted(config.gateway.routes.len(), "route"),
        counted(config.gateway.upstreams.len(), "upstream"),
        counted(config.providers.len(), "provider"),
    ];
    if let Some(issuer) = &config.issuer {
        parts.push(counted(issuer.clients.len(), "client"));
        parts.push(match &issuer.users_hook {
            None => counted(issuer.users.len(), "user"),
            Some(_) => "users asked for over HTTP".into(),
        });
    }
    parts.join(", ")
}
