"""Records that rooms hand to one another.

Each says who makes it, who reads it, and works one example. Arrays are numpy, so that this room needs
no torch. Shape letters: R rows, T tokens of one row, N tokens of all rows.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Message = dict[str, Any]
"""One chat message: `role` (system, user, assistant, tool), `content`, and where they apply
`tool_calls`, `reasoning_content`, `name`."""


class Source(enum.IntEnum):
    """Who wrote a token: the template itself, or the message of a role."""

    TEMPLATE = 0
    SYSTEM = 1
    USER = 2
    ASSISTANT = 3
    TOOL = 4
    DOCUMENT = 5


@dataclass(frozen=True, slots=True)
class RenderedSample:
    """One training sample: token ids, and for every token its source and whether it is trained on.

    Made by `chat/rendering.py` alone; read by data, training, rollouts, evaluation and export.

    Example: the turn `user: Hi` / `assistant: Yo` under ChatML gives ids for
    `<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nYo<|im_end|>\\n`; `is_trainable_T` is true
    for `Yo` and the `<|im_end|>` after it, and for nothing else.
    """

    ids_T: npt.NDArray[np.int32]
    sources_T: npt.NDArray[np.uint8]
    is_trainable_T: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Example:
    """One data row in the house's form, whatever file it came from.

    Made by `data/schemas.py`, read by renderers and stages. `kind` is a TRL dataset type. For
    `messages` (a prompt-completion row becomes the messages of both), `first_trained` is the index of
    the first message whose assistant turns are trained on. `columns` are the row's other columns,
    which travel to scorers by name.

    Example: `{"question": "2+2?", "answer": "4", "level": 1}` mapped with
    `columns: {prompt: question, completion: answer}` becomes `kind="messages"`,
    `messages=[user "2+2?", assistant "4"]`, `columns={"level": 1}`.
    """

    row_id: str
    kind: Literal["text", "messages", "prompt", "preference", "unpaired", "stepwise"]
    messages: list[Message] = field(default_factory=list)
    text: str = ""
    chosen: list[Message] = field(default_factory=list)
    rejected: list[Message] = field(default_factory=list)
    label: bool | None = None
    labels: list[bool] = field(default_factory=list)
    tools: list[dict[str, Any]] | None = None
    first_trained: int = 0
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Tokenized rows laid end to end.

    Made by `data/tokenized.py`, read by packing and training. Row r is
    `ids_N[offsets[r]:offsets[r + 1]]`; `row_ids[r]` names the data row that it came from (several
    rows may come from one when a template rewrites history).

    Example: rows of 3 and 2 tokens have `offsets = [0, 3, 5]`.
    """

    ids_N: npt.NDArray[np.int32]
    sources_N: npt.NDArray[np.uint8]
    is_trainable_N: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64]
    row_ids: Sequence[str]
    content_hash: str

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths_R(self) -> npt.NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.offsets)

    def row(self, index: int) -> RenderedSample:
        """Return one row as a sample (views, not copies)."""
        span = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return RenderedSample(self.ids_N[span], self.sources_N[span], self.is_trainable_N[span])


@dataclass(frozen=True, slots=True)
class Problem:
    """Something to sample completions for and to score them by.

    Made by data and lab, read by samplers and scorers. `columns` holds what the scorer needs
    (`answer`, say); `cluster_id` groups problems that share a source, for clustered error bars; `reply` is the
    assistant's own text that the row ends with, where it has one.
    """

    problem_id: str
    messages: list[Message]
    columns: dict[str, Any] = field(default_factory=dict)
    tools: list[dict[str, Any]] | None = None
    cluster_id: str = ""
    reply: str | None = None


@dataclass(frozen=True, slots=True)
class TokenizedProblem(Problem):
    """A problem whose prompt is token ids already, which no template renders.

    Made by `evaluation/harness_model.py`, whose harness has rules of its own for tokens; read by samplers' wiring.

    Example: `TokenizedProblem("7:0:0", [], prompt_ids=(1, 403, 407))` is drawn from right after these three tokens.
    """

    prompt_ids: tuple[int, ...] = ()


FinishReason = Literal["stop", "length", "cancelled", "filtered"]
"""A stop token or stop string, the cap on new tokens or the model's context, a sampler that was closed, or an
endpoint's own content filter, which withheld the text or cut it short."""


@dataclass(frozen=True, slots=True)
class TopLogprobs:
    """The most probable tokens at each position of a completion, most probable first.

    Made by samplers and `models/logprobs.py` where `top_logprobs` asks for it. Nats under the full distribution, at
    temperature 1 unless another was asked for (samplers never do).
    An endpoint that speaks text alone names the tokens in `texts_TK` and leaves `ids_TK` without columns.

    Example: two tokens and `top_logprobs=2`: `ids_TK = [[7, 4], [3, 9]]`, `logprobs_TK = [[-0.1, -2.5], ...]`.
    """

    ids_TK: npt.NDArray[np.int32]
    logprobs_TK: npt.NDArray[np.float32]
    texts_TK: tuple[tuple[str, ...], ...] | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """How a completion was chosen among several of its problem.

    Made by `samplers/best_of_n.py`, read by evaluation. `by` names the rule; `scores` are what was said of each
    candidate, in the order of their samples, None where there is no verdict (the harness failed, or nothing applies).
    `place` is the chosen one's; None where no candidate has a verdict, so that the first stands for all.

    Example: the second of three by a reward: `Selection("score", (0.2, 0.7, None), place=1)`.
    """

    by: str
    scores: tuple[float | None, ...]
    place: int | None


@dataclass(frozen=True, slots=True)
class Completion:
    """Tokens a sampler drew for one problem, exactly as it saw and drew them.

    Made by `samplers/`, read by scorers, rollouts and training; never tokenized again. `ids` include the
    stop token, `text` does not, nor a stop string. Log-probs are nats, one a token: `sampler_logprobs` under
    the full distribution at temperature 1, `drawing_logprobs` under the one that was drawn from (penalty,
    constraint, temperature, truncation; 0 where greedy). An endpoint that speaks text alone leaves the arrays
    empty and the log-probs None. `transcript` is empty but where a completion that ended a rollout of several turns is
    judged: the messages between the problem's and this text, calls and what tools replied. `selection` is there where
    it was chosen among several: then `sampler_logprobs` are still those of the policy that drew all of them, and
    `drawing_logprobs` are None, since nobody knows the chosen one's own.

    Example: prompt ids `[5, 9]`, drawn ids `[7, 3]` with 3 a stop token: `finish_reason="stop"`,
    `text` is the decoding of `[7]`, `sampler_logprobs` has two entries.
    """

    problem_id: str
    sample_index: int
    prompt_ids: npt.NDArray[np.int32]
    ids: npt.NDArray[np.int32]
    text: str
    finish_reason: FinishReason
    policy_hash: str
    seed: int
    sampler_logprobs: npt.NDArray[np.float32] | None = None
    drawing_logprobs: npt.NDArray[np.float32] | None = None
    top_logprobs: TopLogprobs | None = None
    transcript: tuple[Message, ...] = ()
    selection: Selection | None = None


MAX_HARNESS_FAULT_FRACTION = 0.01
"""Above this share of harness faults, what is left out could decide: no number is given, and no gate decides."""


SAME_REWARD = 1e-9
"""Rewards closer together than this are equal: sums of parts may differ in the last bits."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scorer says of one completion: a score, or the typed failure that stands in its place.

    `status` is `scored`, one of the failures, or `not_applicable` where the scorer has nothing to say of
    such a row; `fault` says whose failure it is. The policy's failures keep their declared `value` in
    every denominator; the harness's, and what does not apply, never become a score. `answer` is
    what was judged, in one form, where a scorer looks for a final answer: equal ones are one vote
    (`statistics.repeats`).

    Example: an answer that cannot be read is `Outcome("unparsed", 0.0, fault="policy",
    why="no number found")` and counts as 0 in the mean.
    """

    status: Literal["scored", "unparsed", "timed_out", "truncated", "errored", "not_applicable"]
    value: float
    why: str = ""
    fault: Literal["policy", "harness"] | None = None
    parts: dict[str, float] = field(default_factory=dict)
    answer: str | None = None

    @property
    def is_counted(self) -> bool:
        """Whether the value stands in a denominator."""
        return self.fault != "harness" and self.status != "not_applicable"


@dataclass(frozen=True, slots=True)
class Observation:
    """Tokens that an environment put between two completions: what tools gave. They carry no loss.

    Made by environments, read by samplers (as part of the next prompt) and training. `ids` are all that the template
    writes from behind the assistant's stop token to where it is to go on. `replies` are the same as messages, one a
    call, of which `num_failed` are errors.

    Example: a call of a calculator under the plain template: `replies` hold
    `{"role": "tool", "name": "calculator", "content": "42"}`, and `ids` write `\\nTool:\\n42<eos>\\nAssistant:\\n`.
    """

    ids: npt.NDArray[np.int32]
    replies: tuple[Message, ...]
    num_failed: int = 0


@dataclass(frozen=True, slots=True)
class Rollout:
    """One attempt at a problem, as it was drawn, with what it is worth.

    Made by `rollouts/`, read by stages. Turns alternate: completions, and observations between them; each completion's
    prompt is the first one's prompt and all tokens since.

    Example: a call of a tool and an answer: `turns = (Completion(prompt 5 tokens, ids 7), Observation(3 ids),
    Completion(prompt 15 tokens, ids 4))`: 14 tokens behind the prompt, 11 of them drawn.
    """

    problem_id: str
    sample_index: int
    turns: tuple[Completion | Observation, ...]
    outcome: Outcome

    @property
    def prompt_ids(self) -> npt.NDArray[np.int32]:
        """What stood before the first completion."""
        first = self.turns[0]
        assert isinstance(first, Completion)
        return first.prompt_ids

    @property
    def last(self) -> Completion:
        """The completion that ended it."""
        last = self.turns[-1]
        assert isinstance(last, Completion)
        return last

    @property
    def ids_T(self) -> npt.NDArray[np.int32]:
        """All tokens behind the prompt, observations among them."""
        return np.concatenate([turn.ids for turn in self.turns])

    @property
    def is_drawn_T(self) -> npt.NDArray[np.bool_]:
        """Which of these tokens the policy drew."""
        return np.concatenate([np.full(len(turn.ids), isinstance(turn, Completion)) for turn in self.turns])

    @property
    def num_drawn(self) -> int:
        """How many tokens the policy drew."""
        return sum(len(turn.ids) for turn in self.turns if isinstance(turn, Completion))

    @property
    def is_cut(self) -> bool:
        """Whether a bound ended it: on tokens, on turns, or on what tools may say."""
        return self.last.finish_reason == "length" or self.outcome.status == "truncated"


@dataclass(frozen=True, slots=True)
class Group:
    """The rollouts of one problem, by their sample index.

    Made by `rollouts/`, read by stages and `statistics.reward_groups`.
    """

    problem: Problem
    rollouts: tuple[Rollout, ...]

    @property
    def rewards(self) -> list[float | None]:
        """What each rollout is worth; None where there is no verdict."""
        return [rollout.outcome.value if rollout.outcome.is_counted else None for rollout in self.rollouts]

    @property
    def is_informative(self) -> bool:
        """Whether two rewards differ: an estimator that compares rollouts of a group learns from nothing else."""
        known = [reward for reward in self.rewards if reward is not None]
        return len(known) > 1 and max(known) - min(known) > SAME_REWARD


@dataclass(frozen=True, slots=True)
class ItemResult:
    """One evaluated item, one JSON line: what every paired comparison reads.

    Made by `evaluation/runner.py`, read by gates and reports. `prompt` are the problem's messages,
    `reference` its right answer where it has one, `text` what the policy answered, `transcript` what was said between
    them: calls and what tools replied.
    """

    item_id: str
    cluster_id: str
    task_hash: str
    sample_index: int
    outcome: Outcome
    policy_hash: str
    text: str = ""
    prompt: list[Message] = field(default_factory=list)
    reference: str = ""
    transcript: list[Message] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Artifact:
    """Something a stage made: a folder of files with a name by content.

    Made by `pipeline/store.py`, read by the next stage, the report and the user. `key` is the hash of
    the configuration and inputs that made it (for the cache), `hash` that of its sorted files.
    """

    kind: Literal["policy", "reward_model", "dataset", "evaluation"]
    key: str
    hash: str
    folder: str
