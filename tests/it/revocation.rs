//! What is revoked, in memory: exact for access tokens, a cache for refresh tokens.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use crate::support::Random;
use sidegate::{
    clock::{Clock, Timestamp},
    revocation::{Blacklist, Revocations},
    store::{Revocation, Revoked},
    types::{Credential, IssuerUrl, Position, SessionId, Subject},
};

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const LIFE: u64 = 7;

fn ours() -> IssuerUrl {
    IssuerUrl::new("http://localhost:3000")
}

fn after(seconds: u64) -> Timestamp {
    NOW + Duration::from_secs(seconds)
}

fn entry(number: u64, what: Revoked, until: Timestamp) -> Revocation {
    let reason = "a test".into();
    Revocation { number, at: NOW, issuer: None, what, until, refresh_until: until, lifts: false, reason }
}

fn token(jti: &str, until: Timestamp) -> Revocation {
    entry(1, Revoked::Token(jti.into()), until)
}

fn lift(number: u64, what: Revoked) -> Revocation {
    Revocation { lifts: true, ..entry(number, what, after(300)) }
}

/// A token of ours that says nothing by which it could be revoked.
fn bare(issuer: &IssuerUrl) -> Credential<'_> {
    Credential { issuer, token: None, session: None, subject: None, client: None, key: None, began: None, dated: None }
}

fn has_token(revocations: &Revocations, jti: &str) -> bool {
    revocations.is_revoked(&Credential { token: Some(jti), ..bare(&ours()) })
}

fn tokens(revocations: &Revocations) -> usize {
    revocations.sizes().entries[0]
}

#[test]
fn an_entry_blocks_its_issuer_its_kind_and_its_name_alone() {
    let revocations = Revocations::default();
    let (ours, theirs) = (ours(), IssuerUrl::new("https://elsewhere.example"));
    let sid = session_id().to_string();
    let kinds = [
        Revoked::Token("jti-1".into()),
        Revoked::Session(sid.as_str().into()),
        Revoked::Key("kid-1".into()),
        Revoked::Subject("alice".into()),
        Revoked::Client("app".into()),
    ];
    for (n, what) in (1..).zip(&kinds) {
        revocations.insert(&ours, LIFE, &entry(n, what.clone(), after(300)));
    }
    let mut theirs_too = entry(6, Revoked::Token("jti-9".into()), after(300));
    theirs_too.issuer = Some(theirs.clone());
    revocations.insert(&ours, LIFE, &theirs_too);

    for (n, what) in kinds.iter().enumerate() {
        let id = what.id();
        let named = |issuer| {
            let all = [id, None, None, None, None];
            let at = |kind: usize| all[(kind + 5 - n) % 5];
            Credential { token: at(0), session: at(1), key: at(2), subject: at(3), client: at(4), ..bare(issuer) }
        };
        assert!(revocations.is_revoked(&named(&ours)), "{what:?}");
        assert!(!revocations.is_revoked(&named(&theirs)), "the issuers are apart: {what:?}");
        for other in 1..5 {
            let all = [id, None, None, None, None];
            let at = |kind: usize| all[(kind + 5 - n + other) % 5];
            let mixed =
                Credential { token: at(0), session: at(1), key: at(2), subject: at(3), client: at(4), ..bare(&ours) };
            assert!(!revocations.is_revoked(&mixed), "the kinds are apart: {what:?}");
        }
    }
    assert!(revocations.is_revoked(&Credential { token: Some("jti-9"), ..bare(&theirs) }));
    assert!(!has_token(&revocations, "jti-9"));
    assert!(!revocations.is_revoked(&bare(&ours)));
    assert_eq!(revocations.sizes().entries, [2, 1, 1, 1, 1, 0]);
}

#[test]
fn an_epoch_refuses_what_began_before_it_and_no_clock_has_a_say() {
    let revocations = Revocations::default();
    let ours = ours();
    revocations.insert(&ours, LIFE, &entry(10, Revoked::Subject("alice".into()), after(300)));
    let refused = |subject, life, number| {
        let began = Position { life, number }.to_string();
        // A date that would say otherwise, were it asked.
        revocations.is_revoked(&Credential {
            subject: Some(subject),
            began: Some(&began),
            dated: Some(NOW.as_secs() + 3600 - 7200 * (number % 2)),
            ..bare(&ours)
        })
    };
    for number in [0, 8, 9] {
        assert!(refused("alice", LIFE, number), "{number}");
    }
    for number in [10, 11, 1000] {
        assert!(!refused("alice", LIFE, number), "{number}");
    }
    assert!(!refused("bob", LIFE, 0));
    // Of a log that was lost, and of one that followed it.
    assert!(refused("alice", LIFE - 1, 5000));
    assert!(!refused("alice", LIFE + 1, 0));
    for began in [None, Some(""), Some("7"), Some("7.11x"), Some("7.011"), Some("+7.11"), Some("x.11")] {
        let token = Credential { subject: Some("alice"), began, dated: Some(u64::MAX), ..bare(&ours) };
        assert!(revocations.is_revoked(&token), "who does not say when it began is older than all: {began:?}");
    }
}

#[test]
fn an_epoch_of_other_issuers_goes_by_their_date() {
    let revocations = Revocations::default();
    let theirs = IssuerUrl::new("https://elsewhere.example");
    let mut everything = entry(3, Revoked::Everything, after(300));
    (everything.issuer, everything.at) = (Some(theirs.clone()), NOW + Duration::from_millis(500));
    revocations.insert(&ours(), LIFE, &everything);
    let refused = |dated, began| revocations.is_revoked(&Credential { dated, began, ..bare(&theirs) });
    assert!(refused(Some(NOW.as_secs() - 1), None));
    assert!(refused(Some(NOW.as_secs()), None), "of the same second: before it, for all one can know");
    assert!(!refused(Some(NOW.as_secs() + 1), None));
    assert!(refused(None, None));
    // Whatever they put into a claim of ours.
    assert!(refused(Some(NOW.as_secs() - 1), Some("ffffffff.99")));
    assert!(!revocations.is_revoked(&bare(&ours())));
}

#[test]
fn what_is_lifted_stays_lifted_whatever_arrives_late() {
    for what in
        [Revoked::Token("x".into()), Revoked::Subject("x".into()), Revoked::Client("x".into()), Revoked::Everything]
    {
        let ours = ours();
        let revocations = Revocations::default();
        let refused = || {
            let id = what.id();
            let (token, subject, client) = match what {
                Revoked::Token(_) => (id, None, None),
                Revoked::Subject(_) => (None, id, None),
                _ => (None, None, id),
            };
            revocations.is_revoked(&Credential { token, subject, client, ..bare(&ours) })
        };
        revocations.insert(&ours, LIFE, &entry(1, what.clone(), after(300)));
        assert!(refused(), "{what:?}");
        revocations.insert(&ours, LIFE, &lift(2, what.clone()));
        assert!(!refused(), "{what:?}");
        // Told once more by somebody who lags.
        revocations.insert(&ours, LIFE, &entry(1, what.clone(), after(300)));
        assert!(!refused(), "{what:?}");
        revocations.insert(&ours, LIFE, &entry(3, what.clone(), after(300)));
        assert!(refused(), "{what:?}");
        revocations.insert(&ours, LIFE, &lift(2, what.clone()));
        assert!(refused(), "{what:?}");
        // A log that began anew knows nothing of those numbers.
        revocations.insert(&ours, LIFE, &lift(4, what.clone()));
        revocations.insert(&ours, LIFE + 1, &entry(1, what.clone(), after(300)));
        assert!(refused(), "{what:?}");
        revocations.insert(&ours, LIFE, &lift(5, what.clone()));
        assert!(refused(), "the log that is gone lifts nothing: {what:?}");
    }
}

#[test]
fn the_generation_moves_with_every_insertion_and_with_nothing_else() {
    let revocations = Revocations::default();
    let before = revocations.generation();
    revocations.insert(&ours(), LIFE, &token("jti-1", after(1)));
    revocations.insert(&ours(), LIFE, &token("jti-1", after(1)));
    assert_eq!(revocations.generation(), before + 2);
    has_token(&revocations, "jti-1");
    revocations.sweep(after(9000));
    assert_eq!(revocations.generation(), before + 2);
}

#[test]
fn a_sweep_takes_what_has_expired_and_never_a_moment_early() {
    let revocations = Revocations::default();
    let ours = ours();
    for n in 0..600 {
        revocations.insert(&ours, LIFE, &token(&format!("jti-{n}"), NOW + Duration::from_millis(n)));
    }
    // Prolonged, and one that a later entry would shorten: the longer of the two holds.
    revocations.insert(&ours, LIFE, &token("jti-0", NOW + Duration::from_millis(500)));
    revocations.insert(&ours, LIFE, &token("jti-599", NOW));
    revocations.insert(&ours, LIFE, &entry(2, Revoked::Subject("alice".into()), NOW + Duration::from_millis(300)));
    revocations.sweep(NOW + Duration::from_millis(300));
    for n in 301..600 {
        assert!(has_token(&revocations, &format!("jti-{n}")), "{n}");
    }
    assert!(has_token(&revocations, "jti-0"));
    assert_eq!(revocations.sizes().entries, [300, 0, 0, 0, 0, 0]);
    revocations.sweep(NOW + Duration::from_millis(700));
    assert_eq!(tokens(&revocations), 0);
}

#[test]
fn a_clock_that_is_set_forward_sweeps_nothing_before_its_time() {
    let revocations = Revocations::default();
    revocations.sweep(NOW);
    revocations.insert(&ours(), LIFE, &token("jti-1", after(300)));
    revocations.sweep(after(3600));
    assert!(has_token(&revocations, "jti-1"), "no hour has passed: the clock may be set back again");
}

#[test]
fn memory_comes_back_when_entries_have_gone() {
    let revocations = Revocations::default();
    for n in 0..100_000 {
        revocations.insert(&ours(), LIFE, &token(&session_id().to_string(), NOW + Duration::from_millis(n % 2)));
    }
    assert_eq!(tokens(&revocations), 100_000);
    let full = revocations.sizes().bytes;
    revocations.sweep(NOW + Duration::from_millis(1));
    assert_eq!(tokens(&revocations), 0);
    assert!(revocations.sizes().bytes < full / 10, "{} of {full}", revocations.sizes().bytes);
}

/// Whatever comes in whatever order, the table says what a list of all that was said would.
#[test]
fn any_order_of_issuing_revoking_lifting_and_expiring_agrees_with_a_model() {
    for seed in 0..200 {
        model(seed);
    }
}

fn model(seed: u64) {
    let mut random = Random(seed);
    let (ours, revocations) = (ours(), Revocations::default());
    let names = ["a", "b", "0123456789abcdef0123456789abcdef", "AAAAAAAAAAAAAAAAAAAAAA"];
    let mut log = Vec::<Revocation>::new();
    let mut told = Vec::<usize>::new();
    let mut now = NOW;
    let mut issued = Vec::<(Vec<String>, u64, Timestamp)>::new();
    for _ in 0..120 {
        match random.below(10) {
            // A session begins, and gets a token that lives for 1 s.
            // All of it takes less than a table waits before it believes a clock that runs ahead.
            0..3 => {
                let names = (0..5).map(|_| names[random.below(4)].to_owned()).collect();
                issued.push((names, log.len() as u64, now + Duration::from_secs(1)));
            }
            3..6 => {
                let name: Box<str> = names[random.below(4)].into();
                let what = match random.below(6) {
                    0 => Revoked::Token(name),
                    1 => Revoked::Session(name),
                    2 => Revoked::Key(name),
                    3 => Revoked::Subject(name),
                    4 => Revoked::Client(name),
                    _ => Revoked::Everything,
                };
                let mut new = entry(log.len() as u64 + 1, what, now + Duration::from_secs(1));
                new.lifts = random.below(4) == 0;
                log.push(new);
            }
            // Some of the log arrives, what was told before among it, or a snapshot of all that is live.
            6..8 => told.extend((0..random.below(4)).map(|_| random.below(log.len().max(1)))),
            8 => told.extend(0..log.len()),
            _ => now = now + Duration::from_millis(random.below(300) as u64),
        }
        for at in told.drain(..).filter(|at| *at < log.len()) {
            // What comes before it has come before it, as it does on a feed; some of it for the second time.
            for earlier in &log[..=at] {
                if earlier.until > now {
                    revocations.insert(&ours, LIFE, earlier);
                }
            }
        }
        if random.below(5) == 0 {
            log.iter().filter(|entry| entry.until > now).for_each(|entry| revocations.insert(&ours, LIFE, entry));
            revocations.sweep(now);
            for (names, began, expires) in issued.iter().filter(|(.., expires)| *expires > now) {
                let position = Position { life: LIFE, number: *began }.to_string();
                let token = Credential {
                    token: Some(&names[0]),
                    session: Some(&names[1]),
                    key: Some(&names[2]),
                    subject: Some(&names[3]),
                    client: Some(&names[4]),
                    began: Some(&position),
                    ..bare(&ours)
                };
                let expected = refused_by(&log, now, names, *began);
                assert_eq!(
                    revocations.is_revoked(&token),
                    expected,
                    "seed {seed}: {names:?} of {began}, until {expires:?}"
                );
            }
        }
    }
}

/// What the log says of a token, read from its beginning.
fn refused_by(log: &[Revocation], now: Timestamp, names: &[String], began: u64) -> bool {
    let mut last = HashMap::<&Revoked, &Revocation>::new();
    let mut blocked = HashMap::<&Revoked, bool>::new();
    for entry in log.iter().filter(|entry| entry.until > now) {
        last.insert(&entry.what, entry);
        blocked.insert(&entry.what, !entry.lifts);
    }
    let is = |what: Revoked| blocked.get(&what).copied().unwrap_or(false);
    let epoch = |what: Revoked| is(what.clone()) && began < last[&what].number;
    is(Revoked::Token(names[0].as_str().into()))
        || is(Revoked::Session(names[1].as_str().into()))
        || is(Revoked::Key(names[2].as_str().into()))
        || epoch(Revoked::Subject(names[3].as_str().into()))
        || epoch(Revoked::Client(names[4].as_str().into()))
        || epoch(Revoked::Everything)
}

#[test]
fn whoever_sees_the_generation_move_sees_the_entry() {
    let revocations = Arc::new(Revocations::default());
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let (revocations, stop) = (revocations.clone(), stop.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let seen = revocations.generation();
                if let Some(last) = seen.checked_sub(1) {
                    assert!(has_token(&revocations, &format!("jti-{last}")));
                }
            }
        })
    };
    for n in 0..20_000 {
        revocations.insert(&ours(), LIFE, &token(&format!("jti-{n}"), after(1)));
    }
    stop.store(true, Ordering::Relaxed);
    reader.join().unwrap();
}

#[test]
fn the_blacklist_knows_a_session_until_its_tokens_could_no_longer_be_presented() {
    let (clock, _hand) = Clock::simulated(NOW);
    let blacklist = Blacklist::new(clock);
    let (live, gone, unknown) = (session_id(), session_id(), session_id());
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
    let sessions: Vec<_> = std::iter::repeat_with(session_id).take(150_000).collect();
    for session in &sessions {
        blacklist.insert(*session, until);
    }
    let known = |sessions: &[SessionId]| sessions.iter().filter(|session| blacklist.contains(**session)).count();
    assert_eq!(known(&sessions[60_000..]), 90_000);
    assert!(known(&sessions) < 110_000, "it is bounded");
}

fn session_id() -> SessionId {
    SessionId::generate(&Subject::new("somebody"))
}
