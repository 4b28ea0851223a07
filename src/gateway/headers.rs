//! What the upstream is told besides the client's words: one reading of the identity (invariant 3).
//!
//! The order matters: first what belongs to the connection goes, with what `Connection` names; then every header that
//! could be read as one of ours, or that would have the upstream do something else than was decided about; only then ours
//! are added, so that nothing the client sent can remove or replace them.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Version, header};
use ipnet::IpNet;
use serde_json::Value;

use super::{
    authorize::Permit,
    config::{ClaimHeader, Config},
    possession::DPOP,
};
use crate::{
    http::{OWN_COOKIES, Peer},
    token::Identity,
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// What headers begin with that say where a request came from, or what it was before a proxy changed it: from a stranger
/// they are worth nothing. The whole family, since upstreams read more of it than anybody lists (`-Prefix`, `-Ssl`, `-User`).
const FORWARDED_PREFIX: &str = "x-forwarded-";
/// The others that say so. Some upstreams serve the path of the last two rather than the one that was decided about.
const FORWARDING: [&str; 4] = ["forwarded", "x-real-ip", "x-original-url", "x-rewrite-url"];

/// Some frameworks run the method that these name in place of the request's own, which is the one that was decided about.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];
/// What `Connection` may not name, besides forwarding and identity headers: the decision, the body's length and whom the
/// request is for depend on it.
const NOT_THE_CONNECTIONS: [&str; 6] =
    ["authorization", "cookie", "host", "origin", "content-length", "transfer-encoding"];

/// Belongs to one connection (RFC 9110 §7.6.1), or is between us and the client. `expect` is answered by Sidegate, by
/// asking for the body only once the request is allowed. `http2-settings` comes with the wish for h2c, which is no more
/// granted than any other upgrade: curl and its like go on in HTTP/1.1, so that it is no reason to refuse (RFC 9113 §3.1).
/// `trailer` is not among them: it says what comes after the body, and that is passed on.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "expect",
];
const HOP_BY_HOP_LENGTHS: u64 = lengths(&HOP_BY_HOP);

/// What no trailer may say, besides the above: how long a message is and how its content is to be read, whom it is for, who
/// sends it (RFC 9110 §6.5.1). By the time it comes, all of that has been decided.
const NOT_IN_TRAILERS: [&str; 11] = [
    "content-length",
    "content-encoding",
    "content-type",
    "content-range",
    "host",
    "authorization",
    "cookie",
    "cache-control",
    "max-forwards",
    "trailer",
    "via",
];

/// The names that no client may use: those of all identity headers, those that override the method, and look-alikes of the
/// forwarding ones.
#[derive(Debug)]
pub(super) struct Reserved {
    /// Folded names; see [`fold`].
    identity: Vec<Box<[u8]>>,
    /// Bit n is set where a name of n bytes is reserved. Most headers are let through by one look here.
    lengths: u64,
}

impl Reserved {
    /// Gathers the names of all routes and listeners: a header that names somebody on one names nobody on another.
    pub(super) fn new(config: &Config) -> Self {
        let claims = config.routes.iter().flat_map(|route| &route.claim_headers).map(|rule| &rule.header);
        let names = claims.chain(&config.certificate_headers);
        let mut identity: Vec<Box<[u8]>> = names.map(|name| fold(name.as_str()).collect()).collect();
        identity.sort();
        identity.dedup();
        let fixed = lengths(&FORWARDING) | lengths(&METHOD_OVERRIDES);
        let lengths = identity.iter().fold(fixed, |bits, name| bits | length_bit(name.len()));
        Self { identity, lengths }
    }

    /// Whether an upstream could read `name` as an identity header, as one that overrides the method, or as a forwarding
    /// header spelled in another way.
    fn holds(&self, name: &str) -> bool {
        self.lengths & length_bit(name.len()) != 0
            && (self.identity.iter().any(|reserved| folds_to(name, reserved))
                || METHOD_OVERRIDES.iter().any(|reserved| folds_to(name, reserved.as_bytes()))
                || FORWARDING.iter().any(|reserved| *reserved != name && folds_to(name, reserved.as_bytes())))
            || !name.starts_with(FORWARDED_PREFIX)
                && fold(name).take(FORWARDED_PREFIX.len()).eq(FORWARDED_PREFIX.bytes())
    }

    /// Whether more depends on the header, in whatever spelling, than the connection it came over.
    pub(super) fn matters(&self, name: &str) -> bool {
        self.holds(name)
            || is_forwarding(name)
            || NOT_THE_CONNECTIONS.iter().any(|reserved| folds_to(name, reserved.as_bytes()))
    }
}

fn folds_to(name: &str, folded: &[u8]) -> bool {
    folded.len() == name.len() && fold(name).eq(folded.iter().copied())
}

/// A name as the most careless upstream reads it: CGI and its heirs make every other character an underscore.
fn fold(name: &str) -> impl Iterator<Item = u8> + '_ {
    name.bytes().map(|byte| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' })
}

/// Names of 63 bytes and more share a bit.
const fn length_bit(length: usize) -> u64 {
    1 << if length < 63 { length } else { 63 }
}

const fn lengths(names: &[&str]) -> u64 {
    let (mut bits, mut n) = (0, 0);
    while n < names.len() {
        bits |= length_bit(names[n].len());
        n += 1;
    }
    bits
}

/// HTTP/2 says in the target whom a request is for, and so may HTTP/1 (RFC 9112 §3.2.2); from here on Host says it.
pub(super) fn name_host<B>(request: &mut Request<B>) {
    let host = request.uri().authority().and_then(|named| HeaderValue::try_from(named.as_str()).ok());
    if let Some(host) = host {
        request.headers_mut().entry(header::HOST).or_insert(host);
    }
}

/// Makes a request's headers what the upstream is to see. `named` is what its `Connection` names.
pub(super) fn to_upstream(
    headers: &mut HeaderMap,
    named: Vec<HeaderName>,
    version: Version,
    reserved: &Reserved,
    peer: &Peer,
    peer_is_trusted: bool,
    permit: &Permit<'_>,
) {
    // What it says of trailers is looked at before it goes.
    for name in named.into_iter().filter(|name| *name != header::TE) {
        headers.remove(name);
    }
    let takes_trailers = remove_hop_by_hop(headers);
    remove_where(headers, |name| reserved.holds(name) || !peer_is_trusted && is_forwarding(name));
    if !permit.route().forward_token {
        headers.remove(header::AUTHORIZATION);
        headers.remove(DPOP);
    }
    remove_own_cookies(headers);
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    set_forwarding(headers, peer, peer_is_trusted);
    add_via(headers, version);
    if let Some(certificate) = &peer.certificate
        && let Some(subject) = &certificate.subject
    {
        headers.insert(certificate.subject_header.clone(), subject.clone());
    }
    if let Some(identity) = permit.identity() {
        set_identity(headers, &permit.route().claim_headers, identity);
    }
}

/// Makes a response's headers what the client is to see.
pub(super) fn to_client(headers: &mut HeaderMap) {
    remove_named_by_connection(headers);
    remove_hop_by_hop(headers);
}

/// Makes a request's trailers what the upstream is to see: the client's words about the content, and nothing about who sends
/// it from where.
pub(super) fn trailers_to_upstream(trailers: &mut HeaderMap, reserved: &Reserved) {
    trailers_to_client(trailers);
    remove_where(trailers, |name| reserved.holds(name) || is_forwarding(name));
}

/// Makes a response's trailers what the client is to see.
pub(super) fn trailers_to_client(trailers: &mut HeaderMap) {
    remove_where(trailers, |name| is_hop_by_hop(name) || NOT_IN_TRAILERS.contains(&name));
}

/// Whether the sender takes trailers is all of `TE` that is not the connection's alone, and is the answer.
fn remove_hop_by_hop(headers: &mut HeaderMap) -> bool {
    let mut takes_trailers = false;
    while let Some(name) = headers.keys().find(|name| is_hop_by_hop(name.as_str())).cloned() {
        if name == header::TE {
            let codings = headers.get_all(&name).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
            takes_trailers = codings.map(<[u8]>::trim_ascii).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
        }
        headers.remove(name);
    }
    takes_trailers
}

#[inline]
fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP_LENGTHS & length_bit(name.len()) != 0 && HOP_BY_HOP.contains(&name)
}

/// What an upstream's `Connection` names. It is believed as far as it can be read: there is nobody to refuse it to.
fn remove_named_by_connection(headers: &mut HeaderMap) {
    let usual = |value: &HeaderValue| matches!(value.as_bytes(), b"keep-alive" | b"close");
    let mut values = headers.get_all(header::CONNECTION).iter();
    if values.all(usual) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // How long its body is, is not the connection's to take away.
        .filter(|name| *name != header::CONTENT_LENGTH)
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// Removes headers by name. One look over the names there are, since mostly there is nothing to remove: asking the map
/// for each name that must not be there costs a hash for each.
fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    while let Some(name) = headers.keys().find(|name| unwanted(name.as_str())).cloned() {
        headers.remove(name);
    }
}

/// Takes the issuer's own cookies out, which a browser sends to whatever is on the same host: an upstream that had one would be
/// somebody's login.
fn remove_own_cookies(headers: &mut HeaderMap) {
    let is_own = |pair: &&[u8]| {
        let name = pair.trim_ascii_start();
        name.strip_prefix(b"__Host-").unwrap_or(name).starts_with(OWN_COOKIES.as_bytes())
    };
    let pairs = |field: &HeaderValue| field.as_bytes().split(|byte| *byte == b';').any(|pair| is_own(&pair));
    if !headers.get_all(header::COOKIE).iter().any(pairs) {
        return;
    }
    let others = headers.get_all(header::COOKIE).iter().map(|field| {
        let pairs = field.as_bytes().split(|byte| *byte == b';').filter(|pair| !is_own(pair));
        pairs.map(<[u8]>::trim_ascii).collect::<Vec<_>>().join(&b"; "[..])
    });
    // What is left of a header's value is one.
    let others: Vec<_> = others.filter_map(|field| HeaderValue::from_bytes(&field).ok()).collect();
    headers.remove(header::COOKIE);
    for field in others.into_iter().filter(|field| !field.is_empty()) {
        headers.append(header::COOKIE, field);
    }
}

/// Whose request it is: the peer's, unless that is a trusted proxy. Then it is the last address in X-Forwarded-For that
/// is none of the trusted proxies': what stands before that, anybody may have written.
pub(super) fn client_address(headers: &HeaderMap, peer: &Peer, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
    let mut client = peer.address;
    let fields = headers.get_all(&FORWARDED_FOR).iter().rev();
    let mut said = fields.flat_map(|field| field.as_bytes().rsplit(|byte| *byte == b','));
    while is_trusted(client) {
        let text = said.next().and_then(|text| std::str::from_utf8(text.trim_ascii()).ok());
        // Some add the port.
        let address = text.and_then(|text| {
            text.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|with_port| with_port.ip()))
        });
        let Some(address) = address else { break };
        client = address.to_canonical();
    }
    client
}

fn is_forwarding(name: &str) -> bool {
    name.starts_with(FORWARDED_PREFIX) || FORWARDING.contains(&name)
}

/// X-Forwarded-*: what a trusted proxy said is kept and added to; what anybody else said is replaced.
fn set_forwarding(headers: &mut HeaderMap, peer: &Peer, trusted: bool) {
    let scheme = HeaderValue::from_static(if peer.secure { "https" } else { "http" });
    let host = headers.get(header::HOST).cloned();
    if trusted {
        let before: Vec<_> = headers.get_all(&FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
        let chain = [&before[..], &[peer.address_text.as_bytes()]].concat().join(&b", "[..]);
        // Header values joined by a comma are one header value.
        let chain = HeaderValue::from_bytes(&chain).unwrap_or_else(|_| peer.address_text.clone());
        headers.insert(FORWARDED_FOR, chain);
        headers.entry(FORWARDED_PROTO).or_insert(scheme);
        if let Some(host) = host {
            headers.entry(FORWARDED_HOST).or_insert(host);
        }
    } else {
        headers.insert(FORWARDED_FOR, peer.address_text.clone());
        headers.insert(FORWARDED_PROTO, scheme);
        if let Some(host) = host {
            headers.insert(FORWARDED_HOST, host);
        }
    }
}

/// RFC 9110 §7.6.3: the version in which the request was received, and a pseudonym.
fn add_via(headers: &mut HeaderMap, version: Version) {
    let via = match version {
        Version::HTTP_10 => "1.0 sidegate",
        Version::HTTP_2 => "2.0 sidegate",
        _ => "1.1 sidegate",
    };
    headers.append(header::VIA, HeaderValue::from_static(via));
}

fn set_identity(headers: &mut HeaderMap, rules: &[ClaimHeader], identity: &Identity) {
    for rule in rules {
        if let Some(value) = identity.claim(&rule.claim).and_then(header_value) {
            headers.insert(rule.header.clone(), value);
        }
    }
}

/// A claim as a header: text as it is, a list of texts joined by commas, anything else as JSON. What no header can carry
/// (control characters) is left out, as a claim that is not there.
fn header_value(claim: &Value) -> Option<HeaderValue> {
    match claim {
        Value::Null => None,
        Value::String(text) => text_value(text),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => text_value(&claim.to_string()),
        Value::Array(members) => {
            let texts: Option<Vec<&str>> = members.iter().map(Value::as_str).collect();
            match texts {
                // A comma inside a member would make two of one.
                Some(texts) if !texts.iter().any(|text| text.contains(',')) => text_value(&texts.join(",")),
                Some(_) | None => text_value(&claim.to_string()),
            }
        }
    }
}

/// Header values are bytes; a control character, or white space at an end, would not reach the upstream as it is.
fn text_value(text: &str) -> Option<HeaderValue> {
    let clean = !text.is_empty() && text.trim_ascii() == text && !text.bytes().any(|byte| byte.is_ascii_control());
    clean.then(|| HeaderValue::from_bytes(text.as_bytes()).ok()).flatten()
}
