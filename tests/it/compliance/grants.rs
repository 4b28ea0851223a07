//! The token endpoint (RFC 6749 §3.2), and the grants without a browser (§4.3, §4.4, §6).

use super::{APP, BARE, Case, MUTE, OWN, Refused, Tokens, post, token};

const BAD: super::Wanted = Refused(400, "invalid_request", "");
const NOT_A_FORM: super::Wanted =
    Refused(400, "invalid_request", "The body must be application/x-www-form-urlencoded.");
const METHOD: super::Wanted = Refused(405, "invalid_request", "");
const UNKNOWN_GRANT: super::Wanted = Refused(400, "unsupported_grant_type", "The grant type is not supported.");
const NOT_ALLOWED: super::Wanted = Refused(400, "unauthorized_client", "");
const SCOPE: super::Wanted = Refused(400, "invalid_scope", "");
/// One text, whoever it is and whatever was wrong.
const WRONG_LOGIN: super::Wanted = Refused(400, "invalid_grant", "The username or the password is wrong.");
const WRONG_REFRESH: super::Wanted = Refused(400, "invalid_grant", "The refresh token is invalid, expired or revoked.");

const ASK: &str = "grant_type=client_credentials";
const LOGIN: &str = "grant_type=password&username=alice&password=wonderland";

/// A form, and what it says of itself.
const fn typed(name: &'static str, headers: super::Fields, wanted: super::Wanted) -> Case {
    token(name, headers, "grant_type=client_credentials&client_id=app&client_secret=secret", wanted)
}

pub(super) const CASES: &[Case] = &[
    // POST alone, and a form alone.
    token("GET", APP, "", METHOD).by("GET").with("Allow", "POST"),
    post("/oauth/token?grant_type=client_credentials", "GET with a query", APP, "", METHOD)
        .by("GET")
        .with("Allow", "POST"),
    token("PUT", APP, ASK, METHOD).by("PUT").with("Allow", "POST"),
    token("DELETE", APP, "", METHOD).by("DELETE").with("Allow", "POST"),
    typed(
        "a charset beside the type",
        &[("Content-Type", "application/x-www-form-urlencoded; charset=UTF-8")],
        Tokens("read write", false),
    ),
    typed(
        "the type in capitals",
        &[("Content-Type", "APPLICATION/X-WWW-FORM-URLENCODED")],
        Tokens("read write", false),
    ),
    typed("a form that says JSON", &[("Content-Type", "application/json")], NOT_A_FORM),
    typed("a form that says text", &[("Content-Type", "text/plain")], NOT_A_FORM),
    typed("a form that says multipart", &[("Content-Type", "multipart/form-data; boundary=x")], NOT_A_FORM),
    typed("a form that says nothing", &[("Content-Type", "")], NOT_A_FORM),
    typed("a type that begins like a form's", &[("Content-Type", "application/x-www-form-urlencoded-not")], NOT_A_FORM),
    typed(
        "two types",
        &[("Content-Type", "application/x-www-form-urlencoded"), ("Content-Type", "application/json")],
        NOT_A_FORM,
    ),
    token("JSON", &[("Authorization", "Basic {app:secret}"), ("Content-Type", "application/json")], "[]", NOT_A_FORM),
    token("an empty body", APP, "", BAD),
    post("/oauth/token?grant_type=client_credentials", "a query in place of a body", APP, "x=y", BAD),
    token("a form above 64 KiB", APP, "grant_type=client_credentials&x={64 KiB}", Refused(413, "invalid_request", "")),
    token("a form of 1 MiB", APP, "grant_type=client_credentials&x={MiB}", Refused(413, "invalid_request", "")),
    token(
        "what nobody knows is ignored",
        APP,
        "grant_type=client_credentials&x=%00&looked=%ff",
        Tokens("read write", false),
    ),
    // Which grant.
    token("no grant_type", APP, "scope=read", BAD),
    token("an empty grant_type", APP, "grant_type=", BAD),
    token("grant_type twice", APP, "grant_type=client_credentials&grant_type=client_credentials", BAD),
    token(
        "two grants",
        APP,
        "grant_type=client_credentials&grant_type=password&username=alice&password=wonderland",
        BAD,
    ),
    token("NUL in grant_type", APP, "grant_type=client_credentials%00", BAD),
    token("an unknown grant", APP, "grant_type=nonsense", UNKNOWN_GRANT),
    token("a grant in capitals", APP, "grant_type=CLIENT_CREDENTIALS", UNKNOWN_GRANT),
    token("a grant with a blank", APP, "grant_type=client_credentials%20", UNKNOWN_GRANT),
    token("the implicit grant", APP, "grant_type=token", UNKNOWN_GRANT),
    token("a grant of markup", APP, "grant_type=%22%3Cscript%3E", UNKNOWN_GRANT),
    token(
        "the device grant",
        APP,
        "grant_type=urn:ietf:params:oauth:grant-type:device_code&device_code=x",
        UNKNOWN_GRANT,
    ),
    token(
        "the JWT grant",
        APP,
        "grant_type=urn:ietf:params:oauth:grant-type:jwt-bearer&assertion=a.b.c",
        UNKNOWN_GRANT,
    ),
    token("a password by a client that may not", MUTE, LOGIN, NOT_ALLOWED),
    token("a refresh by a client that may not", MUTE, "grant_type=refresh_token&refresh_token={refresh}", NOT_ALLOWED),
    token(
        "a code by a client that may not",
        APP,
        "grant_type=authorization_code&code={code}&code_verifier={verifier}",
        NOT_ALLOWED,
    ),
    token(
        "an exchange by a client that may not",
        APP,
        "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token={access}&subject_token_type=urn:ietf:params:oauth:token-type:access_token",
        NOT_ALLOWED,
    ),
    // Client credentials.
    token("a client for itself, as it may", OWN, ASK, NOT_ALLOWED),
    token("a public client for itself", BARE, "grant_type=client_credentials&client_id=spa", NOT_ALLOWED),
    token("client credentials with a scope", APP, "grant_type=client_credentials&scope=read", Tokens("read", false)),
    token("a scope said twice in one", APP, "grant_type=client_credentials&scope=read+read", Tokens("read", false)),
    token("an empty scope is none", APP, "grant_type=client_credentials&scope=", Tokens("read write", false)),
    token("a scope too many", APP, "grant_type=client_credentials&scope=read+admin", SCOPE),
    token("an unknown scope", APP, "grant_type=client_credentials&scope=admin", SCOPE),
    token("a scope in capitals", APP, "grant_type=client_credentials&scope=READ", SCOPE),
    token("a scope with a quote", APP, "grant_type=client_credentials&scope=read%22", SCOPE),
    token("scopes with a comma", APP, "grant_type=client_credentials&scope=read,write", SCOPE),
    token("scope twice", APP, "grant_type=client_credentials&scope=read&scope=write", BAD),
    token("CR LF in scope", APP, "grant_type=client_credentials&scope=read%0d%0awrite", BAD),
    token(
        "a resource that nothing is made for",
        APP,
        "grant_type=client_credentials&resource=https://evil.example",
        Refused(400, "invalid_target", ""),
    ),
    // Passwords.
    token("a password", APP, LOGIN, Tokens("read write", true)),
    token(
        "a password with a scope",
        APP,
        "grant_type=password&username=alice&password=wonderland&scope=write",
        Tokens("write", true),
    ),
    token("no username", APP, "grant_type=password&password=wonderland", BAD),
    token("no password", APP, "grant_type=password&username=alice", BAD),
    token("an empty password", APP, "grant_type=password&username=alice&password=", BAD),
    token("a wrong password", APP, "grant_type=password&username=alice&password=wrong", WRONG_LOGIN),
    token("an unknown user", APP, "grant_type=password&username=nobody&password=wonderland", WRONG_LOGIN),
    token("a disabled user", APP, "grant_type=password&username=mallory&password=wonderland", WRONG_LOGIN),
    token("a disabled user, wrong password", APP, "grant_type=password&username=mallory&password=wrong", WRONG_LOGIN),
    token("a user in capitals", APP, "grant_type=password&username=ALICE&password=wonderland", WRONG_LOGIN),
    token("a user with a blank", APP, "grant_type=password&username=alice%20&password=wonderland", WRONG_LOGIN),
    token("a password with a blank", APP, "grant_type=password&username=alice&password=wonderland%20", WRONG_LOGIN),
    token(
        "a user of a query language",
        APP,
        "grant_type=password&username=alice'+OR+'1'='1&password=wonderland",
        WRONG_LOGIN,
    ),
    token("username twice", APP, "grant_type=password&username=nobody&username=alice&password=wonderland", BAD),
    token("password twice", APP, "grant_type=password&username=alice&password=wrong&password=wonderland", BAD),
    token("NUL in username", APP, "grant_type=password&username=alice%00&password=wonderland", BAD),
    token("a bare NUL in password", APP, "grant_type=password&username=alice&password=wonderland\0", BAD),
    token("CR LF in password", APP, "grant_type=password&username=alice&password=wonderland%0d%0a", BAD),
    token("a password that is no UTF-8", APP, "grant_type=password&username=alice&password=%ff", BAD),
    token("a password that is very long", APP, "grant_type=password&username=alice&password=x{KiB}", BAD),
    token(
        "a password with a scope too many",
        APP,
        "grant_type=password&username=alice&password=wonderland&scope=read+admin",
        SCOPE,
    ),
    token(
        "a password with another client's scope",
        BARE,
        "grant_type=password&username=alice&password=wonderland&client_id=spa&scope=write",
        SCOPE,
    ),
    // Refresh tokens.
    token("a refresh", APP, "grant_type=refresh_token&refresh_token={refresh}", Tokens("read write", true)),
    token(
        "a refresh with the same scope",
        APP,
        "grant_type=refresh_token&refresh_token={refresh}&scope=write+read",
        Tokens("read write", true),
    ),
    token(
        "a refresh with less",
        APP,
        "grant_type=refresh_token&refresh_token={refresh}&scope=read",
        Tokens("read", true),
    ),
    token(
        "a refresh of what a login was given",
        APP,
        "grant_type=refresh_token&refresh_token={narrow_refresh}",
        Tokens("read", true),
    ),
    token(
        "a refresh with more than the login had",
        APP,
        "grant_type=refresh_token&refresh_token={narrow_refresh}&scope=read+write",
        SCOPE,
    ),
    token(
        "a refresh with an unknown scope",
        APP,
        "grant_type=refresh_token&refresh_token={refresh}&scope=invalid",
        SCOPE,
    ),
    token(
        "a public client's refresh",
        BARE,
        "grant_type=refresh_token&client_id=spa&refresh_token={spa_refresh}",
        Tokens("read", true),
    ),
    token("no refresh_token", APP, "grant_type=refresh_token", BAD),
    token("refresh_token twice", APP, "grant_type=refresh_token&refresh_token={refresh}&refresh_token={refresh}", BAD),
    token("a refresh token that is very long", APP, "grant_type=refresh_token&refresh_token=sg1.{KiB}", BAD),
    token("NUL behind a refresh token", APP, "grant_type=refresh_token&refresh_token={refresh}%00", BAD),
    token("a refresh token out of the air", APP, "grant_type=refresh_token&refresh_token=invalid", WRONG_REFRESH),
    token("a refresh token and a bit more", APP, "grant_type=refresh_token&refresh_token={refresh}A", WRONG_REFRESH),
    token("a refresh token, padded", APP, "grant_type=refresh_token&refresh_token={refresh}%3D", WRONG_REFRESH),
    token("a refresh token and a blank", APP, "grant_type=refresh_token&refresh_token={refresh}%20", WRONG_REFRESH),
    token("an access token as a refresh token", APP, "grant_type=refresh_token&refresh_token={access}", WRONG_REFRESH),
    token("a code as a refresh token", APP, "grant_type=refresh_token&refresh_token={code}", WRONG_REFRESH),
    token(
        "a public client's refresh token at another",
        APP,
        "grant_type=refresh_token&refresh_token={spa_refresh}",
        WRONG_REFRESH,
    ),
    token(
        "a refresh token at a public client",
        BARE,
        "grant_type=refresh_token&client_id=spa&refresh_token={refresh}",
        WRONG_REFRESH,
    ),
    token(
        "a refresh token at a client of the house",
        OWN,
        "grant_type=refresh_token&refresh_token={refresh}",
        WRONG_REFRESH,
    ),
    token(
        "a code's refresh token at another public client",
        BARE,
        "grant_type=refresh_token&client_id=other&refresh_token={web_refresh}",
        WRONG_REFRESH,
    ),
    token(
        "a refresh token by the bare name of its client",
        BARE,
        "grant_type=refresh_token&client_id=app&refresh_token={refresh}",
        Refused(401, "invalid_client", ""),
    ),
    token(
        "an attempt of another's harms nobody",
        APP,
        "grant_type=refresh_token&refresh_token={refresh_tried_by_spa}",
        Tokens("read write", true),
    ),
    token(
        "a public client's refresh token again",
        BARE,
        "grant_type=refresh_token&client_id=spa&refresh_token={used_spa_refresh}",
        WRONG_REFRESH,
    ),
    token("a refresh token of long ago", APP, "grant_type=refresh_token&refresh_token={old_refresh}", WRONG_REFRESH),
    token(
        "the last one after such a reuse",
        APP,
        "grant_type=refresh_token&refresh_token={refresh_after_reuse}",
        WRONG_REFRESH,
    ),
    token(
        "a refresh token that was revoked",
        APP,
        "grant_type=refresh_token&refresh_token={revoked_refresh}",
        WRONG_REFRESH,
    ),
    // The same elsewhere: there is one place for tokens.
    post(super::REVOKE, "a grant at the revocation endpoint", APP, ASK, BAD),
];
