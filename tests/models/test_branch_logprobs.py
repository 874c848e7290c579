"""Continuations of one prompt have the log-probs that each has as a row of its own, in every architecture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from posttrain.core.errors import DataError
from posttrain.models import branch_logprobs
from posttrain.models.branch_logprobs import Branching, compute_branch_logprobs
from posttrain.models.heads import choose_layout
from posttrain.models.logprobs import compute_logprobs
from tests.training.tiny import ARCHITECTURES, VOCABULARY, make_model

SHAPES = ((5, (3, 1, 4)), (1, (2,)), (30, (1, 1, 1, 1)), (12, (9, 20)), (2, (1,)))


def make_branchings() -> list[Branching]:
    random = np.random.default_rng(3)

    def draw(length: int) -> list[int]:
        return [int(token) for token in random.integers(0, VOCABULARY, length)]

    return [Branching(draw(prompt), [draw(length) for length in lengths]) for prompt, lengths in SHAPES]


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("micro_batch_tokens", [25, 8192])
def test_branches_are_weighed_as_rows_of_their_own(name: str, micro_batch_tokens: int) -> None:
    model = make_model(name).eval()
    branchings = make_branchings()
    found = compute_branch_logprobs(model, branchings, micro_batch_tokens=micro_batch_tokens)
    assert [len(one) for one in found] == [len(lengths) for _, lengths in SHAPES]
    for branching, results in zip(branchings, found, strict=True):
        prompts = [branching.prompt] * len(branching.completions)
        alone = compute_logprobs(model, prompts, branching.completions, layout="single")
        for result, expected in zip(results, alone, strict=True):
            np.testing.assert_allclose(result.logprobs_T, expected.logprobs_T, atol=2e-5)


def test_a_shared_prompt_is_run_once_and_last_tokens_are_not_run(monkeypatch: Any) -> None:
    """By hand: prompts of 5, 1, 30, 12 and 2 tokens; 2 + 0 + 3, 1, 0, 8 + 19 and 0 of the branches: 50 + 33."""
    model = make_model("llama").eval()
    assert choose_layout(model) == "packed"
    counted: list[int] = []
    run = branch_logprobs.run_families

    def count(backbone: Any, ids: Any, families: Any) -> Any:
        counted.append(len(ids))
        return run(backbone, ids, families)

    monkeypatch.setattr(branch_logprobs, "run_families", count)
    monkeypatch.setattr(branch_logprobs, "round_up_tokens", lambda count: count)
    compute_branch_logprobs(model, make_branchings())
    assert counted == [50 + 33]


def test_what_is_longer_than_the_context_is_refused() -> None:
    model = make_model("llama")
    context = model.config.max_position_embeddings
    with pytest.raises(DataError, match="the model's context"):
        compute_branch_logprobs(model, [Branching([1] * context, [[1, 1]])])
