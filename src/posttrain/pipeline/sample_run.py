"""Completions of many prompts: what is asked, what is drawn, and what a line of the file says."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posttrain.core.config import parse_config
from posttrain.core.errors import RecipeError
from posttrain.core.hashing import finite_or_none, hash_json
from posttrain.core.protocols import Progress
from posttrain.core.records import Completion, Message, Problem
from posttrain.core.sampling import SamplingSettings
from posttrain.core.seeds import derive_seed
from posttrain.data.examples import load_examples
from posttrain.data.sources import DataSource
from posttrain.evaluation.runner import choose_problems
from posttrain.lab.source import lab_rows
from posttrain.pipeline.completion_file import CompletionFile
from posttrain.pipeline.stoppable import check_stop
from posttrain.pipeline.talking import Talker
from posttrain.pipeline.task_rows import build_problem

_REPORT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is asked of a model: problems, settings and a seed. Made by `read_problems`' callers, read here.

    With `at_once` so many problems are drawn together, or none of them: whenever the drawing is stopped, it goes on to
    the same bytes in every precision. None: whatever is missing is drawn together.
    """

    problems: Sequence[Problem]
    settings: SamplingSettings
    seed: int
    at_once: int | None = None

    @property
    def num_completions(self) -> int:
        """How many completions are asked for."""
        return len(self.problems) * self.settings.num_samples

    def list_parts(self, is_missing: Callable[[Problem], bool]) -> list[Sequence[Problem]]:
        """Return the problems that are to be drawn together, for all that are missing."""
        if self.at_once is None:
            return [missing] if (missing := list(filter(is_missing, self.problems))) else []
        starts = range(0, len(self.problems), self.at_once)
        parts = [self.problems[start : start + self.at_once] for start in starts]
        return [part for part in parts if any(map(is_missing, part))]

    def seed_of(self, problem: Problem) -> int:
        """Return the seed of a problem: by its id, so that what stands beside it changes nothing."""
        return derive_seed(self.seed, "prompt", problem.problem_id)


@dataclass(frozen=True, slots=True)
class SampleSummary:
    """What `write_completions` did; printed by the command line."""

    out: str
    policy_hash: str
    completions: int
    drawn: int
    tokens: int
    seconds: float


# many parameters: what is asked, in which words, and of which rows
def read_problems(
    prompts: Sequence[str],
    source: str | None,
    *,
    system: str | None,
    is_raw: bool,
    split: str = "train",
) -> list[Problem]:
    """Return texts and a file's rows as problems, in this order.

    Args:
        prompts: What a user says, one text a problem.
        source: Rows with a prompt: a file, from the current folder, a Hub id, or `lab:<set>`.
        system: Instructions put before every prompt that has none of its own.
        is_raw: Prompts are plain text, which have no place for instructions.
        split: Which part of the rows, where their source has parts.

    Raises:
        RecipeError: There is no prompt, or instructions stand beside plain text.
        DataError: The rows cannot be read, or have no prompt.
    """
    if system is not None and is_raw:
        raise RecipeError(
            "--system with --raw, which has no place for it",
            expected="one of the two",
            cure="write the instructions into the prompt",
            place="--system",
        )
    problems = [
        Problem(f"prompt:{number}", [{"role": "user", "content": text}]) for number, text in enumerate(prompts, 1)
    ]
    if source is not None:
        examples, _ = load_examples(
            [parse_config(DataSource, {"source": source, "split": split}, place="--prompts")],
            root=Path.cwd(),
            row_source=lab_rows,
        )
        problems += [build_problem(example) for example in examples]
    if not problems:
        raise RecipeError(
            "no prompt", expected="--prompt TEXT or --prompts FILE", cure="give at least one", place="command line"
        )
    return [_put_system(problem, system) for problem in problems]


def choose_prompts(problems: Sequence[Problem], count: int | None) -> list[Problem]:
    """Return a random choice of so many problems, by their content, the same every time; None: all of them.

    Raises:
        DataError: Two problems share an id.
    """
    return list(choose_problems("prompts", "", problems, count).problems)


def _put_system(problem: Problem, system: str | None) -> Problem:
    if system is None or problem.messages[0]["role"] == "system":
        return problem
    first: Message = {"role": "system", "content": system}
    return Problem(problem.problem_id, [first, *problem.messages], problem.columns, problem.tools, problem.cluster_id)


def draw_completions(
    talker: Talker, drawing: Drawing, problems: Sequence[Problem] | None = None
) -> Iterator[tuple[Problem, Completion]]:
    """Yield completions as they finish, each with its problem.

    Args:
        talker: Draws.
        drawing: What is asked.
        problems: Some of its problems; None is all of them.
    """
    wanted = drawing.problems if problems is None else problems
    seeds = [drawing.seed_of(problem) for problem in wanted]
    with closing(talker.sampler.sample(wanted, drawing.settings, seeds)) as drawn:  # type: ignore[type-var]
        for index, completion in drawn:
            yield wanted[index], completion


def in_order(drawing: Drawing, drawn: Iterator[tuple[Problem, Completion]]) -> Iterator[tuple[Problem, Completion]]:
    """Yield completions in the order of problems and samples, each as soon as it and those before it are there."""
    waiting: dict[tuple[str, int], tuple[Problem, Completion]] = {}
    keys = iter(_list_keys(drawing))
    key = next(keys, None)
    for problem, completion in drawn:
        waiting[problem.problem_id, completion.sample_index] = problem, completion
        while key is not None and key in waiting:
            yield waiting.pop(key)
            key = next(keys, None)


def write_completions(
    talker: Talker, drawing: Drawing, out: Path, *, progress: Progress, should_stop: Callable[[], bool]
) -> SampleSummary:
    """Draw the completions that a file lacks, and return what was done.

    Lines are written as completions finish; at the end they stand in the order of problems and samples. A
    problem of which some samples are missing is drawn again, and what is there is kept. Without `Drawing.at_once` in
    fp32 the text is the same however often the file was stopped, and log-probs are but for their last digits: products
    of another shape round otherwise, in bf16 enough to change a token now and then.

    Raises:
        TerminatedError: A stop was asked for; the same call goes on from there.
        RefusedError: The file holds completions of another policy or other settings.
    """
    began, drawn = time.perf_counter(), 0
    with CompletionFile(out, identify_drawing(talker, drawing)) as file:
        samples = range(drawing.settings.num_samples)
        parts = drawing.list_parts(lambda problem: any((problem.problem_id, i) not in file for i in samples))
        speed = DrawingSpeed(progress, should_stop)
        progress.start("sample", drawing.num_completions, unit="completion")
        talker.watch(speed.count)
        try:
            progress.advance(len(file))
            drawn_parts = (draw_completions(talker, drawing, part) for part in parts)
            for problem, completion in itertools.chain.from_iterable(drawn_parts):
                key = (problem.problem_id, completion.sample_index)
                if key not in file:
                    file.append(key, describe_completion(problem, completion))
                    drawn += 1
                    progress.advance(1, tokens_per_second=speed.read(completion))
                check_stop(should_stop())
        finally:
            talker.watch(None)
            progress.finish()
        file.arrange(_list_keys(drawing))
    seconds = round(time.perf_counter() - began, 3)
    return SampleSummary(str(out), talker.policy_hash, drawing.num_completions, drawn, speed.tokens, seconds)


class DrawingSpeed:
    """Counts tokens while they are drawn, shows how many a second, and looks whether a stop was asked for."""

    def __init__(self, progress: Progress, should_stop: Callable[[], bool]) -> None:
        self.tokens = 0
        self._progress = progress
        self._should_stop = should_stop
        self._began = self._shown = time.perf_counter()
        self._is_told = False

    def count(self, index: int, sample_index: int, ids: Sequence[int]) -> None:
        """Take note of drawn tokens."""
        self._is_told = True
        self.tokens += len(ids)
        check_stop(self._should_stop())
        if time.perf_counter() - self._shown >= _REPORT_SECONDS:
            self._progress.advance(0, tokens_per_second=self._compute())

    def read(self, completion: Completion) -> float:
        """Return tokens a second, also where only whole completions are known."""
        if not self._is_told:
            self.tokens += len(completion.ids)
        return self._compute()

    def _compute(self) -> float:
        self._shown = time.perf_counter()
        return self.tokens / max(self._shown - self._began, 1e-9)


def _list_keys(drawing: Drawing) -> list[tuple[str, int]]:
    samples = range(drawing.settings.num_samples)
    return [(problem.problem_id, sample) for problem in drawing.problems for sample in samples]


def identify_drawing(talker: Talker, drawing: Drawing) -> dict[str, Any]:
    """Return what decides every completion, as JSON-like values."""
    rows = [[p.problem_id, p.messages, p.tools, make_plain(p.columns)] for p in drawing.problems]
    return {
        "policy_hash": talker.policy_hash,
        "chat_format": talker.renderer.format.hash,
        "dtype": talker.dtype,
        "seed": drawing.seed,
        **make_plain(asdict(drawing.settings)),
        "prompts": len(rows),
        "prompts_hash": hash_json(make_plain(rows)),
        **({} if drawing.at_once is None else {"prompts_at_once": drawing.at_once}),
    }


def describe_completion(problem: Problem, completion: Completion) -> dict[str, Any]:
    """Return a completion as the file and `--json` show it; log-probs are nats, one a token."""
    top = completion.top_logprobs
    return {
        "problem_id": problem.problem_id,
        "sample_index": completion.sample_index,
        "prompt": make_plain(problem.messages),
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": len(completion.prompt_ids),
        "ids": completion.ids.tolist(),
        "sampler_logprobs": _round(completion.sampler_logprobs),
        "drawing_logprobs": _round(completion.drawing_logprobs),
        **({"top_ids": top.ids_TK.tolist(), "top_logprobs": [_round(row) for row in top.logprobs_TK]} if top else {}),
        "policy_hash": completion.policy_hash,
        "seed": completion.seed,
        "columns": make_plain(problem.columns),
    }


def _round(values: Any) -> list[float | None] | None:
    """Return fp32 numbers in as few digits as tell them apart."""
    return None if values is None else [finite_or_none(float(str(value))) for value in values]


def make_plain(value: Any) -> Any:
    """Return a value as JSON can hold it: what has no JSON form (a date, bytes) as its text, NaN as null."""
    if isinstance(value, dict):
        return {str(key): make_plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [make_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
