//! What users have agreed to, for as long as they are logged in at the browser where they have.
//!
//! The browser keeps it, in a cookie under a MAC with the name of its login: so it is good in no other browser, ends whenever the login
//! does, with its user, an epoch or a log-out, and takes no room in a store. It says where the revocation log stood: what was
//! agreed to before a client was revoked is not agreed to any more.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};

use super::{Client, Issuer, browser::Ticket, redirect::is_claimed};
use crate::{
    clock::Timestamp,
    store::{MAX_LEEWAY, Revoked},
    types::{Credential, Position, Scopes, SessionId},
};

/// The kind of its tickets.
const TICKET: &str = "consented";
/// How many clients are remembered, and how long the cookie may be, in bytes: it comes with every request. The oldest go.
const MOST: usize = 16;
const MAX_BYTES: usize = 2048;

/// What a user has agreed that a client may have.
#[derive(Debug, Serialize, Deserialize)]
struct Consented {
    client: Box<str>,
    scopes: Box<str>,
    /// What tokens may be for; for anything, where none is said.
    resources: Box<[Box<str>]>,
    at: Timestamp,
    /// Where the revocation log stood.
    began: Position,
}

/// What a client asks a user for.
pub(super) struct Asked<'a> {
    pub(super) client: &'a Client,
    pub(super) redirect_uri: &'a str,
    pub(super) scopes: &'a Scopes,
    pub(super) resources: &'a [Box<str>],
}

impl Asked<'_> {
    /// Whether an answer may be remembered: not where any app can pose as the client, which has no secret and is sent codes at a
    /// place that is whoever's takes it (RFC 8252 §8.6); nor where nobody has ever looked at who the client is.
    fn may_be_remembered(&self) -> bool {
        !self.client.registered_itself && (!self.client.is_public() || is_claimed(self.redirect_uri))
    }

    fn is_covered_by(&self, consented: &Consented) -> bool {
        let any = consented.resources.is_empty();
        let all = !self.resources.is_empty() && self.resources.iter().all(|one| consented.resources.contains(one));
        *consented.client == *self.client.id.as_str() && scopes(consented).covers(self.scopes) && (any || all)
    }
}

impl Issuer {
    /// Whether whoever is logged in has agreed to all of that before, in this browser.
    pub(super) fn has_consented(&self, headers: &HeaderMap, login: SessionId, asked: &Asked<'_>) -> bool {
        asked.may_be_remembered() && self.consented(headers, login).iter().any(|known| asked.is_covered_by(known))
    }

    /// The cookie by which the browser remembers that whoever is logged in has agreed to it.
    pub(super) fn remember_consent(
        &self,
        headers: &HeaderMap,
        login: SessionId,
        asked: &Asked<'_>,
    ) -> Option<HeaderValue> {
        if !asked.may_be_remembered() {
            return None;
        }
        let client = asked.client.id.as_str();
        let (mut all, before) = self.consented_but_to(client, headers, login);
        // What was agreed to before still is, if it was for the same.
        let before = before.filter(|before| *before.resources == *asked.resources).map(|before| scopes(&before));
        let scopes = asked.scopes.iter().chain(before.iter().flat_map(Scopes::iter));
        all.push(Consented {
            client: client.into(),
            scopes: Scopes::from_values(scopes).to_string().into(),
            resources: asked.resources.into(),
            at: self.clock.now(),
            began: self.ledger.position(),
        });
        Some(self.consents(&all, login))
    }

    /// The cookie by which it forgets that, where it knows.
    pub(super) fn forget_consent(&self, headers: &HeaderMap, login: SessionId, client: &Client) -> Option<HeaderValue> {
        let (others, before) = self.consented_but_to(client.id.as_str(), headers, login);
        before.map(|_| self.consents(&others, login))
    }

    fn consents(&self, all: &[Consented], login: SessionId) -> HeaderValue {
        let mut kept = &all[all.len().saturating_sub(MOST)..];
        loop {
            let value = self.browsers.seal(&login.0, TICKET, &kept);
            match kept {
                [_, rest @ ..] if value.len() > MAX_BYTES => kept = rest,
                _ => return self.browsers.consented(&value),
            }
        }
    }

    /// What others may have, and what this client may.
    fn consented_but_to(
        &self,
        client: &str,
        headers: &HeaderMap,
        login: SessionId,
    ) -> (Vec<Consented>, Option<Consented>) {
        let mut all = self.consented(headers, login);
        let its = all.iter().position(|known| *known.client == *client).map(|at| all.remove(at));
        (all, its)
    }

    /// What is remembered, and still holds.
    fn consented(&self, headers: &HeaderMap, login: SessionId) -> Vec<Consented> {
        let sealed = self.browsers.consented_in(headers).unwrap_or_default();
        let mut all = match self.browsers.unseal::<Vec<Consented>>(&login.0, TICKET, sealed) {
            Ticket::Fresh(all) | Ticket::Stale(all) => all,
            Ticket::NotOurs => Vec::new(),
        };
        let (now, longest) = (self.clock.now(), self.config.login.lifetime);
        all.retain(|known| {
            let began = known.began.to_string();
            let given = Credential {
                issuer: &self.config.url,
                token: None,
                session: None,
                subject: None,
                client: Some(&known.client),
                key: None,
                began: Some(&began),
                dated: None,
            };
            // As long as it takes for revoked clients to be forgotten, and no longer.
            now.since(known.at).is_some_and(|age| age < longest) && !self.ledger.is_revoked(&given)
        });
        all
    }

    /// How long an entry about our own has to last: as long as any token that there is now, and as what users have agreed to.
    pub(super) fn entry_lasts(&self, what: &Revoked) -> Duration {
        let consents = matches!(what, Revoked::Client(_)) && self.config.has_browsers();
        let consents = if consents { self.config.login.lifetime } else { Duration::ZERO };
        self.longest.max(consents) + MAX_LEEWAY
    }
}

fn scopes(consented: &Consented) -> Scopes {
    Scopes::parse(&consented.scopes).unwrap_or_default()
}
