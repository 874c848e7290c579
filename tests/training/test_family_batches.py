"""Prompts that stand once before their completions give the loss and gradients of prompts that stand before each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from posttrain.lab.base_model import find_lab_base
from posttrain.models.heads import is_sharing_exact
from posttrain.models.loading import load_policy
from posttrain.objectives.policy_gradient import PolicyGradient
from posttrain.objectives.reduction import normalise_weights
from posttrain.training.batches import MicroBatch, PromptFamily, ScoredCompletion, build_family_batch
from tests.training.tiny import ARCHITECTURES, VOCABULARY, gradients_of, largest_difference, make_model, make_policy

SHARED = [
    "llama", "qwen2", "qwen3", "gemma3_text", "mistral", "phi3", "gpt_neox", "gpt2", "cohere", "granite", "phi"
]  # fmt: skip


def make_families(seed: int = 0) -> list[PromptFamily]:
    """Prompts of 7, 1 and 12 tokens with 3, 2 and 1 completions, some tokens of which are observations."""
    random = np.random.default_rng(seed)
    families, sequence = [], 0
    for size, lengths in ((7, (4, 1, 9)), (1, (3, 5)), (12, (6,))):
        completions = []
        for length in lengths:
            is_scored = random.random(length) < 0.8
            is_scored[0] = True
            constants = {
                "old_logprobs": np.log(random.uniform(0.005, 0.05, length)).astype(np.float32),
                "reference_logprobs": np.log(random.uniform(0.005, 0.05, length)).astype(np.float32),
                "advantages": np.full(length, random.normal(), np.float32),
                "sequences": np.full(length, sequence),
            }
            ids = random.integers(0, VOCABULARY, length).astype(np.int32)
            weights = np.full(length, 1 / length, np.float32)
            completions.append(ScoredCompletion(ids, is_scored, weights, constants, f"row-{sequence}"))
            sequence += 1
        families.append(PromptFamily(random.integers(0, VOCABULARY, size).astype(np.int32), completions))
    return families


def run(
    name: str, batch: MicroBatch, objective: PolicyGradient, layout: str = "packed"
) -> tuple[float, dict, torch.Tensor]:
    model = make_model(name)
    scores = make_policy(model, layout)(batch, objective, normalise_weights(batch.weights_N, 6.0))
    scores.loss.backward()
    return float(scores.loss.detach()), gradients_of(model), scores.logprobs_N


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_a_shared_prompt_changes_neither_loss_nor_gradient(name: str, ratio: str) -> None:
    objective = PolicyGradient(ratio=ratio, kl="forward_kl", kl_coefficient=0.1)  # type: ignore[arg-type]
    families = make_families()
    shared, gradients, logprobs = run(name, build_family_batch(families, is_shared=True), objective)
    doubled, expected, others = run(name, build_family_batch(families, is_shared=False), objective)
    assert shared == pytest.approx(doubled, rel=1e-5)
    assert torch.allclose(logprobs, others, atol=1e-5)
    scale = max(1.0, max(float(gradient.abs().max()) for gradient in expected.values()))
    assert largest_difference(gradients, expected) < 1e-5 * scale


def test_padded_rows_give_the_same_as_packed_ones() -> None:
    batch = build_family_batch(make_families(), is_shared=False)
    unfilled = build_family_batch(make_families(), is_shared=False, has_filler=False)
    packed, gradients, _ = run("llama", batch, PolicyGradient())
    padded, others, _ = run("llama", unfilled, PolicyGradient(), "padded")
    assert packed == pytest.approx(padded, rel=1e-5) and largest_difference(gradients, others) < 1e-5


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sharing_is_offered_where_it_is_exact(name: str) -> None:
    """Not where a layer caps its scores or carries state along the row."""
    assert is_sharing_exact(make_model(name)) == (name in SHARED)


def test_sharing_is_judged_alike_in_bf16() -> None:
    assert is_sharing_exact(make_model("llama", dtype=torch.bfloat16))
    assert is_sharing_exact(make_model("mistral", dtype=torch.bfloat16))
    assert not is_sharing_exact(make_model("gemma2", dtype=torch.bfloat16))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_sharing_is_offered_to_a_trained_model_in_any_precision(dtype: str) -> None:
    """Rounding is small beside what continuations that saw one another would change."""
    assert is_sharing_exact(load_policy(find_lab_base(), dtype=dtype, device="cpu").model)


def test_a_prompts_last_token_is_scored_once_for_each_completion() -> None:
    """A prompt of 2 tokens with completions `[5, 6]` and `[7]`: rows 1, 2 and 1 score the targets 5, 6 and 7."""

    def make(ids: list[int]) -> ScoredCompletion:
        count = len(ids)
        return ScoredCompletion(np.array(ids, np.int32), np.ones(count, bool), np.ones(count, np.float32), {}, "row")

    family = PromptFamily(np.array([3, 4], np.int32), [make([5, 6]), make([7])])
    shared = build_family_batch([family], is_shared=True, has_filler=False)
    assert shared.ids_T.tolist() == [3, 4, 5, 6, 7]
    assert (shared.scored_N.tolist(), shared.targets_N.tolist()) == ([1, 2, 1], [5, 6, 7])
    doubled = build_family_batch([family], is_shared=False, has_filler=False)
    assert doubled.ids_T.tolist() == [3, 4, 5, 6, 3, 4, 7]
    assert (doubled.scored_N.tolist(), doubled.lengths) == ([1, 2, 5], (4, 3))


def test_observations_carry_no_loss_and_change_no_other_tokens_weight() -> None:
    """Three tokens put in as an observation move no weight, advantage or divisor of what the policy wrote."""
    family = make_families()[2]
    one = family.completions[0]
    marked = one.is_scored.copy()
    marked[2:5] = False
    observed = ScoredCompletion(one.ids, marked, one.weights, one.constants, one.row_id)
    batch = build_family_batch([PromptFamily(family.prompt_ids, [observed])], is_shared=True, has_filler=False)
    assert len(batch.targets_N) == int(marked.sum()) == len(batch.constants["advantages"])
    assert batch.targets_N.tolist() == one.ids[marked].tolist()
