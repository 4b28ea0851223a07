//! Logs: text on a terminal, JSON lines elsewhere, always on standard error and never in a worker's way.

/// Logging as configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: tracing::Level,
    /// Text, JSON, or whichever fits where standard error leads.
    pub format: Format,
    /// Which requests get a line.
    pub requests: Requests,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Which requests get a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requests {
    /// None.
    Off,
    /// Those that Sidegate itself answers with an error.
    Refused,
    /// Every one.
    All,
}
