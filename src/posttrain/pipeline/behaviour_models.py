"""The models of a behaviour suite: a writer that is sampled, and a filter that weighs answers.

Each is named as `posttrain sample` names models, or is an endpoint: a YAML file with the keys of `ServedSettings`.

    base_url: https://api.example.com/v1
    model: large
    api_key_env: EXAMPLE_API_KEY
    cache: answers
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.core.config import parse_config
from posttrain.core.errors import RecipeError
from posttrain.core.records import Completion, Problem
from posttrain.core.sampling import Sampler, SamplingSettings
from posttrain.evaluation.behaviours.filtering import JudgeQuestion
from posttrain.evaluation.behaviours.rows import NO, YES
from posttrain.evaluation.weighing import Weigher, render_replies, split_sample
from posttrain.models.loading import load_policy
from posttrain.pipeline.talking import (
    ModelChoice,
    check_device,
    check_dtype,
    choose_dtype,
    find_model,
    open_policy_renderer,
    open_talker,
)
from posttrain.pipeline.weighers import build_weigher
from posttrain.pipeline.yaml_reader import read_file, read_yaml
from posttrain.samplers.served import ServedSampler
from posttrain.samplers.served_requests import MAX_TOP_LOGPROBS
from posttrain.samplers.served_settings import ServedSettings

_SUFFIXES = (".yaml", ".yml")
_PLACES = {"writer": "--writer", "filter": "--filter"}

Shares = list[float | None]
"""Of the label's answer in the likelihood of both, one for each question; None where neither was named."""


@dataclass(frozen=True, slots=True)
class OpenWriter:
    """A model that writes: what draws, what it is called by content, and notes for the user."""

    sampler: Sampler
    identity: dict[str, Any]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class OpenFilter:
    """A model that judges: what weighs answers, and what it is called by content."""

    compute_shares: Callable[[Sequence[JudgeQuestion]], Shares]
    identity: dict[str, Any]


@contextmanager
def open_writer(choice: ModelChoice) -> Iterator[OpenWriter]:
    """Yield a model that writes.

    Raises:
        RecipeError: The endpoint's file cannot be used.
        ModelError: The model cannot be found, loaded or trusted.
        SamplerError: The endpoint is out of reach.
    """
    if choice.model.endswith(_SUFFIXES):
        with _open_endpoint(choice.model, "writer") as sampler:
            yield OpenWriter(sampler, _identify(sampler.policy_hash, "", ""), [])
        return
    with open_talker(choice) as talker:
        identity = _identify(talker.policy_hash, talker.renderer.format.hash, talker.dtype)
        yield OpenWriter(talker.sampler, identity, talker.notes)


@contextmanager
def open_filter(choice: ModelChoice) -> Iterator[OpenFilter]:
    """Yield a model that weighs answers: by their log-likelihood, or at an endpoint by its first token's.

    Raises:
        RecipeError: The endpoint's file cannot be used.
        ModelError: The model cannot be found, loaded or trusted.
        SamplerError: The endpoint is out of reach.
    """
    if choice.model.endswith(_SUFFIXES):
        with _open_endpoint(choice.model, "filter") as sampler:
            yield OpenFilter(partial(ask_shares, sampler), _identify(sampler.policy_hash, "", ""))
        return
    device = check_device(choice.device)
    check_dtype(choice.dtype)
    folder = find_model(choice.model)
    dtype = choose_dtype(folder) if choice.dtype == "auto" else choice.dtype
    policy = load_policy(folder, dtype=dtype, device=device)
    with open_policy_renderer(policy, is_raw=False) as renderer:
        weigher = build_weigher(policy, renderer, folder)
        yield OpenFilter(partial(weigh_shares, weigher), _identify(policy.hash, renderer.format.hash, dtype))


def _identify(policy_hash: str, chat_format: str, dtype: str) -> dict[str, Any]:
    return {"policy_hash": policy_hash, "chat_format": chat_format, "dtype": dtype}


@contextmanager
def _open_endpoint(file: str, role: str) -> Iterator[ServedSampler]:
    values, _ = read_yaml(read_file(Path(file)), file)
    served: ServedSettings = parse_config(ServedSettings, values, place=f"{_PLACES[role]} {file}")
    if served.route != "chat":
        raise RecipeError(
            f"route: {served.route}",
            expected="route: chat, where the endpoint renders messages itself",
            cure="leave route out",
            place=file,
        )
    sampler = ServedSampler(served)
    try:
        yield sampler
    finally:
        sampler.close()


def weigh_shares(weigher: Weigher, questions: Sequence[JudgeQuestion]) -> Shares:
    """Return the share that the label's answer has of the likelihood of both, as whole replies without a stop token.

    Raises:
        DataError: A question is longer than the model's context.
    """
    prompts, completions = [], []
    stop_ids = weigher.renderer.format.stop_ids
    for number, question in enumerate(questions):
        problem = Problem(f"filter:{number}", question.messages)
        for sample in render_replies(weigher, problem, question.answers):
            prompt, rest, is_reply = split_sample(sample)
            ids = rest[: int(np.flatnonzero(is_reply)[-1]) + 1]
            prompts.append(prompt)
            completions.append(ids[:-1] if len(ids) > 1 and int(ids[-1]) in stop_ids else ids)
    totals = [found.total for found in weigher.compute_logprobs(prompts, completions)]
    pairs = zip(totals[::2], totals[1::2], strict=True)
    return [_share(pair, question.label) for pair, question in zip(pairs, questions, strict=True)]


def ask_shares(sampler: Sampler, questions: Sequence[JudgeQuestion]) -> Shares:
    """Return the share that the label's answer has of both, by the most probable first tokens that a sampler tells.

    An answer that is not among them counts as none; where neither is, there is no share.

    Raises:
        SamplerError: The endpoint failed.
    """
    settings = SamplingSettings(1, top_logprobs=MAX_TOP_LOGPROBS["chat"])
    problems = [Problem(f"filter:{number}", question.messages) for number, question in enumerate(questions)]
    shares: Shares = [None] * len(questions)
    for index, completion in sampler.sample(problems, settings, [0] * len(problems)):
        question = questions[index]
        first, second = (_read_first(completion, answer) for answer in question.answers)
        shares[index] = _share((first, second), question.label)
    return shares


def _read_first(completion: Completion, answer: str) -> float:
    """Return the log-prob that the first token says an answer, minus infinity where it is not among those told."""
    top = completion.top_logprobs
    if top is None or top.texts_TK is None or not top.texts_TK:
        return -math.inf
    is_cased = answer not in (YES, NO)
    total = 0.0
    for text, logprob in zip(top.texts_TK[0], top.logprobs_TK[0], strict=False):
        said = text.strip(" \n\t(\"'*")
        if said == answer or (not is_cased and said.casefold() == answer.casefold()):
            total += math.exp(float(logprob))
    return math.log(total) if total > 0 else -math.inf


def _share(pair: tuple[float, float], label: int) -> float | None:
    highest = max(pair)
    if not math.isfinite(highest):
        return None
    weights = [math.exp(value - highest) for value in pair]
    return weights[label] / sum(weights)
