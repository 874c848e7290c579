"""What a scorer said of drawn completions, kept beside them: nothing is judged twice, whenever a start is stopped."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from posttrain.core.hashing import hash_json
from posttrain.core.protocols import Progress
from posttrain.core.records import Completion, ItemResult, Outcome, Problem
from posttrain.evaluation.generation import score_batch
from posttrain.evaluation.items import append_items, item_key, read_items, write_items
from posttrain.pipeline.completion_file import CompletionKey
from posttrain.pipeline.named_scorers import NamedScorer
from posttrain.pipeline.stoppable import check_stop

_AT_ONCE = 64


# many parameters: what is judged, by whom, where it is kept and who is told
def judge_completions(
    pairs: Iterable[tuple[Problem, Completion]],
    scorer: NamedScorer,
    path: Path,
    drawn_hash: str,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> dict[CompletionKey, Outcome]:
    """Return the outcome of each completion, by problem and sample.

    Completions are judged in parts that do not depend on where a start was stopped, each whole or anew: scores that
    round by what is scored beside them are the same.

    Args:
        pairs: What was drawn, of problems with ids of their own.
        scorer: Who judges.
        path: Keeps outcomes, one JSON line each, without the texts.
        drawn_hash: Names what was drawn; with the scorer it decides whether a line still holds.
        progress: Is told of each, in a task that was begun.
        should_stop: Whether a stop was asked for.

    Raises:
        TerminatedError: A stop was asked for; what was judged is kept.
    """
    name = hash_json([drawn_hash, scorer.identity])
    known = [item for item in read_items(path) if item.task_hash == name and item.outcome.fault != "harness"]
    write_items(path, known)
    earlier = {item_key(item): item.outcome for item in known}
    found: dict[CompletionKey, Outcome] = {}
    total, count = 0.0, 0
    for batch in _cut(pairs):
        keys = [(problem.problem_id, completion.sample_index) for problem, completion in batch]
        if any(key not in earlier for key in keys):
            items = [_strip(item, name) for item in score_batch(batch, scorer.scorer, name)]
            fresh = [item for item in items if item_key(item) not in earlier]
            append_items(path, fresh)
            earlier |= {item_key(item): item.outcome for item in fresh}
        outcomes = [earlier[key] for key in keys]
        found |= zip(keys, outcomes, strict=True)
        counted = [outcome.value for outcome in outcomes if outcome.is_counted]
        total, count = total + sum(counted), count + len(counted)
        progress.advance(len(batch), **{scorer.name: total / max(1, count)})
        check_stop(should_stop())
    return found


def _cut(pairs: Iterable[tuple[Problem, Completion]]) -> Iterator[list[tuple[Problem, Completion]]]:
    waiting = iter(pairs)
    while batch := list(itertools.islice(waiting, _AT_ONCE)):
        yield batch


def _strip(item: ItemResult, name: str) -> ItemResult:
    return replace(item, task_hash=name, text="", prompt=[], reference="", transcript=[])
