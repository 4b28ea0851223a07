//! The internal issuer through its requests and responses, on a simulated clock.

mod answers;
mod assertion;
mod audit;
mod authorize;
mod clients;
mod consent;
mod cors;
mod hook;
mod introspect;
mod keys;
mod limits;
mod logout;
mod operators;
mod refresh;
mod revoke;
mod start;
mod throttle;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use argon2::{
    Algorithm as Argon2Algorithm, Argon2, Params, PasswordHasher as _, Version, password_hash::phc::PasswordHash,
};
use aws_lc_rs::digest;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use sidegate::{
    clock::{Clock, Timestamp},
    issuer::{
        AccessToken, Cause, Client, Config, Consent, Credentials, GrantType, Issuer, KeysConfig, Lifetimes, Limits,
        Login, OFFLINE_ACCESS, OpenError, RedirectUri, RefreshToken, RevokeError, RevokeRequest, SecretHash,
        StoreConfig, Throttle, User,
    },
    revocation::Revocations,
    store::{OnRollback, Revocation},
    telemetry::{Metrics, audit::Audit},
    token::Algorithm,
    types::{Audience, ClientId, Credential, IssuerUrl, Scopes, Subject},
};
use tempfile::TempDir;

const URL: &str = "http://localhost:3000";
const START: u64 = 1_800_000_000;
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// An issuer with these clients: `app` (a person's secret, all of the user's grants), `spa` (public), `svc` (a generated
/// secret, speaks for itself), `odd` (an id and a secret that need form-encoding), `fixed` (keeps its refresh token),
/// `plain` (no refresh tokens); and these users: `alice`, and `mallory`, who is disabled.
struct Rig {
    folder: TempDir,
    hand: Arc<AtomicU64>,
    config: Config,
    revocations: Arc<Revocations>,
    metrics: Metrics,
    issuer: Arc<Issuer>,
}

impl Rig {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (_, hand) = Clock::simulated(Timestamp::from_secs(START));
        let mut config = config(folder.path());
        change(&mut config);
        let (revocations, metrics) = (Arc::default(), Metrics::new().unwrap());
        let issuer = open(&config, &hand, &revocations, &metrics).await.unwrap();
        Self { folder, hand, config, revocations, metrics, issuer }
    }

    /// The process ends, and another one starts on what it left.
    async fn restarted(self, change: impl FnOnce(&mut Config)) -> Self {
        let Self { folder, hand, mut config, issuer, .. } = self;
        drop(issuer);
        change(&mut config);
        Self::opened(folder, hand, config).await
    }

    /// One that starts on what is in a folder.
    async fn opened(folder: TempDir, hand: Arc<AtomicU64>, config: Config) -> Self {
        let (revocations, metrics) = (Arc::default(), Metrics::new().unwrap());
        let issuer = open(&config, &hand, &revocations, &metrics).await.unwrap();
        Self { folder, hand, config, revocations, metrics, issuer }
    }

    fn pass(&self, by: Duration) {
        self.hand.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }

    async fn post(&self, path: &str, authorization: Option<&str>, body: &str) -> Answer {
        let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        self.send(request.body(Bytes::copy_from_slice(body.as_bytes())).unwrap()).await
    }

    async fn send(&self, request: Request<Bytes>) -> Answer {
        let endpoint = self.issuer.endpoint(request.uri().path()).expect("a path of the issuer's");
        Answer(self.issuer.handle(endpoint, request).await)
    }

    async fn token(&self, authorization: Option<&str>, body: &str) -> Answer {
        self.post("/oauth/token", authorization, body).await
    }

    /// Logs alice in through `app`.
    async fn log_in(&self) -> Tokens {
        self.token(Some(&app()), LOGIN).await.tokens()
    }

    /// Logs alice in through `spa`.
    async fn log_in_publicly(&self) -> Tokens {
        self.token(None, &format!("{LOGIN}&client_id=spa")).await.tokens()
    }

    async fn refresh(&self, token: &str) -> Answer {
        self.token(Some(&app()), &format!("grant_type=refresh_token&refresh_token={token}")).await
    }

    async fn refresh_publicly(&self, token: &str) -> Answer {
        self.token(None, &format!("grant_type=refresh_token&refresh_token={token}&client_id=spa")).await
    }

    async fn refresh_as(&self, public: &str, token: &str) -> Answer {
        self.token(None, &format!("grant_type=refresh_token&refresh_token={token}&client_id={public}")).await
    }

    fn is_revoked(&self, access_token: &str) -> bool {
        let (header, claims) = (part(access_token, 0), claims(access_token));
        self.revocations.is_revoked(&Credential {
            issuer: self.issuer.url(),
            token: claims["jti"].as_str(),
            session: claims["sid"].as_str(),
            subject: claims["sub"].as_str(),
            client: claims["client_id"].as_str(),
            key: header["kid"].as_str(),
            began: claims["sidegate_began"].as_str(),
            dated: claims["iat"].as_u64(),
        })
    }

    /// Revokes as an operator does.
    async fn ban(&self, kind: &str, id: &str) -> Result<Revocation, RevokeError> {
        let id = Some(id.to_owned()).filter(|id| !id.is_empty());
        let request = RevokeRequest { kind: kind.into(), id, reason: "a test".into(), ..RevokeRequest::default() };
        self.issuer.revoke(&request, Cause::AdminApi).await
    }

    /// The value of a counter or gauge, by its name and labels as they are exposed.
    fn metric(&self, series: &str) -> u64 {
        let text = String::from_utf8(self.metrics.render().unwrap()).unwrap();
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse::<f64>().ok())
            .map_or(0, |value| value as u64)
    }

    fn refreshes(&self, outcome: &str) -> u64 {
        self.metric(&format!("sidegate_refresh_tokens_total{{outcome=\"{outcome}\"}}"))
    }
}

const LOGIN: &str = "grant_type=password&username=alice&password=open+sesame";

struct Answer(Response<Bytes>);

impl Answer {
    fn status(&self) -> StatusCode {
        self.0.status()
    }

    fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.0.headers().get(name).map(|value| value.to_str().unwrap())
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(self.0.body()).unwrap_or_else(|_| panic!("no JSON: {:?}", self.0))
    }

    #[track_caller]
    fn tokens(&self) -> Tokens {
        assert_eq!(self.status(), StatusCode::OK, "{:?}", self.0);
        let body = self.json();
        Tokens {
            access: body["access_token"].as_str().unwrap().into(),
            refresh: body["refresh_token"].as_str().unwrap_or_default().into(),
            body,
        }
    }

    /// That this is an OAuth error as RFC 6749 §5.2 has it, which nobody may keep.
    #[track_caller]
    fn assert_error(&self, status: u16, code: &str) {
        assert_eq!(self.status().as_u16(), status, "{:?}", self.0);
        assert_eq!(self.json()["error"], code, "{:?}", self.0);
        let description = self.json()["error_description"].as_str().unwrap().to_owned();
        assert!(description.bytes().all(|b| matches!(b, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e)), "{description}");
        self.assert_not_kept();
        assert!(self.header(header::WWW_AUTHENTICATE).is_none(), "{:?}", self.0);
        assert_eq!(self.header(header::RETRY_AFTER).is_some(), matches!(status, 429 | 503), "{:?}", self.0);
    }

    #[track_caller]
    fn assert_not_kept(&self) {
        assert_eq!(self.header(header::CACHE_CONTROL), Some("no-store"));
        assert_eq!(self.header(header::PRAGMA), Some("no-cache"));
    }
}

struct Tokens {
    access: String,
    refresh: String,
    body: Value,
}

impl Tokens {
    fn sid(&self) -> String {
        claims(&self.access)["sid"].as_str().unwrap().into()
    }
}

fn part(token: &str, n: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(n).unwrap()).unwrap()).unwrap()
}

fn claims(token: &str) -> Value {
    part(token, 1)
}

fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
}

fn app() -> String {
    basic("app", "secret")
}

fn svc() -> String {
    basic("svc", "generated")
}

async fn open(
    config: &Config,
    hand: &Arc<AtomicU64>,
    revocations: &Arc<Revocations>,
    metrics: &Metrics,
) -> Result<Arc<Issuer>, OpenError> {
    Issuer::open(config.clone(), Clock::Simulated(hand.clone()), revocations.clone(), metrics.clone(), Audit::default())
        .await
}

/// Real Argon2id with the least memory it takes: the tests hash often.
fn argon2id(secret: &str) -> SecretHash {
    let hasher = Argon2::new(Argon2Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
    let hash: PasswordHash = hasher.hash_password_with_salt(secret.as_bytes(), b"0123456789abcdef").unwrap();
    SecretHash::Argon2id(hash.to_string().into())
}

fn sha256(secret: &str) -> SecretHash {
    SecretHash::Sha256(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref().try_into().unwrap())
}

fn client(id: &str, secret_hash: Option<SecretHash>, grants: &[GrantType]) -> Client {
    Client {
        id: ClientId::new(id),
        credentials: secret_hash.map_or(Credentials::None, |hash| Credentials::Secrets(vec![hash])),
        name: id.into(),
        redirect_uris: Vec::new(),
        post_logout_redirect_uris: Vec::new(),
        consent: Consent::Ask,
        grants: grants.to_vec(),
        scopes: Scopes::from_values(["read", "write"]),
        rotate: true,
        exchange: None,
        dpop_bound_access_tokens: false,
        tls_client_certificate_bound_access_tokens: false,
        disabled: false,
        access_token_lifetime: None,
        lifetimes: None,
        registered_itself: false,
    }
}

fn user(username: &str, password: &str) -> User {
    User {
        username: username.into(),
        password_hash: argon2id(password),
        subject: Subject::new(format!("user-{username}")),
        disabled: false,
        claims: Map::new(),
    }
}

fn config(data: &Path) -> Config {
    use GrantType::{ClientCredentials, Password, RefreshToken as Refresh};
    let mut alice = user("alice", "open sesame");
    alice.claims = json!({ "roles": ["admin"], "sub": "root", "exp": 9_999_999_999_u64, "nbf": 1, "sid": "none" })
        .as_object()
        .unwrap()
        .clone();
    Config {
        url: IssuerUrl::new(URL),
        access_token: AccessToken {
            lifetime: 300 * SECOND,
            algorithm: Algorithm::Es256,
            audience: Audience::new("api"),
            resources: Vec::new(),
        },
        refresh_token: RefreshToken {
            lifetimes: Lifetimes { idle: 14 * DAY, absolute: 90 * DAY },
            remembered: Lifetimes { idle: 90 * DAY, absolute: 365 * DAY },
            max_sessions: None,
            reuse_interval: 10 * SECOND,
            retry_window: 60 * SECOND,
            confidential_retry_window: None,
            on_rollback: OnRollback::Relogin,
        },
        data: data.join("data"),
        store: StoreConfig::Embedded,
        master_key: None,
        previous_master_keys: Vec::new(),
        keys: KeysConfig { rotate_every: None, publish_ahead: DAY, file: None },
        feed_credential: None,
        login: Login { lifetime: 8 * 3600 * SECOND, name: "Example".into(), logo: None, color: [0x0b, 0x57, 0xd0] },
        throttle: Some(Throttle {
            failures: 5,
            failures_by_strangers: 20,
            failures_by_address: 100,
            longest_wait: 60 * SECOND,
        }),
        registration: None,
        limits: Limits::default(),
        clients: vec![
            client("app", Some(argon2id("secret")), &[Password, Refresh]),
            client("spa", None, &[Password, Refresh, ClientCredentials]),
            Client {
                access_token_lifetime: Some(60 * SECOND),
                ..client("svc", Some(sha256("generated")), &[ClientCredentials])
            },
            client("odd id&=", Some(argon2id("100%+ä:&=x")), &[ClientCredentials]),
            Client { rotate: false, ..client("fixed", Some(sha256("generated")), &[Password, Refresh]) },
            client("plain", Some(sha256("generated")), &[Password]),
        ],
        users: vec![alice, User { disabled: true, ..user("mallory", "open sesame") }],
        users_file: None,
        needs_nonces: false,
        users_hook: None,
        others: vec![
            (IssuerUrl::new("https://bounded.example"), Some(600 * SECOND)),
            (IssuerUrl::new("https://unbounded.example"), None),
        ],
    }
}
