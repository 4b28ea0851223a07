//! Authorization server metadata (RFC 8414): what is true, and nothing else.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};

use super::{AUTHORIZE, INTROSPECT, JWKS, LOG_OUT, REGISTER, REVOKE, TOKEN, USERINFO};
use crate::{
    issuer::{Client, Config, Credentials, GrantType, Issuer},
    token::{Algorithm, dpop},
};

/// For how long anybody may keep it: it changes with the configuration alone.
const MAX_AGE: Duration = Duration::from_secs(300);

pub(in crate::issuer) fn answer(issuer: &Issuer, request: &Request<Bytes>) -> Response<Bytes> {
    super::document(request, &issuer.metadata, MAX_AGE)
}

/// Writes the document.
pub(in crate::issuer) fn document(config: &Config) -> String {
    let (url, clients) = (&config.url, &config.clients);
    let mut methods = Vec::new();
    if clients.iter().any(|client| matches!(client.credentials, Credentials::Secrets(_))) {
        methods.extend(["client_secret_basic", "client_secret_post"]);
    }
    let algorithms = assertion_algorithms(clients);
    if !algorithms.is_empty() {
        methods.push("private_key_jwt");
    }
    if clients.iter().any(|client| matches!(client.credentials, Credentials::Certificate(_))) {
        methods.push("tls_client_auth");
    }
    let confidential = methods.clone();
    if clients.iter().any(Client::is_public) || config.registration.is_some() {
        methods.push("none");
    }
    let grants: Vec<_> =
        GrantType::ALL.into_iter().filter(|grant| config.has_grant(*grant)).map(GrantType::name).collect();
    let mut document = json!({
        "issuer": url.as_str(),
        "token_endpoint": format!("{url}{TOKEN}"),
        "token_endpoint_auth_methods_supported": methods,
        "revocation_endpoint": format!("{url}{REVOKE}"),
        "revocation_endpoint_auth_methods_supported": methods,
        "grant_types_supported": grants,
        "dpop_signing_alg_values_supported": dpop::algorithm_names().collect::<Vec<_>>(),
        // Required, and empty where there is no authorization endpoint.
        "response_types_supported": [],
    });
    if config.has_browsers() {
        document["authorization_endpoint"] = format!("{url}{AUTHORIZE}").into();
        document["response_types_supported"] = json!(["code"]);
        document["response_modes_supported"] = json!(["query"]);
        document["code_challenge_methods_supported"] = json!(["S256"]);
        document["authorization_response_iss_parameter_supported"] = true.into();
    }
    if config.has_id_tokens() {
        document["userinfo_endpoint"] = format!("{url}{USERINFO}").into();
        document["end_session_endpoint"] = format!("{url}{LOG_OUT}").into();
        document["subject_types_supported"] = json!(["public"]);
        document["id_token_signing_alg_values_supported"] = json!([config.access_token.algorithm.name()]);
        document["scopes_supported"] = json!(["openid", "profile"]);
        document["claims_supported"] =
            json!(["iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "at_hash", "sid", "preferred_username"]);
        document["prompt_values_supported"] = json!(["none", "login", "consent", "select_account"]);
        document["request_parameter_supported"] = false.into();
        document["request_uri_parameter_supported"] = false.into();
    }
    if config.registration.is_some() {
        document["registration_endpoint"] = format!("{url}{REGISTER}").into();
    }
    if clients.iter().any(|client| client.tls_client_certificate_bound_access_tokens) {
        document["tls_client_certificate_bound_access_tokens"] = true.into();
    }
    // Nobody else may ask.
    if !confidential.is_empty() {
        document["introspection_endpoint"] = Value::from(format!("{url}{INTROSPECT}"));
        document["introspection_endpoint_auth_methods_supported"] = Value::from(confidential);
    }
    if !algorithms.is_empty() {
        for endpoint in ["token", "revocation", "introspection"] {
            document[format!("{endpoint}_endpoint_auth_signing_alg_values_supported")] = json!(algorithms);
        }
    }
    // A key that also signs is never published, and a link to an empty set would promise one.
    if !config.access_token.algorithm.is_symmetric() {
        document["jwks_uri"] = Value::from(format!("{url}{JWKS}"));
    }
    document.to_string()
}

/// What the keys of clients sign assertions by.
fn assertion_algorithms(clients: &[Client]) -> Vec<&'static str> {
    let signs = |algorithm: Algorithm| {
        let fits = |client: &Client| matches!(&client.credentials, Credentials::Keys(keys) if keys.fits(algorithm));
        clients.iter().any(fits)
    };
    Algorithm::ALL.into_iter().filter(|algorithm| signs(*algorithm)).map(Algorithm::name).collect()
}
