//! The first quarter of an hour: the repository's own config.yaml, started as it is but for its ports, and walked through
//! with the real curl, as a person would type it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::support::{Sidegate, tokens::now, tool, wait_for};

// Word for word. `<…>` is what the person fills in from an earlier answer.
const LOG_IN: &str = "curl -X POST -H 'Authorization: Basic dGVzdGNsaWVudDpzZWNyZXQ=' \
                      -d 'grant_type=password&username=test&password=test' localhost:3000/oauth/token";
const IN_QUERY: &str = "curl 'localhost:3000/secret?access_token=<token>'";
const AS_BEARER: &str = "curl -H 'Authorization: Bearer <token>' localhost:3000/secret";
const WITHOUT: &str = "curl localhost:3000/secret";
const REFRESH: &str = "curl -X POST -H 'Authorization: Basic dGVzdGNsaWVudDpzZWNyZXQ=' \
                       -d 'refresh_token=<refresh token>&grant_type=refresh_token' localhost:3000/oauth/token";
const REVOKE: &str = "curl -X POST -H 'Authorization: Basic dGVzdGNsaWVudDpzZWNyZXQ=' \
                      -d 'token=<refresh token>' localhost:3000/oauth/revoke";
const KEYS: &str = "curl localhost:3000/.well-known/jwks.json";

#[test]
fn a_token_is_got_used_outlived_and_refreshed() {
    let Some(demo) = Demo::start() else { return };
    let tokens = demo.type_in(LOG_IN).tokens();
    assert_eq!(tokens.answer["token_type"], "Bearer");
    assert_eq!(tokens.answer["expires_in"], 20);
    for command in [IN_QUERY, AS_BEARER] {
        let answer = demo.type_in(&tokens.fill(command));
        assert_eq!((answer.status, answer.body.as_str()), (200, "Secret area\n"), "{command}");
    }

    let answer = demo.type_in(WITHOUT);
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"sidegate\""));
    assert_eq!(answer.json()["error"], "unauthorized");

    demo.outlive(&tokens);
    for command in [IN_QUERY, AS_BEARER] {
        let answer = demo.type_in(&tokens.fill(command));
        assert_eq!(answer.status, 401, "{command}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let words = r#""error":"invalid_token","error_description":"The access token provided has expired.""#;
        assert!(answer.body.contains(words), "{}", answer.body);
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("Bearer ") && challenge.contains("error=\"invalid_token\""), "{challenge}");
    }

    let fresh = demo.type_in(&tokens.fill(REFRESH)).tokens();
    assert_ne!((&fresh.access, &fresh.refresh), (&tokens.access, &tokens.refresh));
    for command in [IN_QUERY, AS_BEARER] {
        assert_eq!(demo.type_in(&fresh.fill(command)).body, "Secret area\n", "{command}");
    }
}

#[test]
fn a_revoked_session_is_over_everywhere_at_once() {
    let Some(demo) = Demo::start() else { return };
    let first = demo.type_in(LOG_IN).tokens();
    let second = demo.type_in(&first.fill(REFRESH)).tokens();
    let other = demo.type_in(LOG_IN).tokens();
    for tokens in [&first, &second, &other] {
        assert_eq!(demo.type_in(&tokens.fill(AS_BEARER)).body, "Secret area\n");
    }
    assert_eq!(demo.type_in(&second.fill(REVOKE)).status, 200);
    for tokens in [&first, &second] {
        for command in [AS_BEARER, IN_QUERY] {
            let answer = demo.type_in(&tokens.fill(command));
            assert_eq!(answer.status, 401, "{command}");
            assert_eq!(answer.json()["error"], "invalid_token");
            assert_eq!(answer.json()["error_description"], "The access token provided has been revoked.");
        }
        let answer = demo.type_in(&tokens.fill(REFRESH));
        assert_eq!((answer.status, &answer.json()["error"]), (400, &Value::from("invalid_grant")));
    }
    assert_eq!(demo.type_in(&other.fill(AS_BEARER)).body, "Secret area\n", "another session goes on");
}

#[test]
fn it_says_what_there_is_and_what_to_try() {
    let Some(demo) = Demo::start() else { return };
    let printed = &demo.gate.printed;
    let line = |begin: &[&str]| {
        let found = printed.lines().find(|line| line.split_whitespace().take(begin.len()).eq(begin.iter().copied()));
        found.unwrap_or_else(|| panic!("no {begin:?} in\n{printed}")).to_owned()
    };
    let listener = line(&["listener", "public"]);
    assert!(listener.contains(&demo.gate.url("")) && listener.contains("issuer"), "{listener}");
    line(&["admin"]);
    assert!(line(&["issuer"]).ends_with("http://localhost:3000"));
    for (route, path) in [("health", "/healthz"), ("secret", "/secret"), ("admin", "/admin"), ("rest", "/")] {
        let line = line(&["route", route]);
        assert!(line.contains(path) && line.contains("app"), "{line}");
    }
    let tokens = demo.type_in(line(&["curl"]).trim()).tokens();
    assert_eq!(demo.type_in(&tokens.fill(AS_BEARER)).body, "Secret area\n");

    let mut logged = String::new();
    for option in ["legacy_password_grant", "legacy_query_token"] {
        wait_for(&format!("a warning about {option}"), || {
            logged += &demo.gate.logged();
            logged.lines().any(|line| line.contains("WARN") && line.contains(option)).then_some(())
        });
    }
}

#[test]
fn its_data_is_for_its_owner_alone_and_outlives_it() {
    let Some(demo) = Demo::start() else { return };
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let data = demo.gate.dir().join("data");
    assert_eq!(mode(&data), 0o700, "{}", data.display());
    let files: Vec<PathBuf> = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 3, "a store and two keys at the least: {files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }

    let tokens = demo.type_in(LOG_IN).tokens();
    let keys = demo.type_in(KEYS);
    assert!(keys.json()["keys"][0]["kid"].is_string(), "{}", keys.body);
    let demo = demo.restart();
    assert_eq!(demo.type_in(KEYS).body, keys.body);
    assert_eq!(demo.type_in(&tokens.fill(AS_BEARER)).body, "Secret area\n");
    let fresh = demo.type_in(&tokens.fill(REFRESH)).tokens();
    assert_eq!(demo.type_in(&fresh.fill(AS_BEARER)).body, "Secret area\n");
}

/// The README's transcripts, command by command, against what is really shown.
#[test]
fn the_readme_shows_what_happens() {
    let Some(demo) = Demo::start() else { return };
    let readme = in_tree("README.md");
    for command in [LOG_IN, IN_QUERY, AS_BEARER, REFRESH, REVOKE] {
        assert!(readme.contains(&format!("\n$ {command}\n")), "not in the README: {command}");
    }
    let printed = demo.gate.printed.replace(&demo.gate.address().to_string(), "127.0.0.1:3000");
    let banner = blocks(&readme, "text").find(|block| block.starts_with("Sidegate ")).expect("what it prints");
    // The pid and the admin listener's port are other ones.
    for line in banner.lines().skip(1).filter(|line| !line.starts_with("  admin ")) {
        assert!(printed.lines().any(|printed| printed == line), "the README has {line:?}; it printed\n{printed}");
    }

    let mut tokens = None;
    let mut typed = 0;
    for (command, shown) in blocks(&readme, "console").flat_map(transcript) {
        if ["cargo run --release", "make test"].contains(&command) {
            continue;
        }
        let line = tokens.as_ref().map_or_else(|| command.to_owned(), |tokens: &Tokens| tokens.fill(command));
        if let (Some(tokens), true) = (&tokens, shown.contains("has expired")) {
            demo.outlive(tokens);
        }
        let answer = demo.type_in(&line);
        if answer.body.contains("refresh_token") {
            tokens = Some(answer.tokens());
        }
        typed += 1;
        let really = if command.contains(" -i ") { format!("{}\n\n{}", answer.head, answer.body) } else { answer.body };
        assert!(alike(&shown, &really), "{command}\nthe README:\n{shown}\nreally:\n{really}");
    }
    assert!(typed >= 5, "{typed}");
}

/// The fenced blocks of a kind.
fn blocks<'a>(markdown: &'a str, kind: &str) -> impl Iterator<Item = &'a str> {
    let fence = format!("\n```{kind}\n");
    let begins: Vec<usize> = markdown.match_indices(&fence).map(|(at, _)| at + fence.len()).collect();
    begins.into_iter().map(|at| markdown[at..].split_once("```").expect("an end of the block").0)
}

/// Each command of a block, without the comment behind it, and what it is said to show.
fn transcript(block: &str) -> impl Iterator<Item = (&str, String)> {
    block.split("$ ").filter(|part| !part.is_empty()).map(|part| {
        let (command, shown) = part.split_once('\n').unwrap();
        (command.split(" # ").next().unwrap().trim(), shown.to_owned())
    })
}

/// Whether the README shows what there is, but for the date and for what ends in `…`, which is different each time. Where
/// it breaks a line up, it is one.
fn alike(readme: &str, really: &str) -> bool {
    let bare = |text: &str| -> String {
        let lines = text.lines().filter(|line| !line.starts_with("date: "));
        lines.flat_map(str::split_whitespace).collect()
    };
    let (readme, really) = (bare(readme), bare(really));
    let mut rest = really.as_str();
    let mut parts = readme.split('…').peekable();
    while let Some(part) = parts.next() {
        let Some(_) = parts.peek() else { return rest == part };
        // The part begins where the last one ended; then comes some token, however long.
        let token = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let Some(after) = rest.strip_prefix(part.trim_end_matches(token)) else { return false };
        rest = after.trim_start_matches(token);
    }
    true
}

/// The default configuration as a process, and a shell to type at it.
struct Demo {
    gate: Sidegate,
    curl: PathBuf,
    home: tempfile::TempDir,
}

impl Demo {
    /// Starts it; `None` without curl.
    fn start() -> Option<Self> {
        let curl = tool("curl")?;
        // What a person sees on a terminal, and the head with it; nothing of whoever runs the tests.
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(".curlrc"), "silent\nshow-error\ninclude\nmax-time = 20\nnoproxy = \"*\"\n")
            .unwrap();
        Some(Self { gate: Sidegate::start(&default_config()), curl, home })
    }

    /// Ends it as an operator does, and starts it on what it left.
    fn restart(mut self) -> Self {
        self.gate.signal("TERM");
        let status = self.gate.wait();
        assert!(status.success(), "{status}");
        let gate = Sidegate::start_in(self.gate.kill(), &default_config());
        Self { gate, ..self }
    }

    /// Waits until the access token has expired.
    fn outlive(&self, tokens: &Tokens) {
        let gone = now() + 20;
        // Up to its last seconds first: patience is as long as the token's life.
        wait_for("the token to grow old", || (now() + 5 >= gone).then_some(()));
        wait_for("the token to expire", || (self.gate.get_with("/secret", &tokens.access).status == 401).then_some(()));
    }

    /// Runs a command line, with the address that there really is.
    fn type_in(&self, command: &str) -> Shown {
        assert!(command.starts_with("curl ") && !command.contains('<'), "{command}");
        let line = command.replace("localhost:3000", &self.gate.address().to_string());
        assert_ne!(line, command, "it does not say where");
        let output = Command::new("/bin/sh")
            .args(["-c", &line])
            .env("PATH", self.curl.parent().unwrap())
            .env("CURL_HOME", self.home.path())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {} {error}", output.status);
        Shown::read(&String::from_utf8(output.stdout).unwrap())
    }
}

/// The file that a clone of the repository starts with, on free ports.
fn default_config() -> String {
    let mut yaml = in_tree("config.yaml");
    for (there, here) in [
        ("\n    address: 127.0.0.1:3000 ", "\n    address: 127.0.0.1:0 "),
        ("\n# admin: ", "\nadmin: "),
        ("\n#   address: 127.0.0.1:9900\n", "\n  address: 127.0.0.1:0\n"),
    ] {
        assert_eq!(yaml.matches(there).count(), 1, "{there:?}");
        yaml = yaml.replace(there, here);
    }
    yaml
}

fn in_tree(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// What curl showed.
struct Shown {
    status: u16,
    head: String,
    body: String,
}

impl Shown {
    fn read(shown: &str) -> Self {
        let (head, body) = shown.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {shown:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.into(), body: body.into() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn tokens(&self) -> Tokens {
        assert_eq!(self.status, 200, "{}", self.body);
        let answer = self.json();
        let member = |name: &str| answer[name].as_str().unwrap_or_else(|| panic!("no {name}: {answer}")).to_owned();
        Tokens { access: member("access_token"), refresh: member("refresh_token"), answer }
    }
}

/// What a person copies from the answer.
struct Tokens {
    access: String,
    refresh: String,
    answer: Value,
}

impl Tokens {
    /// The command with these tokens in it.
    fn fill(&self, command: &str) -> String {
        command.replace("<token>", &self.access).replace("<refresh token>", &self.refresh)
    }
}
