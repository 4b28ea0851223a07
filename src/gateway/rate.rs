//! How many requests of a route come through in a time, by whom they are counted: shared by all workers, and looked at as
//! soon as it is known who is asking.

use std::{net::IpAddr, time::Duration};

use super::config::{By, Route};
use crate::{clock::Clock, http::network_of, rate::Limiter, token::Identity};

/// The limits of all routes, in their order.
pub struct RateLimits {
    routes: Vec<Vec<(By, Limiter)>>,
}

impl RateLimits {
    /// Begins with every allowance whole.
    pub fn new(routes: &[Route], clock: &Clock) -> Self {
        let limits = |route: &Route| {
            route.rate_limits.iter().filter_map(|limit| Some((limit.by, Limiter::new(&limit.rate, clock)?))).collect()
        };
        Self { routes: routes.iter().map(limits).collect() }
    }

    /// Whether there is any limit at all.
    pub fn is_empty(&self) -> bool {
        self.routes.iter().all(Vec::is_empty)
    }

    /// Counts a request whose token has not been looked at: by route and by address.
    ///
    /// # Errors
    /// How long to wait, when an allowance is used up.
    pub fn count_anonymous(&self, route: usize, address: impl Fn() -> IpAddr) -> Result<(), Duration> {
        self.routes[route].iter().try_for_each(|(by, limiter)| match by {
            By::Route => limiter.take(()),
            By::Address => limiter.take(network_of(address())),
            By::Client | By::Subject => Ok(()),
        })
    }

    /// Counts a request that `identity` makes: by client and by subject. One that has neither is counted by its address,
    /// lest leaving the token away be a way round.
    ///
    /// # Errors
    /// How long to wait, when an allowance is used up.
    pub fn count_identified(
        &self,
        route: usize,
        identity: Option<&Identity>,
        address: impl Fn() -> IpAddr,
    ) -> Result<(), Duration> {
        self.routes[route].iter().try_for_each(|(by, limiter)| {
            let name = match by {
                By::Route | By::Address => return Ok(()),
                By::Client => identity.and_then(|who| Some((who, who.text("client_id").or_else(|| who.text("azp"))?))),
                By::Subject => identity.and_then(|who| Some((who, who.text("sub")?))),
            };
            // The same name is somebody else where another issuer gives it.
            match name {
                Some((who, name)) => limiter.take((who.issuer.as_str(), name)),
                None => limiter.take(network_of(address())),
            }
        })
    }

    /// Forgets those whose allowance is whole again.
    pub fn prune(&self) {
        self.routes.iter().flatten().for_each(|(_, limiter)| limiter.prune());
    }
}
