//! Hashes of passwords and client secrets.

use crate::{
    config::{path::Path, report::Report},
    issuer::{SecretHash, check_hash},
};

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
    // What the issuer would not verify with, a login could not succeed with.
    let hash = SecretHash::Argon2id(text.into());
    match check_hash(&hash) {
        Ok(()) => Some(hash),
        Err(why) => {
            report.refuse(at, format!("the hash {why}; copy the line that `sidegate hash-password` printed, in quotes"))
        }
    }
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
