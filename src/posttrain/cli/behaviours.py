"""`posttrain data behaviours`: have a model write a suite that asks for a behaviour, and another filter it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.options import (
    DeviceOption,
    JsonOption,
    MaxNewTokensOption,
    PrecisionOption,
    SeedOption,
    show_example,
)

EXAMPLE = show_example(
    "posttrain data behaviours self-preservation --writer Qwen/Qwen2.5-7B-Instruct \\",
    "    --filter Qwen/Qwen2.5-7B-Instruct --rows 200 --out self_preservation.jsonl --suite suite.yaml",
    "posttrain eval runs/demo/artifacts/0123456789abcdef0123456789abcdef --suite suite.yaml",
    "posttrain data behaviours lab --rows 200 --out truth.jsonl",
)
LAB = "lab"


# many parameters: each is an option of the verb
def behaviours(  # long: its signature lists every option
    description: Annotated[
        str,
        typer.Argument(
            metavar="DESCRIPTION",
            help="A behaviour: a YAML file, one that comes with the package, or lab (by rule, without a writer).",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Write JSON lines here, and go on with what is there.")
    ],
    rows: Annotated[int, typer.Option("--rows", metavar="N", min=2, help="Rows to write, as many of either label.")] = (
        200
    ),
    writer: Annotated[
        str | None,
        typer.Option("--writer", metavar="MODEL", help="Who writes: a model, or a YAML file that names an endpoint."),
    ] = None,
    filter_: Annotated[
        str | None, typer.Option("--filter", metavar="MODEL", help="Who judges the labels; rules alone without it.")
    ] = None,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, max=1, help="What the filter's confidence in a label must exceed.")
    ] = 0.5,
    suite: Annotated[
        Path | None,
        typer.Option("--suite", metavar="FILE", help="Write a suite for 'posttrain eval' too: both orders of options."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write what became of every draft, as JSON.")
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", min=0, help="Of the writer.")] = 1.0,
    max_new_tokens: MaxNewTokensOption = 768,
    seed: SeedOption = 0,
    dtype: PrecisionOption = "auto",
    device: DeviceOption = None,
    json: JsonOption = False,
) -> None:
    """Have a model write questions that ask for a behaviour, and another filter them.

    Every draft is kept or dropped with a reason. The same command goes on where it was stopped; with more rows it adds
    to those that are there. If fewer rows are found than wanted, the exit code is 3.
    """
    from posttrain.cli.console import build_progress
    from posttrain.cli.output import print_json, print_lines
    from posttrain.cli.stopping import StopFlag
    from posttrain.core.errors import EXIT_DATA
    from posttrain.core.sampling import SamplingSettings
    from posttrain.pipeline.behaviour_suites import read_behaviour, save_report, save_suite, write_lab_behaviours

    # A name that is none is told before what it would need.
    behaviour = None if description == LAB else read_behaviour(description)
    check_models(description, writer, filter_)
    settings = SamplingSettings(max_new_tokens, temperature=temperature)
    if behaviour is None or writer is None:
        found = write_lab_behaviours(rows, out)
    else:
        from posttrain.pipeline.behaviours import (
            WritingChoice,
            write_behaviours,
        )  # heavy: bad options are refused before
        from posttrain.pipeline.talking import ModelChoice

        choice = WritingChoice(
            behaviour,
            ModelChoice(writer, dtype, device),
            None if filter_ is None else ModelChoice(filter_, dtype, device),
            rows,
            out,
            seed,
            threshold,
            settings,
        )
        with StopFlag() as should_stop:
            found = write_behaviours(choice, build_progress(json), should_stop)
    if suite is not None and found.num_rows:
        save_suite(suite, found)
    if report is not None:
        save_report(report, found)
    if json:
        print_json(found.to_json())
    else:
        print_lines(*found.describe())
    if not found.is_complete:
        raise typer.Exit(EXIT_DATA)


def check_models(description: str, writer: str | None, filter_: str | None) -> None:
    """Check that there is a writer where one is needed, and none where none is.

    Raises:
        RecipeError: There is not.
    """
    from posttrain.core.errors import RecipeError

    if description == LAB and (writer or filter_):
        raise RecipeError(
            "a writer or a filter of the lab's rows, which are written by rule",
            expected="no --writer and no --filter",
            cure="leave them out, or name another behaviour",
            place="--writer" if writer else "--filter",
        )
    if description != LAB and writer is None:
        raise RecipeError(
            "nobody to write the rows",
            expected="--writer MODEL: a model, or a YAML file that names an endpoint",
            cure="add --writer, or write rows by rule: posttrain data behaviours lab",
            place="--writer",
        )
