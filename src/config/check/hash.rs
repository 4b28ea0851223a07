//! Hashes of passwords and client secrets.

use argon2::{Params, password_hash::phc::PasswordHash};

use crate::{
    config::{path::Path, report::Report},
    issuer::SecretHash,
};

/// The most a check of one password may cost: memory in KiB, passes, lanes.
const MAX_COST: (u32, u32, u32) = (1 << 20, 16, 16);

/// Reads a hash. The text is never repeated: it may be the secret itself.
pub(super) fn check(report: &mut Report, at: &Path, text: &str, is_client: bool) -> Option<SecretHash> {
    if let Some(digits) = text.strip_prefix("sha256:") {
        if !is_client {
            return report
                .refuse(at, "sha256 is for generated secrets of clients; a password needs `sidegate hash-password`");
        }
        let Some(digest) = hex(digits) else {
            return report.refuse(at, "sha256: is followed by 64 hexadecimal digits");
        };
        return Some(SecretHash::Sha256(digest));
    }
    if !text.starts_with("$argon2id$") {
        let why = if text.starts_with('$') {
            "only Argon2id hashes are read; make one with `sidegate hash-password`"
        } else {
            "not a hash; make one with `sidegate hash-password`"
        };
        return report.refuse(at, why);
    }
    let parsed = PasswordHash::new(text).ok().filter(|hash| hash.salt.is_some() && hash.hash.is_some());
    let Some((hash, params)) = parsed.and_then(|hash| Params::try_from(&hash).ok().map(|params| (hash, params))) else {
        return report
            .refuse(at, "not a whole Argon2id hash; copy the line that `sidegate hash-password` printed, in quotes");
    };
    if hash.version.is_some_and(|version| version != 0x13) {
        return report.refuse(at, "not a hash of Argon2 version 19; make one with `sidegate hash-password`");
    }
    let (memory, passes, lanes) = MAX_COST;
    if params.m_cost() > memory || params.t_cost() > passes || params.p_cost() > lanes {
        return report.refuse(at, "costs too much to check: at most m=1048576 (1 GiB), t=16, p=16");
    }
    Some(SecretHash::Argon2id(text.into()))
}

fn hex(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
        let digit = |b: u8| char::from(b).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(bytes)
}
