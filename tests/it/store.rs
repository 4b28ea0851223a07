//! The session store through its verbs, on a simulated clock: one contract for all of them, and what is the embedded one's own.

mod contract;
mod model;
mod moving;
mod shared;

mod backup;
mod size;

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sidegate::{
    clock::{Clock, Timestamp},
    store::{
        DataFolder, Layout, NewRevocation, NewSession, OnRollback, OpenError, Presented, Record, RedisConfig,
        Revocation, Revoked, Rotation, RotationRules, Session, Store, Visitor, Whose,
    },
    types::{ClientId, Scopes, SessionId, Subject},
};
use tempfile::TempDir;

use crate::support::redis::{Cluster, Redis, SentinelTrio};

const START: u64 = 1_800_000_000_000;
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// A store on a clock that a test moves.
struct Rig {
    place: Place,
    hand: Arc<AtomicU64>,
    store: Store,
}

/// Where it is.
enum Place {
    Folder(TempDir),
    Redis(Arc<Servers>, RedisConfig),
}

/// What is stopped with the last rig on it.
enum Servers {
    One(Redis),
    Sentinels(SentinelTrio),
    Cluster(Cluster),
}

impl Rig {
    fn embedded() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (clock, hand) = Clock::simulated(Timestamp(START));
        let store = open(folder.path(), clock);
        Self { place: Place::Folder(folder), hand, store }
    }

    async fn redis() -> Option<Self> {
        Some(Self::on(Arc::new(Servers::One(Redis::start()?))).await)
    }

    async fn sentinels() -> Option<Self> {
        Some(Self::on(Arc::new(Servers::Sentinels(SentinelTrio::start()?))).await)
    }

    async fn cluster() -> Option<Self> {
        Some(Self::on(Arc::new(Servers::Cluster(Cluster::start()?))).await)
    }

    /// A store of its own on servers that run.
    async fn on(servers: Arc<Servers>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let config = RedisConfig {
            prefix: format!("test-{}:", NEXT.fetch_add(1, Ordering::SeqCst)).into(),
            ..match &*servers {
                Servers::One(redis) => redis_at(&[redis.address()], Layout::Alone),
                Servers::Sentinels(trio) => {
                    let layout = Layout::Sentinels { master: SentinelTrio::NAME.into(), login: None };
                    redis_at(&trio.sentinels(), layout)
                }
                Servers::Cluster(cluster) => redis_at(&cluster.nodes(), Layout::Cluster),
            }
        };
        let (clock, hand) = Clock::simulated(Timestamp(START));
        let store = Store::open_redis(config.clone(), clock).await.unwrap();
        Self { place: Place::Redis(servers, config), hand, store }
    }

    /// Another store of the same kind.
    async fn another(&self) -> Self {
        match &self.place {
            Place::Folder(_) => Self::embedded(),
            Place::Redis(servers, _) => Self::on(servers.clone()).await,
        }
    }

    /// The same store, as another process has it where several can.
    async fn beside(&self) -> Store {
        match &self.place {
            Place::Folder(_) => self.store.clone(),
            Place::Redis(_, config) => {
                Store::open_redis(config.clone(), Clock::Simulated(self.hand.clone())).await.unwrap()
            }
        }
    }

    fn pass(&self, by: Duration) {
        self.hand.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }

    fn set_back(&self, by: Duration) {
        self.hand.fetch_sub(by.as_millis() as u64, Ordering::SeqCst);
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.hand.load(Ordering::SeqCst))
    }

    async fn reopened(self) -> Self {
        let Self { place, hand, store } = self;
        drop(store);
        let clock = Clock::Simulated(hand.clone());
        let store = match &place {
            Place::Folder(folder) => open(folder.path(), clock),
            Place::Redis(_, config) => Store::open_redis(config.clone(), clock).await.unwrap(),
        };
        Self { place, hand, store }
    }

    fn folder(&self) -> &Path {
        match &self.place {
            Place::Folder(folder) => folder.path(),
            Place::Redis(..) => panic!("it has no folder"),
        }
    }

    async fn session(&self) -> SessionId {
        self.store.open(new_session()).await.unwrap().session.id
    }

    /// All of the log that is live.
    async fn log(&self) -> Vec<Revocation> {
        self.store.revocations(0, 1000).await.unwrap()
    }

    async fn revoke(&self, what: Revoked, until: Timestamp) -> Revocation {
        let new = NewRevocation { issuer: None, what, until, reason: "a test".into() };
        self.store.revoke(new).await.unwrap()
    }

    async fn rotate(&self, session: SessionId, generation: u32) -> Rotation {
        self.rotate_by(session, generation, public()).await
    }

    async fn rotate_by(&self, session: SessionId, generation: u32, rules: RotationRules) -> Rotation {
        self.store.rotate(Presented { session, generation }, rules, Visitor::default()).await.unwrap()
    }
}

fn open(path: &Path, clock: Clock) -> Store {
    Store::open_embedded(Arc::new(DataFolder::lock(path).unwrap()), clock).unwrap()
}

fn redis_at(servers: &[SocketAddr], layout: Layout) -> RedisConfig {
    RedisConfig {
        servers: servers.iter().map(|at| (at.ip().to_string().into(), at.port())).collect(),
        layout,
        login: None,
        tls: None,
        prefix: "sidegate:".into(),
        timeout: 2 * SECOND,
        wait: None,
        max_staleness: 30 * SECOND,
    }
}

fn named(records: &[Record]) -> Vec<SessionId> {
    records.iter().map(|record| record.session.id).collect()
}

fn new_session() -> NewSession {
    session_of("alice")
}

fn session_of(subject: &str) -> NewSession {
    let subject = Subject::new(subject);
    NewSession {
        id: SessionId::generate(&subject),
        client: ClientId::new("app"),
        subject,
        scopes: Scopes::from_values(["read", "write"]),
        idle_lifetime: 14 * DAY,
        absolute_lifetime: 90 * DAY,
        access_lifetime: 300 * SECOND,
        remembered: false,
        max_sessions: None,
        resources: Box::default(),
        key: None,
        visitor: Visitor::default(),
    }
}

fn public() -> RotationRules {
    RotationRules {
        rotate: true,
        reuse_interval: 10 * SECOND,
        retry_window: Some(60 * SECOND),
        bound_retry_window: None,
        key: None,
        binds: false,
        idle_lifetime: 14 * DAY,
        remembered_idle_lifetime: 30 * DAY,
        access_lifetime: 300 * SECOND,
        on_rollback: OnRollback::Relogin,
    }
}

fn confidential() -> RotationRules {
    RotationRules { retry_window: None, ..public() }
}

/// What so many at once come to.
async fn at_once<T, F>(many: usize, make: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let tasks: Vec<_> = (0..many).map(|n| tokio::spawn(make(n))).collect();
    let mut all = Vec::new();
    for task in tasks {
        all.push(task.await.unwrap());
    }
    all
}

#[track_caller]
fn assert_rotated(rotation: &Rotation, to: u32) {
    assert!(matches!(rotation, Rotation::Rotated(Session { generation, .. }) if *generation == to), "{rotation:?}");
}

#[track_caller]
fn assert_replayed(rotation: &Rotation, live: u32) {
    assert!(matches!(rotation, Rotation::Replayed(Session { generation, .. }) if *generation == live), "{rotation:?}");
}

#[track_caller]
fn assert_reused(rotation: &Rotation) {
    assert!(matches!(rotation, Rotation::Reused(_)), "{rotation:?}");
}

#[tokio::test]
async fn a_verb_whose_caller_went_away_counts_all_the_same() {
    let rig = Rig::embedded();
    let id = rig.session().await;
    {
        let revoking = rig.store.revoke_session(id, "a test");
        tokio::pin!(revoking);
        // One poll puts it on its way; then the caller is gone.
        std::future::poll_fn(|cx| {
            let _ = revoking.as_mut().poll(cx);
            std::task::Poll::Ready(())
        })
        .await;
    }
    assert!(matches!(rig.rotate(id, 0).await, Rotation::Revoked { .. }));
}

#[test]
fn nothing_in_the_folder_is_open_to_others() {
    let outer = tempfile::tempdir().unwrap();
    let path = outer.path().join("new").join("data");
    let _store = open(&path, Clock::System);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let files: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn a_second_owner_is_told_the_pid_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path(), Clock::System);
    let error = DataFolder::lock(folder.path()).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("the data folder {} is in use by sidegate with pid {}", folder.path().display(), std::process::id())
    );
    drop(first);
    DataFolder::lock(folder.path()).unwrap();
}

#[test]
fn a_file_that_is_not_ours_is_refused_and_left_alone() {
    let refused = |content: &[u8]| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        fs::write(&path, content).unwrap();
        let error =
            Store::open_embedded(Arc::new(DataFolder::lock(folder.path()).unwrap()), Clock::System).unwrap_err();
        assert!(matches!(error, OpenError::Foreign(_)), "{error}");
        assert_eq!(fs::read(&path).unwrap(), content);
    };
    refused(b"");
    refused(b"SQLite format 3\0");
    refused(&[0; 8192]);

    let folder = tempfile::tempdir().unwrap();
    drop(redb::Database::create(folder.path().join("store.redb")).unwrap());
    let error = Store::open_embedded(Arc::new(DataFolder::lock(folder.path()).unwrap()), Clock::System).unwrap_err();
    assert!(matches!(error, OpenError::Foreign(_)), "{error}");
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path(), Clock::System));
    let path = folder.path().join("store.redb");
    let database = redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, u64>::new("sidegate");
    transaction.open_table(meta).unwrap().insert("format", 7).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = Store::open_embedded(Arc::new(DataFolder::lock(folder.path()).unwrap()), Clock::System).unwrap_err();
    assert!(matches!(error, OpenError::OtherFormat { found: 7, .. }), "{error}");
}

#[tokio::test]
async fn what_a_crash_left_half_made_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("store.redb.new"), [0; 4096]).unwrap();
    let store = open(folder.path(), Clock::System);
    let id = store.open(new_session()).await.unwrap().session.id;
    drop(store);
    // The same beside a whole one, which was to be written anew.
    let half = folder.path().join("store.redb.new");
    fs::write(&half, [0; 4096]).unwrap();
    let store = open(folder.path(), Clock::System);
    assert!(store.session(id).await.unwrap().is_some() && !half.exists());
}

#[tokio::test]
async fn a_damaged_row_is_an_outage_of_its_own_session_alone() {
    let rig = Rig::embedded();
    let (damaged, sound) = (rig.session().await, rig.session().await);
    let Rig { place: Place::Folder(folder), hand, store } = rig else { panic!() };
    drop(store);
    let database = redb::Database::open(folder.path().join("store.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    let sessions = redb::TableDefinition::<&[u8; 16], &[u8]>::new("sessions");
    transaction.open_table(sessions).unwrap().insert(&damaged.0, [9, 9].as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(database);

    let swept_by = hand.clone();
    let store = open(folder.path(), Clock::Simulated(hand));
    let error =
        store.rotate(Presented { session: damaged, generation: 0 }, public(), Visitor::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "the session store is not available: a row of it has another version");
    let rotation =
        store.rotate(Presented { session: sound, generation: 0 }, public(), Visitor::default()).await.unwrap();
    assert_rotated(&rotation, 1);
    // Nor does it stand in the way of a list, of a login where sessions are counted, or of a sweep.
    assert_eq!(named(&store.list(Whose::Everybodys, None, 9).await.unwrap()), [sound]);
    let opened = store.open(NewSession { max_sessions: Some(1), ..new_session() }).await.unwrap();
    assert_eq!(opened.ended.len(), 1);
    swept_by.fetch_add((15 * DAY).as_millis() as u64, Ordering::SeqCst);
    assert_eq!(store.sweep(100).await.unwrap().sessions, 3);
}

#[test]
fn a_full_disk_is_an_outage_that_passes() {
    // The limit is the process's, so it is another process that has it. The shell sees to it that the limit is an error
    // to whoever writes, not a signal.
    let script = r#"trap "" XFSZ; exec "$0" --exact store::on_a_full_disk --ignored --nocapture"#;
    let output = Command::new("sh").arg("-c").arg(script).arg(std::env::current_exe().unwrap()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
#[ignore = "run by the test above, in a process of its own"]
async fn on_a_full_disk() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = |current| setrlimit(Resource::Fsize, Rlimit { current, ..getrlimit(Resource::Fsize) }).unwrap();
    let rig = Rig::embedded();
    let mut opened = vec![rig.session().await];
    let size = fs::metadata(rig.folder().join("store.redb")).unwrap().len();
    limit(Some(size));
    let mut refused = None;
    while refused.is_none() {
        assert!(opened.len() < 100_000, "the disk is never full");
        match rig.store.open(new_session()).await {
            Ok(session) => opened.push(session.session.id),
            Err(error) => refused = Some(error.to_string()),
        }
    }
    assert_eq!(refused.unwrap(), "the session store is not available: the transaction failed");
    // There is room for less than a backup; nothing is left of one.
    let (outer, least) = (tempfile::tempdir().unwrap(), size / 4);
    limit(Some(least));
    let error = rig.store.backup(outer.path().join("backup")).await.unwrap_err().to_string();
    assert!(error.contains("backup cannot be written: "), "{error}");
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 0);
    // What was acknowledged can be read while the disk is full, and goes on when there is room.
    assert!(rig.store.session(opened[0]).await.unwrap().is_some());
    limit(None);
    for id in opened {
        assert_rotated(&rig.rotate(id, 0).await, 1);
    }
    rig.session().await;
}
