"""Gates over drawn items: stated and observed power, planted regressions, slow leaks, looks and attempts."""

from __future__ import annotations

import dataclasses

import numpy as np

from benchmarks.simulated_pairs import Cluster, draw_binary
from benchmarks.tables import format_table
from posttrain.core.records import ItemResult, Outcome
from posttrain.gates.decision import decide
from posttrain.gates.results import GateEvidence
from posttrain.gates.rules import GateRules, KeepRule
from posttrain.statistics.bounded_mean import compute_tango_score, critical_value
from posttrain.statistics.multiplicity import nominal_levels
from posttrain.statistics.paired import difference_test
from posttrain.statistics.pairing import Pairs, build_pairs
from posttrain.statistics.power import compute_chances, compute_joint_power, keep_design

MARGIN = 0.08


def build_items(values: np.ndarray, policy: str) -> list[ItemResult]:
    """Return one scored item a value."""
    return [
        ItemResult(str(index), "", "task", 0, Outcome("scored", float(value)), policy)
        for index, value in enumerate(values)
    ]


def build_evidence(tasks: dict[str, Pairs]) -> GateEvidence:
    """Return the items of pairs as a gate reads them."""
    return GateEvidence(
        stage={name: build_items(pairs.after_N, "stage") for name, pairs in tasks.items()},
        parent={name: build_items(pairs.before_N, "parent") for name, pairs in tasks.items()},
    )


def count_keeps(
    generator: np.random.Generator, num_pairs: int, change: float, share: float, repeats: int
) -> np.ndarray:
    """Return how often a keep passed, failed and stayed undecided over drawn tables."""
    chances = [(share + change) / 2, (share - change) / 2, 1 - share]
    drawn = generator.multinomial(num_pairs, chances, size=repeats)
    z = critical_value(0.05)
    passed = compute_tango_score(drawn[:, 0], drawn[:, 1], num_pairs, -MARGIN) > z
    failed = ~passed & (compute_tango_score(drawn[:, 0], drawn[:, 1], num_pairs, 0.0) < -z)
    return np.array([passed.mean(), failed.mean(), 1 - passed.mean() - failed.mean()])


def list_power_lines(generator: np.random.Generator, repeats: int) -> list[list[str]]:
    """Return stated and observed chances of a keep with a margin of 8 points."""
    lines = []
    for num_pairs, share in ((100, 0.1), (200, 0.15), (300, 0.15), (550, 0.15), (550, 0.233)):
        for change, event in ((0.0, 0), (-MARGIN, 1), (-MARGIN, 0)):
            design = dataclasses.replace(keep_design(MARGIN, num_items=num_pairs, discordance=share), change=change)
            stated = compute_chances(design)
            observed = count_keeps(generator, num_pairs, change, share, 10 * repeats)[event]
            what = f"keep {'passes' if event == 0 else 'fails'}, difference {change:+.2f}"
            data = f"{num_pairs} pairs, {100 * share:g} % differ"
            value = stated.passed if event == 0 else stated.failed
            lines.append([what, data, f"{100 * value:.1f}", f"{100 * observed:.1f}", f"{10 * repeats:,}"])
    return lines


def list_suite_lines(generator: np.random.Generator, repeats: int) -> list[list[str]]:
    """Return how often a gate of eight keeps over 550 items promotes, with and without one planted regression."""
    rules = GateRules(keep=[KeepRule(metric=f"skill-{number}", margin=MARGIN) for number in range(8)])
    cluster, lines = Cluster(550, 1, 0.0), []
    design = keep_design(MARGIN, num_items=550, discordance=0.233)
    joint = compute_joint_power([compute_chances(design).passed] * 8)
    caught = compute_chances(dataclasses.replace(design, change=-MARGIN))
    for what, change, stated in (
        ("promoted, nothing changed", 0.0, joint.product if joint else 0.0),
        ("skill 3 failed, it lost 8 points", -MARGIN, caught.failed),
        ("promoted, skill 3 lost 8 points", -MARGIN, caught.passed * compute_chances(design).passed ** 7),
    ):
        times = max(100, repeats // 5)
        hits = 0
        for _ in range(times):
            tasks = {
                f"skill-{number}": draw_binary(generator, cluster, change if number == 3 else 0.0, 0.233)
                for number in range(8)
            }
            decision = decide(rules, build_evidence(tasks))
            is_failed = decision.results[3].state == "failed"
            hits += decision.action == "promote" if what.startswith("promoted") else is_failed
        lines.append(
            [
                what,
                "8 skills, 550 pairs each, 23.3 % differ",
                f"{100 * stated:.1f}",
                f"{100 * hits / times:.1f}",
                f"{times:,}",
            ]
        )
    return lines


def list_leak_lines(generator: np.random.Generator, repeats: int) -> list[list[str]]:
    """Return how often six stages that lose 2 points each are all promoted, with and without a baseline."""
    lines = []
    for name, keep in (
        ("margin 8 against the parent alone", KeepRule(metric="skill", margin=MARGIN)),
        ("and 8 against the base", KeepRule(metric="skill", margin=MARGIN, baseline="base")),
    ):
        times, promoted = max(100, repeats // 10), 0
        for _ in range(times):
            values = [(generator.random(550) < 0.8).astype(float)]
            for _stage in range(6):
                # Of the right ones 3.5 % are lost, of the wrong ones 3 % won: about 2 points a stage.
                last, drawn = values[-1], generator.random(550)
                values.append(
                    np.where((last == 1) & (drawn < 0.035), 0.0, np.where((last == 0) & (drawn < 0.03), 1.0, last))
                )
            items = [build_items(column, f"policy-{number}") for number, column in enumerate(values)]
            promoted += all(
                decide(
                    GateRules(keep=[keep]),
                    GateEvidence({"skill": items[n]}, {"skill": items[n - 1]}, {"base": {"skill": items[0]}}),
                ).action
                == "promote"
                for n in range(1, 7)
            )
        lines.append(
            [
                f"slow leak promoted to the end, {name}",
                "6 stages, 550 pairs, about -2 points each",
                "",
                f"{100 * promoted / times:.1f}",
                f"{times:,}",
            ]
        )
    return lines


def list_look_lines(generator: np.random.Generator, repeats: int) -> list[list[str]]:
    """Return how often a loss of the margin passes at any of several looks, spending the level and not."""
    lines = []
    fractions = [0.4, 0.7, 1.0]
    sizes = [round(550 * fraction) for fraction in fractions]
    chances = [(0.2 - MARGIN) / 2, (0.2 + MARGIN) / 2, 0.8]
    times = 10 * repeats
    steps = [generator.multinomial(size, chances, size=times) for size in np.diff([0, *sizes])]
    for name, levels in (("spent (Lan-DeMets)", nominal_levels(0.05, fractions)), ("5 % at each look", [0.05] * 3)):
        passed = np.zeros(times, dtype=bool)
        counts = np.zeros((times, 3), dtype=np.int64)
        for step, size, level in zip(steps, sizes, levels, strict=True):
            counts = counts + step
            passed |= compute_tango_score(counts[:, 0], counts[:, 1], size, -MARGIN) > critical_value(level)
        lines.append(
            [
                f"a loss of 8 points passes at some look, {name}",
                "looks at 220, 385, 550 pairs",
                "5.0",
                f"{100 * passed.mean():.1f}",
                f"{times:,}",
            ]
        )
    return lines


def list_same_policy_lines(generator: np.random.Generator, repeats: int) -> list[list[str]]:
    """Return how often two evaluations of one policy with different seeds are called different at 5 %."""
    times, called = repeats, 0
    chances = generator.beta(0.5, 0.5, 550)
    for _ in range(times):
        sides = [(generator.random(550) < chances).astype(float) for _ in range(2)]
        called += difference_test(build_pairs(*sides), generator).p_value <= 0.05
    return [
        [
            "one policy, two seeds, called different",
            "550 items, p of each from beta(0.5, 0.5)",
            "at most 5",
            f"{100 * called / times:.1f}",
            f"{times:,}",
        ]
    ]


def tabulate_gates(generator: np.random.Generator, repeats: int) -> str:
    """Return stated and observed rates of gates."""
    lines = [
        *list_power_lines(generator, repeats),
        *list_same_policy_lines(generator, repeats),
        *list_suite_lines(generator, repeats),
        *list_leak_lines(generator, repeats),
        *list_look_lines(generator, repeats),
    ]
    return format_table(["event", "data", "stated, %", "observed, %", "repeats"], lines)
