//! What a configuration says about the feed, and what is wrong with it.

use super::*;

fn complaints(yaml: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("keys.json"), "{\"keys\":[]}").unwrap();
    write_config(dir.path(), yaml);
    let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_sidegate"));
    let output = check.current_dir(dir.path()).args(["check", "config.yaml"]).output().unwrap();
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn faults_are_named_with_their_mend() {
    let address = "127.0.0.1:1".parse().unwrap();
    let good = sidecar_config(address, "", address, "max_staleness: 30s");
    let gateway = config_with_issuer(
        address,
        &format!(
            "\x20 revocation_feed: {{ credential: {CREDENTIAL} }}\n\
             routes: [{{ name: all, match: {{ path_prefix: / }}, upstream: app }}]\n"
        ),
    );
    let open = gateway
        .replace("127.0.0.1:0, issuer", "0.0.0.0:0, issuer")
        .replace("http://localhost:3000", "https://id.example");
    for (yaml, wanted) in [
        (good.replace("http://127.0.0.1:1/oauth", "http://gateway.example/oauth"), "use https beyond loopback"),
        (good.replace("url: 'http://127.0.0.1:1/oauth/revocations', ", ""), "revocation_feed.url: missing"),
        (good.replace("url: 'http", "url: 'ftp"), "not a URL of the form https://host/oauth/revocations"),
        (good.replace("url: 'http://", "url: 'http://me:secret@"), "take them out"),
        (good.replace(CREDENTIAL, "short"), "revocation_feed.credential: must be at least 32 printable"),
        (good.replace(&format!("credential: {CREDENTIAL}, "), ""), "revocation_feed.credential: missing"),
        (good.replace("max_staleness: 30s", "max_staleness: 1s"), "revocation_feed.max_staleness"),
        (good.replace("max_staleness: 30s", "urls: []"), "url and urls are there both"),
        (good.replace("on_stale: refuse", "on_stale: forget"), "on_stale"),
        (good.replace("upstream: app, on_stale", "upstream: app, auth: none, on_stale"), "no meaning with auth: none"),
        (good.replace("revocation_feed: {", "# {"), "no meaning without `revocation_feed:`"),
        (
            format!("{gateway}revocation_feed: {{ url: 'http://{address}', credential: {CREDENTIAL} }}\n"),
            "a process has one log",
        ),
        (gateway.replace(CREDENTIAL, "with spaces and more than thirty-two characters"), "without spaces"),
        (open.clone(), "the revocation feed would answer without TLS"),
    ] {
        let said = complaints(&yaml);
        assert!(said.contains(wanted), "{wanted} is not in\n{said}\n{yaml}");
        assert!(!said.contains("secret@") && !said.contains("feedfeed"), "{said}");
    }
    let said = complaints(
        &open.replace(&format!("credential: {CREDENTIAL}"), &format!("credential: {CREDENTIAL}, insecure_http: true")),
    );
    assert!(!said.contains("would answer without TLS") && said.contains("whoever can read along"), "{said}");
}
