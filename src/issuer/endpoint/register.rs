//! The endpoint at which clients register themselves (RFC 7591).

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use serde::{Deserialize, Serialize};

use super::{method_not_allowed, visitor};
use crate::{
    issuer::{
        Client, GrantType, Issuer, RedirectUri, Registration,
        error::{Error, no_store, refusal},
        redirect::destination,
        registration::Said,
    },
    telemetry::audit::{Event, Facts},
    types::{Scopes, Visitor},
};

/// The largest body that is looked at, in bytes.
const MAX_BYTES: usize = 16 << 10;
/// How many places one client may send browsers to.
const MAX_REDIRECT_URIS: usize = 8;
/// The longest name that one may give itself, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// How a client without a secret authenticates (§2).
const NO_SECRET: &str = "none";
const CODE: &str = "code";

/// Why a client is not registered.
enum Fault {
    /// §3.2.2: where it wants browsers to be sent to.
    RedirectUri(&'static str),
    /// §3.2.2: anything else that it says.
    Metadata(&'static str),
    /// Too many have come from there.
    Plain(Error),
}

/// What a client says (§2), as far as we make anything of it. What else it says is ignored.
#[derive(Deserialize)]
struct Metadata {
    client_name: Option<String>,
    redirect_uris: Option<Vec<String>>,
    token_endpoint_auth_method: Option<String>,
    grant_types: Option<Vec<String>>,
    response_types: Option<Vec<String>>,
    scope: Option<String>,
    dpop_bound_access_tokens: Option<bool>,
}

/// What has become of it (§3.2.1).
#[derive(Serialize)]
struct Registered<'a> {
    client_id: &'a str,
    client_name: &'a str,
    redirect_uris: Vec<&'a str>,
    token_endpoint_auth_method: &'static str,
    grant_types: Vec<&'static str>,
    response_types: [&'static str; 1],
    scope: String,
    dpop_bound_access_tokens: bool,
}

pub(in crate::issuer) async fn answer(issuer: &Issuer, request: &Request<Bytes>) -> Response<Bytes> {
    if request.method() != Method::POST {
        return method_not_allowed("POST");
    }
    let visitor = visitor(request);
    match register(issuer, request, &visitor).await {
        Ok(client) => {
            issuer.metrics.client_registration("ok");
            let facts = Facts { client: Some(&client.id), scope: Some(&client.scopes), ..Facts::from(&visitor) };
            issuer.audit.tell(Event::ClientRegistered, facts);
            no_store(StatusCode::CREATED, &registered(&client))
        }
        Err(fault) => {
            let (error, reason) = match &fault {
                Fault::RedirectUri(why) => ("invalid_redirect_uri", *why),
                Fault::Metadata(why) => ("invalid_client_metadata", *why),
                Fault::Plain(error) => (error.code(), error.reason()),
            };
            issuer.metrics.client_registration(error);
            let facts = Facts { error: Some(error), reason: Some(reason), ..Facts::from(&visitor) };
            issuer.audit.tell(Event::RegistrationRefused, facts);
            match &fault {
                Fault::RedirectUri(_) | Fault::Metadata(_) => refusal(StatusCode::BAD_REQUEST, error, reason),
                Fault::Plain(error) => error.response(),
            }
        }
    }
}

async fn register(issuer: &Issuer, request: &Request<Bytes>, visitor: &Visitor) -> Result<Client, Fault> {
    // Without rules there is no such path.
    let rules = issuer.registrations.rules().ok_or(Fault::Metadata("Clients do not register here."))?;
    issuer.throttle.registration(visitor).await.map_err(|wait| Fault::Plain(Error::Throttled(wait)))?;
    if !is_json(request.headers()) {
        return Err(Fault::Metadata("The body must be application/json."));
    }
    if request.body().len() > MAX_BYTES {
        return Err(Fault::Metadata("The body is longer than 16 KiB."));
    }
    let metadata = serde_json::from_slice(request.body());
    let metadata = metadata.map_err(|_| Fault::Metadata("The body is not the JSON of a client's metadata."))?;
    let said = check(metadata, rules)?;
    issuer
        .registrations
        .register(&said)
        .ok_or(Fault::Metadata("The redirect_uris and the names are too long together."))
}

/// What is left of it, or why it cannot be. What a client may do without is left out (§2: "MAY replace"), and the answer says so.
fn check(metadata: Metadata, rules: &Registration) -> Result<Said, Fault> {
    let redirect_uris = redirect_uris(metadata.redirect_uris.unwrap_or_default())?;
    let name = match metadata.client_name {
        Some(name) if is_name(&name) => name.trim().into(),
        Some(_) => return Err(Fault::Metadata("client_name must be one line of up to 64 bytes of visible text.")),
        None => destination(&redirect_uris[0]).into(),
    };
    if metadata.token_endpoint_auth_method.is_some_and(|method| method != NO_SECRET) {
        return Err(Fault::Metadata("The one token_endpoint_auth_method is none: such clients have no secret."));
    }
    // §2: unless it says more, this is the one.
    let grants = metadata.grant_types.unwrap_or_else(|| vec![GrantType::AuthorizationCode.name().into()]);
    let wants = |grant: GrantType| grants.iter().any(|name| name == grant.name());
    if !wants(GrantType::AuthorizationCode) {
        return Err(Fault::Metadata("grant_types must have authorization_code; besides that there is refresh_token."));
    }
    if metadata.response_types.is_some_and(|types| !types.iter().any(|kind| kind == CODE)) {
        return Err(Fault::Metadata("response_types must have code."));
    }
    let scopes = Scopes::parse(&metadata.scope.unwrap_or_default());
    let scopes = scopes.filter(|scopes| rules.scopes.covers(scopes));
    let scopes = scopes.ok_or(Fault::Metadata("The scope is malformed or goes beyond what such clients may have."))?;
    Ok(Said {
        name,
        redirect_uris,
        scopes: Some(scopes)
            .filter(|scopes| !scopes.is_empty() && *scopes != rules.scopes)
            .map(|it| it.to_string().into()),
        refreshes: wants(GrantType::RefreshToken),
        dpop_bound: metadata.dpop_bound_access_tokens == Some(true),
    })
}

fn redirect_uris(uris: Vec<String>) -> Result<Vec<Box<str>>, Fault> {
    if uris.is_empty() {
        return Err(Fault::RedirectUri("redirect_uris is missing: browsers are sent back there."));
    }
    if uris.len() > MAX_REDIRECT_URIS {
        return Err(Fault::RedirectUri("There are more than 8 redirect_uris."));
    }
    match uris.iter().find_map(|uri| RedirectUri::parse(uri).err()) {
        Some(why) => Err(Fault::RedirectUri(why)),
        None => Ok(uris.into_iter().map(Into::into).collect()),
    }
}

/// Whether people can be shown it as what an app calls itself: one short line, and nothing in it that cannot be seen or that turns
/// the words around it.
fn is_name(text: &str) -> bool {
    let unseen = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffd}' | '\u{e0000}'..='\u{e0fff}')
    };
    !text.trim().is_empty() && text.len() <= MAX_NAME_BYTES && !text.chars().any(unseen)
}

fn registered(client: &Client) -> Registered<'_> {
    Registered {
        client_id: client.id.as_str(),
        client_name: &client.name,
        redirect_uris: client.redirect_uris.iter().map(RedirectUri::as_str).collect(),
        token_endpoint_auth_method: NO_SECRET,
        grant_types: client.grants.iter().copied().map(GrantType::name).collect(),
        response_types: [CODE],
        scope: client.scopes.to_string(),
        dpop_bound_access_tokens: client.dpop_bound_access_tokens,
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(first), None) = (types.next(), types.next()) else { return false };
    let media_type = first.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}
