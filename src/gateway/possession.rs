//! Whether whoever sends a bound token holds what it is bound to: a key, shown by a proof (RFC 9449 §7), or the certificate of
//! the connection (RFC 8705 §3). A stolen token is worth nothing then.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, Method, Uri, header};
use ipnet::IpNet;

use super::{config::Route, reject::Rejection};
use crate::{
    clock::Timestamp,
    http::Peer,
    token::{
        Confirmation,
        dpop::{Proofs, Shown, Target, Unproved},
    },
};

/// Where proofs are (RFC 9449 §4.1).
pub(super) const DPOP: HeaderName = HeaderName::from_static("dpop");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// How a token is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// As one that whoever has it may use (RFC 6750).
    Bearer,
    /// With a proof (RFC 9449 §7.1).
    Dpop,
}

/// Why whoever sends a token may not use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unheld {
    /// It is bound to nothing, and its route or its scheme wants that.
    NotBound,
    /// It is bound to a key, and sent without a proof: by the wrong scheme, or by a thief (RFC 9449 §7.2).
    NoProof,
    /// The proof is no good; with a nonce for the next one where that would help.
    Proof(Unproved, Option<Box<str>>),
    /// It is bound to a certificate, and the connection has none.
    NoCertificate,
    /// It is bound to another certificate than the connection's.
    WrongCertificate,
}

impl Unheld {
    /// The name in metrics and logs.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::NotBound => "not_bound",
            Self::NoProof => "proof_missing",
            Self::Proof(why, _) => why.reason(),
            Self::NoCertificate => "certificate_missing",
            Self::WrongCertificate => "certificate_wrong",
        }
    }
}

/// What a request shows besides its token.
#[derive(Clone, Copy)]
pub(super) struct Sender<'a> {
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
    pub(super) peer: &'a Peer,
    pub(super) proxies: &'a [IpNet],
}

/// Checks it for one token. Answers the nonce that the next proof should have, where there is one to tell.
pub(super) fn check(
    route: &Route,
    proofs: &Proofs,
    (scheme, token, confirmation): (Scheme, &[u8], &Confirmation),
    sender: &Sender<'_>,
    uri: &Uri,
    now: Timestamp,
) -> Result<Option<Box<str>>, Unheld> {
    if confirmation.is_none() && route.bound {
        return Err(Unheld::NotBound);
    }
    if let Some(bound) = &confirmation.certificate {
        let certificate = sender.peer.certificate.as_ref().ok_or(Unheld::NoCertificate)?;
        if certificate.thumbprint != *bound {
            return Err(Unheld::WrongCertificate);
        }
    }
    match (&confirmation.key, scheme) {
        (None, Scheme::Bearer) => Ok(None),
        // A proof for nothing: the client believes that the token is safe with it, and it is not.
        (None, Scheme::Dpop) => Err(Unheld::NotBound),
        (Some(_), Scheme::Bearer) => Err(Unheld::NoProof),
        (Some(key), Scheme::Dpop) => {
            let mut fields = sender.headers.get_all(&DPOP).iter();
            let proof = match (fields.next(), fields.next()) {
                (None, _) => return Err(Unheld::NoProof),
                (Some(proof), None) => proof.as_bytes(),
                (Some(_), Some(_)) => return Err(Unheld::Proof(Unproved::Malformed, None)),
            };
            let (method, target) = (sender.method.as_str(), sender.target(uri));
            let shown = Shown { proof, method, target, access_token: Some(token), key: Some(key) };
            match proofs.check(&shown, now) {
                Ok(proven) => Ok(proven.nonce.map(Into::into)),
                Err(why) => {
                    let nonce = why.wants_nonce().then(|| proofs.nonce(now).into());
                    Err(Unheld::Proof(why, nonce))
                }
            }
        }
    }
}

impl Sender<'_> {
    /// Where the client has sent the request. Whether that was over TLS, a trusted proxy says, where there is one.
    fn target<'t>(&'t self, uri: &'t Uri) -> Target<'t> {
        let said = |name: &HeaderName| {
            let mut fields = self.headers.get_all(name).iter();
            let (Some(field), None) = (fields.next(), fields.next()) else { return None };
            field.to_str().ok().filter(|text| self.is_trusted(self.peer.address) && !text.contains(','))
        };
        let own = if self.peer.secure { "https" } else { "http" };
        let host = self.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let authority = uri.authority().map(http::uri::Authority::as_str).or(host).unwrap_or_default();
        Target {
            scheme: said(&FORWARDED_PROTO).unwrap_or(own),
            // Whom a request is for is what it is routed by: a proxy in front has to leave it as it is.
            authority,
            path: uri.path(),
        }
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|net| net.contains(&address))
    }
}

impl From<Unheld> for Rejection {
    fn from(why: Unheld) -> Self {
        Self::Unheld(why)
    }
}
