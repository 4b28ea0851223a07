//! `sidegate healthcheck`: what an image asks itself, and what it makes of every answer.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::support::{Sidegate, Upstream, config, wait_for};

const ROUTES: &str = "routes: [{ name: open, match: { path_prefix: / }, auth: none, upstream: app }]\n";

/// Its exit code, and what it says on standard output and standard error.
fn healthcheck(arguments: &[&str]) -> (Option<i32>, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_sidegate")).arg("healthcheck").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

#[test]
fn it_finds_the_admin_listener_by_url_or_configuration() {
    let upstream = Upstream::start();
    let yaml = config(upstream.address(), ROUTES);
    let gate = Sidegate::start(&yaml);
    let admin = gate.admin_address();
    let well = (Some(0), "ok\n".to_owned(), String::new());
    for arguments in [&["--url", &url(admin)][..], &["--url", &format!("{}/", url(admin)), "--ready"]] {
        assert_eq!(healthcheck(arguments), well, "{arguments:?}");
    }
    // What listens on all addresses is asked on loopback.
    for address in [admin.to_string(), format!("0.0.0.0:{}", admin.port())] {
        let file = gate.dir().join("again.yaml");
        std::fs::write(
            &file,
            yaml.replace("admin: { address: 127.0.0.1:0 }", &format!("admin: {{ address: {address} }}")),
        )
        .unwrap();
        assert_eq!(healthcheck(&["--config", file.to_str().unwrap(), "--ready"]), well, "{address}");
    }
    let (code, _, said) = healthcheck(&["--config", gate.dir().join("config.yaml").to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(said.contains("`admin.address` has port 0"), "{said}");
}

#[test]
fn who_drains_lives_and_is_not_ready() {
    let upstream = Upstream::start();
    let gate = Sidegate::start(&config(upstream.address(), &format!("{ROUTES}shutdown: {{ drain_delay: 60s }}\n")));
    let admin = url(gate.admin_address());
    gate.signal("TERM");
    let said = wait_for("it to drain", || match healthcheck(&["--url", &admin, "--ready"]) {
        (Some(1), _, said) => Some(said),
        _ => None,
    });
    assert_eq!(said, format!("{admin}/readyz answers with 503: not ready\n"));
    assert_eq!(healthcheck(&["--url", &admin]).0, Some(0));
}

#[test]
fn what_cannot_be_asked_is_not_well() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let wrong = folder.path().join("wrong.yaml");
    std::fs::write(&wrong, "lisstener: 1\n").unwrap();
    for (arguments, words) in [
        (["--url", &url(nowhere)], "refused"),
        (["--config", "/no/such/config.yaml"], "config.yaml"),
        (["--config", wrong.to_str().unwrap()], "lisstener"),
    ] {
        let (code, out, said) = healthcheck(&arguments);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{arguments:?}: {said}");
        assert!(said.contains(words), "{said}");
    }
    // What is no address of an admin listener, the arguments' own check refuses.
    for wrong in ["https://127.0.0.1:9900", "http://127.0.0.1:9900/livez", "http://127.0.0.1", "127.0.0.1:9900"] {
        assert_eq!(healthcheck(&["--url", wrong]).0, Some(2), "{wrong}");
    }
}

#[test]
fn what_answers_otherwise_is_not_well_and_is_not_waited_for() {
    type Answer = fn(TcpStream) -> std::io::Result<()>;
    let answers: [(Answer, &str); 4] = [
        (|mut stream| stream.read_to_end(&mut Vec::new()).map(drop), "no whole answer in time"),
        (|mut stream| stream.write_all(b"220 mail.example ESMTP\r\n"), "no HTTP"),
        (|mut stream| stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\nwho?"), "answers with 404: who?"),
        (
            |mut stream| {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                while stream.write_all(b".").is_ok() {
                    thread::sleep(Duration::from_millis(50));
                }
                Ok(())
            },
            "no whole answer in time",
        ),
    ];
    for (answer, words) in answers {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answering = thread::spawn(move || answer(read_a_request(listener.accept().unwrap().0)));
        let begun = Instant::now();
        let (code, out, said) = healthcheck(&["--url", &url(address)]);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{said}");
        assert!(said.contains(words), "{said}");
        assert!(begun.elapsed() < Duration::from_secs(10), "it waited {:?}", begun.elapsed());
        let _ = answering.join().unwrap();
    }
}

/// Hung up on with a request unread, a connection is reset, and its answer lost.
fn read_a_request(mut stream: TcpStream) -> TcpStream {
    let mut request = Vec::new();
    let mut piece = [0; 512];
    while !request.ends_with(b"\r\n\r\n") {
        let n = stream.read(&mut piece).unwrap();
        request.extend_from_slice(&piece[..n]);
    }
    stream
}
