"""Identities before the first step: they hold for every way to start, and planted faults are named."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from posttrain.core.errors import ModelError, RefusedError
from posttrain.core.records import RenderedSample, TokenRows
from posttrain.lab.base_model import find_lab_base
from posttrain.pipeline.preflight.identities import (
    MEAN_NATS,
    SFT_IDENTITIES,
    Identity,
    StepZero,
    check_adapter_start,
    check_finite,
    check_first_loss,
    check_training_path,
)
from posttrain.pipeline.preflight.step_zero import choose_first_rows, shuffle_tokens
from tests.models.tiny_models import edit_weights
from tests.pipeline.tiny_runs import Finished, Workshop, sft

V = 100
LORA = {"rank": 4}
LOGPROBS = np.log(np.linspace(0.1, 0.9, 8))
SOUND = StepZero("float32", V, LOGPROBS, LOGPROBS + 1e-7, np.arange(8) > 3, LOGPROBS - 1e-7, "new")


def judge(**changes: Any) -> dict[str, Identity | None]:
    measured = dataclasses.replace(SOUND, **changes)
    return {check.__name__: check(measured) for check in SFT_IDENTITIES}


def broken(**changes: Any) -> list[str]:
    return [name for name, found in judge(**changes).items() if found is not None and not found.holds]


# ---- the arithmetic


def test_sound_figures_break_nothing_and_the_loss_is_that_of_the_trained_tokens() -> None:
    assert broken() == []
    found = check_first_loss(SOUND)
    assert found is not None and found.figures["loss"] == pytest.approx(-LOGPROBS[4:].mean(), abs=1e-6)
    assert found.figures["uniform_loss"] == pytest.approx(math.log(V))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_mean_that_moves_is_found_and_rounding_of_the_dtype_is_not(dtype: str) -> None:
    most = MEAN_NATS[dtype]
    assert broken(dtype=dtype, training_N=LOGPROBS + 0.9 * most) == []
    assert broken(dtype=dtype, training_N=LOGPROBS + 1.1 * most) == ["check_training_path"]
    assert broken(dtype=dtype, parent_N=LOGPROBS - 1.1 * most) == ["check_adapter_start"]


def test_changes_both_ways_that_leave_the_mean_alone_are_found() -> None:
    assert broken(training_N=LOGPROBS + np.tile([1e-3, -1e-3], 4)) == ["check_training_path"]


def test_a_policy_that_trains_its_parents_own_weights_has_no_adapter_to_begin() -> None:
    assert check_adapter_start(dataclasses.replace(SOUND, parent_N=None)) is None


def test_log_probs_that_are_not_finite_are_the_one_thing_that_is_named() -> None:
    ruined = LOGPROBS.copy()
    ruined[2] = math.nan
    assert broken(plain_N=ruined, training_N=ruined) == ["check_finite"]
    assert check_finite(SOUND) is not None and broken(plain_N=-np.inf * np.ones(8)) == ["check_finite"]
    assert broken(training_N=ruined) == ["check_training_path"]  # finite row by row alone


def test_guessing_uniformly_is_allowed_with_a_margin_for_random_weights_and_shuffled_ids_are_not() -> None:
    at = -math.log(V) * np.ones(8)
    for nats, is_allowed in ((0.0, True), (1.7, True), (5.0, False)):
        worse = at - nats
        found = broken(plain_N=worse, training_N=worse, parent_N=worse)
        assert found == ([] if is_allowed else ["check_first_loss"])
    foreign = at - 3.0  # rows of another world, whose order tells the model something all the same
    said = {"plain_N": foreign, "training_N": foreign, "parent_N": foreign}
    assert broken(**said, shuffled_N=foreign - 1.5) == []
    assert broken(**said, shuffled_N=foreign - 0.3) == ["check_first_loss"]
    assert broken(**said, is_artifact=True) == []  # a stage made it: the tokenizer is its own
    nothing = dataclasses.replace(SOUND, is_trained_N=np.zeros(8, bool))
    assert check_first_loss(nothing) is None


# ---- the rows


def make_rows(*lengths: int, trained_from: int = 0) -> TokenRows:
    ids = np.concatenate([np.arange(length) for length in lengths]).astype(np.int32)
    is_trained = np.concatenate([np.arange(length) >= trained_from for length in lengths])
    offsets = np.cumsum([0, *lengths])
    return TokenRows(ids, np.zeros(len(ids), np.uint8), is_trained, offsets, [""] * len(lengths), "")


def test_the_first_rows_of_each_source_in_turn_are_taken_within_the_budget() -> None:
    rows = choose_first_rows([make_rows(5, 6, 7), make_rows(3)], 100)
    assert [len(row.ids_T) for row in rows] == [5, 3, 6, 7]
    assert [len(row.ids_T) for row in choose_first_rows([make_rows(*[10] * 40)], 55)] == [10] * 6
    assert len(choose_first_rows([make_rows(*[3] * 40)], 10_000)) == 16


def test_shuffled_rows_have_the_lengths_and_together_the_tokens_of_the_real_ones() -> None:
    rows = choose_first_rows([make_rows(5, 6, 7)], 100)
    dealt = shuffle_tokens(rows, 3)
    assert [len(row.ids_T) for row in dealt] == [5, 6, 7]
    before, after = (np.concatenate([row.ids_T for row in part]) for part in (rows, dealt))
    assert np.array_equal(np.sort(before), np.sort(after)) and not np.array_equal(before, after)
    assert np.array_equal(after, np.concatenate([row.ids_T for row in shuffle_tokens(rows, 3)]))


def test_a_long_row_keeps_the_part_where_it_is_first_trained_on() -> None:
    (row, *_) = choose_first_rows([make_rows(1000, trained_from=700)], 100)
    assert len(row.ids_T) == 50 and row.is_trainable_T.any() and not row.is_trainable_T.all()
    assert isinstance(row, RenderedSample) and np.all(np.diff(row.ids_T) == 1)


# ---- in a run


def step_zero(done: Finished, stage: str = "sft") -> dict[str, Any]:
    (found,) = (f for f in done.record["preflight"] if (f["stage"], f["name"]) == (stage, "step_zero"))
    return found


def recorded(workshop: Workshop, into: str = "run") -> dict[str, dict[str, Any]]:
    record = json.loads((workshop.folder / into / "run.json").read_text())
    return {f"{f['stage']}:{f['name']}": f for f in record["preflight"]}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("start", ["continue", "stack", "merge"])
def test_every_way_to_begin_an_adapter_keeps_the_parents_log_probs(workshop: Workshop, start: str, dtype: str) -> None:
    first = sft(adapter=LORA, adapter_start="new", dtype=dtype, learning_rate=3e-3)
    again = sft(name="more", adapter=LORA, adapter_start=start, dtype=dtype)
    done = workshop.run(first, again)
    for stage in ("sft", "more"):
        found = step_zero(done, stage)
        assert found["status"] == "passed" and "4 identities hold" in found["found"]
        assert found["figures"]["adapter_start_mean_nats"] <= MEAN_NATS[dtype]
        assert found["figures"]["training_path_mean_nats"] <= MEAN_NATS[dtype]


def test_an_adapter_that_changes_logits_at_once_is_refused(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    @torch.no_grad()
    def fill(model: nn.Module, settings: Any, name: str, seed: int) -> None:
        for key, parameter in model.named_parameters():
            if ".lora_" in key:
                parameter.fill_(0.05)

    monkeypatch.setattr("posttrain.models.adapters._initialise", fill)
    with pytest.raises(RefusedError, match=r"with its adapter \(new\) the policy gives other log-probs") as refused:
        workshop.run(sft(adapter=LORA))
    assert refused.value.place == "sft: step_zero" and "adapter_start" in refused.value.cure
    assert recorded(workshop)["sft:step_zero"]["figures"]["adapter_start_token_nats"] > 1e-3


def test_a_training_path_that_computes_something_else_is_refused(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(model: nn.Module, native: Any) -> int:
        for module in model.modules():
            if type(module).__name__.endswith("MLP"):
                own = module.forward
                module.forward = lambda hidden, own=own: own(hidden) * 1.02  # type: ignore[method-assign]
        return 0

    monkeypatch.setattr("posttrain.pipeline.sft_wiring.fuse_layers", spoil)
    with pytest.raises(RefusedError, match="in training form") as refused:
        workshop.run()
    assert "packing: off" in refused.value.cure


def test_weights_that_overflow_are_refused_and_nan_in_a_file_is_named_before_anything_trains(
    workshop: Workshop,
) -> None:
    base = workshop.folder / "base"
    edit_weights(base, lm_head__weight=torch.full((259, 32), 3e38))
    with pytest.raises(RefusedError, match="log-probs of the policy are NaN or infinite") as refused:
        workshop.run()
    assert refused.value.place == "sft: step_zero" and "restore the weights" in refused.value.cure
    edit_weights(base, lm_head__weight=torch.full((259, 32), math.nan))
    with pytest.raises(ModelError, match="NaN or infinite") as failed:
        workshop.run(into="other")
    assert "lm_head" in failed.value.place
    assert json.loads((workshop.folder / "other" / "run.json").read_text())["stages"][0]["status"] == "pending"


FOREIGN = [
    {
        "prompt": "A gardener plants 12 rows of 9 tulips each, and frost kills a third of them. How many live?",
        "completion": "12 rows of 9 are 12 * 9 = 108 tulips. A third of them is 108 / 3 = 36, so 108 - 36 = 72 live.",
    },
    {
        "prompt": "Maria reads 20 pages on Monday and twice as many on Tuesday. How many does she read altogether?",
        "completion": "On Tuesday Maria reads 2 * 20 = 40 pages. Altogether she reads 20 + 40 = 60 pages.",
    },
    {
        "prompt": "Tickets cost $8 for adults and $3 for children. What do two adults and five children pay?",
        "completion": "Two adults pay 2 * 8 = $16, and five children pay 5 * 3 = $15. Together they pay 16 + 15 = $31.",
    },
]


def shuffle_vocabulary(folder: Path) -> None:
    """Give every ordinary token of a tokenizer the id of another."""
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    special = {token["content"] for token in values["added_tokens"]}
    vocabulary = {token: index for token, index in values["model"]["vocab"].items() if token not in special}
    order = np.random.default_rng(7).permutation(list(vocabulary.values())).tolist()
    values["model"]["vocab"] |= dict(zip(vocabulary, order, strict=True))
    path.write_text(json.dumps(values))


def test_a_tokenizer_that_does_not_fit_the_weights_is_refused(workshop: Workshop) -> None:
    base = workshop.folder / "lab"
    shutil.copytree(find_lab_base(), base)
    rows = sft(data=[{"source": "lab:conversations", "rows": 24}], steps=1)
    assert step_zero(workshop.run(rows, model="lab"))["figures"]["loss"] < 5
    foreign = sft(data=[{"source": "foreign.jsonl"}], steps=1)  # the lab's base has never read anything like it
    (workshop.folder / "foreign.jsonl").write_text("".join(json.dumps(row) + "\n" for row in FOREIGN))
    assert step_zero(workshop.run(foreign, model="lab", into="foreign"))["status"] == "passed"
    shuffle_vocabulary(base)
    with pytest.raises(RefusedError, match="where guessing among") as refused:
        workshop.run(rows, model="lab", into="shuffled")
    assert refused.value.place == "sft: step_zero" and "tokenizer" in refused.value.cure


RUIN = """\
import torch

from posttrain.core.config import Config


def ruin(config, inputs, parts, context):
    with torch.no_grad():
        parts.policy.model.lm_head.weight.fill_(3e38)
    return {"policy": parts.publish(parts.policy)}
"""


def test_a_policy_that_a_stage_has_ruined_is_found_right_before_the_next_one_trains(workshop: Workshop) -> None:
    (workshop.folder / "own.py").write_text(RUIN)
    ruin = {"name": "ruin", "type": "own.py:ruin"}
    with pytest.raises(RefusedError, match="NaN or infinite") as refused:
        workshop.run(sft(), ruin, sft(name="next"))
    assert refused.value.place == "next: step_zero" and "--override next:step_zero" in refused.value.cure
    record = json.loads((workshop.folder / "run" / "run.json").read_text())
    assert [stage["status"] for stage in record["stages"]] == ["finished", "finished", "refused"]
    found = recorded(workshop)
    assert found["sft:step_zero"]["status"] == "passed" and found["next:mask"]["status"] == "passed"


def test_a_policy_that_a_stage_has_made_sure_of_other_answers_is_let_be(workshop: Workshop) -> None:
    rows = [{"prompt": f"say {n}", "completion": "zzzz"} for n in range(30)]
    (workshop.folder / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = workshop.run(
        sft(steps=40, batch_size=10, learning_rate=2e-2), sft(name="next", data=[{"source": "other.jsonl"}])
    )
    found = step_zero(done, "next")
    assert found["status"] == "passed" and found["figures"]["loss"] > found["figures"]["uniform_loss"] + 2


def test_the_training_path_is_compared_on_every_token_of_real_rows() -> None:
    """A difference on one token in eight moves the mean by an eighth of it."""
    moved = LOGPROBS.copy()
    moved[0] += 8e-3
    found = check_training_path(dataclasses.replace(SOUND, training_N=moved))
    assert found is not None and not found.holds
    assert found.figures["training_path_mean_nats"] == pytest.approx(1e-3)
    assert found.figures["training_path_largest_nats"] == pytest.approx(8e-3)
