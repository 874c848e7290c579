"""`posttrain sample`: draw completions of prompts from a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posttrain.cli.options import (
    CacheOption,
    DeviceOption,
    GreedyOption,
    IgnoreEosOption,
    JsonOption,
    MaxNewTokensOption,
    MaxRowsOption,
    MinPOption,
    ModelArgument,
    PenaltyOption,
    PrecisionOption,
    RegexOption,
    SchemaFileOption,
    SeedOption,
    StopOption,
    SystemOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    UnsafeOption,
    show_example,
)

if TYPE_CHECKING:
    from posttrain.core.records import Completion, Problem
    from posttrain.pipeline.chosen_rows import ChoosingRequest
    from posttrain.pipeline.sample_run import Drawing
    from posttrain.pipeline.talking import Talker


class ByName(StrEnum):
    """The rules of `samplers.best_of_n.By`, as they are typed."""

    SCORE = "score"
    VERIFIER = "verifier"
    MAJORITY = "majority"


class RejectedName(StrEnum):
    """What a chosen answer is paired with."""

    WORST = "worst"
    RANDOM = "random"


EXAMPLE = show_example(
    'posttrain sample Qwen/Qwen2.5-0.5B-Instruct --prompt "Name three birds."',
    "posttrain sample my-model --prompts questions.jsonl --n 8 --out answers.jsonl",
    "posttrain sample my-model --prompts questions.jsonl --best-of 8 --scorer math --by verifier --out rows.jsonl",
    "posttrain sample lab:base --prompts lab:questions --best-of 8 --scorer lab --rejected worst --out pairs.jsonl",
)


# many parameters: each is an option of the verb
def sample(  # long: its signature lists every option
    model: ModelArgument,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", metavar="TEXT", help="What to answer; may be given several times.")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option("--prompts", metavar="FILE", help="Rows with a prompt: a file, a Hub id, lab:<set>.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write JSON lines here, and go on with what is there.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Completions of each prompt.")] = 1,
    max_new_tokens: MaxNewTokensOption = 256,
    temperature: TemperatureOption = None,
    greedy: GreedyOption = False,
    top_p: TopPOption = None,
    top_k: TopKOption = None,
    min_p: MinPOption = None,
    repetition_penalty: PenaltyOption = None,
    seed: SeedOption = 0,
    stop: StopOption = None,
    ignore_eos: IgnoreEosOption = False,
    logprobs: Annotated[
        int, typer.Option("--logprobs", metavar="K", min=0, help="With --out or --json: K top tokens at each position.")
    ] = 0,
    json_schema: SchemaFileOption = None,
    regex: RegexOption = None,
    system: SystemOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="The prompt's text as it is, without a chat template.")] = False,
    dtype: PrecisionOption = "auto",
    device: DeviceOption = None,
    max_rows: MaxRowsOption = None,
    cache_gb: CacheOption = None,
    split: Annotated[str, typer.Option("--split", help="Which part of --prompts, where it has parts.")] = "train",
    rows: Annotated[
        int | None, typer.Option("--rows", min=1, help="A random choice of so many prompts, the same every time.")
    ] = None,
    best_of: Annotated[
        int | None,
        typer.Option("--best-of", metavar="N", min=1, help="Draw N and write the one that --scorer chooses."),
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option("--scorer", help="With --best-of: who judges, a name, file.py:name, or a mapping {type: ...}."),
    ] = None,
    by: Annotated[
        ByName, typer.Option("--by", help="With --best-of: the largest score, the first that passes, or the vote.")
    ] = ByName.SCORE,
    rejected: Annotated[
        RejectedName | None,
        typer.Option("--rejected", help="With --best-of: write pairs, of the chosen answer and a worse one."),
    ] = None,
    allow_unsafe_execution: UnsafeOption = False,
    json: JsonOption = False,
) -> None:
    """Draw completions of prompts from a model.

    One completion of one prompt is shown while it is drawn. With --out, completions are written as they
    finish; the same command goes on with a file that was stopped.

    With --best-of the file holds training rows: prompt and chosen completion, or with --rejected pairs. What gives no
    row (cut off, none passes, no answer that is worse) is counted, and kept in a file beside it.
    """
    check_choosing(best_of, scorer, out, {"--by": by != ByName.SCORE, "--rejected": rejected, "--scorer": scorer})
    from posttrain.pipeline.sampling_arguments import SamplingArguments, build_settings

    settings = build_settings(
        SamplingArguments(
            max_new_tokens, temperature, greedy, top_p, top_k, min_p, repetition_penalty, n, stop or (), ignore_eos,
            logprobs, json_schema, regex,
        )
    )  # fmt: skip
    from posttrain.pipeline.sample_run import (
        Drawing,
        choose_prompts,
        read_problems,
    )  # heavy: bad settings are refused before
    from posttrain.pipeline.talking import ModelChoice, open_talker

    problems = choose_prompts(read_problems(prompt or (), prompts, system=system, is_raw=raw, split=split), rows)
    drawing = Drawing(problems, settings, seed)
    request: ChoosingRequest | None = None
    if best_of is not None and scorer is not None:
        request = build_request(best_of, scorer, by, rejected, is_raw=raw, allow_unsafe=allow_unsafe_execution)
    with open_talker(ModelChoice(model, dtype, device, raw, max_rows, cache_gb)) as talker:
        show_notes(talker.notes)
        if request is not None and out is not None:
            write_rows(talker, drawing, request, out, is_json=json)
        elif out is not None:
            write_file(talker, drawing, out, is_json=json)
        elif json:
            print_completions(talker, drawing)
        else:
            show_completions(talker, drawing)


def check_choosing(best_of: int | None, scorer: str | None, out: Path | None, given: Mapping[str, object]) -> None:
    """Refuse options of choosing without --best-of, and --best-of without a scorer and a file."""
    names = [name for name, value in given.items() if value]
    if best_of is None and names:
        raise typer.BadParameter(f"{names[0]} says how to choose, which is done with --best-of N alone")
    if best_of is not None and scorer is None:
        raise typer.BadParameter("--best-of needs --scorer, which says what is best: --scorer math")
    if best_of is not None and out is None:
        raise typer.BadParameter("--best-of writes training rows: name their file with --out")


# many parameters: each is an option of the verb
def build_request(
    best_of: int, scorer: str, by: ByName, rejected: RejectedName | None, *, is_raw: bool, allow_unsafe: bool
) -> ChoosingRequest:
    """Return how rows are chosen."""
    from posttrain.pipeline.chosen_rows import ChoosingRequest
    from posttrain.pipeline.named_scorers import build_named_scorer

    judge = build_named_scorer(scorer, place="--scorer", allow_unsafe=allow_unsafe)
    return ChoosingRequest(best_of, judge, by.value, None if rejected is None else rejected.value, is_raw)


def write_rows(talker: Talker, drawing: Drawing, request: ChoosingRequest, out: Path, *, is_json: bool) -> None:
    """Write the rows of chosen answers into a file, or those that it lacks."""
    from dataclasses import asdict

    from posttrain.cli.console import build_progress
    from posttrain.cli.output import print_json, print_lines
    from posttrain.cli.stopping import StopFlag
    from posttrain.pipeline.chosen_rows import write_chosen

    with StopFlag() as should_stop:
        made = write_chosen(talker, drawing, request, out, progress=build_progress(is_json), should_stop=should_stop)
    if is_json:
        print_json(asdict(made))
        return
    print_lines(f"rows: {out} ({made.rows:,}; {made.drawn:,} candidates were drawn now)")
    if made.mean_chosen is not None:
        print_lines(f"by {request.by}: chosen {made.mean_chosen:.4g}, all candidates {made.mean_drawn:.4g} in the mean")
    for reason, count in made.left_out.items():
        print_lines(f"left out: {reason} {count:,}")


def show_notes(notes: Sequence[str]) -> None:
    """Print notes to standard error, so that standard output holds completions alone."""
    import sys

    from posttrain.cli.output import print_lines

    print_lines(*(f"note: {note}" for note in notes), file=sys.stderr)


def write_file(talker: Talker, drawing: Drawing, out: Path, *, is_json: bool) -> None:
    """Write completions into a file, or those that it lacks."""
    from dataclasses import asdict

    from posttrain.cli.console import build_progress
    from posttrain.cli.output import print_json, print_lines
    from posttrain.cli.stopping import StopFlag
    from posttrain.pipeline.sample_run import write_completions

    with StopFlag() as should_stop:
        summary = write_completions(talker, drawing, out, progress=build_progress(is_json), should_stop=should_stop)
    if is_json:
        print_json(asdict(summary))
    else:
        print_lines(f"completions: {out} ({summary.completions:,}, of which {summary.drawn:,} were drawn now)")


def print_completions(talker: Talker, drawing: Drawing) -> None:
    """Print all completions as one JSON value."""
    from posttrain.cli.output import print_json
    from posttrain.pipeline.sample_run import describe_completion, draw_completions, identify_drawing, in_order

    found = [describe_completion(*pair) for pair in in_order(drawing, draw_completions(talker, drawing))]
    print_json({**identify_drawing(talker, drawing), "completions": found})


def show_completions(talker: Talker, drawing: Drawing) -> None:
    """Print texts: one alone, on a terminal while it is drawn; of several, each below a line that names it."""
    import sys

    from posttrain.cli.output import print_lines
    from posttrain.pipeline.sample_run import draw_completions, in_order

    if drawing.num_completions > 1:
        for problem, completion in in_order(drawing, draw_completions(talker, drawing)):
            print_lines(name_completion(problem, completion), completion.text, "")
            sys.stdout.flush()
    elif sys.stdout.isatty():
        stream_completion(talker, drawing)
    else:
        [(_, completion)] = draw_completions(talker, drawing)
        print_lines(completion.text)


def stream_completion(talker: Talker, drawing: Drawing) -> None:
    """Show one completion while it is drawn, and say if it was cut."""
    import sys

    from posttrain.cli.output import print_lines, print_piece

    [problem] = drawing.problems
    completion = talker.answer(problem, drawing.settings, drawing.seed_of(problem), print_piece)
    print_lines("")
    if completion.finish_reason == "length":
        print_lines(f"(cut after {len(completion.ids):,} tokens)", file=sys.stderr)


def name_completion(problem: Problem, completion: Completion) -> str:
    """Return the line above a completion: `== prompt:1, sample 0: 23 tokens, stop`."""
    length = f"{len(completion.ids):,} tokens, {completion.finish_reason}"
    return f"== {problem.problem_id}, sample {completion.sample_index}: {length}"
