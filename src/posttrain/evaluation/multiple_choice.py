"""Multiple choice by log-likelihood: the policy's answer is the choice that it finds likeliest after the question.

    argmax_c  log p(c | question) / length(c)        length: 1 (`sum`), tokens, or bytes of UTF-8

Without a length the shorter choice has an advantage; by bytes the tokenizer has no say (as `acc_norm` of
lm-evaluation-harness, which counts characters). Under a chat template choices are replies, whose stop token is not
weighed; as plain text they follow the question's. With `metric: mass` an item is worth the share of the choices'
likelihood that the right ones have (MC2 of TruthfulQA, Lin et al. 2022, arXiv 2109.07958).

Parts of an item: `by_sum`, `by_token` and `by_byte` (1 where that rule finds a right one), `confidence` (the share that
the chosen one has of the choices' likelihood under the task's rule), `right_probability` (that of the right ones), and,
where a prompt was longer than the model's context, `cut_tokens`: how many were cut from its left; and those by which
questions in both orders are told (`order_figures.describe_order`).

Source: Brown et al. 2020, "Language Models are Few-Shot Learners" (arXiv 2005.14165), section 2.4, for likelihoods by
length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from posttrain.chat.text_prompts import join_turns
from posttrain.core.errors import DataError
from posttrain.core.freed_memory import release_freed_memory
from posttrain.core.metrics import CHOICE_ACCURACY, CHOICE_MASS
from posttrain.core.records import ItemResult, Outcome, Problem
from posttrain.evaluation.choice_columns import read_choice_parts, split_contexts
from posttrain.evaluation.figures import CUT_TOKENS, summarise_items
from posttrain.evaluation.order_figures import describe_order, read_option_texts, summarise_orders
from posttrain.evaluation.questions import LETTERS, Question, read_question, show_options
from posttrain.evaluation.task import ChoiceTask
from posttrain.evaluation.weighing import (
    WEIGHED_AT_ONCE,
    Ids,
    Weigher,
    check_policy,
    render_replies,
    split_sample,
    split_text,
)
from posttrain.models.branch_logprobs import Branching

_RULES = ("sum", "token", "byte")


@dataclass(frozen=True, slots=True)
class _Weighed:
    """A row's choices as they are weighed: the texts, the tokens of each, and what was cut from the prompt."""

    question: Question
    shown: Sequence[str]
    completions: Sequence[Ids]
    cut_tokens: int


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
        """The share of right choices, or of the likelihood that they have."""
        return CHOICE_MASS if self.task.metric == "mass" else CHOICE_ACCURACY

    def answer(self, problems: Sequence[Problem], task_hash: str) -> Iterator[list[ItemResult]]:
        """Yield items, some problems at a time.

        Raises:
            DataError: A row's choices or answer cannot be used, or a choice is longer than the model's context.
        """
        weigher = check_policy(self.open_weigher(), self.policy_hash, self.task.name)
        for start in range(0, len(problems), WEIGHED_AT_ONCE):
            yield self._weigh(problems[start : start + WEIGHED_AT_ONCE], task_hash, weigher)
            release_freed_memory()

    def summarise(self, items: Sequence[ItemResult]) -> list[dict[str, Any]]:
        """Return the task's metric and its parts; of questions in both orders, what the position does too."""
        figures = summarise_items(self.task.name, self.metric_name, items, self.task.parts)
        return [*figures, *summarise_orders(self.task.name, items)]

    def _weigh(self, problems: Sequence[Problem], task_hash: str, weigher: Weigher) -> list[ItemResult]:
        branchings: list[Branching] = []
        rows: list[_Weighed] = []
        for problem in problems:
            question = read_question(problem, may_repeat=self.task.options == "letters")
            asked = self._ask(problem, question)
            shown = [reply for _, reply in asked]
            pairs = self._split(weigher, asked)
            completions = [completion for _, completion in pairs]
            cut, prompts = _cut_left(weigher, problem, [prompt for prompt, _ in pairs], completions)
            rows.append(_Weighed(question, shown, completions, cut))
            branchings += _branch(prompts, completions)
        weighed = iter([one for branches in weigher.compute_branch_logprobs(branchings) for one in branches])
        items = []
        for problem, row in zip(problems, rows, strict=True):
            sums_C = np.array([next(weighed).total for _ in row.completions])
            items.append(self._record(problem, row, sums_C, task_hash))
        return items

    def _ask(self, problem: Problem, question: Question) -> list[tuple[Problem, str]]:
        """Return for each choice what is asked, and the text that is weighed after it."""
        own = split_contexts(problem, len(question.choices))
        if own and self.task.options == "letters":
            raise DataError(
                "the row has 'contexts', and the task asks with options: letters",
                expected="rows whose choices are weighed as texts, since contexts take the prompt's place",
                cure="set options: texts, or leave out the column 'contexts'",
                place=problem.problem_id,
            )
        if own:
            return own
        if self.task.options == "texts":
            return [(problem, choice) for choice in question.choices]
        asked = show_options(problem, question, has_cue=self.task.form == "text")
        return [(asked, letter) for letter in LETTERS[: len(question.choices)]]

    def _split(self, weigher: Weigher, asked: Sequence[tuple[Problem, str]]) -> list[tuple[Ids, Ids]]:
        """Return the prompt's tokens and the reply's, for each choice."""
        if self.task.form == "text":
            return [
                split_text(weigher, join_turns(one.messages, place=one.problem_id), reply, one.problem_id)
                for one, reply in asked
            ]
        stop_ids = weigher.renderer.format.stop_ids
        pairs = []
        is_shared = all(one is asked[0][0] for one, _ in asked)
        groups = [(asked[0][0], [reply for _, reply in asked])] if is_shared else [(one, [r]) for one, r in asked]
        for sample in (sample for one, replies in groups for sample in render_replies(weigher, one, replies)):
            prompt, rest, is_reply = split_sample(sample)
            ids = rest[: int(np.flatnonzero(is_reply)[-1]) + 1]
            pairs.append((prompt, ids[:-1] if len(ids) > 1 and int(ids[-1]) in stop_ids else ids))
        return pairs

    def _record(self, problem: Problem, row: _Weighed, sums_C: Any, task_hash: str) -> ItemResult:
        question, rights = row.question, list(row.question.rights)
        lengths = {
            "sum": np.ones(len(row.shown)),
            "token": np.array([len(ids) for ids in row.completions]),
            "byte": np.array([len(text.encode()) for text in row.shown]),
        }
        scores = {rule: sums_C / np.maximum(1, lengths[rule]) for rule in _RULES}
        parts = {f"by_{rule}": float(int(scores[rule].argmax()) in rights) for rule in _RULES}
        mine = scores[self.task.normalisation]
        chosen = int(mine.argmax())
        shares = np.exp(mine - mine.max())
        shares /= shares.sum()
        parts |= {"confidence": float(shares[chosen]), "right_probability": min(1.0, float(shares[rights].sum()))}
        parts |= describe_order(read_option_texts(problem.messages, question.choices), rights, chosen)
        parts |= read_choice_parts(problem, chosen, len(question.choices))
        if row.cut_tokens:
            parts[CUT_TOKENS] = float(row.cut_tokens)
        is_mass = self.task.metric == "mass"
        value = parts["right_probability"] if is_mass else float(chosen in rights)
        return ItemResult(
            item_id=problem.problem_id,
            cluster_id=problem.cluster_id,
            task_hash=task_hash,
            sample_index=0,
            outcome=Outcome("scored", value, parts=parts, answer=question.labels[chosen]),
            policy_hash=self.policy_hash,
            text=question.choices[chosen],
            prompt=problem.messages,
            reference="\n".join(question.choices[place] for place in rights),
        )


def _cut_left(
    weigher: Weigher, problem: Problem, prompts: Sequence[Ids], completions: Sequence[Ids]
) -> tuple[int, list[Ids]]:
    """Return the prompts with what fits before the longest choice, and how many tokens of the longest were cut.

    All choices keep the same prompt, so that none is likelier for having seen more of it.

    Raises:
        DataError: A choice alone is as long as the model's context.
    """
    if weigher.context_tokens is None:
        return 0, list(prompts)
    longest = max(len(ids) for ids in completions)
    room = weigher.context_tokens - longest
    if room < 1:
        raise DataError(
            f"a choice of {longest} tokens",
            expected=f"fewer than {weigher.context_tokens} tokens, the model's context, so that a prompt has room",
            cure="leave the row out, or measure a model with a longer context",
            place=problem.problem_id,
        )
    return max(0, max(map(len, prompts)) - room), [prompt[-room:] for prompt in prompts]


def _branch(prompts: Sequence[Ids], completions: Sequence[Ids]) -> list[Branching]:
    """Return the choices as branches of one prompt, or each of its own where a template writes different ones."""
    if all(np.array_equal(prompt, prompts[0]) for prompt in prompts[1:]):
        return [Branching(prompts[0], completions)]
    return [Branching(prompt, [ids]) for prompt, ids in zip(prompts, completions, strict=True)]
