"""Runs that are killed, stopped and locked out as processes: what they leave behind goes on to the same end.

The few kills here belong to every test run; `make soak` kills twenty times.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import EXIT_LOCKED, EXIT_OK, EXIT_TERMINATED
from posttrain.core.run_folder import RunFolder, StageFolder
from posttrain.training.checkpoints import CheckpointStore
from tests.cli.commands import run_here
from tests.pipeline.preference_runs import dpo, make_pairs
from tests.pipeline.tiny_runs import Finished, Workshop, make_base, sft, task
from tests.soak.killing import check_leftovers, finish
from tests.soak.processes import Driver, wait_for

WAITING = """\
import time
from pathlib import Path

HERE = Path(__file__).parent


class Wait:
    def on_step(self, step, metrics, policy):
        if step == 3:
            (HERE / "reached").touch()
            while not (HERE / "released").exists():
                time.sleep(0.005)
"""
STAGES = (
    sft(steps=9, validation=[{"source": "held_out.jsonl"}], validate_every_steps=4, keep="best_validation_loss"),
    sft(name="more", steps=8, adapter={"rank": 2, "dropout": 0.1}, repeat=2, adapter_start="continue"),
)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path / "workshop", make_base(tmp_path / "made"))


def content(done: Finished) -> dict[str, Any]:
    """Everything that two runs of one recipe must share: policies, figures, items, metrics."""
    folders = [StageFolder(path) for path in sorted(done.folder.stages.iterdir())]
    return {
        "policies": done.hashes,
        "metrics": done.record["metrics"],
        "lines": [done.lines(index) for index in range(len(folders))],
        "items": [
            done.items("held_out", stage).read_text() for stage in sorted({m["stage"] for m in done.record["metrics"]})
        ],
        "rows": [folder.preview.read_text() for folder in folders],
        "ledgers": [folder.ledger.read_text() for folder in folders],
    }


def kill_often(driver: Driver, workshop: Workshop, num_random: int, num_inside: int, seed: int) -> None:
    """Kill a run at random moments and inside saves, then let it end, and compare it with one that was left alone."""
    recipe = workshop.write(*STAGES, evaluate=[task()])
    began = time.monotonic()
    whole = content(finish(driver, recipe, workshop.folder / "whole"))
    duration = time.monotonic() - began
    draw = random.Random(seed)
    plan = [True] * num_inside + [False] * num_random
    draw.shuffle(plan)
    into, num_ended = workshop.folder / "run", 0
    while plan:
        driver.start("run", recipe, "--folder", into, folder=workshop.folder, halt=draw.randrange(1, 12) * plan[0])
        if plan[0]:
            while not (workshop.folder / "halted").exists() and not driver.has_ended():
                time.sleep(0.005)
        else:
            time.sleep(draw.uniform(0.0, duration))
        code = driver.kill()
        if code == -signal.SIGKILL:
            plan.pop(0)
            continue
        # It ended before it could be killed: begin again, so that there is something to kill.
        assert code == EXIT_OK and num_ended < 40, (workshop.folder / "log").read_text()[-3000:]
        num_ended += 1
        into.rename(workshop.folder / f"ended-{num_ended}")
    done = finish(driver, recipe, into)
    assert content(done) == whole
    check_leftovers(finish(driver, recipe, into))
    for ended in workshop.folder.glob("ended-*"):
        assert content(Finished(done.recipe, RunFolder(ended))) == whole


@pytest.mark.invariants
def test_a_run_that_is_killed_at_random_and_inside_a_save_ends_as_one_that_was_left_alone(
    driver: Driver, workshop: Workshop
) -> None:
    kill_often(driver, workshop, num_random=2, num_inside=2, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_a_run_that_is_killed_twenty_times_ends_as_one_that_was_left_alone(
    driver: Driver, workshop: Workshop, seed: int
) -> None:
    kill_often(driver, workshop, num_random=15, num_inside=5, seed=seed)


@pytest.fixture
def waiting(driver: Driver, workshop: Workshop) -> Iterator[Path]:
    """The recipe of a run that waits after its third step until `released` is there; it is started."""
    (workshop.folder / "own.py").write_text(WAITING)
    recipe = workshop.write(sft(steps=6, checkpoint_every_steps=100, callbacks=["own.py:Wait"]), evaluate=[task()])
    driver.start("run", recipe, "--folder", workshop.folder / "run", folder=workshop.folder)
    wait_for(workshop.folder / "reached")
    yield recipe
    (workshop.folder / "released").touch()


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.soak), signal.SIGINT])
def test_a_run_that_is_asked_to_stop_saves_within_a_step_and_goes_on_to_the_same_end(
    driver: Driver, workshop: Workshop, waiting: Path, number: int
) -> None:
    driver.signal(number)
    (workshop.folder / "released").touch()
    assert driver.wait() == EXIT_TERMINATED
    log = (workshop.folder / "log").read_text()
    assert "E-TERMINATED: stopped as asked after step 3 of 6; saved" in log and "Traceback" not in log
    folder = RunFolder(workshop.folder / "run")
    checkpoint = CheckpointStore(folder.stage(0, "sft").checkpoints).load_newest()
    assert checkpoint is not None and checkpoint.step == 3
    assert json.loads(folder.run_json.read_text())["status"] == "stopped" and folder.report.is_file()
    done = finish(driver, waiting, workshop.folder / "run")
    assert "resumed after step 3" in (workshop.folder / "log").read_text()
    assert content(done) == content(finish(driver, waiting, workshop.folder / "whole"))


def test_a_second_interrupt_stops_at_once_and_the_run_goes_on_from_what_was_saved(
    driver: Driver, workshop: Workshop, waiting: Path
) -> None:
    for _ in range(2):
        driver.signal(signal.SIGINT)
        time.sleep(0.2)  # two signals in one moment are one
    assert driver.wait() == 130
    (workshop.folder / "released").touch()
    done = finish(driver, waiting, workshop.folder / "run")
    assert content(done) == content(finish(driver, waiting, workshop.folder / "whole"))


def test_a_second_process_in_the_folder_is_refused_and_the_first_goes_on(
    driver: Driver, workshop: Workshop, waiting: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (workshop.folder / "run" / "run.json").read_bytes()
    second = run_here(capsys, "run", waiting, "--folder", workshop.folder / "run")
    assert second.code == EXIT_LOCKED
    assert "E-LOCKED" in second.err and '{"pid": ' in second.err and "--folder" in second.err
    assert (workshop.folder / "run" / "run.json").read_bytes() == before
    (workshop.folder / "released").touch()
    assert driver.wait() == EXIT_OK


@pytest.mark.invariants
def test_a_reference_pass_that_is_killed_while_half_of_it_is_written_is_computed_again(
    driver: Driver, workshop: Workshop
) -> None:
    """Ten pairs are one micro-batch: the second event is the keeping of what it gave."""
    make_pairs(workshop.folder / "pairs.jsonl", 10)
    recipe, into = workshop.write(dpo(steps=2)), workshop.folder / "run"
    driver.start("run", recipe, "--folder", into, folder=workshop.folder, halt=2, phase="reference")
    wait_for(workshop.folder / "halted")
    assert driver.kill() == -signal.SIGKILL
    (torn,) = (into / "cache" / "references").iterdir()
    size = torn.stat().st_size
    done = finish(driver, recipe, into)
    whole = finish(driver, recipe, workshop.folder / "whole")
    assert (done.hashes, done.lines()) == (whole.hashes, whole.lines())
    assert torn.read_bytes() == (whole.folder.cache / "references" / torn.name).read_bytes()
    assert size == torn.stat().st_size // 2
