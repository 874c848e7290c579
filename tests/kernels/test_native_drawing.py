"""The compiled draw: what `draw_tokens` draws from the same logits and uniform numbers."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain.core.errors import SamplerError
from posttrain.core.sampling import SamplingSettings
from posttrain.kernels import native_drawing
from posttrain.kernels.drawing import check_drawn, draw_tokens
from posttrain.kernels.native_drawing import NativeDrawing
from posttrain.kernels.token_logprobs import Head
from tests.kernels.native import load_or_skip


def load(dtype: torch.dtype = torch.float32) -> NativeDrawing:
    defines = {"BF16": 1} if dtype == torch.bfloat16 else {}
    return NativeDrawing(load_or_skip(native_drawing.SOURCE, defines, native_drawing.HEADERS))


def make_head(logits_BV: torch.Tensor) -> tuple[torch.Tensor, Head]:
    """Hidden states and a head whose logits are the given ones: one sequence a direction."""
    return torch.eye(len(logits_BV), dtype=logits_BV.dtype), Head(logits_BV.T.contiguous())


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("V", [1, 61, 128, 1000])
@pytest.mark.parametrize("B", [8, 16, 40])
def test_the_same_tokens_and_log_probs_as_by_torch(temperature: float, V: int, B: int) -> None:
    generator = torch.Generator().manual_seed(V + B)
    logits = torch.randn(B, V, generator=generator) * 4
    uniforms = torch.rand(B, generator=generator, dtype=torch.float64)
    settings = SamplingSettings(max_new_tokens=1, temperature=temperature)
    expected = draw_tokens(logits, settings, uniforms)
    count = B - 3  # rows behind are of padding
    found = load().draw(*make_head(logits), settings, uniforms[:count], count)
    assert torch.equal(found.ids_B, expected.ids_B[:count])
    torch.testing.assert_close(found.logprobs_B, expected.logprobs_B[:count], atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(found.drawing_logprobs_B, expected.drawing_logprobs_B[:count], atol=4e-6, rtol=4e-6)


def test_bf16_logits_are_drawn_from_as_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(24, 300, generator=generator) * 3).bfloat16()
    uniforms = torch.rand(24, generator=generator, dtype=torch.float64)
    settings = SamplingSettings(max_new_tokens=1, temperature=1.0)
    expected = draw_tokens(logits, settings, uniforms)
    found = load(torch.bfloat16).draw(*make_head(logits), settings, uniforms, 24)
    assert torch.equal(found.ids_B, expected.ids_B)
    torch.testing.assert_close(found.logprobs_B, expected.logprobs_B, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_an_even_grid_of_uniform_numbers_hits_every_token_as_often_as_it_is_probable(temperature: float) -> None:
    logits = torch.randn(1, 300, generator=torch.Generator().manual_seed(3)) * 2
    count = 20_000
    uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    settings = SamplingSettings(max_new_tokens=1, temperature=temperature)
    hidden = torch.ones(count, 1)
    found = load().draw(hidden, Head(logits.T.contiguous()), settings, uniforms, count)
    shares = torch.bincount(found.ids_B, minlength=300) / count
    expected = (logits[0].double() / temperature).softmax(-1)
    assert (shares - expected).abs().max() <= 1.5 / count


def test_the_ends_of_the_uniform_numbers_draw_possible_tokens_alone() -> None:
    logits = torch.full((8, 300), -math.inf)
    logits[:, [7, 130, 255]] = torch.tensor([0.0, 1.0, 2.0])
    uniforms = torch.tensor([0.0, 1 - 2.0**-53] * 4, dtype=torch.float64)
    settings = SamplingSettings(max_new_tokens=1, temperature=1.0)
    found = load().draw(torch.eye(8) * 0 + 1, Head(torch.cat([logits[:1].T] + [logits[:1].T * 0] * 7, 1)), settings,
                        uniforms, 8)  # fmt: skip
    assert found.logprobs_B.isnan().all()  # minus infinity times 0 is no logit: nothing is made up of it
    found = load().draw(torch.ones(8, 1), Head(logits[:1].T.contiguous()), settings, uniforms, 8)
    assert found.ids_B.tolist() == [7, 255] * 4


def test_greedy_takes_the_lowest_id_of_equals() -> None:
    logits = torch.zeros(8, 200)
    logits[:, [150, 30]] = 3.0
    found = load().draw(*make_head(logits), SamplingSettings(max_new_tokens=1), None, 8)
    assert found.ids_B.tolist() == [30] * 8
    assert found.drawing_logprobs_B.tolist() == [0.0] * 8


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_distribution_are_reported_with_their_row(temperature: float, bad: float) -> None:
    logits = torch.zeros(1, 200)
    logits[0, 70] = bad
    head = Head(torch.cat([torch.zeros(200, 1), logits.T], 1))
    hidden = torch.zeros(9, 2)
    hidden[:, 0] = 1
    hidden[4] = torch.tensor([0.0, 1.0])
    head.weight[70, 1] = bad
    found = load().draw(
        hidden, head, SamplingSettings(max_new_tokens=1, temperature=temperature), torch.full((9,), 0.5).double(), 9
    )
    broken = found.logprobs_B.isnan()
    assert broken[4]
    with pytest.raises(SamplerError, match="no distribution"):
        check_drawn(found)


def test_what_is_cut_penalised_masked_or_too_small_is_left_to_torch() -> None:
    drawing, head = load(), Head(torch.zeros(10, 4))
    assert drawing.can_draw(SamplingSettings(max_new_tokens=1, temperature=0.5), head, 8)
    assert not drawing.can_draw(SamplingSettings(max_new_tokens=1), head, 7)
    for settings in ({"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}, {"repetition_penalty": 1.2}):
        assert not drawing.can_draw(SamplingSettings(max_new_tokens=1, temperature=1.0, **settings), head, 8)
    assert not drawing.can_draw(SamplingSettings(max_new_tokens=1, top_logprobs=2), head, 8)
    for other in (Head(head.weight, torch.zeros(10)), Head(head.weight, scale=0.5), Head(head.weight, softcap=30.0)):
        assert not drawing.can_draw(SamplingSettings(max_new_tokens=1), other, 8)
