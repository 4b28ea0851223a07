//! Sidegate: a sidecar authorization proxy that verifies JWT access tokens without a look-up, issues them, and revokes
//! them. The rooms below are listed from the ground floor up; a room imports only rooms on lower floors.

pub mod clock;
pub mod http;
pub mod io;
pub mod types;

pub mod client;
pub mod rate;
pub mod store;
pub mod telemetry;

pub mod revocation;
pub mod token;

pub mod gateway;
pub mod issuer;

pub mod admin;
pub mod demo;
pub mod server;

pub mod config;

pub mod app;

pub mod cli;
