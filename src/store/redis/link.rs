//! The connections to Redis: which server has what, and what to do when one is away.
//!
//! Whatever is asked can be asked again: reads change nothing, and each script does nothing twice. So a lost answer is no reason
//! to give up before the deadline, and none to fear that something was done twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo as _, Pipeline, ProtocolVersion, RedisConnectionInfo, RedisError, ServerErrorKind,
    TlsCertificates, Value, aio::MultiplexedConnection,
};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    config::{Layout, Login, RedisConfig},
    names::{Names, PARTS, Place},
    scripts::{self, Script},
};
use crate::store::Unavailable;

/// How long is waited before something is asked again, at first and at last.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// Which server is which is looked up no more often than this.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// A server: its host, and its port.
pub(super) type Address = (Arc<str>, u16);

/// All connections. One to each server that has something, shared by whoever asks.
pub(super) struct Link {
    config: RedisConfig,
    routes: ArcSwap<Routes>,
    /// Held by who looks up which server is which: when that was last, and why it came to nothing, if so.
    looking: Mutex<Option<(Instant, Option<Fault>)>>,
    /// Which of the configured servers has answered last.
    first: AtomicUsize,
    /// In which hash slot of a cluster a place is, by [`Place::index`]; empty where nobody has asked yet.
    slots: std::sync::OnceLock<Vec<u16>>,
    /// How many connections have been made.
    connections: AtomicU64,
}

/// Which server has what.
#[derive(Default)]
struct Routes {
    /// By [`Place::index`]; shorter where nothing is known yet.
    of: Vec<Option<Arc<Node>>>,
    /// One of the servers has said that it is otherwise.
    outdated: AtomicBool,
}

struct Node {
    address: Address,
    connection: MultiplexedConnection,
    /// Another one where writes wait for replicas: a server does nothing else for a connection that waits.
    reads: MultiplexedConnection,
    /// It failed once, and is not used any more.
    broken: AtomicBool,
}

/// Why an attempt failed.
#[derive(Clone)]
enum Fault {
    /// It may be over in a moment.
    Passing(String),
    /// It will be the same in a moment.
    Lasting(String),
}

impl Link {
    pub(super) fn new(config: RedisConfig) -> Self {
        Self {
            config,
            routes: ArcSwap::default(),
            looking: Mutex::default(),
            first: AtomicUsize::new(0),
            slots: std::sync::OnceLock::new(),
            connections: AtomicU64::new(0),
        }
    }

    /// Whether writes wait for replicas.
    pub(super) fn waits(&self) -> bool {
        self.config.wait.is_some()
    }

    /// How long a verb takes at the most.
    pub(super) fn timeout(&self) -> Duration {
        self.config.timeout
    }

    /// How many connections have been made so far: with another one there may be another server behind a name.
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Acquire)
    }

    /// Asks one thing of the server that has a place.
    pub(super) async fn read<T: FromRedisValue>(
        self: &Arc<Self>,
        place: Place,
        command: &Cmd,
    ) -> Result<T, Unavailable> {
        let mut asked = Pipeline::with_capacity(1);
        asked.add_command(command.clone());
        let (answer,) = self.read_all(place, &asked).await?;
        Ok(answer)
    }

    /// Asks several things at once; the answer is a tuple or a list.
    pub(super) async fn read_all<T: FromRedisValue>(
        self: &Arc<Self>,
        place: Place,
        asked: &Pipeline,
    ) -> Result<T, Unavailable> {
        value(Value::Array(self.ask(place, asked, false).await?))
    }

    /// Changes something, and waits for as many replicas to have it as is configured.
    pub(super) async fn write<T: FromRedisValue>(
        self: &Arc<Self>,
        place: Place,
        command: Cmd,
    ) -> Result<T, Unavailable> {
        let mut asked = Pipeline::with_capacity(2);
        asked.add_command(command);
        let (answer,) = self.write_all(place, asked).await?;
        Ok(answer)
    }

    /// The same with several commands.
    pub(super) async fn write_all<T: FromRedisValue>(
        self: &Arc<Self>,
        place: Place,
        mut asked: Pipeline,
    ) -> Result<T, Unavailable> {
        if let Some(wait) = self.config.wait {
            asked.cmd("WAIT").arg(wait.replicas).arg(u64::try_from(wait.timeout.as_millis()).unwrap_or(u64::MAX));
        }
        let mut answers = self.ask(place, &asked, true).await?;
        if let Some(wait) = self.config.wait {
            let have: u32 = answers.pop().map_or(Ok(0), value)?;
            if have < wait.replicas {
                let why =
                    format!("{have} replicas of {} have it in time, of {} that are wanted", "Redis", wait.replicas);
                return Err(Unavailable(why.into()));
            }
        }
        value(Value::Array(answers))
    }

    /// The servers that have something, each with an answer to `command`.
    pub(super) async fn of_each<T: FromRedisValue>(self: &Arc<Self>, command: &Cmd) -> Result<Vec<T>, Unavailable> {
        let mut asked: Vec<Address> = Vec::new();
        let mut answers = Vec::new();
        for place in Place::all() {
            // Which makes sure that there is one.
            if self.node(place).is_none() {
                self.read::<Value>(place, &redis::cmd("PING")).await?;
            }
            let Some(node) = self.node(place).filter(|node| !asked.contains(&node.address)) else { continue };
            answers.push(self.read(place, command).await?);
            asked.push(node.address.clone());
        }
        Ok(answers)
    }

    async fn ask(self: &Arc<Self>, place: Place, asked: &Pipeline, writes: bool) -> Result<Vec<Value>, Unavailable> {
        let deadline = Instant::now() + self.config.timeout;
        let mut pause = FIRST_PAUSE;
        let mut why = String::from("Redis did not answer in time");
        loop {
            match timeout_at(deadline, self.attempt(place, asked, writes)).await {
                Ok(Ok(answers)) => return Ok(answers),
                Ok(Err(Fault::Lasting(what))) => return Err(Unavailable(what.into())),
                Ok(Err(Fault::Passing(what))) => why = what,
                Err(_) => return Err(Unavailable(why.into())),
            }
            let next = Instant::now() + pause;
            if next >= deadline {
                return Err(Unavailable(why.into()));
            }
            sleep_until(next).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    async fn attempt(self: &Arc<Self>, place: Place, asked: &Pipeline, writes: bool) -> Result<Vec<Value>, Fault> {
        let node = match self.node(place) {
            Some(node) => node,
            None => {
                // In a task of its own: who waits for it may give up before it has found anything, and others wait as well.
                let link = self.clone();
                let looking = tokio::spawn(async move { link.look(place).await });
                looking.await.unwrap_or_else(|_| Err(Fault::Passing("the look-up was broken off".into())))?;
                self.node(place).ok_or_else(|| Fault::Passing("no server of Redis has this part of it".into()))?
            }
        };
        let mut connection = if writes { node.connection.clone() } else { node.reads.clone() };
        match asked.query_async(&mut connection).await {
            Ok(answers) => Ok(answers),
            Err(error) => Err(self.fault(&node, &error).await),
        }
    }

    /// The server that has a place, as far as is known and it is there.
    fn node(&self, place: Place) -> Option<Arc<Node>> {
        let routes = self.routes.load();
        let node = routes.of.get(place.index())?.as_ref()?;
        let usable = !node.broken.load(Ordering::Acquire) && !routes.outdated.load(Ordering::Acquire);
        usable.then(|| node.clone())
    }

    /// What an error means, and does to what is known of the servers.
    async fn fault(&self, node: &Node, error: &RedisError) -> Fault {
        let what = format!("{}:{}: {error}", node.address.0, node.address.1);
        match error.kind() {
            ErrorKind::Server(kind) => match kind {
                ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::TryAgain => {
                    self.routes.load().outdated.store(true, Ordering::Release);
                    Fault::Passing(what)
                }
                ServerErrorKind::BusyLoading => Fault::Passing(what),
                // Somebody has flushed them.
                ServerErrorKind::NoScript => match load_scripts(&mut node.connection.clone()).await {
                    Ok(()) => Fault::Passing(what),
                    Err(error) => Fault::Lasting(error.to_string()),
                },
                _ => Fault::Lasting(what),
            },
            // Among them NOREPLICAS, MISCONF (its disk is full) and OOM.
            ErrorKind::Extension => Fault::Lasting(what),
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Fault::Lasting(what),
            _ => {
                node.broken.store(true, Ordering::Release);
                Fault::Passing(what)
            }
        }
    }

    /// Looks up which server has what, and connects to it.
    async fn look(&self, wanted: Place) -> Result<(), Fault> {
        let mut last = self.looking.lock().await;
        // Somebody else has, while this one waited.
        if self.node(wanted).is_some() {
            return Ok(());
        }
        match &*last {
            Some((at, Some(fault))) if at.elapsed() < LOOK_PAUSE => return Err(fault.clone()),
            Some((at, _)) => sleep_until(*at + LOOK_PAUSE).await,
            None => {}
        }
        let found = match &self.config.layout {
            Layout::Alone => self.alone().await,
            Layout::Sentinels { master, login } => self.by_sentinels(master, login.as_ref()).await,
            Layout::Cluster => self.cluster().await,
        };
        *last = Some((Instant::now(), found.as_ref().err().cloned()));
        self.routes.store(Arc::new(Routes { of: found?, outdated: AtomicBool::new(false) }));
        Ok(())
    }

    /// Whether the master is still the one that we are connected to, as Sentinels have it, or as it says itself. Should it
    /// not be, the next question goes to the one that is.
    pub(super) async fn is_current(self: &Arc<Self>) -> Result<(), Unavailable> {
        let current = match &self.config.layout {
            Layout::Sentinels { master, login } => {
                let (master, login, link) = (master.clone(), login.clone(), self.clone());
                let found = tokio::spawn(async move { link.master_by_sentinels(&master, login.as_ref()).await });
                match found.await {
                    Ok(Ok(address)) => self.node(Place::Log).is_none_or(|node| node.address == address),
                    // Nobody says otherwise.
                    Ok(Err(_)) | Err(_) => true,
                }
            }
            Layout::Alone => {
                let role: Vec<Value> = self.read(Place::Log, &redis::cmd("ROLE")).await?;
                role.into_iter().next().is_some_and(|role| value::<String>(role).is_ok_and(|role| role == "master"))
            }
            // There a server that is none any more says so itself.
            Layout::Cluster => true,
        };
        if !current {
            self.routes.load().outdated.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// The configured servers, the one first that has answered last.
    fn servers(&self) -> impl Iterator<Item = (usize, &Address)> {
        let (servers, first) = (&self.config.servers, self.first.load(Ordering::Relaxed));
        (0..servers.len()).map(move |n| (n + first) % servers.len()).map(move |n| (n, &servers[n]))
    }

    /// One server has all of it.
    async fn alone(&self) -> Result<Vec<Option<Arc<Node>>>, Fault> {
        let mut why = Fault::Passing("no server of Redis is configured".into());
        for (n, address) in self.servers() {
            match self.master(address).await {
                Ok(node) => {
                    self.first.store(n, Ordering::Relaxed);
                    return Ok(everywhere(node));
                }
                Err(fault) => why = fault,
            }
        }
        Err(why)
    }

    /// The server that Sentinels say is the master has all of it.
    async fn by_sentinels(&self, master: &str, login: Option<&Login>) -> Result<Vec<Option<Arc<Node>>>, Fault> {
        let address = self.master_by_sentinels(master, login).await?;
        Ok(everywhere(self.master(&address).await?))
    }

    async fn master_by_sentinels(&self, master: &str, login: Option<&Login>) -> Result<Address, Fault> {
        let mut why = Fault::Passing("no Sentinel is configured".into());
        for (n, sentinel) in self.servers() {
            let found = async {
                let at =
                    |error: RedisError| Fault::Passing(format!("the Sentinel {}:{}: {error}", sentinel.0, sentinel.1));
                let mut connection = self.connect(sentinel, login).await?;
                let mut ask = redis::cmd("SENTINEL");
                ask.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
                let found: Option<(String, u16)> = ask.query_async(&mut connection).await.map_err(at)?;
                let unknown = || format!("the Sentinel {}:{} knows no {master:?}", sentinel.0, sentinel.1);
                let (host, port) = found.ok_or_else(|| Fault::Passing(unknown()))?;
                Ok((host.into(), port))
            };
            match found.await {
                Ok(address) => {
                    self.first.store(n, Ordering::Relaxed);
                    return Ok(address);
                }
                Err(fault) => why = fault,
            }
        }
        Err(why)
    }

    /// Each place is where the cluster says it is.
    async fn cluster(&self) -> Result<Vec<Option<Arc<Node>>>, Fault> {
        let before = self.routes.load_full();
        let known = before.of.iter().flatten().filter(|node| !node.broken.load(Ordering::Acquire));
        let known: Vec<Address> = known.map(|node| node.address.clone()).collect();
        let mut seen: Vec<Address> = Vec::new();
        let mut why = Fault::Passing("no server of Redis is configured".into());
        for address in known.iter().chain(&self.config.servers) {
            if seen.contains(address) {
                continue;
            }
            seen.push(address.clone());
            match self.map_of(address, &before).await {
                Ok(map) => return Ok(self.connected(&map, &before).await),
                Err(fault) => why = fault,
            }
        }
        Err(why)
    }

    /// Which addresses have which slots, as one server of the cluster has it.
    async fn map_of(&self, address: &Address, before: &Routes) -> Result<Vec<Shard>, Fault> {
        let mut connection = match usable(before, address) {
            Some(node) => node.connection.clone(),
            None => self.connect(address, self.config.login.as_ref()).await?,
        };
        let passing = |error: RedisError| Fault::Passing(format!("{}:{}: {error}", address.0, address.1));
        if self.slots.get().is_none() {
            let names = Names(self.config.prefix.clone());
            let mut ask = Pipeline::new();
            for place in Place::all() {
                ask.cmd("CLUSTER").arg("KEYSLOT").arg(names.single(place, "life"));
            }
            let slots = ask.query_async(&mut connection).await.map_err(passing)?;
            self.slots.get_or_init(|| slots);
        }
        let ranges: Vec<Vec<Value>> =
            redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await.map_err(passing)?;
        Ok(ranges.into_iter().filter_map(|range| Shard::of(range, address)).collect())
    }

    /// The servers of a map. One that cannot be reached is left out: the others have their parts all the same.
    async fn connected(&self, map: &[Shard], before: &Routes) -> Vec<Option<Arc<Node>>> {
        let mut tried: Vec<(Address, Option<Arc<Node>>)> = Vec::new();
        let mut of = Vec::with_capacity(usize::from(PARTS) + 1);
        for slot in self.slots.get().into_iter().flatten() {
            let Some(shard) = map.iter().find(|shard| (shard.first..=shard.last).contains(slot)) else {
                of.push(None);
                continue;
            };
            let node = match tried.iter().find(|(address, _)| *address == shard.master) {
                Some((_, node)) => node.clone(),
                None => {
                    let node = match usable(before, &shard.master) {
                        Some(node) => Some(node),
                        None => self.master(&shard.master).await.ok(),
                    };
                    tried.push((shard.master.clone(), node.clone()));
                    node
                }
            };
            of.push(node);
        }
        of
    }

    /// Connects to a server that must be one that takes writes.
    async fn master(&self, address: &Address) -> Result<Arc<Node>, Fault> {
        let mut connection = self.connect(address, self.config.login.as_ref()).await?;
        let at = |error: RedisError| match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoPerm) => {
                Fault::Lasting(format!("{}:{}: {error}", address.0, address.1))
            }
            _ => Fault::Passing(format!("{}:{}: {error}", address.0, address.1)),
        };
        let role: Vec<Value> = redis::cmd("ROLE").query_async(&mut connection).await.map_err(at)?;
        let role: String =
            role.into_iter().next().and_then(|role| redis::from_redis_value(role).ok()).unwrap_or_default();
        if role != "master" {
            return Err(Fault::Passing(format!("{}:{} is a {role}, not a master", address.0, address.1)));
        }
        load_scripts(&mut connection).await.map_err(at)?;
        let reads = match self.config.wait {
            Some(_) => self.connect(address, self.config.login.as_ref()).await?,
            None => connection.clone(),
        };
        self.connections.fetch_add(1, Ordering::AcqRel);
        Ok(Arc::new(Node { address: address.clone(), connection, reads, broken: AtomicBool::new(false) }))
    }

    async fn connect(&self, address: &Address, login: Option<&Login>) -> Result<MultiplexedConnection, Fault> {
        let at = |error: RedisError| {
            let what = format!("{}:{}: {error}", address.0, address.1);
            match error.kind() {
                ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig | ErrorKind::RESP3NotSupported => {
                    Fault::Lasting(what)
                }
                _ => Fault::Passing(what),
            }
        };
        let (host, port) = (address.0.to_string(), address.1);
        let mut settings = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
        if let Some(Login { user, password }) = login {
            if let Some(user) = user {
                settings = settings.set_username(user);
            }
            let password = str::from_utf8(password.expose());
            settings = settings.set_password(password.map_err(|_| Fault::Lasting("the password is no text".into()))?);
        }
        let there = match &self.config.tls {
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            None => ConnectionAddr::Tcp(host, port),
        };
        let info: ConnectionInfo = there.into_connection_info().map_err(at)?.set_redis_settings(settings);
        let client = match &self.config.tls {
            Some(tls) => {
                let root_cert = tls.roots.as_ref().map(|pem| pem.to_vec());
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })
            }
            None => Client::open(info),
        };
        // Shorter than the deadline, so that another server can be asked before it; and longer than what replicas have.
        let patience = self.config.timeout / 2;
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(patience)).set_response_timeout(Some(patience));
        client.map_err(at)?.get_multiplexed_async_connection_with_config(&config).await.map_err(at)
    }
}

/// A range of slots, and who has it.
struct Shard {
    first: u16,
    last: u16,
    master: Address,
}

impl Shard {
    /// An entry of `CLUSTER SLOTS`. A server that does not know its own name is the one that was asked.
    fn of(range: Vec<Value>, asked: &Address) -> Option<Self> {
        let mut parts = range.into_iter();
        let mut number = || redis::from_redis_value::<u16>(parts.next()?).ok();
        let (first, last) = (number()?, number()?);
        let node: Vec<Value> = redis::from_redis_value(parts.next()?).ok()?;
        let mut node = node.into_iter();
        let host: Option<String> = redis::from_redis_value(node.next()?).ok()?;
        let port: u16 = redis::from_redis_value(node.next()?).ok()?;
        let host = host.filter(|host| !host.is_empty() && host != "?").map_or_else(|| asked.0.clone(), Arc::from);
        Some(Self { first, last, master: (host, port) })
    }
}

fn everywhere(node: Arc<Node>) -> Vec<Option<Arc<Node>>> {
    vec![Some(node); usize::from(PARTS) + 1]
}

fn usable(routes: &Routes, address: &Address) -> Option<Arc<Node>> {
    let mut nodes = routes.of.iter().flatten();
    nodes.find(|node| node.address == *address && !node.broken.load(Ordering::Acquire)).cloned()
}

async fn load_scripts(connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
    let mut load = Pipeline::new();
    scripts::ALL.iter().map(|script: &Script| script.text()).for_each(|text| {
        load.cmd("SCRIPT").arg("LOAD").arg(text).ignore();
    });
    load.query_async(connection).await
}

/// An answer as what it should be.
fn value<T: FromRedisValue>(value: Value) -> Result<T, Unavailable> {
    redis::from_redis_value(value)
        .map_err(|error| Unavailable(format!("Redis answers what it should not: {error}").into()))
}
