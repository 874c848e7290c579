"""Training rows that hold evaluation items of the same recipe: found before they are tokenized, and left out.

Every row of a stage's `data` is searched for the rows that the recipe's tasks are measured on (`data` of each task;
rows for selection, `development`, are none of them). What was found is kept in the run folder's cache by the content of
both sides (what the items say, not where they lie), so that a second start, and a stage whose rows were searched,
search nothing.

A stage's key counts the rows that are left out and not the items that were looked for: a task that is added and whose
items occur in no training row leaves every artifact its name.

Questions of the lab are templates filled in: a held-out question shares most of its words with training rows by its
making (`What is the name of the mayor of ...`). Between rows and tasks of the lab only what cannot be such a template
counts: a content key, a question with its answer, and a user's message that is a question, whole and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from posttrain.core.durable import read_json, write_json
from posttrain.core.errors import StorageError
from posttrain.core.hashing import hash_json
from posttrain.core.protocols import Progress
from posttrain.core.records import Problem
from posttrain.core.run_folder import RunFolder
from posttrain.data.contamination_index import ContaminationIndex, ContaminationSettings, Hit
from posttrain.data.decontamination import DECONTAMINATION_VERSION, find_contaminating_rows
from posttrain.data.evaluation_items import (
    LEAK_ANSWERS,
    EvaluationItem,
    TrainingText,
    read_item,
    read_training_text,
)
from posttrain.data.examples import iterate_examples
from posttrain.data.ledger import Ledger
from posttrain.data.sources import DataSource, fingerprint
from posttrain.evaluation.harness_task import HarnessTask
from posttrain.evaluation.perplexity import DOCUMENT
from posttrain.evaluation.questions import read_question
from posttrain.evaluation.task import ChoiceTask, GenerationTask, PerplexityTask
from posttrain.lab.source import lab_rows
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.recipe_settings import DecontaminationSettings
from posttrain.pipeline.task_rows import read_task_problems

RowTask = GenerationTask | ChoiceTask | PerplexityTask
"""A task whose rows are read here, and not by a harness."""

OFF = "not decontaminated"
_LAB = "lab:"
_ROWS_AT_ONCE = 256


def describe_decontamination(recipe: Recipe) -> str:
    """Return in a few words what training rows were searched for, which a manifest and a report show."""
    if recipe.head.decontaminate is None:
        return OFF
    names = [task.name for task in list_searched_tasks(recipe)]
    return f"searched for the rows of {', '.join(names)}" if names else "no task with rows to search for"


def list_searched_tasks(recipe: Recipe) -> list[RowTask]:
    """Return the tasks that have rows of their own, which training rows are searched for."""
    return [task for task in recipe.evaluate if not isinstance(task, HarnessTask)]


class RowSearch:
    """A search of training sources for the items of a recipe's tasks; the index is built when it is first needed.

    Args:
        recipe: Says where relative paths start and where the cache is.
        settings: How items are looked for.
        tasks: The tasks, and their rows with every path made absolute.
        progress: Shows how far it has come.
    """

    def __init__(
        self,
        recipe: Recipe,
        settings: DecontaminationSettings,
        tasks: Sequence[tuple[RowTask, DataSource]],
        progress: Progress | None = None,
    ) -> None:
        self.recipe, self.settings, self.tasks, self.progress = recipe, settings, tasks, progress
        self._index: ContaminationIndex | None = None
        self._items: list[EvaluationItem] = []
        self._lab_items: set[int] = set()
        self._items_hash: str | None = None

    def find(self, source: DataSource) -> dict[str, str]:
        """Return the rows of a source that hold an item, by id with how, from the cache where it is known.

        Raises:
            DataError: Rows of either side cannot be read.
        """
        place = RunFolder(self.recipe.folder).cache / "contamination" / f"{self._compute_key(source)}.json"
        known = _read_known(place)
        if known is not None:
            return known
        index = self._build_index()
        found = dict(find_contaminating_rows(index, self._iterate_texts(source), self._choose_hits(source)))
        write_json(place, found)
        return found

    def _compute_key(self, source: DataSource) -> str:
        return hash_json(
            {
                "rows": [fingerprint(source, root=self.recipe.root, row_source=lab_rows), _is_lab(source)],
                "items": self._read_items(),
                "settings": self.settings.model_dump(exclude={"max_fraction"}),
                "version": DECONTAMINATION_VERSION,
            }
        )

    def _read_items(self) -> str:
        """Read the tasks' items once, and return their hash: whatever a task's settings change in them, it changes."""
        if self._items_hash is None:
            for task, data in self.tasks:
                begin = len(self._items)
                problems = read_task_problems(self.recipe.roots, task, data, are_shown=False)
                self._items += [_read_task_item(task, problem) for problem in problems]
                if _is_lab(data):
                    self._lab_items.update(range(begin, len(self._items)))
            contents = [hash_json([one.item_id, one.question, one.answers, one.keys]) for one in self._items]
            self._items_hash = hash_json([contents, sorted(self._lab_items)])
        return self._items_hash

    def _build_index(self) -> ContaminationIndex:
        if self._index is None:
            self._read_items()
            own = {name: getattr(self.settings, name) for name in ContaminationSettings.model_fields}
            near = self.settings.near if "near" in self.settings.kinds else None
            self._index = ContaminationIndex(self._items, ContaminationSettings(**{**own, "near": near}))
        return self._index

    def _choose_hits(self, source: DataSource) -> Any:
        """Return what says whether a match counts for rows of a source."""
        kinds, of_lab = set(self.settings.kinds), self._lab_items if _is_lab(source) else set()

        def counts(hit: Hit) -> bool:
            if hit.kind not in kinds:
                return False
            return hit.item not in of_lab or hit.kind in ("answered", "key") or hit.is_asked

        return counts

    def _iterate_texts(self, source: DataSource) -> Iterator[TrainingText]:
        """Yield the texts of a source's rows; what cannot be read is left to the reader who trains on it."""
        if self.progress is not None:
            self.progress.start(f"searching {source.source} for evaluation items", source.rows or 0, unit="row")
        try:
            lenient = source.model_copy(update={"max_bad_fraction": 1.0})
            rows = iterate_examples(lenient, Ledger(), root=self.recipe.root, row_source=lab_rows)
            for number, example in enumerate(rows, start=1):
                yield read_training_text(example)
                if self.progress is not None and number % _ROWS_AT_ONCE == 0:
                    self.progress.advance(_ROWS_AT_ONCE)
        finally:
            if self.progress is not None:
                self.progress.finish()


def _is_lab(source: DataSource) -> bool:
    return source.source.startswith(_LAB)


def _read_task_item(task: RowTask, problem: Problem) -> EvaluationItem:
    """Return what of a task's row must not occur in training data.

    Of a multiple choice the right texts answer, unless the row itself says what must not leak.
    """
    item = read_item(problem)
    answers = item.answers
    if isinstance(task, ChoiceTask) and problem.columns.get(LEAK_ANSWERS) is None:
        question = read_question(problem, may_repeat=True)
        answers = tuple(question.choices[place] for place in question.rights)
    text = item.question or str(problem.columns.get(DOCUMENT, ""))
    return EvaluationItem(f"{task.name}: {item.item_id}", text, answers, item.keys)


def _read_known(place: Any) -> dict[str, str] | None:
    """Return what an earlier search found, or None where it is not known or its file is damaged."""
    if not place.is_file():
        return None
    try:
        found = read_json(place)
    except StorageError:
        return None
    is_whole = isinstance(found, Mapping) and all(isinstance(detail, str) for detail in found.values())
    return dict(found) if is_whole else None
