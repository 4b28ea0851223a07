//! A store that moves into another one, with everything in it.

use sidegate::store::{MoveError, Taken, move_all};

use super::*;

/// A store with something of everything, and what can be seen of it.
async fn filled(rig: &Rig) -> Vec<SessionId> {
    let mut ids = Vec::new();
    for n in 0..300 {
        let new = NewSession {
            client: ClientId::new(format!("app-{}", n % 3)),
            ..session_of(["alice", "bob", "carol"][n % 3])
        };
        ids.push(rig.store.open(new).await.unwrap().session.id);
        rig.pass(Duration::from_millis(1));
    }
    for (n, id) in ids.iter().enumerate() {
        for generation in 0..n as u32 % 4 {
            assert_rotated(&rig.rotate(*id, generation).await, generation + 1);
        }
    }
    rig.store.revoke_session(ids[0], "a test").await.unwrap();
    let until = rig.now() + 300 * SECOND;
    rig.revoke(Revoked::Token("jti".into()), until).await;
    let lifted = rig.revoke(Revoked::Client("app-1".into()), until).await;
    rig.store.lift(lifted.number, "a mistake").await.unwrap();
    rig.revoke(Revoked::Subject("carol".into()), until).await;
    rig.store.keep_code([1; 32], b"kept".as_slice().into(), 300 * SECOND).await.unwrap();
    rig.store.keep_code([2; 32], b"taken".as_slice().into(), 300 * SECOND).await.unwrap();
    rig.store.take_code([2; 32], ids[5], 600 * SECOND).await.unwrap();
    rig.store.mark([3; 32], until).await.unwrap();
    rig.store.longest_access_lifetime(7200 * SECOND).await.unwrap();
    ids
}

async fn seen(rig: &Rig) -> (Vec<Record>, Vec<Revocation>, String, Duration) {
    let all = rig.store.list(Whose::Everybodys, None, 10_000).await.unwrap();
    let longest = rig.store.longest_access_lifetime(SECOND).await.unwrap();
    (all, rig.log().await, rig.store.stats().await.unwrap().log, longest)
}

/// Moves a store, and looks at it there as who starts with it does.
async fn moves(from: Rig, to: Rig) {
    let ids = filled(&from).await;
    let before = seen(&from).await;
    to.hand.store(from.now().0, Ordering::SeqCst);
    let moved = move_all(&from.store, &to.store).await.unwrap();
    assert_eq!((moved.sessions, moved.revocations), (300, before.1.len() as u64));
    let to = to.reopened().await;
    assert_eq!(seen(&to).await, before);
    assert_eq!(to.store.list(Whose::Subject(Subject::new("bob")), None, 1000).await.unwrap().len(), 100);
    assert_eq!(to.store.list(Whose::Client(ClientId::new("app-2")), None, 1000).await.unwrap().len(), 100);

    // Windows, epochs, codes and numbers go on where they were.
    assert_eq!(to.rotate(ids[2], 2).await, Rotation::LoggedOut);
    assert_replayed(&to.rotate(ids[3], 2).await, 3);
    assert_rotated(&to.rotate(ids[3], 3).await, 4);
    to.pass(61 * SECOND);
    assert_reused(&to.rotate(ids[7], 2).await);
    assert!(matches!(to.rotate(ids[0], 0).await, Rotation::Revoked(_)));
    assert_rotated(&to.rotate(ids[4], 0).await, 1);
    assert_eq!(to.store.take_code([1; 32], ids[6], 600 * SECOND).await.unwrap(), Taken::Now(b"kept".as_slice().into()));
    assert_eq!(to.store.take_code([2; 32], ids[6], 600 * SECOND).await.unwrap(), Taken::Before(ids[5]));
    assert!(!to.store.mark([3; 32], to.now() + SECOND).await.unwrap());
    let next = to.revoke(Revoked::Subject("carol".into()), to.now() + 300 * SECOND).await;
    assert_eq!(to.log().await.iter().filter(|entry| entry.what == next.what).count(), 1);
    // The epoch lasts as long as what it ended could have.
    to.pass(89 * DAY);
    to.store.sweep(10_000).await.unwrap();
    assert_eq!(to.store.stats().await.unwrap().epochs, 1);
    to.pass(3 * DAY);
    while to.store.sweep(10_000).await.unwrap().more {}
    let left = to.store.stats().await.unwrap();
    assert_eq!((left.sessions, left.revocations, left.epochs, left.codes), (0, 0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_moves_into_redis() {
    let Some(redis) = Rig::redis().await else { return };
    moves(Rig::embedded(), redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_moves_into_a_file() {
    let Some(redis) = Rig::redis().await else { return };
    moves(redis, Rig::embedded()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_moves_into_a_cluster_and_serves_nobody_any_more() {
    let (Some(redis), Some(cluster)) = (Rig::redis().await, Rig::cluster().await) else { return };
    let other = redis.beside().await;
    let (Place::Redis(servers, config), clock) = (&redis.place, Clock::Simulated(redis.hand.clone())) else { panic!() };
    let (_servers, config) = (servers.clone(), config.clone());
    moves(redis, cluster).await;
    let error = other.open(new_session()).await.unwrap_err().to_string();
    assert!(error.contains("moved"), "{error}");
    let error = Store::open_redis(config, clock).await.unwrap_err().to_string();
    assert!(error.contains("has moved into another one"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_the_other_place_is_not_written_over() {
    let Some(redis) = Rig::redis().await else { return };
    let (full, id) = (Rig::embedded(), redis.session().await);
    full.session().await;
    let error = move_all(&redis.store, &full.store).await.unwrap_err();
    assert!(matches!(error, MoveError::Taken(1, _)), "{error}");
    // It serves as before.
    assert_rotated(&redis.rotate(id, 0).await, 1);
}
