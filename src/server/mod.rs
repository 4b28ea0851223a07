//! Listeners, TLS, connections, workers, drain. It is handed a service and knows neither gateway nor issuer.

pub mod config;
