"""`posttrain eval`: measure a model on a suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posttrain.cli.options import (
    DataOption,
    DeviceOption,
    JsonOption,
    ModelArgument,
    PrecisionOption,
    RowsOption,
    SeedOption,
    TaskOption,
    TemplateOption,
    UnsafeOption,
    show_example,
)

if TYPE_CHECKING:
    from posttrain.evaluation.monitors.reading import Reading
    from posttrain.pipeline.evaluating import Evaluated

EXAMPLE = show_example(
    "posttrain eval lab:base --suite lab",
    "posttrain eval runs/demo/artifacts/0123456789abcdef0123456789abcdef --suite lab --task tools --rows 100",
    "posttrain eval Qwen/Qwen2.5-0.5B-Instruct --suite my_tasks.yaml --out measured",
    "posttrain eval Qwen/Qwen2.5-0.5B-Instruct --suite gsm8k,arc_easy --data ~/benchmarks",
    "posttrain eval --list",
    "posttrain eval runs/demo/artifacts/0123456789abcdef0123456789abcdef --suite lab --against lab:base",
)


def _show_list(is_asked: bool) -> None:
    if not is_asked:
        return
    from posttrain.cli.output import print_table
    from posttrain.pipeline.suites import list_listed

    rows = [(one.name, str(one.version), one.about, one.licence) for one in list_listed()]
    print_table(("name", "version", "what is asked", "licence of the rows"), rows)
    raise typer.Exit


SuitesOption = Annotated[
    list[str],
    typer.Option(
        "--suite",
        metavar="NAME",
        help="A built-in suite (lab), a published benchmark (gsm8k), several with commas, harness:<task>,<task>, "
        "or a YAML file with 'evaluate:'; may be given several times.",
    ),
]
AgainstOption = Annotated[
    str | None,
    typer.Option("--against", metavar="MODEL", help="Measure this model too; the suite's monitors say what changed."),
]


# many parameters: each is an option of the verb
def eval_(
    model: ModelArgument,
    suite: SuitesOption,
    data: DataOption = None,
    against: AgainstOption = None,
    task: TaskOption = None,
    rows: RowsOption = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="Where evaluations/ lies, a run's folder too; what is there is not asked again.",
        ),
    ] = Path(),
    template: TemplateOption = "auto",
    dtype: PrecisionOption = "auto",
    device: DeviceOption = None,
    seed: SeedOption = 0,
    allow_unsafe_execution: UnsafeOption = False,
    json: JsonOption = False,
    list_: Annotated[
        bool,
        typer.Option("--list", callback=_show_list, is_eager=True, help="Show the suites and benchmarks, and exit."),
    ] = False,
) -> None:
    """Measure a model on a suite of tasks.

    Every number stands with its 95 % interval, the items it comes from, and what could not be scored.

    Each answer is one JSON line in FOLDER/evaluations/<policy hash>/; those of a run lie in the run's folder. A policy
    is never asked the same twice, so the same command goes on where it was stopped. Compare two with 'posttrain
    compare'. What the suite's monitors say stands below; most of them need a model to hold the policy --against.
    """
    from posttrain.cli.console import build_progress
    from posttrain.cli.output import print_json
    from posttrain.cli.stopping import StopFlag
    from posttrain.pipeline.suites import read_suites

    found = read_suites(suite, data=data, only=task or ())
    from posttrain.pipeline.evaluating import EvaluationChoice  # heavy: a bad suite is refused before
    from posttrain.pipeline.monitoring import evaluate_monitored

    choice = EvaluationChoice(
        found, task or (), rows, out, dtype, device, template, seed, allow_unsafe=allow_unsafe_execution
    )
    with StopFlag() as should_stop:
        monitored = evaluate_monitored(model, against, choice, build_progress(json), should_stop)
    if json:
        print_json(monitored.to_json())
        return
    show_evaluated(monitored.evaluated)
    show_readings(monitored.readings)


def show_evaluated(evaluated: Evaluated) -> None:
    """Print a table of every metric, and where the items are."""
    from posttrain.cli.output import print_lines, print_table

    figures = [one for measured in evaluated.measured.values() for one in measured.metrics]
    print_table(
        ("task", "metric", "value", "95 % interval", "items", "not scored"), [_write_row(one) for one in figures]
    )
    if evaluated.sandbox is not None:
        print_lines(f"programs ran in: {evaluated.sandbox}")
    print_lines(f"items: {evaluated.folder}")


def show_readings(readings: Sequence[Reading]) -> None:
    """Print what every monitor says, alarms in capitals."""
    from posttrain.cli.output import print_lines

    for reading in readings:
        status = "ALARM" if reading.status == "alarm" else reading.status
        print_lines(f"{status} {reading.monitor}: {reading.why}")


def _write_row(figures: dict[str, Any]) -> tuple[str, ...]:
    limits = "" if figures["low"] is None else f"{figures['low']:.3f} to {figures['high']:.3f}"
    value = "unread" if figures["value"] is None else f"{figures['value']:.3f}"
    clusters = "" if figures["clusters"] == figures["n"] else f" of {figures['clusters']:,} sources"
    failed = ", ".join(f"{name} {count:,}" for name, count in figures["outcomes"].items() if count and name != "scored")
    return (figures["task"], figures["name"], value, limits, f"{figures['n']:,}{clusters}", failed)
