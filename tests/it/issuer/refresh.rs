//! The refresh grant: the rotation table as a client sees it, and what ends a session.

use super::*;

#[tokio::test]
async fn a_refresh_gives_a_new_token_of_each_kind_for_the_same_session() {
    let rig = Rig::new().await;
    let first = rig.log_in().await;
    rig.pass(100 * SECOND);
    let answer = rig.refresh(&first.refresh).await;
    answer.assert_not_kept();
    let second = answer.tokens();
    assert_ne!(first.refresh, second.refresh);
    let (before, after) = (claims(&first.access), claims(&second.access));
    assert_eq!((&before["sid"], &before["sub"]), (&after["sid"], &after["sub"]));
    assert_ne!(before["jti"], after["jti"]);
    assert_eq!(after["exp"], START + 400);
    assert_eq!(after["roles"], json!(["admin"]));
    // Refreshing does not end the access token before it.
    assert!(!rig.is_revoked(&first.access));
}

#[tokio::test]
async fn a_lost_answer_is_given_again() {
    let rig = Rig::new().await;
    let first = rig.log_in_publicly().await;
    let second = rig.refresh_publicly(&first.refresh).await.tokens();
    rig.pass(60 * SECOND);
    let again = rig.refresh_publicly(&first.refresh).await.tokens();
    assert_eq!(again.refresh, second.refresh, "the same successor");
    assert_ne!(again.access, second.access);
    assert_eq!((rig.refreshes("rotated"), rig.refreshes("replayed")), (1, 1));

    // A client that authenticates has until the session is idle.
    let first = rig.log_in().await;
    let second = rig.refresh(&first.refresh).await.tokens();
    rig.pass(13 * DAY);
    assert_eq!(rig.refresh(&first.refresh).await.tokens().refresh, second.refresh);
}

#[tokio::test]
async fn reuse_ends_the_session_and_its_access_tokens_at_once() {
    let rig = Rig::new().await;
    let first = rig.log_in_publicly().await;
    let second = rig.refresh_publicly(&first.refresh).await.tokens();
    rig.pass(61 * SECOND);
    let bystander = rig.log_in_publicly().await;
    rig.refresh_publicly(&first.refresh).await.assert_error(400, "invalid_grant");
    assert!(rig.is_revoked(&first.access) && rig.is_revoked(&second.access));
    assert!(!rig.is_revoked(&bystander.access));
    // The owner's own token dies with it.
    rig.refresh_publicly(&second.refresh).await.assert_error(400, "invalid_grant");
    assert_eq!((rig.refreshes("reused"), rig.refreshes("blacklisted")), (1, 1));
    assert_eq!(rig.metric("sidegate_revocations_total{cause=\"reuse\"}"), 1);
    assert_eq!(rig.metric("sidegate_revocation_entries{kind=\"session\"}"), 1);
}

#[tokio::test]
async fn a_session_ends_when_it_is_idle_and_when_it_is_old() {
    let rig = Rig::new().await;
    let idle = rig.log_in().await;
    rig.pass(14 * DAY);
    rig.refresh(&idle.refresh).await.assert_error(400, "invalid_grant");
    assert_eq!(rig.refreshes("expired"), 1);

    let mut sliding = rig.log_in().await;
    for _ in 0..8 {
        rig.pass(11 * DAY);
        sliding = rig.refresh(&sliding.refresh).await.tokens();
    }
    rig.pass(2 * DAY);
    rig.refresh(&sliding.refresh).await.assert_error(400, "invalid_grant");
    // A clock that was set forward may be set back: the row stays for an hour.
    rig.pass(3600 * SECOND);
    rig.issuer.sweep().await;
    rig.refresh(&sliding.refresh).await.assert_error(400, "invalid_grant");
    assert_eq!(rig.refreshes("unknown"), 1);
}

#[tokio::test]
async fn a_client_that_does_not_rotate_keeps_its_token() {
    let rig = Rig::new().await;
    let fixed = basic("fixed", "generated");
    let first = rig.token(Some(&fixed), LOGIN).await.tokens();
    for _ in 0..3 {
        rig.pass(13 * DAY);
        let body = format!("grant_type=refresh_token&refresh_token={}", first.refresh);
        assert_eq!(rig.token(Some(&fixed), &body).await.tokens().refresh, first.refresh);
    }
    // A public client always rotates, whatever its configuration says (RFC 9700 §4.14.2).
    let rig = rig.restarted(|config| config.clients[1].rotate = false).await;
    let first = rig.log_in_publicly().await;
    assert_ne!(rig.refresh_publicly(&first.refresh).await.tokens().refresh, first.refresh);
}

#[tokio::test]
async fn a_narrower_scope_narrows_the_access_token_alone() {
    let rig = Rig::new().await;
    let first = rig.log_in().await;
    let body = |token: &str, scope| format!("grant_type=refresh_token&refresh_token={token}&scope={scope}");
    let narrow = rig.token(Some(&app()), &body(&first.refresh, "read")).await.tokens();
    assert_eq!((&narrow.body["scope"], &claims(&narrow.access)["scope"]), (&json!("read"), &json!("read")));
    let whole = rig.refresh(&narrow.refresh).await.tokens();
    assert_eq!(whole.body["scope"], "read write");

    // What goes beyond the session's does not spend the token.
    rig.token(Some(&app()), &body(&whole.refresh, "read+admin")).await.assert_error(400, "invalid_scope");
    rig.pass(61 * SECOND);
    let rotated = rig.refreshes("rotated");
    rig.refresh(&whole.refresh).await.tokens();
    assert_eq!(rig.refreshes("rotated"), rotated + 1);
}

#[tokio::test]
async fn a_session_never_has_more_than_was_granted_nor_more_than_its_client_has_left() {
    let rig = Rig::new().await;
    let narrow = rig.token(Some(&app()), &format!("{LOGIN}&scope=read")).await.tokens();
    let body = format!("grant_type=refresh_token&refresh_token={}&scope=write", narrow.refresh);
    rig.token(Some(&app()), &body).await.assert_error(400, "invalid_scope");

    let wide = rig.log_in().await;
    let rig = rig.restarted(|config| config.clients[0].scopes = Scopes::from_values(["write"])).await;
    assert_eq!(rig.refresh(&wide.refresh).await.tokens().body["scope"], "write");
}

#[tokio::test]
async fn a_forged_or_foreign_token_is_refused_before_anybody_is_asked() {
    let rig = Rig::new().await;
    let mine = rig.log_in().await;
    let theirs = rig.log_in_publicly().await;
    rig.refresh(&theirs.refresh).await.assert_error(400, "invalid_grant");
    rig.refresh_publicly(&mine.refresh).await.assert_error(400, "invalid_grant");

    let (head, tail) = mine.refresh.rsplit_once('.').unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(tail).unwrap();
    let mut forged = vec!["x".into(), "sg1".into(), "sg1..".into(), "sg1.a.b".into(), format!("{head}.")];
    for n in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[n] ^= 1;
        forged.push(format!("{head}.{}", URL_SAFE_NO_PAD.encode(flipped)));
    }
    forged.push(format!("{head}.{}", URL_SAFE_NO_PAD.encode(&bytes[..bytes.len() - 1])));
    forged.push(format!("{head}.{}", URL_SAFE_NO_PAD.encode([bytes.as_slice(), &[0]].concat())));
    forged.push(format!("sg1.AAAAAAAA.{tail}"));
    // The same bytes, spelt otherwise: padded, with bits left over, in the other alphabet.
    forged.push(format!("{}%3D%3D", mine.refresh));
    let last = tail.as_bytes()[tail.len() - 1];
    forged.push(format!("{head}.{}{}", &tail[..tail.len() - 1], char::from(last + 1)));
    forged.push(format!("{}.x", mine.refresh));
    forged.push(mine.access.clone());
    for token in &forged {
        rig.refresh(token).await.assert_error(400, "invalid_grant");
    }
    assert_eq!(rig.refreshes("forged"), forged.len() as u64 + 2);
    // None of it harmed the two sessions.
    rig.refresh(&mine.refresh).await.tokens();
    rig.refresh_publicly(&theirs.refresh).await.tokens();
}

#[tokio::test]
async fn a_client_is_authenticated_before_its_token_is_looked_at() {
    let rig = Rig::new().await;
    let tokens = rig.log_in().await;
    let body = format!("grant_type=refresh_token&refresh_token={}", tokens.refresh);
    assert_eq!(rig.token(Some(&basic("app", "wrong")), &body).await.status(), 401);
    rig.token(None, &format!("{body}&client_id=app")).await.assert_error(401, "invalid_client");
    assert_eq!(rig.refreshes("rotated"), 0);
}

#[tokio::test]
async fn a_user_who_was_disabled_or_removed_loses_the_session() {
    let disable: fn(&mut Config) = |config| config.users[0].disabled = true;
    let remove: fn(&mut Config) = |config| drop(config.users.remove(0));
    for end in [disable, remove] {
        let rig = Rig::new().await;
        let tokens = rig.log_in().await;
        let rig = rig.restarted(end).await;
        // Who is disabled is out at once; who is not there any more, when he asks.
        let disabled = rig.metric("sidegate_revocations_total{cause=\"disabled\"}") == 2;
        assert_eq!(rig.is_revoked(&tokens.access), disabled);
        rig.refresh(&tokens.refresh).await.assert_error(400, "invalid_grant");
        assert!(rig.is_revoked(&tokens.access));
        assert_eq!(rig.metric("sidegate_revocations_total{cause=\"user_gone\"}"), u64::from(!disabled));
        // Coming back does not bring it back.
        let rig = rig.restarted(|config| config.users = super::config(Path::new("")).users).await;
        rig.refresh(&tokens.refresh).await.assert_error(400, "invalid_grant");
    }
}

#[tokio::test]
async fn a_store_that_was_rolled_back_asks_to_log_in_again_or_goes_on() {
    let rolled_back = async |on_rollback| {
        let rig = Rig::with(|config| config.refresh_token.on_rollback = on_rollback).await;
        let first = rig.log_in().await;
        // Back to the file as it was before the refreshes that the client knows of.
        let Rig { folder, hand, config, issuer, .. } = rig;
        drop(issuer);
        let file = config.data.join("store.redb");
        let backup = std::fs::read(&file).unwrap();
        let (revocations, metrics) = (Arc::default(), Metrics::new().unwrap());
        let issuer = open(&config, &hand, &revocations, &metrics).await.unwrap();
        let rig = Rig { folder, hand, config, revocations, metrics, issuer };
        let second = rig.refresh(&first.refresh).await.tokens();
        let third = rig.refresh(&second.refresh).await.tokens();
        let Rig { folder, hand, config, issuer, .. } = rig;
        drop(issuer);
        std::fs::write(&file, backup).unwrap();
        let (revocations, metrics) = (Arc::default(), Metrics::new().unwrap());
        let issuer = open(&config, &hand, &revocations, &metrics).await.unwrap();
        (Rig { folder, hand, config, revocations, metrics, issuer }, third)
    };
    let (rig, third) = rolled_back(OnRollback::Relogin).await;
    rig.refresh(&third.refresh).await.assert_error(400, "invalid_grant");
    assert!(rig.is_revoked(&third.access));
    assert_eq!(rig.refreshes("rolled_back"), 1);

    let (rig, third) = rolled_back(OnRollback::RollForward).await;
    let fourth = rig.refresh(&third.refresh).await.tokens();
    assert_eq!(fourth.sid(), third.sid());
    rig.refresh(&fourth.refresh).await.tokens();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_tabs_get_one_successor() {
    let rig = Arc::new(Rig::new().await);
    let mut live = rig.log_in_publicly().await.refresh;
    for _ in 0..50 {
        let tabs: Vec<_> = (0..16)
            .map(|_| {
                let (rig, live) = (rig.clone(), live.clone());
                tokio::spawn(async move { rig.refresh_publicly(&live).await.tokens().refresh })
            })
            .collect();
        let mut successors = BTreeMap::new();
        for tab in tabs {
            *successors.entry(tab.await.unwrap()).or_insert(0) += 1;
        }
        assert_eq!(successors.len(), 1, "{successors:?}");
        live = successors.into_keys().next().unwrap();
    }
    assert_eq!((rig.refreshes("rotated"), rig.refreshes("replayed")), (50, 750));
}

#[tokio::test]
async fn a_store_that_fails_is_never_the_clients_fault() {
    let rig = Rig::new().await;
    let tokens = rig.log_in().await;
    let Rig { folder, hand, config, issuer, .. } = rig;
    drop(issuer);
    let database = redb::Database::open(config.data.join("store.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    let id: [u8; 16] = URL_SAFE_NO_PAD.decode(tokens.sid()).unwrap().try_into().unwrap();
    let sessions = redb::TableDefinition::<&[u8; 16], &[u8]>::new("sessions");
    transaction.open_table(sessions).unwrap().insert(&id, [0].as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(database);

    let (revocations, metrics) = (Arc::default(), Metrics::new().unwrap());
    let issuer = open(&config, &hand, &revocations, &metrics).await.unwrap();
    let rig = Rig { folder, hand, config, revocations, metrics, issuer };
    rig.refresh(&tokens.refresh).await.assert_error(503, "temporarily_unavailable");
    let revoke = rig.post("/oauth/revoke", Some(&app()), &format!("token={}", tokens.refresh)).await;
    revoke.assert_error(503, "temporarily_unavailable");
    let introspect = rig.post("/oauth/introspect", Some(&app()), &format!("token={}", tokens.refresh)).await;
    introspect.assert_error(503, "temporarily_unavailable");
}

#[tokio::test]
async fn a_client_has_lifetimes_of_its_own_and_so_has_who_is_to_be_remembered() {
    let mut rig = Rig::new().await;
    rig = rig
        .restarted(|config| {
            config.clients[0].lifetimes = Some(Lifetimes { idle: DAY, absolute: 3 * DAY });
            config.clients[1].scopes = Scopes::from_values(["read", "write", OFFLINE_ACCESS]);
        })
        .await;
    let short = rig.log_in().await;
    let usual = rig.token(None, &format!("{LOGIN}&client_id=spa&scope=read")).await.tokens();
    let remembered = rig.log_in_publicly().await;
    assert_eq!(remembered.body["scope"], "offline_access read write");
    rig.pass(DAY);
    rig.refresh(&short.refresh).await.assert_error(400, "invalid_grant");
    rig.pass(12 * DAY);
    let usual = rig.refresh_publicly(&usual.refresh).await.tokens();
    rig.pass(14 * DAY);
    rig.refresh_publicly(&usual.refresh).await.assert_error(400, "invalid_grant");
    let remembered = rig.refresh_publicly(&remembered.refresh).await.tokens();
    rig.pass(90 * DAY - SECOND);
    let remembered = rig.refresh_publicly(&remembered.refresh).await.tokens();
    rig.pass(90 * DAY);
    rig.refresh_publicly(&remembered.refresh).await.assert_error(400, "invalid_grant");
    // It slides, up to the absolute lifetime.
    let mut sliding = rig.log_in().await;
    for _ in 0..3 {
        rig.pass(DAY - SECOND);
        sliding = rig.refresh(&sliding.refresh).await.tokens();
    }
    rig.pass(3 * SECOND);
    rig.refresh(&sliding.refresh).await.assert_error(400, "invalid_grant");
}

#[tokio::test]
async fn a_login_too_many_ends_the_oldest_session_and_its_access_tokens() {
    let rig = Rig::new().await.restarted(|config| config.refresh_token.max_sessions = Some(2)).await;
    let first = rig.log_in().await;
    rig.pass(SECOND);
    let second = rig.log_in_publicly().await;
    rig.pass(SECOND);
    let third = rig.log_in().await;
    assert!(rig.is_revoked(&first.access) && !rig.is_revoked(&second.access) && !rig.is_revoked(&third.access));
    rig.refresh(&first.refresh).await.assert_error(400, "invalid_grant");
    rig.refresh_publicly(&second.refresh).await.tokens();
    assert_eq!(rig.metric("sidegate_revocations_total{cause=\"too_many\"}"), 1);
}
