//! Clients of the issuer.

use std::collections::HashMap;

use super::{
    credentials,
    issuer::{access_lifetime, lifetimes},
    login::{MAX_NAME_BYTES, shown},
    route,
    values::{DAY, word},
};
use crate::{
    config::{
        error::{did_you_mean, quote},
        path::Path,
        raw,
        report::Report,
    },
    issuer::{AccessToken, Client, Consent, Exchange, GrantType, Lifetimes, RedirectUri, Registration},
    types::{Audience, ClientId, MAX_CLIENT_ID_BYTES, is_identifier},
};

/// Checks all clients; where the demo's is among them goes into `demo`.
pub(super) fn check_all(
    report: &mut Report,
    at: &Path,
    raw: raw::List<raw::Mapping<raw::Client>>,
    tokens: Option<&AccessToken>,
    demo: &mut Vec<Path>,
) -> Option<Vec<Client>> {
    let mut ids = HashMap::<String, Path>::new();
    let mut clients = Vec::new();
    for (path, raw::Mapping(raw)) in report.items(at, raw) {
        clients.push(check(report, &path, raw, tokens, &mut ids, demo));
    }
    clients.into_iter().collect()
}

fn check(
    report: &mut Report,
    at: &Path,
    mut raw: raw::Client,
    tokens: Option<&AccessToken>,
    ids: &mut HashMap<String, Path>,
    demo: &mut Vec<Path>,
) -> Option<Client> {
    let id = report.required(at, "id", raw.id.take(), "the client's identifier").and_then(|id| {
        let path = at.key("id");
        // RFC 7617 §2: with Basic, everything after the first colon is the secret.
        if id.contains(':') {
            return report.refuse(&path, "must not hold a colon: HTTP Basic could not carry it");
        }
        identifier(report, &path, id, MAX_CLIENT_ID_BYTES, ids)
    });
    let written = credentials::written(report, at, &raw);
    let is_public = written.is_empty();
    let credentials = credentials::check(report, at, &mut raw, &written, demo);
    let name_at = at.key(if raw.name.is_some() { "name" } else { "id" });
    let name =
        shown(report, &name_at, raw.name, id.as_deref().filter(|id| id.len() <= MAX_NAME_BYTES).unwrap_or("unnamed"));
    let consents = [("ask", Consent::Ask), ("skip", Consent::Skip)];
    let consent = word(report, &at.key("consent"), raw.consent.as_deref(), Consent::Ask, &consents);
    let grants = grants(report, at, raw.grants, raw.legacy_password_grant, is_public);
    let redirect_uris = redirect_uris(report, &at.key("redirect_uris"), raw.redirect_uris, grants.as_deref());
    let unclaimed = |uris: &[RedirectUri]| uris.iter().any(|uri| !uri.is_claimed());
    if is_public && consent == Some(Consent::Skip) && redirect_uris.as_deref().is_some_and(unclaimed) {
        let message = "any app on a user's machine can pose as this client, which has no secret and is sent codes at a loopback \
                       address or by a scheme: whoever is logged in would not be asked (RFC 8252 §8.6); consent: ask";
        report.warn(&at.key("consent"), message);
    }
    let certificate_bound = raw.tls_client_certificate_bound_access_tokens.is_some_and(|flag| flag.0);
    if certificate_bound && is_public {
        let message = "needs a client that authenticates: a public one shows nothing at a refresh that its tokens were bound \
                       to; dpop_bound_access_tokens binds those too";
        report.error(&at.key("tls_client_certificate_bound_access_tokens"), message);
    }
    let exchange = exchange(report, &at.key("exchange"), raw.exchange, grants.as_deref(), tokens);
    let post_logout_redirect_uris =
        uris(report, &at.key("post_logout_redirect_uris"), raw.post_logout_redirect_uris, grants.as_deref());
    let scopes = route::scopes(report, &at.key("scopes"), raw.scopes);
    let rotations = [("rotate", true), ("reuse", false)];
    let mut rotate = word(report, &at.key("rotation"), raw.rotation.as_deref(), true, &rotations);
    if rotate == Some(false) && is_public {
        let message = "a client without secret_hash, jwks or tls_client_auth_… is public, and its refresh tokens must rotate (RFC 9700 §4.14.2)";
        rotate = report.refuse(&at.key("rotation"), message);
    }
    let lifetime = raw
        .access_token_lifetime
        .map(|raw| access_lifetime(report, &at.key("access_token_lifetime"), Some(raw), std::time::Duration::ZERO));
    let sessions = raw.sessions.map(|raw::Mapping(raw)| {
        let usual = Lifetimes { idle: 14 * DAY, absolute: 90 * DAY };
        lifetimes(report, &at.key("sessions"), raw, usual)
    });
    Some(Client {
        id: ClientId::new(id?),
        credentials: credentials?,
        name: name?.into(),
        redirect_uris: redirect_uris?,
        post_logout_redirect_uris: post_logout_redirect_uris?,
        consent: consent?,
        grants: grants?,
        scopes: scopes?,
        rotate: rotate?,
        exchange: exchange?,
        dpop_bound_access_tokens: raw.dpop_bound_access_tokens.is_some_and(|flag| flag.0),
        tls_client_certificate_bound_access_tokens: certificate_bound,
        disabled: raw.disabled.is_some_and(|flag| flag.0),
        access_token_lifetime: match lifetime {
            Some(lifetime) => Some(lifetime?),
            None => None,
        },
        lifetimes: match sessions {
            Some(lifetimes) => Some(lifetimes?),
            None => None,
        },
        registered_itself: false,
    })
}

/// How clients register themselves.
pub(super) fn registration(
    report: &mut Report,
    at: &Path,
    raw::Mapping(raw): raw::Mapping<raw::Registration>,
) -> Option<Registration> {
    let scopes = report.required(at, "scopes", raw.scopes, "what such clients may ask for, as in [read]");
    let scopes = scopes.and_then(|list| route::scopes(report, &at.key("scopes"), Some(list)));
    Some(Registration { scopes: scopes? })
}

/// A client id or a username, each only once, and no longer than so many bytes.
pub(super) fn identifier(
    report: &mut Report,
    at: &Path,
    text: String,
    most: usize,
    taken: &mut HashMap<String, Path>,
) -> Option<String> {
    if !is_identifier(&text, most) {
        return report.refuse(at, format!("must be 1 to {most} printable ASCII characters"));
    }
    if let Some(first) = taken.get(&text) {
        let line = report.line(first);
        return report.refuse(at, format!("{} stands in line {line} already", quote(&text)));
    }
    taken.insert(text.clone(), at.clone());
    Some(text)
}

/// Where browsers may be sent to: there must be such a place where the grant needs one.
fn redirect_uris(
    report: &mut Report,
    at: &Path,
    raw: raw::List<String>,
    grants: Option<&[GrantType]>,
) -> Option<Vec<RedirectUri>> {
    let missing = raw.as_ref().is_none_or(Vec::is_empty);
    let needed = grants.is_some_and(|grants| grants.contains(&GrantType::AuthorizationCode));
    if needed && missing && !report.is_settled(at) {
        return report.refuse(
            at,
            "missing: authorization_code sends browsers back; redirect_uris: [https://app.example.com/callback]",
        );
    }
    uris(report, at, raw, grants)
}

/// Where browsers may be sent to, if this client sends any here.
fn uris(
    report: &mut Report,
    at: &Path,
    raw: raw::List<String>,
    grants: Option<&[GrantType]>,
) -> Option<Vec<RedirectUri>> {
    if raw.is_some() && grants.is_some_and(|grants| !grants.contains(&GrantType::AuthorizationCode)) {
        report.warn(at, "nothing is sent there: grants has no authorization_code");
    }
    let mut uris = Vec::new();
    for (path, text) in report.items(at, raw) {
        uris.push(match RedirectUri::parse(&text) {
            Ok(uri) => Some(uri),
            Err(why) => report.refuse(&path, why),
        });
    }
    uris.into_iter().collect()
}

const TOKEN_EXCHANGE: &str = GrantType::TokenExchange.name();

/// What it may exchange for what.
fn exchange(
    report: &mut Report,
    at: &Path,
    raw: raw::Section<raw::Exchange>,
    grants: Option<&[GrantType]>,
    known: Option<&AccessToken>,
) -> Option<Option<Exchange>> {
    let has_grant = grants.is_none_or(|grants| grants.contains(&GrantType::TokenExchange));
    let Some(raw::Mapping(raw)) = raw else {
        let needed = grants.is_some_and(|grants| grants.contains(&GrantType::TokenExchange));
        return match needed && !report.is_settled(at) {
            true => report.refuse(
                at,
                "missing: what it may exchange for what; exchange: { from: [its own audience], to: [https://next.example.com] }",
            ),
            false => Some(None),
        };
    };
    if !has_grant {
        return report.refuse(at, format!("has no meaning without the grant {TOKEN_EXCHANGE}"));
    }
    let mut list = |key: &str, raw: raw::List<String>| {
        let at = at.key(key);
        let items = report.items(&at, raw);
        if items.is_empty() && !report.is_settled(&at) {
            return report
                .refuse(&at, "missing: at least one, of `access_token.audience` and `access_token.resources`");
        }
        let audiences = items.into_iter().map(|(path, text)| {
            let ours = |settings: &AccessToken| {
                settings.resources.iter().chain([&settings.audience]).any(|it| it.as_str() == text)
            };
            if known.is_none_or(ours) {
                Some(Audience::new(text))
            } else {
                report.refuse(
                    &path,
                    format!("{} is neither `access_token.audience` nor one of its `resources`", quote(&text)),
                )
            }
        });
        super::all(audiences.collect::<Vec<_>>())
    };
    let (from, to) = (list("from", raw.from), list("to", raw.to));
    Some(Some(Exchange { from: from?, to: to? }))
}

fn grants(
    report: &mut Report,
    at: &Path,
    raw: raw::List<String>,
    password: Option<raw::Flag>,
    is_public: bool,
) -> Option<Vec<GrantType>> {
    let list = at.key("grants");
    let mut grants = Vec::new();
    for (path, name) in report.items(&list, raw) {
        let grant = match name.as_str() {
            "refresh_token" => Some(GrantType::RefreshToken),
            "client_credentials" if is_public => report.refuse(
                &path,
                "a client without secret_hash, jwks or tls_client_auth_… is public: it has no credentials to be granted anything for",
            ),
            "client_credentials" => Some(GrantType::ClientCredentials),
            "authorization_code" => Some(GrantType::AuthorizationCode),
            TOKEN_EXCHANGE if is_public => report.refuse(
                &path,
                "a client without secret_hash, jwks or tls_client_auth_… is public: anybody could exchange what they have found in its name",
            ),
            TOKEN_EXCHANGE => Some(GrantType::TokenExchange),
            "password" => {
                report.refuse(&path, "OAuth 2.1 drops this grant; where it must be, say legacy_password_grant: true")
            }
            "urn:ietf:params:oauth:grant-type:device_code" => report.refuse(
                &path,
                "is not supported yet; known are authorization_code, refresh_token and client_credentials",
            ),
            other => {
                let known = ["authorization_code", "refresh_token", "client_credentials", TOKEN_EXCHANGE];
                let mend = did_you_mean(other, known);
                report.refuse(&path, format!("must be authorization_code, refresh_token or client_credentials{mend}"))
            }
        };
        grants.push(grant);
    }
    if password.is_some_and(|flag| flag.0) {
        let message = "the client gets to see its users' passwords, and nothing beyond a password can protect them (RFC 9700 §2.4)";
        report.warn(&at.key("legacy_password_grant"), message);
        grants.push(Some(GrantType::Password));
    }
    if grants.is_empty() && !report.is_settled(&list) {
        report.error(&list, "missing: a client without any grant can do nothing; grants: [client_credentials]");
        return None;
    }
    let mut grants = grants.into_iter().collect::<Option<Vec<_>>>()?;
    let mut seen = Vec::new();
    grants.retain(|grant| {
        !seen.contains(grant) && {
            seen.push(*grant);
            true
        }
    });
    Some(grants)
}
