//! One reading of every request: what two readers could read differently never gets through, and what does has bounds.
//! The case list is of attacks on comparable proxies; a table for each part of a request.

mod addresses;
mod bodies;
mod frames;
mod heads;
mod paths;
mod rates;

use std::net::SocketAddr;

use crate::support::{Sidegate, Upstream, client::raw, config};

/// One route that lets everybody in, with `more` of its keys, and `sections`.
fn open_gate(upstream: &Upstream, more: &str, sections: &str) -> Sidegate {
    let route = format!("{{ name: all, match: {{ path_prefix: / }}, auth: none, upstream: app{more} }}");
    Sidegate::start(&config(upstream.address(), &format!("{sections}\nroutes: [{route}]")))
}

/// The status that these bytes are answered with.
fn status(to: SocketAddr, bytes: &[u8]) -> u16 {
    raw(to, bytes).map_or(0, |answer| answer.status)
}

/// What is wrong with the rows: each is sent as it is, is to be refused with 400, and nothing of it may go upstream.
fn refused(gate: &Sidegate, upstream: &Upstream, rows: &[&[u8]]) {
    let mut misses = String::new();
    for bytes in rows {
        let status = status(gate.address(), bytes);
        let reached = upstream.take();
        if status != 400 || !reached.is_empty() {
            misses += &format!("{status} and {} upstream for {:?}\n", reached.len(), String::from_utf8_lossy(bytes));
        }
    }
    assert!(misses.is_empty(), "\n{misses}");
}

/// How many requests have ended for this reason.
fn ended(gate: &Sidegate, reason: &str) -> f64 {
    let text = gate.admin("/metrics").text();
    let series = text
        .lines()
        .filter(|line| line.starts_with("sidegate_requests_total{") && line.contains(&format!("reason=\"{reason}\"")));
    series.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}
