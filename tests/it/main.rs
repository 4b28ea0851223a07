mod revocation;
mod store;
