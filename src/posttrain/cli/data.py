"""`posttrain data show` and `posttrain data check`: look at rows as they are trained on, and check files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from posttrain.cli.options import JsonOption, RecipeArgument, SetOption, show_example

if TYPE_CHECKING:
    from rich.text import Text

SHOW_EXAMPLE = show_example("posttrain data show recipes/demo.yaml --rows 3 --stage sft")
CHECK_EXAMPLE = show_example(
    "posttrain data check chats.jsonl",
    "posttrain data check pairs.parquet --column prompt=question --column completion=answer",
)
LEGEND = "one token between two bars; trained on between « and »"


def show(
    recipe: RecipeArgument,
    rows: Annotated[int, typer.Option("--rows", min=1, max=1000, help="How many rows to show.")] = 3,
    stage: Annotated[str | None, typer.Option("--stage", help="Whose rows; the first stage by default.")] = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Show rows token by token, and what is trained on."""
    import sys

    from posttrain.cli.output import print_json, print_lines
    from posttrain.core.collector import paused_collector
    from posttrain.pipeline.recipe import read_recipe

    read = read_recipe(recipe, set_ or ())
    entry = read.find_stage(stage)
    with paused_collector():
        from posttrain.pipeline.previews import preview_rows  # heavy: a bad recipe is refused before it is imported

    found = preview_rows(read, entry.name, rows)
    if json:
        print_json({"rows": found})
        return
    is_terminal = sys.stdout.isatty()
    if not is_terminal:
        print_lines(LEGEND)
    for row in found:
        num_trained = sum(bool(token[3]) for token in row["tokens"])
        print_lines("", f"{row['row_id']}: {len(row['tokens']):,} tokens, {num_trained:,} trained on")
        if is_terminal:
            from rich.console import Console

            Console(highlight=False).print(colour_tokens(row["tokens"]), soft_wrap=True)
        else:
            print_lines(mark_tokens(row["tokens"]))


def mark_tokens(tokens: list[list[Any]]) -> str:
    """Return a row as plain text: `|user|:| Hi|«| Yo|</s>|»|`, with hidden characters written out."""
    from posttrain.reports.visible_text import show_hidden

    parts = ["|"]
    was_trained = False
    for text, _, _, trained in [*tokens, ["", 0, 0, False]]:
        if bool(trained) != was_trained:
            parts.append("«|" if trained else "»|")
            was_trained = bool(trained)
        parts.append(show_hidden(text) + "|" if text else "")
    return "".join(parts)


def colour_tokens(tokens: list[list[Any]]) -> Text:
    """Return a row for a terminal: trained tokens on green, in two shades so that each is seen; the rest dim."""
    from rich.text import Text

    from posttrain.reports.visible_text import show_hidden

    shown = Text()
    for index, (text, _, _, trained) in enumerate(tokens):
        shades = ("black on green", "black on bright_green") if trained else ("dim", "dim underline")
        shown.append(show_hidden(text), style=shades[index % 2])
    return shown


def check(
    source: Annotated[str, typer.Argument(metavar="FILE", help="A file of rows, or a folder saved by datasets.")],
    format: Annotated[str, typer.Option("--format", help="How the rows are written; found out by default.")] = "auto",
    column: Annotated[
        list[str] | None, typer.Option("--column", metavar="OURS=THEIRS", help="Map a column; may be given again.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="The split of a folder of datasets.")] = "train",
    json: JsonOption = False,
) -> None:
    """Check every row of a data file.

    Rows are counted by type, and by the reason why they cannot be used; if one cannot, the exit code is 3.
    """
    from posttrain.cli.output import print_json, print_lines
    from posttrain.core.errors import EXIT_DATA
    from posttrain.pipeline.data_check import check_data, read_columns

    found = check_data(source, format=format, columns=read_columns(column or ()), split=split)
    if json:
        print_json(found.to_json())
    else:
        print_lines(*found.describe())
    if found.ledger.rows_bad:
        raise typer.Exit(EXIT_DATA)
