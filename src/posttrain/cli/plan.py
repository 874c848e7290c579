"""`posttrain plan`: say what a run would do, and do nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from posttrain.cli.options import FolderOption, JsonOption, RecipeArgument, SetOption, show_example

if TYPE_CHECKING:
    from posttrain.pipeline.plan import Plan, PlannedStage

EXAMPLE = show_example("posttrain plan recipes/demo.yaml", "posttrain plan recipes/demo.yaml --set seed=3 --json")
COLUMNS = ("stage", "type", "status", "steps", "tokens", "learning rate", "memory", "time", "why")


def print_schema(is_asked: bool) -> None:
    """Print the JSON Schema of a recipe and end the command, if it was asked for."""
    if is_asked:
        from posttrain.cli.output import print_json
        from posttrain.pipeline.recipe_schema import build_recipe_schema

        print_json(build_recipe_schema())
        raise typer.Exit


SchemaOption = Annotated[
    bool,
    typer.Option("--schema", is_eager=True, callback=print_schema, help="Print a recipe's JSON Schema (for editors)."),
]


def plan(
    recipe: RecipeArgument,
    set_: SetOption = None,
    folder: FolderOption = None,
    json: JsonOption = False,
    schema: SchemaOption = False,
) -> None:
    """Say what a run would do; nothing is trained.

    Shown are stages, steps, tokens, learning rates, memory and time. Data is read and tokenized (once: a
    run reads the same cache); plug-ins are hashed and not imported.
    """
    from posttrain.cli.output import print_json, print_lines, print_table
    from posttrain.core.collector import paused_collector
    from posttrain.pipeline.recipe import read_recipe

    del schema  # answered before this function is called
    read = read_recipe(recipe, set_ or (), folder=folder)
    with paused_collector():
        from posttrain.pipeline.plan import build_plan  # heavy: a bad recipe is refused before it is imported

    built = build_plan(read)
    if json:
        print_json(built.to_json())
        return
    print_lines(f"{read.name}: {read.model.source}, seed {read.seed}, into {read.folder}")
    print_table(COLUMNS, describe_stages(built))
    print_lines(f"plan {built.plan_hash}, recipe {built.recipe_hash}")


def describe_stages(plan: Plan) -> list[list[str]]:
    """Return the cells of the plan's table, one row a stage; what is not known beforehand is a dash."""
    return [
        [
            f"{stage.name} (round {stage.round})" if stage.round > 1 else stage.name,
            stage.type,
            stage.status,
            _format(stage.steps, "{:,}"),
            _format(stage.tokens, "{:,}"),
            format_learning_rates(stage.learning_rates),
            format_bytes(stage.memory_bytes),
            format_seconds(stage.seconds),
            describe_why(stage),
        ]
        for stage in plan.stages
    ]


def describe_why(stage: PlannedStage) -> str:
    """Return why a stage runs or does not, with what a study would draw and ask."""
    if stage.answers is None or stage.verdicts is None:
        return stage.why
    return f"{stage.why}; {stage.answers:,} answers, {stage.verdicts:,} verdicts"


def _format(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def format_learning_rates(rates: Sequence[float] | None) -> str:
    """Return the learning rates at the beginning, the middle and the end: `1e-05, 0.0005, 0`."""
    return ", ".join(f"{rate:.3g}" for rate in rates) if rates else "-"


def format_bytes(size: float | None) -> str:
    """Return a size in the unit that a person reads: `1.8 GB` (powers of 1000)."""
    if size is None:
        return "-"
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def format_seconds(seconds: float | None) -> str:
    """Return an estimate of a duration: `about 2:05 min`."""
    from posttrain.cli.console import format_duration

    return "-" if seconds is None else f"about {format_duration(seconds)}"
