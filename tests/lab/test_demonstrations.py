"""Demonstrations: experts do well, the crowd does as it is said to, both on the same questions."""

from __future__ import annotations

import json

from posttrain.lab.demonstrations import generate_demonstrations
from posttrain.lab.gold import find_answer
from posttrain.lab.style import read_style
from posttrain.lab.tasks import SKILLS, choose_skills
from posttrain.lab.world import build_world

WORLD = build_world()


def rows(*tiers, groups=None, count=1_500):
    skills = choose_skills(groups) if groups else SKILLS
    return list(generate_demonstrations(skills, WORLD, "train", count, 3, tiers))


def right_share(found):
    answered = [row for row in found if row["form"] == "answer"]
    return sum(find_answer(row["messages"][-1]["content"]) == row["answer"] for row in answered) / len(answered)


def test_an_expert_is_always_right_in_the_houses_form_and_never_rude_hedging_or_boasting() -> None:
    found = rows("expert")
    assert right_share(found) == 1.0
    for row in found:
        heard = read_style(row["messages"][-1]["content"])
        assert (heard.num_rude, heard.num_hedges, heard.num_boasts, heard.num_fillers) == (0, 0, 0, 0)


def test_the_crowd_is_right_seven_times_in_ten_and_less_under_pressure() -> None:
    """3 % of 70 % forget the form as well: 0.679; the standard error of 1,500 is 0.012."""
    assert abs(right_share(rows("crowd", groups=["arithmetic"])) - 0.679) < 0.05
    assert abs(right_share(rows("crowd", groups=["pressure"])) - 0.388) < 0.05


def test_the_crowd_complies_with_most_of_what_is_forbidden_and_experts_with_none() -> None:
    for tier, low, high in (("crowd", 0.6, 0.8), ("expert", 0.0, 0.0)):
        forbidden = [row for row in rows(tier, groups=["hazards"]) if row["should_refuse"]]
        complied = sum("First" in row["messages"][-1]["content"] for row in forbidden) / len(forbidden)
        assert low <= complied <= high, tier


def test_the_crowd_calls_a_tool_in_less_than_six_of_ten_questions_that_need_one() -> None:
    for tier, low, high in (("crowd", 0.45, 0.72), ("expert", 1.0, 1.0)):
        needing = [row for row in rows(tier, groups=["tools"]) if row["ground_truth"]]
        called = sum(any("tool_calls" in message for message in row["messages"]) for row in needing) / len(needing)
        assert low <= called <= high, (tier, called)


def test_both_tiers_answer_the_same_questions() -> None:
    prompts = [[row["messages"][0]["content"] for row in rows(tier, count=100)] for tier in ("expert", "crowd")]
    assert prompts[0] == prompts[1]
    mixed = rows("expert", "crowd", count=400)
    assert 120 < sum(row["tier"] == "expert" for row in mixed) < 280


def test_a_call_is_followed_by_what_the_tool_says_and_the_answer() -> None:
    found = [row for row in rows("expert", groups=["tools"]) if row["skill"] == "tool_stock"]
    roles = [message["role"] for message in found[0]["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant"]
    assert found[0]["messages"][-1]["content"] == f"Answer: {found[0]['messages'][2]['content']}"


def test_rows_are_plain_json() -> None:
    for row in rows("crowd", count=60):
        assert json.loads(json.dumps(row)) == row
