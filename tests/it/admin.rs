//! The admin listener: probes and metrics, and nothing else; and what its metrics must not tell.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    sync::{Mutex, mpsc},
};

use crate::support::{
    Sidegate, Upstream,
    client::{Connection, request},
    config_with_issuer, tool, wait_for,
};

const ROUTES: &str = "routes:
  - { name: open, match: { path_prefix: /open }, auth: none, upstream: app }
  - { name: closed, match: { path_prefix: /closed }, upstream: app }
";

fn admin_of(gate: &Sidegate) -> SocketAddr {
    let line = gate.printed.lines().find(|line| line.contains("  admin ")).unwrap();
    line.split("http://").nth(1).unwrap().split('/').next().unwrap().parse().unwrap()
}

/// A sample: its series' name, its labels, its value.
type Sample = (String, BTreeMap<String, String>, f64);

/// Reads an exposition strictly (version 0.0.4 of the text format); answers the families' types and the samples.
fn parse(text: &str) -> (BTreeMap<String, String>, Vec<Sample>) {
    let (mut types, mut samples, mut helped) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(!words.is_empty() && helped.insert(name.to_owned()), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(helped.contains(name) && types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = match series.split_once('{') {
                None => (series, BTreeMap::new()),
                Some((name, labels)) => {
                    let labels = labels.strip_suffix('}').unwrap().split("\",");
                    let label = |label: &str| {
                        let (name, value) = label.split_once("=\"").unwrap();
                        (name.to_owned(), value.trim_end_matches('"').to_owned())
                    };
                    (name, labels.map(label).collect())
                }
            };
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let family = family.filter(|family| types.get(*family).is_some_and(|kind| kind == "histogram"));
            assert!(types.contains_key(family.unwrap_or(name)), "no type: {line}");
            samples.push((name.to_owned(), labels, value.parse().unwrap()));
        }
    }
    let series: BTreeSet<_> = samples.iter().map(|(name, labels, _)| (name, labels)).collect();
    assert_eq!(series.len(), samples.len(), "a series twice");
    (types, samples)
}

#[test]
fn the_probes_answer() {
    let upstream = Upstream::start();
    let gate = Sidegate::start(&config_with_issuer(upstream.address(), ROUTES));
    for probe in ["/livez", "/readyz", "/startupz", "/readyz?verbose"] {
        let answer = gate.admin(probe);
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok\n"), "{probe}");
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    }
    let head = request(admin_of(&gate), "HEAD", "/readyz", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(gate.metric("sidegate_ready"), 1.0);
    // The kubelet's and Prometheus's connections are kept.
    let mut connection = Connection::open(admin_of(&gate)).unwrap();
    for path in ["/livez", "/metrics", "/readyz"] {
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(connection.answer(false).unwrap().status, 200, "{path}");
    }
}

#[test]
fn it_answers_nothing_else() {
    let upstream = Upstream::start();
    let gate = Sidegate::start(&config_with_issuer(upstream.address(), ROUTES));
    let admin = admin_of(&gate);
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        for path in ["/metrics", "/livez", "/oauth/token", "/"] {
            let answer = request(admin, method, path, &[], b"");
            assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method} {path}");
        }
    }
    for path in ["/", "/open", "/closed", "/oauth/token", "/.well-known/openid-configuration", "/metrics/", "/Metrics"]
    {
        assert_eq!(gate.admin(path).status, 404, "{path}");
    }
    assert!(upstream.take().is_empty());
}

#[test]
fn the_gateway_answers_no_probe_and_no_scrape() {
    let upstream = Upstream::start();
    let gate = Sidegate::start(&config_with_issuer(upstream.address(), ROUTES));
    for path in ["/metrics", "/livez", "/readyz", "/startupz"] {
        for agent in ["Prometheus/3.0", "kube-probe/1.35", "GoogleHC/1.0"] {
            let answer = gate.get(path, &[("User-Agent", agent)]);
            assert_eq!((answer.status, answer.member("error").as_str()), (404, "not_found"), "{path}");
        }
    }
    // Where a route covers it, it is the upstream's.
    let all = ROUTES.replace("/open", "/");
    let gate = Sidegate::start(&config_with_issuer(upstream.address(), &all));
    assert_eq!(gate.get("/metrics", &[]).text(), "hello");
}

#[test]
fn a_scrape_has_what_operators_look_for() {
    let upstream = Upstream::start();
    let gate = Sidegate::start(&config_with_issuer(upstream.address(), ROUTES));
    let basic = ("Authorization", "Basic YXBwOnNlY3JldA==");
    let log_in = |password: &str| {
        let form = format!("grant_type=password&username=alice&password={password}");
        gate.post_form("/oauth/token", &[basic], &form)
    };
    let tokens = log_in("wonderland");
    let (access, refresh) = (tokens.member("access_token"), tokens.member("refresh_token"));
    assert_eq!(log_in("wrong").status, 400);
    assert_eq!(gate.post_form("/oauth/token", &[basic], "grant_type=client_credentials").status, 200);
    assert_eq!(gate.post_form("/oauth/token", &[basic], "grant_type=my-own").status, 400);
    for _ in 0..3 {
        assert_eq!(gate.get_with("/closed/a", &access).status, 200);
    }
    assert_eq!(gate.get("/open", &[]).status, 200);
    assert_eq!(gate.get_with("/closed", "no.such.token").status, 401);
    assert_eq!(gate.post_form("/oauth/revoke", &[basic], &format!("token={refresh}")).status, 200);
    assert_eq!(gate.get_with("/closed/a", &access).status, 401);

    // The kernel counts CPU time in ticks of 10 ms, and the start takes less than one.
    wait_for("a tick of CPU time", || (gate.metric("process_cpu_seconds_total") > 0.0).then_some(()));
    let answer = gate.admin("/metrics");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/plain; version=0.0.4")));
    let (types, samples) = parse(&answer.text());
    let value = |name: &str, labels: &[(&str, &str)]| {
        let matches = |have: &BTreeMap<String, String>| {
            labels.iter().all(|(name, value)| have.get(*name).is_some_and(|have| have == value))
        };
        samples.iter().filter(|(n, have, _)| n == name && matches(have)).map(|(.., value)| value).sum::<f64>()
    };
    assert_eq!(value("sidegate_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    for name in [
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_max_fds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_start_time_seconds",
        "process_threads",
    ] {
        assert!(value(name, &[]) > 0.0, "{name}");
    }
    let started = value("process_start_time_seconds", &[]);
    assert!((started - crate::support::tokens::now() as f64).abs() < 120.0, "{started}");

    let requests = |labels: &[(&str, &str)]| value("sidegate_requests_total", labels);
    assert_eq!(requests(&[("route", "closed"), ("decision", "allowed"), ("code", "200"), ("method", "GET")]), 3.0);
    assert_eq!(requests(&[("route", "closed"), ("reason", "token_malformed"), ("code", "401")]), 1.0);
    assert_eq!(requests(&[("route", "closed"), ("reason", "revoked"), ("decision", "denied")]), 1.0);
    assert_eq!(requests(&[("route", "open"), ("reason", "ok")]), 1.0);
    assert_eq!(requests(&[("route", "issuer"), ("decision", "answered"), ("method", "POST")]), 5.0);
    assert_eq!(value("sidegate_rejected_tokens_total", &[("provider", "local"), ("reason", "revoked")]), 1.0);
    assert_eq!(value("sidegate_token_cache_lookups_total", &[("result", "hit")]), 3.0);
    assert_eq!(value("sidegate_requests_in_flight", &[]), 0.0);
    assert_eq!(value("sidegate_revocation_entries", &[("kind", "session")]), 1.0);
    assert_eq!(value("sidegate_revocations_total", &[("cause", "revoke_endpoint")]), 1.0);
    for (grant, result) in [
        ("password", "ok"),
        ("password", "invalid_grant"),
        ("client_credentials", "ok"),
        ("unknown", "unsupported_grant_type"),
    ] {
        assert_eq!(value("sidegate_issuer_grants_total", &[("grant", grant), ("result", result)]), 1.0, "{grant}");
    }
    for name in types.keys() {
        assert!(name.starts_with("sidegate_") || name.starts_with("process_"), "{name}");
        let counter = types[name] == "counter";
        assert_eq!(counter, name.ends_with("_total"), "{name} is a {}", types[name]);
    }
    check_buckets(&samples);
    promtool_approves(&answer.body);
}

/// Microseconds for a decision, and for a request through a proxy; cumulative, with +Inf for all.
fn check_buckets(samples: &[Sample]) {
    const DECISION: &str =
        "0.000001 0.0000025 0.000005 0.00001 0.000025 0.00005 0.0001 0.00025 0.0005 0.001 0.0025 0.005 0.01 +Inf";
    const REQUEST: &str =
        "0.00005 0.0001 0.00025 0.0005 0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10 +Inf";
    for (name, label, bounds) in [
        ("sidegate_decision_seconds", None, DECISION),
        ("sidegate_request_seconds", Some(("route", "closed")), REQUEST),
        ("sidegate_upstream_seconds", Some(("upstream", "app")), REQUEST),
    ] {
        let of = |end: &str| {
            {
                samples.iter().filter(move |(n, labels, _)| {
                    n.strip_prefix(name) == Some(end) && label.is_none_or(|(name, value)| labels[name] == value)
                })
            }
            .collect::<Vec<_>>()
        };
        let found: Vec<f64> = of("_bucket").iter().map(|(_, labels, _)| labels["le"].parse().unwrap()).collect();
        assert_eq!(found, bounds.split(' ').map(|bound| bound.parse().unwrap()).collect::<Vec<f64>>(), "{name}");
        let counts: Vec<f64> = of("_bucket").iter().map(|(.., count)| *count).collect();
        assert!(counts.is_sorted() && counts.last() > Some(&0.0), "{name}: {counts:?}");
        assert_eq!(of("_count")[0].2, *counts.last().unwrap(), "{name}");
        assert!(of("_sum")[0].2 > 0.0, "{name}");
    }
}

fn promtool_approves(exposition: &[u8]) {
    let Some(promtool) = tool("promtool") else { return };
    let mut check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(exposition).unwrap();
    let said = check.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    assert!(said.status.success() && words.is_empty(), "{words}");
}

#[test]
fn no_label_tells_who_asked_or_for_what() {
    let upstream = Upstream::start();
    let gate = Sidegate::start(&config_with_issuer(upstream.address(), ROUTES));
    let answer = gate.post_form(
        "/oauth/token",
        &[("Authorization", "Basic YXBwOnNlY3JldA==")],
        "grant_type=password&username=alice&password=wonderland",
    );
    let (access, refresh) = (answer.member("access_token"), answer.member("refresh_token"));
    gate.get_with("/closed/a-path-of-theirs?a-query=1", &access);
    gate.get("/open", &[("Host", "a-host-of-theirs.example"), ("User-Agent", "an-agent-of-theirs")]);
    gate.get("/no-such-path", &[]);
    gate.get("/closed/a//b-path", &[]);
    request(gate.address(), "A-METHOD-OF-THEIRS", "/open", &[], b"");
    gate.post_form("/oauth/token", &[], "grant_type=a-grant-of-theirs&client_id=a-client-of-theirs");
    gate.post_form("/oauth/token", &[], "grant_type=refresh_token&client_id=spa&refresh_token=a-token-of-theirs");
    let text = gate.admin("/metrics").text();
    let (_, samples) = parse(&text);
    let names: BTreeSet<_> = samples.iter().flat_map(|(_, labels, _)| labels.keys().map(String::as_str)).collect();
    let known = [
        "cause",
        "client_kind",
        "code",
        "decision",
        "grant",
        "kind",
        "le",
        "listener",
        "method",
        "outcome",
        "provider",
        "reason",
        "result",
        "route",
        "state",
        "upstream",
        "version",
    ];
    assert!(names.is_subset(&known.into()), "{names:?}");
    let values: BTreeSet<_> = samples.iter().flat_map(|(_, labels, _)| labels.values().map(String::as_str)).collect();
    let ours = ["app"]; // the upstream's name, which is the client's as well
    for theirs in ["alice", "spa", &access, &refresh, "wonderland", "secret", "127.0.0.1", "localhost"] {
        assert!(!values.contains(theirs) || ours.contains(&theirs), "{theirs}");
    }
    for part in ["theirs", "a-path", "a-query", "no-such", "b-path", "alice", "A-METHOD", "closed/", "eyJ"] {
        assert!(!text.contains(part), "{part}");
    }
    assert!(values.contains("other"), "the method");
}

#[test]
fn what_is_in_flight_comes_down_again() {
    let (release, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::answering(move |_| {
        wait.lock().unwrap().recv().unwrap();
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec()
    });
    let gate = Sidegate::start(&config_with_issuer(upstream.address(), ROUTES));
    let in_flight = |n: f64| {
        wait_for("the number in flight", || (gate.metric("sidegate_requests_in_flight") == n).then_some(()));
    };
    let open = || {
        let mut connection = Connection::open(gate.address()).unwrap();
        connection.send(b"GET /open HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        connection
    };
    let mut connections = [open(), open()];
    in_flight(2.0);
    release.send(()).unwrap();
    in_flight(1.0);
    release.send(()).unwrap();
    in_flight(0.0);
    for connection in &mut connections {
        assert_eq!(connection.answer(false).unwrap().text(), "hello");
    }
    // A client that goes away takes its request with it.
    let gone = open();
    in_flight(1.0);
    drop((gone, connections));
    in_flight(0.0);
    wait_for("no connection to be left", || {
        (gate.metric("sidegate_connections{listener=\"public\"}") == 0.0).then_some(())
    });
}

#[test]
fn who_sends_it_nothing_does_not_keep_others_from_it() {
    let upstream = Upstream::start();
    let gate = Sidegate::start(&config_with_issuer(upstream.address(), ROUTES));
    let silent: Vec<_> = (0..40).map(|_| TcpStream::connect(admin_of(&gate)).unwrap()).collect();
    assert_eq!(gate.admin("/livez").status, 200);
    drop(silent);
}
