//! curl and h2load, as anybody would call them.

use std::{fs, process::Command};

use super::{ALL, home, start};
use crate::support::{self, Sidegate, Upstream, tokens::TestKey};

/// A gate before an upstream that answers with the length of what it was sent, and trailers to who takes them.
fn gate() -> (Sidegate, Upstream, String) {
    let upstream = Upstream::answering(|request| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n";
        let body = format!("{} bytes", request.body.len());
        format!("{head}{:x}\r\n{body}\r\n0\r\nx-sum: 7\r\n\r\n", body.len()).into_bytes()
    });
    let key = TestKey::new("ES256", "k");
    let gate = start(home(), &format!("urls: ['http://{}']", upstream.address()), &key, ALL);
    (gate, upstream, format!("Authorization: Bearer {}", key.good()))
}

fn url(gate: &Sidegate, scheme: &str) -> String {
    let listener = gate.listener(if scheme == "https" { "tls" } else { "plain" });
    format!("{scheme}://localhost:{}/x", listener.port())
}

/// What curl printed: what it got, and what it is asked to tell of it.
fn curl(program: &std::path::Path, gate: &Sidegate, url: &str, arguments: &[&str], tell: &str) -> String {
    let mut curl = Command::new(program);
    // `localhost` may lead to an address at which nobody listens first.
    curl.args(["-sS", "-4", "-m", "20", "--noproxy", "*", "--cacert"]).arg(gate.dir().join("ca.pem"));
    let out = curl.args(arguments).args(["-w", tell, url]).output().unwrap();
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn curl_speaks_every_version() {
    let Some(program) = support::tool("curl") else { return };
    let (gate, upstream, bearer) = gate();
    let tell = " over %{http_version}: %{response_code}";
    for (scheme, arguments, version) in [
        ("http", &["--http1.1"][..], "1.1"),
        ("http", &["--http1.0"], "1"),
        // It asks for an upgrade, and goes on without.
        ("http", &["--http2"], "1.1"),
        ("http", &["--http2-prior-knowledge"], "2"),
        ("https", &["--http1.1"], "1.1"),
        ("https", &["--http2"], "2"),
        ("https", &["--tls-max", "1.2", "--http2"], "2"),
    ] {
        let url = url(&gate, scheme);
        let got = curl(&program, &gate, &url, &[arguments, &["-H", &bearer, "-d", "hello"]].concat(), tell);
        assert_eq!(got, format!("5 bytes over {version}: 200"), "{arguments:?}");
        assert_eq!(upstream.only().all("x-forwarded-proto"), [scheme]);
        let got = curl(&program, &gate, &url, &[arguments, &["-o", "/dev/null"]].concat(), tell);
        assert!(got.ends_with(": 401"), "{arguments:?}: {got}");
    }
    assert!(upstream.take().is_empty());
}

#[test]
fn curl_is_told_before_it_sends_a_body() {
    let Some(program) = support::tool("curl") else { return };
    let (gate, upstream, bearer) = gate();
    let file = gate.dir().join("upload");
    fs::write(&file, vec![b'x'; 3 << 20]).unwrap();
    let upload = ["-T", file.to_str().unwrap(), "-o", "/dev/null", "--expect100-timeout", "15"];
    let tell = "%{response_code} after %{size_upload}";
    let url = url(&gate, "http");
    // Of itself it asks, since it is so much.
    assert_eq!(curl(&program, &gate, &url, &[&upload[..], &["--http1.1"]].concat(), tell), "401 after 0");
    assert_eq!(upstream.connections(), 0);
    let allowed = [&upload[..], &["--http1.1", "-H", &bearer]].concat();
    assert_eq!(curl(&program, &gate, &url, &allowed, tell), "200 after 3145728");
    assert_eq!(upstream.only().body.len(), 3 << 20);
    let over_http2 = [&upload[..], &["--http2-prior-knowledge", "-H", &bearer]].concat();
    assert_eq!(curl(&program, &gate, &url, &over_http2, tell), "200 after 3145728");
    assert_eq!(upstream.only().body.len(), 3 << 20);
}

#[test]
fn curl_sees_trailers() {
    let Some(program) = support::tool("curl") else { return };
    let (gate, _upstream, bearer) = gate();
    let arguments = ["-H", &bearer, "-H", "TE: trailers", "-H", "Connection: TE", "--raw", "--http1.1"];
    let got = curl(&program, &gate, &url(&gate, "http"), &arguments, "");
    assert_eq!(got, "7\r\n0 bytes\r\n0\r\nx-sum: 7\r\n\r\n");
    let arguments = ["-H", &*bearer, "-H", "TE: trailers", "-i", "--http2"];
    let got = curl(&program, &gate, &url(&gate, "https"), &arguments, "");
    assert!(got.starts_with("HTTP/2 200 ") && got.ends_with("0 bytesx-sum: 7\r\n"), "{got:?}");
}

#[test]
fn h2load_fails_at_nothing() {
    let Some(program) = support::tool("h2load") else { return };
    let (gate, upstream, bearer) = gate();
    let file = gate.dir().join("body");
    fs::write(&file, vec![b'x'; 100_000]).unwrap();
    let post = ["-d", file.to_str().unwrap()];
    for (scheme, more) in [("http", &[][..]), ("https", &[]), ("http", &post), ("https", &post), ("http", &["--h1"])] {
        let mut load = Command::new(&program);
        load.args(["-n", "400", "-c", "4", "-m", "10", "-H", &bearer]).args(more).arg(url(&gate, scheme));
        let out = load.output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        let done = "400 total, 400 started, 400 done, 400 succeeded, 0 failed, 0 errored, 0 timeout";
        assert!(said.contains(done) && said.contains("status codes: 400 2xx"), "{scheme} {more:?}: {said}");
    }
    assert_eq!(upstream.take().len(), 2000);
    // Refusals are answers too.
    let out = Command::new(&program).args(["-n", "400", "-c", "4", "-m", "10"]).arg(url(&gate, "https")).output();
    let said = String::from_utf8_lossy(&out.unwrap().stdout).into_owned();
    assert!(said.contains("status codes: 0 2xx, 0 3xx, 400 4xx, 0 5xx") && said.contains(" 0 errored"), "{said}");
    assert!(upstream.take().is_empty());
}
