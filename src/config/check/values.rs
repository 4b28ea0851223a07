//! Single values: durations, sizes, counts, words from a list, addresses, names.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use crate::config::{
    error::{did_you_mean, one_of, quote},
    path::Path,
    raw::Scalar,
    report::Report,
};

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);
/// The shortest deadline: zero would refuse everything.
pub(super) const INSTANT: Duration = Duration::from_millis(1);

/// Units of durations, the longest first, in milliseconds.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
/// Units of sizes, the largest first, in bytes.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A duration that may be left out.
pub(super) fn duration(
    report: &mut Report,
    path: &Path,
    raw: Option<Scalar>,
    default: Duration,
    range: RangeInclusive<Duration>,
) -> Option<Duration> {
    let Some(Scalar(text)) = raw else { return Some(default) };
    let Some(found) = units(&text, &TIMES, text == "0") else {
        return report.refuse(path, "not a duration; write 500ms, 30s, 5m, 12h or 14d");
    };
    let (least, most) = (millis(*range.start()), millis(*range.end()));
    within(report, path, found, least..=most, |ms| show(ms, &TIMES)).map(Duration::from_millis)
}

/// A size in bytes that may be left out.
pub(super) fn size(
    report: &mut Report,
    path: &Path,
    raw: Option<Scalar>,
    default: u64,
    range: RangeInclusive<u64>,
) -> Option<usize> {
    let Some(Scalar(text)) = raw else { return usize::try_from(default).ok() };
    let Some(found) = units(&text, &SIZES, true) else {
        return report.refuse(path, "not a size; write 512B, 8KiB, 1MiB or a number of bytes");
    };
    within(report, path, found, range, |bytes| show(bytes, &SIZES)).and_then(|bytes| usize::try_from(bytes).ok())
}

/// A size that bounds something, or `none`; may be left out.
pub(super) fn bound(
    report: &mut Report,
    path: &Path,
    raw: Option<Scalar>,
    default: Option<u64>,
) -> Option<Option<u64>> {
    let Some(Scalar(text)) = raw else { return Some(default) };
    match units(&text, &SIZES, true) {
        _ if text == "none" => Some(None),
        // What is too large to count bounds nothing that could come.
        Some(bytes) => Some(Some(bytes)),
        None => report.refuse(path, "not a size; write none, 512B, 8KiB, 1MiB or a number of bytes"),
    }
}

/// A count that may be left out.
pub(super) fn count(
    report: &mut Report,
    path: &Path,
    raw: Option<Scalar>,
    default: usize,
    range: RangeInclusive<usize>,
) -> Option<usize> {
    let Some(Scalar(text)) = raw else { return Some(default) };
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(found) if digits => within(report, path, found, range, |n| n.to_string()),
        _ => report.refuse(path, "not a whole number"),
    }
}

/// One word of a list that may be left out.
pub(super) fn word<T: Copy>(
    report: &mut Report,
    path: &Path,
    raw: Option<&str>,
    default: T,
    words: &[(&str, T)],
) -> Option<T> {
    let Some(text) = raw else { return Some(default) };
    if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
        return Some(*meaning);
    }
    let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
    let mend = did_you_mean(text, names.iter().copied());
    report.refuse(path, format!("must be {}{mend}", one_of(&names)))
}

/// An address to listen on.
pub(super) fn address(report: &mut Report, path: &Path, text: &str) -> Option<SocketAddr> {
    let found = text.parse().ok();
    if found.is_none() {
        report.error(path, "not an address; write an IP address and a port, as in 127.0.0.1:3000 or [::]:3000");
    }
    found
}

/// The names of a list: what is there, and where.
pub(super) struct Names {
    list: Path,
    /// What one entry of the list is called in messages.
    what: &'static str,
    known: HashMap<Arc<str>, (usize, Path)>,
    order: Vec<Arc<str>>,
    entries: usize,
    /// Whether an entry has a name that could not be read.
    nameless: bool,
}

impl Names {
    pub(super) fn new(list: Path, what: &'static str) -> Self {
        Self { list, what, known: HashMap::new(), order: Vec::new(), entries: 0, nameless: false }
    }

    /// Takes the next entry's name in, found below `entry`; each only once.
    pub(super) fn add(&mut self, report: &mut Report, entry: &Path, raw: Option<String>) -> Option<Arc<str>> {
        let index = self.entries;
        self.entries += 1;
        let path = entry.key("name");
        self.nameless |= raw.is_none();
        let name = report.required(entry, "name", raw, &format!("the name of this {}", self.what))?;
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) {
            self.nameless = true;
            return report.refuse(&path, "a name is 1 to 64 letters, digits, `-`, `_` or `.`");
        }
        let name: Arc<str> = name.into();
        if let Some((_, first)) = self.known.get(&name) {
            let message = format!("the name {} is taken by {first} in line {}", quote(&name), report.line(first));
            return report.refuse(&path, message);
        }
        self.known.insert(name.clone(), (index, entry.clone()));
        self.order.push(name.clone());
        Some(name)
    }

    /// The index of the entry called `name`.
    pub(super) fn find(&self, report: &mut Report, at: &Path, name: &str) -> Option<usize> {
        if let Some((index, _)) = self.known.get(name) {
            return Some(*index);
        }
        if !self.may_lack(report) {
            let mend = did_you_mean(name, self.order.iter().map(|name| &**name));
            report.error(at, format!("there is no {} {}{mend}", self.what, quote(name)));
        }
        None
    }

    /// Whether the list may have held entries that were not read.
    pub(super) fn may_lack(&self, report: &Report) -> bool {
        self.nameless || report.lost_entries(&self.list)
    }

    /// Warns of entries that nothing refers to.
    pub(super) fn warn_of_unused(&self, report: &mut Report, used: &HashSet<usize>) {
        for (name, (index, path)) in &self.known {
            if !used.contains(index) {
                report.warn(path, format!("no route uses the {} {}", self.what, quote(name)));
            }
        }
    }

    /// How many entries the list has.
    pub(super) fn len(&self) -> usize {
        self.entries
    }
}

fn within<T: PartialOrd + Copy>(
    report: &mut Report,
    path: &Path,
    found: T,
    range: RangeInclusive<T>,
    show: impl Fn(T) -> String,
) -> Option<T> {
    if range.contains(&found) {
        return Some(found);
    }
    report.refuse(path, format!("must be from {} to {}", show(*range.start()), show(*range.end())))
}

/// A whole number and its unit; without a unit only where `bare` allows it.
fn units(text: &str, units: &[(&str, u64)], bare: bool) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" => bare.then_some(1)?,
        unit => units.iter().find(|(name, _)| *name == unit)?.1,
    };
    // More than fits is out of every range.
    number.parse::<u64>().ok().map(|number| number.saturating_mul(factor))
}

/// In the largest unit that leaves no fraction.
fn show(value: u64, units: &[(&str, u64)]) -> String {
    let whole = units.iter().find(|(_, factor)| value != 0 && value.is_multiple_of(*factor));
    match whole.or(units.last()) {
        Some((unit, factor)) => format!("{}{unit}", value / factor),
        None => value.to_string(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
