//! That the Redis servers the tests start are what they are said to be.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use rustls::version::TLS13;

use crate::support::{
    redis::{Acl, Cluster, Options, Redis, SentinelTrio},
    tls,
};

/// What is answered to `PING` on a connection of its own; `None` if nothing is.
fn ping(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    stream.write_all(b"PING\r\n").unwrap();
    let mut answer = [0; 64];
    let read = stream.read(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..read]).trim().to_owned())
}

#[test]
fn plain_server_is_held_and_goes_on() {
    let Some(redis) = Redis::start() else { return };
    assert_eq!(ping(redis.address()).unwrap(), "+PONG");
    redis.stop_answering();
    assert_eq!(ping(redis.address()), None);
    redis.go_on();
    assert_eq!(redis.cli(&["ping"]), "PONG");
}

#[test]
fn server_over_tls_has_one_user() {
    let acl = Acl { user: "gate", password: "secret", rules: "~{sidegate}:* +@all" };
    let Some(redis) = Redis::start_with(Options { tls: true, acl: Some(acl), ..Options::default() }) else { return };
    assert_eq!(redis.cli(&["set", "{sidegate}:a", "1"]), "OK");
    assert!(redis.cli(&["set", "other", "1"]).starts_with("NOPERM"));

    let mut stream = tls::connect(redis.address(), &redis.ca_file(), &TLS13, &[]).unwrap();
    stream.write_all(b"PING\r\n").unwrap();
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"-NOAUTH");
    assert!(!ping(redis.address()).is_some_and(|answer| answer.starts_with("+PONG")));
}

#[test]
fn appended_file_outlives_the_server_and_memory_does_not() {
    for (appendfsync, kept) in [(None, ""), (Some("everysec"), "1"), (Some("always"), "1")] {
        let Some(mut redis) = Redis::start_with(Options { appendfsync, ..Options::default() }) else { return };
        let address = redis.address();
        assert_eq!(redis.cli(&["set", "shut down", "1"]), "OK");
        redis.shutdown();
        assert!(redis.cli(&["ping"]).starts_with("Could not connect"));
        redis.restart();
        assert_eq!(redis.address(), address);
        assert_eq!(redis.cli(&["get", "shut down"]), kept, "{appendfsync:?}");
        // What is written every second may lack the last of it.
        if appendfsync != Some("everysec") {
            assert_eq!(redis.cli(&["set", "killed", "1"]), "OK");
            redis.kill();
            redis.restart();
            assert_eq!(redis.cli(&["get", "killed"]), kept, "{appendfsync:?}");
        }
    }
}

#[test]
fn further_lines_hold() {
    let options = Options { lines: "min-replicas-to-write 1\n", ..Options::default() };
    let Some(redis) = Redis::start_with(options) else { return };
    assert!(redis.cli(&["set", "a", "1"]).starts_with("NOREPLICAS"));
}

#[test]
fn sentinels_find_another_master() {
    let Some(mut trio) = SentinelTrio::start() else { return };
    for address in trio.sentinels() {
        assert_eq!(ping(address).unwrap(), "+PONG");
    }
    let first = trio.kill_master();
    let second = trio.wait_for_another_master(first);
    assert_eq!(trio.at(second).cli(&["set", "a", "1"]), "OK");
    trio.revive();
    trio.wait_ok();
    assert_eq!(trio.at(first).cli(&["get", "a"]), "1");

    assert_eq!(trio.freeze_master(), second);
    let third = trio.wait_for_another_master(second);
    assert_eq!(trio.at(third).cli(&["set", "a", "2"]), "OK");
    trio.revive();
    trio.wait_ok();
    assert_eq!(trio.master(), third);
    assert_eq!(trio.at(second).cli(&["get", "a"]), "2");
}

#[test]
fn cluster_outlives_the_loss_of_a_master() {
    let Some(mut cluster) = Cluster::start() else { return };
    let keys = ["a", "b", "c", "d"];
    for key in keys {
        assert_eq!(cluster.cli(&["set", key, key]), "OK");
    }
    cluster.wait_replicated();
    let lost = cluster.master_of("a");
    cluster.kill(lost);
    cluster.wait_ok();
    let heir = cluster.master_of("a");
    assert!(heir != lost && cluster.nodes().contains(&heir));
    for key in keys {
        assert_eq!(cluster.cli(&["get", key]), key);
    }
    assert_eq!(cluster.cli(&["set", "a", "again"]), "OK");
    cluster.restart(lost);
    cluster.wait_ok();
    assert_eq!(cluster.master_of("a"), heir);
    assert_eq!(cluster.cli(&["get", "a"]), "again");
}
