//! How many requests a route takes, or the issuer.

use std::num::NonZeroU32;

use super::values::{DAY, INSTANT, SECOND, count, duration, word};
use crate::{
    config::{path::Path, raw, report::Report},
    gateway::config::{Auth, By, RateLimit},
    issuer::Limits,
    rate::Rate,
};

/// So many requests in a time are no limit any more, but can still be counted.
const MOST: usize = 1_000_000;

/// One limit, or a list of them.
pub(super) fn limits(
    report: &mut Report,
    route: &Path,
    one: raw::Section<raw::RateLimit>,
    several: raw::List<raw::Mapping<raw::RateLimit>>,
    auth: Option<Auth>,
) -> Option<Vec<RateLimit>> {
    let at = route.key("rate_limits");
    match (one, several) {
        (Some(_), Some(_)) => report.refuse(&at, "give one of rate_limit and rate_limits, not both"),
        (Some(raw::Mapping(raw)), None) => Some(vec![limit(report, &route.key("rate_limit"), raw, auth)?]),
        (None, several) => {
            let items = report.items(&at, several);
            super::all(items.into_iter().map(|(path, raw::Mapping(raw))| limit(report, &path, raw, auth)))
        }
    }
}

fn limit(report: &mut Report, at: &Path, raw: raw::RateLimit, auth: Option<Auth>) -> Option<RateLimit> {
    let by = report.required(at, "by", raw.by, "who shares the allowance: route, address, client or subject");
    let known = [("route", By::Route), ("address", By::Address), ("client", By::Client), ("subject", By::Subject)];
    let by = by.and_then(|by| word(report, &at.key("by"), Some(&by), By::Route, &known));
    if let (Some(By::Client | By::Subject), Some(Auth::None)) = (by, auth) {
        report
            .error(&at.key("by"), "has no meaning with auth: none, which looks at no token; count by address or route");
    }
    let rate = rate(report, at, raw::Rate { requests: raw.requests, per: raw.per, burst: raw.burst });
    Some(RateLimit { by: by?, rate: rate? })
}

/// Those of the issuer.
pub(super) fn of_issuer(report: &mut Report, at: &Path, raw: raw::Section<raw::IssuerLimits>) -> Option<Limits> {
    let raw = raw.map(|section| section.0).unwrap_or_default();
    let mut one = |key: &str, raw: raw::Section<raw::Rate>| match raw {
        None => Some(None),
        Some(raw::Mapping(raw)) => rate(report, &at.key(key), raw).map(Some),
    };
    let (per_address, per_client) = (one("per_address", raw.per_address), one("per_client", raw.per_client));
    Some(Limits { per_address: per_address?, per_client: per_client? })
}

fn rate(report: &mut Report, at: &Path, raw: raw::Rate) -> Option<Rate> {
    let requests = report.required(at, "requests", raw.requests, "how many requests, in the time that `per` says");
    let requests = requests.and_then(|raw| number(report, &at.key("requests"), Some(raw), 1));
    let per = duration(report, &at.key("per"), raw.per, SECOND, INSTANT..=DAY);
    let burst = number(report, &at.key("burst"), raw.burst, requests.map_or(1, |n| n.get() as usize));
    Some(Rate { requests: requests?, per: per?, burst: burst? })
}

fn number(report: &mut Report, at: &Path, raw: Option<raw::Scalar>, default: usize) -> Option<NonZeroU32> {
    count(report, at, raw, default, 1..=MOST).and_then(|n| NonZeroU32::new(u32::try_from(n).ok()?))
}
