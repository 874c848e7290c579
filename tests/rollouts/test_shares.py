"""Waves that several processes draw: the same groups in the same order, whoever drew them and whoever goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.core.errors import PosttrainError, RefusedError
from posttrain.core.records import Group
from posttrain.core.run_folder import StageFolder
from posttrain.rollouts.groups import Drawing
from posttrain.rollouts.shares import ShareJournals, WaveShare
from posttrain.rollouts.waves import WaveDrawer
from tests.rollouts.made_up import SETTINGS, LengthScorer, MixedSampler, make_problems
from tests.rollouts.test_waves import assert_same


class Meeting:
    """Several processes as threads of this one, which meet at every gathering as ranks do."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._barrier = threading.Barrier(count)
        self._box: list[tuple[PosttrainError | None, list[Group]]] = [(None, [])] * count

    def gather_on(self, rank: int) -> Callable[[Callable[[], list[Group]]], list[list[Group]]]:
        def gather(action: Callable[[], list[Group]]) -> list[list[Group]]:
            try:
                self._box[rank] = (None, action())
            except PosttrainError as error:
                self._box[rank] = (error, [])
            self._barrier.wait(20)
            found = list(self._box)
            self._barrier.wait(20)
            for failure, _ in found:
                if failure is not None:
                    raise failure
            return [groups for _, groups in found]

        return gather


def run(
    folder: Path,
    count: int,
    act: Callable[[WaveDrawer, ShareJournals], list[Group]],
    scorers: list[LengthScorer] | None = None,
    problems: int = 7,
) -> list[list[Group] | PosttrainError]:
    """What `act` gives on each of several processes, or what it raises."""
    meeting, given = Meeting(count), [None] * count

    def work(rank: int) -> None:
        journals = ShareJournals(StageFolder(folder), rank, count)
        scorer = LengthScorer() if scorers is None else scorers[rank]
        drawing = Drawing(MixedSampler(), scorer, SETTINGS)
        drawer = WaveDrawer(
            lambda wave: make_problems(problems),
            drawing,
            journals.own,
            "scorer",
            5,
            WaveShare(rank, count, meeting.gather_on(rank)),
            journals.recall_share,
        )
        try:
            given[rank] = act(drawer, journals)
        except PosttrainError as error:
            given[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return given


def draw(drawer: WaveDrawer, journals: ShareJournals) -> list[Group]:
    return drawer.draw(0, "policy")


def recall(drawer: WaveDrawer, journals: ShareJournals) -> list[Group]:
    return drawer.recall(0)


@pytest.mark.parametrize("count", [2, 3, 9])
def test_every_process_gets_what_one_alone_would_have_drawn(tmp_path: Path, count: int) -> None:
    (alone,) = run(tmp_path / "alone", 1, draw)
    scorers = [LengthScorer() for _ in range(count)]
    for groups in run(tmp_path / "shared", count, draw, scorers):
        assert_same(groups, alone)
    asked = sorted(name for scorer in scorers for name in scorer.asked)
    assert asked == sorted(f"p{number}" for number in range(7) for _ in range(3))  # each completion by one process


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (3, 2), (9, 4), (2, 2)])
def test_a_wave_is_read_back_by_any_number_of_processes(tmp_path: Path, before: int, after: int) -> None:
    (drawn, *_) = run(tmp_path, before, draw)
    for groups in run(tmp_path, after, recall):
        assert_same(groups, drawn)


def test_what_another_number_drew_is_gone_once_the_wave_is_drawn_anew(tmp_path: Path) -> None:
    run(tmp_path, 2, draw)

    def draw_anew(drawer: WaveDrawer, journals: ShareJournals) -> list[Group]:
        journals.drop_strangers(0, 0)
        return drawer.draw(0, "another policy")

    run(tmp_path, 1, draw_anew)
    assert [path.parent.name for path in tmp_path.rglob("*.rollouts")] == ["rollouts"]
    ShareJournals(StageFolder(tmp_path)).clear()
    assert not list(tmp_path.rglob("*.rollouts"))


def test_a_share_that_is_missing_is_told_by_every_process(tmp_path: Path) -> None:
    run(tmp_path, 2, draw)
    (tmp_path / "rollouts/rank-1-of-2/00000000.rollouts").unlink()
    for error in run(tmp_path, 2, recall):
        assert isinstance(error, PosttrainError) and "are missing" in error.found


def test_faults_are_counted_over_the_wave_and_a_faulty_wave_is_judged_again(tmp_path: Path) -> None:
    """16 of 201 completions, all of them one process's: every process is told of 16 of 201, and none keeps the wave."""
    one = [LengthScorer(), LengthScorer(lambda call: call <= 2), LengthScorer()]
    found = run(tmp_path, 3, draw, one, problems=67)
    assert all(isinstance(error, RefusedError) for error in found)
    assert len({error.found for error in found}) == 1 and "of 201 completions: no worker" in found[0].found
    healthy = [LengthScorer() for _ in range(3)]
    again = run(tmp_path, 3, draw, healthy, problems=67)
    (alone,) = run(tmp_path / "alone", 1, draw, problems=67)
    for groups in again:
        assert_same(groups, alone)
