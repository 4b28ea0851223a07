//! RFC 6749 §4.4: a client speaks for itself. No session, and no refresh token (§4.4.3).

use super::{Granted, requested_scopes};
use crate::issuer::{
    Client, GrantType, Issuer,
    access::{CLIENT_SUBJECT, Grant},
    error::Error,
    form::Form,
};
use crate::types::Visitor;

pub(in crate::issuer) async fn grant(
    issuer: &Issuer,
    client: &Client,
    form: &Form,
    visitor: &Visitor,
) -> Result<Granted, Error> {
    // "MUST only be used by confidential clients": a bare name proves nothing.
    if client.is_public() {
        return Err(Error::UnauthorizedClient);
    }
    let scopes = requested_scopes(form, &client.scopes)?;
    let began = issuer.ledger.position();
    let subject = format!("{CLIENT_SUBJECT}{}", client.id);
    let asked = (GrantType::ClientCredentials, visitor);
    let grant = Grant { asked, subject: &subject, scopes: &scopes, session: None, began, claims: None };
    Granted::new(issuer, client, &grant, None, issuer.clock.now()).await
}
