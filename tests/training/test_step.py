"""One optimizer step: the same loss and gradient however its rows are cut, and never a step that is not finite."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from posttrain.core.errors import TrainingError
from posttrain.kernels.layouts import round_up_tokens
from posttrain.training.batches import build_micro_batch, count_scored
from posttrain.training.optimizer import AdamWSettings
from posttrain.training.policy import enable_checkpointing
from posttrain.training.step import StepBatch
from tests.training.tiny import (
    gradients_of,
    largest_difference,
    make_model,
    make_samples,
    make_step,
    make_updater,
)

LENGTHS = (5, 23, 2, 9, 31, 14, 3, 8)
CUTS = {
    "1x8": [list(range(8))],
    "2x4": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "8x1": [[i] for i in range(8)],
    "a partial last window": [[0, 1, 2], [3, 4, 5], [6, 7]],
    "in another order": [[6, 1, 4], [7, 0], [5, 3, 2]],
    "one row apart": [[4], [7, 6, 5, 3, 2, 1, 0]],
}


@pytest.mark.parametrize("name", ["llama", "gemma2"])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_eight_unequal_samples_give_one_loss_and_gradient_however_they_are_cut(name: str, layout: Any) -> None:
    samples = make_samples(LENGTHS)
    model = make_model(name)
    model_sums = make_updater(model).accumulate(make_step(samples), 0)
    expected = gradients_of(model)
    for cut in CUTS.values():
        model.zero_grad()
        sums = make_updater(model, layout).accumulate(make_step(samples, cut), 0)
        assert float(sums[0]) == pytest.approx(float(model_sums[0]), abs=1e-6)
        assert sums[1] == model_sums[1]
        assert largest_difference(gradients_of(model), expected) < 1e-5


def test_a_mean_of_micro_batch_means_would_have_been_another_loss() -> None:
    samples = make_samples(LENGTHS)
    updater = make_updater(make_model())
    whole = float(updater.accumulate(make_step(samples), 0)[0])
    means = [float(updater.accumulate(make_step([sample]), 0)[0]) for sample in samples]
    assert abs(sum(means) / 8 - whole) > 0.01


def test_steps_cut_differently_update_to_the_same_weights_and_report_the_same_figures() -> None:
    samples = make_samples(LENGTHS)
    reports, weights = [], []
    for cut in CUTS.values():
        model = make_model()
        updater = make_updater(model, max_grad_norm=0.5, settings=AdamWSettings(epsilon=1e-3))
        reports.append(updater.update(make_step(samples, cut), 0.01, 0))
        weights.append({name: p.detach() for name, p in model.named_parameters()})
    first = reports[0]
    assert first.num_tokens == sum(LENGTHS)
    assert first.num_trained == sum(count_scored(sample) for sample in samples)
    for report, other in zip(reports[1:], weights[1:], strict=True):
        assert report.loss == pytest.approx(first.loss, abs=1e-6)
        assert report.grad_norm == pytest.approx(first.grad_norm, rel=1e-5)
        assert (report.accuracy, report.num_tokens) == (first.accuracy, first.num_tokens)
        assert largest_difference(other, weights[0]) < 1e-5


def test_activation_checkpointing_changes_neither_loss_nor_gradient() -> None:
    samples = make_samples(LENGTHS)
    results = []
    for is_checkpointed in (False, True):
        model = make_model("qwen3")
        if is_checkpointed:
            enable_checkpointing(model)
        sums = make_updater(model).accumulate(make_step(samples, CUTS["2x4"]), 0)
        results.append((float(sums[0]), gradients_of(model)))
    assert results[0][0] == results[1][0]
    assert largest_difference(results[0][1], results[1][1]) == 0


def test_clipping_scales_the_gradient_to_the_norm_it_is_given() -> None:
    """AdamW with epsilon 1e6 moves by lr * g / 1e6, so the update shows the clipped gradient itself."""
    samples = make_samples(LENGTHS)
    moves = []
    for max_norm in (None, 0.5, 1e9):
        model = make_model()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        updater = make_updater(model, settings=AdamWSettings(epsilon=1e6), max_grad_norm=max_norm)
        report = updater.update(make_step(samples), 1e6, 0)
        assert report.grad_norm > 0.5
        moves.append(torch.cat([(before[name] - p.detach()).flatten() for name, p in model.named_parameters()]))
    assert float(moves[1].norm()) == pytest.approx(0.5, rel=1e-2)
    assert float(moves[0].norm()) == pytest.approx(report.grad_norm, rel=1e-2)
    assert torch.equal(moves[0], moves[2])
    assert float(torch.nn.functional.cosine_similarity(moves[0], moves[1], dim=0)) > 0.999


def test_at_a_rate_of_1e_6_bf16_weights_still_learn_as_fp64_ones_do() -> None:
    """An update of 1e-6 is a thousandth of a bf16 weight's rounding step; the fp32 master takes it whole."""
    samples, steps, rate = make_samples(LENGTHS), 20, 1e-6
    start = {name: p.detach().clone() for name, p in make_model(dtype=torch.bfloat16).named_parameters()}
    low = make_model(dtype=torch.bfloat16)
    updater = make_updater(low)
    high = make_model(dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in high.named_parameters():
            parameter.copy_(start[name])
    adamw = torch.optim.AdamW(high.parameters(), lr=rate, weight_decay=0.0)
    for _ in range(steps):
        updater.update(make_step(samples, CUTS["2x4"]), rate, 0)
        total = torch.zeros((), dtype=torch.float64)
        for sample in samples:
            ids = torch.from_numpy(sample.ids_T).long()
            scored = torch.from_numpy(sample.is_trainable_T[1:].copy())
            logits = high(input_ids=ids[None], use_cache=False).logits[0, :-1]
            total = total + torch.nn.functional.cross_entropy(logits[scored], ids[1:][scored], reduction="sum")
        adamw.zero_grad()
        (total / sum(count_scored(sample) for sample in samples)).backward()
        adamw.step()
    masters = updater.optimizer.masters()
    ours = torch.cat([(masters[name].double() - start[name].double()).flatten() for name in start])
    exact = torch.cat([(p.detach() - start[name].double()).flatten() for name, p in high.named_parameters()])
    assert float(torch.nn.functional.cosine_similarity(ours, exact, dim=0)) >= 0.99
    assert float(ours.norm() / exact.norm()) == pytest.approx(1.0, abs=0.02)
    for name, parameter in low.named_parameters():
        assert torch.equal(parameter.detach(), masters[name].bfloat16())


def snapshot(updater: Any) -> dict[str, torch.Tensor]:
    state = {name: tensor.clone() for name, tensor in updater.optimizer.state_tensors().items()}
    return state | {f"weight/{name}": p.detach().clone() for name, p in updater.policy.model.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_micro_batches", [1, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_takes_no_step_and_names_parameter_and_rows(
    dtype: torch.dtype, num_micro_batches: int, value: float
) -> None:
    model = make_model(dtype=dtype)
    updater = make_updater(model, ema_decay=0.9)
    samples = make_samples((5, 9))
    cut = [[0, 1]] if num_micro_batches == 1 else [[0], [1]]
    updater.update(make_step(samples, cut), 0.01, 0)
    before = snapshot(updater)
    with torch.no_grad():
        kept = model.model.layers[1].mlp.up_proj.weight[0, 0].clone()
        model.model.layers[1].mlp.up_proj.weight[0, 0] = value
    with pytest.raises(TrainingError) as caught:
        updater.update(make_step(samples, cut), 0.01, 0)
    assert caught.value.place.startswith("model.") and caught.value.place in caught.value.found
    assert "row-0, row-1" in caught.value.found and "not taken" in caught.value.expected
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = kept
    after = snapshot(updater)
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in after)
    assert updater.optimizer.names_with_gradient() == []
    assert updater.update(make_step(samples, cut), 0.01, 0).loss > 0


def test_a_gradient_that_is_not_finite_names_its_own_parameter_alone() -> None:
    model = make_model()
    updater = make_updater(model)
    before = snapshot(updater)
    model.model.layers[0].self_attn.k_proj.weight.register_hook(lambda grad: grad * float("nan"))
    with pytest.raises(TrainingError, match="1 parameters") as caught:
        updater.update(make_step(make_samples((5, 9))), 0.01, 0)
    assert caught.value.place == "model.layers.0.self_attn.k_proj.weight"
    after = snapshot(updater)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_many_rows_of_a_bad_step_are_counted_and_the_first_named() -> None:
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"row-0, row-1, .* and 3 more"):
        make_updater(model).update(make_step(make_samples((4,) * 11)), 0.01, 0)


def test_a_step_without_a_trained_token_is_refused() -> None:
    sample = make_samples((6,))[0]
    sample.is_trainable_T[:] = False
    sample.is_trainable_T[0] = True  # a first token is never scored
    assert count_scored(sample) == 0
    with pytest.raises(TrainingError, match="total token weight of 0"):
        make_updater(make_model()).update(make_step([sample]), 0.01, 0)


def test_a_micro_batch_is_the_one_in_its_docstring() -> None:
    samples = make_samples((3, 2))
    for sample, ids in zip(samples, ([5, 6, 7], [8, 9]), strict=True):
        sample.ids_T[:] = ids
        sample.is_trainable_T[:] = [False] * (len(ids) - 1) + [True]
    batch = build_micro_batch(samples, ["a", "b"])
    assert batch.ids_T.tolist() == [5, 6, 7, 8, 9] and batch.lengths == (3, 2)
    assert batch.scored_N.tolist() == [1, 3] and batch.targets_N.tolist() == [7, 9]
    assert batch.weights_N.tolist() == [1, 1] and batch.row_ids == ("a", "b")
    assert not samples[0].is_trainable_T[0], "the rows themselves are left as they are"


def test_a_rows_first_token_is_never_predicted_from_the_row_before_it() -> None:
    samples = make_samples((4, 5, 3))
    for sample in samples:
        sample.is_trainable_T[:] = True
    batch = build_micro_batch(samples, ["a", "b", "c"])
    assert batch.scored_N.tolist() == [0, 1, 2, 4, 5, 6, 7, 9, 10]
    assert all(sample.is_trainable_T.all() for sample in samples)


def test_filler_is_at_most_a_tenth_and_shapes_are_few() -> None:
    counts = range(1, 20000)
    rounded = [round_up_tokens(count) for count in counts]
    assert all(0 <= b - a <= max(0.1 * a, 0) for a, b in zip(counts, rounded, strict=True))
    assert len(set(rounded)) < 250


def test_a_step_knows_its_rows_weight_before_its_first_forward_pass() -> None:
    """Half of a step's micro-batches give half of its loss: the division is by the whole step's weight."""
    samples = make_samples(LENGTHS)
    whole = make_step(samples, CUTS["2x4"])
    updater = make_updater(make_model())
    parts = [
        float(updater.accumulate(StepBatch([micro_batch], whole.total_weight, 0, 0), 0)[0])
        for micro_batch in whole.micro_batches
    ]
    assert sum(parts) == pytest.approx(float(updater.accumulate(whole, 0)[0]), abs=1e-6)
