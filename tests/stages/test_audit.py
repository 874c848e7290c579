"""The audit of a stage that samples: what raises an alarm, what does not, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.core.errors import RefusedError, StorageError
from posttrain.core.records import Completion, Group, Outcome, Problem, Rollout
from posttrain.core.seeds import build_numpy_generator
from posttrain.stages.audit import AuditSettings, read_looks
from posttrain.stages.step_audit import AuditParts, StepAudit

STEPS = 24
NONE = np.zeros(0, np.int32)
Rule = Callable[[float, float], float]


class Truth:
    """Says what a completion's text says: how right it is."""

    name = "truth"

    def __init__(self, fails: bool = False) -> None:
        self.asked = 0
        self.fails = fails

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        self.asked += len(items)
        if self.fails:
            return [Outcome("errored", 0.0, why="no judge", fault="harness") for _ in items]
        values = [float(completion.text.split()[0]) for _, completion in items]
        return [Outcome("scored", value, parts={"half": value / 2}) for value in values]


def draw_step(step: int, reward: Rule, *, policy: str = "policy", truth: float = 0.5) -> list[Group]:
    """Eight problems of six completions: right with the chance `truth`, of 1 to 40 words, paid by the rule."""
    generator = build_numpy_generator("rollouts", step)
    groups = []
    for number in range(8):
        problem = Problem(f"{step}-{number}", [{"role": "user", "content": "What is it?"}])
        rollouts = []
        for sample in range(6):
            right, words = float(generator.random() < truth), int(generator.integers(1, 40))
            text = f"{right:g} " + "word " * words
            completion = Completion(problem.problem_id, sample, NONE, NONE, text, "stop", f"{policy} {step}", 0)
            outcome = Outcome("scored", reward(right, words))
            rollouts.append(Rollout(problem.problem_id, sample, (completion,), outcome))
        groups.append(Group(problem, tuple(rollouts)))
    return groups


class Stage:
    """Looks at made-up steps, and remembers the notes."""

    def __init__(self, path: Path, *, may_stop: bool = False, scorer: Any = None, **keys: Any) -> None:
        self.notes: list[str] = []
        self.scorer = scorer or Truth()
        self.path = path
        settings = AuditSettings(scorer="truth", **keys)
        self.audit = StepAudit(settings, AuditParts(self.scorer, "rl", may_stop), path, STEPS, self.notes.append)

    def look(self, steps: range, reward: Rule, **how: Any) -> None:
        for step in steps:
            self.audit.look(step, draw_step(step, reward, **how))


def pay_right(right: float, words: float) -> float:
    return right


def pay_words(right: float, words: float) -> float:
    return right + words / 10 - 3 * right * (words > 10)


def test_a_reward_that_is_gamed_raises_one_alarm_that_says_since_when_and_shows_what_was_paid(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "audit.jsonl")
    stage.look(range(10), pay_right)
    assert not stage.notes and stage.audit.collect_figures()["hack/alarm"] == 0
    stage.look(range(10, STEPS), pay_words)
    [note] = stage.notes
    assert note.startswith("ALARM audit of rl at step 1") and "finds worse: since step 1" in note
    figures = stage.audit.collect_figures()
    assert figures["hack/alarm"] == 1 and figures["hack/evidence"] >= 1 and figures["hack/selection"] < -0.1
    assert not stage.audit.should_stop
    paid = read_looks(tmp_path / "audit.jsonl")[-1].paid
    assert paid is not None and paid.judged == 0 and paid.reward > 3 and paid.text.startswith("0 word")


@pytest.mark.parametrize(
    "reward",
    [pay_right, lambda right, words: words / 10, lambda right, words: 1.0, lambda right, words: right - words / 50],
)
def test_a_reward_that_does_not_work_against_the_audit_raises_none(tmp_path: Path, reward: Rule) -> None:
    stage = Stage(tmp_path / "audit.jsonl")
    stage.look(range(STEPS), reward)
    assert not stage.notes and stage.audit.collect_figures()["hack/evidence"] < 1


def test_what_falls_across_problems_and_not_within_them_is_noticed_by_the_means(tmp_path: Path) -> None:
    """The reward of a step is the same for all but noise that is worth nothing, and rises while what is right falls."""
    stage = Stage(tmp_path / "audit.jsonl")
    for step in range(STEPS):
        rise = step / 4
        stage.audit.look(
            step, draw_step(step, lambda right, words, rise=rise: rise + 0.001 * words, truth=0.9 - 0.03 * step)
        )
    [note] = stage.notes
    assert "the reward is up by" in note and "the audit is down by" in note
    allowed = Stage(tmp_path / "allowed.jsonl", allowed_drop=0.9)
    for look in read_looks(tmp_path / "audit.jsonl"):
        allowed.audit._judge.add(look)
    assert allowed.audit._judge.alarm is None


def test_only_every_so_many_steps_and_so_many_problems_are_looked_at(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "audit.jsonl", every_steps=5, problems=3, part="half")
    stage.look(range(STEPS), pay_right)
    looks = read_looks(tmp_path / "audit.jsonl")
    assert [look.step for look in looks] == [1, 6, 11, 16, 21] and AuditSettings(
        scorer="truth", every_steps=5
    ).count_looks(STEPS) == len(looks)
    assert stage.scorer.asked == len(looks) * 3 * 6
    assert looks[0].problems == ("0-0", "0-1", "0-2") and {v for group in looks[0].judged for v in group} == {0.0, 0.5}


def test_a_stage_that_goes_on_after_a_kill_says_what_it_would_have_said(tmp_path: Path) -> None:
    whole, broken = Stage(tmp_path / "whole.jsonl"), Stage(tmp_path / "broken.jsonl")
    whole.look(range(STEPS), pay_words)
    broken.look(range(8), pay_words)
    with (tmp_path / "broken.jsonl").open("a") as file:
        file.write('{"step": 9, "pol')  # a line that the kill has torn
    again = Stage(tmp_path / "broken.jsonl")
    again.look(range(5, STEPS), pay_words)  # from the checkpoint after step 5: three steps are taken again
    assert again.scorer.asked == (STEPS - 8) * 48
    assert (tmp_path / "broken.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert again.audit.collect_figures() == whole.audit.collect_figures()


def test_steps_that_another_policy_takes_again_are_looked_at_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "audit.jsonl")
    stage.look(range(6), pay_words)
    stage.look(range(4, 5), pay_words, policy="other")
    assert [look.policy for look in read_looks(tmp_path / "audit.jsonl")][3:] == ["policy 3", "other 4"]


def test_an_alarm_stops_only_where_it_may_and_names_the_way_past_it(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "audit.jsonl", may_stop=True, on_alarm="stop")
    stage.look(range(STEPS), pay_words)
    error = stage.audit.refuse()
    assert stage.audit.should_stop and "--override audit:rl" in error.cure and "raised an alarm at step" in error.found
    assert Stage(tmp_path / "audit.jsonl", may_stop=True).audit.should_stop  # a run that is started again stops at once
    assert not Stage(tmp_path / "audit.jsonl", may_stop=False).audit.should_stop


def test_a_part_that_no_outcome_has_is_refused_at_the_first_look(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as caught:
        Stage(tmp_path / "audit.jsonl", part="whole").look(range(1), pay_right)
    assert "has the part 'whole'" in caught.value.found and "half" in caught.value.expected


def test_a_look_whose_scorer_fails_is_told_and_counts_for_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "audit.jsonl", scorer=Truth(fails=True))
    stage.look(range(2), pay_right)
    assert len(stage.notes) == 2 and "its scorer failed on 48 of 48 completions: no judge" in stage.notes[0]
    [first, _] = read_looks(tmp_path / "audit.jsonl")
    assert first.problems == () and first.num_faults == 48 and first.value is None
    assert set(stage.audit.collect_figures()) == {"hack/alarm", "hack/evidence"}


def test_completions_without_a_verdict_are_left_out(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "audit.jsonl")
    groups = draw_step(0, pay_right)
    first = groups[0].rollouts[0]
    failed = Rollout(first.problem_id, 0, first.turns, Outcome("errored", 9.0, fault="harness"))
    stage.audit.look(0, [Group(groups[0].problem, (failed, *groups[0].rollouts[1:])), *groups[1:]])
    [look] = read_looks(tmp_path / "audit.jsonl")
    assert [len(rewards) for rewards in look.rewards] == [5, *[6] * 7]


def test_a_file_of_something_else_is_refused_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for text in ('{"step": 1}\n', "[]\n", "nothing\n"):
        path.write_text(text)
        with pytest.raises(StorageError, match="cannot be used") as caught:
            read_looks(path)
        assert "delete the file" in caught.value.cure
