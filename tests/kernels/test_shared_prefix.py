"""Continuations that share a prompt attend as if it stood before each of them: output and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from posttrain.kernels import shared_prefix
from posttrain.kernels.layouts import run_families
from posttrain.kernels.shared_prefix import Family, attend_families, lay_out_families

LENGTHS = ((5, 3, 1, 4), (2,), (1, 6), (4, 2, 2))
TOKENS = sum(map(sum, LENGTHS))


def draw(heads: int, seed: int, tokens: int = TOKENS, size: int = 8) -> torch.Tensor:
    values = torch.randn(1, tokens, heads, size, generator=torch.Generator().manual_seed(seed))
    return values.transpose(1, 2).requires_grad_()


# many parameters: those of the kernel
def textbook(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: Sequence[Sequence[int]],
    window: int | None = None,
) -> torch.Tensor:
    """One [T, T] matrix in fp64, where a token sees its prompt and its own continuation's past alone."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (x.double().repeat_interleave(repeats, 1) for x in (key, value))
    seen = torch.zeros(query.shape[2], query.shape[2], dtype=torch.bool)
    start, positions = 0, []
    for prompt, *others in lengths:
        positions += [*range(prompt), *(prompt + place for count in others for place in range(count))]
        own = slice(start, start + prompt)
        seen[own, own] = torch.ones(prompt, prompt).tril().bool()
        start += prompt
        for count in others:
            rows = slice(start, start + count)
            seen[rows, own] = True
            seen[rows, rows] = torch.ones(count, count).tril().bool()
            start += count
    if window is not None:
        seen &= torch.tensor(positions)[:, None] - torch.tensor(positions) < window
    scores = (query.double() @ key.transpose(-1, -2) * 0.4).masked_fill(~seen, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("bundle", [1024, 5], ids=["one-call", "several-calls"])
@pytest.mark.parametrize("window", [None, 3, 6])
@pytest.mark.parametrize("is_flash", [True, False])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
# many parameters: what the kernel distinguishes
def test_output_and_gradients_are_those_of_each_continuation_behind_its_prompt(
    key_heads: int, is_flash: bool, window: int | None, bundle: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_prefix, "_MASKED_TOKENS", bundle)
    query, key, value = draw(4, 0), draw(key_heads, 1), draw(key_heads, 2)
    families = lay_out_families(LENGTHS)
    ours = attend_families(query, key, value, families, 0.4, window=window, is_flash=is_flash)
    theirs = textbook(query, key, value, LENGTHS, window)
    assert torch.allclose(ours.double(), theirs, atol=1e-6)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(9))
    got = torch.autograd.grad((ours * upstream).sum(), [query, key, value])
    expected = torch.autograd.grad((theirs * upstream).sum(), [query, key, value])
    for a, b in zip(got, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("is_flash", [True, False])
def test_a_continuation_sees_neither_its_siblings_nor_other_families(is_flash: bool) -> None:
    query, key, value = draw(4, 0), draw(2, 1), draw(2, 2)
    families = lay_out_families(LENGTHS)
    before = attend_families(query, key, value, families, 0.4, is_flash=is_flash)
    with torch.no_grad():
        for tensor in (query, key, value):
            tensor[:, :, 5:8] = 50.0  # the first continuation
    after = attend_families(query, key, value, families, 0.4, is_flash=is_flash)
    outside = [*range(5), *range(8, TOKENS)]
    assert torch.equal(before[:, outside], after[:, outside])


@pytest.mark.parametrize("lengths", [((40, 200, 30),), ((300, 400, 513),)], ids=["short", "long"])
def test_in_bf16_gradients_are_as_near_to_fp32_as_bf16_is(lengths: Sequence[Sequence[int]]) -> None:
    tokens = sum(lengths[0])
    tensors = [draw(heads, seed, tokens, 16).detach().bfloat16() for heads, seed in ((2, 0), (1, 1), (1, 2))]
    upstream = torch.randn(1, tokens, 2, 16, generator=torch.Generator().manual_seed(5))
    grads = []
    for dtype in (torch.bfloat16, torch.float32):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in tensors]
        out = attend_families(*leaves, lay_out_families(lengths), 0.25, is_flash=True)
        assert out.dtype == dtype
        grads.append(torch.autograd.grad((out.float() * upstream).sum(), leaves))
    for got, expected in zip(*grads, strict=True):
        error = (got.float() - expected).norm() / expected.norm()
        assert float(error) < 0.02


def test_a_family_knows_where_its_parts_lie() -> None:
    families = lay_out_families(LENGTHS)
    assert families[0] == Family(0, (5, 8, 9, 13)) and families[1] == Family(13, (15,))
    assert families[0].continuations == [slice(5, 8), slice(8, 9), slice(9, 13)]
    assert [family.longest for family in families] == [9, 2, 7, 6]
    with pytest.raises(ValueError, match=r"\[3, 0\]"):
        lay_out_families([[3, 0]])


def test_what_is_short_and_not_differentiated_gives_the_same_in_one_masked_call() -> None:
    query, key, value = draw(4, 0), draw(2, 1), draw(2, 2)
    families = lay_out_families(LENGTHS)
    several = attend_families(query, key, value, families, 0.4, is_flash=True)
    with torch.no_grad():
        plain = [tensor.detach() for tensor in (query, key, value)]
        assert torch.allclose(attend_families(*plain, families, 0.4, is_flash=True), several, atol=1e-6)


def test_continuations_of_a_masked_call_are_together_as_long_as_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 5 tokens a call: 2 + 3, then 7 alone, then 1; a document that shares nothing has no call."""
    monkeypatch.setattr(shared_prefix, "_MASKED_TOKENS", 5)
    family, alone = lay_out_families([(4, 2, 3, 7, 1), (6,)])
    assert family.bundles == [slice(4, 9), slice(9, 16), slice(16, 17)]
    assert alone.bundles == []


def test_positions_go_on_from_the_prompt_in_every_continuation() -> None:
    found: list[list[int]] = []

    def backbone(position_ids: torch.Tensor, **others: Any) -> Any:
        found.append(position_ids[0].tolist())
        return SimpleNamespace(last_hidden_state=torch.zeros(1, 6, 4))

    run_families(backbone, torch.zeros(6, dtype=torch.int64), lay_out_families([(2, 2, 1), (1,)]))
    assert found == [[0, 1, 2, 3, 2, 0]]
