//! The audit log: security decisions, a line of JSON for each.
//!
//! A line is made where the decision is taken, and put into a queue that has an end; a thread writes. Nobody waits for it:
//! what finds no place, and what the disk refuses, is lost, counted and said. No event has room for a token, a password, a
//! secret or what a stranger typed as a name.

mod writer;

use std::{
    fmt::{self, Display},
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Serialize, Serializer};

use self::writer::Writer;
use super::Metrics;
use crate::{
    clock::{Clock, Rfc3339},
    types::{ClientId, Scopes, SessionId, Visitor},
};

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A file, which is added to, and made for its owner alone where there is none.
    File(PathBuf),
}

impl Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("on standard output"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// What has been decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// From here on the log tells of this process.
    Started,
    /// Another configuration serves from here on.
    Reloaded,
    /// The process ends, in good order.
    Stopped,
    /// Lines are missing before this one, or shortly before it.
    Lost,
    /// A client is not who it says, or does not say.
    ClientRefused,
    /// A client has registered itself.
    ClientRegistered,
    /// It has not, since what it says of itself will not do, or there are too many.
    RegistrationRefused,
    /// A user's password was right.
    LoggedIn,
    /// It was not, or there is no such user, or they are disabled.
    LoginFailed,
    /// A browser goes back to a client with a code.
    Authorized,
    /// It goes back without one.
    AuthorizationRefused,
    /// A code was presented that nothing came of.
    CodeRefused,
    /// A refresh token was presented.
    Refresh(Refresh),
    /// An access token was signed.
    TokenIssued,
    /// None was, for another reason than who asked, or what was presented.
    TokenRefused,
    /// A session began.
    SessionOpened,
    /// An entry of the revocation log refuses something.
    Revoked,
    /// An entry of the revocation log takes one back.
    Lifted,
    /// The revocation endpoint has not done what it was asked.
    RevocationRefused,
    /// One of the issuer's own keys has changed.
    Key(KeyChange),
    /// Somebody without the admin token.
    AdminRefused,
    /// A command of another user of the machine.
    CommandRefused,
    /// Somebody without the credential who meant to follow the revocation log.
    FollowerRefused,
}

/// What became of a refresh token that was presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// It was the live one.
    Rotated,
    /// It had just been superseded, and its answer was given again.
    Replayed,
    /// It had been superseded too long ago: the session is over.
    Reused,
    /// The store has forgotten a rotation: the session is over.
    RolledBack,
    /// Its session had been revoked.
    Revoked,
    /// An epoch has ended its session.
    LoggedOut,
    /// Its session had been revoked, as memory knew.
    Blacklisted,
    /// Its session has expired.
    Expired,
    /// There is no such session.
    Unknown,
    /// It was not made here, or not for this client.
    Forged,
    /// Its session is bound to another key than was shown.
    WrongKey,
    /// Its user is gone or disabled: the session is over.
    UserGone,
}

impl Refresh {
    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rotated => "rotated",
            Self::Replayed => "replayed",
            Self::Reused => "reused",
            Self::RolledBack => "rolled_back",
            Self::Revoked => "revoked",
            Self::LoggedOut => "logged_out",
            Self::Blacklisted => "blacklisted",
            Self::Expired => "expired",
            Self::Unknown => "unknown",
            Self::Forged => "forged",
            Self::WrongKey => "wrong_key",
            Self::UserGone => "user_gone",
        }
    }
}

/// What became of a signing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// It is there, and published.
    Made,
    /// It signs.
    Activated,
    /// It signs no more, and verifies on.
    Retired,
    /// Nothing it has signed is good any more.
    Revoked,
    /// Nothing it has signed can be good any more, or it was never to sign.
    Forgotten,
}

impl Event {
    /// `event` and `outcome`.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Started => ("process", "started"),
            Self::Reloaded => ("process", "reloaded"),
            Self::Stopped => ("process", "stopped"),
            Self::Lost => ("audit", "lost"),
            Self::ClientRefused => ("client_authentication", "failed"),
            Self::ClientRegistered => ("client_registration", "ok"),
            Self::RegistrationRefused => ("client_registration", "refused"),
            Self::LoggedIn => ("login", "ok"),
            Self::LoginFailed => ("login", "failed"),
            Self::Authorized => ("authorization", "granted"),
            Self::AuthorizationRefused => ("authorization", "refused"),
            Self::CodeRefused => ("code", "refused"),
            Self::Refresh(refresh) => ("refresh", refresh.name()),
            Self::TokenIssued => ("token", "issued"),
            Self::TokenRefused => ("token", "refused"),
            Self::SessionOpened => ("session", "opened"),
            Self::Revoked => ("revocation", "made"),
            Self::Lifted => ("revocation", "lifted"),
            Self::RevocationRefused => ("revocation", "refused"),
            Self::Key(KeyChange::Made) => ("signing_key", "made"),
            Self::Key(KeyChange::Activated) => ("signing_key", "activated"),
            Self::Key(KeyChange::Retired) => ("signing_key", "retired"),
            Self::Key(KeyChange::Revoked) => ("signing_key", "revoked"),
            Self::Key(KeyChange::Forgotten) => ("signing_key", "forgotten"),
            Self::AdminRefused => ("admin", "refused"),
            Self::CommandRefused => ("command", "refused"),
            Self::FollowerRefused => ("follower", "refused"),
        }
    }
}

/// What else there is to say, as far as it is known; the README says what each is.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "they are the members of the line, and its documentation")]
pub struct Facts<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<&'a ClientId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<&'a str>,
    /// Of a user whose password was right. What somebody else typed may be a password in the wrong field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text")]
    pub session: Option<SessionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text")]
    pub scope: Option<&'a Scopes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<u64>,
}

impl<'a> From<&'a Visitor> for Facts<'a> {
    fn from(visitor: &'a Visitor) -> Self {
        let known = |text: &'a str| Some(text).filter(|text| !text.is_empty());
        Self { address: known(&visitor.address), agent: known(&visitor.agent), ..Self::default() }
    }
}

fn text<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    event: &'static str,
    outcome: &'static str,
    #[serde(flatten)]
    facts: Facts<'a>,
}

/// How many lines may wait to be written. One has 300 bytes or so.
const QUEUE: usize = 8192;
/// How long the end waits for what is still to be written.
const PATIENCE: Duration = Duration::from_secs(5);

/// The audit log, for whoever decides something. Cheap to clone; nothing where there is none.
#[derive(Clone, Debug, Default)]
pub struct Audit(Option<Arc<Desk>>);

#[derive(Debug)]
struct Desk {
    queue: SyncSender<Message>,
    clock: Clock,
    metrics: Metrics,
    /// Lines that are lost, and of which the audit log has not told yet.
    lost: AtomicU64,
    /// Whether the other log has told that lines are being lost.
    said: AtomicBool,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    End,
}

impl Audit {
    /// Opens the log, and writes until the keeper is dropped.
    ///
    /// # Errors
    /// When the file cannot be written to, or there is no thread to be had.
    pub fn start(destination: &Destination, clock: Clock, metrics: Metrics) -> io::Result<(Self, Keeper)> {
        let (queue, lines) = mpsc::sync_channel(QUEUE);
        let desk = Desk { queue, clock, metrics, lost: AtomicU64::new(0), said: AtomicBool::new(false) };
        let desk = Arc::new(desk);
        let mut writer = Writer::open(desk.clone(), destination)?;
        let (working, done) = mpsc::channel();
        thread::Builder::new().name("audit".into()).spawn(move || {
            writer.run(&lines);
            drop::<mpsc::Sender<()>>(working);
        })?;
        Ok((Self(Some(desk.clone())), Keeper { desk, done }))
    }

    /// Writes a line, soon. Never waits.
    pub fn tell(&self, event: Event, facts: Facts<'_>) {
        let Some(desk) = &self.0 else { return };
        let line = desk.line(event, facts);
        match desk.queue.try_send(Message::Line(line)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => desk.lose(1, &"too many lines wait to be written"),
            Err(TrySendError::Disconnected(_)) => desk.lose(1, &"it has been closed"),
        }
    }
}

/// Writes what waits, and ends, when it is dropped.
#[derive(Debug)]
pub struct Keeper {
    desk: Arc<Desk>,
    /// Hangs up when all is written.
    done: Receiver<()>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(TrySendError::Full(_)) = self.desk.queue.try_send(Message::End) {
            if Instant::now() > deadline {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if self.done.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::error!("the end of the audit log could not be written in time");
        }
    }
}

impl Desk {
    fn line(&self, event: Event, facts: Facts<'_>) -> Vec<u8> {
        let (event, outcome) = event.names();
        let line = Line { time: Rfc3339(self.clock.now()).to_string(), event, outcome, facts };
        let mut text = serde_json::to_vec(&line).expect("our own struct, of strings and numbers");
        text.push(b'\n');
        text
    }

    fn lose(&self, lines: u64, why: &dyn Display) {
        self.metrics.audit_lines_lost(lines);
        self.lost.fetch_add(lines, Ordering::Relaxed);
        if !self.said.swap(true, Ordering::Relaxed) {
            tracing::error!(error = %why, "lines of the audit log are lost");
        }
    }
}
