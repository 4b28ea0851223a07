//! What has been revoked, in memory: access tokens exactly, refresh tokens as far as a cache goes.

mod blacklist;
mod epochs;
mod name;
mod table;

pub use blacklist::Blacklist;
pub use table::{Entry, Revocations, Sizes};
