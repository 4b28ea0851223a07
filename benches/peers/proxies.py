"""The proxies: how each is told what to do, started on its core, and watched through /proc."""
import dataclasses, functools, getpass, grp, http.client, os, re, shutil, signal, socket, ssl, subprocess, tempfile, time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SIDEGATE = Path(os.environ.get("SIDEGATE_BIN") or REPOSITORY / "target/release/sidegate")
CORES = os.sched_getaffinity(0)
PROXY_CORE, LOAD_CORE = {min(CORES)}, {max(CORES)}
TICK = os.sysconf("SC_CLK_TCK")
NICE = 0  # set by run.py
ISSUER, AUDIENCE = "https://issuer.example", "api"  # as benches/peers/main.rs signs them
USER = f"{getpass.getuser()} {grp.getgrgid(os.getgid()).gr_name}"


@dataclasses.dataclass
class Task:
    """What a proxy is to do in one run: pass on to `upstream` what comes to `port`."""
    dir: Path
    port: int
    upstream: int
    tokens: Path | None = None      # the folder of the token set it has to verify; None: verify nothing
    alg: str | None = None
    certificate: Path | None = None # the folder of the certificate to serve; None: plain HTTP
    workers: int = 1
    connections: int = 1024
    grpc: bool = False              # the upstream speaks HTTP/2 without TLS
    issuer: bool = False            # Sidegate issues tokens, too
    admin: int = 0

    def write(self, name, text):
        path = self.dir / name
        path.touch(0o600)  # there may be a secret in it
        path.write_text(text)
        return str(path)


def which(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# ── Sidegate ─────────────────────────────────────────────────────────────────────────────────────────────────────────

def sidegate(task):
    tls, provider, auth, issuer = "", "", "none", ""
    if task.certificate:
        tls = f", tls: {{ certificates: [{{ cert_file: {task.certificate}/cert.pem, key_file: {task.certificate}/key.pem }}] }}"
    if task.tokens:
        jwks, auth = (task.tokens / "jwks.json").read_text(), "required"
        provider = (f"providers: [{{ name: bench, issuer: '{ISSUER}', audiences: [{AUDIENCE}], algorithms: [{task.alg}], "
                    f"leeway: 0s, profile: rfc9068, jwks_inline: {jwks} }}]")
    if task.issuer:
        issuer = ISSUING.format(data=task.dir / "data")
    config = f"""
workers: {task.workers}
listeners: [{{ name: bench, address: "127.0.0.1:{task.port}"{tls} }}]
admin: {{ address: "127.0.0.1:{task.admin}" }}
limits: {{ max_connections: {task.connections}, keep_alive_timeout: 10m }}
log: {{ requests: off }}
upstreams: [{{ name: app, urls: ["{'h2c' if task.grpc else 'http'}://127.0.0.1:{task.upstream}"] }}]
{provider}
{issuer}
routes: [{{ name: all, match: {{ path_prefix: / }}, auth: {auth}, upstream: app }}]
"""
    return [SIDEGATE, "run", "--config", task.write("config.yaml", config)]


ISSUING = """
issuer:
  url: http://localhost
  access_token: {{ audience: api }}
  store: {{ embedded: {{ path: {data} }} }}
  clients: [{{ id: bench, secret_hash: "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b", grants: [client_credentials] }}]
"""


# ── Peers: none of them checks anything but Envoy ────────────────────────────────────────────────────────────────────

NGINX = """
daemon off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log error; user {user};
events {{ worker_connections {connections}; }}
http {{
  access_log off; tcp_nodelay on; keepalive_timeout 600s; keepalive_requests 1000000000; large_client_header_buffers 4 16k;
  client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  {http}
}}
"""
PROXY_PASS = """
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 300s; }}
  client_body_buffer_size 64k; {tls}
  server {{ listen 127.0.0.1:{port} backlog=4096 {listen}; location / {{ {way} }} }}
"""
NGINX_TLS = "ssl_certificate {0}/cert.pem; ssl_certificate_key {0}/key.pem; ssl_protocols TLSv1.3;"
HTTP1 = 'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass http://up;'


def nginx_command(folder, http, connections):
    conf = folder / "nginx.conf"
    conf.write_text(NGINX.format(dir=folder, user=USER, connections=connections, http=http))
    return [which("nginx"), "-p", folder, "-e", folder / "error.log", "-c", conf]


def nginx(task):
    tls = NGINX_TLS.format(task.certificate) if task.certificate else ""
    listen = "ssl http2" if task.certificate else "http2" if task.grpc else ""
    way = "grpc_pass grpc://up;" if task.grpc else HTTP1
    http = PROXY_PASS.format(upstream=task.upstream, port=task.port, tls=tls, listen=listen, way=way)
    return nginx_command(task.dir, http, task.connections + 1024)


def haproxy(task):
    tls = ""
    if task.certificate:
        tls = f"ssl crt {task.certificate}/both.pem alpn h2,http/1.1 ssl-min-ver TLSv1.3"
    config = f"""
global
    nbthread 1
    maxconn {task.connections}
    no strict-limits
defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 300s
    http-reuse always
frontend in
    bind 127.0.0.1:{task.port} backlog 4096 {tls}
    default_backend up
backend up
    server up 127.0.0.1:{task.upstream}
"""
    return [which("haproxy"), "-db", "-f", task.write("haproxy.cfg", config)]


def envoy(task):
    """With the jwt_authn filter and its cache of verified tokens, large enough for a thousand of them."""
    v3 = "type.googleapis.com/envoy.extensions.filters"
    address = lambda port: f"address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}"
    jwks = (task.tokens / "jwks.json").read_text().replace("'", "''")
    config = f"""
static_resources:
  listeners:
  - {address(task.port)}
    tcp_backlog_size: 4096
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {v3}.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          codec_type: HTTP1
          generate_request_id: false
          route_config: {{ virtual_hosts: [{{ name: all, domains: ["*"], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: up, timeout: 0s }} }}] }}] }}
          http_filters:
          - name: envoy.filters.http.jwt_authn
            typed_config:
              "@type": {v3}.http.jwt_authn.v3.JwtAuthentication
              providers:
                p:
                  issuer: {ISSUER}
                  audiences: [{AUDIENCE}]
                  forward: true
                  require_expiration: true
                  from_headers: [{{ name: Authorization, value_prefix: "Bearer " }}]
                  local_jwks: {{ inline_string: '{jwks}' }}
                  jwt_cache_config: {{ jwt_cache_size: 2000 }}
              rules: [{{ match: {{ prefix: / }}, requires: {{ provider_name: p }} }}]
          - name: envoy.filters.http.router
            typed_config: {{ "@type": {v3}.http.router.v3.Router, suppress_envoy_headers: true }}
  clusters:
  - name: up
    type: STATIC
    connect_timeout: 5s
    load_assignment: {{ cluster_name: up, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ {address(task.upstream)} }} }}] }}] }}
"""
    command = [which(os.environ.get("ENVOY_BIN", "envoy")), "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    return [*command, "-c", task.write("envoy.yaml", config)]


PROXIES = {"sidegate": sidegate, "nginx": nginx, "haproxy": haproxy, "envoy": envoy}


def version(name):
    """What there is of this name; None where it is not installed."""
    if name == "sidegate":
        return subprocess.run([SIDEGATE, "--version"], text=True, capture_output=True, check=True).stdout.strip()
    program = which(os.environ.get("ENVOY_BIN", "envoy") if name == "envoy" else name)
    if not program:
        return None
    out = subprocess.run([program, "--version" if name == "envoy" else "-v"], text=True, capture_output=True)
    words = (out.stdout + out.stderr).replace("/", " ").split()
    return f"{name} " + next(word.split("-")[0] for word in words if re.fullmatch(r"\d+\.\d+.*", word))


# ── A running one ────────────────────────────────────────────────────────────────────────────────────────────────────

def place(cores, idle=False):
    """An `idle` one makes way at once for all else on its core that is of the same session."""
    os.sched_setaffinity(0, cores)
    os.setpriority(os.PRIO_PROCESS, 0, NICE)
    if idle:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


class Process:
    """A process with its children, pinned to cores, and what /proc says of them."""

    def __init__(self, argv, cores, log, own_session=True):
        self.log = log
        with open(log, "wb") as out:
            self.popen = subprocess.Popen(list(map(str, argv)), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                          start_new_session=own_session, preexec_fn=functools.partial(place, cores))

    def pids(self):
        children = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text().split()
        return [self.popen.pid, *map(int, children)]

    def _stat(self, pid):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()

    def cpu(self):
        """User and system seconds of all of them."""
        return sum(int(s[11]) + int(s[12]) for s in map(self._stat, self.pids())) / TICK

    def resident(self):
        """Resident MiB, summed."""
        return sum(int(self._stat(pid)[21]) for pid in self.pids()) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self):
        pids = self.pids() if self.popen.poll() is None else []
        self.popen.terminate()
        try:
            self.popen.wait(3)
        except subprocess.TimeoutExpired:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.popen.wait()


class Running:
    """A proxy that serves: `with Running("nginx", upstream, …) as proxy`."""

    def __init__(self, name, upstream, cores=PROXY_CORE, **task):
        self.dir = Path(tempfile.mkdtemp(prefix="sidegate-bench-"))
        self.dir.chmod(0o755)
        self.task = Task(self.dir, free_port(), upstream, admin=free_port(), **task)
        self.port, self.tls = self.task.port, self.task.certificate is not None
        self.process = Process(PROXIES[name](self.task), cores, self.dir / "log")
        try:
            self.wait_ready()
        except RuntimeError:
            self.close()
            raise

    def wait_ready(self, patience=15):
        began = time.perf_counter()
        while time.perf_counter() - began < patience and self.process.popen.poll() is None:
            try:
                with self.connect(1) as s:
                    if not self.task.grpc:
                        ask(s)
                self.started_ms = (time.perf_counter() - began) * 1e3
                return
            except OSError:
                time.sleep(0.0005)
        raise RuntimeError(f"did not come up: {Path(self.process.log).read_text(errors='replace')[-1500:]}")

    def connect(self, timeout=5, alpn=("http/1.1",)):
        plain = socket.create_connection(("127.0.0.1", self.port), timeout)
        return client_tls(alpn).wrap_socket(plain, server_hostname="localhost") if self.tls else plain

    def speaks_http2(self):
        """Whether TLS lets it be chosen; in plain text, whether a connection preface is answered with SETTINGS."""
        with self.connect(2, ("h2", "http/1.1")) as s:
            if self.tls:
                return s.selected_alpn_protocol() == "h2"
            s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            return s.recv(9)[3:4] == b"\x04"

    def cache_hits(self):
        """How many tokens Sidegate has found among those it remembers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.task.admin, timeout=5)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        return float(re.search(r'^sidegate_token_cache_lookups_total\{result="hit"\} (\S+)', text, re.M)[1])

    def close(self):
        self.process.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@functools.cache
def client_tls(alpn):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(list(alpn))
    return context


def ask(connection, token=None):
    """Sends one GET on an open connection; its status."""
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    connection.sendall(f"GET /v1/items HTTP/1.1\r\nHost: bench.local\r\n{authorization}\r\n".encode())
    answer = connection.recv(65536)
    if not answer:
        raise OSError("the connection was closed")
    return int(answer.split()[1])


ANSWER_BYTES = 128
UPSTREAM = """
  server {{ listen 127.0.0.1:{http1} backlog=4096; location / {{ return 200 '{body}'; }} }}
  upstream self {{ server 127.0.0.1:{http1}; keepalive 64; keepalive_requests 1000000000; }}
  # It passes the message on, so as to have read it before it answers.
  server {{
    listen 127.0.0.1:{grpc} http2 backlog=4096;
    location / {{
      proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass http://self;
      proxy_hide_header Content-Type; add_header Content-Type application/grpc; add_trailer grpc-status 0;
    }}
  }}
"""


def start_upstream(folder):
    """nginx beside the loader: answers 200 with ANSWER_BYTES to what it has read. The second port is for gRPC."""
    http1, grpc = free_port(), free_port()
    conf = UPSTREAM.format(http1=http1, grpc=grpc, body="u" * ANSWER_BYTES)
    return Process(nginx_command(folder, conf, 16384), LOAD_CORE, folder / "log", own_session=False), http1, grpc
