//! Who asks (RFC 6749 §2.3 and §3.2.1).

use super::{APP, BARE, Case, OWN, Refused, Tokens, token};

const ASK: &str = "grant_type=client_credentials";
const UNKNOWN: super::Wanted = Refused(401, "invalid_client", "Client authentication failed.");
const TWO_WAYS: super::Wanted = Refused(400, "invalid_request", "The client must authenticate in one way only.");
const BAD: super::Wanted = Refused(400, "invalid_request", "");

pub(super) const CASES: &[Case] = &[
    token("Basic", APP, ASK, Tokens("read write", false)),
    token("Basic in lower case", &[("Authorization", "basic {app:secret}")], ASK, Tokens("read write", false)),
    token("Basic without padding", &[("Authorization", "Basic YXBwOnNlY3JldA")], ASK, Tokens("read write", false)),
    token(
        "Basic, form-encoded first",
        &[("Authorization", "Basic {app:%73ecre%74}")],
        ASK,
        Tokens("read write", false),
    ),
    token(
        "Basic, and the same name in the body",
        APP,
        "grant_type=client_credentials&client_id=app",
        Tokens("read write", false),
    ),
    token("a secret that has to be hashed", &[("Authorization", "Basic {slow:secret}")], ASK, Tokens("read", false)),
    token(
        "the secret in the body",
        BARE,
        "grant_type=client_credentials&client_id=app&client_secret=secret",
        Tokens("read write", false),
    ),
    token(
        "a public client by its bare name",
        BARE,
        "grant_type=password&username=alice&password=wonderland&client_id=spa",
        Tokens("read", true),
    ),
    token(
        "a public client by Basic without a secret",
        &[("Authorization", "Basic {spa:}")],
        "grant_type=password&username=alice&password=wonderland",
        Tokens("read", true),
    ),
    // All that fail look the same.
    token("nobody", BARE, ASK, UNKNOWN),
    token("Basic, wrong secret", &[("Authorization", "Basic {app:wrong}")], ASK, UNKNOWN)
        .with("WWW-Authenticate", "Basic realm="),
    token("Basic, wrong secret that had to be hashed", &[("Authorization", "Basic {slow:wrong}")], ASK, UNKNOWN)
        .with("WWW-Authenticate", "Basic realm="),
    token("Basic, unknown client", &[("Authorization", "Basic {nobody:secret}")], ASK, UNKNOWN)
        .with("WWW-Authenticate", "Basic realm="),
    token("Basic, disabled client", &[("Authorization", "Basic {gone:secret}")], ASK, UNKNOWN)
        .with("WWW-Authenticate", "Basic realm="),
    token("Basic, no secret", &[("Authorization", "Basic {app:}")], ASK, UNKNOWN),
    token("Basic, another's secret of the same length", &[("Authorization", "Basic {app:secreT}")], ASK, UNKNOWN),
    token(
        "Basic, the hash as the secret",
        &[("Authorization", "Basic {app:sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b}")],
        ASK,
        UNKNOWN,
    ),
    token("Basic, the name in another case", &[("Authorization", "Basic {APP:secret}")], ASK, UNKNOWN),
    token("Basic, no colon", &[("Authorization", "Basic YXBw")], ASK, UNKNOWN),
    token("Basic, no base64", &[("Authorization", "Basic app:secret")], ASK, UNKNOWN),
    token("Basic, no UTF-8", &[("Authorization", "Basic /////w==")], ASK, UNKNOWN),
    token("Basic, nothing", &[("Authorization", "Basic")], ASK, UNKNOWN),
    token("Basic, very long", &[("Authorization", "Basic {KiB}{KiB}{KiB}{KiB}{KiB}")], ASK, UNKNOWN),
    token("Bearer as a client's proof", &[("Authorization", "Bearer {access}")], ASK, UNKNOWN),
    token("body, wrong secret", BARE, "grant_type=client_credentials&client_id=app&client_secret=wrong", UNKNOWN),
    token("body, unknown client", BARE, "grant_type=client_credentials&client_id=nobody&client_secret=secret", UNKNOWN),
    token("body, disabled client", BARE, "grant_type=client_credentials&client_id=gone&client_secret=secret", UNKNOWN),
    token("body, no secret", BARE, "grant_type=client_credentials&client_id=app", UNKNOWN),
    token("body, empty secret", BARE, "grant_type=client_credentials&client_id=app&client_secret=", UNKNOWN),
    token(
        "body, a blank behind the secret",
        BARE,
        "grant_type=client_credentials&client_id=app&client_secret=secret%20",
        UNKNOWN,
    ),
    token("body, a secret without a name", BARE, "grant_type=client_credentials&client_secret=secret", UNKNOWN),
    token(
        "a public client with a secret",
        BARE,
        "grant_type=password&username=alice&password=wonderland&client_id=spa&client_secret=guess",
        UNKNOWN,
    ),
    super::post(
        "/oauth/token?client_id=app&client_secret=secret",
        "the secret in the URL",
        BARE,
        "grant_type=client_credentials",
        UNKNOWN,
    ),
    // One way only (RFC 6749 §2.3).
    token(
        "Basic and a secret in the body",
        APP,
        "grant_type=client_credentials&client_id=app&client_secret=secret",
        TWO_WAYS,
    ),
    token("Basic and a wrong secret in the body", APP, "grant_type=client_credentials&client_secret=wrong", TWO_WAYS),
    token("Basic and another name in the body", APP, "grant_type=client_credentials&client_id=own", TWO_WAYS),
    token(
        "Basic of one and a public name in the body",
        OWN,
        "grant_type=refresh_token&refresh_token={spa_refresh}&client_id=spa",
        TWO_WAYS,
    ),
    token(
        "Basic twice",
        &[("Authorization", "Basic {app:secret}"), ("Authorization", "Basic {own:secret}")],
        ASK,
        TWO_WAYS,
    ),
    // Nothing twice, and no control characters.
    token(
        "client_id twice",
        BARE,
        "grant_type=client_credentials&client_id=app&client_id=app&client_secret=secret",
        BAD,
    ),
    token(
        "client_secret twice",
        BARE,
        "grant_type=client_credentials&client_id=app&client_secret=wrong&client_secret=secret",
        BAD,
    ),
    token("NUL in client_id", BARE, "grant_type=client_credentials&client_id=app%00&client_secret=secret", BAD),
    token("CR LF in client_id", BARE, "grant_type=client_credentials&client_id=app%0d%0aX:1&client_secret=secret", BAD),
    token("NUL in client_secret", BARE, "grant_type=client_credentials&client_id=app&client_secret=secret%00", BAD),
    token(
        "client_id as long as a page",
        BARE,
        "grant_type=client_credentials&client_id={KiB}&client_secret=secret",
        BAD,
    ),
    // Signed (RFC 7523 §3).
    token("an assertion", BARE, "{signed}&client_assertion={assertion}", Tokens("read", false)),
    token(
        "an assertion and the same name",
        BARE,
        "{signed}&client_assertion={assertion}&client_id=signs",
        Tokens("read", false),
    ),
    token(
        "an assertion for the token endpoint",
        BARE,
        "{signed}&client_assertion={assertion_for_endpoint}",
        Tokens("read", false),
    ),
    super::post(
        super::INTROSPECT,
        "an assertion at introspection",
        BARE,
        "{signed}&client_assertion={assertion}&token={access}",
        super::Words("\"active\":true"),
    ),
    super::post(
        super::REVOKE,
        "an assertion at revocation",
        BARE,
        "{signed}&client_assertion={assertion}&token=none",
        super::Words("{}"),
    ),
    token("assertion, used", BARE, "{signed}&client_assertion={used_assertion}", UNKNOWN),
    token("assertion, another name", BARE, "{signed}&client_assertion={assertion}&client_id=app", UNKNOWN),
    token("assertion, for us and another", BARE, "{signed}&client_assertion={assertion_for_two}", UNKNOWN),
    token("assertion, for another", BARE, "{signed}&client_assertion={assertion_for_another}", UNKNOWN),
    token("assertion, of one with a secret", BARE, "{signed}&client_assertion={assertion_of_app}", UNKNOWN),
    token("assertion, by another for this one", BARE, "{signed}&client_assertion={assertion_by_app}", UNKNOWN),
    token("assertion, without an end", BARE, "{signed}&client_assertion={assertion_without_end}", UNKNOWN),
    token("assertion, expired", BARE, "{signed}&client_assertion={assertion_of_before}", UNKNOWN),
    token("assertion, good for an hour", BARE, "{signed}&client_assertion={assertion_for_long}", UNKNOWN),
    token("assertion, without a jti", BARE, "{signed}&client_assertion={assertion_without_name}", UNKNOWN),
    token("assertion, by another key of that name", BARE, "{signed}&client_assertion={assertion_by_stranger}", UNKNOWN),
    token("assertion, alg none", BARE, "{signed}&client_assertion={assertion_by_nobody}", UNKNOWN),
    token(
        "assertion, the public key as a secret",
        BARE,
        "{signed}&client_assertion={assertion_by_public_key}",
        UNKNOWN,
    ),
    token("assertion, an access token", BARE, "{signed}&client_assertion={mute_access}", UNKNOWN),
    token("assertion, none", BARE, "{signed}", UNKNOWN),
    token("assertion, without its type", BARE, "grant_type=client_credentials&client_assertion={assertion}", UNKNOWN),
    token(
        "assertion, of SAML",
        BARE,
        "grant_type=client_credentials&client_assertion={assertion}&\
         client_assertion_type=urn:ietf:params:oauth:client-assertion-type:saml2-bearer",
        UNKNOWN,
    ),
    token(
        "a secret of one that signs",
        BARE,
        "grant_type=client_credentials&client_id=signs&client_secret=secret",
        UNKNOWN,
    ),
    token("Basic of one that signs", &[("Authorization", "Basic {signs:secret}")], ASK, UNKNOWN),
    token("the bare name of one that signs", BARE, "grant_type=client_credentials&client_id=signs", UNKNOWN),
    token("an assertion and Basic", APP, "{signed}&client_assertion={assertion}", TWO_WAYS),
    token(
        "an assertion and a secret",
        BARE,
        "{signed}&client_assertion={assertion}&client_id=signs&client_secret=secret",
        TWO_WAYS,
    ),
    token("two assertions", BARE, "{signed}&client_assertion={assertion}&client_assertion={assertion}", BAD),
    token("a very long assertion", BARE, "{signed}&client_assertion={KiB}{KiB}{KiB}{KiB}{KiB}{KiB}{KiB}{KiB}x", BAD),
];
