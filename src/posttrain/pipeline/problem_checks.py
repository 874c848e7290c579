"""Whether the problems of a stage that samples can be asked and judged, each of them, before anything is drawn.

A row that cannot be used would otherwise stop the stage at the step that draws it, at every start again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.chat.rendering import Renderer
from posttrain.core.errors import DataError, TemplateError
from posttrain.core.protocols import Scorer
from posttrain.core.records import Completion, Problem
from posttrain.pipeline.scorer_settings import FunctionSettings, ProofSettings, list_parts
from posttrain.pipeline.scorers import ScorerContext, ScorerValue, build_scorer

NOT_RENDERED = "the chat template cannot render it"
NO_ROOM = "the prompt leaves no room for max_new_tokens in the model's context"
NOT_JUDGED = "the scorer cannot judge it"
_AT_ONCE = 256

Unusable = dict[str, tuple[str, str]]
"""Of problems that cannot be used, by id: the reason, and what was found."""


@dataclass(frozen=True, slots=True)
class ProblemCheck:
    """What decides whether a problem can be asked and judged.

    `scorer` is None where it runs a user's own code, which is given completions of a policy alone; `answer` is what
    it is given: of an empty one most scorers say at once that there is nothing, once they have read the columns.
    `context_tokens` is the longest row that the model takes, None for no limit.
    """

    renderer: Renderer
    scorer: Scorer | None
    answer: str
    max_new_tokens: int
    context_tokens: int | None

    def find_unusable(self, problems: Sequence[Problem]) -> Unusable:
        """Return the problems that cannot be used, each with its first reason."""
        found: Unusable = {}
        for start in range(0, len(problems), _AT_ONCE):
            part = problems[start : start + _AT_ONCE]
            found |= self._find_unasked(part)
            asked = [problem for problem in part if problem.problem_id not in found]
            found |= self._find_unjudged(asked)
        return found

    def _find_unasked(self, problems: Sequence[Problem]) -> Unusable:
        def render(part: Sequence[Problem]) -> Unusable:
            prompts = self.renderer.render_prompts([(problem.messages, problem.tools) for problem in part])
            return {
                problem.problem_id: (NO_ROOM, describe_room(len(ids), self.max_new_tokens, self.context_tokens))
                for problem, ids in zip(part, prompts, strict=True)
                if self.context_tokens is not None and len(ids) + self.max_new_tokens > self.context_tokens
            }

        return _try_together(problems, render, NOT_RENDERED, TemplateError)

    def _find_unjudged(self, problems: Sequence[Problem]) -> Unusable:
        none, stop = np.zeros(0, np.int32), np.array(self.renderer.format.stop_ids[:1], np.int32)
        scorer = self.scorer
        if scorer is None:
            return {}

        def judge(part: Sequence[Problem]) -> Unusable:
            scorer.score(
                [(each, Completion(each.problem_id, 0, none, stop, self.answer, "stop", "", 0)) for each in part]
            )
            return {}

        return _try_together(problems, judge, NOT_JUDGED, DataError)


def describe_room(num_prompt: int, max_new_tokens: int, context_tokens: int | None) -> str:
    """Return how a prompt's tokens and those of a completion stand to the context."""
    return f"{num_prompt} tokens and max_new_tokens {max_new_tokens} in a context of {context_tokens}"


def build_problem_check(
    value: ScorerValue, context: ScorerContext, renderer: Renderer, max_new_tokens: int, context_tokens: int | None
) -> ProblemCheck:
    """Return what checks the problems of a stage.

    Raises:
        RecipeError: The scorer's settings do not fit.
    """
    parts = list(list_parts(value, place=context.place))
    is_own = any(isinstance(part, FunctionSettings) for part in parts)
    is_proof = any(isinstance(part, ProofSettings) and part.checker != "lean" for part in parts)  # Lean takes seconds
    scorer = None if is_own else build_scorer(value, context)
    return ProblemCheck(renderer, scorer, "-" if is_proof else "", max_new_tokens, context_tokens)


def _try_together(
    problems: Sequence[Problem],
    check: Callable[[Sequence[Problem]], Unusable],
    reason: str,
    error: type[DataError],
) -> Unusable:
    """Return what a check of several problems finds; where it raises, each is checked alone."""
    try:
        return check(problems)
    except error as raised:
        if len(problems) == 1:
            return {problems[0].problem_id: (reason, f"{raised.found}; expected {raised.expected}")}
    half = len(problems) // 2
    return _try_together(problems[:half], check, reason, error) | _try_together(problems[half:], check, reason, error)
