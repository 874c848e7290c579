"""`posttrain lab`: the embedded world; its rows, its base model, and what a model can do in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.options import FolderOption, JsonOption, ModelArgument, OutArgument, SetOption, show_example

BUILD_EXAMPLE = show_example(
    "posttrain lab build my-base", "posttrain lab build small --set pretrain.data.0.rows=20000"
)
CARD_EXAMPLE = show_example("posttrain lab card lab:base --prose", "posttrain lab card runs/demo/artifacts/<hash>")
SHOW_EXAMPLE = show_example("posttrain lab show arithmetic --split held_out --rows 5", "posttrain lab show")
EXPORT_EXAMPLE = show_example("posttrain lab export my-lab")
QuestionsOption = Annotated[int, typer.Option("--questions", min=1, help="Questions of each skill.")]
SamplesOption = Annotated[int, typer.Option("--samples", min=1, help="Samples of each question.")]


# many parameters: each is an option of the verb
def build(
    out: OutArgument,
    set_: SetOption = None,
    folder: FolderOption = None,
    questions: QuestionsOption = 24,
    samples: SamplesOption = 64,
    json: JsonOption = False,
) -> None:
    """Pretrain the lab's base model and write it with its card.

    Takes an hour or two on two cores; stopped at any time, the same command goes on where it stood.
    """
    from posttrain.cli.console import build_progress
    from posttrain.cli.output import print_json, print_lines
    from posttrain.cli.stopping import StopFlag
    from posttrain.pipeline.lab_build import build_lab_base, format_base_card
    from posttrain.pipeline.lab_card import CardSettings

    with StopFlag() as should_stop:
        built = build_lab_base(
            out,
            set_ or (),
            folder=folder,
            progress=build_progress(json),
            should_stop=should_stop,
            settings=CardSettings(prose=True, num_questions=questions, num_samples=samples),
        )
    if json:
        print_json({"folder": str(built.folder), **built.card})
    else:
        print_lines(format_base_card(built.card), f"written: {built.folder}")


# many parameters: each is an option of the verb
def card(
    model: ModelArgument,
    prose: Annotated[bool, typer.Option("--prose", help="Ask as the corpus asks: for bases.")] = False,
    split: Annotated[str, typer.Option("--split", help="Where questions come from.")] = "held_out",
    questions: QuestionsOption = 24,
    samples: SamplesOption = 64,
    json: JsonOption = False,
) -> None:
    """Measure what a model can do in the lab: pass@1, 8 and 64 of every skill, safety, sycophancy, style."""
    from posttrain.cli.console import build_progress
    from posttrain.cli.output import print_json, print_lines
    from posttrain.pipeline.lab_card import CardSettings, format_card, measure_card

    settings = CardSettings(prose=prose, split=split, num_questions=questions, num_samples=samples)
    found = measure_card(model, settings, build_progress(json))
    if json:
        print_json(found)
    else:
        print_lines(format_card(found))


def show(
    name: Annotated[str | None, typer.Argument(metavar="[SET]", help="Which set; without one, all are listed.")] = None,
    split: Annotated[str, typer.Option("--split", help="Which split.")] = "train",
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many rows.")] = 3,
    json: JsonOption = False,
) -> None:
    """List the lab's sets, or show rows of one."""
    import itertools
    from json import dumps

    from posttrain.cli.output import print_json, print_lines
    from posttrain.lab.source import ROW_SETS, lab_rows

    if name is None:
        sets = {f"lab:{key}": {"about": each.about, "rows": each.num_rows} for key, each in ROW_SETS.items()}
        if json:
            print_json(sets)
        else:
            print_lines(*(f"{key:20} {each['about']} ({', '.join(each['rows'])})" for key, each in sets.items()))
        return
    found = list(itertools.islice(lab_rows(name.removeprefix("lab:"), split), rows))
    if json:
        print_json({"rows": found})
    else:
        print_lines(*(dumps(row, indent=1, ensure_ascii=False) for row in found))


def export(out: OutArgument, json: JsonOption = False) -> None:
    """Write the world's knowledge base and every set but the corpus as files.

    One JSON Lines file a set and split, for other tools.
    """
    from posttrain.cli.console import build_progress
    from posttrain.cli.output import print_json, print_lines
    from posttrain.pipeline.lab_export import export_lab

    written = export_lab(Path(out), build_progress(json))
    if json:
        print_json({"folder": str(out), "rows": written})
    else:
        print_lines(f"written: {out} ({len(written)} files, {sum(written.values()):,} rows)")
