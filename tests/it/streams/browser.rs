//! A browser: Chromium, with a page that fetches, listens and speaks through the gate it came from.

use std::{
    io::Write as _,
    process::{Child, Command, Stdio},
    sync::{Mutex, mpsc},
};

use serde_json::{Value, json};

use super::{By, home, in_time, sockets::Sockets};
use crate::support::{
    self, PATIENCE, Sidegate, Upstream,
    tokens::{TestKey, provider},
};

const PAGE: &str = include_str!("../../clients/page.html");

/// The page, what it asks for, and what it tells: three events, each but the first when the page has asked for the next.
fn site() -> (Upstream, mpsc::Receiver<Value>) {
    let ((tell, told), (next, asked)) = (mpsc::channel(), mpsc::channel::<()>());
    let (tell, next, asked) = (Mutex::new(tell), Mutex::new(next), Mutex::new(asked));
    let upstream = Upstream::with(move |request, stream| {
        let (path, query) = request.target().split_once('?').unwrap_or((request.target(), ""));
        assert!(!query.contains("access_token"), "it was to be taken out");
        let (kind, body) = match path {
            "/open/page" => ("text/html", PAGE),
            "/api/hello" => ("text/plain", "hello"),
            "/open/next" => {
                next.lock().unwrap().send(()).unwrap();
                ("text/plain", "")
            }
            "/open/result" => {
                tell.lock().unwrap().send(serde_json::from_slice(&request.body).unwrap()).unwrap();
                ("text/plain", "")
            }
            "/api/events" | "/legacy/events" => {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
                stream.write_all(head.as_bytes()).unwrap();
                let asked = asked.lock().unwrap();
                // The last reader asked once more than there was to be had.
                asked.try_iter().for_each(drop);
                for n in 1..=3 {
                    if n > 1 {
                        asked.recv_timeout(PATIENCE).unwrap();
                    }
                    stream.write_all(format!("9\r\ndata: {n}\n\n\r\n").as_bytes()).unwrap();
                }
                let _ = std::io::Read::read(stream, &mut [0; 16]);
                return false;
            }
            _ => ("text/plain", "nothing"),
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + body).as_bytes()).is_ok()
    });
    (upstream, told)
}

/// Chromium, ended when this is dropped.
struct Browser(Child);

impl Browser {
    fn open(program: &std::path::Path, profile: &std::path::Path, url: &str) -> Self {
        let mut browser = Command::new(program);
        browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
        browser.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        browser.args(["--no-proxy-server", "--disable-dev-shm-usage", "--ignore-certificate-errors"]);
        // The page is done when it has said so; with this port open, the browser does not go before.
        browser.arg("--remote-debugging-port=0").arg(format!("--user-data-dir={}", profile.display())).arg(url);
        Self(browser.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_fetches_listens_and_speaks() {
    let Some(program) = support::tool("chromium") else { return };
    let key = TestKey::new("ES256", "k");
    let home = home();
    let sockets = Sockets::start(By::Http, home.path()).await;
    let (site, told) = site();
    let yaml = format!(
        "workers: 1\n\
         listeners:\n\
         \x20 - {{ name: plain, address: 127.0.0.1:0 }}\n\
         \x20 - {{ name: tls, address: 127.0.0.1:0, tls: {{ certificates: [{{ cert_file: cert.pem, key_file: key.pem }}] }} }}\n\
         admin: {{ address: 127.0.0.1:0 }}\n\
         upstreams:\n\
         \x20 - {{ name: site, urls: ['http://{}'] }}\n\
         \x20 - {{ name: sockets, {} }}\n\
         {}\
         routes:\n\
         \x20 - {{ name: open, match: {{ path_prefix: /open }}, auth: none, upstream: site }}\n\
         \x20 - {{ name: api, match: {{ path_prefix: /api }}, upstream: site }}\n\
         \x20 - {{ name: legacy, match: {{ path_prefix: /legacy }}, legacy_query_token: true, upstream: site }}\n\
         \x20 - {{ name: sockets, match: {{ path_prefix: /socket }}, legacy_query_token: true, upstream: sockets }}\n",
        site.address(),
        sockets.config,
        provider(&[&key], ""),
    );
    let gate = Sidegate::start_in(home, &yaml);
    let told = std::sync::Arc::new(Mutex::new(told));
    for (scheme, protocol) in [("http", "http/1.1"), ("https", "h2")] {
        let port = gate.listener(if scheme == "https" { "tls" } else { "plain" }).port();
        let url = format!("{scheme}://127.0.0.1:{port}/open/page#token={}", key.good());
        let profile = tempfile::tempdir().unwrap();
        let browser = Browser::open(&program, profile.path(), &url);
        let told = told.clone();
        let result = tokio::task::spawn_blocking(move || told.lock().unwrap().recv_timeout(3 * PATIENCE));
        let result = result.await.unwrap().expect("the page's word");
        assert_eq!(
            result,
            json!({
                "fetch": "200 hello",
                "refused": "401 unauthorized Bearer realm=\"sidegate\"",
                "streamed": "data: 1||data: 2||data: 3||",
                "event_source": "3",
                "web_socket": "chat.v2 true 4001 enough true",
                "socket_refused": 1006,
                "over": protocol,
            }),
            "over {scheme}"
        );
        let seen = sockets.only();
        assert_eq!(seen.target, "/socket/echo", "the token was taken out");
        assert_eq!(seen.headers["origin"], format!("{scheme}://127.0.0.1:{port}"));
        // A browser asks for WebSockets over the connection it has, where that is one of HTTP/2.
        let via = if scheme == "https" { "2.0 sidegate" } else { "1.1 sidegate" };
        assert_eq!(seen.headers["via"], via);
        drop(browser);
    }
    in_time("no tunnel to be left", async {
        while gate.metric("sidegate_tunnels") > 0.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
