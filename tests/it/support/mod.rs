//! What every test stands on: the real program on free ports, an upstream that shows what reached it, a client that can
//! say anything, and keys to make tokens with.

pub(crate) mod client;
pub(crate) mod frames;
pub(crate) mod redis;
pub(crate) mod tls;
pub(crate) mod tokens;
pub(crate) mod upstream;

use std::{
    collections::HashMap,
    env,
    ffi::c_long,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

pub(crate) use client::{Answer, request};
pub(crate) use upstream::Upstream;

/// How long a condition is waited for before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` gives something.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A few numbers by chance that are the same every time (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// Asks a path with a token, and reads the answer on until it ends in `mark`.
pub(crate) fn begin_to_read(gate: SocketAddr, token: &str, mark: &[u8]) -> std::net::TcpStream {
    use std::io::Write as _;
    let mut stream = std::net::TcpStream::connect(gate).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(mark) {
        let mut piece = [0; 1024];
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "it ended early");
        answer.extend_from_slice(&piece[..read]);
    }
    stream
}

/// A program the tests need; `None`, with a line that cannot be missed, where it is absent and may be.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let paths = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&paths).map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        assert!(env::var_os("SIDEGATE_REQUIRE_TOOLS").is_none(), "{name} is not there; tests/setup.sh installs it");
        eprintln!("\n!!! SKIPPED: {name} is not there (`make test` installs it)\n");
    }
    found
}

/// What a program is to find in its environment to have a clock of its own: it is ahead by as many seconds as the file `clock` in
/// that folder says, a long.
pub(crate) fn own_clock(dir: &Path) -> [(&'static str, PathBuf); 2] {
    let (clock, library) = (dir.join("clock"), dir.join("clock.so"));
    if !clock.exists() {
        std::fs::write(&clock, c_long::default().to_ne_bytes()).unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clock.c");
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O1", source, "-o"]).arg(&library).status();
        assert!(compiled.unwrap().success(), "{source} cannot be compiled");
    }
    [("LD_PRELOAD", library), ("CLOCK_AHEAD", clock)]
}

/// A Sidegate of one's own, killed when it is dropped.
pub(crate) struct Sidegate {
    child: Child,
    dir: tempfile::TempDir,
    /// What it printed up to the point where it was ready.
    pub(crate) printed: String,
    log: mpsc::Receiver<String>,
    listeners: HashMap<String, (SocketAddr, bool)>,
    admin: SocketAddr,
}

impl Sidegate {
    /// Starts the real program with `yaml` in a folder of its own and waits until it says that it is ready.
    pub(crate) fn start(yaml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir, yaml)
    }

    /// The same in a folder that is there, with what an earlier one left in it.
    pub(crate) fn start_in(dir: tempfile::TempDir, yaml: &str) -> Self {
        Self::start_within(dir, yaml, &[])
    }

    /// The same, started by another program that takes ours and its arguments after its own.
    pub(crate) fn start_within(dir: tempfile::TempDir, yaml: &str, starter: &[&str]) -> Self {
        write_config(dir.path(), yaml);
        let mut command = command(dir.path());
        if let [program, arguments @ ..] = starter {
            let mut outer = Command::new(program);
            outer.current_dir(dir.path()).args(arguments).arg(command.get_program()).args(command.get_args());
            command = outer;
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = read_lines(child.stderr.take().unwrap());
        let out = read_lines(child.stdout.take().unwrap());
        let mut printed = String::new();
        let start = Instant::now();
        // The admin line is followed only by what is for people.
        while !printed.contains("\n  admin ") {
            match out.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
                Ok(line) => printed.push_str(&line),
                Err(_) => {
                    let _ = child.kill();
                    let said: String = log.iter().collect();
                    panic!("it did not become ready; it printed:\n{printed}{said}");
                }
            }
        }
        while let Ok(line) = out.recv_timeout(Duration::from_millis(30)) {
            printed.push_str(&line);
        }
        let mut listeners = HashMap::new();
        let mut admin = None;
        for line in printed.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["listener", name, url, ..] => {
                    let (scheme, address) = url.trim_end_matches(',').split_once("://").unwrap();
                    listeners.insert((*name).to_owned(), (address.parse().unwrap(), scheme == "https"));
                }
                ["admin", url] => admin = url.strip_prefix("http://").and_then(|u| u.split('/').next()?.parse().ok()),
                _ => {}
            }
        }
        Self { child, dir, printed, log, listeners, admin: admin.unwrap() }
    }

    /// Where a listener is.
    pub(crate) fn listener(&self, name: &str) -> SocketAddr {
        self.listeners[name].0
    }

    /// Where the only listener is.
    pub(crate) fn address(&self) -> SocketAddr {
        assert_eq!(self.listeners.len(), 1, "which listener?");
        self.listeners.values().next().unwrap().0
    }

    /// A URL of the only listener.
    pub(crate) fn url(&self, path: &str) -> String {
        assert_eq!(self.listeners.len(), 1, "which listener?");
        let (address, tls) = self.listeners.values().next().unwrap();
        format!("{}://{address}{path}", if *tls { "https" } else { "http" })
    }

    /// The folder of its configuration and data.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks the only listener.
    pub(crate) fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        request(self.address(), "GET", path, headers, b"")
    }

    /// Asks the only listener with a bearer token.
    pub(crate) fn get_with(&self, path: &str, token: &str) -> Answer {
        self.get(path, &[("Authorization", &format!("Bearer {token}"))])
    }

    /// Sends a form to the only listener.
    pub(crate) fn post_form(&self, path: &str, headers: &[(&str, &str)], form: &str) -> Answer {
        let kind = ("Content-Type", "application/x-www-form-urlencoded");
        request(self.address(), "POST", path, &[headers, &[kind]].concat(), form.as_bytes())
    }

    /// Where the admin listener is.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Asks the admin listener.
    pub(crate) fn admin(&self, path: &str) -> Answer {
        request(self.admin, "GET", path, &[], b"")
    }

    /// The value of a series, given with its labels as it is exposed; 0 while it is not there.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.admin("/metrics").text();
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0.0)
    }

    /// How many tokens it has refused for this reason, whosever they claim to be.
    pub(crate) fn rejected(&self, reason: &str) -> f64 {
        let text = self.admin("/metrics").text();
        let of_tokens = text.lines().filter(|line| line.starts_with("sidegate_rejected_tokens_total{"));
        let named = of_tokens.filter(|line| line.contains(&format!(",reason=\"{reason}\"}} ")));
        named.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// What it has logged since this was last asked.
    pub(crate) fn logged(&self) -> String {
        self.log.try_iter().collect()
    }

    /// What it has logged since this was last asked, read on until that is `enough`: lines come a moment after what
    /// they tell of.
    pub(crate) fn logged_until(&self, enough: impl Fn(&str) -> bool) -> String {
        let mut log = String::new();
        wait_for("the log", || {
            log.extend(self.log.try_iter());
            enough(&log).then_some(())
        });
        log
    }

    /// Sends it a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for it to end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("the process to end", || self.child.try_wait().unwrap())
    }

    /// Kills it without a warning, and gives its folder to the next.
    pub(crate) fn kill(mut self) -> tempfile::TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }
}

impl Drop for Sidegate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- printed\n{}--- logged\n{}---", self.printed, self.logged());
        }
    }
}

/// The program with the configuration in `dir`, not started yet.
pub(crate) fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidegate"));
    command.current_dir(dir).arg("run").arg("--config").arg(dir.join("config.yaml")).env_remove("RUST_LOG");
    command
}

/// Puts `config.yaml` into `dir`, readable by its owner alone, since it may hold secrets.
pub(crate) fn write_config(dir: &Path, yaml: &str) {
    let path = dir.join("config.yaml");
    std::fs::write(&path, yaml).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn read_lines(from: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = String::new();
        while from.read_line(&mut line).is_ok_and(|n| n > 0) {
            if send.send(std::mem::take(&mut line)).is_err() {
                // Nobody asks any more; what comes is read all the same, lest the process wait.
                let _ = from.read_to_end(&mut Vec::new());
                return;
            }
        }
    });
    lines
}

/// A configuration with one listener, one upstream, and the given sections after them.
pub(crate) fn config(upstream: SocketAddr, rest: &str) -> String {
    format!(
        "workers: 1\n\
         listeners: [{{ name: public, address: 127.0.0.1:0 }}]\n\
         admin: {{ address: 127.0.0.1:0 }}\n\
         upstreams: [{{ name: app, urls: [http://{upstream}] }}]\n{rest}"
    )
}

/// The same with an internal issuer: a confidential client `app` (secret `secret`), a public one `spa`, a user `alice`
/// (password `wonderland`), and access tokens of five minutes. What `rest` begins with indented belongs to the issuer.
pub(crate) fn config_with_issuer(upstream: SocketAddr, rest: &str) -> String {
    let secret = client::hex(&client::sha256(b"secret"));
    let password = tokens::argon2id("wonderland");
    format!(
        "workers: 1\n\
         listeners: [{{ name: public, address: 127.0.0.1:0, issuer: true }}]\n\
         admin: {{ address: 127.0.0.1:0 }}\n\
         upstreams: [{{ name: app, urls: [http://{upstream}] }}]\n\
         providers: [{{ name: local, issuer: http://localhost:3000, audiences: [api], jwks: issuer }}]\n\
         issuer:\n\
         \x20 url: http://localhost:3000\n\
         \x20 access_token: {{ lifetime: 5m, algorithm: ES256, audience: api }}\n\
         \x20 clients:\n\
         \x20   - {{ id: app, secret_hash: 'sha256:{secret}', grants: [refresh_token, client_credentials], legacy_password_grant: true, scopes: [read, write] }}\n\
         \x20   - {{ id: spa, grants: [refresh_token], legacy_password_grant: true, scopes: [read] }}\n\
         \x20 users: [{{ username: alice, password_hash: '{password}' }}]\n\
         {rest}"
    )
}
