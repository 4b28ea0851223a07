"""The loads, and what they cost the proxy: samples that say whether something else disturbed them."""
import dataclasses, functools, json, re, resource, shutil, subprocess, time
from pathlib import Path

import proxies
from proxies import LOAD_CORE, Running, ask, place, which

HERE = Path(__file__).resolve().parent
CONNECTIONS = 64


@dataclasses.dataclass(frozen=True)
class Case:
    """One proxy under one load. Requests carry a token for the peers too, which do not read it."""
    proxy: str = "sidegate"
    alg: str | None = None      # of the tokens; None: there are none, and nothing is verified
    tokens: str = "hot"         # hot: one; pool: a thousand in turn; cold: so many that none is met again while it is
                                # remembered; badsig; expired; dying: a thousand that were good once, and shown then
    body: int = 0
    close: bool = False         # a new connection for each request
    tls: bool = False
    http2: bool = False
    grpc: bool = False          # by HTTP/2 without TLS, to an upstream that speaks it too
    workers: int = 1
    spread: bool = False        # the proxy may use all cores

    def by(self, proxy):
        return dataclasses.replace(self, proxy=proxy)

    @property
    def accepted(self):
        return self.tokens not in ("badsig", "expired", "dying")


class Bench:
    """What all samples share: the helper program, token sets, certificate, upstream."""

    def __init__(self, helper, cache, cold, upstream, seconds, quiet, retries, wait):
        self.helper, self.cache, self.cold = helper, cache, cold
        self.upstream_process, self.upstream, self.grpc_upstream = upstream
        self.seconds, self.quiet, self.retries, self.wait = seconds, quiet, retries, wait

    # ── What is shown to the proxies ─────────────────────────────────────────────────────────────────────────────────

    def make(self, name, *arguments):
        """A folder that the helper has filled; made once. Its private key is gone with the helper's process."""
        folder = self.cache / name
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            subprocess.run([self.helper, arguments[0], folder, *map(str, arguments[1:])], check=True)
            (folder / "done").touch()
        return folder

    def certificate(self):
        return self.make("certificate", "certificate")

    def token_set(self, case):
        """The folder of the case's tokens, and how many of them it uses (0: all)."""
        if not case.alg:
            return None, 0
        ten_years = 10 * 365 * 86400
        good = functools.partial(self.make, f"{case.alg}-{self.cold}", "tokens", case.alg, self.cold, ten_years)
        match case.tokens:
            case "hot":
                return good(), 1
            case "pool":
                return good(), 1000
            case "cold":
                return good(), 0
            case "badsig":
                return swapped(good(), self.cache / f"{case.alg}-{self.cold}-badsig"), 0
            case "expired":
                return self.make(f"{case.alg}-{self.cold}-expired", "tokens", case.alg, self.cold, -3600), 0
            case "dying":
                (self.cache / "dying" / "done").unlink(missing_ok=True)
                return self.make("dying", "tokens", case.alg, 1000, DYING_SECONDS), 0

    # ── CPU time for each request ────────────────────────────────────────────────────────────────────────────────────

    def sample(self, case, turn):
        return self.quietest(lambda: self.measure(case, turn))

    def quietest(self, take):
        """A sample taken while nothing else ran on the machine; after some tries, the least disturbed of them."""
        samples = []
        for _ in range(1 + self.retries):
            wait_for_quiet(self.quiet, self.wait)
            samples.append(take())
            if samples[-1]["other"] + samples[-1]["steal"] <= self.quiet:
                break
        return min(samples, key=lambda s: s["other"] + s["steal"])

    def run(self, case, **more):
        tokens, _ = self.token_set(case)
        verifies = case.proxy in ("sidegate", "envoy")
        cores = proxies.CORES if case.spread else proxies.PROXY_CORE
        return Running(case.proxy, self.grpc_upstream if case.grpc else self.upstream, cores, grpc=case.grpc,
                       tokens=tokens if verifies else None, alg=case.alg, workers=case.workers,
                       certificate=self.certificate() if case.tls else None, **more)

    def measure(self, case, turn):
        """One run: a fresh process, a second of warm-up, then the load."""
        if case.close:
            wait_for_conntrack()
        with self.run(case) as proxy:
            tokens, count = self.token_set(case) if case.tokens != "dying" else (proxy.task.tokens, 0)
            # A load's first token; those of the warm-up are others, where there are enough.
            warm_up, first = self.cold * 3 // 4, turn * 7919
            load = h2load if case.http2 or case.grpc else wrk
            warm = load(proxy.port, case, tokens, count, warm_up, 1)
            if case.tokens == "dying":
                if warm["refused"] == warm["requests"]:
                    raise RuntimeError("the tokens had expired before they were shown")
                time.sleep(DYING_SECONDS)
            before = self.clocks(proxy)
            got = load(proxy.port, case, tokens, count, first, self.seconds)
            cpu, ours, used, steal, wall = (after - start for start, after in zip(before, self.clocks(proxy)))
            wrong = got["errors"] or got["refused"] != (0 if case.accepted else got["requests"])
            if wrong or not got["requests"]:
                raise RuntimeError(f"unexpected answers: {got}")
            if case.proxy == "sidegate" and case.tokens == "cold" and proxy.cache_hits():
                raise RuntimeError("tokens that should have been new were remembered")
            return {"cpu_us": cpu / got["requests"] * 1e6, "rate": got["requests"] / got["seconds"],
                    "busy": cpu / wall * 100, "steal": steal / wall * 100, "other": max(0, used - ours) / wall * 100}

    def clocks(self, proxy):
        """Seconds: CPU of the proxy, of all that is ours, of the whole machine; steal; the time."""
        cpu, ended = proxy.process.cpu(), resource.getrusage(resource.RUSAGE_CHILDREN)
        ours = cpu + self.upstream_process.cpu() + ended.ru_utime + ended.ru_stime + time.process_time()
        return cpu, ours, *machine(), time.perf_counter()

    # ── Other figures ────────────────────────────────────────────────────────────────────────────────────────────────

    def at_rate(self, case, rate):
        """Latencies in microseconds at so many requests a second."""
        return self.quietest(lambda: self.measure_at_rate(case, rate))

    def measure_at_rate(self, case, rate):
        with self.run(case) as proxy:
            tokens, _ = self.token_set(case)
            token = [(tokens / "tokens").open().readline().strip()] if tokens else []
            argv = [self.helper, "rate", proxy.port, CONNECTIONS, rate]
            load = functools.partial(on_load_core, idle=True)  # it never sleeps, and the upstream has the same core
            load([*argv, 0.5, *token])
            before = self.clocks(proxy)
            got = json.loads(load([*argv, self.seconds, *token]))
            _, ours, used, steal, wall = (after - start for start, after in zip(before, self.clocks(proxy)))
            return {**got, "steal": steal / wall * 100, "other": max(0, used - ours) / wall * 100}

    def idle(self, case, count, rest):
        """Resident MiB before any client; KiB for each of `count` connections, after one request each and `rest` seconds."""
        with self.run(case, connections=count + 1024) as proxy:
            before, open_ = proxy.process.resident(), []
            try:
                for _ in range(count):
                    open_.append(proxy.connect())
                    if ask(open_[-1]) != 200:
                        raise RuntimeError("an idle connection was refused")
                time.sleep(rest)
                after = proxy.process.resident()
            finally:
                for connection in open_:
                    connection.close()
            return {"resident": before, "kib": (after - before) * 1024 / count, "started_ms": proxy.started_ms}

    def soak(self, seconds):
        """Resident MiB, each time after never-seen tokens, bodies and new connections, until the time is over."""
        loads = [Case(alg="ES256", tokens="cold"), Case(alg="ES256", body=16384), Case(alg="ES256", close=True)]
        resident, end, turn = [], time.perf_counter() + seconds, 0
        with self.run(loads[0]) as proxy:
            while time.perf_counter() < end:
                for case in loads:
                    if case.close:
                        wait_for_conntrack()
                    tokens, count = self.token_set(case)
                    got = wrk(proxy.port, case, tokens, count, turn * 7919, 2)
                    if got["refused"] or got["errors"]:
                        raise RuntimeError(f"unexpected answers: {got}")
                resident.append(proxy.process.resident())
                turn += 1
        return resident


# How long tokens live that have to be seen good and then expired: longer than a proxy's start and the warm-up.
DYING_SECONDS = 3


def swapped(good, folder):
    """The same tokens, each with its neighbour's signature: well formed, but wrong."""
    if not (folder / "tokens").exists():
        folder.mkdir(parents=True, exist_ok=True)
        parts = [line.rpartition(".") for line in (good / "tokens").read_text().splitlines()]
        signatures = [signature for _, _, signature in parts]
        shifted = signatures[1:] + signatures[:1]
        (folder / "jwks.json").write_text((good / "jwks.json").read_text())
        (folder / "tokens").write_text("".join(f"{head}.{other}\n" for (head, _, _), other in zip(parts, shifted)))
    return folder


def on_load_core(argv, idle=False):
    out = subprocess.run(list(map(str, argv)), text=True, capture_output=True,
                         preexec_fn=functools.partial(place, LOAD_CORE, idle))
    if out.returncode:
        raise RuntimeError(f"{argv[0]} failed: {out.stdout[-500:]}{out.stderr[-500:]}")
    return out.stdout


def wrk(port, case, tokens, count, first, seconds):
    scheme, method = "https" if case.tls else "http", "POST" if case.body else "GET"
    out = on_load_core(["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "5s", "-s", HERE / "load.lua",
                        f"{scheme}://127.0.0.1:{port}/", "--", tokens / "tokens" if tokens else "-", count, first, method,
                        case.body, "close" if case.close else "keep"])
    return json.loads(out.strip().splitlines()[-1])


def h2load(port, case, tokens, _count, _first, seconds):
    """One token, on eight connections with eight requests each at a time."""
    scheme = "https" if case.tls else "http"
    token = ["-H", "authorization: Bearer " + (tokens / "tokens").open().readline().strip()] if tokens else []
    began = time.perf_counter()
    argv = ["h2load", "-t1", "-c8", "-m8", "-D", seconds, *token, f"{scheme}://127.0.0.1:{port}/v1/items?page=2"]
    if case.grpc:
        argv += ["-d", HERE / "message.bin", "-H", "content-type: application/grpc", "-H", "te: trailers"]
    out = on_load_core(argv)
    wall = time.perf_counter() - began
    if "h2" not in out.partition("Application protocol:")[2].split("\n")[0]:
        raise RuntimeError(f"no HTTP/2: {out[-1500:]}")
    number = lambda pattern: int(re.search(pattern, out)[1])
    done, good = number(r"(\d+) done"), number(r"status codes: (\d+) 2xx")
    if case.grpc:  # which refuses with 200 too, but then without a message
        good = min(good, number(r"\((\d+)\) data") // proxies.ANSWER_BYTES)
    # `good` knows those, too, whose head had come when the time was over, but not their end.
    return {"requests": done, "seconds": wall, "refused": max(0, done - good), "errors": number(r"(\d+) errored")}


def machine():
    """CPU seconds since boot that all processes took, and that the host kept for itself (steal)."""
    v = [int(v) / proxies.TICK for v in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return v[0] + v[1] + v[2] + v[5] + v[6], v[7]


def wait_for_quiet(percent, patience):
    """Returns once the machine is idle but for this percentage of a core, or after so many seconds."""
    end = time.perf_counter() + patience
    while time.perf_counter() < end:
        used, start = machine()[0], time.perf_counter()
        time.sleep(0.3)
        if (machine()[0] - used) / (time.perf_counter() - start) * 100 <= percent:
            return


def wait_for_conntrack(room=80_000, patience=150):
    """Where the kernel tracks connections, waits until its table has room: once it is full, packets are dropped."""
    table, end = Path("/proc/sys/net/netfilter"), time.perf_counter() + patience
    while (table / "nf_conntrack_max").exists() and time.perf_counter() < end:
        count, most = (int((table / name).read_text()) for name in ("nf_conntrack_count", "nf_conntrack_max"))
        if count < max(most - room, most // 2):
            return
        time.sleep(0.5)
