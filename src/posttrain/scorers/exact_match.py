"""Exact match: the completion's text equals the problem's `answer` after a stated normalisation.

The normalisation, applied to both: Unicode NFC, every run of white space becomes one space, none at
either end. Upper and lower case differ, punctuation counts, and nothing is searched for inside the
text: an answer followed by anything else is wrong.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from posttrain.core.errors import DataError
from posttrain.core.records import Completion, Outcome, Problem
from posttrain.scorers.endings import judge_ending


class ExactMatch:
    """Scores 1 for an equal text, 0 for another (`core.protocols.Scorer`).

    A completion cut at its length limit or by a content filter is `truncated` and an empty one `unparsed`:
    they are the policy's failures, worth 0 and in every denominator.
    """

    name = "exact_match"

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        """Return one outcome for each item, in order.

        Raises:
            DataError: A problem has no `answer`, or one that is neither text nor a number.
        """
        return [_score(problem, completion) for problem, completion in items]


def normalise_text(text: str) -> str:
    """Return the text in NFC, with single spaces between its words and none at either end."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _score(problem: Problem, completion: Completion) -> Outcome:
    answer = _read_answer(problem)
    failure = judge_ending(completion)
    if failure is not None:
        return failure
    text = normalise_text(completion.text)
    is_equal = text == answer
    return Outcome("scored", float(is_equal), why="equal" if is_equal else f"expected {answer!r}", answer=text)


def _read_answer(problem: Problem) -> str:
    answer = problem.columns.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not normalise_text(str(answer)):
        raise DataError(
            f"'answer' is {answer!r}" if "answer" in problem.columns else "no column 'answer'",
            expected="the right answer as text or a number",
            cure="map it in the task's data, columns: {answer: <your column>}, or choose another scorer",
            place=problem.problem_id,
        )
    return normalise_text(str(answer))
