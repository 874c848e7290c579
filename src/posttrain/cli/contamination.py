"""`posttrain data contamination`: whether evaluation items occur in training data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posttrain.cli.options import JsonOption, show_example

if TYPE_CHECKING:
    from posttrain.pipeline.contamination import ContaminationCheck

EXAMPLE = show_example(
    "posttrain data contamination chats.jsonl --against test.jsonl",
    "posttrain data contamination train.jsonl.gz --column prompt=question --column completion=answer \\",
    "    --against test.jsonl --against-column prompt=question --out contamination.json",
)
ColumnOption = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="OURS=THEIRS", help="Map a column of TRAIN; may be given again."),
]
AgainstColumnOption = Annotated[
    list[str] | None,
    typer.Option("--against-column", metavar="OURS=THEIRS", help="Map a column of EVAL; may be given again."),
]

NearOption = Annotated[
    float, typer.Option("--near", help="Share of an item's pairs of words that a reworded one keeps.")
]


# many parameters: each is an option of the verb
def contamination(
    train: Annotated[
        list[str],
        typer.Argument(
            metavar="TRAIN...", help="Training rows: files, folders, Hub ids, lab:<set>.", show_default=False
        ),
    ],
    against: Annotated[
        list[str],
        typer.Option(
            "--against", metavar="EVAL", help="Evaluation items, from the same kinds of source; again for more."
        ),
    ],
    split: Annotated[str, typer.Option("--split", help="The split of TRAIN.")] = "train",
    against_split: Annotated[str, typer.Option("--against-split", help="The split of EVAL.")] = "train",
    column: ColumnOption = None,
    against_column: AgainstColumnOption = None,
    ngram: Annotated[int, typer.Option("--ngram", help="Words of an n-gram.")] = 8,
    threshold: Annotated[
        float, typer.Option("--threshold", help="Share of an item's words that n-grams of one row must cover.")
    ] = 0.5,
    near: NearOption = 0.5,
    min_words: Annotated[int, typer.Option("--min-words", help="Fewer words are too short to tell.")] = 5,
    boilerplate_fraction: Annotated[
        float, typer.Option("--boilerplate-fraction", help="N-grams that a larger share of EVAL has do not count.")
    ] = 0.01,
    max_bad_fraction: Annotated[
        float, typer.Option("--max-bad-fraction", min=0, max=1, help="Share of TRAIN's rows that may be unreadable.")
    ] = 0.0,
    show: Annotated[int, typer.Option("--show", metavar="N", min=0, help="Contaminated items to print.")] = 10,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write all findings, as JSON.")] = None,
    json: JsonOption = False,
) -> None:
    """Check that no evaluation item occurs in training data.

    Questions, answers and content keys are looked for in every message. If an item is found, the exit code is 8.
    """
    from posttrain.cli.console import build_progress
    from posttrain.cli.output import print_json
    from posttrain.core.durable import write_json
    from posttrain.core.errors import EXIT_REFUSED
    from posttrain.pipeline.contamination import RowsChoice, check_contamination
    from posttrain.pipeline.data_check import read_columns

    values = (ngram, threshold, min_words, boilerplate_fraction, near)
    settings = dict(zip(("ngram", "threshold", "min_words", "boilerplate_fraction", "near"), values, strict=True))
    found = check_contamination(
        RowsChoice(train, split, read_columns(column or ()), max_bad_fraction),
        RowsChoice(against, against_split, read_columns(against_column or ())),
        settings,
        build_progress(json),
    )
    if out is not None:
        write_json(out, found.to_json())
    if json:
        print_json(found.to_json())
    else:
        show_findings(found, show)
    if not found.report.clean:
        raise typer.Exit(EXIT_REFUSED)


def show_findings(found: ContaminationCheck, count: int) -> None:
    """Print the verdict, how many items each kind of match found, and the first items with their passages."""
    from posttrain.cli.output import print_lines, print_table

    items = found.report.items
    print_lines(*found.describe())
    print_table(("kind", "items searched", "contaminated"), found.tabulate_kinds())
    if items[:count]:
        print_lines("")
        print_table(("item", "kinds", "covered", "row", "passage"), found.tabulate_items(count))
    if len(items) > count:
        print_lines(f"and {len(items) - count:,} more items; --show N prints more, --out FILE keeps all")
