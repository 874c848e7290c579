"""Compiled kernels of a decode pass: the same numbers as torch's operations, sequence by sequence."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import silu

from posttrain.kernels import native_decoding
from posttrain.kernels.cached_attention import Decode, LayerCache, SharedPrompts
from posttrain.kernels.native_decoding import HeadShape, NativeDecoding
from tests.kernels.native import load_or_skip

SHAPES = [HeadShape(4, 2, 16, 16), HeadShape(6, 2, 32, 48), HeadShape(3, 3, 64, 64)]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}
DTYPES = [torch.float32, torch.bfloat16]


def load(shape: HeadShape, dtype: torch.dtype) -> NativeDecoding:
    library = load_or_skip(native_decoding.SOURCE, shape.defines(dtype), native_decoding.HEADERS)
    return NativeDecoding(library, shape)


def make(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def rms_norm(hidden: torch.Tensor, gain: torch.Tensor, epsilon: float) -> torch.Tensor:
    """By the definition, over the last dimension, rounded as Llama does."""
    values = hidden.float()
    return (values * (values.pow(2).mean(-1, keepdim=True) + epsilon).rsqrt()).to(hidden.dtype) * gain


class Pass:
    """Random buffers, prompts and features of one layer, and the pass's attention by hand."""

    def __init__(self, shape: HeadShape, dtype: torch.dtype, B: int, *, is_shared: bool = True) -> None:
        self.shape, self.dtype, self.B = shape, dtype, B
        H, K, D, E = shape.num_heads, shape.num_kv_heads, shape.key_size, shape.value_size
        self.mixed = make((H + K) * D + K * E, B, dtype=dtype, seed=1)
        self.lengths = torch.arange(B) * 5 % 23
        self.prompt_lengths = torch.tensor([17, 3, 33])
        self.slots = torch.arange(B) % 3
        self.rows = LayerCache(make(B + 2, K, 32, D, dtype=dtype, seed=2), make(B + 2, K, 32, E, dtype=dtype, seed=3))
        self.prompts = LayerCache(make(3, K, 40, D, dtype=dtype, seed=4), make(3, K, 40, E, dtype=dtype, seed=5))
        angles = torch.rand(D // 2, B, generator=torch.Generator().manual_seed(6)).repeat(2, 1)
        self.rotation = angles.cos().to(dtype), angles.sin().to(dtype)
        self.gains = make(D, dtype=dtype, seed=7), make(D, dtype=dtype, seed=8)
        shared = SharedPrompts([self.prompts], 3, 40, self.slots, self.prompt_lengths[self.slots], {}, {})
        self.step = Decode([self.rows], self.lengths, {}, 32, {}, shared if is_shared else None)

    def split(self, has_norms: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values of the new tokens, normed and rotated: [B, heads, size] each."""
        H, K, D = self.shape.num_heads, self.shape.num_kv_heads, self.shape.key_size
        parts = self.mixed.T.split([H * D, K * D, K * self.shape.value_size], -1)
        query, key, value = (part.reshape(self.B, heads, -1) for part, heads in zip(parts, (H, K, K), strict=True))
        if has_norms:
            query, key = rms_norm(query, self.gains[0], 1e-5), rms_norm(key, self.gains[1], 1e-5)
        cos, sin = (x.T[:, None] for x in self.rotation)
        turned = [torch.cat([-x[..., D // 2 :], x[..., : D // 2]], -1) for x in (query, key)]
        return query * cos + turned[0] * sin, key * cos + turned[1] * sin, value

    def expect(self, *, has_norms: bool, window: int | None) -> torch.Tensor:
        """The attention output [B, H * value size] in float64, one sequence at a time."""
        queries, new_keys, new_values = self.split(has_norms)
        outputs = []
        for b in range(self.B):
            own, slot = int(self.lengths[b]), int(self.slots[b])
            before = int(self.prompt_lengths[slot]) if self.step.shared is not None else 0
            keys = torch.cat([self.prompts.keys[slot, :, :before], self.rows.keys[b, :, :own], new_keys[b][:, None]], 1)
            values = [self.prompts.values[slot, :, :before], self.rows.values[b, :, :own], new_values[b][:, None]]
            group = self.shape.num_heads // self.shape.num_kv_heads
            keys, seen = keys.double().repeat_interleave(group, 0), torch.cat(values, 1).double()
            scores = torch.einsum("hd,hnd->hn", queries[b].double(), keys) * 0.3
            if window is not None:
                scores[:, : max(0, scores.shape[1] - window)] = float("-inf")
            outputs.append(torch.einsum("hn,hne->he", scores.softmax(-1), seen.repeat_interleave(group, 0)).flatten())
        return torch.stack(outputs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("settings", [(False, None), (True, 9), (False, 19), (True, None)])
@pytest.mark.parametrize("is_shared", [False, True])
def test_attention_is_that_of_each_sequence_alone(
    dtype: torch.dtype, shape: HeadShape, settings: tuple[bool, int | None], is_shared: bool
) -> None:
    has_norms, window = settings
    case = Pass(shape, dtype, 21, is_shared=is_shared)
    kernels = load(shape, dtype)
    gains = case.gains if has_norms else None
    expected = case.expect(has_norms=has_norms, window=window)
    found = kernels.attend(case.mixed, case.rotation, gains, case.step, 0, scale=0.3, epsilon=1e-5, window=window)
    torch.testing.assert_close(found.double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_new_keys_and_values_lie_behind_the_sequences_tokens_and_nothing_else_changes(dtype: torch.dtype) -> None:
    case = Pass(SHAPES[1], dtype, 21)
    before = [x.clone() for x in (case.rows.keys, case.rows.values)]
    _, keys, values = case.split(has_norms=True)
    load(SHAPES[1], dtype).attend(case.mixed, case.rotation, case.gains, case.step, 0, scale=1.0, epsilon=1e-5)
    for found, kept, new in zip((case.rows.keys, case.rows.values), before, (keys, values), strict=True):
        rows = torch.arange(21)
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(found[rows, :, case.lengths], new, atol=tolerance, rtol=tolerance)
        found[rows, :, case.lengths] = kept[rows, :, case.lengths]
        assert torch.equal(found, kept)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_sequence_gets_the_same_bits_whatever_its_neighbours_and_their_number_are(dtype: torch.dtype) -> None:
    case = Pass(SHAPES[0], dtype, 21)
    kernels = load(SHAPES[0], dtype)
    together = kernels.attend(case.mixed, case.rotation, case.gains, case.step, 0, scale=0.3, epsilon=1e-5)
    assert case.step.shared is not None
    for b in (0, 7, 20):
        shared = replace(
            case.step.shared, slots_B=case.slots[b : b + 1], lengths_B=case.step.shared.lengths_B[b : b + 1]
        )
        rows = LayerCache(case.rows.keys[b : b + 1], case.rows.values[b : b + 1])
        step = Decode([rows], case.lengths[b : b + 1], {}, 32, {}, shared)
        rotation = tuple(x[:, b : b + 1].contiguous() for x in case.rotation)
        alone = kernels.attend(
            case.mixed[:, b : b + 1].contiguous(), (rotation[0], rotation[1]), case.gains, step, 0, scale=0.3,
            epsilon=1e-5,
        )  # fmt: skip
        assert torch.equal(alone[0], together[b])


def test_a_value_that_is_not_finite_shows_in_its_own_sequence_alone() -> None:
    case = Pass(SHAPES[0], torch.float32, 5)
    case.mixed[3, 2] = float("nan")
    found = load(SHAPES[0], torch.float32).attend(case.mixed, case.rotation, None, case.step, 0, scale=0.3)
    assert found[2].isnan().any()
    assert not found[[0, 1, 3, 4]].isnan().any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("B", [1, 8, 37])
def test_the_norm_of_a_sum_is_that_of_its_definition(dtype: torch.dtype, B: int) -> None:
    hidden, delta, gain = (make(*shape, dtype=dtype, seed=i) for i, shape in enumerate(((100, B), (100, B), (100,))))
    kernels = load(SHAPES[0], dtype)
    for more in (delta, None):
        expected = hidden if more is None else hidden + more
        found = kernels.add_and_normalise(hidden, more, gain, 1e-5)
        assert torch.equal(hidden, expected)
        wanted = rms_norm(expected.T, gain, 1e-5).T
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=2e-6 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 1), (46, 7), (10000, 3)])
def test_the_gated_unit_is_that_of_its_definition(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    mixed = make(*shape, dtype=dtype, seed=0) * 40  # far into both tails of the exponential
    gate, up = mixed.clone().chunk(2)
    found = load(SHAPES[0], dtype).gate(mixed)
    torch.testing.assert_close(found, silu(gate) * up, atol=1e-30, rtol=3e-6 if dtype == torch.float32 else 1e-2)


def test_heads_of_other_sizes_are_left_to_torch() -> None:
    assert HeadShape(4, 2, 16, 16).supports(torch.bfloat16)
    assert not HeadShape(4, 2, 24, 16).supports(torch.bfloat16)
    assert not HeadShape(4, 3, 16, 16).supports(torch.float32)
    assert not HeadShape(4, 2, 16, 16).supports(torch.float16)
