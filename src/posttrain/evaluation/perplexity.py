"""Perplexity: how well a policy predicts texts that it is given.

    perplexity = exp(- sum_i sum_t log p(y_it | y_i,<t) / sum_i T_i)

Documents are weighed whole (their first token has no predecessor where the tokenizer has no BOS, and is left out);
of conversations, what the assistant says, stop tokens included. A text longer than the model's context is weighed in
windows that do not overlap, so that a window's first tokens know little of what came before.

An item is worth `exp(log-likelihood / tokens)`, the geometric mean probability of its tokens, in (0, 1], more is
better: what gates and paired tests compare. Parts: `nats`, `tokens`, `bytes` (of UTF-8), each of what is weighed: the
bytes of a first token that is left out are left out too. Perplexities of different tokenizers do not compare; bits per
byte do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.core.errors import DataError
from posttrain.core.freed_memory import release_freed_memory
from posttrain.core.metrics import BITS_PER_BYTE, NATS_PER_TOKEN, PERPLEXITY, TOKEN_PROBABILITY
from posttrain.core.records import ItemResult, Outcome, Problem
from posttrain.core.seeds import build_numpy_generator
from posttrain.evaluation.figures import summarise_items
from posttrain.evaluation.task import PerplexityTask
from posttrain.evaluation.weighing import WEIGHED_AT_ONCE, Ids, Weigher, check_policy, render_replies, split_sample
from posttrain.statistics.clusters import encode_clusters, sum_by_cluster
from posttrain.statistics.pairing import cluster_name
from posttrain.statistics.resamples import draw_resamples

DOCUMENT = "text"
"""The column of a problem that is a document: it has no messages."""
_RESAMPLES = 2000
_MAX_NATS = 700
"""exp of more is beyond float64."""


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Weighs documents and conversations (`answering.Answerer`)."""

    task: PerplexityTask
    policy_hash: str
    open_weigher: Callable[[], Weigher]

    @property
    def num_samples(self) -> int:
        """One item a text: nothing is drawn."""
        return 1

    @property
    def metric_name(self) -> str:
        """The mean geometric mean probability of a token."""
        return TOKEN_PROBABILITY

    def answer(self, problems: Sequence[Problem], task_hash: str) -> Iterator[list[ItemResult]]:
        """Yield items, some texts at a time.

        Raises:
            DataError: A conversation cannot be rendered or leaves no token to weigh.
        """
        weigher = check_policy(self.open_weigher(), self.policy_hash, self.task.name)
        for start in range(0, len(problems), WEIGHED_AT_ONCE):
            yield self._weigh(problems[start : start + WEIGHED_AT_ONCE], task_hash, weigher)
            release_freed_memory()

    def summarise(self, items: Sequence[ItemResult]) -> list[dict[str, Any]]:
        """Return what `summarise_texts` says of the task's items."""
        return summarise_texts(self.task.name, items, self.task.parts)

    def _weigh(self, problems: Sequence[Problem], task_hash: str, weigher: Weigher) -> list[ItemResult]:
        prompts: list[Ids] = []
        completions: list[Ids] = []
        masks, owners, texts = [], [], []
        sizes = []
        for index, problem in enumerate(problems):
            text, size, sample = _render(problem, weigher)
            texts.append(text)
            sizes.append(size)
            for prompt, ids, is_weighed in _cut(*split_sample(sample), weigher.context_tokens):
                prompts.append(prompt)
                completions.append(ids)
                masks.append(is_weighed)
                owners.append(index)
        nats, tokens = np.zeros(len(problems)), np.zeros(len(problems))
        for owner, weighed, is_weighed in zip(
            owners, weigher.compute_logprobs(prompts, completions), masks, strict=True
        ):
            nats[owner] -= float(weighed.logprobs_T[is_weighed].sum(dtype=np.float64))
            tokens[owner] += int(is_weighed.sum())
        return [
            self._record(problem, texts[index], (float(nats[index]), int(tokens[index]), sizes[index]), task_hash)
            for index, problem in enumerate(problems)
        ]

    def _record(self, problem: Problem, text: str, sums: tuple[float, int, int], task_hash: str) -> ItemResult:
        nats, tokens, size = sums
        if not tokens or not math.isfinite(nats):
            raise DataError(
                f"{tokens} tokens to weigh, {nats} nats",
                expected="a text of at least two tokens, and a policy whose log-probs are finite",
                cure="leave the row out, or check the policy's weights",
                place=problem.problem_id,
            )
        parts = {"nats": nats, "tokens": float(tokens), "bytes": float(max(1, size))}
        return ItemResult(
            item_id=problem.problem_id,
            cluster_id=problem.cluster_id,
            task_hash=task_hash,
            sample_index=0,
            outcome=Outcome("scored", math.exp(-nats / tokens), parts=parts),
            policy_hash=self.policy_hash,
            text="",
            prompt=problem.messages,
            reference=text[:2000],
        )


def summarise_texts(task_name: str, items: Sequence[ItemResult], parts: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return `token_probability`, the named parts, `perplexity`, `nats_per_token` and `bits_per_byte`.

    The last three are ratios of sums over all items, with percentile bootstrap intervals that draw sources.

    Raises:
        RefusedError: As `summarise_items`.
        DataError: An item has no `nats`, `tokens` or `bytes`, or not above 0; or the perplexity is beyond float64.
    """
    metrics = summarise_items(task_name, TOKEN_PROBABILITY, items, parts)
    names = [cluster_name(item) for item in items if item.outcome.is_counted]
    codes = encode_clusters(names, len(names))
    sums = {
        part: sum_by_cluster(np.array(read_sums((one for one in items if one.outcome.is_counted), part)), codes)
        for part in ("nats", "tokens", "bytes")
    }
    generator = build_numpy_generator("evaluation", PERPLEXITY, items[0].task_hash, items[0].policy_hash)
    drawn_by_part = _draw(sums, generator)
    for name, below, scale in (
        (PERPLEXITY, "tokens", 1.0),
        (NATS_PER_TOKEN, "tokens", 1.0),
        (BITS_PER_BYTE, "bytes", 1 / math.log(2)),
    ):
        drawn = scale * drawn_by_part["nats"] / drawn_by_part[below]
        found = [scale * sums["nats"].sum() / sums[below].sum(), *np.quantile(drawn, [0.025, 0.975])]
        if name == PERPLEXITY and max(found) > _MAX_NATS:
            raise DataError(
                f"{found[0]:.4g} nats a token",
                expected=f"at most {_MAX_NATS} nats a token, of which a perplexity can be computed",
                cure="check the policy's weights, or delete the task's item file and measure it again",
                place=task_name,
            )
        value, low, high = (math.exp(x) if name == PERPLEXITY else float(x) for x in found)
        is_one = len(sums["nats"]) == 1
        limits = (None, None, "one_source") if is_one else (low, high, "cluster_bootstrap")
        named = dict(zip(("low", "high", "method"), limits, strict=True))
        metrics.append(metrics[0] | {"name": name, "value": value, **named})
    return metrics


def _draw(sums: Mapping[str, Any], generator: np.random.Generator) -> dict[str, Any]:
    """Return the sums of each part over the sources of every resample, the same sources for all parts."""
    drawn: dict[str, list[Any]] = {part: [] for part in sums}
    for chosen_RS in draw_resamples(len(sums["nats"]), generator, _RESAMPLES):
        for part, values in sums.items():
            drawn[part].append(values[chosen_RS].sum(axis=1))
    return {part: np.concatenate(blocks) for part, blocks in drawn.items()}


def read_sums(items: Iterable[ItemResult], part: str) -> list[float]:
    """Return a part of every item that ratios are made of: `nats`, `tokens` or `bytes`.

    Raises:
        DataError: An item lacks it, or it is not above 0 (`nats`: below 0).
    """
    values: list[float] = []
    for item in items:
        found = item.outcome.parts.get(part)
        if found is None or found < 0 or (found == 0 and part != "nats"):
            raise DataError(
                f"'{part}' of an item is {found}",
                expected="what a text's tokens, bytes and log-likelihood sum to",
                cure="delete the task's item file and measure the policy again",
                place=item.item_id,
            )
        values.append(found)
    return values


def _render(problem: Problem, weigher: Weigher) -> tuple[str, int, Any]:
    """Return what is weighed: a text, the bytes of its weighed tokens, and its tokens."""
    if not problem.messages:
        text = str(problem.columns.get(DOCUMENT, ""))
        sample = weigher.renderer.render_document(text, add_eos=False)
        ids, offsets = weigher.renderer.tokenizer.encode_with_offsets(text, specials_as_text=True)
        # A BOS stands before the text's own tokens; without one nothing predicts the first of them.
        start = offsets[0][1] if 0 < len(ids) == len(sample.ids_T) else 0
        return text, len(text[start:].encode()), sample
    if problem.reply is None:
        raise DataError(
            "the row ends with no assistant's text",
            expected="a document, or a conversation that ends with what is to be weighed",
            cure="choose another source for the task",
            place=problem.problem_id,
        )
    reply = problem.reply
    return reply, len(reply.encode()), render_replies(weigher, problem, [reply])[0]


def _cut(
    prompt: Ids, rest: Ids, is_weighed: npt.NDArray[np.bool_], context_tokens: int | None
) -> Iterator[tuple[Ids, Ids, Any]]:
    """Yield windows that fit the model's context: the first after the prompt, each further one after one token."""
    context = context_tokens or len(prompt) + len(rest)
    prompt = prompt[-max(1, context - 1) :]
    while len(rest):
        size = context - len(prompt)
        yield prompt, rest[:size], is_weighed[:size]
        prompt, rest, is_weighed = rest[size - 1 : size], rest[size:], is_weighed[size:]
