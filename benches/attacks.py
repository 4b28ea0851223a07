#!/usr/bin/env python3
"""What honest clients feel while somebody attacks: their p99, beside that of quiet times.

    cargo build --release && python3 benches/attacks.py [--reference] [--beginning] [--rounds 3] [--seconds 3] [--only PATTERN]

Needs nginx (Debian: nginx-light). Sidegate has one worker on the first core; the honest client, the attackers and the upstream
share the last one, each attacker held to a rate that leaves the honest client its share. The honest client asks 250 times a
second over one kept connection, in quiet and under attack by turns, so that what else the machine does falls on both. All of
it stays on 127.0.0.1, and every loop ends with its time. The table goes to target/bench/attacks.md too.

A part of what is lost under attack is lost on the shared core, not in the proxy. --reference takes turns with nginx, attacked in
the same way in Sidegate's place, with one worker and the same timeouts.
"""
import argparse, contextlib, fnmatch, os, re, resource, select, signal, socket, statistics, struct, subprocess, sys, tempfile
import threading, time, traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BINARY = Path(os.environ.get("SIDEGATE_BIN") or ROOT / "target/release/sidegate")
PROXY, REST = {min(os.sched_getaffinity(0))}, {max(os.sched_getaffinity(0))}
CONFIG = """
workers: 1
listeners: [{{ name: public, address: "127.0.0.1:{port}" }}]
admin: {{ address: "127.0.0.1:{admin}" }}
log: {{ requests: "off" }}
limits: {{ max_connections: 15000, header_timeout: 2s, body_timeout: 2s }}
upstreams: [{{ name: app, urls: ["http://127.0.0.1:{upstream}"], response_timeout: 2s }}, {{ name: bad, urls: ["http://127.0.0.1:{bad}"], response_timeout: 2s }},
  {{ name: big, urls: ["http://127.0.0.1:{big}"], response_timeout: 2s }}]
routes:
  - {{ name: bad, match: {{ path_prefix: /bad }}, auth: none, upstream: bad }}
  - {{ name: big, match: {{ path: /big }}, auth: none, upstream: big }}
  - {{ name: all, match: {{ path_prefix: / }}, auth: none, upstream: app }}
"""
NGINX = """daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log crit;
events {{ worker_connections 16000; }}
http {{ access_log off; {temporary}
  {http}
}}
"""
# nginx, too, has a reading of HTTP/2 without TLS, but on a port of its own; its own bound on requests is for attackers only.
REFERENCE = """
  client_header_timeout 2s; client_body_timeout 2s; proxy_read_timeout 2s; proxy_request_buffering off;
  upstream app {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}
  upstream big {{ server 127.0.0.1:{big}; keepalive 256; }}
  proxy_http_version 1.1; proxy_set_header Connection "";
  server {{ listen 127.0.0.1:{port} backlog=4096; keepalive_requests 1000000000;
    location / {{ proxy_pass http://app; }} location = /big {{ proxy_pass http://big; }} location /bad {{ proxy_pass http://127.0.0.1:{bad}; }} }}
  server {{ listen 127.0.0.1:{http2} http2 backlog=4096;
    location / {{ proxy_pass http://app; }} location = /big {{ proxy_pass http://big; }} }}
"""
UPSTREAM = """
  keepalive_timeout 300s; keepalive_requests 1000000000;
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 '{little}'; }} location = /big {{ root {folder}; }} }}
"""
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def head(*fields):
    literal = lambda text: bytes([len(text)]) + text
    return b"".join(b"\0" + literal(name) + literal(value) for name, value in fields)


BLOCK = head((b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"h"), (b":path", b"/"))


class Attack:
    """Connections to the gate, and what is done with them until SIGTERM, or `end`. Each method of the classes below is one."""

    def __init__(self, port, end, tell):
        self.port, self.end, self.sent, self.refused, self.tell = port, end, 0, 0, tell
        signal.signal(signal.SIGTERM, self.stop)

    def stop(self, *_):
        self.end = 0

    def under_way(self):
        """Says so, once."""
        if self.tell:
            self.tell("under way\n")
            self.tell = None

    def connect(self):
        s = socket.create_connection(("127.0.0.1", self.port))
        s.settimeout(0.2)
        return s

    def running(self, pause=0.001):
        time.sleep(pause)
        return time.monotonic() < self.end

    def flood(self, begin, piece, pause=0.001):
        """Sends the same again and again, on a new connection whenever the gate has had enough."""
        s = None
        while self.running(pause):
            try:
                if s is None:
                    s = self.connect()
                    s.sendall(begin)
                s.sendall(piece() if callable(piece) else piece)
                self.sent += 1
                self.under_way()
                s.setblocking(False)
                try:
                    while s.recv(65536):
                        pass
                    raise ConnectionResetError
                except BlockingIOError:
                    s.settimeout(0.2)
            except OSError:
                self.refused += 1
                s = None

    def hold(self, count, begin, drip=b""):
        """Keeps so many connections, and says a byte on each now and then; those that are ended are made anew."""
        held = []
        while self.running(0.02):
            for _ in range(min(50, count - len(held))):
                try:
                    held.append(self.connect())
                    held[-1].sendall(begin)
                    self.sent += 1
                except OSError:
                    self.refused += 1
            if len(held) == count:
                self.under_way()
            for s in held[: 20 if drip else 0]:
                held.remove(s)
                try:
                    s.sendall(drip)
                    held.append(s)
                except OSError:
                    self.refused += 1

    def streams(self, make):
        last = [-1]
        def piece():
            first = last[0] + 2
            last[0] = first + 2 * 19
            return b"".join(make(n) for n in range(first, last[0] + 2, 2))
        def fresh():
            last[0] = -1
            return PREFACE
        while self.running():
            self.flood_once(fresh(), piece)

    def flood_once(self, begin, piece):
        try:
            with self.connect() as s:
                s.sendall(begin)
                while self.running():
                    s.sendall(piece())
                    self.sent += 1
                    self.under_way()
        except OSError:
            self.refused += 1


class Http1(Attack):
    def slow_heads(self): self.hold(500, b"GET / HTTP/1.1\r\nHost: h\r\nX-Slow: ", b"a")
    def slow_bodies(self): self.hold(500, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n", b"a")
    def slow_readers(self): self.hold(200, GET.replace(b"/ ", b"/big ", 1) * 4)
    def idle_connections(self): self.hold(8000, GET)
    def many_fields(self): self.flood(b"", b"GET / HTTP/1.1\r\nHost: h\r\n" + b"x:y\r\n" * 100_000 + b"\r\n", 0.02)
    def huge_heads(self): self.flood(b"", b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 4_000_000, 0.05)
    def garbage(self): self.flood(b"", b"\x16\x03\x01" + os.urandom(200))
    def bad_upstream(self): self.flood(b"", b"GET /bad HTTP/1.1\r\nHost: h\r\n\r\n", 0.004)


class Http2(Attack):
    def pings(self): self.flood(PREFACE, frame(6, 0, 0, b"12345678") * 200)
    def settings(self): self.flood(PREFACE, frame(4, 0, 0, b"\0\4\0\0\xff\xff") * 200)
    def window_updates(self): self.flood(PREFACE, frame(8, 0, 0, b"\0\0\0\1") * 200)
    def empty_data(self): self.flood(PREFACE + frame(1, 4, 1, BLOCK.replace(b"GET", b"PUT")), frame(0, 0, 1) * 200)
    def continuations(self): self.flood(PREFACE + frame(1, 1, 1, BLOCK), frame(9, 0, 1, head((b"x-more", b"y" * 100)) * 8))
    def hpack_bomb(self): self.flood(PREFACE, frame(1, 5, 1, BLOCK + b"\x40\1x\x7e" + b"z" * 126 + b"\xbe" * 12000), 0.005)

    def rapid_reset(self):
        self.streams(lambda n: frame(1, 5, n, BLOCK) + frame(3, 0, n, b"\0\0\0\x08"))

    def made_you_reset(self):
        self.streams(lambda n: frame(1, 5, n, BLOCK) + frame(8, 0, n, b"\0\0\0\0"))

    def zero_windows(self):
        begin = PREFACE[:-9] + frame(4, 0, 0, b"\0\4\0\0\0\0") + b"".join(
            frame(1, 5, n, BLOCK.replace(b"\1/", b"\4/big")) for n in range(1, 80, 2))
        self.hold(10, begin)


ATTACKS = {name: kind for kind in (Http1, Http2) for name in vars(kind) if not name.startswith("__")}
BAD = [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", None,
       b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffffff\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n"]


def bad_upstream(port):
    """One that misbehaves, in another way each time."""
    turn = [0]

    def serve(s):
        with s:
            try:
                while s.recv(65536):
                    turn[0] += 1
                    answer = BAD[turn[0] % len(BAD)]
                    if answer is not None:  # or else it hangs
                        return s.sendall(answer)
            except OSError:
                pass

    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


# ── The gates, and what is behind them ───────────────────────────────────────────────────────────────────────────────

def nginx(folder, http, **values):
    folder.chmod(0o755)
    temporary = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, temporary=temporary, http=http.format(folder=folder, **values)))
    return ["/usr/sbin/nginx", "-c", config]


def sidegate(folder, **values):
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(**values))
    return [BINARY, "run", "--config", config]


@contextlib.contextmanager
def good_upstream(port):
    """nginx, which answers with a little, and with much where it is asked for `/big`. There is one for each of the two: what
    honest clients wait for in an upstream that is busy with others is not lost in the gate."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "big").write_bytes(b"x" * 2_000_000)
        process = subprocess.Popen(nginx(Path(folder), UPSTREAM, port=port, little="x" * 128), stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: honest(port, 0.1), "the upstream")
            yield
        finally:
            process.terminate()
            process.wait()


def wait_for(answers, who):
    end = time.monotonic() + 10
    while True:
        try:
            return answers()
        except OSError:
            if time.monotonic() > end:
                sys.exit(f"{who} did not come up")
            time.sleep(0.05)


class Gate:
    """What honest clients and attackers go through, on its core."""

    def __init__(self, name, good, big, bad):
        self.name, self.quiet, self.attacked, self.sent, self.refused, self.most = name, [], [], 0, 0, 0
        self.port, self.folder = free_port(), tempfile.TemporaryDirectory()
        self.http2_port = self.port if name == "Sidegate" else free_port()
        ports = {"port": self.port, "upstream": good, "big": big, "bad": bad}
        if name == "Sidegate":
            argv = sidegate(Path(self.folder.name), admin=free_port(), **ports)
        else:
            argv = nginx(Path(self.folder.name), REFERENCE, http2=self.http2_port, **ports)
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        preexec_fn=lambda: os.sched_setaffinity(0, PROXY))
        wait_for(lambda: honest(self.port, 0.5), name)

    def family(self):
        pid = self.process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def round(self, name, seconds, beginning):
        """A quiet time, and one under attack."""
        self.quiet += honest(self.port, seconds)
        with attacker(name, self, seconds) as said:
            if not beginning:
                select.select([said], [], [], 5)  # until it is under way
                time.sleep(0.5)
            self.attacked += honest(self.port, seconds)
            self.most = max(self.most, sum(map(resident, self.family())))
        time.sleep(0.5)  # it has all those connections to clear away

    def cells(self):
        quiet, attacked = p99(self.quiet), p99(self.attacked)
        return [f"{quiet:.2f} ms", f"{attacked:.2f} ms", f"{attacked / quiet:.2f}", str(self.sent), str(self.refused), f"{self.most:.1f}"]

    def close(self):
        for pid in self.family():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.folder.cleanup()


@contextlib.contextmanager
def attacker(name, gate, seconds):
    """A process that attacks, until the block is left; what it says of itself. The gate is told how it went."""
    kind = ATTACKS[name]
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.nice(5)
            tell = lambda text: os.write(writer, text.encode())
            it = kind(gate.http2_port if kind is Http2 else gate.port, time.monotonic() + seconds + 10, tell)
            getattr(it, name)()
            tell(f"{it.sent} {it.refused}\n")
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        try:
            yield said
        finally:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
            sent, refused = said.read().split()[-2:]
            gate.sent, gate.refused = gate.sent + int(sent), gate.refused + int(refused)


# ── What is measured ─────────────────────────────────────────────────────────────────────────────────────────────────

def honest(port, seconds):
    """Milliseconds of each request, one every 4 ms."""
    took, end = [], time.monotonic() + seconds
    with socket.create_connection(("127.0.0.1", port), 10) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while (now := time.monotonic()) < end:
            s.sendall(GET)
            answer = b""
            while len(answer) < 128 or not answer.endswith(b"x" * 128):
                piece = s.recv(65536)
                if not piece:
                    raise ConnectionError("an honest client was hung up on")
                answer += piece
            took.append((time.monotonic() - now) * 1000)
            time.sleep(max(0, 0.004 - (time.monotonic() - now)))
    return took


def p99(values):
    return statistics.quantiles(values, n=100)[98] if len(values) > 100 else max(values)


def resident(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of a quiet time and an attack; default: 3")
    parser.add_argument("--seconds", type=float, default=3, help="of each of the two; default: 3")
    parser.add_argument("--only", default="*", metavar="PATTERN")
    parser.add_argument("--beginning", action="store_true", help="measure while the attack begins, rather than when it is under way")
    parser.add_argument("--reference", action="store_true", help="attack nginx, too")
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, REST)
    good, big, bad = free_port(), free_port(), free_port()
    gates = ["Sidegate", "nginx"] if args.reference else ["Sidegate"]
    rows = []
    pid = os.fork()
    if pid == 0:
        bad_upstream(bad)
    try:
        with good_upstream(good), good_upstream(big):
            for name in fnmatch.filter(ATTACKS, args.only):
                rows.append(attack(name, [Gate(gate, good, big, bad) for gate in gates], args))
                print("| " + " | ".join(rows[-1]) + " |", flush=True)
    finally:
        os.kill(pid, signal.SIGKILL)
    of_gate = ["honest p99, quiet", "attacked", "ratio", "pieces sent", "hung up on", "resident MiB"]
    titles = ["attack", *of_gate, *(f"nginx: {title}" for title in of_gate if args.reference)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in [titles, ["---"] * len(titles), *rows])
    out = ROOT / "target/bench/attacks.md"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(table + "\n")
    print("\n" + table)


def attack(name, gates, args):
    try:
        for _ in range(args.rounds):
            for gate in gates:
                gate.round(name, args.seconds, args.beginning)
        return [name.replace("_", " "), *(cell for gate in gates for cell in gate.cells())]
    finally:
        for gate in gates:
            gate.close()


if __name__ == "__main__":
    main()
