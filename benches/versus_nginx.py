#!/usr/bin/env python3
"""What a request costs through Sidegate, beside nginx as a plain proxy that checks nothing.

    cargo build --release && python3 benches/versus_nginx.py [--rounds 9] [--seconds 3]

Needs Linux with two cores, and nginx and wrk (Debian: nginx-light, wrk). The proxy has core 0 and one worker; an nginx that
answers 200 with 128 bytes, and wrk with 64 connections, share the last core. The proxies take turns within a round, each in a
fresh process; nginx carries the same requests, the token too, which it does not read. The figure is the proxy's own user and
system time for each request; a request's latency says little here, since everything is on one machine. Ratios are to nginx,
round by round.
"""
import argparse, http.client, json, os, re, shutil, socket, statistics, subprocess, tempfile, time
from pathlib import Path

BINARY = os.environ.get("SIDEGATE_BIN") or Path(__file__).resolve().parent.parent / "target/release/sidegate"
PROXY, REST = {0}, {max(os.sched_getaffinity(0))}
TICK = os.sysconf("SC_CLK_TCK")
SECRET_HASH = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"  # of "secret"

NGINX = """
daemon off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log error;
events {{ worker_connections 2048; }}
http {{ access_log off; tcp_nodelay on; keepalive_timeout 300s; keepalive_requests 1000000000;
  client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  {http} }}
"""
ANSWER = "server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 '{body}'; }} }}"
PROXY_PASS = """
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}
  proxy_http_version 1.1; proxy_set_header Connection "";
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass http://up; }} }}
"""
SIDEGATE = """
workers: 1
listeners: [{{ name: bench, address: "127.0.0.1:{port}", issuer: true }}]
admin: {{ address: "127.0.0.1:0" }}
upstreams: [{{ name: up, urls: ["http://127.0.0.1:{upstream}"] }}]
providers: [{{ name: local, issuer: "http://localhost", audiences: [api], jwks: issuer }}]
routes:
  - {{ name: open, match: {{ path_prefix: /open }}, auth: none, upstream: up }}
  - {{ name: rest, match: {{ path_prefix: / }}, upstream: up }}
issuer:
  url: http://localhost
  access_token: {{ lifetime: 1h, algorithm: RS256, audience: api }}
  store: {{ embedded: {{ path: {dir}/data }} }}
  clients: [{{ id: bench, secret_hash: "{hash}", grants: [client_credentials], scopes: [read] }}]
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(argv, cores, port, log):
    """Starts a program; it has accepted a connection when this returns."""
    process = subprocess.Popen(list(map(str, argv)), stdout=log, stderr=log, preexec_fn=lambda: os.sched_setaffinity(0, cores))
    for _ in range(5000):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return process
        except OSError:
            time.sleep(0.001)
    raise SystemExit(f"{argv[0]} did not come up; see {log.name}")


def resident(process):
    """Resident MiB of a process."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]) / 1024


def cpu(process):
    """User and system seconds of a process and its children."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in [process.pid, *children]]
    return sum(int(s[11]) + int(s[12]) for s in stats) / TICK


def wrk(port, path, seconds, token):
    argv = ["wrk", "-t1", "-c64", f"-d{seconds}s", f"http://127.0.0.1:{port}{path}"]
    argv += ["-H", f"Authorization: Bearer {token}"] if token else []
    out = subprocess.run(argv, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, REST)).stdout
    if "Non-2xx" in out or "Socket errors" in out or "requests in" not in out:
        raise SystemExit(f"wrk saw errors:\n{out}")
    return int(re.search(r"(\d+) requests in", out)[1])


def get_token(port):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/oauth/token", "grant_type=client_credentials&client_id=bench&client_secret=secret",
                       {"Content-Type": "application/x-www-form-urlencoded"})
    return json.load(connection.getresponse())["access_token"]


def nginx(directory, http, cores, port):
    directory.mkdir(exist_ok=True)
    conf = directory / "nginx.conf"
    conf.write_text(NGINX.format(dir=directory, http=http))
    argv = [shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin"), "-p", directory, "-e", directory / "e", "-c", conf]
    return start(argv, cores, port, open(directory / "log", "w"))


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    return connection.getresponse().status


def run(name, directory, upstream, seconds, tokens, idle):
    """CPU microseconds a request. The first Sidegate that issues a token leaves it in `tokens`, for nginx to carry unread."""
    port, with_token = free_port(), name.endswith("token")
    if name.startswith("nginx"):
        process = nginx(directory, PROXY_PASS.format(port=port, upstream=upstream), PROXY, port)
    else:
        directory.mkdir(exist_ok=True)
        config = directory / "config.yaml"
        config.write_text(SIDEGATE.format(port=port, upstream=upstream, dir=directory, hash=SECRET_HASH))
        began = time.perf_counter()
        process = start([BINARY, "run", "--config", config], PROXY, port, open(directory / "log", "w"))
        if get(port, "/open") == 200 and not with_token:
            idle.append(((time.perf_counter() - began) * 1000, resident(process)))
    try:
        if with_token and (not tokens or name.startswith("sidegate")):
            tokens[:] = [get_token(port)]
        token, path = (tokens[0], "/") if with_token else (None, "/open")
        wrk(port, path, 1, token)
        before = cpu(process)
        requests = wrk(port, path, seconds, token)
        return (cpu(process) - before) / requests * 1e6
    finally:
        process.terminate()
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=3)
    args = parser.parse_args()
    for tool in ("wrk", "nginx"):
        if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin"):
            raise SystemExit(f"{tool} is not installed")
    # Each beside the nginx that carries the same requests; the one that issues the token comes first.
    pairs = {"sidegate, RS256 token": "nginx, unread token", "nginx, unread token": "nginx, unread token",
             "sidegate": "nginx", "nginx": "nginx"}
    costs, tokens, idle = {name: [] for name in pairs}, [], []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        scratch.chmod(0o755)
        upstream_port = free_port()
        upstream = nginx(scratch / "upstream", ANSWER.format(port=upstream_port, body="u" * 128), REST, upstream_port)
        try:
            for _ in range(args.rounds):
                for name in pairs:
                    costs[name].append(run(name, scratch / name.split(",")[0], upstream_port, args.seconds, tokens, idle))
        finally:
            upstream.terminate()
            upstream.wait()
    print("| proxy | CPU µs a request, median (least-most) | ratio to nginx |\n|---|---|---|")
    for name, base in reversed(pairs.items()):
        ratio = statistics.median(cost / other for cost, other in zip(costs[name], costs[base]))
        print(f"| {name} | {statistics.median(costs[name]):.1f} ({min(costs[name]):.1f}-{max(costs[name]):.1f}) | {ratio:.2f} |")
    first, memory = (statistics.median(column) for column in zip(*idle))
    print(f"\nFrom exec to the first 200: {first:.0f} ms. Resident then, issuer and store included: {memory:.1f} MiB.")


if __name__ == "__main__":
    main()
