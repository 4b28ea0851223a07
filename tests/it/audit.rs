//! The audit log as operators find it: its lines, its file, what of it can be lost, and what is never in it.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
};

use serde_json::{Value, json};
use sidegate::{
    clock::{Clock, Rfc3339, Timestamp},
    telemetry::{
        Metrics,
        audit::{Audit, Destination, Event, Facts},
    },
};

use crate::support::{
    Answer, PATIENCE, Sidegate, Upstream, client, command as program, config_with_issuer, request, tokens::argon2id,
    wait_for, write_config,
};

const ADMIN: &str = "a0d1m2i3n4a0d1m2i3n4a0d1m2i3n4a0";
const FEED: &str = "f0e1e2d3f0e1e2d3f0e1e2d3f0e1e2d3";
const MASTER: &str = "m0a1s2t3e4r5m0a1s2t3e4r5m0a1s2t3";
const CLIENT: &str = "cl13nt-s3cr3t";
const PASSWORD: &str = "w0nd3rl4nd";
const BASIC: &str = "Basic YXBwOmNsMTNudC1zM2NyM3Q=";
const OWN: &str = "grant_type=client_credentials";

/// A configuration with the log at `to`, and secrets that nothing else looks like.
fn config(to: &str) -> String {
    let rest = format!(
        "\x20 revocation_feed: {{ credential: {FEED} }}\n\
         \x20 master_key: {MASTER}\n\
         routes: [{{ name: all, match: {{ path_prefix: / }}, upstream: app }}]\n\
         log: {{ audit: {to} }}\n"
    );
    let secret = |text: &[u8]| client::hex(&client::sha256(text));
    let config = config_with_issuer(Upstream::start().address(), &rest)
        .replace("admin: { address: 127.0.0.1:0 }", &format!("admin: {{ address: 127.0.0.1:0, token: {ADMIN} }}"))
        .replace(&secret(b"secret"), &secret(CLIENT.as_bytes()));
    let hash = config.split("password_hash: '").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    config.replace(&hash, &argon2id(PASSWORD))
}

fn token(gate: &Sidegate, authorization: &str, form: &str) -> Answer {
    gate.post_form("/oauth/token", &[("Authorization", authorization), ("User-Agent", "caf\u{e9}/1 \"x\"")], form)
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"))).collect()
}

/// How often there is such a line.
fn count(lines: &[Value], event: &str, outcome: &str) -> usize {
    lines.iter().filter(|line| line["event"] == event && line["outcome"] == outcome).count()
}

fn run(gate: &Sidegate, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidegate"));
    let Output { status, stdout, stderr } = command.current_dir(gate.dir()).args(arguments).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

#[test]
fn a_run_is_told_without_a_secret_of_it() {
    let mut gate = Sidegate::start(&config("audit.log"));
    let login = |username: &str, password: &str| {
        token(&gate, BASIC, &format!("grant_type=password&username={username}&password={password}"))
    };
    let tokens = login("alice", PASSWORD);
    let (access, refresh) = (tokens.member("access_token"), tokens.member("refresh_token"));
    // A password in the wrong field; a secret in the place of a name.
    assert_eq!(login(PASSWORD, "alice").status, 400);
    assert_eq!(login("alice", "p4ssw0rd-gu3ss").status, 400);
    let swapped = format!("{OWN}&client_id={CLIENT}&client_secret=app");
    assert_eq!(gate.post_form("/oauth/token", &[], &swapped).status, 401);
    assert_eq!(token(&gate, "Basic YXBwOmd1M3NzM2Q=", OWN).status, 401);
    let again = token(&gate, BASIC, &format!("grant_type=refresh_token&refresh_token={refresh}"));
    let (second, successor) = (again.member("access_token"), again.member("refresh_token"));
    assert_eq!(token(&gate, BASIC, &format!("grant_type=refresh_token&refresh_token={refresh}x")).status, 400);
    assert_eq!(token(&gate, BASIC, &format!("{OWN}&scope={PASSWORD}")).status, 400);
    let own = token(&gate, BASIC, OWN).member("access_token");
    let revoke = |what: &str| gate.post_form("/oauth/revoke", &[("Authorization", BASIC)], &format!("token={what}"));
    assert_eq!((revoke(&own).status, revoke(&successor).status), (200, 200));
    for shown in [format!("Bearer {ADMIN}x"), "Bearer gu3ss3d-t0k3n".into()] {
        let headers = [("Authorization", &*shown), ("User-Agent", "intruder/1")];
        assert_eq!(request(gate.admin_address(), "GET", "/admin/sessions", &headers, b"").status, 401);
    }
    assert_eq!(gate.get_with("/oauth/revocations", "gu3ss3d-t0k3n").status, 401);
    let admin = format!("Bearer {ADMIN}");
    let body = json!({ "kind": "subject", "id": "alice", "reason": "laptop \"stolen\"" }).to_string();
    let headers = [("Authorization", &*admin), ("User-Agent", "console/2")];
    let made = request(gate.admin_address(), "POST", "/admin/revocations", &headers, body.as_bytes());
    assert_eq!(made.status, 201);
    let number = made.json()["number"].to_string();
    run(&gate, &["revocations", "lift", &number, "--reason", "found"]);
    run(&gate, &["keys", "rotate", "--now"]);
    gate.signal("TERM");
    assert!(gate.wait().success());

    let path = gate.dir().join("audit.log");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = text(&path);
    let lines = lines(&text);
    for (event, outcome, times) in [
        ("process", "started", 1),
        ("process", "stopped", 1),
        ("login", "ok", 1),
        ("login", "failed", 2),
        ("session", "opened", 1),
        ("token", "issued", 3),
        ("token", "refused", 1),
        ("refresh", "rotated", 1),
        ("refresh", "forged", 1),
        ("client_authentication", "failed", 2),
        ("revocation", "made", 3),
        ("revocation", "lifted", 1),
        ("admin", "refused", 2),
        ("follower", "refused", 1),
        ("signing_key", "made", 2),
        ("signing_key", "activated", 2),
        ("signing_key", "retired", 1),
    ] {
        assert_eq!(count(&lines, event, outcome), times, "{event} {outcome} in\n{text}");
    }
    assert_eq!(lines.last().unwrap()["outcome"], "stopped");
    for line in &lines {
        let time = line["time"].as_str().unwrap();
        assert!(time.len() == 24 && time.starts_with("20") && time.ends_with('Z'), "{time}");
    }
    let one = |event: &str, outcome: &str, member: &str, value: &str| {
        let found = lines.iter().find(|it| it["event"] == event && it["outcome"] == outcome && it[member] == value);
        found.unwrap_or_else(|| panic!("no {event} {outcome} with {member} {value} in\n{text}"))
    };
    let login = one("login", "ok", "username", "alice");
    assert_eq!((&login["address"], &login["agent"]), (&json!("127.0.0.1"), &json!("caf??/1 \"x\"")));
    let by_admin = one("revocation", "made", "cause", "admin_api");
    assert_eq!((&by_admin["address"], &by_admin["agent"]), (&json!("127.0.0.1"), &json!("console/2")));
    assert_eq!((&by_admin["reason"], &by_admin["number"]), (&json!("laptop \"stolen\""), &made.json()["number"]));
    let us = fs::metadata(gate.dir()).unwrap().uid();
    assert_eq!(one("revocation", "lifted", "cause", "command")["uid"], us);
    assert_eq!(one("signing_key", "retired", "cause", "command")["uid"], us);
    assert_eq!(one("admin", "refused", "error", "invalid_token")["agent"], "intruder/1");

    let keys = fs::read_to_string(gate.dir().join("data/signing-keys.json")).unwrap();
    let sealed = keys.split('"').filter(|text| text.len() > 60).map(str::to_owned);
    let config = fs::read_to_string(gate.dir().join("config.yaml")).unwrap();
    let hashes =
        config.split(['\'', '"', '$']).filter(|text| text.len() >= 20 && !text.contains([' ', '/'])).map(str::to_owned);
    let parts =
        [&access, &second, &own, &refresh, &successor].map(|token| token.split('.').next_back().unwrap().to_owned());
    let typed =
        [ADMIN, FEED, MASTER, CLIENT, PASSWORD, BASIC, &BASIC[6..], "p4ssw0rd-gu3ss", "gu3ss", "Bearer", "argon2"];
    let secrets = typed.into_iter().map(str::to_owned).chain(parts).chain(sealed).chain(hashes);
    let secrets: Vec<_> = secrets.collect();
    assert!(secrets.len() > 18, "{secrets:?}");
    for secret in secrets {
        assert!(!secret.is_empty() && !text.contains(&secret), "{secret} is in\n{text}");
    }
}

#[test]
fn a_file_that_was_moved_away_is_begun_anew_and_no_line_is_lost() {
    let gate = Sidegate::start(&config("audit.log"));
    let (path, old) = (gate.dir().join("audit.log"), gate.dir().join("audit.log.1"));
    let mut issued = 0;
    let mut issue = || {
        issued += 1;
        assert_eq!(token(&gate, BASIC, OWN).status, 200);
        issued
    };
    let written = |path: &Path| count(&lines(&text(path)), "token", "issued");
    issue();
    wait_for("the first line", || (written(&path) == 1).then_some(()));
    fs::rename(&path, &old).unwrap();
    wait_for("another file", || {
        issue();
        path.exists().then_some(())
    });
    // And one that is gone altogether, with what was in it.
    let moved = wait_for("its lines", || Some(written(&old)).filter(|old| old + written(&path) == issued));
    assert!(moved >= 1);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::remove_file(&path).unwrap();
    wait_for("another file", || {
        token(&gate, BASIC, OWN);
        path.exists().then_some(())
    });
    // Who turns it over may put another one there, with a mode of its own.
    fs::rename(&path, &old).unwrap();
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    wait_for("a line in it", || {
        token(&gate, BASIC, OWN);
        (written(&path) > 0).then_some(())
    });
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(gate.admin("/metrics").text().contains("\nsidegate_audit_lines_lost_total 0\n"));
}

#[test]
fn what_the_disk_refuses_is_counted_said_once_and_told_of_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    symlink("/dev/full", &path).unwrap();
    let gate = Sidegate::start_in(dir, &config("audit.log"));
    let lost = || gate.metric("sidegate_audit_lines_lost_total");
    for n in 1..=20 {
        assert_eq!(token(&gate, BASIC, OWN).status, 200);
        // That it started, and its first key, are lost too.
        wait_for("what is lost", || (lost() >= f64::from(n) + 3.0).then_some(()));
    }
    let log = gate.logged_until(|log| log.contains("lines of the audit log are lost"));
    assert!(log.contains("No space left"), "{log}");
    // There is space again.
    fs::remove_file(&path).unwrap();
    wait_for("the file", || {
        assert_eq!(token(&gate, BASIC, OWN).status, 200);
        (!text(&path).is_empty()).then_some(())
    });
    let log = log + &gate.logged();
    assert_eq!(log.matches("lines of the audit log are lost").count(), 1, "{log}");
    let first = wait_for("a line", || text(&path).lines().next().map(str::to_owned));
    let first = lines(&first).remove(0);
    assert_eq!((&first["event"], &first["outcome"]), (&json!("audit"), &json!("lost")));
    assert_eq!(first["lines"].as_f64().unwrap(), lost());
}

/// Begins something that must come to its end soon; answers how to wait for that.
fn within_patience<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> impl FnOnce() -> T {
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(work()));
    move || result.recv_timeout(PATIENCE).unwrap()
}

#[test]
fn whoever_tells_never_waits_and_each_line_is_written_or_counted() {
    const TOLD: usize = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR, 0).unwrap();
    let (clock, metrics) = (Clock::System, Metrics::new().unwrap());
    // Nobody reads from it: it takes 64 KiB, and then nothing more.
    let (audit, keeper) = Audit::start(&Destination::File(path.clone()), clock, metrics.clone()).unwrap();
    let tellers: Vec<_> = (0..4)
        .map(|_| {
            let audit = audit.clone();
            within_patience(move || (0..TOLD / 4).for_each(|_| audit.tell(Event::LoginFailed, Facts::default())))
        })
        .collect();
    tellers.into_iter().for_each(|wait| wait());
    let read = within_patience(move || {
        // Opened before the writer hangs up, so that there is an end to be seen.
        let mut text = String::new();
        File::open(path).unwrap().read_to_string(&mut text).unwrap();
        text
    });
    audit.tell(Event::Stopped, Facts::default());
    drop(keeper);
    let lines = lines(&read());
    let exposed = String::from_utf8(metrics.render().unwrap()).unwrap();
    let lost = exposed.lines().find_map(|line| line.strip_prefix("sidegate_audit_lines_lost_total ")).unwrap();
    let lost: usize = lost.parse().unwrap();
    let written = count(&lines, "login", "failed") + count(&lines, "process", "stopped");
    assert!(lost > 1000 && written > 8192, "{lost} {written}");
    assert_eq!(written + lost, TOLD + 1);
    let told: u64 = lines.iter().filter_map(|line| line["lines"].as_u64()).sum();
    assert!(told > 0 && told <= lost as u64, "{told} {lost}");
}

#[test]
fn a_line_that_came_half_way_spoils_no_other() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("audit.log"), "{\"time\":\"2026-").unwrap();
    let gate = Sidegate::start_in(dir, &config("audit.log"));
    let path = gate.dir().join("audit.log");
    let text = wait_for("lines", || Some(text(&path)).filter(|text| text.contains("started")));
    let (half, whole) = text.split_once('\n').unwrap();
    assert_eq!(half, "{\"time\":\"2026-");
    assert_eq!(count(&lines(whole), "process", "started"), 1);
}

#[test]
fn it_can_go_to_standard_output() {
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), &config("stdout"));
    let mut child = program(dir.path()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut printed = String::new();
    while !printed.contains("\"started\"") {
        assert_ne!(out.read_line(&mut printed).unwrap(), 0, "{printed}");
    }
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    out.read_to_string(&mut printed).unwrap();
    assert!(child.wait().unwrap().success());
    let ours: Vec<_> = printed.lines().filter(|line| line.starts_with('{')).collect();
    let lines = lines(&ours.join("\n"));
    assert_eq!((count(&lines, "signing_key", "made"), count(&lines, "process", "stopped")), (1, 1), "{printed}");
    assert!(!dir.path().join("stdout").exists());
}

#[test]
fn a_log_that_cannot_be_written_is_no_start() {
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), &config("nowhere/audit.log"));
    let output = program(dir.path()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("nowhere/audit.log cannot be written: No such file"), "{said}");
}

#[test]
fn times_are_those_of_the_calendar() {
    for (millis, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_399_999, "2000-02-28T23:59:59.999Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (1_709_251_199_007, "2024-02-29T23:59:59.007Z"),
        (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
        (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
        (1_735_689_600_000, "2025-01-01T00:00:00.000Z"),
        (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
    ] {
        assert_eq!(Rfc3339(Timestamp(millis)).to_string(), text);
    }
}
