//! Clients that `sidegate client` makes, against the program that takes them.

use serde_json::{Value, json};

use super::*;
use crate::{
    browser::code_for,
    support::{self, Sidegate, Upstream, client::sha256, config_with_issuer, tokens::TestKey},
};

const ROUTE: &str = "routes: [{ name: all, match: { path_prefix: / }, upstream: app }]\n";

/// What `sidegate client` says, where it is right: on standard output, and on standard error.
fn client(folder: &Folder, args: &[&str]) -> (String, String) {
    let output = sidegate(folder, &[&["client"], args].concat(), &[], b"");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    (out, err)
}

/// The line behind the one that begins like this.
fn after<'a>(said: &'a str, line: &str) -> &'a str {
    let mut lines = said.lines().skip_while(|said| !said.starts_with(line));
    lines.nth(1).unwrap_or_else(|| panic!("no {line:?} in {said}")).trim_start()
}

fn hash_of(secret: &str) -> String {
    format!("sha256:{}", support::client::hex(&sha256(secret.as_bytes())))
}

/// Puts a client into a configuration as a person does.
fn pasted(yaml: &str, client: &str) -> String {
    assert!(yaml.contains("  clients:\n"));
    yaml.replace("  clients:\n", &format!("  clients:\n{client}"))
}

/// Runs a line of a shell's as it was printed, but for where `localhost:3000` is.
fn run(line: &str, gate: &Sidegate) -> Value {
    let line = format!("{line} -s --connect-to localhost:3000:{}", gate.address());
    let output = Command::new("sh").args(["-c", &line]).output().expect("a shell");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}\n{line}"))
}

#[test]
fn a_client_is_made_pasted_and_gets_a_token() {
    if support::tool("curl").is_none() {
        return;
    }
    let (folder, upstream) = (Folder::new(), Upstream::start());
    let yaml = config_with_issuer(upstream.address(), ROUTE);
    folder.write("config.yaml", &yaml);
    let odd = r#"it's "${odd}" \ one"#;
    let cases: [(&[&str], Value, Option<&str>); 4] = [
        (&["add", "reporting"], json!({ "scope": null, "refresh_token": null }), None),
        (
            &["add", odd, "--scope", "read", "--scope", "${all}", "--grant", "client_credentials"],
            json!({ "scope": "${all} read" }),
            None,
        ),
        (
            &["add", "old", "--legacy-password-grant", "--grant", "refresh_token", "--scope", "read"],
            json!({ "scope": "read" }),
            Some("refresh_token"),
        ),
        (
            &[
                "add",
                "page",
                "--public",
                "--legacy-password-grant",
                "--grant",
                "refresh_token",
                "--url",
                "http://localhost:3000/",
            ],
            json!({ "scope": null }),
            Some("refresh_token"),
        ),
    ];
    for (args, expected, also) in cases {
        let (snippet, said) = client(&folder, args);
        let is_public = args.contains(&"--public");
        assert_eq!(snippet.contains("secret_hash: "), !is_public, "{snippet}");
        assert_eq!(said.contains("which is kept nowhere and not shown again"), !is_public, "{said}");
        if !is_public {
            let secret = after(&said, "The secret, ");
            assert!(secret.len() == 43 && secret.bytes().all(|b| b.is_ascii_alphanumeric()), "{secret}");
            assert!(snippet.contains(&hash_of(secret)) && !snippet.contains(secret), "{snippet}");
        }
        let yaml = pasted(&yaml, &snippet);
        let file = folder.write("with.yaml", &yaml);
        let checked = check(&folder, &file, &[]);
        assert_eq!(checked.status.code(), Some(0), "{}\n{snippet}", text(&checked.stderr));

        let gate = Sidegate::start(&yaml);
        let curl = after(&said, "Paste ").replace("<user>", "alice").replace("<password>", "wonderland");
        let answer = run(&curl, &gate);
        for (member, value) in expected.as_object().expect("an object") {
            assert_eq!(answer[member], *value, "{args:?}: {answer}");
        }
        let token = answer["access_token"].as_str().unwrap_or_else(|| panic!("no token: {answer}"));
        assert_eq!(gate.get_with("/", token).status, 200);
        assert!(also.is_none_or(|member| answer[member].is_string()), "{answer}");
    }
}

#[test]
fn a_public_client_is_refreshed_by_what_it_is_told() {
    if support::tool("curl").is_none() {
        return;
    }
    let (folder, upstream) = (Folder::new(), Upstream::start());
    let (snippet, said) =
        client(&folder, &["add", "page", "--public", "--scope", "read", "--url", "http://localhost:3000"]);
    assert_eq!(snippet, "    - id: \"page\"\n      grants: [refresh_token]\n      scopes: [\"read\"]\n");
    // Another configuration of the same client has it log in.
    let allowed = format!("{snippet}      legacy_password_grant: true\n");
    let gate = Sidegate::start(&pasted(&config_with_issuer(upstream.address(), ROUTE), &allowed));
    let login = "grant_type=password&username=alice&password=wonderland&client_id=page";
    let refresh = gate.post_form("/oauth/token", &[], login).member("refresh_token");
    let answer = run(&after(&said, "Paste ").replace("<refresh token>", &refresh), &gate);
    assert!(answer["access_token"].is_string(), "{answer}");
}

#[test]
fn a_client_that_browsers_come_back_to_gets_a_token_as_it_is_told() {
    if support::tool("curl").is_none() {
        return;
    }
    let (folder, upstream) = (Folder::new(), Upstream::start());
    let yaml = config_with_issuer(upstream.address(), ROUTE);
    folder.write("config.yaml", &yaml);
    for more in [&["--public"][..], &[]] {
        let args = [&["add", "shop", "--scope", "read", "--redirect-uri", "http://127.0.0.1:5000/cb"], more].concat();
        let (snippet, said) = client(&folder, &args);
        let gate = Sidegate::start(&pasted(&yaml, &snippet));
        let ask = after(&said, "Paste ").strip_prefix("in a browser: http://localhost:3000").expect("where to go");
        let (code, _) = code_for(&gate, ask);
        let answer = run(&after(&said, "  which goes on").replace("<code>", &code), &gate);
        let token = answer["access_token"].as_str().unwrap_or_else(|| panic!("no token: {answer}"));
        assert_eq!(gate.get_with("/", token).status, 200);
        assert!(answer["refresh_token"].is_string(), "{answer}");
    }
}

#[test]
fn what_would_be_no_client_is_not_made() {
    let folder = Folder::new();
    folder.write("config.yaml", BASE);
    let long = "x".repeat(257);
    let cases: [(&[&str], &str); 13] = [
        (&["add", "spa"], r#"config.yaml: there is a client "spa" already"#),
        (&["add", "other", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (&["add", "a:b"], "must not hold a colon"),
        (&["add", ""], "must be 1 to 256 printable ASCII characters"),
        (&["add", "\u{e4}"], "must be 1 to 256 printable ASCII characters"),
        (&["add", &long], "must be 1 to 256 printable ASCII characters"),
        (&["add", "other", "--scope", "two words"], "without spaces"),
        (&["add", "other", "--grant", "password"], "say --legacy-password-grant"),
        (
            &["add", "other", "--grant", "device_code"],
            "must be authorization_code, client_credentials or refresh_token",
        ),
        (&["add", "other", "--grant", "authorization_code"], "authorization_code and --redirect-uri go together"),
        (&["add", "other", "--redirect-uri", "http://app.example.com/"], "plain http is for loopback alone"),
        (&["add", "other", "--public", "--grant", "client_credentials"], "a public client has no credentials"),
        (&["add", "other", "--url", "http://a", "--config", "config.yaml"], "cannot be used with"),
    ];
    for (args, why) in cases {
        let output = sidegate(&folder, &[&["client"], args].concat(), &[], b"");
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), String::new()), "{args:?}");
        assert!(text(&output.stderr).contains(why), "{args:?}: {}", text(&output.stderr));
    }
}

#[test]
fn one_secret_follows_another() {
    let (folder, upstream) = (Folder::new(), Upstream::start());
    let (hash, said) = client(&folder, &["secret"]);
    let secret = after(&said, "The secret, ");
    assert_eq!(hash, format!("\"{}\"\n", hash_of(secret)));
    assert!(said.contains("kept nowhere") && said.contains("secret_hashes: ["), "{said}");
    assert_ne!(client(&folder, &["secret"]).0, hash, "another one each time");

    let old = hash_of("secret");
    let both = format!("secret_hashes: ['{old}', {}]", hash.trim_end());
    let yaml = config_with_issuer(upstream.address(), ROUTE).replace(&format!("secret_hash: '{old}'"), &both);
    assert_eq!(check(&folder, &folder.write("config.yaml", &yaml), &[]).status.code(), Some(0));
    let gate = Sidegate::start(&yaml);
    let asks = |secret: &str| {
        let form = format!("grant_type=client_credentials&client_id=app&client_secret={secret}");
        let answer = gate.post_form("/oauth/token", &[], &form);
        if answer.status != 200 {
            return answer.status;
        }
        let form = format!("token={}&client_id=app&client_secret={secret}", answer.member("access_token"));
        let told = gate.post_form("/oauth/introspect", &[], &form);
        assert_eq!(told.json()["active"], true, "{told:?}");
        told.status
    };
    assert_eq!([asks("secret"), asks(secret), asks("third"), asks("")], [200, 200, 401, 401]);
}

#[test]
fn keys_of_a_client_come_from_a_file_without_what_is_private() {
    let folder = Folder::new();
    let key = TestKey::new("ES256", "k1");
    let with = |file: &str| {
        BASE.replace(
            "id: spa, grants: [refresh_token]",
            &format!("id: spa, jwks_file: {file}, grants: [client_credentials]"),
        )
    };
    let mut jwk = key.jwk();
    folder.write("public.json", &json!({ "keys": [jwk] }).to_string());
    let checked = check(&folder, &folder.write("config.yaml", &with("public.json")), &[]);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
    jwk["d"] = json!("hunter2");
    folder.write("private.json", &json!({ "keys": [key.jwk(), jwk] }).to_string());
    folder.write("torn.json", "{");
    for (file, why) in [
        ("private.json", r#"private.json: keys[1] has a "d": it is a private key"#),
        ("torn.json", "torn.json: no JWK Set"),
    ] {
        let checked = check(&folder, &folder.write("config.yaml", &with(file)), &[]);
        let said = text(&checked.stderr);
        assert!(checked.status.code() == Some(1) || checked.status.code() == Some(2), "{said}");
        assert!(said.contains(&format!("issuer.clients[0].jwks_file: {why}")) && !said.contains("hunter2"), "{said}");
    }
}
