//! Time: one clock is handed to every room that asks for the date, so that a test can move it.

use std::{
    fmt, ops,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

/// A moment, in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The moment that `seconds` since the epoch name (a JWT NumericDate).
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Whole seconds since the epoch, rounded down: what a JWT carries.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// How long after `earlier` this is; `None` when it is before it (a clock was set back).
    pub fn since(self, earlier: Self) -> Option<Duration> {
        self.0.checked_sub(earlier.0).map(Duration::from_millis)
    }
}

impl ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Where the date comes from.
#[derive(Clone)]
pub enum Clock {
    /// The machine's.
    System,
    /// One that stands still until a test moves it.
    Simulated(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that stands at `start` until it is moved through the handle.
    pub fn simulated(start: Timestamp) -> (Self, Arc<AtomicU64>) {
        let hand = Arc::new(AtomicU64::new(start.0));
        (Self::Simulated(hand.clone()), hand)
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        match self {
            // A machine whose date is before 1970 is taken to be at 1970: every token is then in the future, and refused.
            Self::System => Timestamp(
                SystemTime::now()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            ),
            Self::Simulated(hand) => Timestamp(hand.load(Ordering::SeqCst)),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("Clock::System"),
            Self::Simulated(_) => write!(f, "Clock::Simulated({})", self.now().0),
        }
    }
}

/// A time in one unit, for a person.
#[derive(Clone, Copy, Debug)]
pub struct Roughly(pub Duration);

impl fmt::Display for Roughly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            seconds @ 0..=119 => write!(f, "{seconds}s"),
            seconds @ 120..=7199 => write!(f, "{}m", seconds / 60),
            seconds @ 7200..=172_799 => write!(f, "{}h", seconds / 3600),
            seconds => write!(f, "{}d", seconds / 86_400),
        }
    }
}

/// A moment as RFC 3339 has it: UTC, with milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Rfc3339(pub Timestamp);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, millis) = (self.0.0 / 86_400_000, self.0.0 % 86_400_000);
        // In years that begin in March a leap day comes last; 400 of them have 146,097 days. The first of them here began
        // on 1 March of the year 0, 719,468 days before 1970.
        let day = days.saturating_add(719_468);
        let (era, day) = (day / 146_097, day % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let (seconds, millis) = (millis / 1000, millis % 1000);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let year = era * 400 + year + next;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}
