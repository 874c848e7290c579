"""Completions in a file, judged by a scorer: no model is loaded.

A row is a problem and its completion in one object: what a scorer reads (`answer`, `tests`, ...) beside the text in
`completion`, `response`, `output` or `text` (a text, or messages of which the last assistant's counts). A prompt may
stand in `prompt` or `messages`. Files that `posttrain sample --out` wrote are such rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.core.config import suggest
from posttrain.core.errors import DataError
from posttrain.core.hashing import hash_json
from posttrain.core.protocols import Progress, Scorer
from posttrain.core.records import Completion, FinishReason, ItemResult, Message, Problem
from posttrain.data.json_rows import read_json_lines
from posttrain.data.rows import BadRow, RawRow
from posttrain.evaluation.figures import summarise_items
from posttrain.evaluation.generation import score_batch
from posttrain.evaluation.items import append_items, read_items, write_items
from posttrain.evaluation.runner import mean_value
from posttrain.pipeline.scorers import ScorerContext, ScorerValue, build_scorer, hash_scorer, name_scorer

TEXT_COLUMNS = ("completion", "response", "output", "text")
_AT_ONCE = 64
_FINISH_REASONS: tuple[FinishReason, ...] = ("stop", "length", "cancelled", "filtered")


@dataclass(frozen=True, slots=True)
class Verified:
    """What a scorer said of a file's rows.

    `metrics` are those of `evaluation.figures.summarise_items`, for the scorer alone; `bad` are the lines that are no
    rows, which are counted and never scored.
    """

    metrics: dict[str, Any]
    items: list[ItemResult]
    bad: list[BadRow]


def verify_file(
    path: Path,
    value: ScorerValue,
    context: ScorerContext,
    progress: Progress,
    *,
    column: str | None = None,
    out: Path | None = None,
) -> Verified:
    """Return the outcomes of a JSON Lines file's rows.

    Args:
        path: The rows.
        value: The scorer as a recipe writes it.
        context: What it is built with.
        progress: Shows how far it has come.
        column: Which column holds the completion; None for the first of `TEXT_COLUMNS` that a row has.
        out: One JSON line for each row; rows that are there already, judged by the same scorer, are not judged again.

    Raises:
        DataError: The file cannot be read, has no row, or a row lacks what the scorer reads.
        RefusedError: The harness failed on over 1 % of the rows.
    """
    rows, bad = _read_rows(path)
    scorer_hash = hash_scorer(value, context)
    pairs = {row.row_id: _read_item(row, column) for row in rows}
    hashes = {row.row_id: hash_json([scorer_hash, row.values]) for row in rows}
    known = {item.item_id: item for item in (read_items(out) if out is not None else [])}
    results = {name: item for name, item in known.items() if _still_holds(item, hashes)}
    if out is not None:
        write_items(out, results.values())
    scorer = build_scorer(value, context)
    progress.start(f"verify {path.name}", len(pairs), unit="row")
    try:
        progress.advance(len(results))
        waiting = [row.row_id for row in rows if row.row_id not in results]
        for start in range(0, len(waiting), _AT_ONCE):
            scored = _score([(name, *pairs[name]) for name in waiting[start : start + _AT_ONCE]], scorer, hashes)
            if out is not None:
                append_items(out, scored)
            results.update({item.item_id: item for item in scored})
            progress.advance(len(scored), **{name_scorer(value): mean_value(results.values())})
    finally:
        progress.finish()
    items = [results[name] for name in pairs]
    if out is not None:
        write_items(out, items)
    metrics = summarise_items(path.name, name_scorer(value), items)[0]
    return Verified(metrics, items, bad)


def _still_holds(item: ItemResult, hashes: Mapping[str, str]) -> bool:
    return hashes.get(item.item_id) == item.task_hash and item.outcome.fault != "harness"


def _score(batch: list[tuple[str, Problem, Completion]], scorer: Scorer, hashes: Mapping[str, str]) -> list[ItemResult]:
    scored = score_batch([(problem, completion) for _, problem, completion in batch], scorer, "")
    return [replace(item, task_hash=hashes[name]) for item, (name, _, _) in zip(scored, batch, strict=True)]


def _read_rows(path: Path) -> tuple[list[RawRow], list[BadRow]]:
    rows: list[RawRow] = []
    bad: list[BadRow] = []
    for row in read_json_lines(path, path.name):
        if isinstance(row, RawRow):
            rows.append(row)
        else:
            bad.append(row)
    if not rows:
        raise DataError(
            f"no row that can be read, and {len(bad)} that cannot" if bad else "no rows",
            expected="JSON Lines: one object with a completion and what its scorer reads",
            cure=f"{bad[0].place}: {bad[0].detail}" if bad else "",
            place=str(path),
        )
    return rows, bad


def _read_item(row: RawRow, column: str | None) -> tuple[Problem, Completion]:
    nested = row.values.get("columns")
    values = {**row.values, **(nested if isinstance(nested, dict) else {})}
    named = [column] if column is not None else [name for name in TEXT_COLUMNS if name in values]
    if not named or named[0] not in values:
        raise DataError(
            f"no column '{column}'" if column is not None else "no completion",
            expected="a column " + ", ".join(TEXT_COLUMNS),
            cure=f"name it with --column: {suggest(column or 'completion', values)}",
            place=row.place,
        )
    text = _read_text(values.pop(named[0]), row.place, named[0])
    messages = _read_messages(values)
    problem_id = str(values.get("problem_id", row.row_id))
    reason = values.get("finish_reason", "stop")
    if reason not in _FINISH_REASONS:
        raise DataError(
            f"finish_reason is {reason!r}", expected="one of " + ", ".join(_FINISH_REASONS), place=row.place
        )
    ids = values.get("ids")
    drawn = np.array(ids if isinstance(ids, list) else [], np.int32)
    seed = values.get("seed")
    completion = Completion(
        problem_id, int(values.get("sample_index") or 0), np.zeros(0, np.int32), drawn, text, reason,
        str(values.get("policy_hash", "")), seed if isinstance(seed, int) else 0,
    )  # fmt: skip
    return Problem(row.row_id, messages, values, values.get("tools")), completion


def _read_text(value: Any, place: str, column: str) -> str:
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1].get("content")
    if not isinstance(value, str):
        raise DataError(
            f"'{column}' is a {type(value).__name__}",
            expected="a text, or messages that end with the assistant's",
            place=place,
        )
    return value


def _read_messages(values: Mapping[str, Any]) -> list[Message]:
    prompt = values.get("messages", values.get("prompt", ""))
    if isinstance(prompt, list):
        return [message for message in prompt if isinstance(message, dict)]
    return [{"role": "user", "content": str(prompt)}]
