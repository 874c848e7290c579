"""What the harness makes of responses: filters, metrics of a document, metrics of all documents, standard errors."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from posttrain.core.errors import RefusedError
from posttrain.core.metrics import BYTE_PROBABILITY
from posttrain.evaluation.harness import LoadedTask, guard_harness
from posttrain.evaluation.harness_task import HarnessTask

_ITERATIONS = 1000
"""Resamples of the harness's bootstrap."""
_FEW_ITERATIONS = 100
_SLOW = ("bleu", "chrf", "chrf++", "ter")
"""Metrics that the harness resamples less often."""


def score_documents(
    loaded: LoadedTask, responses: Mapping[int, Sequence[Sequence[Any]]]
) -> dict[int, dict[str, Any] | str]:
    """Return what the harness makes of the responses to documents, or why its code failed on one.

    Args:
        loaded: The task.
        responses: Of each document, by request and repetition.

    Returns:
        By document: values by metric, as `name` or, of a task with several filters, `name,filter`; or a text.
    """
    instances: dict[int, list[Any]] = {}
    for number, given in responses.items():
        instances[number] = []
        for request, mine in zip(loaded.requests[number], given, strict=True):
            answered = copy.copy(request)
            answered.resps, answered.filtered_resps = list(mine), {}
            instances[number].append(answered)
    if not instances:
        return {}
    task = loaded.task
    with guard_harness(loaded.name, f"evaluate: {loaded.name}", is_silent=False):
        task._instances = [instance for mine in instances.values() for instance in mine]
        task.apply_filters()
    return {number: _score(loaded, number, mine) for number, mine in instances.items()}


def _score(loaded: LoadedTask, number: int, instances: Sequence[Any]) -> dict[str, Any] | str:
    found: dict[str, Any] = {}
    filters = list(instances[0].filtered_resps)
    try:
        for name in filters:
            given = [instance.filtered_resps[name] for instance in instances]
            metrics = loaded.task.process_results(loaded.docs[number], given)
            found |= {(metric if len(filters) == 1 else f"{metric},{name}"): raw for metric, raw in metrics.items()}
    except Exception as error:  # noqa: BLE001 (the task's own code: what it raises becomes a recorded outcome)
        return f"the task's code raised {type(error).__name__}: {error}"[:400]
    return found


def aggregate(loaded: LoadedTask, name: str, raws: Sequence[Any], place: str) -> tuple[float | None, float | None]:
    """Return a metric over all documents as the harness computes it, and its standard error where it gives one.

    Raises:
        DataError: The harness's code raised.
    """
    from lm_eval.api.metrics import mean, stderr_for_metric

    function = _find_aggregation(loaded, name) or mean
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"  # the harness would fork this process, which holds a model
    try:
        with guard_harness(loaded.name, place):
            value = float(function(list(raws)))
            iterations = _FEW_ITERATIONS if _strip_filter(name) in _SLOW else _ITERATIONS
            compute_error = stderr_for_metric(function, iterations) if len(raws) > 1 else None
            error = float(compute_error(list(raws))) if compute_error is not None else None
    finally:
        os.environ.pop("DISABLE_MULTIPROC")
        if before is not None:
            os.environ["DISABLE_MULTIPROC"] = before
    return tuple(x if x is not None and math.isfinite(x) else None for x in (value, error))  # type: ignore[return-value]


def _find_aggregation(loaded: LoadedTask, name: str) -> Any:
    found = loaded.task.aggregation()
    return found.get(name, found.get(_strip_filter(name)))


def _strip_filter(name: str) -> str:
    return name.rsplit(",", 1)[0]


def is_lower_better(loaded: LoadedTask, name: str) -> bool:
    """Return whether the harness declares that less of a metric is better."""
    found = loaded.task.higher_is_better()
    return found.get(name, found.get(_strip_filter(name))) is False


def is_mean_function(function: Any) -> bool:
    """Return whether an aggregation of the harness is the mean over documents."""
    return getattr(function, "__name__", "") in ("mean", "nanmean") and function.__module__ == "lm_eval.api.metrics"


def split_metrics(loaded: LoadedTask, found: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """Return a document's metrics apart: numbers whose mean is the metric, and what is computed from all documents.

    A number that is not finite, or None, of a mean is in neither: the metric says nothing of the document.
    """
    numbers: dict[str, float] = {}
    others: dict[str, Any] = {}
    for name, raw in found.items():
        function = _find_aggregation(loaded, name)
        if function is not None and not is_mean_function(function):
            others[name] = raw
        elif isinstance(raw, bool | int | float | np.number | np.bool_) and math.isfinite(float(raw)):
            numbers[name] = float(raw)
    return numbers, others


def choose_metric(task: HarnessTask, loaded: LoadedTask) -> str:
    """Return the name of what an item is worth: the metric that the task names, else the first that is a mean.

    Raises:
        RefusedError: The task has no such metric, it has no value for a document, or less of it is better.
    """
    found = loaded.task
    filters = [ensemble.name for ensemble in found._filters]
    means = [name for name, function in found.aggregation().items() if is_mean_function(function)]
    better = {name for name in means if found.higher_is_better().get(name) is not False}
    names = [name if len(filters) == 1 else f"{name},{key}" for name in means if name in better for key in filters]
    if task.metric is None and names:
        return names[0]
    if task.metric is None and loaded.output_type in ("loglikelihood", "loglikelihood_rolling"):
        return BYTE_PROBABILITY
    for name in names:
        if task.metric in (name, _strip_filter(name)):
            return name
    if task.metric == BYTE_PROBABILITY and loaded.output_type in ("loglikelihood", "loglikelihood_rolling"):
        return BYTE_PROBABILITY
    named = f"'{task.metric}' is no metric that an item is worth" if task.metric else "no metric has a value an item"
    raise RefusedError(
        f"{named}; the task has {', '.join(found.aggregation()) or 'none'}",
        expected=("one of " + ", ".join(names)) if names else "a metric that is a mean over documents, more is better",
        cure="name another 'metric'" if names else "measure a copy of the task (`include`) that lists such a metric",
        place=f"evaluate: {task.name}: metric",
    )
