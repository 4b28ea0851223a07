"""The Dockerfile, built as it is on stand-ins for its base images; and what deploy/examples/web-app says, run as a pod of it.

What is not tried here: the compilation inside of the image (the program is target/debug's, stripped), the real base images, and what
only a kubelet does (native sidecars, its probes: the test asks for them itself, and has both containers side by side)."""

import json
import pathlib
import re
import subprocess
import time
import unittest

import yaml

import rig
from images import Engine
from rig import DEPLOY, ROOT, SIDEGATE, kustomize, only, run

DOCKERFILE = ROOT / "Dockerfile"
PATIENCE = 20
MIB = 1 << 20


class Dockerfile(unittest.TestCase):
    def test_hadolint_has_nothing_to_say(self):
        self.assertEqual(run(rig.tool("hadolint"), DOCKERFILE), "")


class Image(unittest.TestCase):
    """One image for all of it."""

    @classmethod
    def setUpClass(cls):
        cls.engine = Engine()
        cls.addClassCleanup(cls.engine.close)
        program = cls.engine.home / "sidegate"
        run("strip", "-o", program, SIDEGATE)
        cls.program_size = program.stat().st_size
        cls.engine.stand_ins(program)
        cls.engine.build("sidegate", ROOT, "--build-arg", "REVISION=abc123")
        cls.image = json.loads(cls.engine.podman("image", "inspect", "sidegate"))[0]

    def test_it_says_what_it_is_and_runs_as_nobody(self):
        config = self.image["Config"]
        version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
        labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
        self.assertEqual((labels["title"], labels["version"], labels["revision"]), ("Sidegate", version, "abc123"))
        self.assertEqual(labels["licenses"], "Apache-2.0")
        self.assertEqual(config["User"], "65532:65532", "by number, or Kubernetes cannot see that it is not root")
        self.assertEqual(config["Entrypoint"], ["/usr/local/bin/sidegate"])
        self.assertEqual(self.image["Healthcheck"]["Test"][:3], ["CMD", "/usr/local/bin/sidegate", "healthcheck"])
        said = self.engine.podman("run", "--rm", "--network", "none", "sidegate", "--version")
        self.assertEqual(said, f"sidegate {version}\n")

    def test_it_is_small(self):
        around = self.image["Size"] - self.program_size
        self.assertLess(around, 18 * MIB, "all but the program")
        print(f"\nthe image without the program: {around / MIB:.1f} MiB")
        release = ROOT / "target/release/sidegate"
        if release.exists():
            stripped = self.engine.home / "release"
            run("strip", "-o", stripped, release)
            self.assertLess(around + stripped.stat().st_size, 40_000_000)

    def test_no_configuration_comes_with_it(self):
        done = subprocess.run(["podman", *self.engine.storage, "run", "--rm", "--network", "none", "sidegate"],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("/etc/sidegate/config.yaml", done.stderr)

    def test_a_pod_of_it(self):
        self.engine.build_of_packages("app", ("busybox-static",), [("www/index.html", "orders"), ("www/health", "well")],
                                      rest='USER 65532\nENTRYPOINT ["/bin/busybox", "httpd", "-f", "-p", "127.0.0.1:8081", "-h", "/www"]\n')
        key, manifests = pod_of_the_example()
        file = self.engine.home / "pod.yaml"
        file.write_text(yaml.safe_dump_all(manifests))
        self.engine.podman("kube", "play", "--network", "none", file)
        state = self.state()
        self.assertEqual(state["Status"], "running", self.logs())
        try:
            self.serves(state["Pid"], key)
        except Exception:
            print(self.logs())
            raise
        self.has_no_rights(state["Pid"])
        self.engine.podman("pod", "stop", "--time", "20", "orders")
        state = self.state()
        self.assertEqual((state["ExitCode"], state["OOMKilled"]), (0, False), self.logs())

    def state(self):
        return json.loads(self.engine.podman("container", "inspect", "orders-sidegate"))[0]["State"]

    def logs(self):
        return self.engine.podman("logs", "orders-sidegate")

    def serves(self, pid, key):
        """As the kubelet asks, as clients ask, and for a while as fast as they can, in 64 MiB."""
        def inside(*command):
            return subprocess.run(["nsenter", "--target", str(pid), "--net", *command], capture_output=True, text=True)

        def status(url, *arguments):
            return inside("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", *arguments, url).stdout

        deadline = time.monotonic() + PATIENCE
        while (ready := status("http://127.0.0.1:9900/readyz")) != "200":
            self.assertLess(time.monotonic(), deadline, f"/readyz: {ready}")
            time.sleep(0.05)
        for probe in ("startupz", "livez"):
            self.assertEqual(status(f"http://127.0.0.1:9900/{probe}"), "200")
        healthcheck = ("/usr/local/bin/sidegate", "healthcheck", "--config", "/etc/sidegate/config.yaml")
        self.assertEqual(self.engine.podman("exec", "orders-sidegate", *healthcheck), "ok\n")
        bearer = "Authorization: Bearer " + token(key)
        url = "http://127.0.0.1:8080/index.html"
        self.assertEqual(status("http://127.0.0.1:8080/health"), "200", "the route without a token")
        self.assertEqual(status(url), "401")
        self.assertEqual(status(url, "--header", bearer), "200")
        # A token without the scope: what is under load is Sidegate, not the app.
        load = inside("h2load", "--h1", "--requests", "20000", "--clients", "200", "--header", bearer, "http://127.0.0.1:8080/admin")
        self.assertRegex(load.stdout, r"20000 total, 20000 started, 20000 done")
        self.assertRegex(load.stdout, r"0 2xx, 0 3xx, 20000 4xx, 0 5xx")
        load = inside("h2load", "--h1", "--requests", "4000", "--clients", "100", "--header", bearer, url)
        self.assertRegex(load.stdout, r"4000 2xx, 0 3xx, 0 4xx, 0 5xx", load.stdout)
        usage = memory_of(pid)
        self.assertEqual(usage["limit"], 64 * MIB)
        print(f"\nmemory under load: {usage['most'] / MIB:.1f} of {usage['limit'] / MIB:.0f} MiB")

    def has_no_rights(self, pid):
        with open(f"/proc/{pid}/status") as status:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
        self.assertEqual(fields["Uid"].split(), ["65532"] * 4)
        self.assertEqual(fields["Gid"].split(), ["65532"] * 4)
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            self.assertEqual(int(fields[kind], 16), 0, kind)
        self.assertEqual((fields["NoNewPrivs"], fields["Seccomp"]), ("1", "2"))
        with open(f"/proc/{pid}/mountinfo") as mounts:
            options = {line.split()[4]: line.split()[5].split(",") for line in mounts}
        for path in ("/", "/etc/sidegate"):
            self.assertIn("ro", options[path], path)


def pod_of_the_example():
    """The web app's pod for podman: its own image, keys in the configuration rather than from the network, the native sidecar as an
    ordinary container (podman waits for it to end otherwise), no probes (podman would have curl ask them, inside), no ports (which it would map), 64 MiB."""
    from joserfc.jwk import ECKey
    key = ECKey.generate_key("P-256", {"kid": "test", "alg": "ES256", "use": "sig"})
    manifests = kustomize(DEPLOY / "examples/web-app")
    config_map, pod = only(manifests, "ConfigMap"), only(manifests, "Deployment")["spec"]["template"]["spec"]
    config = yaml.safe_load(config_map["data"]["config.yaml"])
    del config["revocation_feed"], config["providers"][0]["discovery"]
    config["providers"][0]["jwks_inline"] = {"keys": [key.as_dict(private=False)]}
    config_map["data"]["config.yaml"] = yaml.safe_dump(config)
    sidegate, app = *pod.pop("initContainers"), *pod["containers"]
    sidegate.pop("restartPolicy")
    sidegate["image"], app["image"] = "localhost/sidegate:latest", "localhost/app:latest"
    app.pop("args")
    sidegate["resources"]["limits"]["memory"] = "64Mi"
    for container in (sidegate, app):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            container.pop(probe, None)
        container.pop("ports", None)
        container["imagePullPolicy"] = "Never"
    # podman has no optional Secrets, and mounts them for root alone.
    pod["volumes"] = [volume for volume in pod["volumes"] if "secret" not in volume]
    sidegate["volumeMounts"] = [mount for mount in sidegate["volumeMounts"] if mount["name"] != "sidegate-secrets"]
    pod["containers"] = [sidegate, app]
    pod["restartPolicy"] = "Never"
    return key, [config_map, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "orders"}, "spec": pod}]


def token(key):
    from joserfc import jwt
    now = int(time.time())
    claims = {"iss": "https://gate.example.com", "aud": "https://orders.example.com", "sub": "alice", "client_id": "app", "jti": "1",
              "iat": now, "exp": now + 300}
    return jwt.encode({"alg": "ES256", "typ": "at+jwt", "kid": "test"}, claims, key, algorithms=["ES256"])


def memory_of(pid):
    """The limit of a process's cgroup, and the most it has used, in bytes."""
    with open(f"/proc/{pid}/cgroup") as groups:
        paths = dict(line.rstrip("\n").split(":", 2)[1:] for line in groups)
    if "memory" in paths:
        folder, names = f"/sys/fs/cgroup/memory{paths['memory']}", ("memory.limit_in_bytes", "memory.max_usage_in_bytes")
    else:
        folder, names = f"/sys/fs/cgroup{paths['']}", ("memory.max", "memory.peak")
    limit, most = (int(pathlib.Path(folder, name).read_text()) for name in names)
    return {"limit": limit, "most": most}
