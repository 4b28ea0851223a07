//! Many sidecars, and everything that happens to them.

use std::sync::{
    RwLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::*;
use crate::support::Random;

fn soaking() -> bool {
    std::env::var_os("SIDEGATE_SOAK").is_some()
}

/// One session of alice, and a client's token: as they are revoked by one kind of revocation.
struct Victim {
    kind: &'static str,
    id: Option<String>,
    token: String,
}

fn victim(gateway: &Sidegate, n: usize) -> Victim {
    let kinds = ["token", "session", "subject", "client", "everything"];
    let kind = kinds[n % kinds.len()];
    let token = log_in(gateway);
    let id = match kind {
        "token" => Some(claim(&token, "jti")),
        "session" => Some(claim(&token, "sid")),
        "subject" => Some("alice".into()),
        "client" => Some("app".into()),
        _ => None,
    };
    Victim { kind, id, token }
}

/// How long each of many sidecars lets a token in after its revocation was acknowledged, while others keep them busy; and
/// that nothing else is refused.
#[test]
fn storm_of_revocations_reaches_every_sidecar_and_refuses_nobody_else() {
    let (sidecars, rounds) = if soaking() { (20, 1000) } else { (6, 60) };
    let gateway = gateway();
    let upstream = Upstream::start();
    let sidecars: Vec<_> =
        (0..sidecars).map(|_| sidecar_before(&gateway, gateway.address(), &upstream, "max_staleness: 30s")).collect();
    let addresses: Vec<_> = sidecars.iter().map(Sidegate::address).collect();
    let bystander = RwLock::new(client_token(&gateway));
    let (over, passed, mut late) = (AtomicBool::new(false), AtomicUsize::new(0), Vec::new());
    thread::scope(|scope| {
        for worker in 0..2 {
            let (addresses, bystander, over, passed) = (&addresses, &bystander, &over, &passed);
            scope.spawn(move || {
                for sidecar in addresses.iter().cycle().skip(worker) {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    // Its lock is held: nobody revokes what it is good for meanwhile.
                    let token = bystander.read().unwrap();
                    let answer = request(*sidecar, "GET", "/", &[("Authorization", &format!("Bearer {token}"))], b"");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    passed.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for n in 0..rounds {
            let Victim { kind, id, token } = victim(&gateway, n);
            let mut bystander = bystander.write().unwrap();
            assert_eq!(status(&sidecars[n % sidecars.len()], "/", &token), 200);
            revoke(&gateway, kind, id.as_deref());
            let acknowledged = Instant::now();
            // Whatever it has reached, whoever begins now is let in everywhere.
            *bystander = client_token(&gateway);
            drop(bystander);
            for sidecar in &sidecars {
                await_status(sidecar, &token, 401);
            }
            late.push(acknowledged.elapsed());
        }
        over.store(true, Ordering::Relaxed);
    });
    late.sort_unstable();
    let (half, p99, most) = (late[late.len() / 2], late[late.len() * 99 / 100], late[late.len() - 1]);
    eprintln!(
        "{} revocations, {} sidecars, {} good requests: to the last sidecar half {half:?}, p99 {p99:?}, worst {most:?}",
        rounds,
        sidecars.len(),
        passed.load(Ordering::Relaxed)
    );
    // What is promised; much less is usual.
    assert!(most < Duration::from_secs(if soaking() { 1 } else { 5 }), "{most:?}");
    let expected = table(&gateway);
    assert!(expected.len() >= rounds / 5);
    for sidecar in &sidecars {
        assert_eq!(table(sidecar), expected);
        assert_eq!(sidecar.metric("sidegate_revocation_propagation_seconds_count") as usize, rounds);
    }
}

/// A sidecar, its way to the gateway, and what has been done to it.
struct Tried {
    sidecar: Option<Sidegate>,
    config: String,
    way: Way,
    paused: bool,
    cut: Option<Instant>,
}

#[test]
fn storm_of_failures_ends_with_every_table_alike_and_nobody_claims_to_be_fresh_who_is_not() {
    let (count, steps, seeds) = if soaking() { (8, 400, 1..4_u64) } else { (3, 60, 1..2) };
    for seed in seeds {
        chaos(count, steps, seed);
    }
}

fn chaos(count: usize, steps: usize, seed: u64) {
    let mut random = Random(seed);
    let mut gateway = Some(gateway());
    let upstream = Upstream::start();
    let mut all: Vec<_> = (0..count)
        .map(|_| {
            let way = Way::to(gateway.as_ref().unwrap().address());
            let config = sidecar_config(
                way.address,
                "",
                upstream.address(),
                "max_staleness: 2s, snapshot_file: revocations.snapshot",
            );
            let dir = folder_with_keys(gateway.as_ref().unwrap());
            Tried { sidecar: Some(Sidegate::start_in(dir, &config)), config, way, paused: false, cut: None }
        })
        .collect();
    for step in 0..steps {
        let which = random.below(count);
        match random.below(12) {
            0..5 => {
                let gateway = gateway.as_ref().unwrap();
                match random.below(6) {
                    0 => drop(revoke(gateway, "everything", None)),
                    1 => drop(revoke(gateway, "subject", Some(&format!("user-{}", random.below(5))))),
                    2 => {
                        let number = revoke(gateway, "client", Some("somebody"));
                        admin(gateway, "DELETE", &format!("/admin/revocations/{number}"), &Value::Null);
                    }
                    3 => drop(revoke(gateway, "session", Some(&claim(&log_in(gateway), "sid")))),
                    _ => drop(revoke(gateway, "token", Some(&format!("jti-{step}")))),
                }
            }
            5 | 6 => {
                let cut = all[which].cut.is_none();
                all[which].way.cut(cut);
                all[which].cut = cut.then(Instant::now);
            }
            7 | 8 => {
                let tried = &mut all[which];
                tried.paused = !tried.paused;
                tried.sidecar.as_ref().unwrap().signal(if tried.paused { "STOP" } else { "CONT" });
            }
            9 if !all[which].paused => {
                // It comes back with what its file knows, or waits for the gateway.
                let tried = &mut all[which];
                let dir = tried.sidecar.take().unwrap().kill();
                if tried.cut.take().is_some() {
                    tried.way.cut(false);
                }
                tried.sidecar = Some(Sidegate::start_in(dir, &tried.config));
            }
            10 => {
                let dir = gateway.take().unwrap().kill();
                let again = gateway_in(dir);
                all.iter().for_each(|tried| tried.way.set(|state| state.to = again.address()));
                gateway = Some(again);
            }
            _ => {
                let stopped = Duration::from_millis(random.below(400) as u64);
                let gateway = gateway.as_ref().unwrap();
                gateway.signal("STOP");
                thread::sleep(stopped);
                gateway.signal("CONT");
            }
        }
        for tried in all.iter().filter(|tried| !tried.paused) {
            let (sidecar, asked) = (tried.sidecar.as_ref().unwrap(), Instant::now());
            let age = sidecar.metric("sidegate_feed_age_seconds");
            if let Some(cut) = tried.cut {
                // What it knows is as old as the cut, at the least. Beats that had arrived by then are all it has.
                let gone = asked.duration_since(cut).as_secs_f64();
                assert!(age + 0.05 >= gone, "seed {seed}, step {step}: cut off for {gone} s, and {age} s old");
                if gone > 2.1 {
                    let token = client_token(gateway.as_ref().unwrap());
                    assert_eq!(status(sidecar, "/strict", &token), 503, "seed {seed}, step {step}");
                }
            }
        }
    }
    for tried in &mut all {
        if std::mem::take(&mut tried.paused) {
            tried.sidecar.as_ref().unwrap().signal("CONT");
        }
        tried.way.cut(false);
    }
    let gateway = gateway.unwrap();
    let fresh = client_token(&gateway);
    for tried in &all {
        let sidecar = tried.sidecar.as_ref().unwrap();
        wait_for("a fresh sidecar", || (status(sidecar, "/strict", &fresh) == 200).then_some(()));
        let expected = table(&gateway);
        let start = Instant::now();
        while table(sidecar) != expected {
            assert!(
                start.elapsed() < PATIENCE,
                "seed {seed}: the gateway has\n{expected:#?}\nand a sidecar\n{:#?}",
                table(sidecar)
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}
