"""Two policies on the same items: from names that a user types to a record for the table and the page.

| name | what it stands for |
| --- | --- |
| `runs/demo`, `runs/demo:sft` | a stage of a run (the last; the named one, `base` too), by what the run measured |
| `runs/demo/artifacts/<hash>` | an artifact, by what its run measured |
| `evaluations/<hash>` | what `posttrain eval` measured |
| any model | with a suite: measured now, as far as it was not before |
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.core.config import suggest
from posttrain.core.durable import read_json
from posttrain.core.errors import DataError, RecipeError, StorageError
from posttrain.core.metrics import STOP_RATE, describe_metric
from posttrain.core.protocols import Progress
from posttrain.core.records import ItemResult
from posttrain.core.run_folder import RunFolder
from posttrain.core.seeds import build_numpy_generator
from posttrain.evaluation.figures import STOPPED, summarise_items
from posttrain.evaluation.items import read_items
from posttrain.pipeline.evaluating import EvaluationChoice, evaluate_model
from posttrain.reports.comparison import (
    ComparedMetric,
    ComparedPolicy,
    Comparison,
    Flip,
    MeasuredSide,
    TaskFlips,
)
from posttrain.statistics.multiplicity import adjust_holm
from posttrain.statistics.paired import compare_pairs
from posttrain.statistics.pairing import pair_items
from posttrain.statistics.repeats import parse_repeated

LEVEL = 0.05
EVALUATIONS = "evaluations"


@dataclass(frozen=True, slots=True)
class Side:
    """What one name stands for: a policy, and the cards of what it was measured on, by task."""

    name: str
    policy_hash: str
    cards: dict[str, dict[str, Any]]
    folder: Path

    def read_items(self, task: str) -> list[ItemResult]:
        """Return the items of a task.

        Raises:
            StorageError: The file is torn.
        """
        return read_items(self.folder / f"{self.cards[task]['file']}.jsonl")


def compare_models(
    names: tuple[str, str],
    choice: EvaluationChoice | None,
    progress: Progress,
    should_stop: Callable[[], bool],
    *,
    num_flips: int = 3,
) -> Comparison:
    """Return two policies compared on every task that both were measured on.

    Args:
        names: A and B; differences are B less A.
        choice: A suite to measure both on; None: what was measured before is compared.
        progress: Shows how far measuring has come.
        should_stop: Asked after every batch.
        num_flips: Examples of each kind and task: items that B lost, and that it gained.

    Raises:
        RecipeError: A name stands for nothing that was measured.
        DataError: Both were measured on no task in common, or were asked with different chat templates.
        StorageError: An item file is torn.
    """
    if choice is None:
        a, b = (find_side(name) for name in names)
    else:
        a, b = (_measure(name, choice, progress, should_stop) for name in names)
    return compare_sides(a, b, num_flips=num_flips)


def _measure(name: str, choice: EvaluationChoice, progress: Progress, should_stop: Callable[[], bool]) -> Side:
    evaluated = evaluate_model(name, choice, progress, should_stop)
    hashes = {task: one.hash for task, one in evaluated.measured.items()}
    return _read_side(name, evaluated.policy_hash, evaluated.folder, hashes, choice.seed)


def find_side(name: str) -> Side:
    """Return what a name stands for (see the module's table).

    Raises:
        RecipeError: Nothing that was measured.
    """
    text, _, stage = name.partition(":")
    path = Path(text)
    if RunFolder(path).run_json.is_file():
        return _find_stage(name, RunFolder(path), stage or None)
    whole = Path(name)
    if whole.parent.name == "artifacts" and RunFolder(whole.parent.parent).run_json.is_file():
        return _read_side(name, whole.name, RunFolder(whole.parent.parent).evaluations(whole.name).root)
    if whole.parent.name == EVALUATIONS and whole.is_dir():
        return _read_side(name, whole.name, whole)
    raise RecipeError(
        f"'{name}' names nothing that was measured",
        expected="a run (runs/demo), a stage of one (runs/demo:sft), an artifact of one, or evaluations/<hash>",
        cure="measure it now: add --suite NAME",
        place=name,
    )


def _find_stage(name: str, run: RunFolder, stage: str | None) -> Side:
    record = read_json(run.run_json)
    policies = {metric["stage"]: metric.get("policy") for metric in record["metrics"] if metric.get("policy")}
    known = list(policies)
    if stage is None and known:
        stage = known[-1]
    if stage not in policies:
        raise RecipeError(
            f"no stage '{stage}' was measured in {run.root}" if stage else f"nothing was measured in {run.root}",
            expected="one of " + ", ".join(known) if known else "a run whose recipe has 'evaluate:'",
            cure=suggest(str(stage), known),
            place=name,
        )
    hashes = {metric["task"]: metric["task_hash"] for metric in record["metrics"] if metric["stage"] == stage}
    policy = str(policies[stage])
    return _read_side(f"{run.root}:{stage}", policy, run.evaluations(policy).root, hashes)


def _read_side(
    name: str, policy_hash: str, folder: Path, hashes: dict[str, str] | None = None, seed: int | None = None
) -> Side:
    """Return a side with the cards of a folder: of each task the newest, or the one that is wanted by hash."""
    cards: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
        card = read_json(path)
        if not isinstance(card, dict) or not {"task", "task_hash", "metric", "template", "settings"} <= card.keys():
            raise StorageError(
                "not the card of an evaluation",
                expected="what 'posttrain eval' and 'posttrain run' write beside items",
                cure="remove the file, or measure the policy again",
                place=str(path),
            )
        is_wanted = hashes is None or hashes.get(card["task"]) == card["task_hash"]
        if is_wanted and seed in (None, card.get("seed")) and path.with_suffix(".jsonl").is_file():
            cards[card["task"]] = {**card, "file": path.stem}
    if not cards:
        raise RecipeError(
            f"nothing that '{name}' answered is there",
            expected=f"items in {folder}",
            cure="measure it: posttrain eval MODEL --suite NAME",
            place=name,
        )
    return Side(name, policy_hash, cards, folder)


def compare_sides(a: Side, b: Side, *, num_flips: int = 3, level: float = LEVEL) -> Comparison:
    """Return two sides compared on every task that both were measured on.

    Raises:
        DataError: There is none, or they were asked with different chat templates.
        StorageError: An item file is torn.
    """
    tasks = [task for task in a.cards if task in b.cards]
    if not tasks:
        raise DataError(
            f"no task in common: {', '.join(a.cards)} and {', '.join(b.cards)}",
            expected="the same tasks on both sides",
            cure="measure both on one suite: posttrain compare A B --suite NAME",
            place=f"{a.name}, {b.name}",
        )
    metrics: list[ComparedMetric] = []
    flips: list[TaskFlips] = []
    for task in tasks:
        _check_templates(task, a, b)
        before, after = a.read_items(task), b.read_items(task)
        metrics += _compare_task(task, a, b, before, after, level)
        if a.cards[task]["task_hash"] == b.cards[task]["task_hash"]:
            flips.append(_find_flips(task, before, after, num_flips))
    notes = [f"{side.name} was also measured on {task}" for side, other in ((a, b), (b, a))
             for task in side.cards if task not in other.cards]  # fmt: skip
    first, second = (ComparedPolicy(side.name, side.policy_hash) for side in (a, b))
    return Comparison(first, second, _adjust(metrics, level), flips, level, notes)


def _check_templates(task: str, a: Side, b: Side) -> None:
    templates = [side.cards[task]["template"] for side in (a, b)]
    if templates[0] != templates[1]:
        raise DataError(
            f"task '{task}' was asked with different chat templates: {a.name} {templates[0][:12]}, "
            f"{b.name} {templates[1][:12]}",
            expected="one template for both, so that a difference is the policies'",
            cure="measure both with one: posttrain compare A B --suite NAME --template plain (or a .jinja file)",
            place=task,
        )


# many parameters: a task, its two sides with their items, and the level
def _compare_task(
    task: str, a: Side, b: Side, before: list[ItemResult], after: list[ItemResult], level: float
) -> Iterator[ComparedMetric]:
    card = a.cards[task]
    sides = [_summarise(side.cards[task], items) for side, items in ((a, before), (b, after))]
    main = card["metric"]
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        part = {main: None, STOP_RATE: STOPPED}.get(name, name)
        found = [side.get(name, _NOTHING) for side in sides]
        known = describe_metric(name)
        empty = ComparedMetric(
            task=task, name=name, a=found[0], b=found[1], num_items=0, num_clusters=0, difference=None, low=None,
            high=None, p_value=None, verdict="unmeasured", reason="", num_better=0, num_worse=0, num_same=0,
            unit="fraction" if known is None else known.unit, task_hash=card["task_hash"],
            settings=card["settings"],
        )  # fmt: skip
        unread = [side.name for side, one in zip((a, b), found, strict=True) if one.value is None]
        if unread:
            yield replace(empty, reason=f"no answer of {' or '.join(unread)} could be read")
            continue
        yield _pair(empty, before, after, part, level, (a, b))


_NOTHING = MeasuredSide(None, None, None)


def _summarise(card: dict[str, Any], items: list[ItemResult]) -> dict[str, MeasuredSide]:
    """Return every paired metric of one side; perplexities are ratios of sums and have no value an item."""
    parts = [part for part in card["parts"] if parse_repeated(part) is None]
    repeated = [part for part in card["parts"] if parse_repeated(part) is not None]
    return {
        figures["name"]: MeasuredSide(
            figures["value"], figures["low"], figures["high"], figures["outcomes"], card["template"]
        )
        for figures in summarise_items(card["task"], card["metric"], items, parts, repeated)
    }


# many parameters: what is known of the metric, its items, and what names the draws
def _pair(
    empty: ComparedMetric,
    before: Sequence[ItemResult],
    after: Sequence[ItemResult],
    part: str | None,
    level: float,
    sides: tuple[Side, Side],
) -> ComparedMetric:
    try:
        pairs = pair_items(before, after, part=part)
        generator = build_numpy_generator("compare", empty.task_hash, *(side.policy_hash for side in sides))
        found = compare_pairs(pairs, generator, level=1 - level)
    except DataError as error:
        return replace(empty, reason=f"{error.found} (expected: {error.expected})")
    change = found.difference
    is_shown = found.test.p_value <= level
    return replace(
        empty,
        num_items=found.num_pairs,
        num_clusters=found.num_clusters,
        difference=change.value,
        low=change.low,
        high=change.high,
        p_value=found.test.p_value,
        verdict=("better" if change.value > 0 else "worse") if is_shown else "undecided",
        reason="" if is_shown else "a difference is not shown",
        num_better=found.num_better,
        num_worse=found.num_worse,
        num_same=found.num_pairs - found.num_better - found.num_worse,
        method=found.test.method,
        left_out=pairs.left_out,
    )


def _adjust(metrics: Sequence[ComparedMetric], level: float) -> list[ComparedMetric]:
    """Return the metrics with verdicts by Holm's correction over all that were tested."""
    tested = [index for index, metric in enumerate(metrics) if metric.p_value is not None]
    adjusted = adjust_holm([float(metrics[index].p_value or 0.0) for index in tested])
    found = list(metrics)
    for index, p_value in zip(tested, adjusted, strict=True):
        verdict = metrics[index].verdict if p_value <= level else "undecided"
        found[index] = replace(metrics[index], adjusted_p_value=p_value, adjusted_verdict=verdict)
    return found


def _find_flips(task: str, before: Sequence[ItemResult], after: Sequence[ItemResult], count: int) -> TaskFlips:
    """Return some of the items that changed, chosen by the hash of their names and not by charm."""
    later = {(item.item_id, item.sample_index): item for item in after}
    changed = [
        (item, later[key])
        for item in before
        if (key := (item.item_id, item.sample_index)) in later
        and item.outcome.is_counted
        and later[key].outcome.is_counted
        and item.outcome.value != later[key].outcome.value
    ]
    changed.sort(key=lambda pair: hashlib.sha256(f"{pair[0].item_id} {pair[0].sample_index}".encode()).digest())
    lost = [pair for pair in changed if pair[1].outcome.value < pair[0].outcome.value]
    gained = [pair for pair in changed if pair[1].outcome.value > pair[0].outcome.value]
    shown = [[_describe_flip(*pair) for pair in pairs[:count]] for pairs in (lost, gained)]
    return TaskFlips(task, len(lost), len(gained), *shown)


def _describe_flip(before: ItemResult, after: ItemResult) -> Flip:
    return Flip(
        before.item_id, before.prompt, before.reference, before.text, after.text, before.outcome.value,
        after.outcome.value,
    )  # fmt: skip
