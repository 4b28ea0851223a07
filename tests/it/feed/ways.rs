//! The feed by way of what stands between processes: TLS, and proxies that like to gather what they pass on.

use super::*;
use crate::support::{tls::Ca, tool};

#[test]
fn a_feed_over_tls_trusts_whom_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new(folder.path().join("ca.pem"));
    let other = Ca::new(folder.path().join("other.pem"));
    ca.sign(&folder.path().join("gate"), rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap());
    let at = folder.path().display();
    let rest = format!(
        "\x20 revocation_feed: {{ credential: {CREDENTIAL} }}\n\
         routes: [{{ name: all, match: {{ path_prefix: / }}, upstream: app }}]\n"
    );
    let listeners = format!(
        "listeners:\n\
         \x20 - {{ name: public, address: 127.0.0.1:0, issuer: true, tls: {{ certificates: [{{ cert_file: {at}/gate.pem, key_file: {at}/gate.key }}] }} }}\n\
         \x20 - {{ name: local, address: 127.0.0.1:0, issuer: true }}\n"
    );
    let plain = "listeners: [{ name: public, address: 127.0.0.1:0, issuer: true }]\n";
    let config = with_admin(&config_with_issuer(Upstream::start().address(), &rest)).replace(plain, &listeners);
    let gateway = Sidegate::start(&config);
    let local = gateway.listener("local");
    let jwks = request(local, "GET", "/.well-known/jwks.json", &[], b"").text();
    let follow = |trusted: &std::path::Path| {
        let url = format!("https://localhost:{}{PATH}", gateway.listener("public").port());
        let config = sidecar_config(local, "", Upstream::start().address(), &format!("ca_file: {}", trusted.display()));
        config.replace(&format!("http://{local}{PATH}"), &url)
    };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("keys.json"), &jwks).unwrap();
    let sidecar = Sidegate::start_in(dir, &follow(&ca.file));
    let headers = [("Authorization", "Basic YXBwOnNlY3JldA=="), ("Content-Type", "application/x-www-form-urlencoded")];
    let token =
        request(local, "POST", "/oauth/token", &headers, b"grant_type=client_credentials").member("access_token");
    assert_eq!(status(&sidecar, "/", &token), 200);
    revoke(&gateway, "client", Some("app"));
    await_status(&sidecar, &token, 401);

    // One whom another CA vouches for is nobody.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("keys.json"), &jwks).unwrap();
    write_config(dir.path(), &follow(&other.file));
    let said = complains_until(dir.path(), "the revocation feed is lost");
    assert!(said.contains("certificate"), "{said}");
}

#[test]
fn a_proxy_that_gathers_what_it_passes_on_lets_the_feed_through_at_once() {
    let Some(nginx) = tool("nginx") else { return };
    let gateway = gateway();
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // Its defaults: it gathers answers, and speaks HTTP/1.0 to those behind it.
    let conf = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr; events {{}}\n\
         http {{ access_log off; client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e;\n\
         server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{}; }} }} }}\n",
        gateway.address()
    );
    std::fs::write(folder.path().join("nginx.conf"), conf).unwrap();
    let mut child = std::process::Command::new(nginx)
        .args(["-p", folder.path().to_str().unwrap(), "-c", "nginx.conf", "-e", "stderr"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let way = SocketAddr::from(([127, 0, 0, 1], port));
    wait_for("nginx", || TcpStream::connect(way).ok());
    let sidecar = sidecar_before(&gateway, way, &Upstream::start(), "max_staleness: 3s");
    let token = client_token(&gateway);
    assert_eq!(status(&sidecar, "/strict", &token), 200);
    revoke(&gateway, "client", Some("app"));
    let told = Instant::now();
    await_status(&sidecar, &token, 401);
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
    wait_for("another beat", || (sidecar.metric("sidegate_feed_age_seconds") < 1.5).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
}
