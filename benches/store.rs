//! What the embedded store feels like while it is copied and while its file is written anew: how long refreshes wait, how long
//! either takes, and how large the file is. `cargo bench --bench store -- [sessions] [left]`, 500,000 and 0 unless said.
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
    store::{DataFolder, NewSession, OnRollback, Presented, Rotation, RotationRules, Store, Visitor},
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
        visitor: Visitor { address: "192.0.2.17".into(), agent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0)".into() },
    }
}

async fn refresh(store: &Store, session: SessionId, generation: u32) -> u32 {
    let rules = RotationRules {
        rotate: true,
        reuse_interval: Duration::ZERO,
        retry_window: None,
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

fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

async fn measure(many: usize, left: usize) {
    let folder = tempfile::tempdir_in(std::env::var_os("CARGO_TARGET_TMPDIR").unwrap_or("target".into())).unwrap();
    let (_, hand) = Clock::simulated(Timestamp(1_800_000_000_000));
    let file = folder.path().join("store.redb");
    let mut store = open(folder.path(), &hand);
    let began = Instant::now();
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
    println!("{many} sessions opened in {:.1} s: {:.0} MiB", began.elapsed().as_secs_f64(), megabytes(&file));
    drop(store);
    let began = Instant::now();
    store = open(folder.path(), &hand);
    println!("opened again in {:.1} ms: {:.0} MiB", began.elapsed().as_secs_f64() * 1000.0, megabytes(&file));

    meanwhile("nothing but that", &store, tokio::time::sleep(Duration::from_secs(5))).await;
    let (backup, before) = (folder.path().join("backup"), resident());
    meanwhile("a backup", &store, async { store.backup(backup.clone()).await.unwrap() }).await;
    println!("the backup: {:.0} MiB; resident {before:.0} MiB before, {:.0} after", megabytes(&backup), resident());

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
    let full = megabytes(&file);
    meanwhile("a sweep", &store, async { while store.sweep(256).await.unwrap().sessions == 256 {} }).await;
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
        resident()
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
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(measure(many, left));
}
