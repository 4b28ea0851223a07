//! What a store with very many sessions takes, and how long refreshes wait while it is swept, copied, and its file written anew.
//!
//! ```text
//! cargo build --release
//! cargo bench --bench store -- [redis] [sessions] [left]     # 500,000 and 0 unless said
//! ```
//!
//! Where `target/release/sidegate` is there, it is started on the full store: how long until it serves, and its memory.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark says what it has found, or stops")]
#![allow(missing_docs, reason = "it is a program")]

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sidegate::{
    clock::{Clock, Timestamp},
    store::{
        DataFolder, Layout, NewSession, OnRollback, Presented, RedisConfig, Rotation, RotationRules, Store, Visitor,
    },
    types::{ClientId, Scopes, SessionId, Subject},
};

const DAY: Duration = Duration::from_secs(86_400);
/// How many refresh at the same time, one session each, for as long as something is measured.
const REFRESHING: usize = 8;

fn open(folder: &Path, hand: &Arc<AtomicU64>) -> Store {
    let clock = Clock::Simulated(hand.clone());
    Store::open_embedded(Arc::new(DataFolder::lock(folder).unwrap()), clock).unwrap()
}

fn new_session(n: usize) -> NewSession {
    NewSession {
        id: SessionId::generate(&Subject::new(format!("user-{}", n % 100_000))),
        client: ClientId::new("app"),
        subject: Subject::new(format!("user-{}", n % 100_000)),
        scopes: Scopes::from_values(["read", "write"]),
        idle_lifetime: 14 * DAY,
        absolute_lifetime: 90 * DAY,
        access_lifetime: Duration::from_secs(300),
        remembered: false,
        max_sessions: None,
        resources: Box::default(),
        key: None,
        visitor: Visitor { address: "192.0.2.17".into(), agent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0)".into() },
    }
}

async fn refresh(store: &Store, session: SessionId, generation: u32) -> u32 {
    let rules = RotationRules {
        rotate: true,
        reuse_interval: Duration::ZERO,
        retry_window: None,
        bound_retry_window: None,
        key: None,
        binds: false,
        idle_lifetime: 14 * DAY,
        remembered_idle_lifetime: 14 * DAY,
        access_lifetime: Duration::from_secs(300),
        on_rollback: OnRollback::Relogin,
    };
    let presented = Presented { session, generation };
    match store.rotate(presented, rules, Visitor::default()).await.unwrap() {
        Rotation::Rotated(session) => session.generation,
        other => panic!("{other:?}"),
    }
}

/// Has some refresh without a pause while `what` goes on; prints how long that took, and how long a refresh waited.
async fn meanwhile<T>(name: &str, store: &Store, what: impl Future<Output = T>) -> T {
    let done = Arc::new(AtomicBool::new(false));
    let mut refreshing = Vec::new();
    for n in 0..REFRESHING {
        let (store, done) = (store.clone(), done.clone());
        refreshing.push(tokio::spawn(async move {
            let session = store.open(new_session(n)).await.unwrap().session.id;
            let (mut generation, mut waits) = (0, Vec::new());
            while !done.load(Ordering::Relaxed) {
                let asked = Instant::now();
                generation = refresh(&store, session, generation).await;
                waits.push(asked.elapsed());
            }
            waits
        }));
    }
    let began = Instant::now();
    let outcome = what.await;
    let took = began.elapsed();
    done.store(true, Ordering::Relaxed);
    let mut waits = Vec::new();
    for each in refreshing {
        waits.extend(each.await.unwrap());
    }
    waits.sort();
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0;
    println!(
        "{name:<32} {:>7.2} s; {} refreshes waited {:.2} ms (median), {:.2} (p99), {:.1} (worst)",
        took.as_secs_f64(),
        waits.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    outcome
}

fn megabytes(path: &Path) -> f64 {
    fs::metadata(path).unwrap().len() as f64 / f64::from(1 << 20)
}

fn resident(process: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// Opens so many sessions; those that are to be left are given back.
async fn fill(store: &Store, many: usize, left: usize) -> Vec<SessionId> {
    let mut kept = Vec::new();
    for first in (0..many).step_by(256) {
        let opening: Vec<_> = (first..many.min(first + 256))
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move { store.open(new_session(n)).await.unwrap().session.id })
            })
            .collect();
        for (n, session) in opening.into_iter().enumerate() {
            let session = session.await.unwrap();
            if left > 0 && (first + n) % (many / left).max(1) == 0 {
                kept.push(session);
            }
        }
    }
    kept
}

/// Lets those live on that are to be left, and the time pass after which the others may be forgotten.
async fn expire(store: &Store, hand: &Arc<AtomicU64>, kept: &[SessionId]) {
    for chunk in kept.chunks(256) {
        hand.fetch_max(1_800_000_000_000 + (13 * DAY).as_millis() as u64, Ordering::SeqCst);
        let refreshing = chunk.iter().copied().map(|id| {
            let store = store.clone();
            tokio::spawn(async move { refresh(&store, id, 0).await })
        });
        for each in refreshing.collect::<Vec<_>>() {
            each.await.unwrap();
        }
    }
    hand.store(1_800_000_000_000 + (15 * DAY).as_millis() as u64, Ordering::SeqCst);
}

/// Sweeps as the issuer does.
async fn sweep(store: &Store) {
    loop {
        let began = Instant::now();
        if !store.sweep(8).await.unwrap().more {
            return;
        }
        tokio::time::sleep(began.elapsed()).await;
    }
}

/// Starts the program on a store, and says how soon it serves and how much memory it takes.
fn serve(folder: &Path, place: &str) {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/target/release/sidegate");
    if !Path::new(program).exists() {
        return println!("{program} is not there, and not started");
    }
    let port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (port, admin) = (port(), port());
    let config = format!(
        "listeners: [{{ name: public, address: '127.0.0.1:{port}', issuer: true }}]\n\
         admin: {{ address: '127.0.0.1:{admin}' }}\n\
         upstreams: [{{ name: app, urls: ['http://127.0.0.1:9'] }}]\n\
         providers: [{{ name: local, issuer: 'http://localhost:3000', audiences: [api], jwks: issuer }}]\n\
         routes: [{{ name: all, match: {{ path_prefix: / }}, upstream: app }}]\n\
         issuer:\n\
         \x20 url: http://localhost:3000\n\
         \x20 access_token: {{ lifetime: 5m, audience: api }}\n\
         \x20 master_key: ${{KEY}}\n\
         \x20 store: {{ {place} }}\n\
         \x20 clients: [{{ id: app, grants: [refresh_token] }}]\n\
         \x20 users: []\n"
    );
    fs::write(folder.join("config.yaml"), config).unwrap();
    let began = Instant::now();
    let mut process = std::process::Command::new(program)
        .args(["run", "--config", "config.yaml"])
        .env("KEY", "0123456789abcdef0123456789abcdef")
        .current_dir(folder)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("sidegate serves after {:.0} ms", began.elapsed().as_secs_f64() * 1000.0);
    // Its first sweep has been by then.
    std::thread::sleep(Duration::from_secs(35));
    println!("sidegate has {:.1} MiB resident", resident(process.id()));
    process.kill().unwrap();
    process.wait().unwrap();
}

async fn measure_redis(many: usize, left: usize) {
    let folder = tempfile::tempdir_in(std::env::var_os("CARGO_TARGET_TMPDIR").unwrap_or("target".into())).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = std::process::Command::new("redis-server")
        .args(["--port", &port.to_string(), "--save", "", "--appendonly", "yes", "--appendfsync", "always"])
        .current_dir(folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let (_, hand) = Clock::simulated(Timestamp(1_800_000_000_000));
    let config = RedisConfig {
        servers: vec![("127.0.0.1".into(), port)],
        layout: Layout::Alone,
        login: None,
        tls: None,
        prefix: "sidegate:".into(),
        timeout: Duration::from_secs(8),
        wait: None,
        max_staleness: Duration::from_secs(30),
    };
    let store = Store::open_redis(config, Clock::Simulated(hand.clone())).await.unwrap();
    let (began, empty) = (Instant::now(), store.stats().await.unwrap().bytes);
    let kept = fill(&store, many, left).await;
    let bytes = store.stats().await.unwrap().bytes - empty;
    println!(
        "{many} sessions opened in {:.1} s: {:.0} MiB, {:.0} bytes each",
        began.elapsed().as_secs_f64(),
        bytes as f64 / f64::from(1 << 20),
        bytes as f64 / many as f64
    );
    serve(folder.path(), &format!("redis: {{ url: 'redis://127.0.0.1:{port}' }}"));
    meanwhile("nothing but that", &store, tokio::time::sleep(Duration::from_secs(5))).await;
    expire(&store, &hand, &kept).await;
    meanwhile("a sweep", &store, sweep(&store)).await;
    println!("{} sessions left", store.stats().await.unwrap().sessions);
    meanwhile("nothing but that", &store, tokio::time::sleep(Duration::from_secs(5))).await;
    server.kill().unwrap();
    server.wait().unwrap();
}

async fn measure(many: usize, left: usize) {
    let folder = tempfile::tempdir_in(std::env::var_os("CARGO_TARGET_TMPDIR").unwrap_or("target".into())).unwrap();
    let (_, hand) = Clock::simulated(Timestamp(1_800_000_000_000));
    let file = folder.path().join("store.redb");
    let mut store = open(folder.path(), &hand);
    let began = Instant::now();
    let kept = fill(&store, many, left).await;
    println!("{many} sessions opened in {:.1} s: {:.0} MiB", began.elapsed().as_secs_f64(), megabytes(&file));
    drop(store);
    println!("{:.0} bytes each", fs::metadata(&file).unwrap().len() as f64 / many as f64);
    fs::create_dir(folder.path().join("config")).unwrap();
    serve(&folder.path().join("config"), "embedded: { path: .. }");
    let began = Instant::now();
    store = open(folder.path(), &hand);
    println!("opened again in {:.1} ms: {:.0} MiB", began.elapsed().as_secs_f64() * 1000.0, megabytes(&file));

    meanwhile("nothing but that", &store, tokio::time::sleep(Duration::from_secs(5))).await;
    let (backup, before) = (folder.path().join("backup"), resident(std::process::id()));
    meanwhile("a backup", &store, async { store.backup(backup.clone()).await.unwrap() }).await;
    println!(
        "the backup: {:.0} MiB; resident {before:.0} MiB before, {:.0} after",
        megabytes(&backup),
        resident(std::process::id())
    );

    expire(&store, &hand, &kept).await;
    let full = megabytes(&file);
    meanwhile("a sweep", &store, sweep(&store)).await;
    let swept = megabytes(&file);
    let sessions = store.stats().await.unwrap().sessions;
    // It has begun with the end of the sweep; where it is over already it was a short one.
    meanwhile("writing the file anew", &store, async {
        let began = Instant::now();
        while megabytes(&file) > swept / 2.0 && began.elapsed() < Duration::from_secs(60) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    println!(
        "{sessions} sessions left: {full:.0} MiB before, {swept:.0} swept, {:.1} written anew; resident {:.0} MiB",
        megabytes(&file),
        resident(std::process::id())
    );
    meanwhile("nothing but that", &store, tokio::time::sleep(Duration::from_secs(5))).await;
    drop(store);
    let began = Instant::now();
    drop(open(folder.path(), &hand));
    println!("opened again in {:.1} ms", began.elapsed().as_secs_f64() * 1000.0);
}

fn main() {
    let mut numbers = std::env::args().filter_map(|word| word.parse().ok());
    let (many, left) = (numbers.next().unwrap_or(500_000), numbers.next().unwrap_or(0));
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(async {
        if std::env::args().any(|word| word == "redis") {
            measure_redis(many, left).await;
        } else {
            measure(many, left).await;
        }
    });
}
