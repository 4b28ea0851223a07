//! One reading of every head of HTTP/1.1: what hyper would understand, and another reader differently, is refused; and
//! what an idle connection gives up is there again when it is needed.

use super::{GET, echo, open_config};
use crate::support::{
    Sidegate,
    client::{Connection, raw},
    wait_for,
};

/// What is sent, and the reason for which it is refused.
const AMBIGUOUS: &[(&str, &str)] = &[
    ("GET /x HTTP/1.1\nHost: h\r\n\r\n", "bare_lf"),
    ("GET /x HTTP/1.1\r\nHost: h\n\r\n", "bare_lf"),
    ("GET /x HTTP/1.1\r\nHost: h\r\nX-Name: a\nX-Other: b\r\n\r\n", "bare_lf"),
    ("GET /x HTTP/1.1\r\nHost: h\r\n\n", "bare_lf"),
    ("GET /x HTTP/1.1\nHost: h\n\n", "bare_lf"),
    ("POST /x HTTP/1.1\r\nHost: h\r\nX: y\nContent-Length: 3\r\n\r\nabc", "bare_lf"),
    ("\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n", "bare_lf"),
    ("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "framing_bad"),
    ("POST /x HTTP/1.1\r\nHost: h\r\ncontent-length: 3\r\nX: y\r\nCONTENT-LENGTH: 3\r\n\r\nabc", "framing_bad"),
    ("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "framing_bad"),
    ("POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", "framing_bad"),
    ("POST /x HTTP/1.1\r\nHost: h\r\ntransfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n", "framing_bad"),
    (
        "POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "framing_bad",
    ),
    ("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""),
];

fn refused(gate: &Sidegate, reason: &str) -> f64 {
    let metrics = gate.admin("/metrics").text();
    let label = format!("reason=\"{reason}\"");
    let lines = metrics.lines().filter(|line| line.starts_with("sidegate_requests_total") && line.contains(&label));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn what_two_readers_could_read_differently_is_refused() {
    let upstream = echo();
    let gate = Sidegate::start(&open_config(upstream.address(), ""));
    for (request, reason) in AMBIGUOUS {
        for whole in [true, false] {
            let before = refused(&gate, reason);
            let mut connection = Connection::open(gate.address()).unwrap();
            if whole {
                connection.send(request.as_bytes()).unwrap();
            } else {
                // However it is cut. The other end may hang up before it has all of it.
                request.as_bytes().iter().for_each(|byte| drop(connection.send(&[*byte])));
            }
            let answer = connection.answer(false).unwrap();
            assert_eq!(answer.status, 400, "{request:?}");
            assert!(connection.is_closed(), "{request:?}");
            if !reason.is_empty() {
                assert_eq!(answer.header("connection"), Some("close"), "{request:?}");
                assert_eq!(answer.member("error"), "invalid_request");
                assert_eq!(refused(&gate, reason), before + 1.0, "{request:?}");
            }
        }
    }
    assert!(upstream.take().is_empty());
}

#[test]
fn what_has_one_reading_passes_however_it_is_cut() {
    let upstream = echo();
    let gate = Sidegate::start(&open_config(upstream.address(), ""));
    let long = "v".repeat(5000);
    let requests = [
        // Empty lines before a request are none of it (RFC 9112 §2.2).
        "\r\n\r\nGET /1 HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        format!("GET /2 HTTP/1.1\r\nHost: h\r\nX-Long: {long}\r\nContent-Lengthy: 1\r\n\r\n"),
        "POST /3 HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n\n\n\r\n".to_owned(),
        "POST /4 HTTP/1.1\r\nHost: h\r\ncOnTeNt-lEnGtH:\t0004 \r\n\r\nbody".to_owned(),
        "POST /5 HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "POST /6 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\nbo\n\r\n0\r\n\r\n".to_owned(),
        "GET /7 HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
    ];
    let all = requests.concat();
    // Each alone, byte by byte on one connection.
    let mut connection = Connection::open(gate.address()).unwrap();
    for (n, request) in requests.iter().enumerate() {
        request.as_bytes().iter().for_each(|byte| connection.send(&[*byte]).unwrap());
        assert_eq!(connection.answer(false).unwrap().text(), format!("/{}", n + 1));
    }
    // All at once, but for what follows the chunks: where they end, only their reader knows.
    let (first, last) = all.split_at(all.len() - requests[6].len());
    let mut connection = Connection::open(gate.address()).unwrap();
    connection.send(first.as_bytes()).unwrap();
    for n in 1..=6 {
        assert_eq!(connection.answer(false).unwrap().text(), format!("/{n}"));
    }
    connection.send(last.as_bytes()).unwrap();
    assert_eq!(connection.answer(false).unwrap().text(), "/7");
    assert_eq!(upstream.take().len(), 14);
    // So that is refused, and nothing after it is read.
    let mut connection = Connection::open(gate.address()).unwrap();
    connection.send([&requests[5], &requests[6], &requests[6]].map(String::as_str).concat().as_bytes()).unwrap();
    assert_eq!(connection.answer(false).unwrap().text(), "/6");
    assert_eq!(connection.answer(false).unwrap().status, 400);
    assert!(connection.is_closed());
    assert_eq!((upstream.take().len(), refused(&gate, "pipelined_after_chunks")), (1, 1.0));
}

#[test]
fn a_head_in_a_pipeline_is_looked_at_like_the_first() {
    let upstream = echo();
    let gate = Sidegate::start(&open_config(upstream.address(), ""));
    for before in ["GET /a HTTP/1.1\r\nHost: h\r\n\r\n", "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"]
    {
        for (request, _) in AMBIGUOUS {
            let mut connection = Connection::open(gate.address()).unwrap();
            connection.send([before, before, request].concat().as_bytes()).unwrap();
            assert_eq!(connection.answer(false).unwrap().text(), "/a");
            assert_eq!(connection.answer(false).unwrap().text(), "/a");
            assert_eq!(connection.answer(false).unwrap().status, 400, "{request:?}");
            assert!(connection.is_closed());
        }
    }
    assert!(upstream.take().iter().all(|request| request.target() == "/a"));
}

#[test]
fn the_issuer_refuses_it_too() {
    let upstream = echo();
    let gate = Sidegate::start(&crate::support::config_with_issuer(
        upstream.address(),
        "routes: [{ name: all, match: { path_prefix: / }, upstream: app }]",
    ));
    let form = "grant_type=client_credentials";
    for (bad, status) in [("", 200), ("Content-Length: 29\r\n", 400), ("X: y\n", 400)] {
        let head = format!(
            "POST /oauth/token HTTP/1.1\r\nHost: h\r\n{bad}Authorization: Basic YXBwOnNlY3JldA==\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        );
        assert_eq!(raw(gate.address(), head.as_bytes()).unwrap().status, status, "{bad:?}");
    }
}

#[test]
fn a_connection_that_was_parked_goes_on_as_if_nothing_had_been() {
    let upstream = echo();
    let gate = Sidegate::start(&open_config(upstream.address(), ""));
    let mut kept: Vec<_> = (0..200).map(|_| Connection::open(gate.address()).unwrap()).collect();
    let ask = |connection: &mut Connection, path: &str| {
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(connection.answer(false).unwrap().text(), path);
    };
    let parked = || gate.metric("sidegate_connections_parked");
    for round in 0..2 {
        kept.iter_mut().enumerate().for_each(|(n, connection)| ask(connection, &format!("/{round}/{n}")));
        wait_for("all to be parked", || (parked() == 200.0).then_some(()));
    }
    // One that goes on in pieces, one that sends several at once, one that ends.
    let [first, second, third, ..] = &mut kept[..] else { panic!() };
    first.send(b"G").unwrap();
    wait_for("it to be at work", || (parked() == 199.0).then_some(()));
    first.send(&GET[1..]).unwrap();
    assert_eq!(first.answer(false).unwrap().text(), "/x");
    second.send(&[GET, GET, b"GET /x HTTP/1.1\nHost: h\r\n\r\n"].concat()).unwrap();
    assert_eq!([200, 200, 400].map(|_| second.answer(false).unwrap().status), [200, 200, 400]);
    third.stream().shutdown(std::net::Shutdown::Write).unwrap();
    assert!(third.is_closed());
    drop(kept);
    wait_for("all to be gone", || (parked() == 0.0).then_some(()));
}

#[test]
fn who_is_refused_in_the_middle_of_a_body_gets_to_read_why() {
    let upstream = echo();
    let gate = Sidegate::start(&open_config(upstream.address(), "").replace("path_prefix: /", "path: /nothing"));
    for _ in 0..10 {
        let mut connection = Connection::open(gate.address()).unwrap();
        // All of it is on its way before the answer is looked at: more than the socket's buffers would be reset.
        connection.send(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n").unwrap();
        connection.send(&vec![b'x'; 1_000_000]).unwrap();
        assert_eq!(connection.answer(false).unwrap().status, 404);
        assert!(connection.is_closed());
    }
}
