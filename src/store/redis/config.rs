//! Where Redis is, and what is asked of it; every value has been checked.

use std::{sync::Arc, time::Duration};

use crate::types::Secret;

/// Where Redis (or Valkey) is, and what is asked of it.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Hosts and ports: of the server, of Sentinels, or of some servers of a cluster; at least one.
    pub servers: Vec<(Arc<str>, u16)>,
    /// How the servers belong together.
    pub layout: Layout,
    /// Who we are for the servers that keep data.
    pub login: Option<Login>,
    /// Whether TLS is spoken, and whom to trust.
    pub tls: Option<Tls>,
    /// How the names of all keys begin. Without curly brackets.
    pub prefix: Arc<str>,
    /// How long a verb takes at the most.
    pub timeout: Duration,
    /// Whether a verb waits for replicas.
    pub wait: Option<Wait>,
    /// How old what is known of the revocation log may be, before it is stale for those to whom that matters.
    pub max_staleness: Duration,
}

/// How servers belong together.
#[derive(Clone, Debug)]
pub enum Layout {
    /// One has everything. Where several are named, they are tried in their order.
    Alone,
    /// Sentinels say which one is the master.
    Sentinels {
        /// The name under which they know it.
        master: Arc<str>,
        /// Who we are for the Sentinels.
        login: Option<Login>,
    },
    /// Redis Cluster.
    Cluster,
}

/// A user of Redis.
#[derive(Clone, Debug)]
pub struct Login {
    /// Its name; `None`: `default`.
    pub user: Option<Arc<str>>,
    /// Its password, in UTF-8.
    pub password: Secret,
}

/// TLS to Redis.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificates to trust, in PEM; `None`: those the system trusts.
    pub roots: Option<Arc<[u8]>>,
}

/// How many replicas must have a change before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// So many.
    pub replicas: u32,
    /// How long is waited for them.
    pub timeout: Duration,
}
