//! What has been revoked, in memory: access tokens exactly, refresh tokens as far as a cache goes.

mod blacklist;
mod epochs;
mod exact;
mod follow;
mod freshness;
mod name;
mod snapshot;
mod table;
pub mod wire;

pub use blacklist::Blacklist;
pub use follow::{Feed, FeedConfig};
pub use freshness::Freshness;
pub use table::{Entry, Revocations, Sizes};
