//! The demo's credentials. Everybody knows them, so a configuration that carries them is served on loopback only.

/// The secret of the client `testclient`: "secret".
pub const CLIENT_SECRET_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$cDV5X/avlaNLHGSi+tj2XA$9uxZ+cTK0Rwj8L1JryrrjwvDVOr9l97pVw8NT2BKA2s";
/// The password of the user `test`: "test".
pub const USER_PASSWORD_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$b7+p4vRBT6F7GJ6xgnuIKA$YuRce7sI63Xigg3hZX3OfDYPhM2+SAeHGSZiKuKW02w";

/// Whether a hash is one of the demo's, however its parameters are written: the digest at its end is the same.
pub(super) fn is_demo(hash: &str) -> bool {
    let digest = hash.rsplit('$').next();
    [CLIENT_SECRET_HASH, USER_PASSWORD_HASH].iter().any(|demo| demo.rsplit('$').next() == digest)
}
