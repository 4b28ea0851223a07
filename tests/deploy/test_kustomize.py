"""deploy/kustomize and deploy/examples."""

import json
import os
import pathlib
import tempfile

import yaml

import rig
from meaning import Meaning, sidegate_of
from rig import DEPLOY, check, kustomize, only, selects, validate, workloads

EXAMPLES = DEPLOY / "examples"
OVERLAYS = DEPLOY / "kustomize/overlays"


class Kustomize(Meaning):
    def test_the_base_has_no_policy_and_every_overlay_of_it_has_one(self):
        validate(kustomize(DEPLOY / "kustomize/base"))
        manifests = kustomize(OVERLAYS / "gateway")
        self.look_at(manifests)
        self.availability(manifests, least=2)

    def test_monitoring_finds_every_sidegate_and_opens_the_admin_port_to_prometheus_alone(self):
        manifests = kustomize(OVERLAYS / "monitoring")
        validate(manifests)
        monitor, policy = only(manifests, "PodMonitor")["spec"], only(manifests, "NetworkPolicy")["spec"]
        for kind in ("gateway", "sidecar"):
            self.assertTrue(selects(monitor["selector"], {"sidegate": kind}))
            self.assertTrue(selects(policy["podSelector"], {"sidegate": kind}))
        self.assertFalse(selects(policy["podSelector"], {"app": "another"}))
        self.assertEqual([endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]], ["admin"])
        rule, = policy["ingress"]
        self.assertEqual((rule["ports"], len(rule["from"])), ([{"port": 9900}], 1))

    def test_a_web_app_listens_on_loopback(self):
        manifests = kustomize(EXAMPLES / "web-app")
        pod = self.look_at(manifests)["spec"]["template"]["spec"]
        upstream = yaml.safe_load(only(manifests, "ConfigMap")["data"]["config.yaml"])["upstreams"][0]["urls"][0]
        self.assertIn("-listen=" + upstream.removeprefix("http://"), pod["containers"][0]["args"])

    def test_an_app_with_another_issuer(self):
        self.look_at(kustomize(EXAMPLES / "other-issuer"))

    def test_gateways_with_redis(self):
        manifests = kustomize(EXAMPLES / "gateway-redis")
        self.look_at(manifests, store="redis")
        self.availability(manifests, least=3)

    def test_gateways_behind_envoy(self):
        manifests = kustomize(EXAMPLES / "gateway-api")
        self.look_at(manifests)
        self.availability(manifests, least=2)
        policy = only(manifests, "NetworkPolicy")["spec"]
        self.assertTrue(all(rule["from"] for rule in policy["ingress"]), "who is believed is Envoy alone")
        route, gateway, service = (only(manifests, kind) for kind in ("HTTPRoute", "Gateway", "Service"))
        self.assertEqual(route["spec"]["parentRefs"], [{"name": gateway["metadata"]["name"]}])
        self.assertEqual(gateway["spec"]["gatewayClassName"], only(manifests, "GatewayClass")["metadata"]["name"])
        backend, = route["spec"]["rules"][0]["backendRefs"]
        self.assertEqual(backend, {"name": service["metadata"]["name"], "port": service["spec"]["ports"][0]["port"]})

    def test_the_component_guards_every_kind_of_workload_that_does_not_say_no(self):
        kinds = {"Deployment": "apps/v1", "StatefulSet": "apps/v1", "DaemonSet": "apps/v1", "Job": "batch/v1"}
        with tempfile.TemporaryDirectory(dir=rig.ROOT / "target") as home:
            home = pathlib.Path(home)
            resources = [self.workload(kind, version, {}) for kind, version in kinds.items()]
            resources.append(self.workload("StatefulSet", "apps/v1", {"sidegate": "none"}, name="database"))
            (home / "app.yaml").write_text("\n---\n".join(map(json.dumps, resources)))
            component = os.path.relpath(DEPLOY / "kustomize/components/sidecar", home.resolve())
            (home / "kustomization.yaml").write_text(json.dumps({"resources": ["app.yaml"], "components": [component]}))
            manifests = kustomize(home)
        validate(manifests)
        self.assertEqual(len(workloads(manifests)), 5)
        for workload in workloads(manifests):
            pod = workload["spec"]["template"]["spec"]
            names = [container["name"] for container in pod["initContainers"]]
            if workload["metadata"]["name"] == "database":
                self.assertEqual(names, ["migrate"])
            else:
                self.assertEqual(names, ["sidegate", "migrate"], workload["kind"])
                self.assertEqual(sidegate_of(pod)[0]["restartPolicy"], "Always")
                self.assertEqual([container["name"] for container in pod["containers"]], ["app"])
                self.assertTrue({"data", "sidegate-config", "sidegate-secrets"} <= {v["name"] for v in pod["volumes"]})

    def workload(self, kind, version, labels, name="app"):
        container = {"name": "app", "image": "app:1", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}
        pod = {"initContainers": [{"name": "migrate", "image": "app:1"}], "containers": [container],
               "volumes": [{"name": "data", "emptyDir": {}}]}
        spec = {"template": {"metadata": {"labels": {"app": name}}, "spec": pod}}
        if kind == "Job":
            pod["restartPolicy"] = "Never"
        else:
            spec["selector"] = {"matchLabels": {"app": name}}
        if kind == "StatefulSet":
            spec["serviceName"] = name
        return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels}, "spec": spec}

    def test_the_edges_configuration_passes_check(self):
        check((DEPLOY / "edge/config.yaml").read_text())
