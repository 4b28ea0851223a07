//! How users of the issuer log in at a browser.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::values::{DAY, HOUR, MINUTE, SECOND, count, duration};
use crate::{
    config::{file, path::Path, raw, report::Report},
    issuer::{Login, Throttle},
};

/// The largest picture that is taken, in bytes: it is in every page.
const MAX_LOGO: u64 = 64 << 10;
/// What buttons are coloured with unless it is said.
const COLOR: [u8; 3] = [0x0b, 0x57, 0xd0];

pub(super) fn check(report: &mut Report, at: &Path, raw: raw::Section<raw::Login>) -> Option<Login> {
    let raw = raw.map(|section| section.0).unwrap_or_default();
    let lifetime = duration(report, &at.key("lifetime"), raw.lifetime, 8 * HOUR, MINUTE..=30 * DAY);
    let name = shown(report, &at.key("name"), raw.name, "Sidegate");
    let logo = raw.logo_file.map(|file| logo(report, &at.key("logo_file"), &file));
    let color = match raw.color {
        None => Some(COLOR),
        Some(text) => match rgb(&text) {
            Some(color) => Some(color),
            None => report.refuse(&at.key("color"), "must be a colour of the form \"#0b57d0\""),
        },
    };
    let lifetime = lifetime.map(|lifetime| Duration::from_secs(lifetime.as_secs()));
    Some(Login {
        lifetime: lifetime?,
        name: name?.into(),
        logo: match logo {
            Some(logo) => Some(logo?.into()),
            None => None,
        },
        color: color?,
    })
}

/// What failed logins cost.
pub(super) fn throttle(report: &mut Report, at: &Path, raw: raw::Section<raw::Throttle>) -> Option<Option<Throttle>> {
    let raw = raw.map(|section| section.0).unwrap_or_default();
    let mut failures = |key: &str, raw, default| {
        count(report, &at.key(key), raw, default, 1..=100_000).and_then(|failures| u32::try_from(failures).ok())
    };
    let own = failures("failures", raw.failures, 5);
    let by_strangers = failures("failures_by_strangers", raw.failures_by_strangers, 20);
    let by_address = failures("failures_by_address", raw.failures_by_address, 100);
    let longest_wait = duration(report, &at.key("longest_wait"), raw.longest_wait, MINUTE, SECOND..=HOUR);
    let rules = Throttle {
        failures: own?,
        failures_by_strangers: by_strangers?,
        failures_by_address: by_address?,
        longest_wait: longest_wait?,
    };
    if raw.insecure_off.is_some_and(|flag| flag.0) {
        report.warn(&at.key("insecure_off"), "anybody can try passwords as fast as they can be looked at");
        return Some(None);
    }
    Some(Some(rules))
}

/// The longest name that people see, in bytes.
pub(super) const MAX_NAME_BYTES: usize = 100;

/// A name that people see.
pub(super) fn shown(report: &mut Report, at: &Path, raw: Option<String>, default: &str) -> Option<String> {
    let text = raw.unwrap_or_else(|| default.to_owned());
    if text.trim().is_empty() || text.len() > MAX_NAME_BYTES || text.chars().any(char::is_control) {
        return report.refuse(at, "must be a name of up to 100 bytes");
    }
    Some(text)
}

/// A picture, as a URL that holds all of it.
fn logo(report: &mut Report, at: &Path, name: &str) -> Option<String> {
    let bytes = file::named(report, at, name, MAX_LOGO)?.bytes;
    let text = bytes.trim_ascii_start();
    let kind = if bytes.starts_with(b"\x89PNG\r\n") {
        "image/png"
    } else if text.starts_with(b"<svg") || text.starts_with(b"<?xml") {
        "image/svg+xml"
    } else {
        return report.refuse(at, "must be a picture of the kind PNG or SVG");
    };
    Some(format!("data:{kind};base64,{}", STANDARD.encode(&bytes)))
}

fn rgb(text: &str) -> Option<[u8; 3]> {
    let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6 && digits.is_ascii())?;
    let part = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).ok();
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(())?;
    Some([part(0)?, part(2)?, part(4)?])
}
