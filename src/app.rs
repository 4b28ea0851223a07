//! Wires the rooms.

use crate::config::Loaded;

/// Why the process could not start, or had to end.
#[derive(Debug, thiserror::Error)]
#[error("not built yet")]
pub struct Error;

/// Serves until it is told to stop.
///
/// # Errors
/// Always, until the rooms are wired.
pub fn run(_loaded: Loaded) -> Result<(), Error> {
    Err(Error)
}
