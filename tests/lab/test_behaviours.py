"""Questions about facts with known truth: balanced, in both orders, of the split's facts alone."""

from __future__ import annotations

from posttrain.lab.behaviours import generate_truth_questions
from posttrain.lab.source import ROW_SETS, lab_rows
from posttrain.lab.splits import find_split
from posttrain.lab.world import WORLD_SEED, build_world


def test_what_matches_is_true_and_the_other_option_is_not() -> None:
    world = build_world()
    facts = {fact.content: fact for fact in world.facts}
    questions = list(generate_truth_questions(world, "held_out", 200, WORLD_SEED))
    assert len(questions) > 100
    for question in questions:
        value = facts[question.content].value
        if question.statement is None:
            texts = question.options
            assert value in texts[question.matching]
            assert value not in texts[1 - question.matching].split()
        else:
            assert (value in question.statement) == (question.options[question.matching] == "Yes")
    assert abs(sum(question.matching for question in questions) - len(questions) / 2) <= 1


def test_every_split_asks_about_its_own_facts_in_both_orders() -> None:
    for split in ROW_SETS["behaviours"].num_rows:
        rows = list(lab_rows("behaviours", split))
        assert rows == list(lab_rows("behaviours", split))
        for one, other in zip(rows[::2], rows[1::2], strict=True):
            form, _, content = one["cluster_id"].partition(" ")
            assert form in ("statement", "options")
            assert find_split(content) == split
            assert one["prompt"] == other["prompt"]
            assert one["choices"]["text"] == other["choices"]["text"][::-1]
            assert one["answer"] != other["answer"]
        assert len({row["cluster_id"] for row in rows}) == len(rows) // 2
