"""Sidegate for a peer rig: `sidegate` verifies every token, `sidegate-plain` is the same proxy on a route without,
`sidegate-2` has two workers.

Runs $SIDEGATE_BIN where it is set, else this tree's release build."""
import os
import subprocess
from pathlib import Path

from rig import Sut, free_port

BINARY = Path(os.environ.get("SIDEGATE_BIN") or Path(__file__).resolve().parents[2] / "target/release/sidegate")

CONFIG = """
workers: {workers}
listeners:
  - name: bench
    address: 127.0.0.1:{port}
admin:
  address: 127.0.0.1:{admin}
limits:
  max_connections: {connections}
log:
  requests: off
upstreams:
  - name: app
    urls: [http://127.0.0.1:{upstream}]
"""
PROVIDER = """
providers:
  - name: bench
    issuer: {issuer}
    audiences: ["{audience}"]
    algorithms: [{alg}]
    leeway: 0s
    profile: rfc9068
    {keys}
"""
ROUTE = """
routes:
  - name: all
    match: {{ path_prefix: / }}
    auth: {auth}
    upstream: app
"""


class Sidegate(Sut):
    algs = {"RS256", "ES256", "HS256", "EdDSA"}

    def __init__(self, name, auth=True, workers=1):
        self.name, self.auth, self.workers = name, auth, workers

    def binary(self):
        return str(BINARY) if os.access(BINARY, os.X_OK) else None

    def missing(self):
        return None if self.binary() else f"{BINARY} is not there: run `cargo build --release`, or set SIDEGATE_BIN"

    def version(self):
        return subprocess.run([self.binary(), "--version"], text=True, capture_output=True, check=True).stdout.strip()

    def command(self, ctx):
        config = CONFIG.format(workers=self.workers, port=ctx.port, admin=free_port(), connections=ctx.conns + 1024,
                               upstream=ctx.upstream)
        verify = self.auth and ctx.alg
        if verify:
            config += PROVIDER.format(issuer=ctx.issuer, audience=ctx.audience, alg=ctx.alg, keys=self.keys(ctx))
        config += ROUTE.format(auth="required" if verify else "none")
        return [self.binary(), "run", "--config", ctx.write("config.yaml", config)]

    def keys(self, ctx):
        if ctx.alg != "HS256":
            return f"jwks_file: {ctx.keys / 'jwks.json'}"
        # Sidegate refuses a secret that others can read, and the rig's lies open.
        secret = Path(ctx.write("secret", ""))
        secret.chmod(0o600)
        secret.write_bytes((ctx.keys / "secret").read_bytes())
        return f"hmac_secret: {{ from_file: {secret} }}"


SUTS = [Sidegate("sidegate"), Sidegate("sidegate-plain", auth=False), Sidegate("sidegate-2", workers=2)]
