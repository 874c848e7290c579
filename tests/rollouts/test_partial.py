"""Rollouts that go on in the next step: all are trained on once, in order, and a kill anywhere changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.core.errors import DataError, StorageError
from posttrain.core.records import Completion, Group, Outcome, Problem, Rollout, TokenizedProblem
from posttrain.core.sampling import SamplingSettings, derive_sample_seed
from posttrain.rollouts.groups import Drawing
from posttrain.rollouts.partial import EndedGroups, PartialDrawer, PartialSettings
from posttrain.rollouts.partial_journal import PartialJournal
from tests.rollouts.made_up import make_problems

CAP, NUM_STEPS, STOP = 8, 5, 99
PROBLEMS = make_problems(20)
SETTINGS = SamplingSettings(max_new_tokens=CAP, temperature=1.0, num_samples=3)


def find_length(problem: str, sample: int) -> int:
    """Tokens of a rollout: 1 to 10, of which those beyond the cap are never drawn."""
    return 1 + (7 * int(problem[1:]) + 3 * sample) % 10


class CountingSampler:
    """Draws the numbers 0, 1, 2... and a stop token at a length of the problem's and the sample's own."""

    def __init__(self, policy: str) -> None:
        self.policy_hash = policy
        self.num_tokens = 0

    def sample(self, problems: Sequence[Problem], settings: SamplingSettings, seeds: Sequence[int]) -> Any:
        for place in reversed(range(len(problems))):
            problem = problems[place]
            for sample in reversed(range(settings.num_samples)):
                yield place, self._draw(problem, sample, settings, derive_sample_seed(seeds[place], sample))

    def _draw(self, problem: Problem, sample: int, settings: SamplingSettings, seed: int) -> Completion:
        prompt, behind, own = [1000 + int(problem.problem_id[1:]), 77], 0, sample
        if isinstance(problem, TokenizedProblem):
            assert list(problem.prompt_ids[:2]) == prompt and settings.num_samples == 1
            prompt, behind = list(problem.prompt_ids), len(problem.prompt_ids) - 2
            assert prompt[3:] == list(range(1, behind))
            own = prompt[2]  # the first token says which sample it is
        length = find_length(problem.problem_id, own)
        ids = [own if n == 0 else n for n in range(behind, min(length, behind + settings.max_new_tokens))]
        is_whole = behind + len(ids) == length
        if is_whole:
            ids[-1] = own if length == 1 else STOP
        self.num_tokens += len(ids)
        text = spell(ids[:-1] if is_whole else ids)
        logprobs = -np.arange(1, 1 + len(ids), dtype=np.float32) - (0.5 if self.policy_hash.endswith("1") else 0)
        return Completion(
            problem.problem_id, sample, np.array(prompt, np.int32), np.array(ids, np.int32), text,
            "stop" if is_whole else "length", self.policy_hash, seed, logprobs, logprobs,
        )  # fmt: skip


def spell(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


class Judge:
    """The number of words; remembers what it was shown."""

    name = "words"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        self.texts += [completion.text for _, completion in items]
        return [Outcome("scored", float(len(completion.ids)), parts={"n": 1.0}) for _, completion in items]


def make_drawer(folder: Path, policy: str, judge: Judge | None = None, *, budget: int = 3) -> PartialDrawer:
    drawing = Drawing(CountingSampler(policy), judge or Judge(), SETTINGS)  # type: ignore[arg-type]
    return PartialDrawer(
        lambda step: [(problem, 1.0 + step) for problem in PROBLEMS[4 * step : 4 * step + 4]],
        drawing,
        PartialSettings(budget, NUM_STEPS - 1, spell),
        PartialJournal(folder, {problem.problem_id: problem for problem in PROBLEMS}),
        "scorer",
        5,
    )


def draw_all(folder: Path, *, budget: int = 3) -> list[EndedGroups]:
    return [
        make_drawer(folder, f"policy{step}", budget=budget).draw(step, f"policy{step}") for step in range(NUM_STEPS)
    ]


def describe(rollout: Rollout) -> Any:
    turns = [
        (turn.ids.tolist(), turn.policy_hash, turn.seed, turn.sampler_logprobs.tolist(), turn.prompt_ids.tolist())
        for turn in rollout.turns
        if isinstance(turn, Completion) and turn.sampler_logprobs is not None
    ]
    return rollout.problem_id, rollout.sample_index, turns, rollout.outcome


def describe_all(ended: Sequence[EndedGroups]) -> Any:
    return [
        ([describe(rollout) for group in one.groups for rollout in group.rollouts], one.weights, one.staleness)
        for one in ended
    ]


def test_every_group_is_trained_on_once_whatever_its_length_in_the_order_in_which_they_were_begun(
    tmp_path: Path,
) -> None:
    """A group that begins in step s and whose longest rollout has n tokens ends in step s + ceil(n / 3) - 1 or the
    last; of those of one step the earlier begun stand first."""
    ended = draw_all(tmp_path)
    expected: list[list[str]] = [[] for _ in range(NUM_STEPS)]
    for number, problem in enumerate(PROBLEMS):
        longest = min(CAP, max(find_length(problem.problem_id, sample) for sample in range(3)))
        expected[min(number // 4 + -(-longest // 3) - 1, NUM_STEPS - 1)].append(problem.problem_id)
    assert [[group.problem.problem_id for group in one.groups] for one in ended] == expected
    assert sum(map(len, expected)) == 20 and len(expected[0]) < 4 < len(expected[-1])
    assert ended[-1].staleness.num_set_aside == 0


def test_a_rollout_has_the_tokens_and_the_policies_that_drew_it(tmp_path: Path) -> None:
    """Of eight tokens or more, begun in step 1: three by policy 1, three by policy 2, two by policy 3."""
    ended = draw_all(tmp_path)
    rollouts = [rollout for one in ended for group in one.groups for rollout in group.rollouts]
    for rollout in rollouts:
        length = find_length(rollout.problem_id, rollout.sample_index)
        whole = [rollout.sample_index, *range(1, length)]
        if length > 1:
            whole[-1] = STOP
        assert rollout.ids_T.tolist() == whole[:CAP] and rollout.outcome.value == min(CAP, length)
        assert rollout.last.finish_reason == ("stop" if length <= CAP else "length")
        begun = int(rollout.problem_id[1:]) // 4
        if begun == 1 and length >= CAP:
            assert [len(turn.ids) for turn in rollout.turns] == [3, 3, 2]
            assert [turn.policy_hash for turn in rollout.turns if isinstance(turn, Completion)] == [
                "policy1", "policy2", "policy3",
            ]  # fmt: skip
            assert rollout.turns[0].sampler_logprobs.tolist() == [-1.5, -2.5, -3.5]  # type: ignore[union-attr]
    assert any(len(rollout.turns) == 3 for rollout in rollouts)


def test_a_judge_is_shown_whole_rollouts(tmp_path: Path) -> None:
    judge = Judge()
    for step in range(NUM_STEPS):
        make_drawer(tmp_path, f"policy{step}", judge).draw(step, f"policy{step}")
    expected = []
    for problem in PROBLEMS:
        for sample in range(3):
            length = find_length(problem.problem_id, sample)
            expected.append(spell([sample, *range(1, CAP)][: length - 1 if length <= CAP else CAP]))
    assert sorted(judge.texts) == sorted(expected)


def test_staleness_counts_tokens_by_the_step_that_drew_them(tmp_path: Path) -> None:
    """p0 has rollouts of 1, 4 and 7 tokens. It is begun in step 0 and ends in step 2: 1 + 3 + 3 tokens are two steps
    old, 1 + 3 one, and 1 is of the step."""
    ended = draw_all(tmp_path)
    place = next(step for step, one in enumerate(ended) if one.groups and one.groups[0].problem.problem_id == "p0")
    assert place == 2
    alone = [group for group in ended[2].groups if group.problem.problem_id == "p0"]
    ages = [2 - number for rollout in alone[0].rollouts for number, turn in enumerate(rollout.turns) for _ in turn.ids]
    assert sorted(ages) == [0] + [1] * 4 + [2] * 7
    staleness = ended[2].staleness
    assert sum(staleness.num_tokens_by_age) == sum(r.num_drawn for g in ended[2].groups for r in g.rollouts)
    assert 0 < staleness.stale_fraction < 1 and 0 < staleness.mean_age < 2
    assert ended[0].staleness.stale_fraction == ended[0].staleness.mean_age == 0
    assert ended[2].weights[0] == 1.0  # of the step in which it was begun


def test_a_budget_that_is_never_reached_draws_as_if_there_were_none(tmp_path: Path) -> None:
    from posttrain.rollouts.journal import RolloutJournal
    from posttrain.rollouts.waves import WaveDrawer

    ended = draw_all(tmp_path / "partial", budget=CAP)
    for step, one in enumerate(ended):
        drawing = Drawing(CountingSampler(f"policy{step}"), Judge(), SETTINGS)  # type: ignore[arg-type]
        waves = WaveDrawer(
            lambda wave: PROBLEMS[4 * wave : 4 * wave + 4], drawing, RolloutJournal(tmp_path / "whole"), "scorer", 5
        )
        plain: list[Group] = waves.draw(step, f"policy{step}")
        assert [describe(r) for g in one.groups for r in g.rollouts] == [describe(r) for g in plain for r in g.rollouts]


@pytest.mark.parametrize("kept", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_a_step_that_was_killed_is_drawn_again_and_its_verdicts_are_kept(tmp_path: Path, kept: float) -> None:
    whole = draw_all(tmp_path / "whole")
    for step in range(NUM_STEPS):
        make_drawer(tmp_path / "torn", f"policy{step}").draw(step, f"policy{step}")
        path = make_drawer(tmp_path / "torn", "").journal.path(step)
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        judge = Judge()
        found = make_drawer(tmp_path / "torn", f"policy{step}", judge).draw(step, f"policy{step}")
        assert describe_all([found]) == describe_all([whole[step]])
        assert describe_all([make_drawer(tmp_path / "torn", "").recall(step)]) == describe_all([whole[step]])
        if kept > 0.5:
            assert not judge.texts


def test_a_step_under_another_policy_is_drawn_anew_and_goes_on_behind_what_was_set_aside(tmp_path: Path) -> None:
    draw_all(tmp_path)
    again = make_drawer(tmp_path, "another").draw(2, "another")
    policies = [[t.policy_hash for t in r.turns if isinstance(t, Completion)] for g in again.groups for r in g.rollouts]
    assert ["policy0", "policy1", "another"] in policies


def test_a_prompt_that_leaves_no_room_for_the_cap_is_refused_when_it_is_begun(tmp_path: Path) -> None:
    drawer = make_drawer(tmp_path, "policy0")
    tight = replace(drawer, settings=replace(drawer.settings, context_tokens=9))
    with pytest.raises(DataError, match="a prompt of 2 tokens and max_new_tokens 8"):
        tight.draw(0, "policy0")
    replace(drawer, settings=replace(drawer.settings, context_tokens=10)).draw(0, "policy0")


def test_a_missing_journal_of_the_step_before_is_refused(tmp_path: Path) -> None:
    draw_all(tmp_path)
    drawer = make_drawer(tmp_path, "policy3")
    drawer.journal.drop_before(3)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"0000000{n}.rollouts" for n in (2, 3, 4)]
    assert drawer.draw(3, "policy3").groups
    drawer.journal.path(2).unlink()
    with pytest.raises(StorageError, match="rollouts of step 2 are missing"):
        drawer.draw(3, "policy3")
