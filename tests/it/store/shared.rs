//! One store in Redis that several processes share, each with a handle of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{Commands as _, Connection};
use sidegate::{
    clock::{Clock, Timestamp},
    store::{
        Layout, Lifted, NewRevocation, Presented, RedisConfig, RedisOpenError, Revocation, Revoked, Rotation, Store,
        Taken, Visitor,
    },
    types::{SessionId, Subject},
};
use tokio::time::timeout;

use super::{SECOND, assert_rotated, new_session, public, redis_at};
use crate::support::{
    PATIENCE,
    redis::{Options, Redis},
};

/// A server, and what is asked of it behind the stores' backs.
struct Shared {
    redis: Redis,
    config: RedisConfig,
}

impl Shared {
    fn start(options: Options<'_>) -> Option<Self> {
        let redis = Redis::start_with(options)?;
        let config = redis_at(&[redis.address()], Layout::Alone);
        Some(Self { redis, config })
    }

    async fn store(&self) -> Store {
        Store::open_redis(self.config.clone(), Clock::System).await.unwrap()
    }

    fn connection(&self) -> Connection {
        redis::Client::open(format!("redis://{}", self.redis.address())).unwrap().get_connection().unwrap()
    }

    /// Runs a script in one step, in which no store can come in between.
    fn at_once(&self, script: &str) {
        let done = self.redis.cli(&["eval", script, "0"]);
        assert!(!done.contains("ERR"), "{done}");
    }
}

fn entry(what: Revoked) -> NewRevocation {
    NewRevocation { issuer: None, what, until: Clock::System.now() + 300 * SECOND, reason: "a test".into() }
}

/// Waits until a store has read the log up to that number.
async fn has_read(store: &Store, number: u64) {
    let mut head = store.tail().head();
    timeout(PATIENCE, head.wait_for(|head| head.number >= number)).await.expect("the log is read on").unwrap();
}

fn after(store: &Store, number: u64) -> Vec<Revocation> {
    let entries = store.tail().after(number, 1000).expect("they are in memory");
    entries.iter().map(|entry| (**entry).clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_process_does_the_others_know() {
    let Some(shared) = Shared::start(Options::default()) else { return };
    let (one, two) = (shared.store().await, shared.store().await);
    assert_eq!(one.tail().position(), two.tail().position());
    let id = one.open(new_session()).await.unwrap().session.id;
    let presented = |generation| Presented { session: id, generation };
    assert_rotated(&two.rotate(presented(0), public(), Visitor::default()).await.unwrap(), 1);
    assert_rotated(&one.rotate(presented(1), public(), Visitor::default()).await.unwrap(), 2);
    let ended = two.revoke_session(id, "a test").await.unwrap().unwrap();
    assert!(matches!(one.rotate(presented(2), public(), Visitor::default()).await.unwrap(), Rotation::Revoked(_)));
    let mut all = vec![ended];
    for n in 0..50 {
        let store = if n % 2 == 0 { &one } else { &two };
        all.push(store.revoke(entry(Revoked::Token(format!("jti-{n}").into()))).await.unwrap());
    }
    let numbers: Vec<_> = all.iter().map(|entry| entry.number).collect();
    assert_eq!(numbers, (1..=51).collect::<Vec<_>>(), "one order for all");
    for store in [&one, &two] {
        has_read(store, 51).await;
        assert_eq!(after(store, 0), all);
    }
    // Who begins later goes on from there.
    let three = shared.store().await;
    assert_eq!(three.tail().position(), one.tail().position());
    assert_eq!(three.revocations(0, 100).await.unwrap(), all);

    one.keep_code([1; 32], b"code".as_slice().into(), 60 * SECOND).await.unwrap();
    assert_eq!(two.take_code([1; 32], id, 600 * SECOND).await.unwrap(), Taken::Now(b"code".as_slice().into()));
    assert!(two.mark([2; 32], Clock::System.now() + 60 * SECOND).await.unwrap());
    assert!(!one.mark([2; 32], Clock::System.now() + 60 * SECOND).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_at_another_process_right_after_a_logout_is_not_logged_out() {
    let Some(shared) = Shared::start(Options::default()) else { return };
    let (one, two) = (shared.store().await, shared.store().await);
    for _ in 0..50 {
        let before = two.open(new_session()).await.unwrap().session;
        one.revoke(entry(Revoked::Subject("alice".into()))).await.unwrap();
        // At once, and so before it has read of that.
        let after = two.open(new_session()).await.unwrap().session;
        let rotate = async |id| {
            let presented = Presented { session: id, generation: 0 };
            two.rotate(presented, public(), Visitor::default()).await.unwrap()
        };
        assert_eq!(rotate(before.id).await, Rotation::LoggedOut);
        assert_rotated(&rotate(after.id).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_race_for_one_session_agree() {
    let Some(shared) = Shared::start(Options::default()) else { return };
    let stores = [shared.store().await, shared.store().await];
    let id = stores[0].open(new_session()).await.unwrap().session.id;
    for generation in 0..200 {
        let racers: Vec<_> = (0..16)
            .map(|n| {
                let store = stores[n % 2].clone();
                tokio::spawn(async move {
                    let presented = Presented { session: id, generation };
                    store.rotate(presented, public(), Visitor::default()).await.unwrap()
                })
            })
            .collect();
        let mut rotated = 0;
        for racer in racers {
            match racer.await.unwrap() {
                Rotation::Rotated(session) | Rotation::Replayed(session) if session.generation != generation + 1 => {
                    panic!("a fork: {session:?}")
                }
                Rotation::Rotated(_) => rotated += 1,
                Rotation::Replayed(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(rotated, 1, "generation {generation}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_that_race_leave_no_more_than_the_limit_and_no_fewer() {
    let Some(shared) = Shared::start(Options::default()) else { return };
    let stores = [shared.store().await, shared.store().await];
    for most in [1, 3] {
        let subject = Subject::new(format!("subject-{most}"));
        let racers: Vec<_> = (0..16)
            .map(|n| {
                let (store, mut new) = (stores[n % 2].clone(), super::session_of(subject.as_str()));
                new.max_sessions = Some(most);
                tokio::spawn(async move { store.open(new).await.unwrap().session.id })
            })
            .collect();
        let mut ids = Vec::new();
        for racer in racers {
            ids.push(racer.await.unwrap());
        }
        let mut live = 0;
        for id in ids {
            let record = stores[0].record(id).await.unwrap().unwrap();
            live += u32::from(record.state(Clock::System.now()) == "live");
        }
        assert_eq!(live, most);
    }
}

/// Takes entries off the end of the log, as a failover does that loses them: `put` runs in the same step.
fn forget_the_end(shared: &Shared, from: u64, to: u64, put: &str) {
    shared.at_once(&format!(
        "local p = 'sidegate:{{log}}:' \
         local uid = '' \
         for _, e in ipairs(redis.call('XRANGE', p..'entries', '{before}-0', '{before}-0')) do uid = e[2][4] end \
         for n = {from}, {to} do \
           for _, e in ipairs(redis.call('XRANGE', p..'entries', n..'-0', n..'-0')) do \
             redis.call('DEL', p..'done:'..e[2][4]) redis.call('HDEL', p..'latest', e[2][6]) \
           end \
           redis.call('XDEL', p..'entries', n..'-0') redis.call('ZREM', p..'expiry', n) \
         end \
         redis.call('DEL', p..'epochs', p..'epoch_expiry') \
         redis.call('XSETID', p..'entries', '{before}-0') \
         redis.call('HSET', p..'meta', 'last', {before}, 'uid', uid) {put}",
        before = from - 1,
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_log_that_redis_forgot_is_put_back() {
    let Some(shared) = Shared::start(Options::default()) else { return };
    let (one, two) = (shared.store().await, shared.store().await);
    let session = one.open(new_session()).await.unwrap().session.id;
    let mut all = Vec::new();
    for n in 0..5 {
        all.push(one.revoke(entry(Revoked::Token(format!("jti-{n}").into()))).await.unwrap());
    }
    // One that is taken back is not put back, and the taking back is not either: to be refused is the safe side. What was said
    // again after that stands.
    let token = |name: &str| entry(Revoked::Token(name.into()));
    two.revoke(token("lifted")).await.unwrap();
    let Lifted::Done(_) = two.lift(6, "a mistake").await.unwrap() else { panic!() };
    two.revoke(token("again")).await.unwrap();
    let Lifted::Done(_) = two.lift(8, "a mistake").await.unwrap() else { panic!() };
    all.push(two.revoke(token("again")).await.unwrap());
    all.push(one.revoke(entry(Revoked::Subject("alice".into()))).await.unwrap());
    let began = one.open(new_session()).await.unwrap().session;
    assert_eq!(began.began.number, 11);
    for store in [&one, &two] {
        has_read(store, 11).await;
    }
    forget_the_end(&shared, 3, 11, "");
    let back = async || {
        let log = one.revocations(0, 100).await.unwrap();
        (log == all).then_some(())
    };
    let waited = timeout(PATIENCE, async {
        while back().await.is_none() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "{:#?}\n{all:#?}", one.revocations(0, 100).await.unwrap());
    // Who begins now has all of it, and numbers go on behind it.
    let three = shared.store().await;
    assert_eq!(three.revocations(0, 100).await.unwrap(), all);
    let next = three.revoke(entry(Revoked::Token("next".into()))).await.unwrap();
    assert_eq!(next.number, 12);
    let rotate = async |id| {
        let presented = Presented { session: id, generation: 0 };
        three.rotate(presented, public(), Visitor::default()).await.unwrap()
    };
    // The logout is heeded again, and ends nobody who logged in after it.
    assert_eq!(rotate(session).await, Rotation::LoggedOut);
    assert_rotated(&rotate(began.id).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_under_a_number_that_was_lost_is_heard_by_those_who_are_past_it() {
    let Some(shared) = Shared::start(Options::default()) else { return };
    let one = shared.store().await;
    for n in 0..5 {
        one.revoke(entry(Revoked::Token(format!("jti-{n}").into()))).await.unwrap();
    }
    // Somebody who has just begun, and so knows of nothing that was lost, adds one: it is made of one that is there.
    let put = "local e = redis.call('XRANGE', p..'entries', '1-0', '1-0')[1][2] \
               redis.call('XADD', p..'entries', '4-0', 'until', e[2], 'uid', 'stranger', 'name', 'x', 'entry', e[8]) \
               redis.call('ZADD', p..'expiry', e[2], 4) redis.call('HSET', p..'meta', 'last', 4, 'uid', 'stranger')";
    forget_the_end(&shared, 4, 5, put);
    // Two are put back, and the stranger's comes again behind them.
    has_read(&one, 7).await;
    let log = one.revocations(0, 100).await.unwrap();
    let mut names: Vec<_> = log.iter().map(|entry| entry.what.id().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["jti-0", "jti-0", "jti-1", "jti-2", "jti-3", "jti-4"], "{log:#?}");
    assert!(after(&one, 5).iter().any(|entry| entry.what == Revoked::Token("jti-0".into())), "{log:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_only_the_log_has_as_ended_is_ended_by_whoever_reads_it() {
    let Some(shared) = Shared::start(Options::default()) else { return };
    let one = shared.store().await;
    let id = one.open(new_session()).await.unwrap().session.id;
    let mut connection = shared.connection();
    let key = [format!("sidegate:{{{:02}}}:s:", id.0[15] % 64).as_bytes(), &id.0].concat();
    let row: Vec<u8> = connection.get(&key).unwrap();
    one.revoke_session(id, "a test").await.unwrap();
    // As if it had been killed before the row was written.
    drop(one);
    connection.set::<_, _, ()>(&key, &row).unwrap();
    let two = shared.store().await;
    let presented = Presented { session: id, generation: 0 };
    assert!(matches!(two.rotate(presented, public(), Visitor::default()).await.unwrap(), Rotation::Revoked(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_forgot_in_a_failover_that_its_session_had_ended_is_told_again() {
    let Some(shared) = Shared::start(Options::default()) else { return };
    let (one, two) = (shared.store().await, shared.store().await);
    let id = one.open(new_session()).await.unwrap().session.id;
    let mut connection = shared.connection();
    let key = [format!("sidegate:{{{:02}}}:s:", id.0[15] % 64).as_bytes(), &id.0].concat();
    let row: Vec<u8> = connection.get(&key).unwrap();
    let ended = one.revoke_session(id, "a test").await.unwrap().unwrap();
    has_read(&two, ended.number).await;
    drop(one);
    // The log's server has it, and that of the row has not: everybody has to connect anew.
    connection.set::<_, _, ()>(&key, &row).unwrap();
    shared.redis.cli(&["client", "kill", "type", "normal"]);
    let state = async || two.record(id).await.unwrap().unwrap().state(Clock::System.now());
    let told = timeout(PATIENCE, async { while state().await != "revoked" {} });
    told.await.expect("it is told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_has_lost_its_data_says_so_and_calls_nobody_unknown() {
    let Some(mut shared) = Shared::start(Options::default()) else { return };
    let one = shared.store().await;
    let id = one.open(new_session()).await.unwrap().session.id;
    let presented = Presented { session: id, generation: 0 };
    // A part of a cluster alone.
    let part = id.0[15] % 64;
    let own = format!("sidegate:{{{part:02}}}:*");
    shared.at_once(&format!("for _, k in ipairs(redis.call('KEYS', '{own}')) do redis.call('DEL', k) end"));
    let error = one.rotate(presented, public(), Visitor::default()).await.unwrap_err().to_string();
    assert_eq!(error, "the session store is not available: a part of it has lost its data");
    // All of it.
    shared.redis.restart();
    let error = one.rotate(presented, public(), Visitor::default()).await.unwrap_err().to_string();
    assert!(error.contains("lost its data") || error.contains("its data has gone"), "{error}");
    let lost = timeout(PATIENCE, async {
        while !one.open(new_session()).await.is_err_and(|error| error.to_string().contains("restart Sidegate")) {
            tokio::task::yield_now().await;
        }
    });
    lost.await.expect("it is noticed");
    // Who begins anew begins another log, and the one that is bound to the first stays out of it.
    let two = shared.store().await;
    assert!(two.tail().position().life > one.tail().position().life);
    assert_eq!(two.rotate(presented, public(), Visitor::default()).await.unwrap(), Rotation::Unknown);
    assert!(one.revoke(entry(Revoked::Everything)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_said_within_the_deadline_and_passes() {
    let options = Options { appendfsync: Some("always"), ..Options::default() };
    let Some(mut shared) = Shared::start(options) else { return };
    shared.config.timeout = Duration::from_millis(500);
    let one = shared.store().await;
    let id = one.open(new_session()).await.unwrap().session.id;
    let rotate = async |generation| {
        let presented = Presented { session: id, generation };
        timeout(2 * SECOND, one.rotate(presented, public(), Visitor::default())).await.expect("within the deadline")
    };
    // A server that hangs may do what it was asked when it goes on; the client asks again, and gets the same.
    shared.redis.stop_answering();
    assert!(rotate(0).await.is_err());
    shared.redis.go_on();
    let again = rotate(0).await.unwrap();
    assert!(matches!(&again, Rotation::Rotated(s) | Rotation::Replayed(s) if s.generation == 1), "{again:?}");
    shared.redis.kill();
    assert!(rotate(1).await.is_err());
    shared.redis.restart();
    assert_rotated(&rotate(1).await.unwrap(), 2);
    // Scripts that somebody has flushed are loaded again.
    assert_eq!(shared.redis.cli(&["script", "flush"]), "OK");
    assert_rotated(&rotate(2).await.unwrap(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_cost_nothing_and_nothing_is_done_twice() {
    let Some(mut shared) = Shared::start(Options::default()) else { return };
    // Whoever is cut asks again, as long as the deadline allows for it.
    shared.config.timeout = 10 * SECOND;
    let store = shared.store().await;
    let id = store.open(new_session()).await.unwrap().session.id;
    let (address, done) = (shared.redis.address(), Arc::new(AtomicBool::new(false)));
    let cutting = std::thread::spawn({
        let done = done.clone();
        move || {
            let client = redis::Client::open(format!("redis://{address}")).unwrap();
            let mut cuts = 0;
            while !done.load(Ordering::SeqCst) {
                // It cuts its own as well.
                let cut = client.get_connection().and_then(|mut connection| {
                    redis::cmd("CLIENT")
                        .arg("KILL")
                        .arg("TYPE")
                        .arg("normal")
                        .arg("SKIPME")
                        .arg("yes")
                        .query(&mut connection)
                });
                cuts += cut.unwrap_or(0);
                std::thread::sleep(Duration::from_millis(20));
            }
            cuts
        }
    });
    let mut revoked = Vec::new();
    for generation in 0..200 {
        let rotated = store.rotate(Presented { session: id, generation }, public(), Visitor::default()).await.unwrap();
        assert_rotated(&rotated, generation + 1);
        let token = Revoked::Token(format!("jti-{generation}").into());
        revoked.push(store.revoke(entry(token)).await.unwrap().what);
    }
    done.store(true, Ordering::SeqCst);
    let cuts: usize = cutting.join().unwrap();
    assert!(cuts > 20, "{cuts}");
    let log = store.revocations(0, 1000).await.unwrap();
    let in_log: Vec<_> = log.into_iter().map(|entry| entry.what).collect();
    assert!(in_log == revoked, "not each once, in its order: {} of {}", in_log.len(), revoked.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_stands_in_nobodys_way() {
    let options = Options { appendfsync: Some("always"), ..Options::default() };
    let Some(mut shared) = Shared::start(options) else { return };
    // It takes connections, and never says a word.
    let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hung = hung.local_addr().map(|at| (at, hung)).unwrap();
    shared.config.servers.insert(0, ("127.0.0.1".into(), hung.0.port()));
    shared.config.timeout = Duration::from_millis(500);
    let store = shared.store().await;
    let id = store.open(new_session()).await.unwrap().session.id;
    for _ in 0..3 {
        shared.redis.kill();
        shared.redis.restart();
        let callers: Vec<_> = (0..32)
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(n * 20)).await;
                    store.session(id).await
                })
            })
            .collect();
        let mut answered = 0;
        for caller in callers {
            answered += usize::from(caller.await.unwrap().is_ok());
        }
        assert!(answered > 0, "nobody got through");
        assert!(store.session(id).await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_replicas_are_an_outage_and_no_loss() {
    let Some(mut shared) = Shared::start(Options::default()) else { return };
    let plain = shared.store().await;
    let id = plain.open(new_session()).await.unwrap().session.id;
    shared.config.wait = Some(sidegate::store::Wait { replicas: 1, timeout: Duration::from_millis(50) });
    let error = Store::open_redis(shared.config.clone(), Clock::System).await.err().map(|error| error.to_string());
    assert_eq!(error, None, "what is there already needs nobody");
    let strict = shared.store().await;
    let presented = Presented { session: id, generation: 0 };
    let error = strict.rotate(presented, public(), Visitor::default()).await.unwrap_err().to_string();
    assert_eq!(error, "the session store is not available: 0 replicas of Redis have it in time, of 1 that are wanted");
    let again = plain.rotate(presented, public(), Visitor::default()).await.unwrap();
    assert!(matches!(&again, Rotation::Replayed(session) if session.generation == 1), "{again:?}");
    // A login that was not answered counts for nothing, though the server has it for a moment.
    for _ in 0..3 {
        assert!(strict.open(new_session()).await.is_err());
    }
    let one = timeout(PATIENCE, async { while plain.stats().await.unwrap().sessions > 1 {} });
    one.await.expect("they are gone");
    // To end what has ended is no way round: whoever hears that it is done may rely on it.
    plain.revoke_session(id, "a test").await.unwrap();
    assert!(strict.revoke_session(id, "a test").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_another_format_is_refused_and_left_alone() {
    let Some(shared) = Shared::start(Options::default()) else { return };
    drop(shared.store().await);
    assert_eq!(shared.redis.cli(&["hset", "sidegate:{log}:meta", "format", "7"]), "0");
    let error = Store::open_redis(shared.config.clone(), Clock::System).await.unwrap_err();
    assert!(matches!(error, RedisOpenError::OtherFormat { found: 7, .. }), "{error}");
    // A prefix of its own is a store of its own.
    let other = RedisConfig { prefix: "other:".into(), ..shared.config.clone() };
    let store = Store::open_redis(other, Clock::System).await.unwrap();
    assert_eq!(store.stats().await.unwrap().sessions, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_clock_decides() {
    let Some(shared) = Shared::start(Options { clock: true, ..Options::default() }) else { return };
    shared.redis.set_clock(3600);
    let store = shared.store().await;
    let ((seconds, _),): ((u64, u64),) = redis::pipe().cmd("TIME").query(&mut shared.connection()).unwrap();
    let opened = store.record(store.open(new_session()).await.unwrap().session.id).await.unwrap().unwrap().opened;
    let since = opened.since(Timestamp::from_secs(seconds)).unwrap();
    assert!(since < 5 * SECOND, "{since:?}");
    let nobody = SessionId::generate(&Subject::new("nobody"));
    assert_eq!(store.record(nobody).await.unwrap(), None);
    let _kept = Arc::new(store);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_never_came_into_the_log_is_entered_by_whoever_asks_next() {
    let Some(shared) = Shared::start(Options { clock: true, ..Options::default() }) else { return };
    let store = shared.store().await;
    let id = store.open(new_session()).await.unwrap().session.id;
    // Whoever ends it comes as far as its row, and no further.
    shared.redis.cli(&["acl", "setuser", "default", "resetkeys", "%R~*", "~sidegate:{[0-9]*"]);
    let error = store.revoke_session(id, "a test").await.unwrap_err().to_string();
    assert!(error.contains("permission"), "{error}");
    drop(store);
    shared.redis.cli(&["acl", "setuser", "default", "resetkeys", "~*"]);

    let store = shared.store().await;
    let present = async || {
        let presented = Presented { session: id, generation: 0 };
        match store.rotate(presented, public(), Visitor::default()).await.unwrap() {
            Rotation::Revoked(revocation) => revocation,
            other => panic!("{other:?}"),
        }
    };
    // It may still be under way.
    assert_eq!(present().await.number, 0);
    assert_eq!(store.revocations(0, 10).await.unwrap(), []);
    shared.redis.set_clock(11);
    let entered = timeout(PATIENCE, async {
        loop {
            let revocation = present().await;
            if revocation.number > 0 {
                return revocation;
            }
        }
    });
    let entered = entered.await.expect("it is entered when it has been long enough");
    assert_eq!(store.revocations(0, 10).await.unwrap(), std::slice::from_ref(&entered));
    assert_eq!(present().await, Revocation { reason: "".into(), ..entered });
}
