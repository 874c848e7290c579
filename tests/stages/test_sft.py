"""The SFT stage: what it trains on, validates on, keeps, refuses, and leaves behind when it fails."""

from __future__ import annotations

import itertools
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.core.errors import RecipeError, RefusedError, StorageError, TrainingError
from posttrain.core.records import Artifact
from posttrain.data.packing import pack
from posttrain.models.artifacts import save_policy
from posttrain.models.loading import load_policy
from posttrain.objectives.sft import compute_sft_loss
from posttrain.stages import sft
from posttrain.stages.sft import SftConfig, build_order, build_step_batch, compute_validation
from posttrain.stages.training_keys import count_steps
from posttrain.training.checkpoints import CheckpointStore
from posttrain.training.distributed import Ranks
from tests.models.tiny_models import FACTS, save_tiny
from tests.stages.tiny_sft import ARTIFACT, TRAIN, VALIDATION, Stage, make_config, make_data
from tests.training.tiny import make_context, make_model, make_policy, make_samples, make_step, make_updater

VALIDATED = {"validation": [{"source": "held.jsonl"}], "validate_every_steps": 1}


def test_training_lowers_the_loss_and_logs_it_by_step(tmp_path: Path) -> None:
    stage = Stage(make_config(steps=30, schedule="constant", batch_size=12))
    context = stage.run(tmp_path)
    losses = [line["loss"] for line in stage.sink.lines]
    assert len(losses) == 30 and losses[-1] < 0.3 * losses[0]
    last = stage.sink.lines[-1]
    assert last["num_tokens"] == 30 * sum(TRAIN) == stage.parts.num_tokens
    assert last["epoch"] == 30 and last["step"] == 30
    assert context.metrics is stage.sink


def test_logged_losses_are_token_means_over_the_steps_since_the_last_line(tmp_path: Path) -> None:
    every, third = Stage(make_config()), Stage(make_config(log_every_steps=4))
    every.run(tmp_path / "every")
    third.run(tmp_path / "third")
    assert [line["step"] for line in third.sink.lines] == [1, 4, 6]
    for line, steps in zip(third.sink.lines, ((0, 1), (1, 4), (4, 6)), strict=True):
        parts = every.sink.lines[steps[0] : steps[1]]
        before = every.sink.lines[steps[0] - 1]["num_trained_tokens"] if steps[0] else 0
        totals = [before, *(part["num_trained_tokens"] for part in parts)]
        counts = [b - a for a, b in itertools.pairwise(totals)]
        for key in ("loss", "mean_token_accuracy"):
            mean = sum(part[key] * count for part, count in zip(parts, counts, strict=True)) / sum(counts)
            assert line[key] == pytest.approx(mean, rel=1e-9)


def test_validation_is_the_token_mean_over_all_held_out_rows_and_leaves_no_gradient() -> None:
    model = make_model()
    updater = make_updater(model)
    expected = float(updater.accumulate(make_step(make_samples(VALIDATION, 1)), 0)[0])
    model.zero_grad()
    for budget in (1, 16, 10_000):
        figures = compute_validation(updater, make_data(VALIDATION, 1), budget)
        assert figures["validation/loss"] == pytest.approx(expected, abs=1e-6)
        assert 0 <= figures["validation/mean_token_accuracy"] <= 1
    assert all(p.grad is None for p in model.parameters()) and updater.policy.training


def test_the_best_weights_by_validation_loss_are_published_not_the_last(tmp_path: Path) -> None:
    """Three steps at a rate so high that the loss falls and rises again."""
    changes = {**VALIDATED, "learning_rate": 0.1, "schedule": "constant", "steps": 3, "warmup_fraction": 0.0}

    def train(name: str, **others: Any) -> Stage:
        stage = Stage(make_config(**{**changes, **others}))
        stage.parts.validation = stage.parts.train
        stage.run(tmp_path / name)
        return stage

    best = train("best", keep="best_validation_loss")
    losses = {line["step"]: line["validation/loss"] for line in best.sink.lines if "validation/loss" in line}
    assert set(losses) == set(range(4))
    best_step = min(losses, key=lambda step: losses[step])
    assert 0 < best_step < 3
    part = train("part", steps=best_step)
    assert best.published.keys() == part.published.keys()
    assert all(torch.equal(best.published[name], part.published[name]) for name in part.published)
    last = train("last")
    assert not torch.equal(last.published["lm_head.weight"], best.published["lm_head.weight"])


def test_the_best_by_a_metric_is_published_where_the_loss_prefers_another(tmp_path: Path) -> None:
    """The validation loss falls at every step, and the planted score is highest after the second of four."""
    changes = {**VALIDATED, "schedule": "constant", "warmup_fraction": 0.0, "steps": 4}
    best = Stage(make_config(**changes, keep="best_metric", keep_metric="facts/format"))
    best.parts.validation = best.parts.train
    scores = iter([0.2, 0.5, 0.9, 0.9, 0.1])
    best.parts.measure = lambda: next(scores)
    best.run(tmp_path / "best")
    lines = [line for line in best.sink.lines if "validation/loss" in line]
    assert [line["development/facts/format"] for line in lines] == [0.2, 0.5, 0.9, 0.9, 0.1]
    losses = [line["validation/loss"] for line in lines]
    assert losses == sorted(losses, reverse=True)
    two, last = Stage(make_config(**{**changes, "steps": 2})), Stage(make_config(**changes))
    two.run(tmp_path / "two")
    last.run(tmp_path / "last")
    assert all(torch.equal(best.published[name], two.published[name]) for name in two.published)
    assert not torch.equal(best.published["lm_head.weight"], last.published["lm_head.weight"])


def test_a_metric_needs_no_validation_rows_and_measures_the_average_that_would_be_kept(tmp_path: Path) -> None:
    stage = Stage(make_config(keep="best_metric", keep_metric="facts", validate_every_steps=2, ema_decay=0.5, steps=3))
    seen: list[torch.Tensor] = []

    def measure() -> float:
        seen.append(stage.model.lm_head.weight.detach().clone())
        return float(len(seen))

    stage.parts.measure = measure
    stage.run(tmp_path)
    assert [line["step"] for line in stage.sink.lines if "development/facts" in line] == [0, 2, 3]
    assert torch.equal(seen[-1], stage.published["lm_head.weight"])
    assert not any("validation/loss" in line for line in stage.sink.lines)


def test_where_no_step_is_better_the_starting_weights_are_kept(tmp_path: Path) -> None:
    changes = {**VALIDATED, "learning_rate": 5.0, "schedule": "constant", "keep": "best_validation_loss"}
    stage = Stage(make_config(**changes))
    stage.run(tmp_path)
    start = dict(make_model().named_parameters())
    assert all(torch.equal(stage.published[name], start[name].detach()) for name in start)


def test_an_average_is_published_where_there_is_one(tmp_path: Path) -> None:
    plain, averaged = Stage(make_config(steps=1)), Stage(make_config(steps=1, ema_decay=0.75))
    plain.run(tmp_path / "plain")
    averaged.run(tmp_path / "averaged")
    start = dict(make_model().named_parameters())
    for name, after in plain.published.items():
        expected = 0.75 * start[name].detach() + 0.25 * after
        assert torch.allclose(averaged.published[name], expected, atol=1e-6)


@pytest.mark.parametrize("adapter", [None, {"rank": 2}])
def test_a_stage_of_zero_steps_passes_the_policy_on_unchanged(tmp_path: Path, adapter: Any) -> None:
    stage = Stage(make_config(steps=0, adapter=adapter) if adapter else make_config(steps=0, ema_decay=0.9))
    before = {name: p.detach().clone() for name, p in stage.model.named_parameters() if p.requires_grad}
    stage.run(tmp_path)
    assert stage.published.keys() == before.keys()
    assert all(torch.equal(stage.published[name], before[name]) for name in before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_artifact_of_zero_steps_has_the_hash_of_the_policy_saved_again(tmp_path: Path, dtype: str) -> None:
    save_tiny(tmp_path / "base", dtype=torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    saved = save_policy(load_policy(tmp_path / "base", dtype=dtype), tmp_path / "again", FACTS, weights_dtype=dtype)
    policy = load_policy(tmp_path / "base", dtype=dtype)
    for parameter in policy.model.parameters():
        parameter.requires_grad_(True)
    hashes = []

    def publish(weights: dict[str, torch.Tensor]) -> Artifact:
        assert all(tensor.dtype == torch.float32 for tensor in weights.values())
        manifest = save_policy(policy, tmp_path / "out", FACTS, weights_dtype=dtype, state=weights)
        hashes.append(manifest.hash)
        return ARTIFACT

    config = make_config(steps=0, dtype=dtype)
    parts = sft.SftParts(make_policy(policy.model), make_data(TRAIN), None, Ranks(), "cpu", publish)
    sft.run(config, {}, parts, make_context(tmp_path / "work"))
    assert hashes == [saved.hash]


def test_a_step_that_is_not_finite_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    stage = Stage(make_config(checkpoint_every_steps=2))

    class Poison:
        def on_step(self, step: int, metrics: Any, policy: Any) -> None:
            if step == 5:
                with torch.no_grad():
                    policy.model.norm.weight[0] = float("nan")

        def on_save(self, step: int, folder: Path) -> None:
            """Nothing to do."""

    with pytest.raises(TrainingError, match="rows of this step: row-") as caught:
        stage.run(tmp_path, callback=Poison())
    assert "model." in caught.value.place and stage.published == {}
    checkpoint = CheckpointStore(tmp_path / "checkpoints").load_newest()
    assert checkpoint is not None and checkpoint.step == 4 and checkpoint.set_aside == ()
    assert all(bool(tensor.isfinite().all()) for tensor in checkpoint.tensors.values())
    resumed, whole = Stage(make_config(checkpoint_every_steps=2)), Stage(make_config())
    resumed.run(tmp_path)
    whole.run(tmp_path / "whole")
    assert all(torch.equal(resumed.published[name], whole.published[name]) for name in whole.published)


def test_a_disk_that_fills_up_stops_the_stage_and_it_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    config = make_config(checkpoint_every_steps=2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    class FillDisk:
        def on_step(self, step: int, metrics: Any, policy: Any) -> None:
            if step == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))

        def on_save(self, step: int, folder: Path) -> None:
            assert step == 2

    stage = Stage(config)
    try:
        with pytest.raises(StorageError, match="could not write"):
            stage.run(tmp_path, callback=FillDisk())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    resumed, whole = Stage(config), Stage(config)
    resumed.run(tmp_path)
    whole.run(tmp_path / "whole")
    assert all(torch.equal(resumed.published[name], whole.published[name]) for name in whole.published)


def test_every_rank_builds_its_share_of_one_and_the_same_step() -> None:
    data = make_data(TRAIN)
    rows = build_order(make_config(), data, 17).rows_of_step(1)
    whole = build_step_batch(data, rows, 16, Ranks())
    names = {name for micro_batch in whole.micro_batches for name in micro_batch.row_ids}
    assert names == {f"row-{index}" for _, index in rows}
    assert [batch.row_ids for batch in whole.micro_batches] == [
        tuple(f"row-{rows[i][1]}" for i in group) for group in pack([TRAIN[r] for _, r in rows], 16)
    ]
    for count in (2, 3, 4, 7):
        shares = [build_step_batch(data, rows, 16, Ranks(rank, count)) for rank in range(count)]
        assert len({len(share.micro_batches) for share in shares}) == 1
        dealt = [share.micro_batches[i] for i in range(len(shares[0].micro_batches)) for share in shares]
        numbered = [batch.row_ids for batch in dealt if batch.row_ids]
        assert numbered == [batch.row_ids for batch in whole.micro_batches]
        totals = {(share.total_weight, share.num_tokens, share.num_trained) for share in shares}
        assert totals == {(whole.total_weight, whole.num_tokens, whole.num_trained)}
        weight = sum(float(batch.weights_N.sum()) for share in shares for batch in share.micro_batches)
        assert weight == whole.total_weight


def test_steps_are_counted_from_epochs_rounded_up_or_given() -> None:
    assert count_steps(make_config(steps=None, epochs=1.5), 5) == 8
    assert count_steps(make_config(steps=None, epochs=0.1), 5) == 1
    assert count_steps(make_config(steps=0), 5) == 0


def test_warm_up_never_takes_all_steps() -> None:
    config = make_config(warmup_fraction=0.9)
    assert [config.count_warmup_steps(steps) for steps in (0, 1, 2, 10)] == [0, 0, 1, 9]
    assert make_config(warmup_fraction=0.0).count_warmup_steps(10) == 0


def test_data_without_rows_is_refused(tmp_path: Path) -> None:
    stage = Stage(make_config())
    stage.parts.train.rows.clear()
    with pytest.raises(RefusedError, match="no row is left"):
        stage.run(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1.0}, "either epochs or steps"),
        ({"steps": None}, "either epochs or steps"),
        ({"keep": "best_validation_loss"}, "needs validation rows"),
        ({"validate_every_steps": 5}, "needs validation rows"),
        ({"mode": "full_text", "train_on": "all"}, "belongs to mode: chat"),
        ({"mode": "full_text", "truncation": "drop"}, "belongs to mode: chat"),
        ({"adapter_start": "stack"}, "needs adapter"),
        ({"keep": "best_metric", "validate_every_steps": 5}, "needs keep_metric"),
        ({"keep": "best_metric", "keep_metric": "facts"}, "needs validate_every_steps"),
        ({"keep_metric": "facts", "validate_every_steps": 5}, "chooses nothing without keep: best_metric"),
        ({"keep": "best_metric", "keep_metric": "Facts!", "validate_every_steps": 5}, "keep_metric"),
    ],
)
def test_impossible_pairs_are_refused_with_the_cure(changes: dict[str, Any], message: str) -> None:
    from posttrain.core.config import parse_config

    values = {"data": [{"source": "rows.jsonl"}], "steps": 6} | changes
    with pytest.raises(RecipeError, match=message):
        parse_config(SftConfig, {key: value for key, value in values.items() if value is not None}, place="stages.0")


def test_the_loss_of_the_stage_is_the_negative_log_likelihood() -> None:
    assert compute_sft_loss(torch.tensor([-2.5]), {}).tolist() == [2.5]
