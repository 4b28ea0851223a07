//! What a refresh costs the issuer, each with a rotation: its CPU time for each grant, and how long a client waits.
//!
//! ```text
//! cargo build --release
//! cargo bench --bench refresh -- [--alg ES256,RS256] [--store embedded,redis] [--connections 16] [--seconds 6] [--rounds 3] \
//!     [--program target/release/sidegate,/tmp/sidegate-before]
//! ```
//!
//! The program runs on core 0 with one worker, this one and a `redis-server` (which appends to its file before it answers) on
//! core 1. Each connection has a session of its own, and asks again as soon as it has its answer. The kinds take turns, and
//! programs within them, so that what else the machine does falls on all of them. Each kind's last line is the median of its
//! rounds, beside that of the last program.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark says what it has found, or stops")]
#![allow(missing_docs, reason = "it is a program")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Barrier,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// SHA-256 of the above.
const HASH: &str = "3eb1bd439947eb762998e566ccc2e099c791118b2f40579cc4f7da2b5061b7f9";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let option = |name: &str, default: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.map_or(default.to_owned(), |at| arguments[at + 1].clone())
    };
    let programs = option("--program", concat!(env!("CARGO_MANIFEST_DIR"), "/target/release/sidegate"));
    if let Some(program) = programs.split(',').find(|program| !Path::new(program).exists()) {
        println!("there is no {program}: cargo build --release");
        return;
    }
    let (algorithms, stores) = (option("--alg", "ES256,RS256"), option("--store", "embedded,redis"));
    let connections: usize = option("--connections", "16").parse().unwrap();
    let seconds = Duration::from_secs_f64(option("--seconds", "6").parse().unwrap());
    let rounds: usize = option("--rounds", "3").parse().unwrap();
    println!("store     alg    connections  grants/s  CPU µs/grant  p50 ms  p99 ms  Redis CPU µs/grant");
    let mut all: BTreeMap<(&str, &str, &str), Vec<f64>> = BTreeMap::new();
    for _ in 0..rounds {
        for (algorithm, store) in kinds(&algorithms, &stores) {
            for program in programs.split(',') {
                let (found, cost) = run(program, store, algorithm, connections, seconds);
                println!("{store:<9} {algorithm:<6} {connections:<12} {found}  {program}");
                all.entry((algorithm, store, program)).or_default().push(cost);
            }
        }
    }
    let last = programs.rsplit(',').next().unwrap();
    for (algorithm, store) in kinds(&algorithms, &stores) {
        for program in programs.split(',') {
            let mut median = |program| {
                let costs = all.get_mut(&(algorithm, store, program)).unwrap();
                costs.sort_by(f64::total_cmp);
                costs[costs.len() / 2]
            };
            let (cost, beside) = (median(program), median(last));
            println!("{store:<9} {algorithm:<6} {cost:>6.1} µs, {:.3} of {beside:.1}  {program}", cost / beside);
        }
    }
}

fn kinds<'a>(algorithms: &'a str, stores: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    algorithms.split(',').flat_map(move |algorithm| stores.split(',').map(move |store| (algorithm, store)))
}

/// A process that is killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts a program on one core.
    fn on_core(core: &str, program: &str, arguments: &[&str], folder: &Path) -> Self {
        let mut command = Command::new("taskset");
        command.args(["-c", core, program]).args(arguments).current_dir(folder);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// How long it has worked, user and system together, as the kernel counts in hundredths of a second.
    fn worked(&self) -> Duration {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }
}

fn run(program: &str, store: &str, algorithm: &str, connections: usize, seconds: Duration) -> (String, f64) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (port, admin) = (free_port(), free_port());
    let redis = (store == "redis").then(|| {
        let port = free_port();
        let arguments = ["--port", &port.to_string(), "--save", "", "--appendonly", "yes", "--appendfsync", "always"];
        let redis = Running::on_core("1", "redis-server", &arguments, folder.path());
        wait_for(port);
        (redis, port)
    });
    let place = match &redis {
        Some((_, port)) => format!("redis: {{ url: 'redis://127.0.0.1:{port}' }}"),
        None => "embedded: { path: data }".into(),
    };
    write_config(folder.path(), port, admin, algorithm, &place);
    let program = fs::canonicalize(program).unwrap();
    let gate = Running::on_core("0", program.to_str().unwrap(), &["run", "--config", "config.yaml"], folder.path());
    wait_for(port);
    let address = SocketAddr::from(([127, 0, 0, 1], port));

    // 0: begin, 1: count, 2: stop.
    let (phase, ready) = (AtomicU8::new(0), Barrier::new(connections + 1));
    let (mut waits, worked, by_redis, took) = thread::scope(|scope| {
        let clients: Vec<_> = (0..connections).map(|_| scope.spawn(|| client(address, &phase, &ready))).collect();
        ready.wait();
        // The password hashes are behind us; caches and the file find their size.
        thread::sleep(Duration::from_secs(1));
        let counts = || (gate.worked(), redis.as_ref().map_or(Duration::ZERO, |(redis, _)| redis.worked()));
        let (before, since) = (counts(), Instant::now());
        phase.store(1, Ordering::Relaxed);
        thread::sleep(seconds);
        phase.store(2, Ordering::Relaxed);
        let (after, took) = (counts(), since.elapsed());
        let waits: Vec<Duration> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        (waits, after.0 - before.0, after.1 - before.1, took)
    });
    waits.sort_unstable();
    let each = |worked: Duration| worked.as_secs_f64() * 1e6 / waits.len() as f64;
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let mut line = format!(
        "{:<9.0} {:<13.1} {:<7.2} {:<7.2}",
        waits.len() as f64 / took.as_secs_f64(),
        each(worked),
        at(0.5),
        at(0.99)
    );
    if redis.is_some() {
        let _ = write!(line, " {:.1}", each(by_redis));
    }
    (line, each(worked))
}

/// Refreshes as long as it is told to; how long it waited for each answer while it was counted.
fn client(address: SocketAddr, phase: &AtomicU8, ready: &Barrier) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut token = ask(&mut stream, "grant_type=password&username=test&password=test");
    ready.wait();
    let mut waits = Vec::new();
    loop {
        let (began, counted) = (Instant::now(), phase.load(Ordering::Relaxed));
        token = ask(&mut stream, &format!("grant_type=refresh_token&refresh_token={token}"));
        match (counted, phase.load(Ordering::Relaxed)) {
            (1, 1) => waits.push(began.elapsed()),
            (_, 2) => return waits,
            _ => {}
        }
    }
}

/// The refresh token in the answer to a form.
fn ask(stream: &mut TcpStream, form: &str) -> String {
    let request = format!(
        "POST /oauth/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{form}&client_id=bench&client_secret={SECRET}",
        form.len() + "&client_id=bench&client_secret=".len() + SECRET.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let (mut answer, mut whole) = (Vec::with_capacity(2048), None);
    while whole.is_none_or(|whole| answer.len() < whole) {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "it hung up: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..read]);
        if let Some(head) = answer.windows(4).position(|end| end == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            whole = Some(head + 4 + length.parse::<usize>().unwrap());
        }
    }
    let text = String::from_utf8(answer).unwrap();
    let token = text.split("\"refresh_token\":\"").nth(1).and_then(|rest| rest.split('"').next());
    token.unwrap_or_else(|| panic!("no grant: {text}")).to_owned()
}

fn write_config(folder: &Path, port: u16, admin: u16, algorithm: &str, place: &str) {
    let user = password_hash();
    let text = format!(
        "workers: 1\n\
         listeners: [{{ name: public, address: '127.0.0.1:{port}', issuer: true }}]\n\
         admin: {{ address: '127.0.0.1:{admin}' }}\n\
         upstreams: [{{ name: app, urls: ['http://127.0.0.1:9'] }}]\n\
         providers: [{{ name: local, issuer: 'http://localhost:3000', audiences: [api], jwks: issuer }}]\n\
         routes: [{{ name: all, match: {{ path_prefix: / }}, upstream: app }}]\n\
         log: {{ level: error }}\n\
         issuer:\n\
         \x20 url: http://localhost:3000\n\
         \x20 master_key: {SECRET}\n\
         \x20 access_token: {{ lifetime: 5m, algorithm: {algorithm}, audience: api }}\n\
         \x20 refresh_token: {{ reuse_interval: 0s }}\n\
         \x20 store: {{ {place} }}\n\
         \x20 clients:\n\
         \x20   - {{ id: bench, secret_hash: 'sha256:{HASH}', grants: [refresh_token], legacy_password_grant: true, scopes: [read, write] }}\n\
         \x20 users: [{{ username: test, password_hash: '{user}' }}]\n"
    );
    let path = folder.join("config.yaml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// That of `test`, as quick as they come: logging in is not what is measured.
fn password_hash() -> String {
    use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, Version};
    let quick = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
    quick.hash_password_with_salt(b"test", b"not secret").unwrap().to_string()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn wait_for(port: u16) {
    let since = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(since.elapsed() < Duration::from_secs(20), "nobody listens on {port}");
        thread::sleep(Duration::from_millis(5));
    }
}
