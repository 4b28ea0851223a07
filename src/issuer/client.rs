//! Who asks: client authentication (RFC 6749 §2.3), before anything the client presents is looked at.

use std::sync::Arc;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, header};

use super::{
    Client, Credentials, Issuer, SecretHash, assertion,
    error::{Error, Tried},
    form::{Form, Param},
    possession::shown_certificate,
    throttle::Outcome,
};
use crate::{
    telemetry::audit::{Event, Facts},
    token::verify::Refused,
    types::Visitor,
};

/// The longest `Authorization` field that is looked at, in bytes.
const MAX_BASIC_BYTES: usize = 4096;

/// Some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What is known of whoever asks, for the audit log.
#[derive(Default)]
pub(super) struct Known {
    /// The client that it says it is, if there is such a one.
    pub(super) client: Option<Arc<Client>>,
    why: Option<Why>,
}

impl Known {
    /// The answer to one that is not who it says, and the reason, which it is not told.
    pub(super) fn refused(&mut self, why: Why) -> Error {
        self.why = Some(why);
        Error::InvalidClient(Tried::Body)
    }
}

/// Why a client is not who it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// There is none of that name, or none was named.
    UnknownClient,
    Disabled,
    WrongSecret,
    /// It shows what it has none of, or nothing of what it has.
    WrongMethod,
    /// A bare name is not enough here.
    Public,
    /// There is an assertion of another type, or one of the two parameters without the other.
    AssertionType,
    /// The assertion is of another client than the request.
    AnotherName,
    /// The assertion proves nothing.
    Assertion(Refused),
    /// The assertion has been used.
    Replayed,
    /// The connection has shown no certificate.
    NoCertificate,
    /// Its certificate is somebody else's.
    WrongCertificate,
}

impl Why {
    /// The name in the audit log.
    const fn reason(self) -> &'static str {
        match self {
            Self::UnknownClient => "unknown_client",
            Self::Disabled => "disabled",
            Self::WrongSecret => "wrong_secret",
            Self::WrongMethod => "wrong_method",
            Self::Public => "public",
            Self::AssertionType => "assertion_type",
            Self::AnotherName => "assertion_of_another_client",
            Self::Assertion(why) => why.reason(),
            Self::Replayed => "assertion_replayed",
            Self::NoCertificate => "no_certificate",
            Self::WrongCertificate => "wrong_certificate",
        }
    }
}

/// Authenticates the client of a request: by a secret, in Basic or in the body; by an assertion; or by its bare name if it
/// is public, or its connection says the rest.
///
/// # Errors
/// `invalid_client` when it is not who it says; `invalid_request` when it says so in two ways.
pub(super) async fn authenticate(
    issuer: &Issuer,
    request: &Request<Bytes>,
    form: &Form,
    visitor: &Visitor,
) -> Result<Arc<Client>, Error> {
    let mut known = Known::default();
    let outcome = identify(issuer, request, form, visitor, &mut known).await;
    if let Err(error @ (Error::InvalidClient(_) | Error::Throttled(_))) = &outcome {
        let reason = match (error, known.why, known.client.as_deref()) {
            (Error::Throttled(_), ..) => error.reason(),
            (_, Some(why), _) => why.reason(),
            (_, None, None) => Why::UnknownClient.reason(),
            (_, None, Some(Client { disabled: true, .. })) => Why::Disabled.reason(),
            (_, None, Some(client)) => match client.credentials {
                Credentials::Keys(_) | Credentials::Certificate(_) => Why::WrongMethod.reason(),
                Credentials::None | Credentials::Secrets(_) => Why::WrongSecret.reason(),
            },
        };
        let (client, error) = (known.client.as_ref().map(|client| &client.id), Some(error.code()));
        issuer.audit.tell(Event::ClientRefused, Facts { client, error, reason: Some(reason), ..visitor.into() });
    }
    outcome
}

/// The same where a bare name is not enough.
///
/// # Errors
/// As [`authenticate`], and `invalid_client` when it is a public one.
pub(super) async fn authenticate_confidential(
    issuer: &Issuer,
    request: &Request<Bytes>,
    form: &Form,
    visitor: &Visitor,
) -> Result<Arc<Client>, Error> {
    let client = authenticate(issuer, request, form, visitor).await?;
    if !client.is_public() {
        return Ok(client);
    }
    let tried = if request.headers().contains_key(header::AUTHORIZATION) { Tried::Header } else { Tried::Body };
    let error = Error::InvalidClient(tried);
    let (client, reason) = (Some(&client.id), Some(Why::Public.reason()));
    let facts = Facts { client, error: Some(error.code()), reason, ..visitor.into() };
    issuer.audit.tell(Event::ClientRefused, facts);
    Err(error)
}

/// The one way in which a request says who asks.
enum Shown<'a> {
    /// By an `Authorization` field.
    Header(&'a HeaderValue),
    /// By an assertion in the body.
    Assertion,
    /// By a name in the body, and this secret.
    Body(&'a str),
    /// By a name alone.
    Name,
}

impl<'a> Shown<'a> {
    /// # Errors
    /// `invalid_request` when there is more than one (RFC 6749 §2.3: "MUST NOT").
    fn by(headers: &'a HeaderMap, form: &'a Form) -> Result<Self, Error> {
        let mut fields = headers.get_all(header::AUTHORIZATION).iter();
        let (field, another) = (fields.next(), fields.next().is_some());
        let secret = form.get(Param::ClientSecret);
        let asserts = [Param::ClientAssertion, Param::ClientAssertionType].iter().any(|it| form.get(*it).is_some());
        match (field, secret, asserts) {
            _ if another => Err(two_ways()),
            (Some(field), None, false) => Ok(Self::Header(field)),
            (None, None, true) => Ok(Self::Assertion),
            (None, Some(secret), false) => Ok(Self::Body(secret)),
            (None, None, false) => Ok(Self::Name),
            (Some(_), Some(_), _) | (Some(_), _, true) | (_, Some(_), true) => Err(two_ways()),
        }
    }
}

/// The same as [`authenticate`], told to nobody.
async fn identify(
    issuer: &Issuer,
    request: &Request<Bytes>,
    form: &Form,
    visitor: &Visitor,
    known: &mut Known,
) -> Result<Arc<Client>, Error> {
    let named = form.get(Param::ClientId);
    match Shown::by(request.headers(), form)? {
        Shown::Assertion => assertion::identify(issuer, form, known).await,
        Shown::Name => by_name(issuer, request, named, known),
        Shown::Body(secret) => {
            let id = named.ok_or(Error::InvalidClient(Tried::Body))?;
            check(issuer, id, secret, Some(visitor), known).await?.ok_or(Error::InvalidClient(Tried::Body))
        }
        Shown::Header(field) => {
            let refused = Error::InvalidClient(Tried::Header);
            let readings = field.to_str().ok().and_then(read_basic).ok_or(refused)?;
            // What is known at once goes first: the other reading of a good secret is no failure.
            for by in [None, Some(visitor)] {
                for Basic { id, secret } in &readings {
                    if let Some(client) = check(issuer, id, secret, by, known).await? {
                        // The name in the body beside Basic is no second proof, but it must be the same client's.
                        return if named.is_none_or(|named| named == id) { Ok(client) } else { Err(two_ways()) };
                    }
                }
            }
            Err(Error::InvalidClient(Tried::Header))
        }
    }
}

/// One that says no more than its name.
fn by_name(
    issuer: &Issuer,
    request: &Request<Bytes>,
    named: Option<&str>,
    known: &mut Known,
) -> Result<Arc<Client>, Error> {
    let client = named.and_then(|id| issuer.client(id)).ok_or_else(|| known.refused(Why::UnknownClient))?;
    known.client = Some(client.clone());
    let fault = match &client.credentials {
        _ if client.disabled => Some(Why::Disabled),
        Credentials::None => None,
        Credentials::Secrets(_) => Some(Why::WrongSecret),
        Credentials::Keys(_) => Some(Why::WrongMethod),
        Credentials::Certificate(own) => match shown_certificate(request) {
            None => Some(Why::NoCertificate),
            Some(shown) if shown.names.contains(own) => None,
            Some(_) => Some(Why::WrongCertificate),
        },
    };
    fault.map_or(Ok(client), |why| Err(known.refused(why)))
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
async fn check(
    issuer: &Issuer,
    id: &str,
    secret: &str,
    by: Option<&Visitor>,
    known: &mut Known,
) -> Result<Option<Arc<Client>>, Error> {
    let Some(client) = issuer.client(id) else { return Ok(None) };
    known.client = Some(client.clone());
    let right = if secret.is_empty() {
        client.is_public()
    } else {
        issuer.passwords.recognise_client(client.secret_hashes(), secret)
            || match by {
                Some(visitor) => has_to_be_hashed(&client) && verify(issuer, &client, secret, visitor).await?,
                None => false,
            }
    };
    // Asked last: what a disabled client is told, and how long that takes, is what a wrong secret gets.
    Ok((right && !client.disabled).then_some(client))
}

/// A digest of a generated secret is looked at in a microsecond, and guessed by nobody.
fn has_to_be_hashed(client: &Client) -> bool {
    client.secret_hashes().iter().any(|hash| matches!(hash, SecretHash::Argon2id(_)))
}

async fn verify(issuer: &Issuer, client: &Client, secret: &str, visitor: &Visitor) -> Result<bool, Error> {
    let attempt = issuer.throttle.client(&client.id, visitor).await.map_err(Error::Throttled)?;
    let right = issuer.passwords.verify_client(client.secret_hashes(), secret).await;
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
