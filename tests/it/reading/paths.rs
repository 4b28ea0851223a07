//! Paths with several readings: refused, unless the one route that every reading leads to takes them by name.

use super::{ended, open_gate};
use crate::support::{Sidegate, Upstream, client::request, config};

const ALL: &str = "[encoded_slash, empty_segment, semicolon, backslash, double_encoding]";

#[test]
fn a_route_takes_by_name_what_is_refused_otherwise() {
    let upstream = Upstream::start();
    let rows = [
        ("encoded_slash", &["/a%2fb", "/a%2Fb/c", "/%2f", "/a/%2f%2F/b"][..]),
        ("empty_segment", &["//", "//a", "/a//b", "/a//", "/a///b"]),
        ("semicolon", &["/a;b", "/a;v=1/b", "/;", "/a%3bb", "/a%3B/c"]),
        ("backslash", &["/a\\b", "/a%5cb", "/a%5C"]),
        (
            "double_encoding",
            &["/a%2561", "/a%25252e", "/%25%36%31", "/a%252fb", "/a%253bb", "/a%255cb", "/caf%C3%A9%2561"],
        ),
    ];
    for (name, _) in rows {
        let gate = open_gate(&upstream, &format!(", allow_paths: [{name}]"), "");
        for (other, paths) in rows {
            for path in paths {
                let expected = if name == other { 200 } else { 400 };
                let status = request(gate.address(), "GET", path, &[], b"").status;
                assert_eq!(status, expected, "{path} where {name} is allowed");
                // It goes on as it came.
                let reached = upstream.take();
                let targets: Vec<_> = reached.iter().map(|reached| reached.target()).collect();
                assert_eq!(targets, if expected == 200 { vec![*path] } else { vec![] });
            }
        }
        // What has two oddities needs both by name.
        assert_eq!(request(gate.address(), "GET", "/a%2f;b//c\\d%2561", &[], b"").status, 400, "{name}");
    }
    let gate = open_gate(&upstream, &format!(", allow_paths: {ALL}"), "");
    assert_eq!(request(gate.address(), "GET", "/a%2f;b//c\\d%2561?x", &[], b"").status, 200);
    assert_eq!(upstream.only().target(), "/a%2f;b//c\\d%2561?x");
}

#[test]
fn no_opt_out_lets_through_what_is_refused_always() {
    let upstream = Upstream::start();
    let gate = open_gate(&upstream, &format!(", allow_paths: {ALL}"), "");
    for path in [
        "/./a",
        "/a/..",
        "/a/../b",
        "/%2e/a",
        "/a/%2e%2e/b",
        "/a/.%2E/b",
        // A dot segment for whoever has one habit, or several of them.
        "/a/..;/b",
        "/a/..;x=1/b",
        "/a/.;/b",
        "/a/..%3b/b",
        "/a/..%3bx%2fb",
        "/a/;/../b",
        "/a/..%2fb",
        "/a%2f..%2fb",
        "/a%2f%2e%2e%2fb",
        "/a\\..\\b",
        "/a%5c..%5cb",
        "/a/..\\b",
        "/a/%252e%252e/b",
        "/a/%25252e%25252e/b",
        "/a/%25%32%65%25%32%65/b",
        "/a/..%252fb",
        "/a%252f%252e%252e%252fb",
        "/a/..%253bx/b",
        "/a/..%255cb",
        "/a/..;%2fb",
        "/a;x=%2f../b",
        "/a;x=\\..\\b",
        "/a;..%2f..%2fb",
        "/a//../b",
        "//../b",
        "/a/%2e%2e;%252f/b",
        // Control characters, what is not UTF-8, what is not encoded right: also where a second decoding brings it out.
        "/a%00",
        "/a%2fb%00",
        "/a%2500",
        "/a%250d%250aX:%20y",
        "/a%257f",
        "/a//%0a",
        "/a;%7f",
        "/%c0%af;",
        "/%25c0%25af",
        "/%ff//",
        "/a//%",
        "/a;%zz",
        "*",
    ] {
        let status = request(gate.address(), "GET", path, &[], b"").status;
        assert_eq!((status, upstream.take().len()), (400, 0), "{path}");
    }
    // So much of it is no honest path, and would cost more than its worth.
    let long = |n: usize| format!("/{}", "a;/".repeat(n));
    assert_eq!(request(gate.address(), "GET", &long(1000), &[], b"").status, 200);
    assert_eq!(request(gate.address(), "GET", &long(2000), &[], b"").status, 400);
    let deep = format!("/a{}2fb", "%25".to_owned() + &"25".repeat(100));
    assert_eq!(request(gate.address(), "GET", &deep, &[], b"").status, 400);
    assert!(ended(&gate, "path_ambiguous") > 40.0);
}

#[test]
fn no_opt_out_is_a_way_round_another_route() {
    let upstream = Upstream::start();
    let provider = "providers: [{ name: idp, issuer: https://issuer.example, audiences: [api], algorithms: [HS256], hmac_secret: 0123456789abcdef0123456789abcdef }]";
    let gate = Sidegate::start(&config(
        upstream.address(),
        &format!(
            "{provider}
routes:
  - {{ name: admin, match: {{ path_prefix: /admin }}, upstream: app }}
  - {{ name: secret, match: {{ path: /files/secret }}, upstream: app }}
  - {{ name: write, match: {{ path_prefix: /files, methods: [PUT] }}, upstream: app }}
  - {{ name: host, match: {{ path_prefix: /, hosts: [inner.example] }}, upstream: app }}
  - {{ name: strict, match: {{ path_prefix: /strict }}, auth: none, upstream: app }}
  - {{ name: files, match: {{ path_prefix: /files }}, auth: none, allow_paths: {ALL}, upstream: app }}
  - {{ name: only, match: {{ path: /only }}, auth: none, allow_paths: {ALL}, upstream: app }}
  - {{ name: rest, match: {{ path_prefix: / }}, auth: none, allow_paths: {ALL}, upstream: app }}
"
        ),
    ));
    for (path, expected) in [
        // All readings lead to the one route.
        ("/files/a%2fb", 200),
        ("/files/a//b", 200),
        ("/files/a;v=1/b", 200),
        ("/files/a\\b", 200),
        ("/files/%2561", 200),
        ("/files;v=1/a", 400),
        ("/files/x%2fsecret", 200),
        ("/files/secrets;x", 200),
        ("/other//thing", 200),
        ("/administrator;x", 200),
        // One of them leads to /admin.
        ("//admin", 400),
        ("///admin", 400),
        ("/admin;x", 400),
        ("/admin;x/y", 400),
        ("/admin%3bx", 400),
        ("/admin%253bx", 400),
        ("/admin%2fx", 400),
        ("/admin%252fx", 400),
        ("/admin\\x", 400),
        ("/admin%5cx", 400),
        ("/admin%255cx", 400),
        ("/%2fadmin", 400),
        ("/%5cadmin", 400),
        ("/\\admin", 400),
        ("/%252fadmin", 400),
        ("/;/admin", 400),
        ("/;x/admin", 400),
        ("/;%2fadmin", 400),
        ("/%3b/admin", 400),
        ("/%2561dmin", 400),
        ("/%252561dmin", 400),
        ("/%61dmin;x", 400),
        ("/%2561dmin;x", 400),
        ("/%25%36%31dmin", 400),
        // What follows two slashes is a host to some.
        ("//evil.example/admin", 400),
        ("/\\evil.example/admin", 400),
        ("/%2fevil.example/admin", 400),
        ("//evil.example//admin", 400),
        ("//files/admin", 400),
        // /admin itself takes none of it, whatever a token says.
        ("/admin//x", 400),
        // The exact path of another route.
        ("/files//secret", 400),
        ("/files/secret;x", 400),
        ("/files%2fsecret", 400),
        ("/files\\secret", 400),
        ("/files/%2573ecret", 400),
        ("/files/;x/secret", 400),
        ("/files;x/secret", 400),
        // A route that allows nothing, and one that no oddity fits.
        ("/strict//x", 400),
        ("/strict;x", 400),
        ("/only;x", 400),
        ("/only//x", 200),
        // And plain paths are what they were.
        ("/files/a", 200),
        ("/admin", 401),
        ("/files/secret", 401),
        ("/strict/x", 200),
    ] {
        let status = request(gate.address(), "GET", path, &[], b"").status;
        assert_eq!((status, upstream.take().len()), (expected, usize::from(expected == 200)), "{path}");
    }
    // The method and the host choose the route for every reading.
    assert_eq!(request(gate.address(), "PUT", "/files/a%2fb", &[], b"").status, 400);
    assert_eq!(gate.get("/files/a%2fb", &[("Host", "inner.example")]).status, 400);
    assert!(upstream.take().is_empty());
}

#[test]
fn a_preflight_for_an_allowed_path_is_answered() {
    let upstream = Upstream::start();
    let gate = open_gate(&upstream, ", allow_paths: [encoded_slash], cors: { origins: ['*'] }", "");
    let asked = [("Origin", "https://app.example"), ("Access-Control-Request-Method", "GET")];
    assert_eq!(request(gate.address(), "OPTIONS", "/a%2fb", &asked, b"").status, 204);
    assert_eq!(request(gate.address(), "OPTIONS", "/a//b", &asked, b"").status, 400);
    assert!(upstream.take().is_empty());
}
