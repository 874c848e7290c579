"""What a step of pairs is made of: the gradient however pairs lie, the reference, figures and alarm by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.core.errors import RefusedError, TrainingError
from posttrain.core.progress import SilentProgress
from posttrain.core.records import RenderedSample
from posttrain.data.pairs import PairRows
from posttrain.data.token_store import StoredColumns
from posttrain.objectives.preference import BranchLogprobs, PreferenceLoss, PreferenceObjective
from posttrain.objectives.reduction import normalise_weights
from posttrain.stages.preference_batches import PairBatches, compute_token_logprobs, sum_completions
from posttrain.stages.preference_family import METHODS
from posttrain.stages.preference_figures import FallAlarm, PairFigures, describe_pairs
from posttrain.stages.reference_logprobs import ReferenceCache, load_references
from posttrain.training.distributed import Ranks
from tests.oracles.llama_policy import PROMPTS, LlamaPolicy, build_scored_policy, make_llama, make_space
from tests.training.tiny import VOCABULARY, gradients_of, make_model, make_policy, make_token_rows

PARTS = [(9, 4, 6), (3, 1, 5), (20, 7, 2), (5, 5, 5), (1, 3, 2), (12, 6, 9), (4, 2, 2), (7, 8, 1)]
"""Tokens of the prompt and of both completions of eight pairs."""


def make_rows(ids: Sequence[Sequence[Sequence[int]]]) -> PairRows:
    """Return rows of a prompt and its completions, given as token ids."""
    samples = [
        RenderedSample(np.array(part, np.int32), np.zeros(len(part), np.uint8), np.full(len(part), place > 0))
        for row in ids
        for place, part in enumerate(row)
    ]
    text = np.frombuffer(b"{}" * len(ids), np.uint8)
    columns = StoredColumns(text, np.arange(0, 2 * len(ids) + 1, 2))
    return PairRows(make_token_rows(samples), columns, len(ids[0]) - 1)


def draw_rows(parts: Sequence[Sequence[int]] = PARTS, seed: int = 0) -> PairRows:
    random = np.random.default_rng(seed)
    return make_rows([[random.integers(0, VOCABULARY, length).tolist() for length in row] for row in parts])


def lay_out(rows: PairRows, **changes: Any) -> PairBatches:
    values = {"layout": "packed", "is_shared": True, "micro_batch_tokens": 8192, "ranks": Ranks(), **changes}
    return PairBatches([rows], **values)


PLACES = [(0, row) for row in range(len(PARTS))]


def differentiate(
    loss: PreferenceLoss, model: Any, batches: Sequence[PairBatches], references: Any
) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss of a step of all pairs, and its gradients, summed over all ranks' batches."""
    policy = make_policy(model, batches[0].layout)  # type: ignore[arg-type]  # a layout as text
    model.zero_grad(set_to_none=True)
    total = 0.0
    for one in batches:
        step = one.build_step(PLACES, references)
        assert (step.total_weight, step.num_trained) == (len(PLACES), sum(sum(row[1:]) for row in PARTS))
        for batch in step.micro_batches:
            weights = normalise_weights(batch.weights_N, step.total_weight)
            found = policy(batch, PreferenceObjective(loss), weights).loss
            found.backward()
            total += found.item()
    return total, gradients_of(model)


LAYOUTS: dict[str, list[dict[str, Any]]] = {
    "prompts apart": [{"is_shared": False}],
    "a pair at a time": [{"micro_batch_tokens": 1}],
    "a few at a time": [{"micro_batch_tokens": 50}],
    "padded": [{"layout": "padded", "is_shared": False}],
    "padded, a few at a time": [{"layout": "padded", "is_shared": False, "micro_batch_tokens": 60}],
    "two ranks": [{"ranks": Ranks(rank, 2), "micro_batch_tokens": 40} for rank in range(2)],
    "four ranks": [{"ranks": Ranks(rank, 4)} for rank in range(4)],
}


@pytest.mark.parametrize("algorithm", list(METHODS))
def test_loss_and_gradient_do_not_depend_on_how_pairs_lie(algorithm: str) -> None:
    loss, rows = METHODS[algorithm].build_loss(), draw_rows()  # type: ignore[index]  # its own keys
    model = make_model("llama")
    references = [-3 * np.random.default_rng(1).random((len(PARTS), 2)) * np.array(PARTS)[:, 1:]]
    value, gradients = differentiate(loss, model, [lay_out(rows)], references)
    scale = max(1.0, max(float(gradient.abs().max()) for gradient in gradients.values()))
    for changes in LAYOUTS.values():
        other, others = differentiate(loss, model, [lay_out(rows, **one) for one in changes], references)
        assert other == pytest.approx(value, rel=1e-6, abs=1e-6)
        assert max(float((others[name] - gradients[name]).abs().max()) for name in gradients) / scale < 1e-5


@pytest.mark.parametrize("is_shared", [True, False])
def test_the_gradient_of_a_models_step_is_the_exact_policys(is_shared: bool) -> None:
    """Every pair of two completions of each prompt, by the model's own equations in float64."""
    space, loss = make_space(max_tokens=2), PreferenceLoss(beta=0.7, nll_coefficient=0.2)
    completions, pairs = space.completions, [(y, z) for y in range(6) for z in range(6, 11)]
    rows = make_rows([[[*prompt], completions[y], completions[z]] for prompt in PROMPTS for y, z in pairs])
    model, num = make_llama(), len(PROMPTS) * len(pairs)
    exact = LlamaPolicy(space, model)
    references = [-2 * np.random.default_rng(2).random((num, 2)) - 1]
    logprobs_XY = exact.compute_logprobs_XY()
    branches = [
        BranchLogprobs(
            torch.stack([logprobs_XY[x, pair[side]] for x in range(len(PROMPTS)) for pair in pairs]),
            torch.from_numpy(references[0][:, side]),
            torch.tensor([len(completions[pair[side]]) for _ in PROMPTS for pair in pairs]),
        )
        for side in (0, 1)
    ]
    value = loss(branches[0], branches[1]).mean()
    policy = build_scored_policy(model)
    step = lay_out(rows, is_shared=is_shared).build_step([(0, row) for row in range(num)], references)
    for batch in step.micro_batches:
        found = policy(batch, PreferenceObjective(loss), normalise_weights(batch.weights_N, step.total_weight)).loss
        found.backward()
    assert found.item() == pytest.approx(value.item(), abs=1e-6)
    expected = dict(zip(exact.weights, torch.autograd.grad(value, exact.get_parameters()), strict=True))
    for name, weight in model.named_parameters():
        assert float((weight.grad - expected[name]).norm() / expected[name].norm()) < 1e-4, name


def compute_references(model: Any, folder: Path, rows: PairRows, **changes: Any) -> Any:
    places = changes.pop("places", PLACES)
    policy = make_policy(model, changes.get("layout", "packed"))
    cache = ReferenceCache(folder, {"policy": "one"})
    return load_references(
        policy, lay_out(rows, **changes), places, cache, device="cpu", progress=SilentProgress()
    )  # fmt: skip


def test_references_are_the_policys_log_probs_of_each_completion_by_itself(tmp_path: Path) -> None:
    model, plain, rows = make_model("llama"), make_model("llama"), draw_rows()
    [found] = compute_references(model, tmp_path, rows)
    for row, pair in enumerate(rows):
        for side, completion in enumerate(pair.completions):
            ids = torch.from_numpy(pair.join(completion).ids_T.astype(np.int64))[None]
            logprobs = plain(input_ids=ids).logits[0, :-1].log_softmax(-1)
            own = logprobs.gather(1, ids[0, 1:, None])[len(pair.prompt.ids_T) - 1 :]
            assert found[row, side] == pytest.approx(own.sum().item(), abs=1e-4)
    assert model.training  # as it was before


def test_references_of_some_rows_leave_the_others_unknown_and_are_read_again(tmp_path: Path) -> None:
    rows, model = draw_rows(), make_model("llama")
    [some] = compute_references(model, tmp_path, rows, places=[(0, 5), (0, 2), (0, 5)])
    assert np.flatnonzero(np.isfinite(some).all(1)).tolist() == [2, 5]
    other = make_model("llama", seed=9)  # under the same name: what was kept is read
    [again] = compute_references(other, tmp_path, rows, places=[(0, 2), (0, 5)])
    assert np.array_equal(again, some, equal_nan=True)
    [whole] = compute_references(other, tmp_path, rows)
    assert np.isfinite(whole).all() and abs(whole[2, 0] - some[2, 0]) > 1e-3


def test_a_policy_whose_log_probs_are_not_finite_is_refused_with_the_row(tmp_path: Path) -> None:
    model = make_model("llama")
    with torch.no_grad():
        model.lm_head.weight[3] = math.nan
    with pytest.raises(TrainingError, match="row-0"):
        compute_references(model, tmp_path, draw_rows())
    assert not list(tmp_path.iterdir())


def test_dropout_is_off_while_the_reference_is_read(tmp_path: Path) -> None:
    model = make_model("gpt2", resid_pdrop=0.5)
    model.train()
    [first] = compute_references(model, tmp_path / "a", draw_rows())
    [second] = compute_references(model, tmp_path / "b", draw_rows())
    assert np.array_equal(first, second)


def test_unpaired_rows_lie_and_are_weighed_as_branches_of_one(tmp_path: Path) -> None:
    rows, model = draw_rows([row[:2] for row in PARTS]), make_model("llama")
    [found] = compute_references(model, tmp_path, rows)
    assert found.shape == (len(PARTS), 1) and np.isfinite(found).all()
    [(_, batch)] = lay_out(rows).build_micro_batches(PLACES)
    sums = sum_completions(compute_token_logprobs(make_policy(model).eval(), batch), batch.constants)
    assert sorted(sums.tolist()) == pytest.approx(sorted(found[:, 0].tolist()), abs=1e-4)


def test_a_model_that_takes_one_row_at_a_time_is_refused() -> None:
    with pytest.raises(RefusedError, match="one row at a time"):
        lay_out(draw_rows(), layout="single")


def sums_of(chosen: float, rejected: float, start: tuple[float, float] = (0.0, 0.0)) -> dict[str, float]:
    """Sums over one pair of two tokens each."""
    names = ("pairs", "loss", "chosen", "rejected", "right", "chosen_logps", "rejected_logps", "chosen_tokens",
             "rejected_tokens", "chosen_start", "rejected_start")  # fmt: skip
    return dict(zip(names, (1, 0.5, 0.2, 0.1, 1, chosen, rejected, 2, 2, *start), strict=True))


def make_alarm(**changes: Any) -> tuple[FallAlarm, list[str]]:
    notes: list[str] = []
    values = {"allowed": 0.5, "may_stop": False, "has_reference": True, "stage": "dpo", **changes}
    return FallAlarm(**values, note=notes.append), notes


def test_the_alarm_asks_that_both_log_probs_fall_by_more_than_is_allowed_a_token() -> None:
    alarm, notes = make_alarm()
    for chosen, rejected, is_alarm in ((-2.9, -9.0, 0.0), (-9.0, -2.9, 0.0), (-3.1, -3.1, 1.0), (0.0, 0.0, 1.0)):
        found = alarm.look(sums_of(chosen, rejected, (-2.0, -2.0)))
        assert found["logps/alarm"] == is_alarm
        assert found["logps/chosen_change"] == pytest.approx((chosen + 2.0) / 2)
    assert len(notes) == 1 and "0.550 nats a token" in notes[0]
    assert not alarm.should_stop
    assert make_alarm(allowed=None)[0].look(sums_of(-9, -9)).keys() == {"logps/chosen_change", "logps/rejected_change"}


def test_without_a_reference_the_first_figures_are_the_start_also_after_a_stop() -> None:
    alarm, _ = make_alarm(has_reference=False)
    assert alarm.look(sums_of(-2.0, -4.0))["logps/rejected_change"] == 0
    kept = json.loads(json.dumps(alarm.keep()))
    again, notes = make_alarm(has_reference=False, may_stop=True)
    again.restore(kept)
    assert again.look(sums_of(-3.2, -5.2))["logps/chosen_change"] == pytest.approx(-0.6)
    assert again.should_stop and notes
    third, _ = make_alarm(has_reference=False, may_stop=True)
    with pytest.raises(RefusedError, match=r"0\.600 nats"):
        third.restore(again.keep())


def test_figures_are_means_over_pairs_and_tokens_and_survive_a_stop() -> None:
    """Two pairs: log-ratios 1 and -1 nats, then -1 and 1, at beta 0.5: rewards +-0.5, accuracy 1/2, logps by token."""
    rows = make_rows([[[1, 2], [3, 4], [5]], [[1], [2], [3, 4, 5]]])
    batches, loss = lay_out(rows), PreferenceLoss(beta=0.5)
    [(places, batch)] = batches.build_micro_batches([(0, 0), (0, 1)], [np.array([[-4.0, -2.0], [-1.0, -7.0]])])
    figures = PairFigures(loss, Ranks(), "cpu")
    own = {(0, 0): [-3.0, -3.0], (0, 1): [-2.0, -6.0]}
    lengths = {(0, 0): [2, 1], (0, 1): [1, 3]}
    values = [own[place][side] / lengths[place][side] for place in places for side in (0, 1)]
    figures.add(batch, torch.tensor(values)[batch.constants["branches"]])
    kept = json.loads(json.dumps(figures.keep()))
    again = PairFigures(loss, Ranks(), "cpu")
    again.restore(kept)
    sums = again.collect()
    found = describe_pairs(sums)
    assert found["rewards/chosen"] == pytest.approx(0.0) and found["rewards/rejected"] == pytest.approx(0.0)
    assert found["rewards/accuracies"] == 0.5
    assert found["logps/chosen"] == pytest.approx(-5 / 3) and found["logps/rejected"] == pytest.approx(-9 / 4)
    assert found["loss"] == pytest.approx((math.log1p(math.exp(-1)) + math.log1p(math.exp(1))) / 2, abs=1e-6)
    assert (sums["chosen_start"], sums["rejected_start"]) == (-5.0, -9.0)
    assert again.collect() == {} and describe_pairs({}) == {}
