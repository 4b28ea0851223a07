//! Request lines and headers.

use super::{ended, open_gate, refused, status};
use crate::support::{
    Sidegate, Upstream,
    client::{Connection, raw},
    config,
};

#[test]
fn a_body_of_doubtful_length_is_refused() {
    let upstream = Upstream::start();
    let gate = open_gate(&upstream, "", "");
    refused(
        &gate,
        &upstream,
        &[
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nx",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\nx",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1e0\r\n\r\nx",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1.0\r\n\r\nx",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\nx",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\nx",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,5\r\n\r\nhello",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ],
    );
    assert!(ended(&gate, "framing_bad") >= 6.0);
    for good in [
        &b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ChunKed\r\n\r\n5;x=\"y\"\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"[..],
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 05\r\n\r\nhello",
    ] {
        assert_eq!(status(gate.address(), good), 200);
        let reached = upstream.only();
        assert_eq!((reached.body, reached.headers.iter().any(|(name, _)| name == "x-t")), (b"hello".to_vec(), false));
    }
}

#[test]
fn a_body_in_doubtful_chunks_reaches_nobody_whole() {
    let upstream = Upstream::start();
    let gate = open_gate(&upstream, "", "");
    let rows: Vec<Vec<u8>> = [
        "-1\r\nx\r\n0\r\n\r\n",
        "+1\r\nx\r\n0\r\n\r\n",
        "0x1\r\nx\r\n0\r\n\r\n",
        "g\r\nx\r\n0\r\n\r\n",
        "\r\nx\r\n0\r\n\r\n",
        " 1\r\nx\r\n0\r\n\r\n",
        "1 1\r\nx\r\n0\r\n\r\n",
        "1_\r\nx\r\n0\r\n\r\n",
        "10000000000000001\r\nx\r\n0\r\n\r\n",
        "1\nx\r\n0\r\n\r\n",
        "1\rx\r\n0\r\n\r\n",
        "1\r\nxy\r\n0\r\n\r\n",
        "1\r\nx0\r\n\r\n",
        "1\r\nx\n0\r\n\r\n",
        "1;a\nb\r\nx\r\n0\r\n\r\n",
    ]
    .iter()
    .map(|chunks| format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}").into_bytes())
    .collect();
    refused(&gate, &upstream, &rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
}

#[test]
fn a_head_that_is_not_well_formed_is_refused() {
    let upstream = Upstream::start();
    let gate = open_gate(&upstream, "", "");
    refused(
        &gate,
        &upstream,
        &[
            b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost\t: a\r\n\r\n",
            b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n X: folded\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tfolded\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n \r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX y: z\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX(y): z\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX\xc3: z\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX\0: z\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n: z\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
            b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            b"GET / HTTP/01.1\r\nHost: a\r\n\r\n",
            b"GET / http/1.1\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
            b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / /b HTTP/1.1\r\nHost: a\r\n\r\n",
            b" GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ],
    );
}

#[test]
fn a_target_that_is_no_path_is_refused() {
    let upstream = Upstream::start();
    let gate = open_gate(&upstream, "", "");
    refused(
        &gate,
        &upstream,
        &[
            b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
            b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
            b"CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n",
            b"CONNECT http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
            b"GET a/b HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET ?a HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET ftp://a/b HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET http:///b HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET http:/b HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET http:b HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /?\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /?\xff HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /?a b HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /?a\x01b HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /?a\x7fb HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /?a\tb HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /?a\0b HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    );
    assert!(ended(&gate, "target_bad") >= 6.0);
    // What is encoded is nobody's line end; it goes on as it came.
    let query = r"?a=%0d%0aX:%20y&b=%00&c=%23%20&d=/../\;{}|^`'[]!$()*+,=@~?";
    let good = format!("GET /{query} HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(status(gate.address(), good.as_bytes()), 200);
    assert_eq!(upstream.only().line, format!("GET /{query} HTTP/1.1"));
}

#[test]
fn whom_a_request_is_for_is_said_once() {
    let upstream = Upstream::start();
    let gate = open_gate(&upstream, "", "");
    let hosts = [
        "",
        "a b",
        "a\tb",
        "a,b",
        "a, b",
        "u@a",
        "u:p@a",
        "a/b",
        "a\\b",
        "a?b",
        "a#b",
        "a%41",
        "a%00",
        "a[b",
        "a]b",
        ".",
        "*",
        "a;b",
        "a'b",
        "a\"b",
        "<a>",
        "a:80:80",
        "a:99999",
        "a:+80",
        "a:-1",
        "a:b",
        "a: 80",
        ":80",
        "[::1",
        "::1",
        "[::g]",
        "[::1]x",
        "[::1]:x",
        "[::1%25eth0]",
        "[v1.a]",
        "[]",
        "[127.0.0.1]",
        "caf\u{e9}",
    ];
    let rows = hosts.map(|host| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes());
    refused(&gate, &upstream, &rows.each_ref().map(Vec::as_slice));
    refused(
        &gate,
        &upstream,
        &[
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
            b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n",
            b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
            b"GET http://a/ HTTP/1.1\r\nHost: \r\n\r\n",
            b"GET http://a/ HTTP/1.1\r\nHost: a:81\r\n\r\n",
            b"GET http://a/ HTTP/1.1\r\nHost: a:443\r\n\r\n",
            b"GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET https://a/ HTTP/1.1\r\nHost: a:80\r\n\r\n",
            b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET http://u@a/ HTTP/1.1\r\nHost: u@a\r\n\r\n",
            b"GET http://b@a/ HTTP/1.1\r\nHost: b\r\n\r\n",
            b"GET http://a.b/ HTTP/1.1\r\nHost: b\r\n\r\n",
            b"GET http://a%2f/ HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    );
    assert!(ended(&gate, "host_bad") > 40.0);
    for (target, host) in [
        ("/", "a"),
        ("/", "A-b_c.d~e"),
        ("/", "a."),
        ("/", "a:"),
        ("/", "127.0.0.1:80"),
        ("/", "[::1]"),
        ("/", "[0:0::1]:8080"),
        ("http://a/", "a"),
        ("HTTP://A/", "a"),
        ("http://a/", "A:80"),
        ("http://a:80/", "a"),
        ("http://a:/", "a"),
        ("https://a/", "a:443"),
        ("http://[::1]/", "[0::1]:80"),
    ] {
        let sent = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(status(gate.address(), sent.as_bytes()), 200, "{sent}");
        let reached = upstream.only();
        assert_eq!((reached.target(), reached.all("host")), ("/", vec![host]));
    }
}

#[test]
fn a_host_has_one_spelling_for_the_routes() {
    let upstream = Upstream::start();
    let gate = Sidegate::start(&config(
        upstream.address(),
        "routes: [{ name: six, match: { path_prefix: /, hosts: ['[::1]', a.example] }, auth: none, upstream: app }]",
    ));
    for (host, expected) in
        [("[::1]", 200), ("[0:0:0::0001]:1", 200), ("[::2]", 404), ("A.EXAMPLE.:80", 200), ("a.example..", 404)]
    {
        assert_eq!(gate.get("/", &[("Host", host)]).status, expected, "{host}");
    }
}

#[test]
fn connection_names_only_what_is_its_own() {
    let upstream = Upstream::start();
    let provider = "providers: [{ name: idp, issuer: https://issuer.example, audiences: [api], algorithms: [HS256], hmac_secret: 0123456789abcdef0123456789abcdef }]";
    let gate = Sidegate::start(&config(
        upstream.address(),
        &format!(
            "{provider}
routes:
  - {{ name: closed, match: {{ path: /closed }}, upstream: app, claim_headers: [{{ claim: sub, header: x-auth-subject }}] }}
  - {{ name: open, match: {{ path_prefix: / }}, auth: none, upstream: app }}
"
        ),
    ));
    let sent = |fields: &str| {
        format!("GET / HTTP/1.1\r\nHost: a\r\nX-Private: 1\r\nCookie: c=1\r\nX-Auth-Subject: root\r\n{fields}\r\n\r\n")
            .into_bytes()
    };
    let named = [
        "authorization",
        "Authorization",
        "AUTHORIZATION",
        "cookie",
        "Host",
        "origin",
        "content-length",
        "Content-Length",
        "transfer-encoding",
        "x-forwarded-for",
        "X-Forwarded-For",
        "X_Forwarded_For",
        "x-forwarded-host",
        "x.forwarded.proto",
        "X-Forwarded-Anything",
        "forwarded",
        "x-real-ip",
        "X_Real_IP",
        "x-original-url",
        "x-auth-subject",
        "X-Auth-Subject",
        "X_AUTH_SUBJECT",
        "x.auth~subject",
        "x-http-method-override",
        "close, authorization",
        "authorization,close",
        "keep-alive ,\thost",
        "x-private, ,x-auth-subject",
        "a b",
        "\"x\"",
        "x;y",
        "x=y",
        "caf\u{e9}",
    ];
    let mut rows: Vec<_> = named.iter().map(|named| sent(&format!("Connection: {named}"))).collect();
    rows.push(sent("Connection: keep-alive\r\nConnection: cookie"));
    rows.push(sent("Connection: close\r\nX-Private: 2\r\nconnection: x-forwarded-for"));
    refused(&gate, &upstream, &rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
    assert_eq!(ended(&gate, "connection_header_bad"), rows.len() as f64);
    for (named, private) in [
        ("Connection: keep-alive", 1),
        ("Connection: Keep-Alive", 1),
        ("Connection: close", 1),
        ("Connection: ,, close", 1),
        ("Connection: keep-alive, x-private", 0),
        ("Connection: keep-alive\r\nConnection: X-Private", 0),
        ("Connection: TE, Upgrade, Trailer, x-nothing", 1),
    ] {
        assert_eq!(status(gate.address(), &sent(named)), 200, "{named}");
        let reached = upstream.only();
        let kept = (reached.all("x-private").len(), reached.all("cookie").len(), reached.all("connection").len());
        assert_eq!(kept, (private, 1, 0), "{named}");
    }
}

#[test]
fn no_header_has_the_upstream_do_something_else_than_was_decided_about() {
    let upstream = Upstream::start();
    let gate = open_gate(&upstream, "", "trusted_proxies: [127.0.0.1]");
    let sent = b"GET /x HTTP/1.1\r\nHost: a\r\nX-HTTP-Method-Override: DELETE\r\nx-http-method: PUT\r\nX-Method-Override: PATCH\r\n\
                 X_HTTP_Method_Override: DELETE\r\nx.method.override: PUT\r\nX-Http-Methods: kept\r\n\
                 Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
    // Whoever asks for h2c is answered in the protocol it asked in.
    let answer = raw(gate.address(), sent).unwrap();
    assert_eq!((answer.status, answer.header("upgrade")), (200, None));
    let reached = upstream.only();
    assert_eq!((reached.line.as_str(), reached.all("x-http-methods")), ("GET /x HTTP/1.1", vec!["kept"]));
    let gone = |name: &str| {
        let name = name.to_lowercase().replace(['_', '.'], "-");
        name.contains("override")
            || ["x-http-method", "upgrade", "http2-settings", "connection"].contains(&name.as_str())
    };
    assert!(!reached.headers.iter().any(|(name, _)| gone(name)), "{reached:?}");
}

/// What only the bytes of a head show, and is gone once they are parsed.
#[test]
fn what_only_the_bytes_show_is_refused() {
    let upstream = Upstream::start();
    let gate = open_gate(&upstream, "", "");
    refused(
        &gate,
        &upstream,
        &[
            b"GET / HTTP/1.1\nHost: a\n\n",
            b"GET / HTTP/1.1\r\nHost: a\n\r\n",
            b"GET / HTTP/1.1\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: y\nX-Auth: z\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: x\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX: y\r\ncontent-length: 05\r\n\r\nhello",
            b"GET /#f HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /a#/../b HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET http://a/b#c HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    );
    let mut connection = Connection::open(gate.address()).unwrap();
    connection.send(b"GET / HTTP/1.1\nHost: a\n\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(connection.answer(false).unwrap().status, 400);
    assert!(connection.is_closed() && upstream.take().is_empty());
}
