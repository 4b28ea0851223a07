"""What is measured, and what it must reach."""
import dataclasses, statistics

from load import Case
from report import Line

PLAIN = Case()
HOT = {alg: Case(alg=alg) for alg in ("RS256", "ES256")}
COLD = {alg: Case(alg=alg, tokens="cold") for alg in ("RS256", "ES256", "EdDSA", "HS256")}
TLS = Case(alg="ES256", tls=True)
SPREAD = Case(alg="ES256", spread=True)
# What a never-seen token may cost besides its one verification.
OVERHEAD_US = 5


@dataclasses.dataclass(frozen=True)
class Ratio:
    """CPU time of a request, against the cheapest of some other cases."""
    key: str
    what: str
    case: Case
    others: dict    # name -> Case
    limit: float

    @property
    def cases(self):
        return [self.case, *self.others.values()]

    def line(self, samples, _raw):
        cost = lambda case: [s["cpu_us"] for s in samples[case]]
        peer = min(self.others, key=lambda name: statistics.median(cost(self.others[name])))
        line = Line(self.what, f"≤ {self.limit:.2f}×", cost(self.case), cost(self.others[peer]), peer)
        line.met = statistics.median(line.ratios) <= self.limit
        return line


@dataclasses.dataclass(frozen=True)
class Fresh:
    """What a never-seen token adds to a request, against one verification of its signature and a little."""
    alg: str

    @property
    def key(self):
        return f"cold-{self.alg.lower()}"

    @property
    def cases(self):
        return [COLD[self.alg], PLAIN]

    def line(self, samples, raw):
        allowed = raw[self.alg] + OVERHEAD_US
        added = [cold["cpu_us"] - plain["cpu_us"] for cold, plain in zip(samples[COLD[self.alg]], samples[PLAIN])]
        line = Line(f"{self.alg}, never seen, less no auth", f"≤ 1 verification + {OVERHEAD_US} µs", added, [allowed] * len(added),
                    f"aws-lc {raw[self.alg]:.1f} + {OVERHEAD_US} =")
        line.met = statistics.median(line.ratios) <= 1
        return line


def nginx(case):
    return {"nginx": case.by("nginx")}


ES256_COLD = {"never seen, ES256": COLD["ES256"]}
POST, CHURN = Case(alg="ES256", body=16384), Case(alg="ES256", close=True)
H2, GRPC = dataclasses.replace(TLS, http2=True), Case(alg="ES256", grpc=True)

COST = [
    Ratio("no-auth", "no auth", PLAIN, nginx(PLAIN), 1.1),
    *(Ratio(f"hot-{alg.lower()}", f"hot token, {alg}", HOT[alg], nginx(HOT[alg]), 1.1) for alg in HOT),
    *(Ratio(f"envoy-{alg.lower()}", f"hot token, {alg}, beside Envoy's token cache", HOT[alg],
            {"Envoy": HOT[alg].by("envoy")}, 0.5) for alg in HOT),
    Ratio("pool", "1,000 tokens in turn, ES256", Case(alg="ES256", tokens="pool"), nginx(HOT["ES256"]), 1.15),
    *map(Fresh, COLD),
    Ratio("badsig", "bad signature, ES256", Case(alg="ES256", tokens="badsig"), ES256_COLD, 1),
    Ratio("expired", "expired, never seen, ES256", Case(alg="ES256", tokens="expired"), ES256_COLD, 1),
    Ratio("expired-seen", "expired, seen when it was good (no crypto)", Case(alg="ES256", tokens="dying"), {"no auth": PLAIN}, 1),
    Ratio("post", "16 KiB POST", POST, nginx(POST), 1.1),
    Ratio("churn", "new connection for each request", CHURN, nginx(CHURN), 1.25),
    Ratio("h2", "TLS 1.3 + HTTP/2, hot token", H2, {**nginx(H2), "haproxy": H2.by("haproxy")}, 1.1),
    Ratio("tls", "TLS 1.3 + HTTP/1.1, hot token", TLS, {**nginx(TLS), "haproxy": TLS.by("haproxy")}, 1.1),
    Ratio("grpc", "gRPC unary without TLS, hot token", GRPC, nginx(GRPC), 1.1),
    Ratio("workers", "two workers", dataclasses.replace(SPREAD, workers=2), {"one worker": SPREAD}, 1.1),
]

# The others, by key, in the order of the table; run.py measures each in its own way.
OTHER = ["memory", "idle", "idle-tls", "soak", "p99"]
