//! The admin listener: metrics and probes. It is never the public one.

use std::net::SocketAddr;

/// The admin listener as configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens.
    pub address: SocketAddr,
}
