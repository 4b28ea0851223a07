//! Certificates and keys that are changed on disk.

use std::{
    cell::Cell,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{HandshakeKind::Resumed, version::TLS13};

use super::{certificates, expiry, reloads, shown, tls_config};
use crate::support::{
    Sidegate, Upstream,
    tls::{Ca, ask, client, dial, names, put},
    wait_for,
};

/// What is to be in a certificate for localhost that expires in a number of days, and some seconds.
fn for_days(days: u64, seconds: u64) -> rcgen::CertificateParams {
    let mut params = names(&["localhost"]);
    params.not_after = (SystemTime::now() + Duration::from_secs(days * 86_400 + seconds)).into();
    params
}

#[test]
fn a_certificate_that_changes_is_shown_to_new_connections() {
    let upstream = Upstream::start();
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new(dir.path().join("ca.pem"));
    let one = ca.sign(&dir.path().join("cert"), for_days(30, 0)).der();
    let gate = Sidegate::start_in(dir, &tls_config(upstream.address(), &certificates(&["cert"])));
    let config = Arc::new(client(&ca.file, &TLS13, None));
    let mut open = dial(gate.address(), &config, "localhost").unwrap();
    assert_eq!(ask(&mut open, "/", "").unwrap(), 200);
    assert!(shown(gate.address(), "localhost") == one.to_vec());
    let days_left = |gate: &Sidegate| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        ((expiry(gate, "cert.pem") - now) / 86_400.0).round()
    };
    assert_eq!(days_left(&gate), 30.0);
    assert!(gate.admin("/metrics").text().contains("sidegate_tls_reloads_total{result=\"failed\"} 0"));

    let two = ca.sign(&gate.dir().join("cert"), for_days(60, 0)).der();
    wait_for("the new one to be shown", || (shown(gate.address(), "localhost") == two.to_vec()).then_some(()));
    // No connection is dropped, and a session goes on where it was.
    assert_eq!(ask(&mut open, "/", "").unwrap(), 200);
    let resumed = dial(gate.address(), &config, "localhost").unwrap();
    assert_eq!(resumed.conn.handshake_kind(), Some(Resumed));
    assert_eq!((days_left(&gate), reloads(&gate, "ok")), (60.0, 1.0));
    gate.logged_until(|log| log.contains("took up a certificate that has changed"));
}

/// A volume as Kubernetes mounts a secret: `{name}` → `..data/{name}`, `..data` → a folder that is never changed.
fn mount(volume: &Path, generation: &str, ca: &Ca) -> Vec<u8> {
    let folder = volume.join(generation);
    fs::create_dir(&folder).unwrap();
    let der = ca.sign(&folder.join("tls"), names(&["localhost"])).der().to_vec();
    symlink(generation, volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    der
}

#[test]
fn a_secret_that_kubernetes_swaps_is_taken_up() {
    let upstream = Upstream::start();
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new(dir.path().join("ca.pem"));
    let volume = dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    let mut last = mount(&volume, "..2026_1", &ca);
    for name in ["tls.pem", "tls.key"] {
        symlink(Path::new("..data").join(name), volume.join(name)).unwrap();
    }
    let gate = Sidegate::start_in(dir, &tls_config(upstream.address(), &certificates(&["volume/tls"])));
    assert!(shown(gate.address(), "localhost") == last);
    for generation in ["..2026_2", "..2026_3"] {
        last = mount(&volume, generation, &ca);
        wait_for("the new one to be shown", || (shown(gate.address(), "localhost") == last).then_some(()));
    }
    assert_eq!(reloads(&gate, "ok"), 2.0);
}

#[test]
fn what_cannot_be_used_changes_nothing_and_is_said_once() {
    let upstream = Upstream::start();
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new(dir.path().join("ca.pem"));
    let good = ca.sign(&dir.path().join("cert"), names(&["localhost"]));
    let other = ca.sign(&dir.path().join("other"), names(&["other.test"]));
    let gate = Sidegate::start_in(dir, &tls_config(upstream.address(), &certificates(&["cert", "other"])));
    let served = good.der().to_vec();
    let (cert, key) = (fs::read_to_string(&good.cert_file).unwrap(), fs::read_to_string(&good.key_file).unwrap());
    let foreign = fs::read_to_string(&other.key_file).unwrap();
    let failures = Cell::new(0.0);
    let refused = |what: &str, spoil: &dyn Fn(), said: &str| {
        spoil();
        failures.set(failures.get() + 1.0);
        wait_for(what, || (reloads(&gate, "failed") == failures.get()).then_some(()));
        assert!(shown(gate.address(), "localhost") == served, "{what}");
        let log = gate.logged_until(|log| log.contains("served on"));
        assert!(log.contains(&format!("{said}; the certificate from before is served on")), "{what}: {log}");
        assert!(!log.contains("PRIVATE") && !log.contains("MII"), "{what}: {log}");
    };
    refused("half a certificate", &|| put(&good.cert_file, &cert[..cert.len() / 2]), "cert.pem: not PEM");
    refused("no certificate", &|| put(&good.cert_file, ""), "cert.pem: there is no certificate in it");
    refused("a file that is gone", &|| fs::remove_file(&good.cert_file).unwrap(), "cert.pem: there is no such file");
    put(&good.cert_file, &cert);
    refused("a foreign key", &|| put(&good.key_file, &foreign), "cert.key: the key does not belong to the certificate");
    let open_to_all = || {
        put(&good.key_file, &key);
        fs::set_permissions(&good.key_file, fs::Permissions::from_mode(0o644)).unwrap();
    };
    refused("a key for everybody", &open_to_all, "cert.key");
    // Another certificate goes its own way meanwhile; by then the bad one has been looked at again, and nothing more said.
    for _ in 0..2 {
        let new = ca.sign(&gate.dir().join("other"), names(&["other.test"])).der().to_vec();
        wait_for("the other to be shown", || (shown(gate.address(), "other.test") == new).then_some(()));
    }
    assert_eq!(reloads(&gate, "failed"), failures.get());
    // Back where it was, there is nothing to take up; the same fault is a fault again.
    let before = reloads(&gate, "ok");
    put(&good.key_file, &key);
    let new = ca.sign(&gate.dir().join("other"), names(&["other.test"])).der().to_vec();
    wait_for("the other to be shown", || (shown(gate.address(), "other.test") == new).then_some(()));
    assert_eq!((reloads(&gate, "ok"), reloads(&gate, "failed")), (before + 1.0, failures.get()));
    refused(
        "a foreign key again",
        &|| put(&good.key_file, &foreign),
        "cert.key: the key does not belong to the certificate",
    );
}

#[test]
fn a_certificate_that_is_about_to_expire_is_warned_of() {
    let upstream = Upstream::start();
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new(dir.path().join("ca.pem"));
    ca.sign(&dir.path().join("cert"), for_days(7, 3));
    let gate = Sidegate::start_in(dir, &tls_config(upstream.address(), &certificates(&["cert"])));
    let log = gate.logged_until(|log| log.contains("the certificate expires soon: "));
    assert_eq!(log.matches("expires soon").count(), 1, "{log}");
    // One that is taken up is judged for itself.
    ca.sign(&gate.dir().join("cert"), for_days(0, 0));
    gate.logged_until(|log| log.contains("the certificate has expired: "));
    ca.sign(&gate.dir().join("cert"), for_days(5, 0));
    gate.logged_until(|log| log.contains("the certificate expires soon: "));
    ca.sign(&gate.dir().join("cert"), for_days(5, 0));
    gate.logged_until(|log| log.contains("the certificate expires soon: "));
}
