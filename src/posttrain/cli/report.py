"""`posttrain report`: write the report of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.options import JsonOption, show_example

EXAMPLE = show_example("posttrain report runs/demo")


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder: runs/<name>.", show_default=False)],
    json: JsonOption = False,
) -> None:
    """Write the report of a run, finished or not."""
    from posttrain.cli.output import print_json, print_lines
    from posttrain.reports.page import build_report

    page = build_report(folder)
    if json:
        print_json({"report": str(page)})
    else:
        print_lines(f"report: {page}")
