"""The chunked head gives the numbers of full logits, and no tensor of [tokens, vocabulary] exists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from posttrain.kernels import token_logprobs
from posttrain.kernels.coupled_logprobs import score_coupled_tokens
from posttrain.kernels.token_logprobs import (
    CHUNK_ROWS,
    Head,
    TokenObjective,
    TokenScores,
    compute_row_logprobs,
    score_tokens,
)
from posttrain.objectives.sft import compute_sft_loss
from tests.kernels.native import load_native_scores


@pytest.fixture(autouse=True)
def least_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small vocabularies take larger chunks; these tests cross the borders of the smallest."""
    monkeypatch.setattr(token_logprobs, "CHUNK_ELEMENTS", 0)


def test_chunks_hold_a_number_of_logits_and_at_least_512_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_logprobs, "CHUNK_ELEMENTS", 1 << 22)
    rows = [token_logprobs.count_chunk_rows(vocabulary) for vocabulary in (4096, 5000, 49_152, 256_000)]
    assert rows == [1024, 832, CHUNK_ROWS, CHUNK_ROWS]


@dataclass
class Problem:
    """Hidden states, a head, targets and weights, all drawn from one seed."""

    hidden: torch.Tensor
    head: Head
    targets: torch.Tensor
    weights: torch.Tensor

    def leaves(self) -> list[torch.Tensor]:
        return [x for x in (self.hidden, self.head.weight, self.head.bias) if x is not None]


# many parameters: a problem has this many sizes
def make_problem(
    N: int, *, H: int = 8, V: int = 37, has_bias: bool = False, seed: int = 0, dtype: Any = torch.float32, **head: Any
) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    weight, bias = draw(V, H).requires_grad_(), draw(V).requires_grad_() if has_bias else None
    weights = torch.rand(N, generator=generator) / max(1, N)
    targets = torch.randint(0, V, (N,), generator=generator)
    return Problem(draw(N, H).requires_grad_(), Head(weight, bias, **head), targets, weights)


def full_logits(problem: Problem, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The whole logits tensor, as a textbook has it."""
    head = problem.head
    logits = problem.hidden.to(dtype) @ head.weight.to(dtype).T
    if head.bias is not None:
        logits = logits + head.bias.to(dtype)
    logits = logits * head.scale
    return head.softcap * torch.tanh(logits / head.softcap) if head.softcap else logits


def reference_loss(problem: Problem, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    losses = torch.nn.functional.cross_entropy(full_logits(problem, dtype), problem.targets, reduction="none")
    return (losses * problem.weights).sum()


def score(problem: Problem, objective: TokenObjective = compute_sft_loss, **arguments: Any) -> TokenScores:
    return score_tokens(problem.hidden, problem.head, problem.targets, problem.weights, objective, **arguments)


def assert_same_gradients(problem: Problem, ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    leaves = [leaf for leaf in problem.leaves() if leaf.requires_grad]
    got = torch.autograd.grad(ours, leaves)
    expected = torch.autograd.grad(theirs, leaves)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.allclose(a.float(), b.float(), rtol=tolerance, atol=tolerance), float((a - b).abs().max())


def test_loss_and_gradient_are_the_ones_worked_out_by_hand() -> None:
    """Vocabulary of three, hidden size 1, h = 1, weights (0, ln 2, ln 5), target 2, w = 1.

    logits = (0, ln 2, ln 5), exp = (1, 2, 5), sum 8, p = (1/8, 2/8, 5/8)
    loss = -ln(5/8) = ln 1.6 = 0.4700036
    dloss/dlogits = p - onehot = (1/8, 1/4, -3/8); the weight's gradient is this times h = 1
    dloss/dh = 1/8 * 0 + 1/4 ln 2 - 3/8 ln 5 = -0.4302520
    entropy = -(1/8 ln 1/8 + 1/4 ln 1/4 + 5/8 ln 5/8) = 0.9002561
    """
    hidden = torch.ones(1, 1, requires_grad=True)
    weight = torch.tensor([[0.0], [math.log(2)], [math.log(5)]], requires_grad=True)
    scores = score_tokens(hidden, Head(weight), torch.tensor([2]), torch.ones(1), compute_sft_loss, with_entropy=True)
    scores.loss.backward()
    assert float(scores.loss.detach()) == pytest.approx(0.4700036, abs=1e-6)
    assert float(scores.logprobs_N) == pytest.approx(-0.4700036, abs=1e-6)
    assert weight.grad is not None and hidden.grad is not None and scores.entropies_N is not None
    assert weight.grad[:, 0].tolist() == pytest.approx([0.125, 0.25, -0.375], abs=1e-6)
    assert float(hidden.grad) == pytest.approx(0.25 * math.log(2) - 0.375 * math.log(5), abs=1e-6)
    assert float(scores.entropies_N) == pytest.approx(0.9002561, abs=1e-6)
    assert bool(scores.is_argmax_N)


SIZES = [1, 63, 64, 65, CHUNK_ROWS - 1, CHUNK_ROWS, CHUNK_ROWS + 1, 2 * CHUNK_ROWS + 100]


@pytest.mark.parametrize("N", SIZES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_loss_and_gradients_equal_cross_entropy_on_full_logits(N: int, has_bias: bool) -> None:
    problem = make_problem(N, has_bias=has_bias)
    scores = score(problem)
    expected = reference_loss(problem)
    assert float(scores.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert_same_gradients(problem, scores.loss, expected, 1e-6)


@pytest.mark.parametrize("N", [65, CHUNK_ROWS + 1])
def test_bf16_is_as_near_to_full_precision_as_bf16_logits_are(N: int) -> None:
    problem = make_problem(N, has_bias=True, dtype=torch.bfloat16)
    scores = score(problem)
    expected = reference_loss(problem)
    assert float(scores.loss.detach()) == pytest.approx(float(expected.detach()), rel=5e-3)
    ours = torch.autograd.grad(scores.loss, problem.leaves())
    theirs = torch.autograd.grad(expected, problem.leaves())
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == torch.bfloat16
        assert float((a.float() - b.float()).norm() / b.float().norm()) < 0.02


@pytest.mark.parametrize("head", [{"scale": 0.25}, {"softcap": 2.0}, {"scale": 3.0, "softcap": 1.5}])
@pytest.mark.parametrize("has_bias", [False, True])
def test_scaled_and_soft_capped_logits_equal_autograd_on_full_logits(head: dict[str, float], has_bias: bool) -> None:
    problem = make_problem(CHUNK_ROWS + 70, has_bias=has_bias, **head)
    scores = score(problem)
    expected = reference_loss(problem)
    assert float(scores.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert_same_gradients(problem, scores.loss, expected, 1e-6)


def test_tiles_within_a_chunk_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_problem(200, has_bias=True, softcap=4.0)
    expected = reference_loss(problem)
    for tile_elements in (1, 37, 37 * 7, 37 * 200, 37 * 1000):
        monkeypatch.setattr(token_logprobs, "_TILE_ELEMENTS", tile_elements)
        scores = score(problem)
        assert float(scores.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
        assert_same_gradients(problem, scores.loss, reference_loss(problem), 1e-6)


def test_the_gradient_raises_the_chosen_token_and_lowers_every_other() -> None:
    problem = make_problem(50, has_bias=True)
    scores = score(replace(problem, targets=torch.full((50,), 3)))
    (grad,) = torch.autograd.grad(scores.loss, [problem.head.bias])
    descent = -grad
    assert descent[3] > 0
    assert (torch.cat([descent[:3], descent[4:]]) < 0).all()


def test_rows_of_weight_zero_change_nothing() -> None:
    problem = make_problem(40)
    keep = torch.arange(40) % 3 != 0
    masked = replace(problem, weights=torch.where(keep, problem.weights, torch.zeros(40)))
    shorter = replace(
        problem, hidden=problem.hidden[keep], targets=problem.targets[keep], weights=problem.weights[keep]
    )
    assert float(score(masked).loss.detach()) == pytest.approx(float(score(shorter).loss.detach()), rel=1e-6)
    assert_same_gradients(problem, score(masked).loss, score(shorter).loss, 1e-7)
    (grad_hidden,) = torch.autograd.grad(score(masked).loss, [problem.hidden])
    assert (grad_hidden[~keep] == 0).all() and (grad_hidden[keep] != 0).any(1).all()


def test_the_order_of_rows_changes_nothing() -> None:
    problem = make_problem(CHUNK_ROWS + 33)
    order = torch.randperm(CHUNK_ROWS + 33, generator=torch.Generator().manual_seed(1))
    shuffled = Problem(problem.hidden[order], problem.head, problem.targets[order], problem.weights[order])
    assert float(score(shuffled).loss.detach()) == pytest.approx(float(score(problem).loss.detach()), rel=1e-6)
    assert torch.allclose(score(shuffled).logprobs_N, score(problem).logprobs_N[order], atol=1e-6)
    assert_same_gradients(problem, score(shuffled).loss, score(problem).loss, 1e-6)


def test_a_frozen_head_gets_no_gradient_and_hidden_states_the_same_one() -> None:
    problem = make_problem(100, has_bias=True)
    (expected,) = torch.autograd.grad(score(problem).loss, [problem.hidden])
    assert problem.head.bias is not None
    problem.head.weight.requires_grad_(False)
    problem.head.bias.requires_grad_(False)
    score(problem).loss.backward()
    assert problem.head.weight.grad is None and problem.head.bias.grad is None
    assert problem.hidden.grad is not None and torch.equal(problem.hidden.grad, expected)


def test_frozen_hidden_states_leave_the_gradient_of_the_head_as_it_is() -> None:
    problem = make_problem(CHUNK_ROWS + 10)
    (expected,) = torch.autograd.grad(score(problem).loss, [problem.head.weight])
    (alone,) = torch.autograd.grad(score(replace(problem, hidden=problem.hidden.detach())).loss, [problem.head.weight])
    assert torch.equal(alone, expected)


def test_a_loss_scaled_from_outside_scales_every_gradient() -> None:
    problem = make_problem(30, has_bias=True)
    assert_same_gradients(problem, score(problem).loss * -2.5, reference_loss(problem) * -2.5, 1e-6)


def test_entropies_equal_the_exact_ones_and_change_nothing_else() -> None:
    problem = make_problem(CHUNK_ROWS + 5, scale=2.0, softcap=5.0)
    with_entropy, without = score(problem, with_entropy=True), score(problem)
    probabilities = torch.softmax(full_logits(problem, torch.float64), -1)
    expected = -(probabilities * probabilities.log()).sum(-1)
    assert with_entropy.entropies_N is not None and without.entropies_N is None
    assert torch.allclose(with_entropy.entropies_N.double(), expected, atol=1e-5)
    assert torch.equal(with_entropy.loss, without.loss)
    assert_same_gradients(problem, with_entropy.loss, without.loss, 0.0)


def test_logprobs_and_hits_equal_full_logits_and_carry_no_gradient() -> None:
    problem = make_problem(300)
    scores = score(problem, with_entropy=True)
    assert scores.loss.requires_grad
    assert scores.entropies_N is not None
    assert not any(x.requires_grad for x in (scores.logprobs_N, scores.is_argmax_N, scores.entropies_N))
    logits = full_logits(problem)
    expected = torch.log_softmax(logits, -1).gather(1, problem.targets[:, None])[:, 0]
    assert torch.allclose(scores.logprobs_N, expected, atol=1e-6)
    assert torch.equal(scores.is_argmax_N, logits.argmax(-1) == problem.targets)
    assert scores.is_argmax_N.any() and not scores.is_argmax_N.all()


def test_an_objective_with_row_constants_equals_autograd_on_full_logits() -> None:
    """A clipped importance ratio against a sampler's log-probs: -min(r A, clip(r) A) with r = exp(logp - sampler)."""

    def objective(logprobs: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        ratio = (logprobs - constants["sampler"]).exp()
        clipped = ratio.clamp(0.8, 1.2)
        return -torch.minimum(ratio * constants["advantage"], clipped * constants["advantage"])

    problem = make_problem(CHUNK_ROWS + 40)
    generator = torch.Generator().manual_seed(3)
    logprobs = score(problem).logprobs_N
    constants = {
        "sampler": logprobs + 0.3 * torch.randn(len(logprobs), generator=generator),
        "advantage": torch.randn(len(logprobs), generator=generator),
    }
    scores = score(problem, objective, constants=constants)
    chosen = torch.log_softmax(full_logits(problem), -1).gather(1, problem.targets[:, None])[:, 0]
    expected = (objective(chosen, constants) * problem.weights).sum()
    assert float(scores.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5, abs=1e-7)
    assert_same_gradients(problem, scores.loss, expected, 1e-6)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(
    ("lengths", "is_compiled", "seen"),
    [
        ([300, 100, 200, 400, 52], True, [400, 200, 452]),  # chunks of at most 512 rows, of whole sequences
        ([300, 100, 200, 400, 52], False, [1052]),  # torch reads tile by tile
        ([20, 1000, 32], True, [20, 1000, 32]),  # a sequence may be twice as long as a chunk
        ([20, 1032], True, [1052]),
    ],
)
def test_an_objective_that_couples_rows_equals_autograd_on_full_logits(
    has_bias: bool, lengths: list[int], is_compiled: bool, seen: list[int]
) -> None:
    """Rows of one sequence share their mean log-prob: -exp(mean) a, with a weight for each row."""
    calls = []

    def objective(logprobs: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        calls.append(len(logprobs))
        _, sequences, counts = constants["sequences"].unique(return_inverse=True, return_counts=True)
        sums = torch.zeros(len(counts)).index_add(0, sequences, logprobs)
        return -(sums / counts).exp()[sequences] * constants["advantage"]

    kernels = load_native_scores(torch.float32) if is_compiled else None
    problem = make_problem(CHUNK_ROWS * 2 + 28, has_bias=has_bias, scale=1.5, kernels=kernels)
    sequences = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    advantages = torch.randn(len(sequences), generator=torch.Generator().manual_seed(3))
    constants = {"sequences": sequences, "advantage": advantages}
    rows = (problem.hidden, problem.head, problem.targets, problem.weights)
    scores = score_coupled_tokens(*rows, objective, sequences, constants, with_entropy=True)
    assert calls == seen
    chosen = torch.log_softmax(full_logits(problem), -1).gather(1, problem.targets[:, None])[:, 0]
    expected = (objective(chosen, constants) * problem.weights).sum()
    assert float(scores.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5, abs=1e-7)
    assert torch.allclose(scores.logprobs_N, chosen.detach(), atol=1e-5)
    assert scores.entropies_N is not None and len(scores.entropies_N) == len(sequences)
    assert_same_gradients(problem, scores.loss, expected, 1e-6)


def test_without_gradients_the_figures_are_the_same() -> None:
    problem = make_problem(100)
    with torch.no_grad():
        scores = score(problem)
    assert not scores.loss.requires_grad
    assert torch.equal(scores.loss, score(problem).loss.detach())


def test_no_rows_give_a_loss_of_zero_and_zero_gradients() -> None:
    problem = make_problem(0)
    loss = score(problem).loss
    loss.backward()
    assert float(loss.detach()) == 0
    assert problem.head.weight.grad is not None and not problem.head.weight.grad.any()


class LargestTensor(TorchDispatchMode):
    """Remembers the largest number of elements of any tensor that an operator gave."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_of_tokens_by_vocabulary_ever_exists(dtype: torch.dtype) -> None:
    N, V = 6 * CHUNK_ROWS, 3000
    problem = make_problem(N, V=V, dtype=dtype)
    with LargestTensor() as seen:
        score(problem, with_entropy=True).loss.backward()
    assert problem.hidden.grad is not None and problem.hidden.grad.any()
    assert seen.elements == CHUNK_ROWS * V  # one chunk's logits, a sixth of [tokens, vocabulary]
    with LargestTensor() as full:
        reference_loss(problem)
    assert full.elements >= N * V  # what the measure would have found


def test_row_log_probs_are_the_ones_worked_out_by_hand() -> None:
    """h = 1, weights (0, ln 3): shares 1/4 and 3/4; at temperature 1/2 squares of odds: 1/10 and 9/10."""
    hidden, head, targets = torch.ones(1, 1), Head(torch.tensor([[0.0], [math.log(3)]])), torch.tensor([0])
    for temperature, share in ((1.0, 0.25), (0.5, 0.1)):
        found = compute_row_logprobs(hidden, head, targets, temperature=temperature, num_top=5)
        assert found.top_ids_NK is not None and found.top_logprobs_NK is not None
        assert float(found.logprobs_N) == pytest.approx(math.log(share), abs=1e-6)
        assert found.top_ids_NK.tolist() == [[1, 0]]  # of two tokens there are at most two
        assert found.top_logprobs_NK[0].exp().tolist() == pytest.approx([1 - share, share], abs=1e-6)


@pytest.mark.parametrize("V", [5, 128, 129, 1000])
@pytest.mark.parametrize("head", [{}, {"scale": 0.25, "softcap": 2.0}])
@pytest.mark.parametrize("tile_elements", [1, 3000, 1 << 18])
def test_row_log_probs_and_the_most_probable_tokens_equal_the_full_log_softmax(
    V: int, head: dict[str, float], tile_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_logprobs, "_TILE_ELEMENTS", tile_elements)
    problem = make_problem(CHUNK_ROWS + 30, V=V, has_bias=True, **head)
    for temperature in (1.0, 0.6):
        found = compute_row_logprobs(problem.hidden, problem.head, problem.targets, temperature=temperature, num_top=4)
        expected = torch.log_softmax(full_logits(problem) / temperature, -1).detach()
        values, ids = expected.topk(4)
        assert found.top_logprobs_NK is not None and found.top_ids_NK is not None
        assert torch.allclose(found.logprobs_N, expected.gather(1, problem.targets[:, None])[:, 0], atol=1e-5)
        assert torch.allclose(found.top_logprobs_NK, values, atol=1e-5)
        is_apart = torch.cat([values.diff().abs() > 1e-4, torch.ones(len(values), 1, dtype=torch.bool)], 1)
        is_apart[:, 1:] &= is_apart[:, :-1].clone()
        assert torch.equal(found.top_ids_NK[:, :3][is_apart[:, :3]], ids[:, :3][is_apart[:, :3]])
        assert torch.allclose(found.top_logprobs_NK, expected.gather(1, found.top_ids_NK), atol=1e-5)


def test_of_equally_probable_tokens_the_lowest_ids_come_first() -> None:
    head = Head(torch.tensor([1.0, 2.0]).repeat(300)[:, None])
    found = compute_row_logprobs(torch.ones(2, 1), head, torch.tensor([0, 1]), num_top=3)
    assert found.top_ids_NK is not None and found.top_ids_NK.tolist() == [[1, 3, 5], [1, 3, 5]]


def test_row_log_probs_carry_no_gradient_and_no_rows_give_none() -> None:
    problem = make_problem(3)
    assert not compute_row_logprobs(problem.hidden, problem.head, problem.targets).logprobs_N.requires_grad
    none = compute_row_logprobs(problem.hidden[:0], problem.head, problem.targets[:0], num_top=2)
    assert none.logprobs_N.shape == (0,) and none.top_ids_NK is not None and none.top_ids_NK.shape == (0, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_row_log_probs_never_hold_a_tensor_of_tokens_by_vocabulary(dtype: torch.dtype) -> None:
    N, V = 6 * CHUNK_ROWS, 3000
    problem = make_problem(N, V=V, dtype=dtype)
    with LargestTensor() as seen:
        compute_row_logprobs(problem.hidden, problem.head, problem.targets, num_top=8)
    assert seen.elements == CHUNK_ROWS * V
