//! Callers at random, sixteen at a time, checked against a model that is written anew: what each of them was told must be what some
//! order of them explains, and all of them must be explained by one.

use std::{collections::VecDeque, env, time::Duration};

use sidegate::{
    clock::Timestamp,
    store::{
        Lifted, MAX_LEEWAY, NewRevocation, NewSession, OnRollback, Presented, Revoked, Rotation, RotationRules, Store,
        Visitor, Whose,
    },
    types::{SessionId, Subject},
};

use super::{DAY, Rig, SECOND, confidential, named, public, session_of};
use crate::support::Random;

const SUBJECTS: [&str; 3] = ["alice", "bob", "carol"];
/// How far behind the next generation what is presented is: mostly the current one.
const OFTEN: [u32; 12] = [1, 1, 1, 1, 1, 2, 2, 3, 4, 5, 6, 0];
/// How many ask about one session at once.
const CROWD: usize = 4;

#[derive(Clone, Copy, Debug)]
enum Ask {
    Rotate(u32, RotationRules),
    Revoke,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Rotated(u32),
    Replayed(u32),
    Reused,
    RolledBack,
    Revoked,
    LoggedOut,
    Expired,
    Unknown,
}

/// A session as the notes on rotation have it, without a store.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Model {
    generation: u32,
    superseded: VecDeque<Timestamp>,
    idle: Timestamp,
    absolute: Timestamp,
    access: Timestamp,
    revoked: bool,
    logged_out: bool,
    swept: bool,
    /// The longest that it was ever to be kept.
    longest: Timestamp,
}

impl Model {
    /// Kept for an hour longer than anything depends on it.
    fn kept(&self) -> Timestamp {
        self.ends().max(self.access + MAX_LEEWAY) + 3600 * SECOND
    }

    fn ends(&self) -> Timestamp {
        self.idle.min(self.absolute)
    }

    fn is_live(&self, now: Timestamp) -> bool {
        !self.revoked && !self.logged_out && now < self.ends()
    }

    fn hears(&mut self, ask: Ask, now: Timestamp) -> Told {
        let told = self.answers(ask, now);
        self.longest = self.longest.max(self.kept());
        told
    }

    fn answers(&mut self, ask: Ask, now: Timestamp) -> Told {
        match ask {
            _ if self.swept => Told::Unknown,
            Ask::Revoke => {
                self.revoked = true;
                Told::Revoked
            }
            Ask::Rotate(..) if self.revoked => Told::Revoked,
            Ask::Rotate(..) if self.logged_out => Told::LoggedOut,
            Ask::Rotate(..) if now >= self.ends() => Told::Expired,
            Ask::Rotate(presented, rules) if presented < self.generation => {
                let age = (self.generation - presented) as usize - 1;
                let Some(since) = self.superseded.get(age).map(|at| now.since(*at).unwrap()) else {
                    self.revoked = true;
                    return Told::Reused;
                };
                let retry = age == 0 && rules.retry_window.is_none_or(|window| since <= window);
                if since > rules.reuse_interval && !retry {
                    self.revoked = true;
                    return Told::Reused;
                }
                self.access = self.access.max(now + rules.access_lifetime);
                Told::Replayed(self.generation)
            }
            Ask::Rotate(presented, rules) => {
                if presented > self.generation {
                    if rules.on_rollback == OnRollback::Relogin {
                        self.revoked = true;
                        return Told::RolledBack;
                    }
                    self.superseded.clear();
                    self.generation = presented;
                }
                if rules.rotate {
                    self.superseded.push_front(now);
                    self.superseded.truncate(4);
                    self.generation += 1;
                }
                self.idle = now + rules.idle_lifetime;
                self.access = self.access.max(now + rules.access_lifetime);
                Told::Rotated(self.generation)
            }
        }
    }
}

/// A session, and what it may be by all that was told of it.
struct Known {
    id: SessionId,
    subject: &'static str,
    may_be: Vec<Model>,
}

impl Known {
    /// What nothing depends on is gone when it was to be gone at the latest; where a later refresh has shortened its life, it may
    /// be gone before.
    fn may_have_been_swept(&mut self, now: Timestamp) {
        let due = self.may_be.iter().filter(|model| !model.swept && now >= model.kept());
        let swept: Vec<Model> = due.map(|model| Model { swept: true, ..model.clone() }).collect();
        self.may_be.retain(|model| model.swept || now < model.longest);
        self.may_be.extend(swept);
    }

    /// Goes through every order in which the asks may have been heard, and keeps what explains all that was told.
    fn explain(&mut self, asks: &[(Ask, Told)], now: Timestamp) {
        let mut explained = Vec::new();
        for start in &self.may_be {
            orders(asks.len(), &mut |order| {
                let mut model = start.clone();
                let fits = order.iter().all(|&n| {
                    let told = model.hears(asks[n].0, now);
                    // An epoch is forgotten when whatever it ended would have ended by itself.
                    told == asks[n].1 || (told, asks[n].1) == (Told::LoggedOut, Told::Expired) && now >= model.ends()
                });
                if fits && !explained.contains(&model) {
                    explained.push(model);
                }
            });
        }
        assert!(!explained.is_empty(), "at {now:?} no order of {asks:#?} fits {:#?}", self.may_be);
        self.may_be = explained;
    }
}

/// Every order of so many.
fn orders(many: usize, each: &mut dyn FnMut(&[usize])) {
    fn go(order: &mut Vec<usize>, many: usize, each: &mut dyn FnMut(&[usize])) {
        if order.len() == many {
            return each(order);
        }
        for n in 0..many {
            if !order.contains(&n) {
                order.push(n);
                go(order, many, each);
                order.pop();
            }
        }
    }
    go(&mut Vec::new(), many, each);
}

fn rules(random: &mut Random) -> RotationRules {
    let base = if random.below(2) == 0 { public() } else { confidential() };
    RotationRules {
        rotate: random.below(8) != 0,
        reuse_interval: [Duration::from_millis(1), 10 * SECOND][random.below(2)],
        on_rollback: [OnRollback::Relogin, OnRollback::RollForward, OnRollback::RollForward][random.below(3)],
        access_lifetime: [60 * SECOND, 300 * SECOND][random.below(2)],
        idle_lifetime: [DAY, 14 * DAY][random.below(2)],
        ..base
    }
}

async fn ask(store: Store, session: SessionId, ask: Ask) -> Told {
    let Ask::Rotate(generation, rules) = ask else {
        return match store.revoke_session(session, "a test").await.unwrap() {
            Some(_) => Told::Revoked,
            None => Told::Unknown,
        };
    };
    match store.rotate(Presented { session, generation }, rules, Visitor::default()).await.unwrap() {
        Rotation::Rotated(session) => Told::Rotated(session.generation),
        Rotation::Replayed(session) => Told::Replayed(session.generation),
        Rotation::Reused(_) => Told::Reused,
        Rotation::RolledBack(_) => Told::RolledBack,
        Rotation::Revoked(_) => Told::Revoked,
        Rotation::LoggedOut => Told::LoggedOut,
        Rotation::WrongKey => unreachable!("its sessions have none"),
        Rotation::Expired => Told::Expired,
        Rotation::Unknown => Told::Unknown,
    }
}

pub(super) async fn callers_at_random_are_told_what_a_model_says(rig: Rig) {
    let (seeds, rounds) = if env::var_os("SIDEGATE_SOAK").is_some() { (50, 1000) } else { (5, 200) };
    for seed in 0..seeds {
        let rig = rig.another().await;
        // In a task, so that it can be said which seed it was.
        let done = tokio::spawn(run(rig, seed, rounds)).await;
        assert!(done.is_ok(), "with seed {seed}");
    }
}

async fn run(rig: Rig, seed: u64, rounds: usize) {
    let mut random = Random(seed);
    let stores = [rig.store.clone(), rig.beside().await];
    let mut known: Vec<Known> = Vec::new();
    let mut epochs: Vec<(u64, &'static str)> = Vec::new();
    for round in 0..rounds {
        match random.below(12) {
            0 => {
                let subject = SUBJECTS[random.below(3)];
                let (what, until) = (Revoked::Subject(subject.into()), rig.now() + 10 * DAY);
                let new = NewRevocation { issuer: None, what, until, reason: "a test".into() };
                let entry = stores[round % 2].revoke(new).await.unwrap();
                epochs.retain(|(_, of)| *of != subject);
                epochs.push((entry.number, subject));
                logged_out(&mut known, subject, true);
            }
            1 => {
                if let Some((number, subject)) = epochs.pop() {
                    let lifted = stores[round % 2].lift(number, "a mistake").await.unwrap();
                    if matches!(lifted, Lifted::Done(_)) {
                        logged_out(&mut known, subject, false);
                    }
                }
            }
            2 => {
                stores[round % 2].sweep(1000).await.unwrap();
                let now = rig.now();
                known.iter_mut().for_each(|known| known.may_have_been_swept(now));
            }
            3..6 => open(&rig, &stores[round % 2], &mut known, &mut random).await,
            _ => {}
        }
        let (short, long) = ([0, 0, 1000, 2000], [5, 11, 61, 3600, 86_400]);
        let step = if random.below(4) == 0 { long[random.below(5)] * 1000 } else { short[random.below(4)] };
        rig.pass(Duration::from_millis(1 + step));

        let mut calls: Vec<(usize, Ask, tokio::task::JoinHandle<Told>)> = Vec::new();
        for _ in 0..4.min(known.len()) {
            // Mostly one of the last, so that something happens to it again and again.
            let of = if random.below(4) == 0 { known.len() } else { known.len().min(4) };
            let at = known.len() - 1 - random.below(of);
            if calls.iter().any(|(other, ..)| *other == at) {
                continue;
            }
            for n in 0..=random.below(CROWD) {
                let generation = known[at].may_be[0].generation;
                let presented = (generation + 1).saturating_sub(OFTEN[random.below(OFTEN.len())]);
                let what = if random.below(40) == 0 { Ask::Revoke } else { Ask::Rotate(presented, rules(&mut random)) };
                let call = tokio::spawn(ask(stores[n % 2].clone(), known[at].id, what));
                calls.push((at, what, call));
            }
        }
        let mut told: Vec<Vec<(Ask, Told)>> = vec![Vec::new(); known.len()];
        for (at, ask, call) in calls {
            told[at].push((ask, call.await.unwrap()));
        }
        for (known, told) in known.iter_mut().zip(&told) {
            known.explain(told, rig.now());
        }
        look(&rig, &stores[round % 2], &mut known, random.below(3)).await;
    }
}

/// What can be seen of the sessions is what they may be.
async fn look(rig: &Rig, store: &Store, known: &mut [Known], subject: usize) {
    let mine = |known: &&mut Known| known.subject == SUBJECTS[subject];
    let listed = store.list(Whose::Subject(Subject::new(SUBJECTS[subject])), None, 1000).await.unwrap();
    let mut expected = Vec::new();
    for known in known.iter_mut().filter(mine) {
        let before = known.may_be.clone();
        match listed.iter().find(|record| record.session.id == known.id) {
            None => known.may_be.retain(|model| model.swept),
            Some(record) => {
                expected.push(known.id);
                let state = record.state(rig.now());
                known.may_be.retain(|model| {
                    let is = match (model.revoked, model.logged_out, rig.now() >= model.ends()) {
                        (true, ..) => ["revoked"; 2],
                        (false, true, true) => ["logged_out", "expired"],
                        (false, true, false) => ["logged_out"; 2],
                        (false, false, true) => ["expired"; 2],
                        (false, false, false) => ["live"; 2],
                    };
                    !model.swept && is.contains(&state) && record.session.generation == model.generation
                });
            }
        }
        assert!(
            !known.may_be.is_empty(),
            "{:?} is seen at {:?} as it cannot be from {before:#?}: {listed:#?}",
            known.id,
            rig.now()
        );
    }
    expected.sort();
    assert_eq!(named(&listed), expected);
}

async fn open(rig: &Rig, store: &Store, known: &mut Vec<Known>, random: &mut Random) {
    let subject = SUBJECTS[random.below(3)];
    let now = rig.now();
    let new = NewSession {
        idle_lifetime: [DAY, 3 * DAY][random.below(2)],
        absolute_lifetime: [3 * DAY, 20 * DAY][random.below(2)],
        max_sessions: [None, Some(2)][random.below(2)],
        ..session_of(subject)
    };
    let mut model = Model {
        generation: 0,
        superseded: VecDeque::new(),
        idle: now + new.idle_lifetime,
        absolute: now + new.absolute_lifetime,
        access: now + new.access_lifetime,
        revoked: false,
        logged_out: false,
        swept: false,
        longest: now,
    };
    model.longest = model.kept();
    let limit = new.max_sessions;
    // What is known of the others has to be certain, so that it can be said which are the oldest.
    let certain = known.iter().filter(|known| known.subject == subject).all(|known| known.may_be.len() == 1);
    if limit.is_some() && !certain {
        return;
    }
    let opened = store.open(new).await.unwrap();
    let mut live: Vec<&mut Known> =
        known.iter_mut().filter(|known| known.subject == subject && known.may_be[0].is_live(now)).collect();
    let surplus = limit.map_or(0, |most| (live.len() + 1).saturating_sub(most as usize));
    let ended: Vec<_> = live.iter().take(surplus).map(|known| known.id.to_string()).collect();
    let told: Vec<_> = opened.ended.iter().filter_map(|entry| entry.what.id().map(str::to_owned)).collect();
    assert_eq!(told, ended, "the oldest end");
    live.iter_mut().take(surplus).for_each(|known| known.may_be[0].revoked = true);
    known.push(Known { id: opened.session.id, subject, may_be: vec![model] });
}

fn logged_out(known: &mut [Known], subject: &str, so: bool) {
    let theirs = known.iter_mut().filter(|known| known.subject == subject);
    theirs.flat_map(|known| &mut known.may_be).for_each(|model| model.logged_out = so);
}
