//! What a decision is made of, piece by piece: a signature by the primitive alone and within the whole verification, a
//! verified token remembered, a path read, a route found, a policy asked.
#![allow(missing_docs, reason = "criterion's macros make public items without any")]
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first thing that is not as it should be")]

#[allow(dead_code, unreachable_pub, reason = "the tests use all of it")]
#[path = "../tests/it/support/tokens.rs"]
mod tokens;

use std::{
    collections::HashSet,
    hint::black_box,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{
    digest, hmac,
    signature::{self, ParsedPublicKey, RsaPublicKeyComponents},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::Method;
use serde_json::{Value, json};
use sidegate::{
    clock::{Clock, Timestamp},
    gateway::{
        authorize::authorize,
        config::{Auth, ClaimRule, CloseStreams, HostPattern, Oddities, OnStale, PathPattern, Route},
        path, route,
    },
    revocation::Revocations,
    store::{Revocation, Revoked},
    token::{
        Identity,
        cache::{TokenCache, Verified},
        dpop::{Proofs, Shown, Target},
        keys::KeySet,
        live::LiveKeys,
        provider::{Config, KeySource, Profile},
        verify::{Provider, Verifier},
    },
    types::{Audience, Credential, IssuerUrl, Scopes},
};
use tokens::{AUDIENCE, ISSUER, TestKey};

/// The primitive alone, prepared as far as it can be.
enum Raw {
    Public(ParsedPublicKey),
    Shared(Box<hmac::Key>),
}

impl Raw {
    fn new(jwk: &Value) -> Self {
        let member = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
        match jwk["alg"].as_str().unwrap() {
            "RS256" => {
                let key = RsaPublicKeyComponents { n: member("n"), e: member("e") };
                Self::Public(key.to_parsed_public_key(&signature::RSA_PKCS1_2048_8192_SHA256).unwrap())
            }
            "ES256" => {
                let point = [&[4][..], &member("x"), &member("y")].concat();
                Self::Public(ParsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).unwrap())
            }
            "EdDSA" => Self::Public(ParsedPublicKey::new(&signature::ED25519, member("x")).unwrap()),
            _ => Self::Shared(Box::new(hmac::Key::new(hmac::HMAC_SHA256, &member("k")))),
        }
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Public(key) => key.verify_sig(message, signature).is_ok(),
            Self::Shared(key) => hmac::verify(key, message, signature).is_ok(),
        }
    }
}

fn verifier(key: &TestKey) -> Verifier {
    let (keys, skipped) = KeySet::parse_jwks(&json!({ "keys": [key.jwk()] }).to_string()).unwrap();
    assert!(skipped.is_empty());
    let config = Config {
        fingerprint: sidegate::types::Fingerprint::default(),
        name: "idp".into(),
        issuer: IssuerUrl::new(ISSUER),
        audiences: vec![Audience::new(AUDIENCE)],
        algorithms: vec![key.alg.parse().unwrap()],
        leeway: Duration::ZERO,
        profile: Profile::Rfc9068,
        required_claims: Vec::new(),
        max_lifetime: None,
        keys: KeySource::Fixed(keys.clone()),
    };
    Verifier::new(vec![Provider { config, keys: LiveKeys::new(keys), remote: None }], 8192)
}

fn verification(criterion: &mut Criterion) {
    for alg in ["RS256", "ES256", "EdDSA", "HS256"] {
        let key = TestKey::new(alg, "k1");
        let token = key.good();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let (raw, verifier) = (Raw::new(&key.jwk()), verifier(&key));
        assert!(raw.verify(signed.as_bytes(), &signature) && !raw.verify(b"another", &signature));
        // It stands still, so that no token expires while it is measured.
        let now = Clock::System.now();
        assert!(verifier.verify(&token, now).is_ok());
        let mut group = criterion.benchmark_group(alg);
        group.bench_function("aws-lc", |bencher| {
            bencher.iter(|| raw.verify(black_box(signed.as_bytes()), black_box(&signature)));
        });
        group.bench_function("verify", |bencher| bencher.iter(|| verifier.verify(black_box(&token), now)));
        group.finish();
    }
}

/// What looking at a million revoked tokens costs, for one that is not among them and for one that is: ours; moka without a
/// bound; and sets by the minute in which they expire, of which any may have it.
fn revoked(criterion: &mut Criterion) {
    const MILLION: u128 = 1_000_000;
    let (issuer, until) = (IssuerUrl::new("http://localhost:3000"), Timestamp(u64::MAX));
    let name = |n: u128| format!("{:032x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834));
    let ours = Revocations::default();
    let moka = moka::sync::Cache::<u128, Timestamp>::builder().build();
    let mut minutes: [HashSet<u128>; 6] = Default::default();
    for n in 0..MILLION {
        let (jti, number, at, reason) = (name(n), n as u64, Timestamp(0), "".into());
        let (bits, what) = (u128::from_str_radix(&jti, 16).unwrap(), Revoked::Token(jti.into()));
        let entry = Revocation { number, at, issuer: None, what, until, refresh_until: until, lifts: false, reason };
        ours.insert(&issuer, 1, &entry);
        moka.insert(bits, until);
        minutes[(n % 6) as usize].insert(bits);
    }
    moka.run_pending_tasks();
    let issuer = &issuer;
    let token = |jti| Credential {
        issuer,
        token: Some(jti),
        session: Some("AaITC5ZtdF-Nqr68eElk9Q"),
        subject: Some("alice"),
        client: Some("app"),
        key: Some("k1"),
        began: Some("1a213066da128f8.17"),
        dated: Some(1_800_000_000),
    };
    let names: Vec<_> = (0..MILLION).step_by(997).map(name).collect();
    let others: Vec<_> = (MILLION..2 * MILLION).step_by(997).map(name).collect();
    let mut group = criterion.benchmark_group("revoked, of a million");
    for (which, names) in [("one that is not", &others), ("one that is", &names)] {
        let bits: Vec<_> = names.iter().map(|jti| u128::from_str_radix(jti, 16).unwrap()).collect();
        let (mut next, mut next_bits) = (names.iter().cycle(), bits.iter().cycle());
        group.bench_function(format!("{which}, ours"), |bencher| {
            bencher.iter(|| ours.is_revoked(black_box(&token(next.next().unwrap()))));
        });
        group.bench_function(format!("{which}, moka"), |bencher| {
            bencher.iter(|| moka.contains_key(black_box(next_bits.next().unwrap())));
        });
        group.bench_function(format!("{which}, sets by the minute"), |bencher| {
            bencher.iter(|| {
                let bits = black_box(next_bits.next().unwrap());
                minutes.iter().any(|minute| minute.contains(bits))
            });
        });
    }
    group.finish();
}

/// Looks a token up.
type Get<'a> = &'a (dyn Fn(&[u8]) -> Option<Arc<Identity>> + Sync);

fn cache(criterion: &mut Criterion) {
    let key = TestKey::new("ES256", "k1");
    let verifier = verifier(&key);
    let cache = TokenCache::new(4 << 20);
    let tokens: Vec<String> = (0..100)
        .map(|n| {
            let token = key.token(&key.header(), &tokens::claims_with(json!({ "sub": format!("user-{n}") })));
            let proof = verifier.verify(&token, Clock::System.now()).unwrap();
            cache.insert(&token, Rc::new(Verified::new(proof, 0)));
            token
        })
        .collect();
    assert!(tokens.iter().all(|token| cache.get(token.as_bytes()).is_some()));
    let mut group = criterion.benchmark_group("cache hit");
    let mut next = tokens.iter().cycle();
    group.bench_function("of a worker's own", |bencher| {
        bencher.iter(|| cache.get(black_box(next.next().unwrap().as_bytes())));
    });
    // What one cache for all workers would cost instead: alone, and while another worker asks it as fast as it can.
    let (quick, moka) = (quick_cache::sync::Cache::new(1024), moka::sync::Cache::new(1024));
    for token in &tokens {
        let identity = Arc::new(verifier.verify(token, Clock::System.now()).unwrap().identity);
        quick.insert(Box::<[u8]>::from(token.as_bytes()), identity.clone());
        moka.insert(Box::<[u8]>::from(token.as_bytes()), identity);
    }
    let shapes: [(&str, Get<'_>); 2] =
        [("of all, quick_cache", &|token| quick.get(token)), ("of all, moka", &|token| moka.get(token))];
    for (name, get) in shapes {
        for busy in [false, true] {
            let over = AtomicBool::new(!busy);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut next = tokens.iter().cycle();
                    while !over.load(Ordering::Relaxed) {
                        black_box(get(next.next().unwrap().as_bytes()));
                    }
                });
                let mut next = tokens.iter().cycle();
                group.bench_function(format!("{name}{}", if busy { ", with another" } else { "" }), |bencher| {
                    bencher.iter(|| get(black_box(next.next().unwrap().as_bytes())));
                });
                over.store(true, Ordering::Relaxed);
            });
        }
    }
    group.finish();
}

/// A proof that comes with a token which is remembered (RFC 9449): what such a request costs beside one without.
fn proofs(criterion: &mut Criterion) {
    let now = Timestamp::from_secs(tokens::now());
    let target = Target { scheme: "https", authority: "api.example.com", path: "/orders/7" };
    for alg in ["ES256", "EdDSA", "RS256"] {
        let (key, token) = (TestKey::new(alg, "k"), TestKey::new("ES256", "k").good());
        let jwk = tokens::changed(key.jwk(), json!({ "kid": null, "alg": null }));
        let header = json!({ "typ": "dpop+jwt", "alg": alg, "jwk": jwk });
        let ath = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, token.as_bytes()));
        let thumbprint: [u8; 32] =
            digest::digest(&digest::SHA256, jwk.to_string().as_bytes()).as_ref().try_into().unwrap();
        let mut next = 0;
        let mut proof = || {
            next += 1;
            let claims = json!({ "jti": format!("{next}-4d1f-8c5e"), "htm": "GET", "htu": "https://api.example.com/orders/7",
                                 "iat": now.as_secs(), "ath": ath });
            key.token(&header, &claims)
        };
        let (raw, made) = (Raw::new(&key.jwk()), proof());
        let (signed, signature) = made.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let proofs = Proofs::new(None, false);
        let mut group = criterion.benchmark_group(format!("proof {alg}"));
        group.bench_function("aws-lc", |bencher| {
            bencher.iter(|| raw.verify(black_box(signed.as_bytes()), &signature));
        });
        group.bench_function("check", |bencher| {
            bencher.iter_batched(
                &mut proof,
                |made| {
                    let (proof, access_token) = (made.as_bytes(), Some(token.as_bytes()));
                    let shown = Shown { proof, method: "GET", target, access_token, key: Some(&thumbprint) };
                    proofs.check(&shown, now).unwrap()
                },
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

fn paths(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("path");
    for (name, path) in [("plain", "/api/v1/customers/4711/orders"), ("encoded", "/api/v1/caf%C3%A9/%7Ex/orders%20all")]
    {
        assert!(path::decode(path).is_ok());
        group.bench_function(name, |bencher| bencher.iter(|| path::decode(black_box(path))));
    }
    group.finish();
}

fn any_route(path: PathPattern) -> Route {
    Route {
        name: Arc::from("bench"),
        hosts: Vec::new(),
        path,
        methods: Vec::new(),
        auth: Auth::Required,
        providers: vec![0],
        audiences: Vec::new(),
        scopes: Scopes::default(),
        claims: Vec::new(),
        resource: None,
        bound: false,
        claim_headers: Vec::new(),
        forward_token: true,
        legacy_query_token: false,
        close_streams: CloseStreams::OnRevocation,
        on_stale: OnStale::Serve,
        cors: None,
        origins: None,
        allow_paths: Oddities::default(),
        max_body_bytes: None,
        rate_limits: Vec::new(),
        upstream: 0,
    }
}

fn routes(criterion: &mut Criterion) {
    let below = |n: usize| any_route(PathPattern::Prefix(format!("/api/v1/service-{n}").into()));
    let mut group = criterion.benchmark_group("route");
    for count in [3, 100] {
        // The one that matches comes last, and asks for host and method too.
        let mut routes: Vec<_> = (1..count).map(below).collect();
        routes.push(Route {
            hosts: vec![HostPattern::Below("example.com".into())],
            methods: vec![Method::GET, Method::HEAD],
            ..any_route(PathPattern::Prefix("/".into()))
        });
        let find = |path| route::find(&routes, "api.example.com", path, &Method::GET).map(|(index, _)| index);
        assert_eq!(find("/api/v1/customers/4711/orders"), Some(count - 1));
        group.bench_function(format!("last of {count}"), |bencher| {
            bencher.iter(|| find(black_box("/api/v1/customers/4711/orders")));
        });
    }
    group.finish();
}

fn policy(criterion: &mut Criterion) {
    let key = TestKey::new("ES256", "k1");
    let claims =
        tokens::claims_with(json!({ "scope": "read write admin", "realm_access": { "roles": ["ops", "dev"] } }));
    let proof = verifier(&key).verify(&key.token(&key.header(), &claims), Clock::System.now()).unwrap();
    let verified = Rc::new(Verified::new(proof, 0));
    let anybody = any_route(PathPattern::Prefix("/".into()));
    let strict = Route {
        audiences: vec![Audience::new(AUDIENCE)],
        scopes: Scopes::from_values(["admin", "read"]),
        claims: vec![ClaimRule {
            path: vec!["realm_access".into(), "roles".into()],
            any_of: vec![json!("admin"), json!("dev")],
        }],
        ..anybody.clone()
    };
    let mut group = criterion.benchmark_group("policy");
    for (name, route) in [("any token", &anybody), ("audience, scopes and a claim", &strict)] {
        assert!(authorize(route, Some(verified.clone())).is_ok());
        group.bench_function(name, |bencher| {
            bencher.iter(|| authorize(black_box(route), Some(verified.clone())).is_ok());
        });
    }
    group.finish();
}

criterion_group!(decision, verification, proofs, revoked, cache, paths, routes, policy);
criterion_main!(decision);
