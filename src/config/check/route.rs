//! Routes: what a request must look like and prove, and where it goes.

use std::collections::HashSet;

use http::HeaderValue;

use super::{all, claims, cors, issuer::is_loopback, pattern, provider::audience_list, rate, values, values::word};
use crate::{
    config::{error::quote, path::Path, raw, report::Report},
    gateway::config::{Auth, CloseStreams, Cors, CorsOrigins, Oddities, Oddity, OnStale, Route},
    types::{Audience, Scopes, is_scope_token},
};

/// What routes refer to, and what holds for all that do not say otherwise.
pub(super) struct Names {
    pub(super) upstreams: values::Names,
    pub(super) providers: values::Names,
    /// Each provider's audiences, where they are known.
    pub(super) audiences: Vec<Option<Vec<Audience>>>,
    /// How large a request's body may be.
    pub(super) max_body_bytes: Option<u64>,
    /// Whether the revocation log of another process is followed.
    pub(super) follows: bool,
}

/// Checks all routes, and what they leave unused.
pub(super) fn check_all(
    report: &mut Report,
    at: &Path,
    raw: raw::List<raw::Mapping<raw::Route>>,
    names: &Names,
    has_issuer: bool,
) -> Vec<Option<Route>> {
    let mut own = values::Names::new(at.clone(), "route");
    let items = report.items(at, raw);
    if items.is_empty() && !report.is_settled(at) && !has_issuer {
        report.error(at, "missing: at least one route; a request that matches none is refused");
    }
    let mut routes = Vec::new();
    for (path, raw::Mapping(raw)) in items {
        let route = check(report, &path, raw, &mut own, names);
        if let Some(route) = &route {
            warn_of_shadow(report, at, &path, route, &routes);
        }
        routes.push(route);
    }
    // A route at fault may be the one that uses what no other does.
    if routes.iter().all(Option::is_some) {
        let used: HashSet<_> = routes.iter().flatten().map(|route| route.upstream).collect();
        names.upstreams.warn_of_unused(report, &used);
        let used: HashSet<_> = routes.iter().flatten().flat_map(|route| route.providers.iter().copied()).collect();
        names.providers.warn_of_unused(report, &used);
    }
    routes
}

fn check(report: &mut Report, at: &Path, raw: raw::Route, own: &mut values::Names, names: &Names) -> Option<Route> {
    let name = own.add(report, at, raw.name);
    let what = "which requests, as in `{ path_prefix: / }`";
    let matched = report.required(at, "match", raw.r#match, what).map(|section| section.0);
    let matched = matched.map(|raw| {
        let at = at.key("match");
        let path = pattern::path(report, &at, raw.path, raw.path_prefix);
        let hosts = pattern::hosts(report, &at.key("hosts"), raw.hosts);
        (path, hosts, pattern::methods(report, &at.key("methods"), raw.methods))
    });
    let auths = [("required", Auth::Required), ("optional", Auth::Optional), ("none", Auth::None)];
    let auth = word(report, &at.key("auth"), raw.auth.as_deref(), Auth::Required, &auths);
    let providers = auth.and_then(|auth| providers(report, at, raw.providers, auth, &names.providers));
    let audiences = match raw.audiences {
        Some(_) if auth == Some(Auth::None) => {
            report.refuse(&at.key("audiences"), "has no meaning with auth: none, which looks at no token")
        }
        Some(list) => audiences(report, &at.key("audiences"), list, providers.as_deref(), names),
        None => Some(Vec::new()),
    };
    let resource = raw.resource.map(|text| resource(report, &at.key("resource"), text));
    let audiences = match (audiences, &resource) {
        // What clients ask tokens for is what those have to be for.
        (Some(list), Some(Some(resource))) if list.is_empty() => {
            let only = vec![Some(resource.as_str().to_owned())];
            self::audiences(report, &at.key("resource"), only, providers.as_deref(), names)
        }
        (audiences, _) => audiences,
    };
    let (scopes, claims, bound) = require(report, &at.key("require"), raw.require, auth);
    let claim_headers = claims::headers(report, &at.key("claim_headers"), raw.claim_headers);
    let legacy_query_token = raw.legacy_query_token.is_some_and(|flag| flag.0);
    if legacy_query_token && auth == Some(Auth::None) {
        report.error(&at.key("legacy_query_token"), "has no meaning with auth: none, which looks at no token");
    } else if legacy_query_token {
        let message =
            "tokens in URLs end up in logs, histories and Referer headers; send `Authorization: Bearer` instead";
        report.warn(&at.key("legacy_query_token"), message);
    }
    let rules = [
        ("on_revocation", CloseStreams::OnRevocation),
        ("on_expiry", CloseStreams::OnExpiry),
        ("never", CloseStreams::Never),
    ];
    let at_streams = at.key("close_streams");
    if raw.close_streams.is_some() && auth == Some(Auth::None) {
        report.error(&at_streams, "has no meaning with auth: none, which looks at no token");
    }
    let close_streams = word(report, &at_streams, raw.close_streams.as_deref(), CloseStreams::OnRevocation, &rules);
    let at_stale = at.key("on_stale");
    if raw.on_stale.is_some() && auth == Some(Auth::None) {
        report.error(&at_stale, "has no meaning with auth: none, which looks at no token");
    } else if raw.on_stale.is_some() && !names.follows {
        report.error(
            &at_stale,
            "has no meaning without `revocation_feed:` or a store in Redis; what is kept here is never stale",
        );
    }
    let rules = [("serve", OnStale::Serve), ("refuse", OnStale::Refuse)];
    let on_stale = word(report, &at_stale, raw.on_stale.as_deref(), OnStale::Serve, &rules);
    let methods = matched.as_ref().and_then(|(.., methods)| methods.as_deref());
    let cors = raw.cors.map(|raw::Mapping(raw)| cors::check(report, &at.key("cors"), raw, methods));
    let at_origins = at.key("foreign_origins");
    let origins = origins(report, &at_origins, raw.foreign_origins, (&cors, &resource));
    let allow_paths = oddities(report, &at.key("allow_paths"), raw.allow_paths);
    let max_body_bytes = values::bound(report, &at.key("max_body_bytes"), raw.max_body_bytes, names.max_body_bytes);
    let rate_limits = rate::limits(report, at, raw.rate_limit, raw.rate_limits, auth);
    let upstream = report.required(at, "upstream", raw.upstream, "the name of one of `upstreams`");
    let upstream = upstream.and_then(|name| names.upstreams.find(report, &at.key("upstream"), &name));
    let (path, hosts, methods) = matched?;
    Some(Route {
        name: name?,
        hosts: hosts?,
        path: path?,
        methods: methods?,
        allow_paths: allow_paths?,
        auth: auth?,
        providers: providers?,
        audiences: audiences?,
        resource: match resource {
            Some(resource) => Some(resource?),
            None => None,
        },
        scopes: scopes?,
        claims: claims?,
        bound,
        claim_headers: claim_headers?,
        forward_token: raw.forward_token.is_none_or(|flag| flag.0),
        legacy_query_token,
        close_streams: close_streams?,
        on_stale: on_stale?,
        cors: match cors {
            Some(cors) => Some(cors?),
            None => None,
        },
        origins: origins?,
        max_body_bytes: max_body_bytes?,
        rate_limits: rate_limits?,
        upstream: upstream?,
    })
}

/// The origins whose pages' requests it takes, where it does not take all: those that `cors` lists, and that of its `resource`.
fn origins(
    report: &mut Report,
    at: &Path,
    raw: Option<String>,
    (cors, resource): (&Option<Option<Cors>>, &Option<Option<Audience>>),
) -> Option<Option<Vec<HeaderValue>>> {
    let rules = [("allow", false), ("refuse", true)];
    if !word(report, at, raw.as_deref(), false, &rules)? {
        return Some(None);
    }
    let mut origins = match cors.iter().flatten().next().map(|cors| &cors.origins) {
        Some(CorsOrigins::Any) => {
            return report
                .refuse(at, "contradicts cors.origins: \"*\", for which no origin is foreign; list the origins");
        }
        Some(CorsOrigins::List(list)) => list.clone(),
        None => Vec::new(),
    };
    let own = resource.iter().flatten().next().and_then(|resource| cors::origin_of(resource.as_str()));
    origins.extend(own);
    Some(Some(origins))
}

fn providers(
    report: &mut Report,
    route: &Path,
    raw: raw::List<String>,
    auth: Auth,
    names: &values::Names,
) -> Option<Vec<usize>> {
    let at = route.key("providers");
    match (auth, raw) {
        (Auth::None, None) => Some(Vec::new()),
        (Auth::None, Some(list)) if list.is_empty() => Some(Vec::new()),
        (Auth::None, Some(_)) => report.refuse(&at, "has no meaning with auth: none, which looks at no token"),
        (Auth::Required | Auth::Optional, Some(list)) if list.is_empty() => {
            report.refuse(&at, "must not be empty: no token could pass (auth: none needs none)")
        }
        (Auth::Required | Auth::Optional, Some(list)) => pattern::indices(report, &at, list, names),
        (Auth::Required | Auth::Optional, None) => match names.len() {
            1 => Some(vec![0]),
            _ if names.may_lack(report) || report.is_settled(&at) => None,
            // Said once, not for each route.
            0 => {
                report.required(&Path::default(), "providers", None, "whose tokens routes take (auth: none needs none)")
            }
            many => {
                let message =
                    format!("missing: {many} providers are configured, so a route has to say whose tokens it takes");
                report.refuse(&at, message)
            }
        },
    }
}

fn audiences(
    report: &mut Report,
    at: &Path,
    raw: Vec<Option<String>>,
    providers: Option<&[usize]>,
    names: &Names,
) -> Option<Vec<Audience>> {
    let list = audience_list(report, at, raw)?;
    // Where a provider is at fault, what it accepts is not known.
    let known = providers.and_then(|indices| {
        indices.iter().map(|n| names.audiences.get(*n).and_then(Option::as_ref)).collect::<Option<Vec<_>>>()
    });
    let Some(known) = known else { return Some(list) };
    for (n, audience) in list.iter().enumerate() {
        if !known.iter().any(|audiences| audiences.contains(audience)) {
            let mend = crate::config::error::did_you_mean(
                audience.as_str(),
                known.iter().flat_map(|list| list.iter().map(Audience::as_str)),
            );
            let audience = quote(audience.as_str());
            report.error(&at.index(n), format!("{audience} is an audience of none of the route's providers{mend}"));
        }
    }
    Some(list)
}

/// The URL of what a route guards (RFC 9728 §1.2; plain http only where nobody can listen in).
fn resource(report: &mut Report, at: &Path, text: String) -> Option<Audience> {
    let is_one = text.parse::<http::Uri>().is_ok_and(|uri| {
        let host = uri.host().unwrap_or_default();
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => is_loopback(host),
            _ => false,
        };
        secure && !host.is_empty() && uri.query().is_none() && !text.contains(['#', '@', '"'])
    });
    if is_one {
        return Some(Audience::new(text));
    }
    report.refuse(at, "not a URL of the form https://api.example.com/orders: no query, fragment or credentials")
}

type Requirements = (Option<Scopes>, Option<Vec<crate::gateway::config::ClaimRule>>, bool);

fn require(report: &mut Report, at: &Path, raw: raw::Section<raw::Require>, auth: Option<Auth>) -> Requirements {
    let Some(raw::Mapping(raw)) = raw else { return (Some(Scopes::default()), Some(Vec::new()), false) };
    match auth {
        Some(Auth::None) => report.error(at, "has no meaning with auth: none, which looks at no token"),
        // It can say what a token is to be like, not that there is one.
        Some(Auth::Optional) if raw.scopes.is_none() && raw.claims.is_none() => {}
        Some(Auth::Optional) => {
            report.error(
                at,
                "contradicts auth: optional: a request without a token has no scopes and no claims; use auth: required",
            );
        }
        Some(Auth::Required) | None => {}
    }
    let scopes = scopes(report, &at.key("scopes"), raw.scopes);
    (scopes, claims::rules(report, &at.key("claims"), raw.claims), raw.bound.is_some_and(|flag| flag.0))
}

/// A list of scopes.
pub(super) fn scopes(report: &mut Report, at: &Path, raw: raw::List<String>) -> Option<Scopes> {
    let items = report.items(at, raw);
    let misfit = items.iter().find(|(_, scope)| !is_scope_token(scope));
    if let Some((path, _)) = misfit {
        return report
            .refuse(path, "not a scope: printable ASCII without spaces, quotes and backslashes (RFC 6749 §3.3)");
    }
    Some(Scopes::from_values(items.iter().map(|(_, scope)| scope.as_str())))
}

fn oddities(report: &mut Report, at: &Path, raw: raw::List<String>) -> Option<Oddities> {
    let known = [
        ("encoded_slash", Oddity::EncodedSlash),
        ("empty_segment", Oddity::EmptySegment),
        ("semicolon", Oddity::Semicolon),
        ("backslash", Oddity::Backslash),
        ("double_encoding", Oddity::DoubleEncoding),
    ];
    let items = report.items(at, raw);
    let list = all(items.iter().map(|(path, text)| word(report, path, Some(text), Oddity::EncodedSlash, &known)));
    list.map(|list| list.into_iter().collect())
}

/// An earlier route takes all that this one could.
fn warn_of_shadow(report: &mut Report, list: &Path, at: &Path, route: &Route, earlier: &[Option<Route>]) {
    let shadow = earlier.iter().enumerate().find_map(|(n, other)| {
        let other = other.as_ref()?;
        let takes_all = other.hosts.is_empty() && other.methods.is_empty() && pattern::covers(&other.path, &route.path);
        takes_all.then(|| (n, other.name.clone()))
    });
    if let Some((n, name)) = shadow {
        let line = report.line(&list.index(n));
        report.warn(at, format!("is never reached: the route {} in line {line} takes all its requests", quote(&name)));
    }
}
