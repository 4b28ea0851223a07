//! How large the file is: as large as what is in it needs, and not as large as it ever was.

use std::time::Instant;

use sidegate::store::{Stats, Swept};

use super::*;
use crate::support::{PATIENCE, wait_for};

/// How many sessions it takes until the file is worth being written anew.
const MANY: usize = 20_000;
/// How large a file may be in which next to nothing is.
const SMALL: u64 = 1 << 20;

fn bytes(rig: &Rig) -> u64 {
    fs::metadata(rig.folder().join("store.redb")).unwrap().len()
}

/// Opens very many sessions, as many at a time as go into one commit.
async fn grown() -> (Rig, Vec<SessionId>) {
    let rig = Rig::embedded();
    let agent: Box<str> = "a".repeat(Visitor::MAX_AGENT).into();
    let ids = at_once(MANY, |n| {
        let (store, agent) = (rig.store.clone(), agent.clone());
        let visitor = Visitor { address: "192.0.2.1".into(), agent };
        let new = NewSession { visitor, ..session_of(&format!("user-{}", n % 100)) };
        async move { store.open(new).await.unwrap().session.id }
    })
    .await;
    assert!(bytes(&rig) > 7 << 20, "{}", bytes(&rig));
    (rig, ids)
}

async fn sweep_all(rig: &Rig) -> usize {
    let mut all = 0;
    loop {
        let swept = rig.store.sweep(256).await.unwrap();
        all += swept.sessions;
        if !swept.more {
            return all;
        }
    }
}

fn wait_until_small(rig: &Rig) -> u64 {
    wait_for("a small file", || Some(bytes(rig)).filter(|bytes| *bytes < SMALL))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_no_larger_than_what_is_left_in_it_needs() {
    let (rig, ids) = grown().await;
    let kept = &ids[..200];
    rig.pass(13 * DAY);
    for id in kept {
        assert_rotated(&rig.rotate(*id, 0).await, 1);
    }
    // With all that in it the file is as large as it has to be.
    let full = bytes(&rig);
    assert_eq!(sweep_all(&rig).await, 0);
    rig.pass(2 * DAY);
    assert_eq!(sweep_all(&rig).await, MANY - kept.len());
    let small = wait_until_small(&rig);
    assert!(small * 6 < full, "{small} of {full}");
    assert_eq!(rig.store.stats().await.unwrap().bytes, bytes(&rig));
    for id in kept {
        assert_rotated(&rig.rotate(*id, 1).await, 2);
    }
    let rig = rig.reopened().await;
    assert!(bytes(&rig) < SMALL);
    assert_eq!(rig.store.stats().await.unwrap().sessions, 200);
    assert_rotated(&rig.rotate(kept[0], 2).await, 3);
    let names: Vec<_> = fs::read_dir(rig.folder()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "the lock and the store: {names:?}");
    let mode = fs::metadata(rig.folder().join("store.redb")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_while_the_file_is_written_anew_is_in_the_new_one() {
    let (rig, ids) = grown().await;
    rig.pass(13 * DAY);
    for id in &ids[..1000] {
        assert_rotated(&rig.rotate(*id, 0).await, 1);
    }
    rig.pass(2 * DAY);
    let rig = Arc::new(rig);
    let (until, done) = (rig.now() + DAY, Arc::new(std::sync::atomic::AtomicBool::new(false)));
    // Four of them, each with sessions of its own, as fast as they can: refreshed, ended, opened; codes, markers, epochs.
    let busy: Vec<_> = (0..4_u8)
        .map(|worker| {
            let (rig, done) = (rig.clone(), done.clone());
            let mine: Vec<_> = ids[..1000].iter().copied().skip(worker.into()).step_by(4).collect();
            tokio::spawn(async move {
                let (mut generations, mut opened, mut log) = (vec![1; mine.len()], Vec::new(), Vec::new());
                for round in 0_u32.. {
                    if done.load(Ordering::SeqCst) {
                        break;
                    }
                    let n = round as usize % mine.len();
                    assert_rotated(&rig.rotate(mine[n], generations[n]).await, generations[n] + 1);
                    generations[n] += 1;
                    if round % 8 == 0 {
                        let new = rig.store.open(session_of(&format!("new-{worker}"))).await.unwrap();
                        opened.push(new.session.id);
                        let ended = rig.store.open(session_of("ended")).await.unwrap().session.id;
                        log.push(rig.store.revoke_session(ended, "a test").await.unwrap().unwrap().number);
                        log.push(rig.revoke(Revoked::Token(format!("{worker}-{round}").into()), until).await.number);
                        rig.revoke(Revoked::Subject(format!("nobody-{worker}").into()), until).await;
                        let mut name = [worker; 32];
                        name[..4].copy_from_slice(&round.to_be_bytes());
                        rig.store.keep_code(name, name.into(), 300 * SECOND).await.unwrap();
                        assert!(rig.store.mark(name, until).await.unwrap());
                    }
                }
                (mine, generations, opened, log)
            })
        })
        .collect();
    // Nothing of what they have is swept.
    assert_eq!(sweep_all(&rig).await, MANY - 1000);
    wait_for("the new file", || (bytes(&rig) < 4 << 20).then_some(()));
    done.store(true, Ordering::SeqCst);
    let mut all = Vec::new();
    for worker in busy {
        all.push(worker.await.unwrap());
    }
    let stats = rig.store.stats().await.unwrap();
    let rig = Arc::into_inner(rig).unwrap().reopened().await;
    let found = rig.store.stats().await.unwrap();
    assert_eq!(Stats { bytes: 0, ..found }, Stats { bytes: 0, ..stats });
    let entries = rig.store.revocations(0, 100_000).await.unwrap();
    // Each has taken the place of the one before it, in whichever file that was.
    assert_eq!(entries.iter().filter(|it| it.what.kind() == "subject").count(), 4);
    let numbers: BTreeSet<_> = entries.iter().map(|it| it.number).collect();
    for (worker, (mine, generations, opened, log)) in all.into_iter().enumerate() {
        assert!(log.iter().all(|number| numbers.contains(number)));
        for (id, generation) in mine.iter().zip(generations) {
            assert_eq!(rig.store.session(*id).await.unwrap().unwrap().generation, generation);
        }
        let subject = Whose::Subject(Subject::new(format!("new-{worker}")));
        let listed: BTreeSet<_> = named(&rig.store.list(subject, None, 100_000).await.unwrap()).into_iter().collect();
        assert_eq!(listed, opened.into_iter().collect());
    }
    // The indices agree with the rows: whatever is there goes when its time has come.
    rig.pass(200 * DAY);
    sweep_all(&rig).await;
    while rig.store.sweep(10_000).await.unwrap() != Swept::default() {}
    let left = rig.store.stats().await.unwrap();
    assert_eq!((left.sessions, left.revocations, left.epochs, left.codes), (0, 0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_comes_before_a_smaller_file() {
    let (rig, ids) = grown().await;
    rig.pass(13 * DAY);
    for id in &ids[..1000] {
        assert_rotated(&rig.rotate(*id, 0).await, 1);
    }
    rig.pass(2 * DAY);
    sweep_all(&rig).await;
    // The file is being written anew; what a backup reads must not be closed for that.
    let file = rig.folder().join("backup");
    assert_eq!(rig.store.backup(file.clone()).await.unwrap().sessions, 1000);
    fs::remove_file(file).unwrap();
    // One of the next sweeps begins again.
    let began = Instant::now();
    while bytes(&rig) >= SMALL {
        assert!(began.elapsed() < PATIENCE, "it stays large: {}", bytes(&rig));
        sweep_all(&rig).await;
    }
    assert_rotated(&rig.rotate(ids[0], 1).await, 2);
}

#[tokio::test]
async fn a_store_that_is_closed_while_its_file_is_written_anew_is_whole() {
    let (rig, ids) = grown().await;
    rig.pass(13 * DAY);
    for id in &ids[..1000] {
        assert_rotated(&rig.rotate(*id, 0).await, 1);
    }
    rig.pass(2 * DAY);
    sweep_all(&rig).await;
    let rig = rig.reopened().await;
    let left = fs::read_dir(rig.folder()).unwrap().count();
    assert_eq!(left, 2, "nothing is left of what was begun");
    for id in &ids[..1000] {
        assert_rotated(&rig.rotate(*id, 1).await, 2);
    }
}
