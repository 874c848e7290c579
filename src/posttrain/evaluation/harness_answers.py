"""Measures a policy on a task of lm-evaluation-harness: one item a document, its metrics the harness's own.

An item is worth the metric that the task names or lists first; its other metrics are parts under their own names
(`acc_norm`; `exact_match,strict-match` of a task with several filters). What the harness computes from all documents at
once (perplexity, corpus BLEU, F1) stands beside them, with the harness's value and standard error. The responses are
kept in the items, so that these are computed again from the file whenever they are asked for: `loglikelihood_<i>` and
`greedy_<i>` of the i-th request are parts, a drawn text is the item's text (several are a JSON list of lists).

A document whose likelihood alone is measured is worth the geometric mean probability of its bytes, in (0, 1].
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.core.freed_memory import release_freed_memory
from posttrain.core.metrics import BYTE_PROBABILITY, STOP_RATE
from posttrain.core.records import ItemResult, Outcome, Problem
from posttrain.evaluation.figures import DRAWN_NATS, DRAWN_TOKENS, STOPPED, summarise_items
from posttrain.evaluation.harness import LoadedTask, guard_harness
from posttrain.evaluation.harness_metrics import (
    aggregate,
    choose_metric,
    is_lower_better,
    is_mean_function,
    score_documents,
    split_metrics,
)
from posttrain.evaluation.harness_task import HARNESS, HarnessTask
from posttrain.evaluation.items import iterate_items
from posttrain.evaluation.weighing import check_policy

_LOGLIKELIHOOD, _GREEDY = "loglikelihood", "greedy"
_RESPONSE = re.compile(rf"({_LOGLIKELIHOOD}|{_GREEDY})_\d+")
_NO_METRICS = {STOPPED, DRAWN_TOKENS, DRAWN_NATS}
_WEIGHED_AT_ONCE = 256
"""Requests whose tokens are in memory together."""
_DRAWN_AT_ONCE = 1024
_JUDGED_AT_ONCE = 32
_NORMAL = 1.959964
_SHOWN_CHARACTERS = 2000


@dataclass(slots=True)
class Asked:
    """A document's responses as they come, by request and repetition, and what drawing them took."""

    responses: list[list[Any]]
    missing: int
    drawn: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HarnessAnswers:
    """Asks a policy the requests of a task (`answering.Answerer`).

    Args:
        task: What is measured.
        loaded: Its documents and requests.
        policy_hash: The policy that answers.
        open_policy: Opens it (`harness_model.HarnessPolicy`).
        items_path: Where its items lie.
        seed: What draws start from.
    """

    task: HarnessTask
    loaded: LoadedTask
    policy_hash: str
    open_policy: Callable[[], Any]
    items_path: Path
    seed: int = 0

    @property
    def num_samples(self) -> int:
        """One item a document: repetitions are the harness's to judge together."""
        return 1

    @property
    def metric_name(self) -> str:
        """The metric that an item is worth."""
        return choose_metric(self.task, self.loaded)

    def answer(self, problems: Sequence[Problem], task_hash: str) -> Iterator[list[ItemResult]]:
        """Yield items, some documents at a time.

        Raises:
            RefusedError: The loaded policy is another one.
            DataError: A request cannot be asked of this policy.
        """
        from posttrain.evaluation.harness_model import HarnessModel  # imports the harness

        policy = self.open_policy()
        check_policy(policy.weigher, self.policy_hash, self.task.name)
        seed_parts = ("evaluation", task_hash) if self.seed == 0 else ("evaluation", task_hash, self.seed)
        model = HarnessModel(policy, seed_parts)
        numbers = [int(problem.problem_id) for problem in problems]
        for chunk in self._cut(numbers):
            done: list[tuple[int, Asked]] = []
            for pair in self._ask(chunk, model):
                done.append(pair)
                if len(done) == _JUDGED_AT_ONCE:
                    yield self._judge(done, task_hash)
                    done = []
            if done:
                yield self._judge(done, task_hash)
            release_freed_memory()

    def summarise(self, items: Sequence[ItemResult]) -> list[dict[str, Any]]:
        """Return the item's metric, the others that are means over items, and those that the harness computes."""
        metrics = summarise_items(self.task.name, self.metric_name, items, self.list_parts(items))
        return metrics + self._aggregate(items, metrics[0])

    def name_parts(self, metrics: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return those of the task's metrics that are means of a part of its items."""
        names = [str(figures["name"]) for figures in metrics if figures["method"] != HARNESS]
        return [name for name in names if name not in (self.metric_name, STOP_RATE)]

    def list_parts(self, items: Sequence[ItemResult]) -> list[str]:
        """Return the parts of items that are metrics, sorted."""
        found = {part for item in items if item.outcome.is_counted for part in item.outcome.parts}
        return sorted(part for part in found - _NO_METRICS if not _RESPONSE.fullmatch(part))

    def _cut(self, numbers: Sequence[int]) -> Iterator[list[int]]:
        """Yield documents that are asked together."""
        is_drawn = all(x.request_type == "generate_until" for number in numbers for x in self.loaded.requests[number])
        most = _DRAWN_AT_ONCE if is_drawn else _WEIGHED_AT_ONCE
        chunk: list[int] = []
        count = 0
        for number in numbers:
            size = sum(x.repeats or 1 for x in self.loaded.requests[number])
            if chunk and count + size > most:
                yield chunk
                chunk, count = [], 0
            chunk.append(number)
            count += size
        if chunk:
            yield chunk

    def _ask(self, numbers: Sequence[int], model: Any) -> Iterator[tuple[int, Asked]]:
        """Yield documents as their last response comes in."""
        asked = {}
        by_type: dict[str, list[tuple[int, int, int]]] = {}
        for number in numbers:
            requests = self.loaded.requests[number]
            counts = [x.repeats or 1 for x in requests]
            asked[number] = Asked([[None] * count for count in counts], sum(counts))
            for index, (request, count) in enumerate(zip(requests, counts, strict=True)):
                by_type.setdefault(request.request_type, []).extend((number, index, k) for k in range(count))
        for kind, places in by_type.items():
            requests = [self.loaded.requests[number][index] for number, index, _ in places]
            for place, response in _respond(model, kind, requests, [repeat for *_, repeat in places]):
                number, index, repeat = places[place]
                mine = asked[number]
                mine.missing -= 1
                mine.responses[index][repeat] = _take(response, mine.drawn)
                if mine.missing == 0:
                    yield number, asked.pop(number)

    def _judge(self, done: Sequence[tuple[int, Asked]], task_hash: str) -> list[ItemResult]:
        scored = score_documents(self.loaded, {number: asked.responses for number, asked in done})
        return [self._record(number, asked, scored[number], task_hash) for number, asked in done]

    def _record(self, number: int, asked: Asked, found: Mapping[str, Any] | str, task_hash: str) -> ItemResult:
        requests = self.loaded.requests[number]
        parts, texts = dict(asked.drawn), []
        for index, (request, responses) in enumerate(zip(requests, asked.responses, strict=True)):
            if request.request_type == "generate_until":
                texts.append(responses)
            elif request.request_type == "loglikelihood":
                parts[f"{_LOGLIKELIHOOD}_{index}"], parts[f"{_GREEDY}_{index}"] = map(float, responses[0])
            else:
                parts[f"{_LOGLIKELIHOOD}_{index}"] = float(responses[0])
        return ItemResult(
            item_id=str(number),
            cluster_id="",
            task_hash=task_hash,
            sample_index=0,
            outcome=self._build_outcome(number, parts, found),
            policy_hash=self.policy_hash,
            text=_join_texts(texts) if texts else self._name_choice(number, asked.responses),
            prompt=self.loaded.describe_prompt(number),
            reference=self._name_target(number)[:_SHOWN_CHARACTERS],
        )

    def _build_outcome(self, number: int, parts: dict[str, float], found: Mapping[str, Any] | str) -> Outcome:
        if isinstance(found, str):
            return Outcome("errored", 0.0, why=found, fault="harness", parts=parts)
        parts |= split_metrics(self.loaded, found)[0]
        name = self.metric_name
        if name == BYTE_PROBABILITY:
            size = max(1, len(str(self.loaded.requests[number][0].args[-1]).encode()))
            return Outcome("scored", math.exp(parts[f"{_LOGLIKELIHOOD}_0"] / size), parts=parts)
        value = parts.pop(name, None)
        if value is None:
            return Outcome("not_applicable", 0.0, why=f"the harness gives no {name} of this document", parts=parts)
        return Outcome("scored", value, parts=parts)

    def _name_choice(self, number: int, responses: Sequence[Sequence[Any]]) -> str:
        """Return the likeliest of several choices."""
        if self.loaded.output_type != "multiple_choice":
            return ""
        requests, choices = self.loaded.requests[number], self._list_choices(number)
        count = len(choices) or len(requests)  # beyond, a task may weigh the choices without their question
        best = int(np.argmax([response[0][0] for response in responses[:count]]))
        return choices[best] if choices else str(requests[best].args[1]).strip()

    def _list_choices(self, number: int) -> list[str]:
        task = self.loaded.task
        if getattr(task.config, "doc_to_choice", None) is None:
            return []
        with guard_harness(self.task.task, f"evaluate: {self.task.name}", is_silent=False):
            return [str(choice) for choice in task.doc_to_choice(self.loaded.docs[number])]

    def _name_target(self, number: int) -> str:
        task, doc, choices = self.loaded.task, self.loaded.docs[number], self._list_choices(number)
        with guard_harness(self.task.task, f"evaluate: {self.task.name}", is_silent=False):
            # Of a task whose choices stand in the context, the text names the right one.
            target = task.doc_to_text(doc) if getattr(task, "multiple_input", 0) else task.doc_to_target(doc)
        if isinstance(target, int) and 0 <= target < len(choices):
            return choices[target]
        return target if isinstance(target, str) else json.dumps(target, default=str)

    def _aggregate(self, items: Sequence[ItemResult], known: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the metrics that are no means over items, from all responses in the order of the documents."""
        if all(is_mean_function(function) for function in self.loaded.task.aggregation().values()):
            return []
        wanted = {item.item_id for item in items if item.outcome.status == "scored"}
        raws: dict[str, dict[int, Any]] = {}
        responses: dict[int, list[list[Any]]] = {}
        for item in iterate_items(self.items_path):
            if item.item_id in wanted and (item.task_hash, item.policy_hash) == (items[0].task_hash, self.policy_hash):
                wanted.discard(item.item_id)
                responses[int(item.item_id)] = self._read_responses(item)
            if len(responses) == _DRAWN_AT_ONCE:
                self._collect(responses, raws)
                responses = {}
        self._collect(responses, raws)
        figures = []
        for name, by_number in raws.items():
            values = [by_number[number] for number in sorted(by_number)]
            value, error = aggregate(self.loaded, name, values, self.task.name)
            limits: tuple[float | None, float | None] = (None, None)
            if value is not None and error is not None:
                low = value - _NORMAL * error
                # What is better the lower it is (perplexity, an error rate) is never below 0.
                limits = (max(0.0, low) if is_lower_better(self.loaded, name) else low, value + _NORMAL * error)
            figures.append(
                {**known, "name": name, "value": value, "low": limits[0], "high": limits[1], "n": len(values),
                 "clusters": len(values), "method": HARNESS}
            )  # fmt: skip
        return figures

    def _collect(self, responses: Mapping[int, list[list[Any]]], raws: dict[str, dict[int, Any]]) -> None:
        for number, found in score_documents(self.loaded, responses).items():
            if not isinstance(found, str):
                for name, value in split_metrics(self.loaded, found)[1].items():
                    raws.setdefault(name, {})[number] = value

    def _read_responses(self, item: ItemResult) -> list[list[Any]]:
        """Return an item's responses as the harness had them."""
        requests, parts = self.loaded.requests[int(item.item_id)], item.outcome.parts
        texts = iter(_split_texts(item.text, requests))
        found: list[list[Any]] = []
        for index, request in enumerate(requests):
            if request.request_type == "generate_until":
                found.append(next(texts))
                continue
            value: Any = parts[f"{_LOGLIKELIHOOD}_{index}"]
            if request.request_type == "loglikelihood":
                value = value, bool(parts[f"{_GREEDY}_{index}"])
            found.append([value] * (request.repeats or 1))
        return found


def _respond(model: Any, kind: str, requests: Sequence[Any], repeats: Sequence[int]) -> Iterator[tuple[int, Any]]:
    if kind == "generate_until":
        yield from model.draw(requests, repeats)
    else:
        yield from enumerate(getattr(model, kind)(requests))


def _take(response: Any, drawn: dict[str, float]) -> Any:
    """Return a response as the harness takes it, having counted what drawing it took."""
    if not hasattr(response, "num_tokens"):
        return response
    drawn[DRAWN_TOKENS] = drawn.get(DRAWN_TOKENS, 0.0) + response.num_tokens
    if response.nats is not None:
        drawn[DRAWN_NATS] = drawn.get(DRAWN_NATS, 0.0) + response.nats
    drawn[STOPPED] = min(drawn.get(STOPPED, 1.0), float(response.is_stopped))
    return response.text


def _join_texts(texts: Sequence[Sequence[str]]) -> str:
    return texts[0][0] if len(texts) == 1 and len(texts[0]) == 1 else json.dumps(texts)


def _split_texts(text: str, requests: Sequence[Any]) -> list[list[Any]]:
    drawn = [request.repeats or 1 for request in requests if request.request_type == "generate_until"]
    if drawn == [1]:
        return [[text]]
    return list(json.loads(text)) if drawn else []
