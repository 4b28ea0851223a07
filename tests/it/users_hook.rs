//! The real program with a hook that knows its users.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    process::Command,
    sync::{Arc, mpsc},
    thread,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::aws_lc_rs::default_provider,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
};

use crate::support::{
    Answer, PATIENCE, Sidegate, Upstream, config_with_issuer,
    tls::{Ca, Issued, names},
};

const CREDENTIAL: &str = "0123456789abcdef0123456789abcdef";
const APP: (&str, &str) = ("Authorization", "Basic YXBwOnNlY3JldA==");

/// A configuration in which the users are asked for there.
fn configuration(http: &str) -> String {
    let route =
        "routes: [{ name: all, match: { path_prefix: / }, upstream: app }]\nlog: { audit: audit.log, level: debug }\n";
    let inline = config_with_issuer(Upstream::start().address(), route);
    let lines = inline.lines().map(|line| match line.trim_start().starts_with("users: ") {
        true => format!("  users: {{ http: {{ credential: {{ from_file: hook.credential }}, {http} }} }}\n"),
        false => format!("{line}\n"),
    });
    lines.collect()
}

fn folder() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let credential = folder.path().join("hook.credential");
    fs::write(&credential, format!("{CREDENTIAL}\n")).unwrap();
    fs::set_permissions(&credential, fs::Permissions::from_mode(0o600)).unwrap();
    folder
}

fn log_in(gate: &Sidegate, password: &str) -> Answer {
    let form = format!("grant_type=password&username=alice&password={password}");
    gate.post_form("/oauth/token", &[APP], &form)
}

/// A user base over TLS that answers every question the same, and what reaches it.
fn people(issued: &Issued, answer: &'static str) -> (u16, mpsc::Receiver<String>) {
    let key = PrivateKeyDer::from_pem_file(&issued.key_file).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = Arc::new(config.with_single_cert(vec![issued.der()], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (send, reached) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let (connection, send) = (ServerConnection::new(config.clone()).unwrap(), send.clone());
            thread::spawn(move || {
                let mut stream = StreamOwned::new(connection, stream);
                let mut request = Vec::new();
                while !request.ends_with(b"}") {
                    let mut piece = [0; 1024];
                    match stream.read(&mut piece) {
                        Ok(read) if read > 0 => request.extend_from_slice(&piece[..read]),
                        // It has found that we are not who we should be.
                        Ok(_) | Err(_) => return,
                    }
                }
                let _ = send.send(String::from_utf8(request).unwrap());
                let length = answer.len();
                let _ =
                    write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{answer}");
                stream.conn.send_close_notify();
                let _ = stream.flush();
            });
        }
    });
    (port, reached)
}

#[test]
fn over_tls_it_is_asked_only_where_it_proves_who_it_is() {
    let home = folder();
    let ca = Ca::new(home.path().join("ca.pem"));
    let other = Ca::new(home.path().join("other.pem"));
    let issued = ca.sign(&home.path().join("people"), names(&["localhost"]));
    let alice = r#"{"version":1,"subject":"u-1","claims":{"groups":["dev"]}}"#;
    let (port, reached) = people(&issued, alice);
    let url = format!("url: 'https://localhost:{port}/', claims: {{ roles: groups }}");
    let gate = Sidegate::start_in(home, &configuration(&format!("{url}, ca_file: ca.pem")));
    let answer = log_in(&gate, "wonderland");
    assert_eq!(answer.status, 200, "{answer:?}");
    let request = reached.recv_timeout(PATIENCE).unwrap();
    assert!(request.contains(&format!("authorization: Bearer {CREDENTIAL}")), "{request}");
    assert!(request.contains(r#""client_id":"app","address":"127.0.0.1""#), "{request}");
    assert_eq!(gate.get_with("/", &answer.member("access_token")).status, 200);
    let home = gate.kill();
    fs::write(home.path().join("other.pem"), fs::read(&other.file).unwrap()).unwrap();
    let gate = Sidegate::start_in(home, &configuration(&format!("{url}, ca_file: other.pem")));
    let answer = log_in(&gate, "wonderland");
    assert_eq!((answer.status, answer.member("error")), (503, "temporarily_unavailable".into()));
    assert!(reached.try_recv().is_err(), "nobody else gets to see a password");
    gate.logged_until(|log| log.contains("the users could not be asked for"));
}

#[test]
fn nothing_secret_is_written_anywhere() {
    let people = Upstream::answering(|request| {
        let question = String::from_utf8_lossy(&request.body).into_owned();
        let (status, answer) = match question {
            it if it.contains("hunter1") => (200, r#"{"version":1,"subject":"u-1","username":"alice"}"#),
            it if it.contains("hunter2") => (401, r#"{"version":1,"denied":true}"#),
            it if it.contains("hunter3") => (200, "hunter3 hunter3 hunter3"),
            _ => (500, "hunter4"),
        };
        format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{answer}", answer.len()).into()
    });
    let url = format!("url: 'http://{}/hunter5?hunter6'", people.address());
    let gate = Sidegate::start_in(folder(), &configuration(&url));
    for (password, status) in [("hunter1", 200), ("hunter2", 400), ("hunter3", 503), ("hunter4", 503)] {
        assert_eq!(log_in(&gate, password).status, status, "{password}");
    }
    // Both connections and questions are few: it is kept open.
    assert_eq!((people.take().len(), people.connections()), (4, 1));
    let metrics = gate.admin("/metrics").text();
    for (operation, result) in
        [("log_in", "ok"), ("log_in", "denied"), ("log_in", "bad_answer"), ("log_in", "bad_status")]
    {
        let series = format!("sidegate_users_hook_calls_total{{operation=\"{operation}\",result=\"{result}\"}} 1");
        assert!(metrics.contains(&series), "{series}");
    }
    let log = gate.logged_until(|log| log.matches("the users could not be asked for").count() == 2);
    gate.signal("TERM");
    let mut gate = gate;
    gate.wait();
    let audit = fs::read_to_string(gate.dir().join("audit.log")).unwrap();
    for (event, more) in [
        ("\"ok\"", "\"subject\":\"u-1\""),
        ("\"failed\"", "\"reason\":\"denied\""),
        ("\"refused\"", "\"reason\":\"users_unavailable\""),
    ] {
        assert!(audit.lines().any(|line| line.contains(event) && line.contains(more)), "{event} {more}: {audit}");
    }
    let all = format!("{log}{}{metrics}{audit}{}", gate.logged(), gate.printed);
    assert!(!all.contains("hunter") && !all.contains(CREDENTIAL), "{all}");
}

#[test]
fn commands_for_a_file_say_that_there_is_none() {
    let home = folder();
    let config = configuration("url: 'http://127.0.0.1:1/'");
    fs::write(home.path().join("config.yaml"), config).unwrap();
    let run = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_sidegate")).args(arguments).current_dir(home.path()).output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (code, said) = run(&["check"]);
    assert_eq!((code, said.contains("2 clients, users asked for over HTTP)")), (Some(0), true), "{said}");
    let (code, said) = run(&["user", "disable", "alice"]);
    assert_eq!(
        (code, said.contains("the users are asked for over HTTP; who knows them looks after them")),
        (Some(2), true),
        "{said}"
    );
}
