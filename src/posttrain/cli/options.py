"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def refuse_run(folder: Path) -> Path:
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


def _refuse_run_folder(model: str) -> str:
    refuse_run(Path(model))
    return model


RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)]
ArtifactArgument = Annotated[
    Path,
    typer.Argument(
        metavar="ARTIFACT",
        help="An artifact's folder: runs/<name>/artifacts/<hash>.",
        callback=refuse_run,
    ),
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A Hub id, a folder in Hugging Face format, an artifact's folder, or lab:base.",
        callback=_refuse_run_folder,
        show_default=False,
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
OverrideOption = Annotated[
    list[str] | None,
    typer.Option(
        "--override",
        metavar="NAME",
        help="Go on although a check was refused: mask, sft:mask, evaluate.TASK:scorer, gate:sft; may be given several "
        "times, and is recorded.",
    ),
]
UnsafeOption = Annotated[
    bool,
    typer.Option(
        "--allow-unsafe-execution", help="Run programs without a sandbox where none passes its check; reports say so."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program, errors too.")]

MaxNewTokensOption = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Most tokens of a completion.")]
TemperatureOption = Annotated[
    float | None, typer.Option("--temperature", help="Logits are divided by it; 1.0 by default, 0 is greedy.")
]
GreedyOption = Annotated[bool, typer.Option("--greedy", help="The most probable token each time.")]
TopPOption = Annotated[
    float | None, typer.Option("--top-p", help="Only the most probable tokens that together reach this probability.")
]
TopKOption = Annotated[int | None, typer.Option("--top-k", help="Only so many most probable tokens.")]
MinPOption = Annotated[
    float | None, typer.Option("--min-p", help="Only tokens with at least this share of the largest probability.")
]
PenaltyOption = Annotated[
    float | None, typer.Option("--repetition-penalty", help="Above 1: tokens that were there become less probable.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Equal seeds draw equal completions.")]
StopOption = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="End before this text; may be given several times."),
]
IgnoreEosOption = Annotated[bool, typer.Option("--ignore-eos", help="Draw on past the model's own stop tokens.")]
SchemaFileOption = Annotated[
    Path | None, typer.Option("--json-schema", metavar="FILE", help="The text is JSON of this schema.")
]
RegexOption = Annotated[
    str | None, typer.Option("--regex", metavar="TEXT", help="The whole text matches this regular expression.")
]
SystemOption = Annotated[
    str | None, typer.Option("--system", metavar="TEXT", help="Instructions that stand before the first message.")
]
PrecisionOption = Annotated[
    str, typer.Option("--dtype", help="bfloat16, float32, or auto: what the weights are stored in.")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda or cuda:<number>; by default the GPU if there is one.")
]
MaxRowsOption = Annotated[
    int | None, typer.Option("--max-rows", min=1, help="Sequences drawn at once; 256 by default.")
]
CacheOption = Annotated[
    float | None,
    typer.Option("--cache-gb", min=0, help="Most gigabytes of keys and values; 4.3 by default."),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FOLDER",
        help="Where the files of published benchmarks lie; by default what POSTTRAIN_DATA names, else the Hub.",
        show_default=False,
    ),
]
TaskOption = Annotated[
    list[str] | None,
    typer.Option("--task", metavar="NAME", help="Only this task of the suite; may be given several times."),
]
RowsOption = Annotated[int | None, typer.Option("--rows", metavar="N", min=1, help="At most so many rows a task.")]
TemplateOption = Annotated[
    str,
    typer.Option("--template", metavar="TEMPLATE", help="auto (the model's own, else plain), plain, or a .jinja file."),
]


def show_example(*lines: str) -> str:
    """Return the end of a verb's help: an example that can be copied."""
    return "\n".join(["Example:\n", "\b", *(f"  {line}" for line in lines)])
