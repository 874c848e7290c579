"""One run by two processes under torchrun: one of them writes, and both train what one alone would."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from posttrain.core.errors import EXIT_LOCKED
from posttrain.core.run_folder import FolderLock, RunFolder
from posttrain.models.manifest import find_differences, load_manifest
from posttrain.pipeline.recipe import read_recipe
from posttrain.training.checkpoints import CheckpointStore
from tests.pipeline.test_run import check_record
from tests.pipeline.tiny_runs import Finished, Workshop, make_rows, sft, task
from tests.soak.processes import PATIENCE_SECONDS, wait_for

pytestmark = pytest.mark.invariants

STAGES = (
    sft(validation=[{"source": "held_out.jsonl"}], ema_decay=0.5),
    sft(name="more", adapter={"rank": 2, "dropout": 0.0}, batch_size=1, steps=3),
)


def start(recipe: Path, into: str) -> subprocess.Popen[str]:
    """Start a run on two ranks."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "posttrain.cli.main", "run", recipe.name, "--folder", into]
    return subprocess.Popen(
        command,
        cwd=recipe.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> str:
    """Wait for a launcher and return what it and its ranks printed; none is left behind."""
    try:
        printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()  # the launcher ends its ranks, which killing it would not
        printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
        raise AssertionError("the ranks never ended: " + printed[-4000:]) from None
    return printed


def finish(recipe: Path, into: str) -> Finished:
    """Run a recipe on two ranks to its end."""
    process = start(recipe, into)
    printed = end(process)
    assert process.returncode == 0, printed[-4000:]
    folder = recipe.parent / into
    return Finished(read_recipe(recipe, folder=folder), RunFolder(folder))


def close(first: Finished, second: Finished) -> None:
    """Check that two runs logged the same figures and made the same weights, as far as sums may round."""
    for index in range(len(first.hashes)):
        pairs = zip(first.lines(index), second.lines(index), strict=True)
        assert all(line == pytest.approx(other, rel=1e-4) for line, other in pairs)
        for path in first.artifact(index).rglob("*.safetensors"):
            weights = load_file(path)
            others = load_file(second.artifact(index) / path.relative_to(first.artifact(index)))
            assert weights.keys() == others.keys()
            for name, tensor in weights.items():
                assert torch.allclose(tensor, others[name], atol=1e-3), name


def test_two_ranks_train_what_one_does_and_one_of_them_writes(workshop: Workshop) -> None:
    recipe = workshop.write(*STAGES, evaluate=[task()])
    alone = workshop.run(*STAGES, evaluate=[task()], into="alone")
    together = finish(recipe, "together")
    check_record(together.record)
    assert together.record["status"] == "finished" and together.statuses == ["finished", "finished"]
    close(alone, together)
    for done in (alone, together):
        assert [find_differences(done.artifact(index)) for index in (0, 1)] == [[], []]
    assert load_manifest(together.artifact(1)).adapters == ["00-more"]
    names = [
        sorted(p.name for p in done.folder.root.rglob("*") if "artifacts" not in p.parts) for done in (alone, together)
    ]
    assert [name for name in names[1] if len(name) < 32] == [name for name in names[0] if len(name) < 32]
    again = finish(recipe, "together")
    assert again.statuses == ["cached", "cached"] and again.hashes == together.hashes


def test_two_ranks_keep_the_best_by_a_metric_that_the_first_one_measures(workshop: Workshop) -> None:
    make_rows(workshop.folder / "development.jsonl", 6, start=80)
    kept = {"keep": "best_metric", "keep_metric": "held_out/stopped", "validate_every_steps": 1}
    lora = {"adapter": {"rank": 2}, "adapter_start": "new", "learning_rate": 3e-3}
    stages = (sft(**kept, ema_decay=0.5), sft(name="more", **kept, **lora))
    tasks = [task(development={"source": "development.jsonl"})]
    alone = workshop.run(*stages, evaluate=tasks, into="alone")
    together = finish(workshop.write(*stages, evaluate=tasks), "together")
    close(alone, together)
    assert [len([line for line in together.lines(i) if "development/held_out/stopped" in line]) for i in (0, 1)] == [
        5,
        5,
    ]


WAITING = """\
import time
from pathlib import Path

HERE = Path(__file__).parent


class Wait:
    def on_step(self, step, metrics, policy):
        if step == 2:
            (HERE / "reached").touch()
            while not (HERE / "released").exists():
                time.sleep(0.01)
"""


def test_two_ranks_that_are_asked_to_stop_save_once_and_go_on(workshop: Workshop) -> None:
    (workshop.folder / "own.py").write_text(WAITING)
    recipe = workshop.write(sft(checkpoint_every_steps=100, callbacks=["own.py:Wait"]))
    process = start(recipe, "run")
    wait_for(workshop.folder / "reached")
    process.send_signal(signal.SIGTERM)  # the launcher passes it on to both
    time.sleep(1)
    (workshop.folder / "released").touch()
    printed = end(process)
    assert "stopped as asked after step 2 of 4; saved" in printed
    checkpoint = CheckpointStore(RunFolder(workshop.folder / "run").stage(0, "sft").checkpoints).load_newest()
    assert checkpoint is not None and checkpoint.step == 2
    done = finish(recipe, "run")
    close(finish(recipe, "whole"), done)


def test_two_ranks_are_both_refused_where_another_run_works(workshop: Workshop) -> None:
    recipe = workshop.write()
    with FolderLock(RunFolder(workshop.folder / "run").lock):
        process = start(recipe, "run")
        printed = end(process)
    assert process.returncode != 0
    assert "E-LOCKED" in printed and f"exitcode  : {EXIT_LOCKED}" in printed
    assert not (workshop.folder / "run" / "run.json").exists()
