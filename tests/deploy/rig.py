"""What the tests of deploy/ stand on: manifests rendered by the real tools, and the real `sidegate check`."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm/sidegate"
SIDEGATE = ROOT / "target/debug/sidegate"
VERSIONS = [f"1.{minor}" for minor in range(29, 38)]
# What others define; kubernetes-validate knows the cluster's own alone.
CUSTOM = {"PodMonitor", "GatewayClass", "Gateway", "HTTPRoute"}
# Where pods have what a configuration names.
PLACES = ("/etc/sidegate-secrets", "/etc/sidegate", "/var/lib/sidegate")


def tool(name):
    """A program the tests need; where it is absent and may be, the test is skipped, loudly."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("SIDEGATE_REQUIRE_TOOLS"):
            raise AssertionError(f"{name} is not there; tests/setup.sh installs it")
        skip(f"{name} is not there (`make deploy-test` installs it)")
    return found


def skip(why):
    print(f"\n!!! SKIPPED: {why}\n", file=sys.stderr)
    raise unittest.SkipTest(why)


def run(*command, stdin=None):
    """What a command prints; it has to succeed."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def kustomize(folder):
    return list(yaml.safe_load_all(run(tool("kubectl"), "kustomize", folder)))


def helm(values, name="gate"):
    """The chart with values of one's own."""
    args = (tool("helm"), "template", name, CHART, "--values", "-")
    return [manifest for manifest in yaml.safe_load_all(run(*args, stdin=json.dumps(values))) if manifest]


def validate(manifests):
    """By the schemas of every version of Kubernetes that is said to do; unknown fields are refused, too."""
    for manifest in manifests:
        if manifest["kind"] in CUSTOM:
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)


def check(config):
    """Runs `sidegate check` on a configuration, with everything it names made in a folder of the test's own."""
    with tempfile.TemporaryDirectory() as home:
        home = pathlib.Path(home)

        def put(path, text):
            path = home / path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o600)
            return path

        secrets = home / "etc/sidegate-secrets"
        for folder in (secrets, home / "etc/sidegate/tls", home / "var/lib/sidegate"):
            folder.mkdir(parents=True)
        key, certificate = secrets / "tls.key", secrets / "tls.crt"
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
            "/CN=gate.example.com", "-addext", "subjectAltName=DNS:gate.example.com", "-keyout", key, "-out", certificate)
        shutil.copy(key, home / "etc/sidegate/tls/key.pem")
        shutil.copy(certificate, home / "etc/sidegate/tls/fullchain.pem")
        for name in ("feed.credential", "hook.credential", "redis.password", "master.key"):
            put(f"etc/sidegate-secrets/{name}", "0123456789abcdef" * 4)
        put("etc/sidegate/master.key", "0123456789abcdef" * 4)
        put("etc/sidegate/partner.jwks.json", json.dumps({"keys": [public_key()]}))
        for place in PLACES:
            config = config.replace(place, f"{home}@{place[1:]}")
        file = put("config.yaml", config.replace(f"{home}@", f"{home}/"))
        environment = {"PATH": os.environ["PATH"], "REPORTING_SECRET_HASH": "sha256:" + "ab" * 32}
        done = subprocess.run([SIDEGATE, "check", file], capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            raise AssertionError(done.stdout + done.stderr)


def public_key():
    from joserfc.jwk import RSAKey
    return RSAKey.generate_key(2048, {"kid": "test", "alg": "RS256", "use": "sig"}).as_dict(private=False)


def only(manifests, kind):
    found = [manifest for manifest in manifests if manifest["kind"] == kind]
    assert len(found) == 1, f"one {kind}, not {len(found)}"
    return found[0]


def workloads(manifests):
    return [manifest for manifest in manifests if manifest["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job")]


def selects(selector, labels):
    """Whether a LabelSelector takes in what has these labels."""
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "In" for expression in expressions), expressions
    return (selector.get("matchLabels", {}).items() <= labels.items()
            and all(labels.get(expression["key"]) in expression["values"] for expression in expressions))
