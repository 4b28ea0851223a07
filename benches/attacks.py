#!/usr/bin/env python3
"""What honest clients feel while somebody attacks: their p99, beside that of quiet times.

    cargo build --release && python3 benches/attacks.py [--seconds 5] [--only PATTERN]

Needs nginx (Debian: nginx-light). Sidegate has one worker on the first core; the honest client, the attackers and the upstream share the last one, each attacker
held to a rate that leaves the honest client its share. The honest client asks 250 times a second over one kept connection. All
of it stays on 127.0.0.1, and every loop ends with its time. The table goes to target/bench/attacks.md too.
"""
import argparse, fnmatch, os, re, resource, socket, statistics, struct, subprocess, sys, tempfile, threading, time
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
upstreams: [{{ name: app, urls: ["http://127.0.0.1:{upstream}"], response_timeout: 2s }}, {{ name: bad, urls: ["http://127.0.0.1:{bad}"], response_timeout: 2s }}]
routes:
  - {{ name: bad, match: {{ path_prefix: /bad }}, auth: none, upstream: bad }}
  - {{ name: all, match: {{ path_prefix: / }}, auth: none, upstream: app }}
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
    """Connections to the gate, and what is done with them until `end`."""

    def __init__(self, port, end):
        self.port, self.end, self.sent, self.refused = port, end, 0, 0

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
            for _ in range(50):
                if len(held) < count:
                    s = self.connect()
                    s.sendall(begin)
                    held.append(s)
                    self.sent += 1
            for s in held[: 20 if drip else 0]:
                held.remove(s)
                try:
                    s.sendall(drip)
                    held.append(s)
                except OSError:
                    self.refused += 1

    # Each of these is an attack.
    def slow_heads(self): self.hold(500, b"GET / HTTP/1.1\r\nHost: h\r\nX-Slow: ", b"a")
    def slow_bodies(self): self.hold(500, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n", b"a")
    def slow_readers(self): self.hold(200, GET.replace(b"/ ", b"/big ", 1) * 4)
    def idle_connections(self): self.hold(8000, GET)
    def many_fields(self): self.flood(b"", b"GET / HTTP/1.1\r\nHost: h\r\n" + b"x:y\r\n" * 100_000 + b"\r\n", 0.02)
    def huge_heads(self): self.flood(b"", b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 4_000_000, 0.05)
    def garbage(self): self.flood(b"", b"\x16\x03\x01" + os.urandom(200))
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
        except OSError:
            self.refused += 1

    def bad_upstream(self): self.flood(b"", b"GET /bad HTTP/1.1\r\nHost: h\r\n\r\n", 0.004)


ATTACKS = [name for name, value in vars(Attack).items()
           if callable(value) and name not in ("__init__", "connect", "running", "flood", "hold", "streams", "flood_once")]
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


def good_upstream(folder, port):
    """nginx, which answers with a little, and with much where it is asked for `/big`."""
    (folder / "big").write_bytes(b"x" * 2_000_000)
    folder.chmod(0o755)
    temporary = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = folder / "nginx.conf"
    config.write_text(f"""daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log crit;
events {{ worker_connections 16000; }}
http {{ access_log off; keepalive_timeout 300s; keepalive_requests 1000000000; {temporary}
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 '{"x" * 128}'; }}
    location = /big {{ root {folder}; }} }} }}
""")
    return subprocess.Popen(["/usr/sbin/nginx", "-c", config], stderr=subprocess.DEVNULL)


def honest(port, seconds):
    """Milliseconds of each request, one every 4 ms."""
    took, end = [], time.monotonic() + seconds
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while (now := time.monotonic()) < end:
            s.sendall(GET)
            answer = b""
            while len(answer) < 128 or not answer.endswith(b"x" * 128):
                piece = s.recv(65536)
                if not piece:
                    sys.exit("an honest client was hung up on")
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
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--only", default="*")
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, REST)
    good, bad = free_port(), free_port()
    rows = []
    pid = os.fork()
    if pid == 0:
        bad_upstream(bad)
    with tempfile.TemporaryDirectory() as folder:
        nginx = good_upstream(Path(folder), good)
        try:
            for name in ATTACKS:
                if fnmatch.fnmatch(name, args.only):
                    rows.append(attack(name, args.seconds, good, bad))
                    print("| " + " | ".join(rows[-1]) + " |", flush=True)
        finally:
            os.kill(pid, 9)
            nginx.terminate()
            nginx.wait()
    titles = ["attack", "honest p99, quiet", "honest p99, attacked", "ratio", "pieces sent", "hung up on", "resident MiB"]
    table = "\n".join("| " + " | ".join(row) + " |" for row in [titles, ["---"] * len(titles), *rows])
    out = ROOT / "target/bench/attacks.md"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(table + "\n")
    print("\n" + table)


def attack(name, seconds, good, bad):
    port, admin = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(CONFIG.format(port=port, admin=admin, upstream=good, bad=bad))
        gate = subprocess.Popen([BINARY, "run", "--config", config], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                preexec_fn=lambda: os.sched_setaffinity(0, PROXY))
        try:
            while b"admin" not in gate.stdout.readline():
                pass
            honest(port, 0.5)
            quiet = p99(honest(port, seconds))
            reader, writer = os.pipe()
            attacker = os.fork()
            if attacker == 0:
                os.nice(5)
                it = Attack(port, time.monotonic() + seconds + 1)
                getattr(it, name)()
                os.write(writer, f"{it.sent} {it.refused}".encode())
                os._exit(0)
            time.sleep(0.5)
            under = p99(honest(port, seconds))
            most = resident(gate.pid)
            os.waitpid(attacker, 0)
            sent, refused = os.read(reader, 100).decode().split()
            os.close(reader), os.close(writer)
        finally:
            gate.kill()
            gate.wait()
    return [name.replace("_", " "), f"{quiet:.2f} ms", f"{under:.2f} ms", f"{under / quiet:.2f}", sent, refused, f"{most:.1f}"]


if __name__ == "__main__":
    main()
