"""A/A: one policy evaluated again and again with other seeds; how often two evaluations are called different.

    python -m benchmarks.same_policy ARTIFACT --repeats 200 --rows 250

Every repeat pairs two evaluations of their own seeds, drawn at temperature 1. `posttrain compare` and a gate must call
them different no more often than their level says.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.lab_policy import build_sampled_task, open_measurer
from benchmarks.tables import format_table
from posttrain.core.records import ItemResult
from posttrain.core.seeds import build_numpy_generator
from posttrain.evaluation.items import drop_texts
from posttrain.gates.decision import decide
from posttrain.gates.results import GateEvidence
from posttrain.gates.rules import GateRules, ImproveRule, KeepRule
from posttrain.statistics.paired import compare_pairs
from posttrain.statistics.pairing import pair_items

LEVEL = 0.05
TASKS = ("questions", "tools")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path, help="an artifact")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--rows", type=int, default=250)
    parser.add_argument("--folder", type=Path, help="where items lie; a run that was stopped goes on from them")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        measurer, policy = open_measurer(stack, arguments.policy, folder)
        tasks = [build_sampled_task(name, arguments.rows) for name in TASKS]
        counts = {f"{task.name}: {what}": 0 for task in tasks for what in ("compare", "gate: gain", "gate: loss")}
        began = time.perf_counter()
        for repeat in range(arguments.repeats):
            sides = []
            for seed in (2 * repeat + 1, 2 * repeat + 2):
                measurer.seed = seed
                sides.append(
                    {task.name: [*map(drop_texts, measurer.measure(policy, task).read_items())] for task in tasks}
                )
            for task in tasks:
                count_calls(task.name, sides[0][task.name], sides[1][task.name], counts, repeat)
            if (repeat + 1) % 10 == 0:
                print(f"{repeat + 1} repeats, {time.perf_counter() - began:.0f} s", counts, flush=True)
    limit = 0.05 * arguments.repeats + 2.6 * math.sqrt(arguments.repeats * 0.05 * 0.95)
    lines = [[name, f"{count} of {arguments.repeats}"] for name, count in counts.items()]
    print(format_table(["called different", "times"], lines))
    print(f"at 5 % about {0.05 * arguments.repeats:.0f}; more than {limit:.0f} would be surprising")


def count_calls(
    task: str, before: list[ItemResult], after: list[ItemResult], counts: dict[str, int], repeat: int
) -> None:
    """Count what a comparison and a gate call different; a gate's pair has two names, as two policies would."""
    generator = build_numpy_generator("same policy", task, repeat)
    counts[f"{task}: compare"] += compare_pairs(pair_items(before, after), generator).test.p_value <= LEVEL
    rules = GateRules(improve=[ImproveRule(metric=task)], keep=[KeepRule(metric=task, margin=0.08)])
    named = [ItemResult(**{**{f: getattr(item, f) for f in item.__slots__}, "policy_hash": "other"}) for item in after]
    results = decide(rules, GateEvidence(stage={task: named}, parent={task: before})).results
    counts[f"{task}: gate: gain"] += results[0].state == "passed"
    counts[f"{task}: gate: loss"] += results[1].state == "failed"


if __name__ == "__main__":
    main()
