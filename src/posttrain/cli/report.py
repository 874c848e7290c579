"""`posttrain report`: write the report of a run again, its model card, or two runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.options import JsonOption, show_example

EXAMPLE = show_example(
    "posttrain report runs/demo",
    "posttrain report runs/demo --card",
    "posttrain report runs/first runs/second --page runs.html",
)


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder: runs/<name>.", show_default=False)],
    other: Annotated[
        Path | None, typer.Argument(metavar="[RUN_B]", help="Another run, shown beside it.", show_default=False)
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--page", metavar="FILE", help="Of two runs: where the page is written.")
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="Write the model card, README.md in the run's folder.")] = False,
    json: JsonOption = False,
) -> None:
    """Write the report of a run, finished or not.

    With --card, the model card of the policy that it passed on. With a second run, a page of both side by side.
    """
    from posttrain.cli.output import print_json, print_lines

    if (other is None) != (page is None):
        raise typer.BadParameter("two runs are shown side by side with --page FILE: posttrain report A B --page FILE")
    if other is not None and page is not None:
        if card:
            raise typer.BadParameter("a model card speaks of one run: posttrain report RUN --card")
        from posttrain.core.output_paths import check_page
        from posttrain.reports.run_pair import write_run_pair

        check_page(page)
        written = {"page": write_run_pair((folder, other), page)}
    elif card:
        from posttrain.reports.card import build_run_card

        written = {"card": build_run_card(folder)}
    else:
        from posttrain.reports.page import build_report

        written = {"report": build_report(folder)}
    if json:
        print_json({what: str(path) for what, path in written.items()})
    else:
        print_lines(*(f"{what}: {path}" for what, path in written.items()))
