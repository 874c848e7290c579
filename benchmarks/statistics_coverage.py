"""Coverage of intervals, size and power of tests, and error rates of gates, by simulation, as Markdown tables.

    python -m benchmarks.statistics_coverage [--repeats 2000] [--seed 17]

Every line draws data with a known truth, `--repeats` times, and counts how often the interval held it or the test
rejected. Its standard error is at most sqrt(p (1 - p) / repeats): 0.5 points at 95 % of 2,000. One thread, about two
minutes with the defaults.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.simulated_gates import tabulate_gates
from benchmarks.simulated_pairs import Cluster, draw_binary, draw_fractions
from benchmarks.tables import format_table
from posttrain.statistics.intervals import (
    Interval,
    bootstrap_interval,
    cluster_bootstrap_interval,
    clustered_interval,
    korn_graubard_interval,
    wilson_interval,
)
from posttrain.statistics.paired import (
    bootstrap_difference,
    difference_interval,
    difference_test,
    non_inferiority_test,
)
from posttrain.statistics.pairing import Pairs

Draw = Callable[[np.random.Generator], Pairs]
LEVEL = 0.05
CLUSTERED = [Cluster(10, 5, 0.3), Cluster(20, 5, 0.3), Cluster(50, 10, 0.3), Cluster(110, 5, 0.3), Cluster(275, 2, 0.0)]


def draw_proportion(generator: np.random.Generator, share: float, cluster: Cluster) -> tuple[np.ndarray, np.ndarray]:
    """Return 0/1 values with a mean of `share` and their clusters; beta-binomial with the stated correlation."""
    names = np.repeat(np.arange(cluster.count), cluster.size)
    if cluster.correlation == 0:
        chances = np.full(names.size, share)
    else:
        total = 1 / cluster.correlation - 1
        chances = generator.beta(share * total, (1 - share) * total, cluster.count)[names]
    return (generator.random(names.size) < chances).astype(float), names


def count_sides(intervals: Iterator[Interval], truth: float) -> tuple[float, float, float]:
    """Return how often the truth was held, and lay below and above the interval."""
    found = np.array([(interval.low, interval.high) for interval in intervals])
    below, above = (truth < found[:, 0] - 1e-12).mean(), (truth > found[:, 1] + 1e-12).mean()
    return 1 - below - above, below, above


def tabulate_means(generator: np.random.Generator, repeats: int) -> str:
    """Return the coverage of 95 % intervals of a mean."""
    lines = []

    def add(name: str, data: str, truth: float, draw: Callable[[], Interval], times: int = repeats) -> None:
        held, below, above = count_sides((draw() for _ in range(times)), truth)
        lines.append([name, data, *(f"{100 * share:.1f}" for share in (held, below, above)), f"{times:,}"])

    for items, share in ((30, 0.9), (100, 0.5), (550, 0.7), (550, 0.98)):
        data = f"{items} independent 0/1, p {share}"
        add("Wilson", data, share, lambda n=items, p=share: wilson_interval(int(generator.binomial(n, p)), n))
        ones = lambda n=items, p=share: (generator.random(n) < p).astype(float)  # noqa: E731
        add("Clopper-Pearson", data, share, lambda draw=ones: korn_graubard_interval(draw()))
    for cluster in CLUSTERED:
        data = f"{cluster.describe()}, p 0.8"
        draw = lambda c=cluster: draw_proportion(generator, 0.8, c)  # noqa: E731
        add(
            "Wilson, clusters ignored",
            data,
            0.8,
            lambda d=draw: (lambda v: wilson_interval(int(v.sum()), v.size))(d()[0]),
        )
        add("cluster-robust t", data, 0.8, lambda d=draw: clustered_interval(*d()))
        add("Korn-Graubard", data, 0.8, lambda d=draw: korn_graubard_interval(*d()))
        few = max(200, repeats // 5)
        booted = lambda d=draw: cluster_bootstrap_interval(*d(), generator, num_resamples=500)  # noqa: E731
        add("cluster bootstrap", data, 0.8, booted, few)
    skewed = lambda: bootstrap_interval(generator.beta(0.5, 2, 100), generator, num_resamples=500)  # noqa: E731
    add("bootstrap", "100 independent beta(0.5, 2)", 0.2, skewed, max(200, repeats // 5))
    header = ["interval, 95 %", "data", "held, %", "truth below, %", "truth above, %", "repeats"]
    return format_table(header, lines)


def list_designs(change: float) -> list[tuple[str, bool, Draw]]:
    """Return named ways to draw pairs with a true difference, and whether they are 0/1."""
    designs: list[tuple[str, bool, Draw]] = []
    for pairs, share in ((50, 0.2), (100, 0.1), (550, 0.15), (550, 0.3)):
        data = f"{pairs} independent 0/1, {100 * share:.0f} % differ"
        designs.append((data, True, lambda g, n=pairs, s=share: draw_binary(g, Cluster(n, 1, 0.0), change, s)))
    for cluster in CLUSTERED:
        data = f"{cluster.describe()}, 20 % differ"
        designs.append((data, True, lambda g, c=cluster: draw_binary(g, c, change, 0.2)))
    for cluster in (Cluster(60, 1, 0.0), Cluster(300, 1, 0.0), Cluster(50, 6, 0.3)):
        kind = f"{cluster.count} independent" if cluster.size == 1 else cluster.describe()
        designs.append((f"{kind} in [0, 1]", False, lambda g, c=cluster: draw_fractions(g, c, change)))
    return designs


def tabulate_differences(generator: np.random.Generator, repeats: int) -> str:
    """Return the coverage of 95 % intervals of a paired difference of -8 points, 0 and 5 points."""
    lines = []
    for change in (-0.08, 0.0, 0.05):
        for data, is_binary, draw in list_designs(change):
            name = "Tango" if is_binary else "bounded score"
            sides = count_sides((difference_interval(draw(generator)) for _ in range(repeats)), change)
            lines.append([name, data, f"{change:+.2f}", *(f"{100 * share:.1f}" for share in sides), f"{repeats:,}"])
            if change == -0.08:
                few = max(200, repeats // 5)
                booted = (bootstrap_difference(draw(generator), generator, num_resamples=500) for _ in range(few))
                sides = count_sides(booted, change)
                shares = [f"{100 * share:.1f}" for share in sides]
                lines.append(["paired bootstrap", data, f"{change:+.2f}", *shares, f"{few:,}"])
    header = ["interval, 95 %", "data", "difference", "held, %", "truth below, %", "truth above, %", "repeats"]
    return format_table(header, lines)


def tabulate_tests(generator: np.random.Generator, repeats: int) -> str:
    """Return how often tests at 5 % reject what is true."""
    lines = []
    for data, _, draw in list_designs(0.0):
        tests = [difference_test(draw(generator), generator) for _ in range(repeats)]
        rejected = np.mean([test.p_value <= LEVEL for test in tests])
        lines.append([f"no difference, {tests[0].method}", data, f"{100 * rejected:.1f}", f"{repeats:,}"])
    for data, is_binary, draw in list_designs(-0.08):
        rejected = np.mean([non_inferiority_test(draw(generator), 0.08).p_value <= LEVEL for _ in range(repeats)])
        name = "loss of 8 points or more, " + ("Tango" if is_binary else "bounded score")
        lines.append([name, data, f"{100 * rejected:.1f}", f"{repeats:,}"])
    return format_table(["test at 5 %", "data, the hypothesis true", "rejected, %", "repeats"], lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=17)
    arguments = parser.parse_args()
    generator = np.random.default_rng(arguments.seed)
    for title, tabulate in (
        ("Intervals of a mean", tabulate_means),
        ("Intervals of a paired difference", tabulate_differences),
        ("Size of tests", tabulate_tests),
        ("Gates", tabulate_gates),
    ):
        print(f"## {title}\n\n{tabulate(generator, arguments.repeats)}\n", flush=True)


if __name__ == "__main__":
    main()
