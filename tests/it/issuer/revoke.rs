//! The revocation endpoint (RFC 7009).

use super::*;

impl Rig {
    async fn revoke(&self, authorization: Option<&str>, body: &str) -> Answer {
        self.post("/oauth/revoke", authorization, body).await
    }
}

#[track_caller]
fn assert_done(answer: &Answer) {
    assert_eq!(answer.status(), 200, "{:?}", answer.0);
    // Clients have no use for a body, but some read one all the same, and as JSON.
    assert_eq!(answer.header(header::CONTENT_TYPE), Some("application/json"));
    assert_eq!(&answer.0.body()[..], b"{}");
    answer.assert_not_kept();
}

#[tokio::test]
async fn a_refresh_token_ends_its_session_and_all_access_tokens_of_it() {
    let rig = Rig::new().await;
    let first = rig.log_in().await;
    let other = rig.log_in().await;
    let second = rig.refresh(&first.refresh).await.tokens();
    let generation = rig.revocations.generation();
    assert_done(&rig.revoke(Some(&app()), &format!("token={}&token_type_hint=refresh_token", second.refresh)).await);
    assert!(rig.revocations.generation() > generation);
    assert!(rig.is_revoked(&first.access) && rig.is_revoked(&second.access));
    assert!(!rig.is_revoked(&other.access));
    // No grace for what was revoked, and no question to the store.
    rig.refresh(&second.refresh).await.assert_error(400, "invalid_grant");
    rig.refresh(&first.refresh).await.assert_error(400, "invalid_grant");
    assert_eq!((rig.refreshes("blacklisted"), rig.refreshes("revoked")), (2, 0));
    let generation = rig.revocations.generation();
    assert_done(&rig.revoke(Some(&app()), &format!("token={}", second.refresh)).await);
    assert_eq!(rig.revocations.generation(), generation, "once is enough");
    assert_eq!(rig.metric("sidegate_revocations_total{cause=\"revoke_endpoint\"}"), 1);
}

#[tokio::test]
async fn the_blacklist_answers_without_the_store() {
    let rig = Rig::new().await;
    let tokens = rig.log_in_publicly().await;
    let kept = rig.log_in_publicly().await;
    let public = |token: &str| format!("token={token}&client_id=spa&token_type_hint=nonsense");
    assert_done(&rig.revoke(None, &public(&tokens.refresh)).await);
    // The store forgets the session long before the blacklist does, whose own time is the machine's: who still says
    // that it was revoked has not asked.
    rig.pass(100 * DAY);
    rig.issuer.sweep().await;
    rig.refresh_publicly(&tokens.refresh).await.assert_error(400, "invalid_grant");
    rig.refresh_publicly(&kept.refresh).await.assert_error(400, "invalid_grant");
    assert_eq!((rig.refreshes("blacklisted"), rig.refreshes("unknown")), (1, 1));
}

#[tokio::test]
async fn an_access_token_is_revoked_alone() {
    let rig = Rig::new().await;
    let first = rig.log_in().await;
    let second = rig.refresh(&first.refresh).await.tokens();
    // The wrong hint is only a hint.
    assert_done(&rig.revoke(Some(&app()), &format!("token={}&token_type_hint=refresh_token", first.access)).await);
    assert!(rig.is_revoked(&first.access));
    assert!(!rig.is_revoked(&second.access));
    rig.refresh(&second.refresh).await.tokens();
    // Once is enough.
    let generation = rig.revocations.generation();
    assert_done(&rig.revoke(Some(&app()), &format!("token={}", first.access)).await);
    assert_eq!(rig.revocations.generation(), generation);

    let own = rig.token(Some(&svc()), "grant_type=client_credentials").await.tokens();
    assert_done(&rig.revoke(Some(&svc()), &format!("token={}", own.access)).await);
    assert!(rig.is_revoked(&own.access));
}

#[tokio::test]
async fn an_access_token_can_be_revoked_for_as_long_as_a_gateway_may_take_it() {
    let rig = Rig::new().await;
    let tokens = rig.log_in().await;
    // Expired, but within the largest leeway a provider can have.
    rig.pass(359 * SECOND);
    assert_done(&rig.revoke(Some(&app()), &format!("token={}", tokens.access)).await);
    assert!(rig.is_revoked(&tokens.access));
    rig.issuer.sweep().await;
    assert!(rig.is_revoked(&tokens.access));
    rig.pass(61 * SECOND);
    rig.issuer.sweep().await;
    assert!(!rig.is_revoked(&tokens.access), "nothing is left to block");
    assert_eq!(rig.metric("sidegate_revocation_entries{kind=\"token\"}"), 0);
}

#[tokio::test]
async fn what_is_no_token_of_ours_is_as_good_as_revoked() {
    let rig = Rig::new().await;
    let tokens = rig.log_in().await;
    let generation = rig.revocations.generation();
    let unsigned = tokens.access.rsplit_once('.').unwrap().0;
    for token in ["x", "sg1.a.b", "a.b.c", &format!("{unsigned}."), &format!("{unsigned}.AAAA"), &"x".repeat(9000)] {
        assert_done(&rig.revoke(Some(&app()), &format!("token={token}")).await);
    }
    rig.pass(DAY);
    assert_done(&rig.revoke(Some(&app()), &format!("token={}", tokens.access)).await);
    assert_eq!(rig.revocations.generation(), generation, "nothing was revoked");
}

#[tokio::test]
async fn another_clients_token_is_left_alone() {
    let rig = Rig::new().await;
    let (mine, theirs) = (rig.log_in().await, rig.log_in_publicly().await);
    for token in [&theirs.refresh, &theirs.access] {
        rig.revoke(Some(&app()), &format!("token={token}")).await.assert_error(400, "invalid_request");
    }
    for token in [&mine.refresh, &mine.access] {
        rig.revoke(None, &format!("token={token}&client_id=spa")).await.assert_error(400, "invalid_request");
    }
    assert!(!rig.is_revoked(&mine.access) && !rig.is_revoked(&theirs.access));
    rig.refresh(&mine.refresh).await.tokens();
    rig.refresh_publicly(&theirs.refresh).await.tokens();
}

#[tokio::test]
async fn nobody_revokes_without_saying_who_they_are() {
    let rig = Rig::new().await;
    let tokens = rig.log_in().await;
    let body = format!("token={}", tokens.refresh);
    rig.revoke(None, &body).await.assert_error(401, "invalid_client");
    rig.revoke(None, &format!("{body}&client_id=app")).await.assert_error(401, "invalid_client");
    let wrong = rig.revoke(Some(&basic("app", "wrong")), &body).await;
    assert_eq!(wrong.status(), 401);
    assert!(wrong.header(header::WWW_AUTHENTICATE).is_some());
    rig.revoke(Some(&app()), "").await.assert_error(400, "invalid_request");
    rig.revoke(Some(&app()), &format!("{body}&{body}")).await.assert_error(400, "invalid_request");
    assert!(!rig.is_revoked(&tokens.access));
}

#[tokio::test]
async fn a_client_that_hangs_up_has_revoked_all_the_same() {
    let rig = Rig::new().await;
    let tokens = rig.log_in().await;
    {
        let (authorization, body) = (app(), format!("token={}", tokens.refresh));
        let revoking = rig.revoke(Some(&authorization), &body);
        tokio::pin!(revoking);
        // The client's secret is known by now, so one poll sends the revocation on its way; then the client is gone.
        std::future::poll_fn(|cx| {
            assert!(revoking.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
    }
    let patience = std::time::Instant::now() + 10 * SECOND;
    while !rig.is_revoked(&tokens.access) {
        assert!(std::time::Instant::now() < patience, "memory never heard of it");
        tokio::task::yield_now().await;
    }
    rig.refresh(&tokens.refresh).await.assert_error(400, "invalid_grant");
}
