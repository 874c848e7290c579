"""`posttrain verify`: an artifact's files against its manifest, or completions in a file against a scorer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posttrain.cli.options import JsonOption, UnsafeOption, show_example

if TYPE_CHECKING:
    from posttrain.pipeline.verification import Verified

EXAMPLE = show_example(
    "posttrain verify math answers.jsonl",
    "posttrain verify code programs.jsonl --set scoring=fraction --out verdicts.jsonl",
    "posttrain verify facts claims.jsonl --set knowledge_base=world.json",
    "posttrain verify runs/demo/artifacts/0123456789abcdef0123456789abcdef",
)
_SHOWN_CHARACTERS = 160


# many parameters: each is an option of the verb
def verify(
    what: Annotated[
        str,
        typer.Argument(
            metavar="ARTIFACT|SCORER",
            help="An artifact's folder, or a scorer: math, code, facts, instructions, ...",
            show_default=False,
        ),
    ],
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="With a scorer: JSON Lines of completions.", show_default=False),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting of the scorer; may be given several times."),
    ] = None,
    column: Annotated[
        str | None, typer.Option("--column", metavar="NAME", help="The column that holds the completion.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write each row's outcome; what is there is kept.")
    ] = None,
    show: Annotated[int, typer.Option("--show", metavar="N", min=0, help="Rows below the full score to print.")] = 10,
    allow_unsafe_execution: UnsafeOption = False,
    json: JsonOption = False,
) -> None:
    """Check an artifact's files, or judge completions in a file.

    Of an artifact every file is hashed again; a difference is named, and the exit code is 4. Completions are judged
    row by row; the same command goes on with an --out file that was stopped.
    """
    if file is None:
        verify_artifact_folder(what, is_json=json)
        return
    from posttrain.cli.console import build_progress
    from posttrain.cli.output import print_json
    from posttrain.pipeline.overrides import parse_override
    from posttrain.pipeline.scorers import ScorerContext
    from posttrain.pipeline.verification import verify_file

    value: dict[str, Any] = {"type": what}
    for keys, given in map(parse_override, sets or []):
        value[".".join(keys)] = given
    context = ScorerContext(allow_unsafe=allow_unsafe_execution, place=what)
    found = verify_file(file, value, context, build_progress(json), column=column, out=out)
    if json:
        print_json({"metrics": found.metrics, "bad_rows": [[row.place, row.detail] for row in found.bad]})
    else:
        show_outcomes(found, show)


def verify_artifact_folder(what: str, *, is_json: bool) -> None:
    """Hash an artifact's files again."""
    from posttrain.cli.options import refuse_run
    from posttrain.cli.output import print_json, print_lines
    from posttrain.models.manifest import verify_artifact
    from posttrain.pipeline.scorer_settings import SCORERS

    if what in SCORERS and not Path(what).exists():
        raise typer.BadParameter(f"the scorer {what} needs a file of completions: posttrain verify {what} FILE")
    artifact = refuse_run(Path(what))
    manifest = verify_artifact(artifact)
    if is_json:
        print_json({"artifact": str(artifact), "hash": manifest.hash, "files": len(manifest.files)})
    else:
        print_lines(f"{manifest.kind} {manifest.hash}: all {len(manifest.files)} files are as they were written")


def show_outcomes(found: Verified, count: int) -> None:
    """Print the mean with its interval, outcomes by status, and the first rows that fell short, with reasons."""
    from posttrain.cli.output import print_lines, print_table

    figures = found.metrics
    print_lines(
        f"{figures['name']}: {figures['value']:.4g} ({figures['low']:.4g} to {figures['high']:.4g}, "
        f"{figures['method']}, n {figures['n']})"
    )
    counts = ", ".join(f"{name} {count}" for name, count in figures["outcomes"].items() if count)
    print_lines(f"outcomes: {counts}")
    short = [item for item in found.items if item.outcome.value < 1.0 or not item.outcome.is_counted]
    if short[:count]:
        print_table(
            ("row", "status", "value", "why"),
            [
                (item.item_id, item.outcome.status, f"{item.outcome.value:.3g}", item.outcome.why[:_SHOWN_CHARACTERS])
                for item in short[:count]
            ],
        )
    if len(short) > count:
        print_lines(f"and {len(short) - count} more rows below 1; --show N prints more, --out FILE keeps all")
    for row in found.bad[:count]:
        print_lines(f"not a row: {row.place}: {row.detail}")
