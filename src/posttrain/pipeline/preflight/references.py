"""The answers that a task's own rows end with, as a policy would have to write them, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from posttrain.chat.rendering import Renderer, SampleRequest
from posttrain.core.errors import TemplateError
from posttrain.core.records import Completion, Example, FinishReason, Problem
from posttrain.core.seeds import build_numpy_generator
from posttrain.data.examples import load_examples
from posttrain.data.sources import DataSource
from posttrain.lab.source import lab_rows
from posttrain.pipeline.benchmark_rows import read_published
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.task_rows import build_problem
from posttrain.pipeline.wiring import locate_sources

MAX_ROWS = 256
"""Rows of a task that are looked at."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One row of a task as a policy sees it, and the answer that the row holds, if it ends with one.

    Made by `load_references`, read by the checks of tasks. `answer_ids` end with the stop token, `text` has none; both
    are None for a row that only names what is right in a column.

    Example: a row whose assistant says `4`: `answer_ids` are those of `4` and the stop token, `text` is `4`.
    """

    problem: Problem
    prompt_ids: npt.NDArray[np.int32]
    answer_ids: npt.NDArray[np.int32] | None = None
    text: str | None = None


def load_references(
    recipe: Recipe,
    source: DataSource,
    renderer: Renderer,
    count: int,
    *seed_parts: int | str,
    benchmark: str | None = None,
) -> list[Reference]:
    """Return some rows of a source with their own answers, all of them where there are no more than `count`.

    Args:
        recipe: Says where paths start.
        source: The rows.
        renderer: Turns messages into tokens.
        count: How many rows to draw at most.
        seed_parts: What names the draw.
        benchmark: In whose published form the rows stand; None: in one of ours.

    Raises:
        DataError: The rows cannot be read.
        TemplateError: A prompt cannot be rendered.
    """
    [located] = locate_sources(recipe, [source])
    located, reader = read_published(benchmark, located, recipe.roots)
    examples, _ = load_examples([located], root=recipe.root, row_source=lab_rows, reader=reader)
    if len(examples) > count:
        chosen = build_numpy_generator("preflight", *seed_parts).choice(len(examples), count, replace=False)
        examples = [examples[index] for index in sorted(chosen)]
    pairs = [(example, build_problem(example)) for example in examples]
    pairs = [(example, problem) for example, problem in pairs if problem.messages]  # a document asks nothing
    problems = [problem for _, problem in pairs]
    prompts = renderer.render_prompts([(problem.messages, problem.tools) for problem in problems])
    answers = _render_answers([example for example, _ in pairs], problems, renderer)
    return [
        Reference(problem, ids, answer, None if answer is None else _decode(answer, renderer))
        for problem, ids, answer in zip(problems, prompts, answers, strict=True)
    ]


def _render_answers(
    examples: Sequence[Example], problems: Sequence[Problem], renderer: Renderer
) -> list[npt.NDArray[np.int32] | None]:
    """Return each row's last answer with its stop token, None for a row without one that can be rendered."""
    found: list[npt.NDArray[np.int32] | None] = [None] * len(examples)
    ending = [i for i, example in enumerate(examples) if len(problems[i].messages) < len(example.messages)]
    requests = [SampleRequest(examples[i].messages, examples[i].tools, train_on="last_assistant") for i in ending]
    for index, samples in zip(ending, renderer.render_samples(requests) if requests else [], strict=True):
        if not isinstance(samples, TemplateError) and samples:
            found[index] = samples[-1].ids_T[samples[-1].is_trainable_T]
    return found


def _decode(answer_ids: npt.NDArray[np.int32], renderer: Renderer) -> str:
    ids = answer_ids.tolist()
    return renderer.tokenizer.decode(ids[:-1] if ids and ids[-1] in renderer.format.stop_ids else ids)


def build_completion(
    reference: Reference, ids: npt.NDArray[np.int32], text: str, finish_reason: FinishReason = "stop"
) -> Completion:
    """Return a text as if the policy had written it in answer to a row."""
    return Completion(
        problem_id=reference.problem.problem_id,
        sample_index=0,
        prompt_ids=reference.prompt_ids,
        ids=ids,
        text=text,
        finish_reason=finish_reason,
        policy_hash="",
        seed=0,
    )
