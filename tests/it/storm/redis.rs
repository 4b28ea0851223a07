//! The same with sessions in Redis, which two Sidegates share, and what happens to Redis in the midst of it.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{Client, Door, STRICT, config, race, rounds, storm};
use crate::support::{
    Sidegate, Upstream,
    redis::{Cluster, Options, Redis, SentinelTrio},
    tokens::now,
    wait_for,
};

/// A configuration whose sessions are in a Redis, which `redis` says more of.
fn shared(upstream: &Upstream, refresh_token: &str, redis: &str) -> String {
    let store = format!("  store: {{ redis: {{ {redis} }} }}\n  master_key: 0123456789abcdef0123456789abcdef\n");
    config(upstream, refresh_token).replace("  refresh_token:", &format!("{store}  refresh_token:"))
}

/// Waits until a gate answers, and has heard of everything that was revoked by now.
fn answers(gate: &Sidegate) {
    let now = Instant::now();
    wait_for("Redis to be used again", || Door(gate.address()).log_in(Client::Public).ok());
    // It is that old at most, and what happened before is in it.
    let age = || Duration::from_secs_f64(gate.metric("sidegate_feed_age_seconds").min(1e6));
    wait_for("the log to be read on", || (age() < now.elapsed()).then_some(()));
}

#[test]
fn two_gates_give_callers_that_race_one_successor() {
    let Some(redis) = Redis::start() else { return };
    let upstream = Upstream::start();
    let yaml = shared(&upstream, "", &format!("url: 'redis://{}'", redis.address()));
    race(&[Sidegate::start(&yaml), Sidegate::start(&yaml)]);
}

#[test]
fn nothing_is_lost_when_one_of_two_gates_is_killed() {
    let Some(redis) = Redis::start() else { return };
    let upstream = Upstream::start();
    let yaml = shared(&upstream, STRICT, &format!("url: 'redis://{}'", redis.address()));
    let mut gates = [Some(Sidegate::start(&yaml)), Some(Sidegate::start(&yaml))];
    let next = Mutex::new(0..);
    let door = |gates: &[Option<Sidegate>; 2], n: usize| Door(gates[n % 2].as_ref().unwrap().address());
    let strike = |gates: &mut [Option<Sidegate>; 2]| {
        // In turn.
        let which = next.lock().unwrap().next().unwrap() % 2;
        let folder = gates[which].take().unwrap().kill();
        gates[which] = Some(Sidegate::start_in(folder, &yaml));
    };
    let counts = storm(&mut gates, rounds(10), door, strike, |gates| gates.iter().flatten().for_each(answers));
    assert!(counts.unanswered > rounds(10));
}

/// Two gates, and the Redis that they share.
struct World<R> {
    gates: [Sidegate; 2],
    redis: R,
}

impl<R> World<R> {
    fn new(yaml: &str, redis: R) -> Self {
        Self { gates: [Sidegate::start(yaml), Sidegate::start(yaml)], redis }
    }

    fn door(&self, n: usize) -> Door {
        Door(self.gates[n % 2].address())
    }

    fn settle(&self) {
        self.gates.iter().for_each(answers);
    }
}

#[test]
fn nothing_is_lost_when_redis_is_killed_that_appends_before_it_answers() {
    let Some(redis) = Redis::start_with(Options { appendfsync: Some("always"), ..Options::default() }) else { return };
    let upstream = Upstream::start();
    let yaml = shared(&upstream, STRICT, &format!("url: 'redis://{}'", redis.address()));
    let mut world = World::new(&yaml, redis);
    let strike = |world: &mut World<Redis>| {
        world.redis.kill();
        world.redis.restart();
    };
    storm(&mut world, rounds(4), World::door, strike, World::settle);
}

#[test]
fn nothing_is_lost_when_the_disk_of_redis_is_full() {
    let appendfsync = Some("everysec");
    let Some(redis) = Redis::start_with(Options { appendfsync, ..Options::default() }) else { return };
    let upstream = Upstream::start();
    let yaml = shared(&upstream, STRICT, &format!("url: 'redis://{}', timeout: 500ms", redis.address()));
    let mut world = World::new(&yaml, redis);
    let persistence = |redis: &Redis, wanted: &str| redis.cli(&["info", "persistence"]).contains(wanted).then_some(());
    let strike = |world: &mut World<Redis>| {
        world.redis.fill_disk();
        wait_for("Redis to fail", || persistence(&world.redis, "aof_last_write_status:err"));
        let error = world.door(0).log_in(Client::Public).err().unwrap().to_string();
        assert_eq!(error, "not available");
        world.redis.make_room();
        // What it answered before it knew is written now; and is there after that.
        wait_for("Redis to have written", || persistence(&world.redis, "aof_last_write_status:ok"));
        world.redis.kill();
        world.redis.restart();
    };
    storm(&mut world, rounds(2), World::door, strike, World::settle);
}

#[test]
fn nothing_is_lost_when_the_clock_of_redis_is_set() {
    let Some(redis) = Redis::start_with(Options { clock: true, ..Options::default() }) else { return };
    let upstream = Upstream::start();
    let yaml = shared(&upstream, STRICT, &format!("url: 'redis://{}'", redis.address()));
    let mut world = World::new(&yaml, redis);
    let mut times = [3600, 0, -3600, 0].into_iter().cycle();
    let strike = |world: &mut World<Redis>| {
        let ahead = times.next().unwrap();
        world.redis.set_clock(ahead);
        wait_for("the clock to be set", || {
            let told = world.redis.cli(&["time"]);
            let told: i64 = told.lines().next().unwrap().parse().unwrap();
            ((told - now() as i64 - ahead).abs() < 60).then_some(())
        });
    };
    storm(&mut world, rounds(4), World::door, strike, World::settle);
}

#[test]
fn nothing_is_lost_when_a_master_fails_whose_replica_has_it() {
    let Some(trio) = SentinelTrio::start() else { return };
    let upstream = Upstream::start();
    let sentinels: Vec<_> = trio.sentinels().iter().map(|at| format!("'redis://{at}'")).collect();
    let redis = format!(
        "urls: [{}], sentinel: {}, timeout: 4s, wait: {{ replicas: 1, timeout: 1s }}",
        sentinels.join(", "),
        SentinelTrio::NAME
    );
    let mut world = World::new(&shared(&upstream, STRICT, &redis), trio);
    let mut freeze = false;
    let strike = |world: &mut World<SentinelTrio>| {
        let trio = &mut world.redis;
        // A machine that dies, and one that hangs.
        let before = if freeze { trio.freeze_master() } else { trio.kill_master() };
        freeze = !freeze;
        trio.wait_for_another_master(before);
        trio.revive();
        trio.wait_ok();
    };
    storm(&mut world, rounds(2), World::door, strike, World::settle);
}

#[test]
fn nothing_is_lost_when_a_cluster_loses_a_master_whose_replica_has_it() {
    let Some(cluster) = Cluster::start() else { return };
    let upstream = Upstream::start();
    let nodes: Vec<_> = cluster.nodes().iter().map(|at| format!("'redis://{at}'")).collect();
    let redis =
        format!("urls: [{}], cluster: true, timeout: 4s, wait: {{ replicas: 1, timeout: 1s }}", nodes.join(", "));
    let mut world = World::new(&shared(&upstream, STRICT, &redis), cluster);
    let mut keys = ["sidegate:{log}:meta", "sidegate:{00}:life", "sidegate:{31}:life"].iter().cycle();
    let strike = |world: &mut World<Cluster>| {
        let key = keys.next().unwrap();
        let master = world.redis.master_of(key);
        world.redis.kill(master);
        // One that came back before would have its replica forget everything as well.
        wait_for("a replica to take its place", || (world.redis.master_of(key) != master).then_some(()));
        world.redis.restart(master);
        world.redis.wait_ok();
    };
    storm(&mut world, rounds(2), World::door, strike, World::settle);
}

#[test]
fn an_outage_logs_nobody_out_and_stops_no_request() {
    let Some(mut redis) = Redis::start_with(Options { appendfsync: Some("always"), ..Options::default() }) else {
        return;
    };
    let upstream = Upstream::start();
    let url = format!("url: 'redis://{}', timeout: 500ms, max_staleness: 1s", redis.address());
    let yaml = shared(&upstream, "", &url).replace(
        "routes: [",
        "routes: [{ name: strict, match: { path_prefix: /strict }, upstream: app, on_stale: refuse }, ",
    );
    let gate = Sidegate::start(&yaml);
    let door = Door(gate.address());
    let tokens = door.log_in(Client::Confidential).unwrap();
    redis.kill();
    for _ in 0..3 {
        assert_eq!(door.refresh(Client::Confidential, &tokens.refresh).unwrap_err().to_string(), "not available");
        assert_eq!(door.revoke(Client::Confidential, &tokens.refresh).unwrap_err().to_string(), "not available");
        assert_eq!(door.pass(&tokens.access).unwrap().status, 200);
    }
    // Where what is revoked of late has to be known, it is said that it is not.
    wait_for("it to be stale", || (gate.get_with("/strict", &tokens.access).status == 503).then_some(()));
    redis.restart();
    wait_for("it to be fresh", || (gate.get_with("/strict", &tokens.access).status == 200).then_some(()));
    assert_eq!(door.refresh(Client::Confidential, &tokens.refresh).unwrap().status, 200);
}
