//! The configuration: what is wrong with a file is said all at once, in its place, and without a secret.

mod client;
mod reading;
mod tls;

use std::{
    fs::{self, Permissions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use argon2::{Argon2, PasswordVerifier as _, password_hash::phc::PasswordHash};

/// A configuration with a bit of everything; each case changes one line of it.
pub(crate) const BASE: &str = r#"listeners:
  - { name: public, address: "127.0.0.1:3000", issuer: true }
  - { name: second, address: "127.0.0.1:3001" }
admin: { address: "127.0.0.1:9900" }
limits: { header_timeout: 10s }
tokens: { max_bytes: 8KiB }
log: { level: info }
upstreams:
  - name: app
    urls: [http://127.0.0.1:8080]
providers:
  - name: local
    issuer: http://localhost:3000
    audiences: [api]
    jwks: issuer
routes:
  - name: health
    match: { path: /healthz }
    auth: none
    upstream: app
  - name: rest
    match: { path_prefix: / }
    claim_headers: [{ claim: sub, header: x-auth-subject }]
    upstream: app
issuer:
  url: http://localhost:3000
  access_token: { lifetime: 5m, audience: api }
  refresh_token: { idle_lifetime: 14d }
  clients:
    - { id: spa, grants: [refresh_token] }
  users:
    - { username: ann, password_hash: "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$hfpA8RSqAFuIqu4ihzoSXG6B+tk0nGYMWmCzYLg/FdI" }
"#;

/// What stands in `BASE`, what stands there instead, and what is said then.
#[rustfmt::skip]
pub(crate) const WRONG: &[(&str, &str, &[&str])] = &[
    // Keys.
    ("upstreams:", "upstraems:", &[r#"8:1: upstraems: unknown key "upstraems"; did you mean "upstreams"?"#]),
    ("header_timeout", "heder_timeout", &[r#"5:11: limits.heder_timeout: unknown key "heder_timeout"; did you mean "header_timeout"?"#]),
    ("    audiences: [api]", "    audience: [api]", &[r#"14:5: providers[0].audience: unknown key "audience"; did you mean "audiences"?"#]),
    ("{ level: info }", "{ colour: red }", &[r#"7:8: log.colour: unknown key "colour"; known here: level, format, requests or audit"#]),
    ("    jwks: issuer", "    jwks_uri: http://idp.example/keys", &["15:5: providers[0].jwks_uri: keys that come over http can be anybody's: use https, or say jwks_fetch: { insecure_http: true }"]),
    ("  refresh_token: {", "  keys: { rotate_every: 1d, publish_ahead: 1d }\n  refresh_token: {", &["28:29: issuer.keys.publish_ahead: must be shorter than rotate_every, or a key would follow before it signs"]),
    ("  refresh_token: {", "  keys: { rotate_every: 1s }\n  refresh_token: {", &["28:11: issuer.keys.rotate_every: must be from 2s to 3650d"]),
    ("  refresh_token: {", "  keys: { file: nowhere.pem }\n  refresh_token: {", &["28:11: issuer.keys.file: nowhere.pem: there is no such file"]),
    ("  refresh_token: {", "  store: { redis: {} }\n  refresh_token: {", &["28:12: issuer.store.redis.url: missing: as in redis://redis.example:6379"]),
    ("  refresh_token: {", "  store: { redis: { url: 'redis://a' } }\n  refresh_token: {", &["25:1: issuer.master_key: missing: which all that share a store in Redis have in common; `openssl rand -hex 32` makes one"]),
    ("  refresh_token: {", "  store: { redis: { url: 'redis://a' }, embedded: {} }\n  refresh_token: {", &["28:3: issuer.store: has both `embedded` and `redis`; sessions are kept in one of them"]),
    ("  refresh_token: {", "  store: { redis: { url: 'redis://me:hunter2@a' } }\n  refresh_token: {", &["28:21: issuer.store.redis.url: not a URL of the form redis://host:6379, or rediss://… over TLS; user and password have keys of their own"]),
    ("  refresh_token: {", "  store: { redis: { url: 'http://a' } }\n  refresh_token: {", &["28:21: issuer.store.redis.url: not a URL of the form redis://host:6379, or rediss://… over TLS; user and password have keys of their own"]),
    ("  refresh_token: {", "  store: { redis: { urls: ['redis://a', 'rediss://b'] } }\n  refresh_token: {", &["28:21: issuer.store.redis.urls: redis:// and rediss:// are mixed; all of the servers speak TLS, or none of them"]),
    ("  refresh_token: {", "  store: { redis: { url: 'redis://a', ca_file: ca.pem } }\n  refresh_token: {", &["28:39: issuer.store.redis.ca_file: is for rediss:// alone"]),
    ("  refresh_token: {", "  store: { redis: { url: 'redis://a', sentinel: m, cluster: true } }\n  refresh_token: {", &["28:52: issuer.store.redis.cluster: Sentinels have no cluster: take out one of the two"]),
    ("  refresh_token: {", "  store: { redis: { url: 'redis://a', sentinel_password: x } }\n  refresh_token: {", &["28:39: issuer.store.redis.sentinel_password: a secret in a file that everybody on this machine may read: chmod o-r the file, or move the secret into ${NAME} or { from_file: … }", "28:39: issuer.store.redis.sentinel_password: is for Sentinels; `sentinel` names the master that they know"]),
    ("  refresh_token: {", "  store: { redis: { url: 'redis://a', user: me } }\n  refresh_token: {", &["28:12: issuer.store.redis.password: missing: which goes with the user"]),
    ("  refresh_token: {", "  store: { redis: { url: 'redis://a', prefix: 'a b' } }\n  refresh_token: {", &["28:39: issuer.store.redis.prefix: must be up to 64 letters, digits and signs, without spaces or curly brackets"]),
    ("  refresh_token: {", "  store: { redis: { url: 'redis://a', timeout: 1m } }\n  refresh_token: {", &["28:39: issuer.store.redis.timeout: must be from 100ms to 8s"]),
    ("    jwks: issuer", "    jwks_uri: ftp://idp.example/keys", &["15:5: providers[0].jwks_uri: not a URL of the form https://host/path, from which keys could be fetched"]),
    ("    jwks: issuer", "    jwks_uri: https://me:pass@idp.example/", &["15:5: providers[0].jwks_uri: credentials in a URL are not sent anywhere; take them out"]),
    ("    jwks: issuer", "    jwks_uri: https://idp.example/keys\n    discovery: true", &["12:5: providers[0]: keys come from exactly one of jwks: issuer, jwks_uri, discovery: true, jwks_file, jwks_inline, hmac_secret"]),
    ("    jwks: issuer", "    jwks_uri: http://127.0.0.1/keys\n    jwks_fetch: { min_refresh: 2h }", &["16:19: providers[0].jwks_fetch.min_refresh: is longer than max_refresh"]),
    ("    jwks: issuer", "    jwks_uri: http://127.0.0.1/keys\n    jwks_fetch: { on_start: go }", &["16:19: providers[0].jwks_fetch.on_start: must be wait or serve_others"]),
    ("    jwks: issuer", "    jwks_uri: http://127.0.0.1/keys\n    algorithms: [HS256]", &["16:18: providers[0].algorithms[0]: no key of this provider is for HS256"]),
    ("    jwks: issuer", "    jwks: issuer\n    jwks_fetch: { timeout: 1s }", &["16:5: providers[0].jwks_fetch: nothing is fetched: there is neither jwks_uri nor discovery: true"]),
    ("    jwks: issuer", "    jwks: issuer\n    max_lifetime: 0s", &["16:5: providers[0].max_lifetime: must be from 1s to 366d"]),
    ("    jwks: issuer", "    jwks: issuer\n    required_claims: ['']", &["16:23: providers[0].required_claims[0]: must not be empty"]),
    ("    jwks: issuer\n", "", &["12:5: providers[0]: has no keys: give one of jwks: issuer, jwks_uri, discovery: true, jwks_file, jwks_inline, hmac_secret"]),
    ("    auth: none", "    auth: none\n    auth: none", &[r#"20:5: routes[0].auth: the key "auth" stands in line 19 already"#]),
    // Kinds.
    ("{ level: info }", "hunter2", &["7:1: log: expected a mapping, found a string"]),
    ("[http://127.0.0.1:8080]", "http://hunter2:8080", &["10:5: upstreams[0].urls: expected a list, found a string"]),
    ("name: app", "name: 5", &["9:5: upstreams[0].name: expected a string, found a number; put it in quotes"]),
    ("issuer: true }", "issuer: hunter2 }", &["2:48: listeners[0].issuer: expected true or false, found a string"]),
    ("{ level: info }", "!secret hunter2", &["7:1: log: tags (`!name`) have no meaning here"]),
    ("  - name: app\n    urls: [http://127.0.0.1:8080]", "  - [app, [http://127.0.0.1:8080]]", &["9:5: upstreams[0]: expected a mapping, found a list"]),
    // A key without a value is no wish for its default, which may be the open one.
    ("id: spa", "id: spa, secret_hash: ", &["30:18: issuer.clients[0].secret_hash: nothing stands here; leave the key out to have its default"]),
    ("issuer: true }", "issuer: true, tls: ~ }", &["2:62: listeners[0].tls: nothing stands here; leave the key out to have its default"]),
    ("    claim_headers:", "    require: { scopes: null }\n    claim_headers:", &["23:16: routes[1].require.scopes: nothing stands here; leave the key out to have its default"]),
    ("    auth: none", "    auth:", &["19:5: routes[0].auth: nothing stands here; leave the key out to have its default"]),
    // Values.
    ("10s", "10", &["5:11: limits.header_timeout: not a duration; write 500ms, 30s, 5m, 12h or 14d"]),
    ("10s", "25h", &["5:11: limits.header_timeout: must be from 1ms to 1d"]),
    ("8KiB", "8kb", &["6:11: tokens.max_bytes: not a size; write 512B, 8KiB, 1MiB or a number of bytes"]),
    ("level: info", "level: inf", &[r#"7:8: log.level: must be error, warn, info, debug or trace; did you mean "info"?"#]),
    ("level: info", "audit: ''", &["7:8: log.audit: must not be empty"]),
    ("level: info", "audit: stderr", &["7:8: log.audit: must be a file or stdout: standard error has the other log"]),
    ("level: info", "audit: /", &["7:8: log.audit: /: it is a directory"]),
    // Names.
    ("    auth: none\n    upstream: app", "    auth: none\n    upstream: ap", &[r#"20:5: routes[0].upstream: there is no upstream "ap"; did you mean "app"?"#]),
    ("    claim_headers:", "    providers: [lokal]\n    claim_headers:", &[r#"23:17: routes[1].providers[0]: there is no provider "lokal"; did you mean "local"?"#]),
    ("name: rest", "name: health", &[r#"21:5: routes[1].name: the name "health" is taken by routes[0] in line 17"#]),
    // Listeners.
    ("127.0.0.1:3001", "127.0.0.1:3000", &["3:21: listeners[1].address: 127.0.0.1:3000 is taken by listeners[0].address (127.0.0.1:3000) in line 2"]),
    ("127.0.0.1:3001", "0.0.0.0:3000", &["3:21: listeners[1].address: 0.0.0.0:3000 is taken by listeners[0].address (127.0.0.1:3000) in line 2"]),
    ("127.0.0.1:9900", "[::]:3001", &["4:10: admin.address: [::]:3001 is taken by listeners[1].address (127.0.0.1:3001) in line 3"]),
    ("127.0.0.1:3001", "localhost:3001", &["3:21: listeners[1].address: not an address; write an IP address and a port, as in 127.0.0.1:3000 or [::]:3000"]),
    // Upstreams.
    ("http://127.0.0.1:8080", "ftp://hunter2:8080", &["10:12: upstreams[0].urls[0]: not a URL of the form http://host:port, https://host:port, h2c://host:port or unix:///path"]),
    ("http://127.0.0.1:8080", "h2c://app:0", &["10:12: upstreams[0].urls[0]: not a URL of the form http://host:port, with a port from 1 to 65535"]),
    ("http://127.0.0.1:8080", "unix://run/app.sock", &["10:12: upstreams[0].urls[0]: not a URL of the form unix:///run/app.sock: three slashes, and a path as it is"]),
    ("[http://127.0.0.1:8080]", "[]", &["10:5: upstreams[0].urls: must hold at least one URL"]),
    ("[http://127.0.0.1:8080]", "[http://a, h2c://b, http://a:80]", &[
        "10:22: upstreams[0].urls[1]: all URLs of an upstream have the same scheme; what is different is another upstream",
        "10:31: upstreams[0].urls[2]: stands in the list already",
    ]),
    ("[http://127.0.0.1:8080]", "[http://a]\n    tls: { server_name: b }", &["11:5: upstreams[0].tls: only https:// speaks TLS; take this out, or change the URLs"]),
    ("[http://127.0.0.1:8080]", "[https://a]\n    tls: { ca_file: none.pem, server_name: '-', client_certificate: { cert_file: none.pem } }", &[
        "11:12: upstreams[0].tls.ca_file: none.pem: there is no such file",
        "11:31: upstreams[0].tls.server_name: not a host name or an IP address",
        "11:49: upstreams[0].tls.client_certificate.key_file: missing: the PEM file of the private key",
        "11:71: upstreams[0].tls.client_certificate.cert_file: none.pem: there is no such file",
    ]),
    ("[http://127.0.0.1:8080]", "[http://a]\n    health_check: { path: healthz, interval: 0s, healthy_after: 0 }", &[
        "11:21: upstreams[0].health_check.path: not a path; write /healthz",
        "11:36: upstreams[0].health_check.interval: must be from 10ms to 1d",
        "11:50: upstreams[0].health_check.healthy_after: must be from 1 to 1000",
    ]),
    ("[http://127.0.0.1:8080]", "[http://a]\n    max_queue: -1\n    outlier: { failures: many }\n    retries: 11\n    max_requests: 0", &[
        "11:5: upstreams[0].max_queue: not a whole number",
        "12:16: upstreams[0].outlier.failures: not a whole number",
        "13:5: upstreams[0].retries: must be from 0 to 10",
        "14:5: upstreams[0].max_requests: must be from 1 to 10000000",
    ]),
    ("http://127.0.0.1:8080", "http://app/x", &["10:12: upstreams[0].urls[0]: a path or query has no meaning here: the request's own is sent; end the URL after the port"]),
    ("http://127.0.0.1:8080", "http://u:hunter2@app", &["10:12: upstreams[0].urls[0]: credentials in a URL are not sent anywhere; take them out"]),
    // Providers.
    ("    issuer: http://localhost:3000", "    issuer: http://localhost:3000/", &[r#"13:5: providers[0].issuer: must be the issuer's own url, "http://localhost:3000""#]),
    ("    jwks: issuer", "    jwks: issuer\n    algorithms: [RS256]", &["16:18: providers[0].algorithms[0]: no key of this provider is for RS256"]),
    ("    jwks: issuer", "    hmac_secret: \"${SIDEGATE_TEST_LONG}\"", &["12:5: providers[0].algorithms: hmac_secret needs exactly one of HS256, HS384 or HS512"]),
    ("    jwks: issuer", "    jwks: issuer\n    leeway: 2m", &["16:5: providers[0].leeway: must be from 0ms to 1m"]),
    // Routes.
    ("{ path: /healthz }", "{ path: /a//b }", &["18:14: routes[0].match.path: must not hold `//`: requests with it are refused"]),
    ("{ path: /healthz }", "{ path: /a%2Fb }", &["18:14: routes[0].match.path: must not hold a backslash, %2f or %5c: requests with these are refused"]),
    ("{ path: /healthz }", "{ path: /a/%2e%2E/b }", &["18:14: routes[0].match.path: must not hold `.` or `..` as a segment: requests with these are refused"]),
    ("{ path: /healthz }", "{ path: /a%252fb }", &["18:14: routes[0].match.path: must not be percent-encoded twice"]),
    ("{ path: /healthz }", "{ path: /a;b }", &["18:14: routes[0].match.path: must not hold `;`: requests with it are refused"]),
    ("{ path: /healthz }", "{ path: /a?b }", &["18:14: routes[0].match.path: must not hold `?`, `#` or control characters: a path is matched without its query"]),
    ("{ path: /healthz }", "{ path: healthz }", &["18:14: routes[0].match.path: must begin with `/`"]),
    ("{ path: /healthz }", "{ path: /a, path_prefix: /b }", &["18:5: routes[0].match: give one of path and path_prefix, not both"]),
    ("{ path: /healthz }", "{}", &["18:5: routes[0].match: missing: one of path and path_prefix"]),
    ("    auth: none", "    auth: none\n    require: { scopes: [a] }", &["20:5: routes[0].require: has no meaning with auth: none, which looks at no token"]),
    ("    auth: none", "    auth: optional\n    require: { scopes: [a] }", &["20:5: routes[0].require: contradicts auth: optional: a request without a token has no scopes and no claims; use auth: required"]),
    ("x-auth-subject", "X_Forwarded_For", &[r#"23:35: routes[1].claim_headers[0].header: "x_forwarded_for" has a meaning of its own; choose a name such as x-auth-subject"#]),
    ("x-auth-subject }", "x-who }, { claim: jti, header: X_Who }", &["23:66: routes[1].claim_headers[1].header: an upstream could take it for the header in line 23; choose another name"]),
    ("    claim_headers:", "    audiences: [apo]\n    claim_headers:", &[r#"23:17: routes[1].audiences[0]: "apo" is an audience of none of the route's providers; did you mean "api"?"#]),
    ("    claim_headers:", "    cors: { origins: [\"*\"], credentials: true }\n    claim_headers:", &[r#"23:23: routes[1].cors.origins[0]: "*" with credentials: true would let every page act as its visitor; list the origins"#]),
    ("    claim_headers:", "    cors: { origins: [\"*\"] }\n    foreign_origins: refuse\n    claim_headers:", &[r#"24:5: routes[1].foreign_origins: contradicts cors.origins: "*", for which no origin is foreign; list the origins"#]),
    ("    claim_headers:", "    foreign_origins: refused\n    claim_headers:", &[r#"23:5: routes[1].foreign_origins: must be allow or refuse; did you mean "refuse"?"#]),
    // The issuer.
    ("  url: http://localhost:3000", "  url: http://auth.example.com", &["26:3: issuer.url: plain http is for loopback alone; write https://"]),
    ("lifetime: 5m", "lifetime: 0s", &["27:19: issuer.access_token.lifetime: must be from 1s to 1d"]),
    ("14d", "91d", &["28:20: issuer.refresh_token.idle_lifetime: idle_lifetime (14d unless set) must not be longer than absolute_lifetime (90d unless set)"]),
    ("{ idle_lifetime: 14d }", "{ remembered: { idle_lifetime: 400d } }", &["28:34: issuer.refresh_token.remembered.idle_lifetime: idle_lifetime (90d unless set) must not be longer than absolute_lifetime (365d unless set)"]),
    ("  refresh_token: {", "  previous_master_keys: [short]\n  refresh_token: {", &["28:26: issuer.previous_master_keys[0]: a secret in a file that everybody on this machine may read: chmod o-r the file, or move the secret into ${NAME} or { from_file: … }", "28:26: issuer.previous_master_keys[0]: must be at least 32 bytes long; `openssl rand -hex 32` makes one"]),
    ("{ idle_lifetime: 14d }", "{ max_sessions_per_subject: 0 }", &["28:20: issuer.refresh_token.max_sessions_per_subject: must be from 1 to 10000"]),
    ("id: spa,", "id: spa, sessions: { absolute_lifetime: 1d },", &["30:30: issuer.clients[0].sessions.absolute_lifetime: idle_lifetime (14d unless set) must not be longer than absolute_lifetime (90d unless set)"]),
    ("id: spa", "id: \"s:pa\"", &["30:9: issuer.clients[0].id: must not hold a colon: HTTP Basic could not carry it"]),
    ("id: spa", "id: spa, secret_hash: hunter2", &["30:18: issuer.clients[0].secret_hash: not a hash; make one with `sidegate hash-password`"]),
    ("[refresh_token]", "[authorization_code]", &["30:7: issuer.clients[0].redirect_uris: missing: authorization_code sends browsers back; redirect_uris: [https://app.example.com/callback]"]),
    ("[refresh_token]", "[authorization_code], redirect_uris: [http://app.example.com/cb]", &["30:64: issuer.clients[0].redirect_uris[0]: plain http is for loopback alone (127.0.0.1, [::1], localhost): what is sent there would travel readable"]),
    ("[refresh_token]", "[authorization_code], redirect_uris: [https://app.example.com/cb], post_logout_redirect_uris: [/out, https://app.example.com/#out]", &["30:121: issuer.clients[0].post_logout_redirect_uris[0]: must be an absolute URL without a fragment, as in https://app.example.com/callback", "30:127: issuer.clients[0].post_logout_redirect_uris[1]: must be an absolute URL without a fragment, as in https://app.example.com/callback"]),
    ("{ lifetime: 5m, audience: api }\n  refresh_token: { idle_lifetime: 14d }\n  clients:\n    - { id: spa, grants: [refresh_token] }", "{ lifetime: 5m, audience: api, algorithm: HS256 }\n  clients:\n    - { id: spa, grants: [authorization_code], scopes: [openid], redirect_uris: [http://127.0.0.1/] }", &["27:48: issuer.access_token.algorithm: clients with the scope openid verify ID tokens, and nobody but this process has this key; take ES256"]),
    ("[refresh_token]", "[authorisation_code]", &[r#"30:27: issuer.clients[0].grants[0]: must be authorization_code, refresh_token or client_credentials; did you mean "authorization_code"?"#]),
    ("[refresh_token]", "[refresh_token], consent: never", &["30:43: issuer.clients[0].consent: must be ask or skip"]),
    ("  refresh_token: {", "  login: { color: blue }\n  refresh_token: {", &[r##"28:12: issuer.login.color: must be a colour of the form "#0b57d0""##]),
    ("  refresh_token: {", "  login: { lifetime: 1s }\n  refresh_token: {", &["28:12: issuer.login.lifetime: must be from 1m to 30d"]),
    ("  refresh_token: {", "  login: { logo_file: config.yaml }\n  refresh_token: {", &["28:12: issuer.login.logo_file: must be a picture of the kind PNG or SVG"]),
    ("  refresh_token: {", "  registration: {}\n  refresh_token: {", &["28:3: issuer.registration.scopes: missing: what such clients may ask for, as in [read]"]),
    ("  refresh_token: {", "  registration: { scopes: [\"a b\"] }\n  refresh_token: {", &["28:28: issuer.registration.scopes[0]: not a scope: printable ASCII without spaces, quotes and backslashes (RFC 6749 §3.3)"]),
    ("{ lifetime: 5m, audience: api }\n", "{ lifetime: 5m, audience: api, algorithm: HS256 }\n  registration: { scopes: [openid] }\n", &["27:48: issuer.access_token.algorithm: clients with the scope openid verify ID tokens, and nobody but this process has this key; take ES256"]),
    ("  refresh_token: {", "  throttle: { failures: 0 }\n  refresh_token: {", &["28:15: issuer.throttle.failures: must be from 1 to 100000"]),
    ("  refresh_token: {", "  throttle: { longest_wait: 2h }\n  refresh_token: {", &["28:15: issuer.throttle.longest_wait: must be from 1s to 1h"]),
    ("  refresh_token: {", "  limits: { per_address: { per: 1s } }\n  refresh_token: {", &["28:13: issuer.limits.per_address.requests: missing: how many requests, in the time that `per` says"]),
    ("  refresh_token: {", "  limits: { per_client: { requests: 0 } }\n  refresh_token: {", &["28:27: issuer.limits.per_client.requests: must be from 1 to 1000000"]),
    ("  refresh_token: {", "  limits: { per_client: { requests: 1, by: address } }\n  refresh_token: {", &[r#"28:40: issuer.limits.per_client.by: unknown key "by"; known here: requests, per or burst"#]),
    ("  refresh_token: {", "  limits: { per_addres: { requests: 1 } }\n  refresh_token: {", &[r#"28:13: issuer.limits.per_addres: unknown key "per_addres"; did you mean "per_address"?"#]),
    ("id: spa", "id: spa, secret_hashes: [hunter2]", &["30:34: issuer.clients[0].secret_hashes[0]: not a hash; make one with `sidegate hash-password`"]),
    ("id: spa", "id: spa, secret_hash: x, secret_hashes: [y]", &["30:34: issuer.clients[0].secret_hashes: stands beside secret_hash; a client has one of the two, and this takes both hashes"]),
    ("id: spa, grants: [refresh_token]", "id: spa, secret_hashes: [], grants: [client_credentials]", &["30:18: issuer.clients[0].secret_hashes: is empty; a client without a secret, which is a public one, leaves it out"]),
    ("id: spa", "id: spa, secret_hashes: [x, y, z]", &["30:18: issuer.clients[0].secret_hashes: has 3 hashes; there are two at most, while one secret follows another"]),
    ("id: spa", "id: spa, secret_hashes: [~]", &["30:34: issuer.clients[0].secret_hashes[0]: nothing stands here"]),
    ("id: spa", "id: spa, secret_hashes: x", &["30:18: issuer.clients[0].secret_hashes: expected a list, found a string"]),
    ("id: spa", "id: spa, jwks: { keys: [] }", &[r#"30:18: issuer.clients[0].jwks: no JWK Set: its list of "keys" is empty"#]),
    ("id: spa", "id: spa, jwks: x", &["30:18: issuer.clients[0].jwks: expected a mapping, found a string"]),
    ("id: spa", "id: spa, jwks: { keys: [{ kty: EC, crv: P-256, x: AA, y: AA }] }", &[r#"30:18: issuer.clients[0].jwks: no key in it can be used: keys[0]: its "x" and "y" must have 32 bytes each"#]),
    ("id: spa", "id: spa, jwks: { keys: [{ kty: EC, crv: P-256, x: AA, y: AA, d: hunter2 }] }", &[r#"30:33: issuer.clients[0].jwks.keys[0]: has a "d": it is a private key or a shared secret, and only its owner may have those; put the public part here, of a new key"#]),
    ("id: spa", "id: spa, jwks: { keys: [{ kty: oct, alg: HS256, k: hunter2 }] }", &[r#"30:33: issuer.clients[0].jwks.keys[0]: has a "k": it is a private key or a shared secret, and only its owner may have those; put the public part here, of a new key"#]),
    ("id: spa", "id: spa, secret_hash: x, jwks: { keys: [] }", &["30:34: issuer.clients[0].jwks: stands beside secret_hash; a client shows who it is in one way"]),
    ("id: spa", "id: spa, jwks: { keys: [] }, jwks_file: x", &["30:38: issuer.clients[0].jwks_file: stands beside jwks; a client shows who it is in one way"]),
    ("id: spa", "id: spa, jwks_file: nowhere.json", &["30:18: issuer.clients[0].jwks_file: nowhere.json: there is no such file"]),
    ("id: spa", "id: spa, jwks: { keys: [] }, tls_client_auth_san_dns: a.example", &["30:38: issuer.clients[0].tls_client_auth_san_dns: stands beside jwks; a client shows who it is in one way"]),
    ("id: spa", "id: spa, tls_client_auth_san_uri: 'a:b', tls_client_auth_san_dns: a.example", &["30:18: issuer.clients[0].tls_client_auth_san_uri: stands beside tls_client_auth_san_dns; a client shows who it is in one way"]),
    ("id: spa", "id: spa, tls_client_auth_subject_dn: /CN=a", &[r"30:18: issuer.clients[0].tls_client_auth_subject_dn: must be a name as RFC 4514 writes it, the last part first and without spaces between, as upstreams are told it: CN=reporting,O=Example; what is not ASCII as \C3\AB"]),
    ("id: spa", "id: spa, tls_client_auth_subject_dn: 'CN=a, O=b'", &[r"30:18: issuer.clients[0].tls_client_auth_subject_dn: must be a name as RFC 4514 writes it, the last part first and without spaces between, as upstreams are told it: CN=reporting,O=Example; what is not ASCII as \C3\AB"]),
    ("id: spa", "id: spa, tls_client_auth_san_dns: '*.example.com'", &["30:18: issuer.clients[0].tls_client_auth_san_dns: must be one host name, as in reporting.example.com"]),
    ("id: spa", "id: spa, tls_client_auth_san_uri: reporting", &["30:18: issuer.clients[0].tls_client_auth_san_uri: must be a URI, as in spiffe://example.com/reporting"]),
    ("id: spa", "id: spa, tls_client_auth_san_ip: 127.0.0.1/8", &["30:18: issuer.clients[0].tls_client_auth_san_ip: must be an IP address"]),
    ("id: spa", "id: spa, tls_client_auth_san_email: alice", &["30:18: issuer.clients[0].tls_client_auth_san_email: must be an email address"]),
    ("id: spa, grants: [refresh_token]", "id: spa, jwks: ~, grants: [client_credentials]", &["30:18: issuer.clients[0].jwks: nothing stands here; leave the key out to have its default"]),
    ("[refresh_token]", "[client_credentials]", &["30:27: issuer.clients[0].grants[0]: a client without secret_hash, jwks or tls_client_auth_… is public: it has no credentials to be granted anything for"]),
    ("$argon2id$v=19$m=8", "$argon2i$v=19$m=8", &["32:24: issuer.users[0].password_hash: only Argon2id hashes are read; make one with `sidegate hash-password`"]),
    ("m=8,t=1", "m=2000000,t=1", &["32:24: issuer.users[0].password_hash: the hash asks for more than 1 GiB of memory, 16 passes or 16 lanes; copy the line that `sidegate hash-password` printed, in quotes"]),
    ("$argon2id$v=19$m=8", "$argon2id$m=8", &["32:24: issuer.users[0].password_hash: the hash is not of version 19 of Argon2; copy the line that `sidegate hash-password` printed, in quotes"]),
    ("username: ann", "username: ann, subject: \"client:spa\"", &[r#"32:24: issuer.users[0].subject: a subject must not begin with "client:": clients do"#]),
    ("\n    - { username: ann", " {}\n#   - { username: ann", &["31:3: issuer.users.file: missing: the file with the users; `sidegate user add` makes one"]),
    ("\n    - { username: ann", " { file: '' }\n#   - { username: ann", &["31:12: issuer.users.file: must not be empty"]),
    ("\n    - { username: ann", " { file: nowhere.yaml }\n#   - { username: ann", &["31:12: issuer.users.file: nowhere.yaml: there is no such file; `sidegate user add NAME --file nowhere.yaml` makes it"]),
    ("\n    - { username: ann", " { path: users.yaml }\n#   - { username: ann", &["31:3: issuer.users.file: missing: the file with the users; `sidegate user add` makes one", r#"31:12: issuer.users.path: unknown key "path"; known here: file or http"#]),
    ("\n    - { username: ann", " hunter2\n#   - { username: ann", &["31:3: issuer.users: expected a list of users, { file: … } or { http: … }, found a string"]),
    ("\n    - { username: ann", " { http: { url: 'http://127.0.0.1:1/', credential: x }, file: users.yaml }\n#   - { username: ann", &["31:3: issuer.users: has both `file` and `http`; users come from one of them"]),
    ("\n    - { username: ann", " { http: x }\n#   - { username: ann", &["31:12: issuer.users.http: expected a mapping, found a string"]),
    ("\n    - { username: ann", " { http: {} }\n#   - { username: ann", &["31:12: issuer.users.http.url: missing: where the users are asked for, as deploy/users-hook.md says", "31:12: issuer.users.http.credential: missing: by which the hook knows who asks"]),
    ("\n    - { username: ann", " { http: { url: 'http://people/' } }\n#   - { username: ann", &["31:12: issuer.users.http.credential: missing: by which the hook knows who asks", "31:20: issuer.users.http.url: passwords over http can be read by anybody on the way: use https beyond loopback"]),
    ("\n    - { username: ann", " { http: { url: 'https://a:b@people/' } }\n#   - { username: ann", &["31:12: issuer.users.http.credential: missing: by which the hook knows who asks", "31:20: issuer.users.http.url: credentials in a URL are not sent anywhere; take them out"]),
    ("\n    - { username: ann", " { http: { url: 'http://[::1]/', timeout: 1h, recheck: 2h, claims: { sub: x, mail: [x] } } }\n#   - { username: ann", &["31:12: issuer.users.http.credential: missing: by which the hook knows who asks", "31:42: issuer.users.http.timeout: must be from 100ms to 30s", "31:55: issuer.users.http.recheck: must be from 0ms to 1h", "31:78: issuer.users.http.claims.sub: is said by the issuer, not by a user's claims", "31:86: issuer.users.http.claims.mail: must be the name of a member of the hook's claims, as in `roles: groups`"]),
    ("username: ann", "username: ann, claims: { sub: x }", &["32:34: issuer.users[0].claims.sub: is said by the issuer, not by a user's claims"]),
    ("username: ann", "username: ann, claims: { scp: x }", &["32:34: issuer.users[0].claims.scp: is said by the issuer, not by a user's claims"]),
];

#[test]
fn each_fault_is_said_in_its_place() {
    let folder = Folder::new();
    let mut misses = Vec::new();
    for (good, bad, expected) in WRONG {
        assert!(BASE.contains(good), "the case for {good:?} changes nothing");
        let file = folder.write("config.yaml", &BASE.replacen(good, bad, 1));
        let said = faults(&folder, &file);
        if said != *expected {
            misses.push(format!("with {bad:?} in place of {good:?}\n  said {said:#?}\n  not {expected:#?}"));
        }
    }
    assert!(misses.is_empty(), "{}", misses.join("\n"));
}

#[test]
fn a_good_file_passes_without_a_word_of_warning() {
    let folder = Folder::new();
    let file = folder.write("config.yaml", BASE);
    let output = check(&folder, &file, &[]);
    assert_eq!(text(&output.stderr), "");
    let summary = "ok (2 listeners, 2 routes, 1 upstream, 1 provider, 1 client, 1 user)";
    assert_eq!(text(&output.stdout), format!("config.yaml: {summary}\n"));
    // The audience of the issuer's tokens goes without saying where only one is accepted.
    let file = folder.write("config.yaml", &BASE.replace(", audience: api", ""));
    assert_eq!(check(&folder, &file, &[]).status.code(), Some(0));
    let file = folder
        .write("config.yaml", &BASE.replace(", audience: api", "").replace("audiences: [api]", "audience: [api]"));
    let expected = r#"14:5: providers[0].audience: unknown key "audience"; did you mean "audiences"?"#;
    assert_eq!(faults(&folder, &file), [expected], "the missing audience is no second fault");
}

#[test]
fn all_faults_are_said_at_once_in_the_order_of_the_file() {
    let folder = Folder::new();
    let mut yaml = BASE.to_owned();
    for (good, bad) in [
        ("10s", "soon"),
        ("upstream: app", "upstraem: app"),
        ("issuer: true", "issuer: maybe"),
        ("log: { level: info }", "log: { level: info }\nlog: { level: info }"),
        ("username: ann, ", ""),
        ("name: rest", "nam: rest"),
        ("jwks: issuer", "jwks: issuer\n    jwks: issuer"),
    ] {
        yaml = yaml.replacen(good, bad, 1);
    }
    let file = folder.write("config.yaml", &yaml);
    let expected = [
        "2:48: listeners[0].issuer: expected true or false, found a string",
        "5:11: limits.header_timeout: not a duration; write 500ms, 30s, 5m, 12h or 14d",
        "8:1: log: the key \"log\" stands in line 7 already",
        "17:5: providers[0].jwks: the key \"jwks\" stands in line 16 already",
        "22:5: routes[0].upstraem: unknown key \"upstraem\"; did you mean \"upstream\"?",
        "23:5: routes[1].nam: unknown key \"nam\"; did you mean \"name\"?",
        "34:7: issuer.users[0].username: missing: what the user types",
    ];
    assert_eq!(faults(&folder, &file), expected);
    assert!(text(&check(&folder, &file, &[]).stderr).ends_with("\n7 problems\n"));
}

#[test]
fn what_is_no_configuration_at_all_is_said_plainly() {
    let folder = Folder::new();
    for (bytes, expected) in [
        (&b""[..], "config.yaml:1:1: the file is empty; a configuration has at least `listeners`"),
        (b"# nothing\n", "config.yaml:1:1: the file is empty; a configuration has at least `listeners`"),
        (b"- a\n", "config.yaml:1:1: expected a mapping (`listeners:`, `routes:`, …), found a list"),
        (b"a: 1\n---\nb: 2\n", "config.yaml:2:1: a second document begins here; a configuration is one"),
        (b"a: [1\nb: 2\n", "config.yaml:2:2: not YAML: illegal placement of ':' indicator"),
        (b"a: &x [*x]\n", "config.yaml:1:8: an alias stands inside what it names"),
        (b"a: 1\nb: \xff\n", "config.yaml: not UTF-8 (line 2)"),
        (&[b'#'; (4 << 20) + 1], "config.yaml: it is larger than 4096 KiB"),
    ] {
        folder.write_bytes("config.yaml", bytes);
        let output = check(&folder, Path::new("config.yaml"), &[]);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(text(&output.stderr), format!("{expected}\n1 problem\n"));
    }
    let missing = check(&folder, Path::new("missing.yaml"), &[]);
    assert_eq!(text(&missing.stderr), "missing.yaml: there is no such file\n1 problem\n");
}

#[test]
fn aliases_and_merged_mappings_keep_their_places() {
    let folder = Folder::new();
    let yaml = BASE
        .replace("  - name: app\n", "  - &app\n    name: app\n    connect_timeout: 5s\n")
        .replace("providers:", "  - { <<: *app, name: other, max_idle: many }\nproviders:")
        .replace("    auth: none\n    upstream: app", "    auth: none\n    upstream: other");
    let file = folder.write("config.yaml", &yaml);
    assert_eq!(faults(&folder, &file), ["13:30: upstreams[1].max_idle: not a whole number"]);
    let file = folder.write("config.yaml", &yaml.replace("many", "7").replace("timeout: 5s", "timeout: soon"));
    let expected = "not a duration; write 500ms, 30s, 5m, 12h or 14d";
    assert_eq!(
        faults(&folder, &file),
        [
            format!("11:5: upstreams[0].connect_timeout: {expected}"),
            format!("11:5: upstreams[1].connect_timeout: {expected}")
        ]
    );
    let file = folder.write("config.yaml", &yaml.replace("many", "7"));
    assert_eq!(check(&folder, &file, &[]).status.code(), Some(0));
}

#[test]
fn variables_are_replaced_wherever_a_value_stands() {
    let folder = Folder::new();
    let yaml = BASE
        .replace("header_timeout: 10s", "header_timeout: \"${WAIT}\", max_connections: \"${MANY}\"")
        .replace("8KiB", "\"${SIZE}\", realm: \"$${x} ${SIZE}\"")
        .replace("issuer: true", "issuer: \"${YES}\"")
        .replace("127.0.0.1:3001", "${HOST}:3001");
    let file = folder.write("config.yaml", &yaml);
    let set = [("WAIT", "3s"), ("MANY", "12"), ("SIZE", "4KiB"), ("YES", "true"), ("HOST", "127.0.0.1")];
    let output = check(&folder, &file, &set);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    let unset = check(&folder, &file, &set[..4]);
    let expected = "config.yaml:3:21: listeners[1].address: the environment variable \"HOST\" is not set\n1 problem\n";
    assert_eq!(text(&unset.stderr), expected);
    let wrong = check(&folder, &file, &[("WAIT", "hunter2"), set[1], set[2], set[3], set[4]]);
    let expected =
        "config.yaml:5:11: limits.header_timeout: not a duration; write 500ms, 30s, 5m, 12h or 14d\n1 problem\n";
    assert_eq!(text(&wrong.stderr), expected);
}

const LONG: &str = "hunter2-hunter2-hunter2-hunter2-hunter2";
const READABLE: &str = "a secret in a file that everybody on this machine may read: chmod o-r the file, or move the \
                        secret into ${NAME} or { from_file: … }";

#[test]
fn a_secret_everybody_could_read_is_refused_wherever_it_is() {
    let folder = Folder::new();
    let symmetric = format!(
        r#"{{ "kty": "oct", "alg": "HS256", "k": "{}" }}"#,
        "aHVudGVyMi1odW50ZXIyLWh1bnRlcjItaHVudGVyMi1odW50ZXIy"
    );
    let hmac = |secret: &str| BASE.replace("    jwks: issuer", &format!("    algorithms: [HS256]\n{secret}"));
    for (yaml, file, expected) in [
        (hmac(&format!("    hmac_secret: {LONG}")), "", format!("16:5: providers[0].hmac_secret: {READABLE}")),
        (
            hmac(&format!("    jwks_inline: {{ keys: [{symmetric}] }}")),
            "",
            format!("16:59: providers[0].jwks_inline.keys[0].k: {READABLE}"),
        ),
        (
            BASE.replace("  clients:", &format!("  master_key: \"${{SIDEGATE_TEST_LONG}}{LONG}\"\n  clients:")),
            "",
            format!("29:3: issuer.master_key: {READABLE}"),
        ),
        (
            hmac("    hmac_secret: { from_file: secret }"),
            LONG,
            "16:20: providers[0].hmac_secret.from_file: secret holds a secret and everybody on this machine may read it: chmod o-r secret".into(),
        ),
        (
            hmac("    jwks_file: secret"),
            &format!(r#"{{ "keys": [{symmetric}] }}"#),
            "16:5: providers[0].jwks_file: secret holds a secret and everybody on this machine may read it: chmod o-r secret".into(),
        ),
    ] {
        let config = folder.write("config.yaml", &yaml);
        let secret = folder.write("secret", file);
        folder.allow(&secret, 0o644);
        assert_eq!(faults(&folder, &config), [expected]);
        folder.allow(if file.is_empty() { &config } else { &secret }, 0o640);
        let output = check(&folder, &config, &[("SIDEGATE_TEST_LONG", LONG)]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    // What the environment holds, nobody reads here.
    let config = folder.write("config.yaml", &hmac("    hmac_secret: ${SIDEGATE_TEST_LONG}"));
    assert_eq!(check(&folder, &config, &[("SIDEGATE_TEST_LONG", LONG)]).status.code(), Some(0));
}

#[test]
fn a_secret_is_never_repeated() {
    let folder = Folder::new();
    let places = [
        ("    jwks: issuer", "    hmac_secret: [hunter2]"),
        ("    jwks: issuer", "    algorithms: [HS256]\n    hmac_secret: hunter2"),
        ("    jwks: issuer", "    jwks_inline: { keys: [{ kty: oct, k: hunter2 }] }"),
        ("    jwks: issuer", "    jwks_inline: hunter2"),
        ("  clients:", "  master_key: hunter2\n  clients:"),
        ("  clients:", "  master_key: { hunter2: hunter2x }\n  clients:"),
        ("id: spa", "id: spa, secret_hash: hunter2"),
        ("id: spa", "id: spa, secret_hash: \"$hunter2${\""),
        ("http://127.0.0.1:8080", "http://u:hunter2@app"),
        ("{ level: info }", "{ level: hunter2 }"),
    ];
    for (good, bad) in places {
        let file = folder.write("config.yaml", &BASE.replacen(good, bad, 1));
        let output = check(&folder, &file, &[]);
        assert_eq!(output.status.code(), Some(2), "with {bad:?}");
        // A key is no secret.
        let said = text(&output.stderr).replace("key \"hunter2\"", "").replace("master_key.hunter2", "");
        assert!(!said.contains("hunter2"), "with {bad:?}: {said}");
    }
}

#[test]
fn a_listeners_certificate_and_key_have_to_fit() {
    let folder = Folder::new();
    let made = rcgen::generate_simple_self_signed(["localhost".into()]).expect("a certificate");
    let other = rcgen::generate_simple_self_signed(["localhost".into()]).expect("a certificate");
    folder.write("cert.pem", &made.cert.pem());
    folder.write("other.pem", &other.cert.pem());
    let key = folder.write("key.pem", &made.signing_key.serialize_pem());
    let with = |cert: &str, key: &str| {
        let tls = format!("3001\", tls: {{ certificates: [{{ cert_file: {cert}, key_file: {key} }}] }}");
        folder.write("config.yaml", &BASE.replace("3001\"", &tls))
    };
    folder.allow(&key, 0o600);
    assert_eq!(check(&folder, &with("cert.pem", "key.pem"), &[]).status.code(), Some(0));
    let at = |what: &str| format!("3:{what}");
    for (cert, key, expected) in [
        (
            "other.pem",
            "key.pem",
            at("94: listeners[1].tls.certificates[0].key_file: key.pem: the key does not belong to the certificate"),
        ),
        (
            "key.pem",
            "key.pem",
            at("72: listeners[1].tls.certificates[0].cert_file: key.pem: there is no certificate in it"),
        ),
        (
            "cert.pem",
            "cert.pem",
            at(
                "93: listeners[1].tls.certificates[0].key_file: cert.pem: there is no private key in it (an encrypted one cannot be read)",
            ),
        ),
        ("none.pem", "key.pem", at("72: listeners[1].tls.certificates[0].cert_file: none.pem: there is no such file")),
    ] {
        assert_eq!(faults(&folder, &with(cert, key)), [expected]);
    }
    folder.allow(&key, 0o604);
    let readable = "listeners[1].tls.certificates[0].key_file: key.pem holds a secret and everybody on this machine may read it: chmod o-r key.pem";
    assert_eq!(faults(&folder, &with("cert.pem", "key.pem")), [at(&format!("93: {readable}"))]);
}

#[test]
fn what_is_dangerous_or_idle_is_warned_of() {
    let folder = Folder::new();
    let yaml = BASE
        .replace("providers:", "  - { name: idle, demo: true }\nproviders:")
        .replace("    claim_headers:", "    legacy_query_token: true\n    claim_headers:")
        .replace("issuer:\n", "  - { name: late, match: { path: /x }, upstream: app }\nissuer:\n")
        .replace("id: spa,", "id: spa, legacy_password_grant: true,")
        .replace("  clients:\n", "  throttle: { insecure_off: true }\n  clients:\n")
        .replace(
            "  users:\n",
            "    - { id: shown, tls_client_auth_san_dns: a.example, grants: [client_credentials] }\n  users:\n",
        );
    let file = folder.write("config.yaml", &yaml);
    let output = check(&folder, &file, &[]);
    assert_eq!(output.status.code(), Some(0));
    let said = text(&output.stderr);
    let places: Vec<_> = said.lines().map(|line| line.splitn(6, ':').take(5).collect::<Vec<_>>().join(":")).collect();
    let expected = [
        "config.yaml:11:5: warning: upstreams[1]",
        "config.yaml:24:5: warning: routes[1].legacy_query_token",
        "config.yaml:27:5: warning: routes[2]",
        "config.yaml:32:15: warning: issuer.throttle.insecure_off",
        "config.yaml:34:18: warning: issuer.clients[0].legacy_password_grant",
        "config.yaml:35:7: warning: issuer.clients[1]",
    ];
    assert_eq!(places, expected, "{said}");
}

/// RFC 8252 §8.6: whoever is logged in would give any app on the machine what this one may have.
#[test]
fn a_client_that_any_app_can_pose_as_should_ask() {
    let folder = Folder::new();
    let warned = |client: &str| {
        let yaml = BASE
            .replace("id: spa, grants: [refresh_token]", &format!("id: spa, grants: [authorization_code], {client}"));
        let output = check(&folder, &folder.write("config.yaml", &yaml), &[]);
        assert_eq!(output.status.code(), Some(0), "{client}: {}", text(&output.stderr));
        text(&output.stderr).contains("warning: issuer.clients[0].consent: any app on a user's machine")
    };
    let secret = format!("secret_hash: 'sha256:{}'", "a".repeat(64));
    for (client, expected) in [
        ("consent: skip, redirect_uris: ['http://127.0.0.1/cb']", true),
        ("consent: skip, redirect_uris: ['https://app.example.com/cb', 'com.example.app:/cb']", true),
        ("consent: skip, redirect_uris: ['https://app.example.com/cb']", false),
        ("consent: ask, redirect_uris: ['http://127.0.0.1/cb']", false),
        ("redirect_uris: ['com.example.app:/cb']", false),
        (&*format!("{secret}, consent: skip, redirect_uris: ['http://127.0.0.1/cb']"), false),
    ] {
        assert_eq!(warned(client), expected, "{client}");
    }
}

#[test]
fn the_default_configuration_passes_and_holds_the_demos_credentials() {
    use sidegate::{
        config,
        issuer::{Credentials, SecretHash},
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml");
    let loaded = config::load(&path).expect("config.yaml is valid");
    let issuer = loaded.config.issuer.expect("config.yaml has an issuer");
    let hash = |text: &str| SecretHash::Argon2id(text.into());
    let Credentials::Secrets(hashes) = &issuer.clients[0].credentials else { panic!("a client without a secret") };
    assert_eq!(*hashes, [hash(config::demo::CLIENT_SECRET_HASH)]);
    assert_eq!(issuer.users[0].password_hash, hash(config::demo::USER_PASSWORD_HASH));
    assert!(verifies("secret", config::demo::CLIENT_SECRET_HASH));
    assert!(verifies("test", config::demo::USER_PASSWORD_HASH));
    assert_eq!(loaded.warnings.len(), 2, "the password grant and the token in the query");
}

#[test]
fn every_commented_key_of_the_default_configuration_is_one_that_is_known() {
    let folder = Folder::new();
    let default = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml")).expect("config.yaml");
    // Taking the comment sign away leaves valid settings in place, but for what excludes what stands there or needs a file.
    let excluded = [
        "tls:",
        "certificates:",
        "ca_file:",
        "server_name:",
        "client_certificate:",
        "min_version:",
        "client_auth:",
        "mode:",
        "ca_file:",
        "subject_header:",
        "urls:",
        "jwks_uri:",
        "discovery:",
        "jwks_fetch:",
        "  timeout:",
        "min_refresh:",
        "max_refresh:",
        "cooldown:",
        "max_stale:",
        "on_stale:",
        "on_start:",
        "insecure_http:",
        "jwks_file:",
        "jwks_inline:",
        "hmac_secret:",
        "redis:",
        "master_key:",
        "previous_master_keys:",
        "admin.token",
        "revocation_feed:",
        "https://id.example",
        "feed.credential",
        "max_staleness:",
        "snapshot_file:",
        "file: signing.pem",
        "logo_file: logo.svg",
        "secret_hashes:",
        "tls_client_auth_san_dns:",
        "roles: [admin] }",
        "exchange:",
        "from: [api]",
        "to: [https:",
    ];
    let uncommented: Vec<String> = default
        .lines()
        .map(|line| {
            let bare = line.trim_start();
            let setting = bare.strip_prefix("# ").filter(|rest| {
                let first = rest.trim_start().trim_start_matches("- ");
                first
                    .split([' ', '#'])
                    .next()
                    .is_some_and(|word| word.ends_with(':') && word.len() > 1 && word.is_ascii())
                    && first.chars().next().is_some_and(|c| c.is_ascii_lowercase())
            });
            match setting {
                Some(setting) if !excluded.iter().any(|key| setting.contains(key)) => {
                    format!("{}{setting}", &line[..line.len() - bare.len()])
                }
                _ => line.to_owned(),
            }
        })
        .collect();
    let changed = uncommented.iter().zip(default.lines()).filter(|(new, old)| new != old).count();
    assert!(changed > 40, "only {changed} settings were found");
    let file = folder.write("config.yaml", &uncommented.join("\n"));
    let output = check(&folder, &file, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn the_demos_credentials_are_refused_off_loopback() {
    let folder = Folder::new();
    let default = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml")).expect("config.yaml");
    let file = folder.write("config.yaml", &default.replace("127.0.0.1:3000", "0.0.0.0:3000"));
    let said = faults(&folder, &file);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("issuer.clients[0].secret_hash: these are the demo's credentials"), "{said:?}");
    assert!(said[1].contains("issuer.users[0].password_hash: these are the demo's credentials"), "{said:?}");
    // The same hashes, written in another way, let the same passwords in.
    let other = default.replace("127.0.0.1:3000", "0.0.0.0:3000").replace("m=19456,t=2,p=1", "t=2,m=19456,p=1");
    let said = faults(&folder, &folder.write("config.yaml", &other));
    assert!(said.len() == 2 && said.iter().all(|line| line.contains("the demo's credentials")), "{said:?}");
    // And so they do as one of two.
    let other = default
        .replace("127.0.0.1:3000", "0.0.0.0:3000")
        .replace("      secret_hash: ", "      secret_hashes:\n        - ");
    let said = faults(&folder, &folder.write("config.yaml", &other));
    assert!(said[0].contains("issuer.clients[0].secret_hashes[0]: these are the demo's credentials"), "{said:?}");
    let file = folder.write("config.yaml", &default.replace("127.0.0.1:3000", "\"[::1]:3000\""));
    assert_eq!(check(&folder, &file, &[]).status.code(), Some(0));
}

#[test]
fn a_hash_that_the_issuer_would_not_start_with_is_refused() {
    let folder = Folder::new();
    let default = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml")).expect("config.yaml");
    let said = faults(&folder, &folder.write("config.yaml", &default.replace("$v=19", "")));
    assert!(said.len() == 2 && said.iter().all(|line| line.contains("version 19")), "{said:?}");
}

#[test]
fn a_hash_is_made_of_a_password_and_taken_by_the_configuration() {
    let folder = Folder::new();
    let output = sidegate(&folder, &["hash-password"], &[], b"correct horse\n");
    let hash = text(&output.stdout).trim_end().to_owned();
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    assert!(verifies("correct horse", &hash) && !verifies("correct horse\n", &hash));
    let file = folder.write("config.yaml", &BASE.replace("id: spa", &format!("id: spa, secret_hash: \"{hash}\"")));
    assert_eq!(check(&folder, &file, &[]).status.code(), Some(0));

    for bad in [&b""[..], b"\n", b"two\nlines\n", b"\xff\n", &[b'x'; 1025]] {
        let output = sidegate(&folder, &["hash-password"], &[], bad);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), String::new()));
    }
}

#[test]
fn a_generated_secret_comes_with_its_hash() {
    let folder = Folder::new();
    let output = text(&sidegate(&folder, &["hash-password", "--generate"], &[], b"").stdout);
    let (secret, hash) = output.trim_end().split_once('\n').expect("two lines");
    let secret = secret.strip_prefix("secret: ").expect("a secret");
    let hash = hash.strip_prefix("secret_hash: ").expect("a hash");
    assert!(secret.len() == 43 && secret.bytes().all(|b| b.is_ascii_alphanumeric()), "{secret}");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.as_bytes());
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hash, format!("sha256:{digest}"));
    let file = folder.write("config.yaml", &BASE.replace("id: spa", &format!("id: spa, secret_hash: \"{hash}\"")));
    assert_eq!(check(&folder, &file, &[]).status.code(), Some(0));
}

#[test]
fn without_a_configuration_it_says_how_to_get_one() {
    let folder = Folder::new();
    let output = sidegate(&folder, &[], &[], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("sidegate: there is no config.yaml in this folder.\n"));
    assert_eq!(sidegate(&folder, &["chekc"], &[], b"").status.code(), Some(2));
}

/// A folder of its own for each test, gone when the test is over.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder for the test"))
    }

    /// Writes a file that everybody may read, and gives back its name.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        self.write_bytes(name, text.as_bytes())
    }

    fn write_bytes(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.0.path().join(name), bytes).expect("a file of the test");
        self.allow(Path::new(name), 0o644);
        name.into()
    }

    fn allow(&self, name: &Path, mode: u32) {
        fs::set_permissions(self.0.path().join(name), Permissions::from_mode(mode)).expect("permissions");
    }
}

fn sidegate(folder: &Folder, args: &[&str], env: &[(&str, &str)], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sidegate"))
        .args(args)
        .current_dir(folder.0.path())
        .env_clear()
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A command that reads nothing may be gone already.
    let _ = child.stdin.take().expect("its input").write_all(input);
    child.wait_with_output().expect("the program ends")
}

fn check(folder: &Folder, file: &Path, env: &[(&str, &str)]) -> Output {
    sidegate(folder, &["check", file.to_str().expect("a plain name")], env, b"")
}

/// What is said of a file that is wrong: each line without the file's name, and without the count at the end.
fn faults(folder: &Folder, file: &Path) -> Vec<String> {
    let output = check(folder, file, &[("SIDEGATE_TEST_LONG", LONG)]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), String::new()), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    let prefix = format!("{}:", file.display());
    let mut lines: Vec<_> = said.lines().map(|line| line.strip_prefix(&prefix).unwrap_or(line).to_owned()).collect();
    let count = lines.pop();
    assert_eq!(count, Some(format!("{} problem{}", lines.len(), if lines.len() == 1 { "" } else { "s" })));
    lines
}

fn verifies(password: &str, hash: &str) -> bool {
    let hash = PasswordHash::new(hash).expect("a PHC string");
    Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}
