//! RFC 6749 §4.4: a client speaks for itself. No session, and no refresh token (§4.4.3).

use super::{Granted, requested_resources, requested_scopes};
use crate::issuer::{
    Client, GrantType, Issuer,
    access::{CLIENT_SUBJECT, Grant},
    error::Error,
    form::Form,
    possession::Asker,
};

pub(in crate::issuer) async fn grant(
    issuer: &Issuer,
    client: &Client,
    form: &Form,
    asker: &Asker,
) -> Result<Granted, Error> {
    let Asker { visitor, holds, .. } = asker;
    // "MUST only be used by confidential clients": a bare name proves nothing.
    if client.is_public() {
        return Err(Error::UnauthorizedClient);
    }
    let scopes = requested_scopes(form, &client.scopes)?;
    let resources = requested_resources(issuer, form, &[])?;
    let began = issuer.ledger.position();
    let subject = format!("{CLIENT_SUBJECT}{}", client.id);
    let grant = Grant {
        asked: (GrantType::ClientCredentials, visitor),
        bound_to: *holds,
        subject: &subject,
        scopes: &scopes,
        resources: &resources,
        session: None,
        began,
        lifetime: issuer.access_lifetime(client),
        act: None,
        claims: None,
    };
    Granted::new(issuer, client, &grant, None, issuer.clock.now()).await
}
