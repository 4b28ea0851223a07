//! One owner: an address or a data folder that is taken is not shared, and whoever comes second is told who came first.

use std::{
    net::{Ipv4Addr, TcpListener},
    process::{Child, Stdio},
};

use super::open_config;
use crate::support::{Sidegate, Upstream, command, config_with_issuer, wait_for, write_config};

/// Killed when it is dropped, should it start after all.
struct Second(Child);

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts one that must not start; returns what it says.
fn refused(yaml: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), yaml);
    let mut command = command(dir.path());
    let mut second = Second(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let status = wait_for("the second to give up", || second.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
    let read = |from: Box<dyn std::io::Read>| std::io::read_to_string(from).unwrap();
    assert_eq!(read(Box::new(second.0.stdout.take().unwrap())), "");
    read(Box::new(second.0.stderr.take().unwrap()))
}

/// A configuration that listens where `gate` does, or where its admin listener does.
fn at_listener(gate: &Sidegate, yaml: &str) -> String {
    yaml.replacen("address: 127.0.0.1:0", &format!("address: {}", gate.address()), 1)
}

fn at_admin(gate: &Sidegate, yaml: &str) -> String {
    yaml.replace("admin: { address: 127.0.0.1:0 }", &format!("admin: {{ address: {} }}", admin_of(gate)))
}

fn admin_of(gate: &Sidegate) -> String {
    let line = gate.printed.lines().find(|line| line.contains("  admin ")).unwrap();
    line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned()
}

#[test]
fn an_address_has_one_owner() {
    let upstream = Upstream::start();
    let yaml = open_config(upstream.address(), "");
    let mut first = Sidegate::start(&yaml);
    let owner = format!("is in use by sidegate with pid {}", first.pid());
    assert_eq!(refused(&at_listener(&first, &yaml)), format!("sidegate: {} {owner}\n", first.address()));
    assert_eq!(refused(&at_admin(&first, &yaml)), format!("sidegate: {} {owner}\n", admin_of(&first)));
    // All addresses include the one that is taken.
    let all = at_listener(&first, &yaml).replacen("127.0.0.1", "0.0.0.0", 1);
    assert!(refused(&all).contains(&owner));
    assert_eq!((first.get("/", &[]).status, first.admin("/readyz").status), (200, 200));

    let (at_listener, at_admin) = (at_listener(&first, &yaml), at_admin(&first, &yaml));
    first.signal("TERM");
    assert!(first.wait().success());
    assert_eq!(Sidegate::start(&at_listener).get("/", &[]).status, 200);
    assert_eq!(Sidegate::start(&at_admin).admin("/readyz").status, 200);
}

#[test]
fn the_owner_is_whoever_has_that_address_not_only_its_port() {
    let upstream = Upstream::start();
    let yaml = open_config(upstream.address(), "");
    let first = Sidegate::start(&yaml);
    let port = first.address().port();
    // This process has the port too, on the addresses beside it.
    let _others: Vec<_> = (2..6).map(|n| TcpListener::bind((Ipv4Addr::new(127, 0, 0, n), port)).unwrap()).collect();
    assert!(refused(&at_listener(&first, &yaml)).contains(&format!("sidegate with pid {}", first.pid())));
}

#[test]
fn a_data_folder_has_one_owner() {
    let (upstream, data) = (Upstream::start(), tempfile::tempdir().unwrap());
    let yaml = config_with_issuer(
        upstream.address(),
        &format!(
            "\x20 store: {{ embedded: {{ path: {} }} }}\n\
             routes: [{{ name: all, match: {{ path_prefix: / }}, upstream: app }}]",
            data.path().display()
        ),
    );
    let log_in = |gate: &Sidegate| {
        gate.post_form(
            "/oauth/token",
            &[("Authorization", "Basic YXBwOnNlY3JldA==")],
            "grant_type=password&username=alice&password=wonderland",
        )
    };
    let first = Sidegate::start(&yaml);
    let token = log_in(&first).member("access_token");
    let (folder, pid) = (data.path().display(), first.pid());
    // After warnings about the configuration.
    let said = refused(&yaml);
    assert!(
        said.ends_with(&format!("sidegate: the data folder {folder} is in use by sidegate with pid {pid}\n")),
        "{said}"
    );
    assert_eq!(first.get_with("/", &token).status, 200);
    assert_eq!(log_in(&first).status, 200);
    // However the first ends, the next takes its place, and knows what it knew.
    let _dir = first.kill();
    let next = Sidegate::start(&yaml);
    assert_eq!(next.get_with("/", &token).status, 200);
    assert!(refused(&yaml).contains(&format!("in use by sidegate with pid {}", next.pid())));
}
