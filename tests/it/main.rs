//! Black-box tests, a file for each capability, against the real program.
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be, and says so"
)]

mod admin;
mod audit;
mod browser;
mod clients;
mod compliance;
mod config;
mod dpop;
mod exchange;
mod feed;
mod floors;
mod gateway;
mod healthcheck;
mod issuer;
mod keys;
mod operators;
mod reading;
mod redis_rig;
mod registration;
mod reload;
mod resources;
mod revocation;
mod server;
mod shared;
mod store;
mod storm;
mod streams;
mod support;
mod tls;
mod tokens;
mod upstream;
mod users;
mod users_hook;
mod walkthrough;
