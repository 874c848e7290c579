"""Solved examples before a question, and prompts without a chat template: what a base model is asked with.

In `chat` an example is a turn of the user and one of the assistant. In `text` examples and question are blocks with a
blank line between them, an example's answer after its question.

Source: Brown et al. 2020, "Language Models are Few-Shot Learners" (arXiv 2005.14165), section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from posttrain.chat.text_prompts import join_turns
from posttrain.core.errors import DataError
from posttrain.core.hashing import canonical_json, hash_json, hash_text
from posttrain.core.records import Message, Problem
from posttrain.evaluation.choice_columns import split_contexts
from posttrain.evaluation.questions import LETTERS, read_question, show_options
from posttrain.evaluation.task import ChoiceTask, GenerationTask

SOLUTION = "solution"
"""The column of a row that says what an example's answer looks like, where no reply ends the row."""


@dataclass(frozen=True, slots=True)
class Example:
    """A solved row: its turns, what it is asked with, and the value that it must share with the question."""

    turns: Sequence[Message]
    question: str
    group: str


class Shots:
    """Gives each question of a task its examples.

    The rows are put into one order, that of the hashes of what they say with the task's `shots_seed`; a question has
    the first ones of it, without itself and without those of another value of `shots_by`. So examples are the same for
    all questions as far as may be, for every policy, and under whatever name their file lies.

    Args:
        task: Says how many, and by which column.
        problems: The rows that examples are made of.

    Raises:
        DataError: A row has no answer to show, or lacks the column.
    """

    def __init__(self, task: GenerationTask | ChoiceTask, problems: Sequence[Problem]) -> None:
        self._task = task
        solved = [Example(_solve(task, one), _name_question(one), self._find_group(one)) for one in problems]
        self.hash = hash_json([[example.turns, example.group] for example in solved])
        if task.shots_seed is not None:
            seed = str(task.shots_seed)
            solved.sort(key=lambda one: hash_text("shots", seed, one.question, canonical_json(list(one.turns))))
        self._by_group: dict[str, list[Example]] = {}
        for one in solved:
            self._by_group.setdefault(one.group, []).append(one)

    def find_turns(self, problem: Problem) -> list[Message]:
        """Return the turns of the examples that stand before a question.

        Raises:
            DataError: There are not enough.
        """
        question, group = _name_question(problem), self._find_group(problem)
        known = self._by_group.get(group, [])
        # Only so many are looked at that one more than is needed is left when the question itself is among them.
        found: list[Example] = []
        for one in known:
            if len(found) == self._task.shots:
                break
            if one.question != question:
                found.append(one)
        if len(found) < self._task.shots:
            where = f" whose '{self._task.shots_by}' is {group}" if self._task.shots_by else ""
            raise DataError(
                f"{len(found)} examples{where} for {self._task.shots} shots",
                expected="as many rows in 'shots_from', the question itself not counted",
                cure="lower 'shots', or name a source with more rows",
                place=f"{self._task.name}: {problem.problem_id}",
            )
        return [turn for one in found for turn in one.turns]

    def _find_group(self, problem: Problem) -> str:
        by = self._task.shots_by
        if by is None:
            return ""
        if problem.columns.get(by) is None:
            raise DataError(
                f"the row has no column '{by}'",
                expected="the column that 'shots_by' names, in the rows of 'data' and of 'shots_from'",
                cure="name a column that both have, or leave 'shots_by' out",
                place=problem.problem_id,
            )
        return canonical_json(problem.columns[by])


def show_problem(task: GenerationTask | ChoiceTask, problem: Problem, shots: Shots | None) -> Problem:
    """Return a problem as a task asks it: behind its examples, and in one text where that is all a policy is given.

    Raises:
        DataError: There are too few examples, or a message that is no text.
    """
    messages = list(problem.messages)
    if shots is not None:
        start = next((place for place, one in enumerate(messages) if one["role"] != "system"), len(messages))
        messages[start:start] = shots.find_turns(problem)
    if isinstance(task, GenerationTask) and task.form == "text":
        messages = [{"role": "user", "content": join_turns(messages, place=problem.problem_id)}]
    return replace(problem, messages=messages)


def _solve(task: GenerationTask | ChoiceTask, problem: Problem) -> list[Message]:
    """Return the turns of a row with its answer."""
    asked, answer = problem, problem.reply
    if isinstance(task, ChoiceTask):
        question = read_question(problem, may_repeat=task.options == "letters")
        right = question.rights[0]
        answer = question.choices[right]
        own = split_contexts(problem, len(question.choices))
        if own:
            asked, answer = own[right]
        elif task.options == "letters":
            asked, answer = show_options(problem, question, has_cue=task.form == "text"), LETTERS[right]
    if answer is None:
        answer = problem.columns.get(SOLUTION, problem.columns.get("answer"))
    if not isinstance(answer, str | int | float) or isinstance(answer, bool) or not str(answer).strip():
        raise DataError(
            f"the answer of an example is {answer!r}"[:200],
            expected=f"a completion, or a column '{SOLUTION}' or 'answer' that is a text",
            cure="map it in 'shots_from': columns: {completion: <your column>}",
            place=problem.problem_id,
        )
    turns = [message for message in asked.messages if message["role"] != "system"]
    return [*turns, {"role": "assistant", "content": str(answer)}]


def _name_question(problem: Problem) -> str:
    """Return the name by content of what is asked, so that a question is found under another id too."""
    return hash_text(canonical_json([problem.messages, problem.columns.get("choices")]))
