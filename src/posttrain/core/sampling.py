"""How to draw: the settings that every sampler takes, and the promise that every sampler keeps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from posttrain.core.errors import RecipeError
from posttrain.core.records import Completion, Problem
from posttrain.core.seeds import derive_seed

MAX_TOP_LOGPROBS = 128
LOWER_MAX_NEW_TOKENS = (
    "lower max_new_tokens (of a published benchmark: in a YAML suite with a task that has 'benchmark: <name>' and its "
    "own max_new_tokens)"
)
"""The cure of completions that find no room."""


@dataclass(frozen=True, slots=True)
class TokenConstraint:
    """What a completion's text must be, held by masking tokens while it is drawn.

    `kind` says what `text` is: a JSON Schema (as JSON text), a regular expression, or a Lark grammar. The
    whole completion matches it; a stop token is allowed only where it may end.
    """

    kind: Literal["json_schema", "regex", "lark"]
    text: str


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How to draw completions; `None` is off.

    The order is that of transformers: repetition penalty, constraint, temperature, top-k, top-p, min-p.

    Args:
        max_new_tokens: Most tokens of a completion, its stop token included, >= 1.
        temperature: Logits are divided by it, >= 0; 0 is greedy (the most probable token, the lowest id of equals).
        top_p: Smallest set of tokens whose probability reaches it, in (0, 1) (arXiv 1904.09751).
        top_k: Only so many most probable tokens, >= 1.
        min_p: Only tokens with at least this share of the largest probability, in (0, 1) (arXiv 2407.01082).
        repetition_penalty: Positive logits of tokens seen in prompt or completion are divided by it and
            negative ones multiplied, > 0 (arXiv 1909.05858).
        num_samples: Completions of each problem, >= 1.
        stop_ids: Token ids that end a completion, beside the policy's own.
        stop_strings: Texts that end a completion; the text of the completion ends before them.
        ignore_eos: Draw on past the policy's own stop tokens (for measurements); `stop_ids` still end.
        top_logprobs: Record so many most probable tokens at each position, 0 to 128.
        constraint: What the text must be.

    Raises:
        RecipeError: A value is outside its range, or two settings contradict one another.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    num_samples: int = 1
    stop_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    ignore_eos: bool = False
    top_logprobs: int = 0
    constraint: TokenConstraint | None = None

    def __post_init__(self) -> None:
        _check_range("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "a whole number from 1")
        _check_range("temperature", self.temperature, 0 <= self.temperature < math.inf, "0 (greedy) or more")
        if self.top_p is not None:
            _check_range("top_p", self.top_p, 0 < self.top_p < 1, "between 0 and 1, or none for all tokens")
        if self.top_k is not None:
            _check_range("top_k", self.top_k, self.top_k >= 1, "a whole number from 1, or none for all tokens")
        if self.min_p is not None:
            _check_range("min_p", self.min_p, 0 < self.min_p < 1, "between 0 and 1, or none for all tokens")
        if self.repetition_penalty is not None:
            _check_range(
                "repetition_penalty", self.repetition_penalty, 0 < self.repetition_penalty < math.inf, "above 0"
            )
        _check_range("num_samples", self.num_samples, self.num_samples >= 1, "a whole number from 1")
        _check_range(
            "top_logprobs", self.top_logprobs, 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS, f"0 to {MAX_TOP_LOGPROBS}"
        )
        _check_range("stop_strings", list(self.stop_strings), all(self.stop_strings), "texts of at least one character")
        self._check_pairs()

    def _check_pairs(self) -> None:
        if self.temperature == 0:
            truncations = {"top_p": self.top_p, "top_k": self.top_k, "min_p": self.min_p}
            given = [name for name, value in truncations.items() if value is not None]
            if given:
                raise RecipeError(
                    f"{given[0]} with temperature 0, where it can change nothing",
                    expected="greedy drawing (temperature 0) alone, or a temperature above 0",
                    cure=f"leave {given[0]} out, or set a temperature such as 1.0",
                    place=given[0],
                )
            if self.num_samples > 1:
                raise RecipeError(
                    f"{self.num_samples} samples of each problem at temperature 0, which would all be the same",
                    expected="one sample, or a temperature above 0",
                    cure="set a temperature such as 1.0, or one sample",
                    place="num_samples",
                )

    @property
    def is_truncated(self) -> bool:
        """Whether some tokens of the full distribution cannot be drawn, or are drawn with a changed share."""
        cuts = (self.top_p, self.top_k, self.min_p, self.repetition_penalty, self.constraint)
        return any(cut is not None for cut in cuts)


def _check_range(name: str, value: Any, holds: bool, expected: str) -> None:
    if not holds:
        raise RecipeError(f"{name} is {value}", expected=expected, cure=f"set {name} to {expected}", place=name)


def derive_sample_seed(problem_seed: int, sample_index: int) -> int:
    """Return the seed that a problem's sample draws with, whatever else is drawn beside it."""
    return derive_seed("sample", problem_seed, sample_index)


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """The weights that a sampler is to draw from next.

    Made by trainers and the wiring, read by `Sampler.publish`. An engine in this process copies from the
    live `model` (a transformers or PEFT model); an engine in another process loads `folder`.

    Example: after step 3 of a run the trainer publishes `PolicyVersion("9f2c...", model=policy.model)`, and
    every completion drawn from then on has `policy_hash == "9f2c..."`.
    """

    hash: str
    model: Any | None = None
    folder: Path | None = None


class Sampler(Protocol):
    """Draws completions from a policy and knows which policy that is, by hash."""

    policy_hash: str

    def sample(
        self, problems: Sequence[Problem], settings: SamplingSettings, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (index of the problem, completion) as they finish; closing the iterator cancels the rest.

        With `num_samples` of n each problem comes n times, with `sample_index` 0 to n - 1, each drawn with
        `derive_sample_seed(seeds[index], sample_index)`.
        """

    def publish(self, policy: PolicyVersion) -> str:
        """Take over a policy's weights and return the hash that completions carry from now on."""

    def close(self) -> None:
        """Release memory, files and processes; again does nothing."""
