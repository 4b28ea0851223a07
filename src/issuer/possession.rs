//! What a client shows that it holds, for tokens to be bound to: a key, by a proof (RFC 9449 §5), or the certificate of its
//! connection (RFC 8705 §3). And whether whoever comes with such a token holds that.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, Request};

use super::{Client, Issuer, endpoint::TOKEN, error::Error};
use crate::{
    http::ClientCertificate,
    token::{
        Confirmation,
        dpop::{Proven, Shown, Target, Unproved},
    },
    types::{Thumbprint, Visitor},
};

const DPOP: HeaderName = HeaderName::from_static("dpop");

/// Where nonces are given to clients (RFC 9449 §8).
pub(super) const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// Whoever asks for tokens, as far as a grant cares.
pub(super) struct Asker {
    pub(super) visitor: Visitor,
    /// What the tokens are to be bound to.
    pub(super) holds: Confirmation,
    /// A nonce for the next proof, where there is one to tell.
    pub(super) nonce: Option<Box<str>>,
}

/// A token that came with a request, and what it is bound to.
pub(super) struct Sent<'a> {
    pub(super) token: &'a str,
    /// Whether it came by the scheme DPoP (RFC 9449 §7.1).
    pub(super) by_dpop: bool,
    pub(super) confirmation: &'a Confirmation,
}

/// Looks at what a client shows with its wish for a token.
///
/// # Errors
/// When a proof is no good, or the client has to show something and does not.
pub(super) fn asker(
    issuer: &Issuer,
    client: &Client,
    request: &Request<Bytes>,
    visitor: Visitor,
) -> Result<Asker, Error> {
    let proven = proven(issuer, request, TOKEN, None, None)?;
    if proven.is_none() && client.dpop_bound_access_tokens {
        return Err(unproved(issuer, Unproved::Missing));
    }
    let certificate = match certificate(request) {
        _ if !client.tls_client_certificate_bound_access_tokens => None,
        Some(certificate) => Some(certificate),
        None => return Err(Error::InvalidRequest("The client has to show its certificate.".into())),
    };
    let (key, nonce) = proven.map_or((None, None), |proven| (Some(proven.key), proven.nonce.map(Into::into)));
    Ok(Asker { visitor, holds: Confirmation { key, certificate }, nonce })
}

/// Whether whoever sends a token to `path` holds what it is bound to; with the nonce for the next proof.
///
/// # Errors
/// When they do not.
pub(super) fn check(
    issuer: &Issuer,
    request: &Request<Bytes>,
    path: &str,
    sent: &Sent<'_>,
) -> Result<Option<String>, Error> {
    let Sent { token, by_dpop, confirmation } = sent;
    if confirmation.certificate.is_some_and(|bound| certificate(request) != Some(bound)) {
        return Err(Error::InvalidGrant("The access token is bound to another certificate."));
    }
    match (&confirmation.key, by_dpop) {
        (None, false) => Ok(None),
        (None, true) => Err(unproved(issuer, Unproved::WrongKey)),
        (Some(_), false) => Err(unproved(issuer, Unproved::Missing)),
        (Some(key), true) => {
            let proven = proven(issuer, request, path, Some(token.as_bytes()), Some(key))?;
            let proven = proven.ok_or_else(|| unproved(issuer, Unproved::Missing))?;
            Ok(proven.nonce)
        }
    }
}

/// Why it is refused, with a nonce where that helps.
pub(super) fn unproved(issuer: &Issuer, why: Unproved) -> Error {
    let nonce = why.wants_nonce().then(|| issuer.proofs.nonce(issuer.clock.now()).into());
    Error::Unproved(why, nonce)
}

fn proven(
    issuer: &Issuer,
    request: &Request<Bytes>,
    path: &str,
    access_token: Option<&[u8]>,
    key: Option<&Thumbprint>,
) -> Result<Option<Proven>, Error> {
    let mut fields = request.headers().get_all(&DPOP).iter();
    let proof = match (fields.next(), fields.next()) {
        (None, _) => return Ok(None),
        (Some(proof), None) => proof.as_bytes(),
        (Some(_), Some(_)) => return Err(unproved(issuer, Unproved::Malformed)),
    };
    // As clients know us: what stands in front of us may have changed the rest.
    let url = issuer.config.url.as_str();
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let authority = rest.split('/').next().unwrap_or_default();
    let path = format!("{}{path}", issuer.base());
    let target = Target { scheme, authority, path: &path };
    let shown = Shown { proof, method: request.method().as_str(), target, access_token, key };
    issuer.proofs.check(&shown, issuer.clock.now()).map(Some).map_err(|why| unproved(issuer, why))
}

fn certificate(request: &Request<Bytes>) -> Option<Thumbprint> {
    shown_certificate(request).map(|certificate| certificate.thumbprint)
}

/// The certificate of the connection that a request came by.
pub(super) fn shown_certificate(request: &Request<Bytes>) -> Option<&ClientCertificate> {
    request.extensions().get::<Arc<ClientCertificate>>().map(|certificate| &**certificate)
}
