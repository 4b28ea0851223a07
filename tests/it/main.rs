//! Black-box tests, a file for each capability, against the real program.
#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not as it should be")]

mod config;
mod floors;
mod issuer;
mod revocation;
mod store;
