//! The cookie of a browser in which users have logged in before: it lets them be told from strangers who try their names.
//!
//! It logs nobody in. All it is good for is a count of failed logins of one's own ([`super::throttle`]); whoever has stolen one gets
//! no more tries by it than any browser has. It names nobody either: only with the name that somebody types it can be told whether
//! an entry is that user's.

use std::time::Duration;

use aws_lc_rs::{hkdf, hmac, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue};

use super::{browser::cookie, throttle::folded};
use crate::{
    clock::{Clock, Timestamp},
    token::keys::KeyError,
    types::{IssuerUrl, Secret},
};

/// How long a user is known in a browser after the last login there.
const LIFETIME: Duration = Duration::from_secs(180 * 86_400);
/// How many users are known in one browser; a further one takes the place of who has logged in longest ago.
const MAX_USERS: usize = 4;

const ID_BYTES: usize = 16;
const TIME_BYTES: usize = 8;
const MAC_BYTES: usize = 32;
const BODY_BYTES: usize = ID_BYTES + TIME_BYTES;

/// A user in a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeviceId(pub(super) [u8; ID_BYTES]);

/// Makes and reads the cookies.
pub(super) struct Devices {
    name: &'static str,
    /// What comes after the value.
    attributes: String,
    /// The current master key's first: processes that share a store know each other's.
    keys: Vec<hmac::Key>,
    clock: Clock,
}

impl Devices {
    pub(super) fn new(url: &IssuerUrl, master: &Secret, previous: &[Secret], clock: Clock) -> Self {
        let (name, secure) = match url.as_str().starts_with("https:") {
            true => ("__Host-sidegate-device", "; Secure"),
            false => ("sidegate-device", ""),
        };
        let attributes = format!("; Path=/; HttpOnly; SameSite=Lax; Max-Age={}{secure}", LIFETIME.as_secs());
        let keys = [master].into_iter().chain(previous).map(key).collect();
        Self { name, attributes, keys, clock }
    }

    /// What `username` is known by in the browser that sends these, if they are.
    pub(super) fn of(&self, headers: &HeaderMap, username: &str) -> Option<DeviceId> {
        let (name, now) = (folded(username), self.clock.now());
        entries(headers, self.name).find_map(|entry| {
            let (id, made) = self.read(entry, &name)?;
            // From the future: the clock has been set back.
            now.since(made).is_none_or(|age| age <= LIFETIME).then_some(id)
        })
    }

    /// What an entry says, if we made it for the user of that name.
    fn read(&self, entry: &str, name: &str) -> Option<(DeviceId, Timestamp)> {
        let bytes: [u8; BODY_BYTES + MAC_BYTES] = URL_SAFE_NO_PAD.decode(entry).ok()?.try_into().ok()?;
        let (body, mac) = bytes.split_at(BODY_BYTES);
        let message = [body, name.as_bytes()].concat();
        let ours = self.keys.iter().any(|key| hmac::verify(key, &message, mac).is_ok());
        let (id, made) = body.split_first_chunk()?;
        ours.then_some((DeviceId(*id), Timestamp(u64::from_be_bytes(made.try_into().ok()?))))
    }

    /// The cookie by which `username`, who has just logged in, is known from now on, beside whoever was known there.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub(super) fn known(&self, headers: &HeaderMap, username: &str) -> Result<HeaderValue, KeyError> {
        let mut entry = [0; BODY_BYTES];
        let (id, made) = entry.split_at_mut(ID_BYTES);
        rand::fill(id).map_err(|_| KeyError("the system has no random numbers".into()))?;
        made.copy_from_slice(&self.clock.now().0.to_be_bytes());
        let name = folded(username);
        let mac = hmac::sign(&self.keys[0], &[&entry, name.as_bytes()].concat());
        let own = URL_SAFE_NO_PAD.encode([&entry, mac.as_ref()].concat());
        // Nothing but entries goes back into a cookie, whatever came in one. Whose each is cannot be told, but for this user's.
        let others = entries(headers, self.name).filter(|entry| is_entry(entry) && self.read(entry, &name).is_none());
        let value = [&*own].into_iter().chain(others.take(MAX_USERS - 1)).collect::<Vec<_>>().join(".");
        let text = format!("{}={value}{}", self.name, self.attributes);
        Ok(HeaderValue::try_from(text).expect("base64url and our own names"))
    }
}

/// The entries of the cookie, as far as they are looked at.
fn entries<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h str> {
    cookie(headers, name).into_iter().flat_map(|text| text.split('.')).take(MAX_USERS)
}

fn is_entry(text: &str) -> bool {
    URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| bytes.len() == BODY_BYTES + MAC_BYTES)
}

fn key(master: &Secret) -> hmac::Key {
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"sidegate devices, version 1");
    let key = salt.extract(master.expose());
    key.expand(&[b"device"], hmac::HMAC_SHA256).expect("a SHA-256 key is short").into()
}
