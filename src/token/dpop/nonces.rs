//! Nonces for proofs (RFC 9449 §8): a minute and its MAC, so that nothing is kept, and whoever has the same key takes them.

use std::time::Duration;

use aws_lc_rs::{hkdf, hmac, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq as _;

use crate::{clock::Timestamp, types::Secret};

const MINUTE: u64 = 60;
/// For how many minutes after its own a nonce is good.
const GOOD: u64 = 4;
/// After how many another one is handed out.
const FRESH: u64 = 1;
const MAC_BYTES: usize = 16;

#[derive(Clone)]
pub(super) struct Nonces(hmac::Key);

/// What a nonce is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nonce {
    /// It is good until then.
    Fresh(Timestamp),
    /// It still is, but not for long.
    Aging(Timestamp),
    /// It is too old, or nobody's.
    Bad,
}

impl Nonces {
    pub(super) fn new(key: Option<&Secret>) -> Self {
        let mut own = [0; 32];
        let secret = match key {
            Some(secret) => secret.expose(),
            None => {
                rand::fill(&mut own).expect("a system without random numbers cannot say what is fresh");
                &own
            }
        };
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"sidegate proofs, version 1");
        let key = salt.extract(secret);
        Self(key.expand(&[b"nonce"], hmac::HMAC_SHA256).expect("a SHA-256 key is short").into())
    }

    pub(super) fn current(&self, now: Timestamp) -> String {
        let minute = now.as_secs() / MINUTE;
        let mut bytes = minute.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.mac(minute));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub(super) fn read(&self, nonce: &str, now: Timestamp) -> Nonce {
        let bytes = URL_SAFE_NO_PAD.decode(nonce).unwrap_or_default();
        let Some((minute, mac)) = bytes.split_first_chunk() else { return Nonce::Bad };
        let minute = u64::from_be_bytes(*minute);
        if !bool::from(self.mac(minute).ct_eq(mac)) {
            return Nonce::Bad;
        }
        let until = Timestamp::from_secs((minute + 1) * MINUTE) + Duration::from_secs(GOOD * MINUTE);
        // A clock that was set back finds nonces of a time to come.
        match (now.as_secs() / MINUTE).saturating_sub(minute) {
            age if age <= FRESH => Nonce::Fresh(until),
            age if age <= GOOD => Nonce::Aging(until),
            _ => Nonce::Bad,
        }
    }

    fn mac(&self, minute: u64) -> [u8; MAC_BYTES] {
        let tag = hmac::sign(&self.0, &minute.to_be_bytes());
        let mut mac = [0; MAC_BYTES];
        mac.copy_from_slice(&tag.as_ref()[..MAC_BYTES]);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_good_for_some_minutes_and_by_its_own_key() {
        let at = |seconds: u64| Timestamp::from_secs(1_800_000_000 + seconds);
        let (ours, others) =
            (Nonces::new(Some(&Secret::new(vec![1; 32]))), Nonces::new(Some(&Secret::new(vec![2; 32]))));
        let nonce = ours.current(at(0));
        assert_eq!(Nonces::new(Some(&Secret::new(vec![1; 32]))).read(&nonce, at(0)), ours.read(&nonce, at(0)));
        let until = at(300);
        assert_eq!(ours.read(&nonce, at(119)), Nonce::Fresh(until));
        assert_eq!(ours.read(&nonce, at(120)), Nonce::Aging(until));
        assert_eq!(ours.read(&nonce, at(299)), Nonce::Aging(until));
        assert_eq!(ours.read(&nonce, at(300)), Nonce::Bad);
        assert_eq!(others.read(&nonce, at(0)), Nonce::Bad);
        for forged in ["", "AAAA", &nonce[..20], &format!("{nonce}A"), &nonce.replace(&nonce[12..13], "_")] {
            assert_eq!(ours.read(forged, at(0)), Nonce::Bad, "{forged}");
        }
    }
}
