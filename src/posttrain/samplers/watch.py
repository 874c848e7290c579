"""What is done for each row beside drawing: masks of the tokens a constraint allows, the search for stop strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from posttrain.core.errors import RecipeError, SamplerError
from posttrain.core.sampling import PolicyVersion, SamplingSettings
from posttrain.samplers.constraints import CompiledConstraint, ConstrainedText, ConstraintCompiler
from posttrain.samplers.stops import StopStrings


class RowWatch:
    """Follows the text of each row; without a constraint and stop strings it costs nothing.

    Args:
        constraint: What each text must be, or None.
        stops: Texts that end a row, or None.
        stop_ids: Tokens that end a row: no part of its text.
        device: Where the masks are needed.
    """

    def __init__(
        self,
        constraint: CompiledConstraint | None,
        stops: StopStrings | None,
        stop_ids: Sequence[int],
        device: torch.device,
    ) -> None:
        self._constraint = constraint
        self._stops = stops
        self._stop_ids = frozenset(stop_ids)
        self._device = device
        self._texts: dict[int, ConstrainedText] = {}
        self._ids: dict[int, list[int]] = {}

    def start(self, row: int) -> None:
        """Begin an empty text in a row."""
        if self._constraint is not None:
            self._texts[row] = self._constraint.start()
        if self._stops is not None:
            self._ids[row] = []

    def allowed(self, rows: slice) -> torch.Tensor | None:
        """Return packed words [B, W] of the tokens that each row may draw, or None for all."""
        if self._constraint is None:
            return None
        return self._constraint.fill_masks([self._texts[row] for row in range(rows.start, rows.stop)]).to(self._device)

    def accept(self, first_row: int, ids: Sequence[int]) -> dict[int, str]:
        """Take note of a drawn token of each row from the first on; return the texts that end before a stop string."""
        ended: dict[int, str] = {}
        if self._constraint is None and self._stops is None:
            return ended
        for row, token in enumerate(ids, first_row):
            if token in self._stop_ids:
                continue
            if self._constraint is not None:
                self._texts[row].advance(token)
            if self._stops is not None:
                self._ids[row].append(token)
                text = self._stops.find_text(self._ids[row])
                if text is not None:
                    ended[row] = text
        return ended

    def move(self, source: int, target: int) -> None:
        """Let a row's place be taken by another."""
        if self._constraint is not None:
            self._texts[target] = self._texts[source]
        if self._stops is not None:
            self._ids[target] = self._ids[source]


@dataclass(frozen=True, slots=True)
class DrawingRequest:
    """One call of a sampler: how to draw, all token ids that end a sequence, and what follows the rows."""

    settings: SamplingSettings
    stop_ids: tuple[int, ...]
    watch: RowWatch


def build_request(
    settings: SamplingSettings,
    policy_stop_ids: Sequence[int],
    decode: Callable[[Sequence[int]], str],
    compiler: ConstraintCompiler | None,
    device: torch.device,
) -> DrawingRequest:
    """Return what a call of a sampler is to do.

    Raises:
        RecipeError: The constraint cannot be used, or this sampler has no tokenizer to hold one with.
    """
    own_stops = () if settings.ignore_eos else policy_stop_ids
    stop_ids = tuple(sorted({*own_stops, *settings.stop_ids}))
    constraint = None
    if settings.constraint is not None:
        if compiler is None:
            raise RecipeError(
                "a constraint for a sampler without a tokenizer",
                expected="a sampler built with the policy's tokenizer",
                cure="build it with posttrain.pipeline.sampling.build_sampler",
                place="constraint",
            )
        constraint = compiler.compile(settings.constraint, stop_ids)
    stops = StopStrings(settings.stop_strings, decode) if settings.stop_strings else None
    return DrawingRequest(settings, stop_ids, RowWatch(constraint, stops, stop_ids, device))


def check_publishable(policy: PolicyVersion, *, is_drawing: bool) -> None:
    """Refuse weights that a sampler in this process cannot take over.

    Raises:
        SamplerError: A sampling is under way, or the policy is not in this process.
    """
    if is_drawing:
        raise SamplerError(
            "weights were published while completions are being drawn",
            expected="no iterator that is still read",
            cure="read the iterator to its end, or close it, and publish then",
        )
    if policy.model is None:
        raise SamplerError(
            "a policy without a live model",
            expected="PolicyVersion(hash, model=...)",
            cure="load the policy first (posttrain.models.loading.load_policy)",
        )
