//! What must hold when everything happens at once: callers that race, a process that is killed in the midst of it, a
//! token that is presented twice.

mod redis;

use std::{
    collections::HashSet,
    env, io,
    sync::{Barrier, mpsc},
    thread,
};

use crate::support::{Answer, PATIENCE, Sidegate, Upstream, client::try_request, config_with_issuer};

/// How many race with one token.
const CALLERS: usize = 16;
/// How many rotate and revoke while the process is killed.
const STORMERS: usize = 4;
/// How many ended sessions each of them remembers, and asks for after every restart.
const REMEMBERED: usize = 250;

/// As often as a person waits for, or ten times that: `make soak`.
fn rounds(usual: usize) -> usize {
    if env::var_os("SIDEGATE_SOAK").is_some() { usual * 10 } else { usual }
}

/// An issuer whose refresh tokens live as `refresh_token` says, with two workers, each with a cache of its own.
fn config(upstream: &Upstream, refresh_token: &str) -> String {
    config_with_issuer(
        upstream.address(),
        &format!(
            "  refresh_token: {{ {refresh_token} }}\n\
             routes: [{{ name: all, match: {{ path_prefix: / }}, upstream: app }}]\n"
        ),
    )
    .replace("workers: 1", "workers: 2")
    .replace("lifetime: 5m", "lifetime: 1h")
}

#[test]
fn callers_that_race_with_one_token_all_get_its_one_successor() {
    let upstream = Upstream::start();
    race(&[Sidegate::start(&config(&upstream, ""))]);
}

/// Sixteen refresh at once with one token, spread over all gates: each gets the one successor, and an access token that every gate
/// takes.
fn race(gates: &[Sidegate]) {
    let doors: Vec<_> = gates.iter().map(|gate| Door(gate.address())).collect();
    let door = |n: usize| doors[n % doors.len()];
    for client in [Client::Confidential, Client::Public] {
        let outcomes = || {
            ["rotated", "replayed"].map(|outcome| {
                let series = format!("sidegate_refresh_tokens_total{{outcome=\"{outcome}\"}}");
                gates.iter().map(|gate| gate.metric(&series)).sum::<f64>()
            })
        };
        let before = outcomes();
        let mut token = door(0).log_in(client).unwrap().refresh;
        let mut seen = HashSet::from([token.clone()]);
        for round in 0..rounds(50) {
            let start = Barrier::new(CALLERS);
            let call = |n: usize| {
                start.wait();
                let tokens = Tokens::of(&door(n).refresh(client, &token).unwrap());
                let answer = door(n + 1).pass(&tokens.access).unwrap();
                assert_eq!(answer.status, 200, "an access token of a race: {answer:?}");
                tokens.refresh
            };
            let successors: HashSet<String> = thread::scope(|scope| {
                let calls: Vec<_> = (0..CALLERS)
                    .map(|n| {
                        let call = &call;
                        scope.spawn(move || call(n))
                    })
                    .collect();
                calls.into_iter().map(|call| call.join().unwrap()).collect()
            });
            assert_eq!(successors.len(), 1, "{client:?}, round {round}: more than one live token");
            token = successors.into_iter().next().unwrap();
            assert!(seen.insert(token.clone()), "{client:?}, round {round}: an old token came back");
        }
        let [rotated, replayed] = [0, 1].map(|n| (outcomes()[n] - before[n]) as usize);
        assert_eq!((rotated, replayed), (rounds(50), rounds(50) * (CALLERS - 1)), "{client:?}");
    }
}

#[test]
fn a_used_token_that_comes_again_ends_the_session_everywhere() {
    let upstream = Upstream::start();
    let gate = Sidegate::start(&config(&upstream, "reuse_interval: 0s").replace("workers: 2", "workers: 1"));
    let door = Door(gate.address());
    for client in [Client::Confidential, Client::Public] {
        let first = door.log_in(client).unwrap();
        let second = Tokens::of(&door.refresh(client, &first.refresh).unwrap());
        let third = Tokens::of(&door.refresh(client, &second.refresh).unwrap());
        let bystander = door.log_in(client).unwrap();
        let hits = || gate.metric("sidegate_token_cache_lookups_total{result=\"hit\"}");
        for tokens in [&first, &third, &bystander] {
            assert_eq!(door.pass(&tokens.access).unwrap().status, 200);
            let before = hits();
            assert_eq!(door.pass(&tokens.access).unwrap().status, 200);
            assert_eq!(hits(), before + 1.0, "it is in the cache of verified tokens");
        }
        refused(&door.refresh(client, &first.refresh).unwrap());
        // The very next request, with a token that the gateway knows already.
        revoked(&door.pass(&third.access).unwrap());
        revoked(&door.pass(&first.access).unwrap());
        revoked(&door.pass(&second.access).unwrap());
        for tokens in [&third, &second, &first] {
            refused(&door.refresh(client, &tokens.refresh).unwrap());
        }
        assert_eq!(door.pass(&bystander.access).unwrap().status, 200, "another session goes on");
        Tokens::of(&door.refresh(client, &bystander.refresh).unwrap());
    }
}

/// The confidential client has no window at all; the public one may ask again for an answer that it lost.
const STRICT: &str = "reuse_interval: 0s, confidential_retry_window: 0s, retry_window: 1h";

/// No power is cut here: what was written survives. What this shows is that nobody was told before it was written, and
/// that all of it is heeded when the next process answers.
#[test]
fn nothing_that_was_acknowledged_is_lost_when_the_process_is_killed() {
    let upstream = Upstream::start();
    let yaml = config(&upstream, STRICT);
    let mut gate = Some(Sidegate::start(&yaml));
    let door = |gate: &Option<Sidegate>, _| Door(gate.as_ref().unwrap().address());
    let strike = |gate: &mut Option<Sidegate>| {
        let folder = gate.take().unwrap().kill();
        *gate = Some(Sidegate::start_in(folder, &yaml));
    };
    let counts = storm(&mut gate, rounds(20), door, strike, |_| {});
    assert!(counts.unanswered > rounds(20));
}

/// Has everybody act until something happens to the `world` in the midst of it, and compares what holds then with what was
/// acknowledged, again and again. `strike` also mends what it broke, `settle` waits until all know of everything, and `door` says where each of the stormers
/// knocks.
fn storm<W>(
    world: &mut W,
    rounds: usize,
    door: impl Fn(&W, usize) -> Door,
    mut strike: impl FnMut(&mut W),
    settle: impl Fn(&W),
) -> Counts {
    let mut ledgers: Vec<Ledger> = (0..STORMERS).map(Ledger::new).collect();
    for round in 0..rounds {
        let (told, acknowledged) = mpsc::channel();
        thread::scope(|scope| {
            for (n, ledger) in ledgers.iter_mut().enumerate() {
                let (told, door) = (told.clone(), door(world, n));
                scope.spawn(move || while ledger.act(door).is_ok() && told.send(()).is_ok() {});
            }
            // Right after an acknowledgement: what it was given too early for is not on disk then.
            (0..40 + round * 17 % 60).for_each(|_| acknowledged.recv_timeout(PATIENCE).unwrap());
            strike(world);
            // Who has not been stopped by that stops now.
            drop(acknowledged);
        });
        settle(world);
        thread::scope(|scope| {
            for (n, ledger) in ledgers.iter_mut().enumerate() {
                // Another one than before, where there is another.
                let door = door(world, n + 1);
                scope.spawn(move || ledger.compare(door));
            }
        });
    }
    // That the storm was one.
    let counts = ledgers.iter().fold(Counts::default(), |sum, ledger| sum.plus(&ledger.counts));
    assert!(counts.rotations > rounds * 10);
    assert!(counts.revocations > rounds * 3);
    assert!(counts.reuses > rounds);
    counts
}

/// What one of the stormers did, as far as it was told.
struct Ledger {
    step: usize,
    live: Vec<Session>,
    ended: Vec<Session>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    rotations: usize,
    revocations: usize,
    unanswered: usize,
    reuses: usize,
}

impl Counts {
    fn plus(self, more: &Self) -> Self {
        Self {
            rotations: self.rotations + more.rotations,
            revocations: self.revocations + more.revocations,
            unanswered: self.unanswered + more.unanswered,
            reuses: self.reuses + more.reuses,
        }
    }
}

impl Ledger {
    fn new(number: usize) -> Self {
        Self { step: number * 1000, live: Vec::new(), ended: Vec::new(), counts: Counts::default() }
    }

    /// Does something, and writes down what it was told; an error means that the process is gone.
    fn act(&mut self, door: Door) -> io::Result<()> {
        self.step += 1;
        if self.live.len() < 4 || self.step.is_multiple_of(8) {
            let client = [Client::Confidential, Client::Public][(self.step + self.step / 8) % 2];
            self.live.push(Session::open(client, &door.log_in(client)?));
            return Ok(());
        }
        let at = self.step * 31 % self.live.len();
        let session = &mut self.live[at];
        match self.step % 8 {
            1 => session.end(door)?,
            2 => session.end_last_access_token(door)?,
            3 => session.refresh_and_end(door)?,
            _ => {
                session.refresh(door)?;
                self.counts.rotations += 1;
                return Ok(());
            }
        }
        self.counts.revocations += 1;
        if session.is_over {
            // By the very next request.
            revoked(&door.pass(session.access.last().unwrap())?);
            self.ended.push(self.live.swap_remove(at));
        }
        Ok(())
    }

    /// Asks a new process about everything that the one before it said.
    fn compare(&mut self, door: Door) {
        for (n, session) in self.live.iter_mut().enumerate() {
            self.counts.unanswered += usize::from(session.unanswered.any());
            // A used token, where nothing excuses it, gives nothing and ends the session. It is asked for first, lest a
            // refresh before it make good what the store forgot.
            if n % 4 == 1 && session.present_a_used_one(door) {
                self.counts.reuses += 1;
            } else {
                session.settle(door);
            }
        }
        self.ended.extend(self.live.extract_if(.., |session| session.is_over));
        self.ended.drain(..self.ended.len().saturating_sub(REMEMBERED));
        for session in &self.ended {
            session.is_dead(door);
        }
    }
}

/// A session, as its client knows it.
struct Session {
    client: Client,
    /// Its refresh tokens, one for each generation.
    refresh: Vec<String>,
    access: Vec<String>,
    /// Access tokens that were revoked by themselves.
    lost: Vec<String>,
    is_over: bool,
    unanswered: Unanswered,
}

/// What it asked for and was not answered: done or not, both are right.
#[derive(Default)]
struct Unanswered {
    rotation: bool,
    revocation: bool,
    access_token: bool,
}

impl Unanswered {
    fn any(&self) -> bool {
        self.rotation || self.revocation || self.access_token
    }
}

impl Session {
    fn open(client: Client, tokens: &Tokens) -> Self {
        Self {
            client,
            refresh: vec![tokens.refresh.clone()],
            access: vec![tokens.access.clone()],
            lost: Vec::new(),
            is_over: false,
            unanswered: Unanswered::default(),
        }
    }

    fn latest(&self) -> &str {
        self.refresh.last().unwrap()
    }

    fn learn(&mut self, answer: &Answer) {
        let tokens = Tokens::of(answer);
        assert!(!self.refresh.contains(&tokens.refresh), "a used token came back: {answer:?}");
        self.refresh.push(tokens.refresh);
        self.access.push(tokens.access);
    }

    fn refresh(&mut self, door: Door) -> io::Result<()> {
        self.unanswered.rotation = true;
        let answer = door.refresh(self.client, self.latest())?;
        self.unanswered.rotation = false;
        self.learn(&answer);
        Ok(())
    }

    fn end(&mut self, door: Door) -> io::Result<()> {
        self.unanswered.revocation = true;
        granted(&door.revoke(self.client, self.latest())?);
        self.is_over = true;
        Ok(())
    }

    fn end_last_access_token(&mut self, door: Door) -> io::Result<()> {
        let token = self.access.last().unwrap().clone();
        self.unanswered.access_token = true;
        granted(&door.revoke(self.client, &token)?);
        self.unanswered.access_token = false;
        revoked(&door.pass(&token)?);
        self.lost.push(token);
        Ok(())
    }

    /// Both at once: whichever comes first, the session is over, and what the other got is no good.
    fn refresh_and_end(&mut self, door: Door) -> io::Result<()> {
        (self.unanswered.rotation, self.unanswered.revocation) = (true, true);
        let (rotation, revocation) = thread::scope(|scope| {
            let rotation = scope.spawn(|| door.refresh(self.client, self.latest()));
            let revocation = door.revoke(self.client, self.latest());
            (rotation.join().unwrap(), revocation)
        });
        if let Ok(answer) = &rotation {
            self.unanswered.rotation = false;
            if answer.status == 200 {
                self.learn(answer);
            } else {
                // Told once that it is over, it stays so, whether or not the other answer arrived.
                refused(answer);
                self.is_over = true;
            }
        }
        if let Ok(answer) = &revocation {
            granted(answer);
            self.is_over = true;
        }
        rotation.and(revocation).map(drop)
    }

    /// After a restart: what was acknowledged stands, and what was not answered is found out.
    fn settle(&mut self, door: Door) {
        let unanswered = std::mem::take(&mut self.unanswered);
        if self.is_over {
            return;
        }
        let answer = door.refresh(self.client, self.latest()).unwrap();
        if answer.status == 200 {
            self.learn(&answer);
            if unanswered.rotation {
                // The successor, made before or now, is the live one.
                self.refresh(door).unwrap();
            }
            assert_eq!(door.pass(self.access.last().unwrap()).unwrap().status, 200);
            for token in &self.lost {
                revoked(&door.pass(token).unwrap());
            }
        } else {
            refused(&answer);
            // Without a window, who lost an answer and asks again has used the token twice.
            let spent = unanswered.rotation && self.client == Client::Confidential;
            assert!(unanswered.revocation || spent, "an acknowledged rotation is lost: {:?}", self.client);
            self.is_over = true;
        }
    }

    /// Presents the last token that is outside of every window, whatever was not answered; `false` where there is none.
    fn present_a_used_one(&mut self, door: Door) -> bool {
        let excused = match self.client {
            Client::Confidential => 1,
            Client::Public => 2,
        };
        let Some(used) = self.refresh.iter().rev().nth(excused) else { return false };
        refused(&door.refresh(self.client, used).unwrap());
        self.is_over = true;
        true
    }

    /// That nothing of it is good for anything any more.
    fn is_dead(&self, door: Door) {
        for token in [&self.refresh[0], self.latest()] {
            refused(&door.refresh(self.client, token).unwrap());
        }
        for token in [&self.access[0], self.access.last().unwrap()] {
            revoked(&door.pass(token).unwrap());
        }
    }
}

/// Where a gate is, for whichever thread asks it.
#[derive(Clone, Copy)]
struct Door(std::net::SocketAddr);

/// The clients of `config_with_issuer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Confidential,
    Public,
}

impl Door {
    fn log_in(self, client: Client) -> io::Result<Tokens> {
        let answer = self.post("token", client, "grant_type=password&username=alice&password=wonderland")?;
        Ok(Tokens::of(&answer))
    }

    fn refresh(self, client: Client, token: &str) -> io::Result<Answer> {
        self.post("token", client, &format!("grant_type=refresh_token&refresh_token={token}"))
    }

    fn revoke(self, client: Client, token: &str) -> io::Result<Answer> {
        self.post("revoke", client, &format!("token={token}"))
    }

    fn post(self, endpoint: &str, client: Client, form: &str) -> io::Result<Answer> {
        let form = match client {
            Client::Confidential => format!("{form}&client_id=app&client_secret=secret"),
            Client::Public => format!("{form}&client_id=spa"),
        };
        let kind = [("Content-Type", "application/x-www-form-urlencoded")];
        let answer = try_request(self.0, "POST", &format!("/oauth/{endpoint}"), &kind, form.as_bytes())?;
        // What could not be done may have been done; it is told apart from a refusal, and when to ask again is said.
        if answer.status == 503 {
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
            return Err(io::Error::other("not available"));
        }
        Ok(answer)
    }

    /// Asks the gateway.
    fn pass(self, access_token: &str) -> io::Result<Answer> {
        try_request(self.0, "GET", "/", &[("Authorization", &format!("Bearer {access_token}"))], b"")
    }
}

struct Tokens {
    access: String,
    refresh: String,
}

impl Tokens {
    #[track_caller]
    fn of(answer: &Answer) -> Self {
        granted(answer);
        Self { access: answer.member("access_token"), refresh: answer.member("refresh_token") }
    }
}

#[track_caller]
fn granted(answer: &Answer) {
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// That a refresh token is no good any more.
#[track_caller]
fn refused(answer: &Answer) {
    assert_eq!((answer.status, answer.member("error").as_str()), (400, "invalid_grant"), "{answer:?}");
}

/// That the gateway knows an access token to be revoked.
#[track_caller]
fn revoked(answer: &Answer) {
    let description = "The access token provided has been revoked.";
    assert_eq!((answer.status, answer.member("error_description").as_str()), (401, description), "{answer:?}");
}
