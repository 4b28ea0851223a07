//! Secrets that nobody chose.

use aws_lc_rs::{digest, rand};
use zeroize::Zeroizing;

/// 43 letters and digits: 256 bits, and nothing that a form, a shell or a URL would change.
pub(super) fn generate() -> Result<Zeroizing<String>, &'static str> {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    const LENGTH: usize = 43;
    let mut secret = Zeroizing::new(String::with_capacity(LENGTH));
    while secret.len() < LENGTH {
        let mut random = Zeroizing::new([0; 64]);
        rand::fill(&mut *random).map_err(|_| "the system has no random numbers")?;
        // Bytes from 248 on would make the first letters likelier than the last.
        let fair = random.iter().filter(|byte| **byte < 248).map(|byte| char::from(ALPHABET[usize::from(*byte) % 62]));
        let missing = LENGTH - secret.len();
        secret.extend(fair.take(missing));
    }
    Ok(secret)
}

/// The hash of such a secret, as the configuration takes it. Nobody can search 256 bits, so that it need not be a slow one.
pub(super) fn sha256(secret: &str) -> String {
    let digest = digest::digest(&digest::SHA256, secret.as_bytes());
    digest.as_ref().iter().fold(String::from("sha256:"), |text, byte| text + &format!("{byte:02x}"))
}
