"""A policy's hidden states, losses and gradients are those of its model run one document at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from posttrain.core.errors import ModelError
from posttrain.kernels.attention import choose_masked_attention, register_packed_attention
from posttrain.kernels.layouts import run_packed
from posttrain.models.heads import (
    attention_backend,
    check_head,
    find_backbone,
    find_head,
    is_packing_exact,
)
from posttrain.objectives.sft import compute_sft_loss
from posttrain.training.batches import build_empty_micro_batch, build_micro_batch
from posttrain.training.policy import enable_checkpointing
from tests.training.tiny import (
    ARCHITECTURES,
    VOCABULARY,
    gradients_of,
    largest_difference,
    make_model,
    make_policy,
    make_samples,
    make_step,
    make_updater,
)

PACKED = [name for name in ARCHITECTURES if name != "mamba"]
LENGTHS = (9, 2, 17, 1, 12)  # a sliding window is 6


def hidden_alone(model: Any, rows: list[torch.Tensor]) -> torch.Tensor:
    """Last hidden states of each document run by itself, by transformers' own attention."""
    with attention_backend(model, choose_masked_attention(model)):
        return torch.cat(
            [find_backbone(model)(input_ids=row[None], use_cache=False).last_hidden_state[0] for row in rows]
        )


def draw_rows(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, VOCABULARY, (length,), generator=generator) for length in lengths]


@pytest.mark.parametrize("name", PACKED)
def test_packed_hidden_states_and_gradients_are_those_of_each_document_alone(name: str) -> None:
    model, rows = make_model(name), draw_rows()
    with attention_backend(model, register_packed_attention()):
        packed = run_packed(find_backbone(model), torch.cat(rows), LENGTHS)
        packed.square().mean().backward()
    ours = gradients_of(model)
    model.zero_grad()
    alone = hidden_alone(model, rows)
    alone.square().mean().backward()
    assert float((packed - alone).detach().abs().max()) < 1e-5 * max(1.0, float(alone.detach().abs().max()))
    scale = max(1.0, max(float(grad.abs().max()) for grad in ours.values()))
    assert largest_difference(ours, gradients_of(model)) < 1e-5 * scale


@pytest.mark.parametrize("name", [*PACKED, "mamba"])
def test_packing_is_offered_where_it_is_exact_and_the_model_is_left_as_it_was(name: str) -> None:
    model = make_model(name).train()
    before = (model.config._attn_implementation, torch.get_rng_state())
    assert is_packing_exact(model) == (name != "mamba")
    assert model.training and model.config._attn_implementation == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "mamba"])
def test_packing_is_judged_alike_in_bf16(name: str) -> None:
    assert is_packing_exact(make_model(name, dtype=torch.bfloat16)) == (name != "mamba")


def test_packing_is_refused_where_rounding_could_hide_a_leak_behind_a_large_dimension() -> None:
    """A layer that adds the token before to each hidden state, beside one dimension that is a thousand times larger."""

    class Leaky(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            hidden = self.inner(hidden)
            before = torch.cat([torch.zeros_like(hidden[:, :1]), hidden[:, :-1]], 1)
            return torch.cat([(hidden + 0.5 * before)[..., 1:], torch.full_like(hidden[..., :1], 1000.0)], -1)

    model = make_model("llama", dtype=torch.bfloat16)
    assert is_packing_exact(model)
    model.model.norm = Leaky(model.model.norm)
    assert not is_packing_exact(model)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {"attention_dropout": 0.1}),
        ("gpt2", {"attn_pdrop": 0.1}),
        ("gpt_neox", {"attention_dropout": 0.1}),
    ],
)
def test_packing_is_refused_where_attention_weights_are_dropped_out(name: str, changes: dict[str, float]) -> None:
    assert not is_packing_exact(make_model(name, **changes))


def test_packing_is_refused_where_a_layer_keeps_its_window_to_its_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("mistral")
    assert is_packing_exact(model)
    monkeypatch.setattr(model.config, "sliding_window", 64)  # the layers' own masks would have it ...
    for layer in model.model.layers:
        own = layer.self_attn.forward

        def without_window(*arguments: Any, _own: Any = own, _layer: Any = layer, **keywords: Any) -> Any:
            _layer.self_attn.config.sliding_window = None  # ... but attention is not told
            try:
                return _own(*arguments, **keywords)
            finally:
                _layer.self_attn.config.sliding_window = 64

        monkeypatch.setattr(layer.self_attn, "forward", without_window)
    assert not is_packing_exact(model)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_backbone_and_head_give_the_models_own_logits(name: str, dtype: torch.dtype) -> None:
    model = make_model(name, dtype=dtype)
    check_head(model)
    if name in ("cohere", "granite"):
        assert find_head(model).scale == 0.25
    if name == "gemma2":
        assert find_head(model).softcap == 5.0
    if name == "phi":
        assert find_head(model).bias is not None


def test_a_model_that_does_something_unknown_to_its_logits_is_refused() -> None:
    model = make_model("granite")
    model.config.logits_scaling = 1.0
    own = model.forward

    def forward(*arguments: Any, **keywords: Any) -> Any:
        output = own(*arguments, **keywords)
        output.logits = output.logits / 1.01
        return output

    model.forward = forward
    with pytest.raises(ModelError, match="differ from the model's own") as caught:
        check_head(model)
    assert caught.value.place == "GraniteForCausalLM"


def test_a_model_whose_logits_are_not_numbers_is_refused() -> None:
    model = make_model("llama")
    with torch.no_grad():
        model.lm_head.weight[3, 3] = float("nan")
    with pytest.raises(ModelError, match="nan"):
        check_head(model)


@pytest.mark.parametrize("name", [*PACKED, "mamba"])
def test_packed_and_padded_losses_and_gradients_equal_the_models_own(name: str) -> None:
    """transformers' own logits, one row at a time, cross entropy in fp64, divided once by all trained tokens."""
    model = make_model(name)
    samples = make_samples((9, 2, 17, 1, 12))
    batch = make_step(samples)
    total = torch.zeros((), dtype=torch.float64)
    with attention_backend(model, choose_masked_attention(model)):
        for sample in samples:
            ids = torch.from_numpy(sample.ids_T).long()
            scored = torch.from_numpy(sample.is_trainable_T[1:].copy())
            logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
            total = total + nn.functional.cross_entropy(logits[scored].double(), ids[1:][scored], reduction="sum")
    expected = total / batch.total_weight
    expected.backward()
    theirs = gradients_of(model)
    for layout in ("packed", "padded") if name != "mamba" else ("padded",):
        model.zero_grad()
        sums = make_updater(model, layout).accumulate(batch, 0)
        assert float(sums[0]) == pytest.approx(float(expected.detach()), abs=1e-6 * max(1.0, float(expected.detach())))
        scale = max(1.0, max(float(grad.abs().max()) for grad in theirs.values()))
        assert largest_difference(gradients_of(model), theirs) < 1e-5 * scale


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_filler_row_changes_nothing(layout: Any) -> None:
    model = make_model("qwen3")
    policy = make_policy(model, layout)
    samples = make_samples((30, 11))
    batch = build_micro_batch(samples, ["a", "b"])
    assert batch.lengths == (30, 11, 3) and not batch.ids_T[41:].any()  # 41 tokens are rounded up to 44
    losses, gradients = [], []
    for filler in (0, 3, 17):
        ids = torch.cat([batch.ids_T[:41], torch.full((filler,), 7, dtype=torch.int64)])
        lengths = (30, 11, filler) if filler else (30, 11)
        bare = type(batch)(ids, lengths, batch.scored_N, batch.targets_N, batch.weights_N, batch.row_ids)
        model.zero_grad()
        loss = policy(bare, compute_sft_loss, batch.weights_N).loss
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(gradients_of(model))
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    for other in gradients[1:]:
        assert largest_difference(gradients[0], other) < 1e-4  # of a sum over 20 tokens


def test_a_micro_batch_without_scored_tokens_gives_zero_loss_and_zero_gradients() -> None:
    model = make_model("qwen2")
    policy = make_policy(model)
    for batch in (build_empty_micro_batch(), build_micro_batch(make_samples((1,)), ["a"])):
        model.zero_grad()
        scores = policy(batch, compute_sft_loss, batch.weights_N)
        scores.loss.backward()
        assert float(scores.loss.detach()) == 0 and len(scores.logprobs_N) == 0
        grads = gradients_of(model)
        assert len(grads) == len(list(model.parameters())) and not any(grad.any() for grad in grads.values())
        with torch.no_grad():
            assert float(policy(batch, compute_sft_loss, batch.weights_N).loss) == 0


@pytest.mark.parametrize(
    ("name", "layout", "changes"),
    [("gpt2", "packed", {"resid_pdrop": 0.3}), ("llama", "padded", {"attention_dropout": 0.3})],
)
def test_dropout_is_a_pure_function_of_its_stream(name: str, layout: Any, changes: dict[str, float]) -> None:
    model = make_model(name, **changes)
    policy = make_policy(model, layout).train()
    batch = build_micro_batch(make_samples((9, 17)), ["a", "b"])

    def loss(*stream: int | str) -> float:
        with policy.seeded_dropout(*stream):
            return float(policy(batch, compute_sft_loss, batch.weights_N).loss.detach())

    before = torch.get_rng_state()
    first = loss(17, "dropout", 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert loss(17, "dropout", 3) == first
    assert loss(17, "dropout", 4) != first and loss(18, "dropout", 3) != first
    policy.eval()
    assert loss(17, "dropout", 3) == loss(17, "dropout", 4)


def test_checkpointed_dropout_draws_the_same_masks_again() -> None:
    gradients = []
    for is_checkpointed in (False, True):
        model = make_model("gpt2", resid_pdrop=0.3)
        if is_checkpointed:
            enable_checkpointing(model)
        make_updater(model).accumulate(make_step(make_samples((9, 17))), 17, "dropout", 0)
        gradients.append(gradients_of(model))
    assert largest_difference(*gradients) < 1e-6
