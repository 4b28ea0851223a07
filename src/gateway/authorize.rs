//! Whether an identity may take a route: pure, without I/O, and the only place that makes a [`Permit`].

use std::rc::Rc;

use serde_json::Value;

use super::config::{Auth, ClaimRule, Route};
use crate::token::{Identity, cache::Verified};

/// Proof that a request may take a route. `forward` asks for one, and nothing else makes them.
pub struct Permit<'a> {
    route: &'a Route,
    identity: Option<Rc<Verified>>,
}

impl<'a> Permit<'a> {
    /// The route it is for.
    pub(super) fn route(&self) -> &'a Route {
        self.route
    }

    /// The token it was given for; `None` where the route takes anybody.
    pub(super) fn verified(&self) -> Option<&Rc<Verified>> {
        self.identity.as_ref()
    }

    /// Whom it was given to; `None` where the route takes anybody.
    pub(super) fn identity(&self) -> Option<&Identity> {
        self.identity.as_deref().map(|verified| &verified.identity)
    }
}

/// Why an identity may not take a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The route needs somebody, and there is nobody.
    Anonymous,
    /// The token is a good one, of a provider that the route does not take.
    WrongProvider,
    /// The token is meant for others than the route.
    WrongAudience,
    /// A scope is missing.
    MissingScope,
    /// A claim is missing, or has another value.
    MissingClaim,
}

/// Decides about `identity` on `route`.
///
/// # Errors
/// The first thing that the route asks for and the identity lacks.
pub fn authorize(route: &Route, identity: Option<Rc<Verified>>) -> Result<Permit<'_>, Denial> {
    match (&identity, route.auth) {
        (None, Auth::Required) => return Err(Denial::Anonymous),
        (None, Auth::Optional | Auth::None) => {}
        (Some(verified), Auth::Required | Auth::Optional | Auth::None) => check(route, &verified.identity)?,
    }
    Ok(Permit { route, identity })
}

fn check(route: &Route, identity: &Identity) -> Result<(), Denial> {
    if !route.providers.contains(&identity.provider) {
        return Err(Denial::WrongProvider);
    }
    let meant = |wanted: &crate::types::Audience| identity.audiences.iter().any(|aud| **aud == *wanted.as_str());
    if !route.audiences.is_empty() && !route.audiences.iter().any(meant) {
        return Err(Denial::WrongAudience);
    }
    if !identity.scopes.covers(&route.scopes) {
        return Err(Denial::MissingScope);
    }
    if !route.claims.iter().all(|rule| holds(rule, identity)) {
        return Err(Denial::MissingClaim);
    }
    Ok(())
}

/// Whether a claim equals one of the values; where the claim is a list, whether a member does.
fn holds(rule: &ClaimRule, identity: &Identity) -> bool {
    match identity.claim(&rule.path) {
        None => false,
        Some(Value::Array(members)) => members.iter().any(|member| rule.any_of.contains(member)),
        Some(value) => rule.any_of.contains(value),
    }
}
