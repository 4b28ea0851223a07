//! What goes wrong on the way, and is healed.

use super::*;

fn healed(sidecar: &Sidegate, cause: &str) -> f64 {
    sidecar.metric(&format!("sidegate_feed_healed_total{{cause=\"{cause}\"}}"))
}

fn same_tables(gateway: &Sidegate, sidecar: &Sidegate) {
    let mut seen = (BTreeSet::new(), BTreeSet::new());
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        seen = (table(gateway), table(sidecar));
        if seen.0 == seen.1 {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("the gateway has\n{:#?}\nand the sidecar\n{:#?}", seen.0, seen.1);
}

#[test]
fn a_line_that_is_damaged_or_missing_has_all_of_it_told_again() {
    let gateway = gateway();
    let way = Way::to(gateway.address());
    let sidecar = sidecar(&gateway, way.address);
    revoke(&gateway, "token", Some("first"));
    same_tables(&gateway, &sidecar);
    type Change = fn(Vec<u8>) -> Vec<u8>;
    let flipped: Change = |mut bytes| {
        let at = bytes.iter().position(|byte| *byte == b'{').unwrap() + 20;
        bytes[at] ^= 1;
        bytes
    };
    // What goes by is a chunk of its own; another one of its length takes its place.
    let swallowed: Change = |bytes| {
        let text = String::from_utf8(bytes).unwrap();
        let (size, rest) = text.split_once("\r\n").unwrap();
        let length = usize::from_str_radix(size, 16).unwrap();
        let mut out = format!("{size}\r\n").into_bytes();
        let mut beat = Vec::new();
        sidegate::revocation::wire::Line::Beat(sidegate::revocation::wire::Beat { prev: 90, n: 99, clock: 1 })
            .write(&mut beat);
        // JSON takes spaces; the sum of the line is made over them.
        let pad = length.checked_sub(beat.len()).expect("an entry is longer than a beat");
        let json = [&beat[9..beat.len() - 1], &b" ".repeat(pad)[..]].concat();
        out.extend(format!("{:08x} ", crc32(&json)).into_bytes());
        out.extend(json);
        out.push(b'\n');
        out.extend(&rest.as_bytes()[length..]);
        out
    };
    for (n, (cause, change)) in [("damaged", flipped), ("gap", swallowed)].into_iter().enumerate() {
        // Until it is an entry that goes by, and no beat.
        way.set(|state| state.change = None);
        way.set(|state| state.asked.clear());
        let armed = way.clone();
        let changed = Arc::new(Mutex::new(false));
        arm(&armed, change, &changed);
        let number = revoke(&gateway, "token", Some(&format!("lost-{n}")));
        wait_for("the change", || changed.lock().unwrap().then_some(()));
        same_tables(&gateway, &sidecar);
        assert_eq!(healed(&sidecar, cause), 1.0, "{cause} {number}");
        // Not only what is missing: who lost one line may have lost more.
        let asked = way.set(|state| state.asked.concat());
        assert!(asked.contains(&format!("GET {PATH} HTTP/1.1")), "{asked}");
    }
    let token = client_token(&gateway);
    revoke(&gateway, "client", Some("app"));
    await_status(&sidecar, &token, 401);
    assert_eq!(healed(&sidecar, "damaged") + healed(&sidecar, "gap"), 2.0);
}

/// Has the next entry that goes by changed.
fn arm(way: &Way, change: fn(Vec<u8>) -> Vec<u8>, changed: &Arc<Mutex<bool>>) {
    let (again, done) = (way.clone(), changed.clone());
    way.set(|state| {
        state.change = Some(Box::new(move |bytes| {
            if bytes.windows(7).any(|window| window == b"\"entry\"") {
                *done.lock().unwrap() = true;
                change(bytes)
            } else {
                // Not from within the lock that is held here.
                let done = done.clone();
                thread::spawn(move || arm(&again, change, &done));
                bytes
            }
        }));
    });
}

fn crc32(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(!0_u32, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 * (sum & 1))))
        ^ !0
}

#[test]
fn what_lay_in_a_buffer_on_the_way_is_as_old_as_it_is() {
    let gateway = gateway();
    let token = client_token(&gateway);
    let way = Way::to(gateway.address());
    let sidecar = sidecar_before(&gateway, way.address, &Upstream::start(), "max_staleness: 2s");
    assert_eq!(status(&sidecar, "/strict", &token), 200);
    way.set(|state| state.delay = Duration::from_millis(2500));
    wait_for("staleness", || (status(&sidecar, "/strict", &token) == 503).then_some(()));
    // Beats come as regularly as before, a second apart, and every one of them is old.
    let (began, mut before, mut beats) = (Instant::now(), 0.0, 0);
    while beats < 3 {
        assert!(began.elapsed() < PATIENCE, "no beat comes");
        assert_eq!(status(&sidecar, "/strict", &token), 503);
        let age = sidecar.metric("sidegate_feed_age_seconds");
        assert!(age > 2.0, "{age}");
        beats += u32::from(age < before);
        before = age;
        thread::sleep(Duration::from_millis(20));
    }
    way.set(|state| state.delay = Duration::ZERO);
    wait_for("freshness", || (status(&sidecar, "/strict", &token) == 200).then_some(()));
}

#[test]
fn a_gateway_that_comes_back_goes_on_and_one_that_lost_its_store_lifts_nothing() {
    let gateway = gateway();
    let way = Way::to(gateway.address());
    let sidecar = sidecar(&gateway, way.address);
    let (before, other) = (log_in(&gateway), client_token(&gateway));
    revoke(&gateway, "subject", Some("alice"));
    // Nothing has been done since it was acknowledged.
    let dir = gateway.kill();
    let gateway = gateway_in(dir);
    way.set(|state| state.to = gateway.address());
    assert_eq!(status(&gateway, "/", &before), 401);
    await_status(&sidecar, &before, 401);
    same_tables(&gateway, &sidecar);
    assert_eq!(healed(&sidecar, "new_life"), 0.0);
    let after = log_in(&gateway);
    assert_eq!(status(&sidecar, "/", &after), 200);

    // The log is lost, and the keys are not.
    let dir = gateway.kill();
    std::fs::remove_file(dir.path().join("data/store.redb")).unwrap();
    way.cut(true);
    let gateway = gateway_in(dir);
    way.set(|state| state.to = gateway.address());
    way.cut(false);
    wait_for("a new life", || (healed(&sidecar, "new_life") == 1.0).then_some(()));
    assert_eq!(status(&sidecar, "/", &before), 401, "a snapshot never lifts");
    assert_eq!((status(&sidecar, "/", &after), status(&sidecar, "/", &other)), (200, 200));
    let fresh = log_in(&gateway);
    assert_eq!(status(&sidecar, "/", &fresh), 200);
    // Its first entry has a number that the old log had too, and reaches what the old one had let in.
    assert_eq!(revoke(&gateway, "subject", Some("alice")), 1);
    await_status(&sidecar, &after, 401);
    assert_eq!(status(&sidecar, "/", &fresh), 401);
    assert_eq!(status(&sidecar, "/", &log_in(&gateway)), 200);
}

#[test]
fn a_gateway_whose_store_comes_from_a_backup_goes_on_and_reaches_what_it_has_forgotten() {
    let gateway = gateway();
    let way = Way::to(gateway.address());
    let sidecar = sidecar(&gateway, way.address);
    revoke(&gateway, "token", Some("before"));
    let command = |dir: &std::path::Path, arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sidegate"));
        let output = command.current_dir(dir).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    command(gateway.dir(), &["store", "backup", "copy"]);
    // What happens now is lost to the gateway; the sidecar has heard of it.
    let forgotten = client_token(&gateway);
    revoke(&gateway, "token", Some(&claim(&forgotten, "jti")));
    let session = log_in(&gateway);
    await_status(&sidecar, &forgotten, 401);
    assert_eq!(status(&sidecar, "/", &session), 200);

    let dir = gateway.kill();
    let store = dir.path().join("data/store.redb");
    std::fs::rename(&store, store.with_extension("before")).unwrap();
    command(dir.path(), &["store", "restore", "copy"]);
    way.cut(true);
    let gateway = gateway_in(dir);
    assert!(gateway.logged_until(|log| log.contains("is a backup")).contains("must log in again"));
    way.set(|state| (state.to, state.asked) = (gateway.address(), Vec::new()));
    way.cut(false);

    // It goes on where it was, and keeps what it knows.
    let number = revoke(&gateway, "token", Some("after"));
    assert!(number > 1 << 32, "{number}");
    let entry = format!("{number} \"token\" \"after\"");
    wait_for("the entry", || table(&sidecar).iter().any(|it| it.starts_with(&entry)).then_some(()));
    let asked = way.set(|state| state.asked.concat());
    assert!(asked.contains("after="), "it asked for what follows the entry that it had heard last: {asked}");
    for cause in ["new_life", "rolled_back", "gap", "damaged"] {
        assert_eq!(healed(&sidecar, cause), 0.0, "{cause}");
    }
    assert_eq!((status(&gateway, "/", &forgotten), status(&sidecar, "/", &forgotten)), (200, 401));

    // A log-out reaches the session that the gateway has never heard of.
    assert_eq!((status(&gateway, "/", &session), status(&sidecar, "/", &session)), (200, 200));
    revoke(&gateway, "subject", Some("alice"));
    assert_eq!(status(&gateway, "/", &session), 401);
    await_status(&sidecar, &session, 401);
    let fresh = log_in(&gateway);
    assert_eq!((status(&gateway, "/", &fresh), status(&sidecar, "/", &fresh)), (200, 200));
    // Whoever comes anew hears the same.
    let newcomer = self::sidecar(&gateway, gateway.address());
    same_tables(&gateway, &newcomer);
    assert_eq!((status(&newcomer, "/", &session), status(&newcomer, "/", &fresh)), (401, 200));
}

#[test]
fn of_several_gateways_another_is_asked_when_one_is_away() {
    let gateway = gateway();
    let (one, other) = (Way::to(gateway.address()), Way::to(gateway.address()));
    one.cut(true);
    let dir = folder_with_keys(&gateway);
    let urls = format!("urls: ['http://{}{PATH}', 'http://{}{PATH}']", one.address, other.address);
    let config = sidecar_config(one.address, "", Upstream::start().address(), "max_staleness: 2s")
        .replace(&format!("url: 'http://{}{PATH}'", one.address), &urls);
    let sidecar = Sidegate::start_in(dir, &config);
    let token = client_token(&gateway);
    assert_eq!(status(&sidecar, "/strict", &token), 200);
    one.cut(false);
    other.cut(true);
    revoke(&gateway, "client", Some("app"));
    await_status(&sidecar, &token, 401);
    assert!(!one.set(|state| state.asked.clone()).is_empty());
}

#[test]
fn a_gateway_that_is_told_to_stop_lets_its_followers_go_at_once() {
    let mut gateway = gateway();
    let sidecar = sidecar(&gateway, gateway.address());
    let started = Instant::now();
    gateway.signal("TERM");
    assert!(gateway.wait().success());
    assert!(started.elapsed() < Duration::from_secs(10), "the answer would go on for ever");
    assert_eq!(status(&sidecar, "/", "x"), 401);
}
