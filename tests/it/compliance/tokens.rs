//! What is done with tokens: revocation (RFC 7009), introspection (RFC 7662), and what they are for (RFC 6750).

use super::{APP, BARE, Case, Gate, INTROSPECT, MUTE, REVOKE, Refused, Wanted, Words, post};

const DONE: Wanted = Words("{}");
const GOOD: Wanted = Words("\"active\":true");
const INACTIVE: Wanted = Words("{\"active\":false}");
const BAD: Wanted = Refused(400, "invalid_request", "");
const NOT_YOURS: Wanted = Refused(400, "invalid_request", "The token was issued to another client.");
const UNKNOWN: Wanted = Refused(401, "invalid_client", "Client authentication failed.");
const METHOD: Wanted = Refused(405, "invalid_request", "");

const fn revoke(name: &'static str, headers: super::Fields, form: &'static str, wanted: Wanted) -> Case {
    post(REVOKE, name, headers, form, wanted)
}

const fn introspect(name: &'static str, headers: super::Fields, form: &'static str, wanted: Wanted) -> Case {
    post(INTROSPECT, name, headers, form, wanted)
}

const fn gate(name: &'static str, headers: super::Fields, wanted: Wanted) -> Case {
    post("/", name, headers, "", wanted).by("GET")
}

pub(super) const CASES: &[Case] = &[
    revoke("revoking a refresh token", APP, "token={refresh}", DONE),
    revoke("revoking with a wrong hint", APP, "token={access}&token_type_hint=refresh_token", DONE),
    revoke("revoking with an unknown hint", APP, "token={access}&token_type_hint=nonsense", DONE),
    revoke("revoking what is revoked", APP, "token={revoked_refresh}", DONE),
    revoke("revoking out of the air", APP, "token=nonsense", DONE),
    revoke("revoking by a public client", BARE, "client_id=spa&token={spa_refresh}", DONE),
    revoke("revoking another's refresh token", MUTE, "token={refresh}", NOT_YOURS),
    revoke("revoking another's access token", MUTE, "token={access}", NOT_YOURS),
    revoke("revoking a public client's refresh token", APP, "token={spa_refresh}", NOT_YOURS),
    revoke("revoking another's by a public name", BARE, "client_id=spa&token={refresh}", NOT_YOURS),
    revoke("revoking another's access token by a public name", BARE, "client_id=spa&token={mute_access}", NOT_YOURS),
    revoke("revoking by nobody", BARE, "token={refresh}", UNKNOWN),
    revoke("revoking by a bare name", BARE, "client_id=app&token={refresh}", UNKNOWN),
    revoke("revoking with a wrong secret", &[("Authorization", "Basic {app:wrong}")], "token={refresh}", UNKNOWN)
        .with("WWW-Authenticate", "Basic realm="),
    revoke("revoking nothing", APP, "", BAD),
    revoke("revoking two", APP, "token={refresh}&token={refresh}", BAD),
    revoke("revoking in two ways", APP, "token={refresh}&client_secret=secret", BAD),
    revoke("revoking with NUL", APP, "token={refresh}%00", BAD),
    revoke(
        "revoking with JSON",
        &[("Authorization", "Basic {app:secret}"), ("Content-Type", "application/json")],
        "[]",
        BAD,
    ),
    revoke("revoking 1 MiB", APP, "token={MiB}", Refused(413, "invalid_request", "")),
    post("/oauth/revoke?token=x", "revoking by GET", APP, "", METHOD).by("GET").with("Allow", "POST"),
    introspect("asking about an access token", APP, "token={access}", GOOD),
    introspect(
        "asking about an access token with a wrong hint",
        APP,
        "token={access}&token_type_hint=refresh_token",
        GOOD,
    ),
    introspect("asking about one's refresh token", APP, "token={refresh}", GOOD),
    introspect("a resource server asks about an access token", MUTE, "token={access}", GOOD),
    introspect("asking about another's refresh token", MUTE, "token={refresh}", INACTIVE),
    introspect("asking about a public client's refresh token", APP, "token={spa_refresh}", INACTIVE),
    introspect("asking about a code", APP, "token={code}", INACTIVE),
    introspect("asking about nonsense", APP, "token=nonsense", INACTIVE),
    introspect("asking about an access token and a bit more", APP, "token={access}A", INACTIVE),
    introspect("asking about a revoked access token", APP, "token={revoked_access}", INACTIVE),
    introspect("asking about a revoked refresh token", APP, "token={revoked_refresh}", INACTIVE),
    introspect("asking about a token of a code that came twice", APP, "token={access_of_replayed_code}", INACTIVE),
    introspect("asking as nobody", BARE, "token={access}", UNKNOWN),
    introspect("asking by a public name", BARE, "client_id=spa&token={spa_access}", UNKNOWN),
    introspect("asking with the token itself", &[("Authorization", "Bearer {access}")], "token={access}", UNKNOWN)
        .with("WWW-Authenticate", "Basic realm="),
    introspect("asking with a wrong secret", &[("Authorization", "Basic {app:wrong}")], "token={access}", UNKNOWN)
        .with("WWW-Authenticate", "Basic realm="),
    introspect("asking about nothing", APP, "", BAD),
    introspect("asking about two", APP, "token={access}&token={access}", BAD),
    introspect("asking in two ways", APP, "token={access}&client_secret=secret", BAD),
    introspect("asking about 1 MiB", APP, "token={MiB}", Refused(413, "invalid_request", "")),
    post("/oauth/introspect?token=x", "asking by GET", APP, "", METHOD).by("GET").with("Allow", "POST"),
    gate("a token passes", &[("Authorization", "Bearer {access}")], Gate(200)),
    gate("a client's own token passes", &[("Authorization", "Bearer {mute_access}")], Gate(200)),
    gate("no token", BARE, Gate(401)).with("WWW-Authenticate", "Bearer"),
    gate("a revoked token", &[("Authorization", "Bearer {revoked_access}")], Gate(401))
        .with("WWW-Authenticate", "Bearer"),
    gate("a refresh token as an access token", &[("Authorization", "Bearer {refresh}")], Gate(401))
        .with("WWW-Authenticate", "Bearer"),
    gate("a code as an access token", &[("Authorization", "Bearer {code}")], Gate(401))
        .with("WWW-Authenticate", "Bearer"),
    gate("a token of a code that came twice", &[("Authorization", "Bearer {access_of_replayed_code}")], Gate(401))
        .with("WWW-Authenticate", "Bearer"),
    gate("a client's secret as a token", APP, Gate(401)).with("WWW-Authenticate", "Bearer"),
    post("/?access_token={access}", "a token in the URL", BARE, "", Gate(401))
        .by("GET")
        .with("WWW-Authenticate", "Bearer"),
    post("/", "a token in a form", BARE, "access_token={access}", Gate(401)).with("WWW-Authenticate", "Bearer"),
];
