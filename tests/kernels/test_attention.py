"""Packed attention is each document's own causal attention: output, gradients, windows, soft caps, refusals."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from posttrain.kernels import attention
from posttrain.kernels.attention import DocumentSpans, packed_attention

LENGTHS = (5, 1, 12, 3)
CASES: list[dict[str, Any]] = [
    {},
    {"scaling": 0.7},
    {"sliding_window": 4},
    {"sliding_window": 1},
    {"sliding_window": 12},
    {"softcap": 1.5},
    {"softcap": 1.5, "sliding_window": 4, "scaling": 0.3},
]


def draw(heads: int, size: int = 8, tokens: int = sum(LENGTHS), seed: int = 0) -> torch.Tensor:
    """Heads as models hand them over: a transposed view of [1, T, H, D]."""
    values = torch.randn(1, tokens, heads, size, generator=torch.Generator().manual_seed(seed))
    return values.transpose(1, 2).requires_grad_()


def textbook(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: tuple[int, ...],
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """One [T, T] score matrix with everything hidden that is not the same document's recent past, in fp64."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (x.double().repeat_interleave(repeats, 1) for x in (key, value))
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    scores = query.double() @ key.transpose(-1, -2) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    place = torch.arange(len(document))
    distance = place[:, None] - place[None, :]
    hidden = (document[:, None] != document[None, :]) | (distance < 0)
    if sliding_window is not None:
        hidden |= distance >= sliding_window
    return (torch.softmax(scores.masked_fill(hidden, float("-inf")), -1) @ value).transpose(1, 2)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **arguments: Any) -> torch.Tensor:
    lengths = arguments.pop("lengths", LENGTHS)
    spans = DocumentSpans.from_lengths(lengths)
    return packed_attention(torch.nn.Module(), query, key, value, None, document_spans=spans, **arguments)[0]


def assert_equals_textbook(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **arguments: Any) -> None:
    ours, theirs = attend(query, key, value, **arguments), textbook(query, key, value, LENGTHS, **arguments)
    assert ours.shape == theirs.shape
    assert torch.allclose(ours.double(), theirs, atol=1e-6)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(9))
    got = torch.autograd.grad((ours * upstream).sum(), [query, key, value])
    expected = torch.autograd.grad((theirs * upstream).sum(), [query, key, value])
    for a, b in zip(got, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("arguments", CASES, ids=str)
@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_output_and_gradients_are_each_documents_own(arguments: dict[str, Any], key_heads: int) -> None:
    assert_equals_textbook(draw(4), draw(key_heads, seed=1), draw(key_heads, seed=2), **arguments)


@pytest.mark.parametrize("arguments", CASES[:3], ids=str)
def test_keys_are_repeated_where_the_kernel_takes_no_grouped_heads(
    arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "flash_cpu_takes_grouped_heads", lambda: False)
    assert_equals_textbook(draw(4), draw(2, seed=1), draw(2, seed=2), **arguments)


@pytest.mark.parametrize("arguments", CASES[:4], ids=str)
def test_values_may_have_another_head_size_than_keys(arguments: dict[str, Any]) -> None:
    assert_equals_textbook(draw(4, 8), draw(2, 8, seed=1), draw(2, 6, seed=2), **arguments)


@pytest.mark.parametrize("arguments", CASES, ids=str)
def test_a_document_does_not_see_another_ones_tokens_at_all(arguments: dict[str, Any]) -> None:
    query, key, value = draw(4), draw(2, seed=1), draw(2, seed=2)
    before = attend(query, key, value, **arguments)
    with torch.no_grad():
        for tensor in (query, key, value):
            tensor[:, :, 6:18] = 50.0  # the third document
    after = attend(query, key, value, **arguments)
    outside = [*range(6), *range(18, 21)]
    assert torch.equal(before[:, outside], after[:, outside])
    assert not torch.equal(before[:, 6:18], after[:, 6:18])


@pytest.mark.parametrize("window", [None, 100])
def test_bf16_backward_is_as_near_to_fp32_as_bf16_is_for_short_and_long_documents(window: int | None) -> None:
    lengths = (40, 600, 512, 513)
    tensors = [draw(heads, 16, sum(lengths), seed).detach().bfloat16() for heads, seed in ((2, 0), (1, 1), (1, 2))]
    upstream = torch.randn(1, sum(lengths), 2, 16, generator=torch.Generator().manual_seed(5))
    grads = []
    for dtype in (torch.bfloat16, torch.float32):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in tensors]
        out = attend(*leaves, lengths=lengths, sliding_window=window)
        assert out.dtype == dtype
        grads.append(torch.autograd.grad((out.float() * upstream).sum(), leaves))
    for got, expected in zip(*grads, strict=True):
        for a, b in itertools.pairwise((0, *itertools.accumulate(lengths))):
            part = got[:, :, a:b].float() - expected[:, :, a:b]
            assert float(part.norm() / expected[:, :, a:b].norm()) < 0.02


def test_what_cannot_be_honoured_is_refused() -> None:
    query, key = draw(2), draw(2, seed=1)
    spans = DocumentSpans.from_lengths(LENGTHS)
    module, mask = torch.nn.Module(), torch.zeros(1, 1, 21, 21)
    with pytest.raises(ValueError, match="document_spans"):
        packed_attention(module, query, key, key, None)
    with pytest.raises(ValueError, match="masks"):
        packed_attention(module, query, key, key, mask, document_spans=spans)
    with pytest.raises(ValueError, match="dropout"):
        packed_attention(module, query, key, key, None, dropout=0.1, document_spans=spans)
    with pytest.raises(ValueError, match="sinks"):
        packed_attention(module, query, key, key, None, document_spans=spans, s_aux=torch.zeros(2))
    encoder: Any = torch.nn.Module()
    encoder.is_causal = False
    with pytest.raises(ValueError, match="causal"):
        packed_attention(encoder, query, key, key, None, document_spans=spans)


def test_spans_are_the_running_sums_of_lengths() -> None:
    spans = DocumentSpans.from_lengths([3, 2])
    assert spans.starts == (0, 3, 5)
    assert spans.max_length == 3
    assert spans.starts_device is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("arguments", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_gives_the_numbers_of_the_cpu(arguments: dict[str, Any], dtype: torch.dtype) -> None:
    tensors = [draw(heads, 16, seed=seed).detach().to(dtype) for heads, seed in ((4, 0), (2, 1), (2, 2))]
    outputs, grads = [], []
    for device in ("cpu", "cuda"):
        leaves = [tensor.to(device).requires_grad_() for tensor in tensors]
        spans = DocumentSpans.from_lengths(LENGTHS, device)
        out = packed_attention(torch.nn.Module(), *leaves, None, document_spans=spans, **arguments)[0]
        outputs.append(out.float().cpu())
        grads.append([g.float().cpu() for g in torch.autograd.grad(out.float().square().sum(), leaves)])
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    assert float((outputs[0] - outputs[1]).norm() / outputs[0].norm()) < tolerance
    for a, b in zip(*grads, strict=True):
        assert float((a - b).norm() / a.norm()) < tolerance
