//! What is revoked, in memory: exact for access tokens, a cache for refresh tokens.

use std::{
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use sidegate::{
    clock::{Clock, Timestamp},
    revocation::{Blacklist, Revocations, Sizes},
    store::{Revocation, Revoked},
    types::{IssuerUrl, SessionId},
};

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn token(jti: &str, until: Timestamp) -> Revocation {
    Revocation { what: Revoked::Token(jti.into()), until, refresh_until: until }
}

fn after(seconds: u64) -> Timestamp {
    NOW + Duration::from_secs(seconds)
}

#[test]
fn an_entry_blocks_its_issuer_its_kind_and_its_name_alone() {
    let revocations = Revocations::default();
    let (ours, theirs) = (IssuerUrl::new("http://localhost:3000"), IssuerUrl::new("https://elsewhere.example"));
    let id = SessionId::generate();
    let session = Revocation { what: Revoked::Session(id), until: after(300), refresh_until: after(9000) };
    revocations.insert(&ours, &session);
    revocations.insert(&ours, &token("jti-1", after(300)));

    let (sid, other) = (id.to_string(), SessionId::generate().to_string());
    assert!(revocations.is_revoked(&ours, Some(&sid), None));
    assert!(revocations.is_revoked(&ours, Some(&sid), Some("another")));
    assert!(revocations.is_revoked(&ours, Some(&other), Some("jti-1")));
    assert!(!revocations.is_revoked(&ours, Some(&other), Some("another")));
    assert!(!revocations.is_revoked(&ours, Some("jti-1"), Some(&sid)), "the kinds are apart");
    assert!(!revocations.is_revoked(&theirs, Some(&sid), Some("jti-1")), "the issuers are apart");
    assert!(!revocations.is_revoked(&ours, None, None));
    assert_eq!(revocations.sizes(), Sizes { sessions: 1, tokens: 1 });
}

#[test]
fn the_generation_moves_with_every_insertion_and_with_nothing_else() {
    let revocations = Revocations::default();
    let ours = IssuerUrl::new("http://localhost:3000");
    let before = revocations.generation();
    revocations.insert(&ours, &token("jti-1", after(1)));
    revocations.insert(&ours, &token("jti-1", after(1)));
    assert_eq!(revocations.generation(), before + 2);
    revocations.is_revoked(&ours, None, Some("jti-1"));
    revocations.sweep(after(9000));
    assert_eq!(revocations.generation(), before + 2);
}

#[test]
fn a_sweep_takes_what_has_expired_and_never_a_moment_early() {
    let revocations = Revocations::default();
    let ours = IssuerUrl::new("http://localhost:3000");
    for n in 0..600 {
        revocations.insert(&ours, &token(&format!("jti-{n}"), after(n)));
    }
    // Prolonged, and one that a later entry would shorten: the longer of the two holds.
    revocations.insert(&ours, &token("jti-0", after(500)));
    revocations.insert(&ours, &token("jti-599", after(1)));
    revocations.sweep(after(300));
    for n in 301..600 {
        assert!(revocations.is_revoked(&ours, None, Some(&format!("jti-{n}"))), "{n}");
    }
    assert!(revocations.is_revoked(&ours, None, Some("jti-0")));
    assert!(revocations.sizes().tokens <= 361, "all but one bucket of what expired is gone");
    revocations.sweep(after(700));
    assert_eq!(revocations.sizes().tokens, 0);
}

#[test]
fn whoever_sees_the_generation_move_sees_the_entry() {
    let revocations = Arc::new(Revocations::default());
    let ours = IssuerUrl::new("http://localhost:3000");
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let (revocations, ours, stop) = (revocations.clone(), ours.clone(), stop.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let seen = revocations.generation();
                if let Some(last) = seen.checked_sub(1) {
                    assert!(revocations.is_revoked(&ours, None, Some(&format!("jti-{last}"))));
                }
            }
        })
    };
    for n in 0..20_000 {
        revocations.insert(&ours, &token(&format!("jti-{n}"), after(1)));
    }
    stop.store(true, Ordering::Relaxed);
    reader.join().unwrap();
}

#[test]
fn the_blacklist_knows_a_session_until_its_tokens_could_no_longer_be_presented() {
    let (clock, _hand) = Clock::simulated(NOW);
    let blacklist = Blacklist::new(clock);
    let (live, gone, unknown) = (SessionId::generate(), SessionId::generate(), SessionId::generate());
    blacklist.insert(live, after(1000));
    blacklist.insert(gone, NOW);
    assert!(blacklist.contains(live));
    assert!(!blacklist.contains(gone), "nothing is left to refuse");
    assert!(!blacklist.contains(unknown));
}

#[test]
fn a_full_blacklist_takes_the_latest_and_lets_the_oldest_go() {
    let blacklist = Blacklist::new(Clock::System);
    let until = Clock::System.now() + Duration::from_secs(1000);
    let sessions: Vec<_> = std::iter::repeat_with(SessionId::generate).take(150_000).collect();
    for session in &sessions {
        blacklist.insert(*session, until);
    }
    let known = |sessions: &[SessionId]| sessions.iter().filter(|session| blacklist.contains(**session)).count();
    assert_eq!(known(&sessions[60_000..]), 90_000);
    assert!(known(&sessions) < 110_000, "it is bounded");
}
