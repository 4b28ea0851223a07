//! The session store together with what memory has to know of it before an answer goes out.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{
    clock::Timestamp,
    revocation::{Blacklist, Revocations},
    store::{NewSession, Presented, Revocation, Revoked, Rotation, RotationRules, Session, Store, Unavailable},
    telemetry::Metrics,
    types::{IssuerUrl, SessionId},
};

/// How long a request waits for the store. The verb is carried out all the same.
const PATIENCE: Duration = Duration::from_secs(10);

/// The verbs of the store as the issuer uses them. A revocation is durable first, then in memory, then answered; and since
/// a client may hang up at any point of that, each verb runs to its end in a task of its own.
#[derive(Clone)]
pub(super) struct Ledger(Arc<Inner>);

struct Inner {
    url: IssuerUrl,
    store: Store,
    revocations: Arc<Revocations>,
    blacklist: Blacklist,
    metrics: Metrics,
}

/// Why something was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    RevokeEndpoint,
    Reuse,
    Rollback,
    UserGone,
}

impl Cause {
    const fn name(self) -> &'static str {
        match self {
            Self::RevokeEndpoint => "revoke_endpoint",
            Self::Reuse => "reuse",
            Self::Rollback => "rollback",
            Self::UserGone => "user_gone",
        }
    }
}

impl Ledger {
    pub(super) fn new(
        url: IssuerUrl,
        store: Store,
        revocations: Arc<Revocations>,
        blacklist: Blacklist,
        metrics: Metrics,
    ) -> Self {
        Self(Arc::new(Inner { url, store, revocations, blacklist, metrics }))
    }

    pub(super) async fn open(&self, new: NewSession) -> Result<Session, Unavailable> {
        self.to_the_end(|inner| async move { inner.store.open(new).await }).await
    }

    pub(super) async fn session(&self, id: SessionId) -> Result<Option<Session>, Unavailable> {
        self.to_the_end(move |inner| async move { inner.store.session(id).await }).await
    }

    /// Whether memory alone knows that the session was revoked.
    pub(super) fn is_blacklisted(&self, id: SessionId) -> bool {
        self.0.blacklist.contains(id)
    }

    /// Whether the gateway refuses access tokens of that session, or of that name, already.
    pub(super) fn is_revoked(&self, sid: Option<&str>, jti: Option<&str>) -> bool {
        self.0.revocations.is_revoked(&self.0.url, sid, jti)
    }

    pub(super) async fn rotate(&self, presented: Presented, rules: RotationRules) -> Result<Rotation, Unavailable> {
        self.to_the_end(move |inner| async move {
            let rotation = inner.store.rotate(presented, rules).await?;
            match &rotation {
                Rotation::Reused(revocation) => inner.learn(revocation, Cause::Reuse),
                Rotation::RolledBack(revocation) => inner.learn(revocation, Cause::Rollback),
                // Memory lacks it where a commit that was reported as failed had held after all.
                Rotation::Revoked(revocation) => inner.remember(revocation),
                Rotation::Rotated(_) | Rotation::Replayed(_) | Rotation::Expired | Rotation::Unknown => {}
            }
            Ok(rotation)
        })
        .await
    }

    /// Ends a session; one that nobody knows, or that has ended, stays as it is.
    pub(super) async fn revoke_session(&self, id: SessionId, cause: Cause) -> Result<(), Unavailable> {
        self.to_the_end(move |inner| async move {
            if let Some(revocation) = inner.store.revoke_session(id).await? {
                inner.learn(&revocation, cause);
            }
            Ok(())
        })
        .await
    }

    pub(super) async fn revoke_token(&self, jti: &str, until: Timestamp, cause: Cause) -> Result<(), Unavailable> {
        let jti: Box<str> = jti.into();
        self.to_the_end(move |inner| async move {
            let revocation = inner.store.revoke_token(&jti, until).await?;
            inner.learn(&revocation, cause);
            Ok(())
        })
        .await
    }

    pub(super) async fn sweep(&self, step: usize, now: Timestamp) {
        loop {
            match self.0.store.sweep(step).await {
                Ok(swept) if swept.sessions == step || swept.revocations == step => {}
                Ok(_) => break,
                Err(cause) => {
                    tracing::error!(%cause, "the session store could not be swept");
                    break;
                }
            }
        }
        self.0.revocations.sweep(now);
        self.report_sizes();
    }

    pub(super) fn report_sizes(&self) {
        self.0.report_sizes();
    }

    async fn to_the_end<T, F>(&self, verb: impl FnOnce(Arc<Inner>) -> F) -> Result<T, Unavailable>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Unavailable>> + Send + 'static,
    {
        match timeout(PATIENCE, tokio::spawn(verb(self.0.clone()))).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Unavailable("the request was broken off".into())),
            Err(_) => Err(Unavailable("it did not answer in time".into())),
        }
    }
}

impl Inner {
    /// Tells memory what is durable already: the gateway first.
    fn learn(&self, revocation: &Revocation, cause: Cause) {
        let cause = cause.name();
        let new = match &revocation.what {
            Revoked::Session(id) => {
                let new = !self.blacklist.contains(*id);
                tracing::info!(session = %id, cause, "a session was revoked");
                new
            }
            Revoked::Token(jti) => {
                tracing::info!(%jti, cause, "an access token was revoked");
                true
            }
        };
        self.remember(revocation);
        if new {
            self.metrics.revocation_made(cause);
        }
        self.report_sizes();
    }

    fn remember(&self, revocation: &Revocation) {
        self.revocations.insert(&self.url, revocation);
        if let Revoked::Session(id) = revocation.what {
            self.blacklist.insert(id, revocation.refresh_until);
        }
    }

    fn report_sizes(&self) {
        let sizes = self.revocations.sizes();
        self.metrics.revocation_entries("session", sizes.sessions);
        self.metrics.revocation_entries("token", sizes.tokens);
    }
}
