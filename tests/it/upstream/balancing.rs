//! Which of an upstream's addresses is asked.

use std::{
    collections::HashMap,
    io::Write as _,
    net::{SocketAddr, TcpListener},
    sync::{Mutex, mpsc},
    time::Duration,
};

use super::{config, ended, endpoints, gate};
use crate::support::{Sidegate, Upstream, client::Connection, wait_for};

/// An upstream that says where it is.
fn named() -> Upstream {
    Upstream::with(|_, stream| {
        let name = stream.local_addr().unwrap().to_string();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        stream.write_all(answer.as_bytes()).is_ok()
    })
}

fn urls(addresses: &[SocketAddr]) -> String {
    let urls: Vec<_> = addresses.iter().map(|address| format!("http://{address}")).collect();
    format!("urls: [{}]", urls.join(", "))
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// How many of `requests` each address answered; all of them are answered.
fn share(gate: &Sidegate, requests: usize) -> HashMap<String, usize> {
    let mut shares = HashMap::new();
    for _ in 0..requests {
        let answer = gate.get("/", &[]);
        assert_eq!(answer.status, 200, "{answer:?}");
        *shares.entry(answer.text()).or_default() += 1;
    }
    shares
}

#[test]
fn equals_take_turns() {
    let upstreams = [named(), named(), named()];
    let gate = gate(&urls(&upstreams.each_ref().map(Upstream::address)));
    let shares = share(&gate, 30);
    assert_eq!(shares.len(), 3, "{shares:?}");
    assert!(shares.values().all(|share| *share == 10), "{shares:?}");
    // Each keeps its connection.
    assert_eq!(upstreams.each_ref().map(Upstream::connections), [1, 1, 1]);
}

#[test]
fn whoever_has_the_fewest_requests_gets_the_next() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let slow = Upstream::with(move |_, stream| {
        wait.lock().unwrap().recv().is_ok() && stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_ok()
    });
    let quick = named();
    let gate = gate(&urls(&[slow.address(), quick.address()]));
    // Ask until one request hangs at the slow one; from then on it has more than the other, which never has any.
    let mut hanging = Connection::open(gate.address()).unwrap();
    hanging.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    wait_for("a request to arrive", || (!slow.take().is_empty() || !quick.take().is_empty()).then_some(()));
    if slow.connections() == 0 {
        hanging.answer(false).unwrap();
        hanging.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        wait_for("the other's turn", || (slow.connections() == 1).then_some(()));
    }
    assert_eq!(share(&gate, 10), HashMap::from([(quick.address().to_string(), 10)]));
    go.send(()).unwrap();
    assert_eq!(hanging.answer(false).unwrap().status, 200);
}

#[test]
fn one_that_cannot_be_reached_costs_no_request() {
    let (up, nobody) = (named(), nobody());
    let gate = gate(&format!("{}, retries: 0, outlier: {{ failures: 0 }}", urls(&[nobody, up.address()])));
    assert_eq!(share(&gate, 20), HashMap::from([(up.address().to_string(), 20)]));
    // It had its turn each time; a POST is passed on as well, since nothing of it was sent.
    let failures = "sidegate_upstream_connection_failures_total{reason=\"unreachable\",upstream=\"app\"}";
    assert!(gate.metric(failures) >= 5.0);
    assert_eq!(gate.metric("sidegate_upstream_retries_total{upstream=\"app\"}"), 0.0);
    for _ in 0..4 {
        assert_eq!(crate::support::request(gate.address(), "POST", "/", &[], b"x").status, 200);
    }
}

#[test]
fn one_that_fails_too_often_is_left_alone_and_comes_back() {
    let (up, down) = (named(), nobody());
    let gate = gate(&format!("{}, outlier: {{ failures: 3, eject_for: 400ms }}", urls(&[down, up.address()])));
    wait_for("it to be left alone", || {
        share(&gate, 1);
        (endpoints(&gate, "ejected") == 1.0).then_some(())
    });
    assert_eq!((endpoints(&gate, "healthy"), endpoints(&gate, "unhealthy")), (1.0, 0.0));
    assert_eq!(gate.metric("sidegate_upstream_ejections_total{upstream=\"app\"}"), 1.0);
    let failures = "sidegate_upstream_connection_failures_total{reason=\"unreachable\",upstream=\"app\"}";
    assert_eq!(gate.metric(failures), 3.0);
    // It comes back where it was.
    let listener = TcpListener::bind(down).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nback");
        }
    });
    wait_for("it to be asked again", || share(&gate, 2).contains_key("back").then_some(()));
    assert_eq!(endpoints(&gate, "ejected"), 0.0);
}

#[test]
fn with_none_left_all_are_tried() {
    let down = nobody();
    let gate = gate(&format!("{}, outlier: {{ failures: 1, eject_for: 1h }}", urls(&[down, nobody()])));
    assert_eq!(gate.get("/", &[]).status, 502);
    assert_eq!(endpoints(&gate, "ejected"), 2.0);
    assert_eq!(ended(&gate, "GET", 502, "upstream_unreachable"), 1.0);
    let _listener = Upstream::start();
    let listener = TcpListener::bind(down).unwrap();
    std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nback").unwrap();
        let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
    });
    assert_eq!(gate.get("/", &[]).text(), "back");
}

#[test]
fn all_addresses_of_a_name_are_used() {
    // `localhost` is ::1 too on most machines, and there is nobody there.
    let up = named();
    let gate = gate(&format!("urls: [\"http://localhost:{}\"]", up.address().port()));
    let shares = share(&gate, 10);
    assert_eq!(shares, HashMap::from([(up.address().to_string(), 10)]));
    assert_eq!(up.take()[0].all("host"), ["localhost"]);
}

#[test]
fn a_name_that_leads_nowhere_is_an_upstream_that_cannot_be_reached() {
    let gate = gate("urls: [\"http://nowhere.invalid:80\"]");
    let answer = gate.get("/", &[]);
    assert_eq!((answer.status, answer.member("error").as_str()), (502, "bad_gateway"));
    assert_eq!(ended(&gate, "GET", 502, "upstream_unreachable"), 1.0);
    assert_eq!(endpoints(&gate, "healthy"), 0.0);
}

/// Names in a file of one's own take root's means, which a test has in a user namespace, where the system allows that.
#[test]
fn a_name_is_looked_up_again() {
    use std::process::{Command, Stdio};
    let may = |command: &str| {
        let status = Command::new("unshare").args(["-rm", "sh", "-c", command]).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.2 app.example\n").unwrap();
    let mount = format!("mount --bind {} /etc/hosts", hosts.display());
    if !may(&mount) {
        eprintln!("\n!!! SKIPPED: this system has no user namespaces for tests\n");
        return;
    }
    // One port that is free on both addresses: whoever else asks for one may get it in between.
    let (port, one, other) = wait_for("a port that is free twice", || {
        let one = TcpListener::bind(("127.0.0.2", 0)).ok()?;
        let port = one.local_addr().ok()?.port();
        Some((port, one, TcpListener::bind(("127.0.0.3", port)).ok()?))
    });
    let answer = |listener: TcpListener| {
        let name = listener.local_addr().unwrap().ip().to_string();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let name = name.clone();
                std::thread::spawn(move || {
                    while std::io::Read::read(&mut stream, &mut [0; 4096]).is_ok_and(|n| n > 0) {
                        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
                        let _ = stream.write_all(answer.as_bytes());
                    }
                });
            }
        });
    };
    answer(one);
    answer(other);
    let yaml = config(&format!("urls: [\"http://app.example:{port}\"], dns_refresh: 1s"));
    let gate =
        Sidegate::start_within(dir, &yaml, &["unshare", "-rm", "sh", "-c", &format!("{mount} && exec \"$@\""), "sh"]);
    assert_eq!(share(&gate, 3), HashMap::from([("127.0.0.2".to_owned(), 3)]));
    std::fs::write(&hosts, "127.0.0.2 app.example\n127.0.0.3 app.example\n").unwrap();
    wait_for("a second address", || (share(&gate, 2).len() == 2).then_some(()));
    std::fs::write(&hosts, "127.0.0.3 app.example\n").unwrap();
    wait_for("the first to be gone", || {
        (share(&gate, 2) == HashMap::from([("127.0.0.3".to_owned(), 2)])).then_some(())
    });
    // What was found last stays when nothing is found.
    std::fs::write(&hosts, "").unwrap();
    let start = std::time::Instant::now();
    wait_for("some more look-ups", || {
        share(&gate, 1);
        (start.elapsed() > Duration::from_millis(2500)).then_some(())
    });
    assert!(gate.logged().contains("cannot be looked up"));
}
