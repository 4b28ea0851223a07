//! How many requests the issuer takes: from one address, before anything else of a request is looked at, and of one client, as
//! soon as it is known who that is.
//!
//! A client whose secret was right has one allowance, wherever it is. A name alone proves nothing: what comes in a public client's
//! name, or in that of one which has not been asked for its secret yet, is counted for that name at its network, so that nobody
//! can use up what is somebody else's.

use std::{net::IpAddr, time::Duration};

use super::{Client, Issuer, config::Limits as Rules, endpoint::Endpoint, error::Error};
use crate::{clock::Clock, http::network_of, rate::Limiter, types::Visitor};

/// What is left of everybody's allowance, in this process.
pub(super) struct Limits {
    per_address: Option<Limiter>,
    per_client: Option<Limiter>,
}

/// Who a client's requests are counted for.
#[derive(Hash)]
enum Whose<'a> {
    /// The client itself.
    Client(&'a str),
    /// Whoever says its name at a network.
    Named(&'a str, Option<IpAddr>),
}

impl Limits {
    pub(super) fn new(rules: &Rules, clock: &Clock) -> Self {
        let limiter = |rate: &Option<_>| rate.as_ref().and_then(|rate| Limiter::new(rate, clock));
        Self { per_address: limiter(&rules.per_address), per_client: limiter(&rules.per_client) }
    }

    /// Forgets those whose allowance is whole again.
    pub(super) fn prune(&self) {
        [&self.per_address, &self.per_client].into_iter().flatten().for_each(Limiter::prune);
    }
}

impl Issuer {
    /// Counts a request of whoever sends it.
    ///
    /// # Errors
    /// When there were too many.
    pub(super) fn count_visitor(&self, endpoint: Endpoint, visitor: &Visitor) -> Result<(), Error> {
        let Some(limiter) = self.limits.per_address.as_ref().filter(|_| endpoint.is_limited()) else { return Ok(()) };
        limiter.take(network(visitor)).map_err(|wait| self.limited(endpoint, "address", wait))
    }

    /// Counts a request of a client that has shown who it is, as far as it can: a public one has no more than a name.
    ///
    /// # Errors
    /// When there were too many.
    pub(super) fn count_client(&self, endpoint: Endpoint, client: &Client, visitor: &Visitor) -> Result<(), Error> {
        if client.is_public() {
            return self.count_named_client(endpoint, client, visitor);
        }
        let Some(limiter) = &self.limits.per_client else { return Ok(()) };
        limiter.take(Whose::Client(client.id.as_str())).map_err(|wait| self.limited(endpoint, "client", wait))
    }

    /// Counts a request in the name of a client.
    ///
    /// # Errors
    /// When there were too many.
    pub(super) fn count_named_client(
        &self,
        endpoint: Endpoint,
        client: &Client,
        visitor: &Visitor,
    ) -> Result<(), Error> {
        let Some(limiter) = &self.limits.per_client else { return Ok(()) };
        let whose = Whose::Named(client.id.as_str(), network(visitor));
        limiter.take(whose).map_err(|wait| self.limited(endpoint, "client_at_address", wait))
    }

    fn limited(&self, endpoint: Endpoint, by: &'static str, wait: Duration) -> Error {
        self.metrics.issuer_limited(endpoint.name(), by);
        // In whole seconds, as clients are told it, and never too early.
        Error::Limited(Duration::from_secs(wait.as_millis().div_ceil(1000).max(1) as u64))
    }
}

/// The network that somebody speaks from; `None` where that is not known.
fn network(visitor: &Visitor) -> Option<IpAddr> {
    visitor.address.parse().ok().map(network_of)
}
