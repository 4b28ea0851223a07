"""deploy/helm: what the chart makes of good values, and that it refuses bad ones."""

import json
import re
import subprocess

import yaml

import rig
from meaning import Meaning
from rig import CHART, DEPLOY, helm, only, selects, workloads

ISSUER = {"url": "https://gate.example.com", "access_token": {"audience": "api"}, "clients": []}


class Helm(Meaning):
    SIDECAR = {
        "containers": [{"name": "app", "image": "app:1", "args": ["--listen=127.0.0.1:8081"]}],
        "config": {"upstreams": [{"name": "app", "urls": ["http://127.0.0.1:8081"]}]},
    }
    EMBEDDED = {
        "replicas": 1,
        "persistence": {"claim": "sidegate-data"},
        "config": {"issuer": {**ISSUER, "store": {"embedded": {"path": "/var/lib/sidegate"}}}},
    }
    REDIS = {
        "secrets": ["sidegate-secrets"],
        "config": {"issuer": {
            **ISSUER,
            "master_key": {"from_file": "/etc/sidegate-secrets/master.key"},
            "store": {"redis": {"url": "rediss://redis.example.com", "path": "/var/lib/sidegate"}},
        }},
    }

    def test_lint(self):
        said = rig.run(rig.tool("helm"), "lint", "--strict", CHART)
        self.assertIn("0 chart(s) failed", said)

    def test_a_gateway(self):
        self.look_at(helm({}))
        manifests = helm({"autoscaling": {"enabled": True, "minReplicas": 3}, "podMonitor": {"enabled": True}})
        self.look_at(manifests)
        self.availability(manifests, least=3)
        monitor = only(manifests, "PodMonitor")["spec"]
        labels = workloads(manifests)[0]["spec"]["template"]["metadata"]["labels"]
        self.assertTrue(selects(monitor["selector"], labels))
        self.assertEqual(len(only(manifests, "NetworkPolicy")["spec"]["ingress"]), 2)

    def test_other_ports(self):
        listeners = [{"name": "public", "address": "0.0.0.0:8888"}]
        self.look_at(helm({"config": {"listeners": listeners, "admin": {"address": "0.0.0.0:9999"}}}))

    def test_a_sidecar(self):
        self.look_at(helm({**self.SIDECAR, "secrets": ["sidegate-secrets"]}))
        example = re.search(r"```yaml\n(containers:.*?)```", (DEPLOY / "README.md").read_text(), re.DOTALL)[1]
        self.look_at(helm(yaml.safe_load(example)))

    def test_issuers(self):
        deployment = self.look_at(helm(self.EMBEDDED), store="embedded")
        self.assertEqual((deployment["spec"]["replicas"], deployment["spec"]["strategy"]), (1, {"type": "Recreate"}))
        self.look_at(helm(self.REDIS), store="redis")

    def test_a_changed_configuration_rolls_the_pods(self):
        def note(values):
            return workloads(helm(values))[0]["spec"]["template"]["metadata"]["annotations"]
        self.assertEqual(note({}), note({"service": {"port": 81}}))
        self.assertNotEqual(note({}), note({"config": {"workers": 3}}))

    def test_bad_values_are_refused(self):
        issuer = {"issuer": ISSUER}
        for values, words in [
            ({"replica": 2}, "replica"),
            ({"replicas": 0}, "replicas"),
            ({"replicas": "2"}, "replicas"),
            ({"image": {"tag": "latest"}}, "tag"),
            ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
            ({"image": {"name": "sidegate"}}, "name"),
            ({"service": {"type": "ExternalName"}}, "type"),
            ({"service": {"port": 0}}, "port"),
            ({"secrets": "sidegate-secrets"}, "secrets"),
            ({"secrets": ["a", "a"]}, "secrets"),
            ({"autoscaling": {"enabled": "yes"}}, "enabled"),
            ({"autoscaling": {"enabled": True, "minReplicas": 1}}, "minReplicas"),
            ({"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 3}}, "maxReplicas"),
            ({"networkPolicy": {"enabled": "no"}}, "enabled"),
            ({"networkPolicy": {"ingress": []}}, "ingress"),
            # What nobody could reach, or anybody past Sidegate.
            ({"config": {"admin": {"address": "127.0.0.1:9900"}}}, "address"),
            ({"config": {"listeners": [{"name": "public", "address": "127.0.0.1:8080"}]}}, "address"),
            ({"config": {"listeners": [{"name": "public", "address": "[::1]:8080"}]}}, "address"),
            ({"config": {"listeners": [{"name": "public", "address": "0.0.0.0:0"}]}}, "address"),
            ({"config": {"listeners": []}}, "listeners"),
            ({"config": {"routes": []}}, "routes"),
            ({"config": None}, "config"),
            ({"containers": [{"name": "app"}]}, "image"),
            ({"containers": [{"name": "sidegate", "image": "app:1"}]}, "name"),
            ({"containers": [{"name": "app", "image": "app:1", "ports": [{"containerPort": 80}]}]}, "ports"),
            # What would lose its keys with the pod, or have two owners.
            ({"config": issuer}, "replicas"),
            ({"config": issuer, "replicas": 1}, "claim"),
            ({**self.EMBEDDED, "persistence": {"claim": ""}}, "claim"),
            ({**self.EMBEDDED, "replicas": 2}, "replicas"),
            ({**self.EMBEDDED, "autoscaling": {"enabled": True}}, "enabled"),
            ({"persistence": {"claim": "data"}, "replicas": 3}, "replicas"),
        ]:
            with self.subTest(values=values):
                done = subprocess.run([rig.tool("helm"), "template", "gate", CHART, "--values", "-"],
                                      input=json.dumps(values), capture_output=True, text=True)
                self.assertNotEqual(done.returncode, 0, "it was taken")
                self.assertIn(words, done.stderr)
