//! What an operator does by hand: looks at sessions, revokes what is named, and takes that back.

use std::{path::PathBuf, time::Duration};

use tokio::task::JoinSet;

use super::{By, Issuer, keys::KeysError, ledger::Cause};
use crate::{
    clock::Timestamp,
    store::{
        BackupError, Copied, Lifted, MAX_LEEWAY, NewRevocation, Record, Revocation, Revoked, Stats, Unavailable, Whose,
    },
    types::{IssuerUrl, SessionId},
};

/// The longest name or reason, in bytes.
const MAX_TEXT: usize = 512;
/// The longest that an entry may be asked to last.
const MAX_LASTS: Duration = Duration::from_secs(366 * 86_400);

/// What an operator asks for.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    /// One of [`Revoked::KINDS`].
    pub kind: String,
    /// What it names; nothing for `everything`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whose tokens, where they are not the internal issuer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// For how many seconds tokens of now can live at the most; only where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasts: Option<u64>,
}

/// Which sessions an operator asks for.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionsRequest {
    /// Those of this subject.
    pub subject: Option<String>,
    /// Or those of this client.
    pub client: Option<String>,
    /// After this one.
    pub after: Option<String>,
    /// So many at the most.
    pub limit: usize,
}

/// Why nothing was revoked, or lifted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RevokeError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Wrong(String),
    /// There is nothing of that name.
    #[error("{0}")]
    Unknown(String),
    /// It cannot be undone.
    #[error("{0}")]
    Final(String),
    /// The store did not take it.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The signing keys could not be changed.
    #[error("{0}")]
    Keys(String),
}

impl Issuer {
    /// Revokes what an operator names. It is durable, and in force in this process, when this answers.
    ///
    /// # Errors
    /// When it makes no sense, names what is not there, or the store cannot take it.
    pub async fn revoke(&self, request: &RevokeRequest, by: impl Into<By>) -> Result<Revocation, RevokeError> {
        let (what, by) = (named(request)?, by.into());
        let reason: Box<str> = if request.reason.is_empty() { "not said".into() } else { (&*request.reason).into() };
        let other = request.issuer.as_deref().filter(|url| *url != self.config.url.as_str());
        let lasts = self.lasts(request, &what, other)?;
        if other.is_none() {
            match &what {
                Revoked::Session(id) => return self.revoke_session(id, by, &reason).await,
                Revoked::Key(kid) => {
                    // It stops signing first: what it signs from then on nobody would take.
                    self.revoke_signing_key(kid, &what, &by).await?;
                }
                Revoked::Token(_) | Revoked::Subject(_) | Revoked::Client(_) | Revoked::Everything => {}
            }
        }
        let issuer = other.map(IssuerUrl::new);
        let until = self.clock.now() + lasts;
        Ok(self.ledger.revoke(NewRevocation { issuer, what, until, reason }, by).await?)
    }

    /// Takes back what the entry of that number in the log has revoked.
    ///
    /// # Errors
    /// When there is no such entry, it cannot be undone, or the store cannot take it.
    pub async fn lift(&self, number: u64, reason: &str, by: impl Into<By>) -> Result<Revocation, RevokeError> {
        bounded("the reason", reason)?;
        match self.ledger.lift(number, by.into(), reason).await? {
            Lifted::Done(revocation) => Ok(revocation),
            Lifted::Unknown => Err(RevokeError::Unknown(format!("no live entry has the number {number}"))),
            Lifted::Final(what) => Err(RevokeError::Final(format!(
                "a {} that was revoked has ended, and does not come back: its owner has to begin anew",
                what.kind()
            ))),
        }
    }

    /// A session, whether it has ended or not; `None` where nobody knows it any more.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn session(&self, id: SessionId) -> Result<Option<Record>, Unavailable> {
        self.ledger.record(id).await
    }

    /// Up to `limit` sessions after that one, ended ones among them, the oldest first.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn sessions(
        &self,
        whose: Whose,
        after: Option<SessionId>,
        limit: usize,
    ) -> Result<Vec<Record>, Unavailable> {
        self.ledger.list(whose, after, limit).await
    }

    /// What time it is for its sessions.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// How much its store has.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn stats(&self) -> Result<Stats, Unavailable> {
        self.ledger.stats().await
    }

    /// Copies the store to a file, which is named from the root on, while it goes on to serve.
    ///
    /// # Errors
    /// When the file is there already, cannot be written, or the store is not a file.
    pub async fn back_up(&self, path: PathBuf) -> Result<Copied, BackupError> {
        let copied = self.ledger.store().backup(path.clone()).await?;
        tracing::info!(path = %path.display(), sessions = copied.sessions, bytes = copied.bytes, "the store is backed up");
        Ok(copied)
    }

    /// Up to `limit` live entries of the log after the one of that number, in their order.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn revocations(&self, after: u64, limit: usize) -> Result<Vec<Revocation>, Unavailable> {
        self.ledger.revocations(after, limit).await
    }

    /// Enters into the log what ended here while nobody wrote it there: keys, users and clients.
    pub(super) async fn catch_up(&self) -> Result<(), Unavailable> {
        for kid in self.ring.revoked() {
            let what = Revoked::Key(kid.as_str().into());
            if !self.ledger.has(&what) {
                self.ledger.revoke(self.new_entry(what, "the signing key was revoked"), Cause::Command).await?;
            }
        }
        let users = self.config.users.iter().filter(|user| user.disabled);
        let clients = self.config.clients.iter().filter(|client| client.disabled);
        let disabled = users
            .map(|user| Revoked::Subject(user.subject.as_str().into()))
            .chain(clients.map(|client| Revoked::Client(client.id.as_str().into())));
        // Also those of which the log knows: they may have been let in again, for a while.
        self.enter(disabled.map(|what| (what, Cause::Disabled, "disabled in the configuration"))).await
    }

    /// Enters these into the log, all at once, so that they share what it costs to have them on disk.
    pub(super) async fn enter(
        &self,
        entries: impl Iterator<Item = (Revoked, Cause, &'static str)>,
    ) -> Result<(), Unavailable> {
        let mut entering = JoinSet::new();
        for (what, cause, reason) in entries {
            let (ledger, new) = (self.ledger.clone(), self.new_entry(what, reason));
            entering.spawn(async move { ledger.revoke(new, cause).await });
        }
        while let Some(entered) = entering.join_next().await {
            entered.unwrap_or_else(|_| Err(Unavailable("an entry was broken off".into())))?;
        }
        Ok(())
    }

    /// An entry about our own tokens, which lasts as long as it has to.
    fn new_entry(&self, what: Revoked, reason: &str) -> NewRevocation {
        let until = self.clock.now() + self.entry_lasts(&what);
        NewRevocation { issuer: None, what, until, reason: reason.into() }
    }

    async fn revoke_session(&self, id: &str, by: By, reason: &str) -> Result<Revocation, RevokeError> {
        let unknown = || RevokeError::Unknown("there is no such session; it may have ended long ago".into());
        let id = SessionId::parse(id).ok_or_else(unknown)?;
        self.ledger.revoke_session(id, by, reason).await?.ok_or_else(unknown)
    }

    async fn revoke_signing_key(&self, kid: &str, what: &Revoked, by: &By) -> Result<(), RevokeError> {
        let (ring, kid, by) = (self.ring.clone(), kid.to_owned(), by.clone());
        let revoking = tokio::task::spawn_blocking(move || ring.revoke(&kid, &by));
        match revoking.await {
            Ok(Ok(_)) => Ok(()),
            // Another time it came no further than here.
            Ok(Err(KeysError::Revoked(_))) if !self.ledger.has(what) => Ok(()),
            Ok(Err(error)) => Err(RevokeError::Keys(error.to_string())),
            Err(_) => Err(RevokeError::Keys("another key could not be made; the log says why".into())),
        }
    }

    /// How long an entry has to last: as long as any token that there is now.
    fn lasts(&self, request: &RevokeRequest, what: &Revoked, other: Option<&str>) -> Result<Duration, RevokeError> {
        let asked = request.lasts.map(Duration::from_secs);
        if asked.is_some_and(|asked| asked > MAX_LASTS) {
            return Err(RevokeError::Wrong("`lasts` is more than a year".into()));
        }
        let Some(other) = other else {
            return Ok(self.entry_lasts(what).max(asked.unwrap_or_default() + MAX_LEEWAY));
        };
        let Some((_, longest)) = self.config.others.iter().find(|(issuer, _)| issuer.as_str() == other) else {
            return Err(RevokeError::Wrong(format!("no provider has the issuer {other:?}")));
        };
        match longest.or(asked) {
            Some(longest) => Ok(longest.max(asked.unwrap_or_default()) + MAX_LEEWAY),
            None => Err(RevokeError::Wrong(
                "it is not known how long that issuer's tokens live: set `max_lifetime` of its provider, or say `lasts`, \
                 in seconds"
                    .into(),
            )),
        }
    }
}

fn named(request: &RevokeRequest) -> Result<Revoked, RevokeError> {
    bounded("the reason", &request.reason)?;
    let wrong = |text: String| Err(RevokeError::Wrong(text));
    if !Revoked::KINDS.contains(&&*request.kind) {
        return wrong(format!("`kind` must be one of {}", Revoked::KINDS.join(", ")));
    }
    match (request.id.as_deref(), &*request.kind) {
        (Some(_), "everything") => return wrong("`everything` has no `id`".into()),
        (None | Some(""), kind) if kind != "everything" => return wrong(format!("a {kind} needs its `id`")),
        (Some(id), _) => bounded("`id`", id)?,
        (None, _) => {}
    }
    match Revoked::parse(&request.kind, request.id.as_deref()) {
        Some(what) => Ok(what),
        None => wrong("that names nothing".into()),
    }
}

fn bounded(what: &str, text: &str) -> Result<(), RevokeError> {
    if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        return Err(RevokeError::Wrong(format!("{what} must be up to {MAX_TEXT} bytes without control characters")));
    }
    Ok(())
}
