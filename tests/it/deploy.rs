//! What deploy/ ships: manifests that kubectl accepts and that mean what they should, configurations that pass
//! `sidegate check`. A schema would accept `restartPolicy: Alwayz`, so the meaning is looked at here.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::support::{self, tokens::TestKey};

#[test]
fn the_sidecar_is_the_only_way_in() {
    let Some(manifests) = Manifests::render() else { return };
    let pod = manifests.pod();

    let [sidecar] = &pod["initContainers"].as_array().unwrap()[..] else { panic!("one init container: Sidegate") };
    assert_eq!(sidecar["name"], "sidegate");
    assert_eq!(sidecar["restartPolicy"], "Always", "anything else makes it an ordinary init container");
    for (probe, path) in [("startupProbe", "/startupz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")] {
        assert_eq!(sidecar[probe]["httpGet"], json!({ "path": path, "port": "admin" }), "{probe}");
    }

    let [app] = &pod["containers"].as_array().unwrap()[..] else { panic!("one container: the app") };
    assert!(app.get("ports").is_none(), "the app declares no port");
    let args = app["args"].to_string();
    let upstream = manifests.sidecar_config()["upstreams"][0]["urls"][0].as_str().unwrap().to_owned();
    let address = upstream.strip_prefix("http://").unwrap();
    assert!(address.starts_with("127.0.0.1:") && args.contains(address), "the app listens on {address}: {args}");

    let service = manifests.only("Service");
    let ports = service["spec"]["ports"].as_array().unwrap();
    assert_eq!(ports.len(), 1);
    assert_eq!(ports[0]["targetPort"], "http");
    let public = manifests.sidecar_config()["listeners"][0]["address"].as_str().unwrap().to_owned();
    let admin = manifests.sidecar_config()["admin"]["address"].as_str().unwrap().to_owned();
    for (name, address) in [("http", public), ("admin", admin)] {
        let port: u64 = address.rsplit(':').next().unwrap().parse().unwrap();
        let declared = json!({ "name": name, "containerPort": port });
        assert!(sidecar["ports"].as_array().unwrap().contains(&declared), "{declared} is what the configuration says");
    }
    assert_eq!(service["spec"]["selector"], manifests.only("Deployment")["spec"]["selector"]["matchLabels"]);
}

#[test]
fn the_pod_has_no_more_rights_than_it_needs() {
    let Some(manifests) = Manifests::render() else { return };
    let pod = manifests.pod();
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["runAsUser"], 65532);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for container in ["initContainers", "containers"].iter().flat_map(|kind| pod[kind].as_array().unwrap()) {
        let context = &container["securityContext"];
        let name = &container["name"];
        assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(context["capabilities"], json!({ "drop": ["ALL"] }), "{name}");
        for mount in container.get("volumeMounts").and_then(Value::as_array).into_iter().flatten() {
            assert_eq!(mount["readOnly"], true, "{name}: {mount}");
            assert!(mount.get("subPath").is_none(), "{name}: a subPath mount never sees an update");
        }
    }
    for volume in pod["volumes"].as_array().unwrap() {
        if let Some(secret) = volume.get("secret") {
            assert_eq!(secret["defaultMode"], 0o440, "Sidegate refuses secrets that everyone can read");
            assert_eq!(pod["securityContext"]["fsGroup"], 65532, "or it could not read them itself");
        }
    }
}

#[test]
fn the_network_policy_is_about_the_pod_alone() {
    let Some(manifests) = Manifests::render() else { return };
    let policy = &manifests.only("NetworkPolicy")["spec"];
    let labels = &manifests.only("Deployment")["spec"]["selector"]["matchLabels"];
    assert_eq!(&policy["podSelector"]["matchLabels"], labels, "an empty selector would take in the whole namespace");
    for rule in policy["ingress"].as_array().unwrap() {
        let admin = rule["ports"].as_array().unwrap().iter().any(|port| port["port"] == "admin");
        assert_eq!(admin, rule.get("from").is_some(), "the admin port alone is closed to some: {rule}");
    }
}

#[test]
fn the_sidecars_configuration_passes_check() {
    let Some(manifests) = Manifests::render() else { return };
    check("sidecar", &manifests.sidecar_config_text());
}

#[test]
fn the_edges_configuration_passes_check() {
    check("edge", &fs::read_to_string(deploy("edge/config.yaml")).unwrap());
}

#[test]
fn the_image_runs_as_the_user_the_pod_names() {
    let dockerfile = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Dockerfile")).unwrap();
    assert!(dockerfile.lines().any(|line| line == "USER 65532:65532"));
    assert!(!dockerfile.contains("config.yaml /"), "no configuration is copied into the image");
}

/// What `kubectl kustomize` makes of the sidecar.
struct Manifests(Vec<Value>);

impl Manifests {
    /// `None` where kubectl is absent and may be.
    fn render() -> Option<Self> {
        let kubectl = support::tool("kubectl")?;
        let out = Command::new(kubectl).arg("kustomize").arg(deploy("kustomize/sidecar")).output().unwrap();
        assert!(out.status.success(), "kubectl kustomize: {}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        Some(Self(serde_yaml::Deserializer::from_str(&text).map(|doc| Value::deserialize(doc).unwrap()).collect()))
    }

    fn only(&self, kind: &str) -> &Value {
        let mut found = self.0.iter().filter(|manifest| manifest["kind"] == kind);
        let first = found.next().unwrap_or_else(|| panic!("there is a {kind}"));
        assert!(found.next().is_none(), "there is one {kind}");
        first
    }

    fn pod(&self) -> &Value {
        &self.only("Deployment")["spec"]["template"]["spec"]
    }

    fn sidecar_config_text(&self) -> String {
        self.only("ConfigMap")["data"]["config.yaml"].as_str().unwrap().to_owned()
    }

    fn sidecar_config(&self) -> Value {
        serde_yaml::from_str(&self.sidecar_config_text()).unwrap()
    }
}

/// Runs `sidegate check` on a configuration of deploy/, with everything it names made in a folder of the test's own.
fn check(name: &str, config: &str) {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("deploy-{name}"));
    let _ = fs::remove_dir_all(&home);
    let put = |path: &str, text: String| {
        let path = home.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let certified = rcgen::generate_simple_self_signed(["gate.example.com".to_owned()]).unwrap();
    put("etc/sidegate/tls/fullchain.pem", certified.cert.pem());
    put("etc/sidegate/tls/key.pem", certified.signing_key.serialize_pem());
    put("etc/sidegate/master.key", "0123456789abcdef".repeat(4));
    put("etc/sidegate/partner.jwks.json", jwks("RS256"));
    put("etc/sidegate-keys/jwks.json", jwks("ES256"));
    fs::create_dir_all(home.join("var/lib/sidegate")).unwrap();

    let mut local = config.to_owned();
    for place in ["/etc/sidegate", "/var/lib/sidegate"] {
        local = local.replace(place, &format!("{}{place}", home.display()));
    }
    put("config.yaml", local);
    let out = Command::new(env!("CARGO_BIN_EXE_sidegate"))
        .arg("check")
        .arg(home.join("config.yaml"))
        .env("REPORTING_SECRET_HASH", format!("sha256:{}", "ab".repeat(32)))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
}

fn jwks(algorithm: &'static str) -> String {
    json!({ "keys": [TestKey::new(algorithm, "test").jwk()] }).to_string()
}

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}
