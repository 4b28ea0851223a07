//! Real Redis servers on free ports of the loopback, each in a folder of its own and killed when it is dropped: alone, under
//! Sentinels, and as a cluster.

mod cluster;
mod sentinels;

use std::{
    ffi::c_long,
    fs::{self, File},
    iter,
    net::{SocketAddr, TcpListener},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{self, Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, kill_process, prlimit, waitid};

use super::{own_clock, tls::certify, tool, wait_for};

pub(crate) use cluster::Cluster;
pub(crate) use sentinels::SentinelTrio;

/// How a server is to be. It keeps nothing on disk and lets everybody in, unless told otherwise.
#[derive(Clone, Copy, Default)]
pub(crate) struct Options<'a> {
    /// `always` or `everysec`: that it writes to an append-only file, and when that is on disk.
    pub(crate) appendfsync: Option<&'a str>,
    /// Over TLS alone, with a certificate of the CA in `ca_file`.
    pub(crate) tls: bool,
    /// The one user there is; `default` is switched off.
    pub(crate) acl: Option<Acl<'a>>,
    /// With a clock of its own, which can be set.
    pub(crate) clock: bool,
    /// More lines of configuration, after the others.
    pub(crate) lines: &'a str,
}

/// A user.
#[derive(Clone, Copy)]
pub(crate) struct Acl<'a> {
    pub(crate) user: &'a str,
    pub(crate) password: &'a str,
    /// Which keys, channels and commands are its own, as `ACL SETUSER` has it: `~{sidegate}:* ~sidegate:* +@all`. It needs
    /// `PING`, by which a server is known to be there.
    pub(crate) rules: &'a str,
}

/// A server of one's own, killed when it is dropped.
pub(crate) struct Redis {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
    /// What `redis-cli` needs to get in, wherever it connects.
    login: Option<[String; 2]>,
    tls: bool,
    programs: Programs,
}

impl Redis {
    /// Starts one that is as plain as can be.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(Options::default())
    }

    /// Starts one on a free port and waits until it answers.
    pub(crate) fn start_with(options: Options<'_>) -> Option<Self> {
        let programs = Programs { own_clock: options.clock, ..Programs::find()? };
        Some(Self::start_as(programs, options))
    }

    fn start_as(programs: Programs, options: Options<'_>) -> Self {
        loop {
            let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
            fs::write(dir.path().join("redis.conf"), config(dir.path(), port, options)).unwrap();
            let child = programs.serve(dir.path());
            let login = options.acl.map(|acl| [acl.user.to_owned(), acl.password.to_owned()]);
            let mut redis = Self { child, dir, port, login, tls: options.tls, programs: programs.clone() };
            if redis.came_up() {
                return redis;
            }
            // Somebody may have taken the port since it was free.
            assert!(redis.log().contains("Failed listening on port"), "Redis did not start");
        }
    }

    /// Whether it answers; if not, it has ended.
    fn came_up(&mut self) -> bool {
        wait_for("Redis to answer", || {
            // On its port somebody else may answer; this socket is its own, and is there once the port is.
            let answer = said(self.client().arg("-s").arg(self.dir.path().join("socket")).arg("ping"));
            (answer == "PONG").then_some(true).or_else(|| (!self.runs()).then_some(false))
        })
    }

    /// Where it is.
    pub(crate) fn address(&self) -> SocketAddr {
        at(self.port)
    }

    /// The certificate of the CA, of one that speaks TLS.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// What `redis-cli` says to a command, as the user there is; why it could not ask, where it could not.
    pub(crate) fn cli(&self, command: &[&str]) -> String {
        let mut client = self.client();
        if self.tls {
            client.arg("--tls").arg("--cacert").arg(self.ca_file());
        }
        said(client.args(["-p", &self.port.to_string()]).args(command))
    }

    /// Kills it without a warning.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Has it end in good order.
    pub(crate) fn shutdown(&mut self) {
        self.signal(Signal::TERM);
        wait_for("Redis to end", || self.child.try_wait().unwrap());
    }

    /// Starts it again, on the same port with what is in its folder; one that runs still is killed.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = self.programs.serve(self.dir.path());
        assert!(self.came_up(), "Redis did not start again");
    }

    /// Holds it, as a machine that hangs: what connects to it is connected, and hears nothing.
    pub(crate) fn stop_answering(&self) {
        self.signal(Signal::STOP);
        // It is sent at once, and comes into effect a little later.
        waitid(WaitId::Pid(Pid::from_child(&self.child)), WaitIdOptions::STOPPED).unwrap();
    }

    /// Lets it go on after that.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// Sets its clock, of one that has a clock of its own: so many seconds ahead of everybody else's.
    pub(crate) fn set_clock(&self, ahead: c_long) {
        let clock = File::options().write(true).open(self.dir.path().join("clock")).unwrap();
        clock.write_all_at(&ahead.to_ne_bytes(), 0).unwrap();
    }

    /// Has its disk full from now on: none of its files grows.
    pub(crate) fn fill_disk(&self) {
        self.limit_files(Some(1));
    }

    /// Gives it room again.
    pub(crate) fn make_room(&self) {
        self.limit_files(None);
    }

    fn limit_files(&self, current: Option<u64>) {
        let limit = Rlimit { current, ..getrlimit(Resource::Fsize) };
        prlimit(Some(Pid::from_child(&self.child)), Resource::Fsize, limit).unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn client(&self) -> Command {
        let mut client = self.programs.client();
        if let Some([user, password]) = &self.login {
            client.args(["--user", user]).env("REDISCLI_AUTH", password);
        }
        client
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join("log")).unwrap()).into_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!(
                "--- Redis on {}, at last\n{}\n---",
                self.port,
                lines[lines.len().saturating_sub(20)..].join("\n")
            );
        }
    }
}

/// The programs, and what the server is started as.
#[derive(Clone)]
struct Programs {
    server: PathBuf,
    cli: PathBuf,
    arguments: &'static [&'static str],
    /// Whether the server has a clock of its own.
    own_clock: bool,
}

impl Programs {
    fn find() -> Option<Self> {
        Some(Self { server: tool("redis-server")?, cli: tool("redis-cli")?, arguments: &[], own_clock: false })
    }

    /// The same to start Sentinels with.
    fn of_sentinels(&self) -> Self {
        Self { arguments: &["--sentinel"], ..self.clone() }
    }

    /// A server with what is in a folder, which says into a file there what it has to say.
    fn serve(&self, dir: &Path) -> Child {
        let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
        // The shell sees to it that a file which may not grow is an error to the server, not a signal.
        let mut server = Command::new("sh");
        if self.own_clock {
            server.envs(own_clock(dir));
        }
        server
            .args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#])
            .arg(&self.server)
            .arg(dir.join("redis.conf"))
            .args(self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// `redis-cli`. Alone it would wait for one that is held until that goes on.
    fn client(&self) -> Command {
        let mut client = Command::new("timeout");
        client.arg("20").arg(&self.cli);
        client
    }
}

fn said(client: &mut Command) -> String {
    let Output { stdout, stderr, .. } = client.output().unwrap();
    let said = if stdout.is_empty() { stderr } else { stdout };
    String::from_utf8(said).unwrap().trim().to_owned()
}

fn config(dir: &Path, port: u16, options: Options<'_>) -> String {
    let home = dir.to_str().unwrap();
    let mut config = format!(
        "bind 127.0.0.1\n\
         dir {home}\n\
         unixsocket {home}/socket\n\
         save \"\"\n\
         # Otherwise a replica waits five seconds for others to come along.\n\
         repl-diskless-sync-delay 0\n"
    );
    if options.tls {
        certify(dir);
        config += &format!(
            "port 0\n\
             tls-port {port}\n\
             tls-cert-file {home}/cert.pem\n\
             tls-key-file {home}/key.pem\n\
             tls-ca-cert-file {home}/ca.pem\n\
             tls-auth-clients no\n"
        );
    } else {
        config += &format!("port {port}\n");
    }
    if let Some(appendfsync) = options.appendfsync {
        config += &format!("appendonly yes\nappendfsync {appendfsync}\n");
    }
    if let Some(Acl { user, password, rules }) = options.acl {
        config += &format!("user default off\nuser {user} on >{password} {rules}\n");
    }
    config + options.lines
}

/// A port that nothing listens on, nor on the one 10000 above it, where a node of a cluster talks to the others. Both are below
/// those that the system gives away, and no two servers of this process get the same.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let free = |port| TcpListener::bind(at(port)).is_ok();
    // Other processes look for theirs elsewhere.
    let first = process::id().wrapping_mul(97);
    iter::repeat_with(|| 12_000 + (first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 8_000) as u16)
        .take(8_000)
        .find(|&port| free(port) && free(port + 10_000))
        .expect("a free port")
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
