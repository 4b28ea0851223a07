//! The way to upstreams: what is spoken with them, which of them is asked, and what becomes of a request when they fail.

mod balancing;
mod bodies;
mod frames;
mod health;
mod lies;
mod limits;
mod peer;
mod protocols;
mod retries;
mod timeouts;
mod trailers;

use std::time::{Duration, Instant};

use crate::support::{Sidegate, wait_for};

/// A Sidegate with one upstream, described by what stands in its mapping besides the name, and a route that lets all in.
fn gate(upstream: &str) -> Sidegate {
    Sidegate::start(&config(upstream))
}

fn config(upstream: &str) -> String {
    format!(
        "workers: 1\n\
         listeners: [{{ name: public, address: 127.0.0.1:0 }}]\n\
         admin: {{ address: 127.0.0.1:0 }}\n\
         upstreams: [{{ name: app, {upstream} }}]\n\
         routes: [{{ name: all, match: {{ path_prefix: / }}, auth: none, upstream: app }}]\n"
    )
}

/// How many requests ended for a reason.
fn ended(gate: &Sidegate, method: &str, code: u16, reason: &str) -> f64 {
    gate.metric(&format!(
        "sidegate_requests_total{{code=\"{code}\",decision=\"allowed\",method=\"{method}\",reason=\"{reason}\",route=\"all\"}}"
    ))
}

/// How many endpoints are in a state.
fn endpoints(gate: &Sidegate, state: &str) -> f64 {
    gate.metric(&format!("sidegate_upstream_endpoints{{state=\"{state}\",upstream=\"app\"}}"))
}

/// Lets time pass where that is what is tested.
fn pass(time: Duration) {
    let start = Instant::now();
    wait_for("time to pass", || (start.elapsed() >= time).then_some(()));
}
