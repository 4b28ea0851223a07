//! What operators revoke and lift, and what ends because somebody is disabled.

use sidegate::store::{MAX_LEEWAY, Whose};

use super::*;

#[tokio::test]
async fn logging_a_user_out_everywhere_ends_what_had_begun_and_no_later_login() {
    let rig = Rig::new().await;
    let (one, other) = (rig.log_in().await, rig.log_in_publicly().await);
    let own = rig.token(Some(&svc()), "grant_type=client_credentials").await.tokens();
    let entry = rig.ban("subject", claims(&one.access)["sub"].as_str().unwrap()).await.unwrap();
    assert_eq!((entry.number, &*entry.reason), (2, "a test"), "after what ended mallory, who is disabled");
    assert_eq!(entry.until, Timestamp::from_secs(START) + 300 * SECOND + MAX_LEEWAY);
    assert!(rig.is_revoked(&one.access) && rig.is_revoked(&other.access));
    assert!(!rig.is_revoked(&own.access));
    rig.refresh(&one.refresh).await.assert_error(400, "invalid_grant");
    rig.refresh_publicly(&other.refresh).await.assert_error(400, "invalid_grant");
    assert_eq!(rig.refreshes("logged_out"), 2);
    // In the same millisecond, by a clock that stands still.
    let again = rig.log_in().await;
    assert!(!rig.is_revoked(&again.access));
    let refreshed = rig.refresh(&again.refresh).await.tokens();
    assert!(!rig.is_revoked(&refreshed.access));
    // A token that is refreshed keeps the place where its session began.
    rig.ban("client", "app").await.unwrap();
    assert!(rig.is_revoked(&refreshed.access));
    assert_eq!(claims(&again.access)["sidegate_began"], claims(&refreshed.access)["sidegate_began"]);

    let rig = rig.restarted(|_| {}).await;
    assert!(rig.is_revoked(&one.access) && rig.is_revoked(&refreshed.access));
    rig.refresh(&again.refresh).await.assert_error(400, "invalid_grant");
    assert!(!rig.is_revoked(&rig.log_in().await.access));
}

#[tokio::test]
async fn every_kind_can_be_revoked_and_says_for_how_long() {
    let rig = Rig::new().await;
    let tokens = rig.log_in().await;
    let own = rig.token(Some(&svc()), "grant_type=client_credentials").await.tokens();
    rig.ban("token", claims(&own.access)["jti"].as_str().unwrap()).await.unwrap();
    assert!(rig.is_revoked(&own.access));
    let own = rig.token(Some(&svc()), "grant_type=client_credentials").await.tokens();
    rig.ban("client", "svc").await.unwrap();
    assert!(rig.is_revoked(&own.access) && !rig.is_revoked(&tokens.access));
    let own = rig.token(Some(&svc()), "grant_type=client_credentials").await.tokens();
    assert!(!rig.is_revoked(&own.access), "a client that is not disabled may begin anew");

    rig.ban("session", &tokens.sid()).await.unwrap();
    assert!(rig.is_revoked(&tokens.access) && !rig.is_revoked(&own.access));
    rig.refresh(&tokens.refresh).await.assert_error(400, "invalid_grant");
    rig.ban("everything", "").await.unwrap();
    assert!(rig.is_revoked(&own.access));
    let fresh = rig.log_in().await;
    assert!(!rig.is_revoked(&fresh.access));
    let kid = part(&fresh.access, 0)["kid"].as_str().unwrap().to_owned();
    rig.ban("key", &kid).await.unwrap();
    assert!(rig.is_revoked(&fresh.access));
    rig.refresh(&fresh.refresh).await.tokens();
    for (kind, entries) in [("token", 1), ("session", 1), ("key", 1), ("subject", 1), ("client", 1), ("everything", 1)]
    {
        assert_eq!(rig.metric(&format!("sidegate_revocation_entries{{kind=\"{kind}\"}}")), entries, "{kind}");
    }
    assert!(rig.metric("sidegate_revocation_bytes") > 0);
    assert_eq!(rig.metric("sidegate_revocations_total{cause=\"admin_api\"}"), 5);

    let listed = rig.issuer.revocations(0, 100).await.unwrap();
    let kinds: Vec<_> = listed.iter().map(|entry| entry.what.kind()).collect();
    assert_eq!(kinds, ["subject", "token", "client", "session", "everything", "key"]);
    assert_eq!(rig.issuer.revocations(2, 2).await.unwrap(), listed[2..4]);
    rig.pass(361 * SECOND);
    rig.issuer.sweep().await;
    assert_eq!(rig.issuer.revocations(0, 100).await.unwrap(), []);
}

#[tokio::test]
async fn a_table_that_grows_too_large_says_so_and_forgets_nothing() {
    let rig = Rig::new().await;
    let small = Arc::new(Revocations::with_alarm(3));
    let config = Config { data: rig.folder.path().join("other"), ..rig.config.clone() };
    let issuer = open(&config, &rig.hand, &small, &rig.metrics).await.unwrap();
    let rig = Rig { issuer, revocations: small, ..rig };
    for (n, alarm) in [(1, 0), (2, 0), (3, 1), (4, 1)] {
        rig.ban("token", &format!("jti-{n}")).await.unwrap();
        assert_eq!(rig.metric("sidegate_revocation_alarm"), alarm, "with what ended mallory there are {}", n + 1);
    }
    assert_eq!(rig.metric("sidegate_revocation_entries{kind=\"token\"}"), 4);
    rig.pass(361 * SECOND);
    rig.issuer.sweep().await;
    assert_eq!(rig.metric("sidegate_revocation_alarm"), 0);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_says_why() {
    let rig = Rig::new().await;
    let long = "x".repeat(513);
    for (kind, id, why) in [
        ("user", "alice", "`kind` must be one of token, session, key, subject, client, everything"),
        ("everything", "alice", "has no `id`"),
        ("subject", "", "needs its `id`"),
        ("subject", &long, "up to 512 bytes"),
        ("subject", "a\nb", "control characters"),
        ("session", "nonsense", "no such session"),
        ("session", "AAAAAAAAAAAAAAAAAAAAAA", "no such session"),
        ("key", "none", "keys list"),
    ] {
        let error = rig.ban(kind, id).await.unwrap_err().to_string();
        assert!(error.contains(why), "{kind} {id}: {error}");
    }
    let of = async |issuer: &str, lasts: Option<u64>| {
        let (kind, id, issuer) = ("subject".into(), Some("carol".into()), Some(issuer.into()));
        rig.issuer.revoke(&RevokeRequest { kind, id, issuer, lasts, ..RevokeRequest::default() }, Cause::Command).await
    };
    let error = of("https://nobody.example", Some(60)).await.unwrap_err().to_string();
    assert!(error.contains("no provider has the issuer"), "{error}");
    let error = of("https://unbounded.example", None).await.unwrap_err().to_string();
    assert!(error.contains("max_lifetime") && error.contains("lasts"), "{error}");
    assert!(of("https://unbounded.example", Some(u64::MAX)).await.is_err());
    let now = Timestamp::from_secs(START);
    assert_eq!(of("https://unbounded.example", Some(3600)).await.unwrap().until, now + 3600 * SECOND + MAX_LEEWAY);
    let entry = of("https://bounded.example", None).await.unwrap();
    assert_eq!((entry.until, &*entry.reason), (now + 600 * SECOND + MAX_LEEWAY, "not said"));
    // Less than is known to be needed is not enough; and our own name is nobody else's.
    assert_eq!(of("https://bounded.example", Some(1)).await.unwrap().until, now + 600 * SECOND + MAX_LEEWAY);
    assert_eq!(of(URL, Some(1)).await.unwrap().issuer, None);
}

#[tokio::test]
async fn what_was_a_mistake_is_lifted_where_it_can_be() {
    let rig = Rig::new().await;
    let tokens = rig.log_in().await;
    let subject = claims(&tokens.access)["sub"].as_str().unwrap().to_owned();
    let wrong = rig.ban("subject", &subject).await.unwrap();
    let session = rig.ban("session", &rig.log_in().await.sid()).await.unwrap();
    rig.refresh(&tokens.refresh).await.assert_error(400, "invalid_grant");
    let lifted = rig.issuer.lift(wrong.number, "another alice was meant", Cause::Command).await.unwrap();
    assert!(lifted.lifts && lifted.number > wrong.number);
    assert!(!rig.is_revoked(&tokens.access));
    let refreshed = rig.refresh(&tokens.refresh).await.tokens();
    let rig = rig.restarted(|_| {}).await;
    assert!(!rig.is_revoked(&refreshed.access));
    let why = async |number| rig.issuer.lift(number, "", Cause::Command).await.unwrap_err().to_string();
    assert!(why(session.number).await.contains("does not come back"));
    assert!(why(wrong.number).await.contains("no live entry"));
    assert!(rig.issuer.lift(1, &"x".repeat(600), Cause::Command).await.is_err());
}

#[tokio::test]
async fn who_is_disabled_is_out_at_the_next_start() {
    let rig = Rig::new().await;
    let tokens = rig.log_in().await;
    let own = rig.token(Some(&svc()), "grant_type=client_credentials").await.tokens();
    let rig = rig
        .restarted(|config| {
            config.users.iter_mut().for_each(|user| user.disabled = true);
            config.clients.iter_mut().filter(|client| client.id.as_str() == "svc").for_each(|it| it.disabled = true);
        })
        .await;
    assert!(rig.is_revoked(&tokens.access) && rig.is_revoked(&own.access));
    rig.refresh(&tokens.refresh).await.assert_error(400, "invalid_grant");
    let refused = rig.token(Some(&svc()), "grant_type=client_credentials").await;
    assert_eq!(
        (refused.status(), refused.json()["error"].as_str()),
        (StatusCode::UNAUTHORIZED, Some("invalid_client"))
    );
    assert!(rig.metric("sidegate_revocations_total{cause=\"disabled\"}") >= 3);

    // Let in again, and out again: what began in between ends too.
    let rig = rig.restarted(|config| config.users.iter_mut().for_each(|user| user.disabled = false)).await;
    let tokens = rig.log_in().await;
    assert!(!rig.is_revoked(&tokens.access));
    let rig = rig.restarted(|config| config.users.iter_mut().for_each(|user| user.disabled = true)).await;
    assert!(rig.is_revoked(&tokens.access));
}

#[tokio::test]
async fn a_key_whose_revocation_came_half_way_is_entered_at_the_next_start() {
    let rig = Rig::new().await;
    let tokens = rig.log_in().await;
    let kid = part(&tokens.access, 0)["kid"].as_str().unwrap().to_owned();
    rig.ban("key", &kid).await.unwrap();
    // Its entry is gone, as if the disk had refused it.
    let store = rig.config.data.join("store.redb");
    let rig = rig.restarted(|_| std::fs::remove_file(&store).unwrap()).await;
    assert!(rig.is_revoked(&tokens.access));
    assert!(rig.issuer.revocations(0, 100).await.unwrap().iter().any(|entry| entry.what.id() == Some(&*kid)));
}

#[tokio::test]
async fn who_is_disabled_while_they_log_in_gets_nothing() {
    // The last one gets no session that could be looked at again when it is refreshed.
    for client in [basic("fixed", "generated"), basic("plain", "generated")] {
        let rig = Rig::with(|config| config.users[0].password_hash = clients::slow("open sesame")).await;
        let login = rig.token(Some(&client), LOGIN);
        tokio::pin!(login);
        // As far as the hash of the password, which somebody else makes.
        tokio::select! {
            biased;
            _ = &mut login => panic!("a password cannot be looked at so quickly"),
            () = async {} => {}
        }
        let departed = rig.issuer.replace_users(&[]).unwrap();
        login.await.assert_error(400, "invalid_grant");
        rig.issuer.end_sessions(&departed).await.unwrap();
        let sessions = rig.issuer.sessions(Whose::Everybodys, None, 10).await.unwrap();
        assert!(sessions.iter().all(|record| record.ended.is_some()), "{sessions:?}");
    }
}

#[tokio::test]
async fn users_whom_the_configuration_would_refuse_do_not_take_the_place_of_others() {
    let rig = Rig::new().await;
    let wrong = User { subject: Subject::new("client:svc"), ..rig.config.users[0].clone() };
    assert!(rig.issuer.replace_users(&[wrong]).unwrap_err().contains("the subject of user alice"));
    let wrong = User { password_hash: SecretHash::Argon2id("secret".into()), ..rig.config.users[0].clone() };
    assert!(rig.issuer.replace_users(&[wrong]).unwrap_err().contains("the hash of user alice"));
    rig.log_in().await;
}
