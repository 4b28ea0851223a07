//! The request's way: path, route, authenticate, authorize, forward.

pub mod config;
