//! Codes: asking for one (RFC 6749 §4.1.1), where it is sent (§3.1.2), and coming with it (§4.1.3, RFC 7636).

use super::{APP, BARE, Back, Case, Fields, OWN, Page, Refused, Tokens, Wanted, post, token};

/// A browser at which alice is logged in: whatever is not refused gives a code at once.
const KNOWN: Fields = &[("Cookie", "{cookies}")];
const BAD_LINK: Wanted = Page(400, "This link does not work");
const BAD: Wanted = Refused(400, "invalid_request", "");
/// One text for all that can be wrong with a code.
const WRONG: Wanted = Refused(400, "invalid_grant", "The authorization code is invalid, expired or used.");

/// An ask that a browser comes with.
macro_rules! ask {
    ($name:literal, $query:expr, $wanted:expr) => {
        post(concat!("/oauth/authorize?", $query), $name, KNOWN, "", $wanted).by("GET")
    };
}

/// One by `web` that is as it should be, but for where it wants to be sent.
macro_rules! to {
    ($name:literal, $uri:literal, $wanted:expr) => {
        ask!(
            $name,
            concat!(
                "response_type=code&client_id=web&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
                "&code_challenge_method=S256&redirect_uri=",
                $uri
            ),
            $wanted
        )
    };
}

/// One by `web` that would be sent back rightly, with something else in it.
macro_rules! with {
    ($name:literal, $more:literal, $wanted:expr) => {
        ask!($name, concat!("client_id=web&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb", $more), $wanted)
    };
}

const HOME: &str = "https://app.example.com/cb?";

/// `web` comes with a code.
macro_rules! web {
    ($name:literal, $form:literal, $wanted:expr) => {
        token($name, BARE, concat!("grant_type=authorization_code&client_id=web&", $form), $wanted)
    };
}

/// `own` comes with a code, and its secret.
macro_rules! own {
    ($name:literal, $form:literal, $wanted:expr) => {
        token($name, OWN, concat!("grant_type=authorization_code&", $form), $wanted)
    };
}

pub(super) const CASES: &[Case] = &[
    // Where a browser is sent: there and nowhere else.
    to!("a registered place", "https%3A%2F%2Fapp.example.com%2Fcb", Back(HOME, "code=sgc1.")),
    to!(
        "another port of one's own machine",
        "http%3A%2F%2F127.0.0.1%3A51004%2Fcb",
        Back("http://127.0.0.1:51004/cb?", "code=sgc1.")
    ),
    to!("no place, of two", "", BAD_LINK),
    to!("a place of somebody else's", "https%3A%2F%2Fevil.example%2Fcb", BAD_LINK),
    to!("userinfo in front of it", "https%3A%2F%2Fevil%40app.example.com%2Fcb", BAD_LINK),
    to!("the place as userinfo", "https%3A%2F%2Fapp.example.com%40evil.example%2Fcb", BAD_LINK),
    to!("one's own machine as userinfo", "http%3A%2F%2F127.0.0.1%3A80%40evil.example%2Fcb", BAD_LINK),
    to!("a fragment", "https%3A%2F%2Fapp.example.com%2Fcb%23x", BAD_LINK),
    to!("an empty fragment", "https%3A%2F%2Fapp.example.com%2Fcb%23", BAD_LINK),
    to!("a query", "https%3A%2F%2Fapp.example.com%2Fcb%3Fnext%3Dx", BAD_LINK),
    to!("the host in capitals", "https%3A%2F%2FAPP.example.com%2Fcb", BAD_LINK),
    to!("the path in capitals", "https%3A%2F%2Fapp.example.com%2FCB", BAD_LINK),
    to!("the scheme in capitals", "HTTPS%3A%2F%2Fapp.example.com%2Fcb", BAD_LINK),
    to!("http in place of https", "http%3A%2F%2Fapp.example.com%2Fcb", BAD_LINK),
    to!("the port that it has anyway", "https%3A%2F%2Fapp.example.com%3A443%2Fcb", BAD_LINK),
    to!("another port", "https%3A%2F%2Fapp.example.com%3A8443%2Fcb", BAD_LINK),
    to!("a port that is none", "http%3A%2F%2F127.0.0.1%3A99999%2Fcb", BAD_LINK),
    to!("one's own machine, another path", "http%3A%2F%2F127.0.0.1%3A51004%2Fother", BAD_LINK),
    to!("one's own machine by name", "http%3A%2F%2Flocalhost%2Fcb", BAD_LINK),
    to!("one's own machine by another number", "http%3A%2F%2F127.0.0.2%2Fcb", BAD_LINK),
    to!("a slash behind it", "https%3A%2F%2Fapp.example.com%2Fcb%2F", BAD_LINK),
    to!("a path below it", "https%3A%2F%2Fapp.example.com%2Fcb%2Fx", BAD_LINK),
    to!("a path back to it", "https%3A%2F%2Fapp.example.com%2Fx%2F..%2Fcb", BAD_LINK),
    to!("a path away from it", "https%3A%2F%2Fapp.example.com%2Fcb%2F..%2Fx", BAD_LINK),
    to!("an encoded path away from it", "https%3A%2F%2Fapp.example.com%2Fcb%2F%252e%252e%2Fx", BAD_LINK),
    to!("an encoded letter", "https%3A%2F%2Fapp.example.com%2F%2563b", BAD_LINK),
    to!("the whole encoded twice", "https%253A%252F%252Fapp.example.com%252Fcb", BAD_LINK),
    to!("a host below it", "https%3A%2F%2Fapp.example.com.evil.example%2Fcb", BAD_LINK),
    to!("a dot behind the host", "https%3A%2F%2Fapp.example.com.%2Fcb", BAD_LINK),
    to!("a backslash", "https%3A%2F%2Fevil.example%5C%40app.example.com%2Fcb", BAD_LINK),
    to!("no scheme", "%2F%2Fapp.example.com%2Fcb", BAD_LINK),
    to!("a script", "javascript%3Aalert(1)", BAD_LINK),
    to!("a blank before it", "+https%3A%2F%2Fapp.example.com%2Fcb", BAD_LINK),
    to!("a NUL behind it", "https%3A%2F%2Fapp.example.com%2Fcb%00", BAD_LINK),
    to!("CR LF behind it", "https%3A%2F%2Fapp.example.com%2Fcb%0d%0aX%3A1", BAD_LINK),
    to!("two places", "https%3A%2F%2Fapp.example.com%2Fcb&redirect_uri=https%3A%2F%2Fevil.example%2Fcb", BAD_LINK),
    to!("another client's place", "https%3A%2F%2Fown.example.com%2Fcb%3Ftenant%3D1", BAD_LINK),
    to!("two clients", "https%3A%2F%2Fapp.example.com%2Fcb&client_id=own", BAD_LINK),
    ask!("no client", "response_type=code", BAD_LINK),
    ask!(
        "an unknown client",
        "response_type=code&client_id=nobody&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb",
        BAD_LINK
    ),
    ask!(
        "a disabled client",
        "response_type=code&client_id=gone&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb",
        BAD_LINK
    ),
    ask!(
        "a client that is sent nowhere",
        "response_type=code&client_id=app&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb",
        BAD_LINK
    ),
    ask!(
        "the only place need not be said",
        "response_type=code&client_id=own",
        Back("https://own.example.com/cb?tenant=1&", "code=sgc1.")
    ),
    // What is asked for (RFC 6749 §4.1.2.1, RFC 7636 §4.4.1).
    with!("no response_type", "", Back(HOME, "error=invalid_request&")),
    with!("a token at once", "&response_type=token", Back(HOME, "error=unsupported_response_type&")),
    with!("a code and a token", "&response_type=code+token", Back(HOME, "error=unsupported_response_type&")),
    with!("response_type in capitals", "&response_type=CODE", Back(HOME, "error=unsupported_response_type&")),
    with!("response_type twice", "&response_type=code&response_type=code", BAD_LINK),
    with!(
        "an answer in the fragment",
        "&response_type=code&response_mode=fragment",
        Back(HOME, "error=invalid_request&")
    ),
    with!("a request object", "&response_type=code&request=a.b.c", Back(HOME, "error=request_not_supported&")),
    with!(
        "a request object elsewhere",
        "&response_type=code&request_uri=http%3A%2F%2F127.0.0.1%2F",
        Back(HOME, "error=request_uri_not_supported&")
    ),
    with!("no challenge", "&response_type=code", Back(HOME, "error=invalid_request&")),
    with!(
        "an empty challenge",
        "&response_type=code&code_challenge=&code_challenge_method=S256",
        Back(HOME, "error=invalid_request&")
    ),
    with!(
        "a challenge without a method, which means plain",
        "&response_type=code&code_challenge={verifier}",
        Back(HOME, "error=invalid_request&")
    ),
    with!(
        "a plain challenge",
        "&response_type=code&code_challenge={verifier}&code_challenge_method=plain",
        Back(HOME, "error=invalid_request&")
    ),
    with!(
        "a challenge by s256",
        "&response_type=code&code_challenge={verifier}&code_challenge_method=s256",
        Back(HOME, "error=invalid_request&")
    ),
    with!(
        "a challenge that is too short",
        "&response_type=code&code_challenge=E9Mel&code_challenge_method=S256",
        Back(HOME, "error=invalid_request&")
    ),
    with!(
        "two challenges",
        "&response_type=code&code_challenge={verifier}&code_challenge={verifier}&code_challenge_method=S256",
        BAD_LINK
    ),
    ask!(
        "a plain challenge of a client that authenticates",
        "response_type=code&client_id=own&code_challenge={verifier}&code_challenge_method=plain",
        Back("https://own.example.com/cb?", "error=invalid_request&")
    ),
    with!(
        "more than the client may have",
        "&response_type=code&code_challenge={verifier}&code_challenge_method=S256&scope=read+write",
        Back(HOME, "error=invalid_scope&")
    ),
    with!(
        "a state comes back as it was",
        "&response_type=token&state=a%26code%3Dx+%25",
        Back(HOME, "&state=a%26code%3Dx+%25&")
    ),
    with!("CR LF in a state", "&response_type=token&state=a%0d%0aLocation:x", BAD_LINK),
    with!("two states", "&response_type=token&state=a&state=b", BAD_LINK),
    with!("a state that is very long", "&response_type=token&state={KiB}{KiB}{KiB}{KiB}x", BAD_LINK),
    with!(
        "a prompt that is none",
        "&response_type=code&code_challenge={verifier}&code_challenge_method=S256&prompt=none+login",
        Back(HOME, "error=invalid_request&")
    ),
    post(
        "/oauth/authorize?response_type=code&client_id=own",
        "a browser that nobody knows",
        BARE,
        "",
        Page(200, "name=\"password\""),
    )
    .by("GET"),
    post(
        "/oauth/authorize?response_type=code&client_id=own&prompt=none",
        "a browser that nobody knows, and no page",
        BARE,
        "",
        Back("https://own.example.com/cb?", "error=login_required&"),
    )
    .by("GET"),
    post(
        "/oauth/authorize",
        "an ask by PUT",
        KNOWN,
        "response_type=code&client_id=own",
        Refused(405, "invalid_request", ""),
    )
    .by("PUT")
    .with("Allow", "GET, POST"),
    post("/oauth/login", "a login out of nowhere", KNOWN, "username=alice&password=wonderland", Page(400, "")),
    post("/oauth/consent", "a consent out of nowhere", KNOWN, "decision=allow", Page(400, "")),
    // Coming with it.
    web!("a code", "code={code}&code_verifier={verifier}", Tokens("read", true)),
    web!(
        "a code, and where it was sent",
        "code={code}&code_verifier={verifier}&redirect_uri=http%3A%2F%2F127.0.0.1%3A5000%2Fcb",
        Tokens("read", true)
    ),
    own!(
        "a code of a client that authenticates",
        "code={own_code}&code_verifier={verifier}",
        Tokens("read write", true)
    ),
    own!("a code without a challenge", "code={open_code}", Tokens("read write", true)),
    web!("no code", "code_verifier={verifier}", BAD),
    web!("two codes", "code={code}&code={code}&code_verifier={verifier}", BAD),
    web!("a code with NUL", "code={code}%00&code_verifier={verifier}", BAD),
    web!("a code that is very long", "code=sgc1.{KiB}&code_verifier={verifier}", BAD),
    web!("a code out of the air", "code=nonsense&code_verifier={verifier}", WRONG),
    web!("a code and a bit more", "code={code}A&code_verifier={verifier}", WRONG),
    web!("a refresh token as a code", "code={web_refresh}&code_verifier={verifier}", WRONG),
    web!("a code again", "code={spent_code}&code_verifier={verifier}", WRONG),
    token(
        "what came of a code that came again",
        BARE,
        "grant_type=refresh_token&client_id=web&refresh_token={refresh_of_replayed_code}",
        Refused(400, "invalid_grant", ""),
    ),
    web!(
        "a code sent elsewhere",
        "code={code}&code_verifier={verifier}&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb",
        WRONG
    ),
    web!(
        "a code sent to another port",
        "code={code}&code_verifier={verifier}&redirect_uri=http%3A%2F%2F127.0.0.1%3A5001%2Fcb",
        WRONG
    ),
    web!(
        "a code sent to two places",
        "code={code}&code_verifier={verifier}&redirect_uri=http%3A%2F%2F127.0.0.1%3A5000%2Fcb&redirect_uri=x",
        BAD
    ),
    // Another client's.
    token(
        "a code at another public client",
        BARE,
        "grant_type=authorization_code&client_id=other&code={code}&code_verifier={verifier}",
        WRONG,
    ),
    own!("a public client's code at one that authenticates", "code={code}&code_verifier={verifier}", WRONG),
    web!("a confidential client's code at a public one", "code={own_code}&code_verifier={verifier}", WRONG),
    web!("a code that somebody has tried to steal", "code={stolen_code}&code_verifier={verifier}", WRONG),
    token(
        "a code by the bare name of a confidential client",
        BARE,
        "grant_type=authorization_code&client_id=own&code={own_code}&code_verifier={verifier}",
        Refused(401, "invalid_client", ""),
    ),
    token(
        "a code at a client without codes",
        APP,
        "grant_type=authorization_code&code={own_code}&code_verifier={verifier}",
        Refused(400, "unauthorized_client", ""),
    ),
    // The verifier (RFC 7636 §4.5, RFC 9700 §4.8).
    web!("no verifier", "code={code}", WRONG),
    web!("an empty verifier", "code={code}&code_verifier=", WRONG),
    web!("a verifier of one letter", "code={code}&code_verifier=z", WRONG),
    web!("a verifier of 42 letters", "code={code}&code_verifier=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", WRONG),
    web!(
        "a verifier of 129 letters",
        "code={code}&code_verifier=bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
        WRONG
    ),
    web!("a verifier with a blank", "code={code}&code_verifier=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa%20", WRONG),
    web!("another verifier", "code={code}&code_verifier=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", WRONG),
    web!("the verifier and a bit more", "code={code}&code_verifier={verifier}x", WRONG),
    web!(
        "the challenge as the verifier",
        "code={code}&code_verifier=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
        WRONG
    ),
    web!("two verifiers", "code={code}&code_verifier={verifier}&code_verifier={verifier}", BAD),
    web!("a second guess", "code={missed_code}&code_verifier={verifier}", WRONG),
    web!(
        "a method at the token endpoint changes nothing",
        "code={code}&code_verifier=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=plain",
        WRONG
    ),
    own!("no verifier of a client that authenticates", "code={own_code}", WRONG),
    own!("a verifier where the challenge was taken out", "code={open_code}&code_verifier={verifier}", WRONG),
    // RFC 6749 §4.1.3 has no scope: what the user has agreed to is what there is.
    web!(
        "a code with a wider scope",
        "code={code}&code_verifier={verifier}&scope=read+write+admin",
        Tokens("read", true)
    ),
    web!(
        "a code for what nothing is made for",
        "code={code}&code_verifier={verifier}&resource=https://evil.example",
        Refused(400, "invalid_target", "")
    ),
];
