//! A master with two replicas, and three Sentinels that see to it that there is a master.

use std::net::SocketAddr;

use super::{Options, Programs, Redis};
use crate::support::wait_for;

/// All of them, killed when this is dropped.
pub(crate) struct SentinelTrio {
    servers: Vec<Redis>,
    sentinels: Vec<Redis>,
}

impl SentinelTrio {
    /// The name that the Sentinels know the master by.
    pub(crate) const NAME: &str = "sidegate";

    /// Starts them, and waits until each of them knows the others.
    pub(crate) fn start() -> Option<Self> {
        let programs = Programs::find()?;
        let lines = "replica-announce-ip 127.0.0.1\n";
        let master = Redis::start_as(programs.clone(), Options { lines, ..Options::default() });
        let port = master.port;
        let replica = || {
            let lines = format!("{lines}replicaof 127.0.0.1 {port}\n");
            Redis::start_as(programs.clone(), Options { lines: &lines, ..Options::default() })
        };
        let servers = vec![master, replica(), replica()];
        let sentinel = || {
            let name = Self::NAME;
            let lines = format!(
                "sentinel monitor {name} 127.0.0.1 {port} 2\n\
                 sentinel down-after-milliseconds {name} 1000\n\
                 sentinel failover-timeout {name} 2000\n"
            );
            let options = Options { lines: &lines, ..Options::default() };
            let sentinel = Redis::start_as(programs.of_sentinels(), options);
            // By itself it looks around and tells the others every ten and two seconds, and asks a server for signs of life
            // so seldom that one lost connection would make it dead. A replica that was not heard of for five times the last
            // is no heir, and while there is no master they are heard of every second.
            let told = sentinel.cli(
                &[&["sentinel", "debug"][..], &["info-period", "500", "publish-period", "100", "ping-period", "300"]]
                    .concat(),
            );
            assert_eq!(told, "OK");
            sentinel
        };
        let trio = Self { servers, sentinels: vec![sentinel(), sentinel(), sentinel()] };
        trio.wait_ok();
        Some(trio)
    }

    /// Where the Sentinels are.
    pub(crate) fn sentinels(&self) -> Vec<SocketAddr> {
        self.sentinels.iter().map(Redis::address).collect()
    }

    /// The server there.
    pub(crate) fn at(&self, address: SocketAddr) -> &Redis {
        self.servers.iter().find(|redis| redis.address() == address).unwrap()
    }

    /// Where the master is, as a Sentinel says.
    pub(crate) fn master(&self) -> SocketAddr {
        master_of(&self.sentinels[0])
    }

    /// Kills the master without a warning; where that was.
    pub(crate) fn kill_master(&mut self) -> SocketAddr {
        let master = self.master();
        self.servers.iter_mut().find(|redis| redis.address() == master).unwrap().kill();
        master
    }

    /// Holds the master, as a machine that hangs; where that is.
    pub(crate) fn freeze_master(&self) -> SocketAddr {
        let master = self.master();
        self.at(master).stop_answering();
        master
    }

    /// Waits until every Sentinel names another master than that, and it is one; where it is.
    pub(crate) fn wait_for_another_master(&self, than: SocketAddr) -> SocketAddr {
        wait_for("another master", || {
            let master = self.agreed_master().filter(|&master| master != than)?;
            self.at(master).cli(&["role"]).starts_with("master").then_some(master)
        })
    }

    /// Starts again what was killed, and lets go on what was held. For a moment that takes itself for a master still.
    pub(crate) fn revive(&mut self) {
        for redis in &mut self.servers {
            if redis.runs() { redis.go_on() } else { redis.restart() }
        }
    }

    /// Waits until all are there: every Sentinel sees the same master, two replicas that follow it, and two other Sentinels.
    pub(crate) fn wait_ok(&self) {
        wait_for("Sentinels that see everybody", || {
            let at_ease = |sentinel: &Redis| {
                let master = sentinel.cli(&["sentinel", "master", Self::NAME]);
                let replicas = sentinel.cli(&["sentinel", "replicas", Self::NAME]);
                values(&master, "flags") == ["master"]
                    && values(&master, "num-other-sentinels") == ["2"]
                    && values(&replicas, "flags") == ["slave"; 2]
                    && values(&replicas, "master-link-status") == ["ok"; 2]
            };
            (self.agreed_master().is_some() && self.sentinels.iter().all(at_ease)).then_some(())
        });
    }

    fn agreed_master(&self) -> Option<SocketAddr> {
        let master = self.master();
        self.sentinels.iter().all(|sentinel| master_of(sentinel) == master).then_some(master)
    }
}

fn master_of(sentinel: &Redis) -> SocketAddr {
    let told = sentinel.cli(&["sentinel", "get-master-addr-by-name", SentinelTrio::NAME]);
    told.replace('\n', ":").parse().unwrap()
}

/// What stands below each line that is this name, in an answer of names and values by turns.
fn values<'a>(answer: &'a str, name: &str) -> Vec<&'a str> {
    let lines: Vec<_> = answer.lines().collect();
    lines.chunks_exact(2).filter(|pair| pair[0] == name).map(|pair| pair[1]).collect()
}
