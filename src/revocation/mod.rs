//! What has been revoked, in memory.
