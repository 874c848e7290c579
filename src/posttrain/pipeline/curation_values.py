"""What a curation may keep rows by beside rules: how surprising an answer is to a model, or what a scorer says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from posttrain.core.errors import DataError
from posttrain.core.records import Completion, Problem
from posttrain.data.curated_text import CuratedText
from posttrain.data.curation import Values
from posttrain.evaluation.generation import score_batch
from posttrain.evaluation.weighing import Weigher, render_replies, split_sample
from posttrain.models.loading import load_policy
from posttrain.pipeline.curation_request import SCORER_PLACE, read_scorer_text
from posttrain.pipeline.recipe_checks import find_scorer_plugins
from posttrain.pipeline.roots import declare_roots
from posttrain.pipeline.scorers import build_context, build_scorer
from posttrain.pipeline.talking import choose_dtype, find_model, open_policy_renderer
from posttrain.pipeline.task_rows import build_problem
from posttrain.pipeline.weighers import build_weigher
from posttrain.training.distributed import find_device


@contextmanager
def open_perplexity(model: str) -> Iterator[Values]:
    """Yield what gives each answer's nats a token after its prompt, under a model and its own chat template.

    What does not fit into the model's context is weighed up to it; a row that the template refuses has no value.

    Raises:
        ModelError: The model cannot be found, loaded or trusted.
    """
    folder = find_model(model)
    policy = load_policy(folder, dtype=choose_dtype(folder), device=find_device())
    with open_policy_renderer(policy, is_raw=False) as renderer:
        weigher = build_weigher(policy, renderer, folder)
        yield lambda texts: [_weigh(weigher, text) for text in texts]


def _weigh(weigher: Weigher, text: CuratedText) -> float | None:
    """Return the nats a token of one row's answer, or of a document; None where no token can be weighed."""
    if text.example is None:
        return None
    if text.example.kind == "text":
        sample = weigher.renderer.render_document(text.answer, add_eos=False)
    else:
        problem = build_problem(text.example)
        if problem.reply is None:
            return None
        try:
            sample = render_replies(weigher, problem, [problem.reply])[0]
        except DataError:  # the template has no place for such a row, which the ledger says
            return None
    prompt, ids, is_weighed = split_sample(sample)
    room = len(ids) if weigher.context_tokens is None else weigher.context_tokens - len(prompt)
    ids, is_weighed = ids[: max(0, room)], is_weighed[: max(0, room)]
    if not is_weighed.any():
        return None
    (weighed,) = weigher.compute_logprobs([prompt], [ids])
    nats = -float(weighed.logprobs_T[is_weighed].mean(dtype=np.float64))
    return nats if math.isfinite(nats) else None


def build_scorer_values(text: str) -> Values:
    """Return what gives each answer's score; None where the scorer has nothing to say or the harness failed.

    Args:
        text: The scorer as a recipe writes it: a name, `file.py:name` from the current folder, or a YAML mapping.

    Raises:
        RecipeError: No such scorer, or its settings do not fit.
    """
    value = read_scorer_text(text)
    roots = declare_roots(Path.cwd() / "curation.yaml")
    plugins = find_scorer_plugins(value, roots, SCORER_PLACE)
    scorer = build_scorer(value, replace(build_context(roots, plugins), place=SCORER_PLACE))

    def score(texts: Sequence[CuratedText]) -> list[float | None]:
        batch = [(_build_problem(text), _complete(text)) for text in texts]
        outcomes = [item.outcome for item in score_batch(batch, scorer, "")]
        return [outcome.value if outcome.is_counted else None for outcome in outcomes]

    return score


def _build_problem(text: CuratedText) -> Problem:
    if text.example is None:
        return Problem(text.row_id, [])
    return build_problem(text.example)


def _complete(text: CuratedText) -> Completion:
    none = np.zeros(0, np.int32)
    return Completion(text.row_id, 0, none, none, text.answer, "stop", "", 0)
