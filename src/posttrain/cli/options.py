"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _refuse_run(folder: Path) -> Path:
    """Return the folder, unless it is that of a whole run, which holds artifacts and is none.

    Raises:
        ModelError: It is; the cure names the artifacts in it.
    """
    from posttrain.core.errors import ModelError
    from posttrain.core.run_folder import ARTIFACT_MANIFEST, RunFolder

    run = RunFolder(folder)
    if run.run_json.is_file() and not (folder / ARTIFACT_MANIFEST).exists():
        found = sorted(str(path.parent) for path in run.artifacts.glob(f"*/{ARTIFACT_MANIFEST}"))
        raise ModelError(
            "this is the folder of a run, not of an artifact",
            expected="the folder of one artifact",
            cure=f"name one of {', '.join(found)}" if found else "no stage of it is finished: go on with the run",
            place=str(folder),
        )
    return folder


RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)]
ArtifactArgument = Annotated[
    Path,
    typer.Argument(
        metavar="ARTIFACT",
        help="An artifact's folder: runs/<name>/artifacts/<hash>.",
        callback=_refuse_run,
    ),
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
