"""KTO and BCO as a stage on a tiny model: reference points, accumulation, step 0, resume, and what labels do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.core.errors import DataError, RefusedError, TerminatedError
from posttrain.core.protocols import RunContext
from posttrain.core.records import Artifact, RenderedSample
from posttrain.data.ledger import Ledger
from posttrain.data.mismatched import mismatch_rows
from posttrain.data.pairs import PairData, PairRows
from posttrain.objectives.kto import UnpairedObjective
from posttrain.stages import kto
from posttrain.stages.kto import KtoConfig, KtoParts
from posttrain.stages.kto_batches import KtoBatches
from posttrain.stages.preference_batches import compute_token_logprobs
from posttrain.stages.reference_logprobs import ReferenceCache
from posttrain.training.distributed import Ranks
from posttrain.training.optimizer import AdamWSettings, MasterOptimizer
from posttrain.training.step import StepBatch, Updater
from tests.pipeline.tiny_runs import Notes
from tests.stages.tiny_sft import StopAfter
from tests.training.tiny import (
    ListSink,
    gradients_of,
    largest_difference,
    make_context,
    make_model,
    make_policy,
    make_token_rows,
)

PROMPTS = (5, 9, 3, 12, 7, 4, 8, 6)
COMPLETIONS = (4, 7, 2, 9, 5, 3, 6, 2)
LABELS = (True, False, True, True, False, False, True, False)
ARTIFACT = Artifact("policy", "key", "hash", "folder")


def make_sample(length: int, random: np.random.Generator, *, is_completion: bool) -> RenderedSample:
    ids = random.integers(3, 61, length).astype(np.int32)
    return RenderedSample(ids, np.zeros(length, np.uint8), np.full(length, is_completion))


def make_unpaired(labels: Sequence[bool] = LABELS, seed: int = 0) -> PairData:
    """Unpaired rows of random tokens with the lengths above."""
    random = np.random.default_rng(seed)
    samples = []
    for prompt, completion in zip(PROMPTS[: len(labels)], COMPLETIONS, strict=False):
        samples += [
            make_sample(prompt, random, is_completion=False),
            make_sample(completion, random, is_completion=True),
        ]
    columns: Any = [{"label": label} for label in labels]
    parts = replace(make_token_rows(samples), content_hash=f"made up from seed {seed}")
    return PairData([PairRows(parts, columns, 1)], Ledger(), len(labels), [])


def make_config(**changes: Any) -> KtoConfig:
    values = {
        "data": [{"source": "rows.jsonl"}],
        "steps": 6,
        "batch_size": 4,
        "learning_rate": 0.01,
        "beta": 0.5,
        "dtype": "float32",
        "log_every_steps": 1,
        "checkpoint_every_steps": 2,
        "logps_drop": None,
    }
    return KtoConfig.model_validate(values | changes)


def make_parts(folder: Path, model: Any, data: PairData, validation: PairData | None = None) -> KtoParts:
    return KtoParts(
        policy=make_policy(model),
        train=data,
        validation=validation,
        references=ReferenceCache(folder / "references", {"policy": "tiny"}),
        context_tokens=128,
        name="kto",
        ranks=Ranks(),
        device="cpu",
        publish=lambda weights: ARTIFACT,
    )


def build(folder: Path, config: KtoConfig, model: Any, data: PairData, context: RunContext) -> KtoBatches:
    places = [(0, row) for row in range(data.num_rows)]
    return kto.build_batches(config, make_parts(folder, model, data), data, places, context)


def perturb(model: Any, scale: float = 0.05) -> None:
    """Move a model away from its reference."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)


def take_gradients(batches: KtoBatches, config: KtoConfig, model: Any, step: StepBatch) -> tuple[float, Any]:
    model.zero_grad()
    optimizer = MasterOptimizer(model.named_parameters(), AdamWSettings())
    objective = UnpairedObjective(config.build_loss())
    updater = Updater(batches.policy, optimizer, Ranks(), objective, max_grad_norm=None)
    loss = float(updater.accumulate(step, 0)[0])
    return loss, gradients_of(model)


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    return make_context(tmp_path / "stage", ListSink())


ALL = [(0, row) for row in range(8)]


@pytest.mark.parametrize("loss", ["kto", "bco"])
def test_at_step_0_rewards_and_kl_are_0_and_the_loss_is_that_of_no_opinion(
    loss: str, tmp_path: Path, context: RunContext
) -> None:
    config, model = make_config(loss=loss), make_model()
    batches = build(tmp_path, config, model, make_unpaired(), context)
    step = batches.build_step(ALL)
    found, _ = take_gradients(batches, config, model, step)
    assert found == pytest.approx(0.5 if loss == "kto" else np.log(2), abs=1e-6)
    assert abs(sum(batches.collect_point().values())) < 1e-5
    for part in step.micro_batches:
        logprobs = compute_token_logprobs(batches.policy, part)
        sums = torch.zeros(8).index_add(0, part.constants["branches"].long(), logprobs)
        firsts = [int((part.constants["branches"] == row).nonzero()[0]) for row in range(8)]
        assert (sums - part.constants["references"][firsts]).abs().max().item() < 1e-5


@pytest.mark.parametrize("loss", ["kto", "bco"])
def test_a_steps_point_loss_and_gradient_do_not_depend_on_how_it_is_cut(
    loss: str, tmp_path: Path, context: RunContext
) -> None:
    """One micro-batch of all rows, and one of each row: batch 1 with accumulation over 8."""
    found = []
    for tokens in (8192, 1, 30):
        config = make_config(loss=loss, micro_batch_tokens=tokens, undesirable_weight=1.5)
        model = make_model()
        batches = build(tmp_path / str(tokens), config, model, make_unpaired(), context)
        perturb(model)
        batches.shift = batches.shift.update((0.9, 3), (-0.1, 1), 0.9)
        step = batches.build_step(ALL)
        assert len(step.micro_batches) == {8192: 1, 1: 8}.get(tokens, len(step.micro_batches))
        (point,) = batches.collect_point().values()
        found.append((point, *take_gradients(batches, config, model, step)))
    for point, value, gradients in found[1:]:
        assert point == pytest.approx(found[0][0], abs=1e-6)
        assert value == pytest.approx(found[0][1], abs=1e-6)
        assert largest_difference(gradients, found[0][2]) < 1e-5


def test_the_point_is_the_mean_log_ratio_of_other_rows_completions(tmp_path: Path, context: RunContext) -> None:
    """Row by row, from the policy's own log-probs before and after it moved."""
    data, model, config = make_unpaired(), make_model(), make_config()
    batches = build(tmp_path, config, model, data, context)
    (rows,) = mismatch_rows(data.sources)

    plain = make_model()  # of the same weights; the other one's attention needs packed rows

    def sum_logprobs() -> float:
        total = 0.0
        for row in rows:
            ids = torch.from_numpy(np.concatenate([row.prompt.ids_T, row.chosen.ids_T]).astype(np.int64))
            with torch.no_grad():
                logprobs = plain(input_ids=ids[None]).logits[0].log_softmax(-1)
            behind = range(len(row.prompt.ids_T), len(ids))
            total += sum(float(logprobs[place - 1, ids[place]]) for place in behind)
        return total

    before = sum_logprobs()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    for row in rows:  # towards the mismatched completions, so that the point is above 0
        ids = torch.from_numpy(np.concatenate([row.prompt.ids_T, row.chosen.ids_T]).astype(np.int64))
        plain(input_ids=ids[None], labels=ids[None]).loss.backward()
    optimizer.step()
    model.load_state_dict(plain.state_dict())
    expected = (sum_logprobs() - before) / 8
    assert expected > 0.01
    assert batches.measure_kl_point(ALL) == pytest.approx(expected, abs=1e-4)


def test_no_row_is_measured_with_its_own_completion_even_alone_in_its_step(tmp_path: Path, context: RunContext) -> None:
    data, model = make_unpaired(), make_model()
    batches = build(tmp_path, make_config(batch_size=1), model, data, context)
    assert batches.kl_samples is not None
    for row in range(8):
        [(own, part)] = batches.kl_samples.batches.build_micro_batches([(0, row)])
        completion = data.sources[0][row].chosen.ids_T.tolist()
        assert own == [(0, row)]
        assert part.targets_N.tolist() != completion
        assert part.targets_N.tolist() in [data.sources[0][other].chosen.ids_T.tolist() for other in range(8)]
        assert np.isfinite(batches.measure_kl_point([(0, row)]))


class Stage:
    """One start of a stage: everything is built anew, as a new process would."""

    def __init__(self, folder: Path, config: KtoConfig, *, steps: int | None = None, **data: Any) -> None:
        self.model = make_model()
        self.sink, self.progress = ListSink(), Notes()
        should_stop = (lambda: False) if steps is None else StopAfter(steps)
        context = make_context(folder / "stage", self.sink, should_stop=should_stop)
        self.context = replace(context, progress=self.progress)
        train, validation = data.get("train", make_unpaired()), data.get("validation")
        self.parts = make_parts(folder, self.model, train, validation)
        self.weights: dict[str, torch.Tensor] = {}
        self.parts.publish = self._publish
        self.config = config

    def _publish(self, weights: dict[str, torch.Tensor]) -> Artifact:
        self.weights = {name: tensor.clone() for name, tensor in weights.items()}
        return ARTIFACT

    def run(self) -> Stage:
        kto.run(self.config, {"policy": ARTIFACT}, self.parts, self.context)
        return self


@pytest.mark.parametrize("loss", ["kto", "bco"])
def test_desirable_completions_become_more_probable_and_undesirable_ones_less(loss: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, make_config(loss=loss, steps=40, batch_size=8, max_grad_norm=None)).run()
    first, last = stage.sink.lines[0], stage.sink.lines[-1]
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert last["loss"] < first["loss"]
    assert last["rewards/chosen"] > 0 > last["rewards/rejected"]
    assert last["logps/chosen"] > first["logps/chosen"] and last["logps/rejected"] < first["logps/rejected"]


@pytest.mark.parametrize("loss", ["kto", "bco"])
def test_a_stage_that_is_stopped_and_started_again_ends_bitwise_where_one_without_a_stop_does(
    loss: str, tmp_path: Path
) -> None:
    config = make_config(loss=loss, log_every_steps=4)
    whole = Stage(tmp_path / "whole", config).run()
    with pytest.raises(TerminatedError):
        Stage(tmp_path / "parts", config, steps=3).run()
    resumed = Stage(tmp_path / "parts", config).run()
    assert all(torch.equal(resumed.weights[name], tensor) for name, tensor in whole.weights.items())
    names = {"loss", "rewards/chosen", "rewards/margins", "kl_point" if loss == "kto" else "reward_shift"}
    assert [{name: line[name] for name in names} for line in resumed.sink.lines[-1:]] == [
        {name: line[name] for name in names} for line in whole.sink.lines[-1:]
    ]


def test_bcos_shift_is_that_of_the_steps_before(tmp_path: Path) -> None:
    """The second step's is the middle of the first one's mean rewards, which are 0; the third's is not 0."""
    stage = Stage(tmp_path, make_config(loss="bco", batch_size=8, schedule="constant", warmup_fraction=0.0)).run()
    shifts = [line["reward_shift"] for line in stage.sink.lines]
    rewards = [(line["rewards/chosen"] + line["rewards/rejected"]) / 2 for line in stage.sink.lines]
    assert shifts[:2] == pytest.approx([0, 0], abs=1e-5)
    assert shifts[2] == pytest.approx(0.9 * rewards[0] + 0.1 * rewards[1], abs=1e-6) and abs(shifts[2]) > 1e-4


def test_validation_rows_are_measured_with_completions_of_their_own(tmp_path: Path) -> None:
    config = make_config(validation=[{"source": "more.jsonl"}], validate_every_steps=3, keep="best_validation_loss")
    stage = Stage(tmp_path, config, validation=make_unpaired(seed=9)).run()
    measured = [line for line in stage.sink.lines if "validation/loss" in line]
    assert measured[0]["validation/loss"] == pytest.approx(0.5, abs=1e-5)
    assert len(measured) == 3 and measured[0]["validation/rewards/margins"] == pytest.approx(0, abs=1e-5)


def test_labels_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all 4 rows are desirable"):
        Stage(tmp_path, make_config(), train=make_unpaired([True] * 4)).run()


def test_how_much_both_labels_weigh_is_said_with_advice_where_it_is_lopsided(tmp_path: Path) -> None:
    even = Stage(tmp_path / "even", make_config(steps=0)).run()
    assert "4 desirable and 4 undesirable rows; together they weigh 1 to 1" in even.progress.notes
    lopsided = Stage(tmp_path / "lopsided", make_config(steps=0, desirable_weight=3.0)).run()
    assert any("weigh 3 to 1; advised is 1 to 1.33" in note for note in lopsided.progress.notes)


def test_a_fall_of_both_labels_log_probs_stops_the_stage_where_that_is_asked_for(tmp_path: Path) -> None:
    config = make_config(logps_drop=0.01, on_alarm="stop", desirable_weight=0.0, undesirable_weight=5.0, steps=40)
    with pytest.raises(RefusedError, match="both by more than"):
        Stage(tmp_path, config).run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1}, "either epochs or steps"),
        ({"shift_decay": 0.5}, "set loss: bco"),
        ({"desirable_weight": 0.0, "undesirable_weight": 0.0}, "nothing is trained on"),
        ({"keep": "best_validation_loss"}, "needs validation rows"),
        ({"validate_every_steps": 2}, "needs validation rows"),
        ({"validation": [{"source": "v.jsonl", "proportion": 1}]}, "proportion belongs to training data"),
        ({"on_alarm": "stop"}, "needs logps_drop"),
        ({"beta": 0.0}, "greater than 0"),
    ],
)
def test_keys_that_do_not_go_together_are_refused_with_the_cure(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(**changes)
