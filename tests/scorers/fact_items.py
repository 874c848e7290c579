"""Problems with completions for tests of scorers, and the ways in which a scorer may be called."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.core.protocols import Scorer
from posttrain.core.records import Completion, FinishReason, Outcome, Problem
from posttrain.scorers.calling import score_async

CASES = Path(__file__).parent / "cases"
Item = tuple[Problem, Completion]


def make_item(text: str, columns: dict[str, Any], *, finish_reason: FinishReason = "stop", row: str = "row-1") -> Item:
    ids = np.arange(3, dtype=np.int32)
    return Problem(row, [], columns), Completion(row, 0, ids, ids, text, finish_reason, "policy", 0)


def read_cases(name: str, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (CASES / name).read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["kind"] == kind]


def _score_and_send(scorer: Scorer, items: Sequence[Item], sender: Any) -> None:
    sender.send(scorer.score(items))
    sender.close()


def score_in_a_fork(scorer: Scorer, items: Sequence[Item]) -> list[Outcome]:
    """Return the outcomes that a forked copy of this process finds."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_score_and_send, args=(scorer, items, sender))
    process.start()
    sender.close()
    outcomes = receiver.recv()
    process.join()
    return outcomes


def score_everywhere(scorer: Scorer, items: Sequence[Item]) -> list[list[Outcome]]:
    """Return the outcomes of a plain call, a thread, two threads at once, a forked process and an event loop."""
    with ThreadPoolExecutor(2) as threads:
        parallel = [future.result() for future in [threads.submit(scorer.score, items) for _ in range(2)]]

    async def inside() -> list[Outcome]:
        return await score_async(scorer, items)

    async def directly() -> list[Outcome]:
        return scorer.score(items)

    return [
        scorer.score(items),
        *parallel,
        score_in_a_fork(scorer, items),
        asyncio.run(inside()),
        asyncio.run(directly()),
    ]
