//! Cross-origin rules of a route.

use http::{HeaderName, HeaderValue, Method, Uri, header};

use super::{
    all, pattern,
    values::{DAY, MINUTE, duration},
};
use crate::{
    config::{path::Path, raw, report::Report},
    gateway::config::{Cors, CorsOrigins},
};

/// Checks a `cors` section; `route_methods` are those of its route's match, where they are known.
pub(super) fn check(report: &mut Report, at: &Path, raw: raw::Cors, route_methods: Option<&[Method]>) -> Option<Cors> {
    let what = "who may call, as in [\"https://app.example.com\"]";
    let origins = report.required(at, "origins", raw.origins, what);
    let credentials = raw.credentials.is_some_and(|flag| flag.0);
    let origins = origins.and_then(|list| origins_of(report, &at.key("origins"), list, credentials));
    let methods = match raw.methods {
        Some(list) if list.is_empty() => report.refuse(&at.key("methods"), "must not be empty"),
        Some(list) => pattern::methods(report, &at.key("methods"), Some(list)),
        None => Some(match route_methods {
            Some(methods) if !methods.is_empty() => methods.to_vec(),
            Some(_) | None => vec![Method::GET, Method::HEAD, Method::POST],
        }),
    };
    let headers = match raw.headers {
        Some(list) => headers(report, &at.key("headers"), list),
        None => Some(vec![header::AUTHORIZATION, header::CONTENT_TYPE]),
    };
    let expose_headers = headers_or_none(report, &at.key("expose_headers"), raw.expose_headers);
    let max_age = duration(report, &at.key("max_age"), raw.max_age, 5 * MINUTE, std::time::Duration::ZERO..=DAY);
    Some(Cors {
        origins: origins?,
        methods: methods?,
        headers: headers?,
        expose_headers: expose_headers?,
        credentials,
        max_age: max_age?,
    })
}

fn origins_of(report: &mut Report, at: &Path, raw: Vec<Option<String>>, credentials: bool) -> Option<CorsOrigins> {
    if raw.is_empty() {
        return report.refuse(at, "must not be empty; leave cors out to let no other origin call");
    }
    let items = report.items(at, Some(raw));
    if let Some((path, _)) = items.iter().find(|(_, text)| text == "*") {
        return match items.len() {
            _ if credentials => report
                .refuse(path, "\"*\" with credentials: true would let every page act as its visitor; list the origins"),
            1 => Some(CorsOrigins::Any),
            _ => report.refuse(path, "\"*\" stands alone"),
        };
    }
    all(items.iter().map(|(path, text)| origin(report, path, text))).map(CorsOrigins::List)
}

/// The origin of a URL, as browsers send it.
pub(super) fn origin_of(url: &str) -> Option<HeaderValue> {
    let uri: Uri = url.parse().ok()?;
    let (scheme, host) = (uri.scheme_str()?.to_ascii_lowercase(), uri.host()?.to_ascii_lowercase());
    let port = match (&*scheme, uri.port_u16()) {
        ("http", Some(80)) | ("https", Some(443)) | (_, None) => String::new(),
        (_, Some(port)) => format!(":{port}"),
    };
    HeaderValue::try_from(format!("{scheme}://{host}{port}")).ok()
}

/// `scheme://host[:port]` as browsers send it: lower case, nothing after the port, no default port.
fn origin(report: &mut Report, at: &Path, text: &str) -> Option<HeaderValue> {
    let is_origin = text.parse::<Uri>().is_ok_and(|uri| {
        let (scheme, authority) = (uri.scheme_str().unwrap_or(""), uri.authority().map_or("", |a| a.as_str()));
        let default_port = matches!((scheme, uri.port_u16()), ("http", Some(80)) | ("https", Some(443)));
        !default_port && !authority.contains('@') && format!("{scheme}://{authority}") == text
    });
    match HeaderValue::from_str(text) {
        Ok(value) if is_origin && text == text.to_ascii_lowercase() => Some(value),
        _ => report.refuse(
            at,
            "not an origin as browsers send it; write https://app.example.com: lower case, no path, no default port",
        ),
    }
}

fn headers_or_none(report: &mut Report, at: &Path, raw: raw::List<String>) -> Option<Vec<HeaderName>> {
    raw.map_or(Some(Vec::new()), |list| headers(report, at, list))
}

fn headers(report: &mut Report, at: &Path, raw: Vec<Option<String>>) -> Option<Vec<HeaderName>> {
    let items = report.items(at, Some(raw));
    let names = items.iter().map(|(path, text)| match HeaderName::from_bytes(text.as_bytes()) {
        Ok(name) if text != "*" => Some(name),
        Ok(_) => report.refuse(path, "name the headers; \"*\" leaves out authorization in every browser"),
        Err(_) => report.refuse(path, "not a header name"),
    });
    all(names)
}
