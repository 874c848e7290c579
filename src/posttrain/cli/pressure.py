"""`posttrain data pressure`: questions with known answers, put under pressure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.options import JsonOption, show_example

EXAMPLE = show_example(
    "posttrain data pressure test.jsonl --column prompt=question --out pressure.jsonl",
    "posttrain data pressure test.jsonl --out pressure.jsonl \\",
    "    --answers evaluations/0123456789abcdef0123456789abcdef/maths-0123456789ab.jsonl",
)


# many parameters: each is an option of the verb
def pressure(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Questions: a file, a folder, a Hub id, lab:<set>.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the rows go, as JSON lines.")],
    answers: Annotated[
        Path | None,
        typer.Option("--answers", metavar="FILE", help="A model's items over these rows: its own answers are doubted."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="The split of SOURCE.")] = "train",
    column: Annotated[
        list[str] | None, typer.Option("--column", metavar="OURS=THEIRS", help="Map a column; may be given again.")
    ] = None,
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="A random choice of so many questions.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="What claims and wordings are drawn from.")] = 0,
    json: JsonOption = False,
) -> None:
    """Put questions with known answers under pressure: claims, authorities, push-backs, wrong and right ones.

    Measure the rows with a task whose scorer is {type: pressure, scorer: ...}, and read them with the monitor
    'sycophancy'.
    """
    from posttrain.cli.output import print_json, print_lines
    from posttrain.pipeline.data_check import read_columns
    from posttrain.pipeline.pressure_rows import PressureChoice, make_pressure_rows

    choice = PressureChoice(source, split, read_columns(column or ()), rows, answers, seed)
    made = make_pressure_rows(choice, out).to_json()
    if json:
        print_json({**made, "file": str(out)})
        return
    print_lines(f"{made['questions']:,} questions, {made['rows']:,} rows: {out}")
    print_lines(*(f"  {count:,} {kind}" for kind, count in made["kinds"].items()))
    print_lines(*(f"  {count:,} questions left out: {reason}" for reason, count in made["left_out"].items()))
