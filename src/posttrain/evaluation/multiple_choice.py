"""Multiple choice by log-likelihood: the policy's answer is the choice that it finds likeliest after the question.

    argmax_c  log p(c | question) / length(c)        length: 1 (`sum`), tokens, or bytes of UTF-8

Without a length the shorter choice has an advantage; by bytes the tokenizer has no say (as `acc_norm` of
lm-evaluation-harness, which counts characters). Choices are replies rendered by the chat template; the stop token is
not weighed. Parts of an item: `by_sum`, `by_token` and `by_byte` (1 where that rule finds the right one), `confidence`
(the share that the chosen one has of the choices' likelihood under the task's rule), `right_probability`, and those by
which questions in both orders are told (`order_figures.describe_order`).

Source: Brown et al. 2020, "Language Models are Few-Shot Learners" (arXiv 2005.14165), section 2.4, for likelihoods by
length.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from posttrain.core.errors import DataError
from posttrain.core.metrics import CHOICE_ACCURACY
from posttrain.core.records import ItemResult, Outcome, Problem
from posttrain.evaluation.figures import summarise_items
from posttrain.evaluation.order_figures import describe_order, read_option_texts, summarise_orders
from posttrain.evaluation.task import ChoiceTask
from posttrain.evaluation.weighing import WEIGHED_AT_ONCE, Weigher, check_policy, render_replies, split_sample

LETTERS = string.ascii_uppercase
_RULES = ("sum", "token", "byte")


@dataclass(frozen=True, slots=True)
class Question:
    """A row's choices and the place of the right one, from 0."""

    choices: Sequence[str]
    labels: Sequence[str]
    right: int


@dataclass(frozen=True, slots=True)
class MultipleChoice:
    """Weighs every choice of a problem (`answering.Answerer`)."""

    task: ChoiceTask
    policy_hash: str
    open_weigher: Callable[[], Weigher]

    @property
    def num_samples(self) -> int:
        """One item a problem: nothing is drawn."""
        return 1

    @property
    def metric_name(self) -> str:
        """The share of right choices."""
        return CHOICE_ACCURACY

    def answer(self, problems: Sequence[Problem], task_hash: str) -> Iterator[list[ItemResult]]:
        """Yield items, some problems at a time.

        Raises:
            DataError: A row's choices or answer cannot be used, or a row is longer than the model's context.
        """
        weigher = check_policy(self.open_weigher(), self.policy_hash, self.task.name)
        for start in range(0, len(problems), WEIGHED_AT_ONCE):
            yield self._weigh(problems[start : start + WEIGHED_AT_ONCE], task_hash, weigher)

    def summarise(self, items: Sequence[ItemResult]) -> list[dict[str, Any]]:
        """Return `accuracy` and the task's parts; of questions in both orders, what the position does too."""
        figures = summarise_items(self.task.name, CHOICE_ACCURACY, items, self.task.parts)
        return [*figures, *summarise_orders(self.task.name, items)]

    def _weigh(self, problems: Sequence[Problem], task_hash: str, weigher: Weigher) -> list[ItemResult]:
        questions = [read_question(problem) for problem in problems]
        prompts, completions, owners = [], [], []
        stop_ids = weigher.renderer.format.stop_ids
        for index, (problem, question) in enumerate(zip(problems, questions, strict=True)):
            asked, replies = problem, question.choices
            if self.task.options == "letters":
                asked, replies = _show_options(problem, question), LETTERS[: len(question.choices)]
            for sample in render_replies(weigher, asked, replies):
                prompt, rest, is_reply = split_sample(sample)
                ids = rest[: int(np.flatnonzero(is_reply)[-1]) + 1]
                prompts.append(prompt)
                completions.append(ids[:-1] if len(ids) > 1 and int(ids[-1]) in stop_ids else ids)
                owners.append(index)
        weighed = weigher.compute_logprobs(prompts, completions)
        items = []
        for index, (problem, question) in enumerate(zip(problems, questions, strict=True)):
            mine = [place for place, owner in enumerate(owners) if owner == index]
            sums = np.array([weighed[place].total for place in mine])
            tokens = np.array([max(1, len(completions[place])) for place in mine])
            items.append(self._record(problem, question, sums, tokens, task_hash))
        return items

    def _record(self, problem: Problem, question: Question, sums_C: Any, tokens_C: Any, task_hash: str) -> ItemResult:
        shown = LETTERS[: len(question.choices)] if self.task.options == "letters" else question.choices
        lengths = {"sum": np.ones(len(shown)), "token": tokens_C, "byte": np.array([len(t.encode()) for t in shown])}
        scores = {rule: sums_C / np.maximum(1, lengths[rule]) for rule in _RULES}
        parts = {f"by_{rule}": float(int(scores[rule].argmax()) == question.right) for rule in _RULES}
        mine = scores[self.task.normalisation]
        chosen = int(mine.argmax())
        shares = np.exp(mine - mine.max())
        shares /= shares.sum()
        parts |= {"confidence": float(shares[chosen]), "right_probability": float(shares[question.right])}
        parts |= describe_order(read_option_texts(problem.messages, question.choices), [question.right], chosen)
        return ItemResult(
            item_id=problem.problem_id,
            cluster_id=problem.cluster_id,
            task_hash=task_hash,
            sample_index=0,
            outcome=Outcome("scored", float(chosen == question.right), parts=parts, answer=question.labels[chosen]),
            policy_hash=self.policy_hash,
            text=question.choices[chosen],
            prompt=problem.messages,
            reference=question.choices[question.right],
        )


def read_question(problem: Problem) -> Question:
    """Return a row's choices and which one is right.

    Raises:
        DataError: There are fewer than two choices, one is empty or no text, labels are not as many or not differing,
            or the answer is none of the choices, or several as it is read.
    """
    given = found = problem.columns.get("choices")
    labels: list[str] | None = None
    if isinstance(found, Mapping):
        labels, found = _read_labels(found.get("label")), found.get("text")
    choices = list(found) if isinstance(found, list | tuple) else []
    is_usable = all(isinstance(text, str) and text.strip() for text in choices) and len(set(choices)) == len(choices)
    is_labelled = not isinstance(given, Mapping) or (labels is not None and len(labels) == len(choices))
    if not is_usable or not is_labelled or not 2 <= len(choices) <= len(LETTERS):
        raise DataError(
            f"'choices' is {given!r}"[:200] if given is not None else "no column 'choices'",
            expected=f"2 to {len(LETTERS)} differing texts, or {{text: [...], label: [...]}} of equal length",
            cure="map it in the task's data: columns: {choices: <your column>}",
            place=problem.problem_id,
        )
    right = _find_right(problem, choices, labels)
    return Question(choices, labels or list(LETTERS[: len(choices)]), right)


def _read_labels(given: Any) -> list[str] | None:
    """Return labels as texts, or None where they are no list of differing texts or whole numbers."""
    if not isinstance(given, list | tuple) or not all(type(label) in (str, int) for label in given):
        return None
    labels = [str(label).strip() for label in given]
    return labels if len(set(labels)) == len(labels) else None


def _find_right(problem: Problem, choices: Sequence[str], labels: Sequence[str] | None) -> int:
    answer = problem.columns.get("answer")
    readings = _read_answer(answer, choices, labels)
    if len(set(readings.values())) == 1:
        return next(iter(readings.values()))
    if readings:
        named = ", ".join(f"as its {way} it is choice {place} ({choices[place]!r})" for way, place in readings.items())
        raise DataError(
            f"'answer' is {answer!r}, which can be read in several ways: {named}"[:400],
            expected="an answer that names one choice, however it is read",
            cure="number the choices, {text: [...], label: [1, 2, ...]}, and give the right one's number as 'answer'",
            place=problem.problem_id,
        )
    raise DataError(
        f"'answer' is {answer!r}"[:200] if answer is not None else "no column 'answer'",
        expected=f"the right choice: its place from 0 to {len(choices) - 1}, its label, its letter, or its text",
        cure="map it in the task's data: columns: {answer: <your column>}",
        place=problem.problem_id,
    )


def _read_answer(answer: Any, choices: Sequence[str], labels: Sequence[str] | None) -> dict[str, int]:
    """Return the place of the choice that an answer names, by each way of reading it that finds one.

    A number that is one of the labels that a row gives is that label, and no place.
    """
    if not isinstance(answer, str | int) or isinstance(answer, bool):
        return {}
    text = str(answer).strip()
    readings: dict[str, int] = {}
    if isinstance(answer, int):
        if labels is not None and text in labels:
            return {"label": labels.index(text)}
        if 0 <= answer < len(choices):
            readings["place"] = answer
    ways = {"label": labels or (), "letter": list(LETTERS[: len(choices)]), "text": [one.strip() for one in choices]}
    return readings | {way: list(known).index(text) for way, known in ways.items() if text in known}


def _show_options(problem: Problem, question: Question) -> Problem:
    """Return the problem with its choices below the last message, each after a letter."""
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False)]
    last = problem.messages[-1]
    shown = {**last, "content": "\n".join([str(last.get("content") or ""), *lines])}
    return replace(problem, messages=[*problem.messages[:-1], shown])
