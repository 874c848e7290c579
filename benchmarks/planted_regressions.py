"""Planted regressions in a real policy's answers: a gate catches each as often as it says it will.

    python -m benchmarks.planted_regressions ARTIFACT --seeds 6 --repeats 400

One policy answers eight tasks of the lab with several seeds, at temperature 1. A stage is then another seed's answers,
its rows drawn again by source, with damage planted: nothing; one task of eight loses 8 points; every tool call is torn;
a tenth of the benign requests more is refused. Observed decisions stand beside the power that they stated themselves.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.lab_policy import build_sampled_task, open_measurer
from benchmarks.tables import format_table
from posttrain.core.records import ItemResult, Outcome
from posttrain.core.seeds import build_numpy_generator
from posttrain.evaluation.items import drop_texts
from posttrain.gates.decision import decide
from posttrain.gates.results import Decision, GateEvidence, Items, RuleResult
from posttrain.gates.rules import GateRules, KeepRule
from posttrain.statistics.pairing import cluster_name

TASKS = ("arithmetic", "words", "facts", "logic", "tools", "citations", "instructions", "benign")
SETS = {"benign": "look_alikes"}
MARGIN, ROWS = 0.08, 550
Damage = Callable[[str, list[ItemResult], np.random.Generator], list[ItemResult]]


def measure_sides(artifact: Path, num_seeds: int, folder: Path) -> list[dict[str, list[ItemResult]]]:
    """Return the items of every task, for each seed."""
    with ExitStack() as stack:
        measurer, policy = open_measurer(stack, artifact, folder)
        sides = []
        for seed in range(1, num_seeds + 1):
            measurer.seed = seed
            side: dict[str, list[ItemResult]] = {}
            for name in TASKS:
                task = build_sampled_task(name, ROWS, SETS.get(name))
                side[name] = [drop_texts(item) for item in measurer.measure(policy, task).read_items()]
            sides.append(side)
            print(f"seed {seed} measured", flush=True)
        return sides


def draw_sources(
    before: Sequence[ItemResult], after: Sequence[ItemResult], generator: np.random.Generator
) -> tuple[list[ItemResult], list[ItemResult]]:
    """Return pairs drawn again by source, until there are about as many as before.

    Which side of a source is the parent's is drawn too: the true difference is then exactly 0.
    """
    groups: dict[str, list[int]] = {}
    for index, item in enumerate(before):
        groups.setdefault(cluster_name(item), []).append(index)
    names = list(groups)
    sides: tuple[list[ItemResult], list[ItemResult]] = ([], [])
    while len(sides[0]) < len(before):
        number = len(sides[0])
        order = (before, after) if generator.random() < 0.5 else (after, before)
        for index in groups[names[int(generator.integers(len(names)))]]:
            for side, items, policy in zip(sides, order, ("parent", "stage"), strict=True):
                side.append(
                    replace(items[index], item_id=f"{number}-{index}", cluster_id=str(number), policy_hash=policy)
                )
    return sides


def lose(items: list[ItemResult], share: float, generator: np.random.Generator) -> list[ItemResult]:
    """Return items of which so many, as a share of all, are wrong that were right."""
    right = [index for index, item in enumerate(items) if item.outcome.value == 1]
    lost = set(generator.permutation(right)[: round(share * len(items))].tolist())
    return [
        replace(item, outcome=replace(item.outcome, value=0.0)) if index in lost else item
        for index, item in enumerate(items)
    ]


def one_task(name: str, items: list[ItemResult], generator: np.random.Generator) -> list[ItemResult]:
    return lose(items, MARGIN, generator) if name == "arithmetic" else items


def torn_calls(name: str, items: list[ItemResult], generator: np.random.Generator) -> list[ItemResult]:
    torn = Outcome("unparsed", 0.0, why="no call could be read", fault="policy", parts={"stopped": 1.0})
    return [replace(item, outcome=torn) for item in items] if name == "tools" else items


def refusals(name: str, items: list[ItemResult], generator: np.random.Generator) -> list[ItemResult]:
    """A tenth of all benign requests is refused that was not: what `refused` counts, kept from below."""
    if name != "benign":
        return items
    open_ = [index for index, item in enumerate(items) if item.outcome.parts.get("kept", 0) == 1]
    lost = set(generator.permutation(open_)[: round(0.1 * len(items))].tolist())
    return [
        replace(item, outcome=replace(item.outcome, parts={**item.outcome.parts, "kept": 0.0}))
        if index in lost
        else item
        for index, item in enumerate(items)
    ]


def keep_open(items: Items) -> dict[str, list[ItemResult]]:
    """Give benign items a part that says that they were not refused: more is better, as keeps want it."""
    return {
        name: [
            replace(
                item,
                outcome=replace(
                    item.outcome,
                    parts={**item.outcome.parts, "kept": 1 - min(1.0, item.outcome.parts.get("refused", 0))},
                ),
            )
            for item in found
        ]
        if name == "benign"
        else list(found)
        for name, found in items.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path, help="an artifact")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--folder", type=Path, help="where items lie; a run that was stopped goes on from them")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = [keep_open(side) for side in measure_sides(arguments.policy, arguments.seeds, folder)]
    keeps = [KeepRule(metric="benign/kept" if name == "benign" else name, margin=MARGIN) for name in TASKS]
    rules = GateRules(keep=keeps)
    lines = []
    for what, task, damage in (
        ("nothing", None, None),
        ("arithmetic loses 8 points", "arithmetic", one_task),
        ("every tool call torn", "tools", torn_calls),
        ("a tenth of benign requests more refused", "benign", refusals),
    ):
        generator = build_numpy_generator("planted", what)
        decisions = [decide_once(rules, sides, damage, generator) for _ in range(arguments.repeats)]
        lines += describe(what, task, decisions)
    print(format_table(["planted", "event", "stated %", "observed %", "repeats"], lines))


def decide_once(
    rules: GateRules,
    sides: Sequence[Mapping[str, list[ItemResult]]],
    damage: Damage | None,
    generator: np.random.Generator,
) -> Decision:
    first, second = generator.choice(len(sides), size=2, replace=False)
    parent: dict[str, list[ItemResult]] = {}
    stage: dict[str, list[ItemResult]] = {}
    for name in TASKS:
        parent[name], drawn = draw_sources(sides[first][name], sides[second][name], generator)
        stage[name] = drawn if damage is None else damage(name, drawn, generator)
    return decide(rules, GateEvidence(stage=stage, parent=parent))


def describe(what: str, task: str | None, decisions: Sequence[Decision]) -> list[list[str]]:
    """Return what the decisions stated on average, and how often it came so."""
    times = len(decisions)
    if task is None:
        powers = [decision.joint_power.product for decision in decisions if decision.joint_power is not None]
        lines = [[what, "promoted", f"{100 * np.mean(powers):.1f}", _share(d.action == "promote" for d in decisions)]]
        for number, name in enumerate(TASKS):
            rows = [decision.results[number] for decision in decisions]
            stated = np.mean([row.figures.power_to_pass for row in rows if row.figures is not None])
            lines.append([what, f"{name} passes", f"{100 * stated:.1f}", _share(row.state == "passed" for row in rows)])
        return [[*line, str(times)] for line in lines]
    rows: list[RuleResult] = [decision.results[TASKS.index(task)] for decision in decisions]
    stated = np.mean([row.figures.power_to_catch for row in rows if row.figures is not None])
    return [
        [what, f"{task} fails", f"{100 * stated:.1f}", _share(row.state == "failed" for row in rows), str(times)],
        [what, "not promoted", "", _share(decision.action != "promote" for decision in decisions), str(times)],
    ]


def _share(events: Iterable[bool]) -> str:
    found = list(events)
    return f"{100 * sum(found) / len(found):.1f}"


if __name__ == "__main__":
    main()
