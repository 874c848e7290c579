"""A reward model as a scorer: what people, or who labels in their place, would make of a completion.

    value = aggregate over members of (weighted mean of outputs) - slope (length - mean length)

The score is read at the completion's last token; of a process reward model at the end of each step, aggregated first
over steps and then over members. The last term is there where a length penalty is asked for. A completion that was cut
off or says nothing has no end of turn to be read at: it gets the declared `failed_value`.

Parts: each output by its name, mean over members; `spread`, the standard deviation of the members' values, where there
are several; `penalty` where one is taken off; `steps`, their number, of a process reward model.

What it can NOT judge: whether an answer is right. It says what the rows that it learned from would prefer, biases
included, is less sure the further a completion lies from them, and is exploited by a policy that is optimised against
it hard enough; keep an eye on a measure that it was not made from (docs/reward_models.md).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from posttrain.chat.steps import find_step_ends, split_ids
from posttrain.core.errors import DataError, ModelError
from posttrain.core.records import Completion, Outcome, Problem
from posttrain.kernels.readings import Ids, Reading
from posttrain.objectives.reward_aggregation import (
    MemberAggregation,
    StepAggregation,
    aggregate_members,
    aggregate_steps,
)
from posttrain.scorers.endings import judge_ending

Items = Sequence[tuple[Problem, Completion]]
Floats = npt.NDArray[np.float64]


class ScoresCompletions(Protocol):
    """Gives of each completion what its reads stand for, [members, reads, outputs]."""

    def score(self, readings: Sequence[Reading]) -> list[list[Floats]]:
        """Return one array for each completion of each reading."""


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A reward model that is open for scoring, and what its numbers mean (`models.reward_models.RewardFacts`).

    Made by the wiring. `encode` gives the ids of a prompt and of a text as its answer, for completions that come as
    text alone; `decode` the text of ids, to find steps. `stop_ids` end a turn, the first one where a completion has
    none: one that a stop string ended; none: whatever comes last is read. `members` are the numbers of the members that
    score, in their order; none: it is not told, and none may be asked for. `is_own` says whether a completion's ids
    mean to this model what they meant to the policy; where they do not, its text is encoded. None: they always do.
    """

    scoring: ScoresCompletions
    outputs: tuple[str, ...]
    encode: Callable[[Sequence[tuple[Problem, str]]], list[tuple[Ids, Ids]]]
    decode: Callable[[Sequence[int]], str]
    length_slope: float | None = None
    mean_length: float | None = None
    separator: str | None = None
    stop_ids: tuple[int, ...] = ()
    members: tuple[int, ...] = ()
    is_own: Callable[[Problem, Completion], bool] | None = None


@dataclass(frozen=True, slots=True)
class LearnedUse:
    """How a reward model's outputs become one value.

    Args:
        weights: Of the outputs by name, those left out 0; empty: equal.
        aggregation: Over the members of an ensemble.
        members: The numbers of those that count, from 0; empty: all that are open.
        variance_weight: Of `mean_minus_variance`, >= 0.
        step_aggregation: Over the steps of a process reward model.
        length_penalty: `fitted` takes off the score that length alone earns; None takes nothing off.
        failed_value: Of a completion that was cut off or says nothing.
    """

    weights: dict[str, float] = field(default_factory=dict)
    aggregation: MemberAggregation = "mean"
    variance_weight: float = 1.0
    step_aggregation: StepAggregation = "min"
    length_penalty: Literal["fitted"] | None = None
    failed_value: float = -4.0
    members: tuple[int, ...] = ()


class LearnedScorer:
    """Scores completions by a reward model, which is opened when the first of them comes (`core.protocols.Scorer`).

    Args:
        open_model: Opens it.
        use: How its outputs become one value.
    """

    name = "learned"

    def __init__(self, open_model: Callable[[], OpenedModel], use: LearnedUse) -> None:
        self._open = open_model
        self._use = use
        self._model: OpenedModel | None = None
        self._lock = threading.Lock()

    def score(self, items: Items) -> list[Outcome]:
        """Return one outcome for each item, in order.

        Raises:
            ModelError: The reward model cannot be opened, has no such output or no fitted length, or gives a score that
                is not finite.
            DataError: A completion's tokens are none of the reward model's, or too many for it.
        """
        outcomes: list[Outcome | None] = [self._judge_ending(completion) for _, completion in items]
        waiting = [index for index, outcome in enumerate(outcomes) if outcome is None]
        if waiting:
            with self._lock:
                found = self._score([items[index] for index in waiting])
            for index, outcome in zip(waiting, found, strict=True):
                outcomes[index] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _judge_ending(self, completion: Completion) -> Outcome | None:
        failure = judge_ending(completion)
        if failure is None or failure.fault != "policy":
            return failure
        return replace(failure, value=self._use.failed_value)

    def _score(self, items: Items) -> list[Outcome]:
        if self._model is None:
            self._model = self._open()
            _check_use(self._model, self._use)
        model = self._model
        rows = _find_ids(model, items)
        groups: dict[bytes, list[int]] = {}
        for index, (prompt, _) in enumerate(rows):
            groups.setdefault(prompt.tobytes(), []).append(index)
        readings = []
        for members in groups.values():
            completions = tuple(rows[index][1] for index in members)
            readings.append(Reading(rows[members[0]][0], completions, tuple(_place(model, ids) for ids in completions)))
        outcomes: dict[int, Outcome] = {}
        for members, found in zip(groups.values(), model.scoring.score(readings), strict=True):
            for index, all_MRK in zip(members, found, strict=True):
                values_MRK = all_MRK[_place_members(model, self._use)] if self._use.members else all_MRK
                problem = items[index][0].problem_id
                outcomes[index] = self._build_outcome(model, values_MRK, len(rows[index][1]), problem)
        return [outcomes[index] for index in range(len(rows))]

    def _build_outcome(self, model: OpenedModel, values_MRK: Floats, length: int, problem_id: str) -> Outcome:
        use, parts = self._use, {}
        if not np.isfinite(values_MRK).all():
            raise ModelError(
                "the reward model gives a score that is not finite",
                expected="finite scores",
                cure="look at its weights ('posttrain verify'), train it again at a lower learning rate, or load it "
                "in float32",
                place=problem_id,
            )
        if model.separator is not None:
            values_M = np.array([aggregate_steps(steps, use.step_aggregation) for steps in values_MRK[:, :, 0]])
            parts["steps"] = float(values_MRK.shape[1])
        else:
            values_MK = values_MRK[:, -1]
            weights = [use.weights.get(name, 0.0) if use.weights else 1.0 for name in model.outputs]
            values_M = np.average(values_MK, axis=1, weights=weights) if sum(weights) else values_MK @ weights
            parts |= dict(zip(model.outputs, values_MK.mean(axis=0).tolist(), strict=True))
        value = float(aggregate_members(values_M[:, None], use.aggregation, use.variance_weight)[0])
        if len(values_M) > 1:
            parts["spread"] = float(values_M.std())
        if use.length_penalty is not None:
            assert model.length_slope is not None and model.mean_length is not None  # _check_use
            parts["penalty"] = model.length_slope * (length - model.mean_length)
            value -= parts["penalty"]
        return Outcome("scored", value, parts=parts)


def _place_members(model: OpenedModel, use: LearnedUse) -> list[int]:
    """Return where the members that count stand among those that are open."""
    return [model.members.index(number) for number in use.members]


def _check_use(model: OpenedModel, use: LearnedUse) -> None:
    unknown = sorted(set(use.weights) - set(model.outputs))
    absent = sorted(set(use.members) - set(model.members))
    if absent:
        found, cure = f"member {absent[0]}", "name members by their numbers, from 0"
        expected = "some of its members: " + ", ".join(map(str, model.members))
    elif unknown:
        found, cure = f"weights of {', '.join(unknown)}", "name outputs of this reward model"
        expected = "some of its outputs: " + ", ".join(model.outputs)
    elif use.length_penalty is not None and model.length_slope is None:
        found, expected = "a length penalty that was not fitted", "a reward model whose stage measured it"
        cure = "give the stage validation pairs, or leave length_penalty out"
    else:
        return
    raise ModelError(found, expected=expected, cure=cure, place="scorer: learned")


def _find_ids(model: OpenedModel, items: Items) -> list[tuple[Ids, Ids]]:
    """Return prompt and completion ids of each item: as a sampler saw them, or rendered from text.

    That is where there is text alone, or where the policy's tokenizer is another than the reward model's.
    """
    is_own = model.is_own or (lambda problem, completion: True)
    as_text = [
        index
        for index, (problem, completion) in enumerate(items)
        if not (len(completion.prompt_ids) and len(completion.ids) and is_own(problem, completion))
    ]
    rendered = model.encode([(items[index][0], items[index][1].text) for index in as_text]) if as_text else []
    found = [(completion.prompt_ids, completion.ids) for _, completion in items]
    for index, pair in zip(as_text, rendered, strict=True):
        found[index] = pair
    return [(prompt, _end_turn(ids, model.stop_ids)) for prompt, ids in found]


def _end_turn(ids: Ids, stop_ids: tuple[int, ...]) -> Ids:
    """Return a completion that ends with an end of turn, which is where the score is read."""
    if not stop_ids or not len(ids) or int(ids[-1]) in stop_ids:
        return ids
    return np.append(ids, np.int32(stop_ids[0])).astype(np.int32)


def _place(model: OpenedModel, ids: Ids) -> npt.NDArray[np.int64]:
    """Return the tokens of a completion that are read."""
    if not len(ids):
        raise DataError("a completion without a token", expected="at least one", cure="leave it out", place="scorer")
    if model.separator is None:
        return np.array([len(ids) - 1])
    return np.array(find_step_ends(split_ids(ids.tolist(), model.decode), model.separator))
