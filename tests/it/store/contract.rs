//! The verbs of a store on a simulated clock, on every store there is: the rotation table row by row, and what must survive.

use std::{future::Future, pin::Pin, time::Duration};

use sidegate::{
    clock::Timestamp,
    store::{
        Lifted, MAX_LEEWAY, NewRevocation, NewSession, OnRollback, Presented, Revocation, Revoked, Rotation,
        RotationRules, Session, Standing, Swept, Taken, Visit, Visitor, Whose,
    },
    types::{ClientId, IssuerUrl, Scopes, SessionId, Subject},
};

use super::{
    DAY, Rig, SECOND, START, assert_replayed, assert_reused, assert_rotated, confidential,
    model::callers_at_random_are_told_what_a_model_says, named, new_session, public, session_of,
};

/// A test for each store, and a list of all for those servers that are not started for each.
macro_rules! contract {
    ($($name:ident,)*) => {
        mod embedded { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Rig::embedded()).await;
            }
        )* }

        mod redis { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(rig) = super::Rig::redis().await {
                    super::$name(rig).await;
                }
            }
        )* }

        const ALL: &[(&str, fn(Rig) -> Pin<Box<dyn Future<Output = ()> + Send>>)] =
            &[$((stringify!($name), |rig| Box::pin($name(rig))),)*];
    };
}

contract! {
    callers_at_random_are_told_what_a_model_says,
    a_session_is_given_back_as_it_was_opened,
    a_token_that_is_looked_up_stands_as_it_would_be_answered_and_nothing_moves,
    a_client_that_does_not_rotate_keeps_its_token_and_moves_its_idle_clock,
    a_lost_response_is_answered_again_within_the_retry_window,
    a_client_that_authenticates_may_retry_until_the_session_is_idle,
    only_the_last_generation_has_the_retry_window,
    tabs_that_race_get_the_live_token_for_four_generations,
    the_reuse_interval_ends,
    windows_of_zero_forgive_nothing,
    a_clock_set_back_forgives_the_last_generation_alone,
    a_session_ends_when_it_is_idle_and_when_it_is_old,
    reuse_revokes_the_session_until_its_last_access_token_is_gone,
    a_replay_prolongs_what_a_revocation_must_reach,
    a_generation_from_the_future_means_a_rolled_back_store,
    revocation_beats_every_grace_and_is_idempotent,
    a_single_token_is_revoked_until_the_moment_named,
    an_epoch_ends_what_had_begun_and_nothing_that_begins_after_it,
    an_epoch_reaches_its_subject_and_its_client_alone,
    what_can_be_undone_is_lifted_by_an_entry_of_its_own,
    the_log_is_as_long_as_there_are_things_to_be_refused,
    whoever_follows_the_log_finds_all_of_it_in_its_order,
    access_tokens_of_an_earlier_configuration_are_not_forgotten,
    a_sweep_takes_what_nothing_depends_on_in_small_steps,
    sessions_are_listed_a_page_at_a_time_by_whose_they_are,
    a_record_says_what_has_become_of_a_session,
    the_history_of_a_session_says_from_where_it_was_used,
    a_session_too_many_ends_the_oldest,
    a_session_that_is_remembered_has_an_idle_lifetime_of_its_own,
    a_session_that_is_bound_to_a_key_moves_for_that_alone,
    a_code_is_taken_once_and_says_by_whom,
    of_many_at_once_one_takes_a_code_and_one_sets_a_marker,
    of_two_with_a_code_one_sees_the_other_whenever_they_come,
    a_session_past_its_end_can_be_revoked_while_an_access_token_of_it_lives,
    everything_is_there_again_when_the_file_is_opened_again,
    sixteen_parallel_refreshes_have_one_winner_and_one_successor,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_cluster() {
    let Some(rig) = Rig::cluster().await else { return };
    on_all_of_it(rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_sentinels() {
    let Some(rig) = Rig::sentinels().await else { return };
    on_all_of_it(rig).await;
}

async fn on_all_of_it(rig: Rig) {
    for (name, test) in ALL {
        // In a task, so that it can be said which one fails.
        let done = tokio::spawn(test(rig.another().await)).await;
        assert!(done.is_ok(), "{name}");
    }
}

async fn a_session_is_given_back_as_it_was_opened(rig: Rig) {
    let opened = rig.store.open(new_session()).await.unwrap().session;
    assert_eq!(
        (&opened.client, &opened.subject, &opened.scopes, opened.generation),
        (&ClientId::new("app"), &Subject::new("alice"), &Scopes::from_values(["read", "write"]), 0)
    );
    assert_eq!(rig.store.session(opened.id).await.unwrap(), Some(opened.clone()));
    assert_eq!(rig.rotate(opened.id, 0).await, Rotation::Rotated(Session { generation: 1, ..opened }));
    assert_eq!(rig.rotate(SessionId::generate(&Subject::new("alice")), 0).await, Rotation::Unknown);
}

async fn a_token_that_is_looked_up_stands_as_it_would_be_answered_and_nothing_moves(rig: Rig) {
    let opened = rig.store.open(new_session()).await.unwrap().session;
    let id = opened.id;
    let start = rig.now();
    let stands =
        |session: &Session, issued, expires| Some(Standing { session: session.clone(), issued: Some(issued), expires });
    let looked_up =
        async |generation: u32| rig.store.look_up(Presented { session: id, generation }, public()).await.unwrap();
    assert_eq!(looked_up(0).await, stands(&opened, start, start + 14 * DAY));
    assert_eq!(looked_up(1).await, None, "of a generation that was never made");
    assert_eq!(looked_up(0).await, stands(&opened, start, start + 14 * DAY));

    rig.pass(SECOND);
    assert_rotated(&rig.rotate(id, 0).await, 1);
    rig.pass(SECOND);
    assert_rotated(&rig.rotate(id, 1).await, 2);
    let third = Session { generation: 2, ..opened };
    let expires = start + 2 * SECOND + 14 * DAY;
    assert_eq!(looked_up(0).await, stands(&third, start, expires));
    assert_eq!(looked_up(1).await, stands(&third, start + SECOND, expires));
    assert_eq!(looked_up(2).await, stands(&third, start + 2 * SECOND, expires));
    rig.pass(11 * SECOND);
    assert_eq!(looked_up(0).await, None, "its grace is over");
    assert_eq!(looked_up(1).await, stands(&third, start + SECOND, expires), "of an answer that may be lost");
    rig.pass(50 * SECOND);
    assert_eq!(looked_up(1).await, None);
    assert_eq!(looked_up(2).await, stands(&third, start + 2 * SECOND, expires), "nothing was ended");

    rig.pass(14 * DAY);
    assert_eq!(looked_up(2).await, None, "it is idle");
    let (revoked, logged_out) = (rig.session().await, rig.session().await);
    let live =
        async |session| rig.store.look_up(Presented { session, generation: 0 }, public()).await.unwrap().is_some();
    assert!(live(revoked).await && live(logged_out).await);
    rig.store.revoke_session(revoked, "a test").await.unwrap();
    assert!(!live(revoked).await && live(logged_out).await);
    rig.revoke(Revoked::Subject("alice".into()), rig.now() + DAY).await;
    assert!(!live(logged_out).await);
    assert!(!live(SessionId::generate(&Subject::new("alice"))).await);
}

async fn a_client_that_does_not_rotate_keeps_its_token_and_moves_its_idle_clock(rig: Rig) {
    let id = rig.session().await;
    let rules = RotationRules { rotate: false, ..confidential() };
    for _ in 0..3 {
        rig.pass(13 * DAY);
        assert_rotated(&rig.rotate_by(id, 0, rules).await, 0);
    }
}

async fn a_lost_response_is_answered_again_within_the_retry_window(rig: Rig) {
    let id = rig.session().await;
    assert_rotated(&rig.rotate(id, 0).await, 1);
    rig.pass(60 * SECOND);
    assert_replayed(&rig.rotate(id, 0).await, 1);
    rig.pass(Duration::from_millis(1));
    assert_reused(&rig.rotate(id, 0).await);
}

async fn a_client_that_authenticates_may_retry_until_the_session_is_idle(rig: Rig) {
    let id = rig.session().await;
    assert_rotated(&rig.rotate_by(id, 0, confidential()).await, 1);
    rig.pass(13 * DAY);
    assert_replayed(&rig.rotate_by(id, 0, confidential()).await, 1);
    // The replay moved no clock: the session ends when it would have ended.
    rig.pass(DAY);
    assert_eq!(rig.rotate_by(id, 1, confidential()).await, Rotation::Expired);
}

async fn only_the_last_generation_has_the_retry_window(rig: Rig) {
    let id = rig.session().await;
    assert_rotated(&rig.rotate_by(id, 0, confidential()).await, 1);
    assert_rotated(&rig.rotate_by(id, 1, confidential()).await, 2);
    rig.pass(11 * SECOND);
    assert_replayed(&rig.rotate_by(id, 1, confidential()).await, 2);
    assert_reused(&rig.rotate_by(id, 0, confidential()).await);
}

async fn tabs_that_race_get_the_live_token_for_four_generations(rig: Rig) {
    let id = rig.session().await;
    for generation in 0..4 {
        assert_rotated(&rig.rotate(id, generation).await, generation + 1);
    }
    rig.pass(10 * SECOND);
    for old in 0..4 {
        assert_replayed(&rig.rotate(id, old).await, 4);
    }
    assert_rotated(&rig.rotate(id, 4).await, 5);
    // The fifth is no longer remembered, however lately it was superseded.
    assert_reused(&rig.rotate(id, 0).await);
}

async fn the_reuse_interval_ends(rig: Rig) {
    let id = rig.session().await;
    assert_rotated(&rig.rotate(id, 0).await, 1);
    assert_rotated(&rig.rotate(id, 1).await, 2);
    rig.pass(10 * SECOND + Duration::from_millis(1));
    assert_reused(&rig.rotate(id, 0).await);
}

async fn windows_of_zero_forgive_nothing(rig: Rig) {
    let strict = RotationRules { reuse_interval: Duration::ZERO, retry_window: Some(Duration::ZERO), ..public() };
    let id = rig.session().await;
    assert_rotated(&rig.rotate_by(id, 0, strict).await, 1);
    assert_reused(&rig.rotate_by(id, 0, strict).await);
    let id = rig.session().await;
    assert_rotated(&rig.rotate_by(id, 0, strict).await, 1);
    rig.set_back(SECOND);
    assert_reused(&rig.rotate_by(id, 0, strict).await);
}

async fn a_clock_set_back_forgives_the_last_generation_alone(rig: Rig) {
    let id = rig.session().await;
    assert_rotated(&rig.rotate(id, 0).await, 1);
    assert_rotated(&rig.rotate(id, 1).await, 2);
    rig.set_back(3600 * SECOND);
    assert_replayed(&rig.rotate(id, 1).await, 2);
    assert_reused(&rig.rotate(id, 0).await);
}

async fn a_session_ends_when_it_is_idle_and_when_it_is_old(rig: Rig) {
    let idle = rig.session().await;
    rig.pass(14 * DAY - Duration::from_millis(1));
    assert_rotated(&rig.rotate(idle, 0).await, 1);
    rig.pass(14 * DAY);
    assert_eq!(rig.rotate(idle, 1).await, Rotation::Expired);
    assert_eq!(rig.rotate(idle, 0).await, Rotation::Expired, "an old token of an expired session is no alarm");

    let old = rig.session().await;
    for generation in 0..8 {
        rig.pass(11 * DAY);
        assert_rotated(&rig.rotate(old, generation).await, generation + 1);
    }
    rig.pass(2 * DAY - Duration::from_millis(1));
    assert_rotated(&rig.rotate(old, 8).await, 9);
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.rotate(old, 9).await, Rotation::Expired);
}

async fn reuse_revokes_the_session_until_its_last_access_token_is_gone(rig: Rig) {
    let id = rig.session().await;
    rig.pass(100 * SECOND);
    // The longest-lived token counts, not the latest: here the configuration was shortened in between.
    let long = RotationRules { access_lifetime: 3600 * SECOND, ..public() };
    assert_rotated(&rig.rotate_by(id, 0, long).await, 1);
    assert_replayed(&rig.rotate(id, 0).await, 1);
    let (access_until, refresh_until) = (rig.now() + 3600 * SECOND, rig.now() + 14 * DAY);
    rig.pass(61 * SECOND);
    let Rotation::Reused(revocation) = rig.rotate(id, 0).await else { panic!("not reused") };
    assert_eq!(revocation.what, Revoked::Session(id.to_string().into()));
    assert_eq!((revocation.number, revocation.at, revocation.lifts), (1, rig.now(), false));
    assert_eq!((revocation.until, revocation.refresh_until), (access_until + MAX_LEEWAY, refresh_until));
    assert_eq!(rig.log().await, std::slice::from_ref(&revocation));
    rig.pass(SECOND);
    for generation in 0..3 {
        let again = Revocation { reason: "".into(), ..revocation.clone() };
        assert_eq!(rig.rotate(id, generation).await, Rotation::Revoked(again));
    }
}

async fn a_replay_prolongs_what_a_revocation_must_reach(rig: Rig) {
    let id = rig.session().await;
    assert_rotated(&rig.rotate(id, 0).await, 1);
    rig.pass(30 * SECOND);
    assert_replayed(&rig.rotate(id, 0).await, 1);
    let until = rig.now() + 300 * SECOND + MAX_LEEWAY;
    assert_eq!(rig.store.revoke_session(id, "a test").await.unwrap().unwrap().until, until);
}

async fn a_generation_from_the_future_means_a_rolled_back_store(rig: Rig) {
    let id = rig.session().await;
    let Rotation::RolledBack(revocation) = rig.rotate(id, 3).await else { panic!("not rolled back") };
    assert_eq!(rig.log().await, [revocation]);
    assert!(matches!(rig.rotate(id, 0).await, Rotation::Revoked { .. }));

    let id = rig.session().await;
    let forward = RotationRules { on_rollback: OnRollback::RollForward, ..public() };
    assert_rotated(&rig.rotate_by(id, 0, forward).await, 1);
    assert_rotated(&rig.rotate_by(id, 3, forward).await, 4);
    assert_replayed(&rig.rotate_by(id, 3, forward).await, 4);
    // Nobody knows when this one was superseded.
    assert_reused(&rig.rotate_by(id, 2, forward).await);
}

async fn revocation_beats_every_grace_and_is_idempotent(rig: Rig) {
    let id = rig.session().await;
    assert_rotated(&rig.rotate(id, 0).await, 1);
    let first = rig.store.revoke_session(id, "a test").await.unwrap().unwrap();
    assert!(matches!(rig.rotate(id, 0).await, Rotation::Revoked { .. }));
    assert!(matches!(rig.rotate(id, 1).await, Rotation::Revoked { .. }));
    rig.pass(SECOND);
    let again = rig.store.revoke_session(id, "another reason").await.unwrap().unwrap();
    assert_eq!(again, Revocation { reason: "another reason".into(), ..first.clone() });
    assert_eq!(rig.log().await, [first]);
    assert_eq!(rig.store.revoke_session(SessionId::generate(&Subject::new("alice")), "a test").await.unwrap(), None);
}

async fn a_single_token_is_revoked_until_the_moment_named(rig: Rig) {
    let until = rig.now() + 10 * SECOND;
    let revocation = rig.revoke(Revoked::Token("jti-1".into()), until).await;
    assert_eq!((&revocation.what, revocation.until, revocation.number), (&Revoked::Token("jti-1".into()), until, 1));
    assert_eq!(rig.log().await, [revocation]);
    rig.pass(10 * SECOND);
    assert_eq!(rig.log().await, []);
}

async fn an_epoch_ends_what_had_begun_and_nothing_that_begins_after_it(rig: Rig) {
    for what in [Revoked::Subject("alice".into()), Revoked::Client("app".into()), Revoked::Everything] {
        let rig = rig.another().await;
        let (before, ended) = (rig.session().await, rig.session().await);
        rig.store.revoke_session(ended, "a test").await.unwrap();
        assert_rotated(&rig.rotate(before, 0).await, 1);
        // A clock that is set back an hour has no say in it.
        rig.set_back(3600 * SECOND);
        let epoch = rig.revoke(what.clone(), rig.now() + 360 * SECOND).await;
        for generation in 0..3 {
            assert_eq!(rig.rotate(before, generation).await, Rotation::LoggedOut, "{what:?}");
        }
        assert!(matches!(rig.rotate(ended, 0).await, Rotation::Revoked(_)));
        let after = rig.store.open(new_session()).await.unwrap().session;
        assert_eq!(after.began.number, epoch.number);
        assert_rotated(&rig.rotate(after.id, 0).await, 1);

        // The entry for access tokens goes; what it ended stays ended for as long as a session could have lived.
        let rig = rig.reopened().await;
        rig.pass(13 * DAY);
        rig.store.sweep(100).await.unwrap();
        assert_eq!(rig.log().await, []);
        assert_eq!(rig.rotate(before, 1).await, Rotation::LoggedOut, "{what:?}");
        assert_rotated(&rig.rotate(after.id, 1).await, 2);
    }
}

async fn an_epoch_reaches_its_subject_and_its_client_alone(rig: Rig) {
    let other = NewSession { client: ClientId::new("other"), ..session_of("bob") };
    let (alice, bob) = (rig.session().await, rig.store.open(other).await.unwrap().session.id);
    let theirs = NewRevocation {
        issuer: Some(IssuerUrl::new("https://elsewhere.example")),
        what: Revoked::Everything,
        until: rig.now() + 300 * SECOND,
        reason: "another issuer's".into(),
    };
    rig.store.revoke(theirs).await.unwrap();
    assert_rotated(&rig.rotate(alice, 0).await, 1);
    // A subject of a client's name is not that client.
    rig.revoke(Revoked::Subject("other".into()), rig.now() + 300 * SECOND).await;
    assert_rotated(&rig.rotate(bob, 0).await, 1);
    rig.revoke(Revoked::Subject("alice".into()), rig.now() + 300 * SECOND).await;
    assert_eq!(rig.rotate(alice, 1).await, Rotation::LoggedOut);
    assert_rotated(&rig.rotate(bob, 1).await, 2);
}

async fn what_can_be_undone_is_lifted_by_an_entry_of_its_own(rig: Rig) {
    let id = rig.session().await;
    let until = rig.now() + 300 * SECOND;
    let session = rig.store.revoke_session(rig.session().await, "a test").await.unwrap().unwrap();
    let key = rig.revoke(Revoked::Key("kid".into()), until).await;
    let epoch = rig.revoke(Revoked::Subject("alice".into()), until).await;
    let token = rig.revoke(Revoked::Token("jti".into()), until).await;
    for number in [session.number, key.number] {
        assert!(matches!(rig.store.lift(number, "no").await.unwrap(), Lifted::Final(_)));
    }
    assert_eq!(rig.store.lift(99, "no").await.unwrap(), Lifted::Unknown);
    assert_eq!(rig.rotate(id, 0).await, Rotation::LoggedOut);
    let Lifted::Done(lifted) = rig.store.lift(epoch.number, "the wrong alice").await.unwrap() else { panic!() };
    assert_eq!((lifted.number, lifted.lifts, &lifted.what, lifted.until), (5, true, &epoch.what, until));
    assert_rotated(&rig.rotate(id, 0).await, 1);
    assert_eq!(rig.log().await, [session, key, token.clone(), lifted]);
    for number in [epoch.number, 5] {
        assert_eq!(rig.store.lift(number, "again").await.unwrap(), Lifted::Unknown);
    }
    rig.pass(300 * SECOND);
    assert_eq!(rig.store.lift(token.number, "too late").await.unwrap(), Lifted::Unknown);
}

async fn the_log_is_as_long_as_there_are_things_to_be_refused(rig: Rig) {
    let (early, late) = (rig.now() + 100 * SECOND, rig.now() + 300 * SECOND);
    for what in [Revoked::Subject("alice".into()), Revoked::Client("app".into()), Revoked::Key("kid".into())] {
        for until in [late, late, early] {
            rig.revoke(what.clone(), until).await;
        }
        let log = rig.log().await;
        let last = log.last().unwrap();
        assert_eq!((log.iter().filter(|entry| entry.what == what).count(), last.until), (1, late), "{what:?}");
        assert_eq!(last.number, rig.store.tail().position().number);
    }
    // What is lifted is said by the lifting alone, and what is revoked again by that alone.
    let token = Revoked::Token("jti".into());
    let first = rig.revoke(token.clone(), early).await;
    rig.revoke(token.clone(), late).await;
    let of_token = async || rig.log().await.into_iter().filter(|it| it.what == token).collect::<Vec<_>>();
    assert_eq!(of_token().await.len(), 2, "those are not looked for by name");
    let Lifted::Done(lifted) = rig.store.lift(first.number, "a mistake").await.unwrap() else { panic!() };
    assert_eq!(of_token().await, [lifted]);
    let again = rig.revoke(token.clone(), late).await;
    assert_eq!(of_token().await, [again]);
    // Of another issuer it is another thing.
    let issuer = Some(IssuerUrl::new("https://elsewhere.example"));
    let new = NewRevocation { issuer, what: Revoked::Key("kid".into()), until: late, reason: "theirs".into() };
    rig.store.revoke(new).await.unwrap();
    assert_eq!(rig.log().await.iter().filter(|entry| entry.what.kind() == "key").count(), 2);
    rig.pass(300 * SECOND);
    assert_eq!(rig.store.sweep(100).await.unwrap().revocations, 5);
    assert_eq!(rig.log().await, []);
    rig.revoke(Revoked::Key("kid".into()), rig.now() + SECOND).await;
    assert_eq!(rig.log().await.len(), 1);
}

async fn whoever_follows_the_log_finds_all_of_it_in_its_order(rig: Rig) {
    let tail = rig.store.tail().clone();
    assert_eq!((tail.position().number, tail.after(0, 10)), (0, Some(Vec::new())));
    let mut head = tail.head();
    let mut all = Vec::new();
    for n in 0..20 {
        all.push(rig.revoke(Revoked::Token(format!("jti-{n}").into()), rig.now() + 300 * SECOND).await);
        assert!(head.has_changed().unwrap(), "it is woken before the answer is out");
        assert_eq!(head.borrow_and_update().number, n + 1);
    }
    let told =
        |after, limit| tail.after(after, limit).map(|page| page.iter().map(|it| (**it).clone()).collect::<Vec<_>>());
    assert_eq!(told(0, 100).unwrap(), all);
    assert_eq!(told(7, 5).unwrap(), all[7..12]);
    assert_eq!(told(20, 5).unwrap(), []);
    assert_eq!(rig.store.revocations(7, 5).await.unwrap(), all[7..12]);

    // What was before this process began is not in memory; the life goes on, and the numbers with it.
    let life = tail.position().life;
    drop(tail);
    let rig = rig.reopened().await;
    let tail = rig.store.tail().clone();
    assert_eq!((tail.position().life, tail.position().number), (life, 20));
    assert_eq!(tail.after(19, 10), None);
    assert_eq!(tail.after(20, 10), Some(Vec::new()));
    let next = rig.revoke(Revoked::Everything, rig.now() + 300 * SECOND).await;
    assert_eq!(next.number, 21);
    assert_eq!(tail.after(20, 10).unwrap().len(), 1);
    assert_eq!(tail.after(19, 10), None);
    assert_ne!(rig.another().await.store.tail().position().life, life, "another store is another log");
}

async fn access_tokens_of_an_earlier_configuration_are_not_forgotten(rig: Rig) {
    assert_eq!(rig.store.longest_access_lifetime(3600 * SECOND).await.unwrap(), 3600 * SECOND);
    let rig = rig.reopened().await;
    assert_eq!(rig.store.longest_access_lifetime(300 * SECOND).await.unwrap(), 3600 * SECOND);
    assert_eq!(rig.store.longest_access_lifetime(7200 * SECOND).await.unwrap(), 7200 * SECOND);
}

async fn a_sweep_takes_what_nothing_depends_on_in_small_steps(rig: Rig) {
    for _ in 0..5 {
        rig.session().await;
    }
    let kept = rig.session().await;
    let revoked = rig.session().await;
    rig.store.revoke_session(revoked, "a test").await.unwrap();
    assert_eq!(rig.store.sweep(100).await.unwrap(), Swept::default());

    rig.pass(360 * SECOND);
    assert_eq!(rig.store.sweep(100).await.unwrap(), Swept { revocations: 1, ..Swept::default() });
    // The entry is gone, and the row still knows.
    assert!(matches!(rig.rotate(revoked, 0).await, Rotation::Revoked { .. }));

    rig.pass(13 * DAY);
    assert_rotated(&rig.rotate(kept, 0).await, 1);
    // A clock that has been set forward by an hour, and is set back, has cost nobody a session.
    rig.pass(DAY);
    assert_eq!(rig.store.sweep(4).await.unwrap().sessions, 0);
    rig.pass(3600 * SECOND);
    assert_eq!(rig.store.sweep(4).await.unwrap().sessions, 4);
    assert_eq!(rig.store.sweep(4).await.unwrap().sessions, 2);
    assert_eq!(rig.rotate(revoked, 0).await, Rotation::Unknown);
    assert_rotated(&rig.rotate(kept, 1).await, 2);
}

async fn sessions_are_listed_a_page_at_a_time_by_whose_they_are(rig: Rig) {
    let mut all = Vec::new();
    for n in 0..12 {
        let client = ClientId::new(if n % 3 == 0 { "other" } else { "app" });
        // One name begins with another.
        let new = NewSession { client, ..session_of(if n % 2 == 0 { "alice" } else { "alice2" }) };
        all.push(rig.store.open(new).await.unwrap().session);
    }
    let pages = async |whose: Whose| {
        let (mut found, mut after) = (Vec::<SessionId>::new(), None);
        loop {
            let page = named(&rig.store.list(whose.clone(), after, 5).await.unwrap());
            found.extend(&page);
            match page.last() {
                Some(last) if page.len() == 5 => after = Some(*last),
                Some(_) | None => return found,
            }
        }
    };
    let of = |keep: &dyn Fn(&Session) -> bool| {
        let mut ids: Vec<_> = all.iter().filter(|session| keep(session)).map(|session| session.id).collect();
        ids.sort();
        ids
    };
    assert_eq!(pages(Whose::Everybodys).await, of(&|_| true));
    let alice = Subject::new("alice");
    assert_eq!(pages(Whose::Subject(alice.clone())).await, of(&|session| session.subject == alice));
    let other = ClientId::new("other");
    assert_eq!(pages(Whose::Client(other.clone())).await, of(&|session| session.client == other));
    assert_eq!(pages(Whose::Subject(Subject::new("nobody"))).await, []);

    // What is swept is in no list.
    rig.pass(15 * DAY);
    assert_eq!(rig.store.sweep(100).await.unwrap().sessions, 12);
    for whose in [Whose::Everybodys, Whose::Subject(alice.clone()), Whose::Client(other.clone())] {
        assert_eq!(pages(whose).await, []);
    }
    // Nor does it take a place in a page.
    let new = rig.store.open(NewSession { client: other.clone(), ..new_session() }).await.unwrap().session.id;
    for whose in [Whose::Everybodys, Whose::Subject(alice), Whose::Client(other)] {
        assert_eq!(named(&rig.store.list(whose, None, 1).await.unwrap()), [new]);
    }
    assert_eq!(rig.store.stats().await.unwrap().sessions, 1);
}

async fn a_record_says_what_has_become_of_a_session(rig: Rig) {
    let (live, revoked) = (rig.session().await, rig.session().await);
    let gone = rig.store.open(session_of("bob")).await.unwrap().session.id;
    let state = async |id| rig.store.record(id).await.unwrap().unwrap().state(rig.now());
    rig.store.revoke_session(revoked, "a test").await.unwrap();
    rig.revoke(Revoked::Subject("bob".into()), rig.now() + 300 * SECOND).await;
    assert_eq!((state(live).await, state(revoked).await, state(gone).await), ("live", "revoked", "logged_out"));
    let record = rig.store.record(revoked).await.unwrap().unwrap();
    assert_eq!((record.opened, record.ended, record.idle_expiry), (rig.now(), Some(rig.now()), rig.now() + 14 * DAY));
    rig.pass(14 * DAY);
    assert_eq!(state(live).await, "expired");
    assert_eq!(rig.store.record(SessionId::generate(&Subject::new("alice"))).await.unwrap(), None);
}

async fn the_history_of_a_session_says_from_where_it_was_used(rig: Rig) {
    let from = |address: &str| Visitor { address: address.into(), agent: "browser".into() };
    let id = rig.store.open(NewSession { visitor: from("home"), ..new_session() }).await.unwrap().session.id;
    let mut generation = 0;
    for place in ["home", "home", "train", "office", "office", "home", "pub"] {
        rig.pass(SECOND);
        let presented = Presented { session: id, generation };
        generation += 1;
        assert_rotated(&rig.store.rotate(presented, public(), from(place)).await.unwrap(), generation);
    }
    let visits = rig.store.record(id).await.unwrap().unwrap().visits;
    let at = |second: u64| Timestamp(START + 1000 * second);
    let visit = |from_second, last_second, refreshes, place| {
        let (from_at, last) = (at(from_second), at(last_second));
        Visit { from: from_at, last, refreshes, visitor: from(place) }
    };
    // Who opened it is kept, and the last ones.
    assert_eq!(
        visits,
        [visit(0, 2, 2, "home"), visit(4, 5, 2, "office"), visit(6, 6, 1, "home"), visit(7, 7, 1, "pub")]
    );
}

async fn a_session_too_many_ends_the_oldest(rig: Rig) {
    let limited = |subject| NewSession { max_sessions: Some(3), ..session_of(subject) };
    let open = async |new| {
        rig.pass(SECOND);
        let opened = rig.store.open(new).await.unwrap();
        (opened.session.id, opened.ended)
    };
    let mut ids = Vec::new();
    for _ in 0..3 {
        let (id, ended) = open(limited("alice")).await;
        assert_eq!(ended, []);
        ids.push(id);
    }
    assert_eq!(open(limited("bob")).await.1, [], "another subject's");
    // One that has ended does not count.
    rig.store.revoke_session(ids[1], "a test").await.unwrap();
    let (fourth, ended) = open(limited("alice")).await;
    assert_eq!(ended, []);
    let (_, ended) = open(limited("alice")).await;
    assert_eq!(
        ended.iter().map(|it| it.what.clone()).collect::<Vec<_>>(),
        [Revoked::Session(ids[0].to_string().into())]
    );
    assert!(matches!(rig.rotate(ids[0], 0).await, Rotation::Revoked(_)));
    assert_rotated(&rig.rotate(ids[2], 0).await, 1);
    assert_eq!(rig.log().await.last(), ended.last(), "whoever follows the log hears of it");
    // Where the limit is lowered, all that are too many go; those that an epoch ended are gone already.
    let (_, ended) = open(NewSession { max_sessions: Some(1), ..session_of("alice") }).await;
    let ended: Vec<_> = ended.into_iter().filter_map(|it| it.what.id().map(str::to_owned)).collect();
    assert_eq!((ended.len(), &ended[..2]), (3, &[ids[2].to_string(), fourth.to_string()][..]));
    rig.revoke(Revoked::Everything, rig.now() + 300 * SECOND).await;
    assert_eq!(open(NewSession { max_sessions: Some(1), ..session_of("alice") }).await.1, []);
}

async fn a_session_that_is_remembered_has_an_idle_lifetime_of_its_own(rig: Rig) {
    let id = rig.store.open(NewSession { remembered: true, ..new_session() }).await.unwrap().session.id;
    assert_rotated(&rig.rotate(id, 0).await, 1);
    rig.pass(30 * DAY - SECOND);
    assert_rotated(&rig.rotate(id, 1).await, 2);
    rig.pass(30 * DAY);
    assert_eq!(rig.rotate(id, 2).await, Rotation::Expired);
}

async fn a_session_that_is_bound_to_a_key_moves_for_that_alone(rig: Rig) {
    let (own, other) =
        (RotationRules { key: Some([1; 32]), ..public() }, RotationRules { key: Some([2; 32]), ..public() });
    let opened = rig.store.open(NewSession { key: Some([1; 32]), ..new_session() }).await.unwrap().session;
    let id = opened.id;
    assert_eq!(rig.store.session(id).await.unwrap().unwrap().key, Some([1; 32]));
    for rules in [public(), other] {
        assert_eq!(rig.rotate_by(id, 0, rules).await, Rotation::WrongKey);
    }
    assert_rotated(&rig.rotate_by(id, 0, own).await, 1);
    // It has a retry window of its own, and reuse ends it, whoever shows the right key.
    rig.pass(13 * DAY);
    assert_replayed(&rig.rotate_by(id, 0, own).await, 1);
    assert_eq!(rig.rotate_by(id, 0, other).await, Rotation::WrongKey);
    let token = Presented { session: id, generation: 1 };
    assert!(rig.store.look_up(token, public()).await.unwrap().is_some(), "whoever asks shows no key");
    assert_rotated(&rig.rotate_by(id, 1, own).await, 2);
    rig.pass(11 * SECOND);
    assert_reused(&rig.rotate_by(id, 0, own).await);
    assert!(matches!(rig.rotate_by(id, 2, other).await, Rotation::Revoked(_)));
    // One that began without is bound by the first refresh that shows a key, where the client shows nothing else; not by an answer
    // that is given again.
    let id = rig.session().await;
    assert_rotated(&rig.rotate_by(id, 0, own).await, 1);
    let binding = RotationRules { binds: true, ..own };
    assert_replayed(&rig.rotate_by(id, 0, binding).await, 1);
    assert_rotated(&rig.rotate_by(id, 1, public()).await, 2);
    assert_rotated(&rig.rotate_by(id, 2, binding).await, 3);
    assert_eq!(rig.rotate_by(id, 3, public()).await, Rotation::WrongKey);
    assert_eq!(rig.rotate_by(id, 3, other).await, Rotation::WrongKey);
}

async fn a_code_is_taken_once_and_says_by_whom(rig: Rig) {
    let (name, other) = ([7; 32], [8; 32]);
    let (first, second) = (SessionId::generate(&Subject::new("alice")), SessionId::generate(&Subject::new("alice")));
    let until = rig.now() + 60 * SECOND;
    assert_eq!(rig.store.take_code(name, first, 600 * SECOND).await.unwrap(), Taken::Unknown);
    rig.store.keep_code(name, b"alice".as_slice().into(), 60 * SECOND).await.unwrap();
    assert!(rig.store.mark(name, until).await.unwrap(), "a code is no marker");
    let rig = rig.reopened().await;
    assert_eq!(rig.store.take_code(other, first, 600 * SECOND).await.unwrap(), Taken::Unknown);
    assert_eq!(rig.store.take_code(name, first, 600 * SECOND).await.unwrap(), Taken::Now(b"alice".as_slice().into()));
    assert_eq!(rig.store.take_code(name, second, 600 * SECOND).await.unwrap(), Taken::Before(first));
    let rig = rig.reopened().await;
    assert_eq!(rig.store.take_code(name, second, 600 * SECOND).await.unwrap(), Taken::Before(first));
    rig.store.keep_code(other, b"bob".as_slice().into(), 60 * SECOND).await.unwrap();
    rig.pass(60 * SECOND);
    // One that was taken is remembered for longer than it would have been good, and no longer for coming again.
    assert_eq!(rig.store.take_code(other, second, 600 * SECOND).await.unwrap(), Taken::Unknown);
    rig.store.sweep(10).await.unwrap();
    assert_eq!(rig.store.take_code(name, second, 600 * SECOND).await.unwrap(), Taken::Before(first));
    rig.pass(540 * SECOND);
    assert_eq!(rig.store.take_code(name, second, 600 * SECOND).await.unwrap(), Taken::Unknown);
    rig.store.sweep(10).await.unwrap();
    assert_eq!(rig.store.stats().await.unwrap().codes, 0);
}

/// One opens a session with a code, and then looks for a mark; the other leaves the mark, and then ends the session.
async fn of_two_with_a_code_one_sees_the_other_whenever_they_come(rig: Rig) {
    for n in 0..40_u8 {
        let name = [n; 32];
        rig.store.keep_code(name, [n].into(), 60 * SECOND).await.unwrap();
        let new = new_session();
        let (id, until) = (new.id, rig.now() + 600 * SECOND);
        assert!(matches!(rig.store.take_code(name, id, 600 * SECOND).await.unwrap(), Taken::Now(_)));
        let store = rig.store.clone();
        let first = tokio::spawn(async move {
            store.open(new).await.unwrap();
            store.mark(name, until).await.unwrap()
        });
        let store = rig.store.clone();
        let second = tokio::spawn(async move {
            let other = SessionId::generate(&Subject::new("alice"));
            assert_eq!(store.take_code(name, other, 600 * SECOND).await.unwrap(), Taken::Before(id));
            let alone = store.mark(name, until).await.unwrap();
            (alone, store.revoke_session(id, "a test").await.unwrap().is_some())
        });
        let (unseen, (alone, ended)) = (first.await.unwrap(), second.await.unwrap());
        assert!(!unseen || ended, "the session goes on, and nobody knows that two have the code");
        assert_ne!(unseen, alone, "one is the first");
    }
}

async fn of_many_at_once_one_takes_a_code_and_one_sets_a_marker(rig: Rig) {
    for n in 0..20_u8 {
        let until = rig.now() + 60 * SECOND;
        rig.store.keep_code([n; 32], [n].into(), 60 * SECOND).await.unwrap();
        let callers = (0..16).map(|_| {
            let store = rig.store.clone();
            tokio::spawn(async move {
                let taken =
                    store.take_code([n; 32], SessionId::generate(&Subject::new("alice")), 600 * SECOND).await.unwrap();
                (matches!(taken, Taken::Now(_)), store.mark([n; 32], until).await.unwrap())
            })
        });
        let (mut took, mut marked) = (0, 0);
        for caller in callers.collect::<Vec<_>>() {
            let (first, new) = caller.await.unwrap();
            took += usize::from(first);
            marked += usize::from(new);
        }
        assert_eq!((took, marked), (1, 1));
    }
    rig.pass(60 * SECOND);
    assert!(rig.store.mark([0; 32], rig.now() + SECOND).await.unwrap(), "its time was over");
}

async fn a_session_past_its_end_can_be_revoked_while_an_access_token_of_it_lives(rig: Rig) {
    let short = NewSession { idle_lifetime: SECOND, ..new_session() };
    let id = rig.store.open(short).await.unwrap().session.id;
    rig.pass(200 * SECOND);
    assert_eq!(rig.store.sweep(100).await.unwrap(), Swept::default());
    assert!(rig.store.revoke_session(id, "a test").await.unwrap().is_some());
}

async fn everything_is_there_again_when_the_file_is_opened_again(rig: Rig) {
    let (live, dead) = (rig.session().await, rig.session().await);
    assert_rotated(&rig.rotate(live, 0).await, 1);
    let session = rig.store.revoke_session(dead, "a test").await.unwrap().unwrap();
    let token = rig.revoke(Revoked::Token("jti-1".into()), rig.now() + 60 * SECOND).await;

    let rig = rig.reopened().await;
    assert_replayed(&rig.rotate(live, 0).await, 1);
    assert_rotated(&rig.rotate(live, 1).await, 2);
    assert!(matches!(rig.rotate(dead, 0).await, Rotation::Revoked { .. }));
    assert_eq!(rig.log().await, [session, token]);

    // The log's numbers go on where they were, though every entry has been swept.
    rig.pass(DAY);
    assert_eq!(rig.store.sweep(100).await.unwrap().revocations, 2);
    let later = rig.revoke(Revoked::Token("jti-2".into()), rig.now() + 60 * SECOND).await;
    let rig = rig.reopened().await;
    assert_eq!(rig.log().await, [later]);
}

async fn sixteen_parallel_refreshes_have_one_winner_and_one_successor(rig: Rig) {
    let id = rig.session().await;
    for generation in 0..50 {
        let racers: Vec<_> = (0..16)
            .map(|_| {
                let store = rig.store.clone();
                tokio::spawn(async move {
                    store.rotate(Presented { session: id, generation }, public(), Visitor::default()).await.unwrap()
                })
            })
            .collect();
        let mut rotated = 0;
        for racer in racers {
            match racer.await.unwrap() {
                Rotation::Rotated(session) => {
                    rotated += 1;
                    assert_eq!(session.generation, generation + 1);
                }
                Rotation::Replayed(session) => assert_eq!(session.generation, generation + 1),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(rotated, 1);
    }
}
