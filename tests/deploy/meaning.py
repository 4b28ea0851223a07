"""What manifests with a Sidegate in them should mean. A schema would take `restartPolicy: Alwayz`, so it is looked at here, of what
kustomize makes and of what helm makes by the same eyes."""

import unittest

import yaml

from rig import check, only, selects, validate, workloads


def port_of(address):
    return int(address.rsplit(":", 1)[1])


def sidegate_of(pod):
    """Sidegate's container, and whether it is a sidecar."""
    places = [(container, key == "initContainers") for key in ("initContainers", "containers")
              for container in pod.get(key, []) if container["name"] == "sidegate"]
    assert len(places) == 1, "Sidegate is in the pod, once"
    return places[0]


class Meaning(unittest.TestCase):
    """What holds for every pod with a Sidegate in it."""

    def look_at(self, manifests, store=None):
        """`store` is what an issuer keeps its sessions in; None: it issues nothing."""
        validate(manifests)
        workload, = workloads(manifests)
        labels = workload["spec"]["template"]["metadata"]["labels"]
        pod = workload["spec"]["template"]["spec"]
        container, sidecar = sidegate_of(pod)
        self.assertEqual(labels["sidegate"], "sidecar" if sidecar else "gateway")
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        text = self.config_of(manifests, volumes)
        check(text)
        config = yaml.safe_load(text)
        self.assertEqual("issuer" in config, store is not None, "it issues only where it was told to")
        self.ports(config, container)
        self.rights(pod, container, volumes, store)
        self.network(manifests, labels, config)
        if sidecar:
            self.sidecar(pod, container, config)
        else:
            shutdown = config["shutdown"]
            longest = sum(int(shutdown[key].removesuffix("s")) for key in ("drain_delay", "drain_timeout"))
            self.assertGreater(pod["terminationGracePeriodSeconds"], longest)
        return workload

    def config_of(self, manifests, volumes):
        maps = {manifest["metadata"]["name"]: manifest for manifest in manifests if manifest["kind"] == "ConfigMap"}
        return maps[volumes["sidegate-config"]["configMap"]["name"]]["data"]["config.yaml"]

    def ports(self, config, container):
        public, admin = config["listeners"][0]["address"], config["admin"]["address"]
        self.assertEqual(container["ports"], [{"name": "public", "containerPort": port_of(public)},
                                              {"name": "admin", "containerPort": port_of(admin)}])
        for address in (public, admin):
            self.assertTrue(address.startswith("0.0.0.0:"), "the kubelet and the Service come from outside the pod")
        for probe, path in (("startupProbe", "/startupz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
            self.assertEqual(container[probe]["httpGet"], {"path": path, "port": "admin"})
        self.assertIn("workers", config, "one for each core of the node would be many")

    def rights(self, pod, container, volumes, store):
        self.assertIs(pod["automountServiceAccountToken"], False)
        context = {**pod["securityContext"], **container["securityContext"]}
        self.assertIs(context["runAsNonRoot"], True)
        self.assertEqual((context["runAsUser"], context["runAsGroup"]), (65532, 65532))
        self.assertEqual(context["seccompProfile"], {"type": "RuntimeDefault"})
        self.assertIs(context["allowPrivilegeEscalation"], False)
        self.assertIs(context["readOnlyRootFilesystem"], True)
        self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
        self.assertIn("memory", container["resources"]["limits"])
        self.assertNotRegex(container["image"], ":latest$|^[^:]*$")
        for other in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
            self.assertNotIn(other, pod)
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        for path, mount in mounts.items():
            self.assertFalse({"subPath", "subPathExpr"} & mount.keys(), "a subPath mount never sees an update")
            self.assertEqual(mount.get("readOnly", False), path != "/var/lib/sidegate", path)
        self.assertEqual("/var/lib/sidegate" in mounts, store is not None)
        if store is not None:
            kind = {"redis": "emptyDir", "embedded": "persistentVolumeClaim"}[store]
            self.assertIn(kind, volumes[mounts["/var/lib/sidegate"]["name"]], "an emptyDir would lose an issuer's keys")
        for volume in volumes.values():
            if secret := volume.get("secret") or volume.get("projected"):
                self.assertEqual(secret["defaultMode"], 0o440, "Sidegate refuses secrets that everyone can read")
                self.assertEqual(pod["securityContext"]["fsGroup"], 65532, "or it could not read them itself")

    def network(self, manifests, labels, config):
        public, admin = port_of(config["listeners"][0]["address"]), port_of(config["admin"]["address"])
        service = only(manifests, "Service")["spec"]
        self.assertLessEqual(service["selector"].items(), labels.items())
        self.assertEqual([port["targetPort"] for port in service["ports"]], [public], "Sidegate's port and nothing else")
        policy = only(manifests, "NetworkPolicy")["spec"]
        self.assertTrue(policy["podSelector"].get("matchLabels"), "an empty selector would take in the whole namespace")
        self.assertTrue(selects(policy["podSelector"], labels))
        self.assertEqual(policy["policyTypes"], ["Ingress"])
        for rule in policy["ingress"]:
            port, = (port["port"] for port in rule["ports"])
            self.assertIn(port, (public, admin), "the app itself is not to be reached")
            if port == admin:
                self.assertTrue(rule["from"], "the admin port is not for everyone")

    def sidecar(self, pod, container, config):
        self.assertEqual(container["restartPolicy"], "Always", "anything else makes it an ordinary init container")
        self.assertEqual(pod["initContainers"], [container])
        for app in pod["containers"]:
            self.assertNotIn("ports", app)
        for upstream in config["upstreams"]:
            for url in upstream["urls"]:
                self.assertTrue(url.startswith("http://127.0.0.1:"), "the app is in the same pod")

    def availability(self, manifests, least):
        workload, = workloads(manifests)
        labels = workload["spec"]["template"]["metadata"]["labels"]
        scaler = only(manifests, "HorizontalPodAutoscaler")["spec"]
        self.assertNotIn("replicas", workload["spec"], "every apply would undo what the autoscaler does")
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": workload["metadata"]["name"]}
        self.assertEqual(scaler["scaleTargetRef"], target)
        self.assertEqual(scaler["minReplicas"], least)
        metric, = scaler["metrics"]
        self.assertEqual((metric["type"], metric["containerResource"]["container"]), ("ContainerResource", "sidegate"))
        self.assertIn("cpu", sidegate_of(workload["spec"]["template"]["spec"])[0]["resources"]["requests"])
        budget = only(manifests, "PodDisruptionBudget")["spec"]
        self.assertEqual(budget["maxUnavailable"], 1)
        self.assertTrue(budget["selector"]["matchLabels"] and selects(budget["selector"], labels))
