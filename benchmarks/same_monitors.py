"""One policy, drawn again with other seeds and read by every monitor as if it were a stage on itself (A/A).

    python -m benchmarks.same_monitors ARTIFACT --folder runs/same --seeds 20 --rows 300 --samples 6

Everything is drawn at temperature 1, so that answers differ and nothing has changed: whatever alarms is false. Seed 0
is the parent. What was drawn is kept and not drawn again.
"""

from __future__ import annotations

import argparse
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.lab_policy import open_measurer
from benchmarks.planted_failures import list_monitors, list_tasks, save_requests
from benchmarks.tables import format_table
from posttrain.core.records import ItemResult
from posttrain.evaluation.monitors.settings import MonitorSettings, read_monitor
from posttrain.evaluation.task import EvaluationTask
from posttrain.pipeline.measure import Measurer, OpenPolicy


def draw(measurer: Measurer, policy: OpenPolicy, tasks: list[Any], seed: int) -> dict[str, list[ItemResult]]:
    """Return a policy's items on all tasks under one seed."""
    measurer.seed = seed
    return {task.name: measurer.measure(policy, task).read_items() for task in tasks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path, help="an artifact: a policy of the lab after SFT")
    parser.add_argument("--folder", type=Path, required=True, help="where items lie")
    parser.add_argument("--rows", type=int, default=300, help="problems of a task")
    parser.add_argument("--samples", type=int, default=6, help="samples of each problem of the task that draws several")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--level", type=float, default=0.01)
    arguments = parser.parse_args()
    save_requests(arguments.folder, arguments.rows)
    values = [{**task, "temperature": 1.0} for task in list_tasks(arguments.rows, arguments.samples)]
    tasks = TypeAdapter(list[EvaluationTask]).validate_python(values)
    monitors = TypeAdapter(list[MonitorSettings]).validate_python(list_monitors(arguments.level))
    counts = {monitor.label: Counter[str]() for monitor in monitors}
    with ExitStack() as stack:
        measurer, policy = open_measurer(stack, arguments.policy, arguments.folder)
        parent = draw(measurer, policy, tasks, 0)
        for seed in range(1, arguments.seeds + 1):
            own = draw(measurer, policy, tasks, seed)
            for monitor in monitors:
                reading = read_monitor(monitor, own, parent, parent)
                counts[monitor.label][reading.status] += 1
                if reading.status == "alarm":
                    print(f"seed {seed}: {monitor.label}: {reading.why}", flush=True)
            print(f"seed {seed} of {arguments.seeds}", flush=True)
    statuses = ("silent", "alarm", "unmeasured")
    lines = [[name, *(str(count[status]) for status in statuses)] for name, count in counts.items()]
    total = [str(sum(count[status] for count in counts.values())) for status in statuses]
    print(format_table(["monitor", *statuses], [*lines, ["all", *total]]))


if __name__ == "__main__":
    main()
