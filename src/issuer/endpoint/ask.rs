//! What a client asks for at the authorization endpoint (RFC 6749 §4.1.1, RFC 7636 §4.3, OpenID Connect Core §3.1.2.1).

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{
    issuer::{
        Client, GrantType, Issuer,
        form::{Form, Param},
        grant::{requested_resources, requested_scopes},
    },
    types::{SessionId, Thumbprint},
};

/// What a client can ask for.
pub(super) const ASKED: [Param; 17] = [
    Param::ResponseType,
    Param::ResponseMode,
    Param::ClientId,
    Param::RedirectUri,
    Param::Scope,
    Param::Resource,
    Param::State,
    Param::Nonce,
    Param::CodeChallenge,
    Param::CodeChallengeMethod,
    Param::DpopJkt,
    Param::Prompt,
    Param::MaxAge,
    Param::LoginHint,
    Param::IdTokenHint,
    Param::Request,
    Param::RequestUri,
];

/// What a client asks for, checked. It is the client's to say, and ours once it is in a ticket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ask {
    pub(super) client: Box<str>,
    pub(super) redirect_uri: Box<str>,
    pub(super) state: Option<Box<str>>,
    pub(super) scopes: Box<str>,
    pub(super) challenge: Option<[u8; 32]>,
    pub(super) nonce: Option<Box<str>>,
    pub(super) prompt: Prompt,
    /// How long ago the login may be, in seconds.
    pub(super) max_age: Option<u64>,
    pub(super) login_hint: Box<str>,
    /// What tokens are to be for (RFC 8707 §2.1).
    pub(super) resources: Box<[Box<str>]>,
    /// The key that the code is to be good with (RFC 9449 §10).
    pub(super) key: Option<Thumbprint>,
    /// The login that came of a page of this ask: it is recent enough, whatever was asked for.
    pub(super) login: Option<SessionId>,
}

/// What a client wants its user to be asked (OpenID Connect Core §3.1.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Prompt {
    pub(super) none: bool,
    pub(super) login: bool,
    pub(super) consent: bool,
}

/// Why a browser gets no code, as the client is told: the error (RFC 6749 §4.1.2.1), and why for people.
pub(super) struct Refusal(pub(super) &'static str, pub(super) &'static str);

/// The client that asks, and where the browser is to go back to; as long as that is not known, nobody is sent anywhere.
pub(super) fn whence(issuer: &Issuer, form: &Form) -> Result<(Arc<Client>, String), &'static str> {
    let id = form.get(Param::ClientId).ok_or("client_id is missing.")?;
    let client = issuer.enabled_client(id).ok_or("The client is not known.")?;
    let redirect_uri = match (form.get(Param::RedirectUri), &client.redirect_uris[..]) {
        (Some(asked), own) if own.iter().any(|uri| uri.is(asked)) => asked,
        (Some(_), _) => return Err("The redirect_uri is not one that the client has registered."),
        (None, [only]) => only.as_str(),
        (None, _) => return Err("redirect_uri is missing."),
    };
    let redirect_uri = redirect_uri.to_owned();
    Ok((client, redirect_uri))
}

/// Reads the rest of what a client asks for.
pub(super) fn read(issuer: &Issuer, client: &Client, form: &Form, ask: Ask) -> Result<Ask, Refusal> {
    let invalid = |why| Refusal("invalid_request", why);
    if form.get(Param::Request).is_some() {
        return Err(Refusal("request_not_supported", "Request objects are not supported."));
    }
    if form.get(Param::RequestUri).is_some() {
        return Err(Refusal("request_uri_not_supported", "Request objects are not supported."));
    }
    match form.get(Param::ResponseType) {
        Some("code") => {}
        Some(_) => return Err(Refusal("unsupported_response_type", "The one response_type is code.")),
        None => return Err(invalid("response_type is missing.")),
    }
    if form.get(Param::ResponseMode).is_some_and(|mode| mode != "query") {
        return Err(invalid("The one response_mode is query."));
    }
    if !client.grants.contains(&GrantType::AuthorizationCode) {
        return Err(Refusal("unauthorized_client", "The client is not allowed to ask for a code."));
    }
    let challenge = match (form.get(Param::CodeChallenge), form.get(Param::CodeChallengeMethod)) {
        (Some(challenge), Some("S256")) => {
            let challenge = URL_SAFE_NO_PAD.decode(challenge).ok().and_then(|bytes| bytes.try_into().ok());
            Some(challenge.ok_or_else(|| invalid("code_challenge is not the S256 of anything."))?)
        }
        (Some(_), _) => return Err(invalid("The one code_challenge_method is S256.")),
        (None, Some(_)) => return Err(invalid("code_challenge is missing.")),
        // RFC 9700 §2.1.1.
        (None, None) if client.is_public() => {
            return Err(invalid("A public client must use PKCE: code_challenge is missing."));
        }
        (None, None) => None,
    };
    let scopes = requested_scopes(form, &client.scopes)
        .map_err(|_| Refusal("invalid_scope", "The scope is malformed or goes beyond what the client may have."))?;
    let resources = requested_resources(issuer, form, &[])
        .map_err(|_| Refusal("invalid_target", "The resource is not one that tokens can be for."))?;
    let mut prompt = Prompt::default();
    for word in form.get(Param::Prompt).unwrap_or_default().split(' ').filter(|word| !word.is_empty()) {
        match word {
            "none" => prompt.none = true,
            // There is nothing to select from but by logging in.
            "login" | "select_account" => prompt.login = true,
            "consent" => prompt.consent = true,
            _ => return Err(invalid("prompt is none, or of login, consent and select_account.")),
        }
    }
    if prompt.none && (prompt.login || prompt.consent) {
        return Err(invalid("prompt=none cannot be said with others."));
    }
    let max_age = match form.get(Param::MaxAge) {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| invalid("max_age is a number of seconds."))?),
    };
    let key = match form.get(Param::DpopJkt) {
        None => None,
        Some(text) => {
            let key = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
            Some(key.ok_or_else(|| invalid("dpop_jkt is not the thumbprint of a key."))?)
        }
    };
    Ok(Ask { scopes: scopes.to_string().into(), challenge, prompt, max_age, resources, key, ..ask })
}
