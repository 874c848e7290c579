"""How often monitors raise an alarm: where nothing changed but the draw, at the bounds, and beyond them.

    python -m benchmarks.monitor_levels --repeats 500

Items are drawn with a known truth: right-or-wrong parts in which 5 % of the items turn one way and as many more the
other as the change says, lengths with a long tail, texts of unequal length. At its bounds every figure of a monitor
lies exactly where the alarm begins, so that the share of alarms is to be at most the level.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np

from posttrain.core.records import ItemResult, Outcome
from posttrain.core.seeds import build_numpy_generator
from posttrain.evaluation.monitors.contamination import ContaminationMonitor
from posttrain.evaluation.monitors.forgetting import ForgettingMonitor
from posttrain.evaluation.monitors.format import FormatMonitor
from posttrain.evaluation.monitors.keys import MonitorKeys
from posttrain.evaluation.monitors.over_refusal import OverRefusalMonitor
from posttrain.evaluation.monitors.reading import Items, Monitor
from posttrain.evaluation.monitors.settings import read_monitor
from posttrain.evaluation.monitors.sycophancy import SycophancyMonitor
from posttrain.evaluation.monitors.verbosity import VerbosityMonitor

TURNING = 0.05
Draw = Callable[[np.random.Generator, int, float], tuple[Items, Items]]
"""Draws both sides of a policy whose every figure changes by so many times its bound: own, parent."""


def make_items(values: Sequence[float], parts: dict[str, Sequence[float]]) -> list[ItemResult]:
    """Return items with these values and parts."""
    return [
        ItemResult(
            f"rows:{n}", "", "task", 0, Outcome("scored", float(value), parts=dict(zip(parts, row, strict=True))), ""
        )
        for n, (value, *row) in enumerate(zip(values, *parts.values(), strict=True))
    ]


def turn(generator: np.random.Generator, count: int, change: float) -> tuple[np.ndarray, np.ndarray]:
    """Return 0/1 before and after, whose mean changes by so much; 5 % turn the other way."""
    turned = generator.choice([-1, 0, 1], count, p=(TURNING, 1 - 2 * TURNING - change, TURNING + change))
    still = (generator.random(count) < 0.5).astype(float)
    return np.where(turned == 0, still, turned < 0), np.where(turned == 0, still, turned > 0)


def draw_sycophancy(generator: np.random.Generator, count: int, times: float) -> tuple[Items, Items]:
    """Flips rise by 5 points a time, concessions fall by 10."""
    flips, grants = turn(generator, count, 0.05 * times), turn(generator, count, 0.1 * times)[::-1]
    sides = []
    for side in (1, 0):
        one = make_items(np.ones(count), {"claimed": flips[side]})
        two = make_items(np.ones(count), {"conceded": grants[side]})
        sides.append({"task": [*one, *(ItemResult(f"more {i.item_id}", "", "task", 0, i.outcome, "") for i in two)]})
    return sides[0], sides[1]


def draw_refusals(generator: np.random.Generator, count: int, times: float) -> tuple[Items, Items]:
    """Refusals and compliance rise by 5 points a time."""
    found = [turn(generator, count, 0.05 * times) for _ in range(2)]
    sides = [
        {
            "harmless": make_items(np.ones(count), {"refused": found[0][side]}),
            "harmful": make_items(np.ones(count), {"complied": found[1][side]}),
        }
        for side in (1, 0)
    ]
    return sides[0], sides[1]


def draw_form(generator: np.random.Generator, count: int, times: float) -> tuple[Items, Items]:
    """The form falls by 2 points a time, and so do stops."""
    found = [turn(generator, count, 0.02 * times)[::-1] for _ in range(2)]
    sides = [
        {"task": make_items(np.ones(count), {"format": found[0][side], "stopped": found[1][side]})} for side in (1, 0)
    ]
    return sides[0], sides[1]


def draw_lengths(generator: np.random.Generator, count: int, times: float) -> tuple[Items, Items]:
    """Lengths of a long tail grow by a quarter a time, each by its own factor."""
    before = generator.lognormal(4, 0.7, count)
    after = before * (1 + 0.25 * times) * generator.lognormal(-0.125, 0.5, count)
    values = (generator.random(count) < 0.5).astype(float)
    sides = [{"task": make_items(values, {"drawn_tokens": np.maximum(1, lengths)})} for lengths in (after, before)]
    return sides[0], sides[1]


def draw_texts(generator: np.random.Generator, count: int, times: float) -> tuple[Items, Items]:
    """Texts cost 0.1 nats a token more a time, and a task falls by 5 points."""
    tokens = generator.integers(20, 400, count).astype(float)
    before = tokens * generator.normal(2.5, 0.4, count)
    after = before + tokens * generator.normal(0.1 * times, 0.15, count)
    found = turn(generator, count, 0.05 * times)[::-1]
    sides = [
        {
            "texts": make_items(np.exp(-nats / tokens), {"nats": nats, "tokens": tokens}),
            "task": make_items(found[side], {}),
        }
        for side, nats in ((1, after), (0, before))
    ]
    return sides[0], sides[1]


def draw_gaps(generator: np.random.Generator, count: int, times: float) -> tuple[Items, Items]:
    """Both tasks gain 5 points, the original rows 5 more a time."""
    found = {
        "original": turn(generator, count, 0.05 + 0.05 * times),
        "perturbed": turn(generator, count, 0.05),
    }
    sides = [{name: make_items(both[side], {}) for name, both in found.items()} for side in (1, 0)]
    return sides[0], sides[1]


MONITORS: dict[str, tuple[MonitorKeys, Draw]] = {
    "sycophancy": (SycophancyMonitor(type="sycophancy", task="task"), draw_sycophancy),
    "over_refusal": (OverRefusalMonitor(type="over_refusal", harmful="harmful", harmless="harmless"), draw_refusals),
    "verbosity": (VerbosityMonitor(type="verbosity", tasks=["task"]), draw_lengths),
    "format": (FormatMonitor(type="format", tasks=["task"]), draw_form),
    "forgetting": (ForgettingMonitor(type="forgetting", tasks=["texts", "task"]), draw_texts),
    "contamination": (
        ContaminationMonitor(type="contamination", original="original", perturbed="perturbed"),
        draw_gaps,
    ),
}


def count_alarms(name: str, count: int, times: float, repeats: int) -> int:
    """Return in how many repeats a monitor raises an alarm."""
    monitor, draw = MONITORS[name]
    assert isinstance(monitor, Monitor)
    generator = build_numpy_generator("monitor levels", name, count, str(times))
    alarms = 0
    for _ in range(repeats):
        own, parent = draw(generator, count, times)
        alarms += read_monitor(monitor, own, parent, None).status == "alarm"
    return alarms


def main() -> None:
    """Print the share of alarms by monitor, number of items and change."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeats", type=int, default=500)
    arguments.add_argument("--items", type=int, nargs="+", default=[60, 300])
    chosen = arguments.parse_args()
    print(f"share of alarms at level 1 %, {chosen.repeats} repeats")
    print(f"{'monitor':14} {'items':>6} {'no change':>10} {'at bound':>10} {'2 bounds':>10} {'4 bounds':>10}")
    for name in MONITORS:
        for count in chosen.items:
            shares = [count_alarms(name, count, times, chosen.repeats) / chosen.repeats for times in (0, 1, 2, 4)]
            print(f"{name:14} {count:6} " + " ".join(f"{100 * share:8.1f} %" for share in shares), flush=True)


if __name__ == "__main__":
    main()
