"""The table of planted rewards: what gold had lost when the audit spoke, and the rewards that are gamed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.planted_reward import describe, read_found
from posttrain.core.run_folder import RunFolder
from posttrain.stages.audit import AuditLook, format_look
from recipes import gameable_rewards


def write_run(folder: Path, gold: list[float], *, against: bool) -> None:
    """A run whose looks see 12 problems of two completions each, paid for or against what the audit likes."""
    audit = {"scorer": "lab", "part": "gold"}
    folder.mkdir()
    (folder / "recipe.yaml").write_text(json.dumps({"stages": [{"audit": audit, "steps": len(gold)}]}))
    path = RunFolder(folder / "run").stage(0, "rl").audit
    path.parent.mkdir(parents=True)
    rewards = ((1.0, 0.0),) * 12
    lines = []
    for step, value in enumerate(gold, start=1):
        judged = ((value - 0.5, value + 0.5) if against else (value + 0.5, value - 0.5),) * 12
        names = tuple(f"{step}-{number}" for number in range(12))
        lines.append(format_look(AuditLook(step, "p", names, rewards, judged)))
    path.write_text("\n".join(lines) + "\n")


def test_a_run_says_where_gold_stood_when_the_audit_spoke(tmp_path: Path) -> None:
    """12 correlations of -1 a look win 12 log 1.8 = 7.1, less log 35 of the split: log 200 = 5.3 at the second look."""
    write_run(tmp_path / "gamed-1", [1.0, 1.2, 0.8, 1.0, 0.8, 0.7, 0.6], against=True)
    found = read_found(tmp_path / "gamed-1")
    # Over the looks around each step: 1.0, 1.0, 0.96, 0.9, 0.78, 0.775, 0.7; 0.2 below the start of 1.0 at step 5.
    assert found is not None and (found.alarm, found.dropped) == (2, 5)
    assert found.gold_start == pytest.approx(1.0) and found.gold_at_alarm == pytest.approx(1.0)
    assert found.peak_before == pytest.approx(1.0) and found.gold_end == pytest.approx(0.7)
    assert describe([found])[0][4:6] == ["5", "2"]


def test_a_run_of_an_honest_reward_has_no_alarm(tmp_path: Path) -> None:
    write_run(tmp_path / "honest-1", [1.0, 1.2, 1.4, 1.5], against=False)
    found = read_found(tmp_path / "honest-1")
    assert found is not None and found.alarm is None and found.dropped is None and found.why == ""
    assert describe([found])[0][4:] == ["never", "never", "", ""]


def test_a_run_that_has_hardly_begun_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "begun-1", [1.0], against=False)
    assert read_found(tmp_path / "begun-1") is None


def test_the_rewards_pay_for_what_they_say() -> None:
    texts = ["Sure! 2 + 2 = 4.\nAnswer: 4", "Have a good day. Have a good day. I am certain."]
    assert gameable_rewards.polite(texts, ["4", "4"]) == pytest.approx([1.3, 2.0])
    assert gameable_rewards.sure(texts, ["4", "4"]) == pytest.approx([0.3, 1.0])
    assert gameable_rewards.long(texts) == pytest.approx([8 / 40, 11 / 40])
    assert gameable_rewards.anywhere(texts, ["4", "4"]) == [1.0, 0.0]
