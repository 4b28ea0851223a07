//! Client authentication.

use super::*;

const SELF: &str = "grant_type=client_credentials";

#[tokio::test]
async fn a_secret_comes_by_basic_or_in_the_body() {
    let rig = Rig::new().await;
    rig.token(Some(&svc()), SELF).await.tokens();
    rig.token(Some(&svc().replace("Basic", "bAsIc")), SELF).await.tokens();
    rig.token(Some(svc().trim_end_matches('=')), SELF).await.tokens();
    rig.token(Some(&svc()), &format!("{SELF}&client_id=svc")).await.tokens();
    rig.token(None, &format!("{SELF}&client_id=svc&client_secret=generated")).await.tokens();
}

#[tokio::test]
async fn basic_credentials_are_read_form_decoded_and_raw() {
    let rig = Rig::new().await;
    rig.token(Some(&basic("odd+id%26%3D", "100%25%2B%C3%A4%3A%26%3Dx")), SELF).await.tokens();
    rig.token(Some(&basic("odd id&=", "100%+ä:&=x")), SELF).await.tokens();
    // The first success is remembered, and that by neither spelling: both go on, and a wrong one does not.
    rig.token(Some(&basic("odd id&=", "100%+ä:&=x")), SELF).await.tokens();
    assert_eq!(rig.token(Some(&basic("odd id&=", "100%+ä:&=y")), SELF).await.status(), 401);
}

#[tokio::test]
async fn a_public_client_gives_its_name_and_nothing_else() {
    let rig = Rig::new().await;
    rig.token(None, &format!("{LOGIN}&client_id=spa")).await.tokens();
    rig.token(None, &format!("{LOGIN}&client_id=spa&client_secret=")).await.tokens();
    rig.token(Some(&basic("spa", "")), LOGIN).await.tokens();
    rig.token(None, &format!("{LOGIN}&client_id=spa&client_secret=x")).await.assert_error(401, "invalid_client");
}

#[tokio::test]
async fn a_bad_client_in_the_body_is_told_so_plainly() {
    let rig = Rig::new().await;
    for body in [
        "",
        "&client_id=",
        "&client_id=app",
        "&client_id=app&client_secret=",
        "&client_id=app&client_secret=wrong",
        "&client_id=nobody&client_secret=secret",
        "&client_id=nobody",
        "&client_secret=secret",
        "&client_id=svc&client_secret=Generated",
    ] {
        let answer = rig.token(None, &format!("{LOGIN}{body}")).await;
        assert_eq!(answer.status(), 401, "{body}");
        answer.assert_error(401, "invalid_client");
    }
}

#[tokio::test]
async fn a_bad_client_by_basic_is_challenged() {
    let rig = Rig::new().await;
    let long = format!("Basic {}", "QUFB".repeat(2000));
    let no_colon = format!("Basic {}", STANDARD.encode("app"));
    let not_text = format!("Basic {}", STANDARD.encode(b"app:\xff\xfe"));
    for authorization in [
        basic("app", "wrong"),
        basic("app", ""),
        basic("nobody", "secret"),
        basic("", ""),
        "Basic".into(),
        "Basic ".into(),
        "Basic ###".into(),
        "Bearer abc".into(),
        long,
        no_colon,
        not_text,
    ] {
        let answer = rig.token(Some(&authorization), LOGIN).await;
        assert_eq!(answer.status(), 401, "{authorization:.60}");
        assert_eq!(answer.json()["error"], "invalid_client");
        assert!(answer.header(header::WWW_AUTHENTICATE).unwrap().starts_with("Basic realm="));
        answer.assert_not_kept();
    }
}

#[tokio::test]
async fn two_ways_at_once_are_one_too_many() {
    let rig = Rig::new().await;
    for body in ["&client_secret=secret", "&client_id=app&client_secret=secret", "&client_id=spa"] {
        rig.token(Some(&app()), &format!("{LOGIN}{body}")).await.assert_error(400, "invalid_request");
    }
    let twice = Request::post("/oauth/token")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(header::AUTHORIZATION, app())
        .header(header::AUTHORIZATION, app())
        .body(Bytes::from_static(LOGIN.as_bytes()))
        .unwrap();
    rig.send(twice).await.assert_error(400, "invalid_request");
}

#[tokio::test]
async fn of_two_secrets_each_is_good_and_a_third_is_not() {
    let (one, two) = ("the old one", "the new one");
    for hashes in [
        [sha256(one), sha256(two)],
        [argon2id(one), sha256(two)],
        [sha256(one), argon2id(two)],
        [argon2id(one), argon2id(two)],
    ] {
        let rig = Rig::with(|config| {
            config.clients[2].credentials = Credentials::Secrets(hashes.to_vec());
            config.throttle = None;
        })
        .await;
        // Twice, since what was right once is remembered.
        for secret in [two, one, two, one] {
            rig.token(Some(&basic("svc", secret)), SELF).await.tokens();
            for wrong in ["the third one", "", "the old onethe new one"] {
                assert_eq!(rig.token(Some(&basic("svc", wrong)), SELF).await.status(), 401, "{wrong}");
            }
        }
    }
}

/// Asks 200 times at once; how often each status was the answer.
async fn flood(rig: &Arc<Rig>, authorization: Option<String>, body: &'static str) -> BTreeMap<u16, usize> {
    let asked: Vec<_> = (0..200)
        .map(|_| {
            let (rig, authorization) = (rig.clone(), authorization.clone());
            tokio::spawn(async move { rig.token(authorization.as_deref(), body).await.status().as_u16() })
        })
        .collect();
    let mut statuses = BTreeMap::new();
    for answer in asked {
        *statuses.entry(answer.await.unwrap()).or_insert(0) += 1;
    }
    statuses
}

/// A person's secret whose hash takes a while.
pub(super) fn slow(secret: &str) -> SecretHash {
    let hasher = Argon2::new(Argon2Algorithm::Argon2id, Version::V0x13, Params::new(1024, 4, 1, None).unwrap());
    let hash: PasswordHash = hasher.hash_password_with_salt(secret.as_bytes(), b"0123456789abcdef").unwrap();
    SecretHash::Argon2id(hash.to_string().into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_passwords_is_told_to_come_back() {
    let rig = Rig::with(|config| {
        config.clients[2].credentials = Credentials::Secrets(vec![slow("generated")]);
        config.throttle = None;
    });
    let rig = Arc::new(rig.await);
    let wrong = basic("svc", "wrong");
    let statuses = flood(&rig, Some(wrong.clone()), SELF).await;
    assert!(statuses[&401] >= 66 && statuses[&503] > 0 && statuses.len() == 2, "{statuses:?}");
    // It is over as soon as they have been looked at.
    assert_eq!(rig.token(Some(&wrong), SELF).await.status(), 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_was_right_once_is_never_in_the_way_again() {
    let rig = Arc::new(
        Rig::with(|config| config.clients[2].credentials = Credentials::Secrets(vec![slow("generated")])).await,
    );
    rig.token(Some(&svc()), SELF).await.tokens();
    // Were each of them hashed, the queue would not hold them.
    assert_eq!(flood(&rig, Some(svc()), SELF).await, BTreeMap::from([(200, 200)]));
    assert_eq!(rig.token(Some(&basic("svc", "Generated")), SELF).await.status(), 401);

    // Nor is the other one, or whether that was right before.
    let both = vec![slow("before"), slow("generated")];
    let rig = Arc::new(Rig::with(|config| config.clients[2].credentials = Credentials::Secrets(both)).await);
    rig.token(Some(&svc()), SELF).await.tokens();
    rig.token(Some(&basic("svc", "before")), SELF).await.tokens();
    assert_eq!(flood(&rig, Some(svc()), SELF).await, BTreeMap::from([(200, 200)]));
    assert_eq!(flood(&rig, Some(basic("svc", "before")), SELF).await, BTreeMap::from([(200, 200)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_is_not_there_costs_as_much_as_one_who_is() {
    let rig = Rig::with(|config| {
        config.users[0].password_hash = slow("open sesame");
        config.throttle = None;
    });
    let rig = Arc::new(rig.await);
    let body = "grant_type=password&username=nobody&password=x&client_id=spa";
    let statuses = flood(&rig, None, body).await;
    // Without a hash to look at, none would have had to wait.
    assert!(statuses[&400] >= 66 && statuses[&503] > 0 && statuses.len() == 2, "{statuses:?}");
}
