//! `sidegate store`: how much is in it, copying it, and putting a copy in its place.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use super::{
    FAILED, WRONG,
    ask::{ask, issuer_of, nobody_runs, tell},
    end, say,
};
use crate::{
    clock::Clock,
    issuer::{self, MigrateError, StoreConfig, migrate},
    store::{DataFolder, Moved, Store, restore},
};

/// What to do with the store.
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
    /// Say how much there is in it
    Stats,
    /// Write a copy of it into a new file, while it serves or while nothing runs
    Backup {
        /// The file to be made
        file: PathBuf,
    },
    /// Put a backup where a store has gone, while nothing runs
    Restore {
        /// The backup
        file: PathBuf,
    },
    /// Move everything into the store of another configuration, which must be empty
    Migrate {
        /// The other configuration
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
}

/// How long a backup is waited for. The process that runs gives it as much.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Does it: 0 when it is done, 1 when it cannot be, 2 when the configuration or a path is wrong.
pub fn main(args: &Args) -> ExitCode {
    match &args.command {
        Command::Stats => ask(&args.config, "store stats"),
        Command::Backup { file } => back_up(&args.config, file),
        Command::Migrate { to } => match (issuer_of(&args.config), issuer_of(to)) {
            (Ok(from), Ok(to)) => move_over(&from, &to),
            (Err(code), _) | (_, Err(code)) => code,
        },
        Command::Restore { file } => {
            let data = match file_store(&args.config) {
                Ok(data) => data,
                Err(code) => return code,
            };
            match put_back(&data, file) {
                Ok(said) => {
                    say(said);
                    ExitCode::SUCCESS
                }
                Err(why) => end(FAILED, why),
            }
        }
    }
}

fn move_over(from: &issuer::Config, to: &issuer::Config) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let moved = match runtime {
        Ok(runtime) => runtime.block_on(async { tokio::spawn(migrating(from.clone(), to.clone())).await }),
        Err(error) => return end(FAILED, error),
    };
    match moved {
        Ok(Ok(Moved { sessions, revocations })) => {
            say(format_args!("sessions     {sessions}\nrevocations  {revocations}"));
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => end(FAILED, error),
        Err(error) => end(FAILED, error),
    }
}

async fn migrating(from: issuer::Config, to: issuer::Config) -> Result<Moved, MigrateError> {
    migrate(&from, &to, &Clock::System).await
}

/// The data folder of a configuration whose store is a file in it.
fn file_store(config: &Path) -> Result<PathBuf, ExitCode> {
    let issuer = issuer_of(config)?;
    match issuer.store {
        StoreConfig::Embedded => Ok(issuer.data),
        StoreConfig::Redis(_) => Err(end(
            FAILED,
            "this store is in Redis: it is backed up and restored there, or moved: sidegate store migrate",
        )),
    }
}

fn back_up(config: &Path, file: &Path) -> ExitCode {
    let data = match file_store(config) {
        Ok(data) => data,
        Err(code) => return code,
    };
    // The process that runs is in another folder.
    let file = match std::path::absolute(file) {
        Ok(file) => file,
        Err(error) => return end(WRONG, format_args!("{}: {error}", file.display())),
    };
    let Some(name) = file.to_str() else {
        return end(WRONG, format_args!("{}: the name of a backup has to be UTF-8", file.display()));
    };
    match tell(&data, format_args!("store backup {}", serde_json::json!(name)), PATIENCE) {
        Ok(code) => code,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            match back_up_at_rest(&data, file) {
                Ok(said) => {
                    say(said);
                    ExitCode::SUCCESS
                }
                Err(why) => end(FAILED, why),
            }
        }
        Err(error) => end(FAILED, nobody_runs(&data, &error)),
    }
}

/// Does it itself, since nobody runs.
fn back_up_at_rest(data: &Path, file: PathBuf) -> Result<String, String> {
    if !Store::file_in(data).exists() {
        return Err(format!("there is no store in {}, and no Sidegate runs on it", data.display()));
    }
    let folder = DataFolder::lock(data).map_err(|error| error.to_string())?;
    let store = Store::open_embedded(Arc::new(folder), Clock::System).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
    let name = format!("file         {}", file.display());
    let copied = runtime.block_on(store.backup(file)).map_err(|error| error.to_string())?;
    Ok(format!("{copied}\n{name}"))
}

fn put_back(data: &Path, file: &Path) -> Result<String, String> {
    let folder = DataFolder::lock(data).map_err(|error| format!("{error}; stop it first"))?;
    let copied = restore(&folder, file).map_err(|error| error.to_string())?;
    Ok(format!("{copied}\nfile         {}", Store::file_in(data).display()))
}
