"""The engine draws from the distribution that it was told to draw from, and reports the log-probs that it drew with.

20,000 draws from a Llama whose 40 completions of each prompt have known probabilities. Frequencies are judged by
Pearson's chi-square over prompts together; a right sampler fails with a probability of 0.1 % for a seed, and the
seeds are fixed. One that is wrong by a temperature of 1.1 in place of 1 fails (the last test).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from posttrain.core.records import Completion, Problem
from posttrain.core.sampling import SamplingSettings
from posttrain.pipeline.sampling import build_engine_model
from posttrain.samplers.local import LocalSampler
from tests.oracles.enumeration import compute_expectation
from tests.oracles.llama_policy import PROMPTS, LlamaPolicy, make_llama, make_space
from tests.oracles.truncated_drawing import truncate

PAIR = PROMPTS[:2]
SPACE = make_space(PAIR)
NUM_SAMPLES = 10_000
FALSE_ALARMS = 1e-3
LEAST_EXPECTED = 5.0  # completions that are expected more rarely are counted as one
SEEDS = (17, 18)
CUT: dict[str, Any] = {"temperature": 1.3, "top_k": 3, "top_p": 0.7}


def draw(**settings: Any) -> list[list[Completion]]:
    """All completions of each of the two prompts."""
    sampler = LocalSampler(
        build_engine_model(make_llama(), torch.float32),
        "policy",
        lambda problems: [PAIR[int(problem.problem_id)] for problem in problems],
        lambda ids: " ".join(map(str, ids)),
        stop_ids=(SPACE.end_id,),
    )
    wanted = SamplingSettings(max_new_tokens=SPACE.max_tokens, num_samples=NUM_SAMPLES, **settings)
    drawn: list[list[Completion]] = [[], []]
    for index, completion in sampler.sample([Problem("0", []), Problem("1", [])], wanted, SEEDS):
        drawn[index].append(completion)
    assert [len(completions) for completions in drawn] == [NUM_SAMPLES, NUM_SAMPLES]
    return drawn


def count(drawn: list[list[Completion]]) -> np.ndarray:
    """How often each completion was drawn, [X, Y]; one that cannot exist is an error."""
    counts = np.zeros(SPACE.shape_XY)
    for x, completions in enumerate(drawn):
        for ids, number in Counter(tuple(completion.ids.tolist()) for completion in completions).items():
            counts[x, SPACE.completions.index(ids)] = number
    return counts


def compute_p_value(counts_XY: np.ndarray, logprobs_XY: torch.Tensor) -> float:
    """The probability of frequencies at least as far from these probabilities, by chi-square over all prompts."""
    statistic, freedom = 0.0, 0
    for counts, expected in zip(counts_XY, NUM_SAMPLES * logprobs_XY.exp().numpy(), strict=True):
        is_rare = expected < LEAST_EXPECTED
        cells, means = list(counts[~is_rare]), list(expected[~is_rare])
        if expected[is_rare].sum() > 0:
            cells.append(counts[is_rare].sum())
            means.append(expected[is_rare].sum())
        statistic += float(((np.array(cells) - np.array(means)) ** 2 / np.array(means)).sum())
        freedom += len(cells) - 1
    return float(scipy.stats.chi2.sf(statistic, freedom))


def find_largest_difference(drawn: list[list[Completion]], name: str, next_XFV: torch.Tensor) -> float:
    """How far the log-probs that completions carry are from those of a next-token distribution, over all tokens."""
    places = {ids: y for y, ids in enumerate(SPACE.completions)}
    tokens = SPACE.gather_tokens(next_XFV).numpy()
    offsets, Y = SPACE.offsets.tolist(), len(SPACE.completions)
    differences = []
    for x, completions in enumerate(drawn):
        for completion in completions:
            s = x * Y + places[tuple(completion.ids.tolist())]
            differences.append(np.abs(getattr(completion, name) - tokens[offsets[s] : offsets[s + 1]]).max())
    return float(max(differences))


@pytest.fixture(scope="module")
def exact_XFV() -> torch.Tensor:
    return LlamaPolicy(SPACE, make_llama(), PAIR).compute_next_logprobs().detach()


@pytest.fixture(scope="module")
def plain() -> list[list[Completion]]:
    return draw(temperature=1.0)


@pytest.fixture(scope="module")
def cut() -> list[list[Completion]]:
    return draw(**CUT)


def test_completions_come_up_as_often_as_they_are_probable(plain: list[list[Completion]], exact_XFV: Any) -> None:
    assert compute_p_value(count(plain), SPACE.compute_logprobs_XY(exact_XFV)) > FALSE_ALARMS
    lengths = np.mean([len(completion.ids) for completion in plain[0]])
    logprobs_XY = SPACE.compute_logprobs_XY(exact_XFV)
    assert lengths == pytest.approx(compute_expectation(logprobs_XY, SPACE.lengths_Y.double())[0].item(), abs=0.03)


def test_truncated_completions_come_up_as_often_as_they_are_probable(cut: Any, exact_XFV: torch.Tensor) -> None:
    truncated_XY = SPACE.compute_logprobs_XY(truncate(exact_XFV, **CUT))
    counts = count(cut)
    assert compute_p_value(counts, truncated_XY) > FALSE_ALARMS
    assert counts[truncated_XY.exp().numpy() == 0].sum() == 0
    assert 0.3 < (truncated_XY.exp() == 0).double().mean().item() < 0.9  # the cut is felt


def test_reported_log_probs_are_the_exact_ones(plain: Any, cut: Any, exact_XFV: torch.Tensor) -> None:
    """Under the full distribution at temperature 1, and under the one that was drawn from."""
    for drawn, drawing_XFV in ((plain, exact_XFV), (cut, truncate(exact_XFV, **CUT))):
        assert find_largest_difference(drawn, "sampler_logprobs", exact_XFV) < 1e-5
        assert find_largest_difference(drawn, "drawing_logprobs", drawing_XFV) < 1e-5


def test_a_completion_stops_at_the_end_token_or_at_the_cap(plain: list[list[Completion]]) -> None:
    for completion in plain[0]:
        assert (completion.finish_reason == "stop") == (completion.ids[-1] == SPACE.end_id)


def test_the_frequencies_tell_a_temperature_of_1_from_one_of_1_1_and_a_cut_from_another(
    plain: Any, cut: Any, exact_XFV: torch.Tensor
) -> None:
    warmer_XY = SPACE.compute_logprobs_XY(truncate(exact_XFV, temperature=1.1))
    assert compute_p_value(count(plain), warmer_XY) < FALSE_ALARMS / 1000
    for left_out in ("top_k", "top_p"):  # without top-k, top-p's share is of all tokens: some nucleus is another one
        settings = {name: value for name, value in CUT.items() if name != left_out}
        other_XY = SPACE.compute_logprobs_XY(truncate(exact_XFV, **settings))
        assert compute_p_value(count(cut), other_XY) < FALSE_ALARMS / 1000


def test_truncation_is_the_one_worked_out_by_hand() -> None:
    """Shares 4, 3, 2, 1: top-k of 3 leaves 4/9, 3/9, 2/9, of which 7/9 < 0.8 takes all three and 0.75 the first two."""
    next_XFV = torch.tensor([[[0.2, 0.4, 0.1, 0.3]]], dtype=torch.float64).log()
    for top_p, expected in ((0.8, [2 / 9, 4 / 9, 0, 3 / 9]), (0.75, [0, 4 / 7, 0, 3 / 7])):
        assert truncate(next_XFV, top_k=3, top_p=top_p).exp()[0, 0].tolist() == pytest.approx(expected)
    squared = [0.04 / 0.30, 0.16 / 0.30, 0.01 / 0.30, 0.09 / 0.30]
    assert truncate(next_XFV, temperature=0.5).exp()[0, 0].tolist() == pytest.approx(squared)
