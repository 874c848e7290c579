"""Six steps in one go, and stopped or killed after every one of them and started again: the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from posttrain.core.errors import TerminatedError
from posttrain.core.run_folder import StageFolder
from posttrain.training.checkpoints import CheckpointStore
from tests.stages.tiny_sft import Stage, StopAfter, make_config

VALIDATED = {"validation": [{"source": "held.jsonl"}], "validate_every_steps": 2}
BY_METRIC = {"keep": "best_metric", "keep_metric": "facts", "validate_every_steps": 1}
LORA = {"rank": 4, "dropout": 0.3}
SNAPSHOTS = [2, 4]
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full weights": ({"epochs": 2.0, "steps": None}, {}),
    "bf16 with a moving average": ({"ema_decay": 0.8, "weight_decay": 0.1}, {"dtype": torch.bfloat16}),
    "LoRA with dropout": ({"adapter": LORA, "log_every_steps": 4}, {}),
    "dropout in the model": ({"max_grad_norm": 0.1}, {"name": "gpt2", "resid_pdrop": 0.3, "embd_pdrop": 0.1}),
    "the best is kept": ({**VALIDATED, "keep": "best_validation_loss", "learning_rate": 0.5}, {}),
    "the best average is kept": ({**VALIDATED, "keep": "best_validation_loss", "ema_decay": 0.5}, {}),
    "the best by a metric is kept": ({**BY_METRIC, "learning_rate": 0.1}, {}),
    "the best average by a metric is kept": (
        {**BY_METRIC, **VALIDATED, "validate_every_steps": 1, "ema_decay": 0.5},
        {},
    ),
    "several micro-batches": ({"micro_batch_tokens": 16}, {"dtype": torch.bfloat16}),
    "activation checkpointing": ({"activation_checkpointing": "on", "adapter": LORA}, {}),
    "padded": ({"packing": "off"}, {"name": "qwen2"}),
}


def final_state(stage: Stage, folder: Path) -> dict[str, torch.Tensor]:
    """What was published, the snapshots, and every tensor of the last checkpoint: masters, moments, steps, averages."""
    (last,) = folder.glob("checkpoints/step-00000006")
    snapshots = CheckpointStore(StageFolder(folder).snapshots)
    kept = {f"{step}/{name}": t for step in snapshots.list_whole() for name, t in snapshots.load(step).tensors.items()}
    assert snapshots.list_whole() == SNAPSHOTS
    return (
        {f"published/{name}": tensor for name, tensor in stage.published.items()}
        | kept
        | load_file(last / "state.safetensors")
    )


def assert_same(stage: Stage, folder: Path, whole: Stage, whole_folder: Path) -> None:
    ours, theirs = final_state(stage, folder), final_state(whole, whole_folder)
    assert ours.keys() == theirs.keys() and any(name.startswith("exp_avg_sq/") for name in ours)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    state = "checkpoints/step-00000006/state.json"
    assert (folder / state).read_text() == (whole_folder / state).read_text()
    assert stage.sink.without_times() == whole.sink.without_times() and stage.sink.lines


@pytest.mark.parametrize("variant", VARIANTS)
def test_six_steps_are_k_steps_a_stop_and_the_rest_bit_for_bit(tmp_path: Path, variant: str) -> None:
    changes, model = VARIANTS[variant]
    whole = Stage(make_config(**changes), **model)
    whole.run(tmp_path / "whole", num_snapshots=2)
    for k in range(1, 6):
        folder = tmp_path / f"stopped-after-{k}"
        stopped = Stage(make_config(**changes), **model)
        with pytest.raises(TerminatedError, match=f"after step {k} of 6"):
            stopped.run(folder, StopAfter(k), num_snapshots=2)
        assert stopped.published == {}
        resumed = Stage(make_config(**changes), **model)
        resumed.sink = stopped.sink  # the log file that was left behind
        resumed.run(folder, num_snapshots=2)
        assert_same(resumed, folder, whole, tmp_path / "whole")


class Killed(BaseException):
    """Nothing of the project catches it: the process is gone."""


class KillAt:
    """A callback that ends the process after a step, before anything is saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, step: int, metrics: Any, policy: Any) -> None:
        if step == self.step:
            raise Killed

    def on_save(self, step: int, folder: Path) -> None:
        """Saves go through."""


@pytest.mark.parametrize(
    "variant", ["full weights", "LoRA with dropout", "the best is kept", "the best by a metric is kept"]
)
def test_killed_at_any_steps_and_started_again_gives_the_same_bits(tmp_path: Path, variant: str) -> None:
    changes, model = VARIANTS[variant]
    changes = {**changes, "checkpoint_every_steps": 2}
    whole = Stage(make_config(**changes), **model)
    whole.run(tmp_path / "whole", num_snapshots=2)
    for first in range(1, 7):
        folder = tmp_path / f"killed-at-{first}"
        sink = None
        for kill in (first, min(first + 1, 6), None):
            stage = Stage(make_config(**changes), **model)
            stage.sink = sink or stage.sink
            sink = stage.sink
            if kill is None:
                stage.run(folder, num_snapshots=2)
            else:
                with pytest.raises(Killed):
                    stage.run(folder, callback=KillAt(kill), num_snapshots=2)
        assert_same(stage, folder, whole, tmp_path / "whole")


def test_a_torn_newest_checkpoint_costs_the_steps_since_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    config = make_config(checkpoint_every_steps=2)
    whole = Stage(config)
    whole.run(tmp_path / "whole", num_snapshots=2)
    stopped = Stage(config)
    with pytest.raises(TerminatedError):
        stopped.run(tmp_path / "torn", StopAfter(5), num_snapshots=2)
    assert sorted(p.name for p in (tmp_path / "torn" / "checkpoints").iterdir()) == ["step-00000004", "step-00000005"]
    (tmp_path / "torn" / "checkpoints" / "step-00000005" / "state.safetensors").write_bytes(b"torn")
    resumed = Stage(config)
    resumed.sink = stopped.sink
    resumed.run(tmp_path / "torn", num_snapshots=2)
    assert_same(resumed, tmp_path / "torn", whole, tmp_path / "whole")


def test_a_snapshot_that_a_killed_run_left_behind_its_checkpoint_is_taken_again(tmp_path: Path) -> None:
    """Killed after step 4 with the checkpoint of step 2: what lies there for step 4 may be torn or of other bits."""
    config = make_config(checkpoint_every_steps=2)
    whole, killed, resumed = Stage(config), Stage(config), Stage(config)
    whole.run(tmp_path / "whole", num_snapshots=2)
    with pytest.raises(Killed):
        killed.run(tmp_path / "killed", callback=KillAt(3), num_snapshots=2)
    (tmp_path / "killed/snapshots/step-00000004").mkdir()
    (tmp_path / "killed/snapshots/step-00000004/state.safetensors").write_bytes(b"torn")
    resumed.sink = killed.sink
    resumed.run(tmp_path / "killed", num_snapshots=2)
    assert_same(resumed, tmp_path / "killed", whole, tmp_path / "whole")


def test_a_finished_stage_started_again_trains_no_more_and_publishes_the_same(tmp_path: Path) -> None:
    config = make_config()
    first, second = Stage(config), Stage(config)
    first.run(tmp_path)
    second.sink = first.sink
    lines = list(first.sink.lines)
    second.run(tmp_path, StopAfter(1))
    assert second.sink.lines == lines
    assert all(torch.equal(second.published[name], first.published[name]) for name in first.published)
