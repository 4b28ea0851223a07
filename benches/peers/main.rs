//! What the comparison with peers needs beyond what packages bring: tokens by the ten thousand, a certificate, and a load
//! at a constant rate. Called by `run.py`; run without arguments, as `cargo bench` does, it does nothing.
//!
//! ```text
//! peers tokens FOLDER ALG COUNT LIFETIME    # jwks.json, and COUNT tokens a line each that live LIFETIME seconds from now
//! peers certificate FOLDER                  # cert.pem and key.pem for localhost
//! peers rate PORT CONNECTIONS RATE SECONDS [TOKEN]
//! ```
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first thing that is not as it should be")]
#![allow(clippy::print_stdout, reason = "its figures go to run.py")]

mod rate;
#[allow(dead_code, unreachable_pub, reason = "the tests use all of it")]
#[path = "../../tests/it/support/tokens.rs"]
mod tokens;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, thread};

use serde_json::json;
use tokens::TestKey;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tokens", folder, alg, count, lifetime] => {
            make_tokens(Path::new(folder), alg, count.parse().unwrap(), lifetime.parse().unwrap());
        }
        ["certificate", folder] => make_certificate(Path::new(folder)),
        ["rate", port, connections, rate, seconds, ref token @ ..] => println!(
            "{}",
            rate::run(
                port.parse().unwrap(),
                connections.parse().unwrap(),
                rate.parse().unwrap(),
                seconds.parse().unwrap(),
                token.first().copied(),
            )
        ),
        _ => {}
    }
}

/// Each token has a subject and an identifier of its own; they are signed on all cores.
fn make_tokens(folder: &Path, alg: &str, count: usize, lifetime: i64) {
    let alg = ["RS256", "ES256", "EdDSA", "HS256"].into_iter().find(|known| *known == alg).unwrap();
    let key = TestKey::new(alg, "bench-1");
    let ends = tokens::now().checked_add_signed(lifetime).unwrap();
    let token = |n: usize| {
        let own = json!({ "sub": format!("user-{n:08}"), "jti": format!("{n:022}"), "exp": ends });
        key.token(&key.header(), &tokens::claims_with(own)) + "\n"
    };
    let shares = thread::available_parallelism().unwrap().get();
    let lines: String = thread::scope(|scope| {
        let bounds = |share: usize| count * share / shares..count * (share + 1) / shares;
        let signers: Vec<_> =
            (0..shares).map(|share| scope.spawn(move || bounds(share).map(token).collect::<String>())).collect();
        signers.into_iter().map(|signer| signer.join().unwrap()).collect()
    });
    fs::write(folder.join("jwks.json"), json!({ "keys": [key.jwk()] }).to_string()).unwrap();
    fs::write(folder.join("tokens"), lines).unwrap();
}

fn make_certificate(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    fs::write(folder.join("cert.pem"), &cert).unwrap();
    let private = folder.join("key.pem");
    fs::write(&private, &key).unwrap();
    // HAProxy wants both in one file.
    let both = folder.join("both.pem");
    fs::write(&both, cert + &key).unwrap();
    for secret in [private, both] {
        fs::set_permissions(secret, fs::Permissions::from_mode(0o600)).unwrap();
    }
}
