//! The issuer's own keys: one follows the other, and what one has signed can be refused.

use std::fs;

use sidegate::token::sign::Signer;

use super::{start::refused, *};

const MINUTE: Duration = Duration::from_secs(60);
const JWKS: &str = "/.well-known/jwks.json";

/// One with keys that sign for ten days and are published a day ahead.
async fn rotating() -> Rig {
    Rig::with(|config| config.keys = KeysConfig { rotate_every: Some(10 * DAY), publish_ahead: DAY, file: None }).await
}

impl Rig {
    /// Time passes, and the issuer notices.
    fn later(&self, by: Duration) {
        self.pass(by);
        self.issuer.tend_keys();
    }

    async fn published(&self) -> Vec<String> {
        let jwks = self.get(JWKS).await;
        jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    async fn signing(&self) -> String {
        part(&self.log_in().await.access, 0)["kid"].as_str().unwrap().to_owned()
    }

    fn verifies(&self, kid: &str) -> bool {
        self.issuer.keys().load().set.as_ref().unwrap().has(kid)
    }

    fn keys_in(&self, state: &str) -> u64 {
        self.metric(&format!("sidegate_issuer_signing_keys{{state=\"{state}\"}}"))
    }
}

#[tokio::test]
async fn a_key_is_published_before_it_signs_and_verifies_after_it_did() {
    let rig = rotating().await;
    let first = rig.signing().await;
    rig.later(9 * DAY - MINUTE);
    assert_eq!(rig.published().await, [&*first]);
    rig.later(2 * MINUTE);
    let published = rig.published().await;
    assert_eq!((published.len(), rig.signing().await == first), (2, true));
    let second = published.into_iter().find(|kid| *kid != first).unwrap();
    assert!(rig.verifies(&first) && rig.verifies(&second));
    rig.later(DAY);
    assert_eq!(rig.signing().await, second);
    assert_eq!((rig.keys_in("active"), rig.keys_in("retired"), rig.keys_in("next")), (1, 1, 0));
    // The last token lives for five minutes, and the most lenient gateway lets it in for one more.
    rig.later(6 * MINUTE - SECOND);
    assert!(rig.verifies(&first) && rig.published().await.contains(&first));
    rig.later(SECOND);
    assert!(!rig.verifies(&first));
    assert_eq!(rig.published().await, [&*second]);
    // And on and on.
    rig.later(9 * DAY);
    rig.later(DAY);
    assert_ne!(rig.signing().await, second);
}

#[tokio::test]
async fn nothing_follows_unless_it_is_told_to() {
    let rig = Rig::new().await;
    let first = rig.signing().await;
    rig.later(300 * DAY);
    assert_eq!(rig.published().await, [&*first]);
    let told = rig.issuer.rotate_keys(false, Cause::Command).unwrap();
    assert!(told.contains("next") && told.contains("signs in 24h"), "{told}");
    let again = rig.issuer.rotate_keys(false, Cause::Command).unwrap_err().to_string();
    assert!(again.contains("published already") && again.contains("--now"), "{again}");
    assert_eq!((rig.published().await.len(), rig.signing().await), (2, first.clone()));
    rig.later(DAY);
    assert_ne!(rig.signing().await, first);
    // At once, with one that was to follow and without.
    for _ in 0..2 {
        let before = rig.signing().await;
        rig.issuer.rotate_keys(true, Cause::Command).unwrap();
        assert_ne!(rig.signing().await, before);
    }
}

#[tokio::test]
async fn what_a_revoked_key_has_signed_is_refused_from_then_on() {
    let rig = rotating().await;
    let first = rig.signing().await;
    rig.issuer.rotate_keys(false, Cause::Command).unwrap();
    let next = rig.published().await.into_iter().find(|kid| *kid != first).unwrap();
    rig.ban("key", &first).await.unwrap();
    assert!(!rig.verifies(&first));
    assert_eq!((rig.published().await, rig.signing().await), (vec![next.clone()], next.clone()));
    // With none that follows, another is made.
    rig.ban("key", &next).await.unwrap();
    let third = rig.signing().await;
    assert_eq!(rig.published().await, [&*third]);
    assert!(rig.ban("key", &next).await.unwrap_err().to_string().contains("revoked already"));
    assert!(rig.ban("key", "none").await.unwrap_err().to_string().contains("keys list"));
    assert_eq!(rig.keys_in("revoked"), 2);
    // Known over a restart, for as long as a token of it could be about; and its private key is nowhere.
    let rig = rig.restarted(|_| {}).await;
    assert!(!rig.verifies(&first) && rig.verifies(&third));
    let listed = rig.issuer.list_keys();
    assert_eq!(listed.lines().filter(|line| line.contains("revoked")).count(), 2, "{listed}");
    let text = fs::read_to_string(rig.config.data.join("signing-keys.json")).unwrap();
    assert_eq!(text.matches("sealed").count(), 1, "{text}");
    rig.later(DAY);
    assert_eq!(rig.issuer.list_keys().lines().count(), 1);
}

#[tokio::test]
async fn a_restart_goes_on_where_they_were() {
    let rig = rotating().await;
    let first = rig.signing().await;
    rig.later(9 * DAY);
    let before = (rig.published().await, rig.issuer.list_keys());
    let rig = rig.restarted(|_| {}).await;
    assert_eq!((rig.published().await, rig.issuer.list_keys()), before);
    assert_eq!(rig.signing().await, first);
    rig.later(DAY);
    let second = rig.signing().await;
    let rig = rig.restarted(|_| {}).await;
    assert_eq!(rig.signing().await, second);
    assert!(rig.verifies(&first));
}

#[tokio::test]
async fn a_key_of_before_there_were_several_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (_, hand) = Clock::simulated(Timestamp::from_secs(START));
    let config = config(folder.path());
    fs::create_dir(&config.data).unwrap();
    let old = config.data.join("signing-es256.key");
    let key = Signer::generate(Algorithm::Es256).unwrap();
    fs::write(&old, key.expose()).unwrap();
    fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let kid = Signer::new(Algorithm::Es256, &key).unwrap().kid().to_owned();
    let rig = Rig::opened(folder, hand, config).await;
    assert_eq!(rig.signing().await, kid);
    assert!(!old.exists(), "it lies there sealed now");
    let rig = rig.restarted(|_| {}).await;
    assert_eq!(rig.signing().await, kid);
}

#[tokio::test]
async fn they_lie_sealed_each_for_itself() {
    let rig = rotating().await;
    rig.issuer.rotate_keys(false, Cause::Command).unwrap();
    let Rig { folder: _folder, hand, config, issuer, .. } = rig;
    drop(issuer);
    let path = config.data.join("signing-keys.json");
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let sealed = |n: usize| good["keys"][n]["sealed"].clone();
    let mut swapped = good.clone();
    (swapped["keys"][0]["sealed"], swapped["keys"][1]["sealed"]) = (sealed(1), sealed(0));
    let mut other_algorithm = good.clone();
    other_algorithm["keys"][0]["alg"] = json!("HS256");
    let mut cut = good.clone();
    cut["keys"][0]["sealed"] = json!(&sealed(0).as_str().unwrap()[1..]);
    let mut gone = good.clone();
    gone["keys"][0].as_object_mut().unwrap().remove("sealed");
    let mut later = good.clone();
    later["version"] = json!(2);
    for wrong in [swapped, other_algorithm, cut, gone, later, json!({}), json!("keys")] {
        fs::write(&path, wrong.to_string()).unwrap();
        let error = refused(&config, &hand).await;
        assert!(error.starts_with(&format!("the key file {}", path.display())), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), wrong.to_string(), "it is left as it is");
    }
    fs::write(&path, good.to_string()).unwrap();
    open(&config, &hand, &Arc::default(), &Metrics::new().unwrap()).await.unwrap();
}

#[tokio::test]
async fn what_is_published_may_be_kept_for_less_than_a_key_waits() {
    for (publish_ahead, max_age) in [(3 * SECOND, 1), (60 * SECOND, 30), (DAY, 300)] {
        let rig = Rig::with(|config| config.keys = KeysConfig { rotate_every: None, publish_ahead, file: None }).await;
        let answer = rig.send(Request::get(JWKS).body(Bytes::new()).unwrap()).await;
        assert_eq!(answer.header(header::CACHE_CONTROL).unwrap(), format!("public, max-age={max_age}"));
    }
}

#[tokio::test]
async fn a_key_that_is_put_in_a_file_follows_the_one_before_it() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("signing.pem");
    let put = |algorithm| {
        let key = Signer::generate(algorithm).unwrap();
        let text = base64::engine::general_purpose::STANDARD.encode(key.expose());
        let beside = home.path().join("beside");
        fs::write(&beside, format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")).unwrap();
        fs::rename(beside, &file).unwrap();
        Signer::new(algorithm, &key).unwrap().kid().to_owned()
    };
    let first = put(Algorithm::Es256);
    let rig = Rig::with(|config| {
        config.keys = KeysConfig { rotate_every: None, publish_ahead: DAY, file: Some(file.clone()) };
    })
    .await;
    assert_eq!(rig.signing().await, first);
    assert!(rig.issuer.rotate_keys(false, Cause::Command).unwrap_err().to_string().contains("put another one there"));
    let second = put(Algorithm::Es256);
    rig.later(SECOND);
    assert_eq!((rig.published().await, rig.signing().await), (vec![first.clone(), second.clone()], first.clone()));
    // What cannot be used is not taken, and nothing is lost.
    for wrong in ["", "no key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        fs::write(&file, wrong).unwrap();
        rig.later(SECOND);
        assert_eq!(rig.published().await.len(), 2);
    }
    fs::remove_file(&file).unwrap();
    rig.later(DAY);
    assert_eq!(rig.signing().await, second);
    let (third, fourth) = (put(Algorithm::Es256), || put(Algorithm::Es256));
    rig.later(SECOND);
    assert!(rig.published().await.contains(&third));
    // It takes the place of the one that was to follow.
    let fourth = fourth();
    rig.later(SECOND);
    let published = rig.published().await;
    assert!(published.contains(&fourth) && !published.contains(&third));
    rig.later(DAY);
    assert_eq!(rig.signing().await, fourth);
    let rig = rig.restarted(|_| {}).await;
    assert_eq!(rig.signing().await, fourth);
    // One of before is put back, and signs again when its time has come.
    let beside = home.path().join("aside");
    fs::copy(&file, &beside).unwrap();
    let fifth = put(Algorithm::Es256);
    rig.later(SECOND);
    rig.later(DAY);
    assert_eq!(rig.signing().await, fifth);
    fs::rename(&beside, &file).unwrap();
    rig.later(SECOND);
    assert_eq!(rig.signing().await, fifth);
    rig.later(DAY);
    assert_eq!((rig.signing().await, rig.verifies(&fifth)), (fourth.clone(), true));
    // One that is put back before the next one signs has the next one go.
    fs::copy(&file, &beside).unwrap();
    let sixth = put(Algorithm::Es256);
    rig.later(SECOND);
    assert!(rig.verifies(&sixth));
    fs::rename(&beside, &file).unwrap();
    rig.later(SECOND);
    assert!(!rig.verifies(&sixth));
    rig.later(DAY);
    assert_eq!(rig.signing().await, fourth);
    // One that has been revoked does not come back.
    rig.ban("key", &fourth).await.unwrap();
    rig.later(SECOND);
    let rig = rig.restarted(|_| {}).await;
    rig.later(SECOND);
    assert_ne!(rig.signing().await, fourth);
    assert!(!rig.verifies(&fourth));
}
