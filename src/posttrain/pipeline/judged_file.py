"""What a scorer said of drawn completions, kept beside them: nothing is judged twice, whenever a start is stopped."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
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


@dataclass(slots=True)
class Judge:
    """A scorer with the file that keeps its outcomes, one JSON line each, without the texts.

    `found` are the outcomes of this judging in the order of what was judged, `earlier` those that the file held.
    """

    scorer: NamedScorer
    path: Path
    found: dict[CompletionKey, Outcome] = field(default_factory=dict)
    earlier: dict[CompletionKey, Outcome] = field(default_factory=dict)
    name: str = ""

    def open(self, drawn_hash: str) -> None:
        """Read what the file holds of completions that a hash names; with the scorer it decides what still holds."""
        self.name = hash_json([drawn_hash, self.scorer.identity])
        known = [
            item for item in read_items(self.path) if item.task_hash == self.name and item.outcome.fault != "harness"
        ]
        write_items(self.path, known)
        self.earlier = {item_key(item): item.outcome for item in known}

    def judge(self, batch: Sequence[tuple[Problem, Completion]]) -> None:
        """Judge a batch, all of it unless all of it was judged before; outcomes of before stand."""
        keys = [(problem.problem_id, completion.sample_index) for problem, completion in batch]
        if any(key not in self.earlier for key in keys):
            items = [_strip(item, self.name) for item in score_batch(batch, self.scorer.scorer, self.name)]
            fresh = [item for item in items if item_key(item) not in self.earlier]
            append_items(self.path, fresh)
            self.earlier |= {item_key(item): item.outcome for item in fresh}
        self.found |= {key: self.earlier[key] for key in keys}


# many parameters: what is judged, by whom, and who is told
def judge_completions(
    pairs: Iterable[tuple[Problem, Completion]],
    judges: Sequence[Judge],
    drawn_hash: str,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> None:
    """Have every judge judge each completion; outcomes are in the judges, by problem and sample.

    Completions are judged in batches that do not depend on where a start was stopped, each whole or anew: scores that
    round by what is scored beside them are the same. All judges take a batch before the next one, so that those that
    share a reward model share its passes.

    Args:
        pairs: What was drawn, of problems with ids of their own.
        judges: Who judges; of the first the mean value is shown.
        drawn_hash: Names what was drawn.
        progress: Is told of each completion, in a task that was begun.
        should_stop: Whether a stop was asked for.

    Raises:
        TerminatedError: A stop was asked for; what was judged is kept.
    """
    for judge in judges:
        judge.open(drawn_hash)
    total, count = 0.0, 0
    for batch in _cut(pairs):
        for judge in judges:
            judge.judge(batch)
        outcomes = [judges[0].found[problem.problem_id, completion.sample_index] for problem, completion in batch]
        counted = [outcome.value for outcome in outcomes if outcome.is_counted]
        total, count = total + sum(counted), count + len(counted)
        progress.advance(len(batch), **{judges[0].scorer.scorer.name: total / max(1, count)})
        check_stop(should_stop())


def _cut(pairs: Iterable[tuple[Problem, Completion]]) -> Iterator[list[tuple[Problem, Completion]]]:
    waiting = iter(pairs)
    while batch := list(itertools.islice(waiting, _AT_ONCE)):
        yield batch


def _strip(item: ItemResult, name: str) -> ItemResult:
    return replace(item, task_hash=name, text="", prompt=[], reference="", transcript=[])
