//! What operators see: metrics as verbs called where the decision is made, and logs.

pub mod log;

use std::sync::Arc;

/// The metrics of this process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<()>);

impl Metrics {
    /// A token endpoint request has been answered. `grant` is a grant type or `unknown`; `result` is `ok` or the OAuth
    /// error code.
    pub fn issuer_grant(&self, _grant: &'static str, _result: &'static str) {}

    /// How many live entries the access-token revocation table has, by kind (`session`, `token`).
    pub fn revocation_entries(&self, _kind: &'static str, _entries: usize) {}

    /// A revocation was made. `cause`: `revoke_endpoint`, `reuse`, `rollback`, `user_gone`.
    pub fn revocation_made(&self, _cause: &'static str) {}

    /// A refresh token was presented; `outcome`: `rotated`, `replayed`, `reused`, `rolled_back`, `revoked`,
    /// `blacklisted` (refused without the store), `expired`, `unknown`, `forged`.
    pub fn refresh(&self, _outcome: &'static str) {}
}
