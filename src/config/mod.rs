//! The configuration: one YAML file, read as a whole, with all that is wrong in it said at once.
//!
//! `raw` gives the file's shapes, `check` turns them into what each room asks for. Nothing above this room sees YAML, and
//! nothing below it sees a value that has not been checked.

mod check;
pub mod demo;
mod env;
mod error;
mod file;
mod marks;
mod origin;
mod path;
mod raw;
mod report;
mod shown;
pub mod users;

use std::{path::Path, sync::Arc};

pub(crate) use error::counted;
pub use error::{Errors, Position, Problem};
use marks::Marks;
pub use origin::{Fixed, Watched};
use report::Report;
use serde_json::Value;

use crate::{admin, gateway, io::Stamp, issuer, revocation, server, telemetry, token};

/// The largest configuration that is read, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// What every room is configured with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Listeners, workers, limits, drain.
    pub server: server::config::Config,
    /// Routes and upstreams.
    pub gateway: gateway::config::Config,
    /// Whose tokens are accepted; routes refer to them by index.
    pub providers: Vec<token::provider::Config>,
    /// The internal issuer, where there is one.
    pub issuer: Option<issuer::Config>,
    /// The revocation log that is followed, where it is kept by another process.
    pub revocation_feed: Option<revocation::FeedConfig>,
    /// With how many revoked tokens, sessions and the like somebody should look at it.
    pub revocations_alarm: usize,
    /// The admin listener.
    pub admin: admin::Config,
    /// Logging.
    pub log: telemetry::log::Config,
}

/// A configuration that is valid, and what to say about it nevertheless.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What works and is dangerous or idle, in the order of the file.
    pub warnings: Vec<Problem>,
    /// The files it was read from.
    pub watched: Watched,
    /// It, without its secrets.
    pub shown: Value,
    /// What of it another configuration cannot change while the process runs.
    pub fixed: Vec<Fixed>,
}

/// Reads and checks the file at `path`. Relative paths in it are taken from the folder it is in.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Loaded, Errors> {
    let ((config, fixed, shown), warnings, watched) = read(path, |text, report| {
        let raw = raw::read(text, report)?;
        let shown = report.shown();
        let config = check::config(report, raw)?;
        // Last: the files that it names have been read by now.
        Some((config, origin::fixed(report), shown))
    })?;
    Ok(Loaded { config, warnings, watched, shown, fixed })
}

/// Reads a file, and has `make` something of its text. What is dangerous or idle in it comes along.
fn read<T>(
    path: &Path,
    make: impl FnOnce(&str, &mut Report) -> Option<T>,
) -> Result<(T, Vec<Problem>, Watched), Errors> {
    let file: Arc<Path> = path.into();
    let mut read = Watched::default();
    read.add(path.into(), Stamp::of(path).ok());
    let contents = crate::io::read_file(path, MAX_BYTES).map_err(|why| Errors::of_file(&file, why))?;
    let text = std::str::from_utf8(&contents.bytes).map_err(|error| {
        let before = &contents.bytes[..error.valid_up_to()];
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        Errors::of_file(&file, format!("not UTF-8 (line {line})"))
    })?;
    let (made, warnings, named) = parse(&file, text, contents.world_readable, make)?;
    read.extend(named);
    Ok((made, warnings, read))
}

/// The same with the text of a file.
fn parse<T>(
    file: &Arc<Path>,
    text: &str,
    world_readable: bool,
    make: impl FnOnce(&str, &mut Report) -> Option<T>,
) -> Result<(T, Vec<Problem>, Watched), Errors> {
    // A byte order mark is no part of the text (YAML 1.2 §5.2), and would move every column of the first line.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (marks, doubled) = Marks::read(text).map_err(|flaw| {
        Errors::new(vec![Problem { file: file.clone(), at: Some(flaw.at), path: String::new(), message: flaw.message }])
    })?;
    let mut report = Report::new(file.clone(), marks, world_readable);
    for flaw in doubled {
        report.error_at(flaw.at, &flaw.path, flaw.message);
    }
    let made = make(text, &mut report);
    let (problems, mut warnings, named) = report.into_parts();
    match made {
        Some(made) if problems.is_empty() => {
            error::sort(&mut warnings);
            Ok((made, warnings, named))
        }
        _ => Err(Errors::new(problems)),
    }
}
