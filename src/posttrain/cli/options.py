"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)]
ArtifactArgument = Annotated[
    Path, typer.Argument(metavar="ARTIFACT", help="An artifact's folder: runs/<name>/artifacts/<hash>.")
]
OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; it must not exist yet.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe; may be given several times."),
]
FolderOption = Annotated[
    Path | None, typer.Option("--folder", metavar="FOLDER", help="The run folder, in place of the recipe's own.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program, errors too.")]


def show_example(*lines: str) -> str:
    """Return the end of a verb's help: an example that can be copied."""
    return "\n".join(["Example:\n", "\b", *(f"  {line}" for line in lines)])
