#!/usr/bin/env python3
"""What a million live revocations cost a sidecar: memory, time to learn them, and µs of its worker for each request.

    python3 benches/revocations.py [--entries 1000000] [--rounds 5] [--seconds 2]

Needs Linux with two cores, nginx and wrk, and the release build (cargo build --release). Two gateways, one with that many
revoked tokens and one with none, and a sidecar of each; the sidecars have the first core. Their requests carry a token that
was seen before, and take turns; the last column is measured while about 5,000 more are revoked in a second.
"""
import argparse, hashlib, json, os, re, statistics, subprocess, sys, tempfile, time, urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import proxies

ROOT = Path(__file__).resolve().parents[1]
SIDEGATE = os.environ.get("SIDEGATE_BIN", ROOT / "target/release/sidegate")
ADMIN, FEED = "0123456789abcdef0123456789abcdef", "feedfeedfeedfeedfeedfeedfeedfeed"
TICK = os.sysconf("SC_CLK_TCK")


class Process:
    def __init__(self, config, folder, core):
        self.folder, self.log = Path(folder), open(Path(folder) / "log", "wb")
        (self.folder / "config.yaml").write_text(config)
        (self.folder / "config.yaml").chmod(0o600)
        self.started = time.perf_counter()
        self.process = subprocess.Popen([SIDEGATE], cwd=folder, stdout=self.log, stderr=self.log,
                                        preexec_fn=lambda: os.sched_setaffinity(0, {core}))

    def ready(self, admin):
        while True:
            try:
                if urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=1).status == 200:
                    return time.perf_counter() - self.started
            except OSError:
                if self.process.poll() is not None:
                    sys.exit((self.folder / "log").read_text())
                time.sleep(0.01)

    def resident(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def worker_seconds(self):
        """User and system time of the worker alone: what follows the feed is not on a request's way."""
        ticks = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            name, rest = (task / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
            if name.startswith("worker"):
                # schedstat counts in nanoseconds; the ticks of stat are too coarse.
                ticks += int((task / "schedstat").read_text().split()[0])
        return ticks / 1e9

    def stop(self):
        self.process.terminate()
        self.process.wait()


def gateway(folder, port, admin, upstream):
    secret = hashlib.sha256(b"secret").hexdigest()
    return Process(f"""workers: 1
listeners: [{{ name: public, address: 127.0.0.1:{port}, issuer: true }}]
admin: {{ address: 127.0.0.1:{admin}, token: {ADMIN} }}
upstreams: [{{ name: app, urls: ['http://127.0.0.1:{upstream}'] }}]
providers: [{{ name: local, issuer: http://localhost:{port}, audiences: [api], jwks: issuer }}]
issuer:
  url: http://localhost:{port}
  access_token: {{ lifetime: 5m, audience: api }}
  revocation_feed: {{ credential: {FEED} }}
  clients: [{{ id: app, secret_hash: 'sha256:{secret}', grants: [client_credentials], scopes: [read] }}]
routes: [{{ name: all, match: {{ path_prefix: / }}, upstream: app }}]
log: {{ level: error }}
""", folder, 1)


def sidecar(folder, port, admin, issuer, upstream):
    return Process(f"""workers: 1
listeners: [{{ name: public, address: 127.0.0.1:{port} }}]
admin: {{ address: 127.0.0.1:{admin}, token: {ADMIN} }}
upstreams: [{{ name: app, urls: ['http://127.0.0.1:{upstream}'] }}]
providers: [{{ name: idp, issuer: http://localhost:{issuer}, audiences: [api], jwks_uri: 'http://127.0.0.1:{issuer}/.well-known/jwks.json' }}]
revocation_feed: {{ url: 'http://127.0.0.1:{issuer}/oauth/revocations', credential: {FEED} }}
routes: [{{ name: all, match: {{ path_prefix: / }}, upstream: app }}]
log: {{ level: error }}
""", folder, 0)


def wrk(port, seconds, *, script=None, token=None, connections=64):
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    argv += ["-s", script] if script else ["-H", f"Authorization: Bearer {token}"]
    out = subprocess.run([*argv, f"http://127.0.0.1:{port}/"], capture_output=True, text=True,
                         preexec_fn=lambda: os.sched_setaffinity(0, {1})).stdout
    if "Non-2xx" in out:
        raise RuntimeError(out)
    return int(re.search(r"(\d+) requests in", out)[1])


def revoking(folder, first, lasts, pause):
    """A script for wrk that revokes one token after the other."""
    path = Path(folder) / f"revoke{first}.lua"
    path.write_text(f"""
local n = {first}
wrk.method = "POST"
wrk.headers["Authorization"] = "Bearer {ADMIN}"
function request()
  n = n + 1
  return wrk.format(nil, "/admin/revocations", nil, string.format('{{"kind":"token","id":"%032x","lasts":{lasts}}}', n))
end
{"function delay() return %d end" % pause if pause else ""}
""")
    return str(path)


def metric(admin, series):
    text = urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics").read().decode()
    return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(series + " ")), 0.0)


TOKENS = 'sidegate_revocation_entries{kind="token"}'


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--entries", type=int, default=1_000_000)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=int, default=2)
    arguments.add_argument("--lasts", type=int, default=300, help="for how many seconds the tokens are revoked")
    arguments.add_argument("--wait", action="store_true", help="until they have expired, and tell what memory is left")
    options = arguments.parse_args()
    base = Path(tempfile.mkdtemp())
    base.chmod(0o755)
    folders = [base / name for name in ("upstream", "gateway", "side", "empty-gateway", "empty-side")]
    [folder.mkdir(mode=0o755) for folder in folders]
    upstream_process, upstream, _ = proxies.start_upstream(folders[0])
    ports = [proxies.free_port() for _ in range(8)]
    running = []
    try:
        full = gateway(folders[1], ports[0], ports[1], upstream)
        running.append(full)
        full.ready(ports[1])
        began, batch = time.perf_counter(), 0
        while metric(ports[1], TOKENS) < options.entries:
            batch += 1
            wrk_admin(ports[1], revoking(folders[1], batch * 10**9, options.lasts, 0), 10)
        made = metric(ports[1], TOKENS)
        print(f"{made:.0f} tokens revoked over the admin API in {time.perf_counter() - began:.0f} s; "
              f"gateway {full.resident():.0f} MiB resident", flush=True)
        side = sidecar(folders[2], ports[2], ports[3], ports[0], upstream)
        running.append(side)
        took = side.ready(ports[3])
        print(f"sidecar ready with all of them in {took:.2f} s; {side.resident():.0f} MiB resident", flush=True)
        empty = gateway(folders[3], ports[4], ports[5], upstream)
        running.append(empty)
        empty.ready(ports[5])
        bare = sidecar(folders[4], ports[6], ports[7], ports[4], upstream)
        running.append(bare)
        bare.ready(ports[7])
        print(f"sidecar with none: {bare.resident():.0f} MiB resident", flush=True)

        def token(port):
            request = urllib.request.Request(f"http://127.0.0.1:{port}/oauth/token", b"grant_type=client_credentials",
                                             {"Authorization": "Basic YXBwOnNlY3JldA=="})
            return json.load(urllib.request.urlopen(request))["access_token"]

        tokens = {side: (ports[2], token(ports[0])), bare: (ports[6], token(ports[4]))}

        def cost(process):
            port, shown = tokens[process]
            before = process.worker_seconds()
            requests = wrk(port, options.seconds, token=shown)
            return (process.worker_seconds() - before) / requests * 1e6

        rows, entered = [], []
        for turn in range(options.rounds):
            row = [cost(bare), cost(side)]
            script = revoking(folders[1], (1000 + turn) * 10**9, options.lasts, 10)
            before = metric(ports[1], TOKENS)
            writer = wrk_admin(ports[1], script, options.seconds + 1, wait=False)
            time.sleep(0.5)
            row.append(cost(side))
            writer.wait()
            entered.append((metric(ports[1], TOKENS) - before) / (options.seconds + 1))
            rows.append(row)
            print("  round", turn, " ".join(f"{value:.2f}" for value in row), f"({entered[-1]:.0f} a second)", flush=True)
        none, many, busy = (statistics.median(column) for column in zip(*rows))
        gained = statistics.median(row[1] - row[0] for row in rows), statistics.median(row[2] - row[0] for row in rows)
        print(f"worker µs for each hot request: none {none:.2f}, with a million {many:.2f} ({gained[0]:+.2f}), "
              f"while {statistics.median(entered):.0f} a second arrive {busy:.2f} ({gained[1]:+.2f})")
        seconds, count = (metric(ports[3], f"sidegate_revocation_propagation_seconds_{what}") for what in ("sum", "count"))
        print(f"propagation at the sidecar: mean {seconds / max(1, count) * 1e3:.1f} ms of {count:.0f}")
        print(f"sidecar at the end: {side.resident():.0f} MiB resident, "
              f"{metric(ports[3], 'sidegate_revocation_bytes') / 2**20:.0f} MiB of it the table, as it reckons itself")
        if options.wait:
            while metric(ports[3], TOKENS) > 0:
                time.sleep(1)
            time.sleep(6)
            print(f"when all have expired: sidecar {side.resident():.0f} MiB, gateway {full.resident():.0f} MiB resident, "
                  f"its file {sum(f.stat().st_size for f in (folders[1] / 'data').iterdir() if f.is_file()) / 2**20:.0f} MiB")
    finally:
        [process.stop() for process in running]
        upstream_process.stop()


def wrk_admin(port, script, seconds, wait=True):
    argv = ["wrk", "-t1", "-c60", f"-d{seconds}s", "-s", script, f"http://127.0.0.1:{port}/"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, {1}))
    if wait:
        process.wait()
    return process


if __name__ == "__main__":
    main()
