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
    /// Where security decisions are written; `None`: nowhere.
    pub audit: Option<super::audit::Destination>,
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

/// As many lines wait to be written before some are dropped. Room for them is taken at the start, 32 bytes for each.
const QUEUE: usize = 8192;

/// Starts logging for the whole process. Lines go to standard error through a thread of their own; where that falls
/// behind, lines are dropped rather than requests held up. The guard writes out what is left when it is dropped.
pub fn start(config: &Config) -> tracing_appender::non_blocking::WorkerGuard {
    use std::io::IsTerminal as _;
    use tracing_appender::non_blocking::NonBlockingBuilder;
    use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(QUEUE).finish(std::io::stderr());
    let level = config.level.to_string().to_lowercase();
    // Libraries speak only of what is wrong, unless RUST_LOG asks them.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("warn,sidegate={level}")));
    let terminal = std::io::stderr().is_terminal();
    let text = match config.format {
        Format::Text => true,
        Format::Json => false,
        Format::Auto => terminal,
    };
    let registry = tracing_subscriber::registry().with(filter);
    // A second start in one process (tests) keeps the first's subscriber.
    let started = if text {
        registry.with(fmt::layer().with_writer(writer).with_ansi(terminal).with_target(false)).try_init()
    } else {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(writer)).try_init()
    };
    drop(started);
    guard
}
