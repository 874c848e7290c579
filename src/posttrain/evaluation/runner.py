"""Measures a policy on a task: draws, scores, records every item, and sums up with intervals.

Items are appended as they are scored, so a killed evaluation goes on where it stopped. What the policy
caused (unparsed, truncated) is worth its declared value and stays in every denominator. What the harness
caused is scored once more, then left out and counted; above 1 % of the items it stops the run.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError, RefusedError
from posttrain.core.metrics import STOP_RATE
from posttrain.core.protocols import Progress, Scorer
from posttrain.core.records import MAX_HARNESS_FAULT_FRACTION, Completion, ItemResult, Outcome, Problem
from posttrain.core.sampling import Sampler, SamplingSettings
from posttrain.core.seeds import build_numpy_generator, derive_seed
from posttrain.evaluation.items import append_items, read_items, write_items
from posttrain.evaluation.task import EvaluationTask, hash_task
from posttrain.statistics.intervals import bootstrap_interval, wilson_interval

STOPPED = "stopped"
"""The part of every outcome that says whether the completion ended by itself (1) or was cut (0)."""

_SCORED_AT_ONCE = 32
_STATUSES = ("scored", "unparsed", "timed_out", "truncated", "errored", "not_applicable")


def run_task(
    task: EvaluationTask,
    problems: Sequence[Problem],
    sampler: Sampler,
    scorer: Scorer,
    *,
    items_path: Path,
    progress: Progress,
    policy_hash: str,
) -> list[dict[str, Any]]:
    """Return the task's metrics: the scorer's, `stop_rate`, and the parts that the task names.

    Args:
        task: What to measure.
        problems: The task's rows, with unique ids.
        sampler: Draws from the policy that `policy_hash` names.
        scorer: Judges.
        items_path: One JSON line an item; items of the same task, problems and policy that are there
            already are not drawn again, any others are removed.
        progress: Shows how far it has come.
        policy_hash: The policy that must answer.

    Returns:
        Dictionaries of task, name, value, low, high (95 % limits), n, method, and outcomes: items by
        status, and the `harness` faults. These and what is `not_applicable` are left out of n.

    Raises:
        DataError: There is no problem, or two share an id.
        RefusedError: The sampler holds another policy, or the harness failed on over 1 % of the items.
    """
    _check(task, problems, sampler, policy_hash)
    task_hash = hash_task(task, problems)
    results = _find_answered(items_path, problems, task_hash, policy_hash)
    write_items(items_path, results.values())
    remaining = [problem for problem in problems if problem.problem_id not in results]
    progress.start(f"evaluate {task.name}", len(problems), unit="item")
    try:
        progress.advance(len(results))
        for batch in _draw(task, task_hash, remaining, sampler):
            scored = score_batch(batch, scorer, task_hash)
            append_items(items_path, scored)
            results.update({item.item_id: item for item in scored})
            progress.advance(len(scored), **{scorer.name: mean_value(results.values())})
    finally:
        progress.finish()
    # In the order of the problems, so that the file is the same however often it was interrupted.
    items = [results[problem.problem_id] for problem in problems]
    write_items(items_path, items)
    return summarise_items(task.name, scorer.name, items, task.parts)


def summarise_items(
    task_name: str, scorer_name: str, items: Sequence[ItemResult], parts: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return the metrics of a task's items: the mean score under the scorer's name, `stop_rate`, and named parts.

    Scores of 0 and 1 get Wilson's interval, any others the percentile bootstrap's. A part is averaged over the items
    whose outcome has it.

    Raises:
        RefusedError: Harness faults are more than 1 % of the items, the scorer applies to none, or no outcome has a
            part that is asked for.
    """
    counted = [item for item in items if item.outcome.is_counted]
    num_faults = sum(item.outcome.fault == "harness" for item in items)
    if not counted and not num_faults:
        raise RefusedError(
            f"{scorer_name} applies to none of {len(items)} items",
            expected="a score, or a failure of the policy, for at least one item",
            cure="choose another scorer for the task, or rows with the columns that it reads",
            place=task_name,
        )
    if not counted or num_faults > MAX_HARNESS_FAULT_FRACTION * len(items):
        faults = Counter(item.outcome.why or item.outcome.status for item in items if item.outcome.fault == "harness")
        raise RefusedError(
            f"the harness failed on {num_faults} of {len(items)} items: "
            + "; ".join(f"{why} ({count})" for why, count in faults.most_common(3)),
            expected=f"at most {MAX_HARNESS_FAULT_FRACTION:.0%} of the items, so that what is left out cannot decide",
            cure="mend the scorer or the sandbox and run the same command again: only these items are evaluated anew",
            place=task_name,
        )
    statuses = Counter[str](item.outcome.status for item in items if item.outcome.fault != "harness")
    outcomes = {**{status: statuses[status] for status in _STATUSES}, "harness": num_faults}
    seed_parts = (items[0].task_hash, items[0].policy_hash)
    series = {
        scorer_name: [item.outcome.value for item in counted],
        STOP_RATE: [item.outcome.parts[STOPPED] for item in counted],
    }
    for part in parts:
        series[part] = [item.outcome.parts[part] for item in counted if part in item.outcome.parts]
        if not series[part]:
            raise RefusedError(
                f"no outcome of {scorer_name} has the part {part!r}",
                expected="one of " + ", ".join(sorted({name for item in counted for name in item.outcome.parts})),
                cure="correct 'parts', or leave it out",
                place=task_name,
            )
    return [
        {"task": task_name, "name": name, **_estimate(values, name, *seed_parts), "outcomes": outcomes}
        for name, values in series.items()
    ]


def _check(task: EvaluationTask, problems: Sequence[Problem], sampler: Sampler, policy_hash: str) -> None:
    if sampler.policy_hash != policy_hash:
        raise RefusedError(
            f"the sampler holds policy {sampler.policy_hash}",
            expected=f"policy {policy_hash}",
            cure="load the sampler from the artifact that is to be measured",
            place=task.name,
        )
    repeated = [name for name, count in Counter(problem.problem_id for problem in problems).items() if count > 1]
    if repeated or not problems:
        raise DataError(
            f"problem id {repeated[0]!r} occurs more than once" if repeated else "no problem to evaluate",
            expected="at least one problem, each with an id of its own",
            cure="give every row another id" if repeated else "choose a source and a range that hold rows",
            place=task.name,
        )


def _find_answered(path: Path, problems: Sequence[Problem], task_hash: str, policy_hash: str) -> dict[str, ItemResult]:
    """Return the items that need no drawing; a harness fault deserves another try."""
    wanted = {problem.problem_id for problem in problems}
    return {
        item.item_id: item
        for item in read_items(path)
        if (item.task_hash, item.policy_hash) == (task_hash, policy_hash)
        and item.item_id in wanted
        and item.outcome.fault != "harness"
    }


def _draw(
    task: EvaluationTask, task_hash: str, problems: Sequence[Problem], sampler: Sampler
) -> Iterator[list[tuple[Problem, Completion]]]:
    """Yield problems with their completions, some at a time, as they finish."""
    settings = SamplingSettings(max_new_tokens=task.max_new_tokens, temperature=task.temperature)
    # By problem and not by position: an item that is drawn after a restart is the same item.
    seeds = [derive_seed("evaluation", task_hash, problem.problem_id, 0) for problem in problems]
    drawn = ((problems[index], completion) for index, completion in sampler.sample(problems, settings, seeds))
    while batch := list(itertools.islice(drawn, _SCORED_AT_ONCE)):
        yield batch


def score_batch(batch: Sequence[tuple[Problem, Completion]], scorer: Scorer, task_hash: str) -> list[ItemResult]:
    """Return one item for each problem and completion; what the harness failed on is scored once more."""
    outcomes = scorer.score(batch)
    failed = [index for index, outcome in enumerate(outcomes) if outcome.fault == "harness"]
    if failed:
        again = scorer.score([batch[index] for index in failed])
        for index, outcome in zip(failed, again, strict=True):
            outcomes[index] = outcome
    return [
        _record(problem, completion, outcome, task_hash)
        for (problem, completion), outcome in zip(batch, outcomes, strict=True)
    ]


def _record(problem: Problem, completion: Completion, outcome: Outcome, task_hash: str) -> ItemResult:
    parts = {**outcome.parts, STOPPED: float(completion.finish_reason == "stop")}
    return ItemResult(
        item_id=problem.problem_id,
        cluster_id=problem.cluster_id,
        task_hash=task_hash,
        sample_index=completion.sample_index,
        outcome=replace(outcome, parts=parts),
        policy_hash=completion.policy_hash,
        text=completion.text,
        prompt=problem.messages,
        reference=str(problem.columns.get("answer", "")),
    )


def mean_value(items: Iterable[ItemResult]) -> float:
    """Return the mean of what is counted, 0 where nothing is yet: what a progress bar shows."""
    values = [item.outcome.value for item in items if item.outcome.is_counted]
    return sum(values) / max(1, len(values))


def _estimate(values: Sequence[float], *seed_parts: str) -> dict[str, Any]:
    if set(values) <= {0.0, 1.0}:
        interval, method = wilson_interval(int(sum(values)), len(values)), "wilson"
    else:
        generator = build_numpy_generator("evaluation", "bootstrap", *seed_parts)
        interval, method = bootstrap_interval(values, generator), "bootstrap"
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": len(values),
        "method": method,
    }
