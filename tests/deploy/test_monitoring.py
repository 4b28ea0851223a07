"""deploy/monitoring: rules tried by promtool, and a dashboard whose panels all show something of a real scrape."""

import base64
import json
import pathlib
import re
import socket
import ssl
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

import yaml

from rig import DEPLOY, ROOT, SIDEGATE, run, tool

MONITORING = DEPLOY / "monitoring"
PATIENCE = 60


def expressions():
    """Those of the dashboard, with its variables filled in as Grafana does."""
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "15s").replace("$job", ".*")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(what, condition):
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {PATIENCE} s for {what}")
        time.sleep(0.1)
    return found


def fetch(url, form=None, headers=None):
    """A status and a body; nothing where nobody answers."""
    body = None if form is None else urllib.parse.urlencode(form).encode()
    request = urllib.request.Request(url, body, headers or {})
    # The certificate is the test's own.
    context = ssl._create_unverified_context()
    try:
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read()
    except OSError:
        return None, b""


class Monitoring(unittest.TestCase):
    def test_the_rules_are_rules_and_each_alert_is_tried(self):
        run(tool("promtool"), "check", "rules", MONITORING / "alerts.yaml")
        run(tool("promtool"), "test", "rules", MONITORING / "alerts.test.yaml")
        groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
        alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
        tried = {}
        for case in yaml.safe_load((MONITORING / "alerts.test.yaml").read_text())["tests"]:
            for rule in case["alert_rule_test"]:
                tried.setdefault(rule["alertname"], set()).add(bool(rule["exp_alerts"]))
        self.assertEqual(set(tried), alerts)
        for name, fires in tried.items():
            self.assertIn(True, fires, f"{name} is never seen to fire")

    def test_what_they_name_is_there(self):
        series = set(re.findall(r'"(sidegate_\w+)"', "".join(file.read_text() for file in (ROOT / "src/telemetry").glob("*.rs"))))
        text = (MONITORING / "alerts.yaml").read_text() + "".join(expression for _, expression in expressions())
        named = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bsidegate_\w+", text)}
        self.assertTrue(named)
        self.assertEqual(named - series, set())

    def test_every_panel_shows_something_of_a_scrape(self):
        self.assertEqual(len(json.loads((MONITORING / "dashboard.json").read_text())["panels"]), 12)
        prometheus = tool("prometheus")
        with tempfile.TemporaryDirectory() as home:
            home = pathlib.Path(home)
            ports = [free_port() for _ in range(4)]
            gate = self.start([SIDEGATE, "run", "--config", self.configure(home, ports)], home)
            url, admin, database = (f"http://localhost:{ports[0]}", f"127.0.0.1:{ports[2]}", f"127.0.0.1:{ports[3]}")
            wait_for("Sidegate", lambda: gate.poll() is None and fetch(f"http://{admin}/readyz")[0] == 200)
            (home / "prometheus.yml").write_text(
                f"global: {{ scrape_interval: 1s }}\nrule_files: ['{MONITORING}/alerts.yaml']\n"
                f"scrape_configs: [{{ job_name: gate, static_configs: [{{ targets: ['{admin}'] }}] }}]\n")
            self.start([prometheus, f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/tsdb",
                        f"--web.listen-address={database}"], home)
            wait_for("Prometheus", lambda: fetch(f"http://{database}/-/ready")[0] == 200)
            missing = dict.fromkeys(expressions())

            def all_shown():
                self.use(url)
                for panel, expression in list(missing):
                    query = urllib.parse.urlencode({"query": expression})
                    status, answer = fetch(f"http://{database}/api/v1/query?{query}")
                    self.assertEqual(status, 200, f"{panel}: {expression}: {answer}")
                    shown = [point for point in json.loads(answer)["data"]["result"] if point["value"][1] != "NaN"]
                    if shown:
                        del missing[panel, expression]
                return not missing

            try:
                wait_for("the panels", all_shown)
            except AssertionError as error:
                raise AssertionError(f"{error}; nothing is shown by {list(missing)}")

    def start(self, command, home):
        log = open(home / f"{pathlib.Path(command[0]).name}.log", "w")
        process = subprocess.Popen(command, cwd=home, stdout=log, stderr=log)

        def end():
            process.kill()
            process.wait()
            log.close()

        self.addCleanup(end)
        return process

    def configure(self, home, ports):
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost", "-keyout", home / "key.pem", "-out", home / "cert.pem")
        (home / "key.pem").chmod(0o600)
        demo = yaml.safe_load((ROOT / "config.yaml").read_text())
        demo["issuer"]["url"] = f"http://localhost:{ports[0]}"
        for provider in demo["providers"]:
            provider["issuer"] = demo["issuer"]["url"]
        demo["listeners"] = [
            {"name": "public", "address": f"127.0.0.1:{ports[0]}", "issuer": True},
            {"name": "tls", "address": f"127.0.0.1:{ports[1]}", "tls": {"certificates": [{"cert_file": "cert.pem", "key_file": "key.pem"}]}},
        ]
        demo["admin"] = {"address": f"127.0.0.1:{ports[2]}"}
        file = home / "config.yaml"
        file.write_text(json.dumps(demo))
        file.chmod(0o600)
        return file

    def use(self, url):
        """What users do: log in, pass, are refused, refresh, are revoked."""
        client = {"Authorization": "Basic " + base64.b64encode(b"testclient:secret").decode()}

        def token(**form):
            status, answer = fetch(f"{url}/oauth/token", form, client)
            self.assertEqual(status, 200, answer)
            return json.loads(answer)

        tokens = token(grant_type="password", username="test", password="test")
        tokens = token(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
        bearer = {"Authorization": "Bearer " + tokens["access_token"]}
        self.assertEqual(fetch(f"{url}/secret", headers=bearer)[0], 200)
        self.assertEqual(fetch(f"{url}/secret")[0], 401)
        fetch(f"{url}/oauth/revoke", {"token": tokens["refresh_token"]}, client)
        self.assertEqual(fetch(f"{url}/secret", headers=bearer)[0], 401)
