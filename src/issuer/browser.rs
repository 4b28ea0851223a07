//! A user at a browser: whether somebody is logged in there, and what shows that a form came from a page of ours.
//!
//! A login is a session as a client's is, with a name of its own in the client's place. So it ends with its user, with an epoch,
//! by an operator's hand, and on every process that shares the store; and its cookie is made as refresh tokens are.

use std::time::Duration;

use aws_lc_rs::{hkdf, hmac, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header};
use serde::{Serialize, de::DeserializeOwned};

use super::Issuer;
use crate::{
    clock::{Clock, Timestamp},
    store::{Record, Unavailable},
    token::keys::KeyError,
    types::{ClientId, IssuerUrl, Secret, SessionId},
};

/// What stands in the client's place in a login at a browser. No client has a colon in its name.
pub(super) const BROWSER: &str = "login:browser";

/// How long a page may be open before its form is too old.
const TICKET_LIFETIME: Duration = Duration::from_secs(3600);

/// The bytes by which a browser is known before anybody is logged in there.
const MARK_BYTES: usize = 16;
const MAC_BYTES: usize = 32;

/// The cookies' names, and the keys of tickets.
pub(super) struct Browsers {
    client: ClientId,
    login: &'static str,
    mark: &'static str,
    consented: &'static str,
    /// What comes after each value.
    attributes: &'static str,
    /// The current master key's first.
    keys: Vec<hmac::Key>,
    clock: Clock,
}

/// What a browser has sent along.
pub(super) struct Browser {
    mark: [u8; MARK_BYTES],
    /// Whether it did not have the mark yet.
    is_new: bool,
}

/// What has become of a ticket.
pub(super) enum Ticket<T> {
    /// It is from a page of ours, in this browser, and says this.
    Fresh(T),
    /// It was, and says this, but that is long ago.
    Stale(T),
    /// It is not.
    NotOurs,
}

impl Browsers {
    pub(super) fn new(url: &IssuerUrl, master: &Secret, previous: &[Secret], clock: Clock) -> Self {
        // Their names begin with `OWN_COOKIES`, by which the gateway keeps them from upstreams.
        // A cookie of the prefix __Host- is the host's own: no other host of the domain can set it, nor anybody without TLS.
        let (login, mark, consented, attributes) = match url.as_str().starts_with("https:") {
            true => (
                "__Host-sidegate-login",
                "__Host-sidegate-browser",
                "__Host-sidegate-consented",
                "; Path=/; HttpOnly; SameSite=Lax; Secure",
            ),
            false => ("sidegate-login", "sidegate-browser", "sidegate-consented", "; Path=/; HttpOnly; SameSite=Lax"),
        };
        let keys = [master].into_iter().chain(previous).map(key).collect();
        Self { client: ClientId::new(BROWSER), login, mark, consented, attributes, keys, clock }
    }

    /// The browser that sends a request.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub(super) fn of(&self, headers: &HeaderMap) -> Result<Browser, KeyError> {
        let known = cookie(headers, self.mark).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok());
        if let Some(mark) = known {
            return Ok(Browser { mark, is_new: false });
        }
        let mut mark = [0; MARK_BYTES];
        rand::fill(&mut mark).map_err(|_| KeyError("the system has no random numbers".into()))?;
        Ok(Browser { mark, is_new: true })
    }

    /// The cookie that marks a browser, where it has none yet. It is known as long as it is open.
    pub(super) fn marked(&self, browser: &Browser) -> Option<HeaderValue> {
        browser.is_new.then(|| self.set(self.mark, &URL_SAFE_NO_PAD.encode(browser.mark), ""))
    }

    /// The cookie of a login.
    pub(super) fn logged_in(&self, token: &str) -> HeaderValue {
        self.set(self.login, token, "")
    }

    /// Takes that cookie away where it was sent along.
    pub(super) fn logged_out(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        cookie(headers, self.login).map(|_| self.set(self.login, "", "; Max-Age=0"))
    }

    /// The cookie of what was agreed to.
    pub(super) fn consented(&self, sealed: &str) -> HeaderValue {
        self.set(self.consented, sealed, "")
    }

    /// What that says, where it was sent along.
    pub(super) fn consented_in<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        cookie(headers, self.consented)
    }

    fn set(&self, name: &str, value: &str, more: &str) -> HeaderValue {
        let attributes = self.attributes;
        HeaderValue::try_from(format!("{name}={value}{attributes}{more}")).expect("base64url and our own names")
    }

    /// A ticket for a form of ours in this browser, `of` one kind of form.
    pub(super) fn ticket(&self, browser: &Browser, of: &str, says: &impl Serialize) -> String {
        self.seal(&browser.mark, of, says)
    }

    /// What a ticket says that came back.
    pub(super) fn read<T: DeserializeOwned>(&self, browser: &Browser, of: &str, ticket: &str) -> Ticket<T> {
        self.unseal(&browser.mark, of, ticket)
    }

    /// What `says` something, `of` one kind, that is good with that name alone.
    pub(super) fn seal(&self, name: &[u8; MARK_BYTES], of: &str, says: &impl Serialize) -> String {
        let body = (self.clock.now(), says);
        let mut bytes = postcard::to_allocvec(&body).expect("texts and numbers have a known length");
        let mac = hmac::sign(&self.keys[0], &message(name, of, &bytes));
        bytes.extend_from_slice(mac.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What it says that came back.
    pub(super) fn unseal<T: DeserializeOwned>(&self, name: &[u8; MARK_BYTES], of: &str, sealed: &str) -> Ticket<T> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed).unwrap_or_default();
        let Some((body, mac)) = bytes.split_last_chunk::<MAC_BYTES>() else { return Ticket::NotOurs };
        let message = message(name, of, body);
        if !self.keys.iter().any(|key| hmac::verify(key, &message, mac).is_ok()) {
            return Ticket::NotOurs;
        }
        let Ok((made, says)) = postcard::from_bytes::<(Timestamp, T)>(body) else { return Ticket::NotOurs };
        match self.clock.now().since(made) {
            Some(age) if age > TICKET_LIFETIME => Ticket::Stale(says),
            // Or the clock has been set back.
            Some(_) | None => Ticket::Fresh(says),
        }
    }
}

impl Issuer {
    /// The live login of the browser that sends a request; whether its user may still log in is asked where that matters, since
    /// everybody may log out.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub(super) async fn login_of(&self, headers: &HeaderMap) -> Result<Option<Record>, Unavailable> {
        let Some(presented) = cookie(headers, self.browsers.login)
            .and_then(|token| self.refresh_tokens.read(token, &self.browsers.client))
        else {
            return Ok(None);
        };
        self.login_record(presented.session).await
    }

    /// The login of that name, where it is one and lives.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub(super) async fn login_record(&self, id: SessionId) -> Result<Option<Record>, Unavailable> {
        if self.ledger.is_blacklisted(id) {
            return Ok(None);
        }
        let login = self.ledger.record(id).await?;
        let now = self.clock.now();
        Ok(login.filter(|login| {
            let Record { session, .. } = login;
            session.client.as_str() == BROWSER && login.state(now) == "live"
        }))
    }
}

/// The one cookie of that name. Of two, neither can be believed.
pub(super) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let fields = headers.get_all(header::COOKIE).iter().filter_map(|field| field.to_str().ok());
    let pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut found = pairs.filter(|(known, _)| *known == name).map(|(_, value)| value);
    match (found.next(), found.next()) {
        (Some(value), None) if !value.is_empty() => Some(value),
        _ => None,
    }
}

/// The name has a fixed length, and so has what says how long the kind is.
fn message(name: &[u8; MARK_BYTES], of: &str, body: &[u8]) -> Vec<u8> {
    [&name[..], &(of.len() as u64).to_be_bytes(), of.as_bytes(), body].concat()
}

fn key(master: &Secret) -> hmac::Key {
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"sidegate forms, version 1");
    let key = salt.extract(master.expose());
    key.expand(&[b"ticket"], hmac::HMAC_SHA256).expect("a SHA-256 key is short").into()
}
