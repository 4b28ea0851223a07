//! How much is asked of an upstream at a time.

use std::sync::mpsc;

use http::Response;
use hyper::body::Frame;

use super::{
    ended, gate,
    peer::{Peer, Wire, flow, whole},
};
use crate::support::{PATIENCE, client::Connection, wait_for};

const QUEUE: &str = "sidegate_upstream_queue{upstream=\"app\"}";

fn ask(gate: &crate::support::Sidegate) -> Connection {
    let mut connection = Connection::open(gate.address()).unwrap();
    connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    connection
}

/// An upstream that answers when it is told to; it says when a request has come.
fn held(wire: &Wire) -> (Peer, mpsc::Receiver<tokio::sync::oneshot::Sender<()>>) {
    let (arrived, arrivals) = mpsc::channel();
    let peer = Peer::start(wire, move |_| {
        let (go, wait) = tokio::sync::oneshot::channel();
        arrived.send(go).unwrap();
        async move {
            let _ = wait.await;
            Response::new(whole("held"))
        }
    });
    (peer, arrivals)
}

#[test]
fn more_than_an_upstream_may_have_wait_and_more_than_may_wait_are_refused() {
    for wire in [Wire::Http1, Wire::Http2] {
        let (peer, arrivals) = held(&wire);
        let tail = "max_requests: 2, max_queue: 2, queue_timeout: 1m";
        let gate = gate(&format!("{}, {tail}", peer.config()));
        let mut inside = [ask(&gate), ask(&gate)];
        let go: Vec<_> = (0..2).map(|_| arrivals.recv_timeout(PATIENCE).unwrap()).collect();
        let mut first = ask(&gate);
        wait_for("the first to wait", || (gate.metric(QUEUE) == 1.0).then_some(()));
        let mut second = ask(&gate);
        wait_for("the second to wait", || (gate.metric(QUEUE) == 2.0).then_some(()));
        let refused = gate.get("/", &[]);
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
        assert_eq!(refused.member("error"), "service_unavailable");
        assert_eq!(ended(&gate, "GET", 503, "upstream_queue_full"), 1.0);
        let rejections = "sidegate_upstream_rejections_total{reason=\"queue_full\",upstream=\"app\"}";
        assert_eq!(gate.metric(rejections), 1.0);
        // One leaves, and the first comes in; the second goes on waiting.
        let [one, two] = go.try_into().unwrap();
        one.send(()).unwrap();
        let go_first = arrivals.recv_timeout(PATIENCE).unwrap();
        assert_eq!(gate.metric(QUEUE), 1.0);
        assert!(arrivals.try_recv().is_err());
        go_first.send(()).unwrap();
        assert_eq!(first.answer(false).unwrap().text(), "held");
        arrivals.recv_timeout(PATIENCE).unwrap().send(()).unwrap();
        assert_eq!(second.answer(false).unwrap().text(), "held");
        two.send(()).unwrap();
        for connection in &mut inside {
            assert_eq!(connection.answer(false).unwrap().text(), "held");
        }
        assert_eq!(gate.metric(QUEUE), 0.0);
        // With all of them gone there is room at once.
        let mut later = [ask(&gate), ask(&gate)];
        for _ in 0..2 {
            arrivals.recv_timeout(PATIENCE).unwrap().send(()).unwrap();
        }
        for connection in &mut later {
            assert_eq!(connection.answer(false).unwrap().text(), "held");
        }
    }
}

#[test]
fn nobody_waits_for_ever() {
    let (peer, arrivals) = held(&Wire::Http1);
    let gate = gate(&format!("{}, max_requests: 1, queue_timeout: 100ms", peer.config()));
    let mut inside = ask(&gate);
    let go = arrivals.recv_timeout(PATIENCE).unwrap();
    let refused = gate.get("/", &[]);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(ended(&gate, "GET", 503, "upstream_queue_timeout"), 1.0);
    assert_eq!(gate.metric("sidegate_upstream_rejections_total{reason=\"queue_timeout\",upstream=\"app\"}"), 1.0);
    assert_eq!(gate.metric(QUEUE), 0.0);
    go.send(()).unwrap();
    assert_eq!(inside.answer(false).unwrap().text(), "held");
}

#[test]
fn who_leaves_the_queue_leaves_no_gap() {
    let (peer, arrivals) = held(&Wire::Http1);
    let gate = gate(&format!("{}, max_requests: 1, queue_timeout: 1m", peer.config()));
    let mut inside = ask(&gate);
    let go = arrivals.recv_timeout(PATIENCE).unwrap();
    let leaving = ask(&gate);
    wait_for("it to wait", || (gate.metric(QUEUE) == 1.0).then_some(()));
    let mut staying = ask(&gate);
    wait_for("the other to wait", || (gate.metric(QUEUE) == 2.0).then_some(()));
    drop(leaving);
    wait_for("it to leave", || (gate.metric(QUEUE) == 1.0).then_some(()));
    go.send(()).unwrap();
    assert_eq!(inside.answer(false).unwrap().text(), "held");
    arrivals.recv_timeout(PATIENCE).unwrap().send(()).unwrap();
    assert_eq!(staying.answer(false).unwrap().text(), "held");
}

#[test]
fn a_request_has_its_place_until_its_answer_has_been_passed_on() {
    for wire in [Wire::Http1, Wire::Http2] {
        let (arrived, arrivals) = mpsc::channel();
        let peer = Peer::start(&wire, move |_| {
            let (frames, body) = flow();
            arrived.send(frames).unwrap();
            async move { Response::new(body) }
        });
        let gate = gate(&format!("{}, max_requests: 1, max_queue: 0", peer.config()));
        let mut inside = ask(&gate);
        let frames = arrivals.recv_timeout(PATIENCE).unwrap();
        frames.blocking_send(Frame::data("half".into())).unwrap();
        assert_eq!(gate.get("/", &[]).status, 503);
        drop(frames);
        assert_eq!(inside.answer(false).unwrap().text(), "half");
        // A client that leaves in the middle gives its place back too.
        let leaving = ask(&gate);
        let frames = arrivals.recv_timeout(PATIENCE).unwrap();
        frames.blocking_send(Frame::data("half".into())).unwrap();
        assert_eq!(gate.get("/", &[]).status, 503);
        drop(leaving);
        drop(frames);
        let mut next = wait_for("its place", || {
            let connection = ask(&gate);
            arrivals.recv_timeout(std::time::Duration::from_millis(50)).ok().map(|frames| (connection, frames))
        });
        drop(next.1);
        assert_eq!(next.0.answer(false).unwrap().status, 200);
    }
}
