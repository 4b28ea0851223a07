//! The issuer with another configuration: what is kept stays, what is only said is said anew.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{
    Config, Departed, Issuer, check, endpoint, endpoint::Paths, limits::Limits, own_tokens, pages::Look,
    throttle::Throttle, user::Users,
};
use crate::store::Unavailable;

/// The issuer as it is configured now, for whoever does not come with a request.
#[derive(Clone)]
pub struct Current(Arc<ArcSwap<Issuer>>);

impl Current {
    /// Begins with this one.
    pub fn new(issuer: Arc<Issuer>) -> Self {
        Self(Arc::new(ArcSwap::new(issuer)))
    }

    /// As it is now.
    pub fn load(&self) -> Arc<Issuer> {
        self.0.load_full()
    }

    /// From now on it is this one.
    pub fn replace(&self, issuer: Arc<Issuer>) {
        self.0.store(issuer);
    }
}

/// Why another configuration cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ReconfigureError {
    /// It holds what its check should have refused, or a hook that cannot be asked.
    #[error("{0}")]
    Config(String),
    /// How long tokens live has to be written down before any is issued, and the store does not answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Issuer {
    /// The same issuer with another configuration, which shares with this one what it keeps: sessions, keys, revocations,
    /// failed logins, proofs that were seen. What [`Issuer::open`] alone can do, its URL, its store, its keys, must be as it is.
    /// Answers it with those who could log in before and cannot any more, for [`Issuer::settle`].
    ///
    /// # Errors
    /// When the configuration is wrong, or the store does not answer.
    pub async fn reconfigure(&self, config: Config) -> Result<(Arc<Self>, Vec<Departed>), ReconfigureError> {
        check(&config).map_err(|error| ReconfigureError::Config(error.to_string()))?;
        let longest = self.ledger.store().longest_access_lifetime(config.longest_access_lifetime()).await?;
        let longest = longest.max(self.longest);
        // Before a token is signed that lives for longer.
        self.ring.lengthen(longest);
        let users = Users::new(&config, self.clock.clone(), self.metrics.clone()).map_err(ReconfigureError::Config)?;
        let departed = self.users.departed(&users);
        let throttle = if config.throttle == self.config.throttle {
            self.throttle.clone()
        } else {
            Arc::new(Throttle::new(config.throttle.clone(), self.clock.clone(), self.metrics.clone()))
        };
        let issuer = Self {
            clients: config.clients.iter().map(|client| (client.id.clone(), Arc::new(client.clone()))).collect(),
            users,
            paths: Paths::new(&config),
            feeds: self.feeds.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            audit: self.audit.clone(),
            passwords: self.passwords.clone(),
            throttle,
            limits: Limits::new(&config.limits, &self.clock),
            registrations: self.registrations.with(config.registration.clone()),
            refresh_tokens: self.refresh_tokens.clone(),
            browsers: self.browsers.clone(),
            devices: self.devices.clone(),
            look: Look::new(&config.login),
            own: own_tokens(&config, self.keys()),
            metadata: endpoint::metadata::document(&config).into(),
            ring: self.ring.clone(),
            signing: self.signing.clone(),
            ledger: self.ledger.clone(),
            freshness: self.freshness.clone(),
            proofs: self.proofs.clone(),
            longest,
            config,
        };
        Ok((Arc::new(issuer), departed))
    }

    /// Once this configuration serves: ends what was begun by those who are disabled, or no users any more. To be asked again
    /// when it fails.
    ///
    /// # Errors
    /// When the store cannot take it; some may have ended then.
    pub async fn settle(&self, departed: &[Departed]) -> Result<(), Unavailable> {
        self.end_sessions(departed).await?;
        self.catch_up().await
    }
}
