//! The token endpoint (RFC 6749 §3.2).

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};

use super::method_not_allowed;
use crate::issuer::{
    GrantType, Issuer, client,
    error::{Error, no_store},
    form::{Form, Param},
    grant::{self, Granted},
};
use crate::store::Visitor;

pub(in crate::issuer) async fn answer(issuer: &Issuer, request: &Request<Bytes>) -> Response<Bytes> {
    if request.method() != Method::POST {
        return method_not_allowed("POST");
    }
    let mut grant_type = None;
    let result = grant(issuer, request, &mut grant_type).await;
    let code = result.as_ref().map_or_else(Error::code, |_| "ok");
    issuer.metrics.issuer_grant(grant_type.map_or("unknown", GrantType::name), code);
    match result {
        Ok(granted) => no_store(StatusCode::OK, &granted),
        Err(error) => error.response(),
    }
}

/// The straight way; `grant_type` is set as soon as it is known, for whoever counts.
async fn grant(
    issuer: &Issuer,
    request: &Request<Bytes>,
    grant_type: &mut Option<GrantType>,
) -> Result<Granted, Error> {
    let form = Form::read(request.headers(), request.body())?;
    let name = form.require(Param::GrantType)?;
    *grant_type = GrantType::parse(name);
    let client = client::authenticate(issuer, request.headers(), &form).await?;
    let grant_type = grant_type.ok_or(Error::UnsupportedGrantType)?;
    if !client.grants.contains(&grant_type) {
        return Err(Error::UnauthorizedClient);
    }
    let visitor = request.extensions().get::<Visitor>().cloned().unwrap_or_default();
    match grant_type {
        GrantType::ClientCredentials => grant::client_credentials::grant(issuer, client, &form),
        GrantType::Password => grant::password::grant(issuer, client, &form, visitor).await,
        GrantType::RefreshToken => grant::refresh::grant(issuer, client, &form, visitor).await,
    }
}
