"""AdamW on fp32 masters, in buckets; moving averages, schedules, clipping: each against hand numbers or torch's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from posttrain.training import optimizer as module
from posttrain.training.optimizer import AdamWSettings, MasterOptimizer, compute_learning_rate

SETTINGS = AdamWSettings((0.9, 0.95), 1e-8, 0.1)


def make_parameters(dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"embedding": (7, 4), "norm": (4,), "up": (9, 4), "bias": (9,), "down": (4, 9)}
    return {name: nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for name, s in shapes.items()}


def set_gradients(parameters: dict[str, nn.Parameter], step: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in parameters.values():
        parameter.grad = (torch.randn(parameter.shape, generator=generator) * scale).to(parameter.dtype)


def test_the_first_step_is_the_one_worked_out_by_hand() -> None:
    """Weights [[1, -2]], gradient [[0.5, -4]], lr 0.1, betas (0.9, 0.95), decay 0.1.

    Bias-corrected moments of the first step are g and g^2, so the update is lr * sign(g) (up to epsilon):
    w = w (1 - 0.1 * 0.1) - 0.1 sign(g) = [0.99 - 0.1, -1.98 + 0.1] = [0.89, -1.88].
    """
    weight = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    optimizer = MasterOptimizer([("w", weight)], SETTINGS)
    weight.grad = torch.tensor([[0.5, -4.0]])
    optimizer.apply(0.1, 1.0)
    assert weight.detach()[0].tolist() == pytest.approx([0.89, -1.88], abs=1e-6)
    assert weight.grad is None


@pytest.mark.parametrize("bucket", [1, 40, 1 << 22])
def test_masters_follow_torchs_adamw_whatever_the_buckets(bucket: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BUCKET_ELEMENTS", bucket)
    ours, theirs = make_parameters(), make_parameters()
    optimizer = MasterOptimizer(ours.items(), SETTINGS)
    reference = torch.optim.AdamW(
        [
            {"params": [p for p in theirs.values() if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in theirs.values() if p.ndim < 2], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
    )
    for step in range(5):
        for parameters in (ours, theirs):
            set_gradients(parameters, step)
        for group in reference.param_groups:
            group["lr"] = 0.01 * (step + 1)
        for parameter in theirs.values():
            assert parameter.grad is not None
            parameter.grad.mul_(0.5)
        optimizer.apply(0.01 * (step + 1), 0.5)
        reference.step()
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-7), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_micro_batches", [1, 3])
def test_buckets_give_the_bits_of_one_update(
    dtype: torch.dtype, num_micro_batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for bucket in (1 << 22, 30, 1):
        monkeypatch.setattr(module, "_BUCKET_ELEMENTS", bucket)
        parameters = make_parameters(dtype)
        optimizer = MasterOptimizer(parameters.items(), SETTINGS, ema_decay=0.9)
        for step in range(3):
            for part in range(num_micro_batches):
                before = {name: p.grad for name, p in parameters.items()}
                set_gradients(parameters, 10 * step + part)
                for name, parameter in parameters.items():
                    if before[name] is not None and parameter.grad is not None:
                        parameter.grad += before[name]
                if num_micro_batches > 1:
                    optimizer.collect_gradients()
            optimizer.apply(0.01, 0.7)
        results.append({name: tensor.clone() for name, tensor in optimizer.state_tensors().items()})
        assert all(p.grad is None for p in parameters.values())
    for other in results[1:]:
        assert other.keys() == results[0].keys()
        assert all(torch.equal(other[name], results[0][name]) for name in other)


def test_one_micro_batch_and_several_agree_to_bf16_rounding() -> None:
    """The same gradient at once in bf16, and as fp32 sums of two bf16 halves."""
    whole, halves = make_parameters(torch.bfloat16), make_parameters(torch.bfloat16)
    at_once, summed = MasterOptimizer(whole.items(), SETTINGS), MasterOptimizer(halves.items(), SETTINGS)
    set_gradients(whole, 0)
    for _ in range(2):
        set_gradients(halves, 0, scale=0.5)
        summed.collect_gradients()
    assert all(p.grad is None for p in halves.values())
    for a, b in zip(at_once.compute_norm()[1], summed.compute_norm()[1], strict=True):
        assert float(a) == pytest.approx(float(b), rel=2**-8)
    at_once.apply(0.01, 1.0)
    summed.apply(0.01, 1.0)
    for name, master in at_once.masters().items():
        assert torch.allclose(master, summed.masters()[name], atol=0.01 * 2**-7)
        assert torch.equal(whole[name].detach(), master.bfloat16())


def test_weights_decay_only_in_matrices() -> None:
    """Gradients of zero leave the decay alone: w (1 - lr * decay) = w * 0.95 for matrices, w for vectors."""
    parameters = make_parameters()
    before = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = MasterOptimizer(parameters.items(), AdamWSettings(weight_decay=0.5))
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.apply(0.1, 1.0)
    for name, parameter in parameters.items():
        factor = 0.95 if parameter.ndim >= 2 else 1.0
        assert torch.allclose(parameter, before[name] * factor, atol=1e-7), name


def test_the_moving_average_is_the_one_worked_out_by_hand() -> None:
    """Decay 0.75 from w0: after w1 it is 0.75 w0 + 0.25 w1, after w2 0.5625 w0 + 0.1875 w1 + 0.25 w2."""
    weight = nn.Parameter(torch.tensor([[4.0]]).bfloat16())
    optimizer = MasterOptimizer([("w", weight)], AdamWSettings(), ema_decay=0.75)
    seen = [float(optimizer.masters()["w"])]
    for _ in range(2):
        weight.grad = torch.ones_like(weight)
        optimizer.apply(0.3, 1.0)
        seen.append(float(optimizer.masters()["w"]))
    assert len(set(seen)) == 3
    expected = 0.5625 * seen[0] + 0.1875 * seen[1] + 0.25 * seen[2]
    assert float(optimizer.averages()["w"]) == pytest.approx(expected, rel=1e-6)


def test_parameters_without_gradient_or_frozen_stay_as_they_are() -> None:
    parameters = make_parameters(torch.bfloat16)
    parameters["up"].requires_grad_(False)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = MasterOptimizer(parameters.items(), SETTINGS)
    set_gradients({name: p for name, p in parameters.items() if name in ("norm", "down")}, 0)
    assert optimizer.names_with_gradient() == ["norm", "down"]
    optimizer.apply(0.1, 1.0)
    moved = {name for name, p in parameters.items() if not torch.equal(p.detach(), before[name])}
    assert moved == {"norm", "down"}
    assert "up" not in optimizer.masters()


def test_the_norm_is_that_of_all_gradients_together() -> None:
    """Gradients (3, 4) and (12): the norm is sqrt(9 + 16 + 144) = 13, by parameter 5 and 12."""
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    optimizer = MasterOptimizer([("a", a), ("b", b)], AdamWSettings())
    a.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])
    norm, norms = optimizer.compute_norm()
    assert float(norm) == pytest.approx(13.0) and norms.tolist() == pytest.approx([5.0, 12.0])
    optimizer.drop_gradients()
    assert float(optimizer.compute_norm()[0]) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_loaded_into_a_fresh_optimizer_goes_on_with_the_same_bits(dtype: torch.dtype) -> None:
    first, second = make_parameters(dtype), make_parameters(dtype, seed=9)
    one = MasterOptimizer(first.items(), SETTINGS, ema_decay=0.9)
    for step in range(2):
        set_gradients(first, step)
        one.apply(0.01, 1.0)
    two = MasterOptimizer(second.items(), SETTINGS, ema_decay=0.9)
    two.load_state_tensors({name: tensor.clone() for name, tensor in one.state_tensors().items()})
    for parameters, optimizer in ((first, one), (second, two)):
        set_gradients(parameters, 2)
        optimizer.apply(0.01, 1.0)
    a, b = one.state_tensors(), two.state_tensors()
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert all(torch.equal(first[name], second[name]) for name in first)


def schedule(kind: Any, steps: list[int], **arguments: Any) -> list[float]:
    values = {"peak": 1.0, "num_steps": 100, "warmup_steps": 0, "final_fraction": 0.0} | arguments
    return [compute_learning_rate(step, schedule=kind, **values) for step in steps]


def test_schedules_have_the_values_worked_out_by_hand_at_0_50_and_100_per_cent() -> None:
    """Of 100 steps, step 50 is half way and step 100 would be the end.

    cos(pi/2) = 0: half; with a final fraction of 0.2: 0.2 + 0.8 * share.
    """
    assert schedule("constant", [0, 50, 100]) == [1.0, 1.0, 1.0]
    assert schedule("linear", [0, 50, 100]) == pytest.approx([1.0, 0.5, 0.0])
    assert schedule("cosine", [0, 25, 50, 100]) == pytest.approx([1.0, 0.5 + math.sqrt(2) / 4, 0.5, 0.0])
    assert schedule("linear", [0, 50, 100], final_fraction=0.2) == pytest.approx([1.0, 0.6, 0.2])
    assert schedule("cosine", [0, 50, 100], final_fraction=0.2, peak=2.0) == pytest.approx([2.0, 1.2, 0.4])


def test_warm_up_rises_linearly_to_the_peak_and_the_schedule_starts_there() -> None:
    """Warm-up of 4 steps: 1/4, 2/4, 3/4, 4/4; then 1 at step 4, 0 where step 14 would be, half way at step 9."""
    found = schedule("linear", [0, 1, 2, 3, 4, 9, 14], num_steps=14, warmup_steps=4)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.0])
    assert schedule("cosine", [0], num_steps=1) == [1.0]
