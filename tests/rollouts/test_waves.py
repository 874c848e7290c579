"""Waves are drawn once: a whole one is read back bit for bit, of a torn one the verdicts are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.core.errors import StorageError
from posttrain.core.records import Group
from posttrain.rollouts.dynamic import gather_groups
from posttrain.rollouts.groups import Drawing
from posttrain.rollouts.journal import RolloutJournal
from posttrain.rollouts.overlength import compute_overlong_penalty
from posttrain.rollouts.waves import WaveDrawer
from tests.rollouts.made_up import SETTINGS, LengthScorer, MixedSampler, make_group, make_problems
from tests.rollouts.scripted import SETTINGS as CALLING
from tests.rollouts.scripted import ScriptedSampler, call, make_environment, make_renderer


def make_drawer(folder: Path, scorer: LengthScorer | None = None, sampler: MixedSampler | None = None) -> WaveDrawer:
    drawing = Drawing(sampler or MixedSampler(), scorer or LengthScorer(), SETTINGS)
    return WaveDrawer(lambda wave: make_problems(12), drawing, RolloutJournal(folder), "scorer", 5)


def assert_same(groups: list[Group], others: list[Group]) -> None:
    assert [group.problem.problem_id for group in groups] == [group.problem.problem_id for group in others]
    for one, other in zip(groups, others, strict=True):
        assert one.rewards == other.rewards
        for a, b in zip(one.rollouts, other.rollouts, strict=True):
            assert a.outcome == b.outcome and a.last.text == b.last.text and a.last.seed == b.last.seed
            for name in ("ids", "prompt_ids", "sampler_logprobs", "drawing_logprobs"):
                mine, theirs = getattr(a.last, name), getattr(b.last, name)
                assert mine.dtype == theirs.dtype and np.array_equal(mine, theirs)


def test_a_whole_wave_is_read_back_and_neither_drawn_nor_judged(tmp_path: Path) -> None:
    first = make_drawer(tmp_path).draw(0, "policy")
    scorer, sampler = LengthScorer(), MixedSampler()
    drawer = make_drawer(tmp_path, scorer, sampler)
    assert_same(drawer.draw(0, "policy"), first)
    assert_same(drawer.recall(0), first)
    assert scorer.calls == sampler.num_drawn == 0


def test_another_policy_draws_the_wave_anew(tmp_path: Path) -> None:
    make_drawer(tmp_path).draw(0, "policy")
    scorer = LengthScorer()
    make_drawer(tmp_path, scorer).draw(0, "another")
    assert len(scorer.asked) == 36


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7, 0.999])
def test_of_a_wave_that_was_killed_the_verdicts_are_kept_and_the_result_is_the_same(
    tmp_path: Path, kept: float
) -> None:
    whole = make_drawer(tmp_path / "whole").draw(0, "policy")
    make_drawer(tmp_path / "torn").draw(0, "policy")
    path = RolloutJournal(tmp_path / "torn").path(0)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    scorer = LengthScorer()
    assert_same(make_drawer(tmp_path / "torn", scorer).draw(0, "policy"), whole)
    assert (len(scorer.asked) == 36) == (kept == 0.0)
    assert_same(make_drawer(tmp_path / "torn").recall(0), whole)


class _CountedTool:
    """Gives another text at each call, as a clock would."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, arguments: Any) -> str:
        self.num_calls += 1
        return f"{arguments['text']} at {id(self)} {self.num_calls}"


def make_tool_drawer(folder: Path, scorer: Any) -> tuple[WaveDrawer, _CountedTool]:
    renderer, tool = make_renderer(), _CountedTool()
    environment = make_environment(renderer)
    environment.tools["repeat"] = replace(environment.tools["repeat"], run=tool)
    sampler = ScriptedSampler(
        renderer, lambda prompt, seed: f"{prompt[-30:]} {seed}" if "Tool:\n" in prompt else call("repeat", text="x")
    )
    drawing = Drawing(sampler, scorer, replace(CALLING, num_samples=3), environment=environment)
    return WaveDrawer(lambda wave: make_problems(12), drawing, RolloutJournal(folder), "scorer", 5), tool


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.999])
def test_of_a_wave_that_was_killed_no_tool_is_run_again_whose_reply_was_written_down(
    tmp_path: Path, kept: float
) -> None:
    drawer, first = make_tool_drawer(tmp_path, LengthScorer())
    whole = drawer.draw(0, "policy")
    assert first.num_calls == 36 and all(len(rollout.turns) == 3 for group in whole for rollout in group.rollouts)
    path = drawer.journal.path(0)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    num_known = sum(b'"caller"' in line for line in path.read_bytes().split(b"\n")[:-1])
    again, tool = make_tool_drawer(tmp_path, LengthScorer())
    found = again.draw(0, "policy")
    assert tool.num_calls == 36 - num_known
    for one, other in zip(whole, found, strict=True):
        for a, b in zip(one.rollouts, other.rollouts, strict=True):
            if num_known == 36:
                assert np.array_equal(a.ids_T, b.ids_T) and a.turns[1].replies == b.turns[1].replies
    recalled = make_tool_drawer(tmp_path, LengthScorer())[0].recall(0)
    for one, other in zip(found, recalled, strict=True):
        for a, b in zip(one.rollouts, other.rollouts, strict=True):
            assert np.array_equal(a.ids_T, b.ids_T) and np.array_equal(a.is_drawn_T, b.is_drawn_T)
            assert a.turns[1].replies == b.turns[1].replies and a.outcome == b.outcome


def test_another_environment_draws_the_wave_anew(tmp_path: Path) -> None:
    drawer, _ = make_tool_drawer(tmp_path, LengthScorer())
    drawer.draw(0, "policy")
    other, tool = make_tool_drawer(tmp_path, LengthScorer())
    other.drawing.environment.content_hash = "another"
    other.draw(0, "policy")
    assert tool.num_calls == 36


def test_a_flipped_bit_ends_the_journal_there(tmp_path: Path) -> None:
    whole = make_drawer(tmp_path).draw(0, "policy")
    path = RolloutJournal(tmp_path).path(0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(StorageError, match="rollouts of the step that was under way are missing"):
        make_drawer(tmp_path).recall(0)
    assert_same(make_drawer(tmp_path).draw(0, "policy"), whole)


def test_journals_that_no_checkpoint_goes_back_to_are_removed(tmp_path: Path) -> None:
    drawer = make_drawer(tmp_path)
    for wave in range(4):
        drawer.draw(wave, "policy")
    drawer.journal.drop_before(2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["00000002.rollouts", "00000003.rollouts"]
    drawer.journal.clear()
    assert not list(tmp_path.iterdir())


def test_waves_are_drawn_until_enough_groups_tell_and_no_order_decides() -> None:
    """Of three groups a wave two, none and two tell: three wanted are the first two and the first of the last."""
    waves = [
        [make_group("a", [0, 1]), make_group("b", [1, 1]), make_group("c", [1, 0])],
        [make_group(name, [0, 0]) for name in "def"],
        [make_group("g", [1, 0]), make_group("h", [0, 1]), make_group("i", [1, 1])],
        [make_group("never", [0, 1])],
    ]
    found = gather_groups(lambda wave: waves[wave], num_wanted=3, max_waves=8)
    assert [group.problem.problem_id for group in found.groups] == ["a", "c", "g"]
    assert (len(found.waves), found.num_drawn, found.num_informative, found.num_left_out) == (3, 9, 4, 1)
    assert found.informative_fraction == pytest.approx(4 / 9) and found.left_out_fraction == pytest.approx(6 / 9)
    bounded = gather_groups(lambda wave: waves[wave], num_wanted=3, max_waves=2)
    assert [group.problem.problem_id for group in bounded.groups] == ["a", "c"]
    plain = gather_groups(lambda wave: waves[wave], num_wanted=3, max_waves=1)
    assert [group.problem.problem_id for group in plain.groups] == ["a", "b", "c"]


def test_length_is_punished_in_a_straight_line_up_to_the_cap() -> None:
    """With a cap of 100 and a buffer of 20: nothing up to 80, half at 90, 1 at 100."""
    assert [compute_overlong_penalty(n, 100, 20) for n in (10, 80, 90, 95, 100)] == [0, 0, -0.5, -0.75, -1]
