//! Clients that sign what says who they are: `private_key_jwt` (RFC 7523 §2.2 and §3, OpenID Connect Core §9).

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};

use super::{
    Client, Credentials, Issuer,
    client::{Known, Why},
    endpoint::TOKEN,
    error::Error,
    form::{Form, Param},
};
use crate::{
    store::{Digest, MAX_LEEWAY},
    token::assertion::Assertion,
    types::ClientId,
};

/// The one kind of assertion that is taken (RFC 7523 §2.2).
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The client that has signed a request's assertion. What fails costs one signature at the most, and no look into the store.
///
/// # Errors
/// `invalid_client` when none has, or the assertion has been used.
pub(super) async fn identify(issuer: &Issuer, form: &Form, known: &mut Known) -> Result<Arc<Client>, Error> {
    let (Some(JWT_BEARER), Some(text)) = (form.get(Param::ClientAssertionType), form.get(Param::ClientAssertion))
    else {
        return Err(known.refused(Why::AssertionType));
    };
    let assertion = Assertion::read(text).map_err(|why| known.refused(Why::Assertion(why)))?;
    let id = assertion.client().map_err(|why| known.refused(Why::Assertion(why)))?;
    // It need not be said twice (RFC 7521 §4.2), but not in two ways.
    if form.get(Param::ClientId).is_some_and(|named| named != id) {
        return Err(known.refused(Why::AnotherName));
    }
    // Who there is can be told from how long this takes. It is no secret: a browser carries the name (RFC 6749 §2.2).
    let client = issuer.client(id).ok_or_else(|| known.refused(Why::UnknownClient))?;
    known.client = Some(client.clone());
    let Credentials::Keys(keys) = &client.credentials else { return Err(known.refused(Why::WrongMethod)) };
    let url = issuer.config.url.as_str();
    // The second is what clients have said for as long as nobody had told them better (RFC 7523 §3, number 3).
    let ours = [url, &format!("{url}{TOKEN}")];
    let proven = assertion.verify(id, keys, &ours, issuer.clock.now());
    let proven = proven.map_err(|why| known.refused(Why::Assertion(why)))?;
    if client.disabled {
        return Err(known.refused(Why::Disabled));
    }
    // Last, since it is the one that waits, and that leaves something behind. The store's clock may be ahead of ours.
    match issuer.ledger.mark(name(&client.id, proven.jti), proven.until + MAX_LEEWAY).await? {
        true => Ok(client),
        false => Err(known.refused(Why::Replayed)),
    }
}

/// What an assertion is remembered by. A client's name holds no NUL, so that the two cannot be parted in another way.
fn name(client: &ClientId, jti: &str) -> Digest {
    let mut digest = Context::new(&SHA256);
    for part in ["client_assertion", client.as_str(), jti] {
        digest.update(part.as_bytes());
        digest.update(&[0]);
    }
    let mut name = Digest::default();
    name.copy_from_slice(digest.finish().as_ref());
    name
}
