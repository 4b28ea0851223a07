//! Who asks: client authentication (RFC 6749 §2.3), before anything the client presents is looked at.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, header};

use super::{
    Client, Issuer, SecretHash,
    error::{Error, Tried},
    form::{Form, Param},
    throttle::Outcome,
};
use crate::{
    telemetry::audit::{Event, Facts},
    types::Visitor,
};

/// The longest `Authorization` field that is looked at, in bytes.
const MAX_BASIC_BYTES: usize = 4096;

/// Some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Authenticates the client of a request: by Basic, by a secret in the body, or by its bare name if it is public.
///
/// # Errors
/// `invalid_client` when it is not who it says; `invalid_request` when it says so in two ways.
pub(super) async fn authenticate<'a>(
    issuer: &'a Issuer,
    headers: &HeaderMap,
    form: &Form,
    visitor: &Visitor,
) -> Result<&'a Client, Error> {
    let mut named = None;
    let outcome = identify(issuer, headers, form, visitor, &mut named).await;
    if let Err(error @ (Error::InvalidClient(_) | Error::Throttled(_))) = &outcome {
        let reason = match named {
            _ if matches!(error, Error::Throttled(_)) => error.reason(),
            // Or none was named.
            None => "unknown_client",
            Some(Client { disabled: true, .. }) => "disabled",
            Some(_) => "wrong_secret",
        };
        let (client, error) = (named.map(|client| &client.id), Some(error.code()));
        issuer.audit.tell(Event::ClientRefused, Facts { client, error, reason: Some(reason), ..visitor.into() });
    }
    outcome
}

/// The same where a bare name is not enough.
///
/// # Errors
/// As [`authenticate`], and `invalid_client` when it is a public one.
pub(super) async fn authenticate_confidential<'a>(
    issuer: &'a Issuer,
    headers: &HeaderMap,
    form: &Form,
    visitor: &Visitor,
) -> Result<&'a Client, Error> {
    let client = authenticate(issuer, headers, form, visitor).await?;
    if !client.is_public() {
        return Ok(client);
    }
    let tried = if headers.contains_key(header::AUTHORIZATION) { Tried::Header } else { Tried::Body };
    let error = Error::InvalidClient(tried);
    let facts = Facts { client: Some(&client.id), error: Some(error.code()), reason: Some("public"), ..visitor.into() };
    issuer.audit.tell(Event::ClientRefused, facts);
    Err(error)
}

/// The same as [`authenticate`], told to nobody; `tried` is set to the client that it says it is, if there is such a one.
async fn identify<'a>(
    issuer: &'a Issuer,
    headers: &HeaderMap,
    form: &Form,
    visitor: &Visitor,
    tried: &mut Option<&'a Client>,
) -> Result<&'a Client, Error> {
    let named = form.get(Param::ClientId);
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    match (fields.next(), fields.next()) {
        (None, _) => {
            let id = named.ok_or(Error::InvalidClient(Tried::Body))?;
            let secret = form.get(Param::ClientSecret).unwrap_or_default();
            check(issuer, id, secret, Some(visitor), tried).await?.ok_or(Error::InvalidClient(Tried::Body))
        }
        (Some(_), Some(_)) => Err(two_ways()),
        (Some(_), None) if form.get(Param::ClientSecret).is_some() => Err(two_ways()),
        (Some(field), None) => {
            let refused = Error::InvalidClient(Tried::Header);
            let readings = field.to_str().ok().and_then(read_basic).ok_or(refused)?;
            // What is known at once goes first: the other reading of a good secret is no failure.
            for by in [None, Some(visitor)] {
                for Basic { id, secret } in &readings {
                    if let Some(client) = check(issuer, id, secret, by, tried).await? {
                        // The name in the body beside Basic is no second proof, but it must be the same client's.
                        return if named.is_none_or(|named| named == id) { Ok(client) } else { Err(two_ways()) };
                    }
                }
            }
            Err(Error::InvalidClient(Tried::Header))
        }
    }
}

struct Basic {
    id: String,
    secret: String,
}

/// Reads `Basic` credentials in the two ways that clients write them. RFC 6749 §2.3.1 has both parts form-encoded first,
/// which half of the libraries do; the other half follow RFC 7617 alone.
fn read_basic(field: &str) -> Option<Vec<Basic>> {
    let (scheme, credentials) = field.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || credentials.len() > MAX_BASIC_BYTES {
        return None;
    }
    let text = String::from_utf8(BASE64.decode(credentials.trim()).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    let raw = Basic { id: id.into(), secret: secret.into() };
    let decoded = Basic { id: form_decode(id), secret: form_decode(secret) };
    Some(if decoded.id == raw.id && decoded.secret == raw.secret { vec![raw] } else { vec![decoded, raw] })
}

/// Decodes one form-encoded value. `&` and `=` are no separators here.
fn form_decode(text: &str) -> String {
    let escaped = text.replace('&', "%26").replace('=', "%3D");
    form_urlencoded::parse(escaped.as_bytes()).next().map(|(value, _)| value.into_owned()).unwrap_or_default()
}

/// The client of that name, if the secret is its own. An empty secret is none (RFC 6749 §2.3.1), which is right for a
/// public client and for no other. Where it has to be hashed, that is done for a visitor alone, whose failures count.
async fn check<'a>(
    issuer: &'a Issuer,
    id: &str,
    secret: &str,
    by: Option<&Visitor>,
    tried: &mut Option<&'a Client>,
) -> Result<Option<&'a Client>, Error> {
    let Some(client) = issuer.clients.get(id) else { return Ok(None) };
    *tried = Some(client);
    let right = if secret.is_empty() {
        client.is_public()
    } else {
        issuer.passwords.recognise_client(&client.secret_hashes, secret)
            || match by {
                Some(visitor) => has_to_be_hashed(client) && verify(issuer, client, secret, visitor).await?,
                None => false,
            }
    };
    // Asked last: what a disabled client is told, and how long that takes, is what a wrong secret gets.
    Ok((right && !client.disabled).then_some(client))
}

/// A digest of a generated secret is looked at in a microsecond, and guessed by nobody.
fn has_to_be_hashed(client: &Client) -> bool {
    client.secret_hashes.iter().any(|hash| matches!(hash, SecretHash::Argon2id(_)))
}

async fn verify(issuer: &Issuer, client: &Client, secret: &str, visitor: &Visitor) -> Result<bool, Error> {
    let attempt = issuer.throttle.client(&client.id, visitor).await.map_err(Error::Throttled)?;
    let right = issuer.passwords.verify_client(&client.secret_hashes, secret).await;
    attempt.ended(match &right {
        Ok(true) => Outcome::Right,
        Ok(false) => Outcome::Wrong,
        Err(_) => Outcome::NotSeen,
    });
    right
}

fn two_ways() -> Error {
    Error::InvalidRequest("The client must authenticate in one way only.".into())
}
