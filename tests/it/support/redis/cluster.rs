//! Three masters that share the keys among them, each with a replica to take its place.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{Options, Programs, Redis, said};
use crate::support::wait_for;

/// All of them, killed when this is dropped.
pub(crate) struct Cluster {
    nodes: Vec<Redis>,
}

impl Cluster {
    /// Starts it, and waits until it serves every key and each master has its replica.
    pub(crate) fn start() -> Option<Self> {
        let programs = Programs::find()?;
        // However long a replica has been cut off from its master, it may take its place.
        let lines = "cluster-enabled yes\ncluster-node-timeout 1000\ncluster-replica-validity-factor 0\n";
        let node = || Redis::start_as(programs.clone(), Options { lines, ..Options::default() });
        let mut cluster = Self { nodes: (0..6).map(|_| node()).collect() };
        let mut client = programs.client();
        client.args(["--cluster", "create"]).args(cluster.nodes().iter().map(SocketAddr::to_string));
        let told = said(client.args(["--cluster-replicas", "1", "--cluster-yes"]));
        assert!(told.contains("All 16384 slots covered"), "{told}");
        cluster.wait_ok();
        Some(cluster)
    }

    /// Where its nodes are, whether they run or not.
    pub(crate) fn nodes(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Redis::address).collect()
    }

    /// The master that a key belongs to, as one of those that run sees it.
    pub(crate) fn master_of(&mut self, key: &str) -> SocketAddr {
        wait_for("a cluster that says where a key is", || {
            let node = self.running();
            let told = node.cli(&["exists", key]);
            match told.strip_prefix("MOVED ") {
                Some(moved) => Some(moved.split(' ').next_back().unwrap().parse().unwrap()),
                None if told == "0" || told == "1" => Some(node.address()),
                None => {
                    assert!(told.starts_with("CLUSTERDOWN"), "{told}");
                    None
                }
            }
        })
    }

    /// What `redis-cli` says to a command, wherever in the cluster it belongs.
    pub(crate) fn cli(&mut self, command: &[&str]) -> String {
        self.running().cli(&[&["-c"], command].concat())
    }

    /// Waits until every replica that is there has what its master has.
    pub(crate) fn wait_replicated(&mut self) {
        wait_for("replicas to have everything", || {
            let all = self.nodes.iter_mut().filter_map(|node| node.runs().then(|| node.cli(&["info", "replication"])));
            let behind = all.filter(|info| info.contains("role:master")).any(|info| {
                let whole = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:")).unwrap().trim();
                let mut replicas = info.lines().filter(|line| line.starts_with("slave"));
                replicas.any(|line| !line.contains(&format!("offset={whole},")))
            });
            (!behind).then_some(())
        });
    }

    /// Kills a node without a warning.
    pub(crate) fn kill(&mut self, node: SocketAddr) {
        self.node(node).kill();
    }

    /// Starts a node again, with what it knew of the others.
    pub(crate) fn restart(&mut self, node: SocketAddr) {
        self.node(node).restart();
    }

    /// Waits until all the nodes that run serve, agree on who has which keys, and those run too; and until each of them that
    /// is no master follows one.
    pub(crate) fn wait_ok(&mut self) {
        wait_for("a cluster that is well", || {
            let running: Vec<&Redis> = self.nodes.iter_mut().filter_map(|node| node.runs().then_some(&*node)).collect();
            let serves = |node: &&Redis| node.cli(&["cluster", "info"]).contains("cluster_state:ok");
            let masters = masters(running[0]);
            let mut replicas = 0;
            for master in masters.keys() {
                let master = running.iter().find(|node| node.address().to_string() == *master)?;
                replicas += master.cli(&["info", "replication"]).matches("state=online").count();
            }
            let well = running.iter().all(serves)
                && running.iter().all(|node| self::masters(node) == masters)
                && masters.len() + replicas == running.len();
            well.then_some(())
        });
    }

    fn node(&mut self, address: SocketAddr) -> &mut Redis {
        self.nodes.iter_mut().find(|node| node.address() == address).unwrap()
    }

    fn running(&mut self) -> &Redis {
        self.nodes.iter_mut().find_map(|node| node.runs().then_some(&*node)).unwrap()
    }
}

/// Who has which slots, as a node sees it: `127.0.0.1:12000` has `0-5460`.
fn masters(node: &Redis) -> BTreeMap<String, String> {
    let mut masters = BTreeMap::new();
    for line in node.cli(&["cluster", "nodes"]).lines() {
        // Name, address, flags, master, ping, pong, epoch, link, slots.
        let fields: Vec<_> = line.splitn(9, ' ').collect();
        if let [_, address, _, _, _, _, _, _, slots] = fields[..] {
            masters.insert(address.split('@').next().unwrap().to_owned(), slots.to_owned());
        }
    }
    masters
}
