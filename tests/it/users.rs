//! Users of a file: taken up while the process runs, and changed by commands.

use std::{
    fs::{self, Permissions},
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    process::{Child, Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::{Answer, Sidegate, Upstream, config_with_issuer, tokens::argon2id, wait_for};

const APP: (&str, &str) = ("Authorization", "Basic YXBwOnNlY3JldA==");

/// One that has its users in `users.yaml`, which says this.
fn gate(users: &str) -> Sidegate {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("users.yaml"), users).unwrap();
    Sidegate::start_in(folder, &configuration())
}

fn configuration() -> String {
    let route = "routes: [{ name: all, match: { path_prefix: / }, upstream: app }]\n";
    let inline = config_with_issuer(Upstream::start().address(), route);
    let lines = inline.lines().map(|line| match line.trim_start().starts_with("users: ") {
        true => "  users: { file: users.yaml }\n".to_owned(),
        false => format!("{line}\n"),
    });
    lines.collect()
}

/// Alice and bob, each with a comment above them; their passwords are their names.
fn alice_and_bob() -> String {
    let (alice, bob) = (argon2id("alice"), argon2id("bob"));
    format!(
        "# Who may log in.\n\n- username: alice # the first\n  password_hash: {alice}\n\n# bob is on leave in May\n\
         - username: bob\n  password_hash: {bob}\n  claims: {{ roles: [admin] }}\n"
    )
}

fn start(folder: &Path, arguments: &[&str], input: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidegate"));
    command.arg("user").args(arguments).current_dir(folder).env("BOBS_HASH", argon2id("bob"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One that asks for no password may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child
}

/// The exit code of `sidegate user …`, and what it says.
fn user(folder: &Path, arguments: &[&str], input: &str) -> (Option<i32>, String) {
    let output = start(folder, arguments, input).wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// The same, where it has to work.
fn done(folder: &Path, arguments: &[&str], input: &str) -> String {
    let (code, said) = user(folder, arguments, input);
    assert_eq!(code, Some(0), "{arguments:?}: {said}");
    said
}

fn text(folder: &Path) -> String {
    fs::read_to_string(folder.join("users.yaml")).unwrap()
}

fn log_in(gate: &Sidegate, name: &str, password: &str) -> Answer {
    let form = format!("grant_type=password&username={name}&password={password}");
    gate.post_form("/oauth/token", &[APP], &form)
}

/// The access token and the refresh token of somebody who can log in, now or in a moment.
fn tokens(gate: &Sidegate, name: &str, password: &str) -> (String, String) {
    let answer = wait_for("a login", || Some(log_in(gate, name, password)).filter(|answer| answer.status == 200));
    (answer.member("access_token"), answer.member("refresh_token"))
}

fn wait_until_refused(gate: &Sidegate, name: &str, password: &str) {
    let refused = wait_for("a refusal", || Some(log_in(gate, name, password)).filter(|answer| answer.status != 200));
    assert_eq!((refused.status, refused.member("error")), (400, "invalid_grant".into()));
}

fn refresh(gate: &Sidegate, token: &str) -> Answer {
    gate.post_form("/oauth/token", &[APP], &format!("grant_type=refresh_token&refresh_token={token}"))
}

fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

#[test]
fn who_is_added_while_it_runs_can_log_in() {
    let gate = gate("[]");
    assert_eq!(log_in(&gate, "carol", "hat").status, 400);
    let more = ["--subject", "u-3", "--claim", "roles=[\"dev\"]", "--claim", "team=red", "--claim", "note=${X} $${Y}"];
    let said = done(gate.dir(), &[&["add", "carol"], &more[..]].concat(), "hat\n");
    assert_eq!(said, "carol is added to users.yaml\n");
    let (access, renewal) = tokens(&gate, "carol", "hat");
    let claims = claims(&access);
    assert_eq!((&claims["sub"], &claims["roles"], &claims["team"]), (&json!("u-3"), &json!(["dev"]), &json!("red")));
    assert_eq!(claims["note"], json!("${X} $${Y}"));
    assert_eq!(gate.get_with("/", &access).status, 200);
    assert_eq!(refresh(&gate, &renewal).status, 200);
    // Nobody has to go through the configuration, and the subject is the name unless it is said.
    done(gate.dir(), &["add", "dave", "--file", "users.yaml"], "cap");
    assert_eq!(self::claims(&tokens(&gate, "dave", "cap").0)["sub"], json!("dave"));
    let log = gate.logged_until(|log| log.contains("2 users from now on"));
    assert!(!log.contains("$argon2id"), "{log}");
}

#[test]
fn another_password_takes_the_place_of_the_old_one() {
    let gate = gate(&alice_and_bob());
    let (_, renewal) = tokens(&gate, "alice", "alice");
    assert_eq!(done(gate.dir(), &["passwd", "alice"], "wonderland\n"), "alice has another password\n");
    wait_until_refused(&gate, "alice", "alice");
    tokens(&gate, "alice", "wonderland");
    // Sessions are no passwords.
    assert_eq!(refresh(&gate, &renewal).status, 200);
    assert_eq!(log_in(&gate, "bob", "bob").status, 200);
}

#[test]
fn who_is_disabled_or_removed_is_out_at_once() {
    for (command, cause) in [("disable", "disabled"), ("remove", "user_gone")] {
        let gate = gate(&alice_and_bob());
        let (access, renewal) = tokens(&gate, "alice", "alice");
        let (others, _) = tokens(&gate, "bob", "bob");
        assert_eq!(gate.get_with("/", &access).status, 200);
        done(gate.dir(), &[command, "alice"], "");
        wait_for("the access token to be refused", || (gate.get_with("/", &access).status == 401).then_some(()));
        let refused = refresh(&gate, &renewal);
        assert_eq!((refused.status, refused.member("error")), (400, "invalid_grant".into()), "{command}");
        assert_eq!(log_in(&gate, "alice", "alice").member("error"), "invalid_grant");
        assert_eq!(gate.get_with("/", &others).status, 200);
        gate.logged_until(|log| log.contains(cause) && log.contains("revoked"));

        match command {
            "disable" => drop(done(gate.dir(), &["enable", "alice"], "")),
            _ => drop(done(gate.dir(), &["add", "alice"], "alice")),
        }
        let (again, renewal) = tokens(&gate, "alice", "alice");
        assert_eq!(gate.get_with("/", &again).status, 200);
        assert_eq!(refresh(&gate, &renewal).status, 200);
        assert_eq!(gate.get_with("/", &access).status, 401, "what was ended stays so");
    }
}

#[test]
fn who_gets_another_subject_does_not_keep_what_the_old_one_had() {
    let gate = gate(&alice_and_bob());
    let (access, _) = tokens(&gate, "alice", "alice");
    fs::write(gate.dir().join("users.yaml"), alice_and_bob().replace("alice #", "alice\n  subject: u-1 #")).unwrap();
    wait_for("the access token to be refused", || (gate.get_with("/", &access).status == 401).then_some(()));
    assert_eq!(claims(&tokens(&gate, "alice", "alice").0)["sub"], json!("u-1"));
}

#[test]
fn a_file_that_is_wrong_is_refused_as_a_whole() {
    let gate = gate(&alice_and_bob());
    let file = gate.dir().join("users.yaml");
    let stay = "the users of before stay";
    for (wrong, said) in [
        ("- username: eve\n  password_hash: hunter2\n", "users.yaml:2:3: [0].password_hash: not a hash"),
        ("- username: eve\n  pasword_hash: hunter2\n", "users.yaml:2:3: [0].pasword_hash: unknown key"),
        ("", "users.yaml:1:1: the file is empty"),
        ("users: []\n", "users.yaml:1:1: expected a list of users (`- username: …`), found a mapping"),
    ] {
        fs::write(&file, wrong).unwrap();
        let log = gate.logged_until(|log| log.contains(said) && log.ends_with('\n'));
        assert!(log.contains("ERROR") && log.contains(stay) && !log.contains("hunter2"), "{log}");
        assert_eq!(log_in(&gate, "alice", "alice").status, 200);
        assert_eq!(log_in(&gate, "eve", "hunter2").status, 400);
    }
    // With one that is good, and one that is not, the good one is no user either.
    let half = format!("- username: eve\n  password_hash: {}\n- username: x\n", argon2id("eve"));
    fs::write(&file, half).unwrap();
    gate.logged_until(|log| log.contains("users.yaml:3:3: [1].password_hash: missing"));
    assert_eq!(log_in(&gate, "eve", "eve").status, 400);
    fs::remove_file(&file).unwrap();
    gate.logged_until(|log| log.contains("there is no such file; `sidegate user add NAME --file "));
    assert_eq!(log_in(&gate, "alice", "alice").status, 200);
    fs::write(&file, format!("- username: eve\n  password_hash: {}\n", argon2id("eve"))).unwrap();
    let log = gate.logged_until(|log| log.contains("1 user from now on"));
    assert!(!log.contains(stay), "one line is enough for each: {log}");
    tokens(&gate, "eve", "eve");
    wait_until_refused(&gate, "alice", "alice");
}

#[test]
fn a_file_that_is_wrong_at_the_start_is_named_beside_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = |users: &str| {
        fs::write(folder.path().join("users.yaml"), users).unwrap();
        let config = configuration().replace("workers: 1", "workers: 0");
        fs::write(folder.path().join("config.yaml"), config).unwrap();
        let output =
            Command::new(env!("CARGO_BIN_EXE_sidegate")).arg("check").current_dir(folder.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = wrong("- username: alice\n  password_hash: hunter2\n- username: alice\n  password_hash: x\n");
    let places: Vec<_> = said.lines().filter_map(|line| line.split(": ").next()).collect();
    let expected = ["config.yaml:1:1", "users.yaml:2:3", "users.yaml:3:3", "users.yaml:4:3", "4 problems"];
    assert_eq!(places, expected, "{said}");
    assert!(said.contains("[1].username: \"alice\" stands in line 1 already") && !said.contains("hunter2"), "{said}");
    let demo = format!("- username: test\n  password_hash: {}\n", sidegate::config::demo::USER_PASSWORD_HASH);
    assert!(wrong(&demo).contains("users.yaml:2:3: [0].password_hash: these are the demo's credentials"));
}

#[test]
fn commands_that_come_at_once_lose_nothing_of_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..8).map(|n| format!("user-{n}")).collect();
    let adding: Vec<_> =
        names.iter().map(|name| start(folder.path(), &["add", name, "--file", "users.yaml"], "secret\n")).collect();
    for child in adding {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let listed = done(folder.path(), &["list", "--file", "users.yaml"], "");
    for name in &names {
        assert!(listed.contains(name), "{listed}");
    }
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["users.yaml"]);
}

#[test]
fn the_list_shows_everything_but_hashes() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("users.yaml"), alice_and_bob()).unwrap();
    done(folder.path(), &["disable", "alice", "--file", "users.yaml"], "");
    let listed = done(folder.path(), &["list", "--file", "users.yaml"], "");
    assert_eq!(listed, "alice  alice  disabled\nbob    bob    active    {\"roles\":[\"admin\"]}\n");
}

#[test]
fn the_file_is_its_owners_alone_unless_it_was_others_before() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.yaml");
    let mode = || fs::metadata(&file).unwrap().mode() & 0o777;
    done(folder.path(), &["add", "alice", "--file", "users.yaml"], "a");
    assert_eq!(mode(), 0o600);
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    done(folder.path(), &["disable", "alice", "--file", "users.yaml"], "");
    assert_eq!(mode(), 0o640);
    // What a symlink leads to is changed, and the symlink stays.
    symlink("users.yaml", folder.path().join("link")).unwrap();
    done(folder.path(), &["enable", "alice", "--file", "link"], "");
    assert!(fs::symlink_metadata(folder.path().join("link")).unwrap().is_symlink());
    assert_eq!(done(folder.path(), &["list", "--file", "users.yaml"], ""), "alice  alice  active\n");
}

#[test]
fn what_others_have_written_stays() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.yaml");
    let run = |arguments: &[&str], input: &str| {
        done(folder.path(), &[arguments, &["--file", "users.yaml"]].concat(), input);
        text(folder.path())
    };
    let before = alice_and_bob();
    fs::write(&file, &before).unwrap();
    let added = run(&["add", "carol"], "hat");
    let (kept, new) = added.split_at(before.len());
    assert_eq!(kept, before);
    assert!(new.starts_with("- username: carol\n  password_hash: $argon2id$"), "{new}");
    let disabled = run(&["disable", "bob"], "");
    assert!(disabled.starts_with(kept.split_once("  claims").unwrap().0) && disabled.ends_with(new), "{disabled}");
    assert!(disabled.contains("\n  disabled: true\n"), "{disabled}");
    let removed = run(&["remove", "alice"], "");
    assert!(removed.starts_with("# Who may log in.\n\n\n# bob is on leave in May\n- username: bob\n"), "{removed}");

    // In one line, with an anchor that another entry needs, and with a variable that only the process may know.
    let (alice, shared) = (argon2id("alice"), "&all { roles: [dev] }");
    let flow = format!(
        "# Who.\n[{{ username: alice, password_hash: \"{alice}\", claims: {shared} }}, \
         {{ username: bob, password_hash: \"${{BOBS_HASH}}\", claims: *all }}]"
    );
    fs::write(&file, flow).unwrap();
    let disabled = run(&["disable", "alice"], "");
    assert!(disabled.starts_with("# Who.\n- username: alice\n") && disabled.contains("${BOBS_HASH}"), "{disabled}");
    let listed = done(folder.path(), &["list", "--file", "users.yaml"], "");
    assert_eq!(listed.matches("{\"roles\":[\"dev\"]}").count(), 2, "{listed}");
    run(&["remove", "alice"], "");
    assert_eq!(run(&["remove", "bob"], ""), "# Who.\n[]\n");
    assert_eq!(done(folder.path(), &["list", "--file", "users.yaml"], ""), "there are no users\n");
    let first = run(&["add", "carol"], "hat");
    assert!(first.starts_with("# Who.\n- username: carol\n"), "{first}");
    // An anchor of a name that was there before: without it, the last entry would have the first one's claims.
    let entries = [("alice", "&c { n: 1 }"), ("bob", "&c { n: 2 }"), ("carol", "*c")];
    let entry = |(name, claims)| format!("- username: {name}\n  password_hash: {alice}\n  claims: {claims}\n");
    fs::write(&file, entries.map(entry).concat()).unwrap();
    run(&["disable", "bob"], "");
    let listed = done(folder.path(), &["list", "--file", "users.yaml"], "");
    assert!(listed.ends_with("carol  carol  active    {\"n\":2}\n"), "{listed}");
    // Indented, and without a line's end.
    fs::write(&file, format!("  - username: alice\n    password_hash: {alice}")).unwrap();
    assert!(run(&["add", "bob"], "hat").contains("\n  - username: bob\n    password_hash: "));
}

#[test]
fn what_makes_no_sense_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.yaml");
    for command in [&["list"][..], &["passwd", "alice"], &["disable", "alice"]] {
        let (code, said) = user(folder.path(), &[command, &["--file", "users.yaml"]].concat(), "x");
        assert_eq!(code, Some(2), "{said}");
        assert!(
            said.contains("users.yaml: there is no such file; `sidegate user add NAME --file users.yaml`"),
            "{said}"
        );
    }
    let before = alice_and_bob();
    fs::write(&file, &before).unwrap();
    for (arguments, input, why) in [
        (&["add", "alice"][..], "", "there is a user \"alice\" already (users.yaml:3)"),
        (&["add", "carol"], "", "the password is empty"),
        (&["add", "carol", "--claim", "sub=x"], "x", "[2].claims.sub: is said by the issuer"),
        (&["add", "carol", "--claim", "a=1", "--claim", "a=2"], "x", "the claim \"a\" is given twice"),
        (&["add", "carol", "--claim", "a"], "x", "a claim is written NAME=VALUE"),
        (&["add", "carol", "--subject", "bob"], "x", "\"bob\" stands in line"),
        (&["add", "carol", "--subject", "client:app"], "x", "a subject must not begin with \"client:\""),
        (&["add", "zoë"], "x", "must be 1 to 256 printable ASCII characters"),
        (&["passwd", "carol"], "", "there is no user \"carol\" in users.yaml"),
        (&["remove", "carol"], "", "there is no user \"carol\""),
        (&["list", "--config", "config.yaml"], "", "cannot be used with"),
    ] {
        let (code, said) = user(folder.path(), &[arguments, &["--file", "users.yaml"]].concat(), input);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains(why), "{arguments:?}: {said}");
        assert_eq!(text(folder.path()), before);
    }
    fs::write(&file, "- username: alice\n").unwrap();
    let (code, said) = user(folder.path(), &["disable", "alice", "--file", "users.yaml"], "");
    assert_eq!(code, Some(2));
    assert!(said.contains("users.yaml:1:3: [0].password_hash: missing"), "{said}");

    let configured = |users: &str| {
        fs::write(folder.path().join("config.yaml"), format!("issuer: {{ {users} }}\n")).unwrap();
        user(folder.path(), &["list"], "")
    };
    let (code, said) = configured("users: []");
    assert_eq!(code, Some(2));
    assert!(said.contains("config.yaml:1:11: issuer.users: the users stand here"), "{said}");
    let (code, said) = configured("master_key: \"${NOT_HERE}\"");
    assert_eq!(code, Some(2));
    assert!(said.contains("issuer.users.file: missing: the file with the users"), "{said}");
    // What is wrong elsewhere, such as a variable that only the process has, hinders nobody.
    fs::write(&file, &before).unwrap();
    assert_eq!(configured("master_key: \"${NOT_HERE}\", users: { file: users.yaml }").0, Some(0));
}
