"""How many programs a second the sandbox runs, how long one takes, and what it costs in CPU time.

    python -m benchmarks.sandbox_rate [--tiers bubblewrap landlock] [--programs 2000] [--servers N] [--rounds 3]

Rates are wall-clock and mean little on a busy machine, so what other processes took is printed beside them; CPU time
includes this process, the servers (their start too) and every child.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time

from posttrain.sandbox.programs import Program
from posttrain.sandbox.running import ProgramPool

ORDINARY = """
import collections, heapq, math, re

def solve(words, k):
    counts = collections.Counter(word.lower() for word in words if re.fullmatch(r"[A-Za-z]+", word))
    ranked = heapq.nsmallest(k, counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [[word, count, round(math.log1p(count), 6)] for word, count in ranked]
"""
WORDS = ["the", "cage", "holds", "The", "what", "it", "is", "given", "x1", "cage"] * 20


def make_programs(kind: str, count: int) -> list[Program]:
    """Return programs that all differ in their input: `trivial` (one addition) or `ordinary` (a short solution)."""
    if kind == "trivial":
        return [Program("def f(x):\n    return x + 1", entry="f", args=(number,)) for number in range(count)]
    return [Program(ORDINARY, entry="solve", args=(WORDS[number % 50 :], 3)) for number in range(count)]


def cpu_seconds() -> float:
    """Return the CPU time of this process and of every child that it, or a child, has reaped."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def idle_seconds() -> float:
    """Return the seconds that this machine's processors have been idle, summed."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = file.readline().split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


def measure(tier: str, kind: str, count: int, num_servers: int | None) -> dict[str, float]:
    """Return the rate of a batch (programs a second), CPU milliseconds a program, and latencies one by one.

    `others %` is the share of the machine that other processes took meanwhile.
    """
    programs = make_programs(kind, count)
    with ProgramPool(num_servers, tier=tier) as pool:
        pool.run(programs[:100])
        pool.close()
        start_cpu = cpu_seconds()
        pool.run(programs[:100])  # the servers are warm
        start, start_idle = time.perf_counter(), idle_seconds()
        results = pool.run(programs)
        elapsed, idle = time.perf_counter() - start, idle_seconds() - start_idle
        latencies = []
        pool.close()  # the servers' own time counts once they are reaped
        used = (cpu_seconds() - start_cpu) / (count + 100) * count
        pool.run(programs[:100])
        for program in programs[: max(200, count // 10)]:
            begin = time.perf_counter()
            pool.run([program])
            latencies.append(time.perf_counter() - begin)
    assert all(result.status == "ok" for result in results), {result.status for result in results}
    cuts = statistics.quantiles(latencies, n=100)
    processors = os.cpu_count() or 1
    return {
        "programs/s": count / elapsed,
        "others %": 100 * max(0.0, processors * elapsed - idle - used) / (processors * elapsed),
        "CPU ms": 1000 * used / count,
        "child CPU ms": 1000 * statistics.mean(result.cpu_seconds for result in results),
        "p50 ms": 1000 * cuts[49],
        "p95 ms": 1000 * cuts[94],
        "p99 ms": 1000 * cuts[98],
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tiers", nargs="+", default=["bubblewrap", "landlock"])
    parser.add_argument("--programs", type=int, default=2000)
    parser.add_argument("--servers", type=int, default=None, help="default: one a processor")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} processors, user {os.geteuid()}")
    for number in range(arguments.rounds):
        for tier in arguments.tiers:
            for kind in ("trivial", "ordinary"):
                figures = measure(tier, kind, arguments.programs, arguments.servers)
                shown = "  ".join(f"{name} {value:.2f}" for name, value in figures.items())
                print(f"round {number + 1}  {tier:10}  {kind:8}  {shown}", flush=True)


if __name__ == "__main__":
    main()
