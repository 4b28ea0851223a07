//! The shapes of config.yaml. Nothing is required here and hardly anything is checked: a key that is missing and a value
//! that makes no sense are found by `check`, which can go on after the first. What is found here is the unknown key and
//! the wrong kind of value.

mod read;
mod scalar;
mod value;

use serde::Deserialize;
use serde_json::Value;

pub(super) use read::{read, read_users};
pub(super) use scalar::{Flag, Mapping, Scalar, SecretText, Users};

/// A mapping that may be left out.
pub(super) type Section<T> = Option<Mapping<T>>;
/// A list that may be left out. An element is `None` where nothing stands, or where what stood was wrong.
pub(super) type List<T> = Option<Vec<Option<T>>>;

/// Declares mappings whose keys may all be left out, and which take no other keys.
macro_rules! shapes {
    ($($name:ident { $($key:ident: $kind:ty,)* })*) => { $(
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(in crate::config) struct $name { $(pub(in crate::config) $key: $kind,)* }
    )* };
}

shapes! {
    Config {
        workers: Option<Scalar>,
        listeners: List<Mapping<Listener>>,
        limits: Section<Limits>,
        shutdown: Section<Shutdown>,
        admin: Section<Admin>,
        trusted_proxies: List<String>,
        tokens: Section<Tokens>,
        log: Section<Log>,
        upstreams: List<Mapping<Upstream>>,
        providers: List<Mapping<Provider>>,
        routes: List<Mapping<Route>>,
        issuer: Section<Issuer>,
        revocation_feed: Section<FollowedFeed>,
    }
    FollowedFeed {
        url: Option<String>,
        urls: List<String>,
        credential: Option<SecretText>,
        ca_file: Option<String>,
        max_staleness: Option<Scalar>,
        snapshot_file: Option<String>,
    }
    Listener {
        name: Option<String>,
        address: Option<String>,
        issuer: Option<Flag>,
        tls: Section<Tls>,
    }
    Tls {
        certificates: List<Mapping<Certificate>>,
        min_version: Option<Scalar>,
        client_auth: Section<ClientAuth>,
    }
    Certificate {
        cert_file: Option<String>,
        key_file: Option<String>,
    }
    ClientAuth {
        mode: Option<String>,
        ca_file: Option<String>,
        subject_header: Option<String>,
    }
    Limits {
        max_connections: Option<Scalar>,
        max_connections_per_address: Option<Scalar>,
        max_header_bytes: Option<Scalar>,
        max_headers: Option<Scalar>,
        max_streams: Option<Scalar>,
        max_body_bytes: Option<Scalar>,
        tls_handshake_timeout: Option<Scalar>,
        header_timeout: Option<Scalar>,
        body_timeout: Option<Scalar>,
        keep_alive_timeout: Option<Scalar>,
    }
    Shutdown {
        drain_delay: Option<Scalar>,
        drain_timeout: Option<Scalar>,
    }
    Admin {
        address: Option<String>,
        token: Option<SecretText>,
    }
    Tokens {
        max_bytes: Option<Scalar>,
        cache: Option<Scalar>,
        revocations_alarm: Option<Scalar>,
        realm: Option<String>,
        dpop_nonces: Option<String>,
    }
    Log {
        level: Option<String>,
        format: Option<String>,
        requests: Option<String>,
        audit: Option<String>,
    }
    Upstream {
        name: Option<String>,
        urls: List<String>,
        demo: Option<Flag>,
        connect_timeout: Option<Scalar>,
        response_timeout: Option<Scalar>,
        idle_timeout: Option<Scalar>,
        tunnel_idle_timeout: Option<Scalar>,
        keep_alive: Option<Scalar>,
        total_timeout: Option<Scalar>,
        max_idle: Option<Scalar>,
        max_streams_per_connection: Option<Scalar>,
        tls: Section<UpstreamTls>,
        dns_refresh: Option<Scalar>,
        outlier: Section<Outlier>,
        health_check: Section<HealthCheck>,
        retries: Option<Scalar>,
        max_requests: Option<Scalar>,
        max_queue: Option<Scalar>,
        queue_timeout: Option<Scalar>,
    }
    UpstreamTls {
        ca_file: Option<String>,
        server_name: Option<String>,
        client_certificate: Section<Certificate>,
    }
    Outlier {
        failures: Option<Scalar>,
        eject_for: Option<Scalar>,
    }
    HealthCheck {
        path: Option<String>,
        interval: Option<Scalar>,
        timeout: Option<Scalar>,
        unhealthy_after: Option<Scalar>,
        healthy_after: Option<Scalar>,
    }
    Provider {
        name: Option<String>,
        issuer: Option<String>,
        audiences: List<String>,
        algorithms: List<String>,
        leeway: Option<Scalar>,
        profile: Option<String>,
        required_claims: List<String>,
        max_lifetime: Option<Scalar>,
        jwks: Option<String>,
        jwks_uri: Option<String>,
        discovery: Option<Flag>,
        jwks_fetch: Section<Fetch>,
        jwks_file: Option<String>,
        jwks_inline: Option<serde_json::Map<String, Value>>,
        hmac_secret: Option<SecretText>,
    }
    Fetch {
        ca_file: Option<String>,
        timeout: Option<Scalar>,
        min_refresh: Option<Scalar>,
        max_refresh: Option<Scalar>,
        cooldown: Option<Scalar>,
        max_stale: Option<Scalar>,
        on_stale: Option<String>,
        on_start: Option<String>,
        insecure_http: Option<Flag>,
    }
    Route {
        name: Option<String>,
        r#match: Section<Match>,
        auth: Option<String>,
        providers: List<String>,
        resource: Option<String>,
        audiences: List<String>,
        require: Section<Require>,
        claim_headers: List<Mapping<ClaimHeader>>,
        forward_token: Option<Flag>,
        legacy_query_token: Option<Flag>,
        close_streams: Option<String>,
        on_stale: Option<String>,
        allow_paths: List<String>,
        max_body_bytes: Option<Scalar>,
        rate_limit: Section<RateLimit>,
        rate_limits: List<Mapping<RateLimit>>,
        cors: Section<Cors>,
        foreign_origins: Option<String>,
        upstream: Option<String>,
    }
    Match {
        path: Option<String>,
        path_prefix: Option<String>,
        hosts: List<String>,
        methods: List<String>,
    }
    Require {
        scopes: List<String>,
        claims: Option<serde_json::Map<String, Value>>,
        bound: Option<Flag>,
    }
    RateLimit {
        requests: Option<Scalar>,
        per: Option<Scalar>,
        burst: Option<Scalar>,
        by: Option<String>,
    }
    Rate {
        requests: Option<Scalar>,
        per: Option<Scalar>,
        burst: Option<Scalar>,
    }
    ClaimHeader {
        claim: Option<String>,
        header: Option<String>,
    }
    Cors {
        origins: List<String>,
        methods: List<String>,
        headers: List<String>,
        expose_headers: List<String>,
        credentials: Option<Flag>,
        max_age: Option<Scalar>,
    }
    Issuer {
        url: Option<String>,
        access_token: Section<AccessToken>,
        refresh_token: Section<RefreshToken>,
        store: Section<Store>,
        master_key: Option<SecretText>,
        previous_master_keys: List<SecretText>,
        keys: Section<SigningKeys>,
        revocation_feed: Section<ServedFeed>,
        login: Section<Login>,
        throttle: Section<Throttle>,
        limits: Section<IssuerLimits>,
        clients: List<Mapping<Client>>,
        registration: Section<Registration>,
        users: Option<Users>,
    }
    Registration {
        scopes: List<String>,
    }
    Login {
        lifetime: Option<Scalar>,
        name: Option<String>,
        logo_file: Option<String>,
        color: Option<String>,
    }
    Throttle {
        failures: Option<Scalar>,
        failures_by_strangers: Option<Scalar>,
        failures_by_address: Option<Scalar>,
        longest_wait: Option<Scalar>,
        insecure_off: Option<Flag>,
    }
    IssuerLimits {
        per_address: Section<Rate>,
        per_client: Section<Rate>,
    }
    ServedFeed {
        credential: Option<SecretText>,
        insecure_http: Option<Flag>,
    }
    SigningKeys {
        rotate_every: Option<Scalar>,
        publish_ahead: Option<Scalar>,
        file: Option<String>,
    }
    Exchange {
        from: List<String>,
        to: List<String>,
    }
    AccessToken {
        lifetime: Option<Scalar>,
        algorithm: Option<String>,
        audience: Option<String>,
        resources: List<String>,
    }
    RefreshToken {
        idle_lifetime: Option<Scalar>,
        absolute_lifetime: Option<Scalar>,
        remembered: Section<Lifetimes>,
        max_sessions_per_subject: Option<Scalar>,
        retry_window: Option<Scalar>,
        confidential_retry_window: Option<Scalar>,
        reuse_interval: Option<Scalar>,
        on_rollback: Option<String>,
    }
    Lifetimes {
        idle_lifetime: Option<Scalar>,
        absolute_lifetime: Option<Scalar>,
    }
    Store {
        embedded: Section<Embedded>,
        redis: Section<Redis>,
    }
    Embedded {
        path: Option<String>,
    }
    Redis {
        url: Option<String>,
        urls: List<String>,
        sentinel: Option<String>,
        cluster: Option<Flag>,
        user: Option<String>,
        password: Option<SecretText>,
        sentinel_user: Option<String>,
        sentinel_password: Option<SecretText>,
        ca_file: Option<String>,
        prefix: Option<String>,
        timeout: Option<Scalar>,
        wait: Section<Wait>,
        max_staleness: Option<Scalar>,
        path: Option<String>,
    }
    Wait {
        replicas: Option<Scalar>,
        timeout: Option<Scalar>,
    }
    Client {
        id: Option<String>,
        secret_hash: Option<String>,
        name: Option<String>,
        redirect_uris: List<String>,
        post_logout_redirect_uris: List<String>,
        consent: Option<String>,
        secret_hashes: List<String>,
        jwks: Option<serde_json::Map<String, Value>>,
        jwks_file: Option<String>,
        tls_client_auth_subject_dn: Option<String>,
        tls_client_auth_san_dns: Option<String>,
        tls_client_auth_san_uri: Option<String>,
        tls_client_auth_san_ip: Option<String>,
        tls_client_auth_san_email: Option<String>,
        grants: List<String>,
        legacy_password_grant: Option<Flag>,
        scopes: List<String>,
        rotation: Option<String>,
        exchange: Section<Exchange>,
        dpop_bound_access_tokens: Option<Flag>,
        tls_client_certificate_bound_access_tokens: Option<Flag>,
        disabled: Option<Flag>,
        access_token_lifetime: Option<Scalar>,
        sessions: Section<Lifetimes>,
    }
    UsersSource {
        file: Option<String>,
        http: Section<UsersHook>,
    }
    UsersHook {
        url: Option<String>,
        credential: Option<SecretText>,
        timeout: Option<Scalar>,
        recheck: Option<Scalar>,
        ca_file: Option<String>,
        claims: Option<serde_json::Map<String, Value>>,
    }
    User {
        username: Option<String>,
        password_hash: Option<String>,
        subject: Option<String>,
        disabled: Option<Flag>,
        claims: Option<serde_json::Map<String, Value>>,
    }
}
