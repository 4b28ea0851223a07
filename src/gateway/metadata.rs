//! Protected-resource metadata (RFC 9728): what a client that knows nothing but a route's address can find out about whose tokens
//! that takes.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, Uri, header};
use serde_json::{Value, json};

use super::config::Route;
use crate::{
    http::Body,
    token::dpop,
    types::{Audience, IssuerUrl},
};

/// Where it is, between the host and the path of a resource (§3.1).
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// For how long anybody may keep it: it changes with the configuration alone.
const MAX_AGE: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// The documents of all routes, one for each resource.
pub(super) struct Documents(Vec<Document>);

struct Document {
    host: Box<str>,
    path: Box<str>,
    text: Bytes,
}

impl Documents {
    /// Writes them. `issuers` are those of the providers, in their order.
    pub(super) fn new(routes: &[Route], issuers: &[IssuerUrl]) -> Self {
        let mut resources: Vec<&Audience> = routes.iter().filter_map(|route| route.resource.as_ref()).collect();
        resources.sort();
        resources.dedup();
        let documents = resources.into_iter().map(|resource| {
            let of_it: Vec<_> = routes.iter().filter(|route| route.resource.as_ref() == Some(resource)).collect();
            let (host, path) = place(resource);
            Document { host, path, text: document(resource, &of_it, issuers).to_string().into() }
        });
        Self(documents.collect())
    }

    /// The answer to a request for one of them.
    pub(super) fn find(&self, method: &Method, host: &str, path: &str) -> Option<Response<Body>> {
        if !path.starts_with(WELL_KNOWN) || !matches!(*method, Method::GET | Method::HEAD) {
            return None;
        }
        let document = self.0.iter().find(|it| *it.path == *path && *it.host == *host)?;
        let text = if *method == Method::HEAD { Bytes::new() } else { document.text.clone() };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = StatusCode::OK;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, MAX_AGE);
        headers.insert(header::CONTENT_LENGTH, document.text.len().into());
        // Anybody may read it, pages of any site too: there is nothing of anybody's in it.
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        Some(response)
    }
}

/// Where a resource's document is: what stands in `resource_metadata` (§5.1).
pub(super) fn url_of(resource: &Audience) -> String {
    let (scheme, rest) = resource.as_str().split_once("://").unwrap_or_default();
    let at = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    format!("{scheme}://{authority}{WELL_KNOWN}{}", if path == "/" { "" } else { path })
}

/// The same as a request for it has it: host, as routes are compared with it, and path.
fn place(resource: &Audience) -> (Box<str>, Box<str>) {
    let url: Uri = url_of(resource).parse().unwrap_or_default();
    (url.host().unwrap_or_default().to_ascii_lowercase().into(), url.path().into())
}

/// §2: what is true, and nothing else.
fn document(resource: &Audience, routes: &[&Route], issuers: &[IssuerUrl]) -> Value {
    let mut servers: Vec<&str> = Vec::new();
    let mut scopes: Vec<String> = Vec::new();
    for route in routes {
        let of_route = route.providers.iter().filter_map(|index| issuers.get(*index)).map(IssuerUrl::as_str);
        servers.extend(of_route.filter(|issuer| !servers.contains(issuer)).collect::<Vec<_>>());
        let of_route = route.scopes.iter().map(ToString::to_string);
        scopes.extend(of_route.filter(|scope| !scopes.contains(scope)).collect::<Vec<_>>());
    }
    let in_query = routes.iter().any(|route| route.legacy_query_token);
    let mut document = json!({
        "resource": resource.as_str(),
        "authorization_servers": servers,
        "bearer_methods_supported": if in_query { json!(["header", "query"]) } else { json!(["header"]) },
        "dpop_signing_alg_values_supported": dpop::algorithm_names().collect::<Vec<_>>(),
    });
    if !scopes.is_empty() {
        document["scopes_supported"] = json!(scopes);
    }
    document
}
