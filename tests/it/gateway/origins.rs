//! A route that takes no request of a page of another origin.

use crate::support::{Sidegate, Upstream, client::request, config};

fn gate(upstream: &Upstream) -> Sidegate {
    let routes = "
providers: [{ name: local, issuer: https://idp.example, audiences: [https://Mcp.example.com/mcp], jwks: issuer }]
issuer: { url: https://idp.example, access_token: { audience: https://Mcp.example.com/mcp } }
routes:
  - name: mcp
    match: { path_prefix: /mcp }
    auth: optional
    resource: https://Mcp.example.com:443/mcp
    audiences: [https://Mcp.example.com/mcp]
    foreign_origins: refuse
    cors: { origins: ['https://app.example'] }
    upstream: app
  - { name: bare, match: { path_prefix: /bare }, auth: none, foreign_origins: refuse, upstream: app }
  - { name: said, match: { path_prefix: /said }, auth: none, foreign_origins: allow, upstream: app }
  - { name: rest, match: { path_prefix: / }, auth: none, upstream: app }
";
    Sidegate::start(&config(upstream.address(), routes))
}

#[test]
fn a_page_of_another_origin_is_refused_where_the_route_says_so() {
    let upstream = Upstream::start();
    let gate = gate(&upstream);
    let ask = |path: &str, origins: &[&str]| {
        let headers: Vec<_> =
            [("Host", "evil.example")].into_iter().chain(origins.iter().map(|it| ("Origin", *it))).collect();
        request(gate.address(), "POST", path, &headers, b"")
    };
    for (path, origins) in [
        ("/mcp", &[][..]),
        ("/mcp", &["https://mcp.example.com"]),
        ("/mcp", &["https://app.example"]),
        ("/bare", &[]),
        ("/said", &["https://evil.example"]),
        ("/x", &["https://evil.example"]),
    ] {
        assert_eq!(ask(path, origins).status, 200, "{path} {origins:?}");
    }
    assert_eq!(upstream.take().len(), 6);
    let refused = [
        ("/mcp", &["https://evil.example"][..]),
        // What a rebound name makes of it: the host that was asked.
        ("/mcp", &["http://evil.example"]),
        ("/mcp", &["http://mcp.example.com"]),
        ("/mcp", &["https://mcp.example.com:8443"]),
        ("/mcp", &["https://mcp.example.com.evil.example"]),
        ("/mcp", &["https://MCP.example.com"]),
        ("/mcp", &["null"]),
        ("/mcp", &[""]),
        ("/mcp", &["https://app.example", "https://evil.example"]),
        ("/mcp", &["https://app.example", "https://app.example"]),
        ("/bare", &["https://app.example"]),
        ("/bare", &["null"]),
    ];
    for (path, origins) in refused {
        let answer = ask(path, origins);
        assert_eq!((answer.status, &*answer.member("error")), (403, "forbidden"), "{path} {origins:?}");
        let told = (answer.header("www-authenticate"), answer.header("access-control-allow-origin"));
        if origins[0] != "https://app.example" {
            assert_eq!(told, (None, None));
        }
    }
    let series = |route: &str| {
        let labels = "code=\"403\",decision=\"denied\",method=\"POST\",reason=\"origin_foreign\"";
        gate.metric(&format!("sidegate_requests_total{{{labels},route=\"{route}\"}}"))
    };
    assert_eq!((series("mcp"), series("bare")), (10.0, 2.0));

    // A WebSocket that a page asks for, and a preflight.
    let handshake = [
        ("Origin", "https://evil.example"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    assert_eq!(gate.get("/mcp", &handshake).status, 403);
    let preflight = |path: &str, origin: &str| {
        request(gate.address(), "OPTIONS", path, &[("Origin", origin), ("Access-Control-Request-Method", "POST")], b"")
    };
    assert_eq!(
        preflight("/mcp", "https://app.example").header("access-control-allow-origin"),
        Some("https://app.example")
    );
    assert_eq!(preflight("/mcp", "https://evil.example").header("access-control-allow-origin"), None);
    assert_eq!(preflight("/bare", "https://evil.example").status, 403);
    assert!(upstream.take().is_empty());
}
