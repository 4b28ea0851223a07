//! Whom a request speaks for: the credential it carries, verified with what is in memory.

use std::{rc::Rc, sync::Arc};

use http::{HeaderMap, Uri, header, uri::PathAndQuery};

use super::{
    config::{Auth, Route},
    possession::{self, Scheme, Sender},
    reject::Rejection,
};
use crate::{
    clock::{Clock, Timestamp},
    revocation::Revocations,
    telemetry::Recorder,
    token::{
        Identity,
        cache::{TokenCache, Verified},
        dpop::Proofs,
        verify::{Refusal, Refused, Verifier},
    },
};

/// What authentication needs, one for each worker.
pub(super) struct Authenticator {
    pub(super) verifier: Arc<Verifier>,
    pub(super) revocations: Arc<Revocations>,
    pub(super) clock: Clock,
    pub(super) cache: TokenCache,
    pub(super) proofs: Arc<Proofs>,
}

/// Whom a request speaks for, and what its client should know.
#[derive(Default)]
pub(super) struct Authenticated {
    /// `None` where the route lets it come without a token.
    pub(super) identity: Option<Rc<Verified>>,
    /// A nonce for the client's next proof.
    pub(super) nonce: Option<Box<str>>,
}

impl Authenticator {
    /// The identity of a request on `route`; `None` where the route lets it come without one. A token in the query is
    /// taken out of `uri`. Waits only where a token names a key that is not here, for as long as its provider may be asked.
    pub(super) async fn authenticate(
        &self,
        route: &Route,
        sender: &Sender<'_>,
        uri: &mut Uri,
        recorder: &Recorder,
    ) -> Result<Authenticated, Rejection> {
        if route.auth == Auth::None {
            return Ok(Authenticated::default());
        }
        let in_query = if route.legacy_query_token { take_query_token(uri)? } else { None };
        let (scheme, token) = match (credentials(sender.headers)?, &in_query) {
            (Some(_), Some(_)) => return Err(Rejection::TwoTokens),
            (Some(credentials), None) => credentials,
            (None, Some(token)) => (Scheme::Bearer, token.as_bytes()),
            (None, None) if route.auth == Auth::Optional => return Ok(Authenticated::default()),
            (None, None) => return Err(Rejection::NoToken),
        };
        let mut identified = self.identify(token, recorder);
        if let Err(Refusal { provider: Some(provider), unknown_kid: Some(kid), .. }) = &identified
            && let Some(remote) = self.verifier.remote(*provider)
            // Boxed: few come this way, and the others need not have room for it.
            && Box::pin(remote.look_again(kid)).await
        {
            identified = self.verify(token, self.clock.now(), self.revocations.generation());
        }
        let identity = identified.map_err(|refusal| {
            recorder.token_rejected(refusal.provider, refusal.why.reason());
            Rejection::Token(refusal.why)
        })?;
        let Identity { confirmation, provider, .. } = &identity.identity;
        if confirmation.is_none() && !route.bound && scheme == Scheme::Bearer {
            return Ok(Authenticated { identity: Some(identity), nonce: None });
        }
        let shown = (scheme, token, confirmation);
        let nonce = possession::check(route, &self.proofs, shown, sender, uri, self.clock.now()).map_err(|why| {
            recorder.token_rejected(Some(*provider), why.reason());
            Rejection::Unheld(why)
        })?;
        Ok(Authenticated { identity: Some(identity), nonce })
    }

    fn identify(&self, token: &[u8], recorder: &Recorder) -> Result<Rc<Verified>, Refusal> {
        let now = self.clock.now();
        // Read before the look-up: a revocation that comes in between is then seen at the next request at the latest,
        // and one that came before this request is seen by this one.
        let generation = self.revocations.generation();
        let known = self.cache.get(token).filter(|verified| self.still_knows(token, verified));
        recorder.token_looked_up(known.is_some());
        let Some(verified) = known else { return self.verify(token, now, generation) };
        let refused = |why| Refusal { why, provider: Some(verified.identity.provider), unknown_kid: None };
        if now >= verified.identity.expires_at {
            return Err(refused(Refused::Expired));
        }
        if verified.seen_generation.get() != generation {
            self.check_revocation(&verified).map_err(refused)?;
            verified.seen_generation.set(generation);
        }
        Ok(verified)
    }

    fn verify(&self, token: &[u8], now: Timestamp, generation: u64) -> Result<Rc<Verified>, Refusal> {
        // RFC 6750 §2.1 has an alphabet for tokens; those of a JWT are fewer, and decoding it looks for them.
        let token = std::str::from_utf8(token).map_err(|_| Refused::Malformed)?;
        let proof = self.verifier.verify(token, now)?;
        let verified = Rc::new(Verified::new(proof, generation));
        let refused = |why| Refusal { why, provider: Some(verified.identity.provider), unknown_kid: None };
        self.check_revocation(&verified).map_err(refused)?;
        self.cache.insert(token, verified.clone());
        Ok(verified)
    }

    /// Whether the key by which a token was verified is still its provider's; if not, it has to be verified anew.
    fn still_knows(&self, token: &[u8], verified: &Verified) -> bool {
        let knows = self.verifier.still_knows(verified.identity.provider, &verified.key, &verified.seen_keys);
        if !knows {
            self.cache.remove(token);
        }
        knows
    }

    fn check_revocation(&self, verified: &Verified) -> Result<(), Refused> {
        if self.revocations.is_revoked(&verified.credential()) { Err(Refused::Revoked) } else { Ok(()) }
    }
}

/// The token of the one `Authorization` field, by the scheme Bearer (RFC 6750 §2.1) or DPoP (RFC 9449 §7.1); `None` without
/// the field.
fn credentials(headers: &HeaderMap) -> Result<Option<(Scheme, &[u8])>, Rejection> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let field = match (fields.next(), fields.next()) {
        (None, _) => return Ok(None),
        (Some(field), None) => field.as_bytes(),
        (Some(_), Some(_)) => return Err(Rejection::TwoTokens),
    };
    // RFC 9110 §11.1: the scheme in any case, then one or more spaces.
    let after = |name: &[u8]| match field.split_at_checked(name.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(name) => Some(rest),
        _ => None,
    };
    let (scheme, rest) = match (after(b"bearer "), after(b"dpop ")) {
        (Some(rest), _) => (Scheme::Bearer, rest),
        (None, Some(rest)) => (Scheme::Dpop, rest),
        (None, None) => return Err(Rejection::NotBearer),
    };
    let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
    if rest.len() == spaces { Err(Rejection::NotBearer) } else { Ok(Some((scheme, &rest[spaces..]))) }
}

/// Takes `access_token` out of the query (RFC 6750 §2.3), so that it reaches neither the upstream nor a log.
fn take_query_token(uri: &mut Uri) -> Result<Option<String>, Rejection> {
    const NAME: &str = "access_token";
    let Some(query) = uri.query() else { return Ok(None) };
    // A name that is spelled with percent signs is the same name to whoever reads it next.
    let named = |pair: &str| form_urlencoded::parse(pair.as_bytes()).next().is_some_and(|(name, _)| name == NAME);
    let (ours, others): (Vec<&str>, Vec<&str>) = query.split('&').partition(|pair| named(pair));
    let token = match ours.as_slice() {
        [] => return Ok(None),
        [one] => form_urlencoded::parse(one.as_bytes()).next().map(|(_, token)| token.into_owned()),
        _ => return Err(Rejection::TwoTokens),
    };
    let target = if others.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), others.join("&")) };
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target).map_err(|_| Rejection::BadTarget)?);
    *uri = Uri::from_parts(parts).map_err(|_| Rejection::BadTarget)?;
    Ok(Some(token.unwrap_or_default()))
}
