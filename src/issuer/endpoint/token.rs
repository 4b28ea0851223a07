//! The token endpoint (RFC 6749 §3.2).

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};

use super::{Endpoint, method_not_allowed, visitor};
use crate::issuer::{
    Client, GrantType, Issuer, client,
    error::{Error, no_store},
    form::{Form, Param},
    grant::{self, Granted},
    possession::{self, DPOP_NONCE},
};
use crate::{
    telemetry::audit::{Event, Facts},
    types::Visitor,
};

pub(in crate::issuer) async fn answer(issuer: &Issuer, request: &Request<Bytes>) -> Response<Bytes> {
    if request.method() != Method::POST {
        return method_not_allowed("POST");
    }
    let (visitor, mut known) = (visitor(request), Known::default());
    let result = grant(issuer, request, &visitor, &mut known).await;
    let code = result.as_ref().map_or_else(Error::code, |_| "ok");
    let grant = known.grant_type.map_or("unknown", GrantType::name);
    issuer.metrics.issuer_grant(known.client.as_deref().map_or("unknown", Client::kind), grant, code);
    match result {
        Ok(granted) => {
            let mut response = no_store(StatusCode::OK, &granted);
            if let Some(nonce) = known.nonce.and_then(|nonce| HeaderValue::try_from(&*nonce).ok()) {
                response.headers_mut().insert(DPOP_NONCE, nonce);
            }
            response
        }
        Err(error) => {
            known.tell(issuer, &error, &visitor);
            error.response()
        }
    }
}

/// What is known of a request as soon as it is, for whoever counts and tells of it.
#[derive(Default)]
struct Known {
    grant_type: Option<GrantType>,
    client: Option<Arc<Client>>,
    /// For the client's next proof.
    nonce: Option<Box<str>>,
}

impl Known {
    fn tell(&self, issuer: &Issuer, error: &Error, visitor: &Visitor) {
        // Who asked, and what was presented, have lines of their own; a flood has a counter, and no line for each.
        if matches!(error, Error::InvalidClient(_) | Error::InvalidGrant(_) | Error::Throttled(_) | Error::Limited(_)) {
            return;
        }
        let facts = Facts {
            client: self.client.as_ref().map(|client| &client.id),
            grant: self.grant_type.map(GrantType::name),
            error: Some(error.code()),
            reason: Some(error.reason()),
            ..visitor.into()
        };
        issuer.audit.tell(Event::TokenRefused, facts);
    }
}

/// The straight way.
async fn grant(
    issuer: &Issuer,
    request: &Request<Bytes>,
    visitor: &Visitor,
    known: &mut Known,
) -> Result<Granted, Error> {
    let form = Form::read(request.headers(), request.body())?;
    let name = form.require(Param::GrantType)?;
    known.grant_type = GrantType::parse(name);
    let client = client::authenticate(issuer, request, &form, visitor).await?;
    known.client = Some(client.clone());
    let client = &*client;
    issuer.count_client(Endpoint::Token, client, visitor)?;
    let grant_type = known.grant_type.ok_or(Error::UnsupportedGrantType)?;
    if !client.grants.contains(&grant_type) {
        return Err(Error::UnauthorizedClient);
    }
    let mut asker = possession::asker(issuer, client, request, visitor.clone())?;
    known.nonce = asker.nonce.take();
    let asker = &asker;
    match grant_type {
        GrantType::AuthorizationCode => grant::authorization_code::grant(issuer, client, &form, asker).await,
        GrantType::ClientCredentials => grant::client_credentials::grant(issuer, client, &form, asker).await,
        GrantType::Password => grant::password::grant(issuer, client, &form, asker).await,
        GrantType::TokenExchange => grant::token_exchange::grant(issuer, client, &form, asker).await,
        GrantType::RefreshToken => grant::refresh::grant(issuer, client, &form, asker).await,
    }
}
