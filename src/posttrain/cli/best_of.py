"""`posttrain best-of`: what choosing among n answers gives, by several ways of choosing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posttrain.cli.options import (
    CacheOption,
    DeviceOption,
    JsonOption,
    MaxNewTokensOption,
    MaxRowsOption,
    MinPOption,
    ModelArgument,
    PrecisionOption,
    SeedOption,
    StopOption,
    SystemOption,
    TopKOption,
    TopPOption,
    UnsafeOption,
    show_example,
)

if TYPE_CHECKING:
    from posttrain.pipeline.named_scorers import NamedScorer
    from posttrain.reports.selection import SelectionStudy

EXAMPLE = show_example(
    'posttrain best-of lab:base --prompts lab:questions --split held_out --rows 100 --n 32 --gold "{type: lab, value: '
    'gold}" --verifier lab --by "long={type: length, low: 60, high: 1000, slope: 60, unit: words}" --out best_of',
    "posttrain best-of my-model --prompts gsm8k_test.jsonl --rows 200 --n 16 --gold math --out best_of",
)
_NAMED = re.compile(r"([a-z0-9][a-z0-9_-]{0,40})=(.+)", re.DOTALL)
_SCORER = "a name, file.py:name, or a mapping {type: ...}"


# many parameters: each is an option of the verb
def best_of(  # long: its signature lists every option
    model: ModelArgument,
    gold: Annotated[str, typer.Option("--gold", metavar="SCORER", help=f"Who judges what is chosen: {_SCORER}.")],
    prompts: Annotated[
        str, typer.Option("--prompts", metavar="FILE", help="Rows with a prompt: a file, a Hub id, lab:<set>.")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FOLDER", help="Where answers, figures and the page lie; it is gone on with."),
    ],
    split: Annotated[str, typer.Option("--split", help="Which part of --prompts, where it has parts.")] = "train",
    rows: Annotated[
        int | None, typer.Option("--rows", min=1, help="A random choice of so many prompts, the same every time.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=2, help="Answers to each prompt; curves go up to it.")] = 16,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", metavar="[NAME=]SCORER", help="Choose by the largest score; may be given several times."),
    ] = None,
    verifier: Annotated[
        list[str] | None,
        typer.Option("--verifier", metavar="[NAME=]SCORER", help="Choose the first that passes; several times too."),
    ] = None,
    max_new_tokens: MaxNewTokensOption = 256,
    temperature: Annotated[float, typer.Option("--temperature", help="Logits are divided by it, above 0.")] = 1.0,
    top_p: TopPOption = None,
    top_k: TopKOption = None,
    min_p: MinPOption = None,
    seed: SeedOption = 0,
    stop: StopOption = None,
    system: SystemOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="The prompt's text as it is, without a chat template.")] = False,
    dtype: PrecisionOption = "auto",
    device: DeviceOption = None,
    max_rows: MaxRowsOption = None,
    cache_gb: CacheOption = None,
    allow_unsafe_execution: UnsafeOption = False,
    json: JsonOption = False,
) -> None:
    """Show what choosing among n answers gives.

    By a score, a verifier, the vote, at random, and at best. N answers to each prompt are drawn once; every n up to
    N is estimated from all of them without bias, with 95 % intervals over prompts. Beside each value stands the
    measured KL from the policy and its bound. Of a score the page draws its own gains beside gold's: where it goes
    on rising and gold turns, it is over-optimised.
    """
    from posttrain.pipeline.sampling_arguments import SamplingArguments, build_settings

    settings = build_settings(
        SamplingArguments(
            max_new_tokens, temperature, top_p=top_p, top_k=top_k, min_p=min_p, num_samples=n, stop_strings=stop or ()
        )
    )
    from posttrain.cli.console import build_progress  # heavy: bad settings are refused before
    from posttrain.cli.output import print_json
    from posttrain.cli.sample import show_notes
    from posttrain.cli.stopping import StopFlag
    from posttrain.pipeline.named_scorers import build_named_scorer
    from posttrain.pipeline.sample_run import Drawing, choose_prompts, read_problems
    from posttrain.pipeline.selection_study import StudyRequest, study_selection, write_study
    from posttrain.pipeline.talking import ModelChoice, open_talker

    request = StudyRequest(
        model,
        build_named_scorer(gold, place="--gold", allow_unsafe=allow_unsafe_execution),
        out,
        _read_named(by or (), "--by", allow_unsafe=allow_unsafe_execution),
        _read_named(verifier or (), "--verifier", allow_unsafe=allow_unsafe_execution),
    )
    problems = choose_prompts(read_problems((), prompts, system=system, is_raw=raw, split=split), rows)
    with (
        open_talker(ModelChoice(model, dtype, device, raw, max_rows, cache_gb)) as talker,
        StopFlag() as should_stop,
    ):
        show_notes(talker.notes)
        drawing, progress = Drawing(problems, settings, seed), build_progress(json)
        study = study_selection(talker, drawing, request, progress=progress, should_stop=should_stop).study
        page = write_study(study, out)
    if json:
        print_json(study.to_json())
    else:
        show_study(study, page)


def _read_named(given: Sequence[str], place: str, *, allow_unsafe: bool) -> dict[str, NamedScorer]:
    """Return scorers by their names: the one that stands before `=`, else their type."""
    from posttrain.pipeline.named_scorers import build_named_scorer

    found: dict[str, NamedScorer] = {}
    for text in given:
        named = _NAMED.fullmatch(text)
        scorer = build_named_scorer(named[2] if named else text, place=place, allow_unsafe=allow_unsafe)
        name = named[1] if named else scorer.name
        if name in found:
            raise typer.BadParameter(f"{place} names '{name}' twice: give each a name of its own, {place} other={text}")
        found[name] = scorer
    return found


def show_study(study: SelectionStudy, page: Path) -> None:
    """Print the table, what is told of each score, and where the page is."""
    from posttrain.cli.output import print_lines, print_table
    from posttrain.reports.selection import list_rows

    print_table(
        ("way", "n", study.gold, "95 % interval", "gain", "95 % interval", "own score", "KL, nats", "bound"),
        [
            (row.way, row.n, row.value, row.limits, row.gain, row.gain_limits, row.own, row.kl, row.bound)
            for row in list_rows(study)
        ],
    )
    for way in study.ways:
        if way.says:
            print_lines(f"{way.name}: {way.says}." + (f" {way.turn}." if way.turn else ""))
    for note in study.notes:
        print_lines(f"note: {note}")
    print_lines(f"{study.num_problems:,} problems of {study.num_sources:,} sources, {study.num_samples:,} answers each")
    print_lines(f"page: {page}")
