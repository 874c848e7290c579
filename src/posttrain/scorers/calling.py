"""The async twin of `Scorer.score`: a scorer's work leaves the event loop free."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from posttrain.core.protocols import Scorer
from posttrain.core.records import Completion, Outcome, Problem


async def score_async(scorer: Scorer, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
    """Return one outcome for each item, in order, scored in a thread of its own."""
    return await asyncio.to_thread(scorer.score, items)
