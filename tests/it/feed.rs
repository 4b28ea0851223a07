//! The revocation log on its way from the gateway that keeps it to the processes that follow, each a real one.

mod chaos;
mod config;
mod healing;
mod ways;
mod wire;

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    PATIENCE, Sidegate, Upstream, begin_to_read, client::request, config_with_issuer, wait_for, write_config,
};

const CREDENTIAL: &str = "feedfeedfeedfeedfeedfeedfeedfeed";
const ADMIN: &str = "0123456789abcdef0123456789abcdef";
const PATH: &str = "/oauth/revocations";

/// A gateway with the issuer, whose log can be followed.
fn gateway() -> Sidegate {
    gateway_in(tempfile::tempdir().unwrap())
}

fn gateway_in(dir: tempfile::TempDir) -> Sidegate {
    let rest = format!(
        "\x20 revocation_feed: {{ credential: {CREDENTIAL} }}\n\
         routes: [{{ name: all, match: {{ path_prefix: / }}, upstream: app }}]\n"
    );
    Sidegate::start_in(dir, &with_admin(&config_with_issuer(Upstream::start().address(), &rest)))
}

fn with_admin(config: &str) -> String {
    config.replace("admin: { address: 127.0.0.1:0 }", &format!("admin: {{ address: 127.0.0.1:0, token: {ADMIN} }}"))
}

/// The configuration of a sidecar that follows at `feed`, and has its keys from `keys`.
fn sidecar_config(feed: SocketAddr, keys: &str, upstream: SocketAddr, more: &str) -> String {
    with_admin(&format!(
        "workers: 1\n\
         listeners: [{{ name: public, address: 127.0.0.1:0 }}]\n\
         admin: {{ address: 127.0.0.1:0 }}\n\
         upstreams: [{{ name: app, urls: ['http://{upstream}'] }}]\n\
         providers: [{{ name: idp, issuer: http://localhost:3000, audiences: [api], profile: rfc9068, leeway: 0s, jwks_file: keys.json }}]\n\
         revocation_feed: {{ url: 'http://{feed}{PATH}', credential: {CREDENTIAL}, {more} }}\n\
         routes:\n\
         \x20 - {{ name: strict, match: {{ path_prefix: /strict }}, upstream: app, on_stale: refuse }}\n\
         \x20 - {{ name: all, match: {{ path_prefix: / }}, upstream: app }}\n\
         # {keys}\n"
    ))
}

/// A folder with the keys that a gateway publishes.
fn folder_with_keys(gateway: &Sidegate) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("keys.json"), gateway.get("/.well-known/jwks.json", &[]).text()).unwrap();
    dir
}

/// A sidecar that follows `gateway` by way of `feed`.
fn sidecar(gateway: &Sidegate, feed: SocketAddr) -> Sidegate {
    sidecar_before(gateway, feed, &Upstream::start(), "max_staleness: 30s")
}

fn sidecar_before(gateway: &Sidegate, feed: SocketAddr, upstream: &Upstream, more: &str) -> Sidegate {
    Sidegate::start_in(folder_with_keys(gateway), &sidecar_config(feed, "", upstream.address(), more))
}

/// An access token of a login of alice, with a session.
fn log_in(gateway: &Sidegate) -> String {
    let form = "grant_type=password&username=alice&password=wonderland";
    gateway.post_form("/oauth/token", &[("Authorization", "Basic YXBwOnNlY3JldA==")], form).member("access_token")
}

/// An access token of a client of its own.
fn client_token(gateway: &Sidegate) -> String {
    let headers = [("Authorization", "Basic YXBwOnNlY3JldA==")];
    gateway.post_form("/oauth/token", &headers, "grant_type=client_credentials").member("access_token")
}

fn claim(token: &str, name: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice::<Value>(&payload).unwrap()[name].as_str().unwrap().into()
}

fn admin(gate: &Sidegate, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let authorization = format!("Bearer {ADMIN}");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = request(gate.admin_address(), method, path, &[("Authorization", &authorization)], body.as_bytes());
    (answer.status, answer.json())
}

/// Revokes at the gateway; answers the entry's number.
fn revoke(gateway: &Sidegate, kind: &str, id: Option<&str>) -> u64 {
    let (status, entry) = admin(gateway, "POST", "/admin/revocations", &json!({"kind": kind, "id": id}));
    assert_eq!(status, 201, "{entry}");
    entry["number"].as_u64().unwrap()
}

/// Everything that a process refuses: kind, name, number, whether it lifts, and until when.
fn table(gate: &Sidegate) -> BTreeSet<String> {
    let (mut after, mut all) = (0, BTreeSet::new());
    loop {
        let (status, page) = admin(gate, "GET", &format!("/admin/revocations?after={after}&limit=1000"), &Value::Null);
        assert_eq!(status, 200, "{page}");
        for entry in page["revocations"].as_array().unwrap() {
            all.insert(format!(
                "{} {} {} of {} until {} lifts {}",
                entry["number"], entry["kind"], entry["id"], entry["issuer"], entry["until"], entry["lifts"]
            ));
        }
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => return all,
        }
    }
}

fn status(gate: &Sidegate, path: &str, token: &str) -> u16 {
    gate.get_with(path, token).status
}

fn await_status(gate: &Sidegate, token: &str, wanted: u16) {
    wait_for(&format!("status {wanted}"), || (status(gate, "/", token) == wanted).then_some(()));
}

/// What stands between a follower and a gateway, and what it does with what comes by.
#[derive(Clone)]
struct Way {
    address: SocketAddr,
    state: Arc<Mutex<WayState>>,
}

struct WayState {
    to: SocketAddr,
    /// New connections are hung up on.
    cut: bool,
    /// How long what comes from the gateway lies in a buffer.
    delay: Duration,
    /// What is done to the next piece from the gateway that is no hello.
    #[expect(clippy::type_complexity, reason = "said once")]
    change: Option<Box<dyn FnOnce(Vec<u8>) -> Vec<u8> + Send>>,
    open: Vec<TcpStream>,
    /// The heads of requests that came by.
    asked: Vec<String>,
}

impl Way {
    fn to(gateway: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = WayState {
            to: gateway,
            cut: false,
            delay: Duration::ZERO,
            change: None,
            open: Vec::new(),
            asked: Vec::new(),
        };
        let way = Self { address, state: Arc::new(Mutex::new(state)) };
        let this = way.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let this = this.clone();
                thread::spawn(move || this.carry(client));
            }
        });
        way
    }

    fn set<T>(&self, change: impl FnOnce(&mut WayState) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    /// Hangs up on all, and takes no more until it is told otherwise.
    fn cut(&self, cut: bool) {
        self.set(|state| {
            state.cut = cut;
            state.open.drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        });
    }

    fn carry(&self, client: TcpStream) {
        let (to, cut) = self.set(|state| (state.to, state.cut));
        let Some(gateway) = TcpStream::connect(to).ok().filter(|_| !cut) else { return };
        self.set(|state| state.open.extend([client.try_clone().unwrap(), gateway.try_clone().unwrap()]));
        let (mut from_client, mut to_gateway) = (client.try_clone().unwrap(), gateway.try_clone().unwrap());
        let this = self.clone();
        thread::spawn(move || {
            let mut piece = [0; 16_384];
            while let Ok(read @ 1..) = from_client.read(&mut piece) {
                this.set(|state| state.asked.push(String::from_utf8_lossy(&piece[..read]).into()));
                if to_gateway.write_all(&piece[..read]).is_err() {
                    break;
                }
            }
            let _ = to_gateway.shutdown(Shutdown::Both);
        });
        let (mut from_gateway, mut to_client) = (gateway, client);
        let (buffer, buffered) = std::sync::mpsc::channel::<(Instant, Vec<u8>)>();
        let deliver = thread::spawn(move || {
            for (due, bytes) in buffered {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if to_client.write_all(&bytes).is_err() {
                    break;
                }
            }
            let _ = to_client.shutdown(Shutdown::Both);
        });
        let mut piece = [0; 16_384];
        while let Ok(read @ 1..) = from_gateway.read(&mut piece) {
            let mut bytes = piece[..read].to_vec();
            let (delay, change) = self.set(|state| {
                let is_hello = bytes.windows(7).any(|window| window == b"\"hello\"");
                (state.delay, if is_hello { None } else { state.change.take() })
            });
            if let Some(change) = change {
                bytes = change(bytes);
            }
            if buffer.send((Instant::now() + delay, bytes)).is_err() {
                break;
            }
        }
        drop(buffer);
        let _ = deliver.join();
    }
}

#[test]
fn a_sidecar_refuses_every_kind_that_is_revoked_at_the_gateway() {
    let gateway = gateway();
    let sidecar = sidecar(&gateway, gateway.address());
    let good = |token: &str| {
        for gate in [&gateway, &sidecar] {
            assert_eq!(status(gate, "/", token), 200);
        }
    };
    let session = log_in(&gateway);
    good(&session);
    revoke(&gateway, "session", Some(&claim(&session, "sid")));
    await_status(&sidecar, &session, 401);
    let single = client_token(&gateway);
    good(&single);
    revoke(&gateway, "token", Some(&claim(&single, "jti")));
    await_status(&sidecar, &single, 401);
    for (kind, id) in [("subject", Some("alice")), ("client", Some("app")), ("everything", None)] {
        let (before, of_client) = (log_in(&gateway), client_token(&gateway));
        good(&before);
        good(&of_client);
        let number = revoke(&gateway, kind, id);
        // Who begins anew is never refused, from the moment the revocation is acknowledged.
        let after = log_in(&gateway);
        good(&after);
        await_status(&sidecar, &before, 401);
        if kind == "subject" {
            assert_eq!(status(&sidecar, "/", &of_client), 200);
        }
        good(&after);
        // Taken back everywhere.
        let (code, said) = admin(&gateway, "DELETE", &format!("/admin/revocations/{number}"), &Value::Null);
        assert_eq!(code, 200, "{said}");
        await_status(&sidecar, &before, 200);
    }
    // By its client, and by its key.
    let mine = log_in(&gateway);
    let form = format!("token={mine}");
    assert_eq!(gateway.post_form("/oauth/revoke", &[("Authorization", "Basic YXBwOnNlY3JldA==")], &form).status, 200);
    await_status(&sidecar, &mine, 401);
    let last = client_token(&gateway);
    good(&last);
    let jwks = gateway.get("/.well-known/jwks.json", &[]).json();
    revoke(&gateway, "key", jwks["keys"][0]["kid"].as_str());
    // The sidecar's own copy of the key is still there: it is the feed that has told it.
    await_status(&sidecar, &last, 401);
    wait_for("the same table", || (table(&sidecar) == table(&gateway)).then_some(()));
    assert!(sidecar.metric("sidegate_revocation_propagation_seconds_count") >= 6.0);
    assert_eq!(gateway.metric("sidegate_feed_followers"), 1.0);
    let (code, said) = admin(&sidecar, "POST", "/admin/revocations", &json!({"kind": "everything"}));
    assert_eq!((code, &said["error"]), (409, &json!("no_log")));
}

#[test]
fn a_sidecar_is_not_ready_before_it_knows_what_is_revoked() {
    let gateway = gateway();
    let token = client_token(&gateway);
    revoke(&gateway, "client", Some("app"));
    let way = Way::to(gateway.address());
    way.cut(true);
    let dir = folder_with_keys(&gateway);
    let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = sidecar_config(way.address, "", Upstream::start().address(), "max_staleness: 30s")
        .replace("admin: { address: 127.0.0.1:0,", &format!("admin: {{ address: '{admin}',"));
    let starting = thread::spawn(move || Sidegate::start_in(dir, &config));
    let ready = || crate::support::client::try_request(admin, "GET", "/readyz", &[], b"").ok().map(|it| it.status);
    wait_for("the admin listener", ready);
    assert_eq!(ready(), Some(503));
    let text = request(admin, "GET", "/metrics", &[], b"").text();
    assert!(
        text.contains("sidegate_feed_age_seconds +Inf") || text.contains("sidegate_feed_age_seconds inf"),
        "{text}"
    );
    assert!(!starting.is_finished());
    way.cut(false);
    let sidecar = starting.join().unwrap();
    // From the very first request on.
    assert_eq!(status(&sidecar, "/", &token), 401);
    assert_eq!(ready(), Some(200));
}

#[test]
fn what_is_not_fresh_any_more_is_refused_where_the_route_says_so() {
    let gateway = gateway();
    let token = client_token(&gateway);
    let way = Way::to(gateway.address());
    let sidecar = sidecar_before(&gateway, way.address, &Upstream::start(), "max_staleness: 2s");
    assert_eq!(status(&sidecar, "/strict", &token), 200);
    way.cut(true);
    let cut = Instant::now();
    wait_for("staleness", || (status(&sidecar, "/strict", &token) == 503).then_some(()));
    assert!(cut.elapsed() > Duration::from_millis(900), "a second at the most had passed since the last beat");
    let answer = sidecar.get_with("/strict", &token);
    assert_eq!((answer.member("error"), answer.header("retry-after")), ("service_unavailable".into(), Some("1")));
    assert_eq!(status(&sidecar, "/", &token), 200, "other routes go on");
    assert!(sidecar.metric("sidegate_feed_age_seconds") > 2.0);
    assert_eq!(sidecar.metric("sidegate_feed_stale"), 1.0);
    way.cut(false);
    wait_for("freshness", || (status(&sidecar, "/strict", &token) == 200).then_some(()));
    assert!(sidecar.metric("sidegate_feed_age_seconds") < 2.0);
    assert_eq!(sidecar.metric("sidegate_feed_stale"), 0.0);
    let log = sidecar.logged();
    assert_eq!(log.matches("the revocation feed is lost").count(), 1, "{log}");
}

#[test]
fn a_sidecar_starts_from_its_file_while_the_gateway_is_away() {
    let gateway = gateway();
    let way = Way::to(gateway.address());
    let (session, bystander) = (log_in(&gateway), client_token(&gateway));
    let more = "max_staleness: 2s, snapshot_file: state/revocations.snapshot";
    let dir = folder_with_keys(&gateway);
    std::fs::create_dir(dir.path().join("state")).unwrap();
    let config = sidecar_config(way.address, "", Upstream::start().address(), more);
    let mut sidecar = Sidegate::start_in(dir, &config);
    revoke(&gateway, "subject", Some("alice"));
    await_status(&sidecar, &session, 401);
    // It is written as it ends, too.
    sidecar.signal("TERM");
    assert!(sidecar.wait().success());
    way.cut(true);
    let file = sidecar.dir().join("state/revocations.snapshot");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let dir = sidecar.kill();

    let sidecar = Sidegate::start_in(dir, &config);
    assert_eq!((status(&sidecar, "/", &session), status(&sidecar, "/", &bystander)), (401, 200));
    assert!(sidecar.logged().contains("revocations as they were saved"));
    wait_for("staleness", || (status(&sidecar, "/strict", &bystander) == 503).then_some(()));
    let age = sidecar.metric("sidegate_feed_age_seconds");
    assert!((2.0..60.0).contains(&age), "{age}");
    // It goes on from where it was: nothing is told twice.
    way.set(|state| state.asked.clear());
    way.cut(false);
    wait_for("freshness", || (status(&sidecar, "/strict", &bystander) == 200).then_some(()));
    let asked = way.set(|state| state.asked.concat());
    assert!(asked.contains(&format!("GET {PATH}?after=")) && asked.contains(".1 HTTP/1.1"), "{asked}");

    // A file that is damaged, or cut off, is none: it is waited for a gateway.
    let dir = sidecar.kill();
    let whole = std::fs::read(&file).unwrap();
    let lines: Vec<_> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), 3, "a hello, an entry and the end");
    let one_less = [lines[0], lines[2]].concat();
    for damaged in [&whole[..whole.len() / 2], b"nonsense\n", b"", &whole[..whole.len() - 1], &one_less] {
        std::fs::write(&file, damaged).unwrap();
        let sidecar = Sidegate::start_in(tempfile::tempdir().unwrap(), &config_in(&config, dir.path()));
        assert!(sidecar.logged().contains("cannot be used"));
        assert_eq!((status(&sidecar, "/", &session), status(&sidecar, "/", &bystander)), (401, 200));
    }
}

/// The same configuration, whose files are in another folder.
fn config_in(config: &str, dir: &std::path::Path) -> String {
    let dir = dir.display();
    config.replace("keys.json", &format!("{dir}/keys.json")).replace("state/", &format!("{dir}/state/"))
}

#[test]
fn who_does_not_show_the_credential_learns_nothing() {
    let gateway = gateway();
    revoke(&gateway, "subject", Some("alice"));
    for authorization in ["", "Bearer", "Bearer feed", &format!("Bearer {CREDENTIAL}x"), &format!("Basic {CREDENTIAL}")]
    {
        let answer = gateway.get(PATH, &[("Authorization", authorization)]);
        assert_eq!((answer.status, answer.member("error")), (401, "invalid_token".into()), "{authorization}");
    }
    assert_eq!(gateway.post_form(PATH, &[], "").status, 405);
    // A sidecar with another one says so, and is not ready.
    let dir = folder_with_keys(&gateway);
    let config = sidecar_config(gateway.address(), "", Upstream::start().address(), "max_staleness: 30s");
    write_config(dir.path(), &config.replace(CREDENTIAL, "anotheranotheranotheranotheranother"));
    let said = complains_until(dir.path(), "status 401");
    assert!(!said.contains("another"), "{said}");
    // Where no credential is configured there is no feed: it is a path like any other.
    let closed = Sidegate::start(&config_with_issuer(
        Upstream::start().address(),
        "routes: [{ name: all, match: { path_prefix: / }, upstream: app }]\n",
    ));
    let answer = closed.get(PATH, &[("Authorization", &format!("Bearer {CREDENTIAL}"))]);
    assert_eq!((answer.status, answer.member("error")), (401, "invalid_token".into()));
    assert_eq!(closed.get_with(PATH, &client_token(&closed)).status, 200, "it went to the upstream");
}

/// What a Sidegate that cannot become ready logs, up to a line with `mark`.
fn complains_until(dir: &std::path::Path, mark: &str) -> String {
    let mut command = crate::support::command(dir);
    let mut child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains(mark) {
        assert!(std::io::BufRead::read_line(&mut log, &mut said).unwrap() > 0, "{said}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    said
}

#[test]
fn what_goes_on_at_a_sidecar_ends_when_the_gateway_revokes_it() {
    let gateway = gateway();
    let endless = Upstream::with(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").unwrap();
        let _ = stream.read(&mut [0]);
        false
    });
    let sidecar = sidecar_before(&gateway, gateway.address(), &endless, "max_staleness: 30s");
    let token = log_in(&gateway);
    let mut stream = begin_to_read(sidecar.address(), &token, b"hello\r\n");
    revoke(&gateway, "subject", Some("alice"));
    let mut rest = Vec::new();
    assert!(stream.read_to_end(&mut rest).is_ok() || !rest.is_empty() || stream.peek(&mut [0]).is_err());
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it broke off");
    wait_for("the count", || {
        (sidecar.metric("sidegate_streams_ended_total{reason=\"token_revoked\"}") == 1.0).then_some(())
    });
}
