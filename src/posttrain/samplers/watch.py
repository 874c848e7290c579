"""What is done for each row beside drawing: masks of the tokens a constraint allows, the search for stop strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from posttrain.core.errors import RecipeError
from posttrain.core.sampling import SamplingSettings
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


def build_watch(
    settings: SamplingSettings,
    stop_ids: Sequence[int],
    decode: Callable[[Sequence[int]], str],
    compiler: ConstraintCompiler | None,
    device: torch.device,
) -> RowWatch:
    """Return what follows the rows of one call.

    Raises:
        RecipeError: The constraint cannot be used, or this sampler has no tokenizer to hold one with.
    """
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
    return RowWatch(constraint, stops, stop_ids, device)
