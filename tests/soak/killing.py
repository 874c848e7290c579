"""Kills runs in their phases, as often as a plan says, and compares where they end with a run that was left alone."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.core.errors import EXIT_OK
from posttrain.core.run_folder import RunFolder
from posttrain.pipeline.recipe import read_recipe
from tests.pipeline.tiny_runs import Finished, Workshop
from tests.soak.processes import PATIENCE_SECONDS, Driver


@dataclass(frozen=True)
class Kills:
    """Which runs are killed where.

    `most` says of each phase roughly how many events a run has: one is drawn from 1 to there. A phase that is not in
    it, `moment`, is any moment. `options` are further arguments of `posttrain run`; `content` returns what two runs
    must share.
    """

    most: Mapping[str, int]
    content: Callable[[Finished], Any]
    options: Sequence[str] = ()


def finish(driver: Driver, recipe: Path, into: Path, *arguments: str) -> Finished:
    """Run a recipe to its end in a process, with further arguments, and return what it made."""
    code = driver.run("run", recipe, "--folder", into, *arguments, folder=recipe.parent)
    assert code == EXIT_OK, (recipe.parent / "log").read_text()[-3000:]
    return Finished(read_recipe(recipe, folder=into), RunFolder(into))


def check_leftovers(done: Finished) -> None:
    """Check that no half-written file is left and that the finished run is cached as a whole."""
    left = [path for path in done.folder.root.rglob(".tmp-*") if done.folder.cache not in path.parents]
    assert left == []
    assert not done.folder.superseded.exists()


# many parameters: who starts, what, where it is killed, and with which draw
def kill_in_phases(
    driver: Driver, workshop: Workshop, recipe: Path, kills: Kills, plan: Sequence[str], seed: int
) -> Counter[str]:
    """Kill a run in each phase of a plan, at a random event of it, then let it end; compare it with one left alone.

    Args:
        driver: Starts the runs.
        workshop: Where.
        recipe: What is run.
        kills: Where it is killed.
        plan: Names of phases.
        seed: Draws the order of the plan, and the events.
    """
    began = time.monotonic()
    whole = kills.content(finish(driver, recipe, workshop.folder / "whole", *kills.options))
    duration = time.monotonic() - began
    draw, left = random.Random(seed), list(plan)
    draw.shuffle(left)
    into, killed, num_ended = workshop.folder / "run", Counter[str](), 0
    while left:
        phase = left[0]
        halt = draw.randrange(1, kills.most[phase] + 1) if phase in kills.most else 0
        arguments = ("run", recipe, "--folder", into, *kills.options)
        driver.start(*arguments, folder=workshop.folder, halt=halt, phase=phase if halt else "save")
        if halt:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not (workshop.folder / "halted").exists() and not driver.has_ended():
                assert time.monotonic() < deadline, (workshop.folder / "log").read_text()[-3000:]
                time.sleep(0.005)
        else:
            time.sleep(draw.uniform(0.0, duration))
        code = driver.kill()
        if code == -signal.SIGKILL:
            killed[left.pop(0)] += 1
            continue
        # It ended before it could be killed: begin again, so that there is something to kill.
        assert code == EXIT_OK and num_ended < 60, (workshop.folder / "log").read_text()[-3000:]
        num_ended += 1
        into.rename(workshop.folder / f"ended-{num_ended}")
    done = finish(driver, recipe, into, *kills.options)
    assert kills.content(done) == whole
    check_leftovers(finish(driver, recipe, into, *kills.options))
    for ended in workshop.folder.glob("ended-*"):
        assert kills.content(Finished(done.recipe, RunFolder(ended))) == whole
    return killed
