//! The public keys.

use bytes::Bytes;
use http::{Request, Response};

use super::document;
use crate::issuer::Issuer;

/// The JWK Set. Its type is `application/json`: more clients take it than take `application/jwk-set+json`.
pub(in crate::issuer) fn answer(issuer: &Issuer, request: &Request<Bytes>) -> Response<Bytes> {
    document(request, &issuer.ring.jwks(), issuer.ring.max_age())
}
