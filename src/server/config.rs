//! Listeners and their bounds as configured; every value has been checked.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ipnet::IpNet;

use super::tls::Terminator;
use crate::types::Fingerprint;

/// The data plane's listeners.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where connections are accepted. Never empty.
    pub listeners: Vec<Listener>,
    /// How many worker threads serve them, 1-1024.
    pub workers: usize,
    /// What a client may ask of us.
    pub limits: Limits,
    /// Peers that many clients come through: their connections are not counted by address.
    pub proxies: Vec<IpNet>,
    /// How long the process goes on as before after it was told to stop (a load balancer is still sending).
    pub drain_delay: Duration,
    /// How long requests in flight may take to end after that.
    pub drain_timeout: Duration,
}

/// One listening address.
#[derive(Clone, Debug)]
pub struct Listener {
    /// What it was made of, certificates aside: one with the same is the same.
    pub fingerprint: Fingerprint,
    /// Its name in logs.
    pub name: Arc<str>,
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// Its certificates; `None` speaks plain HTTP.
    pub tls: Option<Arc<Terminator>>,
    /// Whether it answers the issuer's paths.
    pub issuer: bool,
}

/// Bounds on what a client can stall or fill.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections served at one time, over all listeners; further ones wait until one ends.
    pub max_connections: usize,
    /// The same for one address (an IPv6 address counts for its /64); further ones are closed. `None`: as many as there are.
    pub max_connections_per_address: Option<usize>,
    /// Request line and header fields together, 8 KiB - 1 MiB.
    pub max_header_bytes: usize,
    /// Header fields of a request, 10 - 1000.
    pub max_headers: usize,
    /// Requests under way at one time on one HTTP/2 connection, 1 - 10,000.
    pub max_streams: u32,
    /// From accept to the end of the TLS handshake.
    pub tls_handshake_timeout: Duration,
    /// From a request's first byte, or from accept, to the end of its head.
    pub header_timeout: Duration,
    /// How long a body may stand still while the client is the one to move.
    pub body_timeout: Duration,
    /// How long a connection may wait for its next request.
    pub keep_alive_timeout: Duration,
}

impl Limits {
    /// How often connections are looked at: often enough that no timeout runs over by more than a quarter.
    pub(super) fn round(&self) -> Duration {
        let shortest =
            self.tls_handshake_timeout.min(self.header_timeout).min(self.body_timeout).min(self.keep_alive_timeout);
        (shortest / 4).clamp(Duration::from_millis(20), Duration::from_millis(500))
    }
}
