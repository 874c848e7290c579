"""`posttrain compare`: two policies on the same items."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.options import (
    DataOption,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    RowsOption,
    SeedOption,
    TaskOption,
    TemplateOption,
    UnsafeOption,
    show_example,
)

EXAMPLE = show_example(
    "posttrain compare runs/demo:base runs/demo:sft",
    "posttrain compare runs/first runs/second --page comparison.html",
    "posttrain compare lab:base runs/demo/artifacts/0123456789abcdef0123456789abcdef --suite lab",
)

SuiteOption = Annotated[
    list[str] | None,
    typer.Option(
        "--suite",
        metavar="NAME",
        help="Measure both on this suite or benchmark, where they were not yet; as of 'posttrain eval'.",
    ),
]
PolicyHelp = "A run, a stage of one (runs/demo:sft), an artifact, evaluations/<hash>, or with --suite any model."


# many parameters: each is an option of the verb
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=PolicyHelp, show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one; differences are B less A.", show_default=False)],
    suite: SuiteOption = None,
    data: DataOption = None,
    task: TaskOption = None,
    rows: RowsOption = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Where evaluations/ lies; a run's folder too.")
    ] = Path(),
    template: TemplateOption = "auto",
    flips: Annotated[int, typer.Option("--flips", metavar="N", min=0, help="Examples lost and gained, a task.")] = 3,
    page: Annotated[Path | None, typer.Option("--page", metavar="FILE", help="Write an HTML page too.")] = None,
    dtype: PrecisionOption = "auto",
    device: DeviceOption = None,
    seed: SeedOption = 0,
    allow_unsafe_execution: UnsafeOption = False,
    json: JsonOption = False,
) -> None:
    """Compare two policies item by item.

    Without --suite what was measured before is compared, by runs or by 'posttrain eval'. A verdict is given where
    the paired test shows a difference at 5 %; the one after Holm's correction over all metrics stands beside it.
    """
    from posttrain.cli.console import build_progress
    from posttrain.cli.output import print_json, print_lines
    from posttrain.cli.stopping import StopFlag
    from posttrain.core.output_paths import check_page
    from posttrain.pipeline.suites import read_suites

    if page is not None:
        check_page(page)
    found = read_suites(suite, data=data, only=task or ()) if suite else None
    given = {
        "--data": data, "--task": task, "--rows": rows, "--template": template != "auto", "--out": out != Path(),
        "--dtype": dtype != "auto", "--device": device, "--seed": seed,
        "--allow-unsafe-execution": allow_unsafe_execution,
    }  # fmt: skip
    if found is None:
        _refuse_options([name for name, value in given.items() if value])
    from posttrain.pipeline.comparing import compare_models  # heavy: a bad suite is refused before
    from posttrain.pipeline.evaluating import EvaluationChoice
    from posttrain.reports.comparison import write_comparison
    from posttrain.reports.comparison_lines import list_comparison_lines

    choice: EvaluationChoice | None = None
    if found is not None:
        choice = EvaluationChoice(
            found, task or (), rows, out, dtype, device, template, seed, allow_unsafe=allow_unsafe_execution
        )
    with StopFlag() as should_stop:
        compared = compare_models((a, b), choice, build_progress(json), should_stop, num_flips=flips)
    if page is not None:
        write_comparison(compared, page)
    if json:
        print_json(compared.to_json())
        return
    print_lines(*list_comparison_lines(compared))
    if page is not None:
        print_lines(f"page: {page}")


def _refuse_options(given: list[str]) -> None:
    """Refuse options that say how to measure where nothing is measured."""
    if given:
        verb = "say" if len(given) > 1 else "says"
        raise typer.BadParameter(f"{', '.join(given)} {verb} how to measure, which is done with --suite alone")
