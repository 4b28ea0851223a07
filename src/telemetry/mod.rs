//! What operators see: metrics as verbs called where the decision is made, logs, and the audit log.

pub mod audit;
mod feed;
mod keys;
pub mod log;
mod process;
mod reload;
mod request;
mod upstream;

use std::sync::Arc;

use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder, core::Collector,
};

pub use feed::FeedMetrics;
pub use keys::KeyMetrics;
pub use reload::ReloadMetrics;
pub use request::{Decision, Outcome, Recorder};
pub use upstream::{NotConnected, OpenUpstreamConnection, UpstreamMetrics};

/// The metrics of this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Series>);

#[derive(Debug)]
struct Series {
    registry: Registry,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    upstream_seconds: HistogramVec,
    decision_seconds: Histogram,
    in_flight: IntGauge,
    rejected_tokens: IntCounterVec,
    provider_keys: IntGaugeVec,
    jwks_fetches: IntCounterVec,
    jwks_fetched_at: IntGaugeVec,
    jwks_keys_skipped: IntGaugeVec,
    cache_lookups: IntCounterVec,
    cache_entries: IntGauge,
    cache_bytes: IntGauge,
    connections: IntGaugeVec,
    connections_parked: IntGauge,
    connections_accepted: IntCounterVec,
    connections_closed: IntCounterVec,
    streams_reset: IntCounterVec,
    streams_ended: IntCounterVec,
    tunnels: IntGauge,
    upstream_connections: IntGaugeVec,
    upstream_connection_failures: IntCounterVec,
    upstream_endpoints: IntGaugeVec,
    upstream_ejections: IntCounterVec,
    upstream_retries: IntCounterVec,
    upstream_queue: IntGaugeVec,
    upstream_rejections: IntCounterVec,
    connections_refused: IntCounterVec,
    tls_reloads: IntCounterVec,
    certificate_expiry: IntGaugeVec,
    revocation_entries: IntGaugeVec,
    revocation_bytes: IntGauge,
    revocation_alarm: IntGauge,
    revocation_propagation: Histogram,
    feed_age: Gauge,
    feed_stale: IntGauge,
    feed_connected: IntGauge,
    feed_connections: IntCounterVec,
    feed_healed: IntCounterVec,
    feed_clock_offset: Gauge,
    feed_followers: IntGauge,
    revocations: IntCounterVec,
    signing_keys: IntGaugeVec,
    signing_key_changes: IntCounterVec,
    grants: IntCounterVec,
    refreshes: IntCounterVec,
    introspections: IntCounterVec,
    throttled: IntCounterVec,
    client_registrations: IntCounterVec,
    limited: IntCounterVec,
    users_hook_calls: IntCounterVec,
    ready: Gauge,
    reloads: IntCounterVec,
    reload_successful: IntGauge,
    config_loaded_at: IntGauge,
    audit_lines_lost: IntCounter,
}

/// For what a proxy does: 50 µs to 10 s.
const REQUEST_BUCKETS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// For a decision alone: 1 µs to 10 ms.
const DECISION_BUCKETS: [f64; 13] = [
    0.000_001,
    0.000_002_5,
    0.000_005,
    0.000_01,
    0.000_025,
    0.000_05,
    0.000_1,
    0.000_25,
    0.000_5,
    0.001,
    0.002_5,
    0.005,
    0.01,
];

impl Metrics {
    /// Registers every series.
    ///
    /// # Errors
    /// When two series have one name, which is a mistake in this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let add = Add(&registry);
        let build = add.gauges("sidegate_build_info", "Always 1; says which version runs.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(process::ProcessCollector::new()?))?;
        let tls_reloads = add.counters(
            "sidegate_tls_reloads_total",
            "Files of certificates, keys and client CAs that changed on disk, by whether they were taken up.",
            &["result"],
        )?;
        // There from the start: who is alarmed by a rise does not see one from nothing to one.
        for result in ["ok", "failed"] {
            tls_reloads.with_label_values(&[result]);
        }
        let series = Series {
            requests: add.counters(
                "sidegate_requests_total",
                "Requests answered, by route, method, status code, decision and its reason.",
                &["route", "method", "code", "decision", "reason"],
            )?,
            request_seconds: add.histograms(
                "sidegate_request_seconds",
                "From a request's head to its response's head.",
                &["route"],
                &REQUEST_BUCKETS,
            )?,
            upstream_seconds: add.histograms(
                "sidegate_upstream_seconds",
                "From sending a request upstream to its response's head.",
                &["upstream"],
                &REQUEST_BUCKETS,
            )?,
            decision_seconds: add.keep(Histogram::with_opts(
                HistogramOpts::new("sidegate_decision_seconds", "From a request's head to the decision about it.")
                    .buckets(DECISION_BUCKETS.to_vec()),
            )?)?,
            in_flight: add
                .keep(IntGauge::new("sidegate_requests_in_flight", "Requests without a response head yet.")?)?,
            rejected_tokens: add.counters(
                "sidegate_rejected_tokens_total",
                "Access tokens refused, by the provider they claim to be from and by reason.",
                &["provider", "reason"],
            )?,
            provider_keys: add.gauges(
                "sidegate_provider_keys",
                "Keys that a provider's tokens are verified with.",
                &["provider"],
            )?,
            jwks_fetches: add.counters(
                "sidegate_jwks_fetches_total",
                "How often a provider was asked for its keys, by result.",
                &["provider", "result"],
            )?,
            jwks_fetched_at: add.gauges(
                "sidegate_jwks_fetched_timestamp_seconds",
                "When a provider's keys were last fetched, in seconds since 1970.",
                &["provider"],
            )?,
            jwks_keys_skipped: add.gauges(
                "sidegate_jwks_keys_skipped",
                "Keys of a provider's latest set that cannot be used.",
                &["provider"],
            )?,
            cache_lookups: add.counters(
                "sidegate_token_cache_lookups_total",
                "Look-ups of access tokens among the verified ones, by result.",
                &["result"],
            )?,
            cache_entries: add
                .keep(IntGauge::new("sidegate_token_cache_entries", "Verified access tokens that are remembered.")?)?,
            cache_bytes: add.keep(IntGauge::new(
                "sidegate_token_cache_bytes",
                "About how much memory the verified access tokens take.",
            )?)?,
            connections: add.gauges("sidegate_connections", "Open client connections.", &["listener"])?,
            connections_parked: add.keep(IntGauge::new(
                "sidegate_connections_parked",
                "Idle client connections that have given up their buffers.",
            )?)?,
            connections_accepted: add.counters(
                "sidegate_connections_accepted_total",
                "Client connections accepted.",
                &["listener"],
            )?,
            connections_closed: add.counters(
                "sidegate_connections_closed_total",
                "Client connections that Sidegate ended, by cause.",
                &["cause"],
            )?,
            streams_ended: add.counters(
                "sidegate_streams_ended_total",
                "Long answers, uploads and tunnels that Sidegate ended before their time, by reason.",
                &["reason"],
            )?,
            tunnels: add.keep(IntGauge::new("sidegate_tunnels", "Open WebSockets.")?)?,
            streams_reset: add.counters(
                "sidegate_streams_reset_total",
                "Requests of HTTP/2 that Sidegate broke off because of their client, by cause.",
                &["cause"],
            )?,
            upstream_connections: add.gauges(
                "sidegate_upstream_connections",
                "Open connections to upstreams.",
                &["upstream"],
            )?,
            upstream_connection_failures: add.counters(
                "sidegate_upstream_connection_failures_total",
                "Connections to upstreams that could not be made, by reason.",
                &["upstream", "reason"],
            )?,
            upstream_endpoints: add.gauges(
                "sidegate_upstream_endpoints",
                "Addresses of an upstream, by what is known of them.",
                &["upstream", "state"],
            )?,
            upstream_ejections: add.counters(
                "sidegate_upstream_ejections_total",
                "How often an address failed so often that it was left alone for a while.",
                &["upstream"],
            )?,
            upstream_retries: add.counters(
                "sidegate_upstream_retries_total",
                "Requests that were sent once more.",
                &["upstream"],
            )?,
            upstream_queue: add.gauges(
                "sidegate_upstream_queue",
                "Requests that wait for others at their upstream to end.",
                &["upstream"],
            )?,
            upstream_rejections: add.counters(
                "sidegate_upstream_rejections_total",
                "Requests refused for too many at their upstream, by reason.",
                &["upstream", "reason"],
            )?,
            connections_refused: add.counters(
                "sidegate_connections_refused_total",
                "Client connections closed as soon as they were accepted, by listener and reason.",
                &["listener", "reason"],
            )?,
            tls_reloads,
            certificate_expiry: add.gauges(
                "sidegate_tls_certificate_expiry_timestamp_seconds",
                "When a listener's certificate expires, in seconds since 1970.",
                &["listener", "cert_file"],
            )?,
            revocation_entries: add.gauges(
                "sidegate_revocation_entries",
                "Live entries of the access-token revocation table.",
                &["kind"],
            )?,
            revocation_bytes: add.keep(IntGauge::new(
                "sidegate_revocation_bytes",
                "About how much memory the access-token revocation table takes.",
            )?)?,
            revocation_alarm: add.keep(IntGauge::new(
                "sidegate_revocation_alarm",
                "1 while the access-token revocation table has more entries than tokens.revocations_alarm.",
            )?)?,
            revocation_propagation: add.keep(Histogram::with_opts(
                HistogramOpts::new(
                    "sidegate_revocation_propagation_seconds",
                    "From a revocation being made, at the gateway that keeps the log, to its being in force here.",
                )
                .buckets(feed::PROPAGATION_BUCKETS.to_vec()),
            )?)?,
            feed_age: add.keep(Gauge::new(
                "sidegate_feed_age_seconds",
                "How old what is known of revocations is; 0 where the log is kept here, infinite before the first snapshot.",
            )?)?,
            feed_stale: add.keep(IntGauge::new(
                "sidegate_feed_stale",
                "1 while what is known of revocations is older than max_staleness.",
            )?)?,
            feed_connected: add
                .keep(IntGauge::new("sidegate_feed_connected", "1 while a gateway that keeps the log is listened to.")?)?,
            feed_connections: add.counters(
                "sidegate_feed_connections_total",
                "Connections to gateways that keep the log, by how they went.",
                &["result"],
            )?,
            feed_healed: add.counters(
                "sidegate_feed_healed_total",
                "How often all of the revocation log was taken once more, by cause.",
                &["cause"],
            )?,
            feed_clock_offset: add.keep(Gauge::new(
                "sidegate_feed_clock_offset_seconds",
                "How far the clock of the gateway that keeps the log is ahead of ours.",
            )?)?,
            feed_followers: add
                .keep(IntGauge::new("sidegate_feed_followers", "Processes that follow the revocation log kept here.")?)?,
            revocations: add.counters("sidegate_revocations_total", "Revocations made here, by cause.", &["cause"])?,
            signing_keys: add.gauges("sidegate_issuer_signing_keys", "The issuer's own keys, by state.", &["state"])?,
            signing_key_changes: add.counters(
                "sidegate_issuer_signing_key_changes_total",
                "How often one of the issuer's own keys came into a state.",
                &["state"],
            )?,
            grants: add.counters(
                "sidegate_issuer_grants_total",
                "Token endpoint requests, by grant, kind of client and result.",
                &["client_kind", "grant", "result"],
            )?,
            refreshes: add.counters(
                "sidegate_refresh_tokens_total",
                "Refresh tokens presented, by outcome.",
                &["outcome"],
            )?,
            introspections: add.counters(
                "sidegate_introspections_total",
                "Introspection endpoint requests, by result.",
                &["result"],
            )?,
            throttled: add.counters(
                "sidegate_throttled_total",
                "Logins, client authentications and registrations refused unseen, since too many had come before, by what those are counted by.",
                &["by"],
            )?,
            client_registrations: add.counters(
                "sidegate_client_registrations_total",
                "Clients that have registered themselves, or meant to, by result.",
                &["result"],
            )?,
            limited: add.counters(
                "sidegate_issuer_limited_total",
                "Requests to the issuer refused since there were too many, by endpoint and by what they are counted by.",
                &["endpoint", "by"],
            )?,
            users_hook_calls: add.counters(
                "sidegate_users_hook_calls_total",
                "Questions to the hook that knows the users, by operation and result.",
                &["operation", "result"],
            )?,
            reloads: add.counters(
                "sidegate_config_reloads_total",
                "Configurations that were read while it runs, by result.",
                &["result"],
            )?,
            reload_successful: add.keep(IntGauge::new(
                "sidegate_config_last_reload_successful",
                "1 while the latest configuration is the one that serves, 0 when it was refused.",
            )?)?,
            config_loaded_at: add.keep(IntGauge::new(
                "sidegate_config_loaded_timestamp_seconds",
                "When the configuration that serves was taken up.",
            )?)?,
            ready: add.keep(Gauge::new("sidegate_ready", "1 while /readyz says yes.")?)?,
            audit_lines_lost: add.keep(IntCounter::new(
                "sidegate_audit_lines_lost_total",
                "Lines of the audit log that could not be written, or found no place among those that wait for it.",
            )?)?,
            registry,
        };
        Ok(Self(Arc::new(series)))
    }

    /// The exposition for Prometheus, in its text format.
    ///
    /// # Errors
    /// When a series cannot be encoded, which is a mistake in this file.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.0.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// Whether the process is ready has changed.
    pub fn ready(&self, ready: bool) {
        self.0.ready.set(f64::from(u8::from(ready)));
    }

    /// A client connection was accepted; the guard counts it as open until it is dropped.
    pub fn connection(&self, listener: &str) -> OpenConnection {
        self.0.connections_accepted.with_label_values(&[listener]).inc();
        OpenConnection::count(&self.0.connections.with_label_values(&[listener]))
    }

    /// An idle client connection has given up its buffers, until the guard is dropped.
    pub fn connection_parked(&self) -> OpenConnection {
        OpenConnection::count(&self.0.connections_parked)
    }

    /// Sidegate ended a client connection. `cause`: `handshake_timeout`, `handshake_failed`, `header_timeout`,
    /// `body_timeout`, `write_timeout`, `keep_alive_timeout`, `drain_timeout`, `http2_flood`,
    /// `http2_broken` (its client went against the protocol).
    pub fn connection_closed(&self, cause: &'static str) {
        self.0.connections_closed.with_label_values(&[cause]).inc();
    }

    /// Sidegate reset one request of an HTTP/2 connection. `cause`: `body_timeout`, `write_timeout`.
    pub fn stream_reset(&self, cause: &'static str) {
        self.0.streams_reset.with_label_values(&[cause]).inc();
    }

    /// A client connection was closed as soon as it was accepted. `reason`: `per_address`.
    pub fn connection_refused(&self, listener: &str, reason: &'static str) {
        self.0.connections_refused.with_label_values(&[listener, reason]).inc();
    }

    /// Files of TLS have changed on disk. `result`: `ok`, or `failed` when what was there before serves on.
    pub fn tls_reloaded(&self, result: &'static str) {
        self.0.tls_reloads.with_label_values(&[result]).inc();
    }

    /// When the certificate in `cert_file`, as the configuration names it, expires; in seconds since the epoch.
    pub fn certificate_expires(&self, listener: &str, cert_file: &str, expires: i64) {
        self.0.certificate_expiry.with_label_values(&[listener, cert_file]).set(expires);
    }

    /// How many of the issuer's own keys are in a state: `next`, `active`, `retired`, `revoked`.
    pub fn signing_keys(&self, state: &'static str, keys: usize) {
        self.0.signing_keys.with_label_values(&[state]).set(i64::try_from(keys).unwrap_or(i64::MAX));
    }

    /// One of the issuer's own keys has come into a state.
    pub fn signing_key_changed(&self, state: &'static str) {
        self.0.signing_key_changes.with_label_values(&[state]).inc();
    }

    /// A token endpoint request has been answered. `client_kind` is `public`, `confidential`, or `unknown` where it has not shown who it
    /// is; `grant` is a grant type or `unknown`; `result` is `ok` or the OAuth error code.
    pub fn issuer_grant(&self, client_kind: &'static str, grant: &'static str, result: &'static str) {
        self.0.grants.with_label_values(&[client_kind, grant, result]).inc();
    }

    /// A request was one too many for the issuer. `endpoint` is where it went; `by`: `address`, `client`, `client_at_address`.
    pub fn issuer_limited(&self, endpoint: &'static str, by: &'static str) {
        self.0.limited.with_label_values(&[endpoint, by]).inc();
    }

    /// What the access-token revocation table holds: entries by kind, about how many bytes that takes,
    /// and whether those are more entries than there should be.
    pub fn revocation_table(&self, kinds: &[&'static str], entries: &[usize], bytes: usize, alarm: bool) {
        for (kind, entries) in kinds.iter().zip(entries) {
            let entries = i64::try_from(*entries).unwrap_or(i64::MAX);
            self.0.revocation_entries.with_label_values(&[kind]).set(entries);
        }
        self.0.revocation_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.0.revocation_alarm.set(i64::from(alarm));
    }

    /// A revocation that was made so long ago is in force in this process.
    pub fn revocation_in_force(&self, after: std::time::Duration) {
        self.0.revocation_propagation.observe(after.as_secs_f64());
    }

    /// A revocation was made. `cause`: `revoke_endpoint`, `reuse`, `rollback`, `user_gone`, `too_many`, `disabled`,
    /// `admin_api`, `command`.
    pub fn revocation_made(&self, cause: &'static str) {
        self.0.revocations.with_label_values(&[cause]).inc();
    }

    /// A refresh token was presented; `outcome`: `rotated`, `replayed`, `reused`, `rolled_back`, `revoked`,
    /// `logged_out` (an epoch has ended it), `blacklisted` (refused without the store), `expired`, `unknown`, `forged`.
    pub fn refresh(&self, outcome: &'static str) {
        self.0.refreshes.with_label_values(&[outcome]).inc();
    }

    /// An introspection request has been answered; `result` is `active`, `inactive` or the OAuth error code.
    pub fn introspection(&self, result: &'static str) {
        self.0.introspections.with_label_values(&[result]).inc();
    }

    /// A login, or the authentication of a client, was refused unseen. `by`: `browser`, `user_at_address`, `strangers`, `address`,
    /// `client_at_address`, `registration`.
    pub fn throttled(&self, by: &'static str) {
        self.0.throttled.with_label_values(&[by]).inc();
    }

    /// A client has registered itself, or meant to; `result` is `ok` or the OAuth error code.
    pub fn client_registration(&self, result: &'static str) {
        self.0.client_registrations.with_label_values(&[result]).inc();
    }

    /// The hook that knows the users was asked. `operation`: `log_in`, `look_up`; `result`: `ok`, `denied`, `disabled`, `gone`,
    /// those of [`FetchError::result`](crate::client::FetchError::result), `bad_answer`, `busy`.
    pub fn users_hook_asked(&self, operation: &'static str, result: &'static str) {
        self.0.users_hook_calls.with_label_values(&[operation, result]).inc();
    }

    /// So many lines of the audit log are in no file.
    pub fn audit_lines_lost(&self, lines: u64) {
        self.0.audit_lines_lost.inc_by(lines);
    }
}

/// Counts something as open for as long as it is kept.
#[derive(Debug)]
pub struct OpenConnection(IntGauge);

impl OpenConnection {
    fn count(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Makes series and registers them.
struct Add<'a>(&'a Registry);

impl Add<'_> {
    fn keep<C: Collector + Clone + 'static>(&self, series: C) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(series.clone()))?;
        Ok(series)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.keep(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.keep(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, prometheus::Error> {
        self.keep(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?)
    }
}

/// A child counter for the hot path, so that no label is looked up there.
type Held = IntCounter;
