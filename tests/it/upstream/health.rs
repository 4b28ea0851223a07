//! Active health checks.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::SeqCst},
};

use http::{Response, StatusCode};

use super::{
    endpoints, gate,
    peer::{Peer, WIRES, Wire, whole},
};
use crate::support::wait_for;

struct Patient {
    peer: Peer,
    status: Arc<AtomicU16>,
    checks: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

/// An upstream whose health is as it is told.
fn patient(wire: &Wire) -> Patient {
    let (status, checks, asked) = (Arc::new(AtomicU16::new(204)), Arc::default(), Arc::default());
    let (state, check_count, ask_count): (_, Arc<AtomicUsize>, Arc<AtomicUsize>) =
        (status.clone(), Arc::clone(&checks), Arc::clone(&asked));
    let peer = Peer::start(wire, move |request| {
        let health = request.uri().path() == "/are-you-well";
        let code = if health { state.load(SeqCst) } else { 200 };
        if health { &check_count } else { &ask_count }.fetch_add(1, SeqCst);
        assert!(!health || request.headers()["user-agent"] == "sidegate-health-check");
        async move {
            let mut response = Response::new(whole(""));
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            response
        }
    });
    Patient { peer, status, checks, asked }
}

#[test]
fn who_is_not_well_gets_nothing_until_it_is() {
    for wire in &WIRES {
        let one = patient(wire);
        let gate = gate(&format!(
            "{}, health_check: {{ path: /are-you-well, interval: 10ms, timeout: 5s, unhealthy_after: 2, healthy_after: 2 }}",
            one.peer.config()
        ));
        let state = |state| wait_for(state, || (endpoints(&gate, state) == 1.0).then_some(()));
        wait_for("a check", || (one.checks.load(SeqCst) > 2).then_some(()));
        assert_eq!(endpoints(&gate, "healthy"), 1.0, "{}", one.peer.url());
        one.status.store(503, SeqCst);
        state("unhealthy");
        // The only one is asked all the same.
        assert_eq!(gate.get("/", &[]).status, 200);
        one.status.store(200, SeqCst);
        state("healthy");
        assert_eq!(endpoints(&gate, "unhealthy"), 0.0);
    }
}

#[test]
fn the_others_get_what_one_does_not() {
    let (well, ill) = (patient(&Wire::Http2), patient(&Wire::Http2));
    ill.status.store(302, SeqCst);
    let tail = "health_check: { path: /are-you-well, interval: 10ms, unhealthy_after: 1, healthy_after: 1 }";
    let gate = gate(&format!("urls: [\"{}\", \"{}\"], {tail}", well.peer.url(), ill.peer.url()));
    wait_for("the checks", || (endpoints(&gate, "unhealthy") == 1.0).then_some(()));
    let before = ill.asked.load(SeqCst);
    for _ in 0..10 {
        assert_eq!(gate.get("/", &[]).status, 200);
    }
    assert_eq!((well.asked.load(SeqCst), ill.asked.load(SeqCst)), (10, before));
    ill.status.store(200, SeqCst);
    wait_for("it to get some", || {
        gate.get("/", &[]);
        (ill.asked.load(SeqCst) > before).then_some(())
    });
}

#[test]
fn who_does_not_answer_in_time_is_not_well() {
    let hang = Arc::new(AtomicBool::new(false));
    let hangs = hang.clone();
    let peer = Peer::start(&Wire::Http1, move |_| {
        let hang = hangs.load(SeqCst);
        async move {
            if hang {
                std::future::pending::<()>().await;
            }
            Response::new(whole(""))
        }
    });
    let gate = gate(&format!(
        "{}, health_check: {{ path: /, interval: 10ms, timeout: 50ms, unhealthy_after: 2 }}",
        peer.config()
    ));
    let state = |state| wait_for(state, || (endpoints(&gate, state) == 1.0).then_some(()));
    state("healthy");
    hang.store(true, SeqCst);
    state("unhealthy");
    hang.store(false, SeqCst);
    state("healthy");
}
