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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_passwords_is_told_to_come_back() {
    let rig = Arc::new(Rig::with(slow).await);
    let flood: Vec<_> = (0..200)
        .map(|_| {
            let rig = rig.clone();
            tokio::spawn(async move { rig.token(Some(&svc()), SELF).await.status().as_u16() })
        })
        .collect();
    let mut statuses = BTreeMap::new();
    for answer in flood {
        *statuses.entry(answer.await.unwrap()).or_insert(0) += 1;
    }
    assert!(statuses[&401] >= 66 && statuses[&503] > 0, "{statuses:?}");
    assert_eq!(statuses.len(), 2, "{statuses:?}");
    // It is over as soon as they have been looked at.
    assert_eq!(rig.token(Some(&svc()), SELF).await.status(), 401);

    /// `svc` has a person's secret, and a hash that takes a while.
    fn slow(config: &mut Config) {
        let hasher = Argon2::new(Argon2Algorithm::Argon2id, Version::V0x13, Params::new(1024, 4, 1, None).unwrap());
        let hash: PasswordHash = hasher.hash_password_with_salt(b"other", b"0123456789abcdef").unwrap();
        config.clients[2].secret_hash = Some(SecretHash::Argon2id(hash.to_string().into()));
    }
}
