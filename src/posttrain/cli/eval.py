"""`posttrain eval`: measure a model on a suite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posttrain.cli.options import (
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
    from posttrain.pipeline.evaluating import Evaluated

EXAMPLE = show_example(
    "posttrain eval lab:base --suite lab",
    "posttrain eval runs/demo/artifacts/0123456789abcdef0123456789abcdef --suite lab --task tools --rows 100",
    "posttrain eval Qwen/Qwen2.5-0.5B-Instruct --suite my_tasks.yaml --out measured",
)


# many parameters: each is an option of the verb
def eval_(
    model: ModelArgument,
    suite: Annotated[
        str,
        typer.Option(
            "--suite",
            metavar="NAME",
            help="A built-in suite (lab), harness:<task>,<task>, or a YAML file with 'evaluate:'.",
        ),
    ],
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
) -> None:
    """Measure a model on a suite of tasks.

    Every number stands with its 95 % interval, the items it comes from, and what could not be scored.

    Each answer is one JSON line in FOLDER/evaluations/<policy hash>/; those of a run lie in the run's folder. A policy
    is never asked the same twice, so the same command goes on where it was stopped. Compare two with 'posttrain
    compare'.
    """
    from posttrain.cli.console import build_progress
    from posttrain.cli.output import print_json
    from posttrain.cli.stopping import StopFlag
    from posttrain.pipeline.suites import read_suite

    found = read_suite(suite)
    found.choose(task or ())
    from posttrain.pipeline.evaluating import EvaluationChoice, evaluate_model  # heavy: a bad suite is refused before

    choice = EvaluationChoice(
        found, task or (), rows, out, dtype, device, template, seed, allow_unsafe=allow_unsafe_execution
    )
    with StopFlag() as should_stop:
        evaluated = evaluate_model(model, choice, build_progress(json), should_stop)
    if json:
        print_json(evaluated.to_json())
    else:
        show_evaluated(evaluated)


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


def _write_row(figures: dict[str, Any]) -> tuple[str, ...]:
    limits = "" if figures["low"] is None else f"{figures['low']:.3f} to {figures['high']:.3f}"
    value = "unread" if figures["value"] is None else f"{figures['value']:.3f}"
    clusters = "" if figures["clusters"] == figures["n"] else f" of {figures['clusters']:,} sources"
    failed = ", ".join(f"{name} {count:,}" for name, count in figures["outcomes"].items() if count and name != "scored")
    return (figures["task"], figures["name"], value, limits, f"{figures['n']:,}{clusters}", failed)
