//! The session store together with what memory has to know of it before an answer goes out.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

use super::by::By;
use crate::{
    clock::{Clock, Timestamp},
    revocation::{Blacklist, Freshness, Revocations},
    store::{
        Digest, Lifted, NewRevocation, NewSession, Opened, Presented, Record, Revocation, Revoked, Rotation,
        RotationRules, Session, Standing, Stats, Store, Taken, Unavailable, Visitor, Whose,
    },
    telemetry::{
        Metrics,
        audit::{Audit, Event, Facts},
    },
    types::{Credential, IssuerUrl, Position, SessionId},
};

/// How long a request waits for the store. The verb is carried out all the same.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many entries of the log are read at a time.
const PAGE: usize = 1024;

/// How often it is looked whether others have added to a log that is shared, when nobody says so.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// The verbs of the store as the issuer uses them. A revocation is durable first, then in memory, then answered; and since
/// a client may hang up at any point of that, each verb runs to its end though nobody waits for it any more.
#[derive(Clone)]
pub(super) struct Ledger(Arc<Inner>);

struct Inner {
    url: IssuerUrl,
    store: Store,
    revocations: Arc<Revocations>,
    blacklist: Blacklist,
    clock: Clock,
    metrics: Metrics,
    audit: Audit,
    /// Where a verb goes on that nobody waits for any more.
    runtime: Handle,
}

/// What led to a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A client asked for it (RFC 7009).
    RevokeEndpoint,
    /// A used refresh token was presented again.
    Reuse,
    /// A used authorization code was presented again.
    CodeReuse,
    /// A user has logged out at a browser.
    LoggedOut,
    /// The store had forgotten a rotation.
    Rollback,
    /// A user is not there any more; or a session is still used whose user is not, or is disabled.
    UserGone,
    /// Its subject has opened too many others since.
    TooMany,
    /// A user or a client is disabled in the configuration, or a user in the file of users.
    Disabled,
    /// The admin API.
    AdminApi,
    /// A command.
    Command,
}

impl Cause {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::RevokeEndpoint => "revoke_endpoint",
            Self::Reuse => "reuse",
            Self::CodeReuse => "code_reuse",
            Self::LoggedOut => "logged_out",
            Self::Rollback => "rollback",
            Self::UserGone => "user_gone",
            Self::TooMany => "too_many",
            Self::Disabled => "disabled",
            Self::AdminApi => "admin_api",
            Self::Command => "command",
        }
    }
}

impl Ledger {
    /// Must be called within the issuer's runtime.
    pub(super) fn new(
        url: IssuerUrl,
        store: Store,
        revocations: Arc<Revocations>,
        blacklist: Blacklist,
        clock: Clock,
        metrics: Metrics,
        audit: Audit,
    ) -> Self {
        let runtime = Handle::current();
        Self(Arc::new(Inner { url, store, revocations, blacklist, clock, metrics, audit, runtime }))
    }

    /// Tells memory of every live revocation, so that nothing that was revoked is forgotten.
    pub(super) async fn load(&self) -> Result<(), Unavailable> {
        let mut after = 0;
        loop {
            let page = self.0.store.revocations(after, PAGE).await?;
            page.iter().for_each(|revocation| self.0.remember(revocation));
            match page.last() {
                Some(last) if page.len() == PAGE => after = last.number,
                Some(_) | None => break,
            }
        }
        self.0.report_sizes();
        Ok(())
    }

    /// Tells memory of what others add to a log that is shared, for as long as the process lives; `freshness` says up to when
    /// that is done.
    pub(super) async fn follow(self, freshness: Arc<Freshness>) {
        let tail = self.0.store.tail().clone();
        let (mut head, mut number) = (tail.head(), 0);
        loop {
            // Read before the log is.
            let known_up_to = tail.as_of();
            match self.read_on(&mut number).await {
                Ok(()) => freshness.known_up_to(known_up_to),
                Err(cause) => tracing::debug!(%cause, "the revocation log cannot be read on"),
            }
            let _ = timeout(FOLLOW_INTERVAL, head.changed()).await;
        }
    }

    async fn read_on(&self, number: &mut u64) -> Result<(), Unavailable> {
        let tail = self.0.store.tail();
        let head = tail.position().number;
        while *number < head {
            let page = match tail.after(*number, PAGE) {
                Some(page) => page,
                None => self.0.store.revocations(*number, PAGE).await?.into_iter().map(Arc::new).collect(),
            };
            page.iter().for_each(|revocation| self.0.hear(revocation));
            match page.last() {
                Some(last) => *number = last.number,
                None => *number = head,
            }
        }
        Ok(())
    }

    pub(super) async fn open(&self, new: NewSession) -> Result<Session, Unavailable> {
        self.to_the_end(|inner| async move {
            let visitor = new.visitor.clone();
            let Opened { session, ended } = inner.store.open(new).await?;
            let facts = Facts {
                client: Some(&session.client),
                subject: Some(session.subject.as_str()),
                session: Some(session.id),
                scope: Some(&session.scopes),
                ..Facts::from(&visitor)
            };
            inner.audit.tell(Event::SessionOpened, facts);
            let by = By { subject: Some(session.subject.clone()), ..Cause::TooMany.into() };
            ended.iter().for_each(|revocation| inner.learn(revocation, &by));
            Ok(session)
        })
        .await
    }

    /// Keeps an authorization code, under its digest.
    pub(super) async fn keep_code(&self, name: Digest, kept: Box<[u8]>, lifetime: Duration) -> Result<(), Unavailable> {
        self.to_the_end(move |inner| async move { inner.store.keep_code(name, kept, lifetime).await }).await
    }

    /// Whether what has this name is presented for the first time; remembered until then.
    pub(super) async fn mark(&self, name: Digest, until: Timestamp) -> Result<bool, Unavailable> {
        self.to_the_end(move |inner| async move { inner.store.mark(name, until).await }).await
    }

    /// Takes one for the session that is to come of it.
    pub(super) async fn take_code(
        &self,
        name: Digest,
        session: SessionId,
        remembered: Duration,
    ) -> Result<Taken, Unavailable> {
        self.to_the_end(move |inner| async move { inner.store.take_code(name, session, remembered).await }).await
    }

    pub(super) async fn record(&self, id: SessionId) -> Result<Option<Record>, Unavailable> {
        self.to_the_end(move |inner| async move { inner.store.record(id).await }).await
    }

    pub(super) async fn stats(&self) -> Result<Stats, Unavailable> {
        self.to_the_end(move |inner| async move { inner.store.stats().await }).await
    }

    pub(super) async fn list(
        &self,
        whose: Whose,
        after: Option<SessionId>,
        limit: usize,
    ) -> Result<Vec<Record>, Unavailable> {
        self.to_the_end(move |inner| async move { inner.store.list(whose, after, limit).await }).await
    }

    pub(super) async fn session(&self, id: SessionId) -> Result<Option<Session>, Unavailable> {
        self.to_the_end(move |inner| async move { inner.store.session(id).await }).await
    }

    pub(super) async fn look_up(
        &self,
        token: Presented,
        rules: RotationRules,
    ) -> Result<Option<Standing>, Unavailable> {
        self.to_the_end(move |inner| async move { inner.store.look_up(token, rules).await }).await
    }

    /// Whether memory alone knows that the session was revoked.
    pub(super) fn is_blacklisted(&self, id: SessionId) -> bool {
        self.0.blacklist.contains(id)
    }

    /// Whether the gateway refuses access tokens of that session, or of that name, already.
    pub(super) fn is_revoked(&self, token: &Credential<'_>) -> bool {
        self.0.revocations.is_revoked(token)
    }

    /// Whether memory has an entry of that name, of an exact kind, about our own tokens.
    pub(super) fn has(&self, what: &Revoked) -> bool {
        self.0.revocations.has(&self.0.url, what)
    }

    /// Where the revocation log stands: what begins now has begun there.
    pub(super) fn position(&self) -> Position {
        self.0.store.tail().position()
    }

    pub(super) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(super) async fn revocations(&self, after: u64, limit: usize) -> Result<Vec<Revocation>, Unavailable> {
        self.to_the_end(move |inner| async move { inner.store.revocations(after, limit).await }).await
    }

    pub(super) async fn rotate(
        &self,
        presented: Presented,
        rules: RotationRules,
        visitor: Visitor,
    ) -> Result<Rotation, Unavailable> {
        self.to_the_end(move |inner| async move {
            let rotation = inner.store.rotate(presented, rules, visitor).await?;
            match &rotation {
                Rotation::Reused(revocation) => inner.learn(revocation, &Cause::Reuse.into()),
                Rotation::RolledBack(revocation) => inner.learn(revocation, &Cause::Rollback.into()),
                // Memory lacks it where a commit that was reported as failed had held after all.
                Rotation::Revoked(revocation) => inner.remember(revocation),
                Rotation::Rotated(_)
                | Rotation::Replayed(_)
                | Rotation::WrongKey
                | Rotation::LoggedOut
                | Rotation::Expired
                | Rotation::Unknown => {}
            }
            Ok(rotation)
        })
        .await
    }

    /// Ends a session; one that has ended stays as it is. `None` where nobody knows it.
    pub(super) async fn revoke_session(
        &self,
        id: SessionId,
        by: impl Into<By>,
        reason: &str,
    ) -> Result<Option<Revocation>, Unavailable> {
        let (by, reason): (By, Box<str>) = (by.into(), reason.into());
        self.to_the_end(move |inner| async move {
            // Asked before, since who follows a log that is shared may hear of it before this does.
            let ended_before = inner.blacklist.contains(id);
            let revocation = inner.store.revoke_session(id, &reason).await?;
            match &revocation {
                Some(revocation) if ended_before => inner.remember(revocation),
                Some(revocation) => inner.learn(revocation, &by),
                None => {}
            }
            Ok(revocation)
        })
        .await
    }

    /// Revokes anything but a session of our own.
    pub(super) async fn revoke(&self, new: NewRevocation, by: impl Into<By>) -> Result<Revocation, Unavailable> {
        let by = by.into();
        self.to_the_end(move |inner| async move {
            let revocation = inner.store.revoke(new).await?;
            inner.learn(&revocation, &by);
            Ok(revocation)
        })
        .await
    }

    /// Takes an entry of the log back.
    pub(super) async fn lift(&self, number: u64, by: By, reason: &str) -> Result<Lifted, Unavailable> {
        let reason: Box<str> = reason.into();
        self.to_the_end(move |inner| async move {
            let lifted = inner.store.lift(number, &reason).await?;
            if let Lifted::Done(revocation) = &lifted {
                inner.learn(revocation, &by);
            }
            Ok(lifted)
        })
        .await
    }

    pub(super) async fn sweep(&self, step: usize, now: Timestamp) {
        loop {
            let began = Instant::now();
            match self.0.store.sweep(step).await {
                Ok(swept) if swept.more => {}
                Ok(_) => break,
                Err(cause) => {
                    tracing::error!(%cause, "the session store could not be swept");
                    break;
                }
            }
            // A store does one thing after the other: whoever refreshes has it for at least half of the time.
            sleep(began.elapsed()).await;
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
        let verb = Verb { rest: Some(Box::pin(verb(self.0.clone()))), runtime: &self.0.runtime };
        timeout(PATIENCE, verb).await.unwrap_or_else(|_| Err(Unavailable("it did not answer in time".into())))
    }
}

/// A verb under way. What is left of it when it is dropped goes on in a task of its own; one that is waited for to its end, as
/// nearly all are, needs none.
struct Verb<'a, F: Future<Output: Send> + Send + 'static> {
    rest: Option<Pin<Box<F>>>,
    runtime: &'a Handle,
}

impl<F: Future<Output: Send> + Send + 'static> Future for Verb<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // Taken out, so that nothing is left of one that panics.
        let Some(mut rest) = self.rest.take() else { return Poll::Pending };
        let polled = rest.as_mut().poll(context);
        if polled.is_pending() {
            self.rest = Some(rest);
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for Verb<'_, F> {
    fn drop(&mut self) {
        if let Some(rest) = self.rest.take() {
            self.runtime.spawn(rest);
        }
    }
}

impl Inner {
    /// Tells memory what is durable already: the gateway first.
    fn learn(&self, revocation: &Revocation, by: &By) {
        let cause = by.cause.name();
        let Revocation { number, what, lifts, reason, .. } = revocation;
        let session = match what {
            Revoked::Session(id) => SessionId::parse(id).filter(|_| revocation.issuer.is_none()),
            _ => None,
        };
        self.remember(revocation);
        // What goes into a log that is shared is heard from it as well, and counted then.
        if let Some(after) = self.clock.now().since(revocation.at).filter(|_| !self.store.tail().is_shared()) {
            self.metrics.revocation_in_force(after);
        }
        let issuer = revocation.issuer.as_ref().unwrap_or(&self.url);
        let (kind, id) = (what.kind(), what.id());
        let verb = if *lifts { "lifted" } else { "revoked" };
        tracing::info!(number, %issuer, kind, id, cause, %reason, "{verb}");
        self.metrics.revocation_made(cause);
        let facts = Facts {
            session,
            number: Some(*number),
            kind: Some(kind),
            id,
            issuer: revocation.issuer.as_ref().map(IssuerUrl::as_str),
            reason: Some(reason),
            ..by.facts()
        };
        self.audit.tell(if *lifts { Event::Lifted } else { Event::Revoked }, facts);
        self.report_sizes();
    }

    /// Somebody else, or a task of this process, has added it.
    fn hear(&self, revocation: &Revocation) {
        self.remember(revocation);
        if let Some(after) = self.clock.now().since(revocation.at) {
            self.metrics.revocation_in_force(after);
        }
    }

    fn remember(&self, revocation: &Revocation) {
        let life = self.store.tail().position().life;
        self.revocations.insert(&self.url, life, revocation);
        if let (None, Revoked::Session(id)) = (&revocation.issuer, &revocation.what)
            && let Some(id) = SessionId::parse(id)
        {
            self.blacklist.insert(id, revocation.refresh_until);
        }
    }

    fn report_sizes(&self) {
        self.revocations.report(&self.metrics);
    }
}
