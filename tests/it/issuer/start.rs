//! What a start makes, keeps and refuses; and what anybody may read.

use std::{fs, os::unix::fs::PermissionsExt as _};

use sidegate::issuer::Endpoint;

use super::*;

#[tokio::test]
async fn a_restart_keeps_keys_sessions_and_revocations() {
    let rig = Rig::new().await;
    let (live, gone) = (rig.log_in().await, rig.log_in().await);
    let single = rig.token(Some(&svc()), "grant_type=client_credentials").await.tokens();
    rig.post("/oauth/revoke", Some(&app()), &format!("token={}", gone.refresh)).await;
    rig.post("/oauth/revoke", Some(&svc()), &format!("token={}", single.access)).await;
    let jwks = rig.get("/.well-known/jwks.json").await;

    let rig = rig.restarted(|_| {}).await;
    assert_eq!(rig.get("/.well-known/jwks.json").await, jwks);
    // Known before the first request.
    assert!(rig.is_revoked(&gone.access) && rig.is_revoked(&single.access) && !rig.is_revoked(&live.access));
    assert_eq!(rig.metric("sidegate_revocation_entries{kind=\"session\"}"), 1);
    rig.refresh(&live.refresh).await.tokens();
    rig.refresh(&gone.refresh).await.assert_error(400, "invalid_grant");
    assert_eq!(rig.refreshes("blacklisted"), 1);
}

#[tokio::test]
async fn another_algorithm_is_another_key_and_the_old_one_verifies_on() {
    let rig = Rig::new().await;
    let kinds =
        |jwks: Value| -> Vec<Value> { jwks["keys"].as_array().unwrap().iter().map(|key| key["alg"].clone()).collect() };
    let ec = rig.get("/.well-known/jwks.json").await["keys"][0].clone();
    let rig = rig.restarted(|config| config.access_token.algorithm = Algorithm::EdDsa).await;
    let jwks = rig.get("/.well-known/jwks.json").await;
    assert_eq!((kinds(jwks.clone()), &jwks["keys"][0]), (vec![json!("ES256"), json!("EdDSA")], &ec));
    assert_eq!(part(&rig.log_in().await.access, 0)["alg"], "EdDSA");
    let rig = rig.restarted(|config| config.access_token.algorithm = Algorithm::Ps256).await;
    assert_eq!(kinds(rig.get("/.well-known/jwks.json").await), ["ES256", "EdDSA", "PS256"]);
    let rig = rig.restarted(|config| config.access_token.algorithm = Algorithm::Es384).await;
    assert_eq!(part(&rig.log_in().await.access, 0)["alg"], "ES384");
    for entry in fs::read_dir(&rig.config.data).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn a_shared_key_is_never_published() {
    let rig = Rig::with(|config| config.access_token.algorithm = Algorithm::Hs256).await;
    assert_eq!(rig.get("/.well-known/jwks.json").await, json!({ "keys": [] }));
    assert!(rig.get("/.well-known/oauth-authorization-server").await.get("jwks_uri").is_none());
    let tokens = rig.log_in().await;
    assert_eq!(part(&tokens.access, 0)["alg"], "HS256");
    rig.post("/oauth/revoke", Some(&app()), &format!("token={}", tokens.access)).await;
    assert!(rig.is_revoked(&tokens.access));
}

#[tokio::test]
async fn a_key_that_everybody_can_read_is_refused() {
    for name in ["master.key", "signing-keys.json"] {
        let rig = Rig::new().await;
        let path = rig.config.data.join(name);
        let Rig { folder: _folder, hand, config, issuer, .. } = rig;
        drop(issuer);
        let before = fs::read(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = refused(&config, &hand).await;
        assert!(error.starts_with(&format!("the key file {} can be used by everybody (mode 644)", path.display())));
        assert_eq!(fs::read(&path).unwrap(), before);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        open(&config, &hand, &Arc::default(), &Metrics::new().unwrap()).await.unwrap();
    }
}

#[tokio::test]
async fn a_damaged_key_is_refused_and_not_replaced() {
    for name in ["master.key", "signing-keys.json"] {
        let rig = Rig::new().await;
        let path = rig.config.data.join(name);
        let Rig { folder: _folder, hand, config, issuer, .. } = rig;
        drop(issuer);
        fs::write(&path, b"short").unwrap();
        assert!(refused(&config, &hand).await.starts_with("the key file"));
        assert_eq!(fs::read(&path).unwrap(), b"short");
    }
}

#[tokio::test]
async fn a_master_key_from_the_configuration_makes_the_tokens() {
    use sidegate::types::Secret;
    let rig = Rig::with(|config| config.master_key = Some(Secret::new(vec![7; 32]))).await;
    assert!(!rig.config.data.join("master.key").exists());
    let tokens = rig.log_in().await;
    assert_eq!(tokens.refresh, expected_refresh_token(&[7; 32], &tokens.sid(), 0, "app"));
    let second = rig.refresh(&tokens.refresh).await.tokens();
    assert_eq!(second.refresh, expected_refresh_token(&[7; 32], &tokens.sid(), 1, "app"));
    // Without it the signing keys stay closed; nobody replaces them unasked.
    let Rig { folder, hand, config, issuer, .. } = rig;
    drop(issuer);
    let other = Config { master_key: Some(Secret::new(vec![8; 32])), ..config.clone() };
    let error = refused(&other, &hand).await;
    assert!(error.contains("does not go with the master key") && error.contains("move it away"), "{error}");
    let (keys, away) = (config.data.join("signing-keys.json"), folder.path().join("away"));
    fs::rename(&keys, &away).unwrap();
    let rig = Rig::opened(folder, hand, other).await;
    rig.refresh(&tokens.refresh).await.assert_error(400, "invalid_grant");
    assert_eq!(rig.refreshes("forged"), 1);
    let rig = rig
        .restarted(|config| {
            config.master_key = Some(Secret::new(vec![7; 32]));
            fs::rename(&away, &keys).unwrap();
        })
        .await;
    rig.refresh(&tokens.refresh).await.tokens();
}

#[tokio::test]
async fn a_master_key_follows_another_and_nobody_is_logged_out() {
    use sidegate::types::Secret;
    let key = |byte| Secret::new(vec![byte; 32]);
    let rig = Rig::with(|config| config.master_key = Some(key(7))).await;
    let (kept, lost, first) = (rig.log_in().await, rig.log_in().await, rig.log_in_publicly().await);
    let second = rig.refresh(&kept.refresh).await.tokens();
    let rig = rig
        .restarted(|config| {
            (config.master_key, config.previous_master_keys) = (Some(key(8)), vec![key(6), key(7)]);
        })
        .await;
    // What the key of before made is good, and answered with what the new one makes; its signing key signs on.
    let third = rig.refresh(&second.refresh).await.tokens();
    assert_eq!(third.refresh, expected_refresh_token(&[8; 32], &kept.sid(), 2, "app"));
    assert_eq!(part(&third.access, 0)["kid"], part(&kept.access, 0)["kid"]);
    assert_eq!(rig.refresh(&second.refresh).await.tokens().refresh, third.refresh, "the same successor");
    rig.refresh(&kept.refresh).await.tokens();
    rig.refresh_publicly(&first.refresh).await.tokens();
    rig.refresh_publicly(&third.refresh).await.assert_error(400, "invalid_grant");
    rig.pass(61 * SECOND);
    rig.refresh_publicly(&first.refresh).await.assert_error(400, "invalid_grant");
    assert_eq!(rig.refreshes("reused"), 1, "the rules are the same for tokens of before");
    // Signing keys have been sealed anew, so that the one of before can go when its last session has.
    let rig = rig.restarted(|config| config.previous_master_keys = Vec::new()).await;
    assert_eq!(part(&rig.log_in().await.access, 0)["kid"], part(&kept.access, 0)["kid"]);
    rig.refresh(&third.refresh).await.tokens();
    rig.refresh(&lost.refresh).await.assert_error(400, "invalid_grant");
    assert_eq!(rig.refreshes("forged"), 1);
}

/// The form of a refresh token, made from its description: a change of it would log every user out.
fn expected_refresh_token(master: &[u8], sid: &str, generation: u32, client: &str) -> String {
    use aws_lc_rs::{hkdf, hmac};
    struct SixBytes;
    impl hkdf::KeyType for SixBytes {
        fn len(&self) -> usize {
            6
        }
    }
    let master = hkdf::Salt::new(hkdf::HKDF_SHA256, b"sidegate refresh token, version 1").extract(master);
    let mut key_id = [0; 6];
    master.expand(&[b"key id"], SixBytes).unwrap().fill(&mut key_id).unwrap();
    let session = URL_SAFE_NO_PAD.decode(sid).unwrap();
    let key: hmac::Key = master.expand(&[b"session", &session], hmac::HMAC_SHA256).unwrap().into();
    let body = [&*session, &generation.to_be_bytes()].concat();
    let mac = hmac::sign(&key, &[&*body, client.as_bytes()].concat());
    format!("sg1.{}.{}", URL_SAFE_NO_PAD.encode(key_id), URL_SAFE_NO_PAD.encode([&*body, mac.as_ref()].concat()))
}

#[tokio::test]
async fn a_second_issuer_on_the_same_folder_is_told_whose_it_is() {
    let rig = Rig::new().await;
    let error = refused(&rig.config, &rig.hand).await;
    assert!(error.ends_with(&format!("is in use by sidegate with pid {}", std::process::id())), "{error}");
}

type Change = fn(&mut Config);

#[tokio::test]
async fn a_configuration_that_would_let_somebody_in_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_, hand) = Clock::simulated(Timestamp::from_secs(START));
    let changes: [(Change, &str); 6] = [
        (|config| config.users[0].subject = Subject::new("client:svc"), "the subject of user alice"),
        (|config| config.users[0].password_hash = SecretHash::Argon2id("secret".into()), "the hash of user alice"),
        (
            |config| {
                // Any of them would let somebody in.
                let hash = SecretHash::Argon2id("$argon2i$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aaaaaaaaaaaaaaaa".into());
                config.clients[0].credentials = Credentials::Secrets(vec![sha256("secret"), hash]);
            },
            "the hash of client app is not an Argon2id hash",
        ),
        (
            |config| {
                config.users[0].password_hash =
                    SecretHash::Argon2id("$argon2id$v=19$m=2097152,t=1,p=1$c2FsdHNhbHQ$8A9TmVMvBGX2MNMYcJyu6g".into())
            },
            "the hash of user alice asks for more than 1 GiB",
        ),
        (|config| config.master_key = Some(sidegate::types::Secret::new(vec![7; 31])), "a master key has less"),
        (
            |config| {
                let shared = sidegate::types::Secret::new(vec![7; 32]);
                let keys = sidegate::token::keys::KeySet::hmac(&shared, Algorithm::Hs256).unwrap();
                config.clients[0].credentials = Credentials::Keys(keys);
            },
            "a key of client app is a secret",
        ),
    ];
    for (change, text) in changes {
        let mut config = config(folder.path());
        change(&mut config);
        let error = refused(&config, &hand).await;
        assert!(error.starts_with(text), "{error}");
    }
}

#[tokio::test]
async fn the_paths_follow_the_issuers_url() {
    let rig = Rig::new().await;
    let find = |path| rig.issuer.endpoint(path);
    assert_eq!(find("/oauth/token"), Some(Endpoint::Token));
    assert_eq!(find("/oauth/revoke"), Some(Endpoint::Revoke));
    assert_eq!(find("/oauth/introspect"), Some(Endpoint::Introspect));
    assert_eq!(find("/.well-known/jwks.json"), Some(Endpoint::Jwks));
    assert_eq!(find("/.well-known/oauth-authorization-server"), Some(Endpoint::Metadata));
    for path in ["/oauth/token/", "//oauth/token", "/oauth/%74oken", "/OAUTH/token", "/oauth", "/", ""] {
        assert_eq!(find(path), None, "{path}");
    }

    let rig = Rig::with(|config| config.url = IssuerUrl::new("https://id.example/tenant")).await;
    let find = |path| rig.issuer.endpoint(path);
    assert_eq!(find("/tenant/oauth/token"), Some(Endpoint::Token));
    assert_eq!(find("/tenant/.well-known/jwks.json"), Some(Endpoint::Jwks));
    assert_eq!(find("/.well-known/oauth-authorization-server/tenant"), Some(Endpoint::Metadata));
    assert_eq!(find("/oauth/token"), None);
    assert_eq!(find("/.well-known/oauth-authorization-server"), None);
}

#[tokio::test]
async fn the_metadata_says_what_is_true() {
    let rig = Rig::new().await;
    assert_eq!(
        rig.get("/.well-known/oauth-authorization-server").await,
        json!({
            "issuer": URL,
            "token_endpoint": "http://localhost:3000/oauth/token",
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
            "revocation_endpoint": "http://localhost:3000/oauth/revoke",
            "revocation_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
            "introspection_endpoint": "http://localhost:3000/oauth/introspect",
            "introspection_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "grant_types_supported": ["client_credentials", "password", "refresh_token"],
            "dpop_signing_alg_values_supported":
                ["ES256", "ES384", "EdDSA", "Ed25519", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"],
            "response_types_supported": [],
            "jwks_uri": "http://localhost:3000/.well-known/jwks.json",
        })
    );
    // Where there are public clients alone, nobody may ask about a token.
    let rig = Rig::with(|config| config.clients.retain(|client| client.id.as_str() == "spa")).await;
    let document = rig.get("/.well-known/oauth-authorization-server").await;
    assert_eq!(document["token_endpoint_auth_methods_supported"], json!(["none"]));
    assert!(document.get("introspection_endpoint").is_none(), "{document}");
}

#[tokio::test]
async fn what_is_published_may_be_kept_and_asked_for_by_head() {
    let rig = Rig::new().await;
    for path in ["/.well-known/jwks.json", "/.well-known/oauth-authorization-server"] {
        let get = rig.send(Request::get(path).body(Bytes::new()).unwrap()).await;
        let head = rig.send(Request::head(path).body(Bytes::new()).unwrap()).await;
        assert_eq!(get.header(header::CACHE_CONTROL), Some("public, max-age=300"));
        assert_eq!(get.header(header::CONTENT_TYPE), Some("application/json"));
        assert_eq!(get.0.headers(), head.0.headers());
        assert_eq!(get.header(header::CONTENT_LENGTH), Some(&*get.0.body().len().to_string()));
        assert!(head.0.body().is_empty());
    }
    let jwks = rig.get("/.well-known/jwks.json").await;
    assert!(jwks["keys"][0].get("d").is_none());
    assert_eq!(part(&rig.log_in().await.access, 0)["kid"], jwks["keys"][0]["kid"]);
}

impl Rig {
    pub(super) async fn get(&self, path: &str) -> Value {
        let answer = self.send(Request::get(path).body(Bytes::new()).unwrap()).await;
        assert_eq!(answer.status(), 200);
        answer.json()
    }
}

pub(super) async fn refused(config: &Config, hand: &Arc<AtomicU64>) -> String {
    match open(config, hand, &Arc::default(), &Metrics::new().unwrap()).await {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}
