//! Copies of a store: made while it serves, and put in its place again.

use sidegate::store::{BackupError, Copied, RestoreError, Swept, Taken, restore};

use super::*;

/// Puts a backup into a folder of its own, and opens it.
fn restored(backup: &Path, hand: &Arc<AtomicU64>) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    restore(&DataFolder::lock(folder.path()).unwrap(), backup).unwrap();
    let store = open(folder.path(), Clock::Simulated(hand.clone()));
    Rig { place: Place::Folder(folder), hand: hand.clone(), store }
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_backup_is_a_store_with_all_that_was_acknowledged_before_it() {
    let rig = Rig::embedded();
    let (live, refreshed, dead) = (rig.session().await, rig.session().await, rig.session().await);
    assert_rotated(&rig.rotate(refreshed, 0).await, 1);
    let until = rig.now() + 300 * SECOND;
    rig.store.revoke_session(dead, "a test").await.unwrap();
    rig.revoke(Revoked::Subject("bob".into()), until).await;
    rig.revoke(Revoked::Token("jti".into()), until).await;
    rig.store.keep_code([7; 32], b"kept".as_slice().into(), 300 * SECOND).await.unwrap();
    assert!(rig.store.mark([8; 32], until).await.unwrap());
    rig.store.longest_access_lifetime(3600 * SECOND).await.unwrap();
    let (stats, log) = (rig.store.stats().await.unwrap(), rig.log().await);

    let outer = tempfile::tempdir().unwrap();
    let file = outer.path().join("one.backup");
    let Copied { sessions, bytes } = rig.store.backup(file.clone()).await.unwrap();
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!((sessions, bytes, metadata.permissions().mode() & 0o777), (3, metadata.len(), 0o600));
    assert_eq!(names(outer.path()), ["one.backup"], "nothing is left of its making");

    // What comes later is not in it.
    rig.session().await;
    assert_rotated(&rig.rotate(live, 0).await, 1);
    rig.revoke(Revoked::Token("later".into()), until).await;

    let copy = restored(&file, &rig.hand);
    assert_eq!(copy.log().await, log);
    let found = copy.store.stats().await.unwrap();
    assert_eq!(
        (found.sessions, found.revocations, found.epochs, found.codes),
        (stats.sessions, stats.revocations, stats.epochs, stats.codes)
    );
    assert_eq!(named(&copy.store.list(Whose::Everybodys, None, 9).await.unwrap()).len(), 3);
    for whose in [Whose::Subject(Subject::new("alice")), Whose::Client(ClientId::new("app"))] {
        assert_eq!(named(&copy.store.list(whose, None, 9).await.unwrap()).len(), 3);
    }
    assert_rotated(&copy.rotate(live, 0).await, 1);
    assert_rotated(&copy.rotate(refreshed, 1).await, 2);
    assert!(matches!(copy.rotate(dead, 0).await, Rotation::Revoked(_)));
    assert_eq!(copy.store.take_code([7; 32], live, 600 * SECOND).await.unwrap(), Taken::Now(b"kept".as_slice().into()));
    assert!(!copy.store.mark([8; 32], until).await.unwrap());
    assert_eq!(copy.store.longest_access_lifetime(SECOND).await.unwrap(), 3600 * SECOND);
    copy.pass(15 * DAY);
    assert_eq!(copy.store.sweep(100).await.unwrap(), Swept { sessions: 3, revocations: 3, more: false });
    let left = copy.store.stats().await.unwrap();
    assert_eq!((left.sessions, left.revocations, left.codes), (0, 0, 0), "its indices name all of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_sees_one_moment_of_a_store_that_serves() {
    let rig = Rig::embedded();
    let ids: Vec<_> = at_once(512, |_| {
        let store = rig.store.clone();
        async move { store.open(new_session()).await.unwrap().session.id }
    })
    .await;
    let (store, until) = (rig.store.clone(), rig.now() + 300 * SECOND);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let acknowledged = Arc::new(AtomicU64::new(0));
    let (told, refreshed) = (acknowledged.clone(), ids.clone());
    let busy = tokio::spawn(async move {
        // Each round is a refresh and then an entry: a moment has as many of the one as of the other, or one more.
        for (n, id) in refreshed.into_iter().enumerate() {
            let presented = Presented { session: id, generation: 0 };
            assert_rotated(&store.rotate(presented, public(), Visitor::default()).await.unwrap(), 1);
            let what = Revoked::Token(format!("jti-{n}").into());
            let new = NewRevocation { issuer: None, what, until, reason: "a test".into() };
            told.store(store.revoke(new).await.unwrap().number, Ordering::SeqCst);
            if *stopped.borrow() {
                return;
            }
        }
    });
    let outer = tempfile::tempdir().unwrap();
    let mut backups = Vec::new();
    for n in 0..5 {
        let before = acknowledged.load(Ordering::SeqCst);
        let file = outer.path().join(format!("{n}"));
        rig.store.backup(file.clone()).await.unwrap();
        backups.push((file, before));
    }
    stop.send_replace(true);
    busy.await.unwrap();
    for (file, before) in backups {
        let copy = restored(&file, &rig.hand);
        let log = copy.log().await;
        let numbers: Vec<_> = log.iter().map(|entry| entry.number).collect();
        assert_eq!(numbers, (1..=log.len() as u64).collect::<Vec<_>>());
        assert!(log.len() as u64 >= before, "what was acknowledged before it is in it");
        let mut refreshes = 0;
        for id in &ids {
            refreshes += u64::from(copy.store.session(*id).await.unwrap().unwrap().generation);
        }
        assert!([log.len() as u64, log.len() as u64 + 1].contains(&refreshes), "{refreshes} and {}", log.len());
    }
}

#[tokio::test]
async fn a_backup_takes_no_other_files_place() {
    let rig = Rig::embedded();
    let outer = tempfile::tempdir().unwrap();
    let (taken, begun) = (outer.path().join("taken"), outer.path().join("begun"));
    fs::write(&taken, "mine").unwrap();
    fs::write(outer.path().join("begun.new"), "mine").unwrap();
    std::os::unix::fs::symlink(outer.path().join("nothing"), outer.path().join("link")).unwrap();
    for (file, named) in [(&taken, "taken"), (&begun, "begun.new"), (&outer.path().join("link"), "link")] {
        let error = rig.store.backup(file.clone()).await.unwrap_err();
        assert!(matches!(&error, BackupError::Exists(path) if *path == outer.path().join(named)), "{error}");
    }
    let error = rig.store.backup(outer.path().join("gone/x")).await.unwrap_err();
    assert!(error.to_string().contains("gone/x cannot be written: "), "{error}");
    assert_eq!(names(outer.path()), ["begun.new", "link", "taken"]);
    assert_eq!(fs::read_to_string(taken).unwrap(), "mine");
    rig.session().await;
}

#[tokio::test]
async fn the_log_of_a_restored_store_goes_on_beyond_what_was_lost() {
    let rig = Rig::embedded();
    rig.revoke(Revoked::Token("known".into()), rig.now() + DAY).await;
    let old = rig.session().await;
    let outer = tempfile::tempdir().unwrap();
    let file = outer.path().join("backup");
    rig.store.backup(file.clone()).await.unwrap();
    let lost = rig.store.tail().position();

    // Much happens that the backup does not know of, and the last session begins after all of it.
    for n in 0..50 {
        rig.revoke(Revoked::Token(format!("lost-{n}").into()), rig.now() + DAY).await;
    }
    let began = rig.store.open(new_session()).await.unwrap().session.began;

    rig.pass(3600 * SECOND);
    let copy = restored(&file, &rig.hand);
    let first = copy.store.tail().position();
    assert_eq!(first.life, lost.life, "epochs of another life would come before, or after, all that began in this one");
    assert!(first.number >= lost.number + (1 << 32), "{first}");
    let (begun, whole) =
        (copy.store.tail().after(lost.number, 10), copy.store.revocations(lost.number, 10).await.unwrap());
    assert_eq!((begun, whole), (None, vec![]), "who followed up to there reads on in the store");
    let epoch = copy.revoke(Revoked::Subject("alice".into()), copy.now() + DAY).await;
    assert_eq!(epoch.number, first.number + 1);
    assert!(began < copy.store.tail().position(), "it reaches what had begun in the time that is lost");
    assert_eq!(copy.rotate(old, 0).await, Rotation::LoggedOut);
    let fresh = copy.session().await;
    assert_rotated(&copy.rotate(fresh, 0).await, 1);

    // It is a backup once.
    let copy = copy.reopened().await;
    assert_eq!(copy.store.tail().position().number, epoch.number);
    assert_rotated(&copy.rotate(fresh, 1).await, 2);

    // The same backup once more: what the first has given out is lost with it.
    copy.pass(SECOND);
    let again = restored(&file, &rig.hand);
    let second = again.store.tail().position().number;
    assert!(second > copy.store.tail().position().number + 1000, "{second}");
    // A clock that was set back takes nothing from the jump.
    rig.hand.store(START - 1000, Ordering::SeqCst);
    assert_eq!(restored(&file, &rig.hand).store.tail().position().number, lost.number + (1 << 32));
}

#[tokio::test]
async fn a_file_that_is_put_in_the_stores_place_by_hand_is_a_backup_too() {
    let rig = Rig::embedded();
    let id = rig.session().await;
    let outer = tempfile::tempdir().unwrap();
    let file = outer.path().join("backup");
    rig.store.backup(file.clone()).await.unwrap();
    let Rig { place: Place::Folder(folder), hand, store } = rig else { panic!() };
    drop(store);
    fs::rename(&file, folder.path().join("store.redb")).unwrap();
    let store = open(folder.path(), Clock::Simulated(hand.clone()));
    let rig = Rig { place: Place::Folder(folder), hand, store };
    assert_eq!(rig.store.tail().position().number, 1 << 32);
    assert_rotated(&rig.rotate(id, 0).await, 1);
}

#[tokio::test]
async fn a_plain_copy_of_a_store_is_restored_as_a_backup() {
    let rig = Rig::embedded();
    let id = rig.session().await;
    let Rig { place: Place::Folder(folder), hand, store } = rig else { panic!() };
    drop(store);
    // It was written at the date of this machine; that is before the clock of this test.
    let copy = restored(&folder.path().join("store.redb"), &hand);
    assert!(copy.store.tail().position().number >= 1 << 32);
    assert_rotated(&copy.rotate(id, 0).await, 1);
}

#[tokio::test]
async fn only_a_whole_store_is_restored_and_only_where_there_is_none() {
    let rig = Rig::embedded();
    for _ in 0..200 {
        rig.session().await;
    }
    let outer = tempfile::tempdir().unwrap();
    let at = |name: &str| outer.path().join(name);
    rig.store.backup(at("good")).await.unwrap();
    let good = fs::read(at("good")).unwrap();
    let Rig { place: Place::Folder(taken), store, .. } = rig else { panic!() };
    drop(store);

    let error = restore(&DataFolder::lock(taken.path()).unwrap(), &at("good")).unwrap_err();
    assert!(matches!(error, RestoreError::Exists { .. }), "{error}");
    let file = taken.path().join("store.redb");
    assert!(error.to_string().ends_with(&format!("mv {0} {0}.before", file.display())), "{error}");

    fs::write(at("foreign"), "SQLite format 3\0").unwrap();
    drop(redb::Database::create(at("empty")).unwrap());
    fs::copy(at("good"), at("newer")).unwrap();
    let database = redb::Database::open(at("newer")).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, u64>::new("sidegate");
    transaction.open_table(meta).unwrap().insert("format", 7).unwrap();
    transaction.commit().unwrap();
    drop(database);
    // A flipped bit in a row, which no reader of it would notice.
    let mut damaged = good.clone();
    let subject = damaged.windows(5).rposition(|window| window == b"alice").unwrap();
    damaged[subject] ^= 1;
    fs::write(at("damaged"), &damaged).unwrap();
    fs::write(at("cut"), &good[..good.len() / 2]).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let lock = DataFolder::lock(folder.path()).unwrap();
    for (name, says) in [
        ("foreign", "is not a backup of a session store of sidegate"),
        ("empty", "is not a backup of a session store of sidegate"),
        ("newer", "has format 7"),
        ("damaged", "is damaged; take another one"),
        ("cut", "cut"),
        ("missing", "No such file"),
    ] {
        let error = restore(&lock, &at(name)).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains(at(name).to_str().unwrap()), "{name}: {error}");
        assert_eq!(names(folder.path()), ["lock"], "{name}");
    }
    assert_eq!(fs::read(at("damaged")).unwrap(), damaged);

    let copied = restore(&lock, &at("good")).unwrap();
    assert_eq!(copied.sessions, 200);
    assert_eq!(fs::metadata(folder.path().join("store.redb")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!((names(folder.path()), fs::read(at("good")).unwrap()), (vec!["lock".into(), "store.redb".into()], good));
}
